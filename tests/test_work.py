"""Servers that execute nothing and workers that serve nobody, on one PostgreSQL and one Redis; any may be killed."""

import asyncio
import json
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from chat.agent.scripted import long_text
from tests.backends import postgresql_folder
from tests.cluster import Worker, away, backends
from tests.device import until
from tests.remote import RemoteDevice, begin
from tests.server import Server

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def shared() -> Iterator[dict[str, str]]:
    """PostgreSQL and Redis."""
    if postgresql_folder() is None or shutil.which("redis-server") is None:
        pytest.skip("PostgreSQL or Redis is not installed: make packages")
    with backends() as environment:
        yield environment


class Site:
    """`web()` and `worker()` start one more."""

    def __init__(self, folder: Path, environment: dict[str, str], stack: AsyncExitStack) -> None:
        self._folder, self._environment, self._stack = folder, environment, stack
        self._count = 0

    async def web(self, **more: str) -> Server:
        return await self._stack.enter_async_context(Server(self._next(), **{**self._environment, **more}))

    async def worker(self, **more: str) -> Worker:
        return await self._stack.enter_async_context(Worker(self._next(), **{**self._environment, **more}))

    def _next(self) -> Path:
        self._count += 1
        return self._folder / str(self._count)


@pytest.fixture
async def site(tmp_path: Path, shared: dict[str, str]) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack:
        yield Site(tmp_path, shared, stack)


async def joined(server: Server, place: tuple[str, str], devices: list[RemoteDevice]) -> RemoteDevice:
    device = RemoteDevice(server, *place)
    devices.append(device)
    await device.connect()
    await device.synced()
    return device


async def test_who_is_asked_here_and_answered_there_is_seen_everywhere(site: Site, devices: list[RemoteDevice]) -> None:
    one, other, _ = await site.web(), await site.web(), await site.worker()
    place = await begin(one)
    laptop, phone = await joined(one, place, devices), await joined(other, place, devices)
    for text, said in (("/rate 200 /long 300", long_text(300)), ("/rate 0 /echo Second.", "Second.")):
        ack = await laptop.ask(text)
        for device in (laptop, phone):
            assert (await device.ended(ack["run"]))["state"] == "completed"
            assert device.view.text_of(ack["run"]) == said
    assert laptop.view.comparable() == phone.view.comparable()


async def test_what_is_asked_while_no_worker_is_there_is_answered_when_one_comes(
    site: Site, devices: list[RemoteDevice]
) -> None:
    laptop = await joined(web := await site.web(), await begin(web), devices)
    asked = [await laptop.ask(f"/rate 0 /echo Number {number}.") for number in range(3)]
    assert laptop.view.runs[asked[0]["run"]]["state"] == "queued"
    await site.worker()
    for number, ack in enumerate(asked):
        assert (await laptop.ended(ack["run"]))["state"] == "completed"
        assert laptop.view.text_of(ack["run"]) == f"Number {number}."


async def test_a_cancel_reaches_the_run_wherever_it_is(site: Site, devices: list[RemoteDevice]) -> None:
    web, _ = await site.web(), await site.worker()
    laptop = await joined(web, await begin(web), devices)
    took = []
    for _ in range(5):
        ack = await laptop.ask("/rate 50 /long 100000")
        await laptop.writes(ack["run"], 20)
        began = time.monotonic()
        assert (await laptop.say("run.cancel", run=ack["run"]))["outcome"] == "cancelling"
        assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
        took.append(time.monotonic() - began)
    assert min(took) < 1.0, took  # by announcement; the row alone would take up to that


async def test_a_killed_workers_answers_are_tried_again_or_end_with_their_text(
    site: Site, devices: list[RemoteDevice]
) -> None:
    web, doomed = await site.web(), await site.worker()
    laptop = await joined(web, await begin(web), devices)
    talking = await laptop.ask("/rate 50 /long 100000")
    silent = await laptop.ask("/slow 4 /echo At last.", when_busy="alongside")
    await laptop.writes(talking["run"], 20)
    await until(lambda: laptop.view.state_of(silent["run"]) == "running")
    await doomed.kill()
    await site.worker()
    ended = await laptop.ended(talking["run"])
    assert ended["state"] == "interrupted"
    assert long_text(100_000).startswith(laptop.view.text_of(talking["run"]))
    assert (await laptop.ended(silent["run"]))["state"] == "completed"
    assert laptop.view.text_of(silent["run"]) == "At last."


