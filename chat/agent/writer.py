"""Puts what a provider says into the parts of an answer: one after the other, each announced before its text.

An answer that is only text, which most are, is announced by nothing: its words are part 0.
"""

import json
import uuid
from typing import Any

from chat.agent.provider import Block, Citation, Reasoned, Reasoning, ToolAsked, ToolInput, ToolReady
from chat.agent.saying import is_storable, storable
from chat.group_commit import Pen
from chat.host import Host
from chat.models import Run
from chat.models.answering import Answering

MOST_CITED = 200  # by one text
TITLE_LENGTH, URL_LENGTH, QUOTE_LENGTH = 300, 2_000, 1_000


class Writer:
    """One attempt's. Of the step that `begin` began: `calls` are those asked for, `written` its characters."""

    def __init__(self, host: Host, run: Run) -> None:
        assert run.answer is not None
        self.step = 0
        self.calls = self.written = 0
        self._last = self._seam = ""
        self._host = host
        self._run = run
        self._answering = Answering(run)
        self._is_first = not run.answer.parts
        self._cited: list[dict[str, Any]] = []  # by the text that is open
        self._kind = ""  # of the part that is open; empty: none is
        self._pen = self._new_pen(0)

    def begin(self, step: int, *, goes_on: bool) -> None:
        """The provider is asked again. `goes_on`: to go on with text that was cut off."""
        self.step, self.calls, self.written = step, 0, 0
        # The model is not shown the white space at the end of its words, and so may begin with it.
        self._seam = self._last[len(self._last.rstrip()) :] if goes_on else ""
        self._last = ""

    def is_at(self, kind: str) -> bool:
        """Whether the part that is open is of this type."""
        return self._kind == kind

    @property
    def has_begun(self) -> bool:
        """Whether a word was written."""
        return self._pen.offset > 0

    async def begin_text(self) -> None:
        """What is written next is text that is said."""
        if self._is_first and not self.step:  # at a later one something was added before it
            self._kind, self._is_first = "text", False
        else:
            await self._turn({"type": "text"})

    def write(self, text: str) -> None:
        """Some more of the part that is open. Raises what made an earlier commit impossible."""
        if self._seam:
            text, self._seam = _after(self._seam, text), ""
        self.written += len(text)
        self._last = text or self._last
        self._host.commit.write(self._pen, text)

    async def take(self, event: object) -> None:
        """Everything that is not said. Raises TypeError for what is no event of a provider's."""
        match event:
            case Reasoning(text):
                if not self.is_at("reasoning"):
                    await self._turn({"type": "reasoning"})
                self.write(storable(text))
            case Reasoned(signature, data):
                if not self.is_at("reasoning"):
                    await self._turn({"type": "reasoning"})
                # Either is worth something only as it came.
                kept = {"data": data} if data else {"signature": signature}
                await self.close(**(kept if is_storable(kept) else {}))
            case ToolAsked(id, name):
                self.calls += 1
                asked = {"call": str(uuid.uuid4()), "id": storable(id), "name": storable(name)}
                await self._turn({"type": "tool_use", **asked})
            case ToolInput(text):
                if self.is_at("tool_use"):
                    self.write(storable(text))
            case ToolReady(input):
                if self.is_at("tool_use"):
                    sound = isinstance(input, dict) and is_storable(input)
                    if sound and input and not self.has_begun:  # it is shown, and approved, as it was written
                        self.write(json.dumps(input, ensure_ascii=False))
                    await self.close(input=input if sound else None)
            case Citation(title, url, quote):
                if self.is_at("text") and len(self._cited) < MOST_CITED:
                    title, url, quote = storable(title), storable(url), storable(quote)
                    cited = {"title": title[:TITLE_LENGTH], "url": url[:URL_LENGTH], "text": quote[:QUOTE_LENGTH]}
                    self._cited.append({**cited, "at": self._pen.offset})
            case Block(block):
                if not is_storable(block):
                    raise TypeError("a block holds what no database keeps")
                await self._turn({"type": "block"})
                await self.close(block=block)
            case _:
                raise TypeError(f"a reply yields events of chat.agent.provider, and not {type(event).__name__}")

    async def close(self, **fields: Any) -> None:
        """The part that is open is complete."""
        if self._kind:
            await self._turn(None, **fields)

    async def settle(self) -> None:
        """Nothing follows: what the last words rest on is told now, and what needs nothing more stays as it is."""
        if self._cited:
            await self.close()

    async def flush(self) -> None:
        """Return when all that was written is committed; raise if it could not be."""
        await self._host.commit.flush(self._pen)

    async def _turn(self, opening: dict[str, Any] | None, **fields: Any) -> None:
        await self.flush()
        closing = {"state": "done", **fields} if self._kind else None
        if closing is not None and self._cited:
            closing["citations"], self._cited = self._cited, []
        if opening is not None:
            opening = {**opening, "step": self.step}
        number = await self._host.database.run(self._answering.turn, closing=closing, opening=opening)
        self._kind, self._is_first = opening["type"] if opening is not None else "", False
        if number is not None:
            self._pen = self._new_pen(number)

    def _new_pen(self, part: int) -> Pen:
        run = self._run
        assert run.answer_id is not None
        return Pen(run.pk, run.attempt, run.conversation_id, run.answer_id, part)


def _after(seam: str, text: str) -> str:
    """What follows the white space `seam`, without as much of it as the text begins with."""
    return next((text[size:] for size in range(len(seam), 0, -1) if text.startswith(seam[-size:])), text)
