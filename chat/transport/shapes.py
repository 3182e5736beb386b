"""Every frame a server may send, as types: the source of the committed JSON Schema, and what tests hold frames to.

Nothing is checked against these when frames are sent: that would cost every token. `tests/test_protocol.py`
checks every frame of every story instead, and that no frame has a field which is not here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from chat.errors import Code
from chat.spoken import AnySignal
from chat.transport.close import Close

Serial = Annotated[int, Field(ge=0, description="position in the conversation's log")]
Id = Annotated[str, Field(pattern="^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$")]


class Shape(BaseModel):
    """No field but these. One with a default may be missing; it is never null when it is there."""

    model_config = ConfigDict(extra="forbid")


PartState = Literal["open", "done", "cancelled", "failed", "interrupted"]


class Who(Shape):
    """Who did something, and from where."""

    user: str
    device: Id | None
    device_name: str


Outcome = Literal["done", "error", "denied", "expired", "cancelled", "unknown"]
Step = Annotated[int, Field(ge=0, description="which call of the model made it")]
Told = Annotated[int, Field(ge=0, description="characters of it that the model is still told; missing: all")]


class Approval(Shape):
    """What a person is asked to allow, and what they said. `shown`: the arguments, with nothing invisible in them."""

    hash: str
    shown: str
    decision: Literal["approved", "denied", "expired"] = "approved"
    by: Who | None = None
    reason: str = ""


class Offer(Shape):
    """What a device of `user` is asked to do; `by`: which of them has answered."""

    arguments: dict[str, Any]
    user: str
    by: Who | None = None


class TextPart(Shape):
    """Something said. `state` is `open` while it is written, then `done`, or how its run ended."""

    type: Literal["text"]
    text: str
    state: PartState
    step: Step = 0


class ReasoningPart(Shape):
    """Something thought. Empty where the provider hides it."""

    type: Literal["reasoning"]
    text: str
    state: PartState
    step: Step = 0


class ToolUsePart(Shape):
    """A tool the model asked for; `text` is its arguments as JSON. `status` is missing while they arrive."""

    type: Literal["tool_use"]
    text: str
    state: PartState
    step: Step = 0
    call: Id
    name: str
    status: Literal["asked", "waiting", "approved", "offered", "running"] | Outcome = "asked"
    approval: Approval = Approval(hash="", shown="")
    offer: Offer = Offer(arguments={}, user="")
    until: str = Field("", description="when nobody may decide or answer any more: ISO 8601, in UTC")


class ToolResultPart(Shape):
    """What a call came to."""

    type: Literal["tool_result"]
    text: str
    state: PartState
    step: Step = 0
    call: Id
    name: str
    outcome: Outcome
    error: bool
    told: Told = 0


class CitationPart(Shape):
    """What the text of part `of` rests on, at the code point `at`; `text` is the source's. `url` may be empty."""

    type: Literal["citation"]
    text: str
    state: PartState
    step: Step = 0
    title: str
    url: str
    of: int
    at: int


class SteerPart(Shape):
    """What somebody added meanwhile, where the model was told. `missed`: it said nothing after it; then `sent`."""

    type: Literal["steer"]
    text: str
    state: Literal["done", "missed", "sent"]
    step: Step = 0
    steer: Id
    who: Who


class ImagePart(Shape):
    """An image that somebody attached, in pixels as it is to be seen. `file` is its id: the page says where it is."""

    type: Literal["image"]
    file: Id
    name: str
    content_type: str
    size: int
    width: int
    height: int
    state: PartState


class FilePart(Shape):
    """Another file that somebody attached; `size` in bytes."""

    type: Literal["file"]
    file: Id
    name: str
    content_type: str
    size: int
    state: PartState


class BlockPart(Shape):
    """Something of the provider's own, of which a device sees only that it is there."""

    type: Literal["block"]
    text: str
    state: PartState
    step: Step = 0


Part = Annotated[
    TextPart
    | ImagePart
    | FilePart
    | ReasoningPart
    | ToolUsePart
    | ToolResultPart
    | CitationPart
    | SteerPart
    | BlockPart,
    Field(discriminator="type"),
]


class Problem(Shape):
    """Why a run failed or was interrupted: a stable code and words for a person."""

    code: str
    message: str


class _Event(Shape):
    """In a batch, `after` and `conversation` stand on the batch alone."""

    after: Serial = 0
    serial: Serial
    conversation: Id = ""


class MessageCreated(_Event):
    """Somebody said something. `place` is null while it waits in the queue."""

    type: Literal["message.created"]
    message: Id
    run: Id
    role: Literal["user"]
    client_id: Id
    by: Who
    parts: list[Part]
    place: Serial | None


class MessageDelta(_Event):
    """From `offset` (in code points) on, the text of the answer's part is this."""

    type: Literal["message.delta"]
    message: Id
    run: Id
    part: int
    offset: int
    text: str


class MessageSnapshot(_Event):
    """The same, folded from many deltas. May repeat what a device has: apply it all the same."""

    type: Literal["message.snapshot"]
    message: Id
    run: Id
    part: int
    offset: int
    text: str


class PartStarted(_Event):
    """The answer's next part begins. Part 0 is text if nothing announces it."""

    type: Literal["part.started"]
    message: Id
    run: Id
    part: int
    kind: Literal["text", "reasoning", "tool_use", "block"]
    step: Step = 0
    call: Id = ""
    name: str = ""


class PartEnded(_Event):
    """It is complete, or cut off. `length` in code points."""

    type: Literal["part.ended"]
    message: Id
    run: Id
    part: int
    state: PartState
    length: int


class CitationAdded(_Event):
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


class ToolCalled(_Event):
    """A call is executed now, for the only time."""

    type: Literal["tool.called"]
    message: Id
    run: Id
    part: int
    call: Id
    name: str


