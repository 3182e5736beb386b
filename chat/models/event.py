"""One row of the log. Only `chat/log.py` and `chat/group_commit.py` create events; nobody changes one."""

import uuid
from enum import StrEnum

from django.db import models


class Kind(StrEnum):
    """What an event says. Also the `type` of its frame, explained in docs/protocol.md."""

    MESSAGE_CREATED = "message.created"
    MESSAGE_DELTA = "message.delta"
    MESSAGE_SNAPSHOT = "message.snapshot"
    MESSAGE_EDITED = "message.edited"
    MESSAGE_REMOVED = "message.removed"
    PART_STARTED = "part.started"
    PART_ENDED = "part.ended"
    CITATION_ADDED = "citation.added"
    TOOL_OFFERED = "tool.offered"
    TOOL_CALLED = "tool.called"
    TOOL_RESULT = "tool.result"
    PART_SHORTENED = "part.shortened"
    APPROVAL_REQUESTED = "approval.requested"
    APPROVAL_DECIDED = "approval.decided"
    QUEUE_CHANGED = "queue.changed"
    RUN_QUEUED = "run.queued"
    RUN_STARTED = "run.started"
    RUN_WAITING = "run.waiting"
    RUN_STEERED = "run.steered"
    RUN_CANCELLING = "run.cancelling"
    RUN_ENDED = "run.ended"
    STEER_CONSUMED = "steer.consumed"
    STEER_MISSED = "steer.missed"
    STEER_SENT = "steer.sent"
    PARTICIPANT_JOINED = "participant.joined"
    PARTICIPANT_CHANGED = "participant.changed"
    PARTICIPANT_LEFT = "participant.left"
    CONVERSATION_RENAMED = "conversation.renamed"
    CONVERSATION_SUMMARISED = "conversation.summarised"


TEXT_KINDS = (Kind.MESSAGE_DELTA, Kind.MESSAGE_SNAPSHOT)


class Event(models.Model):
    """A fact. `serial` is gap-free per conversation when written; compaction later leaves holes on purpose."""

    conversation = models.ForeignKey("chat.Conversation", models.CASCADE, related_name="events", db_index=False)
    serial = models.PositiveBigIntegerField()
    kind = models.CharField(max_length=40, choices=[(kind.value, kind.value) for kind in Kind])
    payload = models.JSONField(default=dict)
    # Plain ids, not foreign keys: the log is read by conversation and serial only, and each further index
    # would be paid by every token.
    run_id = models.UUIDField(null=True)
    message_id = models.UUIDField(null=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["conversation", "serial"]
        constraints = [
            models.UniqueConstraint(fields=["conversation", "serial"], name="event_serial_once"),
            models.CheckConstraint(condition=models.Q(serial__gt=0), name="event_serial_positive"),
        ]

    def __str__(self) -> str:
        return f"{self.serial} {self.kind}"


def new_id() -> uuid.UUID:
    """An unguessable public id."""
    return uuid.uuid4()
