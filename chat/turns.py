"""Write transactions take turns within a process, where the database lets one write at a time.

SQLite has no queue: who finds it locked sleeps and looks again, longer each time, and whoever comes at the right
moment goes first. With a hundred runs streaming, a cancel or a commit of text waited 80 ms for its turn, and at
times a whole second.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

_turn = threading.RLock()  # what runs on commit may write, too


@contextmanager
def writing() -> Iterator[None]:
    """`transaction.atomic()` in turn. Inside a transaction, which has its turn already, a savepoint."""
    if connection.vendor != "sqlite" or connection.in_atomic_block:
        with transaction.atomic():
            yield
    else:
        with _turn, transaction.atomic():
            yield
