"""The JSON shape: event → frame, text → checked signal, refusal → nack.

The one place that knows what travels. `python manage.py protocol_schema` writes it down for other programs.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from pydantic import ValidationError

from chat.errors import Code, Refused
from chat.log import Logged
from chat.spoken import SIGNALS, Flow, Ping, Spoken, Typing

MAX_SIGNAL_BYTES = 1_048_576  # room for MAX_TEXT characters, each escaped as JSON may: twelve bytes
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

_ID = re.compile(r'"id"\s*:\s*"([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"')


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
