"""Execute runs, and serve nobody: a worker of the job engine (CHAT_ENGINE=procrastinate)."""

import asyncio
import gc
import signal
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from prometheus_client import start_http_server

from chat import host
from chat.management.commands.serve import SWITCH_SECONDS


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args: Any, **options: Any) -> None:
        if settings.CHAT_ENGINE != "procrastinate":
            raise CommandError(
                f"CHAT_ENGINE is {settings.CHAT_ENGINE}: runs are executed by the processes that serve. "
                "Set CHAT_ENGINE=procrastinate there and here."
            )
        sys.setswitchinterval(SWITCH_SECONDS)
        asyncio.run(self._work())

    async def _work(self) -> None:
        from project.asgi import start_worker  # noqa: PLC0415 - it joins everything

        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        host.provide(start_worker)
        if settings.METRICS_PORT:  # before the first run is claimed
            try:
                start_http_server(settings.METRICS_PORT, settings.METRICS_HOST)  # in a thread of its own
            except OSError as error:
                raise CommandError(
                    f"Could not show metrics on {settings.METRICS_HOST}:{settings.METRICS_PORT} ({error.strerror}). "
                    "Give each worker of a machine its own METRICS_PORT."
                ) from None
        await host.running()
        gc.collect()
        gc.freeze()
        self.stdout.write("Working  (stop with Ctrl-C)")
        self.stdout.flush()
        await stopping.wait()
        await host.stop()
