"""Agents as people bring them, to name in CHAT_PROVIDERS: plain functions. Most do what none should."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from typing import Any

from chat.agent.provider import Block, ProviderEvent, Stopped, Text, ToolAsked, ToolReady, Turn, tool_call
from chat.agent.tool import Context

happened: list[str] = []
release = asyncio.Event()
MANY = 1_000


async def noting(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """Asks for a tool, and tells what it said."""
    if turn.step == 0:
        await turn.progress("thinking")
        for event in tool_call("note", {"text": turn.question}):
            yield event
    else:
        yield Text(f"The tool said: {turn.results[0]}.")


async def short(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """Does not say how it asks, only what for."""
    if turn.step == 0:
        yield ToolAsked("call-1", "delete")
        yield ToolReady({"what": "it"})


async def watching(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """Has something of its own that looks whether the run is to stop."""

    async def look() -> None:
        await turn.cancelled.wait()
        happened.append("seen")

    looking = asyncio.create_task(look())
    try:
        yield Text("Go on.")
        for event in tool_call("look_too", {}):
            yield event
    finally:
        happened.append(f"closed, {turn.cancelled.is_set()}")
        happened.append(str(id(looking)))


async def look_too(context: Context) -> str:
    """Sees the same."""
    happened.append("looks")
    try:
        await asyncio.Event().wait()
    finally:
        happened.append(f"tool, {context.cancelled.is_set()}")
    return "never"


async def chatty(context: Context) -> str:
    """Says how far it is, far too often."""
    for number in range(MANY):
        await context.progress(f"{number}")
        await asyncio.sleep(0)
    await release.wait()
    return "done"


async def string(turn: Turn) -> AsyncGenerator[Any, None]:
    yield Text("So far. ")
    yield "a string"


async def bad_block(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    yield Text("So far. ")
    yield Block({"type": "x", "text": "\0"})


async def leaving(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """What a library does that was made for a command line."""
    yield Text("So far. ")
    sys.exit(3)


async def long_reason(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    yield Text("So far. ")
    yield Stopped("because " * 100)


async def unready(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """Begins to ask for a tool, and then does not."""
    if turn.step == 0:
        yield ToolAsked("call-1", "note")
        yield Text("Or not. ")
    else:
        yield Text("So.")


async def silent(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """Never says a word."""
    happened.append("asked")
    try:
        await asyncio.Event().wait()
    finally:
        happened.append("closed")
    yield Text("")


async def deaf(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """Goes on whatever it is told, for ever."""
    yield Text("I do not listen. ")
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            happened.append("ignored")
    happened.append("left")


async def talkative(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """Takes a cancel for a reason to say more."""
    yield Text("I do not listen. ")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        yield Text("And another thing. ")
        yield Text("And another. ")


async def last_word(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """Speaks when it is closed, which Python does not allow."""
    try:
        yield Text("So far. ")
        await asyncio.Event().wait()
    finally:
        try:
            yield Text("One last thing.")
        finally:
            yield Text("And the very last.")


async def blocking(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """Holds up everybody in the process."""
    yield Text("Let me think. ")
    time.sleep(1)  # noqa: ASYNC251 - that is what it does
    yield Text("Done.")


async def no_generator(turn: Turn) -> str:
    return "an answer"


class Half:
    """Has no `aclose`."""

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        yield Text("Hello.")
