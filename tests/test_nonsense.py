"""What agents and tools should never say or do: the run ends, in words that say why, and the next one works."""

from typing import Annotated, Any

import pytest
from pydantic import AfterValidator
from pytest_django import Settings

from chat.agent.provider import (
    Citation,
    Notice,
    ProviderError,
    Reasoned,
    Reasoning,
    Stopped,
    Text,
    ToolAsked,
    ToolInput,
    ToolReady,
)
from chat.agent.saying import MAX_PROGRESS_CHARS
from chat.agent.tool import Context, device_tool, tool
from chat.models import Message
from tests import acting
from tests.acting import Acting, Step, asks
from tests.device import Device
from tests.test_device_tools import agent, laptop
from tests.test_x_tools import assert_valid

__all__ = ["agent", "laptop"]  # fixtures, of the same kind as there
pytestmark = pytest.mark.usefixtures("quiet")


async def end_of(laptop: Device, agent: type[Acting], step: Step) -> dict[str, Any]:
    """How a run ends whose first step is this. Nothing of it is left open, and the next one is answered."""
    agent.steps = [step]
    ack = await laptop.ask("Go.")
    ended = await laptop.ended(ack["run"])
    answer = await Message.objects.aget(run=ack["run"])
    assert all(part["state"] != "open" for part in answer.parts)
    agent.steps = []
    after = await laptop.ask("And now?")
    assert (await laptop.ended(after["run"]))["state"] == "completed"
    assert_valid(agent)
    return ended


looks: list[str] = []


def _later(what: str) -> str:
    looks.append(what)
    if len(looks) == 1:
        raise ValueError("not yet")
    return what


What = Annotated[str, AfterValidator(_later)]


@tool(approval=True)
async def destroy(context: Context, what: What) -> str:
    """Destroy it."""
    acting.ran.append(what)
    return "It is gone."


@device_tool(approval=True)
async def watch(context: Context, what: What) -> None:
    """Watch it."""


# --- calls that are left half -------------------------------------------------------------------------------

HALF: dict[str, Step] = {
    "then it speaks": [ToolAsked("a", "note"), Text("Or rather not.")],
    "then it ends": [ToolAsked("a", "note")],
    "then it thinks": [ToolAsked("a", "note"), ToolInput('{"te'), Reasoning("Hm."), Reasoned("signed")],
    "then it asks for another": [ToolAsked("a", "note"), *asks("note", "b", text="milk")],
    "then it says that it ended": [ToolAsked("a", "note"), Text("No."), Stopped("end_turn")],
}


@pytest.mark.parametrize("step", HALF.values(), ids=list(HALF))
async def test_a_call_that_is_left_half_is_an_error_for_the_model(
    agent: type[Acting], laptop: Device, step: Step
) -> None:
    assert (await end_of(laptop, agent, step))["state"] == "completed"
    assert acting.ran == (["milk"] if len(step) > 4 else [])
    assert "The arguments are not a JSON object." in str(agent.turns[1].prompt)


async def test_a_run_that_fails_behind_a_call_that_was_left_half_ends(agent: type[Acting], laptop: Device) -> None:
    step: Step = [ToolAsked("a", "note"), Text("Or "), ProviderError("overloaded", "Busy.", retryable=True)]
    assert (await end_of(laptop, agent, step))["state"] == "failed"


# --- arguments ----------------------------------------------------------------------------------------------


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    for _ in range(levels - 1):
        inner = {"in": inner}
    return inner


BAD: dict[str, dict[str, Any]] = {
    "a NUL": {"text": "a\0b"},
    "a NUL in a name": {"te\0xt": "x"},
    "a number without end": {"text": float("inf")},
    "no number": {"text": float("nan")},
    "more digits than Python reads": {"text": 10**5_000},
    "more levels than stay readable": nested(900),
    "more levels than anybody writes": nested(20_000),
}


@pytest.mark.parametrize("given", BAD.values(), ids=list(BAD))
async def test_arguments_that_no_database_keeps_are_an_error_for_the_model(
    agent: type[Acting], laptop: Device, given: dict[str, Any]
) -> None:
    step: Step = [ToolAsked("a", "note"), ToolReady(given)]
    assert (await end_of(laptop, agent, step))["state"] == "completed"
    assert "The arguments are not a JSON object." in str(agent.turns[1].prompt)


@pytest.mark.parametrize("said", ["\\u0000", "\\\\u0000", "\\\\\\u0000"])
async def test_who_speaks_of_a_nul_says_none(agent: type[Acting], laptop: Device, said: str) -> None:
    assert (await end_of(laptop, agent, asks("note", text=said)))["state"] == "completed"
    assert acting.ran == [said]


@pytest.mark.parametrize("name", ["destroy", "watch"])
async def test_what_is_right_only_at_the_second_look_is_not_done_without_approval(
    settings: Settings, agent: type[Acting], laptop: Device, name: str
) -> None:
    settings.CHAT_TOOLS = [f"tests.test_nonsense.{name}"]
    looks.clear()
    assert (await end_of(laptop, agent, asks(name, what="it")))["state"] == "completed"
    assert acting.ran == []
    answer = await Message.objects.aget(run__prompt__parts__0__text="Go.")
    [call] = [part for part in answer.parts if "status" in part]
    assert (call["status"], "approval" in call, "offer" in call) == ("error", False, False)


async def test_what_is_cited_is_cleaned_as_all_text_is(agent: type[Acting], laptop: Device) -> None:
    step: Step = [Text("It says so."), Citation("a\0b", "https://x.example/\0", "q\ud800")]
    assert (await end_of(laptop, agent, step))["state"] == "completed"
    answer = await Message.objects.aget(run__prompt__parts__0__text="Go.")
    [cited] = [part for part in answer.parts if part["type"] == "citation"]
    assert (cited["title"], cited["url"], cited["text"]) == ("a\ufffdb", "https://x.example/\ufffd", "q\ufffd")


# --- what is shown for a moment, and what only a model can read --------------------------------------------


async def test_a_notice_is_text_that_goes_away(agent: type[Acting], laptop: Device) -> None:
    notices: Any = [Notice("x" * 10_000, float("inf")), Notice(7), Notice("now", -1.0), Notice("?", float("nan"))]  # type: ignore[arg-type]
    assert (await end_of(laptop, agent, [*notices, Text("Hi.")]))["state"] == "completed"
    shown = [frame for frame in laptop.frames if frame["type"] == "progress"]
    assert [frame["text"] for frame in shown] == ["x" * MAX_PROGRESS_CHARS, "7", "now", "?"]
    assert [frame["expires_in"] for frame in shown] == [3600.0, 10.0, 0.0, 0.0]


async def test_a_signature_that_no_database_keeps_is_none(agent: type[Acting], laptop: Device) -> None:
    thoughts: Step = [Reasoning("Hm."), Reasoned("a\0b"), Reasoned(data="c\0d"), Text("Hi.")]
    assert (await end_of(laptop, agent, thoughts))["state"] == "completed"
    answer = await Message.objects.filter(role="assistant").order_by("created_serial").afirst()
    assert answer is not None
    assert [part.keys() & {"signature", "data"} for part in answer.parts] == [set(), set(), set()]
