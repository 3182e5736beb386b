"""On PostgreSQL a group commit is one call: see `chat/batches.py`."""

from typing import Any

from django.db import migrations

# The conversations are locked in the order of their ids, so that two writers cannot deadlock. The second statement
# sees what the first one waited for: in a volatile function each has a snapshot of its own.
FUNCTION = """
CREATE FUNCTION chat_append_text(conversations uuid[], runs uuid[], attempts int[], answers uuid[], payloads text[])
RETURNS TABLE (place bigint, serial bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
  PERFORM 1 FROM chat_conversation WHERE id = ANY (conversations) ORDER BY id FOR UPDATE;
  RETURN QUERY
  WITH taken AS (
    SELECT given.*, at.head + row_number() OVER (PARTITION BY given.conversation ORDER BY given.place) AS serial
      FROM unnest(conversations, runs, attempts, answers, payloads) WITH ORDINALITY
        AS given (conversation, run, attempt, answer, payload, place)
      JOIN chat_conversation AS at ON at.id = given.conversation
      JOIN chat_run AS alive ON alive.id = given.run AND alive.attempt = given.attempt
        AND alive.state = 'running' AND alive.cancel_requested_at IS NULL
  ), moved AS (
    UPDATE chat_conversation SET head = heads.head
      FROM (SELECT conversation, max(serial) AS head FROM taken GROUP BY conversation) AS heads
     WHERE chat_conversation.id = heads.conversation
  ), written AS (
    INSERT INTO chat_event (conversation_id, serial, kind, payload, run_id, message_id, created_at)
    SELECT conversation, serial, 'message.delta', payload::jsonb, run, answer, clock_timestamp() FROM taken
  )
  SELECT taken.place, taken.serial FROM taken;
END $$
"""


def create(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(FUNCTION, params=None)


def drop(apps: Any, schema_editor: Any) -> None:
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute("DROP FUNCTION chat_append_text", params=None)


class Migration(migrations.Migration):
    dependencies = [("chat", "0002_accesstoken")]
    operations = [migrations.RunPython(create, drop)]
