"""X15 to X22 and X26: several who answer or decide, waits and wakes, and prompts that stay valid for ever after."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.utils import timezone

from chat import host as hosts
from chat.agent.prompt import prompt_of
from chat.agent.provider import ProviderError, ProviderEvent, Text
from chat.models import Conversation, Event, Message, Run
from chat.models.deciding import answer as answers
from chat.models.state import State
from project import asgi
from tests import acting
from tests.acting import Acting, asks
from tests.conftest import with_settings
from tests.device import Device
from tests.messages_rules import violations
from tests.test_agents import assert_equal_everywhere, call_in, decide
from tests.test_device_tools import agent, answer, laptop, offered, phone

__all__ = ["agent", "laptop", "phone"]  # fixtures, of the same kind as there
pytestmark = pytest.mark.usefixtures("quiet")
OVER_EVERY_DOOR = True

Make = Callable[..., Device]


def calls_of(device: Device, run: str) -> list[dict[str, Any]]:
    return [part for part in device.view.parts_of(run) if part["type"] == "tool_use"]


async def waiting(device: Device, run: str) -> list[dict[str, Any]]:
    """The calls of a run that waits."""
    await device.until(lambda: device.view.state_of(run) == "waiting", "the run to wait")
    return calls_of(device, run)


def refused(turn: Any) -> list[str]:
    """What the Messages API would say to this request."""
    tools = [tool.definition for tool in turn.tools]
    return violations({"model": "m", "max_tokens": 4096, "messages": turn.prompt, "tools": tools})


def assert_valid(provider: type[Acting]) -> None:
    """Nothing the provider was asked so far would have been refused."""
    assert provider.turns
    for turn in provider.turns:
        assert refused(turn) == [], turn.prompt


def results_in(turn: Any) -> list[str]:
    """What the tools are said to have come to, in all of a prompt."""
    blocks = [block for message in turn.prompt for block in message["content"]]
    return [str(block["content"]) for block in blocks if block["type"] == "tool_result"]


async def test_x15_of_two_devices_that_answer_one_call_one_stands_and_the_other_is_told_which(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    agent.steps = [asks("look", where="out")]
    ack = await laptop.ask("Look.")
    call = await offered(laptop, ack["run"])
    said = await asyncio.gather(
        answer(laptop, ack["run"], call, result="A tree."), answer(phone, ack["run"], call, error="It is dark.")
    )
    assert said[0]["text"] == said[1]["text"]
    assert said[0]["by"] == said[1]["by"]
    for one in (laptop, phone):
        await one.ended(ack["run"])
    results = [part for part in phone.view.parts_of(ack["run"]) if part["type"] == "tool_result"]
    assert [part["text"] for part in results] == [said[0]["text"]]
    assert results_in(agent.turns[1]) == [f"{said[0]['text']}\n\n[Answered by alice on Test]"]
    assert_valid(agent)
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


async def test_x16_of_two_decisions_the_first_stands_the_second_is_told_and_the_tool_runs_at_most_once(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    agent.steps = [asks("delete", what="all")]
    ack = await laptop.ask("Delete it.")
    [call] = await waiting(laptop, ack["run"])
    both = await asyncio.gather(
        *(decide(one, ack["run"], call, what) for one in (laptop, phone) for what in ("approve", "deny"))
    )
    assert len({(one["decision"], one["by"]["device"]) for one in both}) == 1
    assert both[0]["decision"] in {"approved", "denied"}
    for one in (laptop, phone):
        await one.ended(ack["run"])
    assert acting.ran == (["all"] if both[0]["decision"] == "approved" else [])
    assert [event["type"] for event in phone.events].count("approval.decided") == 1
    assert (await decide(phone, ack["run"], call, "deny"))["decision"] == both[0]["decision"]
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


async def test_x17_an_answer_while_the_run_still_executes_is_taken_and_waits_for_the_other_calls(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    step = [*asks("look", "a", where="out"), *asks("hold", "b", text="on"), *asks("delete", "c", what="one")]
    agent.steps = [[*step, *asks("delete", "d", what="two")]]
    ack = await laptop.ask("Do all of it.")
    await laptop.until(lambda: acting.ran == ["on"], "the tool that takes long")
    begun = ["offered", "running", "waiting", "waiting"]
    await laptop.until(lambda: [call.get("status") for call in calls_of(laptop, ack["run"])] == begun, "all of it")
    look, _, first, second = calls_of(laptop, ack["run"])
    assert laptop.view.state_of(ack["run"]) == "running"
    assert (await answer(laptop, ack["run"], look, result="A tree."))["outcome"] == "done"
    assert (await decide(laptop, ack["run"], first, "deny"))["decision"] == "denied"
    assert "run.waiting" not in [event["type"] for event in laptop.events]
    acting.Held.until.set()
    await waiting(laptop, ack["run"])
    assert len(agent.turns) == 1
    assert (await decide(laptop, ack["run"], second, "deny"))["decision"] == "denied"
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert [len(results_in(turn)) for turn in agent.turns] == [0, 4]
    assert_valid(agent)
    await assert_equal_everywhere(device, alice, ack["run"], laptop)


async def test_x18_with_several_calls_that_wait_the_model_is_asked_after_the_last(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    step = [*asks("delete", "a", what="one"), *asks("look", "b", where="out"), *asks("delete", "c", what="two")]
    agent.steps = [step]
    ack = await laptop.ask("Do all of it.")
    first, look, second = await waiting(phone, ack["run"])
    await decide(phone, ack["run"], first, "approve")
    await answer(laptop, ack["run"], look, result="A tree.")
    await phone.until(lambda: calls_of(phone, ack["run"])[1]["status"] == "done", "the answer")
    assert phone.view.state_of(ack["run"]) == "waiting"
    assert (len(agent.turns), acting.ran) == (1, [])
    await decide(laptop, ack["run"], second, "deny")
    assert (await phone.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == ["one"]
    assert [len(results_in(turn)) for turn in agent.turns] == [0, 3]
    assert_valid(agent)
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


@pytest.mark.over_websocket
async def test_x19_a_wake_before_the_answer_changes_nothing_and_without_one_the_answer_is_found(
    agent: type[Acting], laptop: Device, host: hosts.Host, conversation: Conversation
) -> None:
    agent.steps = [asks("look", where="out")]
    ack = await laptop.ask("Look.")
    call = await offered(laptop, ack["run"])
    engine = host.desk.engine.__self__  # type: ignore[union-attr]
    claim = engine.claim(conversation.pk)
    assert claim is not None
    assert await claim == []
    assert (await Run.objects.aget(pk=ack["run"])).state == State.WAITING
    # An answer that nobody announces to this process: its sweep looks at what may start.
    quiet, host.desk.engine = host.desk.engine, lambda message: None
    await answer(laptop, ack["run"], call, result="A tree.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    host.desk.engine = quiet
    assert results_in(agent.turns[1]) == ["A tree.\n\n[Answered by alice on Test]"]


@pytest.mark.over_websocket
@pytest.mark.in_process
async def test_x19_an_answer_while_nothing_runs_is_found_at_the_next_start(
    agent: type[Acting], device: Make, alice: User, laptop: Device, conversation: Conversation
) -> None:
    agent.steps = [asks("look", where="out")]
    ack = await laptop.ask("Look.")
    call = await offered(laptop, ack["run"])
    await laptop.disconnect()
    await hosts.stop()
    run = await Run.objects.select_related("conversation").aget(pk=ack["run"])
    by = await conversation.participants.select_related("user").aget(user=alice)
    await sync_to_async(answers)(run, by=by, device=None, call=call["call"], text="A tree.")
    hosts.provide(asgi.start_host)
    await hosts.running()
    await (await laptop.connect()).synced()
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert results_in(agent.turns[1]) == ["A tree.\n\n[Answered by alice]"]


async def test_x20_what_is_asked_of_people_stands_with_its_call_on_one_message(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [[*asks("delete", "a", what="all"), *asks("look", "b", where="out")]]
    ack = await laptop.ask("Do it.")
    delete, look = await waiting(laptop, ack["run"])
    found = await Message.objects.aget(run=ack["run"])
    about = [event for event in laptop.events if event.get("call") in {delete["call"], look["call"]}]
    assert {event["type"] for event in about} >= {"part.started", "approval.requested", "tool.offered"}
    assert {event["message"] for event in about} == {str(found.pk)}
    await decide(laptop, ack["run"], delete, "approve")
    await answer(laptop, ack["run"], look, result="A tree.")
    await laptop.ended(ack["run"])
    # One message has it all, so every later prompt is made whole: also one that is built from the rows alone.
    parts = (await Message.objects.aget(run=ack["run"])).parts
    assert [part["type"] for part in parts] == ["tool_use", "tool_use", "tool_result", "tool_result", "text"]
    assert {part["call"] for part in parts if "call" in part} == {delete["call"], look["call"]}
    async for event in Event.objects.filter(payload__call=delete["call"]):
        assert event.message_id == found.pk
    agent.steps = []
    await laptop.ended((await laptop.ask("And now?"))["run"])
    assert_valid(agent)
    await assert_equal_everywhere(device, alice, ack["run"], laptop)


# --- X21 ----------------------------------------------------------------------------------------------------

Ending = Callable[[Device, str], Awaitable[None]]


async def stopped(laptop: Device, run: str) -> None:
    await laptop.say("run.cancel", run=run)
    assert (await laptop.ended(run))["state"] == "cancelled"


async def lost(laptop: Device, run: str) -> None:
    found = await Run.objects.select_related("conversation").aget(pk=run)
    await sync_to_async(found.hand_over)(found.attempt)
    assert (await laptop.ended(run))["state"] == "interrupted"


async def too_late(laptop: Device, run: str) -> None:
    await Run.objects.filter(pk=run).aupdate(waits_until=timezone.now() - timedelta(seconds=1))
    assert (await laptop.ended(run))["state"] == "completed"


async def denied(laptop: Device, run: str) -> None:
    await decide(laptop, run, call_in(laptop, run), "deny")
    assert (await laptop.ended(run))["state"] == "completed"


HOLD, LOOK, DELETE = asks("hold", text="on"), asks("look", where="out"), asks("delete", what="all")
ENDINGS: dict[str, tuple[list[ProviderEvent], str, Ending]] = {
    "stopped while it runs": (HOLD, "running", stopped),
    "lost while it runs": (HOLD, "running", lost),
    "stopped while people are asked": (DELETE, "waiting", stopped),
    "nobody decides": (DELETE, "waiting", too_late),
    "denied": (DELETE, "waiting", denied),
    "stopped while devices are asked": (LOOK, "offered", stopped),
    "no device answers": (LOOK, "offered", too_late),
    "stopped while it is being asked for": (HOLD[:2], "", stopped),
}


@with_settings(CHAT_SWEEP_SECONDS=0.1)
@pytest.mark.over_websocket
@pytest.mark.parametrize("ending", list(ENDINGS))
async def test_x21_a_prompt_over_a_call_that_was_never_answered_is_valid_after_every_ending(
    agent: type[Acting], laptop: Device, ending: str
) -> None:
    step, status, end = ENDINGS[ending]
    agent.steps = [[Text("Let me see. "), *step, *([] if status else [asyncio.Event()])]]
    ack = await laptop.ask("Do it.")
    await laptop.until(lambda: calls_of(laptop, ack["run"]), "the call")
    if status:
        await laptop.until(lambda: call_in(laptop, ack["run"]).get("status") == status, status)
    if status in {"waiting", "offered"}:
        await waiting(laptop, ack["run"])
    await end(laptop, ack["run"])
    agent.steps = []
    for question in ("And now?", "And then?"):  # for ever after
        after = await laptop.ask(question)
        assert (await laptop.ended(after["run"]))["state"] == "completed"
    assert_valid(agent)
    parts = (await Message.objects.aget(run=ack["run"])).parts
    assert [part for part in parts if part.get("state") == "open"] == []
    told = results_in(agent.turns[-1])
    assert len(told) == (1 if status else 0)


@pytest.mark.over_websocket
async def test_x21_a_provider_that_fails_beside_its_calls_leaves_a_valid_history(
    agent: type[Acting], laptop: Device
) -> None:
    busy = ProviderError("overloaded", "It is busy.", retryable=True)
    agent.steps = [asks("note", "a", text="milk"), [*asks("look", "b", where="out"), busy]]
    ack = await laptop.ask("Do it.")
    assert (await laptop.ended(ack["run"]))["state"] == "failed"
    assert [call["status"] for call in calls_of(laptop, ack["run"])] == ["done", "cancelled"]
    agent.steps = []
    for asking in (laptop.say("run.retry", run=ack["run"]), laptop.ask("And now?")):
        assert (await laptop.ended((await asking)["run"]))["state"] == "completed"
    assert_valid(agent)


@pytest.mark.over_websocket
async def test_x21_a_second_tab_that_does_not_wait_has_a_valid_prompt_too(
    agent: type[Acting], laptop: Device, phone: Device
) -> None:
    agent.steps = [asks("delete", what="all")]
    ack = await laptop.ask("Delete it.")
    await waiting(phone, ack["run"])
    agent.steps = []
    beside = await phone.ask("What is the time?", when_busy="alongside")
    assert (await phone.ended(beside["run"]))["state"] == "completed"
    assert len(agent.turns) == 2
    await decide(phone, ack["run"], call_in(phone, ack["run"]), "approve")
    assert (await phone.ended(ack["run"]))["state"] == "completed"
    after = await phone.ask("And now?")
    await phone.ended(after["run"])
    assert_valid(agent)
    assert acting.ran == ["all"]


# --- X22, X26 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when_busy", ["queue", "alongside", "interrupt"])
async def test_x22_a_message_that_comes_during_the_words_before_a_call_never_spoils_a_prompt(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device, when_busy: str
) -> None:
    gate = asyncio.Event()
    agent.steps = [[Text("Let me see. "), gate, *asks("delete", what="all")], [Text("Deleted.")]]
    ack = await laptop.ask("Delete it.")
    await phone.writes(ack["run"], 5)
    agent.steps = [[Text("Two things. "), *asks("hold", text="x")]] if when_busy == "alongside" else []
    late = await phone.ask("And something else.", when_busy=when_busy)
    if when_busy == "alongside":
        await phone.until(lambda: acting.ran == ["x"], "the tool of the other")
    gate.set()
    if when_busy == "interrupt":
        assert (await phone.ended(ack["run"]))["state"] == "cancelled"
    else:
        [call] = await waiting(phone, ack["run"])
        agent.steps = []
        acting.Held.until.set()  # what was asked alongside goes on while this call has no answer
        if when_busy == "alongside":
            assert (await phone.ended(late["run"]))["state"] == "completed"
        await decide(phone, ack["run"], call, "approve")
        assert (await phone.ended(ack["run"]))["state"] == "completed"
    for one in (laptop, phone):
        assert (await one.ended(late["run"]))["state"] == "completed"
    assert_valid(agent)
    after = await laptop.ask("And now?")
    await laptop.ended(after["run"])
    assert_valid(agent)
    run = await Run.objects.select_related("prompt", "answer").aget(pk=after["run"])
    assert (await sync_to_async(partial(prompt_of, run))())[-1]["role"] == "user"
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


@pytest.mark.parametrize("tool", ["delete", "look"])
async def test_x26_a_message_while_something_is_pending_waits_or_forks_and_both_are_answered(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device, tool: str
) -> None:
    agent.steps = [asks(tool, **({"what": "all"} if tool == "delete" else {"where": "out"}))]
    ack = await laptop.ask("Do it.")
    [call] = await waiting(phone, ack["run"])
    agent.steps = []
    queued = await phone.ask("Then this.")
    assert queued["state"] == "waiting"
    beside = await phone.ask("And this at once.", when_busy="alongside")
    assert (await phone.ended(beside["run"]))["state"] == "completed"
    assert phone.view.state_of(ack["run"]) == "waiting"
    assert phone.view.state_of(queued["run"]) == "queued"
    if tool == "delete":
        await decide(phone, ack["run"], call, "approve")
    else:
        await answer(phone, ack["run"], call, result="A tree.")
    for run in (ack["run"], queued["run"]):
        for one in (laptop, phone):
            assert (await one.ended(run))["state"] == "completed"
    assert len(results_in(agent.turns[-1])) == 1  # what was asked for last knows of it
    assert_valid(agent)
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


async def test_x26_a_message_that_interrupts_takes_what_is_pending_away(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    agent.steps = [[*asks("delete", "a", what="all"), *asks("look", "b", where="out")]]
    ack = await laptop.ask("Do it.")
    delete, look = await waiting(phone, ack["run"])
    agent.steps = []
    instead = await phone.ask("No, this.", when_busy="interrupt")
    for one in (laptop, phone):
        assert (await one.ended(ack["run"]))["state"] == "cancelled"
        assert (await one.ended(instead["run"]))["state"] == "completed"
        assert [call["status"] for call in calls_of(one, ack["run"])] == ["cancelled", "cancelled"]
    assert (await decide(phone, ack["run"], delete, "approve"))["decision"] == "cancelled"
    assert (await answer(phone, ack["run"], look, result="A tree."))["outcome"] == "cancelled"
    assert acting.ran == []
    assert_valid(agent)
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)
