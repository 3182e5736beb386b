"""The provider that a dotted path names: a class, of which one is made, or an async generator function."""

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from django.utils.module_loading import import_string

from chat.agent.provider import Provider, ProviderError, ProviderEvent, Turn


class NoProvider(TypeError):
    """What a path names answers nobody. The message is for whoever wrote it; a system check shows it."""


class Plain:
    """A provider that is one function and holds nothing between its replies."""

    def __init__(self, reply: Callable[[Turn], AsyncIterator[ProviderEvent]]) -> None:
        self.reply = reply
        self.model = str(getattr(reply, "model", ""))

    async def aclose(self) -> None:
        """Nothing is held."""


def provider_at(path: str) -> Provider:
    """Raises ImportError, NoProvider, or whatever the class raises when one is made."""
    found = import_string(path)
    check(found)
    return Plain(found) if not inspect.isclass(found) else cast("Provider", found())


def check(found: Any) -> None:
    """Raises NoProvider, saying what it lacks. Makes nothing."""
    if inspect.isclass(found):
        if not all(callable(getattr(found, name, None)) for name in ("reply", "aclose")):
            raise NoProvider(f"{found.__name__} has no `reply(turn)`, or no `aclose()`.")
    elif not inspect.isasyncgenfunction(found):
        name = getattr(found, "__name__", type(found).__name__)
        raise NoProvider(f"{name} is neither a class nor an `async def` that yields.")


class Missing:
    """Stands for a provider that cannot be made: its runs fail at once and say so."""

    async def reply(self, turn: Turn) -> AsyncIterator[ProviderEvent]:
        message = "What should answer here is not set up on this server. Its operator finds the reason in the log."
        raise ProviderError("no_provider", message, retryable=True)
        yield  # type: ignore[unreachable]  # makes it the generator a reply is

    async def aclose(self) -> None:
        """Nothing is held."""
