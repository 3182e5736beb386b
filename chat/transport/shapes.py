"""Every frame a server may send, as types: the source of the committed JSON Schema, and what tests hold frames to.

`events.py` and `acts.py` have the events of the log, `facts.py` what all of them are about.

Nothing is checked against these when frames are sent: that would cost every token. `tests/test_protocol.py`
checks every frame of every story instead, and that no frame has a field which is not here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from chat.errors import Code
from chat.spoken import AnySignal
from chat.transport import acts, events
from chat.transport.close import Close
from chat.transport.facts import Budget, Ending, Id, Part, Serial, Shape, Spent, Summary, Who

_Events = (
    events.MessageCreated
    | events.MessageDelta
    | events.MessageSnapshot
    | acts.PartStarted
    | acts.PartEnded
    | acts.CitationAdded
    | acts.ToolOffered
    | acts.ToolCalled
    | acts.ToolResult
    | acts.PartShortened
    | acts.ApprovalRequested
    | acts.ApprovalDecided
    | acts.RunWaiting
    | acts.RunSteered
    | acts.SteerConsumed
    | acts.SteerMissed
    | acts.SteerSent
    | events.MessageEdited
    | events.MessageRemoved
    | events.QueueChanged
    | events.RunQueued
    | events.RunStarted
    | events.RunCancelling
    | events.RunEnded
    | events.ParticipantJoined
    | events.ParticipantChanged
    | events.ParticipantLeft
    | events.ConversationRenamed
    | acts.ConversationSummarised
)
AnyEvent = Annotated[_Events, Field(discriminator="type")]


class Batch(Shape):
    """Several events, applied as a whole: catching up. The cursor moves to `serial` when all are applied."""

    type: Literal["batch"]
    after: Serial
    serial: Serial
    conversation: Id
    events: list[AnyEvent]


class Limits(Shape):
    """What a device must keep to, and may count on."""

    signal_bytes: int
    text: int
    frame_bytes: int
    window_bytes: int
    window_frames: int
    file_bytes: int
    files: int


class Hello(Shape):
    """The first frame: who you are, where the log is, how often to say something, what costs are in."""

    type: Literal["hello"]
    protocol: Literal["conversation.v1"]
    conversation: Id
    connection: str
    epoch: Id
    serial: Serial
    heartbeat: float
    user: str
    role: Literal["owner", "editor", "viewer"]
    device: Id
    currency: str
    limits: Limits


class SnapshotSteer(Shape):
    """What was added to a run and is no part of its answer: it waits, or was missed."""

    steer: Id
    text: str
    by: Who
    state: Literal["pending", "missed"]


class SnapshotAnswer(Shape):
    """One run of a prompt, as it stands."""

    run: Id
    message: Id | None
    state: Literal["queued", "running", "waiting", "completed", "cancelled", "failed", "interrupted"]
    cancelling: bool
    parts: list[Part]
    steers: list[SnapshotSteer]
    ending: Ending | None


class SnapshotTurn(Shape):
    """A prompt and its answers. `summary`: of all up to this turn, with as much of its text as there is room for."""

    message: Id
    place: Serial
    client_id: Id
    user: str | None
    parts: list[Part]
    answers: list[SnapshotAnswer]
    summary: Summary = Summary(summary="00000000-0000-0000-0000-000000000000", until=0, text="", model="")


class SnapshotWaiting(Shape):
    """A message in the queue."""

    message: Id
    run: Id
    parts: list[Part]


class SnapshotPerson(Shape):
    """A participant."""

    user: str
    role: Literal["owner", "editor", "viewer"]


class Snapshot(Shape):
    """The newest page of turns at `serial`, for a device without a usable cursor. `older`: there is more."""

    type: Literal["snapshot"]
    serial: Serial
    title: str
    turns: list[SnapshotTurn]
    queue: list[SnapshotWaiting]
    people: list[SnapshotPerson]
    spent: Spent
    older: Serial | None


class SnapshotText(Shape):
    """More of a text that was too long for the snapshot before it."""

    type: Literal["snapshot.text"]
    message: Id
    part: int
    offset: int
    text: str


class Sync(Shape):
    """You have everything up to `serial`; what follows is live."""

    type: Literal["sync"]
    serial: Serial


class Reset(Shape):
    """Your cursor cannot be served; a snapshot follows. Keep showing what you have until it is there."""

    type: Literal["reset"]
    reason: Literal["not_a_serial", "epoch", "ahead", "far_behind"]
    epoch: Id


class Ack(BaseModel):
    """The signal was carried out. Further fields by signal: the protocol page lists them."""

    model_config = ConfigDict(extra="allow")

    type: Literal["ack"]
    id: Id


class Nack(Shape):
    """The signal was refused and nothing changed. `id` is null if it had none that could be read.

    `budget` is there with the code of that name.
    """

    type: Literal["nack"]
    id: Id | None
    code: Code
    message: str
    retryable: bool
    retry_after: float = 0.0
    budget: Budget = Budget(of="user", limit=0, used=0, currency="")


class Beat(Shape):
    """Heartbeats: `ping` from the server wants no answer; `pong` answers yours."""

    type: Literal["ping", "pong"]


BYE_CODES = tuple(close.name.lower() for close in Close)


class Bye(Shape):
    """The server closes next, on purpose. `retry_in` seconds: come back then; missing: do not."""

    type: Literal["bye"]
    code: Annotated[str, Field(json_schema_extra={"enum": list(BYE_CODES)})]
    close: Annotated[int, Field(json_schema_extra={"enum": [close.value for close in Close]})]
    message: str
    retry_in: float = 0.0


class Typing(Shape):
    """Somebody is typing; forget it after `expires_in` seconds."""

    type: Literal["typing"]
    user: str
    expires_in: float


class Presence(Shape):
    """These have the conversation open (or no longer have); forget it after `expires_in` seconds."""

    type: Literal["presence"]
    users: list[str]
    online: bool
    expires_in: float


class Progress(Shape):
    """Something about a run, or a call of it, worth knowing now; forget it after `expires_in` seconds."""

    type: Literal["progress"]
    run: Id
    call: Id | None = None
    text: str
    expires_in: float


AnyFrame = Annotated[
    _Events
    | Batch
    | Hello
    | Snapshot
    | SnapshotText
    | Sync
    | Reset
    | Ack
    | Nack
    | Beat
    | Bye
    | Typing
    | Presence
    | Progress,
    Field(discriminator="type"),
]


FRAMES: TypeAdapter[Any] = TypeAdapter(AnyFrame)


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of everything that travels: `$defs` hold `Frame` and `Signal` and what they are made of."""
    frames = TypeAdapter(AnyFrame).json_schema(ref_template="#/$defs/{model}")
    signals = TypeAdapter(AnySignal).json_schema(ref_template="#/$defs/signal.{model}")
    defs = frames.pop("$defs") | {f"signal.{name}": value for name, value in signals.pop("$defs").items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "conversation.v1, JSON encoding",
        "$defs": dict(sorted({**defs, "Frame": frames, "Signal": signals}.items())),
    }
