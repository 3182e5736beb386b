"""The WebSocket door: a Channels consumer that carries frames and signals and decides nothing."""

import asyncio
import logging
import types
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer

from chat import host
from chat.errors import Refused
from chat.logs import reason
from chat.roster import ids
from chat.transport.access import credential_of
from chat.transport.close import REFUSALS, TROUBLE, Close
from chat.transport.connection import Connection

logger = logging.getLogger(__name__)

SEND_FRAME = "conversation.send_frame"  # a server's own way to send(text) without waiting, in a scope's extensions
SUBPROTOCOLS = {"conversation.v1.json": "json", "conversation.v1.html": "html"}


class ConversationConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One socket. It joins no group and has no channel: the hub hands it frames."""

    channel_layer_alias = ""

    connection: Connection | None = None
    opening: asyncio.Task[None] | None = None
    sending: asyncio.Task[None] | None = None

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Without the base class's thread hop per message: no database connection is used on this thread."""
        await getattr(self, message["type"].replace(".", "_"))(message)

    async def connect(self) -> None:
        """Accept, also to refuse: a browser cannot read the reason of a refused handshake, only a close code."""
        subprotocol = next((name for name in self.scope["subprotocols"] if name in SUBPROTOCOLS), None)
        await self.accept(subprotocol)
        query = parse_qs(self.scope["query_string"].decode("latin1"), keep_blank_values=True)
        wanted = {name: values[-1] for name, values in query.items()}
        try:
            device = uuid.UUID(wanted.get("device", ""))
        except ValueError:
            await self.close(Close.BAD_REQUEST.value)
            return
        if subprotocol is None:
            await self.close(Close.BAD_REQUEST.value)
            return
        found = await host.running()
        if found.draining:
            await self.close(Close.DRAIN.value)
            return
        connection = self.connection = Connection(
            found,
            credential=credential_of(self.scope),
            conversation=self.scope["url_route"]["kwargs"]["conversation"],
            device=device,
            encoding=SUBPROTOCOLS[subprotocol],
            transport="websocket",
            send=self.scope.get("extensions", {}).get(SEND_FRAME, self.send_now),
            end=self.close,
        )
        # In a task of its own: a long catching up must not hold up what the device says meanwhile.
        self.opening = asyncio.create_task(self._open(connection, wanted), name="websocket-open")

    async def _open(self, connection: Connection, wanted: dict[str, str]) -> None:
        try:
            access = await connection.admit(wanted.get("name", ""))
        except Refused as refusal:
            await connection.bye(REFUSALS[refusal.code], refusal.message)
        except Exception:
            logger.exception("a connection could not be let in", extra=ids(connection))
            await connection.bye(Close.FEED_FAILED, TROUBLE, retry_within=2.0)
        else:
            await connection.serve(access, wanted.get("after"), wanted.get("epoch"))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Hand a frame over. Signals that come before the connection is open wait for it to be admitted."""
        if self.connection is not None:
            await self.connection.receive(text_data if text_data is not None else bytes_data or b"")

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        """The socket is gone, which is not a stop."""
        await self._leave()
        raise StopConsumer

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Also cleans up when the server cancels us without a word, as daphne does when it ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        for task in (self.opening, self.sending):
            if task is not None:
                task.cancel()
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()

    def send_now(self, body: str) -> None:
        """Give a frame to the server without a task switch, which would double the cost of a delivery.

        A server's send usually does not wait; when it does (its buffer is full), a task finishes the send and
        those after it queue behind, which is bounded: a feed stops at its window.
        """
        step = self.base_send({"type": "websocket.send", "text": body})
        if self.sending is not None and not self.sending.done():
            self.sending = asyncio.create_task(_after(self.sending, step), name="websocket-send")
            return
        try:
            waits_for = step.send(None)
        except StopIteration:
            return
        except (OSError, RuntimeError) as error:
            # The socket is gone and the server has yet to say so. Nobody else may suffer for it.
            logger.debug("a frame for a closed socket: %s", reason(error))
            return
        self.sending = asyncio.create_task(_finish(_resumed(step, waits_for)), name="websocket-send")


class Nowhere(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Any other address. Closed with a code, or each would be an error in the server's log."""

    channel_layer_alias = ""

    async def connect(self) -> None:
        await self.accept()
        await self.close(Close.BAD_REQUEST.value)


async def _after(earlier: asyncio.Task[None], step: Coroutine[Any, Any, None]) -> None:
    await asyncio.wait([earlier])
    await _finish(step)


async def _finish(step: Awaitable[None]) -> None:
    try:
        await step
    except (OSError, RuntimeError) as error:
        logger.debug("a frame for a closed socket: %s", reason(error))


@types.coroutine
def _resumed(step: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with a coroutine whose first step was already taken and yielded `waits_for`."""
    advance: Callable[[], Any]
    while True:
        try:
            value = yield waits_for
        except BaseException as error:  # noqa: BLE001 - a cancel belongs to the coroutine
            advance = partial(step.throw, error)
        else:
            advance = partial(step.send, value)
        try:
            waits_for = advance()
        except StopIteration:
            return
