"""A provider that says what it is told: demonstrations without a key, and tests. No network, no chance.

It answers the last user message. Without directives that is a list of the files it was given with it or, if there are
none, about twelve seconds of Markdown, made from the prompt alone. A directive is a word of its own, in lower case,
anywhere in that message:

| says           |                                                                                         |
|----------------|-----------------------------------------------------------------------------------------|
| `/echo TEXT`   | TEXT exactly: to the end of the message, or to a line that begins with a directive      |
| `/long N`      | `word1 word2 … wordN`, which is `long_text(N)`                                          |

| ends there     |                                                                                         |
|----------------|-----------------------------------------------------------------------------------------|
| `/fail CODE`   | failed, with this error code                                                            |
| `/lost`        | interrupted: the connection was lost (`connection_lost`)                                |
| `/hang`        | never: silent for ever                                                                  |
| `/refuse`      | completed, with the stop reason `refusal`                                               |
| `/max`         | completed, with the stop reason `max_tokens`; asked to go on it has no more to say      |
| `/fail-before` | failed (`overloaded`) before anything at all, a wait and a count of tokens included     |

| how            |                                                                                         |
|----------------|-----------------------------------------------------------------------------------------|
| `/slow S`      | waits S seconds before the first token                                                  |
| `/rate N`      | N tokens per second (40 unless told); 0: as fast as possible                            |
| `/usage`       | counts tokens after each token, not after every fiftieth                                |

| acts           | each on a line of its own, before everything else                                       |
|----------------|-----------------------------------------------------------------------------------------|
| `/think TEXT`  | thinks TEXT                                                                             |
| `/tool NAME {…}` | asks for a tool with these arguments; what it found is then said, or the rest is      |

What is said is said in the order written, up to the first directive that ends the answer. How counts wherever
it stands. With neither `/echo` nor `/long` it is the Markdown, or nothing if `/fail` or `/refuse` ends it.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from chat.agent.acts import acts_in, found_in, perform
from chat.agent.demonstration import demonstration, recap_of, seen_in, text_of
from chat.agent.provider import (
    PromptMessage,
    ProviderError,
    ProviderEvent,
    Reasoning,
    Stopped,
    Text,
    ToolInput,
    Turn,
    Usage,
    asked_in,
)

DEFAULT_RATE = 40.0
_USAGE_EVERY = 50
_YIELD_EVERY = 20  # tokens; at full speed the loop's other tasks must still get their turn
_RETRYABLE = {"overloaded", "rate_limited", "server_error", "unreachable", "connection_lost", "idle_timeout"}
_TOKEN = re.compile(r"\s*\S{1,16}|\s+")
_WORD = (
    r"/(?:long [0-9]{1,9}|(?:slow|rate) [0-9]{1,9}(?:\.[0-9]{1,9})?|fail [a-z_]+"
    r"|echo|fail-before|lost|hang|refuse|max|usage)(?!\S)"
)
_DIRECTIVE = re.compile(rf"(?<!\S)(?:/echo[ \n](?P<text>.*?)(?=\Z|\n{_WORD})|(?P<word>{_WORD}))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Say:
    text: str

    def tokens(self) -> Iterator[str]:
        return (match.group() for match in _TOKEN.finditer(self.text))


@dataclass(frozen=True, slots=True)
class Count:
    """`long_text(number)` without holding it."""

    number: int

    def tokens(self) -> Iterator[str]:
        return (f"word{n}" if n == 1 else f" word{n}" for n in range(1, self.number + 1))


@dataclass(frozen=True, slots=True)
class End:
    """`value` is the stop reason or the error code."""

    how: Literal["stop", "fail", "hang", "fail-before"]
    value: str = ""
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """All that one turn will do."""

    speech: tuple[Say | Count, ...]
    end: End
    rate: float = DEFAULT_RATE
    slow: float = 0.0
    usage_every: int = _USAGE_EVERY

    def tokens(self) -> Iterator[str]:
        for part in self.speech:
            yield from part.tokens()

    @property
    def text(self) -> str:
        return "".join(self.tokens())


_ENDS = {
    "/lost": End("fail", "connection_lost", lost=True),
    "/hang": End("hang"),
    "/refuse": End("stop", "refusal"),
    "/max": End("stop", "max_tokens"),
    "/fail-before": End("fail-before", "overloaded"),
}


class Scripted:
    model = "scripted"

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        script = script_for(turn)
        if turn.step and script.end.value == "max_tokens":  # it was cut off; there is no more
            yield Stopped(script.end.value)
            return
        if script.end.how == "fail-before":
            raise _error(script.end)
        asked, thought, said = sum(len(text.split()) for text in _texts(turn.prompt)), 0, 0
        acts = acts_in(asked_in(turn.prompt)) if turn.step == 0 else ()
        async with aclosing(perform(acts, turn, script.rate)) as events:
            async for event in events:
                if isinstance(event, Stopped):
                    yield _usage(asked, thought)
                    yield event
                    return
                thought += isinstance(event, Reasoning | ToolInput)
                yield event
        await asyncio.sleep(script.slow)
        yield _usage(asked, thought)
        start = asyncio.get_running_loop().time()
        for said, token in enumerate(script.tokens(), start=1):
            await _due(start, said - 1, script.rate)
            yield Text(token)
            if said % script.usage_every == 0:
                yield _usage(asked, thought + said)
        yield _usage(asked, thought + said)
        match script.end.how:
            case "hang":
                await asyncio.Event().wait()
            case "fail":
                raise _error(script.end)
            case _:
                yield Stopped(script.end.value)

    async def summarise(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        """The beginning of each thing said, as fast as it speaks."""
        asked = "\n".join(_texts(turn.prompt))
        start = asyncio.get_running_loop().time()
        said = 0
        for said, token in enumerate(Say(recap_of(asked)).tokens(), start=1):
            await _due(start, said - 1, DEFAULT_RATE)
            yield Text(token)
        yield _usage(len(asked.split()), said)
        yield Stopped("end_turn")

    async def aclose(self) -> None:
        pass


def script_for(turn: Turn) -> Script:
    """What `reply` will do with this turn, exactly. Pure."""
    speech: list[Say | Count] = []
    end: End | None = None
    how: dict[str, float] = {}
    for match in _DIRECTIVE.finditer(asked_in(turn.prompt)):
        name, _, value = (match["word"] or "/echo").partition(" ")
        if name in {"/slow", "/rate"}:
            how[name] = float(value)
        elif name == "/usage":
            how[name] = 1
        elif name == "/fail-before":
            end = _ENDS[name]
        elif end is None and name == "/echo":
            speech.append(Say(match["text"] or ""))
        elif end is None and name == "/long":
            speech.append(Count(int(value)))
        elif end is None:
            end = _ENDS.get(name) or End("fail", value)
    if not speech and turn.step and end is None:
        speech.append(Say(found_in(turn.prompt)))
    elif not speech and (end is None or end.how == "hang" or end.lost or end.value == "max_tokens"):
        speech.append(Say(seen_in(turn.prompt) or demonstration(turn.prompt)))
    return Script(
        speech=tuple(speech),
        end=end or End("stop", "end_turn"),
        rate=how.get("/rate", DEFAULT_RATE),
        slow=how.get("/slow", 0.0),
        usage_every=int(how.get("/usage", _USAGE_EVERY)),
    )


def long_text(number: int) -> str:
    """What `/long number` says."""
    return " ".join(f"word{n}" for n in range(1, number + 1))


async def _due(start: float, number: int, rate: float) -> None:
    """Waits until token `number` is due by the schedule; a late one does not delay those after it."""
    wait = start + number / rate - asyncio.get_running_loop().time() if rate else 0.0
    if wait > 0:
        await asyncio.sleep(wait)
    elif number % _YIELD_EVERY == 0:
        await asyncio.sleep(0)


def _error(end: End) -> ProviderError:
    message = f"The script ends here: {end.value}."
    return ProviderError(end.value, message, retryable=end.value in _RETRYABLE, lost=end.lost)


def _usage(asked: int, said: int) -> Usage:
    return Usage({"input_tokens": asked, "output_tokens": said})


def _texts(prompt: Sequence[PromptMessage]) -> Iterator[str]:
    for message in prompt:
        yield text_of(message)
