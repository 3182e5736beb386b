"""What was begun is never begun again unknowingly: by nobody after a crash, and by no model that is asked again."""

import asyncio
from datetime import datetime
from functools import partial

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from chat.agent.provider import Text
from chat.models import Run
from chat.models.state import State
from tests import acting
from tests.acting import Acting, Step, asks
from tests.conftest import with_settings
from tests.device import Device, until
from tests.test_agents import call_in, decide
from tests.test_device_tools import agent, laptop
from tests.test_x_tools import assert_valid

__all__ = ["agent", "laptop"]  # fixtures, of the same kind as there
pytestmark = pytest.mark.usefixtures("quiet")
OVER_EVERY_DOOR = True


async def lost(run: str) -> None:
    """Its server is."""
    found = await Run.objects.select_related("conversation").aget(pk=run)
    assert await sync_to_async(found.hand_over)(found.attempt) == State.INTERRUPTED


def has_parts(device: Device, run: str, count: int) -> bool:
    return len(device.view.parts_of(run)) >= count


async def test_who_tries_again_after_a_crash_has_a_model_that_knows_what_was_done(
    agent: type[Acting], laptop: Device
) -> None:
    agent.steps = [asks("note", "a", text="paid"), [Text("I paid. "), *asks("hold", "a", text="ship")]]
    ack = await laptop.ask("Pay and ship.")
    await until(lambda: acting.ran == ["paid", "ship"], "the second tool")
    await lost(ack["run"])
    await laptop.ended(ack["run"])
    agent.steps = []
    agent.turns.clear()
    again = await laptop.say("run.retry", run=ack["run"])
    assert (await laptop.ended(again["run"]))["state"] == "completed"
    prompt = str(agent.turns[0].prompt)
    assert ["noted paid" in prompt, "It may have run" in prompt] == [True, True]
    assert agent.turns[0].question == "Pay and ship."
    assert_valid(agent)
    agent.turns.clear()
    later = await laptop.ask("Thanks.")
    await laptop.ended(later["run"])
    assert str(agent.turns[0].prompt).count("Pay and ship.") == 1
    assert_valid(agent)


async def test_who_takes_over_between_two_steps_goes_on_there(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("note", "a", text="paid"), [asyncio.Event()]]
    ack = await laptop.ask("Pay.")
    await until(lambda: len(agent.turns) == 2, "the model to be asked again")
    agent.steps = [[], [Text("All is paid.")]]
    found = await Run.objects.select_related("conversation").aget(pk=ack["run"])
    assert await sync_to_async(found.hand_over)(found.attempt) == State.QUEUED
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == ["paid"]
    assert laptop.view.text_of(ack["run"]) == "All is paid."
    assert_valid(agent)


async def test_who_takes_over_in_the_middle_of_a_step_does_not_go_on(agent: type[Acting], laptop: Device) -> None:
    """Of what was asked for there may be more to come, and what was said has no end."""
    halves: list[Step] = [[Text("And "), asyncio.Event()], [*asks("note", "b", text="shipped"), asyncio.Event()]]
    for last in halves:
        acting.ran.clear()
        agent.turns.clear()
        agent.steps = [asks("note", "a", text="paid"), last]
        ack = await laptop.ask("Pay and ship.")
        await until(lambda: len(agent.turns) == 2, "the model to be asked again")
        await laptop.until(partial(has_parts, laptop, ack["run"], 3), "something of its second step")
        await lost(ack["run"])
        await laptop.ended(ack["run"])
        assert acting.ran == ["paid"]


async def test_who_tries_again_what_only_spoke_begins_anew(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [[Text("Let me "), *asks("delete", what="it")]]
    ack = await laptop.ask("Delete it.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    await laptop.say("run.cancel", run=ack["run"])
    await laptop.ended(ack["run"])
    agent.steps = []
    agent.turns.clear()
    again = await laptop.say("run.retry", run=ack["run"])
    assert (await laptop.ended(again["run"]))["state"] == "completed"
    assert [len(turn.prompt) for turn in agent.turns] == [1]


@with_settings(CHAT_APPROVAL_SECONDS=0.3, CHAT_DEVICE_SECONDS=0.3, CHAT_SWEEP_SECONDS=60.0)
@pytest.mark.parametrize("beside", [True, False])
async def test_nobody_decides_or_answers_when_the_time_is_over(
    agent: type[Acting], laptop: Device, beside: bool
) -> None:
    others = asks("hold", "c", text="on") if beside else []
    agent.steps = [[*asks("delete", "a", what="it"), *asks("look", "b", where="up"), *others]]
    ack = await laptop.ask("Delete it, and look.")
    await laptop.until(lambda: len(until_of(laptop, ack["run"])) == 2, "both to wait")
    await until(lambda: timezone.now() > max(until_of(laptop, ack["run"])), "the time to be over")
    first, second = [part for part in laptop.view.parts_of(ack["run"]) if "until" in part]
    told = await decide(laptop, ack["run"], first, "approve")
    assert (told["type"], told["decision"]) == ("ack", "expired")
    told = await laptop.say("tool.result", run=ack["run"], call=second["call"], result="A bird.")
    assert (told["type"], told["outcome"]) == ("ack", "expired")
    acting.Held.until.set()
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == (["on"] if beside else [])
    assert_valid(agent)


def until_of(device: Device, run: str) -> list[datetime]:
    return [datetime.fromisoformat(part["until"]) for part in device.view.parts_of(run) if "until" in part]


async def test_nothing_is_decided_about_what_is_being_stopped(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("delete", what="it")]
    ack = await laptop.ask("Delete it.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    await Run.objects.filter(pk=ack["run"]).aupdate(cancel_requested_at=timezone.now())
    told = await decide(laptop, ack["run"], call_in(laptop, ack["run"]), "approve")
    assert (told["type"], told["code"]) == ("nack", "stale")
    await Run.objects.filter(pk=ack["run"]).aupdate(cancel_requested_at=None)
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    assert acting.ran == []


async def test_a_run_goes_on_that_was_decided_about_while_another_beside_it_waits_for_a_person(
    agent: type[Acting], laptop: Device
) -> None:
    agent.steps = [asks("delete", what="it")]
    one = await laptop.ask("Delete it.")
    other = await laptop.ask("And this.", when_busy="alongside")
    for ack in (one, other):
        await laptop.until(lambda run=ack["run"]: laptop.view.state_of(run) == "waiting", "both to wait")  # type: ignore[misc]
    after = await laptop.ask("Then this.")
    await decide(laptop, one["run"], call_in(laptop, one["run"]), "approve")
    assert (await laptop.ended(one["run"]))["state"] == "completed"
    assert [laptop.view.state_of(ack["run"]) for ack in (other, after)] == ["waiting", "queued"]
    await laptop.say("run.cancel", scope="all")
    assert (await laptop.ended(after["run"]))["state"] == "cancelled"
