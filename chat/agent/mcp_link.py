"""A connection to an MCP server: a process of its own, or an address. Opened and closed in one task, used from any."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

import httpx2
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from chat.agent.mcp_setting import ServerSpec
from chat.approval import visible
from chat.ending import end
from chat.logs import reason

START_SECONDS = 60.0  # a program may be installed when it is first run
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 8.0  # the SDK gives a program two to leave, then two after SIGTERM, and kills it
MAX_LINE_CHARS = 500

logger = logging.getLogger(__name__)


class Away(Exception):
    """The server cannot be reached. The message says why, for the log."""


class Link:
    """One connection, from its start to its end, whoever ends it. Never opened again: make another."""

    def __init__(self, name: str, spec: ServerSpec) -> None:
        self.calls = 0  # under way
        self._name, self._spec, self._why = name, spec, "it ended"
        self._client: Client | None = None
        self._ready, self._leave = asyncio.Event(), asyncio.Event()
        self._retired = False
        self._task = asyncio.create_task(self._hold(), name=f"mcp-{name}")

    @property
    def is_ready(self) -> bool:
        """Whether `client` answers at once."""
        return self._ready.is_set()

    @property
    def is_over(self) -> bool:
        """Nobody is to begin a call."""
        return self._leave.is_set()

    async def client(self) -> Client:
        """Wait until it is open. Raises Away if it cannot be, or is no longer."""
        await self._ready.wait()
        if self._client is None or self.is_over:
            raise Away(self._why)
        return self._client

    @asynccontextmanager
    async def calling(self) -> AsyncGenerator[None, None]:
        """Around each call, so that `retire` does not cut it off."""
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            if self._retired and not self.calls:
                self._leave.set()

    def retire(self) -> None:
        """Close it when the calls that are under way have ended."""
        self._retired = True
        if not self.calls:
            self._leave.set()

    async def aclose(self) -> None:
        """Close it now. A cancel more than one would keep the SDK from killing a program that does not leave."""
        self._leave.set()
        if not self.is_ready:
            self._task.cancel()
        _, left = await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
        if left:
            logger.warning("a server does not let go", extra={"server": self._name})

    async def _hold(self) -> None:
        try:
            async with AsyncExitStack() as held:
                async with asyncio.timeout(START_SECONDS):
                    client = Client(cast("Any", self._transport()), cache=None)
                    self._client = await held.enter_async_context(client)
                self._ready.set()
                await self._leave.wait()
        except Exception as error:  # noqa: BLE001 - whatever it is, the server cannot be reached by this
            self._why = reason(_innermost(error))
            if self._client is not None:
                logger.warning("the line to a server broke: %s", self._why, extra={"server": self._name})
        finally:
            self._leave.set()
            self._ready.set()

    def _transport(self) -> AbstractAsyncContextManager[Any]:
        opened = _process(self._name, self._spec) if self._spec.command else _address(self._spec)
        return _watched(opened, self._leave.set)


def _innermost(error: Exception) -> Exception:
    """The SDK's task groups wrap what has happened."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def _address(spec: ServerSpec) -> AsyncGenerator[Any, None]:
    # Deadlines are ours: a call may be silent for long.
    timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
    async with (
        httpx2.AsyncClient(headers=spec.headers, timeout=timeout) as http,
        streamable_http_client(spec.url, http_client=http) as streams,
    ):
        yield streams


@asynccontextmanager
async def _process(name: str, spec: ServerSpec) -> AsyncGenerator[Any, None]:
    """Its environment is the SDK's short list and what the setting says: none of our keys."""
    reading, writing = os.pipe()
    errors = os.fdopen(writing, "w")
    lines = asyncio.create_task(_log(name, reading), name=f"mcp-{name}-stderr")
    program = StdioServerParameters(command=spec.command[0], args=list(spec.command[1:]), env=dict(spec.env))
    try:
        async with stdio_client(program, errlog=errors) as streams:
            errors.close()  # the program has its own; the pipe is to end with it
            yield streams
    finally:
        errors.close()
        await asyncio.wait([lines], timeout=0.2)  # its last words
        await end(lines)


async def _log(name: str, descriptor: int) -> None:
    """Each line of what a program writes to standard error, as one line of our log."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    rest = b""
    try:
        while chunk := await reader.read(8192):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, lines):
                text = visible(line.decode(errors="replace")[:MAX_LINE_CHARS])
                logger.info("a server says: %s", text, extra={"server": name})
            rest = rest[:MAX_LINE_CHARS]
    finally:
        transport.close()


@asynccontextmanager
async def _watched(transport: AbstractAsyncContextManager[Any], ended: Callable[[], None]) -> AsyncGenerator[Any, None]:
    """The same, and `ended` is called when nothing more can come: the SDK tells only those who wait for an answer."""
    async with transport as (reading, writing):
        yield _Watched(reading, ended), writing


class _Watched:
    """A stream that says when it has ended."""

    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream, self._ended = stream, ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def __aenter__(self) -> "_Watched":
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:  # its end included, and whatever else makes the SDK read no more
            self._ended()
            raise
