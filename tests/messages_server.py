"""A stand-in for the Messages API: real HTTP/1.1 on a real socket, the real event names, faults on demand.

It refuses what the real one refuses, remembers every request, and writes down each write and each closed
connection with its monotonic time. It never imports anything of the project. For benches it runs by itself:
`python -m tests.messages_server --port 0 --rate 80 --tokens 400` prints its URL as the first line.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

TOKEN = re.compile(r"\s*\S{1,16}|\s+")
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class Fault(StrEnum):
    """What goes wrong once `Script.after` tokens were sent. `DISCONNECT` comes before the headers."""

    DISCONNECT = "disconnect"
    ERROR_EVENT = "error_event"  # an `error` event of `Script.error` inside the 200
    TRUNCATE = "truncate"  # the body ends properly, but without message_stop
    CUT = "cut"  # FIN in the middle of the chunked body
    RESET = "reset"  # RST
    MALFORMED = "malformed"  # an event whose data is not JSON
    SILENCE = "silence"  # nothing more, the connection stays open
    PINGS = "pings"  # nothing but pings, for ever
    NOISE = "noise"  # nothing but events nobody knows, for ever


@dataclass
class Script:
    """How one request is answered. The default is a short good answer, at once."""

    text: str = "Hello from the test server."
    tokens: list[str] | None = None  # the deltas as they are, instead of those made from `text`
    rate: float = 0  # tokens per second; 0: as fast as possible
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    stop_reason: str = "end_turn"
    error: str = "overloaded_error"  # type in the error event, or in the body of a status that has no type of its own
    fault: Fault | None = None
    after: int = 0
    extra: list[tuple[str, Any]] = field(default_factory=list)  # events nobody knows, sent before each delta
    headers_after: float = 0  # seconds until the first byte of all
    text_after: float = 0  # seconds between message_start and the first delta
    linger: float = 0  # seconds between message_stop and the end of the body
    dribble: bool = False  # the body in slices of one to seven bytes
    usage: dict[str, Any] = field(default_factory=dict)  # added to that of message_start

    def deltas(self) -> list[str]:
        return self.tokens if self.tokens is not None else TOKEN.findall(self.text)


@dataclass
class Request:
    headers: dict[str, str]  # names in lower case
    raw: bytes
    body: Any


@dataclass
class Exchange:
    """One request and what became of its answer. All times are `time.monotonic()`."""

    request: Request
    connection: int
    at: float
    sent: list[tuple[float, int]] = field(default_factory=list)
    tokens_sent: int = 0
    finished: bool = False  # the whole answer was sent
    client_closed: float | None = None

    def bytes_after(self, moment: float) -> int:
        return sum(size for at, size in self.sent if at > moment)


class _GoneError(Exception):
    """The client has closed its side."""


class MessagesServer:
    """`async with MessagesServer() as server: server.script(Script(...)); … server.url`.

    Scripts are used up in order, one per request; then `default` answers. `journal` has one Exchange per
    request in order of arrival, refused ones included. `keep=False` remembers nothing (for benches).
    """

    def __init__(self, default: Script | None = None, *, port: int = 0, keep: bool = True) -> None:
        self.default = default or Script()
        self.journal: list[Exchange] = []
        self.connections = 0
        self._scripts: deque[Script] = deque()
        self._port = port
        self._keep = keep
        self._tasks: set[asyncio.Task[None]] = set()
        self._cached: dict[str, int] = {}
        self._random = random.Random(7)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=1024, limit=2**20)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def requests(self) -> list[Request]:
        return [exchange.request for exchange in self.journal]

    def script(self, *scripts: Script) -> None:
        self._scripts.extend(scripts)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._connection(_Connection(self.connections, reader, writer))
        except (OSError, asyncio.IncompleteReadError, _GoneError):
            pass  # the client left; the exchange has the time
        except asyncio.CancelledError:
            # The end of the test. Not passed on, because `start_server` calls `exception()` on this task.
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connection(self, connection: "_Connection") -> None:
        first = b""
        while request := await connection.receive(first):
            exchange = Exchange(request, connection.number, time.monotonic())
            if self._keep:
                self.journal.append(exchange)
            script = self._scripts.popleft() if self._scripts else self.default
            first = await connection.answer(exchange, self._answer(script, exchange, connection))

    async def _answer(self, script: Script, exchange: Exchange, connection: "_Connection") -> None:
        await asyncio.sleep(script.headers_after)
        if script.fault is Fault.DISCONNECT:
            return connection.reset()
        status, kind, message = (
            script.status,
            ERROR_TYPES.get(script.status, "api_error"),
            "as the script says",
        )
        if problem := refusal(exchange.request):
            status, kind, message = problem
        if status != 200:
            return await connection.send_error(status, script.headers, kind, message)
        await connection.send_headers(script.headers)
        async for event in self._events(script, exchange):
            for piece in self._slices(event) if script.dribble else (event,):
                await connection.send_chunk(piece)
        match script.fault:
            case Fault.RESET:
                connection.reset()
            case Fault.CUT:
                connection.close()
            case Fault.SILENCE:
                await asyncio.Event().wait()
            case _:
                await connection.send(b"0\r\n\r\n")
                exchange.finished = True
        return None

    async def _events(self, script: Script, exchange: Exchange) -> AsyncIterator[bytes]:
        usage = {**self._prompt_usage(exchange.request.body), "output_tokens": 1, **script.usage}
        yield _event("message_start", message=_message(exchange.request.body["model"], usage))
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        yield _event("ping")
        await asyncio.sleep(script.text_after)
        deltas = script.deltas()
        async for delta in paced(deltas if script.fault is None else deltas[: script.after], script.rate):
            for name, data in script.extra:
                yield _event(name, **data)
            exchange.tokens_sent += 1
            yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": delta})
        if script.fault is not None:
            async for event in _broken(script):
                yield event
            return
        yield _event("content_block_stop", index=0)
        ending = {"stop_reason": script.stop_reason, "stop_sequence": None}
        yield _event("message_delta", delta=ending, usage={"output_tokens": max(1, exchange.tokens_sent)})
        yield _event("message_stop")
        await asyncio.sleep(script.linger)

    def _slices(self, data: bytes) -> Iterator[bytes]:
        while data:
            size = self._random.randint(1, 7)
            yield data[:size]
            data = data[size:]

    def _prompt_usage(self, body: dict[str, Any]) -> dict[str, int]:
        """Words for tokens, and a prompt cache: what ends in a breakpoint is read back next time."""
        total, marked = _prefixes(body)
        read = max((words for prefix, words in marked if prefix in self._cached), default=0)
        longest = max((words for _, words in marked), default=0)
        if self._keep:
            self._cached.update(marked)
        created = max(0, longest - read)
        return {
            "input_tokens": total - read - created,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": created,
        }


class _Connection:
    """One client connection: reads requests, writes answers, and notices at once when the client closes."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self._reader = reader
        self._writer = writer
        self._exchange: Exchange | None = None

    async def receive(self, first: bytes) -> Request | None:
        if not (first or (first := await self._reader.read(1))):
            return None
        head = (first + await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        headers[":start"] = start
        raw = await self._reader.readexactly(int(headers.get("content-length", "0")))
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        return Request(headers, raw, body)

    async def answer(self, exchange: Exchange, answering: Coroutine[Any, Any, None]) -> bytes:
        """Runs the answer until it ends or the client closes; returns the next request's first byte."""
        self._exchange = exchange
        answer = asyncio.create_task(answering)
        watch = asyncio.ensure_future(self._reader.read(1))
        try:
            await asyncio.wait({answer, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not watch.done():
                await answer
            first = await watch
            if not first:
                raise _GoneError
            await answer
            return first
        finally:
            if watch.done() and not watch.cancelled() and (watch.exception() or not watch.result()):
                exchange.client_closed = time.monotonic()
            for task in (answer, watch):
                task.cancel()
            await asyncio.gather(answer, watch, return_exceptions=True)

    async def send(self, data: bytes) -> None:
        assert self._exchange is not None
        self._writer.write(data)
        self._exchange.sent.append((time.monotonic(), len(data)))
        await self._writer.drain()

    async def send_chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def send_headers(self, more: dict[str, str]) -> None:
        fields = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked", **more}
        await self.send(_head(200, fields))

    async def send_error(self, status: int, more: dict[str, str], kind: str, message: str) -> None:
        body = json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()
        fields = {"content-type": "application/json", "content-length": str(len(body)), **more}
        await self.send(_head(status, fields) + body)

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


async def paced(tokens: list[str], rate: float) -> AsyncIterator[str]:
    """By an absolute schedule, so that a late token does not make all the following ones late."""
    start = time.monotonic()
    for number, token in enumerate(tokens):
        due = start + number / rate if rate else 0.0
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        elif number % 20 == 0:
            await asyncio.sleep(0)
        yield token


async def _broken(script: Script) -> AsyncIterator[bytes]:
    match script.fault:
        case Fault.ERROR_EVENT:
            yield _event("error", error={"type": script.error, "message": "as the script says"})
        case Fault.MALFORMED:
            yield b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, "del\n\n'
        case Fault.PINGS | Fault.NOISE:
            while True:
                yield _event("ping" if script.fault is Fault.PINGS else "event_of_tomorrow")
                await asyncio.sleep(0.02)


def _event(name: str, **data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


def _message(model: str, usage: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_test",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _head(status: int, fields: dict[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {REASONS.get(status, 'Scripted')}",
        *(f"{k}: {v}" for k, v in fields.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def _prefixes(body: dict[str, Any]) -> tuple[int, list[tuple[str, int]]]:
    """The prompt's words, and each part of it that ends in a cache breakpoint with its words."""
    marked: list[tuple[str, int]] = []
    so_far, words = json.dumps(body.get("tools")), 0
    for role, block in _blocks(body):
        plain = {name: value for name, value in block.items() if name != "cache_control"}
        so_far += f"\n{role} {json.dumps(plain)}"
        words += len(str(plain.get("text", plain)).split())
        if "cache_control" in block:
            marked.append((so_far, words))
    return words, marked


def _blocks(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for role, content in [
        ("system", body.get("system") or []),
        *((m["role"], m["content"]) for m in body["messages"]),
    ]:
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            yield role, block


def refusal(request: Request) -> tuple[int, str, str] | None:
    """Status, error type and message for a request that the real service would not take."""
    if not request.headers[":start"].startswith("POST /v1/messages "):
        return 404, "not_found_error", "no such path"
    if not (request.headers.get("x-api-key") or request.headers.get("authorization")):
        return 401, "authentication_error", "x-api-key header is required"
    if "anthropic-version" not in request.headers:
        return 400, "invalid_request_error", "anthropic-version: header is required"
    if problem := invalid(request.body):
        return 400, "invalid_request_error", problem
    return None


def invalid(body: object) -> str | None:
    """What is wrong with the body of a streaming request; None if nothing is.

    Stricter than the real service in one rule: roles must alternate (it merges neighbours of one role).
    """
    if not isinstance(body, dict):
        return "the body is not a JSON object"
    if not (isinstance(body.get("model"), str) and body["model"]):
        return "model: field required"
    if not (isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 0):
        return "max_tokens: must be greater than 0"
    if body.get("stream") is not True:
        return "stream: this server only streams"
    messages = body.get("messages")
    if not (isinstance(messages, list) and messages):
        return "messages: at least one message is required"
    if [message.get("role") for message in messages] != [("user", "assistant")[n % 2] for n in range(len(messages))]:
        return "messages: roles must alternate, beginning with user"
    if messages[-1]["role"] != "user":
        return "messages: the conversation must end with a user message"
    return _invalid_blocks(body) or _invalid_tools(messages)


def _invalid_blocks(body: dict[str, Any]) -> str | None:
    if body.get("system") == "" or any(message.get("content") in ("", [], None) for message in body["messages"]):
        return "messages: all messages must have non-empty content"
    blocks = [block for _, block in _blocks(body)]
    if any(block.get("type") == "text" and not str(block.get("text", "")).strip() for block in blocks):
        return "messages: text content blocks must be non-empty"
    marks = sum("cache_control" in block for block in [*blocks, *body.get("tools", [])])
    return f"a maximum of 4 blocks with cache_control may be provided, found {marks}" if marks > 4 else None


def _invalid_tools(messages: list[dict[str, Any]]) -> str | None:
    """Each tool_use is answered by a tool_result that begins the next message; nothing else is."""
    asked: list[Any] = []
    for number, message in enumerate(messages):
        content = [] if isinstance(message["content"], str) else message["content"]
        answers = [block for block in content if block["type"] == "tool_result"]
        if answers != content[: len(answers)]:
            return f"messages.{number}: tool_result blocks must come first"
        if sorted(block.get("tool_use_id", "") for block in answers) != sorted(asked):
            return f"messages.{number}: tool_use ids and tool_result blocks do not match: {asked}"
        asked = [block.get("id", "") for block in content if block["type"] == "tool_use"]
        if asked and message["role"] != "assistant":
            return f"messages.{number}: tool_use can only be in assistant messages"
    return None


async def _main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for the Messages API")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--rate", type=float, default=80, help="tokens per second of each answer; 0: no limit")
    parser.add_argument("--tokens", type=int, default=400)
    options = parser.parse_args()
    text = " ".join(f"word{number}" for number in range(1, options.tokens + 1))
    async with MessagesServer(Script(text=text, rate=options.rate), port=options.port, keep=False) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main())
