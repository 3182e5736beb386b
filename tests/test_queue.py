"""What waits while an answer is written: each way to send into a busy conversation, and the queue from every device."""

import asyncio
import itertools
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from chat import host as hosts
from chat.models import Conversation, Message, Participant, Run
from chat.models.state import LIVE, State
from tests.conftest import with_settings
from tests.device import Device, until
from tests.providers import Call

pytestmark = pytest.mark.usefixtures("calls", "quiet")
OVER_EVERY_DOOR = True

Make = Callable[..., Device]
MANY_SIGNALS = with_settings(CHAT_SIGNALS_PER_SECOND=1e6)
HANG = "/rate 0 /echo Thinking.\n/hang"


async def connected(device: Device) -> Device:
    return await (await device.connect()).synced()


@pytest.fixture
async def laptop(calls: list[Call], device: Make, alice: User, conversation: Conversation) -> Device:
    return await connected(device(alice, conversation))


@pytest.fixture
async def phone(laptop: Device, device: Make, alice: User, conversation: Conversation) -> Device:
    return await connected(device(alice, conversation))


async def send_at_once(pairs: list[tuple[Device, str]], when_busy: str) -> list[dict[str, Any]]:
    """Send from several devices in the same millisecond; the answers in the same order."""
    signals = [
        {"type": "message.send", "id": str(uuid.uuid4()), "text": text, "when_busy": when_busy} for _, text in pairs
    ]
    async with asyncio.TaskGroup() as tasks:
        for (one, _), signal in zip(pairs, signals, strict=True):
            tasks.create_task(one.say_raw(json.dumps(signal)))
    return [await one.answer(signal["id"]) for (one, _), signal in zip(pairs, signals, strict=True)]


async def agree(*devices: Device) -> None:
    head = (await Conversation.objects.aget(pk=devices[0].conversation.pk)).head
    await until(lambda: all(device.view.cursor == head for device in devices), f"all at {head}")
    assert all(device.view.comparable() == devices[0].view.comparable() for device in devices)


def texts(device: Device) -> list[str]:
    """What waits, as a device knows it."""
    return [device.view.messages[message]["text"] for message in device.view.order]


