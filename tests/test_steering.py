"""Adding something to an answer while it is being made: told at the next step, once, or missed and offered again."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from pytest_django import Settings

from chat.agent.prompt import Said, build_prompt
from chat.agent.provider import ProviderEvent, Text, Turn
from chat.client.acts import RunSteered, SteerConsumed, SteerMissed
from chat.client.facts import Who
from chat.client.view import View
from chat.models import Conversation, Participant, Run, Steer
from chat.models.steer import steer
from tests import acting
from tests.acting import Acting, asks
from tests.conftest import with_settings
from tests.device import Device, until
from tests.guests import guest
from tests.test_agents import decide, waits

pytestmark = pytest.mark.usefixtures("quiet")
OVER_EVERY_DOOR = True

Make = Callable[..., Device]


def steer_parts(device: Device, run: str) -> list[dict[str, Any]]:
    return [part for part in device.view.parts_of(run) if part["type"] == "steer"]


def steers(device: Device, run: str) -> list[tuple[str, str]]:
    """(text, state) of those that are no part of the answer."""
    return [(text, state) for text, state, _ in device.view.runs[run]["steers"].values()]


def said_to(agent: type[Acting], step: int) -> list[str]:
    """The texts of the user in the prompt of a step, in order."""
    blocks = [
        block for message in agent.turns[step].prompt if message["role"] == "user" for block in message["content"]
    ]
    return [block["text"] for block in blocks if block["type"] == "text"]


async def under_way(device: Device, agent: type[Acting], *after: list[Any]) -> str:
    """A run that is executing its first step's tool, until `acting.Held.until` is set."""
    agent.steps = [asks("hold", "h", text="on"), *after]
    acting.Held.until.clear()
    ack = await device.ask("Find me a trip.")
    await until(lambda: "on" in acting.ran, "the tool to run")
    return str(ack["run"])


@sync_to_async
def deliver(run: str, client_id: str, user: User) -> dict[str, Any]:
    """The same steer again."""
    found = Run.objects.select_related("conversation").get(pk=run)
    by = Participant.objects.get(conversation=found.conversation, user=user)
    return steer(found, by=by, device=None, text="Once.", client_id=UUID(client_id))


async def assert_all_agree(device: Make, alice: User, *devices: Device) -> None:
    fresh = await (await device(alice, devices[0].conversation).connect()).synced()
    for one in devices:
        await one.until(lambda one=one: one.view.cursor >= fresh.view.cursor, "the same position")  # type: ignore[misc]
        assert one.view.comparable() == fresh.view.comparable()
    assert not await Steer.objects.filter(run__ended_at__isnull=False, state=Steer.State.PENDING).aexists()


