"""Stop: from any device, at any moment, and never mistaken for anything else."""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from chat.agent.prompt import MARKS
from chat.database import THREADS
from chat.host import Host
from chat.models import CancelledSend, Conversation, Event, Message, Run
from chat.models.event import TEXT_KINDS
from chat.models.state import State
from tests.conftest import with_settings
from tests.device import Device, until
from tests.layers import layer
from tests.providers import Call

pytestmark = pytest.mark.usefixtures("calls", "quiet")
OVER_EVERY_DOOR = True

Make = Callable[..., Device]
STOPPED = MARKS[State.CANCELLED]
IMMEDIATELY = 5.0  # seconds from the wish to the closed call, at most; usually a few milliseconds
MANY_SIGNALS = with_settings(CHAT_SIGNALS_PER_SECOND=1e6)


async def connected(device: Device) -> Device:
    return await (await device.connect()).synced()


@pytest.fixture
async def laptop(calls: list[Call], device: Make, alice: User, conversation: Conversation) -> Device:
    return await connected(device(alice, conversation))


@pytest.fixture
async def phone(laptop: Device, device: Make, alice: User, conversation: Conversation) -> Device:
    return await connected(device(alice, conversation))


async def opened(calls: list[Call], number: int = 1) -> Call:
    """Wait until the provider has been called so often, and return that call."""
    await until(lambda: len(calls) >= number, f"call {number} of the provider")
    return calls[number - 1]


async def stored(run: str) -> str:
    """The text the database has of an ended run."""
    found = await Run.objects.select_related("answer").aget(pk=run)
    return found.answer.text if found.answer else ""


async def assert_nothing_follows(run: str) -> None:
    """I5: exactly one terminal event, and nothing of the run after it."""
    kinds = [kind async for kind in Event.objects.filter(run_id=run).order_by("serial").values_list("kind", flat=True)]
    assert kinds.count("run.ended") == 1, kinds
    assert kinds[-1] == "run.ended", kinds


async def test_s1_closing_the_tab_is_not_a_stop(calls: list[Call], laptop: Device, phone: Device) -> None:
    ack = await laptop.ask("/rate 200 /long 100")
    await laptop.writes(ack["run"])
    await laptop.disconnect()
    assert (await phone.ended(ack["run"]))["state"] == "completed"
    assert await stored(ack["run"]) == calls[0].said


