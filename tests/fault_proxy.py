"""A TCP proxy before a server that behaves as badly as networks and other people's proxies do.

Faults are attributes of `proxy.faults` and may be changed at any moment; they hold for open connections, too.
"""

import asyncio
import contextlib
import random
import re
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType

CHUNK = 65_536
HEAD_END = b"\r\n\r\n"
LOOK = 0.01  # seconds between two looks at faults that may have changed


@dataclass
class Faults:
    """None at first."""

    black_hole: bool = False  # everything is accepted and nothing is forwarded, nor lost
    refuse: bool = False  # new connections are reset
    delay: float = 0.0  # seconds each way
    jitter: float = 0.0  # up to so many seconds more; the order stays
    bytes_per_second: float = 0.0  # each way; 0: as fast as it goes
    slices: bool = False  # of one to seven bytes
    refuse_upgrade: int = 0  # the status WebSocket handshakes get; other requests pass
    buffer_responses: bool = False  # a response is held back until it has ended
    hold_after: bytes = b""  # an event stream is held back after the event that these are part of
    cut_every: float = 0.0  # seconds that a connection lives; 0: for ever


class FaultProxy:
    """`async with FaultProxy(server.port) as proxy`, then use `proxy.port`."""

    def __init__(self, target: int, seed: int = 1) -> None:
        self.target = target
        self.port = 0
        self.faults = Faults()
        self.chance = random.Random(seed)
        self.connections = 0  # ever made
        self.refused = 0
        self.open: set[_Connection] = set()
        self.transports: list[asyncio.WriteTransport] = []  # of all that were ever open
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> "FaultProxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.reset()
        while self.open:  # noqa: ASYNC110 - each takes itself off as it ends
            await asyncio.sleep(0)
        for transport in self.transports:  # one that is closing may still wait for somebody to read
            transport.abort()
        await asyncio.sleep(LOOK)  # the loop closes them in its next turns
        await self._server.wait_closed()

    def heal(self) -> None:
        """No faults any more. Connections that a fault has ended stay ended."""
        self.faults = Faults()

    def reset(self) -> None:
        """RST to both ends of every open connection."""
        for connection in list(self.open):
            connection.reset()

    def end_mid_frame(self) -> None:
        """On each open connection, pass half of what the server says next, then FIN."""
        for connection in self.open:
            connection.ends_mid_frame = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.faults.refuse:
            self.refused += 1
            abort(writer)
            return
        connection = _Connection(self, reader, writer)
        self.open.add(connection)
        try:
            await connection.run()
        finally:
            self.open.discard(connection)


