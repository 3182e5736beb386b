"""A device as a program writes one: JSON over any of the doors, with a cursor and flow control.

In the same process, through the ASGI application a server would call; nothing of it is faked. With `--under`,
through a real server in this process.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client

from chat.models import Conversation
from chat.transport.shapes import FRAMES
from project.asgi import application
from tests import under
from tests.doors import HttpSocket
from tests.reducer import View
from tests.sockets import Socket

DEADLINE = 10.0


async def until(condition: Callable[[], Any], what: str = "", deadline: float = DEADLINE) -> Any:
    """Poll until the condition is true and return its value; fail with `what` at the deadline."""
    end = time.monotonic() + deadline
    while True:
        if value := condition():
            return value
        assert time.monotonic() < end, f"not within {deadline} s: {what or condition}"
        await asyncio.sleep(0.005)


def sign_in(user: User) -> str:
    """A real session of this user's."""
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


class Device:
    """`connect`, speak, watch `view`. `frames` is everything that was received, in order."""

    deadline = DEADLINE

    def __init__(
        self,
        user: User,
        conversation: Conversation,
        *,
        session: str = "",
        encoding: str = "json",
        door: str = "websocket",
    ) -> None:
        self.user = user
        self.door = door
        self.conversation = conversation
        self.encoding = encoding
        self.id = str(uuid.uuid4())
        self.view = View()
        self.frames: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any]] = {}
        self.epoch: str | None = None
        self.session = session
        self.reads = True
        self.acknowledges = True
        self.closed: int | None = None
        self.broken: Exception | None = None  # what our reader could not make sense of
        self.connected_at = 0  # how many frames we had when we last connected
        self._socket: WebsocketCommunicator | Socket | HttpSocket | None = None
        self._reader: asyncio.Task[None] | None = None

    async def connect(self, *, after: int | str | None = None, headers: dict[str, str] | None = None) -> "Device":
        """Open the socket; with `after`, or with our cursor if we have one, resume."""
        if not self.session:
            self.session = await sync_to_async(sign_in)(self.user)
        if after is None and self.view.cursor >= 0:
            after = self.view.cursor
        query = {"device": self.id, "name": "Test"}
        if after is not None:
            query["after"] = str(after)
        if self.epoch:
            query["epoch"] = self.epoch
        sent = {
            "host": "testserver",
            "cookie": f"{settings.SESSION_COOKIE_NAME}={self.session}",
            **(headers or {}),
        }
        self.closed = None
        self.connected_at = len(self.frames)
        if isinstance(self._socket, HttpSocket | Socket):  # of a connection that has ended
            await self._socket.disconnect()
        if self.door != "websocket":
            self._socket = HttpSocket(self.door, self, {**query, "encoding": self.encoding}, sent)
        else:
            path = f"/ws/conversations/{self.conversation.pk}/?{urlencode(query)}"
            self._socket = await self._open(path, f"conversation.v1.{self.encoding}", sent)
        self._reader = asyncio.create_task(self._read())
        return self

    async def _open(self, path: str, subprotocol: str, headers: dict[str, str]) -> WebsocketCommunicator | Socket:
        if under.address:
            return await Socket.open(under.address, None, path, subprotocol, headers)
        sent = [(name.encode(), value.encode()) for name, value in headers.items()]
        socket = WebsocketCommunicator(application, path, headers=sent, subprotocols=[subprotocol])
        connected, _ = await socket.connect(timeout=DEADLINE)
        assert connected
        return socket

    @property
    def events(self) -> Iterator[dict[str, Any]]:
        """Whatever came, each by itself. Any may come in a batch: news of two processes that come in the other order
        are read from the log.
        """
        return (event for frame in self.frames for event in (frame["events"] if frame["type"] == "batch" else [frame]))

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """`until`, which also ends as soon as a frame made no sense to us."""
        value = await until(lambda: self.broken or condition(), what, self.deadline)
        if self.broken is not None:
            raise self.broken
        return value

    async def synced(self) -> "Device":
        """Wait until the server says we have everything it had when we connected."""
        await self.until(lambda: any(frame["type"] == "sync" for frame in self.frames[self.connected_at :]), "sync")
        return self

    async def disconnect(self) -> None:
        """The socket is gone, without a word."""
        socket, self._socket, self.connected_at = self._socket, None, len(self.frames)
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if socket is not None:
            await socket.disconnect(timeout=DEADLINE)

    async def say(self, kind: str, *, signal_id: str | None = None, **fields: Any) -> dict[str, Any]:
        """Send a signal and wait for its ack or nack."""
        signal_id = signal_id or str(uuid.uuid4())
        self.answers.pop(signal_id, None)
        await self.say_raw(json.dumps({"type": kind, "id": signal_id, **fields}))
        return await self.answer(signal_id)

    async def answer(self, signal_id: str) -> dict[str, Any]:
        """Wait for the ack or nack of a signal."""
        answer: dict[str, Any] = await self.until(lambda: self.answers.get(signal_id), f"an answer to {signal_id}")
        return answer

    async def say_raw(self, text: str) -> None:
        """Send any text frame."""
        assert self._socket is not None
        await self._socket.send_to(text_data=text)

    async def answers_to(self, message: dict[str, Any]) -> list[dict[str, Any]]:
        """Give the server one message of any kind, and return all it answers before it answers a later ping."""
        assert self._socket is not None
        start = len(self.frames)
        await self._socket.send_input({"type": "websocket.receive", **message})
        await self.say_raw('{"type": "ping"}')
        due = 2 if self.door == "sse" else 1  # one answers the POST, one comes on the stream, and either may be first
        await until(
            lambda: sum(frame["type"] == "pong" for frame in self.frames[start:]) >= due, f"a pong after {message}"
        )
        return [frame for frame in self.frames[start:] if frame["type"] in {"ack", "nack"}]

    async def ask(self, text: str, **fields: Any) -> dict[str, Any]:
        """Send a message and return its ack."""
        ack = await self.say("message.send", text=text, **fields)
        assert ack["type"] == "ack", ack
        if self.encoding == "json" and self.reads and self.acknowledges:  # the answer may overtake the event
            await self.until(lambda: ack["run"] in self.view.runs, "our own message")
        return ack

    async def writes(self, run: str, length: int = 1) -> str:
        """Wait until the run's answer has so many code points here, and return it."""
        text: str = await self.until(
            lambda: run in self.view.runs and len(self.view.text_of(run)) >= length and self.view.text_of(run),
            f"{length} code points of {run}",
        )
        return text

    async def ended(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run and return what is known of it."""
        await self.until(
            lambda: self.view.runs.get(run, {}).get("state") in {"completed", "cancelled", "failed", "interrupted"},
            f"the end of {run}",
        )
        return self.view.runs[run]

    async def _read(self) -> None:
        socket = self._socket
        assert socket is not None
        while True:
            if not self.reads:
                await asyncio.sleep(0.01)
                continue
            message = await socket.output_queue.get()
            if message["type"] == "websocket.close":
                self.closed = message.get("code")
                return
            try:
                self._take(json.loads(message["text"]))
            except Exception as error:
                self.broken = error
                raise
            if self.acknowledges and "after" in self.frames[-1]:
                await socket.send_to(text_data=json.dumps({"type": "flow", "serial": self.view.cursor}))

    def _take(self, frame: dict[str, Any]) -> None:
        self.frames.append(frame)
        if self.encoding == "json":
            FRAMES.validate_python(frame)
        if frame["type"] == "hello":
            self.epoch = frame["epoch"]
        elif frame["type"] in {"ack", "nack"} and frame["id"]:
            self.answers[frame["id"]] = frame
        elif self.encoding == "json":
            self.view.apply(frame)
        elif "serial" in frame and frame["type"] != "sync":
            self.view.cursor = frame["serial"]
