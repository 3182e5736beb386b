"""Carries out what the machine decides: opens links, keeps its time, tells it what it hears. Decides nothing."""

import asyncio
import random
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import httpx2

from chat.client import frames
from chat.client.errors import Lost, Unreadable
from chat.client.frames import Bye, Hello, Sync
from chat.client.link import Ears, Link, Place
from chat.client.machine import Act, Drop, Machine, Open, State
from chat.client.memory import Memory, Transport
from chat.client.outbox import Signal
from chat.client.poll import PollLink
from chat.client.reader import Delivered, Gap
from chat.client.sse import SSELink
from chat.client.websocket import WebSocketLink

PING: Signal = {"type": "ping"}


class Line:
    """`on_frame(frame, size)` may raise Gap; `on_open` comes before a connection, `on_state` after every change.

    `on_failed` gets what should not have happened: a mistake of ours, or a server that speaks another protocol.
    """

    def __init__(
        self,
        place: Place,
        *,
        memory: Memory,
        transports: Sequence[Transport],
        tls: ssl.SSLContext | None,
        on_open: Callable[[], None],
        on_frame: Callable[[Delivered, int], None],
        on_unsaid: Callable[[Signal], None],
        on_state: Callable[[], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        chance = random.SystemRandom().random
        self.machine = Machine(host=place.address.origin, memory=memory, random=chance, transports=transports)
        self.why = ""  # the connection was lost, for a person
        self._place = place
        self._tls = tls
        self._made_tls: ssl.SSLContext | None = None
        self._on_open, self._on_frame, self._on_unsaid = on_open, on_frame, on_unsaid
        self._on_state, self._on_failed = on_state, on_failed
        self._link: Link | None = None
        self._running: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._told: tuple[State, Transport | None] | None = None

    def start(self) -> None:
        self._do(self.machine.start(self._loop.time()))

    async def stop(self) -> None:
        try:
            self._do(self.machine.stop())
        finally:  # also when whoever is told of it fails
            if self._tasks:
                await asyncio.wait(self._tasks)

    def say(self, signal: Signal) -> None:
        """Send it if the server has greeted us. Else it is not sent: it will be, with the rest, when it has."""
        if self._link is not None and self.machine.greeted:
            self._link.say(signal)

    def hurry(self) -> None:
        """Somebody waits: try now, instead of later."""
        self._do(self.machine.hurry(self._loop.time()))

    # --- the machine ----------------------------------------------------------------------------------------

    def _do(self, acts: Sequence[Act]) -> None:
        for act in acts:
            match act:
                case Open(transport):
                    self._open(transport)
                case Drop():
                    self._drop()
                case _:
                    self.say(PING)
        self._keep_time()
        now = (self.machine.state, self.machine.transport)
        if now != self._told:
            self._told = now
            self._on_state()

    def _keep_time(self) -> None:
        """A timer for what is due next. One that fires early finds nothing due and comes back."""
        due = self.machine.due
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._do(self.machine.tick(self._loop.time()))

    def _open(self, transport: Transport) -> None:
        self._on_open()
        link: Link
        heard: list[Link] = []  # the link's own name for itself, which it has not yet
        ears = Ears(
            frame=lambda fields, size: self._heard(heard[0], fields, size),
            answer=self._answered,
            alive=lambda: self._alive(heard[0]),
            unsaid=self._on_unsaid,
        )
        if transport is Transport.WEBSOCKET:
            link = WebSocketLink(self._place, ears, self._tls)
        else:
            link = (SSELink if transport is Transport.SSE else PollLink)(self._place, ears, self._http_tls())
        heard.append(link)
        self._link = link
        task = self._running = asyncio.create_task(link.run(), name=f"client-{transport}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(self._ended, link))

    def _drop(self) -> None:
        self._link = None
        if self._running is not None:
            self._running.cancel()
            self._running = None

    def _http_tls(self) -> ssl.SSLContext:
        """Made once: it reads all certificates that there are."""
        if self._made_tls is None:
            self._made_tls = self._tls or httpx2.create_ssl_context()
        return self._made_tls

    # --- what links tell ------------------------------------------------------------------------------------

    def _ended(self, link: Link, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Lost):
            self._fail(error)
            return
        if link is not self._link:
            return
        lost = error or Lost("the connection ended")
        self.why = str(lost)
        now = self._loop.time()
        self._do(self.machine.lost(now, lost.code, refused=lost.refused, gateway=lost.gateway))

    def _alive(self, link: Link) -> None:
        if link is self._link:
            self.machine.heard(self._loop.time())

    def _heard(self, link: Link, fields: dict[str, Any], size: int) -> None:
        if link is not self._link:
            return
        now = self._loop.time()
        self.machine.heard(now)
        frame = frames.read(fields)
        match frame:
            case None:
                return
            case Hello():
                self.machine.hello(now, frame)
            case Sync():
                self.machine.synced(now)
            case Bye():
                self.why = frame.message or frame.code
                self._do(self.machine.bye(now, frame))
                return
            case _:
                pass
        try:
            self._on_frame(frame, size)
        except Gap:
            self.why = "something was missing"
            self._do(self.machine.again(now))
            return
        self._do(())

    def _answered(self, fields: dict[str, Any]) -> None:
        try:
            frame = frames.read(fields)
        except Unreadable as error:
            self._fail(error)
            return
        if frame is not None:
            self._on_frame(frame, 0)

    def _fail(self, error: BaseException) -> None:
        """Coming back would end in the same."""
        self._do(self.machine.stop())
        self._on_failed(error)
