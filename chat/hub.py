"""One subscription per conversation per process, handing each encoded frame to every local device.

The layer's news only tells that there is something; a lane makes sure serials join up and reads the log when
they do not. The hub never writes, and knows nothing of who a device belongs to.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from uuid import UUID

from channels.layers import get_channel_layer
from django.conf import settings

from chat import fragments, metrics, wire
from chat.database import Database
from chat.ending import end
from chat.log import Logged, News
from chat.logs import reason
from chat.models import Kind
from chat.news import PATIENCE_SECONDS, PEOPLE, group_of, unpack
from chat.reading import head_of, heads_of, read_frame
from chat.wire import Frame

logger = logging.getLogger(__name__)

REJOIN_SECONDS = 600  # memberships of a layer expire, and a layer that lost its memory forgets us


class Listener(Protocol):
    """A device's feed, as the hub sees it. Neither method waits."""

    def offer(self, frame: Frame) -> None:
        """The next frame of the conversation, or one it has already."""

    def whisper(self, body: str, sender: str) -> None:
        """An ephemeral frame; dropped if there is no room for it."""


class Lane:
    """The frames of one conversation in one encoding, in order, to its listeners here."""

    def __init__(self, hub: "Hub", conversation: UUID, encoding: str) -> None:
        self.conversation = conversation
        self.encoding = encoding
        self.listeners: set[Listener] = set()
        self.position = 0  # every listener that keeps up has been offered everything up to here
        self.known_head = 0  # the log is at least this far
        self._seen_head = 0  # the log's head at the last look
        self._is_unheard = False  # a look found what no news had told of; until news come again
        self._hub = hub
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
        html = await self._hub.database.run(fragments.render, self.conversation, [event])
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
            reading = asyncio.ensure_future(
                self._hub.database.run(read_frame, self.conversation, serial, self.encoding)
            )
            self._readings[serial] = reading
            reading.add_done_callback(lambda _: self._readings.pop(serial, None))
        return await asyncio.shield(reading)  # one that gives up must not take it from the others

    def _offer(self, frame: Frame) -> None:
        self.position = frame.serial
        for listener in tuple(self.listeners):
            listener.offer(frame)


