"""The part of the demo in which an agent acts: it thinks, calls tools, is denied one, and waits for a decision now."""

import json
import uuid
from typing import Any, Protocol

from django.conf import settings

from chat.approval import to_decide
from chat.batches import Delta
from chat.group_commit import commit
from chat.models import Device, Participant, Run, Spending
from chat.models.answering import Answering
from chat.models.deciding import decide
from chat.models.parts import Part, next_step
from chat.models.state import State
from chat.prices import cost, per_token

DECISION_SECONDS = 90 * 86_400.0  # however long ago somebody has made the demo, there is something to decide
RENAME = "rename_conversation"
SOON = 600.0
MODEL = "scripted"  # whose price is pretended


class Talk(Protocol):
    """`Talk` of the command."""

    guest: Participant
    phone: Device

    def ask(self, text: str) -> Run: ...
    def start(self) -> Run: ...
    def end(self, run: Run, state: State, **outcome: Any) -> None: ...


class Agent:
    """Writes an answer as an agent does: part by part."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._answering = Answering(run)
        self._step = next_step(self._answering.parts())

    def thinks(self, text: str) -> None:
        self._writes({"type": "reasoning"}, text, signature="demo")

    def says(self, text: str) -> None:
        self._writes({"type": "text"}, text)

    def asks(self, name: str, **arguments: Any) -> str:
        """For a tool. The call's id."""
        call = str(uuid.uuid4())
        asked = {"type": "tool_use", "call": call, "id": f"toolu_{uuid.uuid4().hex}", "name": name}
        self._writes(asked, json.dumps(arguments), input=arguments, status="asked")
        return call

    def hears(self, call: str, text: str) -> None:
        """What a tool comes to."""
        assert self._answering.start(call)
        self._answering.finish(call, "done", text)
        self._step = next_step(self._answering.parts())

    def waits(self, call: str, seconds: float, **arguments: Any) -> str:
        """For somebody to decide. The hash of what they decide about."""
        approval = to_decide(RENAME, arguments)
        self._answering.ask({call: approval}, seconds)
        assert self._answering.wait(spent(self._run, {"input_tokens": 61, "output_tokens": 48}))
        return approval["hash"]

    def _writes(self, part: Part, text: str, **fields: Any) -> None:
        run = self._run
        assert run.answer_id is not None
        number = self._answering.turn(closing=None, opening={**part, "step": self._step})
        assert number is not None
        assert not commit([Delta(run.conversation_id, run.pk, run.attempt, run.answer_id, 0, text, part=number)])
        self._answering.turn(closing={"state": "done", **fields}, opening=None)


def spent(run: Run, usage: dict[str, int], *, estimated: bool = False) -> Spending:
    """What the demonstration pretends that an attempt has cost."""
    spending = Spending.of(run, MODEL)
    price = cost(per_token(settings.CHAT_PRICES, MODEL), usage)
    spending.usage, spending.cost, spending.estimated = usage, None if price is None else round(price), estimated
    spending.tokens_in, spending.tokens_out = usage["input_tokens"], usage["output_tokens"]
    return spending


def acting(talk: Talk) -> None:
    """Tools that ran, one that was denied, and one that waits for a decision."""
    run = talk.ask("How much is 17 % of 2,345, and what time is it in Tokyo?")
    agent = Agent(run)
    agent.thinks(
        "Two things that I should not guess: arithmetic and the time. There is a tool for each, so I ask both."
    )
    agent.says("I'll look both up.")
    share, time = agent.asks("calculate", expression="2345 * 17/100"), agent.asks("time_in", place="Tokyo")
    agent.hears(share, "398.65")
    agent.hears(time, _TIME)
    agent.says("17 % of 2,345 is **398.65**. In Tokyo it is a quarter past nine in the evening.")
    talk.end(run, State.COMPLETED, stop_reason="end_turn", usage={"input_tokens": 212, "output_tokens": 96})

    title = "Percentages and Tokyo"
    run = talk.ask("Give this conversation a better title.")
    agent = Agent(run)
    call = agent.asks(RENAME, title=title)
    seen = agent.waits(call, SOON, title=title)
    reason = "Say what it shows instead."
    decide(run, by=talk.guest, device=talk.phone, call=call, approve=False, reason=reason, arguments_hash=seen)
    run = talk.start()
    Agent(run).says("Bob would rather have a title that says what this conversation shows. Shall I try another?")
    talk.end(run, State.COMPLETED, stop_reason="end_turn", usage={"input_tokens": 268, "output_tokens": 71})

    title = "What an agent looks like at work"
    run = talk.ask("Yes, please.")
    agent = Agent(run)
    agent.thinks("It shows thoughts, tools that ran, one that was denied, and now one that waits. So it is about work.")
    agent.waits(agent.asks(RENAME, title=title), DECISION_SECONDS, title=title)


_TIME = (
    "In Asia/Tokyo it is Sunday, 22 November 2026, 21:15:04 (JST, UTC+09:00). "
    "The offset does not change in the coming year."
)
