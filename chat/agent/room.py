"""Keeps what the model is asked within its window: older turns give way to a summary, long results to their beginning.

Whatever gives way is stored first, and the prompt read anew: so it is the same for every step and every run after.
Nothing is done until most of the window is taken, and then so much that the next prompts grow for long after the same
beginning: each change of it is paid for, as the provider's cache no longer knows what follows.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from chat.agent import recap
from chat.agent.progress import whisper
from chat.agent.prompt import Said, build_prompt, history_of
from chat.agent.provider import ContextFull, PromptMessage, Turn
from chat.agent.window import (
    MOST_TOKENS_PER_CHAR,
    TOKENS_PER_CHAR,
    chars,
    prompt_chars,
    shares,
    tokens_per_char,
    window_of,
)
from chat.host import Host
from chat.models import Run, Summary
from chat.models.answering import Answering
from chat.models.parts import Part
from chat.models.state import LIVE
from chat.prices import tokens_in

SAYS = "Summarising earlier messages…"
SAYS_EVERY = 2.0  # seconds; who opens the page meanwhile hears of it soon
LEAST_RESULT = 200  # characters of a result that are always told
MOST_STORED = 2**31 - 1
MEASURED = 20  # runs among which one is looked for that was measured

Summarise = Callable[[Turn], Awaitable[tuple[str, dict[str, int]]]]


@dataclass(frozen=True, slots=True)
class Past:
    """The turns that are told word for word, oldest first; the summary before them; how many may be summarised."""

    base: Summary | None
    history: Sequence[Said]
    ended: int

    def until(self, room: int) -> int:
        """How many of the oldest have to go, for the others to fit into so many characters."""
        kept = len(self.history)
        while kept and (room := room - _length(self.history[kept - 1])) >= 0:
            kept -= 1
        return min(kept, self.ended)


class Room:
    """One attempt's. `summarise` asks the provider, if that can; `turn_at` is what it is asked at a step."""

    def __init__(
        self,
        host: Host,
        run: Run,
        model: str,
        *,
        summarise: Summarise | None,
        turn_at: Callable[[int], Turn],
    ) -> None:
        self._host, self._run, self._model = host, run, model
        self._answering = Answering(run)
        self._summarise, self._turn_at = summarise, turn_at
        self._window = window_of(run.provider, model)
        self._ratio: float | None = None  # tokens per character, as far as it is known
        self.measured: dict[str, int] = {}  # the last prompt, as the run keeps it

    async def fit(self, turn: Turn, full: ContextFull | None = None) -> Turn:
        """The turn, or one with less in it. `full`: the provider says that it does not fit, whatever we think.

        Raises `full` again if nothing can give way.
        """
        if full is not None:
            self._learn_of_refusal(turn, full)
        made = False
        while await self._tokens(turn) > self._window.most and await self._make_room(turn):
            made = True
            turn = await self._host.database.run(self._turn_at, turn.step)
        if full is not None and not made:
            raise full
        return turn

    def learn(self, turn: Turn, usage: Mapping[str, int]) -> None:
        """How many tokens this prompt had, if the provider has said it."""
        if tokens := tokens_in(usage):
            length = chars(turn)
            self.measured = {"prompt_chars": min(length, MOST_STORED), "prompt_tokens": min(tokens, MOST_STORED)}
            self._ratio = tokens_per_char(tokens, length)

    def _learn_of_refusal(self, turn: Turn, full: ContextFull) -> None:
        if full.window:
            share = full.window / self._window.tokens
            if share < 1:
                window = self._window
                most, keep = int(window.most * share), int(window.keep * share)
                self._window = replace(window, tokens=full.window, most=most, keep=keep)
        self._ratio = tokens_per_char(max(full.tokens, self._window.tokens), chars(turn))

    async def _tokens(self, turn: Turn) -> float:
        """About how many it has. Where it fits in any language, nothing is looked up."""
        length = chars(turn)
        if self._ratio is None:
            if length * MOST_TOKENS_PER_CHAR <= self._window.most:
                return length * MOST_TOKENS_PER_CHAR
            self._ratio = await self._host.database.run(_ratio_of, self._run)
        return length * self._ratio

    # --- what gives way -------------------------------------------------------------------------------------

    async def _make_room(self, turn: Turn) -> bool:
        """One of: older turns, what tools found in earlier steps, all turns, what they found just now."""
        assert self._ratio is not None
        past, parts = await self._host.database.run(_look, self._run)
        own = chars(turn) - prompt_chars(build_prompt(past.history, []))
        going = past.until(int(self._window.keep / self._ratio) - own)
        if going and sum(map(_length, past.history)) * self._ratio > self._window.keep:
            return await self._give_way(turn, past, going)
        if told := _earlier_results(parts):
            await self._host.database.run(self._answering.shorten, told)
            return True
        if past.ended:
            return await self._give_way(turn, past, past.ended)
        spare = (self._window.most + self._window.keep) // 2
        if told := _newest_results(parts, int(spare / self._ratio) - chars(turn)):
            await self._host.database.run(self._answering.shorten, told)
            return True
        return False

    async def _give_way(self, turn: Turn, past: Past, count: int) -> bool:
        """Put a summary in the place of the oldest turns."""
        said, base = past.history[:count], past.base
        text, usage = await self._summary(turn, base.text if base is not None else "", said)
        await self._host.database.run(
            lambda: self._answering.summarise(
                base=base.pk if base is not None else None,
                until=said[-1].place,
                text=text,
                model=self._model if text else "",
                usage=usage,
            )
        )
        return True

    async def _summary(self, turn: Turn, before: str, said: Sequence[Said]) -> tuple[str, dict[str, int]]:
        """What stands for these turns; nothing if there is nobody who could say it, or it has no room either."""
        assert self._ratio is not None
        if self._summarise is None:
            return "", {}
        for share in (1.0, 0.4):
            room = int(self._window.most * share / self._ratio) - len(recap.SYSTEM)
            text = recap.asked(before, said, room)
            prompt: list[PromptMessage] = [{"role": "user", "content": [{"type": "text", "text": text}]}]
            try:
                async with self._said_so():
                    told, usage = await self._summarise(replace(turn, system=recap.SYSTEM, prompt=prompt, tools=()))
            except ContextFull:
                continue
            return told.strip()[: recap.MOST_TEXT], usage
        return "", {}

    @asynccontextmanager
    async def _said_so(self) -> AsyncIterator[None]:
        """People are told what they wait for, until it is done."""
        telling = asyncio.create_task(self._tell(), name=f"summarising-{self._run.pk}")
        try:
            yield
        finally:
            telling.cancel()
            self._whisper("", 0.0)

    async def _tell(self) -> None:
        while True:
            self._whisper(SAYS, 2 * SAYS_EVERY)
            await asyncio.sleep(SAYS_EVERY)

    def _whisper(self, text: str, seconds: float) -> None:
        whisper(self._host, self._run, text, seconds)


