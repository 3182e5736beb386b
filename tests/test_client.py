"""The client: its machine with a clock of our own, and whole conversations with a real server on bad networks."""

import asyncio
import dataclasses
import json
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import pytest_asyncio
from websockets.asyncio.server import ServerConnection, serve

from chat.agent.scripted import long_text
from chat.client import (
    Closed,
    Conversation,
    FileStore,
    Left,
    Memory,
    MemoryStore,
    Refused,
    Saved,
    State,
    Transport,
    Unreadable,
    View,
    connect,
    events,
    facts,
    frames,
    machine,
)
from chat.client.address import Address, Identity
from chat.client.event import Event
from chat.client.frames import Ack, Bye, Hello, Limits, Nack, Reset, Snapshot, SnapshotText, Sync
from chat.client.machine import PATIENCE, Act, Beat, Drop, Machine, Open
from chat.client.memory import FIRST
from chat.client.outbox import TRIES, Outbox
from chat.client.reader import ACK_DELAY, ACK_FRAMES, Delivered, Gap, Item, Reader
from tests.device import until
from tests.fault_proxy import FaultProxy
from tests.remote import begin
from tests.server import Server

ROOT = Path(__file__).resolve().parent.parent
WEBSOCKET, SSE, POLL = Transport
HELLO = Hello(
    protocol="conversation.v1",
    conversation=str(uuid.UUID(int=1)),
    epoch="epoch",
    serial=0,
    heartbeat=20.0,
    user="alice",
    role="owner",
    device=str(uuid.UUID(int=2)),
    limits=Limits(1_048_576, 65_536, 1_048_576, 49_152, 256),
)


# --- the machine --------------------------------------------------------------------------------------------


class Clock:
    """A machine with a memory, a clock that stands still and chance that always says the same."""

    def __init__(self, *transports: Transport, memory: Memory | None = None, chance: float = 1.0) -> None:
        self.now = 1000.0
        self.memory = memory or Memory(clock=lambda: self.now)
        self.machine = Machine(host="host", memory=self.memory, random=lambda: chance, transports=transports)
        self.acts: list[Act] = self.machine.start(self.now)

    def wait(self, seconds: float) -> list[Act]:
        """Let time pass, with all that is due meanwhile."""
        end, self.acts = self.now + seconds, []
        while (due := self.machine.due) is not None and due <= end:
            self.now = max(self.now, due)
            self.acts += self.machine.tick(self.now)
        self.now = end
        return self.acts

    def live(self, **hello: Any) -> "Clock":
        self.machine.heard(self.now)
        self.machine.hello(self.now, replace(HELLO, **hello))
        self.machine.synced(self.now)
        return self

    def lost(self, **how: Any) -> list[Act]:
        self.acts = self.machine.lost(self.now, **how)
        return self.acts

    def state(self) -> State:
        return self.machine.state

    def retry_in(self) -> float:
        due = self.machine.due
        assert due is not None
        return due - self.now


def test_it_begins_with_a_websocket_and_is_live_after_sync() -> None:
    clock = Clock()
    assert clock.acts == [Open(WEBSOCKET)]
    assert clock.state() is State.CONNECTING
    assert clock.live().state() is State.LIVE


def test_a_refused_upgrade_falls_to_sse_and_a_silent_stream_to_polls_and_both_are_remembered_for_minutes() -> None:
    clock = Clock()
    assert clock.lost(refused=True) == [Drop(), Open(SSE)]
    assert clock.wait(PATIENCE - 0.1) == []
    assert clock.wait(0.2) == [Drop(), Open(POLL)]
    clock.live()
    assert Clock(memory=clock.memory).acts == [Open(POLL)]
    again = Clock(memory=Memory(clock=lambda: clock.now))
    assert again.acts == [Open(WEBSOCKET)], "each host and memory for itself"


def test_the_better_transport_is_tried_again_when_the_memory_ends_and_then_remembered_for_longer() -> None:
    clock = Clock()
    clock.lost(refused=True)
    clock.live(heartbeat=1e6)
    assert clock.wait(FIRST - 1) == []
    assert clock.wait(2) == [Drop(), Open(WEBSOCKET)]
    assert clock.lost(refused=True) == [Drop(), Open(SSE)]
    clock.live(heartbeat=1e6)
    assert clock.wait(FIRST + 1) == []
    assert clock.wait(FIRST) == [Drop(), Open(WEBSOCKET)]
    clock.live()
    assert Clock(memory=clock.memory).acts == [Open(WEBSOCKET)], "what works is not held against it"


def test_r31_a_server_that_is_away_says_nothing_about_transports() -> None:
    clock = Clock()
    for _ in range(20):
        assert clock.lost() == [Drop()]
        assert clock.wait(clock.retry_in()) == [Open(WEBSOCKET)]
    clock.live()
    assert clock.memory.until("host", WEBSOCKET) == 0


def test_when_none_can_be_had_nothing_is_remembered_and_it_is_more_patient() -> None:
    clock = Clock()
    assert clock.wait(3 * PATIENCE) == [Drop(), Open(SSE), Drop(), Open(POLL), Drop()]
    assert clock.wait(clock.retry_in()) == [Open(WEBSOCKET)]
    assert clock.wait(2 * PATIENCE - 0.1) == []
    clock.live()
    assert all(clock.memory.until("host", one) == 0 for one in Transport)


def test_a_gateway_that_finds_no_server_is_believed_for_a_while() -> None:
    clock = Clock()
    for _ in range(3):
        assert clock.lost(gateway=True) == [Drop()]
        assert clock.wait(clock.retry_in()) == [Open(WEBSOCKET)]
    assert clock.lost(gateway=True) == [Drop(), Open(SSE)]


def test_a_stream_that_is_greeted_and_then_silent_is_held_back_by_somebody() -> None:
    clock = Clock(SSE, POLL).live(heartbeat=10)
    assert clock.wait(20) == [Beat(), Drop(), Open(POLL)]
    assert Clock(SSE, POLL, memory=clock.live().memory).acts == [Open(POLL)]
    clock = Clock(SSE, POLL).live(heartbeat=10)
    for _ in range(6):
        clock.machine.heard(clock.now)
        clock.wait(10)
    assert clock.wait(10)[-1:] == [Drop()], "a line that was heard for long is just dead"


def test_only_the_transports_that_were_asked_for_are_used() -> None:
    clock = Clock(POLL)
    assert clock.acts == [Open(POLL)]
    assert clock.lost(refused=True) == [Drop()]
    assert clock.wait(clock.retry_in()) == [Open(POLL)]


def test_it_backs_off_with_full_jitter_up_to_a_limit_and_says_offline() -> None:
    clock, delays, states = Clock(), [], []
    for _ in range(12):
        clock.lost()
        delays.append(clock.retry_in())
        states.append(clock.state())
        clock.wait(delays[-1])
    assert delays[:4] == pytest.approx([0.8, 1.6, 3.2, 6.4])
    assert delays[-1] == pytest.approx(15.0)
    assert states[:4] == [State.RECONNECTING] * 4
    assert set(states[4:]) == {State.OFFLINE}
    lucky = Clock(chance=0.01)
    lucky.lost()
    assert lucky.retry_in() == pytest.approx(0.008)


def test_connections_that_do_not_last_keep_backing_off_and_one_that_did_starts_over() -> None:
    clock = Clock()
    for expected in (0.8, 1.6, 3.2):
        clock.live()
        clock.wait(1)
        clock.lost()
        assert clock.retry_in() == pytest.approx(expected)
        clock.wait(expected)
    clock.live()
    clock.wait(6)
    clock.lost()
    assert clock.retry_in() == pytest.approx(0.4)


