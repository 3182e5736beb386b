"""What frames are about, as types: people, parts, ends and sums. `chat/client/facts.py` is the other side of it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class Summary(Shape):
    """What the model is told in place of every turn up to place `until`. Empty: those turns are left out."""

    summary: Id
    until: Serial
    text: str
    model: str


class Spent(Shape):
    """What the answers of a conversation have used. `unknown`: of so many the cost is not known, nor in the sum."""

    tokens_in: int
    tokens_out: int
    cost: Millionths
    unknown: int


class Budget(Shape):
    """Yours for this month, or this conversation's. `renews_at` (ISO 8601) is missing where it does not."""

    of: Literal["user", "conversation"]
    limit: Millionths
    used: Millionths
    currency: str
    renews_at: str = ""
