"""What Prometheus asks: `/metrics`. Not for the public: it tells how many people are here and what they cost.

With METRICS_TOKEN who brings it may read, and nobody else. Without, only who asks from this machine by one of its own
names, and never where a proxy may stand in front: to us, everybody behind a proxy comes from this machine.
"""

import hmac
import ipaddress

from django.conf import settings
from prometheus_client import make_asgi_app

from chat.errors import Code, Refused
from chat.transport.http import Receive, Scope, Send, answer, is_only
from chat.wire import nack

# Any of them says that somebody asks for somebody else.
_FORWARDED = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
)
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_app = make_asgi_app()


async def metrics(scope: Scope, receive: Receive, send: Send) -> None:
    """Every metric of this process."""
    if not await is_only("GET", scope, send):
        return
    if may_read(scope):
        await _app(scope, receive, send)
    elif settings.METRICS_TOKEN:
        refusal = Refused(Code.FORBIDDEN, "Bring the METRICS_TOKEN: Authorization: Bearer …")
        await answer(send, 401, nack(None, refusal), [(b"www-authenticate", b"Bearer")])
    else:
        refusal = Refused(Code.FORBIDDEN, "Only from this machine itself, until METRICS_TOKEN is set.")
        await answer(send, 403, nack(None, refusal))


def may_read(scope: Scope) -> bool:
    """See above."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if settings.METRICS_TOKEN:
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), settings.METRICS_TOKEN.encode())
    if settings.SECURE_PROXY_SSL_HEADER is not None or _FORWARDED & headers.keys():
        return False
    # The name as well: a page of another site can make a browser on this machine ask under its own.
    name = headers.get(b"host", b"").decode("latin1").rpartition(":")
    host = name[0] if name[2].isdigit() else "".join(name)
    return host.lower() in _OWN_NAMES and _is_loopback(scope.get("client"))


def _is_loopback(client: tuple[str, int] | None) -> bool:
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False
