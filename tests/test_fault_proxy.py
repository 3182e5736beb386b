"""The bad network of other tests does what they believe it does."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.device import until
from tests.fault_proxy import FaultProxy, length_of_response

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says back what it hears, from the first line on: `HELLO` ends a head as the proxy looks for one."""
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One short response to each request."""
    while b"\r\n\r\n" in (await reader.read(65_536)):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
        await writer.drain()
    writer.close()


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    try:
        async with FaultProxy(server.sockets[0].getsockname()[1]) as proxy:
            yield proxy
    finally:
        server.close()
        await server.wait_closed()


class Client:
    """What it has heard is in `heard`; `ended` is True after FIN and the error after RST."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.heard = b""
        self.chunks: list[bytes] = []
        self.ended: bool | OSError = False
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        try:
            while chunk := await self.reader.read(65_536):
                self.chunks.append(chunk)
                self.heard += chunk
            self.ended = True
        except OSError as error:
            self.ended = error

    def say(self, data: bytes) -> None:
        self.writer.write(data)

    async def close(self) -> None:
        self._task.cancel()
        self.writer.transport.abort()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def client(proxy: FaultProxy) -> AsyncIterator[Client]:
    made = Client(*await asyncio.open_connection("127.0.0.1", proxy.port))
    try:
        yield made
    finally:
        await made.close()


async def test_without_faults_everything_passes_and_connections_are_counted() -> None:
    async with served(echo) as proxy:
        async with client(proxy) as one, client(proxy) as other:
            one.say(GET)
            other.say(GET + b"x" * 500_000)
            await until(lambda: one.heard == GET and len(other.heard) == len(GET) + 500_000)
            assert (proxy.connections, len(proxy.open)) == (2, 2)
        await until(lambda: not proxy.open, "the proxy to see that they are gone")


async def test_a_reset_is_one() -> None:
    async with served(echo) as proxy, client(proxy) as one:
        one.say(GET)
        await until(lambda: one.heard == GET)
        proxy.reset()
        await until(lambda: isinstance(one.ended, ConnectionResetError))


async def test_new_connections_are_reset_while_they_are_refused() -> None:
    async with served(echo) as proxy:
        proxy.faults.refuse = True
        async with client(proxy) as one:
            await until(lambda: isinstance(one.ended, ConnectionResetError))
        proxy.heal()
        async with client(proxy) as one:
            one.say(GET)
            await until(lambda: one.heard == GET)
        assert proxy.refused == 1


async def test_fin_comes_in_the_middle_of_what_the_server_says() -> None:
    async with served(echo) as proxy, client(proxy) as one:
        one.say(GET)
        await until(lambda: one.heard == GET)
        proxy.end_mid_frame()
        one.say(b"0123456789")
        await until(lambda: one.ended)
        assert one.ended is True
        assert one.heard == GET + b"01234"


async def test_a_black_hole_takes_open_connections_and_new_ones_and_gives_back() -> None:
    async with served(echo) as proxy, client(proxy) as one:
        one.say(GET)
        await until(lambda: one.heard == GET)
        proxy.faults.black_hole = True
        one.say(b"lost?")
        async with client(proxy) as other:
            other.say(GET)
            with pytest.raises(AssertionError, match="not within"):
                await until(lambda: other.heard or one.heard != GET or one.ended or other.ended, deadline=0.2)
            proxy.heal()
            await until(lambda: one.heard == GET + b"lost?" and other.heard == GET)


async def test_delay_and_jitter_keep_the_order() -> None:
    async with served(echo) as proxy, client(proxy) as one:
        proxy.faults.delay, proxy.faults.jitter = 0.1, 0.05
        began = time.monotonic()
        one.say(GET)
        for number in range(20):
            one.say(b"%d," % number)
        await until(lambda: one.heard == GET + b"".join(b"%d," % number for number in range(20)))
        assert time.monotonic() - began >= 0.2, "each way"


async def test_a_slow_line_is_slow() -> None:
    async with served(echo) as proxy, client(proxy) as one:
        proxy.faults.bytes_per_second = 8192
        began = time.monotonic()
        one.say(GET + b"x" * 4096)
        await until(lambda: len(one.heard) == len(GET) + 4096)
        assert time.monotonic() - began >= 0.45


async def test_slices_are_of_one_to_seven_bytes() -> None:
    async with served(echo) as proxy, client(proxy) as one:
        one.say(GET)
        await until(lambda: one.heard == GET)
        proxy.faults.slices = True
        one.say(b"y" * 2000)
        await until(lambda: one.heard == GET + b"y" * 2000)
        assert len(one.chunks) > 10


@pytest.mark.parametrize("status", [400, 403])
async def test_an_upgrade_is_refused_and_all_else_passes(status: int) -> None:
    async with served(answer) as proxy:
        proxy.faults.refuse_upgrade = status
        async with client(proxy) as one, client(proxy) as other:
            one.say(UPGRADE)
            other.say(GET)
            await until(lambda: one.ended and other.heard)
            assert one.heard.startswith(b"HTTP/1.1 %d" % status)
            assert other.heard.startswith(b"HTTP/1.1 200")
        assert proxy.refused == 1
        proxy.heal()
        async with client(proxy) as one:
            one.say(UPGRADE)
            await until(lambda: one.heard.startswith(b"HTTP/1.1 200"))


async def test_a_stream_is_held_back_until_it_ends_while_a_short_response_passes() -> None:
    ends = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(65_536)
        if b"/short" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshort")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await ends.wait()
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with served(stream) as proxy:
        proxy.faults.buffer_responses = True
        async with client(proxy) as one, client(proxy) as other:
            one.say(GET)
            other.say(GET.replace(b"/ ", b"/short "))
            await until(lambda: other.heard.endswith(b"short"))
            assert one.heard == b""
            ends.set()
            await until(lambda: b"hello" in one.heard)


async def test_connections_are_cut_when_they_are_old() -> None:
    async with served(echo) as proxy, client(proxy) as one:
        one.say(GET)
        await until(lambda: one.heard == GET)
        proxy.faults.cut_every = 0.2
        await until(lambda: isinstance(one.ended, ConnectionResetError))
        proxy.faults.cut_every = 1.5
        began = time.monotonic()
        async with client(proxy) as other:
            other.say(GET)
            await until(lambda: other.heard == GET)
            await until(lambda: other.ended)
            assert time.monotonic() - began >= 1.49


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOKmore", 40),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nOK", None),
        (b"HTTP/1.1 200 OK\r\nContent-Le", None),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the connection ends", None),
        (b"HTTP/1.1 204 No Content\r\n\r\nHTTP", 27),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\nmore", 59),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n", None),
    ],
)
def test_where_a_response_ends(data: bytes, length: int | None) -> None:
    assert length_of_response(data) == length
