"""What balancers ask, of a real server: by whatever host name they like, over HTTP, without a cookie."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from django.db import connection, connections

from chat.host import Host
from chat.transport import health
from tests.conftest import with_settings
from tests.doors import exchange
from tests.layers import Raising, layer
from tests.server import Server


@pytest_asyncio.fixture
async def ask(tmp_path: Path) -> AsyncIterator[tuple[Server, Callable[..., Any]]]:
    """A server as in production, and a way to ask it as a balancer does."""
    production = {"DEBUG": "0", "SECRET_KEY": "k" * 60, "HTTPS": "1", "ALLOWED_HOSTS": "chat.example.org"}
    production["CHAT_DRAIN_SECONDS"] = "3"
    async with (
        Server(tmp_path, **production) as server,
        httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client,
    ):
        yield server, client.get


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a busy machine no part need answer within two seconds."""
    monkeypatch.setattr(health, "PATIENCE", 30.0)


async def readiness(get: Callable[..., Any], **more: Any) -> Any:
    """What a server says as soon as its database answers it in time: a balancer asks again, too."""
    async with asyncio.timeout(30):
        while "silent for" in (said := await get("/readyz", **more)).text:
            pass
    return said


@pytest.mark.process
async def test_a_server_is_alive_and_ready_and_says_so_to_whoever_asks(
    ask: tuple[Server, Callable[..., Any]],
) -> None:
    _, get = ask
    alive = await get("/healthz", headers={"host": "10.1.2.3"})
    assert (alive.status_code, alive.json()) == (200, {"alive": True})
    ready = await readiness(get, headers={"host": "10.1.2.3"})
    assert ready.status_code == 200
    assert ready.json() == {"ready": True, "draining": False, "database": "ok", "layer": "ok"}
    assert ready.headers["cache-control"] == "no-store, no-transform"


@pytest.mark.process
async def test_a_server_without_its_tables_is_alive_and_not_ready(tmp_path: Path) -> None:
    server = Server(tmp_path)
    await server.start()
    try:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            assert (await client.get("/healthz")).status_code == 200
            ready = await readiness(client.get)
            assert (ready.status_code, ready.json()["database"]) == (503, "not migrated")
            await server.manage("migrate", "--verbosity", "0")
            assert (await readiness(client.get)).status_code == 200
    finally:
        await server.kill()


async def probe(path: str) -> tuple[int, dict[str, Any]]:
    asked = exchange("GET", path, {}, {"host": "anything"})
    body = await asked.whole()
    await asked.end()
    return asked.status, json.loads(body)


async def test_who_drains_is_alive_and_wants_no_more_people(host: Host) -> None:
    assert (await probe("/readyz"))[0] == 200
    host.draining = True
    try:
        assert (await probe("/healthz"))[0] == 200
        status, said = await probe("/readyz")
        assert (status, said["draining"], said["ready"]) == (503, True, False)
    finally:
        host.draining = False


@with_settings(CHANNEL_LAYERS=layer("Raising", groups="health"))
async def test_a_layer_that_is_away_is_told_of_and_keeps_nobody_out(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Raising, "away", True)
    status, said = await probe("/readyz")
    assert (status, said["ready"], said["database"]) == (200, True, "ok")
    assert said["layer"].startswith("away (")


@pytest.mark.sqlite
async def test_a_database_that_is_gone_is_told_of(host: Host, impatient: None) -> None:
    """As when its disk is not mounted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connection.settings_dict, "NAME", "/nowhere/at/all.sqlite3")
        for _ in range(50):
            await host.database.run(connections.close_all)  # a thread that has a connection keeps it
            status, said = await probe("/readyz")
            if status != 200:
                break
        assert (status, said["ready"]) == (503, False)
        assert said["database"].startswith("away (")
        assert (await probe("/healthz"))[0] == 200
    assert (await probe("/readyz"))[0] == 200
