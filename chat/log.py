"""Append to the log: take serials, insert events, announce after commit.

`record` is the one way for a verb to make history; streamed text goes through `chat/group_commit.py`, which
uses the same pieces. Nothing here reads the log or knows what an event means.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from django.db import connection, models, transaction
from django.utils import timezone

from chat.models.event import TEXT_KINDS, Kind

# Plain SQL here and below: every act of a person and both ends of every run pass here, and to put a statement
# together took Django as long as PostgreSQL took to do it.
_MOVE = "UPDATE chat_conversation SET head = %s, updated_at = %s WHERE id = %s"
_FROM_ARRAYS = """
INSERT INTO chat_event (conversation_id, created_at, serial, kind, payload, run_id, message_id)
SELECT %s, %s, serial, kind, payload::jsonb, run, message
  FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::uuid[], %s::uuid[])
    AS event (serial, kind, payload, run, message)
"""
_FROM_JSON = """
INSERT INTO chat_event (conversation_id, created_at, serial, kind, payload, run_id, message_id)
SELECT %s, %s, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(%s)
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """An event to be: everything but its serial."""

    kind: Kind
    payload: dict[str, Any] = field(default_factory=dict)
    run: UUID | None = None
    message: UUID | None = None


class Logged(NamedTuple):
    """An event as read or just written. A tuple, because one is made for every token."""

    serial: int
    kind: str
    payload: dict[str, Any]
    run: UUID | None
    message: UUID | None


@dataclass(frozen=True, slots=True)
class News:
    """What was committed to one conversation in one transaction: `after` < every serial, joined up, in order.

    `since`: when (Unix time) the oldest streamed text in it was handed in; 0 if there is none.
    """

    conversation: UUID
    after: int
    events: Sequence[Logged]
    since: float = 0.0


def record(conversation: models.Model, *entries: Entry) -> int:
    """Append `entries` to the conversation's log and return the last serial.

    The caller holds the conversation's row lock (`Conversation.locked`) inside a transaction; `conversation`
    is the instance it locked, whose `head` this moves. Devices hear of it after the commit.
    """
    after: int = conversation.head  # type: ignore[attr-defined]
    events = [
        Logged(after + number, entry.kind, entry.payload, entry.run, entry.message)
        for number, entry in enumerate(entries, 1)
    ]
    conversation.head = after + len(events)  # type: ignore[attr-defined]
    conversation.updated_at = now = timezone.now()  # type: ignore[attr-defined]
    with connection.cursor() as cursor:
        at = connection.ops.adapt_datetimefield_value(now)
        cursor.execute(_MOVE, [after + len(events), at, stored_id(conversation.pk)])
    insert(conversation.pk, events, now)
    news = News(conversation.pk, after, events)
    transaction.on_commit(lambda: announce(news))
    return after + len(events)


def insert(conversation: UUID, events: Iterable[Logged], now: datetime) -> None:
    """Write the rows. Their serials must have been taken in this transaction."""
    stored = id_storer()
    rows = [
        (one.serial, one.kind, orjson.dumps(one.payload).decode(), *(one_id and stored(one_id) for one_id in one[3:]))
        for one in events
    ]
    if not rows:
        return
    native = connection.vendor != "sqlite"
    columns = [list(column) for column in zip(*rows, strict=True)] if native else [orjson.dumps(rows).decode()]
    with connection.cursor() as cursor:
        at = connection.ops.adapt_datetimefield_value(now)
        cursor.execute(_FROM_ARRAYS if native else _FROM_JSON, [stored(conversation), at, *columns])


def read(
    conversation: UUID, after: int, limit: int, *, until: int | None = None, text_of: UUID | None = None
) -> list[Logged]:
    """Events with `after` < serial (≤ `until`), in order; with `text_of`, only those of that answer's text.

    Plain SQL, because an answer being written may have tens of thousands of rows. From SQLite they come as one
    value: it lets go of the interpreter for every row it steps to, and takes as long to get it back as the event
    loop likes.
    """
    where, values = "conversation_id = %s AND serial > %s", [stored_id(conversation), after]
    if until is not None:
        where, values = f"{where} AND serial <= %s", [*values, until]
    if text_of is not None:
        where, values = f"{where} AND message_id = %s AND kind IN (%s, %s)", [*values, stored_id(text_of), *TEXT_KINDS]
    rows = f"SELECT serial, kind, payload, run_id, message_id FROM chat_event WHERE {where} ORDER BY serial LIMIT %s"  # noqa: S608
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            packed = "json_group_array(json_array(serial, kind, json(payload), run_id, message_id))"
            cursor.execute(f"SELECT {packed} FROM ({rows})", [*values, limit])  # noqa: S608
            found = orjson.loads(cursor.fetchone()[0])
            ids = _Ids({None: None})
            return [Logged(serial, kind, payload, ids[run], ids[said]) for serial, kind, payload, run, said in found]
        cursor.execute(rows, [*values, limit])
        return [Logged(row[0], row[1], orjson.loads(row[2]), row[3], row[4]) for row in cursor.fetchall()]


def stored_id(value: UUID) -> UUID | str:
    """An id as plain SQL passes it: SQLite has no type for it, and Django keeps the 32 hexadecimal digits there."""
    return id_storer()(value)


def id_storer() -> Callable[[UUID], UUID | str]:
    """The same for many ids: asking the connection each time took a tenth of a commit."""
    native = connection.features.has_native_uuid_field
    return (lambda value: value) if native else (lambda value: value.hex)


class _Ids(dict[str | None, UUID | None]):
    """The opposite, for SQLite. Tens of thousands of tokens name the same few: making each id once halved a reading."""

    def __missing__(self, value: str) -> UUID:
        found = self[value] = UUID(value)
        return found


_outlet: Callable[[Sequence[News]], None] | None = None


def announce(*news: News) -> None:
    """Tell whoever listens in this process; it passes the news on to the others. Losing it costs time, not text."""
    if _outlet is not None and news:
        _outlet(news)


def set_outlet(outlet: Callable[[Sequence[News]], None] | None) -> None:
    """Where announcements go: the news desk of this process, which is safe to call from any thread."""
    global _outlet
    _outlet = outlet
