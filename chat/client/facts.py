"""What the events of the log are about, as types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Who:
    """Who did something, and from where."""

    user: str
    device: str | None
    device_name: str


@dataclass(frozen=True, slots=True)
class Approval:
    """What a person is asked to allow, and what they said; `decision` is empty until then.

    `shown`: the arguments, with nothing invisible in them.
    """

    hash: str
    shown: str
    decision: str = ""
    by: Who | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Steer:
    """What was added to a run and is no part of its answer: `pending` or `missed`."""

    steer: str
    text: str
    by: Who
    state: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What a device of `user` is asked to do; `by`: which of them has answered."""

    arguments: Mapping[str, Any]
    user: str
    by: Who | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message. `type`: text, image, file, reasoning, tool_use, tool_result, citation, steer or block.

    The protocol page says what else each has. `state` is `open` while it is written, then `done`, or how its run ended.
    """

    type: str
    text: str = ""
    state: str = "done"
    step: int = 0
    call: str = ""
    name: str = ""
    status: str = ""
    approval: Approval | None = None
    offer: Offer | None = None
    until: str = ""  # when nobody may decide or answer any more: ISO 8601, in UTC
    outcome: str = ""
    error: bool = False
    file: str = ""
    content_type: str = ""
    size: int = 0
    width: int = 0
    height: int = 0
    steer: str = ""
    who: Who | None = None
    title: str = ""
    url: str = ""
    of: int = 0
    at: int = 0
    told: int | None = None  # how many characters of it the model is still told; None: all


@dataclass(frozen=True, slots=True)
class Summary:
    """What the model is told in place of every turn up to place `until`. Empty text: they are left out."""

    summary: str
    until: int
    text: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a run failed or was interrupted."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent, and what is, in millionths of the currency. `of`: user (you, this month) or conversation.

    `renews_at` is ISO 8601, and empty where it does not.
    """

    of: str
    limit: int
    used: int
    currency: str
    renews_at: str = ""


@dataclass(frozen=True, slots=True)
class Spent:
    """What the conversation's answers have used. `unknown`: how many of them have no known cost."""

    tokens_in: int
    tokens_out: int
    cost: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. `reason`: completed, cancelled, failed or interrupted.

    `cost` is in millionths of the currency that `hello` names; None if it is not known. `estimated`: it is in part, and
    so is `usage`.
    """

    prompt: str
    place: int | None
    reason: str
    stop_reason: str
    by: Who | None
    error: Problem | None
    retryable: bool
    usage: Mapping[str, int]
    model: str = ""
    cost: int | None = None
    estimated: bool = False
