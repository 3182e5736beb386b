"""The disk that SQLite is on has no space left: a real one, under a real server process."""

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from chat.agent.scripted import long_text
from chat.transport.close import Close
from tests.device import until
from tests.remote import RemoteDevice, begin, joined
from tests.server import Server
from tests.small_disk import SmallDisk, small_disk

pytestmark = pytest.mark.process

# Of what is said while the disk is full; each is refused, and carried out when it is said again.
SPOKEN: list[tuple[str, dict[str, Any]]] = [
    ("message.send", {"text": "/rate 0 /echo Later.", "when_busy": "queue"}),
    ("message.send", {"text": "/rate 0 /echo Beside.", "when_busy": "alongside"}),
    ("conversation.rename", {"title": "Full"}),
]
STORED = """
import json
from chat.models import Conversation
conversation = Conversation.objects.get(pk={conversation!r})
said = conversation.messages.exclude(client_id=None).values_list("client_id", flat=True)
print(json.dumps([conversation.head, conversation.title, sorted(map(str, said))]))
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


@pytest.fixture
async def server(disk: SmallDisk) -> AsyncIterator[Server]:
    """Short leases: that of a run lapses while the disk is full."""
    async with Server(disk.folder, CHAT_LEASE_SECONDS="3", CHAT_SWEEP_SECONDS="0.5") as server:
        yield server


async def stored(server: Server, conversation: str) -> tuple[int, str, list[str]]:
    """What the database has: (head, title, the ids of what was sent)."""
    head, title, said = json.loads((await server.python(STORED.format(conversation=conversation))).splitlines()[-1])
    return head, title, said


async def refused(device: RemoteDevice, disk: SmallDisk, accepted: list[str]) -> list[tuple[str, str, dict[str, Any]]]:
    """Say each of SPOKEN until it is refused, and return what was: [(id, kind, fields)].

    SQLite may have room in its own files yet, which it uses up: what it takes is put into `accepted`.
    """
    kept = []
    for kind, fields in SPOKEN:
        for _ in range(20):
            signal_id = str(uuid.uuid4())
            answer = await device.say(kind, signal_id=signal_id, **fields)
            if answer["type"] == "nack":
                break
            if kind == "message.send":
                accepted.append(signal_id)
            disk.fill()
        assert answer["type"] == "nack", "so much is not stored by anybody"
        assert (answer["code"], answer["retryable"]) == ("storage", True)
        assert answer["message"] == "This could not be stored. Try again."
        assert answer["retry_after"] > 0
        kept.append((signal_id, kind, fields))
    return kept


async def said_again(device: RemoteDevice, kept: list[tuple[str, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Say the same under the same ids, as a client does by itself, and return the acks of what was sent."""
    answers = [await device.say(kind, signal_id=signal_id, **fields) for signal_id, kind, fields in kept]
    assert [answer["type"] for answer in answers] == ["ack"] * len(kept), answers
    return [answer for answer, (_, kind, _) in zip(answers, kept, strict=True) if kind == "message.send"]


async def all_ends_well(
    server: Server, place: tuple[str, str], devices: list[RemoteDevice], sent: list[str], acks: list[dict[str, Any]]
) -> None:
    """There is room again: nothing runs for ever, and every device knows what the database has."""
    for ack in acks:
        assert (await devices[0].ended(ack["run"]))["state"] == "completed"
    for run in list(devices[0].view.runs):
        await devices[0].ended(run)
    fresh = await joined(server, place, devices)
    here = [device for device in devices if device.closed is None]
    for device in here:
        await until(lambda device=device: device.view.cursor == fresh.view.cursor)  # type: ignore[misc]
        assert device.view.comparable() == fresh.view.comparable()
    assert len(here) >= 3
    head, title, said = await stored(server, place[0])
    assert (head, title, said) == (fresh.view.cursor, "Full", sorted(sent))


async def test_an_answer_goes_on_when_there_is_room_again_and_what_was_refused_is_said_again(
    disk: SmallDisk, server: Server, devices: list[RemoteDevice]
) -> None:
    place = await begin(server)
    laptop, phone = await joined(server, place, devices), await joined(server, place, devices)
    ack = await laptop.ask("/rate 100 /long 300")
    await laptop.writes(ack["run"], 20)
    disk.fill()
    accepted = [ack["id"]]
    kept = await refused(phone, disk, accepted)
    disk.free()
    acks = await said_again(phone, kept)
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == long_text(300)
    await all_ends_well(server, place, devices, [*accepted, *(ack["id"] for ack in acks)], acks)
    for device in (laptop, phone):
        assert sum(frame["type"] == "hello" for frame in device.frames) == 1, "the connection stayed"


@pytest.mark.slow
async def test_an_answer_that_cannot_be_stored_for_long_ends_as_failed_with_what_was_stored_of_it(
    disk: SmallDisk, server: Server, devices: list[RemoteDevice]
) -> None:
    place = await begin(server)
    laptop, phone = await joined(server, place, devices), await joined(server, place, devices)
    tablet = await joined(server, place, devices)
    ack = await laptop.ask("/rate 100 /long 100000")
    await laptop.writes(ack["run"], 20)
    disk.fill()
    began = time.monotonic()
    accepted = [ack["id"]]
    kept = await refused(phone, disk, accepted)

    # Who comes now: a new device is told to come back, one that is known reads, and so does a page.
    stranger = RemoteDevice(server, *place)
    devices.append(stranger)
    await stranger.connect()
    await until(lambda: stranger.closed == Close.FEED_FAILED, "a goodbye")
    assert stranger.frames[-1]["message"] == "Something went wrong here. Come back in a moment."
    await (await tablet.connect()).synced()
    async with httpx2.AsyncClient(base_url=server.url, cookies={"sessionid": place[1]}, trust_env=False) as client:
        for path in ("/", f"/conversations/{place[0]}/"):
            assert (await client.get(path)).status_code == 200

    # Longer than a commit and a run's end are tried for by themselves.
    await until(lambda: server.output.count("could not end the run") > 8, "many tries to end the run", 60)
    assert server.output.count("could not commit text") == 1
    seconds = time.monotonic() - began
    for what in ("_renew failed", "_sweep failed", "commit failed", "could not end the run"):
        assert server.output.count(what) < 3 * seconds + 5, what
    shown = laptop.view.text_of(ack["run"])
    assert laptop.view.state_of(ack["run"]) == "running"
    assert (await stored(server, place[0]))[2] == sorted(accepted)

    disk.free()
    ended = await laptop.ended(ack["run"])
    assert (ended["state"], ended["error"]) == (
        "failed",
        {"code": "storage", "message": "The answer could not be stored."},
    )
    assert laptop.view.text_of(ack["run"]) == shown
    assert long_text(100_000).startswith(shown)
    acks = await said_again(phone, kept)
    await all_ends_well(server, place, devices, [*accepted, *(ack["id"] for ack in acks)], acks)
    assert "lease lapsed" not in server.output, "no server was lost"
