"""A page of another site must not speak for a signed-in user: the browser's Origin is compared as a whole.

Scheme, host and port all count. With ALLOWED_ORIGINS set, only those; otherwise the origin must be the one
the request itself was made to. Clients that are not browsers send no Origin and bring no cookies of a browser.
"""

from typing import Any

from django.conf import settings

from chat.transport.close import Close


class SameOriginOnly:
    """ASGI middleware for WebSockets. A refused one is accepted and closed with a code a browser can read."""

    def __init__(self, application: Any) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if is_allowed(scope):
            await self._application(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept", "subprotocol": None})
        await send({"type": "websocket.close", "code": Close.ORIGIN.value})


def is_allowed(scope: dict[str, Any]) -> bool:
    """True if the handshake's Origin may open a WebSocket here."""
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin1").lower()
    if not origin:
        return True
    if settings.ALLOWED_ORIGINS:
        return origin in {allowed.lower().rstrip("/") for allowed in settings.ALLOWED_ORIGINS}
    host = headers.get(b"host", b"").decode("latin1").lower()
    secure = scope.get("scheme") in {"wss", "https"} or _forwarded_https(headers)
    return bool(origin == f"{'https' if secure else 'http'}://{host}")


def _forwarded_https(headers: dict[bytes, bytes]) -> bool:
    trusted = settings.SECURE_PROXY_SSL_HEADER is not None
    return bool(trusted and headers.get(b"x-forwarded-proto") == b"https")
