"""What a device may say: every signal as a type, its texts checked. `chat/wire.py` reads them off the wire."""

import unicodedata
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

MAX_TEXT = 65_536  # code points of one message
MAX_RESULT = 32_768  # code points of what a tool came to on a device
MAX_ERROR = 2_000
MOST_FILES = 100  # of one message, whatever the settings say


def _clean(text: str) -> str:
    if "\x00" in text:
        raise ValueError("text must not contain U+0000")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("text must not contain a lone surrogate")
    return text


def _said(text: str) -> str:
    # Nothing, also if it only looks empty: spaces, and characters that only format others.
    silent = all(character.isspace() or unicodedata.category(character) in {"Cf", "Cc"} for character in text)
    return "" if silent else text


def _spoken(text: str) -> str:
    if not _said(text):
        raise ValueError("text must not be empty")
    return text


CleanText = Annotated[str, AfterValidator(_clean)]
SaidText = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_clean), AfterValidator(_said)]
SpokenText = Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_clean), AfterValidator(_spoken)]
ResultText = Annotated[str, Field(max_length=MAX_RESULT), AfterValidator(_clean)]
ErrorText = Annotated[str, Field(max_length=MAX_ERROR), AfterValidator(_clean), AfterValidator(_spoken)]


class Signal(BaseModel):
    """What a device asks for. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    id: UUID = Field(description="made by the client; the ack or nack carries it")


class Send(Signal):
    """Say something. The id makes a repeated send harmless."""

    type: Literal["message.send"]
    text: SaidText = ""
    files: Annotated[list[UUID], Field(max_length=MOST_FILES)] = Field([], description="uploaded before; in this order")
    when_busy: Literal["queue", "alongside", "interrupt", "steer", "reject"] = "queue"
    parent: UUID | None = Field(None, description="refuse as stale unless this is still the newest message")
    steer: UUID | None = Field(None, description="the missed remark that this message is in place of")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.text and not self.files:
            raise ValueError("text must not be empty")
        return self


class Cancel(Signal):
    """Stop one run, the run of one send (by that signal's id, also before it arrived), or a whole scope."""

    type: Literal["run.cancel"]
    run: UUID | None = None
    send: UUID | None = None
    scope: Literal["mine", "all"] | None = None
    until: int | None = Field(None, ge=0, le=2**53, description="with scope: only what was asked up to this serial")


class Retry(Signal):
    """Answer a prompt again whose run was stopped, interrupted or failed."""

    type: Literal["run.retry"]
    run: UUID


class Steer(Signal):
    """Add something to an answer that is being made: the model is told at its next step."""

    type: Literal["run.steer"]
    run: UUID
    text: SpokenText


class Decide(Signal):
    """Allow what a tool is about to do, or do not. The first decision stands."""

    type: Literal["tool.decide"]
    run: UUID
    call: UUID
    decision: Literal["approve", "deny"]
    arguments_hash: Annotated[str, Field(max_length=64)] = Field(description="of what you were shown")
    reason: Annotated[str, Field(max_length=500), AfterValidator(_clean)] = ""


class Answer(Signal):
    """What a tool came to on this device, in words for the model: exactly one of the two. The first answer stands."""

    type: Literal["tool.result"]
    run: UUID
    call: UUID
    result: ResultText | None = None
    error: ErrorText | None = Field(None, description="why there is no result")


class QueueEdit(Signal):
    """Change what a waiting message says. One with files may say nothing."""

    type: Literal["queue.edit"]
    message: UUID
    text: SaidText


class QueueRemove(Signal):
    """Take a waiting message back."""

    type: Literal["queue.remove"]
    message: UUID


class QueueMove(Signal):
    """Put a waiting message before another, or last."""

    type: Literal["queue.move"]
    message: UUID
    before: UUID | None = None


class FileRemove(Signal):
    """Take back a file that is not sent."""

    type: Literal["file.remove"]
    file: UUID


class Rename(Signal):
    """Give the conversation another title."""

    type: Literal["conversation.rename"]
    title: Annotated[str, Field(max_length=80), AfterValidator(_clean), AfterValidator(_spoken)]


class Read(Signal):
    """Everything up to this serial was seen by the person."""

    type: Literal["read"]
    serial: int = Field(ge=0, le=2**53)


class Flow(BaseModel):
    """Everything up to this serial was applied. No answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["flow"]
    serial: int = Field(ge=0, le=2**53)


class Typing(BaseModel):
    """The person is typing. No answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["typing"]


class Ping(BaseModel):
    """Are you there? Answered by pong."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    type: Literal["ping"]


Spoken = (
    Send | Cancel | Retry | Steer | Decide | Answer | QueueEdit | QueueRemove | QueueMove | FileRemove | Rename | Read
)
AnySignal = Annotated[Spoken | Flow | Typing | Ping, Field(discriminator="type")]
SIGNALS: TypeAdapter[Spoken | Flow | Typing | Ping] = TypeAdapter(AnySignal)