class ToolResult(_Event):
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


class ToolOffered(_Event):
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


class PartShortened(_Event):
    """What a tool has found takes too much room: from now on the model is told its first `told` characters."""

    type: Literal["part.shortened"]
    message: Id
    run: Id
    part: int
    told: Told


class ApprovalRequested(_Event):
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


class ApprovalDecided(_Event):
    """The decision, once. `by` is null if nobody made it in time."""

    type: Literal["approval.decided"]
    message: Id
    run: Id
    part: int
    call: Id
    decision: Literal["approved", "denied", "expired"]
    by: Who | None
    reason: str


class RunWaiting(_Event):
    """Nothing happens until each call that waits was decided about or answered; then it is queued and started again."""

    type: Literal["run.waiting"]
    run: Id
    message: Id


class RunSteered(_Event):
    """Somebody added something: it waits for the run's next step."""

    type: Literal["run.steered"]
    run: Id
    steer: Id
    client_id: Id
    text: str
    by: Who
    message: Id = ""


class SteerConsumed(_Event):
    """The model is told, at this step; it is the answer's next part now."""

    type: Literal["steer.consumed"]
    message: Id
    run: Id
    steer: Id
    part: int
    step: Step
    text: str
    who: Who


class SteerMissed(_Event):
    """The run ended before it was told, or, with `part`, before anything was said to it. Offer to send it."""

    type: Literal["steer.missed"]
    run: Id
    steer: Id
    message: Id = ""
    part: int = 0


class SteerSent(_Event):
    """A missed one is a message now."""

    type: Literal["steer.sent"]
    run: Id
    steer: Id
    sent_as: Id
    by: Who
    message: Id = ""
    part: int = 0


class MessageEdited(_Event):
    """A waiting message now says this."""

    type: Literal["message.edited"]
    message: Id
    run: Id
    parts: list[Part]
    by: Who


class MessageRemoved(_Event):
    """A waiting message was taken back."""

    type: Literal["message.removed"]
    message: Id
    by: Who


class QueueChanged(_Event):
    """The waiting messages, next first."""

    type: Literal["queue.changed"]
    order: list[Id]
    by: Who


class RunQueued(_Event):
    """A run was accepted, or is to be tried again (`attempt` above 0). `waiting`: its message is in the queue."""

    type: Literal["run.queued"]
    run: Id
    message: Id
    alongside: bool
    waiting: bool
    attempt: int


class RunStarted(_Event):
    """The model is asked. `message` is the answer, empty so far; the prompt now has this place."""

    type: Literal["run.started"]
    run: Id
    message: Id
    prompt: Id
    place: Serial
    attempt: int


class RunCancelling(_Event):
    """Somebody asked to stop it; no text of it follows, only its end."""

    type: Literal["run.cancelling"]
    run: Id
    message: Id
    by: Who


Millionths = Annotated[int, Field(ge=0, description="of the currency")]


class Ending(Shape):
    """How a run ended. `place` is null if its message was removed from the queue.

    `cost` is null if it is not known: there is no price for the model. `estimated`: tokens and cost are in part:
    the provider did not come to count all of them.
    """

    prompt: Id
    place: Serial | None
    reason: Literal["completed", "cancelled", "failed", "interrupted"]
    stop_reason: str
    by: Who | None
    error: Problem | None
    retryable: bool
    usage: dict[str, int]
    model: str = ""
    cost: Millionths | None = None
    estimated: bool = False


class RunEnded(_Event, Ending):
    """The end, once. `message` is missing if it never started; `length` is the answer's, in code points."""

    type: Literal["run.ended"]
    run: Id
    length: int
    message: Id = ""


class ParticipantJoined(_Event):
    """Somebody was let in."""

    type: Literal["participant.joined"]
    user: str
    role: Literal["owner", "editor", "viewer"]


class ParticipantChanged(_Event):
    """Somebody may now do something else."""

    type: Literal["participant.changed"]
    user: str
    role: Literal["owner", "editor", "viewer"]


class ParticipantLeft(_Event):
    """Somebody left or was sent away."""

    type: Literal["participant.left"]
    user: str


class ConversationRenamed(_Event):
    """It has another title."""

    type: Literal["conversation.renamed"]
    title: str


class Summary(Shape):
    """What the model is told in place of every turn up to place `until`. Empty: those turns are left out."""

    summary: Id
    until: Serial
    text: str
    model: str


class ConversationSummarised(_Event, Summary):
    """The conversation outgrew the model's window. People read all of it, as before."""

    type: Literal["conversation.summarised"]
    run: Id
    message: Id


_Events = (
    MessageCreated
    | MessageDelta
    | MessageSnapshot
    | PartStarted
    | PartEnded
    | CitationAdded
    | ToolOffered
    | ToolCalled
    | ToolResult
    | PartShortened
    | ApprovalRequested
    | ApprovalDecided
    | RunWaiting
    | RunSteered
    | SteerConsumed
    | SteerMissed
    | SteerSent
    | MessageEdited
    | MessageRemoved
    | QueueChanged
    | RunQueued
    | RunStarted
    | RunCancelling
    | RunEnded
    | ParticipantJoined
    | ParticipantChanged
    | ParticipantLeft
    | ConversationRenamed
    | ConversationSummarised
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


class Spent(Shape):
    """What the answers of a conversation have used. `unknown`: of so many the cost is not known, nor in the sum."""

    tokens_in: int
    tokens_out: int
    cost: Millionths
    unknown: int


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


class Budget(Shape):
    """Yours for this month, or this conversation's. `renews_at` (ISO 8601) is missing where it does not."""

    of: Literal["user", "conversation"]
    limit: Millionths
    used: Millionths
    currency: str
    renews_at: str = ""


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