async def test_a_frozen_worker_that_wakes_up_has_nothing_more_to_say(site: Site, devices: list[RemoteDevice]) -> None:
    web, frozen = await site.web(), await site.worker()
    place = await begin(web)
    laptop = await joined(web, place, devices)
    talking = await laptop.ask("/rate 100 /long 100000")
    silent = await laptop.ask("/slow 3 /rate 50 /long 150", when_busy="alongside")
    await laptop.writes(talking["run"], 20)
    await until(lambda: laptop.view.state_of(silent["run"]) == "running")
    assert frozen.process is not None
    frozen.process.send_signal(signal.SIGSTOP)
    await site.worker()
    assert (await laptop.ended(talking["run"]))["state"] == "interrupted"
    kept = laptop.view.text_of(talking["run"])
    # It wakes up in the middle of the second attempt, with a first attempt of its own that is due to speak.
    await laptop.writes(silent["run"], 20)
    frozen.process.send_signal(signal.SIGCONT)
    assert (await laptop.ended(silent["run"]))["state"] == "completed"
    assert laptop.view.text_of(silent["run"]) == long_text(150)
    # What it says first when it is awake is that it is ours again: it takes new work, and no old word comes.
    for number in range(4):
        ack = await laptop.ask(f"/rate 0 /echo {number}")
        assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(talking["run"]) == kept
    attempts = json.loads(
        await web.python(
            "import json; from chat.models import Event, Kind;"
            f"print(json.dumps([Event.objects.filter(run_id=run, kind=Kind.RUN_ENDED).count()"
            f" for run in {[talking['run'], silent['run']]!r}]))"
        )
    )
    assert attempts == [1, 1]


async def test_a_worker_that_ends_finishes_what_is_short_and_hands_over_the_rest(
    site: Site, devices: list[RemoteDevice]
) -> None:
    web, leaving = await site.web(), await site.worker()
    laptop = await joined(web, await begin(web), devices)
    short = await laptop.ask("/rate 100 /long 150")
    long = await laptop.ask("/rate 50 /long 100000", when_busy="alongside")
    silent = await laptop.ask("/slow 6 /echo Later.", when_busy="alongside")
    for ack in (short, long):
        await laptop.writes(ack["run"], 5)
    await until(lambda: laptop.view.state_of(silent["run"]) == "running")
    await site.worker()
    began = time.monotonic()
    assert await leaving.terminate() == 0
    assert time.monotonic() - began < 30
    assert (await laptop.ended(short["run"]))["state"] == "completed"
    assert laptop.view.text_of(short["run"]) == long_text(150)
    assert (await laptop.ended(long["run"]))["state"] == "interrupted"
    assert (await laptop.ended(silent["run"]))["state"] == "completed"
    assert "Traceback" not in leaving.output


async def test_a_killed_web_server_is_no_matter_to_what_runs(site: Site, devices: list[RemoteDevice]) -> None:
    doomed, other, _ = await site.web(), await site.web(), await site.worker()
    place = await begin(other)
    laptop, phone = await joined(doomed, place, devices), await joined(other, place, devices)
    ack = await laptop.ask("/rate 100 /long 300")
    await laptop.writes(ack["run"], 20)
    await doomed.kill()
    assert (await phone.ended(ack["run"]))["state"] == "completed"
    assert phone.view.text_of(ack["run"]) == long_text(300)
    laptop.server = other
    await laptop.connect()
    await laptop.synced()
    assert laptop.view.comparable() == phone.view.comparable()


DATA = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SHOW data_directory")
    print(cursor.fetchone()[0])
"""
CUT = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    print(cursor.fetchone()[0])
"""


