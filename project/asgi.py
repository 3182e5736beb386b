"""Where doors and app are joined: what a server imports, and how its process brings up the host."""

import asyncio
import os
import signal
import threading
from types import FrameType
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()  # first: it sets Django up for the imports below

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.sessions import CookieMiddleware
from django.conf import settings
from django.core.checks import run_checks
from django.utils.module_loading import import_string

from chat import host
from chat.agent.engine import chosen_engine
from chat.census import Census
from chat.layer import AlreadyServed, OnlyProcess
from chat.routing import websocket_urlpatterns, with_pages
from chat.tidying import Tidying
from chat.transport.doorkeeper import Doorkeeper
from chat.transport.origin import SameOriginOnly


async def start_host() -> host.Host:
    """The host of a process that serves, and that executes runs if CHAT_ENGINE says so."""
    made = host.Host()
    await made.start([OnlyProcess, *_exporter(), chosen_engine(), Census, Tidying], Doorkeeper)
    return made


async def start_worker() -> host.Host:
    """The host of a process that only executes runs."""
    made = host.Host()
    await made.start([*_exporter(), import_string("chat.agent.jobs.Worker"), Census, Tidying], Doorkeeper)
    return made


def _exporter() -> list[Any]:
    """First of all, so that it is there until the last run has ended."""
    return [import_string("chat.exporting.Exporter")] if settings.TRACES else []


host.provide(start_host)


def _drain_when_told_to_end() -> None:
    """Such a server waits for its requests to end before it says `shutdown`, and a stream does not end by itself.

    So the devices are sent away as soon as the signal comes, before the server's own handler goes on.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        theirs = signal.getsignal(number)
        if not callable(theirs) or threading.current_thread() is not threading.main_thread():
            continue

        def told(received: int, frame: FrameType | None, theirs: Any = theirs) -> None:
            loop.call_soon_threadsafe(lambda: asyncio.ensure_future(host.stop()))
            theirs(received, frame)

        signal.signal(number, told)


async def lifespan(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """For servers that say when they start and end. Under daphne `manage.py serve` does it."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            # `manage.py` looks at the settings before it does anything; other servers do not.
            wrong = [str(one) for one in run_checks() if one.is_serious() and not one.is_silenced()]
            if wrong:
                await send({"type": "lifespan.startup.failed", "message": "\n".join(wrong)})
                return
            try:
                await host.running()
            except AlreadyServed as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            _drain_when_told_to_end()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await host.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


application = ProtocolTypeRouter(
    {
        "http": CookieMiddleware(URLRouter(with_pages(django_application))),
        "websocket": SameOriginOnly(CookieMiddleware(URLRouter(websocket_urlpatterns))),
        "lifespan": lifespan,
    }
)
