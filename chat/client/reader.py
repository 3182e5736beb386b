"""What we have been given and what we have applied. Pure: no gap, no repeat, in order; and when to acknowledge."""

import dataclasses
from dataclasses import dataclass

from chat.client.event import Event
from chat.client.events import MessageDelta, MessageSnapshot
from chat.client.frames import Batch, Frame, Hello, Limits, Reset, Snapshot, Sync

ACK_FRAMES = 32
ACK_BYTES = 12_288  # a quarter of the usual window: the server never has to wait for us
ACK_DELAY = 0.25  # seconds

TEXTS = (MessageDelta, MessageSnapshot)
Delivered = Event | Frame


class Gap(Exception):
    """Something is missing before this frame: connect again, with the cursor."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a program is given next; None: nothing, but the cursor moves.

    `cursor` is the serial that everything up to is applied after it, if there is one.
    """

    frame: Delivered | None
    cursor: int | None = None
    epoch: str = ""
    size: int = 0
    counts: bool = False  # as a frame of the window


class Reader:
    """`cursor` is where to go on after a lost connection: None for a fresh view. `position` is the last serial seen.

    They differ in the middle of a snapshot: whoever has not got all its texts must be given it again.
    """

    def __init__(self, cursor: int | None = None, epoch: str = "") -> None:
        self.cursor = self.position = cursor
        self.epoch = epoch
        self.ack_frames, self.ack_bytes = ACK_FRAMES, ACK_BYTES
        self._owed_frames = self._owed_bytes = 0
        self._owed_since: float | None = None

    def connected(self) -> None:
        """A new connection begins, at the cursor."""
        self.position = self.cursor
        self._owed_frames = self._owed_bytes = 0
        self._owed_since = None

    def take(self, frame: Delivered, size: int) -> list[Item]:
        """The items this frame is worth, none if all of it is known. Raises Gap."""
        match frame:
            case Hello():
                self._greeted(frame)
            case Reset():
                self.cursor = None
                self.epoch = frame.epoch
            case Snapshot():
                self.cursor, self.position = None, frame.serial
            case Sync():
                self.cursor = self.position = frame.serial
                return [Item(frame, frame.serial, self.epoch)]
            case Batch() | Event():
                return self._range(frame, size)
            case _:
                pass
        return [Item(frame)]

    def _greeted(self, frame: Hello) -> None:
        if self.cursor is None or not self.epoch:  # else a reset tells if ours is void
            self.epoch = frame.epoch
        self._keep_to(frame.limits)

    def _keep_to(self, limits: Limits) -> None:
        """A quarter of the window, whatever the window of this door is."""
        self.ack_frames = max(1, min(ACK_FRAMES, limits.window_frames // 4))
        self.ack_bytes = max(1, min(ACK_BYTES, limits.window_bytes // 4))

    def _range(self, frame: Batch | Event, size: int) -> list[Item]:
        if self.position is None or frame.after > self.position:
            raise Gap
        if frame.serial <= self.position:
            return []
        # Of a range that begins before our position, what we have is left out; but not text: a merged piece of it
        # stands at the serial of its first word, and may repeat what is known.
        events = frame.events if isinstance(frame, Batch) else (frame,)
        new = [event for event in events if event.serial > self.position or isinstance(event, TEXTS)]
        # They come in the order of their serials, so whoever stops in the middle is not given again what they had; but
        # the words of a merged text that stand further on are, for its serial is that of the first.
        items = [Item(event, max(self.position, event.serial), self.epoch) for event in new]
        items = items or [Item(None, epoch=self.epoch)]
        self.cursor = self.position = frame.serial
        items[-1] = dataclasses.replace(items[-1], cursor=frame.serial, size=size, counts=True)
        return items

    # --- acknowledging --------------------------------------------------------------------------------------

    def applied(self, item: Item, now: float) -> None:
        """The program has done with it."""
        if item.counts:
            self._owed_frames += 1
            self._owed_bytes += item.size
            if self._owed_since is None:
                self._owed_since = now

    def due(self) -> float | None:
        """When to acknowledge; 0 for now."""
        if self._owed_since is None:
            return None
        if self._owed_frames >= self.ack_frames or self._owed_bytes >= self.ack_bytes:
            return 0.0
        return self._owed_since + ACK_DELAY

    def acknowledged(self) -> None:
        self._owed_frames = self._owed_bytes = 0
        self._owed_since = None
