"""The door for signals over HTTP: one signal in, its answer out. For SSE and polls, and for scripts that only speak."""

import orjson

from chat import host, wire
from chat.errors import Code, Refused
from chat.host import Host
from chat.transport.connection import PONG
from chat.transport.http import Receive, Request, Scope, Send, Unwelcome, admit, answer, connect, is_only, turn_away

MOST_READ = 8 * 1024 * 1024  # of a body that is too large anyway: so far it is read, so that the answer is heard
STATUSES = {
    Code.CSRF: 403,
    Code.FORBIDDEN: 403,
    Code.REVOKED: 403,
    Code.SIGNED_OUT: 401,
    Code.UNKNOWN_CALL: 404,
    Code.UNKNOWN_FILE: 404,
    Code.UNKNOWN_MESSAGE: 404,
    Code.UNKNOWN_RUN: 404,
    Code.UNKNOWN_USER: 404,
    Code.BUSY: 409,
    Code.STALE: 409,
    Code.RUN_ENDED: 409,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED: 415,
    Code.BUDGET: 402,
    Code.RATE: 429,
    Code.DRAINING: 503,
    Code.STORAGE: 503,
}


async def signals(scope: Scope, receive: Receive, send: Send) -> None:
    """Carry out the signal in the body and answer with its `ack`, `nack` or `pong`."""
    if not await is_only("POST", scope, send):
        return
    try:
        request = Request(scope)
        found = await host.running()
        text = await _body(receive)
        if text is None:
            return
        if not request.is_ours():
            refusal = Refused(Code.CSRF, "A page of another site may not speak here.")
            said = wire.nack(wire.signal_id_in(text), refusal)
        elif found.draining:
            refusal = Refused(Code.DRAINING, "This server is about to end. Say it again.", retry_after=1.0)
            said = wire.nack(wire.signal_id_in(text), refusal)
        else:
            said = await _answer(found, request, text)
    except Unwelcome as why:
        await turn_away(send, why)
        return
    await respond(send, said)


async def _answer(found: Host, request: Request, text: str | bytes) -> str:
    connection = request.connection(found)
    if connection is not None:
        said = await connection.answer(text)
        connection.heard_by_post(None, pinged=said == PONG)
        return said
    # The device's connection is in another process, or there is none: one for this signal alone.
    passing, _ = connect(found, request, "post")
    passing.name = request.connection_name or passing.name
    await admit(passing, request)
    said = await passing.answer(text)
    if request.connection_name:
        found.heard_elsewhere(request.connection_name, passing, pinged=said == PONG)
    return said


async def _body(receive: Receive) -> str | bytes | None:
    """The text of the body; bytes if it is none. Of what is too large, no more than shows that it is.

    None if it was cut off: what has come may look whole, and is not all that was to be said.
    """
    kept, read, more = bytearray(), 0, True
    while more and read < MOST_READ:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        read += len(message.get("body", b""))
        if len(kept) <= wire.MAX_SIGNAL_BYTES:
            kept += message.get("body", b"")
        more = message.get("more_body", False)
    if len(kept) > wire.MAX_SIGNAL_BYTES:
        return kept.decode(errors="replace")
    try:
        return kept.decode()
    except UnicodeDecodeError:
        return bytes(kept)


async def respond(send: Send, said: str) -> None:
    """An `ack`, a `nack` with the status that it has, or nothing."""
    if not said:
        await answer(send, 204, "")
        return
    frame = orjson.loads(said)
    if frame["type"] != "nack":
        await answer(send, 200, said)
        return
    later = [(b"retry-after", str(max(1, round(frame["retry_after"]))).encode())] if "retry_after" in frame else []
    await answer(send, STATUSES.get(frame["code"], 400), said, later)
