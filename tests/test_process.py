"""A real server process that is killed, told to end, and started again, in the middle of answers."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chat.database import CONNECTIONS
from tests.device import until
from tests.remote import RemoteDevice, begin
from tests.server import Server

pytestmark = pytest.mark.process


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Short leases, so that the dead are found soon."""
    async with Server(tmp_path, CHAT_LEASE_SECONDS="3", CHAT_SWEEP_SECONDS="0.5", CHAT_DRAIN_SECONDS="3") as server:
        yield server


async def two_devices(server: Server) -> tuple[RemoteDevice, RemoteDevice]:
    conversation, session = await begin(server)
    first, second = RemoteDevice(server, conversation, session), RemoteDevice(server, conversation, session)
    await (await first.connect()).synced()
    await (await second.connect()).synced()
    return first, second


async def came_back(device: RemoteDevice) -> None:
    """Connect again with the cursor, as the browser client does."""
    await device.disconnect()
    seen = len(device.frames)
    await device.connect()
    await until(lambda: any(frame["type"] == "sync" for frame in device.frames[seen:]), "sync after coming back")


async def test_r22_after_sigkill_the_answer_ends_as_interrupted_with_its_text_kept(server: Server) -> None:
    first, second = await two_devices(server)
    ack = await first.ask("/rate 100 /long 3000")
    await until(lambda: len(first.view.text_of(ack["run"])) > 200)
    await server.kill()
    await until(lambda: first.closed is not None)
    shown = first.view.text_of(ack["run"])
    await server.start()
    for device in (first, second):
        await came_back(device)
        run = await device.ended(ack["run"])
        assert run["state"] == "interrupted"
        assert device.view.text_of(ack["run"]).startswith(shown[: len(device.view.text_of(ack["run"]))])
    assert len(first.view.text_of(ack["run"])) >= len(shown), "what a device has seen was committed before"
    assert first.view.comparable() == second.view.comparable()
    again = await first.ask("/echo And now?")
    assert (await first.ended(again["run"]))["state"] == "completed"


async def test_w1_a_run_killed_before_its_first_word_is_tried_again(server: Server) -> None:
    first, _ = await two_devices(server)
    ack = await first.ask("/slow 2.5 /echo At last.")
    await until(lambda: first.view.state_of(ack["run"]) == "running")
    await server.kill()
    await server.start()
    await came_back(first)
    assert (await first.ended(ack["run"]))["state"] == "completed"
    assert first.view.text_of(ack["run"]) == "At last."


async def test_waiting_messages_survive_a_kill_and_are_answered_in_order(server: Server) -> None:
    first, second = await two_devices(server)
    running = await first.ask("/rate 100 /long 3000")
    waiting = [await second.ask(f"/echo number {number}") for number in range(3)]
    assert {ack["state"] for ack in waiting} == {"waiting"}
    await server.kill()
    await server.start()
    await came_back(first)
    assert (await first.ended(running["run"]))["state"] == "interrupted"
    for number, ack in enumerate(waiting):
        assert (await first.ended(ack["run"]))["state"] == "completed"
        assert first.view.text_of(ack["run"]) == f"number {number}"
    places = [first.view.messages[ack["message"]]["place"] for ack in waiting]
    assert places == sorted(places)


async def test_sigterm_says_bye_and_lets_a_short_answer_finish(server: Server) -> None:
    first, _ = await two_devices(server)
    ack = await first.ask("/rate 100 /long 100")
    await until(lambda: first.view.text_of(ack["run"]))
    began = time.monotonic()
    assert await server.terminate() == 0
    assert time.monotonic() - began < 20
    await until(lambda: first.closed is not None)
    assert first.closed == 4000
    bye = first.frames[-1]
    assert (bye["type"], bye["code"]) == ("bye", "drain")
    assert bye["retry_in"] >= 0
    await server.start()
    await came_back(first)
    assert first.view.runs[ack["run"]]["state"] == "completed"


async def test_sigterm_hands_over_what_does_not_finish_in_time(server: Server) -> None:
    first, _ = await two_devices(server)
    long = await first.ask("/rate 50 /long 5000")
    silent = await first.ask("/slow 6 /echo Later.", when_busy="alongside")
    await until(lambda: first.view.text_of(long["run"]))
    began = time.monotonic()
    assert await server.terminate() == 0
    assert time.monotonic() - began < 20
    await server.start()
    await came_back(first)
    assert (await first.ended(long["run"]))["state"] == "interrupted"
    assert (await first.ended(silent["run"]))["state"] == "completed"
    assert first.view.text_of(silent["run"]) == "Later."


async def test_r10_connections_that_come_and_go_leave_nothing_behind(server: Server) -> None:
    first, _ = await two_devices(server)
    assert server.process is not None
    pid = server.process.pid
    if not Path("/proc/self/fd").exists():  # noqa: ASYNC240 - it is not a disk
        pytest.skip("this system has no /proc to count file descriptors in")

    def descriptors() -> tuple[int, int]:
        """Those of the database, as many as there are threads that have met it; and all others."""
        open_files = [_target(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
        of_database = sum(".sqlite3" in file for file in open_files)
        return of_database, len(open_files) - of_database

    await came_back(first)
    _, others = descriptors()
    for _ in range(200):
        await came_back(first)
    await until(lambda: descriptors()[1] <= others + 10, "file descriptors to return to about the start")
    # A thread is started, and opens its file and its write-ahead log, when those before it are busy.
    assert descriptors()[0] <= 3 * CONNECTIONS


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:  # closed while we looked
        return ""
