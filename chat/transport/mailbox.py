"""Frames on their way out over HTTP: put in without waiting, taken out together by whoever carries them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from chat.feed import Window

# A round trip of HTTP carries more than a socket's frame, so more may be under way. Bounds what a slow reader holds.
HTTP_WINDOW = Window(262_144, 1_024)
MOST_FRAMES = 4 * HTTP_WINDOW.frames  # whoever lets so many lie, events or not, does not read


class Letter(NamedTuple):
    """A frame, and the serial the device stands at when it has applied it."""

    serial: int
    body: str


class Mailbox:
    """One reader. `ended`: nothing more will come, and what is left may still be taken."""

    def __init__(self, cursor: Callable[[], int]) -> None:
        self.ended = False
        self._cursor = cursor
        self._letters: list[Letter] = []
        self._there = asyncio.Event()

    def put(self, body: str) -> None:
        """Never waits. Too much that nobody takes ends it."""
        if len(self._letters) >= MOST_FRAMES:
            self.ended = True
        else:
            self._letters.append(Letter(self._cursor(), body))
        self._there.set()

    async def end(self, _: int = 0) -> None:
        """Nothing more will come."""
        self.ended = True
        self._there.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Until there is something, or the end, or this long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._there.wait()

    def take(self) -> list[Letter]:
        """Everything there is, in order; perhaps nothing."""
        letters, self._letters = self._letters, []
        if not self.ended:
            self._there.clear()
        return letters
