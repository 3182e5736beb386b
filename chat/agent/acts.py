"""What the scripted provider does before it speaks: thoughts, and tools it asks for, each on a line of its own."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from chat.agent.provider import (
    PromptMessage,
    ProviderEvent,
    Reasoned,
    Reasoning,
    Stopped,
    ToolAsked,
    ToolInput,
    ToolReady,
    Turn,
    asked_in,
    results_in,
)

_ACT = re.compile(r"^/(?:think (?P<thought>\S.*)|tool (?P<name>[a-zA-Z0-9_-]{1,64})(?: (?P<input>\{.*\}))?)$", re.M)
_PIECE = re.compile(r"\s*\S{1,8}|\s+")


@dataclass(frozen=True, slots=True)
class Thought:
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """`input`: JSON text, perhaps none that is an object."""

    name: str
    input: str


def acts_in(text: str) -> tuple[Thought | Call, ...]:
    """The directives in order."""
    return tuple(
        Thought(match["thought"]) if match["thought"] else Call(match["name"], match["input"] or "{}")
        for match in _ACT.finditer(text)
    )


async def perform(acts: Sequence[Thought | Call], turn: Turn, rate: float) -> AsyncGenerator[ProviderEvent, None]:
    """Think, then ask, at so many pieces a second (0: at once), and wait for what the tools say."""
    pause = 1 / rate if rate else 0.0
    for number, act in enumerate(acts):
        if isinstance(act, Call):
            yield ToolAsked(f"toolu_{turn.run.hex[:16]}_{number}", act.name)
        for piece in _PIECE.findall(act.input if isinstance(act, Call) else act.text):
            await asyncio.sleep(pause)
            yield ToolInput(piece) if isinstance(act, Call) else Reasoning(piece)
        yield ToolReady(_object(act.input)) if isinstance(act, Call) else Reasoned("scripted")
    if any(isinstance(act, Call) for act in acts):
        yield Stopped("tool_use")


def found_in(prompt: Sequence[PromptMessage]) -> str:
    """What the tools have said, as an answer that knows it; or, if none has, what was added to the question."""
    if not (results := results_in(prompt)):
        return f"I have heard it: “{asked_in(prompt)}”"
    return "\n\n".join(["This is what I found:", *(f"- {text}" for text in results)])


def _object(text: str) -> dict[str, object] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
