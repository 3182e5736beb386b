"""Devices as lean as `bench.client.Device` and with its face, over SSE or long polls: HTTP/1.1 straight off the socket.

Both speak by POST on a second connection that is kept open. Over SSE a `flow` goes out per quarter of the HTTP window;
a poll acknowledges by its `after`.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Self

import orjson

from bench.client import Device, Listen, device_path

DOORS = ("websocket", "sse", "poll")
FLOW_FRAMES = 256  # of the 1,024 a device may owe over HTTP
FLOW_BYTES = 65_536  # of the 262,144
WAIT_SECONDS = 20  # of one long poll
MOST_REPEATS = 5  # of a `flow` whose connection was lost, one after the other

Ever = Callable[[Device, dict[str, Any]], None]
Parts = list[tuple[bytes, bool]]
Expects = Callable[[int, Parts], int]


class Responses:
    """Decodes the responses of one connection as they come. `status` is that of the one under way."""

    def __init__(self) -> None:
        self.status = 0
        self._rest = b""
        self._expects: Expects = self._head
        self._size = 0

    def feed(self, data: bytes) -> Parts:
        """Parts of bodies, each with whether it is its response's last. One with a length is a single part."""
        self._rest += data
        parts: Parts = []
        at = 0
        while (end := self._expects(at, parts)) >= 0:
            at = end
        self._rest = self._rest[at:]
        return parts

    # Each returns where the next thing begins, or -1 if it is not all there.

    def _head(self, at: int, _: Parts) -> int:
        end = self._rest.find(b"\r\n\r\n", at)
        if end < 0:
            return -1
        head = self._rest[at:end].lower() + b"\r\n"
        self.status = int(head[9:12])
        if b"\r\ntransfer-encoding: chunked\r\n" in head:
            self._expects = self._chunk_size
        else:
            place = head.find(b"\r\ncontent-length: ")
            self._size = 0 if place < 0 else int(head[place + 18 : head.find(b"\r\n", place + 18)])
            self._expects = self._body
        return end + 4

    def _body(self, at: int, parts: Parts) -> int:
        end = at + self._size
        if end > len(self._rest):
            return -1
        parts.append((self._rest[at:end], True))
        self._expects = self._head
        return end

    def _chunk_size(self, at: int, _: Parts) -> int:
        end = self._rest.find(b"\r\n", at)
        if end < 0:
            return -1
        self._size = int(self._rest[at:end], 16)
        self._expects = self._chunk
        return end + 2

    def _chunk(self, at: int, parts: Parts) -> int:
        end = at + self._size
        if end + 2 > len(self._rest):
            return -1
        parts.append((self._rest[at:end], self._size == 0))
        self._expects = self._chunk_size if self._size else self._head
        return end + 2


class Line(asyncio.Protocol):
    """A connection that carries one request after the other; it is opened with the first, and again when it ended.

    `answered(status, body)` for each; `failed()` if it was lost with a request under way, those that wait included.
    """

    def __init__(self, port: int, answered: Callable[[int, bytes], None], failed: Callable[[], None]) -> None:
        self._port, self._answered, self._failed = port, answered, failed
        self._waiting: deque[bytes] = deque()
        self._busy = self._closed = False
        self._responses = Responses()
        self._transport: asyncio.Transport | None = None
        self._opening: asyncio.Task[None] | None = None

    def request(self, request: bytes) -> None:
        self._waiting.append(request)
        self._go_on()

    def _go_on(self) -> None:
        if self._busy or self._closed or not self._waiting:
            return
        if self._transport is not None:
            self._busy = True
            self._transport.write(self._waiting.popleft())
        elif self._opening is None:
            self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
        except OSError:
            self._give_up()
        finally:
            self._opening = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        if self._closed:
            transport.abort()
            return
        self._transport, self._responses = transport, Responses()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        for part, _ in self._responses.feed(data):
            self._busy = False
            self._answered(self._responses.status, part)
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._busy and not self._closed:
            self._give_up()
        else:
            self._go_on()

    def _give_up(self) -> None:
        self._busy = False
        self._waiting.clear()
        if not self._closed:
            self._failed()

    def stop_reading(self) -> None:
        """Leave the answers where they are."""
        if self._transport is not None:
            self._transport.pause_reading()

    def close(self) -> None:
        """Nothing more is said or heard."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()


class HttpDevice(Device):
    """What both have: signals by POST."""

    flow_frames, flow_bytes = FLOW_FRAMES, FLOW_BYTES

    def __init__(
        self, port: int, path: str, *, session: str = "", listen: Listen | None = None, ever: Ever | None = None
    ) -> None:
        super().__init__(port, path, session=session, listen=listen, ever=ever)
        self._speaks = Line(port, self._was_answered, self._was_not_heard)
        self._repeats = 0
        self.refusals: list[int] = []  # statuses of answers to POSTs that were neither 200 nor 204
        head = f"Host: 127.0.0.1:{port}\r\n" + (f"Cookie: sessionid={session}\r\n" if session else "")
        self._common = head.encode()

    def _get(self, path: str, accept: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nAccept: {accept}\r\n".encode() + self._common + b"\r\n"

    def say(self, signal: dict[str, Any]) -> None:
        """POST it. Nothing is said before the greeting or after the end."""
        if self.lost or not self.hello:
            return
        body = orjson.dumps(signal)
        path = self.path.replace("/events?", "/signals?") + "&connection=" + self.hello["connection"]
        ours = f"Content-Type: application/json\r\nOrigin: http://127.0.0.1:{self.port}\r\nContent-Length: {len(body)}"
        head = f"POST {path} HTTP/1.1\r\n{ours}\r\n".encode() + self._common
        self._speaks.request(head + b"\r\n" + body)

    def _was_answered(self, status: int, body: bytes) -> None:
        self._repeats = 0
        if status not in {200, 204}:
            self.refusals.append(status)
        if body and not self.lost:
            self._take_control(orjson.loads(body))

    def _was_not_heard(self) -> None:
        """A signal is said again by whoever misses its answer; a flow is ours to repeat."""
        self._repeats += 1
        if self._repeats <= MOST_REPEATS:
            self._flow()

    def _is_over(self) -> None:
        self._speaks.close()
        self.lost = True
        self.closed.set()

    def cut(self) -> None:
        super().cut()
        self._is_over()


class Sse(HttpDevice):
    """One answer that does not end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._responses = Responses()
        self._event = b""
        transport.write(self._get(self.path, "text/event-stream"))

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        for part, last in self._responses.feed(data):
            if self._responses.status != 200:
                self._take_control(orjson.loads(part))
            else:
                *events, self._event = (self._event + part).split(b"\n\n")
                for event in events:
                    self._take(event[event.index(b"data: ") + 6 :], now)
            if last and self._transport is not None:
                self._transport.close()
        self._flow_if_due()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._is_over()


