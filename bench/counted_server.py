"""`manage.py serve --port 0` that counts its queries: the line `queries` on stdin is answered with a line of JSON.

{statement: how often}, a statement named by its verb, its table and the columns it looks by. BEGIN is one, too.
"""

import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.settings")

from django.core.management import execute_from_command_line
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

counted: Counter[str] = Counter()
_lock = threading.Lock()


def count(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Around every query of every thread. Its text, shortened to what tells it from others, is its name."""
    with _lock:
        counted[name_of(sql)] += 1
    return execute(sql, params, many, context)


def name_of(sql: str) -> str:
    """SELECT chat_device WHERE id, user_id"""
    verb = sql.split(maxsplit=1)[0].upper()
    table = re.search(r'(?:FROM|INTO|UPDATE) "?(\w+)"?', sql)
    where = re.findall(r'\b(\w+)"? (?:=|>|<|IN|IS)', sql.partition(" WHERE ")[2])
    return f"{verb} {table[1] if table else ''}" + (f" WHERE {', '.join(where)}" if where else "")


def watch(connection: BaseDatabaseWrapper, **_: Any) -> None:
    """Each thread has a connection of its own."""
    if count not in connection.execute_wrappers:
        connection.execute_wrappers.append(count)


def answer() -> None:
    """Until stdin ends."""
    for line in sys.stdin:
        if line.strip() == "queries":
            with _lock:
                print(json.dumps(counted), flush=True)


if __name__ == "__main__":
    connection_created.connect(watch)
    threading.Thread(target=answer, daemon=True).start()
    execute_from_command_line(["manage.py", "serve", "--port", "0"])
