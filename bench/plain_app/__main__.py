"""Serve the plain application with the same daphne and the same options as the project."""

# ruff: noqa: E402 - Django is set up before anything of it is imported

import os
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "bench.plain_app.settings"

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter
from daphne.endpoints import build_endpoint_description_strings
from daphne.server import Server
from django.urls import path

from bench.plain_app.consumer import Plain


class Announcing(Server):  # type: ignore[misc]
    """Says where it listens."""

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        print(f"Serving on http://127.0.0.1:{port.getHost().port}/", flush=True)


application = ProtocolTypeRouter(
    {"http": django_application, "websocket": URLRouter([path("plain/<slug:group>/", Plain.as_asgi())])}
)

if __name__ == "__main__":
    Announcing(
        application,
        endpoints=build_endpoint_description_strings(host="127.0.0.1", port=0),
        websocket_timeout=-1,
        server_name="",
    ).run()
