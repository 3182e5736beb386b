"""A real server process that is killed around what tools do: nothing is done twice, and nothing waits for ever."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.device import until
from tests.remote import RemoteDevice
from tests.server import Server
from tests.test_agents import call_in, decide
from tests.test_process import came_back, two_devices

pytestmark = pytest.mark.process
ENDS = ("completed", "interrupted")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """Short leases, so that the dead are found soon."""
    times = {"CHAT_LEASE_SECONDS": "3", "CHAT_SWEEP_SECONDS": "0.5", "CHAT_DRAIN_SECONDS": "3"}
    async with Server(tmp_path, CHAT_TOOLS="tests.on_disk", **times) as server:
        yield server


def done(server: Server) -> list[str]:
    file = server.folder / "done.txt"
    return file.read_text().split() if file.exists() else []


async def waits(device: RemoteDevice, run: str) -> dict[str, Any]:
    await until(lambda: device.view.state_of(run) == "waiting", "the run to wait")
    return call_in(device, run)


def has_result(device: RemoteDevice, run: str) -> bool:
    return any(part["type"] == "tool_result" for part in device.view.parts_of(run))


async def test_a_tool_that_was_begun_is_not_begun_again_after_sigkill(server: Server) -> None:
    first, second = await two_devices(server)
    ack = await first.ask('/tool record {"text": "one", "seconds": 600}')
    await until(lambda: done(server) == ["one"], "the tool to have begun")
    await server.kill()
    await server.start()
    for device in (first, second):
        await came_back(device)
        assert (await device.ended(ack["run"]))["state"] == "interrupted"
        assert call_in(device, ack["run"])["status"] == "unknown"
    after = await first.ask("/echo And now?")
    assert (await first.ended(after["run"]))["state"] == "completed"
    assert done(server) == ["one"]


async def test_an_answer_between_two_steps_goes_on_after_sigkill(server: Server) -> None:
    first, second = await two_devices(server)
    ack = await first.ask('/slow 3\n/tool record {"text": "one"}')
    for device in (first, second):
        await until(partial(has_result, device, ack["run"]), "the tool to have ended")
    await server.kill()
    await server.start()
    for device in (first, second):
        await came_back(device)
        assert (await device.ended(ack["run"]))["state"] == "completed"
    assert "recorded one" in first.view.text_of(ack["run"])
    assert first.view.comparable() == second.view.comparable()
    assert done(server) == ["one"]


async def test_what_waits_for_a_person_outlives_sigkill_and_is_done_once(server: Server) -> None:
    first, second = await two_devices(server)
    ack = await first.ask('/tool sign {"text": "one"}')
    call = await waits(first, ack["run"])
    await server.kill()
    await server.start()
    for device in (first, second):
        await came_back(device)
        assert await waits(device, ack["run"]) == call
    assert (await decide(second, ack["run"], call, "approve"))["decision"] == "approved"
    for device in (first, second):
        assert (await device.ended(ack["run"]))["state"] == "completed"
    assert done(server) == ["one"]


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1])
async def test_a_sigkill_around_a_decision_leaves_one_decision_and_at_most_one_execution(
    server: Server, delay: float
) -> None:
    first, second = await two_devices(server)
    ack = await first.ask('/tool sign {"text": "one"}')
    call = await waits(first, ack["run"])
    deciding = asyncio.create_task(decide(first, ack["run"], call, "approve"))
    await asyncio.sleep(delay)
    await server.kill()
    deciding.cancel()
    await asyncio.wait([deciding])
    await server.start()
    for device in (first, second):
        await came_back(device)
    if not is_decided(second, ack["run"]):
        await decide(second, ack["run"], call, "approve")
    for device in (first, second):
        assert (await device.ended(ack["run"]))["state"] in ENDS
    status = call_in(second, ack["run"])["status"]
    assert (status, done(server)) in [("done", ["one"]), ("unknown", ["one"]), ("unknown", [])]
    assert first.view.comparable() == second.view.comparable()
    after = await first.ask("/echo And now?")
    assert (await first.ended(after["run"]))["state"] == "completed"


def is_decided(device: RemoteDevice, run: str) -> bool:
    """Whether the decision was stored before the process died."""
    return "decision" in call_in(device, run)["approval"]
