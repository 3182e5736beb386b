"""What would go wrong later with agents, said at the start: as in `chat/checks.py`."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from chat.models import Role

LEAST_THINKING = 1024  # tokens; the Messages API takes no less


@register()
def how_agents_work(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """Who decides for them, and how much they may think."""
    unknown = [role for role in settings.CHAT_APPROVERS if role not in Role.values]
    if unknown or not settings.CHAT_APPROVERS:
        yield Error(
            f"CHAT_APPROVERS is {', '.join(settings.CHAT_APPROVERS) or 'empty'}.",
            hint=f"Name one or more of: {', '.join(Role.values)}. Else nobody could approve what a tool asks for.",
            id="chat.E033",
        )
    tokens = settings.CHAT_CLAUDE_THINKING_TOKENS
    if tokens and not LEAST_THINKING <= tokens < settings.CHAT_CLAUDE_MAX_TOKENS:
        yield Error(
            f"CHAT_CLAUDE_THINKING_TOKENS is {tokens}.",
            hint=f"It can be 0, or from {LEAST_THINKING} to less than CHAT_CLAUDE_MAX_TOKENS "
            f"({settings.CHAT_CLAUDE_MAX_TOKENS}), of which it is a part.",
            id="chat.E034",
        )
