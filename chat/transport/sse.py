"""The SSE door: one long answer that carries every frame as an event. What the device says comes by POST."""

import asyncio

from chat import host
from chat.ending import end
from chat.transport.http import HEADERS, Receive, Request, Scope, Send, Unwelcome, admit, connect, turn_away, watched
from chat.transport.mailbox import Mailbox


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Say hello, everything missed, `sync` and what happens, until one side ends. Losing it is not a stop."""
    try:
        request = Request(scope)
        connection, mailbox = connect(await host.running(), request, "sse")
        access = await admit(connection, request)
    except Unwelcome as why:
        await turn_away(send, why)
        return
    after = request.headers.get(b"last-event-id", b"").decode("latin1") or request.wanted.get("after")
    opening = asyncio.create_task(connection.serve(access, after, request.wanted.get("epoch")), name="sse-open")
    try:
        async with watched(receive) as device_gone:
            carrying = asyncio.create_task(_carry(mailbox, send), name="sse-carry")
            await asyncio.wait([carrying, device_gone], return_when=asyncio.FIRST_COMPLETED)
            await end(carrying)
    finally:
        opening.cancel()
        await connection.close()


async def _carry(mailbox: Mailbox, send: Send) -> None:
    headers = [*HEADERS, (b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    stands_at = 0
    while not mailbox.ended:
        await mailbox.wait()
        events = []
        for serial, body in mailbox.take():
            # An id where the cursor moves; an event without one keeps the last, as the standard says.
            events.append(f"data: {body}\n\n" if serial == stands_at else f"id: {serial}\ndata: {body}\n\n")
            stands_at = serial
        await send({"type": "http.response.body", "body": "".join(events).encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
