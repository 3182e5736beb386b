"""The client's side of tools that run on a device: functions of a program, and a person at a terminal."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from chat.client import DeviceTools, View, connect
from chat.client.acts import ApprovalRequested
from chat.client.question import Question
from tests.device import until
from tests.remote import RemoteDevice, begin
from tests.server import Server
from tests.test_chat_command import page, real, server, sits_at, token

__all__ = ["server", "token"]  # fixtures, of the same kind as there
pytestmark = pytest.mark.process
ASKS = f"/tool ask_user {json.dumps({'question': 'Tea or coffee?', 'options': ['Tea', 'Coffee']})}"


@real
async def test_functions_answer_for_a_program_and_the_other_programs_are_stopped(server: Server, token: str) -> None:
    conversation, _ = await begin(server)
    given: list[Mapping[str, Any]] = []
    stopped: list[str] = []

    async def here(arguments: Mapping[str, Any]) -> object:
        given.append(arguments)
        return {"time_zone": "Pacific/Chatham"}

    async def slowly(arguments: Mapping[str, Any]) -> object:
        try:
            return await asyncio.Event().wait()
        finally:
            stopped.append("slow")

    async def follow(view: View, one: Any, tools: DeviceTools) -> None:
        async for event in one:
            tools.hear(event)

    address = page(server, conversation)
    async with connect(address, token, name="A robot") as robot, connect(address, token) as slow:
        slow_tools = DeviceTools(slow, {"this_device": slowly})
        listening = asyncio.create_task(follow(slow.view, slow, slow_tools))
        ack = await robot.send("/rate 0\n/tool this_device")
        await until(lambda: slow.view.answer_of(ack.run) and slow.view.answer_of(ack.run).state == "waiting")  # type: ignore[union-attr]
        tools = DeviceTools(robot, {"this_device": here})
        async for event in robot:  # what was offered before we looked is in the snapshot, or comes
            tools.hear(event)
            found = robot.view.answer_of(ack.run)
            if found is not None and found.ending is not None:
                break
        assert found is not None
        assert (given, found.ending.reason if found.ending else "") == ([{}], "completed")
        call, result = (part for part in found.parts if part.call)
        assert json.loads(result.text) == {"time_zone": "Pacific/Chatham"}
        assert call.offer is not None
        assert call.offer.by is not None
        assert (call.offer.by.device_name, call.offer.user) == ("A robot", "alice")
        await until(lambda: stopped == ["slow"], "the slower one to be told")
        listening.cancel()
        await tools.stop()
        await slow_tools.stop()


@real
async def test_what_a_function_raises_is_what_the_agent_reads(server: Server, token: str) -> None:
    conversation, _ = await begin(server)

    async def fails(arguments: Mapping[str, Any]) -> object:
        raise RuntimeError("There is no screen.")

    async def too_much(arguments: Mapping[str, Any]) -> object:
        return "x" * 40_000

    for function, told in ((fails, "There is no screen."), (too_much, "The result has 40,000 characters")):
        async with connect(page(server, conversation), token) as robot:
            tools = DeviceTools(robot, {"this_device": function})
            ack = await robot.send("/rate 0\n/tool this_device")
            async for event in robot:
                tools.hear(event)
                found = robot.view.answer_of(ack.run)
                if found is not None and found.ending is not None:
                    assert told in found.text
                    break


@real
async def test_a_program_decides_and_adds_something_meanwhile(server: Server, token: str) -> None:
    conversation, _ = await begin(server)
    async with connect(page(server, conversation), token) as robot:
        ack = await robot.send('/rate 0\n/tool rename_conversation {"title": "Ours"}')
        async for event in robot:
            if isinstance(event, ApprovalRequested):
                steered = await robot.steer(ack.run, "Quickly.")
                said = await robot.decide(ack.run, event.call, approve=True, arguments_hash=event.hash)
                assert (said.decision, said.by.user if said.by else "") == ("approved", "alice")
            found = robot.view.answer_of(ack.run)
            if found is not None and found.ending is not None:
                break
        assert found is not None
        assert robot.view.title == "Ours"
        assert [part.steer for part in found.parts if part.type == "steer"] == [steered.steer]


@real
async def test_a_person_at_a_terminal_is_asked_and_answers(server: Server, token: str) -> None:
    conversation, session = await begin(server)
    other = RemoteDevice(server, conversation, session)
    await (await other.connect()).synced()
    first = await other.ask(ASKS)
    async with sits_at(server, token, conversation, "--name", "Her terminal") as alice:  # asked before she came
        await alice.shows("? Tea or coffee?")
        await alice.shows("  2. Coffee")
        alice.type("2")
        await other.ended(first["run"])
        await alice.shows("[alice answered: Coffee]")
        alice.type(ASKS)
        await until(lambda: alice.screen.count("? Tea or coffee?") == 2, "the second question", 20.0)
        alice.type(" /echo This is no answer")
        await alice.shows("/echo This is no answer")
        alice.type("/skip")
        await alice.shows("[alice did not want to answer]")
        await alice.shows("* This is no answer")
        third = await other.ask(ASKS)
        await until(lambda: alice.screen.count("? Tea or coffee?") == 3, "the third question", 20.0)
        [call] = [part for part in other.view.parts_of(third["run"]) if part["type"] == "tool_use"]
        await other.say("tool.result", run=third["run"], call=call["call"], result="Neither.")
        await alice.shows("[alice answered: Neither.]")
        alice.type("/echo A word")
        await alice.shows("* A word")
    await other.disconnect()


@real
async def test_a_person_at_a_terminal_decides_about_what_is_shown(server: Server, token: str) -> None:
    conversation, session = await begin(server)
    other = RemoteDevice(server, conversation, session)
    await (await other.connect()).synced()
    first = await other.ask('/rate 0\n/tool rename_conversation {"title": "Ours\u202e"}')
    async with sits_at(server, token, conversation) as alice:  # it waited before she came
        await alice.shows("? rename_conversation will run with exactly this:")
        await alice.shows('"title": "Ours⟨U+202E⟩"')
        alice.type("/deny Nothing unseen.")
        await alice.shows("[denied by alice: Nothing unseen.]")
        await other.ended(first["run"])
        alice.type("/approve")
        await alice.shows("[nothing waits for a decision]")
        second = await other.ask('/rate 0\n/tool rename_conversation {"title": "Ours"}')
        await until(lambda: alice.screen.count("will run with exactly this:") == 2, "the second one", 20.0)
        alice.type("/approve")
        await alice.shows("[approved by alice]")
        await other.ended(second["run"])
        await alice.shows("[the title is now: Ours]")
    await other.disconnect()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2", "Coffee"),
        ("coffee", "Coffee"),
        ("1, 2", None),
        ("3", None),
        ("Milk", None),
        ("", None),
    ],
)
def test_one_of_the_options_is_meant_or_nothing(typed: str, meant: str | None) -> None:
    assert Question("Tea?", ("Tea", "Coffee"), free_text=False).answer_to(typed) == meant


@pytest.mark.parametrize(
    ("typed", "meant"), [("1 3", "Tea\nMilk"), ("2,1", "Coffee\nTea"), ("Water", "Water"), ("9", "9")]
)
def test_several_may_be_meant_and_words_of_ones_own(typed: str, meant: str) -> None:
    assert Question("Which?", ("Tea", "Coffee", "Milk"), several=True).answer_to(typed) == meant


def test_a_question_without_options_takes_any_words() -> None:
    asked = Question.of({"question": "Who?", "options": [], "free_text": False})
    assert asked.answer_to("2") == "2"
    assert "type your answer" in asked.lines[-1]
