"""The SQL of a group commit: read what it depends on, write what it is, in few statements for any number of runs.

SQLite lets go of the interpreter for each row it steps to, and the event loop is in no hurry to give it back: a
commit of 100 rows took 64 ms for 5 ms of work. So on SQLite every statement takes, or gives, one JSON value.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

import orjson
from django.db import connection

from chat.log import News, id_storer
from chat.models import Conversation, Run
from chat.models.run import State

Heads = dict[UUID, int]
Alive = set[tuple[UUID, int]]

_SQLITE_LOCK = """
SELECT (SELECT json_group_array(json_array(id, head)) FROM chat_conversation
         WHERE id IN (SELECT value FROM json_each(%s))),
       (SELECT json_group_array(json_array(id, attempt)) FROM chat_run
         WHERE id IN (SELECT value FROM json_each(%s)) AND state = %s AND cancel_requested_at IS NULL)
"""
_SQLITE_HEADS = """
UPDATE chat_conversation SET head = heads.value ->> 1, updated_at = %s
  FROM json_each(%s) AS heads WHERE chat_conversation.id = heads.value ->> 0
"""
_SQLITE_EVENTS = """
INSERT INTO chat_event (conversation_id, serial, kind, payload, run_id, message_id, created_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, %s FROM json_each(%s)
"""
# One statement, and no `executemany`: that is a pipeline, and a process that is frozen in the middle of one keeps
# its locks for ever, because to PostgreSQL it is not idle. See `idle_in_transaction_session_timeout` in the settings.
_WRITE = """
WITH moved AS (
  UPDATE chat_conversation SET head = heads.head, updated_at = %s
    FROM unnest(%s::uuid[], %s::bigint[]) AS heads (id, head) WHERE chat_conversation.id = heads.id
)
INSERT INTO chat_event (conversation_id, serial, kind, payload, run_id, message_id, created_at)
SELECT conversation, serial, kind, payload::jsonb, run, message, %s
  FROM unnest(%s::uuid[], %s::bigint[], %s::text[], %s::text[], %s::uuid[], %s::uuid[])
    AS events (conversation, serial, kind, payload, run, message)
"""


def lock(conversations: Collection[UUID], runs: Collection[UUID]) -> tuple[Heads, Alive]:
    """The conversations' heads, locked, and the (run, attempt)s that may write. Inside a transaction.

    Conversations are locked in id order, so that two writers cannot deadlock. SQLite's transaction is the lock.
    """
    if connection.vendor == "sqlite":
        ids = [orjson.dumps([value.hex for value in values]).decode() for values in (conversations, runs)]
        with connection.cursor() as cursor:
            cursor.execute(_SQLITE_LOCK, [*ids, State.RUNNING])
            heads, alive = cursor.fetchone()
        return {UUID(pk): head for pk, head in orjson.loads(heads)}, {(UUID(pk), n) for pk, n in orjson.loads(alive)}
    locked = Conversation.objects.select_for_update().filter(pk__in=conversations).order_by("pk")
    found = dict(locked.values_list("pk", "head"))
    # A statement of its own, after the lock: another one's end, which we may have waited for, must be seen.
    writing = Run.objects.filter(pk__in=runs, state=State.RUNNING, cancel_requested_at=None)
    return found, set(writing.values_list("pk", "attempt"))


def write(news: Sequence[News], now: datetime) -> None:
    """Move the heads and insert the events."""
    at = connection.ops.adapt_datetimefield_value(now)
    stored = id_storer()
    heads = [(stored(item.conversation), item.events[-1].serial) for item in news]
    events = [
        (
            stored(item.conversation),
            event.serial,
            event.kind,
            orjson.dumps(event.payload).decode(),
            event.run and stored(event.run),
            event.message and stored(event.message),
        )
        for item in news
        for event in item.events
    ]
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(_SQLITE_HEADS, [at, orjson.dumps(heads).decode()])
            cursor.execute(_SQLITE_EVENTS, [at, orjson.dumps(events).decode()])
        else:
            columns = [list(column) for rows in (heads, events) for column in zip(*rows, strict=True)]
            cursor.execute(_WRITE, [at, *columns[:2], at, *columns[2:]])