def test_it_says_that_it_is_there_at_each_heartbeat_and_drops_a_line_that_is_silent_for_two() -> None:
    clock = Clock().live(heartbeat=10)
    assert clock.wait(9) == []
    assert clock.wait(2) == [Beat()]
    clock.machine.heard(clock.now)
    assert clock.wait(19) == [Beat(), Beat()]
    assert clock.state() is State.LIVE
    assert Drop() in clock.wait(1)
    assert clock.state() is State.RECONNECTING


def test_a_goodbye_says_when_to_come_back() -> None:
    clock = Clock().live()
    acts = clock.machine.bye(clock.now, Bye(code="drain", message="", close=4000, retry_in=3.25))
    assert acts == [Drop()]
    assert clock.state() is State.RECONNECTING
    assert clock.wait(3.2) == []
    assert clock.wait(0.1) == [Open(WEBSOCKET)]


def test_a_goodbye_without_a_code_waits_for_the_close() -> None:
    clock = Clock().live()
    assert clock.machine.bye(clock.now, Bye(code="idle", message="", retry_in=1)) == []
    assert clock.lost(code=4001) == [Drop()]
    assert clock.retry_in() == pytest.approx(1)


@pytest.mark.parametrize("code", [4500, 4503, 4999])
def test_a_close_code_from_4500_on_is_the_end(code: int) -> None:
    clock = Clock().live()
    clock.machine.bye(clock.now, Bye(code="forbidden", message="You are out.", close=code))
    assert clock.state() is State.STOPPED
    assert clock.machine.closed is not None
    assert (clock.machine.closed.code, clock.machine.closed.reason) == (code, "forbidden")
    assert clock.wait(3600) == []
    assert clock.lost() == []


@pytest.mark.parametrize("code", [None, 1000, 1006, 1012, 4002, 4499])
def test_r21_any_other_close_means_come_back(code: int | None) -> None:
    clock = Clock().live()
    clock.lost(code=code)
    assert clock.state() is State.RECONNECTING
    assert clock.wait(1)[-1:] == [Open(WEBSOCKET)]


def test_somebody_who_waits_need_not_sit_out_a_delay() -> None:
    clock = Clock()
    assert clock.machine.hurry(clock.now) == []
    clock.lost()
    assert clock.machine.hurry(clock.now) == [Open(WEBSOCKET)]
    assert clock.live().machine.hurry(clock.now) == []


def test_a_line_that_is_slow_to_greet_is_given_time_from_then_on() -> None:
    clock = Clock()
    clock.wait(1.5)
    clock.live()
    clock.lost()
    clock.wait(clock.retry_in())
    assert clock.wait(4) == []


# --- reading ------------------------------------------------------------------------------------------------


def delta(after: int, serial: int, text: str = "x") -> events.MessageDelta:
    return events.MessageDelta(after=after, serial=serial, message="m", run="r", part=0, offset=0, text=text)


def title(after: int, serial: int) -> events.ConversationRenamed:
    return events.ConversationRenamed(after=after, serial=serial, title="T")


def batch(after: int, serial: int, *inner: Event) -> frames.Batch:
    return frames.Batch(after=after, serial=serial, conversation="", events=inner)


def taken(items: list[Item]) -> list[Delivered]:
    return [item.frame for item in items if item.frame is not None]


def test_a_range_is_taken_once_and_in_order() -> None:
    reader = Reader(5, "epoch")
    assert taken(reader.take(delta(5, 6), 1)) == [delta(5, 6)]
    assert reader.take(delta(5, 6), 1) == []
    assert reader.take(batch(3, 6, delta(3, 4), title(3, 6)), 1) == []
    assert taken(reader.take(batch(6, 9, title(6, 7), title(6, 9)), 1)) == [title(6, 7), title(6, 9)]
    assert reader.cursor == 9
    with pytest.raises(Gap):
        reader.take(delta(10, 11), 1)
    with pytest.raises(Gap):
        Reader().take(delta(0, 1), 1)


def test_of_a_range_that_overlaps_only_the_new_is_taken_and_text_for_it_may_have_grown() -> None:
    overlapping = batch(6, 12, delta(6, 7, "merged, up to 12"), title(6, 9), title(6, 11))
    assert taken(Reader(9, "epoch").take(overlapping, 1)) == [delta(6, 7, "merged, up to 12"), title(6, 11)]


def test_the_cursor_moves_through_a_batch_event_by_event_and_never_back() -> None:
    items = Reader(6, "epoch").take(batch(6, 12, delta(6, 7), title(6, 9), delta(6, 10)), 1)
    assert [item.cursor for item in items] == [7, 9, 12]
    items = Reader(9, "epoch").take(batch(6, 12, delta(6, 7), title(6, 11), delta(6, 12)), 1)
    assert [item.cursor for item in items] == [9, 11, 12]


def test_an_event_of_a_type_we_do_not_know_moves_the_cursor() -> None:
    reader = Reader(6, "epoch")
    unknown = frames.read({"type": "weather.changed", "after": 6, "serial": 7, "conversation": "c", "tool": "hammer"})
    assert isinstance(unknown, frames.Batch)
    items = reader.take(unknown, 1)
    assert [(item.frame, item.cursor) for item in items] == [(None, 7)]
    assert frames.read({"type": "weather", "sun": True}) is None


def test_a_connection_lost_in_the_middle_of_a_snapshot_begins_it_again() -> None:
    reader = Reader()
    reader.take(HELLO, 1)
    reader.take(Snapshot(serial=8, title="", turns=(), queue=(), people=(), older=None), 1)
    assert (reader.cursor, reader.position) == (None, 8)
    reader.connected()
    assert reader.position is None
    items = reader.take(Snapshot(serial=8, title="", turns=(), queue=(), people=(), older=None), 1)
    items += reader.take(SnapshotText(message="m", part=0, offset=0, text=""), 1)
    items += reader.take(Sync(serial=8), 1)
    assert [item.cursor for item in items] == [None, None, 8]
    assert reader.cursor == 8


def test_a_reset_voids_the_cursor_and_tells_the_new_epoch() -> None:
    reader = Reader(5, "before")
    reader.take(replace(HELLO, epoch="now"), 1)
    assert (reader.epoch, reader.cursor) == ("before", 5)
    reader.take(Reset(reason="epoch", epoch="now"), 1)
    assert (reader.epoch, reader.cursor) == ("now", None)


def test_it_is_acknowledged_by_number_by_size_and_by_time() -> None:
    reader = Reader(0, "epoch")
    items = [item for serial in range(ACK_FRAMES) for item in reader.take(delta(serial, serial + 1), 10)]
    assert reader.due() is None
    reader.applied(items[0], 100.0)
    assert reader.due() == 100.0 + ACK_DELAY
    for item in items[1:]:
        reader.applied(item, 100.1)
    assert reader.due() == 0.0
    reader.acknowledged()
    assert reader.due() is None
    (large,) = reader.take(delta(ACK_FRAMES, ACK_FRAMES + 1), 20_000)
    reader.applied(large, 101.0)
    assert reader.due() == 0.0


def test_a_small_window_is_acknowledged_sooner() -> None:
    reader = Reader(0, "epoch")
    reader.take(replace(HELLO, limits=replace(HELLO.limits, window_frames=8, window_bytes=400)), 1)
    for serial in range(2):
        (item,) = reader.take(delta(serial, serial + 1), 10)
        reader.applied(item, 0.0)
    assert reader.due() == 0.0