class Poll(HttpDevice):
    """One answer after the other. `name` is of the last answer; a device that had it may go on where it ended."""

    def __init__(
        self,
        port: int,
        path: str,
        *,
        session: str = "",
        listen: Listen | None = None,
        ever: Ever | None = None,
        resumes: "Poll | None" = None,
    ) -> None:
        super().__init__(port, path, session=session, listen=listen, ever=ever)
        self.polls = 0
        self.name: str = "" if resumes is None else resumes.name
        self.hello = {} if resumes is None else resumes.hello
        self.serial = 0 if resumes is None else resumes.serial
        self._goes_on = resumes is not None and resumes.synced.is_set()
        self._asks = Line(port, self._has_come, self._is_over)

    async def connect(self) -> Self:
        """Ask for the first answer; at once, if this goes on with a connection that may have nothing to say."""
        self._poll(0 if self.name else WAIT_SECONDS)
        return self

    def _poll(self, wait: int = WAIT_SECONDS) -> None:
        path = f"{self.path}&wait={wait}"
        if self.name:
            path += f"&connection={self.name}&after={self.serial}"  # the last `after` is the one that counts
        self._asks.request(self._get(path, "application/json"))

    def _has_come(self, status: int, body: bytes) -> None:
        if self.lost:
            return
        now = time.monotonic_ns()
        self.polls += 1
        answer = orjson.loads(body)
        if status != 200:
            self._take_control(answer)
            self._is_over()
            return
        self.name = answer["connection"]
        ended = False
        for frame in answer["frames"]:
            self._take(orjson.dumps(frame), now)
            ended = ended or frame["type"] == "bye"
        if self._goes_on and not any(frame["type"] == "hello" for frame in answer["frames"]):
            self.synced.set()
        self._goes_on = False
        if ended:
            self._is_over()
        elif not self.lost:
            self._poll()

    def stop_reading(self) -> None:
        self._asks.stop_reading()

    def _flow(self) -> None:
        self._owed = self._owed_bytes = 0

    def say(self, signal: dict[str, Any]) -> None:
        """As over SSE, but for what the next poll says."""
        if signal["type"] != "flow":
            super().say(signal)

    def _is_over(self) -> None:
        self._asks.close()
        super()._is_over()


def device_at(
    door: str,
    port: int,
    session: str,
    conversation: str,
    *,
    device: str = "",
    after: int | None = None,
    epoch: str | None = None,
    listen: Listen | None = None,
    ever: Ever | None = None,
    resumes: Device | None = None,
) -> Device:
    """A device that is to come by one of DOORS."""
    path = device_path(conversation, device=device, after=after, epoch=epoch)
    if door == "websocket":
        return Device(port, path, session=session, subprotocol="conversation.v1.json", listen=listen, ever=ever)
    path = path.replace("/ws/", "/api/").replace("/?", "/events?")
    if door == "sse":
        return Sse(port, path, session=session, listen=listen, ever=ever)
    last = resumes if isinstance(resumes, Poll) and resumes.name else None
    return Poll(port, path, session=session, listen=listen, ever=ever, resumes=last)
