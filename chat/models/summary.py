"""What the model is told in place of turns that no longer fit into its window. The turns themselves stay."""

import uuid

from django.db import models
from django.utils import timezone

from chat.models.event import new_id


class Summary(models.Model):
    """Stands for every turn up to place `until`, those which an earlier one stood for included. Never changed.

    Without `text` there was nobody who could write one: the turns are left out, and the model and people are told so.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    conversation = models.ForeignKey("chat.Conversation", models.CASCADE, related_name="summaries", db_index=False)
    until = models.PositiveBigIntegerField()
    text = models.TextField(blank=True)
    run = models.ForeignKey("chat.Run", models.SET_NULL, null=True, blank=True, related_name="+")
    model = models.CharField(max_length=80, blank=True)
    usage = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "summaries"
        constraints = [models.UniqueConstraint(fields=["conversation", "until"], name="summary_cut_once")]

    def __str__(self) -> str:
        return f"up to {self.until}: {self.text[:60]}"

    @classmethod
    def before(cls, conversation: uuid.UUID, place: int) -> "Summary | None":
        """The one in force for a prompt at this place: a prompt that is retried is not told what came after it."""
        return cls.objects.filter(conversation=conversation, until__lt=place).order_by("-until").first()