class Hub:
    """`join` and `leave` for feeds. One channel for the whole process, one group per conversation on it."""

    def __init__(self, database: Database, on_people: Callable[[dict[str, Any]], None]) -> None:
        self.database = database
        self._on_people = on_people
        self._lanes: dict[UUID, dict[str, Lane]] = {}
        self._joining: dict[tuple[UUID, str], asyncio.Future[Lane]] = {}
        self._deaf: set[UUID] = set()  # conversations whose group the layer did not let us join
        self._tasks: list[asyncio.Task[None]] = []
        self._channel = ""
        self._membership = asyncio.Lock()  # a group left late must not undo a group joined meanwhile

    async def start(self) -> None:
        """Begin to listen, on the running loop."""
        self._layer = get_channel_layer()
        self._channel = await self._layer.new_channel("hub")
        await self._layer.group_add(PEOPLE, self._channel)
        self._tasks = [
            asyncio.create_task(self._listen(), name="hub"),
            asyncio.create_task(self._look_again(), name="hub-position"),
            asyncio.create_task(self._join_again(), name="hub-rejoin"),
        ]

    async def close(self) -> None:
        for lanes in self._lanes.values():
            for lane in lanes.values():
                lane.stop()
        await end(*self._tasks)

    @property
    def conversations(self) -> int:
        """How many conversations this process listens to."""
        return len(self._lanes)

    async def join(self, conversation: UUID, encoding: str, listener: Listener) -> Lane:
        """Subscribe. From the return on, nothing committed can pass this listener by: read the log after it."""
        key = (conversation, encoding)
        lane = self._lanes.get(conversation, {}).get(encoding)
        while lane is None:
            if key in self._joining:
                await asyncio.wait([self._joining[key]])
            else:
                future = self._joining[key] = asyncio.get_running_loop().create_future()
                try:
                    lane = await self._open(conversation, encoding)
                except BaseException:
                    del self._joining[key]
                    await self._unsubscribe(conversation)
                    raise
                finally:
                    self._joining.pop(key, None)
                    future.cancel()
            lane = self._lanes.get(conversation, {}).get(encoding)
        lane.listeners.add(listener)
        return lane

    async def _open(self, conversation: UUID, encoding: str) -> Lane:
        lane = Lane(self, conversation, encoding)
        await self._subscribe(conversation)
        head = await self.database.run(head_of, conversation)
        self._lanes.setdefault(conversation, {})[encoding] = lane
        lane.start(head)
        return lane

    async def leave(self, lane: Lane, listener: Listener) -> None:
        """Unsubscribe. The last to leave a conversation ends this process's subscription to it."""
        lane.listeners.discard(listener)
        lanes = self._lanes.get(lane.conversation, {})
        if lane.listeners or lanes.get(lane.encoding) is not lane:
            return
        lane.stop()
        del lanes[lane.encoding]
        if not lanes:
            del self._lanes[lane.conversation]
            await self._unsubscribe(lane.conversation)

    async def _subscribe(self, conversation: UUID) -> None:
        """Hear of a conversation. If the layer refuses, this process finds out by the timer, which tries again."""
        async with self._membership:
            self._deaf.discard(conversation)
            if not await self._asked("listen", self._layer.group_add, group_of(conversation)):
                self._deaf.add(conversation)

    async def _unsubscribe(self, conversation: UUID) -> None:
        """The opposite, unless somebody is here or is joining."""
        async with self._membership:
            if conversation in self._lanes or any(key[0] == conversation for key in self._joining):
                return
            self._deaf.discard(conversation)
            await self._asked("go", self._layer.group_discard, group_of(conversation))  # its news is dropped here

    async def _asked(self, what: str, change: Callable[..., Awaitable[None]], group: str) -> bool:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await change(group, self._channel)
        except Exception as error:  # noqa: BLE001 - whatever a layer raises, devices are served from the log
            logger.warning("the channel layer did not let us %s: %s", what, reason(error))
            return False
        return True

    async def _listen(self) -> None:
        while True:
            try:
                message = await self._layer.receive(self._channel)
            except Exception as error:  # noqa: BLE001 - whatever a layer raises, the position timer goes on
                logger.warning("the channel layer does not answer: %s", reason(error))
                await asyncio.sleep(0.5)
                continue
            try:
                self._receive(message)
            except Exception:
                logger.exception("bad news")

    def _receive(self, message: dict[str, Any]) -> None:
        if message["type"] == "people":
            self._on_people(message)
            return
        lanes = self._lanes.get(UUID(message["conversation"]), {})
        if message["type"] == "whisper":
            for listener in [one for lane in lanes.values() for one in lane.listeners]:
                listener.whisper(message["frame"], message["sender"])
            return
        news = unpack(message)
        for lane in lanes.values():
            lane.tell(news, message["serial"])

    async def _look_again(self) -> None:
        """Whatever waits for a hint also looks again on a timer: one query for all conversations."""
        while True:
            await asyncio.sleep(settings.CHAT_POSITION_SECONDS / 2)  # two looks find what is missing
            try:
                heads = await self.database.run(heads_of, list(self._lanes))
            except Exception as error:  # noqa: BLE001 - a database that is away comes back
                logger.warning("could not compare positions: %s", reason(error))
                continue
            for conversation, head in heads.items():
                for lane in self._lanes.get(conversation, {}).values():
                    lane.look(head)

    async def _join_again(self) -> None:
        """What the layer refused, soon; everything, now and then. Nobody waits for it."""
        due = asyncio.get_running_loop().time() + REJOIN_SECONDS
        while True:
            await asyncio.sleep(settings.CHAT_POSITION_SECONDS)
            again = set(self._deaf)
            if (now := asyncio.get_running_loop().time()) >= due:
                due, again = now + REJOIN_SECONDS, set(self._lanes)
                await self._asked("listen", self._layer.group_add, PEOPLE)
            for conversation in again & self._lanes.keys():
                await self._subscribe(conversation)
