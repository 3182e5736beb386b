"""Checks of what acts here: agents of one's own, and servers whose tools the model may use. See `checks.py`."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.utils.module_loading import import_string

from chat.agent import named
from chat.agent.mcp_setting import servers_in
from chat.models import Role

AppConfigs = Sequence[AppConfig] | None
OURS = "chat.agent."
LEAST_THINKING = 1024  # tokens; the Messages API takes no less


@register()
def agents_of_ones_own(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """Every name of CHAT_PROVIDERS, also those that only some conversations have."""
    for name, path in settings.CHAT_PROVIDERS.items():
        if path.startswith(OURS):
            continue
        try:
            named.check(import_string(path))
        except ImportError as error:
            if name == settings.CHAT_PROVIDER:
                continue  # chat.E005
            why = f"cannot be imported: {error}"
        except named.NoProvider as error:
            why = f"cannot answer: {error}"
        else:
            continue
        yield Error(
            f"CHAT_PROVIDERS has {name!r}, which {why}",
            hint="Write name=package.module.reply. docs/own-agent.md says how an agent is written.",
            id="chat.E042",
        )


@register()
def servers_of_tools(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
    """CHAT_MCP_SERVERS. No server is started."""
    if not settings.CHAT_MCP_SERVERS:
        return
    try:
        servers_in(settings.CHAT_MCP_SERVERS)
    except ValueError as error:
        yield Error(
            f"CHAT_MCP_SERVERS cannot be read: {error}.",
            hint='Give JSON: {"name": {"command": ["program", "argument"], "for": "everybody"}} or {"name": '
            '{"url": "https://…"}}. docs/settings.md lists the fields.',
            id="chat.E040",
        )
    if find_spec("mcp") is None:
        yield Error(
            "CHAT_MCP_SERVERS names servers, and what talks to them is not installed.",
            hint="Install mcp, or unset CHAT_MCP_SERVERS. docs/settings.md has the command.",
            id="chat.E041",
        )


@register()
def how_agents_work(app_configs: AppConfigs, **kwargs: Any) -> Iterable[CheckMessage]:
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
