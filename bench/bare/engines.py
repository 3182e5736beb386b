"""Both engines behind one face: jobs are asked for here and done by workers that the engine's own command starts."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import NamedTuple, Self

from redis import Redis

from bench.bare import JOURNAL, TUNED
from bench.bare.with_procrastinate import made as made_procrastinate
from bench.client import reached, until
from bench.fleet import Backing, database_answers, flush_redis, redis_answers
from bench.process import ROOT, Site
from tests.backends import postgresql, redis

AT_ONCE = 400  # jobs that a worker may execute


class Begun(NamedTuple):
    """A job that began: seconds after it was asked for, and where."""

    after: float
    pid: int


class Engine(ABC):
    """`async with Engine(tuned=…) as engine`: a site, a private database or Redis, and whoever asks for jobs."""

    name: str
    faults: tuple[str, ...]
    limit: str  # the option that bounds how long SIGTERM lets jobs go on

    def __init__(self, *, tuned: bool = False) -> None:
        self._tuned = tuned
        self._stack = AsyncExitStack()
        self._workers: list[subprocess.Popen[bytes]] = []
        self._asked = 0

    async def __aenter__(self) -> Self:
        self.site = self._stack.enter_context(Site())
        self.journal = self.site.directory / "journal.txt"
        self.journal.touch()
        self.env = {**self.site.env, JOURNAL: str(self.journal), TUNED: "1" if self._tuned else ""}
        await self._open(self._stack)
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self._workers:
            self.kill(worker)
        self.backing.close()
        await self._stack.aclose()

    @abstractmethod
    async def _open(self, stack: AsyncExitStack) -> None:
        """Sets `backing` and what asks."""
        self.backing: Backing

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    async def _ask(self, number: int, seconds: float) -> None: ...

    @abstractmethod
    async def fault(self, name: str) -> None:
        """Make one of `faults`, and what it takes to have everything back."""

    async def ask(self, count: int, seconds: float) -> list[int]:
        """So many jobs at once, by number. Said again for ten seconds if it fails: what is asked for is there."""

        async def one(number: int) -> None:
            end = time.monotonic() + 10
            while True:
                try:
                    return await self._ask(number, seconds)
                except Exception:
                    if time.monotonic() > end:
                        raise
                await asyncio.sleep(0.1)

        numbers = list(range(self._asked, self._asked + count))
        self._asked += count
        await asyncio.gather(*map(one, numbers))
        return numbers

    async def start(self, *options: str) -> subprocess.Popen[bytes]:
        """A worker, in a process group of its own; returns when it has executed a job."""
        with (self.site.directory / "workers.txt").open("ab") as log:
            # If this process is killed, it ends as well: taskiq's would start its children again for ever.
            dying = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
            command = [*dying, sys.executable, "-m", *self._command(), *options]
            process = subprocess.Popen(  # noqa: ASYNC220
                command, cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        self._workers.append(process)
        known = {one.pid for several in self.begun().values() for one in several}
        end = time.monotonic() + 30
        while not {one.pid for several in self.begun().values() for one in several} - known:
            if time.monotonic() > end or process.poll() is not None:
                raise RuntimeError(f"no worker: {(self.site.directory / 'workers.txt').read_text()[-1000:]}")
            await self.ask(1, 0)
            await asyncio.sleep(0.2)
        return process

    def kill(self, worker: subprocess.Popen[bytes]) -> None:
        """With its children: taskiq's command starts processes, and starts them again."""
        try:
            os.killpg(worker.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        finally:
            worker.wait()

    def begun(self) -> dict[int, list[Begun]]:
        """By number, every time that a job began."""
        found = defaultdict(list)
        for what, number, after, pid in self._lines():
            if what == "began":
                found[number].append(Begun(after / 1e9, pid))
        return found

    def ended(self) -> dict[int, float]:
        return {number: after / 1e9 for what, number, after, _ in self._lines() if what == "ended"}

    def _lines(self) -> list[tuple[str, int, int, int]]:
        rows = [line.split() for line in self.journal.read_text().splitlines()]
        return [(what, int(number), int(after), int(pid)) for what, number, after, pid in rows]

    async def all_begun(self, numbers: list[int], seconds: float, times: int = 1) -> int:
        """Wait until each began so often, or the seconds are over. Returns how many did."""

        def those() -> int:
            begun = self.begun()
            return sum(len(begun[number]) >= times for number in numbers)

        await reached(lambda: those() == len(numbers), seconds)
        return those()


class Procrastinate(Engine):
    name = "procrastinate"
    faults = ("restart",)
    limit = "--shutdown-graceful-timeout"

    async def _open(self, stack: AsyncExitStack) -> None:
        url = stack.enter_context(postgresql(self.site.directory))
        self.env["DATABASE_URL"] = self._url = url
        self.backing = Backing.postgresql(self.site.directory)
        self._app = made_procrastinate(url)
        await stack.enter_async_context(self._app.open_async())
        await self._app.schema_manager.apply_schema_async()

    def _command(self) -> list[str]:
        app = ["procrastinate", "--app", "bench.bare.with_procrastinate.app", "worker"]
        return [*app, "--concurrency", str(AT_ONCE), "--queues", "jobs,tuned" if self._tuned else "jobs"]

    async def _ask(self, number: int, seconds: float) -> None:
        await self._app.tasks["job"].defer_async(number=number, asked=time.monotonic_ns(), seconds=seconds)

    async def fault(self, name: str) -> None:
        self.backing.signal(signal.SIGKILL)
        await self.backing.ended()
        await self.backing.start(lambda: database_answers(self._url))


class Taskiq(Engine):
    name = "taskiq"
    faults = ("restart", "FLUSHALL")
    limit = "--wait-tasks-timeout"

    async def _open(self, stack: AsyncExitStack) -> None:
        # Here, so that without the package everything but this class works.
        from bench.bare.with_taskiq import made as made_taskiq  # noqa: PLC0415

        url = stack.enter_context(redis(self.site.directory))
        self.env["REDIS_URL"] = self._url = url
        with Redis.from_url(url) as client:  # it is compared with a database, so it keeps what it has
            client.config_set("appendonly", "yes")
        self.backing = Backing.redis(self.site.directory, url, "--appendonly", "yes")
        self._broker = made_taskiq(url, tuned=self._tuned)
        await self._broker.startup()
        stack.push_async_callback(self._broker.shutdown)

    def _command(self) -> list[str]:
        worker = ["taskiq", "worker", "bench.bare.with_taskiq:broker", "--workers", "1"]
        return [*worker, "--max-async-tasks", str(AT_ONCE)]

    async def _ask(self, number: int, seconds: float) -> None:
        task = self._broker.find_task("job")
        assert task is not None
        await task.kiq(number=number, asked=time.monotonic_ns(), seconds=seconds)

    async def fault(self, name: str) -> None:
        if name == "FLUSHALL":
            await asyncio.to_thread(flush_redis, self._url)
            return
        self.backing.signal(signal.SIGKILL)
        await self.backing.ended()
        await self.backing.start(lambda: redis_answers(self._url))


async def exited(worker: subprocess.Popen[bytes], seconds: float) -> float | None:
    """SIGTERM, and how long it took; None if it did not end in time."""
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    try:
        await until(lambda: worker.poll() is not None, "the end of a worker", seconds)
    except TimeoutError:
        return None
    return time.monotonic() - began