# --- asking -------------------------------------------------------------------------------------------------


def signal(number: int) -> dict[str, Any]:
    return {"type": "message.send", "id": str(uuid.UUID(int=number)), "text": "Hi"}


def nack(number: int, code: str, retry_after: float = 0.0) -> Nack:
    return Nack(id=signal(number)["id"], code=code, message="No.", retryable=True, retry_after=retry_after)


def test_what_has_no_answer_is_asked_again_in_order_under_the_same_id() -> None:
    outbox = Outbox(random=lambda: 1.0)
    for number in (1, 2, 3):
        outbox.ask(signal(number))
    outbox.ask(signal(2))
    assert outbox.answered(Ack(id=signal(2)["id"]), 0.0)
    assert not outbox.answered(Ack(id=signal(2)["id"]), 0.0), "answered already"
    assert outbox.flush() == [signal(1), signal(3)]


@pytest.mark.parametrize("code", ["storage", "rate", "draining"])
def test_what_is_refused_for_now_is_asked_again_after_the_delay_given_and_believed_at_last(code: str) -> None:
    outbox = Outbox(random=lambda: 0.0)
    outbox.ask(signal(1))
    for _ in range(TRIES):
        assert not outbox.answered(nack(1, code, 2.0), 10.0)
        assert outbox.due == 12.0
        assert outbox.tick(11.9) == []
        assert outbox.tick(12.0) == [signal(1)]
        assert outbox.due is None
    assert outbox.answered(nack(1, code, 2.0), 10.0)


def test_a_refusal_is_an_answer() -> None:
    outbox = Outbox(random=lambda: 1.0)
    outbox.ask(signal(1))
    assert outbox.answered(nack(1, "busy", 2.0), 10.0)
    assert outbox.signals == []


def test_what_got_no_answer_is_asked_again_for_as_long_as_it_takes() -> None:
    outbox = Outbox(random=lambda: 1.0)
    outbox.ask(signal(1))
    for _ in range(50):
        outbox.unsent(signal(1), 10.0)
        assert outbox.due is not None
        assert 10.0 < outbox.due <= 25.0
        assert outbox.tick(outbox.due) == [signal(1)]


# --- types --------------------------------------------------------------------------------------------------

SCHEMA = json.loads((ROOT / "docs" / "protocol.schema.json").read_text())["$defs"]
FRAMES = {name: ref.rpartition("/")[2] for name, ref in SCHEMA["Frame"]["discriminator"]["mapping"].items()}
NESTED = [facts.Who, facts.Approval, facts.Problem, facts.Ending, frames.Limits, frames.SnapshotAnswer]
NESTED += [frames.SnapshotTurn, frames.SnapshotWaiting, frames.SnapshotPerson]