def _ratio_of(run: Run) -> float:
    """Tokens per character, as this conversation's last prompt to the same provider had them."""
    runs = Run.objects.filter(conversation=run.conversation_id).order_by("-created_at")
    for provider, tokens, length in runs.values_list("provider", "prompt_tokens", "prompt_chars")[:MEASURED]:
        if provider == run.provider and tokens and length:
            return tokens_per_char(tokens, length)
    return TOKENS_PER_CHAR


def _look(run: Run) -> tuple[Past, list[Part]]:
    """What could give way. Not a turn after one that is still being answered, which a summary would say nothing of."""
    place = run.prompt.place
    assert place is not None
    assert run.answer is not None
    base = Summary.before(run.conversation_id, place)
    history = history_of(run, base.until if base is not None else 0)
    live = Run.objects.filter(conversation=run.conversation_id, state__in=LIVE, prompt__place__lt=place)
    first = live.order_by("prompt__place").values_list("prompt__place", flat=True).first()
    ended = sum(said.place < (place if first is None else first) for said in history)  # nor its own prompt's
    run.answer.refresh_from_db(fields=["parts"])
    return Past(base, history, ended), run.answer.parts


def _length(said: Said) -> int:
    return prompt_chars(build_prompt([said], []))


def _results(parts: Sequence[Part]) -> list[tuple[int, Part, int]]:
    """(number, part, how much of it is told)."""
    found = [(number, part) for number, part in enumerate(parts) if part["type"] == "tool_result"]
    return [(number, part, min(len(part["text"]), part.get("told", len(part["text"])))) for number, part in found]


def _earlier_results(parts: Sequence[Part]) -> dict[int, int]:
    """All that the model has read already: part → how much of it stays."""
    found = _results(parts)
    newest = max((part.get("step", 0) for _, part, _ in found), default=0)
    old = [(number, told) for number, part, told in found if part.get("step", 0) < newest]
    return {number: LEAST_RESULT for number, told in old if told > 2 * LEAST_RESULT}


def _newest_results(parts: Sequence[Part], room: int) -> dict[int, int]:
    """Those it has not read yet: so much of each as there is room for. `room`: characters more; below zero: less."""
    found = _results(parts)
    lengths = [told for _, _, told in found]
    share = shares(lengths, sum(lengths) + room, LEAST_RESULT)
    return {number: share for number, _, told in found if told > share}
