"""Two providers: one whose every token is the moment it was made, one that keeps what it said.

The moment is CLOCK_MONOTONIC in ns, which is the same in every process.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from django.conf import settings

from chat.agent.provider import ProviderEvent, Stopped, Text, Turn
from chat.agent.scripted import Scripted


def stamps(tokens: int, rate: float) -> str:
    """The prompt for `tokens` stamped tokens at `rate` per second; 0: as fast as possible."""
    return f"stamps {tokens} {rate:g}"


class Stamping:
    """Keeps to an absolute schedule, so that a late token does not make the following ones late."""

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        _, tokens, rate = turn.prompt[-1]["content"][-1]["text"].split()[-3:]
        loop = asyncio.get_running_loop()
        start, interval = loop.time(), 1 / float(rate) if float(rate) else 0.0
        for number in range(int(tokens)):
            wait = start + number * interval - loop.time()
            if wait > 0:
                await asyncio.sleep(wait)
            elif number % 20 == 0:
                await asyncio.sleep(0)
            yield Text(f"{time.monotonic_ns()} ")
        yield Stopped("end_turn")

    async def aclose(self) -> None:
        pass


class Journaling(Scripted):
    """Says what `scripted` says and writes it down, one file per run, when it is done or closed."""

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        said: list[str] = []
        try:
            async with aclosing(super().reply(turn)) as events:
                async for event in events:
                    if isinstance(event, Text):
                        said.append(event.text)
                    yield event
        finally:
            (settings.VAR_DIR / f"said-{turn.run}.txt").write_text("".join(said))
