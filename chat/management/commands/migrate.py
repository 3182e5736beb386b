"""Django's, without the limits that the settings give to a statement: a migration may take its time.

It still waits no longer than others for a lock (`lock_timeout`): whoever comes after it would wait for it, too.
"""

from contextlib import suppress
from typing import Any

from django.core.management.commands import migrate
from django.db import OperationalError, connections

LIMITS = ("statement_timeout", "idle_in_transaction_session_timeout")


class Command(migrate.Command):
    def handle(self, *args: Any, **options: Any) -> None:
        connection = connections[options["database"]]
        if connection.vendor != "postgresql":
            super().handle(*args, **options)
            return
        with connection.cursor() as cursor:
            for limit in LIMITS:
                cursor.execute(f"SET {limit} = 0")
        try:
            super().handle(*args, **options)
        finally:
            with suppress(OperationalError), connection.cursor() as cursor:  # whatever ended it may have ended that
                for limit in LIMITS:
                    cursor.execute(f"RESET {limit}")
