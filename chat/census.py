"""How many runs there are in the database, looked at from time to time: a scrape waits for no database.

The counts cost one look each into the small index of runs that have not ended.
"""

import asyncio
import logging

from django.db.models import Count

from chat import metrics
from chat.ending import end
from chat.host import Host
from chat.logs import reason
from chat.models import Run
from chat.models.queue import startable
from chat.models.state import LIVE

logger = logging.getLogger(__name__)

LOOK_SECONDS = 5.0


class Census:
    """Beside every server and worker."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._look_again(), name="census")

    async def drain(self, seconds: float) -> None:
        """It counts to the end."""

    async def close(self) -> None:
        if self._task is not None:
            await end(self._task)

    async def _look_again(self) -> None:
        while True:
            try:
                metrics.counted(*await self._host.database.run(look))
            except Exception as error:  # noqa: BLE001 - a database that is away comes back
                metrics.uncounted()
                logger.warning("could not count runs: %s", reason(error))
            await asyncio.sleep(LOOK_SECONDS)


def look() -> tuple[dict[str, int], int]:
    """state → runs in it that have not ended; and the conversations where one could start."""
    states = Run.objects.filter(state__in=LIVE).order_by().values_list("state").annotate(Count("pk"))
    return dict(states), startable().count()
