"""One device's connection, whatever door it came by: hello, what was missed, sync, live; signals and answers."""

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import DatabaseError

from chat import wire
from chat.errors import Code, Refused
from chat.feed import WINDOW, Feed, Window
from chat.reading import head_of, is_far_behind
from chat.roster import ids
from chat.spoken import MAX_TEXT, Flow, Ping, Retry, Send, Spoken, Typing
from chat.transport.access import Access, Credential, check
from chat.transport.admission import Wish
from chat.transport.close import TROUBLE, Close
from chat.transport.inbox import carry_out
from chat.transport.snapshot import snapshot

if TYPE_CHECKING:
    from chat.host import Host

logger = logging.getLogger(__name__)

TYPING_SECONDS = 5
PONG = wire.control("pong")


class Connection:
    """`send` hands one frame to the transport without waiting; `end` asks it to close with a code."""

    __slots__ = (
        "_greeted",
        "applied",
        "closing",
        "conversation",
        "credential",
        "device",
        "door",
        "encoding",
        "end",
        "feed",
        "heard_at",
        "host",
        "name",
        "send",
        "transport",
        "user",
        "user_id",
        "window",
    )

    def __init__(
        self,
        host: "Host",
        *,
        credential: Credential,
        conversation: uuid.UUID,
        device: uuid.UUID,
        encoding: str,
        transport: str,
        send: Callable[[str], None],
        end: Callable[[int], Awaitable[None]],
        window: Window = WINDOW,
    ) -> None:
        self.host = host
        self.credential = credential
        self.window = window
        self.conversation = conversation
        self.device = device
        self.encoding = encoding
        self.transport = transport
        self.send = send
        self.end = end
        self.door: object = None  # what a door wants to find again with the connection
        self.name = uuid.uuid4().hex  # of this connection; two tabs of one device are two connections
        self.user = ""
        self.user_id: Any = None
        self.feed: Feed | None = None
        self.applied: int | None = None  # what the device says it has, where its feed is another connection's
        self.heard_at = time.monotonic()
        self.closing = False
        self._greeted = asyncio.Event()

    async def admit(self, name: str) -> Access:
        """Check who this is; `name` is the device's. Raises Refused. Call before the transport accepts."""
        access: Access = await self.host.doorkeeper.let_in(Wish(self.credential, self.conversation, self.device, name))
        self.user, self.user_id = access.participant.user.get_username(), access.participant.user_id
        return access

    async def serve(self, access: Access, after: str | None, epoch: str | None) -> None:
        """`open`, for a task of its own: what goes wrong is said to the device."""
        try:
            await self.open(access, after, epoch)
        except Exception:
            logger.exception("a connection could not be opened", extra=ids(self))
            await self.bye(Close.FEED_FAILED, TROUBLE, retry_within=2.0)

    async def open(self, access: Access, after: str | None, epoch: str | None) -> None:
        """Say hello, deliver what was missed and go live."""
        if self.host.draining:
            await self.bye(Close.DRAIN, retry_within=1.0)
            return
        first = self.host.roster.add(self)
        feed = self.feed = Feed(
            self.host.hub, self.conversation, self.encoding, self.name, self.send, self._feed_failed, self.window
        )
        await feed.subscribe()
        if self.closing:  # the device went meanwhile; that we were cancelled was swallowed on the way
            await feed.close()
            return
        conversation = access.participant.conversation
        head = max(feed.lane.position if feed.lane else 0, conversation.head)
        limits = {"signal_bytes": wire.MAX_SIGNAL_BYTES, "text": MAX_TEXT, "frame_bytes": wire.MAX_FRAME_BYTES}
        limits |= {"window_bytes": self.window.size, "window_frames": self.window.frames}
        limits |= {"file_bytes": settings.CHAT_FILE_BYTES, "files": settings.CHAT_FILES_PER_MESSAGE}
        self.send(
            wire.control(
                "hello",
                protocol="conversation.v1",
                conversation=str(self.conversation),
                connection=self.name,
                epoch=str(conversation.epoch),
                serial=head,
                heartbeat=settings.CHAT_HEARTBEAT_SECONDS,
                user=self.user,
                role=access.participant.role,
                device=str(self.device),
                currency=settings.CHAT_CURRENCY,
                limits=limits,
            )
        )
        self._greeted.set()
        self.send(wire.control("presence", **self.host.presence(self.host.roster.users_of(self.conversation))))
        if first:
            self.host.tell_presence(self.conversation, [self.user], online=True)
        await feed.start(await self._starting_point(after, epoch, str(conversation.epoch), head), head)

    async def _starting_point(self, after: str | None, epoch: str | None, now: str, head: int) -> int:
        """The serial to go on from. Whoever cannot be given what they missed is told so and shown afresh."""
        if after is None:
            return await self._snapshot()
        reason, serial = "", wire.read_serial(after)
        if serial is None:
            reason = "not_a_serial"
        elif epoch is not None and epoch != now:
            reason = "epoch"
        elif serial > head and serial > await self.host.database.run(head_of, self.conversation):
            reason = "ahead"
        elif self.encoding == "html" and await self.host.database.run(is_far_behind, self.conversation, serial):
            reason = "far_behind"
        if reason or serial is None:
            self.send(wire.control("reset", reason=reason, epoch=now))
            return await self._snapshot()
        return serial

    async def _snapshot(self) -> int:
        serial, frames = await snapshot(self.host.database, self.conversation, self.encoding)
        # The cursor moves with `sync`: whoever is cut off before that must be shown all of it again.
        for frame in frames:
            self.send(frame)
        return serial

    @property
    def cursor(self) -> int:
        """The last serial handed to the transport."""
        return self.feed.cursor if self.feed is not None else 0

    async def close(self) -> None:
        """Leave. Not a stop: whatever runs goes on. Safe to call twice, and while `open` has not returned."""
        self.closing = True
        if self.host.roster.remove(self):
            self.host.tell_presence(self.conversation, [self.user], online=False)
        if self.feed is not None:
            await self.feed.close()

    # --- what the device says -------------------------------------------------------------------------------

    async def receive(self, text: str | bytes) -> None:
        """Handle one frame from the device. Never raises for what a device sent; every signal is answered.

        Except after a goodbye: what is not answered any more is said again on the next connection.
        """
        self.hear()
        await self._greeted.wait()  # a device may speak at once; it is answered when it has been let in
        if self.closing:
            return
        if answer := await self.answer(text):
            self.send(answer)

    async def answer(self, text: str | bytes) -> str:
        """What is said to one frame from the device: an ack, a nack, a pong, or nothing."""
        try:
            signal = wire.read_signal(text)
        except wire.Unreadable as refusal:
            return wire.nack(refusal.signal_id, refusal)
        match signal:
            case Flow():
                self.flow(signal.serial)
            case Ping():
                return PONG
            case Typing():
                self._typing()
            case _:
                return await self._answer(signal)
        return ""

    def hear(self) -> None:
        """The device has said something, by whatever door."""
        self.heard_at = time.monotonic()

    def heard_by_post(self, applied: int | None, *, pinged: bool) -> None:
        """It spoke by another door than it listens at.

        A ping is answered here as well: a device whose stream does not bring that at once is behind something
        that holds answers back, and can go over to polls.
        """
        self.hear()
        if applied is not None:
            self.flow(applied)
        if pinged and self.door is None and not self.closing:
            self.send(PONG)

    def flow(self, serial: int) -> None:
        """The device has applied everything up to `serial`."""
        if self.feed is not None:
            self.feed.flow(serial)
        else:
            self.applied = serial

    async def _answer(self, signal: Spoken) -> str:
        signal_id = str(signal.id)
        known = self.host.answers.get((self.user_id, signal.id))
        if known is not None:  # asked again because the line was cut before the answer
            return known
        try:
            # Whoever speaks without listening may name a new device each time: those share what their user has.
            self.host.allowances.spend((self.user_id, self.device if self.feed is not None else None))
            ack = await self.host.database.promptly(self._carry_out, signal)
        except Refused as refusal:
            return wire.nack(signal_id, refusal)
        except DatabaseError:
            logger.exception("a signal could not be stored", extra=ids(self))
            return wire.nack(signal_id, Refused(Code.STORAGE, "This could not be stored. Try again.", retry_after=1.0))
        answer = wire.control("ack", id=signal_id, **ack)
        if not isinstance(signal, Send | Retry):  # the log remembers those, for ever
            self.host.remember((self.user_id, signal.id), answer)
        return answer

    def _carry_out(self, signal: Spoken) -> dict[str, Any]:
        return carry_out(signal, check(self.credential, self.conversation, self.device))

    # --- what others are told of it, and it of others -------------------------------------------------------

    def _typing(self) -> None:
        if not self.host.allowances.is_due((self.user_id, self.conversation), TYPING_SECONDS / 4):
            return  # every device is told each time: no flood
        frame = {"type": "typing", "user": self.user, "expires_in": TYPING_SECONDS}
        self.host.desk.whisper(self.conversation, frame, self.name)

    def beat(self) -> None:
        """Called at every heartbeat: tell the device we are here."""
        self.send(wire.control("ping"))

    async def bye(self, close: Close, message: str = "", *, retry_within: float = 0.0) -> None:
        """Say why, then close. `retry_within`: spread the returns over this many seconds."""
        if self.closing:
            return
        self.closing = True
        self._greeted.set()
        fields = {"retry_in": round(random.uniform(0, retry_within), 2)} if close.come_back else {}  # noqa: S311
        self.send(goodbye(close, message, **fields))
        self.send = _unsaid
        if self.feed is not None:
            self.feed.deliver = _unsaid
        await self.end(close.value)

    async def _feed_failed(self) -> None:
        # A log that ends too early may be that of a deleted conversation: then there is nothing to come back to.
        with suppress(DatabaseError):
            await self.host.doorkeeper.recheck([self])
        await self.bye(Close.FEED_FAILED, "Something went wrong here. Coming back continues where this ended.")


def goodbye(close: Close, message: str, **fields: float) -> str:
    """The frame before the end: `close` as its number says whether to come back."""
    return wire.control("bye", code=close.name.lower(), close=close.value, message=message, **fields)


def _unsaid(_: str) -> None:
    """Nothing follows a goodbye."""
