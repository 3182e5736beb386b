"""`manage.py shell --command` again and again, in one process: one JSON object per line in, one string per line out.

Ends with the first mistake.
"""

import contextlib
import io
import json
import sys

import django

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, connections  # noqa: E402


def run(code: str, file: str) -> str:
    """What it prints. `file`: the database, if it is SQLite's."""
    if connection.vendor == "sqlite":
        connection.settings_dict["NAME"] = file
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        call_command("shell", verbosity=0, command=code)
    # None is kept: somebody may count, cut or replace them.
    connections.close_all()
    if connection.vendor == "postgresql":
        connection.close_pool()  # type: ignore[attr-defined]
    return printed.getvalue()


def main() -> None:
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run(**json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
