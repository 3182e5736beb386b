"""The same device over a real socket to a real server process."""

import asyncio
import contextlib
import ssl
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import h11
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.device import Device
from tests.doors import HttpSocket
from tests.server import Server

SETUP = """
import json, sys
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from chat.models import Conversation
user = User.objects.get_or_create(username={name!r})[0]
conversation = Conversation.begin(user)
client = Client()
client.force_login(user)
print(conversation.pk, client.cookies[settings.SESSION_COOKIE_NAME].value)
"""


class Socket:
    """A `websockets` connection with the face of the in-process one that `Device` uses."""

    def __init__(self, connection: ClientConnection) -> None:
        self.output_queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._connection = connection
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in self._connection:
                self.output_queue.put_nowait({"type": "websocket.send", "text": text})
        self.output_queue.put_nowait({"type": "websocket.close", "code": self._connection.close_code})

    async def send_to(self, text_data: str) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self._connection.send(text_data)

    async def disconnect(self, timeout: float = 1) -> None:  # noqa: ASYNC109 - the face it has
        self._reader.cancel()
        self._connection.transport.abort()
        await asyncio.gather(self._reader, return_exceptions=True)


class RemoteExchange:
    """One HTTP request to a server process, with the face of the in-process one. Cut off, it leaves nothing behind."""

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
        sent = {**headers, "host": self._address.netloc, "content-length": str(len(body))}
        self._request = h11.Request(method=method, target=f"{path}?{urlencode(query)}", headers=list(sent.items()))
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


class Address(Protocol):
    """Where devices connect: a server, or what is in front of it."""

    port: int
    tls: ssl.SSLContext | None

    @property
    def url(self) -> str: ...


class RemoteDevice(Device):
    """`conversation` is an id here, `session` a session key of the server's database."""

    def __init__(
        self,
        server: Address,
        conversation: str,
        session: str = "",
        *,
        door: str = "websocket",
        encoding: str = "json",
        token: str = "",
    ) -> None:
        super().__init__(None, None, session=session, door=door, encoding=encoding)  # type: ignore[arg-type]
        self.token = token
        self.server = server
        self.remote_conversation = conversation

    async def connect(self, *, after: int | str | None = None, headers: dict[str, str] | None = None) -> "RemoteDevice":
        if after is None and self.view.cursor >= 0:
            after = self.view.cursor
        query = {"device": self.id, "name": "Test"}
        if after is not None:
            query["after"] = str(after)
        await self.disconnect()
        self.closed, self.connected_at = None, len(self.frames)
        known = {"authorization": f"Bearer {self.token}"} if self.token else {"cookie": f"sessionid={self.session}"}
        sent = {**known, **(headers or {})}
        if self.door != "websocket":
            self._socket = HttpSocket(
                self.door,
                self,
                {**query, "encoding": self.encoding},
                {"host": f"127.0.0.1:{self.server.port}", "origin": self.server.url, **sent},
                self.remote_conversation,
                partial(RemoteExchange, self.server.url, self.server.tls),
            )
        else:
            connection = await connect(
                f"{self.server.url.replace('http', 'ws', 1)}/ws/conversations/{self.remote_conversation}/?"
                + urlencode(query),
                subprotocols=[f"conversation.v1.{self.encoding}"],  # type: ignore[list-item]
                additional_headers=sent,
                compression=None,
                ssl=self.server.tls,
            )
            self._socket = Socket(connection)
        self._reader = asyncio.create_task(self._read())
        return self


async def begin(server: Server, name: str = "alice") -> tuple[str, str]:
    """A new conversation of a user's and a session of theirs: (conversation id, session key)."""
    conversation, session = (await server.python(SETUP.format(name=name))).split()[-2:]
    uuid.UUID(conversation)
    return conversation, session
