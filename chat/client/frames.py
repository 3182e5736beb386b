"""All other frames as types, and how to read any of them. What is not known, a type or a field, is left out."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from chat.client import acts, events
from chat.client.errors import Unreadable
from chat.client.event import Event
from chat.client.facts import Budget, Ending, Part, Spent, Steer, Summary, Who


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device must keep to, and may count on."""

    signal_bytes: int
    text: int
    frame_bytes: int
    window_bytes: int
    window_frames: int
    file_bytes: int = 0
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """About this connection, or forgotten soon: nothing of it is stored."""

    type: ClassVar[str] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Frame):
    """Several events as one. The client takes it apart; a program never sees it.

    Also what becomes of an event whose type we do not know: a range with nothing in it.
    """

    type: ClassVar[str] = "batch"
    after: int
    serial: int
    conversation: str
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Frame):
    """A connection begins. `connection` is its name."""

    type: ClassVar[str] = "hello"
    protocol: str
    conversation: str
    epoch: str
    serial: int
    heartbeat: float
    user: str
    role: str
    device: str
    limits: Limits
    connection: str = ""
    currency: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotAnswer:
    """One run of a prompt, as it stands."""

    run: str
    message: str | None
    state: str
    cancelling: bool
    parts: tuple[Part, ...]
    steers: tuple[Steer, ...]
    ending: Ending | None


@dataclass(frozen=True, slots=True)
class SnapshotTurn:
    """A prompt and its answers."""

    message: str
    place: int
    client_id: str
    user: str | None
    parts: tuple[Part, ...]
    answers: tuple[SnapshotAnswer, ...]
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class SnapshotWaiting:
    """A message in the queue."""

    message: str
    run: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class SnapshotPerson:
    """A participant."""

    user: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot(Frame):
    """The newest turns at `serial`: forget what you had. `older`: there is more than this."""

    type: ClassVar[str] = "snapshot"
    serial: int
    title: str
    turns: tuple[SnapshotTurn, ...]
    queue: tuple[SnapshotWaiting, ...]
    people: tuple[SnapshotPerson, ...]
    older: int | None
    spent: Spent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotText(Frame):
    """More of a text that was too long for the snapshot before it."""

    type: ClassVar[str] = "snapshot.text"
    message: str
    part: int
    offset: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync(Frame):
    """You have everything up to `serial`; what follows is live."""

    type: ClassVar[str] = "sync"
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Frame):
    """The cursor could not be served; a snapshot follows. Keep what you show until it is there."""

    type: ClassVar[str] = "reset"
    reason: str
    epoch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Frame):
    """A signal was carried out. Which fields it has depends on the signal: the protocol page lists them."""

    type: ClassVar[str] = "ack"
    id: str
    message: str = ""
    run: str = ""
    serial: int = 0
    state: str = ""
    duplicate: bool = False
    outcome: str = ""
    reason: str = ""
    runs: tuple[str, ...] = ()
    decision: str = ""
    by: Who | None = None  # whose decision, or answer, it is
    steer: str = ""
    order: tuple[str, ...] = ()
    part: Part | None = None
    budget: Budget | None = None  # nearly used up


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack(Frame):
    """A signal was refused and nothing changed."""

    type: ClassVar[str] = "nack"
    id: str | None
    code: str
    message: str
    retryable: bool
    retry_after: float = 0.0
    budget: Budget | None = None  # which one is used up, with code `budget`


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Frame):
    """The server is there."""

    type: ClassVar[str] = "ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong(Frame):
    """The answer to our ping."""

    type: ClassVar[str] = "pong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye(Frame):
    """The server closes next, on purpose. `close` is the close code; below 4500: come back in `retry_in` seconds."""

    type: ClassVar[str] = "bye"
    code: str
    message: str = ""
    close: int = 0
    retry_in: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Typing(Frame):
    """Somebody is typing; forget it after `expires_in` seconds."""

    type: ClassVar[str] = "typing"
    user: str
    expires_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence(Frame):
    """These have the conversation open, or no longer have it; forget it after `expires_in` seconds."""

    type: ClassVar[str] = "presence"
    users: tuple[str, ...]
    online: bool
    expires_in: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Frame):
    """Something about a run, or a call of it, worth knowing now; forget it after `expires_in` seconds."""

    type: ClassVar[str] = "progress"
    run: str
    call: str | None = None
    text: str
    expires_in: float


def _reader(hint: Any) -> Callable[[Any], Any]:
    """What makes a value of this type out of JSON. Only what the types above need."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _class_reader(hint)
    if typing.get_origin(hint) is tuple and (item := typing.get_args(hint)[0]) is not Any:
        each = _reader(item)
        return lambda values: tuple(each(value) for value in values)
    if typing.get_origin(hint) is types.UnionType:
        some = _reader(next(one for one in typing.get_args(hint) if one is not types.NoneType))
        return lambda value: None if value is None else some(value)
    return _scalar_reader(hint) if hint in (str, int, float, bool) else lambda value: value


def _scalar_reader(hint: type[Any]) -> Callable[[Any], Any]:
    """What is read is reckoned with later, where nobody expects a text for a number."""
    kinds = (int, float) if hint is float else (hint,)

    def read_scalar(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise TypeError(f"{type(value).__name__} in place of {hint.__name__}")
        return value

    return read_scalar


def _class_reader(kind: type[Any]) -> Callable[[Mapping[str, Any]], Any]:
    hints = typing.get_type_hints(kind)
    needed = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(kind)}
    readers = {name: _reader(hints[name]) for name in needed}

    def read_class(values: Mapping[str, Any]) -> Any:
        return kind(**{name: make(values[name]) for name, make in readers.items() if needed[name] or name in values})

    return read_class


_NAMED = [*vars(events).values(), *vars(acts).values(), *globals().values()]
_KINDS = [found for found in _NAMED if isinstance(found, type) and issubclass(found, Event | Frame)]
TYPES: dict[str, type[Event | Frame]] = {found.type: found for found in _KINDS if found.type}
READERS = {kind: _class_reader(kind) for kind in TYPES.values()}


def read(fields: Mapping[str, Any]) -> Event | Frame | None:
    """A frame as it came over the wire, typed; None if it is of a type we do not know. Raises Unreadable."""
    try:
        kind = TYPES.get(fields.get("type", ""))
        if kind is Batch or (kind is None and "after" in fields and "serial" in fields):
            return _read_batch(fields)
        return None if kind is None else READERS[kind](fields)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise Unreadable(f"a {fields.get('type')} frame we cannot read: {error!r}") from error


def _read_batch(fields: Mapping[str, Any]) -> Batch:
    shared = {"after": fields["after"], "conversation": fields.get("conversation", "")}
    inner = [read({**shared, **event}) for event in fields.get("events", ())]
    known = tuple(event for event in inner if isinstance(event, Event))
    return Batch(**shared, serial=fields["serial"], events=known)
