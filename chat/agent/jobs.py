"""Runs on machines of their own: Procrastinate tells a worker which conversation has something to start.

A job is a hint that survives everything and decides nothing. What may start is read from the conversation when the
job runs, under its lock and a lease, so that a job which is lost, late or doubled costs time and never an answer:
every worker's sweep finds what waits without one. Whoever commits something that lets a run start asks for a job.
"""

import asyncio
import logging
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from functools import cache, partial
from typing import Any

from django.conf import settings
from procrastinate import App, JobContext, PsycopgConnector
from procrastinate.contrib.django.django_connector import DjangoConnector
from procrastinate.contrib.django.models import ProcrastinateJob
from procrastinate.contrib.django.utils import connector_params
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status
from procrastinate.worker import Worker as Taker

from chat.agent.engine import Engine
from chat.ending import end
from chat.host import Host
from chat.logs import reason

logger = logging.getLogger(__name__)

TASK, QUEUE = "chat.answer", "runs"
POLL_SECONDS = 1.0  # how long a notification that was lost is missed
BEAT_SECONDS, DEAD_SECONDS = 5.0, 30.0  # of Procrastinate's workers; our leases know long before
AGAIN_SECONDS = 0.5
LEAVE_SECONDS = 3.0  # for Procrastinate's worker to say in the database that it goes


@cache
def asking() -> App:
    """Asks for jobs over Django's own connections."""
    return App(connector=DjangoConnector())


def ask(conversations: Collection[uuid.UUID]) -> None:
    """Ask for a job for each, unless one waits already."""
    locks = {f"answer {conversation.hex}": conversation for conversation in conversations}
    waiting = ProcrastinateJob.objects.filter(status=Status.TODO.value, queueing_lock__in=list(locks))
    for lock in locks.keys() - set(waiting.values_list("queueing_lock", flat=True)):
        with suppress(AlreadyEnqueued):
            asking().configure_task(TASK, queue=QUEUE, queueing_lock=lock).defer(conversation=locks[lock].hex)


class Asker:
    """Asks for jobs without making anybody wait. What could not be asked for is found by a worker's sweep."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._wanted: set[uuid.UUID] = set()
        self._task: asyncio.Task[None] | None = None

    def ask(self, conversation: uuid.UUID) -> None:
        self._wanted.add(conversation)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask_all(), name="ask-for-jobs")

    async def _ask_all(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, set()
            try:
                await self._host.database.run(ask, wanted)
            except Exception as error:  # noqa: BLE001 - a database that is away comes back
                logger.warning("could not ask for %d jobs; a sweep does: %s", len(wanted), reason(error))

    async def close(self) -> None:
        """Wait until all is asked for: what this process handed over is not to wait for a sweep."""
        if self._task is not None:
            await self._task


class Dispatcher:
    """Beside a server that executes no runs itself."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._asker = Asker(host)

    async def start(self) -> None:
        self._host.desk.engine = lambda message: self._asker.ask(uuid.UUID(message["conversation"]))

    async def drain(self, seconds: float) -> None:
        """Nothing runs here."""

    async def close(self) -> None:
        await self._asker.close()


class Worker(Engine):
    """Executes what jobs tell it to. One process: `manage.py work`."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._asker = Asker(host)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await super().start()
        self._serving = asyncio.create_task(self._serve(), name="procrastinate")

    def wake(self, conversation: uuid.UUID) -> None:
        """Not by itself: there are other workers."""
        self._asker.ask(conversation)

    def heard_from_others(self, message: dict[str, Any]) -> None:
        """They have asked for the job."""
        self._take_cancels(message)

    async def answer(self, conversation: uuid.UUID) -> None:
        """Execute what may start there, to its end. Cancelled, it only waits no longer."""
        if self.draining:
            self.wake(conversation)  # for another worker
        elif (claim := self.claim(conversation)) is not None and (runs := await asyncio.shield(claim)):
            await asyncio.wait(runs)

    async def drain(self, seconds: float) -> None:
        """Take no more jobs, then as every engine: finish what can be, hand over the rest."""
        self.draining = True
        if self._serving is not None:
            await end(self._serving, again=LEAVE_SECONDS)
        await super().drain(seconds)

    async def close(self) -> None:
        if self._serving is not None:
            await end(self._serving, again=LEAVE_SECONDS)
        await super().close()
        await self._asker.close()

    async def _serve(self) -> None:
        """Take jobs for as long as this process lives. A database that was away ends Procrastinate's worker, not us."""
        while not self.draining:
            try:
                async with working(self).open_async() as app:
                    taker = Taker(
                        app=app,
                        queues=[QUEUE],
                        name=self.worker,
                        # What an earlier one took goes on.
                        concurrency=max(1, settings.CHAT_WORKER_RUNS - self.running),
                        fetch_job_polling_interval=POLL_SECONDS,
                        # Runs are ours to end: see `drain`.
                        shutdown_graceful_timeout=0,
                        delete_jobs="always",
                        install_signal_handlers=False,
                        stalled_worker_timeout=DEAD_SECONDS,
                    )
                    tidying = asyncio.create_task(self._repeat(BEAT_SECONDS, partial(tidy, taker)), name="tidy-jobs")
                    try:
                        await taker.run()  # type: ignore[no-untyped-call]
                    finally:
                        tidying.cancel()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try may do
                logger.warning("no jobs are taken for %s s: %s", AGAIN_SECONDS, reason(error))
            await asyncio.sleep(AGAIN_SECONDS)


class Listening(PsycopgConnector):
    """Listens again after a database that was away. Procrastinate does so once, and does not miss it afterwards."""

    async def listen_notify(self, on_notification: Any, channels: Iterable[str]) -> None:
        channels = list(channels)
        while True:
            try:
                await super().listen_notify(on_notification, channels)
            except ConnectorException as error:
                logger.warning("jobs are not heard of for %s s: %s", AGAIN_SECONDS, reason(error))
            await asyncio.sleep(AGAIN_SECONDS)


def working(worker: Worker) -> App:
    """Takes jobs, over connections of its own."""
    app = App(connector=Listening(kwargs=connector_params(), min_size=1, max_size=4))

    @app.task(name=TASK, queue=QUEUE, pass_context=True)
    async def answer(context: JobContext, conversation: str) -> None:
        await worker.answer(uuid.UUID(conversation))

    return app


async def tidy(taker: Taker) -> None:
    """Say that we are here, and forget the jobs of workers that died. Their runs are found by their leases."""
    jobs = taker.app.job_manager
    if taker.worker_id is not None:  # its own heart stops for good when the database is away for long
        await jobs.update_heartbeat(taker.worker_id)
    for job in await jobs.get_stalled_jobs(seconds_since_heartbeat=DEAD_SECONDS):
        await jobs.finish_job(job, Status.FAILED, delete_job=True)
    await jobs.prune_stalled_workers(2 * DEAD_SECONDS)