def fields_of(kind: type[Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def test_every_frame_of_the_schema_has_a_type_with_the_same_fields_and_there_are_no_others() -> None:
    assert set(frames.TYPES) == set(FRAMES)
    for name, kind in frames.TYPES.items():
        known = set(SCHEMA[FRAMES[name]]["properties"]) - {"type"}
        found = fields_of(kind)
        # What an ack says depends on the signal, so the schema leaves it open.
        assert found == known or (name == "ack" and found > known), name
        assert kind.__dataclass_params__.frozen, name  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", NESTED, ids=lambda kind: kind.__name__)
def test_what_frames_are_made_of_has_the_same_fields_as_in_the_schema(kind: type[Any]) -> None:
    assert fields_of(kind) == set(SCHEMA[kind.__name__]["properties"])


def test_a_part_has_the_fields_of_all_kinds_of_parts() -> None:
    kinds = [SCHEMA[name]["properties"] for name in SCHEMA if name.endswith("Part")]
    assert len(kinds) == 9
    assert fields_of(facts.Part) == set().union(*kinds)


def test_what_may_be_missing_by_the_schema_may_be_missing_here() -> None:
    for name, kind in frames.TYPES.items():
        needed = {
            field.name
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        assert needed <= set(SCHEMA[FRAMES[name]]["required"]), name


def test_fields_we_do_not_know_are_ignored_and_one_that_is_missing_is_told() -> None:
    sync = frames.read({"type": "sync", "serial": 5, "moon": "full"})
    assert sync == Sync(serial=5)
    with pytest.raises(Unreadable, match="sync"):
        frames.read({"type": "sync"})


@pytest.mark.parametrize(
    "url",
    ["", "https://host/", "ftp://host/conversations/x/", "/conversations/00000000-0000-0000-0000-000000000001/"],
)
def test_an_address_that_is_none_is_said_to_be(url: str) -> None:
    with pytest.raises(ValueError, match="address of a conversation"):
        Address.of(url)


def test_the_doors_are_found_from_the_page() -> None:
    page = "https://host:8443/chat/conversations/0000000A-0000-0000-0000-000000000001/"
    address = Address.of(page)
    conversation = "0000000a-0000-0000-0000-000000000001"
    assert address.websocket({"after": "5"}) == f"wss://host:8443/chat/ws/conversations/{conversation}/?after=5"
    assert address.events == f"https://host:8443/chat/api/conversations/{conversation}/events"


def test_it_needs_neither_django_nor_anything_else_of_the_project() -> None:
    code = (
        "import sys, chat.client\n"
        "mine = [m for m in sys.modules if m.split('.')[0] in {'chat', 'project', 'django', 'channels'}]\n"
        "assert all(m == 'chat' or m.startswith('chat.client') for m in mine), mine"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env={"PATH": ""})


# --- what is kept -------------------------------------------------------------------------------------------


def test_what_is_kept_in_a_file_is_there_again_and_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "cursor.json"
    assert FileStore(path).load() is None
    saved = Saved("conversation", str(uuid.UUID(int=2)), "epoch", 12, (signal(1), signal(2)))
    FileStore(path).save(replace(saved, cursor=3))
    FileStore(path).save(saved)
    assert FileStore(path).load() == saved
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["cursor.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 200_000, "7"], ids=lambda text: text[:9] or "empty")
def test_a_file_that_is_not_ours_begins_afresh(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cursor.json"
    path.write_text(text)
    assert FileStore(path).load() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conversation", 1),
        ("device", None),
        ("device", "zz"),
        ("device", 2),
        ("epoch", 3),
        ("epoch", "\udce9"),
        ("cursor", "x"),
        ("cursor", 1.5),
        ("cursor", float("inf")),
        ("cursor", -1),
        ("cursor", True),
        ("cursor", 2**63),
        ("signals", None),
        ("signals", "hello"),
        ("signals", ["hello"]),
        ("signals", [{}]),
        ("signals", [{"type": "message.send", "id": 5}]),
        ("signals", [{"type": "message.send", "id": "five"}]),
    ],
)
def test_a_file_that_was_changed_by_somebody_begins_afresh(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "cursor.json"
    saved = Saved("conversation", str(uuid.UUID(int=2)), "epoch", 12, (signal(1),))
    FileStore(path).save(saved)
    assert FileStore(path).load() == saved
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert FileStore(path).load() is None


NOWHERE = f"http://127.0.0.1:1/conversations/{uuid.UUID(int=1)}/"  # nobody listens there


class Disk(MemoryStore):
    """May be full."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True
        self.refused = 0

    def save(self, saved: Saved) -> None:
        if self.full:
            self.refused += 1
            raise OSError("No space left")
        super().save(saved)


@pytest.mark.parametrize("ends", [False, True])
async def test_a_write_that_failed_is_tried_again_and_the_last_one_is_of_the_newest_state(
    ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    async with connect(NOWHERE, "token", store=disk, memory=Memory()) as one:
        saying = asyncio.create_task(one.send("Kept"))
        await until(lambda: disk.refused and "No space left" in caplog.text, "it to be said while it lasts")
        disk.full = False
        if not ends:
            await until(lambda: disk.saved is not None, "another write")
            disk.saved = None
    with pytest.raises(Left):
        await saying
    assert disk.saved is not None
    assert [kept["text"] for kept in disk.saved.signals] == ["Kept"]


async def test_the_last_write_waits_for_the_one_before() -> None:
    class Slow(MemoryStore):
        inside = most = 0
        together = threading.Event()

        def save(self, saved: Saved) -> None:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside > 1:
                self.together.set()
            self.together.wait(0.2)
            super().save(saved)
            self.inside -= 1

    slow = Slow()
    async with connect(NOWHERE, "token", store=slow, memory=Memory()) as one:
        saying = asyncio.create_task(one.send("Kept"))
        await until(lambda: slow.most)
    assert slow.most == 1
    with pytest.raises(Left):
        await saying


async def test_what_ended_the_block_is_not_hidden_by_what_the_store_says() -> None:
    disk = Disk()
    with pytest.raises(KeyError) as raised:
        async with connect(NOWHERE, "token", store=disk, memory=Memory()):
            raise KeyError("mine")
    assert "No space left" in raised.value.__notes__[0]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), connect(NOWHERE, "token", store=disk, memory=Memory()) as one:
            await one.send("Is anybody there?")

    async def says() -> None:
        async with connect(NOWHERE, "token", store=disk, memory=Memory()) as one:
            await one.send("Is anybody there?")

    before = disk.refused
    saying = asyncio.create_task(says())
    await until(lambda: disk.refused > before)
    saying.cancel()
    await asyncio.wait([saying])
    assert saying.cancelled()
    with pytest.raises(OSError, match="No space left"):
        async with connect(NOWHERE, "token", store=disk, memory=Memory()):
            pass


async def test_what_cannot_begin_leaves_no_task_behind() -> None:
    store = MemoryStore()
    store.saved = Saved(str(uuid.UUID(int=1)), str(uuid.UUID(int=2)), signals=({},))
    with pytest.raises(KeyError):
        async with connect(NOWHERE, "token", store=store, memory=Memory()):
            pass

    def fails(conversation: Conversation) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with connect(NOWHERE, "token", on_state=fails, memory=Memory()):
            pass
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("odd", [" ", "\n", "\r\nX-Other: ", "ï", "\x00", "\udce9"])
@pytest.mark.parametrize("kind", ["token", "session"])
async def test_a_secret_that_no_header_takes_is_refused_at_once_and_not_repeated(kind: str, odd: str) -> None:
    secrets: dict[str, Any] = {kind: f"cvt_qqq{odd}zzz"}
    with pytest.raises(ValueError, match="other characters") as raised:
        async with connect(NOWHERE, **secrets, memory=Memory()):
            pass
    told = "".join(traceback.format_exception(raised.value))
    assert "qqq" not in told
    assert "zzz" not in told


async def test_a_device_is_named_by_a_uuid() -> None:
    with pytest.raises(ValueError, match="UUID"):
        async with connect(NOWHERE, "token", device="laptop", memory=Memory()):
            pass


def test_a_secret_is_not_shown_with_the_rest() -> None:
    assert "qqq" not in repr(Identity.of("cvt_qqq", "qqq"))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transport that is let through is not given up because the machine is busy."""
    monkeypatch.setattr(machine, "PATIENCE", 15.0)


# --- somebody else than our server --------------------------------------------------------------------------

GREETING: list[dict[str, Any]] = [
    {"type": "hello", **dataclasses.asdict(HELLO)},
    {"type": "snapshot", "serial": 5, "title": "", "turns": [], "queue": [], "people": [], "older": None},
    {"type": "sync", "serial": 5},
]
JSON, STREAM = "200 OK\r\nContent-Type: application/json", "200 OK\r\nContent-Type: text/event-stream"
EVENTS = f"{STREAM}\r\nX-Ends: at once"
FORBIDDEN = "403 Forbidden\r\nContent-Type: application/json"
DEEP = "[" * 200_000


@asynccontextmanager
async def impostor(answer: Callable[[str], tuple[str, str]]) -> AsyncIterator[tuple[str, list[str]]]:
    """The page, and the requests there were: `answer` takes a request's head and gives status and headers, and a body.

    A stream stays open.
    """
    asked: list[str] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            asked.append(head.rpartition("?")[0])
            status, body = answer(head)
            length = "" if status == STREAM else f"Content-Length: {len(body)}\r\n"
            writer.write(f"HTTP/1.1 {status}\r\n{length}Connection: close\r\n\r\n{body}".encode())
            await writer.drain()
            while status == STREAM and await reader.read(65_536):
                pass
        writer.close()

    listening = await asyncio.start_server(speak, "127.0.0.1", 0)
    try:
        port = listening.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/conversations/{uuid.UUID(int=1)}/", asked
    finally:
        listening.close()
        await listening.wait_closed()


async def again(one: Conversation, condition: Callable[[], bool]) -> None:
    """Wait for it without the delays between tries."""

    def hurried() -> bool:
        one.hurry()
        return condition()

    await until(hurried, "that it is tried again")


def streamed(*frames: dict[str, Any]) -> str:
    return "".join(f"data: {json.dumps(one)}\n\n" for one in frames)


@pytest.mark.parametrize("transport", [SSE, POLL])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (JSON, DEEP),
        (FORBIDDEN, DEEP),
        (JSON, '{"connection": "x", "frames": [1]}'),
        (JSON, '{"connection": "x", "frames": [{}]}'),
        (JSON, '{"connection": "x", "frames": [{"type": []}]}'),
        (JSON, '{"type": "bye"}'),
        (FORBIDDEN, '{"type": "bye"}'),
        (FORBIDDEN, '{"type": "bye", "code": "x", "close": "4503"}'),
        (FORBIDDEN, '{"type": []}'),
        (EVENTS, f"data: {DEEP}\n\n"),
        (EVENTS, 'data: {"type": []}\n\n'),
    ],
    ids=lambda text: text[:3] + text[-30:].strip(),
)
async def test_an_answer_that_is_not_ours_is_a_lost_try(transport: Transport, status: str, body: str) -> None:
    async with (
        impostor(lambda _: (status, body)) as (url, asked),
        connect(url, "token", transports=[transport], memory=Memory()) as one,
    ):
        await again(one, lambda: len(asked) > 2)
        assert one.state is not State.STOPPED
        assert one.trouble


async def test_polls_that_somebody_else_answers_at_once_are_asked_once_a_second() -> None:
    times: list[float] = []

    def answer(asked: str) -> tuple[str, str]:
        is_first = "connection=" not in asked
        if not is_first:
            times.append(time.monotonic())
        return JSON, json.dumps({"connection": "x", "frames": GREETING if is_first else []})

    began = time.monotonic()  # when they arrive they may be late, each by another time, and never early
    async with impostor(answer) as (url, _), connect(url, "token", transports=[POLL], memory=Memory()):
        await until(lambda: len(times) > 2, "three questions")
    assert [at - began >= number - 0.01 for number, at in enumerate(times)] == [True] * len(times), times


@pytest.mark.parametrize("text", [DEEP, "1", "{}", '{"type": []}'], ids=lambda text: text[:5])
async def test_what_comes_by_a_websocket_and_is_no_frame_is_a_lost_try(text: str) -> None:
    connections = 0

    async def babbles(socket: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await socket.send(text)
        await socket.wait_closed()

    async with serve(babbles, "127.0.0.1", 0) as elsewhere:
        port = next(iter(elsewhere.sockets)).getsockname()[1]
        url = f"http://127.0.0.1:{port}/conversations/{uuid.UUID(int=1)}/"
        async with connect(url, "token", transports=[WEBSOCKET], memory=Memory()) as one:
            await again(one, lambda: connections > 2)
            assert one.state is not State.STOPPED


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (JSON, DEEP),
        (JSON, '{"type": "nack"}'),
        (JSON, '{"type": "ack", "serial": "5"}'),
        (JSON, '{"type": "bye"}'),
        (JSON, '{"type": []}'),
        ("503 Away", '{"type": "bye"}'),
    ],
    ids=lambda text: text[:3] + text[-12:],
)
async def test_a_signal_whose_answer_is_not_ours_is_asked_again(status: str, body: str) -> None:
    others = [(status, body)]

    def answer(asked: str) -> tuple[str, str]:
        if asked.startswith("GET"):
            return STREAM, streamed(*GREETING)
        return others.pop() if others else (JSON, '{"type": "ack", "run": "r"}')

    async with impostor(answer) as (url, _), connect(url, "token", transports=[SSE], memory=Memory()) as one:
        async with asyncio.timeout(10):
            assert (await one.send("Hi")).run == "r"
        assert others == []


async def test_a_goodbye_that_is_not_ours_is_what_its_status_says() -> None:
    def answer(asked: str) -> tuple[str, str]:
        return (STREAM, streamed(*GREETING)) if asked.startswith("GET") else (FORBIDDEN, '{"type": "bye"}')

    async with impostor(answer) as (url, _), connect(url, "token", transports=[SSE], memory=Memory()) as one:
        with pytest.raises(Refused) as refusal:
            async with asyncio.timeout(10):
                await one.send("Hi")
        assert refusal.value.code == "http_403"


@pytest.mark.parametrize("elsewhere", ["https://127.0.0.1:1/", "/login", "http://[", "mailto:somebody"])
async def test_a_websocket_that_is_sent_on_to_a_page_is_refused_and_the_next_transport_tried(
    patient: None, elsewhere: str
) -> None:
    def answer(asked: str) -> tuple[str, str]:
        if "/api/" in asked:
            return STREAM, streamed(*GREETING)
        return f"301 Moved\r\nLocation: {elsewhere}", ""

    async with impostor(answer) as (url, _), connect(url, "token", memory=Memory()) as one:
        await until(lambda: one.state is State.LIVE, "live by another one")
        assert one.transport is SSE


# --- with a server ------------------------------------------------------------------------------------------

real = pytest.mark.asyncio(loop_scope="module")
over_every_transport = pytest.mark.parametrize("transport", list(Transport))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One for all tests that do not end it. Short heartbeats, so that the dead are found soon."""
    async with Server(tmp_path_factory.mktemp("server"), CHAT_HEARTBEAT_SECONDS="0.5") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Where nothing is to be found dead: a busy machine may be silent for a second."""
    async with Server(tmp_path_factory.mktemp("calm"), CHAT_HEARTBEAT_SECONDS="2") as server:
        yield server


class Program:
    """A program that iterates in a task of its own and checks that nothing is missing, twice or out of order."""

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.seen: list[Delivered] = []
        self.serial = 0  # of the last event that is not text
        self.texts: dict[tuple[str, int], str] = {}
        self.reads = asyncio.Event()
        self.reads.set()
        self.reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.conversation:
            await self.reads.wait()
            self._check(event)
            self.seen.append(event)

    def _check(self, event: Delivered) -> None:
        match event:
            case Snapshot():
                self.serial = event.serial
                for answer in (answer for turn in event.turns for answer in turn.answers):
                    for number, part in enumerate(answer.parts):
                        self.texts[answer.message or "", number] = part.text
            case events.MessageDelta() | events.MessageSnapshot() | SnapshotText():
                known = self.texts.get((event.message, event.part), "")
                assert event.offset <= len(known), f"a hole in the text: {event}"
                new = known[: event.offset] + event.text
                assert len(new) > len(known) or event.type == "message.snapshot", f"a repeat: {event}"
                self.texts[event.message, event.part] = new
            case Event():
                assert event.serial > self.serial, f"a repeat: {event}"
                self.serial = event.serial
            case _:
                pass

    @property
    def length(self) -> int:
        """Of all answers."""
        return sum(len(text) for text in self.texts.values())

    async def until(self, condition: Callable[[], Any], what: str, deadline: float = 30.0) -> Any:
        """As soon as the reading has failed, that is what went wrong."""
        await until(lambda: self.reading.done() or condition(), what, deadline)
        if self.reading.done():
            self.reading.result()
        assert condition(), f"left before {what}"

    async def live(self) -> None:
        await self.until(lambda: self.conversation.state is State.LIVE, "live")

    async def passes(self, length: int) -> None:
        await self.until(lambda: self.length > length, f"{length} code points")

    async def ended(self, run: str, deadline: float = 30.0) -> str:
        """The text of the run's answer, when it has ended."""

        def is_over() -> bool:
            answer = self.conversation.view.answer_of(run)
            return answer is not None and not answer.is_live

        await self.until(is_over, "the end of the run", deadline)
        answer = self.conversation.view.answer_of(run)
        assert answer is not None
        return answer.text


@asynccontextmanager
async def program(url: str, token: str = "", **options: Any) -> AsyncIterator[Program]:
    options.setdefault("memory", Memory())
    async with connect(url, token, **options) as conversation:
        made = Program(conversation)
        yield made
    await made.reading


def page(place: Server | FaultProxy, conversation: str) -> str:
    return f"{place.url}/conversations/{conversation}/"


@real
async def test_a_program_uploads_and_sends_a_file_and_reads_those_of_others(calm: Server) -> None:
    conversation, session = await begin(calm)
    async with program(page(calm, conversation), session=session) as made:
        await made.live()
        part = await made.conversation.upload(b"Notes", "notes.txt")
        assert (part.type, part.name, part.content_type, part.size) == ("file", "notes.txt", "text/plain", 5)
        ack = await made.conversation.send("", files=[part])
        assert "notes.txt: a text of 5 characters" in await made.ended(ack.run)
        turn = made.conversation.view.turn_of(ack.run)
        assert turn is not None
        assert (turn.text, turn.files) == ("", [part])
        with pytest.raises(Refused, match="not taken"):
            await made.conversation.upload(b"<html>", "page.txt")
        other = await made.conversation.upload(b"Unsent", "unsent.txt")
        await made.conversation.remove_file(other.file)
        with pytest.raises(Refused, match="unknown_file"):
            await made.conversation.send("", files=[other])
        async with httpx2.AsyncClient() as client:
            found = await client.get(
                made.conversation.address.file(part.file), headers={"Cookie": f"sessionid={session}"}
            )
        assert found.text == "Notes"
        async with program(page(calm, conversation), session=session) as fresh:
            await fresh.until(lambda: any(isinstance(one, Sync) for one in fresh.seen), "sync")
            assert [turn.files for turn in fresh.conversation.view.turns] == [[part]]


@real
async def test_an_upload_that_is_cut_off_is_made_again_and_kept_once(calm: Server) -> None:
    conversation, session = await begin(calm)
    async with FaultProxy(calm.port) as proxy, program(page(proxy, conversation), session=session) as made:
        await made.live()
        before, proxy.faults.bytes_per_second = proxy.connections, 1_000_000
        asked = asyncio.create_task(made.conversation.upload(b"x" * 5_000_000, "long.txt"))
        await until(lambda: proxy.connections > before, "the upload's connection")
        proxy.reset()
        proxy.heal()
        part = await asked
        assert part.size == 5_000_000
        assert proxy.connections > before + 1
    counted = await calm.python(
        f"from chat.models import File; print(File.objects.filter(conversation={conversation!r}).count())"
    )
    assert counted.split()[-1] == "1"


async def agrees(made: Program, url: str, session: str) -> None:
    """What the program knows is what a new one is given: replay equals fetch."""
    async with program(url, session=session) as fresh:
        await fresh.live()
        await fresh.until(lambda: any(isinstance(one, Sync) for one in fresh.seen), "sync")
        view = fresh.conversation.view
        await made.until(lambda: made.conversation.turns == view.turns, "the same turns")
        assert (made.conversation.view.title, made.conversation.view.people) == (view.title, view.people)
        assert (made.conversation.view.queue, view.queue) == ([], [])


@real
@over_every_transport
async def test_an_answer_is_streamed_to_two_programs(server: Server, transport: Transport) -> None:
    conversation, session = await begin(server)
    url = page(server, conversation)
    async with (
        program(url, session=session, transports=[transport]) as one,
        program(url, session=session, transports=[transport], name="The other") as other,
    ):
        await other.live()
        ack = await one.conversation.send("/rate 200 /long 60")
        assert ack.run
        assert await one.ended(ack.run) == await other.ended(ack.run) == long_text(60)
        assert one.conversation.transport is transport
        await agrees(other, url, session)


async def token_of_alice(server: Server) -> str:
    code = (
        "from django.contrib.auth.models import User\nfrom chat.models.token import AccessToken\n"
        "print(AccessToken.issue(User.objects.get(username='alice'), 'test')[1])"
    )
    return (await server.python(code)).split()[-1]


@real
async def test_a_token_lets_in_over_every_transport(server: Server) -> None:
    conversation, _ = await begin(server)
    token = await token_of_alice(server)
    for transport in Transport:
        async with program(page(server, conversation), f" {token}\n", transports=[transport]) as one:
            ack = await one.conversation.send(f"/echo by {transport}")
            assert await one.ended(ack.run) == f"by {transport}"


@real
async def test_the_first_example_of_its_page_runs(server: Server, tmp_path: Path) -> None:
    conversation, _ = await begin(server)
    example = (ROOT / "docs" / "client.md").read_text().split("```python\n")[1].split("```")[0]
    address = next(line.split('"')[1] for line in example.splitlines() if line.startswith("PAGE"))
    Address.of(address)
    reporter = tmp_path / "reporter.py"
    reporter.write_text(example.replace(address, page(server, conversation)).replace("Where to?", "/echo That way"))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(reporter),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "CONVERSATION_TOKEN": await token_of_alice(server)},
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"That way\n")


