"""Sessions of PostgreSQL: what they are limited to, and how many there are."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse
from django.urls import path

from chat.database import CONNECTIONS
from chat.host import Host
from project.urls import urlpatterns as pages
from tests.doors import exchange

LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")

pytestmark = pytest.mark.postgresql


@pytest.fixture(autouse=True)
def on_postgresql(transactional_db: None) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("about PostgreSQL: python -m tests.backends pytest")
    connection.close()  # this thread's own, which is of the pool as well


def limits() -> dict[str, str]:
    with connection.cursor() as cursor:
        found = {}
        for name in LIMITS:
            cursor.execute(f"SHOW {name}")
            found[name] = cursor.fetchone()[0]
        return found


async def test_pages_and_the_log_are_limited_alike(host: Host) -> None:
    expected = {"statement_timeout": "30s", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "8s"}
    assert await asyncio.to_thread(_and_close, limits) == expected
    assert await host.database.run(limits) == expected
    assert await host.database.append(limits) == expected


def _and_close(look: Any) -> Any:
    try:
        return look()
    finally:
        connection.close()


def test_a_statement_that_takes_too_long_is_ended() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET statement_timeout = 50")
        with pytest.raises(DatabaseError, match="statement timeout"):
            cursor.execute("SELECT pg_sleep(60)")
        cursor.execute("RESET statement_timeout")


def test_a_migration_may_take_its_time_but_does_not_wait_for_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    migrate = MigrationExecutor.migrate

    def watched(self: MigrationExecutor, *args: Any, **options: Any) -> Any:
        seen.append(limits())
        return migrate(self, *args, **options)

    monkeypatch.setattr(MigrationExecutor, "migrate", watched)
    before = limits()
    call_command("migrate", verbosity=0)
    assert seen == [
        {"statement_timeout": "0", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "0"},
    ]
    assert limits() == before


def count(request: HttpRequest) -> HttpResponse:
    """A page that takes a while, and says how many sessions there are."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.05)")
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return HttpResponse(str(cursor.fetchone()[0]))


urlpatterns = [path("count/", count), *pages]


@pytest.mark.urls(__name__)
async def test_any_number_of_pages_at_once_share_a_few_sessions(host: Host) -> None:
    """Each page has a thread of its own, so each had a session of its own."""
    asked = [exchange("GET", "/count/", {}, {"host": "localhost"}) for _ in range(3 * settings.DATABASE_POOL)]
    counts = [int(body) for body in await asyncio.gather(*(one.whole() for one in asked))]
    for one in asked:
        await one.end()
    assert max(counts) <= settings.DATABASE_POOL + CONNECTIONS


async def test_the_log_does_not_wait_for_pages(host: Host) -> None:
    """All of the pool is taken, and what a send and a token need is there all the same."""
    threads = ThreadPoolExecutor(settings.DATABASE_POOL)
    everybody, enough = threading.Barrier(settings.DATABASE_POOL + 1), threading.Event()

    def keep() -> None:
        try:
            connection.ensure_connection()
            everybody.wait(60)
            enough.wait(60)
        finally:
            connection.close()

    await sync_to_async(connections.close_all)()  # of the thread that Django's own coroutines share

    pages = [threads.submit(keep) for _ in range(settings.DATABASE_POOL)]
    try:
        await asyncio.to_thread(everybody.wait, 60)
        assert await host.database.run(limits)
        assert await host.database.append(limits)
    finally:
        enough.set()
        for page in pages:
            await asyncio.wrap_future(page)
        threads.shutdown()
