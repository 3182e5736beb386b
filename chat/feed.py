"""One device's view of a conversation: everything after a serial, once, in order, at the speed it can take.

Live frames go straight through while the device acknowledges them. A device that owes too much is sent nothing
more; when it has caught up with what it owes, it is given the rest from the log, merged.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

from chat import metrics
from chat.hub import Hub
from chat.lane import Lane
from chat.wire import WINDOW_BYTES, WINDOW_FRAMES, Frame, control

logger = logging.getLogger(__name__)


class Window(NamedTuple):
    """What a device may owe: so many bytes, so many frames. One that owes more is not sent live frames."""

    size: int
    frames: int


WINDOW = Window(WINDOW_BYTES, WINDOW_FRAMES)


class Feed:
    """`deliver` sends one frame without waiting; `on_synced` is called after each catching up."""

    __slots__ = (
        "_owed",
        "_owed_bytes",
        "_room",
        "_task",
        "conversation",
        "cursor",
        "deliver",
        "encoding",
        "failed",
        "hub",
        "lane",
        "live",
        "name",
        "window",
    )

    def __init__(
        self,
        hub: Hub,
        conversation: UUID,
        encoding: str,
        name: str,
        deliver: Callable[[str], None],
        failed: Callable[[], Awaitable[None]],
        window: Window = WINDOW,
    ) -> None:
        self.hub = hub
        self.conversation = conversation
        self.encoding = encoding
        self.name = name
        self.deliver = deliver
        self.failed = failed
        self.window = window
        self.lane: Lane | None = None
        self.cursor = 0  # the last serial handed to the transport
        self.live = False
        self._owed: deque[tuple[int, int]] = deque()  # (serial, bytes) not yet acknowledged
        self._owed_bytes = 0
        self._room: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    async def subscribe(self) -> None:
        """Join the hub. Call before reading whatever the device starts from."""
        self.lane = await self.hub.join(self.conversation, self.encoding, self)

    async def start(self, after: int, head: int) -> None:
        """Deliver everything after `after`, then `sync`, then live. Returns when live for the first time.

        `head` is the log's, as last read: whoever is there already costs no look into the log.
        """
        self.cursor = after
        await self._catch_up(head)

    async def close(self) -> None:
        """Leave the hub. Nothing is delivered after this."""
        self.live = False
        if self._task is not None:
            self._task.cancel()
        if self.lane is not None:
            await self.hub.leave(self.lane, self)

    def offer(self, frame: Frame) -> None:
        """From the lane. A frame that does not join up, or finds no room, sends the feed back to the log."""
        if not self.live or frame.serial <= self.cursor:
            return
        # Also one that begins before our cursor: it repeats what was delivered, and a prompt must not come twice.
        if frame.after != self.cursor or self._is_full():
            self.live = False
            metrics.gap_at_device.inc()
            self._task = asyncio.create_task(self._catch_up_safely(), name="feed-catch-up")
            return
        self._push(frame)

    def whisper(self, body: str, sender: str) -> None:
        """From the hub. Never worth waiting for, and never said back to who said it."""
        if self.live and sender != self.name and not self._is_full():
            self.deliver(body)

    def flow(self, serial: int) -> None:
        """The device has applied everything up to `serial`."""
        owed = self._owed
        while owed and owed[0][0] <= serial:
            self._owed_bytes -= owed.popleft()[1]
        if self._room is not None and not self._is_full():
            self._room.set()

    def _is_full(self) -> bool:
        return self._owed_bytes >= self.window.size or len(self._owed) >= self.window.frames

    def _push(self, frame: Frame) -> None:
        self.cursor = frame.serial
        self._owed.append((frame.serial, len(frame.body)))
        self._owed_bytes += len(frame.body)
        self.deliver(frame.body)

    async def _catch_up_safely(self) -> None:
        try:
            await self._catch_up()
        except Exception:
            facts = {"conversation": str(self.conversation), "connection": self.name}
            logger.exception("a feed could not catch up", extra=facts)
            await self.failed()

    async def _catch_up(self, head: int = 0) -> None:
        lane = self.lane
        assert lane is not None, "subscribe first"
        stuck_at = -1
        # What the lane has yet to hear of it will offer then: there is no need to read the log until it gives nothing.
        while self.cursor < max(head, lane.position):
            await self._wait_for_room()
            frame = await lane.frame_after(self.cursor)
            if frame is not None:
                self._push(frame)
            elif self.cursor == stuck_at:
                await self.failed()  # the log ends before what was announced: the conversation was deleted
                return
            else:
                stuck_at = self.cursor
        # Since the last look at the lane nothing can have been offered: there was no await.
        self.live = True
        self.deliver(control("sync", serial=self.cursor))

    async def _wait_for_room(self) -> None:
        while self._is_full():
            self._room = asyncio.Event()
            await self._room.wait()
        self._room = None
