"""What the HTTP doors share: a request's parts, answers in JSON, and whether it came from a page of ours."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from chat.ending import end
from chat.errors import Code, Refused
from chat.roster import ids
from chat.transport.access import Credential, credential_of
from chat.transport.close import REFUSALS, TROUBLE, Close
from chat.transport.connection import Connection, goodbye
from chat.transport.mailbox import HTTP_WINDOW, Mailbox
from chat.transport.origin import is_allowed
from chat.wire import nack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from chat.host import Host

logger = logging.getLogger(__name__)

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

STATUSES = {
    Close.DRAIN: 503,
    Close.FEED_FAILED: 503,
    Close.BAD_REQUEST: 400,
    Close.SIGNED_OUT: 401,
    Close.FORBIDDEN: 403,
    Close.REVOKED: 403,
    Close.ORIGIN: 403,
}
# Nothing between us and the device may keep, change or hold back what is said.
HEADERS = [
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]


class Unwelcome(Exception):
    """A request that is answered with a goodbye instead of frames."""

    def __init__(self, close: Close, message: str, retry_in: float | None = None) -> None:
        super().__init__(message)
        self.close = close
        self.message = message
        self.retry_in = retry_in


class Request:
    """One request to a door. Raises Unwelcome if it says what no device of ours would say."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        query = parse_qs(scope["query_string"].decode("latin1"), keep_blank_values=True)
        self.wanted: dict[str, str] = {name: values[-1] for name, values in query.items()}
        self.conversation: uuid.UUID = scope["url_route"]["kwargs"]["conversation"]
        self.credential: Credential = credential_of(scope)
        self.encoding: str = self.wanted.get("encoding", "json")
        try:
            self.device = uuid.UUID(self.wanted.get("device", ""))
        except ValueError:
            raise Unwelcome(Close.BAD_REQUEST, "Say which device this is: device=<uuid>.") from None
        if self.encoding not in {"json", "html"}:
            raise Unwelcome(Close.BAD_REQUEST, "encoding is json or html.")

    @property
    def name(self) -> str:
        """What people call the device."""
        return self.wanted.get("name", "")

    @property
    def connection_name(self) -> str:
        """Of the connection it belongs to; empty if it stands alone. A poll's has the answer's number behind it."""
        return self.wanted.get("connection", "").partition(".")[0]

    def connection(self, host: "Host") -> Connection | None:
        """The connection it names, if that is here and this device's own."""
        found = host.roster.named(self.connection_name)
        if not isinstance(found, Connection):
            return None
        theirs = (found.credential, found.conversation, found.device)
        return found if theirs == (self.credential, self.conversation, self.device) else None

    def is_ours(self) -> bool:
        """True unless a page of another site may have made a signed-in browser send it."""
        if self.credential.token is not None:
            return True
        if self.headers.get(b"origin"):
            return is_allowed(self.scope)
        return self.headers.get(b"sec-fetch-site") == b"same-origin"


def connect(host: "Host", request: Request, transport: str) -> tuple[Connection, Mailbox]:
    """A connection whose frames wait in a mailbox."""
    mailbox = Mailbox(lambda: connection.cursor)
    connection = Connection(
        host,
        credential=request.credential,
        conversation=request.conversation,
        device=request.device,
        encoding=request.encoding,
        transport=transport,
        send=mailbox.put,
        end=mailbox.end,
        window=HTTP_WINDOW,
    )
    return connection, mailbox


async def admit(connection: Connection, request: Request) -> Any:
    """Let the device in. Raises Unwelcome."""
    if connection.host.draining:
        raise Unwelcome(Close.DRAIN, "This server is about to end.", retry_in=1.0)
    if not is_allowed(request.scope):
        raise Unwelcome(Close.ORIGIN, "This page may not follow the conversation.")
    try:
        return await connection.admit(request.name)
    except Refused as refusal:
        raise Unwelcome(REFUSALS[refusal.code], refusal.message) from None
    except Exception as error:
        logger.exception("a connection could not be let in", extra=ids(connection))
        raise Unwelcome(Close.FEED_FAILED, TROUBLE, retry_in=2.0) from error


async def answer(send: Send, status: int, body: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """One whole answer in JSON; none at all with status 204."""
    content = body.encode()
    kind = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*HEADERS, *(kind if content else []), *(headers or [])],
        }
    )
    await send({"type": "http.response.body", "body": content})


async def is_only(method: str, scope: Scope, send: Send) -> bool:
    """True if the request is of this method; another one is answered."""
    if scope["method"] == method:
        return True
    refusal = Refused(Code.INVALID, f"This address takes {method} only.")
    await answer(send, 405, nack(None, refusal), [(b"allow", method.encode())])
    return False


async def turn_away(send: Send, why: Unwelcome) -> None:
    """The goodbye as an answer."""
    fields = {} if why.retry_in is None else {"retry_in": why.retry_in}
    later = [] if why.retry_in is None else [(b"retry-after", b"1")]
    await answer(send, STATUSES[why.close], goodbye(why.close, why.message, **fields), later)


async def gone(receive: Receive) -> None:
    """Returns when the device is no longer there. Whatever body is still to come is let pass."""
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def watched(receive: Receive) -> "AsyncIterator[asyncio.Task[None]]":
    """A task that is done when the device is no longer there."""
    watch = asyncio.create_task(gone(receive), name="http-gone")
    try:
        yield watch
    finally:
        await end(watch)