@real
async def test_every_verb_is_carried_out(server: Server) -> None:
    conversation, session = await begin(server)
    async with program(page(server, conversation), session=session) as one:
        talk = one.conversation
        first = await talk.send("/hang")
        waiting = [await talk.send(f"/echo {number}") for number in range(3)]
        assert [ack.state for ack in waiting] == ["waiting"] * 3
        a, b, c = (ack.message for ack in waiting)
        assert (await talk.move(c, before=a)).order == (c, a, b)
        assert (await talk.remove(b)).order == (c, a)
        await talk.edit(a, "/echo edited")
        await talk.rename("Counting")
        await talk.read()
        await one.until(lambda: [turn.text for turn in talk.view.queue] == ["/echo 2", "/echo edited"], "the queue")
        await one.until(lambda: talk.view.title == "Counting", "the title")
        assert (await talk.cancel(run=first.run)).outcome == "cancelling"
        assert [await one.ended(ack.run) for ack in (waiting[2], waiting[0])] == ["2", "edited"]
        again = await talk.retry(first.run)
        assert (await talk.cancel(scope="all")).runs == (again.run,)
        await one.ended(again.run)
        last = str(uuid.uuid4())
        sent = await talk.send("/hang", id=last)
        assert (await talk.send("/hang", id=last)).duplicate
        assert (await talk.cancel(send=last)).outcome == "cancelling"
        await one.ended(sent.run)
        answer = talk.view.answer_of(sent.run)
        assert answer is not None
        assert answer.ending is not None
        assert answer.ending.by is not None
        assert (answer.state, answer.ending.by.user) == ("cancelled", "alice")
        await agrees(one, page(server, conversation), session)


