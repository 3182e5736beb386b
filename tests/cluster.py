"""Many processes on one PostgreSQL and one Redis, all private: web servers, and workers of the job engine."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tests.backends import as_nobody, postgresql, redis
from tests.device import until
from tests.server import Server, migrate

# Short leases, so that the dead are found soon; a worker on a busy machine must not be taken for one of them.
SETTINGS = {
    "CHAT_ENGINE": "procrastinate",
    "CHAT_LEASE_SECONDS": "6",
    "CHAT_SWEEP_SECONDS": "0.5",
    "CHAT_DRAIN_SECONDS": "3",
}


class Clock:
    """Of the processes that get `environment`, and of no other. What measures time from a start goes on as it was."""

    library = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.jump("+0")
        self.environment = {
            "LD_PRELOAD": str(self.library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, by: str) -> None:
        """From now on it shows so much more than it should, such as `+25h`, or less."""
        written = self._file.with_suffix(".new")
        written.write_text(by)
        written.replace(self._file)  # never half of it


class Worker(Server):
    """`manage.py work`."""

    ready = re.compile(rb"Working")

    def _command(self) -> list[str]:
        return ["manage.py", "work"]


@asynccontextmanager
async def away(data: Path) -> AsyncIterator[None]:
    """The PostgreSQL with this folder ends at once, and is started again afterwards, as it was."""
    pid = int((data / "postmaster.pid").read_text().split()[0])
    command = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")  # noqa: ASYNC240 - it is not a disk
    os.kill(pid, signal.SIGINT)
    await until(lambda: not (data / "postmaster.pid").exists(), "the end of PostgreSQL", 60)
    yield
    with (data.parent / "postgresql-again.log").open("w") as log:
        again = subprocess.Popen([*as_nobody(), *command], stdout=log, stderr=log, cwd="/")  # noqa: ASYNC220
    _started.append(again)


_started: list["subprocess.Popen[bytes]"] = []  # what somebody started again; ended with the others


@contextmanager
def backends() -> Iterator[dict[str, str]]:
    """Both servers, with tables and nothing in them; yields the environment of whoever uses them."""
    with (
        tempfile.TemporaryDirectory(prefix="cluster-") as folder,
        postgresql(Path(folder)) as database,
        redis(Path(folder)) as layer,
    ):
        environment = {**SETTINGS, "DATABASE_URL": database, "REDIS_URL": layer}
        migrate(folder, **environment)
        try:
            yield environment
        finally:
            while _started:
                again = _started.pop()
                again.send_signal(signal.SIGINT)
                again.wait(60)
