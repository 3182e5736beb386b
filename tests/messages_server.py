"""A stand-in for the Messages API: real HTTP/1.1 on a real socket, the real event names, faults on demand.

It refuses what the real one refuses (`messages_rules.py`), answers as told (`messages_script.py`), remembers every
request, and writes down each write and each closed connection with its monotonic time. It never imports anything of
the project. For benches it runs by itself:
`python -m tests.messages_server --port 0 --rate 80 --tokens 400` prints its URL as the first line.
"""

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.messages_rules import MOST_REQUEST, violations
from tests.messages_script import Fault, Pace, Script, broken, event

__all__ = ["Exchange", "Fault", "MessagesServer", "Request", "Script"]

REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    413: "Content Too Large",
    429: "Too Many Requests",
}
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
    refused: str = ""  # why, if it was
    client_closed: float | None = None

    def bytes_after(self, moment: float) -> int:
        return sum(size for at, size in self.sent if at > moment)


class _GoneError(Exception):
    """The client has closed its side."""


class MessagesServer:
    """`async with MessagesServer() as server: server.script(Script(...)); … server.url`.

    Scripts are used up in order, one per request; then `default` answers. `journal` has one Exchange per
    request in order of arrival, refused ones included. `keep=False` remembers nothing (for benches). A prompt of more
    than `window` words is refused.
    """

    def __init__(self, default: Script | None = None, *, port: int = 0, keep: bool = True, window: int = 0) -> None:
        self.default = default or Script()
        self.journal: list[Exchange] = []
        self.connections = 0
        self._scripts: deque[Script] = deque()
        self._port = port
        self._keep = keep
        self.window = window
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

    def script_for(self, request: Request) -> Script:
        """How this request is answered: the next script, or the default."""
        return self._scripts.popleft() if self._scripts else self.default

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
            script = self.script_for(request)
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
        if problem := refusal(exchange.request) or self._too_long(exchange.request.body):
            status, kind, message = problem
            exchange.refused = message
        if status != 200:
            return await connection.send_error(status, script.headers, kind, message)
        await connection.send_headers(script.headers)
        async for one in self._events(script, exchange):
            for piece in self._slices(one) if script.dribble else (one,):
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

    async def _events(self, script: Script, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        usage = {**self._prompt_usage(exchange.request.body), "output_tokens": 1, **script.usage}
        yield event("message_start", message=_message(exchange.request.body["model"], usage))
        pace = Pace(script.rate)
        async with contextlib.aclosing(self._contents(script, exchange, pace)) as contents:
            async for one in contents:
                yield one
        if script.fault is not None:
            async for one in broken(script):
                yield one
            return
        ending = {"stop_reason": script.stop_reason, "stop_sequence": None}
        yield event("message_delta", delta=ending, usage={"output_tokens": max(1, exchange.tokens_sent)})
        yield event("message_stop")
        await asyncio.sleep(script.linger)

    async def _contents(self, script: Script, exchange: Exchange, pace: Pace) -> AsyncGenerator[bytes, None]:
        """The blocks, up to where the fault is: it leaves its block open."""
        for index, block in enumerate(script.content()):
            yield event("content_block_start", index=index, content_block=block.start())
            if index == 0:
                yield event("ping")
                await asyncio.sleep(script.text_after)
            for delta in block.deltas():
                if script.fault is not None and exchange.tokens_sent >= script.after:
                    return
                await pace.due()
                for name, data in script.extra:
                    yield event(name, **data)
                exchange.tokens_sent += 1
                yield event("content_block_delta", index=index, delta=delta)
            if script.fault is not None and exchange.tokens_sent >= script.after:
                return
            yield event("content_block_stop", index=index)

    def _slices(self, data: bytes) -> Iterator[bytes]:
        while data:
            size = self._random.randint(1, 7)
            yield data[:size]
            data = data[size:]

    def _too_long(self, body: dict[str, Any]) -> tuple[int, str, str] | None:
        words, _ = _prefixes(body)
        if not self.window or words <= self.window:
            return None
        return 400, "invalid_request_error", f"prompt is too long: {words} tokens > {self.window} maximum"

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
    if len(request.raw) > MOST_REQUEST:
        return 413, "request_too_large", "Request exceeds the maximum size"
    if problems := violations(request.body):
        return 400, "invalid_request_error", problems[0]
    if request.body.get("stream") is not True:
        return 400, "invalid_request_error", "stream: this server only streams"
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
