"""The events of the log, as they travel. `acts.py` has those of agents."""

from typing import Literal

from chat.transport.facts import Ending, Id, Part, Serial, Shape, Who


class Event(Shape):
    """In a batch, `after` and `conversation` stand on the batch alone."""

    after: Serial = 0
    serial: Serial
    conversation: Id = ""


class MessageCreated(Event):
    """Somebody said something. `place` is null while it waits in the queue."""

    type: Literal["message.created"]
    message: Id
    run: Id
    role: Literal["user"]
    client_id: Id
    by: Who
    parts: list[Part]
    place: Serial | None


class MessageDelta(Event):
    """From `offset` (in code points) on, the text of the answer's part is this."""

    type: Literal["message.delta"]
    message: Id
    run: Id
    part: int
    offset: int
    text: str


class MessageSnapshot(Event):
    """The same, folded from many deltas. May repeat what a device has: apply it all the same."""

    type: Literal["message.snapshot"]
    message: Id
    run: Id
    part: int
    offset: int
    text: str


class MessageEdited(Event):
    """A waiting message now says this."""

    type: Literal["message.edited"]
    message: Id
    run: Id
    parts: list[Part]
    by: Who


class MessageRemoved(Event):
    """A waiting message was taken back."""

    type: Literal["message.removed"]
    message: Id
    by: Who


class QueueChanged(Event):
    """The waiting messages, next first."""

    type: Literal["queue.changed"]
    order: list[Id]
    by: Who


class RunQueued(Event):
    """A run was accepted, or is to be tried again (`attempt` above 0). `waiting`: its message is in the queue."""

    type: Literal["run.queued"]
    run: Id
    message: Id
    alongside: bool
    waiting: bool
    attempt: int


class RunStarted(Event):
    """The model is asked. `message` is the answer, empty so far; the prompt now has this place."""

    type: Literal["run.started"]
    run: Id
    message: Id
    prompt: Id
    place: Serial
    attempt: int


class RunCancelling(Event):
    """Somebody asked to stop it; no text of it follows, only its end."""

    type: Literal["run.cancelling"]
    run: Id
    message: Id
    by: Who


class RunEnded(Event, Ending):
    """The end, once. `message` is missing if it never started; `length` is the answer's, in code points."""

    type: Literal["run.ended"]
    run: Id
    length: int
    message: Id = ""


class ParticipantJoined(Event):
    """Somebody was let in."""

    type: Literal["participant.joined"]
    user: str
    role: Literal["owner", "editor", "viewer"]


class ParticipantChanged(Event):
    """Somebody may now do something else."""

    type: Literal["participant.changed"]
    user: str
    role: Literal["owner", "editor", "viewer"]


class ParticipantLeft(Event):
    """Somebody left or was sent away."""

    type: Literal["participant.left"]
    user: str


class ConversationRenamed(Event):
    """It has another title."""

    type: Literal["conversation.renamed"]
    title: str
