"""What the stand-in for the Messages API answers: content blocks, told as the real one streams them, and faults."""

import asyncio
import json
import re
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

TOKEN = re.compile(r"\s*\S{1,16}|\s+")


class Fault(StrEnum):
    """What goes wrong once `Script.after` deltas were sent. `DISCONNECT` comes before the headers."""

    DISCONNECT = "disconnect"
    ERROR_EVENT = "error_event"  # an `error` event of `Script.error` inside the 200
    TRUNCATE = "truncate"  # the body ends properly, but without message_stop
    CUT = "cut"  # FIN in the middle of the chunked body
    RESET = "reset"  # RST
    MALFORMED = "malformed"  # an event whose data is not JSON
    SILENCE = "silence"  # nothing more, the connection stays open
    PINGS = "pings"  # nothing but pings, for ever
    NOISE = "noise"  # nothing but events nobody knows, for ever


class Streamed(Protocol):
    """A content block as it arrives: how it begins, then its deltas."""

    def start(self) -> dict[str, Any]: ...

    def deltas(self) -> Iterable[dict[str, Any]]: ...


@dataclass
class Says:
    text: str = ""
    tokens: Sequence[str] | None = None  # the deltas as they are, instead of those made from `text`
    cites: Sequence[dict[str, Any]] = ()

    def start(self) -> dict[str, Any]:
        return {"type": "text", "text": ""}

    def deltas(self) -> Iterator[dict[str, Any]]:
        tokens = TOKEN.findall(self.text) if self.tokens is None else self.tokens
        yield from ({"type": "text_delta", "text": token} for token in tokens)
        yield from ({"type": "citations_delta", "citation": one} for one in self.cites)


@dataclass
class Thinks:
    text: str
    signature: str = "c2lnbmF0dXJl"

    def start(self) -> dict[str, Any]:
        return {"type": "thinking", "thinking": "", "signature": ""}

    def deltas(self) -> Iterator[dict[str, Any]]:
        yield from ({"type": "thinking_delta", "thinking": token} for token in TOKEN.findall(self.text))
        yield {"type": "signature_delta", "signature": self.signature}


@dataclass
class Redacted:
    data: str = "cmVkYWN0ZWQ="

    def start(self) -> dict[str, Any]:
        return {"type": "redacted_thinking", "data": self.data}

    def deltas(self) -> Iterator[dict[str, Any]]:
        return iter(())


@dataclass
class Uses:
    """A call of a tool. `pieces`: its input as it arrives, which need not be whole; else made from `input`."""

    name: str
    input: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: f"toolu_{uuid.uuid4().hex[:20]}")
    pieces: Sequence[str] | None = None
    kind: str = "tool_use"  # or server_tool_use

    def start(self) -> dict[str, Any]:
        return {"type": self.kind, "id": self.id, "name": self.name, "input": {}}

    def deltas(self) -> Iterator[dict[str, Any]]:
        pieces = ["", *re.findall(r".{1,7}", json.dumps(self.input))] if self.pieces is None else self.pieces
        return ({"type": "input_json_delta", "partial_json": piece} for piece in pieces)


@dataclass
class Whole:
    """A block that arrives in one: the results of the provider's own tools do."""

    block: dict[str, Any]

    def start(self) -> dict[str, Any]:
        return self.block

    def deltas(self) -> Iterator[dict[str, Any]]:
        return iter(())


@dataclass
class Script:
    """How one request is answered. The default is a short good answer, at once."""

    text: str = "Hello from the test server."
    tokens: list[str] | None = None  # the deltas as they are, instead of those made from `text`
    blocks: Sequence[Streamed] = ()  # instead of one text
    rate: float = 0  # tokens per second; 0: as fast as possible
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stop_reason: str = "end_turn"
    error: str = "overloaded_error"  # type in the error event, or in the body of a status that has no type of its own
    fault: Fault | None = None
    after: int = 0
    extra: list[tuple[str, Any]] = field(default_factory=list)  # events nobody knows, sent before each delta
    headers_after: float = 0  # seconds until the first byte of all
    text_after: float = 0  # seconds between the start of the first block and its first delta
    linger: float = 0  # seconds between message_stop and the end of the body
    dribble: bool = False  # the body in slices of one to seven bytes
    usage: dict[str, Any] = field(default_factory=dict)  # added to that of message_start

    def content(self) -> Sequence[Streamed]:
        return self.blocks or [Says(self.text, self.tokens)]


class Pace:
    """An absolute schedule, so that a late token does not make all the following ones late."""

    def __init__(self, rate: float) -> None:
        self._rate, self._number, self._began = rate, 0, 0.0

    async def due(self) -> None:
        self._began = self._began or time.monotonic()
        moment = self._began + self._number / self._rate if self._rate else 0.0
        if (wait := moment - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        elif self._number % 20 == 0:
            await asyncio.sleep(0)
        self._number += 1


async def broken(script: Script) -> AsyncGenerator[bytes, None]:
    match script.fault:
        case Fault.ERROR_EVENT:
            yield event("error", error={"type": script.error, "message": "as the script says"})
        case Fault.MALFORMED:
            yield b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "del\n\n'
        case Fault.PINGS | Fault.NOISE:
            while True:
                yield event("ping" if script.fault is Fault.PINGS else "event_of_tomorrow")
                await asyncio.sleep(0.02)


def event(name: str, **data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()
