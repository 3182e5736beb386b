"""The HTTP doors with the face of a WebSocket, in this process: what a device's reader needs, over SSE or long polls.

Frames come out of `output_queue` as a socket's messages do, answers to signals among them, and a goodbye is
followed by a close with its code.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlencode

from project.asgi import application
from tests import under
from tests.sockets import RemoteExchange

DOORS = ("websocket", "sse", "poll")
_DISCONNECTED = {"type": "http.disconnect"}


class Exchange:
    """One request to the application, as a server makes it."""

    def __init__(
        self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes = b""
    ) -> None:
        self._messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._requests.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": urlencode(query).encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 80),
        }
        self.task = asyncio.create_task(application(scope, self._requests.get, self._send))
        self.status = 0
        self.headers: dict[str, str] = {}

    async def _send(self, message: dict[str, Any]) -> None:
        self._messages.put_nowait(message)

    async def parts(self) -> AsyncIterator[bytes]:
        """The body as it comes."""
        while True:
            message = await self._next()
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                continue
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return

    async def whole(self) -> bytes:
        return b"".join([part async for part in self.parts()])

    async def _next(self) -> dict[str, Any]:
        getting = asyncio.create_task(self._messages.get())
        try:
            await asyncio.wait([getting, self.task], return_when=asyncio.FIRST_COMPLETED)
            if not getting.done() and self._messages.empty():
                self.task.result()
                raise ConnectionError("the application has ended its answer in the middle")
            return await getting
        finally:
            getting.cancel()

    async def end(self) -> None:
        """The client is gone."""
        self._requests.put_nowait(_DISCONNECTED)
        await asyncio.wait([self.task], timeout=10)
        assert self.task.done(), "a door did not notice that its client is gone"


def exchange(
    method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes = b""
) -> Exchange | RemoteExchange:
    """One request, through the server of this process if there is one."""
    if under.address:
        return RemoteExchange(under.address, None, method, path, query, headers, body)
    return Exchange(method, path, query, headers, body)


class HttpSocket:
    """`kind` is sse or poll. `device` is asked for its cursor, and whether it reads and acknowledges."""

    def __init__(
        self,
        kind: str,
        device: Any,
        query: dict[str, str],
        headers: dict[str, str],
        conversation: str = "",
        make: Callable[..., Any] = exchange,
    ) -> None:
        self.output_queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._device = device
        self._path = f"/api/conversations/{conversation or device.conversation.pk}"
        self._make = make
        self._query, self._headers = query, headers
        self._name: dict[str, str] = {}
        self._sent_away = False  # a signal under way is told so again, which a WebSocket's is not
        self._exchanges: set[Any] = set()
        self._said: asyncio.Queue[bytes | None] = asyncio.Queue()  # None stands for the acknowledgement in `_flow`
        self._flow = b""
        reader: Callable[[], Any] = self._stream if kind == "sse" else self._poll
        self._kind = kind
        self._tasks = [asyncio.create_task(self._read(reader)), asyncio.create_task(self._speak())]

    async def _read(self, reader: Callable[[], Any]) -> None:
        try:
            await reader()
        except ConnectionError:
            self.output_queue.put_nowait({"type": "websocket.close", "code": 1006})

    async def _stream(self) -> None:
        exchange = self._request("GET", "events", {**self._query}, {"accept": "text/event-stream"})
        pending = b""
        async for part in exchange.parts():
            if exchange.status != 200:
                self._hand_in(json.loads(part))
                return
            pending += part
            *events, pending = pending.split(b"\n\n")
            for event in events:
                data = [line[6:] for line in event.split(b"\n") if line.startswith(b"data: ")]
                assert len(data) == 1, event
                self._hand_in(json.loads(data[0]))

    async def _poll(self) -> None:
        while True:
            while not self._device.reads:  # noqa: ASYNC110 - a test's switch
                await asyncio.sleep(0.01)
            query = {**self._query, **self._name, "wait": "5"}
            if self._name and self._device.acknowledges:
                # What was handed in is applied by the device's own reader, a moment later.
                while not self.output_queue.empty():  # noqa: ASYNC110
                    await asyncio.sleep(0)
                query["after"] = str(self._device.view.cursor)
            exchange = self._request("GET", "events", query, {"accept": "application/json"})
            answer = json.loads(await exchange.whole())
            if exchange.status != 200:
                self._hand_in(answer)
                return
            self._name = {"connection": answer["connection"]}
            for frame in answer["frames"]:
                self._hand_in(frame)
            if any(frame["type"] == "bye" for frame in answer["frames"]):
                return

    def _hand_in(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "hello":
            self._name = self._name or {"connection": frame["connection"]}
        self.output_queue.put_nowait({"type": "websocket.send", "text": json.dumps(frame)})
        if frame["type"] == "bye":
            self._sent_away = True
            self.output_queue.put_nowait({"type": "websocket.close", "code": frame["close"]})

    async def send_to(self, text_data: str) -> None:
        if '"flow"' in text_data:
            # The next poll says it. And what waits to be posted has no more to say than the last.
            if self._kind == "sse" and not self._flow:
                self._said.put_nowait(None)
            self._flow = text_data.encode()
            return
        self._said.put_nowait(text_data.encode("utf-8", "surrogatepass"))

    async def send_input(self, message: dict[str, Any]) -> None:
        text, binary = message.get("text"), message.get("bytes")
        self._said.put_nowait((binary or b"") if text is None else text.encode("utf-8", "surrogatepass"))

    async def _speak(self) -> None:
        while True:
            body = await self._said.get()
            if body is None:
                body, self._flow = self._flow, b""
            while not self._name:  # noqa: ASYNC110 - a device may speak before it was greeted
                await asyncio.sleep(0.001)
            asking = {"device": self._query["device"], **self._name}
            ours = {"origin": f"http://{self._headers['host']}", "content-type": "application/json"}
            ours |= {name: self._headers[name] for name in ("origin",) if name in self._headers}
            exchange = self._request("POST", "signals", asking, ours, body)
            said = await exchange.whole()
            assert (exchange.status == 204) == (not said)
            answer = json.loads(said or "null")
            if answer and not (self._sent_away and answer["type"] == "bye"):
                self._hand_in(answer)

    def _request(
        self, method: str, name: str, query: dict[str, str], headers: dict[str, str], body: bytes = b""
    ) -> Any:
        made = self._make(method, f"{self._path}/{name}", query, {**self._headers, **headers}, body)
        self._exchanges.add(made)
        made.task.add_done_callback(lambda _: self._exchanges.discard(made))
        return made

    async def disconnect(self, timeout: float = 1) -> None:  # noqa: ASYNC109 - the face it has
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for exchange in list(self._exchanges):
            await exchange.end()