async def test_queue_answers_one_after_the_other_in_the_order_of_the_acks(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    pace = ["/slow 3 /rate 400", *["/rate 400"] * 4]  # the first is still at it when the last one comes
    acks = [await (laptop, phone)[n % 2].ask(f"{how} /long {50 + n}") for n, how in enumerate(pace)]
    assert [ack["state"] for ack in acks] == ["starting", *["waiting"] * 4]
    for ack in acks:
        await laptop.ended(ack["run"])
    assert [str(call.turn.run) for call in calls] == [ack["run"] for ack in acks]
    for earlier, later in itertools.pairwise(calls):
        assert earlier.closed_at <= later.opened_at
    await agree(laptop, phone)


async def test_alongside_starts_at_once_and_nothing_is_mixed_up(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    acks = [
        await one.ask(f"/rate 100 /long {300 + n}", when_busy="alongside") for n, one in enumerate((laptop, phone) * 2)
    ]
    await until(lambda: len(calls) == 4)
    assert all(not call.closed_at for call in calls), "all at once"
    for ack in acks:
        await phone.ended(ack["run"])
        said = next(call.said for call in calls if str(call.turn.run) == ack["run"])
        assert phone.view.text_of(ack["run"]) == said
    for ack in acks:
        await laptop.ended(ack["run"])
    await agree(laptop, phone)


async def test_interrupt_ends_what_runs_goes_first_and_keeps_the_queue(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    running = await laptop.ask(HANG)
    waiting = await laptop.ask("/rate 0 /echo later")
    await laptop.writes(running["run"])
    urgent = await phone.ask("/rate 0 /echo now", when_busy="interrupt")
    assert urgent["state"] == "starting"
    for ack, state in ((running, "cancelled"), (urgent, "completed"), (waiting, "completed")):
        assert (await laptop.ended(ack["run"]))["state"] == state
    assert [str(call.turn.run) for call in calls] == [ack["run"] for ack in (running, urgent, waiting)]
    await phone.ended(waiting["run"])
    await agree(laptop, phone)


@pytest.mark.parametrize("when_busy", ["queue", "alongside", "interrupt", "reject"])
async def test_d15_two_devices_that_send_in_the_same_millisecond_are_both_answered_for(
    calls: list[Call], laptop: Device, phone: Device, when_busy: str
) -> None:
    for number in range(6):
        answers = await send_at_once(
            [(laptop, f"/rate 0 /echo laptop {number}"), (phone, f"/rate 0 /echo phone {number}")], when_busy
        )
        acks = sorted((answer for answer in answers if answer["type"] == "ack"), key=lambda ack: ack["serial"])
        nacks = [answer for answer in answers if answer["type"] == "nack"]
        assert [nack["code"] for nack in nacks] == ["busy"] * len(nacks)
        assert acks if when_busy == "reject" else len(acks) == 2
        states = []
        for ack in acks:
            await until(lambda ack=ack: ack["run"] in phone.view.runs)  # type: ignore[misc]
            states.append((await phone.ended(ack["run"]))["state"])
            await laptop.ended(ack["run"])
        assert states[-1] == "completed"
        if when_busy != "interrupt":
            assert set(states) == {"completed"}
        started = [str(call.turn.run) for call in calls]
        order = [ack["run"] for ack in acks if ack["run"] in started]
        if when_busy != "alongside":
            assert [run for run in started if run in order] == order, "who was accepted first is answered first"
    prompts = Message.objects.filter(role="user")
    assert await prompts.acount() == sum(
        answer["type"] == "ack" for one in (laptop, phone) for answer in one.answers.values()
    )
    assert not await Run.objects.filter(state__in=LIVE).aexists()
    await agree(laptop, phone)


async def test_the_queue_is_changed_from_any_device_and_seen_on_all(
    device: Make, bob: User, alice: User, conversation: Conversation, laptop: Device, phone: Device
) -> None:
    owner = await Participant.objects.select_related("conversation", "user").aget(conversation=conversation)
    await sync_to_async(conversation.add)(by=owner, user=bob, role="editor")
    guest = await connected(device(bob, conversation))
    running = await laptop.ask(HANG)
    one, two, three = [(await laptop.ask(text))["message"] for text in ("one", "two", "/rate 0 /echo three")]
    await guest.say("queue.move", message=three, before=one)
    await phone.say("queue.edit", message=two, text="/rate 0 /echo zwei")
    await guest.say("queue.remove", message=one)
    for each in (laptop, phone, guest):
        await until(lambda each=each: texts(each) == ["/rate 0 /echo three", "/rate 0 /echo zwei"])  # type: ignore[misc]
    late = await connected(device(alice, conversation))
    assert texts(late) == texts(laptop)
    await phone.say("run.cancel", run=running["run"])
    for message, text in ((three, "three"), (two, "zwei")):
        run = next(run for run, known in laptop.view.runs.items() if known["prompt"] == message)
        for each in (laptop, guest, late):
            assert (await each.ended(run))["state"] == "completed"
            assert each.view.text_of(run) == text
    await phone.ended(run)
    await agree(laptop, phone, guest, late)
    assert one not in laptop.view.messages


async def test_a_waiting_message_that_is_stopped_stays_readable_and_is_no_longer_in_the_queue(
    laptop: Device, phone: Device
) -> None:
    running, waiting = await laptop.ask(HANG), await laptop.ask("/rate 0 /echo not now")
    assert (await phone.say("run.cancel", run=waiting["run"]))["outcome"] == "cancelled"
    await laptop.ended(waiting["run"])
    assert laptop.view.order == []
    assert laptop.view.messages[waiting["message"]]["text"] == "/rate 0 /echo not now"
    assert laptop.view.messages[waiting["message"]]["place"] is not None
    retry = await phone.say("run.retry", run=waiting["run"])
    assert retry["type"] == "ack"
    await laptop.say("run.cancel", run=running["run"])
    await until(lambda: retry["run"] in phone.view.runs)
    await phone.ended(retry["run"])
    await laptop.ended(retry["run"])
    await agree(laptop, phone)


@MANY_SIGNALS
async def test_changing_a_message_as_it_starts_is_done_or_stale_and_never_half_done(
    calls: list[Call], laptop: Device, phone: Device
) -> None:
    outcomes = set()
    for number in range(24):
        running = await laptop.ask("/rate 0 /echo x\n/hang")
        first, second = [await laptop.ask(f"/rate 0 /echo {name}{number}") for name in "ab"]
        await laptop.writes(running["run"])
        verb = ("queue.edit", "queue.remove", "queue.move")[number % 3]
        extra = {"text": f"/rate 0 /echo c{number}"} if verb == "queue.edit" else {}
        stop, change = await asyncio.gather(
            laptop.say("run.cancel", run=running["run"]),
            phone.say(verb, message=first["message"], **extra),
        )
        assert stop["type"] == "ack"
        assert change["type"] == "ack" or change["code"] == "stale"
        outcomes.add(change["type"])
        for one in (laptop, phone):
            await one.ended(second["run"])
            if verb != "queue.remove" or change["type"] == "nack":
                assert (await one.ended(first["run"]))["state"] == "completed"
        if verb == "queue.remove" and change["type"] == "ack":
            await until(lambda: first["message"] not in laptop.view.messages)  # noqa: B023
            assert not any(str(call.turn.run) == first["run"] for call in calls)
            continue
        answer = laptop.view.text_of(first["run"])
        changed = verb == "queue.edit" and change["type"] == "ack"
        assert answer == (f"c{number}" if changed else f"a{number}")
        mine = [str(call.turn.run) for call in calls if str(call.turn.run) in {first["run"], second["run"]}]
        moved = verb == "queue.move" and change["type"] == "ack"
        assert mine == ([second["run"], first["run"]] if moved else [first["run"], second["run"]])
    assert "ack" in outcomes
    await agree(laptop, phone)


async def test_the_queue_survives_a_restart_of_the_process(
    calls: list[Call], host: hosts.Host, laptop: Device, phone: Device
) -> None:
    running = await laptop.ask(HANG)
    await laptop.writes(running["run"])
    waiting = [await laptop.ask(f"/rate 0 /echo {number}") for number in range(4)]
    await phone.say("queue.move", message=waiting[3]["message"], before=waiting[0]["message"])
    await hosts.stop()
    await until(lambda: laptop.closed == phone.closed == 4000)
    for one in (laptop, phone):
        await one.disconnect()
    assert await Run.objects.filter(state=State.QUEUED).acount() == 4
    await hosts.running()
    for one in (laptop, phone):
        await one.connect()
        assert (await one.ended(running["run"]))["state"] == "interrupted"
        for number, ack in enumerate(waiting):
            assert (await one.ended(ack["run"]))["state"] == "completed"
            assert one.view.text_of(ack["run"]) == str(number)
    order = [str(call.turn.run) for call in calls]
    assert order == [running["run"], waiting[3]["run"], *(ack["run"] for ack in waiting[:3])]
    await agree(laptop, phone)


async def test_a_requeued_answer_is_ended_by_an_interrupt_like_a_running_one(
    calls: list[Call], host: hosts.Host, laptop: Device
) -> None:
    ack = await laptop.ask("/slow 30 /long 5")
    await until(lambda: len(calls) == 1)
    await sync_to_async(Run.objects.filter(pk=ack["run"]).update)(attempt=1)
    run = await Run.objects.select_related("conversation").aget(pk=ack["run"])
    await hosts.stop()
    await laptop.disconnect()
    await run.arefresh_from_db()
    assert (run.state, run.attempt) == (State.QUEUED, 1)

    def interrupt() -> dict[str, Any]:
        owner = Participant.objects.select_related("conversation", "user").get(conversation=run.conversation)
        return run.conversation.send(
            by=owner, text="/slow 0 /rate 0 /echo instead", client_id=uuid.uuid4(), when_busy="interrupt"
        )

    instead = await sync_to_async(interrupt)()
    await hosts.running()
    await laptop.connect()
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    assert (await laptop.ended(instead["run"]))["state"] == "completed"
