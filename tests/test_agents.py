"""Agents that act: what tools are asked to do, on every device, at most once, and never left open."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from chat.agent.provider import Text
from chat.models import Conversation, Message, Run
from chat.models.state import State
from tests import acting
from tests.acting import Acting, asks, thinks
from tests.conftest import with_settings
from tests.device import Device, until
from tests.guests import guest

pytestmark = pytest.mark.usefixtures("quiet")
OVER_EVERY_DOOR = True

Make = Callable[..., Device]


def kinds(device: Device, run: str) -> list[str]:
    return [part["type"] for part in device.view.parts_of(run)]


def call_in(device: Device, run: str) -> dict[str, Any]:
    """The one call of the run."""
    [call] = [part for part in device.view.parts_of(run) if part["type"] == "tool_use"]
    return call


async def waits(device: Device, run: str) -> dict[str, Any]:
    """The call that waits for a decision."""
    await device.until(lambda: device.view.state_of(run) == "waiting", "the run to wait")
    return call_in(device, run)


async def decide(device: Device, run: str, call: dict[str, Any], decision: str, **more: Any) -> dict[str, Any]:
    fields = {"run": run, "call": call["call"], "decision": decision, "arguments_hash": call["approval"]["hash"]}
    return await device.say("tool.decide", **{**fields, **more})


async def assert_equal_everywhere(device: Make, user: User, run: str, *devices: Device) -> None:
    """The live devices have what a fresh one is given, and what is stored."""
    fresh = await (await device(user, devices[0].conversation).connect()).synced()
    for one in devices:
        await one.until(lambda one=one: one.view.cursor >= fresh.view.cursor, "the same position")  # type: ignore[misc]
        assert one.view.comparable() == fresh.view.comparable()
    found = await Run.objects.select_related("answer").aget(pk=run)
    assert found.answer is not None
    assert [part["state"] for part in found.answer.parts if part["state"] == "open"] == []
    assert [part["text"] for part in found.answer.parts] == [part["text"] for part in fresh.view.parts_of(run)]


async def test_a_tool_runs_and_what_it_found_is_read_by_the_model(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    agent.steps = [[Text("Let me see. "), *asks("note", text="milk")], [Text("It is noted.")]]
    ack = await laptop.ask("Note milk.")
    for one in (laptop, phone):
        assert (await one.ended(ack["run"]))["state"] == "completed"
        assert kinds(one, ack["run"]) == ["text", "tool_use", "tool_result", "text"]
        assert one.view.text_of(ack["run"]) == "Let me see. It is noted."
    assert acting.ran == ["milk"]
    call, result = laptop.view.parts_of(ack["run"])[1:3]
    assert (call["text"], call["status"]) == ('{"text": "milk"}', "done")
    assert (result["text"], result["outcome"], result["error"]) == ("noted milk", "done", False)
    told = agent.turns[1].prompt[-1]
    assert told["role"] == "user"
    assert told["content"][0]["type"] == "tool_result"
    assert [tool.name for tool in agent.turns[0].tools] == ["note", "wait_long", "fail", "delete", "give_up", "hold"]
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


async def test_what_is_thought_is_a_part_and_its_signature_stays_here(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [[*thinks("Hm", "mm."), Text("Yes.")]]
    ack = await laptop.ask("Is it?")
    await laptop.ended(ack["run"])
    assert kinds(laptop, ack["run"]) == ["reasoning", "text"]
    assert laptop.view.parts_of(ack["run"])[0]["text"] == "Hmmm."
    assert laptop.view.text_of(ack["run"]) == "Yes."
    assert not any("signed" in str(frame) for frame in laptop.frames)
    answer = await Message.objects.aget(run=ack["run"])
    assert answer.parts[0]["signature"] == "signed"
    await assert_equal_everywhere(device, alice, ack["run"], laptop)


async def test_tools_asked_for_together_run_together_and_one_that_fails_tells_why(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [[*asks("note", "a", text="1"), *asks("fail", "b"), *asks("nothing", "c"), *asks("note", "d", no=1)]]
    ack = await laptop.ask("Go.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    results = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_result"]
    found = {part["name"]: (part["outcome"], part["text"]) for part in results if part["name"] != "note"}
    assert found == {"fail": ("error", "It is Sunday."), "nothing": ("error", "There is no tool nothing.")}
    assert sorted(part["outcome"] for part in results if part["name"] == "note") == ["done", "error"]
    assert acting.ran == ["1"]
    await assert_equal_everywhere(device, alice, ack["run"], laptop)


async def test_a_tool_that_cancels_itself_does_not_hold_up_the_run(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("give_up")]
    ack = await laptop.ask("Go.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert (call_in(laptop, ack["run"])["status"], acting.ran) == ("unknown", ["gave up"])


async def test_x16_the_first_decision_stands_and_the_other_device_is_told(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    agent.steps = [asks("delete", what="the\u202e cat")]
    ack = await laptop.ask("Delete it.")
    call = await waits(laptop, ack["run"])
    await waits(phone, ack["run"])
    assert "⟨U+202E⟩" in call["approval"]["shown"]
    answers = await asyncio.gather(
        decide(laptop, ack["run"], call, "approve"), decide(phone, ack["run"], call, "deny", reason="No!")
    )
    assert len({answer["decision"] for answer in answers} - {"done", "running"}) == 1
    for one in (laptop, phone):
        await one.ended(ack["run"])
    decided = call_in(phone, ack["run"])["approval"]
    assert decided == call_in(laptop, ack["run"])["approval"]
    assert acting.ran == (["the\u202e cat"] if decided["decision"] == "approved" else [])
    assert decided["by"]["device"] in (laptop.id, phone.id)
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


async def test_who_denies_may_say_why_and_the_model_reads_it(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("delete", what="all")]
    ack = await laptop.ask("Delete it.")
    answer = await decide(laptop, ack["run"], await waits(laptop, ack["run"]), "deny", reason="Only half of it.")
    assert answer["decision"] == "denied"
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == []
    assert "Only half of it." in str(agent.turns[1].prompt[-1])


async def test_an_approval_is_for_what_was_shown(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("delete", what="one")]
    ack = await laptop.ask("Delete it.")
    call = await waits(laptop, ack["run"])
    assert (await decide(laptop, ack["run"], call, "approve", arguments_hash="0" * 64))["code"] == "stale"
    other = {**call, "call": ack["message"]}
    assert (await decide(laptop, ack["run"], other, "approve"))["code"] == "unknown_call"
    assert laptop.view.state_of(ack["run"]) == "waiting"
    assert acting.ran == []
    await laptop.say("run.cancel", run=ack["run"])


async def test_x26_a_stop_while_it_waits_ends_it_at_once_and_the_next_message_is_answered(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [asks("delete", what="one")]
    ack = await laptop.ask("Delete it.")
    call = await waits(laptop, ack["run"])
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    assert call_in(laptop, ack["run"])["status"] == "cancelled"
    assert (await decide(laptop, ack["run"], call, "approve"))["decision"] == "cancelled"
    agent.steps = []
    after = await laptop.ask("And now?")
    assert (await laptop.ended(after["run"]))["state"] == "completed"
    assert acting.ran == []
    await assert_equal_everywhere(device, alice, ack["run"], laptop)


@with_settings(CHAT_SWEEP_SECONDS=0.1)
async def test_what_nobody_decides_about_is_denied_in_the_end(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [asks("delete", what="one")]
    ack = await laptop.ask("Delete it.")
    await waits(laptop, ack["run"])
    await Run.objects.filter(pk=ack["run"]).aupdate(waits_until=timezone.now() - timedelta(seconds=1))
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    call = call_in(laptop, ack["run"])
    assert (call["status"], call["approval"]["decision"], call["approval"]["by"]) == ("expired", "expired", None)
    assert acting.ran == []
    await assert_equal_everywhere(device, alice, ack["run"], laptop)


async def test_s14_a_stop_stops_the_tool_which_is_never_run_again_and_the_next_message_is_answered(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    agent.steps = [[*asks("wait_long", "a", text="paint"), *asks("note", "b", text="quick")]]
    ack = await laptop.ask("Paint.")
    await phone.until(lambda: "running" in str(phone.view.parts_of(ack["run"])), "the tool to run")
    await laptop.until(lambda: acting.ran.count("paint"), "it to have begun")
    await phone.say("run.cancel", run=ack["run"])
    for one in (laptop, phone):
        assert (await one.ended(ack["run"]))["state"] == "cancelled"
    await until(lambda: acting.told_to_stop == ["paint"], "the tool to be told")
    painting = next(
        part for part in laptop.view.parts_of(ack["run"]) if part.get("call") and part["type"] == "tool_use"
    )
    assert painting["status"] == "unknown"
    agent.steps = []
    after = await laptop.ask("Go on.")
    assert (await laptop.ended(after["run"]))["state"] == "completed"
    assert acting.ran.count("paint") == 1
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


async def test_a_viewer_may_not_decide(
    agent: type[Acting], device: Make, bob: User, laptop: Device, conversation: Conversation
) -> None:
    viewer = await guest(device, conversation, bob, "viewer")
    agent.steps = [asks("delete", what="one")]
    ack = await laptop.ask("Delete it.")
    call = await waits(viewer, ack["run"])
    assert (await decide(viewer, ack["run"], call, "approve"))["code"] == "forbidden"
    assert (await decide(laptop, ack["run"], call, "approve"))["decision"] == "approved"
    await laptop.ended(ack["run"])
    assert acting.ran == ["one"]


@with_settings(CHAT_APPROVERS=["owner"])
async def test_roles_decide_who_may_approve(
    agent: type[Acting], device: Make, bob: User, laptop: Device, conversation: Conversation
) -> None:
    editor = await guest(device, conversation, bob)
    agent.steps = [asks("delete", what="one")]
    ack = await editor.ask("Delete it.")
    call = await waits(editor, ack["run"])
    refusal = await decide(editor, ack["run"], call, "approve")
    assert (refusal["code"], "owner" in refusal["message"]) == ("forbidden", True)
    await waits(laptop, ack["run"])
    assert (await decide(laptop, ack["run"], call, "approve"))["decision"] == "approved"
    await editor.ended(ack["run"])
    assert acting.ran == ["one"]


@with_settings(CHAT_MAX_STEPS=3)
async def test_an_agent_that_never_comes_to_an_end_is_ended(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [asks("note", f"id{number}", text=str(number)) for number in range(10)]
    ack = await laptop.ask("Go on for ever.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == ["0", "1", "2"]
    run = await Run.objects.aget(pk=ack["run"])
    assert (run.stop_reason, run.usage["input_tokens"], run.state) == ("max_steps", 30, State.COMPLETED)
    await assert_equal_everywhere(device, alice, ack["run"], laptop)
