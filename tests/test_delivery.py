"""Everything after a serial, once, in order, on every device, whatever the layer, the network and the device do."""

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db import connection
from pytest_django import Settings

from chat import host as hosts
from chat import hub, wire
from chat.agent.scripted import long_text
from chat.feed import WINDOW
from chat.models import Conversation, Event, Message, Participant, Run
from chat.transcript import PAGE_TURNS
from chat.wire import Frame
from project.asgi import application
from tests.conftest import with_settings
from tests.device import DEADLINE, Device, sign_in, until
from tests.layers import Hanging, Raising, Unreliable, layer
from tests.reducer import View

pytestmark = pytest.mark.usefixtures("quiet")
OVER_EVERY_DOOR = True

Make = Callable[..., Device]
SOON = {"CHAT_POSITION_SECONDS": 0.1, "CHAT_SWEEP_SECONDS": 0.1}


async def connected(device: Device) -> Device:
    return await (await device.connect()).synced()


async def answered(device: Device, text: str, **fields: Any) -> str:
    """Ask, wait for the end, and return the run."""
    run: str = (await device.ask(text, **fields))["run"]
    await device.ended(run)
    return run


async def agree(*devices: Device) -> None:
    """I2: after things settle every device is at the head and knows the same, and a fresh one knows it too."""
    conversation = devices[0].conversation

    async def head() -> int:
        return (await Conversation.objects.aget(pk=conversation.pk)).head

    at = await head()
    await until(lambda: all(device.view.cursor == at for device in devices), f"all at {at}")
    assert at == await head(), "call this when nothing happens any more"
    fresh = Device(devices[0].user, conversation)
    await connected(fresh)
    await fresh.disconnect()
    for device in devices:
        assert device.view.comparable() == fresh.view.comparable()
    # What a page is given is the same by every door, too: afresh, and from the beginning.
    doors = {devices[0].door, "websocket"}
    for after in (None, 0):
        shown = [await shown_to_a_page(device, door, after) for door in doors]
        assert shown[0]
        assert shown[0] == shown[-1], after


async def shown_to_a_page(device: Device, door: str, after: int | None) -> list[tuple[int, str]]:
    """The position and the fragments of each frame with some, up to `sync`."""
    page = Device(device.user, device.conversation, encoding="html", door=door, session=device.session)
    await page.connect(after=after)
    await page.synced()
    await page.disconnect()
    return [(frame["serial"], frame["html"]) for frame in page.frames if "html" in frame]


async def owner_of(conversation: Conversation) -> Participant:
    return await Participant.objects.select_related("conversation", "user").aget(
        conversation=conversation, role="owner"
    )


def bytes_since(device: Device) -> int:
    """What this connection has cost so far."""
    return sum(len(json.dumps(frame, separators=(",", ":"))) for frame in device.frames[device.connected_at :])


