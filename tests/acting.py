"""A provider that asks for tools as a test tells it to, and tools that remember what they did."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar

from chat.agent.provider import (
    ProviderError,
    ProviderEvent,
    Reasoned,
    Reasoning,
    Stopped,
    Text,
    ToolAsked,
    ToolInput,
    ToolReady,
    Turn,
    Usage,
)
from chat.agent.tool import Context, ToolRefused, device_tool, tool

# An event is waited for, an error raised.
Step = Sequence[ProviderEvent | asyncio.Event | ProviderError]


def asks(name: str, id: str = "toolu_1", **input: Any) -> list[ProviderEvent]:  # noqa: A002
    """One call, its arguments in pieces."""
    text = json.dumps(input)
    half = len(text) // 2
    return [ToolAsked(id, name), ToolInput(text[:half]), ToolInput(text[half:]), ToolReady(input)]


def thinks(*words: str, signature: str = "signed") -> list[ProviderEvent]:
    return [*(Reasoning(word) for word in words), Reasoned(signature)]


class Acting:
    """Does `steps`, one for each time it is asked; then it says that it is done. `turns` is what it was asked."""

    steps: ClassVar[list[Step]] = []
    turns: ClassVar[list[Turn]] = []

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        self.turns.append(turn)
        step = self.steps[turn.step] if turn.step < len(self.steps) else [Text("Done.")]
        yield Usage({"input_tokens": 10, "output_tokens": 1})
        for event in step:
            await asyncio.sleep(0)
            if isinstance(event, asyncio.Event):
                await event.wait()
            elif isinstance(event, ProviderError):
                raise event
            else:
                yield event
        calls = any(isinstance(event, ToolAsked) for event in step)
        if not any(isinstance(event, Stopped) for event in step):
            yield Stopped("tool_use" if calls else "end_turn")

    async def aclose(self) -> None:
        pass


ran: list[str] = []  # what the tools did
told_to_stop: list[str] = []


async def note(context: Context, text: str) -> str:
    """Write something down.

    text: what
    """
    ran.append(text)
    await context.progress(f"noting {text}")
    return f"noted {text}"


async def wait_long(context: Context, text: str) -> str:
    """Take a long time."""
    ran.append(text)
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        told_to_stop.append(text)
        raise
    return "at last"


async def give_up(context: Context) -> str:
    """Cancels itself, which no tool should."""
    ran.append("gave up")
    raise asyncio.CancelledError


async def fail(context: Context) -> str:
    """Never works."""
    raise ToolRefused("It is Sunday.")


@tool(approval=True)
async def delete(context: Context, what: str) -> str:
    """Delete something for good."""
    ran.append(what)
    return f"deleted {what}"


class Held:
    """What `hold` waits for. Of each test its own: an event belongs to one loop."""

    until: ClassVar[asyncio.Event]


async def hold(context: Context, text: str) -> str:
    """Take until a test lets it end."""
    ran.append(text)
    await Held.until.wait()
    return f"held {text}"


@device_tool()
async def look(context: Context, where: str, often: int = 1) -> None:
    """Look around where the person is.

    where: in which direction
    """


@device_tool(approval=True)
async def listen(context: Context, seconds: int) -> None:
    """Listen to what the person hears."""
