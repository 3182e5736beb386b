"""The events of what an agent does, and of what people add and decide meanwhile. `events.py` has the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from chat.client.event import Event
from chat.client.facts import Who


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStarted(Event):
    """The answer's next part begins. Part 0 is text if nothing announces it."""

    type: ClassVar[str] = "part.started"
    message: str
    run: str
    part: int
    kind: str
    step: int = 0
    call: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEnded(Event):
    """It is complete, or cut off. `length` in code points."""

    type: ClassVar[str] = "part.ended"
    message: str
    run: str
    part: int
    state: str
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PartShortened(Event):
    """Of what a tool has found the model is told the first `told` characters from now on."""

    type: ClassVar[str] = "part.shortened"
    message: str
    run: str
    part: int
    told: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CitationAdded(Event):
    """What a text rests on, as the answer's next part."""

    type: ClassVar[str] = "citation.added"
    message: str
    run: str
    part: int
    step: int
    title: str
    url: str
    text: str
    of: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOffered(Event):
    """A call waits for a device of `user`: the first that answers."""

    type: ClassVar[str] = "tool.offered"
    message: str
    run: str
    part: int
    call: str
    name: str
    arguments: Mapping[str, Any]
    user: str
    until: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCalled(Event):
    """A call is executed now, for the only time."""

    type: ClassVar[str] = "tool.called"
    message: str
    run: str
    part: int
    call: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult(Event):
    """What became of a call, as the answer's next part."""

    type: ClassVar[str] = "tool.result"
    message: str
    run: str
    part: int
    call: str
    name: str
    text: str
    outcome: str
    error: bool
    step: int = 0
    by: Who | None = None  # whose device has answered, if it was offered to devices


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested(Event):
    """A call waits for a person. Decide with `hash`."""

    type: ClassVar[str] = "approval.requested"
    message: str
    run: str
    part: int
    call: str
    name: str
    hash: str
    shown: str
    until: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalDecided(Event):
    """The decision, once. `by` is None if nobody made it in time."""

    type: ClassVar[str] = "approval.decided"
    message: str
    run: str
    part: int
    call: str
    decision: str
    by: Who | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWaiting(Event):
    """It waits for a person."""

    type: ClassVar[str] = "run.waiting"
    run: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSteered(Event):
    """Somebody added something: it waits for the run's next step."""

    type: ClassVar[str] = "run.steered"
    run: str
    steer: str
    client_id: str
    text: str
    by: Who
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerConsumed(Event):
    """The model is told, at this step; it is the answer's next part now."""

    type: ClassVar[str] = "steer.consumed"
    message: str
    run: str
    steer: str
    part: int
    step: int
    text: str
    who: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerMissed(Event):
    """The run ended before it was told, or, as a part, before anything was said to it."""

    type: ClassVar[str] = "steer.missed"
    run: str
    steer: str
    message: str = ""
    part: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerSent(Event):
    """A missed one is a message now."""

    type: ClassVar[str] = "steer.sent"
    run: str
    steer: str
    sent_as: str
    by: Who
    message: str = ""
    part: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationSummarised(Event):
    """The model is told this in place of the turns up to place `until`; without text, nothing."""

    type: ClassVar[str] = "conversation.summarised"
    run: str
    message: str
    summary: str
    until: int
    text: str
    model: str = ""
