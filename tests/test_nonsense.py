"""What agents and tools should never say or do: the run ends, in words that say why, and the next one works."""

import asyncio
from typing import Any

import pytest

from chat.agent.provider import ProviderError, Reasoned, Reasoning, Stopped, Text, ToolAsked, ToolInput, ToolReady
from chat.models import Message, Run
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
    step = [ToolAsked("a", "note"), Text("Or "), ProviderError("overloaded", "Busy.", retryable=True)]
    assert (await end_of(laptop, agent, step))["state"] == "failed"
