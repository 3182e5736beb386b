"""Write transactions take turns within a process, where the database lets one write at a time.

SQLite has no queue: who finds it locked sleeps and looks again, longer each time, and whoever comes at the right
moment goes first. With a hundred runs streaming, a cancel or a commit of text waited 80 ms for its turn, and at
times a whole second.

Threads that people wait for go before the others: what somebody says, and streamed text. With ten agents at work
the turn is taken most of the time, and a stop stood behind all that they were writing.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from django.db import connection, transaction

_turn = threading.RLock()  # what runs on commit may write, too
_place = threading.RLock()  # of the one other thread that stands for a turn beside those that go first
_mine = threading.local()


def go_first() -> None:
    """From now on this thread waits for no more than the turn that is taken, and one more."""
    _mine.first = True


@contextmanager
def writing() -> Iterator[None]:
    """`transaction.atomic()` in turn. Inside a transaction, which has its turn already, a savepoint."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        with transaction.atomic():
            yield
    else:
        with nullcontext() if hasattr(_mine, "first") else _place, _turn, transaction.atomic():
            yield
