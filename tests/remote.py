"""The same device over a real socket to a real server process."""

import asyncio
import ssl
import uuid
from functools import partial
from typing import Protocol
from urllib.parse import urlencode

from tests.device import Device
from tests.doors import HttpSocket
from tests.server import Server
from tests.sockets import RemoteExchange, Socket

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


class Address(Protocol):
    """Where devices connect: a server, or what is in front of it."""

    port: int
    tls: ssl.SSLContext | None

    @property
    def url(self) -> str: ...


class RemoteDevice(Device):
    """`conversation` is an id here, `session` a session key of the server's database."""

    deadline = 30.0  # others start, end and recover meanwhile, each in a process of its own

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
            path = f"/ws/conversations/{self.remote_conversation}/?{urlencode(query)}"
            self._socket = await Socket.open(
                self.server.url, self.server.tls, path, f"conversation.v1.{self.encoding}", sent
            )
        self._reader = asyncio.create_task(self._read())
        return self


async def begin(server: Server, name: str = "alice") -> tuple[str, str]:
    """A new conversation of a user's and a session of theirs: (conversation id, session key)."""
    conversation, session = (await server.python(SETUP.format(name=name))).split()[-2:]
    uuid.UUID(conversation)
    return conversation, session


async def joined(server: Server, place: tuple[str, str], devices: list[RemoteDevice]) -> RemoteDevice:
    """One more device in this place, live; `devices` are disconnected in the end."""
    device = RemoteDevice(server, *place)
    devices.append(device)
    await device.connect()
    await device.synced()
    return device
