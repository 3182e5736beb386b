"""The JSON shape: event → frame, text → checked signal, refusal → nack.

The one place that knows what travels. `python manage.py protocol_schema` writes it down for other programs.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self
from uuid import UUID

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from chat.errors import Code, Refused
from chat.log import Logged

MAX_SIGNAL_BYTES = 1_048_576  # room for MAX_TEXT characters, each escaped as JSON may: twelve bytes
MAX_TEXT = 65_536  # code points of one message
MAX_RESULT = 32_768  # code points of what a tool came to on a device
MAX_ERROR = 2_000
MOST_FILES = 100  # of one message, whatever the settings say
MAX_FRAME_BYTES = 1_048_576
WINDOW_BYTES = 49_152  # unacknowledged; a device that owes more is not sent live frames
WINDOW_FRAMES = 256


class Frame(NamedTuple):
    """What is sent: covers `after` < serial ≤ `serial`, already encoded."""

    after: int
    serial: int
    body: str


def event_frame(conversation: UUID, after: int, event: Logged) -> Frame:
    """One event for programs."""
    return Frame(after, event.serial, orjson.dumps(event_body(conversation, after, event)).decode())


def event_body(conversation: UUID, after: int, event: Logged) -> dict[str, Any]:
    """The object of an event's frame. `run` and `message` are there when the event has them."""
    body: dict[str, Any] = {
        "type": event.kind,
        "after": after,
        "serial": event.serial,
        "conversation": str(conversation),
    }
    if event.run is not None:
        body["run"] = str(event.run)
    if event.message is not None:
        body["message"] = str(event.message)
    return body | event.payload


def page_frame(conversation: UUID, after: int, serial: int, events: Sequence[Logged]) -> Frame:
    """Catching up: everything up to `serial` in one frame, applied as a whole or not at all."""
    if len(events) == 1 and events[0].serial == serial:
        return event_frame(conversation, after, events[0])
    bodies = [event_body(conversation, after, event) for event in events]
    for body in bodies:
        del body["after"], body["conversation"]
    body = {
        "type": "batch",
        "after": after,
        "serial": serial,
        "conversation": str(conversation),
        "events": bodies,
    }
    return Frame(after, serial, orjson.dumps(body).decode())


def html_frame(kind: str, after: int, serial: int, html: str) -> Frame:
    """The same range as the JSON frame, with fragments in place of the fields."""
    return Frame(after, serial, orjson.dumps({"type": kind, "after": after, "serial": serial, "html": html}).decode())


def control(kind: str, **fields: Any) -> str:
    """A frame without a serial: hello, sync, reset, ack, nack, ping, pong, bye; and ephemeral ones."""
    return orjson.dumps({"type": kind, **fields}).decode()


def nack(signal_id: str | None, refusal: Refused) -> str:
    """The refusal of one signal; `id` is null when the signal had none that could be read."""
    fields: dict[str, Any] = {
        "id": signal_id,
        "code": refusal.code,
        "message": refusal.message,
        "retryable": refusal.retryable,
    }
    if refusal.retry_after is not None:
        fields["retry_after"] = refusal.retry_after
    return control("nack", **fields, **refusal.facts)


# --- signals ------------------------------------------------------------------------------------------------


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


_ID = re.compile(r'"id"\s*:\s*"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"')


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


class Unreadable(Refused):
    """A frame that is not a signal, with the id it carried if that much could be read."""

    def __init__(self, code: Code, message: str, signal_id: str | None) -> None:
        super().__init__(code, message)
        self.signal_id = signal_id


def signal_id_in(text: str | bytes) -> str | None:
    """The id in a signal that is not going to be parsed: whoever waits for the answer must get it."""
    named = _ID.search(text[:4096]) if isinstance(text, str) else None
    return named[1].lower() if named else None


def read_serial(text: str) -> int | None:
    """A serial, or a place, as an address gives it; None if it is none, or longer than a column holds."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def read_signal(text: str | bytes) -> Spoken | Flow | Typing | Ping:
    """Check a frame from a device. Raises Unreadable with a message that names the field, never its content."""
    if isinstance(text, bytes):
        raise Unreadable(Code.INVALID, "Signals are text frames holding a JSON object.", None)
    if len(text) > MAX_SIGNAL_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_SIGNAL_BYTES:
        raise Unreadable(Code.TOO_LARGE, f"A signal may have {MAX_SIGNAL_BYTES} bytes.", signal_id_in(text))
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable(Code.INVALID, "This is not JSON, or nested too deeply.", None) from None
    if not isinstance(fields, dict):
        raise Unreadable(Code.INVALID, "A signal is a JSON object.", None)
    try:
        return SIGNALS.validate_python(fields)
    except ValidationError as error:
        raise _unreadable(fields, error) from None
    except RecursionError:
        raise Unreadable(Code.INVALID, "Nested too deeply.", _signal_id(fields)) from None


def _unreadable(fields: dict[str, Any], error: ValidationError) -> Unreadable:
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        return Unreadable(Code.UNKNOWN_SIGNAL, "There is no signal of this type.", _signal_id(fields))
    field = ".".join(str(step) for step in first["loc"][1:]) or "signal"
    code = Code.TOO_LARGE if first["type"] in {"string_too_long", "too_long"} else Code.INVALID
    return Unreadable(code, f"{field}: {first['msg']}", _signal_id(fields))


def _signal_id(fields: dict[str, Any]) -> str | None:
    try:
        return str(UUID(fields["id"]))
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
