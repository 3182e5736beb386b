"""The same device over a real socket to a real server process."""

import asyncio
import contextlib
import ssl
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlencode

import httpx2
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
    """One HTTP request to a server process, with the face of the in-process one."""

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
        sent = {name: value for name, value in headers.items() if name != "host"}
        self._client = httpx2.AsyncClient(
            base_url=base, timeout=httpx2.Timeout(None, connect=10), trust_env=False, verify=tls or True
        )
        self._request = self._client.build_request(method, path, params=query, headers=sent, content=body or None)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            response = await self._client.send(self._request, stream=True)
            try:
                self.status, self.headers = response.status_code, dict(response.headers)
                self._parts.put_nowait(b"")
                async for part in response.aiter_raw():
                    self._parts.put_nowait(part)
                self._parts.put_nowait(None)
            finally:
                await asyncio.shield(response.aclose())
        except httpx2.HTTPError as error:
            raise ConnectionError(str(error)) from error
        finally:
            await asyncio.shield(self._client.aclose())  # cancelled in the middle it would leave its sockets open

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
