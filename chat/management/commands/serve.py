"""Serve the site and execute runs, in one process."""

import gc
import os
import sys
from typing import Any

from daphne.endpoints import build_endpoint_description_strings
from django.core.management.base import BaseCommand, CommandError, CommandParser

MAX_FRAME_BYTES = 8 * 1024 * 1024  # a larger one is dropped with its connection; up to it we answer with a nack
OPTIONS = {
    "websocket_max_message_size": MAX_FRAME_BYTES,
    "websocket_max_frame_size": MAX_FRAME_BYTES,
    "websocket_timeout": -1,
    "server_name": "",
}
SWITCH_SECONDS = 0.0005


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=os.environ.get("HOST", "127.0.0.1"))
        parser.add_argument("--port", type=int, default=os.environ.get("PORT", "8000"))

    def handle(self, *args: Any, **options: Any) -> None:
        # It joins everything and installs a reactor, which only a server needs.
        from chat.server import DrainingServer  # noqa: PLC0415
        from project.asgi import application  # noqa: PLC0415

        # A database thread that has its answer waits this long for a busy event loop to let it go on: at 60 runs
        # the median delay fell from 622 to 67 ms by this line alone. The default of 5 ms is for fewer switches.
        sys.setswitchinterval(SWITCH_SECONDS)
        server = DrainingServer(
            application,
            endpoints=build_endpoint_description_strings(host=options["host"], port=options["port"]),
            **OPTIONS,
        )
        # What is loaded by now stays: looking through it again for garbage stopped everything for 70 ms at a time.
        gc.collect()
        gc.freeze()
        server.run()
        if server.trouble is not None:
            raise CommandError(f"Could not start. {server.trouble}")
        if server.failed:
            raise CommandError(f"Could not serve on {options['host']}:{options['port']}. Is something else there?")