@pytest.mark.usefixtures("no_renewal")
async def test_s1_stop_closes_the_call_at_once_and_says_who_did_it(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    ack = await laptop.ask("/rate 100 /long 5000")
    await phone.writes(ack["run"], 100)
    asked_at = time.monotonic()
    assert (await phone.say("run.cancel", run=ack["run"]))["outcome"] == "cancelling"
    for one in (laptop, phone):
        ended = await one.ended(ack["run"])
        assert (ended["state"], ended["by"]["device"], ended["error"]) == ("cancelled", phone.id, None)
    await until(lambda: calls[0].closed_at)
    assert calls[0].closed_at - asked_at < IMMEDIATELY
    await assert_nothing_follows(ack["run"])


@pytest.mark.usefixtures("no_renewal")
async def test_a_stop_does_not_stand_behind_what_agents_do(
    calls: list[Call], laptop: Device, phone: Device, host: Host
) -> None:
    """Every thread that serves agents is taken, as it is at times with ten of them at work."""
    ack = await laptop.ask("/rate 100 /long 5000")
    await phone.writes(ack["run"], 100)
    enough = threading.Event()
    taken = [asyncio.ensure_future(host.database.run(enough.wait, 60)) for _ in range(2 * THREADS)]
    try:
        assert (await phone.say("run.cancel", run=ack["run"]))["outcome"] == "cancelling"
        await until(lambda: calls[0].closed_at)
    finally:
        enough.set()
        await asyncio.gather(*taken)
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"


async def test_s2_stop_after_a_reload_adds_no_text_after_the_end(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    ack = await laptop.ask("/rate 400 /long 5000")
    await laptop.writes(ack["run"], 200)
    await laptop.disconnect()
    await laptop.connect()
    await laptop.say("run.cancel", run=ack["run"])
    await laptop.ended(ack["run"])
    shown = laptop.view.text_of(ack["run"])
    await phone.ended(ack["run"])
    await laptop.say("conversation.rename", title="Later")
    await until(lambda: phone.view.title == laptop.view.title == "Later")
    assert laptop.view.text_of(ack["run"]) == phone.view.text_of(ack["run"]) == await stored(ack["run"]) == shown
    assert calls[0].said.startswith(shown)
    await assert_nothing_follows(ack["run"])


async def test_s3_stop_before_the_first_token_shows_no_token_and_closes_the_call(
    calls: list[Call], laptop: Device
) -> None:
    ack = await laptop.ask("/slow 30 /long 100")
    call = await opened(calls)
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    await until(lambda: call.closed_at)
    assert laptop.view.text_of(ack["run"]) == call.said == ""


async def test_s6_a_device_that_comes_in_the_middle_can_stop(
    device: Make, alice: User, conversation: Conversation, calls: list[Call], laptop: Device
) -> None:
    ack = await laptop.ask("/rate 100 /long 5000")
    await laptop.writes(ack["run"])
    await laptop.disconnect()
    fresh = await connected(device(alice, conversation))
    assert fresh.view.runs[ack["run"]]["state"] == "running"
    await fresh.say("run.cancel", run=ack["run"])
    assert (await fresh.ended(ack["run"]))["state"] == "cancelled"


async def test_s10_after_a_stop_nothing_is_an_error_and_the_next_message_is_answered(laptop: Device) -> None:
    for _ in range(3):
        ack = await laptop.ask("/rate 100 /long 500")
        await laptop.writes(ack["run"])
        await laptop.say("run.cancel", run=ack["run"])
        assert (await laptop.ended(ack["run"]))["error"] is None
    ack = await laptop.ask("/rate 0 /echo Fine.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == "Fine."


async def test_s15_a_stopped_answer_says_what_it_has_cost(laptop: Device) -> None:
    ack = await laptop.ask("/usage /rate 100 /long 5000")
    await laptop.writes(ack["run"], 50)
    await laptop.say("run.cancel", run=ack["run"])
    await laptop.ended(ack["run"])
    usage = next(frame for frame in laptop.frames if frame["type"] == "run.ended")["usage"]
    assert usage["input_tokens"] == 5
    assert usage["output_tokens"] >= len(laptop.view.text_of(ack["run"]).split()) - 1 > 3


@MANY_SIGNALS
async def test_s16_stop_and_send_at_once_a_hundred_times_keeps_every_partial_answer_once_and_in_order(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    rounds = 100
    ack = await laptop.ask("/rate 2000 /long 20000")
    for number in range(1, rounds + 1):
        await laptop.writes(ack["run"])
        stop = {"type": "run.cancel", "id": str(uuid.uuid4()), "run": ack["run"]}
        when_busy = "interrupt" if number % 2 else "queue"
        send = {"type": "message.send", "id": str(uuid.uuid4()), "text": f"/rate 2000 /long {20_000 + number}"}
        speakers = (laptop, phone) if number % 3 else (laptop, laptop)
        await speakers[0].say_raw(json.dumps(stop))
        await speakers[1].say_raw(json.dumps({**send, "when_busy": when_busy}))
        ack = await speakers[1].answer(send["id"])
        assert ack["type"] == "ack"
        await laptop.writes(ack["run"])
    await laptop.say("run.cancel", run=ack["run"])
    await laptop.ended(ack["run"])

    assert len(calls) == rounds + 1
    runs = [run async for run in Run.objects.select_related("answer", "prompt").order_by("created_at")]
    assert {run.state for run in runs} == {State.CANCELLED}
    for number, call in enumerate(calls):
        expected = []
        for run in runs[:number]:
            assert run.answer is not None
            expected.append(("user", run.prompt.text))
            expected.append(("assistant", run.answer.text.rstrip() + STOPPED))
        assert call.texts == [*expected, ("user", runs[number].prompt.text)]
        assert call.said.startswith(runs[number].answer.text)  # type: ignore[union-attr]


@MANY_SIGNALS
@pytest.mark.usefixtures("no_renewal")  # also a cancel that meets the start of its run is heard, not found out by timer
async def test_x01_send_and_cancel_back_to_back_in_both_orders_a_hundred_times(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    first_cancelled = 0
    for number in range(100):
        send_id = str(uuid.uuid4())
        send = json.dumps({"type": "message.send", "id": send_id, "text": "/rate 0 /echo x\n/hang"})
        cancel_id = str(uuid.uuid4())
        cancel = json.dumps({"type": "run.cancel", "id": cancel_id, "send": send_id})
        sender, canceller = (laptop, phone) if number % 4 < 2 else (laptop, laptop)
        if number % 2:
            await sender.say_raw(send)
            await canceller.say_raw(cancel)
        else:
            await canceller.say_raw(cancel)
            await sender.say_raw(send)
        ack = await sender.answer(send_id)
        answer = await canceller.answer(cancel_id)
        assert (ack["type"], answer["type"]) == ("ack", "ack")
        await until(lambda run=ack["run"]: run in laptop.view.runs)  # type: ignore[misc]
        assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
        await assert_nothing_follows(ack["run"])
        first_cancelled += not await Run.objects.filter(pk=ack["run"], attempt__gt=0).aexists()
    assert first_cancelled >= 25, "a cancel that comes first means that the model is never called"
    await until(lambda: all(call.closed_at for call in calls))
    assert len(calls) <= 100 - first_cancelled


async def test_x01_a_cancel_before_its_send_is_remembered_for_that_send_alone(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    send_id = str(uuid.uuid4())
    for _ in range(2):
        assert (await phone.say("run.cancel", send=send_id))["outcome"] == "cancelling"
    ack = await laptop.ask("/rate 0 /echo Never.", signal_id=send_id)
    ended = await laptop.ended(ack["run"])
    assert (ended["state"], ended["by"]["device"]) == ("cancelled", phone.id)
    other = await laptop.ask("/rate 0 /echo Always.")
    assert (await laptop.ended(other["run"]))["state"] == "completed"
    assert len(calls) == 1


async def test_x04_a_cancel_after_the_end_changes_nothing_and_is_not_kept_for_later(
    calls: list[Call], laptop: Device
) -> None:
    ack = await laptop.ask("/rate 0 /echo Hello\n/fail overloaded")
    await laptop.ended(ack["run"])
    for fields in ({"run": ack["run"]}, {"send": ack["id"]}):
        answer = await laptop.say("run.cancel", **fields)
        assert (answer["outcome"], answer["reason"]) == ("already_ended", "failed")
    retry = await laptop.say("run.retry", run=ack["run"])
    await until(lambda: retry["run"] in laptop.view.runs)
    assert (await laptop.ended(retry["run"]))["state"] == "failed", "not cancelled by a wish from before"


async def test_x07_two_devices_stop_the_same_run_and_it_ends_once(laptop: Device, phone: Device) -> None:
    ack = await laptop.ask("/rate 100 /long 5000")
    await phone.writes(ack["run"])
    answers = await asyncio.gather(
        *(one.say("run.cancel", run=ack["run"]) for one in (laptop, phone)),
        laptop.say("run.cancel", scope="all"),
    )
    assert {answer["type"] for answer in answers} == {"ack"}
    by = {(await one.ended(ack["run"]))["by"]["device"] for one in (laptop, phone)}
    assert len(by) == 1
    await assert_nothing_follows(ack["run"])
    assert await Event.objects.filter(run_id=ack["run"], kind="run.cancelling").acount() == 1


async def test_x08_a_flood_of_cancels_for_sends_that_never_come_is_forgotten(
    conversation: Conversation, laptop: Device
) -> None:
    owner = await conversation.participants.select_related("user", "conversation").aget()

    def flood() -> int:
        earlier = [CancelledSend(conversation=conversation, client_id=uuid.uuid4(), by={}) for _ in range(1500)]
        CancelledSend.objects.bulk_create(earlier)
        conversation.cancel_send(by=owner, device=None, client_id=uuid.UUID(int=1))
        assert CancelledSend.objects.filter(client_id=uuid.UUID(int=1)).exists(), "the newest are kept"
        return CancelledSend.objects.filter(conversation=conversation).count()

    assert await sync_to_async(flood)() == 1000


async def test_x13_stopping_one_of_several_leaves_the_others_alone(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    lengths = (90, 5000, 92, 93)
    runs = [(await laptop.ask(f"/rate 100 /long {n}", when_busy="alongside"))["run"] for n in lengths]
    for run in runs:
        await phone.writes(run)
    await phone.say("run.cancel", run=runs[1])
    await laptop.ended(runs[1])
    for number, run in enumerate(runs):
        state = (await laptop.ended(run))["state"]
        assert state == ("cancelled" if number == 1 else "completed")
        said = next(call.said for call in calls if str(call.turn.run) == run)
        assert said.startswith(await stored(run))
        assert laptop.view.text_of(run) == await stored(run)
        await assert_nothing_follows(run)


async def test_d16_stopping_mine_leaves_what_others_asked_for(
    device: Make, bob: User, alice: User, conversation: Conversation, calls: list[Call], laptop: Device
) -> None:
    owner = await conversation.participants.select_related("user", "conversation").aget()
    await sync_to_async(conversation.add)(by=owner, user=bob, role="editor")
    guest = await connected(device(bob, conversation))
    mine = await laptop.ask("/rate 0 /echo a\n/hang", when_busy="alongside")
    theirs = await guest.ask("/rate 0 /echo b\n/hang", when_busy="alongside")
    waiting = [await one.ask("/rate 0 /echo c") for one in (laptop, guest)]
    assert set((await laptop.say("run.cancel", scope="mine"))["runs"]) == {mine["run"], waiting[0]["run"]}
    await laptop.ended(mine["run"])
    await laptop.writes(theirs["run"])
    assert laptop.view.runs[theirs["run"]]["state"] == "running"
    assert laptop.view.order == [waiting[1]["message"]]
    await guest.say("run.cancel", run=theirs["run"])
    assert (await laptop.ended(waiting[1]["run"]))["state"] == "completed"


@pytest.mark.parametrize(
    "tuned",
    [{"CHANNEL_LAYERS": layer("Silent"), "CHAT_POSITION_SECONDS": 0.1, "CHAT_SWEEP_SECONDS": 0.1}],
    indirect=True,
)
@pytest.mark.parametrize("prompt", ["/rate 0 /echo x\n/hang", "/rate 100 /long 5000"])
async def test_a_stop_whose_announcement_is_lost_works_within_two_seconds(
    calls: list[Call], laptop: Device, prompt: str
) -> None:
    ack = await laptop.ask(prompt)
    await laptop.writes(ack["run"])
    asked_at = time.monotonic()
    await laptop.say("run.cancel", run=ack["run"])
    await laptop.ended(ack["run"])
    await until(lambda: calls[0].closed_at)
    assert calls[0].closed_at - asked_at < 2.0 + IMMEDIATELY
    assert laptop.view.text_of(ack["run"]) == await stored(ack["run"])


async def test_s12_a_worker_that_does_not_hear_of_the_stop_can_write_no_more(
    calls: list[Call], conversation: Conversation, laptop: Device
) -> None:
    ack = await laptop.ask("/rate 300 /long 5000")
    await laptop.writes(ack["run"], 50)
    await laptop.say("run.cancel", run=ack["run"])
    cancelling = await Event.objects.aget(run_id=ack["run"], kind="run.cancelling")
    await laptop.ended(ack["run"])
    late = Event.objects.filter(run_id=ack["run"], kind__in=TEXT_KINDS, serial__gt=cancelling.serial)
    assert not await late.aexists(), "text was stored after the wish to stop was"


async def test_stop_all_starts_nothing_that_waits_and_the_next_message_is_answered(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    running = await laptop.ask("/rate 100 /long 5000")
    waiting = [await laptop.ask(f"/rate 0 /echo {number}") for number in range(5)]
    await phone.writes(running["run"])
    answer = await phone.say("run.cancel", scope="all")
    assert set(answer["runs"]) == {running["run"], *(ack["run"] for ack in waiting)}
    for ack in (running, *waiting):
        assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
        await assert_nothing_follows(ack["run"])
    assert len(calls) == 1
    assert laptop.view.order == []
    after = await laptop.ask("/rate 0 /echo After.")
    assert (await laptop.ended(after["run"]))["state"] == "completed"
    assert len(calls) == 2
    questions = [text for role, text in calls[1].texts if role == "user"]
    assert "\n".join(questions).split("\n") == [
        "/rate 100 /long 5000",
        *(f"/rate 0 /echo {number}" for number in range(5)),
        "/rate 0 /echo After.",
    ]


async def test_interrupt_ends_also_what_is_just_about_to_start(laptop: Device, phone: Device) -> None:
    for _ in range(10):
        first = {"type": "message.send", "id": str(uuid.uuid4()), "text": "/slow 10 /rate 0 /echo first"}
        second = {
            "type": "message.send",
            "id": str(uuid.uuid4()),
            "text": "/rate 0 /echo second",
            "when_busy": "interrupt",
        }
        await laptop.say_raw(json.dumps(first))
        await laptop.say_raw(json.dumps(second))
        acks: list[dict[str, Any]] = [await laptop.answer(signal["id"]) for signal in (first, second)]
        await until(lambda acks=acks: all(ack["run"] in laptop.view.runs for ack in acks))  # type: ignore[misc]
        states = [(await laptop.ended(ack["run"]))["state"] for ack in acks]
        assert states == ["cancelled", "completed"]


async def test_w5_deleting_a_conversation_ends_its_calls_and_breaks_nothing(
    device: Make, alice: User, conversation: Conversation, calls: list[Call], laptop: Device
) -> None:
    silent = await laptop.ask("/rate 0 /echo x\n/hang", when_busy="alongside")
    talking = await laptop.ask("/rate 200 /long 5000", when_busy="alongside")
    await laptop.ask("waiting")
    for ack in (silent, talking):
        await laptop.writes(ack["run"])
    await sync_to_async(conversation.erase)()
    await until(lambda: all(call.closed_at for call in calls))
    assert not await Message.objects.aexists()
    other = await sync_to_async(Conversation.begin)(alice)
    elsewhere = await connected(device(alice, other))
    ack = await elsewhere.ask("/rate 0 /echo Still here.")
    assert (await elsewhere.ended(ack["run"]))["state"] == "completed"
