"""What the runner asks of whoever makes the tokens: one turn in, an async iterator of small events out.

A provider never touches the log, the database or a device. Returning ends the run as completed, raising
`ProviderError` ends it as failed or interrupted, and being cancelled must close whatever it holds open.
docs/own-agent.md is for whoever writes one; all that they need is in this module.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict
from uuid import UUID, uuid4

from chat.agent.saying import progress_text
from chat.agent.tool import Tool

__all__ = [
    "Block",
    "Citation",
    "ContextFull",
    "Line",
    "Notice",
    "PromptMessage",
    "Provider",
    "ProviderError",
    "ProviderEvent",
    "Reasoned",
    "Reasoning",
    "Stopped",
    "Text",
    "Tool",
    "ToolAsked",
    "ToolInput",
    "ToolReady",
    "Turn",
    "Usage",
    "asked_in",
    "tool_call",
]

STOPPED_MARK = "\n\n[stopped by the user]"  # what a prompt puts behind the answer of a cancelled run
GO_ON = "[go on]"  # what a prompt lets the user say to a model that paused: its own words are never the last
# The same to one that reached its limit. It is not shown its last space, and is not to begin the sentence anew.
CONTINUE = (
    "[Your answer was cut off by its length limit. Go on with the very next character, a space if a new word begins "
    "there, and repeat nothing. Make a call that was cut off again, with less in it if need be.]"
)


class PromptMessage(TypedDict):
    """One entry of the Messages API's `messages`: alternating roles, first and last are the user's.

    Its blocks may be of any type. Files are `image` and `document` blocks as the Messages API has them, each behind a
    text that names it. Behind calls of tools the user's message begins with their results.
    """

    role: Literal["user", "assistant"]
    content: list[dict[str, Any]]


def asked_in(prompt: Sequence[PromptMessage]) -> str:
    """What the person said last: questions without an answer stand before it, and results of tools behind it."""
    blocks = (block for message in prompt if message["role"] == "user" for block in message["content"])
    texts = [str(block["text"]) for block in blocks if _is_said(block)]
    return texts[-1] if texts else ""


def _is_said(block: dict[str, Any]) -> bool:
    """Whether somebody said it: it is text, and not ours."""
    return bool(block["type"] == "text" and block["text"] not in (GO_ON, CONTINUE))


@dataclass(frozen=True, slots=True)
class Line:
    """What one of the two said. Of an answer that did not come to its end the text says so, in brackets."""

    role: Literal["user", "assistant"]
    text: str


def results_in(prompt: Sequence[PromptMessage]) -> list[str]:
    """What the tools have said that were asked for last, in the order of the calls."""
    return [str(block["content"]) for block in prompt[-1]["content"] if block["type"] == "tool_result"]


def lines_before_the_question(prompt: Sequence[PromptMessage]) -> list[Line]:
    """The conversation as plain text, up to what was asked last. Tools, files and thoughts are not in it."""
    said = [
        (message["role"], str(block["text"])) for message in prompt for block in message["content"] if _is_said(block)
    ]
    last = max((number for number, (role, _) in enumerate(said) if role == "user"), default=0)
    return [Line(role, text) for role, text in said[:last]]


@dataclass(frozen=True, slots=True)
class Text:
    """Some more of the answer. Never empty; already free of U+0000 and lone surrogates."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Some more of what the model thinks before it speaks. May be empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A thought is complete. `signature`, or `data` where the thought is hidden, is given back unchanged."""

    signature: str = ""
    data: str = ""


@dataclass(frozen=True, slots=True)
class ToolAsked:
    """The model begins to ask for a tool. `id` is the provider's, unique within the conversation's answer."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolInput:
    """Some more of the arguments, as JSON text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolReady:
    """The arguments are complete; None if what came is no JSON object."""

    input: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Citation:
    """What the words just said rest on: `quote` is the source's own. `url` is empty, or a web address."""

    title: str
    url: str = ""
    quote: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """Anything else that the provider's next request must contain as it is, such as what its own tools found."""

    block: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens counted so far, by the provider's own names (`input_tokens`, `output_tokens`, …). The last one wins."""

    tokens: dict[str, int]


