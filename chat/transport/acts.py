"""The events of what an agent does, and of what people add and decide meanwhile, as they travel."""

from typing import Any, Literal

from pydantic import Field

from chat.transport.events import Event
from chat.transport.facts import Id, Outcome, PartState, Step, Summary, Told, Who


class PartStarted(Event):
    """The answer's next part begins. Part 0 is text if nothing announces it."""

    type: Literal["part.started"]
    message: Id
    run: Id
    part: int
    kind: Literal["text", "reasoning", "tool_use", "block"]
    step: Step = 0
    call: Id = ""
    name: str = ""


class PartEnded(Event):
    """It is complete, or cut off. `length` in code points."""

    type: Literal["part.ended"]
    message: Id
    run: Id
    part: int
    state: PartState
    length: int


class CitationAdded(Event):
    """What a text rests on, as the answer's next part."""

    type: Literal["citation.added"]
    message: Id
    run: Id
    part: int
    step: Step
    title: str
    url: str
    text: str
    of: int
    at: int


class ToolCalled(Event):
    """A call is executed now, for the only time."""

    type: Literal["tool.called"]
    message: Id
    run: Id
    part: int
    call: Id
    name: str


class ToolResult(Event):
    """What became of a call, as the answer's next part."""

    type: Literal["tool.result"]
    message: Id
    run: Id
    part: int
    step: Step = 0
    call: Id
    name: str
    text: str
    outcome: Outcome
    error: bool
    by: Who | None = Field(None, description="whose device has answered, if it was offered to devices")


class ToolOffered(Event):
    """A call waits for a device of `user`: the first that answers. `until`: ISO 8601, in UTC."""

    type: Literal["tool.offered"]
    message: Id
    run: Id
    part: int
    call: Id
    name: str
    arguments: dict[str, Any]
    user: str
    until: str


class PartShortened(Event):
    """What a tool has found takes too much room: from now on the model is told its first `told` characters."""

    type: Literal["part.shortened"]
    message: Id
    run: Id
    part: int
    told: Told


class ApprovalRequested(Event):
    """A call waits for a person. Decide with `hash`. `until`: ISO 8601, in UTC."""

    type: Literal["approval.requested"]
    message: Id
    run: Id
    part: int
    call: Id
    name: str
    hash: str
    shown: str
    until: str


class ApprovalDecided(Event):
    """The decision, once. `by` is null if nobody made it in time."""

    type: Literal["approval.decided"]
    message: Id
    run: Id
    part: int
    call: Id
    decision: Literal["approved", "denied", "expired"]
    by: Who | None
    reason: str


class RunWaiting(Event):
    """Nothing happens until each call that waits was decided about or answered; then it is queued and started again."""

    type: Literal["run.waiting"]
    run: Id
    message: Id


class RunSteered(Event):
    """Somebody added something: it waits for the run's next step."""

    type: Literal["run.steered"]
    run: Id
    steer: Id
    client_id: Id
    text: str
    by: Who
    message: Id = ""


class SteerConsumed(Event):
    """The model is told, at this step; it is the answer's next part now."""

    type: Literal["steer.consumed"]
    message: Id
    run: Id
    steer: Id
    part: int
    step: Step
    text: str
    who: Who


class SteerMissed(Event):
    """The run ended before it was told, or, with `part`, before anything was said to it. Offer to send it."""

    type: Literal["steer.missed"]
    run: Id
    steer: Id
    message: Id = ""
    part: int = 0


class SteerSent(Event):
    """A missed one is a message now."""

    type: Literal["steer.sent"]
    run: Id
    steer: Id
    sent_as: Id
    by: Who
    message: Id = ""
    part: int = 0


class ConversationSummarised(Event, Summary):
    """The conversation outgrew the model's window. People read all of it, as before."""

    type: Literal["conversation.summarised"]
    run: Id
    message: Id
