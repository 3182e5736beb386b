"""What a tool is called with, in tests."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from chat.agent.tool import Context


async def _nowhere(text: str) -> None:
    raise AssertionError(text)


async def _directly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def context(**known: Any) -> Context:
    """Of a call that needs neither a person nor a database, unless they are given."""
    fields: dict[str, Any] = {"user": None, "conversation": uuid4(), "run": uuid4(), "call": uuid4()}
    fields |= {"cancelled": asyncio.Event(), "query": _directly, "show": _nowhere}
    return Context(**(fields | known))
