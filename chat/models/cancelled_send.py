"""A cancel can be faster than the send it means: by another door, or because the line was cut between them."""

import uuid
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import F
from django.utils import timezone

if TYPE_CHECKING:
    from chat.models.conversation import Conversation


class CancelledSend(models.Model):
    """A cancel that came before the send it names. The send, when it arrives, is stored and cancelled at once."""

    KEPT = 1000  # per conversation; the oldest go first, so that a flood cannot fill the table

    conversation = models.ForeignKey("chat.Conversation", models.CASCADE, related_name="+", db_index=False)
    client_id = models.UUIDField()
    by = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["conversation", "client_id"], name="cancelled_send_once")]

    def __str__(self) -> str:
        return f"cancel of {self.client_id}"

    @classmethod
    def remember(cls, conversation: "Conversation", client_id: uuid.UUID, by: dict[str, Any]) -> None:
        """Keep it until the send arrives."""
        cls.objects.get_or_create(conversation=conversation, client_id=client_id, defaults={"by": by})
        surplus = cls.objects.filter(conversation=conversation).order_by(F("id").desc())[cls.KEPT :]
        cls.objects.filter(pk__in=[row.pk for row in surplus]).delete()