class _Connection:
    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.number = proxy.connections  # 1 is the first
        self.reader = reader
        self.writer = writer
        self.ends_mid_frame = False
        self._over = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []
        self._holds(writer)
        self._began = asyncio.get_running_loop().time()

    def reset(self) -> None:
        self._over.set()
        for writer in self._writers:
            abort(writer)

    def _holds(self, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.proxy.transports.append(writer.transport)

    async def run(self) -> None:
        jobs = [asyncio.create_task(job) for job in (self._carry(), self._over.wait(), self._grow_old())]
        try:
            await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
            for writer in self._writers:
                with contextlib.suppress(OSError):
                    writer.close()

    async def _grow_old(self) -> None:
        loop = asyncio.get_running_loop()
        while (  # noqa: ASYNC110 - faults are plain attributes, which anybody may change
            not self.proxy.faults.cut_every or loop.time() < self._began + self.proxy.faults.cut_every
        ):
            await asyncio.sleep(LOOK)
        self.reset()

    async def _carry(self) -> None:
        await self._sees_light()
        head = await self._head()
        status = self.proxy.faults.refuse_upgrade
        if status and re.search(rb"\r\nupgrade:\s*websocket", head, re.IGNORECASE):
            self.proxy.refused += 1
            answer = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            self.writer.write(answer.encode())
            await self.writer.drain()
            return
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.target)
        self._holds(writer)
        up = asyncio.create_task(self._pump(_chunks(self.reader, head), writer))
        down = asyncio.create_task(self._pump(self._responses(reader), self.writer))
        try:
            # Whoever has said all may still listen; it is over when the server has ended.
            await down
        finally:
            up.cancel()
            down.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    async def _head(self) -> bytes:
        """The head of the first request, or as much as there is."""
        head = b""
        while HEAD_END not in head and len(head) < CHUNK and (chunk := await self.reader.read(CHUNK)):
            head += chunk
        return head

    async def _sees_light(self) -> None:
        while self.proxy.faults.black_hole:  # noqa: ASYNC110 - as above
            await asyncio.sleep(LOOK)

    async def _pump(self, chunks: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
        """Read into a queue with the time each chunk is due at, so that a delay does not become a lower rate."""
        loop = asyncio.get_running_loop()
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)
        forwarding = asyncio.create_task(self._forward(line, writer))
        try:
            due = 0.0
            async for chunk in chunks:
                faults = self.proxy.faults
                due = max(due, loop.time() + faults.delay + self.proxy.chance.uniform(0, faults.jitter))
                await line.put((due, chunk))
            await line.put((due, b""))
            await forwarding
        finally:
            forwarding.cancel()
            await asyncio.gather(forwarding, return_exceptions=True)

    async def _forward(self, line: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await line.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            await self._sees_light()
            if self.ends_mid_frame and writer is self.writer and len(chunk) > 1:
                writer.write(chunk[: len(chunk) // 2])
                chunk = b""
            if not chunk:
                with contextlib.suppress(OSError):
                    await writer.drain()
                    writer.write_eof()
                if self.ends_mid_frame and writer is self.writer:
                    self._over.set()
                return
            await self._write(chunk, writer)

    async def _write(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        at = 0
        while at < len(chunk):
            faults = self.proxy.faults
            size = self.proxy.chance.randint(1, 7) if faults.slices else len(chunk)
            if faults.bytes_per_second:
                size = min(size, max(1, int(faults.bytes_per_second * LOOK)))
            piece = chunk[at : at + size]
            at += size
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(len(piece) / faults.bytes_per_second if faults.bytes_per_second else 0)

    async def _responses(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """What the server says; while responses are buffered, one whole response at a time."""
        held = b""
        seen, passed = b"", 0  # of a stream that is to be held back
        async for chunk in _chunks(reader):
            mark = self.proxy.faults.hold_after
            if mark and (seen or b"content-type: text/event-stream" in chunk.lower()):
                seen += chunk
                end = seen.find(b"\n\n", seen.find(mark)) + 2 if mark in seen else 0
                end = end if end > 1 else len(seen)
                if end > passed:
                    yield seen[passed:end]
                    passed = end
                continue
            held += chunk
            if not self.proxy.faults.buffer_responses:
                yield held
                held = b""
            while held and (size := length_of_response(held)) is not None:
                yield held[:size]
                held = held[size:]
        if held:
            yield held


def length_of_response(data: bytes) -> int | None:
    """How long the HTTP response at the start of `data` is; None if its end is not there, or is the connection's."""
    head, end, body = data.partition(HEAD_END)
    if not end:
        return None
    start = len(head) + len(end)
    if re.match(rb"HTTP/1.1 (1\d\d|204|304)", head):
        return len(data) if head.startswith(b"HTTP/1.1 101") else start
    if re.search(rb"\r\ntransfer-encoding:\s*chunked", head, re.IGNORECASE):
        last = re.search(rb"(?:^|\r\n)0\r\n\r\n", body)
        return None if last is None else start + last.end()
    length = re.search(rb"\r\ncontent-length:\s*(\d+)", head, re.IGNORECASE)
    if length is None or len(body) < int(length[1]):
        return None
    return start + int(length[1])


async def _chunks(reader: asyncio.StreamReader, first: bytes = b"") -> AsyncIterator[bytes]:
    if first:
        yield first
    while chunk := await reader.read(CHUNK):
        yield chunk


def abort(writer: asyncio.StreamWriter) -> None:
    """RST, not FIN."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
