"""A database that can be read and not written."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection


@contextmanager
def write_lock() -> Iterator[None]:
    """Hold SQLite's one write lock, as a backup or a stuck process does."""
    other = sqlite3.connect(str(connection.settings_dict["NAME"]), timeout=10, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()