def rename(table: str, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO {name}")


# --- the layer --------------------------------------------------------------------------------------------------


@with_settings(CHANNEL_LAYERS=layer("Silent"), **SOON)
async def test_a_layer_that_delivers_nothing_costs_time_and_no_text(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    phone = await connected(device(alice, conversation))
    runs = [await answered(laptop, f"/rate 500 /long {100 + n}") for n in range(2)]
    late = await connected(device(alice, conversation))  # ahead of what the lane has offered
    runs += [await answered(phone, "/rate 500 /long 200"), await answered(late, "/rate 0 /echo Bye.")]
    await agree(laptop, phone, late)
    assert [laptop.view.text_of(run) for run in runs] == [long_text(100), long_text(101), long_text(200), "Bye."]


@with_settings(CHANNEL_LAYERS=layer("Silent"), CHAT_POSITION_SECONDS=0.4, CHAT_SWEEP_SECONDS=0.1)
async def test_r12_devices_that_come_between_two_looks_at_the_log_get_nothing_twice(
    device: Make, alice: User, conversation: Conversation
) -> None:
    devices = [await connected(device(alice, conversation))]
    for number in range(6):
        await devices[-1].say("message.send", text=f"/rate 0 /echo {number}")
        devices.append(await connected(device(alice, conversation)))
    await until(lambda: len(devices[0].view.runs) == 6)
    for run in list(devices[0].view.runs):
        for one in devices:
            await one.ended(run)
    await agree(*devices)


@with_settings(CHANNEL_LAYERS=layer("Unreliable", share=0.1), **SOON)
async def test_a_layer_that_loses_doubles_and_reorders_changes_nothing(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    runs = []
    for number in range(6):
        runs.append(await answered(laptop if number % 2 else phone, f"/rate 300 /long {60 + number}"))
        await laptop.say("conversation.rename", title=f"Part {number}")
    await agree(laptop, phone)
    assert [phone.view.text_of(run) for run in runs] == [long_text(60 + number) for number in range(6)]
    unreliable = get_channel_layer()
    assert isinstance(unreliable, Unreliable)
    assert min(unreliable.lost, unreliable.doubled, unreliable.swapped) > 0


@with_settings(CHANNEL_LAYERS=layer("Raising"), **SOON)
async def test_a_layer_that_raises_is_done_without_and_used_again_when_it_is_back(
    device: Make, alice: User, conversation: Conversation, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(Raising, "away", True)
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    await answered(laptop, "/rate 500 /long 100")
    await agree(laptop, phone)
    await phone.disconnect()
    monkeypatch.setattr(Raising, "away", False)
    members = get_channel_layer().groups
    await until(lambda: any(group.startswith("conversation.") for group in members), "the group is joined again")
    settings.CHAT_POSITION_SECONDS = 3600.0  # from here on news come by the layer, not by the timer
    await answered(laptop, "/rate 200 /long 100")
    await connected(phone)
    await agree(laptop, phone)


@with_settings(CHANNEL_LAYERS=layer("Stubborn"), **SOON)
async def test_a_layer_that_swallows_a_cancel_keeps_no_host_from_ending_and_no_device_that_is_gone(
    device: Make, host: hosts.Host, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    await laptop.ask("/rate 200 /long 100000")  # so that there is always news on the way
    other = await sync_to_async(Conversation.begin)(alice)
    for delay in (0.02, 0.05, 0.08):  # while it joins its group
        phone = await device(alice, other, session=laptop.session).connect()
        await until(lambda: host.roster.users_of(other.pk), "it is let in")
        await asyncio.sleep(delay)
        await phone.disconnect()
    await until(lambda: not host.hub._joining, "the last to have joined")
    await until(lambda: host.hub.conversations == 1, "nobody left there")
    async with asyncio.timeout(30):
        await hosts.stop()


def groups_joined() -> list[str]:
    return [group for group in get_channel_layer().groups if group.startswith("conversation.")]


@with_settings(CHANNEL_LAYERS=layer("Slow"), CHAT_POSITION_SECONDS=3600.0, CHAT_HEARTBEAT_SECONDS=1.0)
async def test_x56_joining_while_the_last_one_leaves_keeps_the_subscription(
    device: Make, host: hosts.Host, alice: User, conversation: Conversation
) -> None:
    one, other = device(alice, conversation), device(alice, conversation, encoding="html")
    for number in range(16):
        coming, going = (one, other) if number % 2 else (other, one)
        await connected(coming)
        first, then = (coming.disconnect(), connected(going)) if number < 4 else (connected(going), coming.disconnect())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(first)
            await asyncio.sleep(0.002 * number)
            tasks.create_task(then)
        before = going.view.cursor
        await going.say("conversation.rename", title=f"Round {number}")
        await until(lambda: going.view.cursor > before)  # noqa: B023
        await going.disconnect()
    await until(lambda: host.hub.conversations == 0 and not groups_joined(), "nobody listens")


class Nobody:
    """Listens to a lane and makes nothing of it."""

    def offer(self, frame: Frame) -> None: ...

    def whisper(self, body: str, sender: str) -> None: ...


@with_settings(CHANNEL_LAYERS=layer("Slow"))
async def test_who_joins_while_another_one_gives_up_is_not_forgotten(
    host: hosts.Host, conversation: Conversation
) -> None:
    given_up = asyncio.create_task(host.hub.join(conversation.pk, "json", Nobody()))
    await until(groups_joined)
    given_up.cancel()
    second = asyncio.create_task(host.hub.join(conversation.pk, "json", Nobody()))
    await asyncio.wait([given_up])
    third = asyncio.create_task(host.hub.join(conversation.pk, "json", Nobody()))
    assert await second is await third
    assert groups_joined()


@with_settings(CHANNEL_LAYERS=layer("Hanging"), CHAT_POSITION_SECONDS=0.5)
async def test_with_a_layer_that_hangs_nobody_waits_for_everybody_before(
    host: hosts.Host, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(Hanging, "hangs", True)
    places = [(await sync_to_async(Conversation.begin)(alice)).pk for _ in range(40)]
    async with asyncio.timeout(20):  # one after the other would take twice as long
        await asyncio.gather(*(host.hub.join(place, "json", Nobody()) for place in places))
    assert groups_joined() == []
    monkeypatch.setattr(Hanging, "hangs", False)
    await until(lambda: len(groups_joined()) == len(places), "everybody hears")


@with_settings(CHAT_HEARTBEAT_SECONDS=1.0)  # a device that is gone between two polls is missed after a while
async def test_r10_devices_that_come_and_go_leave_nothing_behind(
    device: Make, host: hosts.Host, alice: User, conversation: Conversation
) -> None:
    session = await sync_to_async(sign_in)(alice)
    devices = [device(alice, conversation, session=session) for _ in range(4)]
    for number in range(25):
        await asyncio.gather(*(one.connect() for one in devices))
        if number % 2:
            await asyncio.gather(*(one.synced() for one in devices))
        await asyncio.gather(*(one.disconnect() for one in devices))
    # A real server hears of it a moment later than the device.
    await until(lambda: host.hub.conversations == len(host.roster) == 0 and not groups_joined(), "nobody is here")
    tasks = ("lane", "feed", "websocket")
    await until(lambda: not [task for task in asyncio.all_tasks() if task.get_name().startswith(tasks)], "no task left")


# --- where a device starts --------------------------------------------------------------------------------------


@with_settings(CHAT_SIGNALS_PER_SECOND=1e6)
@pytest.mark.parametrize("encoding", ["json", "html"])
async def test_i4_resuming_at_every_serial_equals_the_fetch(
    device: Make, alice: User, conversation: Conversation, encoding: str
) -> None:
    recorder = await connected(device(alice, conversation))
    states: dict[int, dict[str, Any]] = {}
    original = recorder.view.apply

    def apply(frame: dict[str, Any]) -> bool:
        applied = original(frame)
        states[recorder.view.cursor] = json.loads(json.dumps(View.comparable(recorder.view)))
        return applied

    recorder.view.apply = apply  # type: ignore[method-assign]
    await recorder.say("conversation.rename", title="A life")
    await answered(recorder, "/rate 300 /echo Grüße 🚂, and more.")
    stopped = await recorder.ask("/rate 300 /long 5000")
    waiting = [await recorder.ask(f"/rate 0 /echo {n}") for n in range(3)]
    await recorder.say("queue.edit", message=waiting[0]["message"], text="/rate 0 /fail overloaded")
    await recorder.say("queue.move", message=waiting[2]["message"], before=waiting[0]["message"])
    await recorder.say("queue.remove", message=waiting[1]["message"])
    await recorder.writes(stopped["run"], 50)
    await recorder.say("run.cancel", run=stopped["run"])
    for ack in (stopped, waiting[0], waiting[2]):
        await recorder.ended(ack["run"])
    retry = await recorder.say("run.retry", run=waiting[0]["run"])
    await until(lambda: retry["run"] in recorder.view.runs)
    await recorder.ended(retry["run"])
    head = recorder.view.cursor
    end = recorder.view.comparable()
    await agree(recorder)

    resumed = device(alice, conversation, session=recorder.session, encoding=encoding)
    for serial in range(head + 1):
        if encoding == "json" and serial and serial not in states:
            continue  # inside a range: no device can be there
        resumed.view = View(cursor=serial)
        if serial and encoding == "json":
            resumed.view = view_of(states[serial])
        await connected(resumed)
        frames = resumed.frames[resumed.connected_at :]
        assert not {"reset", "snapshot"} & {frame["type"] for frame in frames}, serial
        assert resumed.view.cursor == head
        if encoding == "json":
            assert resumed.view.comparable() == end, f"resumed at {serial}"
        else:
            pieces = [frame for frame in frames if "after" in frame]
            assert [frame["after"] for frame in pieces] == [serial, *(frame["serial"] for frame in pieces)][
                : len(pieces)
            ]
            assert serial == head or "".join(frame["html"] for frame in pieces)
        await resumed.disconnect()


def view_of(state: dict[str, Any]) -> View:
    """A device that stopped listening when it knew this."""
    copied = json.loads(json.dumps(state))
    return View(**copied)


@pytest.mark.parametrize("encoding", ["json", "html"])
async def test_i11_a_cursor_that_cannot_be_served_is_reset_and_shown_afresh(
    device: Make, alice: User, conversation: Conversation, encoding: str
) -> None:
    laptop = await connected(device(alice, conversation))
    await answered(laptop, "/rate 0 /echo Hello.")
    head = laptop.view.cursor
    cases = {
        **dict.fromkeys((str(head + 1), str(10**17)), "ahead"),
        **dict.fromkeys(("-1", "", "x", "1.5", "1e3", "+1", "%00", "%D9%A3", "9" * 30, "0x1", "1%202"), "not_a_serial"),
    }
    lost = device(alice, conversation, session=laptop.session, encoding=encoding)
    for after, reason in cases.items():
        lost.view, lost.epoch = View(), None
        await (await lost.connect(after=after)).synced()
        kinds = [frame["type"] for frame in lost.frames[lost.connected_at :] if frame["type"] != "presence"]
        assert kinds == ["hello", "reset", "snapshot", "sync"], after
        frames = {frame["type"]: frame for frame in lost.frames[lost.connected_at :]}
        assert (frames["reset"]["reason"], frames["snapshot"]["serial"]) == (reason, head), after
        await lost.disconnect()
    lost.epoch = str(uuid.uuid4())
    await (await lost.connect(after=head)).synced()
    assert next(f for f in lost.frames[lost.connected_at :] if f["type"] == "reset")["reason"] == "epoch"
    ack = await laptop.ask("/rate 0 /echo It goes on.")
    await laptop.ended(ack["run"])
    await until(lambda: lost.view.cursor == laptop.view.cursor)


@with_settings(CHAT_SIGNALS_PER_SECOND=1e6)
async def test_r16_answers_stream_where_the_page_of_the_transcript_ends(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    for number in range(PAGE_TURNS - 1):
        await answered(laptop, f"/rate 0 /echo {number}")
    oldest = min(laptop.view.runs.values(), key=lambda run: laptop.view.messages[run["prompt"]]["place"])
    for turns in (PAGE_TURNS, PAGE_TURNS + 1, PAGE_TURNS + 2):
        ack = await laptop.ask("/rate 200 /long 100")
        await laptop.writes(ack["run"])
        fresh = await connected(device(alice, conversation, session=laptop.session))
        snapshot = next(frame for frame in fresh.frames if frame["type"] == "snapshot")
        assert (len(snapshot["turns"]), snapshot["older"] is not None) == (PAGE_TURNS, turns > PAGE_TURNS)
        await fresh.ended(ack["run"])
        assert fresh.view.text_of(ack["run"]) == long_text(100)
        assert (oldest["prompt"] in fresh.view.messages) == (turns == PAGE_TURNS)


async def test_r16_what_happens_to_a_turn_older_than_the_page_disturbs_nobody(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    failed = await answered(laptop, "/fail-before")
    for number in range(PAGE_TURNS):
        await answered(laptop, f"/rate 0 /echo {number}")
    fresh = await connected(device(alice, conversation, session=laptop.session))
    assert failed not in fresh.view.runs
    retry = await laptop.say("run.retry", run=failed)
    await until(lambda: retry["run"] in laptop.view.runs)
    await laptop.ended(retry["run"])
    last = await answered(laptop, "/rate 0 /echo last")
    await fresh.ended(last)
    assert fresh.view.cursor == laptop.view.cursor


async def test_r32_a_token_between_the_snapshot_and_live_is_not_missed(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/rate 2000 /long 1000000")
    await laptop.writes(ack["run"])
    comers = []
    for _ in range(30):
        comers.append(device(alice, conversation, session=laptop.session))
        await connected(comers[-1])
    assert (await laptop.say("run.cancel", run=ack["run"]))["outcome"] == "cancelling", "all came while it was written"
    for comer in comers:
        await comer.ended(ack["run"])
        assert long_text(10_000).startswith(comer.view.text_of(ack["run"])[:50_000])
    await agree(laptop, *comers)


@with_settings(CHAT_SIGNALS_PER_SECOND=1e6)
async def test_a_fetch_in_the_middle_of_everything_still_agrees_in_the_end(
    device: Make, alice: User, conversation: Conversation
) -> None:
    """Rows that change while a snapshot is read must not make the events that follow it apply twice."""
    laptop = await connected(device(alice, conversation))
    comers = [device(alice, conversation, session=laptop.session) for _ in range(4)]
    stop = False

    def living() -> int:  # looked at anew each time: the event of a removal comes after its ack
        return sum(run["state"] in {"queued", "running"} for run in laptop.view.runs.values())

    async def busy() -> None:
        number = 0
        while not stop:
            number += 1
            await until(lambda: living() < 20, "room for one more")
            ack = await laptop.ask("/rate 0 /echo x", when_busy="queue" if number % 3 else "alongside")
            if number % 4 == 0:
                await laptop.say("queue.remove", message=ack["message"])

    task = asyncio.create_task(busy())
    for _ in range(12):
        for comer in comers:
            comer.view = View()
        await asyncio.gather(*(connected(comer) for comer in comers))
        await asyncio.gather(*(comer.disconnect() for comer in comers))
    stop = True
    await task
    await until(lambda: not living(), "every end", 30)
    for comer in comers:
        assert comer.view.cursor > 0
        await connected(comer)
    await until(lambda: all(comer.view.cursor == laptop.view.cursor for comer in comers))
    for comer in comers:  # older turns than a page are known to whoever was there only
        for message, known in comer.view.messages.items():
            assert laptop.view.messages[message] == known


# --- away and back ----------------------------------------------------------------------------------------------


async def test_r2_r26_a_device_that_is_cut_off_fifty_times_has_every_word_once(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    ack = await laptop.ask("/rate 400 /long 1500")
    for number in range(50):
        await phone.disconnect()
        if number % 3 == 0:
            await asyncio.sleep(0.01)
        await phone.connect()
        if number % 2:
            await phone.synced()
    await phone.ended(ack["run"])
    assert phone.view.text_of(ack["run"]) == long_text(1500)
    await laptop.ended(ack["run"])
    await agree(laptop, phone)


async def test_r5_a_device_that_comes_before_the_first_token_sees_it_come(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/slow 4 /rate 100 /long 20")
    fresh = await connected(device(alice, conversation))
    assert fresh.view.runs[ack["run"]]["state"] in {"queued", "running"}
    assert fresh.view.text_of(ack["run"]) == ""
    await fresh.ended(ack["run"])
    assert fresh.view.text_of(ack["run"]) == long_text(20)
    await laptop.ended(ack["run"])
    await agree(laptop, fresh)


async def test_r6_a_failure_while_a_device_was_away_is_told_on_return(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    await phone.disconnect()
    run = await answered(laptop, "/rate 0 /long 10 /fail overloaded")
    await phone.connect()
    ended = await phone.ended(run)
    assert (ended["state"], ended["error"]["code"]) == ("failed", "overloaded")
    assert phone.view.text_of(run) == long_text(10)
    await agree(laptop, phone)


async def test_d5_a_device_stays_for_runs_that_others_start(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    for number in range(5):
        run = await answered(laptop, f"/rate 0 /echo {number}")
        await phone.ended(run)
        assert phone.view.text_of(run) == str(number)
    assert sum(frame["type"] == "sync" for frame in phone.frames) == 1
    await agree(laptop, phone)


async def test_r19_coming_back_with_nothing_missed_costs_less_than_a_kilobyte(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    await answered(laptop, "/rate 0 /long 3000")
    await laptop.disconnect()
    await connected(laptop)
    assert bytes_since(laptop) < 1000


async def test_r1_coming_back_leaves_earlier_answers_as_they_were(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    earlier = [await answered(laptop, f"/rate 0 /long {n}") for n in (50, 60)]
    before = [laptop.view.text_of(run) for run in earlier]
    ack = await laptop.ask("/rate 300 /long 200")
    await laptop.writes(ack["run"])
    await laptop.disconnect()
    await laptop.connect()
    await laptop.ended(ack["run"])
    assert [laptop.view.text_of(run) for run in earlier] == before
    assert laptop.view.text_of(ack["run"]) == long_text(200)


# --- slow and silent devices ------------------------------------------------------------------------------------


async def test_a_device_that_acknowledges_nothing_is_sent_a_window_and_later_all_the_rest_merged(
    device: Make, alice: User, conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat.transport.http.HTTP_WINDOW", WINDOW)
    laptop, phone = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    phone.acknowledges = False
    run = await answered(laptop, "/rate 4000 /long 12000")
    owed = [frame for frame in phone.frames if "after" in frame]
    assert sum(len(json.dumps(frame)) for frame in owed) < 4 * wire.WINDOW_BYTES
    assert len(owed) <= wire.WINDOW_FRAMES
    assert phone.view.runs[run]["state"] == "running"
    received = len(phone.frames)
    phone.acknowledges = True
    await phone.say_raw(json.dumps({"type": "flow", "serial": phone.view.cursor}))
    await phone.ended(run)
    assert phone.view.text_of(run) == long_text(12000)
    assert len(phone.frames) - received < 20
    await agree(laptop, phone)


class Door:
    """A socket as a server has it whose buffer fills: `send` waits while shut, and raises once gone."""

    def __init__(self, user_session: str, conversation: Conversation) -> None:
        self.sent: list[dict[str, Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.gone = False
        self.waiting = self.raised = 0
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        cookie = f"{django_settings.SESSION_COOKIE_NAME}={user_session}"
        path = f"/ws/conversations/{conversation.pk}/"
        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": f"device={uuid.uuid4()}".encode(),
            "headers": [(b"cookie", cookie.encode()), (b"host", b"testserver")],
            "subprotocols": ["conversation.v1.json"],
        }
        self.task = asyncio.ensure_future(application(scope, self._incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        if self.gone:
            self.raised += 1
            raise ConnectionResetError("the client is gone")
        self.waiting += 1
        if not self.open.is_set():
            await self.open.wait()
        self.waiting -= 1
        self.sent.append(message)

    def say(self, **signal: Any) -> None:
        self._incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(signal)})

    async def leave(self) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1006})
        await asyncio.wait([self.task], timeout=10)
        assert self.task.done()
        assert self.task.exception() is None

    def frames(self) -> list[dict[str, Any]]:
        return [json.loads(message["text"]) for message in self.sent if message["type"] == "websocket.send"]


@pytest.mark.in_process  # its socket is one that no server has made
async def test_a_socket_that_does_not_take_what_is_sent_holds_a_bounded_amount_and_nobody_up(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    door = Door(laptop.session, conversation)
    await until(lambda: any(frame["type"] == "sync" for frame in door.frames()))
    door.open.clear()
    run = await answered(laptop, "/rate 4000 /long 12000")
    assert laptop.view.text_of(run) == long_text(12000)
    stuck = [task for task in asyncio.all_tasks() if task.get_name() == "websocket-send"]
    assert 0 < len(stuck) <= wire.WINDOW_FRAMES + 10
    door.open.set()
    view = View()
    taken = 0

    def caught_up() -> bool:
        nonlocal taken
        frames = door.frames()
        for frame in frames[taken:]:
            view.apply(frame)
        if taken < len(frames):
            taken = len(frames)
            door.say(type="flow", serial=view.cursor)
        return view.cursor == laptop.view.cursor

    await until(caught_up, "the slow socket catches up")
    assert view.comparable() == laptop.view.comparable()
    await door.leave()


@pytest.mark.in_process  # its socket is one that no server has made
async def test_a_socket_that_breaks_in_the_middle_of_a_frame_hurts_nobody_else(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    doors = [Door(laptop.session, conversation) for _ in range(3)]
    for door in doors:
        await until(lambda door=door: any(frame["type"] == "sync" for frame in door.frames()))  # type: ignore[misc]
    phone = await connected(device(alice, conversation))
    ack = await laptop.ask("/rate 200 /long 100")
    await laptop.writes(ack["run"])
    doors[0].gone = True
    doors[1].open.clear()
    doors[1].gone = True
    syncs = [sum(frame["type"] == "sync" for frame in one.frames) for one in (laptop, phone)]
    for one in (laptop, phone):
        await one.ended(ack["run"])
        assert one.view.text_of(ack["run"]) == long_text(100)
    await laptop.say("conversation.rename", title="It goes on")  # in case all of the answer had come before
    await until(lambda: doors[0].raised, "an error")
    assert [sum(frame["type"] == "sync" for frame in one.frames) for one in (laptop, phone)] == syncs
    doors[1].open.set()
    for door in doors:
        await door.leave()
    await agree(laptop, phone)


# --- size -------------------------------------------------------------------------------------------------------


def frame_sizes(device: Device) -> list[int]:
    return [len(json.dumps(frame, ensure_ascii=False).encode()) for frame in device.frames]


async def test_r9_a_very_long_answer_comes_in_frames_of_bounded_size(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop, away = await connected(device(alice, conversation)), await connected(device(alice, conversation))
    await away.disconnect()
    ack = await laptop.ask("/rate 0 /long 250000")
    await until(lambda: laptop.view.runs[ack["run"]]["state"] == "completed", deadline=60)
    text = laptop.view.text_of(ack["run"])
    assert len(text) > 2_500_000
    assert text == long_text(250_000)
    await connected(away)
    fresh = await connected(device(alice, conversation))
    assert away.view.text_of(ack["run"]) == fresh.view.text_of(ack["run"]) == text
    for one in (laptop, away, fresh):
        assert max(frame_sizes(one)) <= wire.MAX_FRAME_BYTES
    assert await Event.objects.filter(conversation=conversation).acount() < 300, "folded"


async def test_r9_a_page_gets_a_very_long_answer_in_frames_of_bounded_size_too(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    page = await connected(device(alice, conversation, encoding="html"))
    ack = await laptop.ask("/rate 0 /long 120000")
    await until(lambda: laptop.view.state_of(ack["run"]) == "completed", deadline=60)
    await until(lambda: page.view.cursor == laptop.view.cursor, deadline=60)
    fresh = await connected(device(alice, conversation, encoding="html"))
    assert max(*frame_sizes(page), *frame_sizes(fresh)) <= wire.MAX_FRAME_BYTES


async def test_long_questions_come_in_frames_of_bounded_size_too(
    device: Make, alice: User, conversation: Conversation
) -> None:
    def ask_much() -> None:
        owner = Participant.objects.select_related("conversation", "user").get(conversation=conversation)
        for number in range(14):
            text = f"{number} " + "🚂" * 60_000
            when_busy = "alongside" if number < 8 else "queue"
            conversation.send(by=owner, text=text, client_id=uuid.uuid4(), when_busy=when_busy)
        Run.objects.filter(conversation=conversation).update(provider="none")

    laptop = await connected(device(alice, conversation))
    await sync_to_async(ask_much)()
    await sync_to_async(cancel_everything)(conversation)
    away = device(alice, conversation, session=laptop.session)
    away.view = View(cursor=0)
    await connected(away)
    fresh = await connected(device(alice, conversation, session=laptop.session))
    for one in (away, fresh):
        assert max(frame_sizes(one)) <= wire.MAX_FRAME_BYTES
    await until(lambda: laptop.view.cursor == away.view.cursor == fresh.view.cursor)
    assert away.view.comparable() == laptop.view.comparable()
    assert fresh.view.messages, "the newest turn is always there"
    for message, known in fresh.view.messages.items():  # a page of turns has its limits; what it holds is the same
        assert laptop.view.messages[message] == known


def cancel_everything(conversation: Conversation) -> None:
    owner = Participant.objects.select_related("conversation", "user").get(conversation=conversation)
    conversation.cancel(by=owner, device=None, only_mine=False)


# --- people -----------------------------------------------------------------------------------------------------


async def test_d8_two_users_and_a_viewer_see_the_same_questions_and_answers(
    device: Make, alice: User, bob: User, charlie: User, conversation: Conversation
) -> None:
    owner = await owner_of(conversation)
    await sync_to_async(conversation.add)(by=owner, user=bob, role="editor")
    await sync_to_async(conversation.add)(by=owner, user=charlie, role="viewer")
    devices = [await connected(device(user, conversation)) for user in (alice, bob, charlie)]
    for asker in devices[:2]:
        run = await answered(asker, f"/rate 0 /echo from {asker.user.username}")
        for one in devices:
            await one.ended(run)
            assert one.view.messages[one.view.runs[run]["prompt"]]["text"].endswith(asker.user.username)
    await agree(*devices)
    hello = next(frame for frame in devices[2].frames if frame["type"] == "hello")
    assert hello["role"] == "viewer"


async def test_i12_a_stranger_gets_nothing_but_a_goodbye(
    device: Make, charlie: User, conversation: Conversation
) -> None:
    stranger = await device(charlie, conversation).connect()
    await until(lambda: stranger.closed)
    assert stranger.closed == 4503
    assert [frame["type"] for frame in stranger.frames] == ["bye"]


@pytest.mark.usefixtures("no_recheck")
async def test_i12_who_is_removed_hears_nothing_more_at_once(
    device: Make, alice: User, bob: User, conversation: Conversation
) -> None:
    owner = await owner_of(conversation)
    await sync_to_async(conversation.add)(by=owner, user=bob, role="editor")
    laptop = await connected(device(alice, conversation))
    guests = [await connected(device(bob, conversation)) for _ in range(2)]
    ack = await laptop.ask("/rate 200 /long 5000")
    for guest in guests:
        await guest.writes(ack["run"])
    await sync_to_async(conversation.remove)(by=owner, user=bob)
    for guest in guests:
        await until(lambda guest=guest: guest.closed == 4503)  # type: ignore[misc]
        assert guest.frames[-1]["type"] == "bye"
    length = len(laptop.view.text_of(ack["run"]))
    await laptop.writes(ack["run"], length + 200)
    for guest in guests:
        assert guest._socket is not None
        assert guest._socket.output_queue.empty(), "nothing follows the goodbye, though the socket is still there"
        await guest.disconnect()
        await guest.connect()
        await until(lambda guest=guest: guest.closed == 4503)  # type: ignore[misc]


async def test_n3_events_of_one_conversation_never_reach_another(
    device: Make, alice: User, conversation: Conversation
) -> None:
    other = await sync_to_async(Conversation.begin)(alice)
    here, there = await connected(device(alice, conversation)), await connected(device(alice, other))
    runs = [await one.ask("/rate 300 /long 60") for one in (here, there)]
    for one, ack in zip((here, there), runs, strict=True):
        await one.ended(ack["run"])
        named = {frame["conversation"] for frame in one.frames if "conversation" in frame}
        assert named == {str(one.conversation.pk)}
        assert set(one.view.runs) == {ack["run"]}


async def test_a_deleted_conversation_says_goodbye_and_keeps_nobody_busy(
    device: Make, host: hosts.Host, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    late = device(alice, conversation)
    ack = await laptop.ask("/rate 200 /long 5000")
    await laptop.writes(ack["run"])
    await sync_to_async(conversation.erase)()
    await host.doorkeeper.recheck(list(host.roster))
    await until(lambda: laptop.closed == 4503)
    await late.connect()
    await until(lambda: late.closed == 4503)
    await laptop.disconnect()
    await until(lambda: host.hub.conversations == 0)
    assert not await Message.objects.aexists()


async def test_r13_an_answer_that_nobody_watches_is_there_afterwards(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/slow 0.1 /rate 500 /long 100")
    await laptop.disconnect()

    async def state() -> str:
        return (await Run.objects.aget(pk=ack["run"])).state

    async with asyncio.timeout(DEADLINE):
        while await state() != "completed":  # noqa: ASYNC110 - there is nobody to be told by
            await asyncio.sleep(0.01)
    await connected(laptop)
    assert laptop.view.text_of(ack["run"]) == long_text(100)


async def test_a_database_that_fails_as_a_device_comes_sends_it_away_for_a_moment(
    device: Make, alice: User, conversation: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    laptop = device(alice, conversation)
    await sync_to_async(rename)("chat_participant", "chat_participant_away")
    try:
        await laptop.connect()
        await laptop.until(lambda: laptop.closed, "a goodbye")
    finally:
        await sync_to_async(rename)("chat_participant_away", "chat_participant")
    goodbye = laptop.frames[-1]
    assert (goodbye["type"], goodbye["code"], goodbye["close"], laptop.closed) == ("bye", "feed_failed", 4002, 4002)
    assert 0 <= goodbye["retry_in"] <= 2
    assert "could not be let in" in caplog.text
    caplog.clear()  # it was meant
    await connected(laptop)
