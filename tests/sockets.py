"""A WebSocket and an HTTP request over real sockets, with the faces of those that tests have in their own process."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode, urlsplit

import h11
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


class Socket:
    """A `websockets` connection with the face of the in-process one that `Device` uses."""

    def __init__(self, connection: ClientConnection) -> None:
        self.output_queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._connection = connection
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls, base: str, tls: ssl.SSLContext | None, path: str, subprotocol: str, headers: dict[str, str]
    ) -> "Socket":
        """`host` of the headers says who is meant, not where they are."""
        address, more = urlsplit(base), dict(headers)
        meant = base.replace(address.netloc, more.pop("host", address.netloc)).replace("http", "ws", 1)
        connection = await connect(
            f"{meant}{path}",
            subprotocols=[subprotocol],  # type: ignore[list-item]
            additional_headers=more,
            compression=None,
            ssl=tls,
            proxy=None,
            open_timeout=30,
            host=address.hostname,
            port=address.port,
        )
        return cls(connection)

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._connection:
                self.output_queue.put_nowait({"type": "websocket.send", "text": text})
        self.output_queue.put_nowait({"type": "websocket.close", "code": self._connection.close_code})

    async def send_to(self, text_data: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(text_data)

    async def send_input(self, message: dict[str, Any]) -> None:
        said = message["text"].encode() if "text" in message else message["bytes"]
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(said, text="text" in message)

    async def disconnect(self, timeout: float = 1) -> None:  # noqa: ASYNC109 - the face it has
        self._reader.cancel()
        self._connection.transport.abort()
        await asyncio.gather(self._reader, return_exceptions=True)


class RemoteExchange:
    """One HTTP request, with the face of the in-process one. Cut off, it leaves nothing behind."""

    def __init__(
        self,
        base: str,
        tls: ssl.SSLContext | None,
        method: str,
        path: str,
        query: dict[str, str],
        headers: dict[str, str],
        body: bytes = b"",
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._address, self._tls = urlsplit(base), tls
        sent = {"host": self._address.netloc, **headers, "content-length": str(len(body))}
        lines = [(name.encode(), value.encode()) for name, value in sent.items()]
        self._request = h11.Request(method=method, target=f"{path}?{urlencode(query)}", headers=lines)
        self._body = body
        self.task = asyncio.create_task(self._run())
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())  # whoever cares asks for it

    async def _run(self) -> None:
        try:
            reader, writer = await asyncio.open_connection(
                self._address.hostname, self._address.port, ssl=self._tls, limit=1 << 20
            )
        except OSError as error:
            raise ConnectionError(str(error)) from error
        try:
            await self._exchange(reader, writer)
        except (OSError, h11.RemoteProtocolError) as error:
            raise ConnectionError(str(error)) from error
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        machine = h11.Connection(h11.CLIENT)
        for event in (self._request, h11.Data(self._body), h11.EndOfMessage()):
            writer.write(machine.send(event) or b"")
        while True:
            match machine.next_event():
                case h11.Response() as response:
                    self.status = response.status_code
                    self.headers = {name.decode(): value.decode() for name, value in response.headers}
                    self._parts.put_nowait(b"")
                case h11.Data() as data:
                    self._parts.put_nowait(bytes(data.data))
                case h11.EndOfMessage():
                    self._parts.put_nowait(None)
                    return
                case _:
                    machine.receive_data(await reader.read(65_536))

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        while True:
            getting = asyncio.create_task(self._parts.get())
            try:
                await asyncio.wait([getting, self.task], return_when=asyncio.FIRST_COMPLETED)
                if not getting.done() and self._parts.empty():
                    self.task.result()
                part = await getting
            finally:
                getting.cancel()
            if part is None:
                return
            if part:
                yield part

    async def whole(self) -> bytes:
        return b"".join([part async for part in self.parts()])

    async def end(self) -> None:
        """The client is gone, without a word."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