async def test_when_the_database_drops_every_connection_what_runs_goes_on_and_new_work_is_taken(
    site: Site, devices: list[RemoteDevice]
) -> None:
    """As a restart or a failover does."""
    web, _ = await site.web(), await site.worker()
    laptop = await joined(web, await begin(web), devices)
    running = await laptop.ask("/rate 100 /long 600")
    await laptop.writes(running["run"], 20)
    assert int((await web.python(CUT)).splitlines()[-1]) > 3
    ack = await laptop.say("message.send", text="/rate 0 /echo Next.")
    while ack["type"] == "nack":  # it is said again, as every client does
        assert ack["code"] == "storage"
        ack = await laptop.say("message.send", text="/rate 0 /echo Next.")
    assert (await laptop.ended(running["run"]))["state"] == "completed"
    assert laptop.view.text_of(running["run"]) == long_text(600)
    assert (await laptop.ended(ack["run"]))["state"] == "completed"


LISTENING = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    print(cursor.fetchone()[0])
"""


async def test_a_database_that_was_away_for_seconds_is_listened_to_again(
    tmp_path: Path, devices: list[RemoteDevice]
) -> None:
    with backends() as environment:
        async with AsyncExitStack() as stack:
            site = Site(tmp_path, environment, stack)
            web, _ = await site.web(), await site.worker()
            laptop = await joined(web, await begin(web), devices)
            running = await laptop.ask("/rate 50 /long 200")
            await laptop.writes(running["run"], 20)
            data = Path((await web.python(DATA)).splitlines()[-1])
            async with away(data):
                await asyncio.sleep(1.5)
            assert (await laptop.ended(running["run"]))["state"] == "completed"
            assert laptop.view.text_of(running["run"]) == long_text(200)
            end = time.monotonic() + 60
            while (await web.python(LISTENING)).splitlines()[-1] != "1":
                assert time.monotonic() < end, "nobody listens any more"
            ack = await laptop.ask("/rate 0 /echo Next.")
            assert (await laptop.ended(ack["run"]))["state"] == "completed"
            await web.kill()


async def test_when_redis_forgets_everything_nothing_is_refused_and_nothing_is_lost(
    site: Site, devices: list[RemoteDevice], shared: dict[str, str]
) -> None:
    one, other, _ = await site.web(), await site.web(), await site.worker()
    place = await begin(one)
    laptop, phone = await joined(one, place, devices), await joined(other, place, devices)
    running = await laptop.ask("/rate 100 /long 600")
    await phone.writes(running["run"], 20)
    redis = Redis.from_url(shared["REDIS_URL"])
    try:
        await redis.flushall()
        await redis.client_kill_filter(_type="pubsub")
        await redis.client_kill_filter(_type="normal", skipme=True)
    finally:
        await redis.aclose()
    ack = await phone.say("message.send", text="/rate 0 /echo Next.")
    assert ack["type"] == "ack"
    for device in (laptop, phone):
        assert (await device.ended(running["run"]))["state"] == "completed"
        assert device.view.text_of(running["run"]) == long_text(600)
        assert (await device.ended(ack["run"]))["state"] == "completed"
    cancelled = await laptop.ask("/rate 50 /long 100000")
    await phone.writes(cancelled["run"], 5)
    await laptop.say("run.cancel", run=cancelled["run"])
    assert (await phone.ended(cancelled["run"]))["state"] == "cancelled"


JOBS = """
import json
from procrastinate.contrib.django.models import ProcrastinateJob
print(json.dumps(list(ProcrastinateJob.objects.values_list("status", flat=True))))
"""


async def test_jobs_leave_nothing_behind(site: Site, devices: list[RemoteDevice]) -> None:
    web, _ = await site.web(), await site.worker()
    laptop = await joined(web, await begin(web), devices)
    for text in ("/rate 0 /echo Fine.", "/fail overloaded", "/rate 0 /lost"):
        await laptop.ended((await laptop.ask(text))["run"])
    end = time.monotonic() + 60
    while (left := json.loads((await web.python(JOBS)).splitlines()[-1])) and time.monotonic() < end:
        pass
    assert left == []
