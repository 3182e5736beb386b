"""One conversation in one encoding, in order, for everybody in this process who reads it so.

News only tells that there is something: a lane makes sure that serials join up, and reads the log when they do not.
"""

import asyncio
import logging
import time
from collections import deque
from typing import Protocol
from uuid import UUID

from chat import fragments, metrics, wire
from chat.database import Database
from chat.log import Logged, News
from chat.models import Kind
from chat.reading import read_frame
from chat.wire import Frame

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """A device's feed, as the hub sees it. Neither method waits."""

    def offer(self, frame: Frame) -> None:
        """The next frame of the conversation, or one it has already."""

    def whisper(self, body: str, sender: str) -> None:
        """An ephemeral frame; dropped if there is no room for it."""


class Lane:
    """The frames of one conversation in one encoding, in order, to its listeners here."""

    def __init__(self, database: Database, conversation: UUID, encoding: str) -> None:
        self.conversation = conversation
        self.encoding = encoding
        self.listeners: set[Listener] = set()
        self.position = 0  # every listener that keeps up has been offered everything up to here
        self.known_head = 0  # the log is at least this far
        self._seen_head = 0  # the log's head at the last look
        self._is_unheard = False  # a look found what no news had told of; until news come again
        self._database = database
        self._readings: dict[int, asyncio.Future[Frame | None]] = {}
        self._inbox: deque[News] = deque(maxlen=1000)  # what falls out is a hole, which the log fills
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, position: int) -> None:
        self.position = self.known_head = position
        self._task = asyncio.create_task(self._run(), name=f"lane-{self.encoding}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def tell(self, news: News | None, head: int) -> None:
        """News, or (None) only that the log has reached `head`."""
        self.known_head = max(self.known_head, head)
        if news is not None:
            self._inbox.append(news)
        if head > self.position:
            self._wake.set()

    def look(self, head: int) -> None:
        """The timer's look at the log. Behind what the look before saw: news was lost, or the layer is slow.

        Behind only what this look saw is normal where much is written: the news is on its way.
        """
        if self.position < (head if self._is_unheard else self._seen_head):
            self._is_unheard = True
            self.tell(None, head)
        self._seen_head = head

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._inbox:
                    await self._take(self._inbox.popleft())
                if self.known_head > self.position:
                    await self._repair()
            except Exception:
                logger.exception(
                    "a lane failed; it goes on from the log", extra={"conversation": str(self.conversation)}
                )
                self._inbox.clear()
                await asyncio.sleep(0.5)
                self._wake.set()

    async def _take(self, news: News) -> None:
        if news.events[-1].serial <= self.position:
            return
        if news.after > self.position:
            await self._repair()
        else:
            self._is_unheard = False
        for event in news.events:
            if event.serial > self.position:
                self._offer(await self._encode(event))
        if news.since and self.listeners:
            metrics.token_delay.observe(max(0.0, time.time() - news.since))

    async def _encode(self, event: Logged) -> Frame:
        after = event.serial - 1
        if self.encoding == "json":
            return wire.event_frame(self.conversation, after, event)
        if event.kind == Kind.MESSAGE_DELTA:
            return wire.html_frame(event.kind, after, event.serial, fragments.delta(event))
        html = await self._database.run(fragments.render, self.conversation, [event])
        return wire.html_frame(event.kind, after, event.serial, html)

    async def _repair(self) -> None:
        """Offer everything between our position and the log's head, read from the log."""
        metrics.gap_in_news.inc()
        while frame := await self.frame_after(self.position):
            self._offer(frame)
        self.known_head = self.position  # or less than was known: a conversation that was deleted

    async def frame_after(self, serial: int) -> Frame | None:
        """What comes after a serial, from the log. Many that ask for the same at once share one reading."""
        reading = self._readings.get(serial)
        if reading is None:
            reading = asyncio.ensure_future(self._database.run(read_frame, self.conversation, serial, self.encoding))
            self._readings[serial] = reading
            reading.add_done_callback(lambda _: self._readings.pop(serial, None))
        return await asyncio.shield(reading)  # one that gives up must not take it from the others

    def _offer(self, frame: Frame) -> None:
        self.position = frame.serial
        for listener in tuple(self.listeners):
            listener.offer(frame)
