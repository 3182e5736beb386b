"""Removes files that nobody wants any more, now and then. What could be removed at once was."""

import asyncio
import logging
import random

from chat.ending import end
from chat.host import Host
from chat.logs import reason
from chat.models import File

logger = logging.getLogger(__name__)

LOOK_SECONDS = 600.0


class Tidying:
    """Beside every server and worker, each at a moment of its own: to remove a file twice does no harm."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._look_again(), name="tidying")

    async def drain(self, seconds: float) -> None:
        """It goes on to the end."""

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)

    async def _look_again(self) -> None:
        await asyncio.sleep(random.uniform(0, LOOK_SECONDS))  # noqa: S311 - no secret
        while True:
            try:
                if removed := await self._host.database.run(File.sweep):
                    logger.info("files removed", extra={"files": removed})
            except Exception as error:  # noqa: BLE001 - a database that is away comes back
                logger.warning("could not look for files: %s", reason(error))
            await asyncio.sleep(LOOK_SECONDS)