@real
@over_every_transport
async def test_a_refusal_is_raised_with_its_code(server: Server, transport: Transport) -> None:
    conversation, session = await begin(server)
    async with program(page(server, conversation), session=session, transports=[transport]) as one:
        with pytest.raises(Refused) as refusal:
            await one.conversation.cancel(run=str(uuid.uuid4()))
        assert (refusal.value.code, refusal.value.retryable) == ("unknown_run", False)
        run = (await one.conversation.send("/hang")).run
        with pytest.raises(Refused) as refusal:
            await one.conversation.send("Now?", when_busy="reject")
        assert (refusal.value.code, refusal.value.retryable) == ("busy", True)
        await one.conversation.cancel(run=run)
        with pytest.raises(Refused) as refusal:
            await one.conversation.send("x" * 70_000)
        assert refusal.value.code == "too_large"


@real
@over_every_transport
async def test_the_server_closes_for_good_with_a_reason(server: Server, transport: Transport) -> None:
    conversation, session = await begin(server)
    for url, cookie, code in (
        (page(server, conversation), "nobody", 4501),
        (page(server, str(uuid.uuid4())), session, 4503),
    ):
        async with connect(url, session=cookie, transports=[transport], memory=Memory()) as outside:
            saying = asyncio.create_task(outside.send("Let me in"))
            with pytest.raises(Closed) as closed:
                async for _ in outside:
                    pass
            assert closed.value.code == code
            assert outside.state is State.STOPPED
            with pytest.raises(Closed):
                await saying
            with pytest.raises(Closed):
                await outside.send("Hello?")


@real
async def test_who_leaves_is_told_that_there_was_no_answer(server: Server) -> None:
    conversation, session = await begin(server)
    async with FaultProxy(server.port) as proxy:
        proxy.faults.black_hole = True
        async with connect(page(proxy, conversation), session=session, memory=Memory()) as one:
            saying = asyncio.create_task(one.send("Is anybody there?"))
            await until(lambda: one.unanswered)
        with pytest.raises(Left):
            await saying
        assert [event async for event in one] == []


# --- on bad networks ----------------------------------------------------------------------------------------


@real
@over_every_transport
@pytest.mark.parametrize("how", ["reset", "end_mid_frame"])
async def test_r2_cut_again_and_again_an_answer_is_whole_and_nothing_comes_twice(
    server: Server, transport: Transport, how: str
) -> None:
    conversation, session = await begin(server)
    async with FaultProxy(server.port) as proxy:
        async with program(page(proxy, conversation), session=session, transports=[transport]) as one:
            ack = await one.conversation.send("/rate 150 /long 20000")
            for _ in range(4):
                await one.passes(one.length + 300)
                made = proxy.connections
                getattr(proxy, how)()
                one.conversation.hurry()
                await one.until(lambda: proxy.connections > made, "another connection")  # noqa: B023
            await one.passes(one.length + 300)
            await one.conversation.cancel(run=ack.run)
            assert long_text(20_000).startswith(await one.ended(ack.run))
            await agrees(one, page(server, conversation), session)
        assert proxy.connections > 4


