"""Frames and signals over a WebSocket."""

import asyncio
import json
import ssl
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from chat.client.address import SUBPROTOCOL
from chat.client.errors import Lost, answered
from chat.client.link import Ears, Place, parsed
from chat.client.outbox import Signal

LARGEST = 4 * 1024 * 1024  # bytes; the server's own limit is lower and told in `hello`
CLOSING = 1.0  # seconds for a farewell


class _connect(connect):  # noqa: N801 - called like the function it stands for
    """Is not sent on, as our requests are not: where that leads there is a page, often by https, and no WebSocket."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WebSocketLink:
    """One socket."""

    def __init__(self, place: Place, ears: Ears, tls: ssl.SSLContext | None = None) -> None:
        self._place = place
        self._ears = ears
        self._tls = tls
        self._to_say: asyncio.Queue[Signal] = asyncio.Queue()

    async def run(self) -> None:
        socket = await self._connect()
        speaker = asyncio.create_task(self._speak(socket), name="client-speak")
        try:
            async for text in socket:
                self._ears.frame(parsed(text), len(text))
        except ConnectionClosed:
            pass
        finally:
            speaker.cancel()
            await socket.close()
        raise Lost("the socket was closed", code=socket.close_code)

    def say(self, signal: Signal) -> None:
        self._to_say.put_nowait(signal)

    async def _connect(self) -> ClientConnection:
        address = self._place.address
        secure: dict[str, Any] = (
            {"ssl": self._tls} if self._tls is not None and address.origin.startswith("https:") else {}
        )
        try:
            return await _connect(
                address.websocket(self._place.query()),
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                additional_headers=self._place.identity.headers(),
                compression=None,  # short frames, one after the other: it would cost more than it saves
                max_size=LARGEST,
                open_timeout=None,  # the machine has its own patience, for the greeting
                ping_interval=None,  # and its own heartbeats, which also a proxy that answers for the server must pass
                close_timeout=CLOSING,
                **secure,
            )
        except InvalidStatus as refusal:
            raise answered(refusal.response.status_code) from refusal
        except InvalidHandshake as error:
            raise Lost(f"no WebSocket here: {error}", refused=True) from error
        except (OSError, EOFError, WebSocketException) as error:
            raise Lost(f"could not connect: {error}") from error

    async def _speak(self, socket: ClientConnection) -> None:
        try:
            while True:
                await socket.send(json.dumps(await self._to_say.get()))
        except ConnectionClosed:
            return  # whoever listens hears of it
