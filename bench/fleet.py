"""Two servers, two workers, one PostgreSQL and one Redis, each of which can be killed, frozen and started again."""

import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
from redis import Redis
from redis.exceptions import RedisError

from bench.client import until
from bench.process import Process, Site
from tests.backends import as_nobody, postgresql, redis


class Backing:
    """A server this one did not start: its process and what that begot, by id, and how to have it again."""

    def __init__(self, pid: int, command: list[str], log: Path) -> None:
        self.pid, self._command, self._log = pid, command, log
        self._again: subprocess.Popen[bytes] | None = None

    @classmethod
    def postgresql(cls, folder: Path) -> Self:
        """The one that `tests.backends` started there."""
        pid = int((folder / "postgresql" / "postmaster.pid").read_text().split()[0])
        command = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
        return cls(pid, [*as_nobody(), *command], folder / "postgresql.log")

    @classmethod
    def redis(cls, folder: Path, url: str, *options: str) -> Self:
        """The one that `tests.backends` started there; `options` when it is started again."""
        with Redis.from_url(url) as client:  # it calls itself something else than it was started as
            pid = client.info()["process_id"]
        command = ["redis-server", "--port", str(urlsplit(url).port), "--bind", "127.0.0.1", "--save", ""]
        return cls(pid, [*command, "--dir", str(folder), *options], folder / "redis.log")

    def signal(self, number: signal.Signals) -> None:
        """To the process and, if it is to stand still or to go on, to its children."""
        pids = [self.pid]
        if number in {signal.SIGSTOP, signal.SIGCONT}:
            pids += map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def ended(self) -> None:
        """Return when it is gone. Ours is buried first: PostgreSQL takes the id of a zombie for that of a server."""

        def gone() -> bool:
            with suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            return not Path(f"/proc/{self.pid}").exists()

        await until(gone, "the end of a server")

    async def start(self, answers: Callable[[], bool]) -> None:
        """As it was, until it answers. PostgreSQL refuses while a child of the last one is there."""
        end = time.monotonic() + 60
        while True:
            with self._log.open("a") as log:
                started = subprocess.Popen(self._command, stdout=log, stderr=log, cwd="/")  # noqa: ASYNC220
            self._again, self.pid = started, started.pid
            await until(lambda: answers() or started.poll() is not None, "a server that was started again")  # noqa: B023
            if started.poll() is None:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"not started again: {self._log.read_text()[-500:]}")

    def close(self) -> None:
        if self._again is not None:
            self._again.send_signal(signal.SIGINT)
            self._again.wait(20)


class Fleet:
    """`async with fleet.open(…)`: two of each process. Whoever ends one starts the next."""

    def __init__(self, **settings: str) -> None:
        self.site = Site(CHAT_ENGINE="procrastinate", CHAT_PROVIDER="scripted", **settings)
        self.webs: list[Process] = []
        self.workers: list[Process] = []

    @asynccontextmanager
    async def open(self, conversations: int) -> AsyncIterator[dict[str, Any]]:
        """Both of everything; yields what `bench.prepare` made."""
        folder = self.site.directory
        with self.site, postgresql(folder) as self.database, redis(folder) as self.layer:
            self.site.env |= {"DATABASE_URL": self.database, "REDIS_URL": self.layer}
            made = self.site.prepare(conversations=conversations)
            self.postgresql = Backing.postgresql(folder)
            self.redis = Backing.redis(folder, self.layer)
            try:
                for _ in range(2):
                    self.start_web()
                    self.start_worker()
                yield made
            finally:
                for process in (*self.webs, *self.workers):
                    process.stop()
                self.postgresql.close()
                self.redis.close()

    def start_web(self) -> None:
        self.webs.append(self.site.serve())

    def start_worker(self) -> None:
        self.workers.append(self.site.start("manage.py", "work"))

    def some_web(self, chance: random.Random) -> Process:
        """One that a balancer would choose."""
        return chance.choice([web for web in self.webs if web.popen.poll() is None] or self.webs)

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """From the database, beside Django."""
        with psycopg.connect(self.database, connect_timeout=5) as connection:
            return connection.execute(statement, values).fetchall()

    def database_answers(self) -> bool:
        return database_answers(self.database)

    def flush_redis(self) -> None:
        """It forgets all, and drops everybody."""
        flush_redis(self.layer)

    def redis_answers(self) -> bool:
        return redis_answers(self.layer)


def database_answers(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


def redis_answers(url: str) -> bool:
    try:
        with Redis.from_url(url, socket_timeout=1) as client:
            return bool(client.ping())
    except RedisError:
        return False


def flush_redis(url: str) -> None:
    """It forgets all, and drops everybody."""
    with Redis.from_url(url) as client:
        client.flushall()
        client.client_kill_filter(_type="pubsub")
        client.client_kill_filter(_type="normal", skipme=True)