@real
@over_every_transport
async def test_cut_slow_and_in_slices_it_all_arrives(server: Server, transport: Transport) -> None:
    conversation, session = await begin(server)
    async with FaultProxy(server.port) as proxy:
        proxy.faults.slices = True
        proxy.faults.delay, proxy.faults.jitter = 0.02, 0.03
        proxy.faults.cut_every = 1.5
        # A machine may be too slow to get anywhere in so short a life.
        asyncio.get_running_loop().call_later(10, setattr, proxy.faults, "cut_every", 10.0)
        async with program(page(proxy, conversation), session=session, transports=[transport]) as one:
            ack = await one.conversation.send("/rate 100 /long 300")
            assert await one.ended(ack.run, deadline=40.0) == long_text(300)
            proxy.heal()
            await agrees(one, page(server, conversation), session)


@real
@over_every_transport
async def test_r27_what_is_said_while_the_line_is_dead_is_said_once_afterwards(
    server: Server, transport: Transport
) -> None:
    conversation, session = await begin(server)
    async with (
        FaultProxy(server.port) as proxy,
        program(page(proxy, conversation), session=session, transports=[transport]) as one,
    ):
        await one.live()
        proxy.faults.black_hole = True
        saying = [asyncio.create_task(one.conversation.send(f"/echo {number}")) for number in range(3)]
        await one.until(lambda: one.conversation.state is not State.LIVE, "that the line is found dead")
        proxy.heal()
        proxy.reset()
        acks = await asyncio.gather(*saying)
        texts = [await one.ended(ack.run) for ack in acks]
        assert texts == ["0", "1", "2"]
        assert [turn.text for turn in one.conversation.turns] == ["/echo 0", "/echo 1", "/echo 2"]
        await agrees(one, page(server, conversation), session)


@real
@pytest.mark.parametrize("transport", [SSE, POLL])
async def test_a_signal_whose_answer_is_lost_is_asked_again_and_carried_out_once(
    server: Server, transport: Transport
) -> None:
    conversation, session = await begin(server)
    told: list[State] = []
    async with (
        FaultProxy(server.port) as proxy,
        program(
            page(proxy, conversation),
            session=session,
            transports=[transport],
            on_state=lambda talk: told.append(talk.state),
        ) as one,
    ):
        await one.live()
        for number in range(5):
            await one.live()
            told.clear()
            saying = asyncio.create_task(one.conversation.send(f"/echo {number}"))
            await asyncio.sleep(0)
            proxy.reset()
            await one.until(lambda: saying.done() or {*told} - {State.LIVE}, "that it is cut")  # noqa: B023
            one.conversation.hurry()
            await one.ended((await saying).run)
        assert [turn.text for turn in one.conversation.turns] == [f"/echo {number}" for number in range(5)]


@real
async def test_a_post_that_fails_beside_a_stream_that_lives_is_asked_again(calm: Server) -> None:
    conversation, session = await begin(calm)
    async with (
        FaultProxy(calm.port) as proxy,
        program(page(proxy, conversation), session=session, transports=[SSE]) as one,
    ):
        await one.live()
        proxy.faults.refuse = True
        for connection in list(proxy.open):
            if connection.number > 1:  # the stream is the first
                connection.reset()
        saying = asyncio.create_task(one.conversation.send("/echo By another one"))
        await until(lambda: proxy.refused)
        proxy.heal()
        assert await one.ended((await saying).run) == "By another one"
        assert len([event for event in one.seen if isinstance(event, Hello)]) == 1


@real
@pytest.mark.parametrize("status", [400, 403, 426])
async def test_where_upgrades_are_refused_it_comes_by_sse_and_remembers(
    calm: Server, patient: None, status: int
) -> None:
    conversation, session = await begin(calm)
    memory = Memory()
    async with FaultProxy(calm.port) as proxy:
        proxy.faults.refuse_upgrade = status
        for refused in (1, 1):
            async with program(page(proxy, conversation), session=session, memory=memory) as one:
                ack = await one.conversation.send("/echo Through")
                assert await one.ended(ack.run) == "Through"
                assert one.conversation.transport is SSE
            assert proxy.refused == refused


@real
async def test_where_streams_are_held_back_too_it_polls(server: Server) -> None:
    conversation, session = await begin(server)
    async with FaultProxy(server.port) as proxy:
        proxy.faults.refuse_upgrade = 403
        proxy.faults.buffer_responses = True
        async with program(page(proxy, conversation), session=session) as one:
            ack = await one.conversation.send("/rate 100 /long 50")
            assert await one.ended(ack.run) == long_text(50)
            assert one.conversation.transport is POLL
            await agrees(one, page(server, conversation), session)


@real
async def test_when_the_memory_ends_the_better_transport_is_tried_again(calm: Server, patient: None) -> None:
    conversation, session = await begin(calm)
    ahead = 0.0
    memory = Memory(clock=lambda: asyncio.get_running_loop().time() + ahead)
    async with FaultProxy(calm.port) as proxy:
        proxy.faults.refuse_upgrade = 403
        async with program(page(proxy, conversation), session=session, memory=memory) as one:
            await one.live()
            assert one.conversation.transport is SSE
            proxy.heal()
            ahead = FIRST + 1
            proxy.reset()
            await one.until(lambda: one.conversation.transport is WEBSOCKET, "another try")
            await one.live()
            ack = await one.conversation.send("/echo Up again")
            assert await one.ended(ack.run) == "Up again"


@real
@over_every_transport
async def test_a_half_open_line_is_found_dead_and_left(server: Server, transport: Transport) -> None:
    conversation, session = await begin(server)
    told: list[State] = []
    async with FaultProxy(server.port) as proxy:
        async with program(
            page(proxy, conversation),
            session=session,
            transports=[transport],
            on_state=lambda talk: told.append(talk.state),
        ) as one:
            await one.live()
            proxy.faults.black_hole = True
            await one.until(lambda: one.conversation.state is State.RECONNECTING, "it to be found dead")
            proxy.heal()
            await one.live()
        assert told[:2] == [State.CONNECTING, State.LIVE] or told[0] is State.CONNECTING
        assert told[-1] is State.STOPPED


@real
async def test_a_quiet_line_stays(calm: Server) -> None:
    conversation, session = await begin(calm)
    async with AsyncExitStack() as stack:
        lines = [
            await stack.enter_async_context(program(page(calm, conversation), session=session, transports=[transport]))
            for transport in Transport
        ]
        for one in lines:
            await one.live()
        end = asyncio.get_running_loop().time() + 8  # four heartbeats, more than the server or we would wait
        for one in lines:
            await one.until(lambda: asyncio.get_running_loop().time() > end, "the time")
            assert len([event for event in one.seen if isinstance(event, Hello)]) == 1, one.conversation.transport
            assert one.conversation.state is State.LIVE


@real
@over_every_transport
async def test_a_program_that_does_not_read_is_not_flooded_and_gets_it_all_later(
    server: Server, transport: Transport
) -> None:
    conversation, session = await begin(server)
    async with program(page(server, conversation), session=session, transports=[transport]) as one:
        await one.live()
        one.reads.clear()
        ack = await one.conversation.send("/rate 0 /long 50000")
        async with program(page(server, conversation), session=session) as other:
            assert len(await other.ended(ack.run)) > 450_000
        assert sum(item.size for item in one.conversation._items) < 400_000  # a window and a page, of half a million
        one.reads.set()
        assert await one.ended(ack.run) == long_text(50_000)
        await agrees(one, page(server, conversation), session)


