"""Many processes on one PostgreSQL and one Redis, all private: web servers, and workers of the job engine."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.backends import postgresql, redis
from tests.server import Server

# Short leases, so that the dead are found soon.
SETTINGS = {
    "CHAT_ENGINE": "procrastinate",
    "CHAT_LEASE_SECONDS": "3",
    "CHAT_SWEEP_SECONDS": "0.5",
    "CHAT_DRAIN_SECONDS": "3",
}


class Worker(Server):
    """`manage.py work`."""

    ready = re.compile(rb"Working")

    def _command(self) -> list[str]:
        return ["manage.py", "work"]


@contextmanager
def backends() -> Iterator[dict[str, str]]:
    """Both servers; yields the environment of whoever uses them."""
    with (
        tempfile.TemporaryDirectory(prefix="cluster-") as folder,
        postgresql(Path(folder)) as database,
        redis(Path(folder)) as layer,
    ):
        yield {**SETTINGS, "DATABASE_URL": database, "REDIS_URL": layer}
