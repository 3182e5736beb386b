"""A provider with a small window that counts tokens: four characters each. It summarises as a test tells it to."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import ClassVar

from chat.agent.provider import ProviderError, ProviderEvent, Stopped, Text, ToolAsked, Turn, Usage
from chat.agent.tool import Context
from chat.agent.window import chars

CHARS_PER_TOKEN = 4
Summary = str | ProviderError | asyncio.Event  # what it says, why it does not, or when


async def find(context: Context, letter: str, length: int) -> str:
    """Find something long.

    letter: what it consists of
    length: how long it is
    """
    return letter * length


class Forgetful:
    """Answers with `answer`, or does `steps`; `turns` are what it was asked. It cannot summarise."""

    answer: ClassVar[str] = ""
    steps: ClassVar[list[Sequence[ProviderEvent | ProviderError]]] = []
    turns: ClassVar[list[Turn]] = []

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        Forgetful.turns.append(turn)
        yield Usage({"input_tokens": chars(turn) // CHARS_PER_TOKEN, "output_tokens": 1})
        step = self.steps[turn.step] if turn.step < len(self.steps) else [Text(Forgetful.answer)]
        for event in step:
            if isinstance(event, ProviderError):
                raise event
            yield event
        yield Stopped("tool_use" if any(isinstance(event, ToolAsked) for event in step) else "end_turn")

    async def aclose(self) -> None:
        pass


class Remembering(Forgetful):
    """Says what `summaries` has, one after the other, then always the same. `asked`: for which it was asked."""

    summaries: ClassVar[list[Summary]] = []
    asked: ClassVar[list[str]] = []
    closed: ClassVar[int] = 0

    async def summarise(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        [message] = turn.prompt
        Remembering.asked.append(message["content"][0]["text"])
        said = self.summaries.pop(0) if self.summaries else f"summary {len(self.asked)}"
        try:
            yield Usage({"input_tokens": 100, "output_tokens": 7})
            match said:
                case asyncio.Event():
                    await said.wait()
                    yield Text("at last")
                case ProviderError():
                    raise said
                case _:
                    yield Text(said)
            yield Stopped("end_turn")
        finally:
            Remembering.closed += 1
