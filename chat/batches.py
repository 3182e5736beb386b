"""The SQL of a group commit: read what it depends on, write what it is, in few statements for any number of runs.

PostgreSQL does it all in one call, so that a commit is one round trip, and a process that is frozen or cut off in the
middle of one holds no lock. SQLite lets go of the interpreter for each row it steps to, and the event loop is in no
hurry to give it back: a commit of 100 rows took 64 ms for 5 ms of work. So there every statement takes, or gives, one
JSON value.

`updated_at` is left alone, which has an index to be kept: a run's start and end move it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from django.db import connection
from django.utils import timezone

from chat.models import Kind
from chat.models.state import State
from chat.turns import writing

_POSTGRESQL = "SELECT place, serial FROM chat_append_text(%s::uuid[], %s::uuid[], %s::int[], %s::uuid[], %s::text[])"
_SQLITE_STATE = """
SELECT (SELECT json_group_array(json_array(id, head)) FROM chat_conversation
         WHERE id IN (SELECT value FROM json_each(%s))),
       (SELECT json_group_array(json_array(id, attempt)) FROM chat_run
         WHERE id IN (SELECT value FROM json_each(%s)) AND state = %s AND cancel_requested_at IS NULL)
"""
_SQLITE_HEADS = """
UPDATE chat_conversation SET head = heads.value ->> 1
  FROM json_each(%s) AS heads WHERE chat_conversation.id = heads.value ->> 0
"""
_SQLITE_EVENTS = """
INSERT INTO chat_event (conversation_id, serial, kind, payload, run_id, message_id, created_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, %s FROM json_each(%s)
"""


@dataclass(frozen=True, slots=True)
class Delta:
    """One run's share of a commit: the code points of a part from `offset` on, handed in at `since` or later."""

    conversation: UUID
    run: UUID
    attempt: int
    answer: UUID
    offset: int
    text: str
    since: float = 0.0
    part: int = 0

    @property
    def payload(self) -> dict[str, Any]:
        """Of its event."""
        return {"part": self.part, "offset": self.offset, "text": self.text}


def append(deltas: Sequence[Delta]) -> list[int | None]:
    """Write one transaction of streamed text; the serial each delta got, or None if it was refused.

    Refused is what a run writes that is cancelled, ended, taken over or deleted. A run's state cannot change while
    its conversation is locked.
    """
    if not deltas:
        return []
    if connection.vendor == "sqlite":
        with writing():
            return _append_to_sqlite(deltas)
    columns = zip(*((d.conversation, d.run, d.attempt, d.answer, _json(d.payload)) for d in deltas), strict=True)
    with connection.cursor() as cursor:
        cursor.execute(_POSTGRESQL, [list(column) for column in columns])
        serials = dict(cursor.fetchall())
    return [serials.get(place) for place in range(1, len(deltas) + 1)]


def _append_to_sqlite(deltas: Sequence[Delta]) -> list[int | None]:
    """SQLite's transaction is the lock."""
    serials: list[int | None] = []
    rows = []
    with connection.cursor() as cursor:
        ids = [_json(list({value.hex for value in values})) for values in zip(*_ids(deltas), strict=True)]
        cursor.execute(_SQLITE_STATE, [*ids, State.RUNNING])
        heads, alive = (orjson.loads(column) for column in cursor.fetchone())
        head_of: dict[str, int] = dict(heads)
        moved: dict[str, int] = {}
        writing_now = {tuple(one) for one in alive}
        for delta in deltas:
            conversation, run = delta.conversation.hex, delta.run.hex
            if (run, delta.attempt) not in writing_now or conversation not in head_of:
                serials.append(None)
                continue
            moved[conversation] = serial = moved.get(conversation, head_of[conversation]) + 1
            serials.append(serial)
            rows.append((conversation, serial, Kind.MESSAGE_DELTA, _json(delta.payload), run, delta.answer.hex))
        if rows:
            at = connection.ops.adapt_datetimefield_value(timezone.now())
            cursor.execute(_SQLITE_HEADS, [_json(list(moved.items()))])
            cursor.execute(_SQLITE_EVENTS, [at, _json(rows)])
    return serials


def _ids(deltas: Sequence[Delta]) -> list[tuple[UUID, UUID]]:
    return [(delta.conversation, delta.run) for delta in deltas]


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
