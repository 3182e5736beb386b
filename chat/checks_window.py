"""What would go wrong with the model's window, said at the start. The other checks are in `checks.py`."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from chat.agent import window


@register()
def what_the_model_can_read(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """How long its prompts may be, when older turns give way, and how often an answer goes on."""
    try:
        window.read(settings.CHAT_WINDOWS)
    except ValueError as error:
        yield Error(
            f"CHAT_WINDOWS cannot be read: {error}.",
            hint='Give JSON, the tokens of each model or provider: {"claude-haiku-4-5": 200000}.',
            id="chat.E027",
        )
    if settings.CHAT_WINDOW_TOKENS <= 0 or settings.CHAT_CONTINUATIONS < 0:
        yield Error(
            f"CHAT_WINDOW_TOKENS is {settings.CHAT_WINDOW_TOKENS}, CHAT_CONTINUATIONS {settings.CHAT_CONTINUATIONS}.",
            hint="The one must be more than 0, the other 0 or more. docs/settings.md says what they do.",
            id="chat.E028",
        )
    if not 0 <= settings.CHAT_SUMMARY_KEEP < settings.CHAT_SUMMARY_AT <= 1:
        yield Error(
            f"CHAT_SUMMARY_KEEP is {settings.CHAT_SUMMARY_KEEP}, and CHAT_SUMMARY_AT {settings.CHAT_SUMMARY_AT}.",
            hint="Both are shares of the window, and what is kept must be less than what makes it too much: 0.3 and "
            "0.7. The closer they are, the more often a summary is made and paid for.",
            id="chat.E029",
        )
