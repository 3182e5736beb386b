"""A device as lean as Python allows, so that the server is what is measured: WebSocket frames straight off the
socket, one `flow` per few dozen frames, JSON parsed only where a bench wants to know what a frame says.
"""

import asyncio
import base64
import contextlib
import os
import resource
import struct
import time
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Self

import orjson

FLOW_FRAMES = 32  # of the 256 a device may owe
FLOW_BYTES = 8_192  # of the 49,152
CONNECT_SECONDS = 60.0

Listen = Callable[["Device", bytes, int], None]


class Device(asyncio.Protocol):
    """`listen(device, body, now)` gets every frame with a serial; `now` is monotonic ns of its arrival."""

    flow_frames, flow_bytes = FLOW_FRAMES, FLOW_BYTES

    def __init__(
        self,
        port: int,
        path: str,
        *,
        session: str = "",
        subprotocol: str = "",
        listen: Listen | None = None,
        ever: Callable[["Device", dict[str, Any]], None] | None = None,
    ) -> None:
        self.port, self.path, self.session, self.subprotocol = port, path, session, subprotocol
        self.listen, self.ever = listen, ever
        self.frames = 0  # with a serial
        self.bytes = 0  # of all frames, without their WebSocket heads
        self.serial = 0
        self.hello: dict[str, Any] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.synced: asyncio.Event = asyncio.Event()
        self.closed: asyncio.Event = asyncio.Event()
        self.lost = False
        self.why = ""  # it was lost, if the server or the socket said
        self._upgraded = False
        self._rest = b""
        self._owed = self._owed_bytes = 0
        self._transport: asyncio.Transport | None = None

    # --- the socket -----------------------------------------------------------------------------------------

    async def connect(self) -> Self:
        """Open the socket and ask for the upgrade. `synced` says when everything missed has arrived."""
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, "127.0.0.1", self.port)
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        lines = [
            f"GET {self.path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *([f"Cookie: sessionid={self.session}"] if self.session else []),
            *([f"Sec-WebSocket-Protocol: {self.subprotocol}"] if self.subprotocol else []),
        ]
        transport.write("\r\n".join([*lines, "", ""]).encode())

    def connection_lost(self, exc: Exception | None) -> None:
        self.why = self.why or repr(exc)
        self.lost = True
        self.closed.set()

    def cut(self) -> None:
        """Drop the connection as a tunnel does: no close frame, nothing flushed."""
        if self._transport is not None:
            self._transport.abort()
        self.listen = None
        self.lost = True

    def stop_reading(self) -> None:
        """Stay connected and take nothing more."""
        if self._transport is not None:
            self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        if not self._upgraded:
            at = data.find(b"\r\n\r\n") + 4
            if at == 3:
                self._rest = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(data[:200].decode("latin1"))
            self._upgraded = True
        while end - at >= 2:
            start, length = at + 2, data[at + 1]
            if length == 126:
                start, length = at + 4, int.from_bytes(data[at + 2 : at + 4])
            elif length == 127:
                start, length = at + 10, int.from_bytes(data[at + 2 : at + 10])
            if start + length > end:
                break
            if data[at] == 0x81:
                self._take(data[start : start + length], now)
            at = start + length
        self._rest = data[at:]
        self._flow_if_due()

    def _take(self, body: bytes, now: int) -> None:
        self.bytes += len(body)
        place = body.find(b'"after":', 0, 60)
        if place < 0:
            self._take_control(orjson.loads(body))
            return
        self.frames += 1
        self._owed += 1
        self._owed_bytes += len(body)
        place = body.find(b'"serial":', place) + 9
        self.serial = int(body[place : body.find(b",", place)])
        if self.listen is not None:
            self.listen(self, body, now)

    def _take_control(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "hello":
                self.hello = frame
            case "snapshot":
                self.serial = frame["serial"]
            case "sync":
                self.serial = max(self.serial, frame["serial"])
                self._flow()
                self.synced.set()
            case "ping":
                self.say({"type": "flow", "serial": self.serial})
            case "bye":
                self.why = f"bye: {frame['code']}"
            case "ack" | "nack":
                self.answers[frame["id"] or ""] = frame
        if self.ever is not None:
            self.ever(self, frame)

    # --- speaking -------------------------------------------------------------------------------------------

    def _flow_if_due(self) -> None:
        if self._owed >= self.flow_frames or self._owed_bytes >= self.flow_bytes:
            self._flow()

    def _flow(self) -> None:
        self._owed = self._owed_bytes = 0
        self.say({"type": "flow", "serial": self.serial})

    def say(self, signal: dict[str, Any]) -> None:
        """Send one text frame. The mask is zero, which masks nothing and costs nothing."""
        assert self._transport is not None
        body = orjson.dumps(signal)
        size = len(body)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
        self._transport.write(b"\x81" + length + b"\0\0\0\0" + body)

    async def ask(self, text: str, when_busy: str = "alongside") -> dict[str, Any]:
        """Send a message and wait for its ack."""
        signal_id = str(uuid.uuid4())
        self.say({"type": "message.send", "id": signal_id, "text": text, "when_busy": when_busy})
        await until(lambda: signal_id in self.answers, "an ack")
        ack = self.answers.pop(signal_id)
        if ack["type"] != "ack":
            raise RuntimeError(f"refused: {ack}")
        return ack


def device_path(conversation: str, *, device: str = "", after: int | None = None, epoch: str | None = None) -> str:
    """Where a device of the project connects."""
    path = f"/ws/conversations/{conversation}/?device={device or uuid.uuid4()}"
    if after is not None:
        path += f"&after={after}"
    return path + (f"&epoch={epoch}" if epoch else "")


def chat_device(port: int, session: str, conversation: dict[str, Any], listen: Listen | None = None) -> Device:
    """A device that has everything up to the conversation's head, and gets what comes now."""
    path = device_path(conversation["id"], after=conversation["head"], epoch=conversation["epoch"])
    return Device(port, path, session=session, subprotocol="conversation.v1.json", listen=listen)


async def connect_all(devices: Iterable[Device], at_once: int = 25) -> None:
    """Connect and wait until all are live, a few at a time: this is the setup, not the figure."""
    gate = asyncio.Semaphore(at_once)

    async def one(device: Device) -> None:
        async with gate:
            await device.connect()
            async with asyncio.timeout(CONNECT_SECONDS):
                await device.synced.wait()

    async with asyncio.TaskGroup() as group:
        for device in devices:
            group.create_task(one(device))


async def close_all(devices: Iterable[Device]) -> None:
    """Drop them all and give the server a moment to notice."""
    for device in devices:
        device.cut()
    await asyncio.sleep(0.3)


async def until(condition: Callable[[], Any], what: str, deadline: float = 30.0) -> None:
    """Poll until the condition is true; raise TimeoutError at the deadline."""
    if not await reached(condition, deadline):
        raise TimeoutError(f"not within {deadline} s: {what}")


async def reached(condition: Callable[[], Any], deadline: float) -> bool:
    """Poll until the condition is true; False at the deadline."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.005)
    return True


def allow_many_sockets() -> None:
    """Two thousand devices are more than the usual limit of open files; servers inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if hard == resource.RLIM_INFINITY else min(hard, 16_384)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Clock:
    """A listener that turns stamped tokens into delays. One per device and kind of figure, or shared."""

    def __init__(self) -> None:
        self.delays: list[tuple[int, int]] = []  # (made, delay), both ns
        self.first: dict[str, int] = {}  # message → delay of its first token
        self.ended: set[str] = set()  # runs
        self.holes = 0  # text that was skipped
        self._known: dict[tuple[int, str], int] = {}  # text already seen, per device and message

    def __call__(self, device: Device, body: bytes, now: int) -> None:
        frame = orjson.loads(body)
        for event in frame["events"] if frame["type"] == "batch" else (frame,):
            match event["type"]:
                case "message.delta" | "message.snapshot":
                    self._text(device, event, now)
                case "run.ended":
                    self.ended.add(event["run"])

    def _text(self, device: Device, event: dict[str, Any], now: int) -> None:
        key = id(device), event["message"]
        known = self._known.get(key, 0)
        self.holes += event["offset"] > known
        text = event["text"][max(0, known - event["offset"]) :]
        made = [int(stamp) for stamp in text.split()]
        if not made:
            return
        if known == 0:
            self.first.setdefault(f"{key}", now - made[0])
        self._known[key] = event["offset"] + len(event["text"])
        self.delays += [(stamp, now - stamp) for stamp in made]

    def seconds(self, since: int = 0, until: int = 2**63) -> list[float]:
        """Delays of the tokens made in a span of monotonic ns."""
        return [delay / 1e9 for made, delay in self.delays if since <= made < until]