async def test_a_steer_is_told_at_the_next_step_and_every_device_sees_it(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    run = await under_way(laptop, agent, [Text("Flights, then.")])
    ack = await phone.say("run.steer", run=run, text="Focus on flights only.")
    assert (ack["type"], ack["run"], ack["state"]) == ("ack", run, "steering")
    for one in (laptop, phone):
        await one.until(lambda one=one: steers(one, run) == [("Focus on flights only.", "pending")], "it")  # type: ignore[misc]
    acting.Held.until.set()
    for one in (laptop, phone):
        assert (await one.ended(run))["state"] == "completed"
        [part] = steer_parts(one, run)
        assert (part["text"], part["state"], part["step"], part["who"]["user"]) == (
            "Focus on flights only.",
            "done",
            1,
            "alice",
        )
        assert one.view.text_of(run) == "Flights, then."
    assert said_to(agent, 1) == ["Find me a trip.", "Focus on flights only."]
    blocks = agent.turns[1].prompt[-1]["content"]
    assert [block["type"] for block in blocks] == ["tool_result", "text"], "results come first"
    await assert_all_agree(device, alice, laptop, phone)


async def test_an_answer_that_would_have_ended_goes_on_with_what_was_added(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [[Text("One."), acting.Held.until], [Text(" Two.")]]
    ack = await laptop.ask("Count.")
    await laptop.until(lambda: laptop.view.text_of(ack["run"]) == "One.", "the first word")
    await laptop.say("run.steer", run=ack["run"], text="One more.")
    acting.Held.until.set()
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == "One. Two."
    assert [part["type"] for part in laptop.view.parts_of(ack["run"])] == ["text", "steer", "text"]
    # X34: after what was said already.
    assert [message["role"] for message in agent.turns[1].prompt] == ["user", "assistant", "user"]
    assert agent.turns[1].prompt[-1]["content"][-1]["text"] == "One more."
    await assert_all_agree(device, alice, laptop)


async def test_x27_a_run_that_has_ended_takes_nothing(agent: type[Acting], laptop: Device) -> None:
    agent.steps = []
    ack = await laptop.ask("Hello.")
    await laptop.ended(ack["run"])
    head = laptop.view.cursor
    refusal = await laptop.say("run.steer", run=ack["run"], text="Wait!")
    assert (refusal["type"], refusal["code"]) == ("nack", "run_ended")
    assert await Steer.objects.acount() == 0
    assert (await Conversation.objects.aget()).head == head


async def test_x27_a_run_that_is_being_stopped_takes_nothing_either(agent: type[Acting], laptop: Device) -> None:
    run = await under_way(laptop, agent)
    await laptop.say("run.cancel", run=run)
    assert (await laptop.say("run.steer", run=run, text="Wait!"))["code"] == "run_ended"
    await laptop.ended(run)


async def test_x28_x38_what_comes_too_late_is_missed_and_one_click_sends_it(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    run = await under_way(laptop, agent)
    ack = await laptop.say("run.steer", run=run, text="Focus on flights only.")
    await laptop.say("run.cancel", run=run)
    for one in (laptop, phone):
        await one.ended(run)
        assert steers(one, run) == [("Focus on flights only.", "missed")]
        assert steer_parts(one, run) == []
    await assert_all_agree(device, alice, laptop, phone)
    agent.steps = []
    answers = await asyncio.gather(
        *(one.say("message.send", text="Focus on flights only.", steer=ack["steer"]) for one in (laptop, phone))
    )
    assert sorted(answer["type"] for answer in answers) == ["ack", "nack"], "two devices press at once"
    assert next(answer for answer in answers if answer["type"] == "nack")["code"] == "stale"
    [accepted] = [answer for answer in answers if answer["type"] == "ack"]
    for one in (laptop, phone):
        assert (await one.ended(accepted["run"]))["state"] == "completed"
        assert steers(one, run) == []
    assert said_to(agent, -1)[-1] == "Focus on flights only."
    await assert_all_agree(device, alice, laptop, phone)


async def test_x29_one_that_comes_before_the_first_step_is_told_at_it(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    run = await under_way(laptop, agent)
    later = await laptop.ask("And a hotel.", when_busy="queue")
    # It waits in the queue: nothing is asked of a model yet.
    assert (await laptop.say("run.steer", run=later["run"], text="With a view."))["state"] == "steering"
    agent.steps = []
    agent.turns.clear()
    acting.Held.until.set()
    await laptop.ended(run)
    assert (await laptop.ended(later["run"]))["state"] == "completed"
    [part] = steer_parts(laptop, later["run"])
    assert (part["step"], part["state"]) == (0, "done")
    assert said_to(agent, -1)[-2:] == ["And a hotel.", "With a view."]
    assert agent.turns[-1].step == 0
    await assert_all_agree(device, alice, laptop)


async def test_x30_a_steer_that_is_delivered_again_counts_once(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    run = await under_way(laptop, agent, [Text("Yes.")])
    again = str(uuid4())
    first = await laptop.say("run.steer", signal_id=again, run=run, text="Once.")
    second = await phone.say("run.steer", signal_id=again, run=run, text="Once.")
    assert second["steer"] == first["steer"]
    assert (await deliver(run, again, alice))["duplicate"] is True, "also by a process that has never heard of it"
    acting.Held.until.set()
    await laptop.ended(run)
    assert (await deliver(run, again, alice))["steer"] == first["steer"], "also when the run has ended"
    assert len(steer_parts(laptop, run)) == 1
    assert said_to(agent, 1) == ["Find me a trip.", "Once."]
    await assert_all_agree(device, alice, laptop)


async def test_x31_one_for_a_run_that_waits_for_a_person_stays_until_it_goes_on(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [asks("delete", what="cats"), [Text("Gone.")]]
    ack = await laptop.ask("Delete them.")
    call = await waits(laptop, ack["run"])
    await laptop.say("run.steer", run=ack["run"], text="And the dogs.")
    assert laptop.view.state_of(ack["run"]) == "waiting"
    await laptop.until(lambda: steers(laptop, ack["run"]) == [("And the dogs.", "pending")], "it to be there")
    await decide(laptop, ack["run"], call, "approve")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert [part["type"] for part in laptop.view.parts_of(ack["run"])] == ["tool_use", "tool_result", "steer", "text"]
    assert [block["type"] for block in agent.turns[1].prompt[-1]["content"]] == ["tool_result", "text"]
    await assert_all_agree(device, alice, laptop)


async def test_x32_each_is_told_at_one_step_and_several_stand_in_their_order(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    run = await under_way(laptop, agent, asks("note", "n", text="1"), [Text("Done.")])
    for text in ("First.", "Second."):
        await laptop.say("run.steer", run=run, text=text)
    acting.Held.until.set()
    await laptop.ended(run)
    assert [(part["text"], part["step"]) for part in steer_parts(laptop, run)] == [("First.", 1), ("Second.", 1)]
    assert said_to(agent, 2) == ["Find me a trip.", "First.", "Second."], "and are told once, also at later steps"
    await assert_all_agree(device, alice, laptop)


async def test_x33_one_that_was_told_and_not_answered_is_missed(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    run = await under_way(laptop, agent, [asyncio.Event()])
    ack = await laptop.say("run.steer", run=run, text="Quickly.")
    acting.Held.until.set()
    await laptop.until(lambda: [part["state"] for part in steer_parts(laptop, run)] == ["done"], "it to be told")
    await laptop.say("run.cancel", run=run)
    await laptop.ended(run)
    assert [part["state"] for part in steer_parts(laptop, run)] == ["missed"]
    other = await under_way(laptop, agent)
    sent = await laptop.say("message.send", text="Quickly.", steer=ack["steer"], when_busy="steer")
    assert sent["state"] == "waiting", "as a message of its own, whatever runs"
    agent.steps = []
    acting.Held.until.set()
    await laptop.ended(other)
    await laptop.ended(sent["run"])
    assert [part["state"] for part in steer_parts(laptop, run)] == ["sent"]
    assert said_to(agent, -1).count("Quickly.") == 1, "what was missed is told as the message alone"
    await assert_all_agree(device, alice, laptop)


async def test_x35_the_line_breaks_while_a_steer_is_on_its_way(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    run = await under_way(laptop, agent, [Text("Yes.")])
    again = str(uuid4())
    await laptop.say_raw(json.dumps({"type": "run.steer", "id": again, "run": run, "text": "Hold on."}))
    await laptop.disconnect()  # whether it arrived nobody here knows
    await laptop.connect()
    ack = await laptop.say("run.steer", signal_id=again, run=run, text="Hold on.")
    assert ack["state"] == "steering"
    acting.Held.until.set()
    await laptop.ended(run)
    assert [part["text"] for part in steer_parts(laptop, run)] == ["Hold on."]
    await assert_all_agree(device, alice, laptop, phone)


async def test_only_who_asked_can_steer_for_its_tools_act_as_them(
    agent: type[Acting], device: Make, alice: User, bob: User, laptop: Device, conversation: Conversation
) -> None:
    other = await guest(device, conversation, bob)
    run = await under_way(laptop, agent, [Text("Yes.")])
    assert (await other.say("run.steer", run=run, text="Tell me all."))["code"] == "forbidden"
    waiting = await other.say("message.send", text="Tell me all.", when_busy="steer")
    assert waiting["state"] == "waiting", "a message of theirs waits in line instead"
    acting.Held.until.set()
    await laptop.ended(run)
    await other.ended(waiting["run"])
    assert steer_parts(laptop, run) == []


async def test_a_message_can_be_said_as_a_steer_and_is_one_where_nothing_runs(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    run = await under_way(laptop, agent, [Text("Yes.")])
    again = str(uuid4())
    ack = await laptop.say("message.send", signal_id=again, text="Also by train.", when_busy="steer")
    assert (ack["run"], ack["state"]) == (run, "steering")
    acting.Held.until.set()
    await laptop.ended(run)
    assert (await laptop.say("message.send", signal_id=again, text="Also by train.", when_busy="steer"))[
        "duplicate"
    ] is True
    agent.steps = []
    message = await laptop.say("message.send", text="Thanks.", when_busy="steer")
    assert message["run"] != run
    assert (await laptop.ended(message["run"]))["state"] == "completed"
    assert [part["text"] for part in steer_parts(laptop, run)] == ["Also by train."]
    await assert_all_agree(device, alice, laptop)


async def test_one_that_was_stopped_before_it_came_is_not_told(agent: type[Acting], laptop: Device) -> None:
    run = await under_way(laptop, agent, [Text("Yes.")])
    late = str(uuid4())
    await laptop.say("run.cancel", send=late)
    ack = await laptop.say("message.send", signal_id=late, text="All of them.", when_busy="steer")
    assert ack["run"] != run
    acting.Held.until.set()
    assert (await laptop.ended(run))["state"] == "completed"
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    assert steer_parts(laptop, run) == []


async def test_to_stop_a_send_that_became_a_steer_stops_the_answer_it_became_part_of(
    agent: type[Acting], laptop: Device
) -> None:
    run = await under_way(laptop, agent, [Text("Yes.")])
    added = str(uuid4())
    assert "steer" in await laptop.say("message.send", signal_id=added, text="All of them.", when_busy="steer")
    assert (await laptop.say("run.cancel", send=added))["outcome"] == "cancelling"
    assert (await laptop.ended(run))["state"] == "cancelled"
    assert (await laptop.say("run.cancel", send=added))["outcome"] == "already_ended"


@with_settings(CHAT_MAX_STEPS=1)
async def test_what_is_added_to_the_last_step_there_may_be_is_missed(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    run = await under_way(laptop, agent)
    await laptop.say("run.steer", run=run, text="More.")
    acting.Held.until.set()
    await laptop.ended(run)
    assert (await Run.objects.aget(pk=run)).stop_reason == "max_steps"
    assert steers(laptop, run) == [("More.", "missed")]
    await assert_all_agree(device, alice, laptop)


async def test_there_is_an_end_to_what_can_wait(agent: type[Acting], laptop: Device) -> None:
    run = await under_way(laptop, agent, [Text("Yes.")])
    answers = [await laptop.say("run.steer", run=run, text=str(number)) for number in range(21)]
    assert [answer["type"] for answer in answers] == ["ack"] * 20 + ["nack"]
    assert answers[-1]["code"] == "busy"
    acting.Held.until.set()
    await laptop.ended(run)
    assert len(steer_parts(laptop, run)) == 20


class Listening:
    """An agent that asks by itself what was added, between its words."""

    async def reply(self, turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
        yield Text("I begin. ")
        await acting.Held.until.wait()
        for text in await turn.steers():
            if text == "Break.":
                raise RuntimeError("of the agent's own")
            yield Text(f"You say: {text} ")
        assert await turn.steers() == []
        yield Text("Done.")

    async def aclose(self) -> None:
        pass


@pytest.fixture
def listening(agent: type[Acting], settings: Settings) -> None:
    settings.CHAT_PROVIDERS = {"acting": "tests.test_steering.Listening"}


async def test_an_agent_may_ask_for_what_was_added_in_the_middle_of_its_answer(
    listening: None, device: Make, alice: User, laptop: Device
) -> None:
    ack = await laptop.ask("Tell me.")
    await laptop.writes(ack["run"])
    for text in ("Louder.", "Slower."):
        await laptop.say("run.steer", run=ack["run"], text=text)
    acting.Held.until.set()
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    parts = laptop.view.parts_of(ack["run"])
    assert [(part["type"], part["text"], part.get("step", 0)) for part in parts] == [
        ("text", "I begin. ", 0),
        ("steer", "Louder.", 1),
        ("steer", "Slower.", 1),
        ("text", "You say: Louder. You say: Slower. Done.", 1),
    ]
    run = await Run.objects.select_related("prompt", "answer").aget(pk=ack["run"])
    assert run.answer is not None
    told = build_prompt([Said(run.prompt.parts, run.answer.parts, "completed")], [{"type": "text", "text": "And?"}])
    assert [message["role"] for message in told] == ["user", "assistant", "user", "assistant", "user"], "X34"
    await assert_all_agree(device, alice, laptop)


async def test_what_is_added_before_a_word_is_said_stands_before_the_first(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [[acting.Held.until]]
    ack = await laptop.ask("Tell me.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "running", "it to begin")
    await laptop.say("run.steer", run=ack["run"], text="Louder.")
    acting.Held.until.set()
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    parts = laptop.view.parts_of(ack["run"])
    assert [(part["type"], part["text"]) for part in parts] == [("steer", "Louder."), ("text", "Done.")]
    await assert_all_agree(device, alice, laptop)


async def test_x37_an_agent_that_breaks_on_a_steer_fails_alone_and_the_steer_is_offered_again(
    listening: None, device: Make, alice: User, laptop: Device, caplog: pytest.LogCaptureFixture
) -> None:
    ack = await laptop.ask("Tell me.")
    await laptop.writes(ack["run"])
    await laptop.say("run.steer", run=ack["run"], text="Break.")
    acting.Held.until.set()
    assert (await laptop.ended(ack["run"]))["state"] == "failed"
    assert [(part["text"], part["state"]) for part in steer_parts(laptop, ack["run"])] == [("Break.", "missed")]
    after = await laptop.ask("And now?")
    assert (await laptop.ended(after["run"]))["state"] == "completed"
    await assert_all_agree(device, alice, laptop)
    assert "the provider broke" in caplog.messages
    caplog.clear()  # the one error there was


def test_x36_the_client_passes_over_what_it_does_not_know_of_a_steer() -> None:
    view, who = View(), Who("alice", None, "")
    view.apply(SteerMissed(serial=1, run="nobody's", steer="s"))
    view.apply(SteerConsumed(serial=2, message="m", run="r", steer="s", part=3, step=1, text="x", who=who))
    view.apply(RunSteered(serial=3, run="r", steer="s", client_id="c", text="x", by=who))
    assert view.turns == []
