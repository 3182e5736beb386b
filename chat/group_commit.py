"""Streamed text into the log: one writer per process commits what all its runs have produced since the last commit.

Idle, a token is committed at once; busy, batches grow by themselves and the cost per token falls. A token is
never its own database round trip. What a cancelled, ended or superseded run still produces is refused here.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError

from chat import log, metrics
from chat.batches import Delta, append
from chat.compaction import CHUNK
from chat.database import Database
from chat.ending import end
from chat.errors import Lost
from chat.log import Logged, News
from chat.logs import reason
from chat.models import Kind

logger = logging.getLogger(__name__)

MAX_BUFFERED = 8_000_000  # code points waiting for the database, over all runs; beyond it the runs fail
LONGEST_INTERVAL = 0.05  # seconds, unless the setting is longer
PER_RUN = 0.0002
SHARE = 0.3  # of its time that the writer may spend committing
RETRY_SECONDS = (0.05, 0.2, 0.5, *[1.0] * 9)  # a database that is away for longer fails the runs


@dataclass(slots=True)
class Pen:
    """What one attempt of a run writes one part of its answer with. `offset`: the code points handed in so far."""

    run: UUID
    attempt: int
    conversation: UUID
    answer: UUID
    part: int = 0
    offset: int = 0
    pending: list[str] = field(default_factory=list)
    pending_offset: int = 0
    pending_since: float = 0.0  # Unix time: another process may ask how old it is
    error: Exception | None = None

    @property
    def key(self) -> tuple[UUID, int]:
        return self.run, self.attempt


class GroupCommit:
    """`write` never waits; `flush` waits until everything written before it is committed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._dirty: dict[tuple[UUID, int], Pen] = {}  # a run that was taken over has two pens for a while
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()  # somebody's first words: they do not wait for a batch to grow
        self._committed = asyncio.Condition()
        self._writing: set[tuple[UUID, int]] = set()
        self._buffered = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin committing, on the running loop."""
        self._task = asyncio.create_task(self._commit_forever(), name="group-commit")

    async def close(self) -> None:
        """Stop. Whatever was written and not flushed is dropped with its runs, whose leases then lapse."""
        if self._task is not None:
            await end(self._task)

    def write(self, pen: Pen, text: str) -> None:
        """Hand in more text. Raises what made an earlier commit of this run impossible."""
        if pen.error is not None:
            raise pen.error
        if self._buffered > MAX_BUFFERED:
            raise DatabaseError("the database does not keep up")
        if pen.offset == 0:
            self._urgent.set()
        if not pen.pending:
            pen.pending_offset, pen.pending_since = pen.offset, time.time()
            self._dirty[pen.key] = pen
        pen.pending.append(text)
        pen.offset += len(text)
        self._buffered += len(text)
        self._wake.set()

    async def flush(self, pen: Pen) -> None:
        """Return when all this pen wrote is committed; raise if it could not be."""
        async with self._committed:
            await self._committed.wait_for(
                lambda: pen.error is not None or not (pen.pending or pen.key in self._writing)
            )
        if pen.error is not None:
            raise pen.error

    async def _commit_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._urgent.clear()
            began = loop.time()
            runs = await self._commit_once()
            took = loop.time() - began
            rest = interval(runs, took) - took
            if rest > 0 and self._dirty:
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest):
                        await self._urgent.wait()

    async def _commit_once(self) -> int:
        pens = list(self._dirty.values())
        self._dirty.clear()
        # What a pen wrote behind text that could not be stored is dropped: nobody is to read an answer with a hole.
        deltas = [delta for pen in pens for delta in self._take(pen) if pen.error is None]
        self._writing = {pen.key for pen in pens}
        began = time.perf_counter()
        try:
            refused = await self._commit_stubbornly(deltas)
        except Exception as error:
            # Whatever it is, the runs of the next commit must not wait for ever.
            metrics.commit_failures.inc()
            logger.exception("could not commit text of %d runs", len(pens), extra={"runs": len(pens)})
            for pen in pens:
                pen.error = error if isinstance(error, DatabaseError) else DatabaseError(str(error))
        else:
            metrics.committed(len(deltas), time.perf_counter() - began)
            for pen in pens:
                if pen.key in refused:
                    pen.error = Lost()
        finally:
            self._writing = set()
        async with self._committed:
            self._committed.notify_all()
        return len(pens)

    def _take(self, pen: Pen) -> list[Delta]:
        """Usually one. A database that was slow, or a provider that was fast, must not make a frame too large."""
        text = "".join(pen.pending)
        pen.pending.clear()
        self._buffered -= len(text)
        start, since = pen.pending_offset, pen.pending_since
        to = pen.conversation, pen.run, pen.attempt, pen.answer
        return [Delta(*to, start + at, text[at : at + CHUNK], since, pen.part) for at in range(0, len(text), CHUNK)]

    async def _commit_stubbornly(self, deltas: list[Delta]) -> set[tuple[UUID, int]]:
        for pause in RETRY_SECONDS:
            try:
                return await self._database.append(commit, deltas)
            except DatabaseError as error:
                metrics.commit_failures.inc()
                logger.warning("commit failed, trying again in %s s: %s", pause, reason(error))
                await asyncio.sleep(pause)
        return await self._database.append(commit, deltas)


def interval(runs: int, took: float) -> float:
    """Seconds from one commit, which took so long, to the next. Each run's share of one costs about a fifth of a
    millisecond on its way to the devices, whether it holds one token or five: the more runs, the more tokens it should
    hold. And where a commit takes long everything is busy, the devices' processes as well: fewer of them arrive sooner.
    """
    least = settings.CHAT_COMMIT_SECONDS
    return float(min(max(LONGEST_INTERVAL, least), max(least + runs * PER_RUN, took / SHARE)))


def commit(deltas: list[Delta]) -> set[tuple[UUID, int]]:
    """Write one transaction of streamed text, announce it, and return the (run, attempt)s whose text was refused.

    This is the one place every token passes.
    """
    refused = set()
    news: dict[UUID, News] = {}
    written: dict[UUID, list[Logged]] = {}
    for delta, serial in zip(deltas, append(deltas), strict=True):
        if serial is None:
            refused.add((delta.run, delta.attempt))
            continue
        if delta.conversation not in news:
            events = written[delta.conversation] = []
            # The first is the oldest.
            news[delta.conversation] = News(delta.conversation, serial - 1, events, delta.since)
        event = Logged(serial, Kind.MESSAGE_DELTA, delta.payload, delta.run, delta.answer)
        written[delta.conversation].append(event)
    log.announce(*news.values())
    return refused
