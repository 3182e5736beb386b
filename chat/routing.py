"""Where the doors are. Everything else over HTTP is the pages'."""

from typing import Any

from django.urls import path, re_path

from chat.transport.doors import events
from chat.transport.health import alive, ready
from chat.transport.post import signals
from chat.transport.scrape import metrics
from chat.transport.upload import files
from chat.transport.websocket import ConversationConsumer, Nowhere

websocket_urlpatterns = [
    path("ws/conversations/<uuid:conversation>/", ConversationConsumer.as_asgi()),
    re_path("", Nowhere.as_asgi()),
]


def with_pages(pages: Any) -> list[Any]:
    """The HTTP doors, and `pages` for every other address. They are ASGI applications, which Django's types forbid."""
    doors: list[tuple[str, Any]] = [("events", events), ("signals", signals), ("files", files)]
    probes: list[tuple[str, Any]] = [("healthz", alive), ("readyz", ready), ("metrics", metrics)]
    return [
        *(path(f"api/conversations/<uuid:conversation>/{name}", door) for name, door in doors),
        *(path(name, probe) for name, probe in probes),
        re_path("", pages),
    ]