@dataclass(frozen=True, slots=True)
class Stopped:
    """The provider said why it ended: `end_turn`, `tool_use`, `max_tokens`, `refusal` … Comes last.

    It is asked again, with what was said and done so far, after `pause_turn` and whenever it asked for tools.
    """

    stop_reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person waiting should know now, such as "busy, trying again in 4 s". Shown, never stored.

    `expires_in` is in seconds: an indicator always ends by itself. `code`: of the error after which the provider
    tries again, if that is what it says.
    """

    text: str
    expires_in: float = 10.0
    code: str = ""


ProviderEvent = (
    Text | Reasoning | Reasoned | ToolAsked | ToolInput | ToolReady | Citation | Block | Usage | Stopped | Notice
)


def tool_call(name: str, input: dict[str, Any], *, id: str = "") -> Iterator[ProviderEvent]:  # noqa: A002
    """The events that ask for one call of a tool, for who has the arguments at once: `for event in tool_call(…)`."""
    yield ToolAsked(id or f"call_{uuid4().hex}", name)
    yield ToolInput(json.dumps(input, ensure_ascii=False))
    yield ToolReady(input)


async def _nothing() -> list[str]:
    """Where nobody can add anything."""
    return []


async def _to_nobody(text: str) -> None:
    """Where no device can be watching."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a provider may know of the run it serves, and what it may do besides answering."""

    run: UUID
    conversation: UUID
    attempt: int
    system: str
    prompt: Sequence[PromptMessage]
    tools: Sequence[Tool] = ()  # what it may ask for, by `ToolAsked` and the others; never its own to call
    step: int = 0  # how often it was asked before in this run
    options: dict[str, Any] = field(default_factory=dict)
    # Set when the run is to stop, just before the reply is cancelled. Tools have the same one.
    cancelled: asyncio.Event = field(default_factory=asyncio.Event, repr=False, compare=False)
    show: Callable[[str], Awaitable[None]] = field(default=_to_nobody, repr=False, compare=False)
    take: Callable[[], Awaitable[list[str]]] = field(default=_nothing, repr=False, compare=False)

    @property
    def question(self) -> str:
        """What the person said last."""
        return asked_in(self.prompt)

    @property
    def history(self) -> list[Line]:
        """What was said before the question, as plain text: for agents that do not speak the Messages API."""
        return lines_before_the_question(self.prompt)

    @property
    def results(self) -> list[str]:
        """What the tools have said that the step before has asked for, in the order of the calls."""
        return results_in(self.prompt)

    async def steers(self) -> list[str]:
        """What its user has added since, oldest first, each once: they are told that it was heard.

        Who does not ask is asked again with it in the prompt, as if it were one more step.
        """
        return await self.take()

    async def progress(self, text: str) -> None:
        """Say how far it is. The latest text is shown to whoever watches, and never stored."""
        await self.show(progress_text(text))


class ProviderError(Exception):
    """A turn that cannot be finished. The message is shown to the person who asked.

    `code` is stable and documented; `retryable` says whether asking again may help; `lost` means the
    connection ended without an end (the run becomes interrupted, not failed).
    """

    def __init__(self, code: str, message: str, *, retryable: bool, lost: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.lost = lost


class ContextFull(ProviderError):
    """The prompt is longer than the model's window; nothing was said. Asked once more when there is room again.

    `tokens` and `window`: how long it is and may be, as far as the provider says; 0: it does not.
    """

    def __init__(self, message: str = "", *, tokens: int = 0, window: int = 0) -> None:
        message = message or "There is more in this turn than the model can read at once. Ask for less of it."
        super().__init__("context_full", message, retryable=False)
        self.tokens = tokens
        self.window = window


class Provider(Protocol):
    """`reply` is called once per attempt, and again after each round of tools it asked for.

    It is an async generator and must clean up when it is closed or cancelled. A provider may have a `model`: what
    figures, prices and traces call that which answers. One that holds nothing may be the function `reply` alone.

    One that can has a second generator, `summarise`, like `reply`: its turn has no tools, and its prompt is one message
    with a conversation to be summarised as the turn's `system` says. For one without it, turns that no longer fit are
    left out.
    """

    def reply(self, turn: Turn) -> AsyncIterator[ProviderEvent]: ...

    async def aclose(self) -> None:
        """Called once when the process ends."""