# --- across restarts ----------------------------------------------------------------------------------------


@real
async def test_a_program_that_comes_back_is_given_what_it_has_not_had(server: Server, tmp_path: Path) -> None:
    conversation, session = await begin(server)
    url, file = page(server, conversation), tmp_path / "cursor.json"
    async with program(url, session=session, cursor_file=file) as one:
        ack = await one.conversation.send("/rate 100 /long 600")
        await one.passes(300)
        device = one.conversation.device
    async with program(url, session=session, cursor_file=file) as again:
        again.serial, again.texts = one.serial, one.texts
        assert again.conversation.device == device
        await again.until(lambda: any(isinstance(event, events.RunEnded) for event in again.seen), "the end")
    assert not any(isinstance(event, Snapshot) for event in again.seen)
    assert ack.run
    assert list(again.texts.values()) == [long_text(600)]
    async with program(url, session=session, cursor_file=file, resume=False) as afresh:
        await afresh.until(lambda: afresh.conversation.turns, "a snapshot")
        assert afresh.conversation.turns[0].answers[0].text == long_text(600)


@real
async def test_what_a_program_failed_at_is_given_again(server: Server) -> None:
    conversation, session = await begin(server)
    url, store = page(server, conversation), MemoryStore()

    async def first_words(fail: bool) -> str:
        async with connect(url, session=session, store=store, memory=Memory()) as one:
            if fail:
                await one.send("/echo Words")
            async for event in one:
                if isinstance(event, events.MessageDelta | events.MessageSnapshot):
                    if fail:
                        raise ZeroDivisionError
                    return event.text
        return ""

    with pytest.raises(ZeroDivisionError):
        await first_words(fail=True)
    assert await first_words(fail=False) == "Words"


@real
async def test_a_gap_is_filled_by_coming_back_with_the_cursor(server: Server) -> None:
    asked: list[str | None] = []

    async def forgetful(socket: ServerConnection) -> None:
        assert socket.request is not None
        asked.append(parse_qs(urlsplit(socket.request.path).query).get("after", [None])[0])
        fields: list[dict[str, Any]] = [{"type": "hello", **dataclasses.asdict(HELLO)}]
        if asked[-1] is None:
            fields += [
                {"type": "snapshot", "serial": 5, "title": "", "turns": [], "queue": [], "people": [], "older": None}
            ]
        fields += [{"type": "sync", "serial": 5}]
        told = [7] if len(asked) == 1 else [6, 7]
        fields += [{"type": "conversation.renamed", "after": at - 1, "serial": at, "title": str(at)} for at in told]
        for one in fields:
            await socket.send(json.dumps(one))
        await socket.wait_closed()

    async with serve(forgetful, "127.0.0.1", 0) as elsewhere:
        port = next(iter(elsewhere.sockets)).getsockname()[1]
        url = f"http://127.0.0.1:{port}/conversations/{uuid.uuid4()}/"
        async with connect(url, "token", transports=[WEBSOCKET], memory=Memory()) as one:
            titles = []
            async for event in one:
                if isinstance(event, events.ConversationRenamed):
                    titles.append(event.title)
                if titles[-1:] == ["7"]:
                    break
    assert titles == ["6", "7"]
    assert asked == [None, "5"]


@real
async def test_a_server_of_another_protocol_is_not_come_back_to(server: Server) -> None:
    connections = 0

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(65_536)
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {"type": "hello"}\n\n')
        await writer.drain()
        await reader.read()
        writer.close()

    elsewhere = await asyncio.start_server(other, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{elsewhere.sockets[0].getsockname()[1]}/conversations/{uuid.uuid4()}/"
    async with connect(url, "token", transports=[SSE], memory=Memory()) as one:
        with pytest.raises(Unreadable):
            await anext(one)
        assert one.state is State.STOPPED
    elsewhere.close()
    await elsewhere.wait_closed()
    assert connections == 1


@real
async def test_what_had_no_answer_is_asked_by_the_next_run_of_the_program(server: Server, tmp_path: Path) -> None:
    conversation, session = await begin(server)
    store = MemoryStore()
    async with FaultProxy(server.port) as proxy:
        proxy.faults.refuse = True
        async with connect(page(proxy, conversation), session=session, store=store, memory=Memory()) as one:
            saying = asyncio.create_task(one.send("/echo Kept"))
            await until(lambda: one.unanswered)
            asked = one.unanswered[0]["id"]
        with pytest.raises(Left):
            await saying
    assert store.saved is not None
    assert [kept["id"] for kept in store.saved.signals] == [asked]
    async with program(page(server, conversation), session=session, store=store) as again:
        await again.until(lambda: any(isinstance(event, Ack) for event in again.seen), "the answer, as news")
        (ack,) = (event for event in again.seen if isinstance(event, Ack))
        assert ack.id == asked
        assert await again.ended(ack.run) == "Kept"
        assert again.conversation.unanswered == []


@real
@over_every_transport
async def test_r22_a_server_that_is_killed_and_started_again_is_come_back_to(
    tmp_path: Path, transport: Transport
) -> None:
    async with Server(tmp_path, CHAT_LEASE_SECONDS="3", CHAT_SWEEP_SECONDS="0.3") as server:
        conversation, session = await begin(server)
        url = page(server, conversation)
        async with program(url, session=session, transports=[transport]) as one:
            ack = await one.conversation.send("/rate 100 /long 3000")
            await one.passes(300)
            await server.kill()
            await one.until(lambda: one.conversation.state is not State.LIVE, "that it is gone")
            saying = asyncio.create_task(one.conversation.send("/echo Still here"))
            await server.start()
            assert await one.ended((await saying).run) == "Still here"
            answer = one.conversation.view.answer_of(ack.run)
            assert answer is not None
            assert answer.state == "interrupted"
            assert long_text(3000).startswith(answer.text)
            await agrees(one, url, session)


# --- the view -----------------------------------------------------------------------------------------------


def test_events_of_turns_we_were_not_given_are_left_out() -> None:
    view = View()
    view.apply(Snapshot(serial=8, title="T", turns=(), queue=(), people=(), older=3))
    view.apply(events.RunQueued(serial=9, run="r", message="old", alongside=False, waiting=False, attempt=1))
    view.apply(events.RunStarted(serial=10, run="r", message="m", prompt="old", place=1, attempt=1))
    view.apply(delta(10, 11))
    assert (view.turns, view.queue, view.live, view.text_of("m")) == ([], [], [], "")


def test_text_is_counted_in_code_points_and_may_repeat() -> None:
    view = View()
    by = facts.Who("alice", None, "")
    said = (facts.Part("text", "Hi 😀", "done"),)
    view.apply(
        events.MessageCreated(serial=1, message="p", run="r", role="user", client_id="", by=by, parts=said, place=1)
    )
    view.apply(events.RunStarted(serial=2, run="r", message="m", prompt="p", place=1, attempt=1))
    for offset, text in ((0, "😀😀"), (2, "b"), (1, "😀b"), (0, "😀😀bc")):
        view.apply(events.MessageSnapshot(serial=3, message="m", run="r", part=0, offset=offset, text=text))
    assert (view.text_of("p"), view.text_of("m")) == ("Hi 😀", "😀😀bc")
