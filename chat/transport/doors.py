"""Which HTTP door a request for events goes to: by what it accepts."""

from chat.transport.http import Receive, Scope, Send, is_only
from chat.transport.long_poll import poll
from chat.transport.sse import stream


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """SSE for whoever accepts an event stream, a long poll for everybody else."""
    if not await is_only("GET", scope, send):
        return
    accepts = dict(scope["headers"]).get(b"accept", b"").lower()
    await (stream if b"text/event-stream" in accepts else poll)(scope, receive, send)
