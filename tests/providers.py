"""Providers for tests: real ones by the contract of `chat/agent/provider.py`, to name in CHAT_PROVIDERS."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar

from chat.agent.provider import ProviderEvent, Stopped, Text, Turn
from chat.agent.scripted import Scripted

PROVIDERS = {
    "scripted": "chat.agent.scripted.Scripted",
    "recording": "tests.providers.Recording",
    "odd": "tests.providers.Odd",
    "broken": "tests.providers.Broken",
}


@dataclass(eq=False)
class Call:
    """One turn as the provider saw it."""

    turn: Turn
    said: str = ""
    opened_at: float = 0.0
    closed_at: float = 0.0

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The prompt as (role, text), blocks joined."""
        return [
            (message["role"], "\n".join(block["text"] for block in message["content"])) for message in self.turn.prompt
        ]


class Recording:
    """Says what `Scripted` says, and remembers each call: its prompt, what it said, when it was closed."""

    calls: ClassVar[list[Call]] = []

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        call = Call(turn, opened_at=time.monotonic())
        self.calls.append(call)
        try:
            async with aclosing(Scripted().reply(turn)) as events:
                async for event in events:
                    if isinstance(event, Text):
                        call.said += event.text
                    yield event
        finally:
            call.closed_at = time.monotonic()

    async def aclose(self) -> None:
        pass


class Odd:
    """Does what no provider should. The last word of the prompt says what."""

    attempts: ClassVar[list[int]] = []

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        self.attempts.append(turn.attempt)
        what = turn.prompt[-1]["content"][-1]["text"].split()[-1]
        if what in ERRORS:
            yield Text("So far. ")
            error = ERRORS[what]
            raise error()
        match what:
            case "nothing":
                return
            case "unstorable":
                for piece in ("a\x00", "b\ud800", "\udc00c", "d"):
                    yield Text(piece)
            case "no-text":
                yield Text(None)  # type: ignore[arg-type]
            case "stranger":
                yield object()  # type: ignore[misc]
                yield Text("Hello.")
            case "deaf":
                yield Text("I do not listen. ")
                for _ in range(2):
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        continue
            case "giant":
                yield Text("🚂" * 200_000)
            case "empty":
                for _ in range(20):
                    yield Text("")
                yield Text("Finally.")
        yield Stopped("end_turn")

    async def aclose(self) -> None:
        pass


ERRORS: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("odd"),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"),
    "os": lambda: OSError(104, "reset"),
    "timeout": TimeoutError,
    "group": lambda: ExceptionGroup("odd", [ValueError("one"), KeyError("two")]),
    "cancelled": asyncio.CancelledError,
    "stop": lambda: StopAsyncIteration("odd"),
    "memory": MemoryError,
}


class Broken:
    """Cannot even be made."""

    def __init__(self) -> None:
        raise ValueError("not configured")

    def reply(self, turn: Turn) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass
