"""Servers that execute nothing and workers that serve nobody, on one PostgreSQL and one Redis; any may be killed."""

import asyncio
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis

from chat.agent.scripted import long_text
from chat.transport.close import Close
from tests.backends import free_port, postgresql_folder
from tests.cluster import Clock, Worker, away, backends
from tests.collector import Collector
from tests.device import until
from tests.figures import Figures
from tests.remote import RemoteDevice, begin, joined
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


def received(device: RemoteDevice, like: dict[str, Any]) -> bool:
    """Has it had an event that says all of this?"""
    return any(like.items() <= event.items() for event in device.events)


def is_closed(device: RemoteDevice) -> bool:
    return device.closed is not None


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


async def test_each_process_shows_its_part_and_both_write_to_one_trace(site: Site, devices: list[RemoteDevice]) -> None:
    port = free_port()
    with Collector() as collector:
        sending = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
        web, worker = await site.web(**sending), await site.worker(METRICS_PORT=str(port), **sending)
        laptop = await joined(web, await begin(web), devices)
        ack = await laptop.ask("/rate 100 /long 100")
        assert (await laptop.ended(ack["run"]))["state"] == "completed"
        async with httpx2.AsyncClient(trust_env=False) as client:
            pages = [await client.get(f"{url}/metrics") for url in (web.url, f"http://127.0.0.1:{port}")]
        serves, executes = (Figures(page.raise_for_status().text) for page in pages)
        assert serves["chat_devices", "transport=websocket"] == 1
        assert executes["chat_devices"] == 0
        assert executes["chat_tokens_total", "model=scripted", "kind=output"] == 100
        assert executes["chat_commit_events_count"] > 1
        assert serves["chat_commit_events_count"] == serves["chat_tokens_total"] == 0
        # From the one to the other, over Redis.
        assert 0 < serves["chat_token_delay_seconds_count"] <= executes["chat_commit_events_count"]
        assert executes["chat_token_delay_seconds_count"] == 0
        for process in (worker, web):
            assert await process.terminate() == 0
        traces = {(span.name, span.trace_id) for span in collector.spans}
    assert [name for name, _ in sorted(traces)] == ["chat scripted", "run", "send"]
    assert len({trace for _, trace in traces}) == 1


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


@pytest.mark.timeout(300)
async def test_a_run_that_kills_its_worker_three_times_fails_and_says_why(
    site: Site, devices: list[RemoteDevice]
) -> None:
    one, other = await site.web(), await site.web()
    place = await begin(one)
    laptop, phone = await joined(one, place, devices), await joined(other, place, devices)
    deadly = await laptop.ask("/slow 600 /echo Never.")
    later = await phone.ask("/rate 0 /echo Life goes on.")
    for attempt in (1, 2, 3):
        worker = await site.worker()
        started = {"type": "run.started", "run": deadly["run"], "attempt": attempt}
        await until(partial(received, laptop, started), f"attempt {attempt}", deadline=30)
        await worker.kill()
    survivor = await site.worker()
    for device in (laptop, phone):
        await until(partial(received, device, {"type": "run.ended", "run": deadly["run"]}), "the end", deadline=30)
        assert device.view.state_of(deadly["run"]) == "failed"
        ended = device.view.runs[deadly["run"]]
        assert ended["error"] == {
            "code": "attempts_exhausted",
            "message": "The server was lost 3 times before a word of the answer came.",
        }
        assert (await device.ended(later["run"]))["state"] == "completed"
        assert device.view.text_of(later["run"]) == "Life goes on."
    assert laptop.view.comparable() == phone.view.comparable()
    assert "Traceback" not in survivor.output


SKEW = """
from chat.models import Run
one, two, asked = (Run.objects.get(pk=run) for run in {runs!r})
for ahead in (one.ended_at - two.ended_at, asked.created_at - two.created_at):
    print(round(ahead.total_seconds() / 3600))
"""


@pytest.mark.clock
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("by", "hours"), [("+25h", 25), ("-1h", -1)])
async def test_a_clock_that_jumps_takes_no_lease_from_anybody_and_no_device(
    site: Site, devices: list[RemoteDevice], tmp_path: Path, by: str, hours: int
) -> None:
    """A server and a worker whose clocks jump while they work, beside others whose clocks are right."""
    if Clock.library is None:
        pytest.skip("faketime is not installed: make packages")
    clock = Clock(tmp_path)
    odd, even = await site.web(**clock.environment), await site.web()
    # Each takes one job: whoever executes the one answer, the other worker executes the other.
    for environment in (clock.environment, {}):
        await site.worker(**environment, CHAT_WORKER_RUNS="1")
    here, there = await begin(even), await begin(even, "bob")
    laptop, phone = await joined(odd, here, devices), await joined(even, here, devices)
    tablet = await joined(odd, there, devices)
    one, two = await laptop.ask("/rate 100 /long 900"), await tablet.ask("/rate 100 /long 900")
    for device, ack in ((laptop, one), (tablet, two)):
        await device.writes(ack["run"], 20)

    clock.jump(by)
    after = await laptop.ask("/rate 0 /echo Then.")
    for device, ack in ((laptop, one), (phone, one), (tablet, two)):
        await until(partial(received, device, {"type": "run.ended", "run": ack["run"]}), "the end", deadline=40)
        assert device.view.state_of(ack["run"]) == "completed"
        assert device.view.text_of(ack["run"]) == long_text(900)
        started = [event for event in device.events if event["type"] == "run.started" and event["run"] == ack["run"]]
        assert [event["attempt"] for event in started] == [1]
    for device in (laptop, phone):
        assert (await device.ended(after["run"]))["state"] == "completed"
    for device in (laptop, phone, tablet):
        assert device.closed is None
        assert sum(frame["type"] == "hello" for frame in device.frames) == 1
    shown = (await even.python(SKEW.format(runs=[one["run"], two["run"], after["run"]]))).split()
    assert abs(int(shown[0])) == abs(hours), "the clock of the one worker did not jump"
    assert int(shown[1]) == hours, "the clock of the one server did not jump"


STAFF = """
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)[0])
print(client.cookies[settings.SESSION_COOKIE_NAME].value)
"""
EXECUTES = """
from chat.models import Worker
print(Worker.objects.get(name__contains=":{pid}:").runs)
"""


async def printed(server: Server, code: str, text: str) -> None:
    """Ask until this is the last thing the code prints: what another process does or knows."""
    end = time.monotonic() + 60
    while (last := (await server.python(code)).splitlines()[-1]) != text:
        assert time.monotonic() < end, f"still {last}"


async def executes(worker: Worker, runs: int, asked: Server) -> None:
    """Wait until the worker says that it executes so many. A run is one until its provider's connection is closed."""
    assert worker.process is not None
    await printed(asked, EXECUTES.format(pid=worker.process.pid), str(runs))


def quiet(*servers: Server) -> bool:
    return not any(word in server.output for server in servers for word in ("ERROR", "CRITICAL", "Traceback"))


@pytest.mark.timeout(300)
async def test_a_deleted_conversation_ends_on_every_machine(site: Site, devices: list[RemoteDevice]) -> None:
    one, other, worker = await site.web(), await site.web(), await site.worker()
    place = await begin(one)
    laptop, phone = await joined(one, place, devices), await joined(other, place, devices)
    talking = await laptop.ask("/rate 20 /long 100000")
    await laptop.ask("/slow 600 /echo Never.", when_busy="alongside")
    await laptop.ask("/rate 0 /echo Later.")
    await laptop.writes(talking["run"], 5)
    await executes(worker, 2, one)
    staff = {"sessionid": (await other.python(STAFF)).split()[-1]}
    async with httpx2.AsyncClient(base_url=other.url, cookies=staff, trust_env=False, timeout=60) as client:
        url = f"/admin/chat/conversation/{place[0]}/delete/"
        assert "with all that was said in it" in (await client.get(url)).text
        form = {"post": "yes", "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        assert (await client.post(url, data=form)).status_code == 302
    for device in (laptop, phone):
        await until(partial(is_closed, device), "sent away", deadline=20)
        assert device.closed == Close.FORBIDDEN
    await executes(worker, 0, one)
    tablet = await joined(one, await begin(one), devices)
    assert (await tablet.ended((await tablet.ask("/rate 0 /echo Next."))["run"]))["state"] == "completed"
    assert quiet(one, other, worker)


LEAVES = """
from django.contrib.auth.models import User
print(User.objects.get(username={name!r}).delete()[0] > 0)
"""
ENDS = """
from chat.models import Run
print(sorted(Run.objects.filter(conversation={conversation!r}).values_list("state", flat=True)))
"""


@pytest.mark.timeout(300)
async def test_a_deleted_users_answers_end_when_nobody_else_is_in_the_conversation(
    site: Site, devices: list[RemoteDevice]
) -> None:
    web, worker = await site.web(), await site.worker()
    place = await begin(web, "carol")
    hers = await joined(web, place, devices)
    talking = await hers.ask("/rate 20 /long 100000")
    await hers.ask("/slow 600 /echo Never.")
    await hers.writes(talking["run"], 5)
    assert (await web.python(LEAVES.format(name="carol"))).split()[-1] == "True"
    await until(partial(is_closed, hers), "sent away", deadline=20)
    assert hers.closed in {Close.SIGNED_OUT, Close.FORBIDDEN}
    await printed(web, ENDS.format(conversation=place[0]), "['cancelled', 'cancelled']")
    await executes(worker, 0, web)
    assert quiet(web, worker)


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


async def test_while_redis_stands_still_people_come_speak_and_read(
    site: Site, devices: list[RemoteDevice], shared: dict[str, str]
) -> None:
    one, other, _ = await site.web(), await site.web(), await site.worker()
    place = await begin(one)
    laptop = await joined(one, place, devices)
    running = await laptop.ask("/rate 50 /long 100000")
    await laptop.writes(running["run"], 20)
    async with Redis.from_url(shared["REDIS_URL"]) as redis:
        pid = (await redis.info("server"))["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        phone = await joined(other, place, devices)
        for device in (laptop, phone):
            known = len(device.view.text_of(running["run"]))
            await device.writes(running["run"], known + 200)
            ack = await device.say("message.send", text="/rate 0 /echo Next.")
            assert ack["type"] == "ack"
        assert (await laptop.say("run.cancel", run=running["run"]))["outcome"] == "cancelling"
        for device in (laptop, phone):
            assert (await device.ended(running["run"]))["state"] == "cancelled"
            assert (await device.ended(ack["run"]))["state"] == "completed"
    finally:
        os.kill(pid, signal.SIGCONT)
    ack = await phone.ask("/rate 0 /echo Again.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    await until(lambda: laptop.view.comparable() == phone.view.comparable())


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
