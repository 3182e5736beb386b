"""Which tools the model has: those that CHAT_TOOLS names, in its order, then those of CHAT_MCP_SERVERS, in theirs.

The order never changes by itself, so that the prompt stays the same.
"""

import inspect
import logging
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from chat.agent.mcp_setting import servers_in
from chat.agent.tool import NotATool, Tool, tool_of

logger = logging.getLogger(__name__)


class Source(Protocol):
    """Tools that come from outside and may be away."""

    async def tools_for(self, user: Any) -> list[Tool]:
        """Those of it that this user may have, as far as they can be had within seconds. Never raises."""

    def why_absent(self, name: str) -> str:
        """A sentence for the model, if a tool of this name would be one of these; else nothing."""

    async def aclose(self) -> None: ...


class Toolbox:
    """The tools of one process. `load` once, before the first run needs them."""

    def __init__(self) -> None:
        self._source: Source | None = None

    def load(self) -> None:
        """Import what CHAT_MCP_SERVERS needs, which takes a moment. Starts no server."""
        if settings.CHAT_MCP_SERVERS:
            try:
                make = import_string("chat.agent.mcp_tools.Servers")
                self._source = make(servers_in(settings.CHAT_MCP_SERVERS))
            except (ImportError, ValueError):  # a system check has said so
                logger.exception("CHAT_MCP_SERVERS cannot be used")

    async def tools_for(self, user: Any) -> dict[str, Tool]:
        """name → tool, for a run that this user asked for."""
        found = tools()
        for tool in await self._source.tools_for(user) if self._source is not None else ():
            if found.setdefault(tool.name, tool) is not tool:
                logger.warning("two tools are called %s; the one of CHAT_TOOLS counts", tool.name)
        return found

    def why_absent(self, name: str) -> str:
        """What the model is told when it asks for a tool that is not there."""
        away = self._source.why_absent(name) if self._source is not None else ""
        return away or f"There is no tool {name}."

    async def aclose(self) -> None:
        """Let go of every server."""
        if self._source is not None:
            await self._source.aclose()


def tools() -> dict[str, Tool]:
    """name → tool, of CHAT_TOOLS. Raises ImportError or NotATool where a system check has spoken."""
    return dict(_tools(tuple(settings.CHAT_TOOLS)))


@cache
def _tools(paths: tuple[str, ...]) -> dict[str, Tool]:
    found: dict[str, Tool] = {}
    for path in paths:
        for one in map(tool_of, functions_at(path)):
            if one.name in found:
                raise NotATool(f"Two tools are called {one.name}.")
            found[one.name] = one
    return found


def functions_at(path: str) -> list[Callable[..., Any]]:
    """What a dotted path names: a function, or a module, whose public functions are all meant. Raises ImportError."""
    try:
        module = import_module(path)
    except ModuleNotFoundError as error:
        if error.name != path or "." not in path:  # what it imports is not there, or it can be no function of a module
            raise
        return [import_string(path)]
    except (TypeError, ValueError) as error:
        raise ImportError(f"{path!r} is not a dotted path.") from error
    functions: list[Callable[..., Any]] = [
        one
        for name, one in vars(module).items()
        if inspect.isfunction(one) and one.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not functions:
        raise ImportError(f"The module {path} has no public function of its own.")
    return functions
