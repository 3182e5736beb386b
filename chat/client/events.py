"""The events of the log as types. `docs/protocol.md` says what they mean; a test holds them to its JSON Schema."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from chat.client.facts import Ending, Part, Problem, Who


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in the conversation. Of a batch, `after` is the batch's."""

    type: ClassVar[str] = ""
    serial: int
    after: int = 0
    conversation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCreated(Event):
    """Somebody said something. `place` is None while it waits in the queue."""

    type: ClassVar[str] = "message.created"
    message: str
    run: str
    role: str
    client_id: str
    by: Who
    parts: tuple[Part, ...]
    place: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDelta(Event):
    """From `offset` (in code points) on, the text of the answer is this."""

    type: ClassVar[str] = "message.delta"
    message: str
    run: str
    part: int
    offset: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSnapshot(Event):
    """The same, folded from many deltas. May repeat what is known."""

    type: ClassVar[str] = "message.snapshot"
    message: str
    run: str
    part: int
    offset: int
    text: str


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
class PartShortened(Event):
    """Of what a tool has found the model is told the first `told` characters from now on."""

    type: ClassVar[str] = "part.shortened"
    message: str
    run: str
    part: int
    told: int


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
class MessageEdited(Event):
    """A waiting message now says this."""

    type: ClassVar[str] = "message.edited"
    message: str
    run: str
    parts: tuple[Part, ...]
    by: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRemoved(Event):
    """A waiting message was taken back."""

    type: ClassVar[str] = "message.removed"
    message: str
    by: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueChanged(Event):
    """The waiting messages, next first."""

    type: ClassVar[str] = "queue.changed"
    order: tuple[str, ...]
    by: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQueued(Event):
    """A run was accepted, or is to be tried again."""

    type: ClassVar[str] = "run.queued"
    run: str
    message: str
    alongside: bool
    waiting: bool
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """The model is asked. `message` is the answer, empty so far; the prompt now has this place."""

    type: ClassVar[str] = "run.started"
    run: str
    message: str
    prompt: str
    place: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelling(Event):
    """Somebody asked to stop it; only its end follows."""

    type: ClassVar[str] = "run.cancelling"
    run: str
    message: str
    by: Who


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """The end, once. `message` is empty if it never started; `length` is the answer's, in code points."""

    type: ClassVar[str] = "run.ended"
    run: str
    length: int
    prompt: str
    place: int | None
    reason: str
    stop_reason: str
    by: Who | None
    error: Problem | None
    retryable: bool
    usage: Mapping[str, int]
    message: str = ""
    model: str = ""
    cost: int | None = None
    estimated: bool = False

    @property
    def ending(self) -> Ending:
        """What a snapshot says of a run that has ended."""
        return Ending(
            self.prompt,
            self.place,
            self.reason,
            self.stop_reason,
            self.by,
            self.error,
            self.retryable,
            self.usage,
            self.model,
            self.cost,
            self.estimated,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantJoined(Event):
    """Somebody was let in."""

    type: ClassVar[str] = "participant.joined"
    user: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantChanged(Event):
    """Somebody may now do something else."""

    type: ClassVar[str] = "participant.changed"
    user: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantLeft(Event):
    """Somebody left or was sent away."""

    type: ClassVar[str] = "participant.left"
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRenamed(Event):
    """It has another title."""

    type: ClassVar[str] = "conversation.renamed"
    title: str


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
