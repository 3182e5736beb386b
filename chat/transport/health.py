"""What a balancer asks: `/healthz`, is this process alive; `/readyz`, should it be sent people.

Beside Django, whose middleware would turn away a probe that knows no host name and redirect one that speaks HTTP.
"""

import asyncio
from typing import Any

import orjson
from channels.layers import get_channel_layer
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from chat import host
from chat.transport.http import Receive, Scope, Send, answer, is_only

PATIENCE = 2.0  # seconds for each part to answer


async def alive(scope: Scope, receive: Receive, send: Send) -> None:
    """The event loop turns. Nothing else is looked at: a process is not to be killed because a database is away."""
    if await is_only("GET", scope, send):
        await answer(send, 200, '{"alive":true}')


async def ready(scope: Scope, receive: Receive, send: Send) -> None:
    """200, or 503 while this process drains, the database does not answer or a migration is missing; each part by name.

    The channel layer is told of and decides nothing: without it people are served, a second later.
    """
    if not await is_only("GET", scope, send):
        return
    found = await host.running()
    database, layer = await asyncio.gather(_in_time(found.database.run(_database)), _in_time(_layer()))
    parts = {"draining": found.draining, "database": database, "layer": layer}
    good = database == "ok" and not found.draining
    await answer(send, 200 if good else 503, orjson.dumps({"ready": good, **parts}).decode())


async def _in_time(looking: Any) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            return str(await looking)
    except TimeoutError:
        return f"silent for {PATIENCE:g} s"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not ready; what it is stays with us
        return f"away ({type(error).__name__})"


_is_migrated = False  # once it is, it stays


def _database() -> str:
    global _is_migrated
    if not _is_migrated:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            return "not migrated"
        _is_migrated = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return "ok"


async def _layer() -> str:
    await get_channel_layer().group_send("health", {"type": "health"})
    return "ok"
