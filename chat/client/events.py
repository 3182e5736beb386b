"""The events of the log as types. `docs/protocol.md` says what they mean; a test holds them to its JSON Schema."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from chat.client.event import Event
from chat.client.facts import Ending, Part, Problem, Who


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
