"""What was said, by a person or by the assistant."""

from django.conf import settings
from django.db import models
from django.utils import timezone

from chat.models.event import new_id
from chat.models.parts import text_in


class Message(models.Model):
    """Typed parts (`chat/models/parts.py`), a parent (so that edits can branch later) and a place in the transcript.

    `place` is the serial at which a prompt entered the transcript; null while it waits in the queue. An
    answer carries its prompt's place, so `(place, created_serial)` orders a transcript turn by turn.
    Of an answer that is being written, the text of the part that is open is in the log; one without parts yet has at
    most that of part 0, which is text.
    """

    class Speaker(models.TextChoices):
        USER = "user"
        ASSISTANT = "assistant"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    conversation = models.ForeignKey("chat.Conversation", models.CASCADE, related_name="messages", db_index=False)
    parent = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="children")
    role = models.CharField(max_length=10, choices=Speaker.choices)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")
    device = models.ForeignKey("chat.Device", models.SET_NULL, null=True, blank=True, related_name="+")
    client_id = models.UUIDField(null=True, blank=True)
    parts = models.JSONField(default=list)
    place = models.PositiveBigIntegerField(null=True, blank=True)
    created_serial = models.PositiveBigIntegerField()
    removed_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes = [models.Index(fields=["conversation", "place", "created_serial"], name="message_transcript")]
        constraints = [
            # One stored message per client id, whatever the devices and doors it arrives by.
            models.UniqueConstraint(fields=["conversation", "client_id"], name="message_client_id_once"),
        ]

    def __str__(self) -> str:
        return f"{self.role}: {self.text[:60] or '…'}"

    @property
    def text(self) -> str:
        """The text parts joined. Of an answer still being written: empty (see `chat/transcript.py`)."""
        return text_in(self.parts)
