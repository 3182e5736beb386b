"""Database work off the event loop: a few threads, each with a connection of its own that is kept open."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from django.db import InternalError, OperationalError, close_old_connections, connection, connections

from chat import turns

P = ParamSpec("P")
T = TypeVar("T")

# Gone, locked, full, or to be read only: PostgreSQL says the last by InternalError.
AWAY = (OperationalError, InternalError)
THREADS = 4  # reads run beside each other; SQLite writes one at a time whatever this is
PROMPT = 2
CONNECTIONS = THREADS + PROMPT + 1


class Database:
    """`await database.run(verb, ...)` for everything but what people say and streamed text, which have their own.

    Made by whoever runs the event loop and closed with it, so that no connection outlives the loop.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="database", initializer=_keep_connection)
        self._prompt = ThreadPoolExecutor(PROMPT, thread_name_prefix="prompt", initializer=_begin_first)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="log-writer", initializer=_begin_first)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a synchronous function in a database thread. Not interrupted by a cancel: it runs to its end."""
        return await self._call(self._threads, _fresh, partial(function, *args, **kwargs))

    async def promptly(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, and before what agents do: for what somebody says. A stop is not to stand behind ten of them."""
        return await self._call(self._prompt, _fresh, partial(function, *args, **kwargs))

    async def append(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same in the one thread that writes streamed text, which nothing slow may ever hold up.

        Raises DatabaseError at once where the connection was lost; call again.
        """
        return await self._call(self._writer, _kept, partial(function, *args, **kwargs))

    async def _call(
        self, threads: ThreadPoolExecutor, call: Callable[[Callable[[], T]], T], work: Callable[[], T]
    ) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, call, work)

    def close(self) -> None:
        """Close every thread's connection in that thread, then the threads. Waits for work under way."""
        for threads, count in ((self._threads, THREADS), (self._prompt, PROMPT), (self._writer, 1)):
            everyone = threading.Barrier(count)  # holds each thread until all have one of these to do
            for _ in range(count):
                threads.submit(_close_connections, everyone)
            threads.shutdown(wait=True)


def _keep_connection() -> None:
    """This thread does not share the pool of the pages: it never waits for one of them, and after a database that was
    away it connects at once, where a pool would try later and later.
    """
    for mine in connections.all():
        known = mine.settings_dict
        if "pool" in known["OPTIONS"]:
            own = {name: value for name, value in known["OPTIONS"].items() if name != "pool"}
            mine.settings_dict = {**known, "OPTIONS": own, "CONN_MAX_AGE": None}


def _begin_first() -> None:
    _keep_connection()
    turns.go_first()


def _close_connections(everyone: threading.Barrier) -> None:
    everyone.wait()
    connections.close_all()


def _fresh(work: Callable[[], T]) -> T:
    close_old_connections()  # drops a connection the database has dropped; asks it, which is a round trip
    return work()


def _kept(work: Callable[[], T]) -> T:
    """For what is tried again when it fails: the connection is not asked first, only looked at after an error."""
    if connection.errors_occurred:
        close_old_connections()
    return work()
