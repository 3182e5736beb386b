"""One subscription per conversation per process, handing each encoded frame to every local device.

The layer's news only tells that there is something; a lane makes sure serials join up and reads the log when
they do not. The hub never writes, and knows nothing of who a device belongs to.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from channels.layers import get_channel_layer
from django.conf import settings

from chat.database import Database
from chat.ending import end
from chat.lane import Lane, Listener
from chat.logs import reason
from chat.news import PATIENCE_SECONDS, PEOPLE, group_of, unpack
from chat.reading import head_of, heads_of

logger = logging.getLogger(__name__)

REJOIN_SECONDS = 600  # memberships of a layer expire, and a layer that lost its memory forgets us


class Hub:
    """`join` and `leave` for feeds. One channel for the whole process, one group per conversation on it."""

    def __init__(self, database: Database, on_people: Callable[[dict[str, Any]], None]) -> None:
        self.database = database
        self._on_people = on_people
        self._lanes: dict[UUID, dict[str, Lane]] = {}
        self._joining: dict[tuple[UUID, str], asyncio.Future[Lane]] = {}
        self._unsettled: set[UUID] = set()  # conversations whose group the layer did not let us join, or leave
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
                    self._has_joined(key, future)
                    await self._unsubscribe(conversation)
                    raise
                finally:
                    self._has_joined(key, future)
            lane = self._lanes.get(conversation, {}).get(encoding)
        lane.listeners.add(listener)
        return lane

    async def _open(self, conversation: UUID, encoding: str) -> Lane:
        lane = Lane(self.database, conversation, encoding)
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

    def _has_joined(self, key: tuple[UUID, str], future: asyncio.Future[Lane]) -> None:
        """Or has given up. Somebody else may be joining by now."""
        if self._joining.get(key) is future:
            del self._joining[key]
        future.cancel()

    def _is_wanted(self, conversation: UUID) -> bool:
        return conversation in self._lanes or any(key[0] == conversation for key in self._joining)

    async def _subscribe(self, conversation: UUID) -> None:
        """Hear of a conversation. If the layer does not let us, devices are served by the timer until it does."""
        async with self._membership:
            # With a layer that does not answer one waits, and not everybody one after the other.
            if self._unsettled or not await self._asked("listen", self._layer.group_add, group_of(conversation)):
                self._unsettled.add(conversation)

    async def _unsubscribe(self, conversation: UUID) -> None:
        """The opposite, unless somebody is here or is joining."""
        async with self._membership:
            if self._is_wanted(conversation):
                return
            if self._unsettled or not await self._asked("go", self._layer.group_discard, group_of(conversation)):
                self._unsettled.add(conversation)

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
        if not (lanes := self._lanes.get(UUID(message["conversation"]))):
            return
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
            again = set(self._unsettled)
            if (now := asyncio.get_running_loop().time()) >= due:
                due, again = now + REJOIN_SECONDS, again | set(self._lanes)
                await self._asked("listen", self._layer.group_add, PEOPLE)
            for conversation in again:
                async with self._membership:
                    change = self._layer.group_add if self._is_wanted(conversation) else self._layer.group_discard
                    if not await self._asked("settle", change, group_of(conversation)):
                        self._unsettled.add(conversation)
                        break
                    self._unsettled.discard(conversation)
