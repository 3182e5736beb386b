"""daphne with a beginning, an end, and a short way for a frame that goes to many.

daphne tells an application neither that the process begins nor that it ends: on SIGTERM it drops every socket
without a close frame. And it frames each message for each socket anew, with log arguments made for nobody.
"""

import asyncio
from functools import lru_cache, partial
from typing import Any

from autobahn.websocket.protocol import PreparedMessage
from daphne.http_protocol import WebRequest
from daphne.server import Server
from django.conf import settings
from twisted.internet import defer, reactor

from chat import host
from chat.transport.upload import AROUND
from chat.transport.websocket import SEND_FRAME

# Of a request: daphne holds all of it before anybody can say no.
MOST_BODY = max(8 * 1024 * 1024, settings.CHAT_FILE_BYTES + AROUND)
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class DrainingServer(Server):  # type: ignore[misc]
    """Starts the host before the first request, drains it before the end."""

    failed = False
    trouble: BaseException | None = None  # that of the host, if it was not the port

    def __init__(self, application: Any, **options: Any) -> None:
        super().__init__(application, ready_callable=lambda: reactor.callWhenRunning(self._begin), **options)

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        if scope["type"] == "websocket":
            scope["extensions"] = {**scope.get("extensions", {}), SEND_FRAME: partial(_send, protocol)}
        return super().create_application(protocol, scope)

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        self.http_factory.buildProtocol = partial(_bounded, self.http_factory.buildProtocol)
        address = port.getHost()
        shown = f"[{address.host}]" if ":" in address.host else address.host
        print(f"Serving on http://{shown}:{address.port}/  (stop with Ctrl-C)", flush=True)

    def listen_error(self, failure: Any) -> None:
        self.failed = True
        super().listen_error(failure)

    def kill_all_applications(self) -> Any:
        """Called by the reactor before it shuts down, which waits for what we return."""
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._end()))

    def _begin(self) -> None:
        asyncio.ensure_future(host.running()).add_done_callback(self._stop_if_failed)

    def _stop_if_failed(self, starting: "asyncio.Future[Any]") -> None:
        if not starting.cancelled() and starting.exception() is not None:
            self.failed, self.trouble = True, starting.exception()
            self.stop()

    async def _end(self) -> None:
        for listener in self.listeners:
            listener.addCallback(lambda port: port and port.stopListening())
        await host.stop()
        applications = [details.get("application_instance") for details in self.connections.values()]
        left = [application for application in applications if application is not None and not application.done()]
        for application in left:
            application.cancel()
        if left:
            # A task still pending when the interpreter ends can crash it.
            await asyncio.wait(left, timeout=2)


class BoundedRequest(WebRequest):  # type: ignore[misc]
    """Ends a connection whose body is larger than any door reads, instead of keeping it in memory and on disk."""

    _read = 0
    _refused = False

    def gotLength(self, length: int | None) -> None:  # noqa: N802 - twisted's name
        super().gotLength(length)
        self._keep_to(length or 0)

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802
        self._read += len(data)
        self._keep_to(self._read)
        if not self._refused:
            super().handleContentChunk(data)

    def _keep_to(self, size: int) -> None:
        if size > MOST_BODY and not self._refused:
            self._refused = True
            self.channel.transport.write(TOO_LARGE)
            self.channel.loseConnection()


def _bounded(build: Any, address: Any) -> Any:
    protocol = build(address)
    # twisted would take every form apart, for nobody, on the event loop: a second for a file of 10 MB.
    protocol.requestFactory = partial(BoundedRequest, parsePOSTFormSubmission=False)
    return protocol


def _send(protocol: Any, text: str) -> None:
    """Write one text frame to a socket; nothing if it is no longer open.

    Past autobahn's own `sendMessage`, which takes longer for its log arguments than this whole function. daphne
    negotiates no compression and queues nothing, so a frame is all there is to it.
    """
    if protocol.state == protocol.STATE_OPEN:
        protocol.transport.write(_framed(text))


@lru_cache(maxsize=16)  # the same string for every device of a conversation, one after the other
def _framed(text: str) -> bytes:
    framed: bytes = PreparedMessage(text.encode(), isBinary=False, applyMask=False, doNotCompress=True).payloadHybi
    return framed
