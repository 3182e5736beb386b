"""A user in a conversation: what they may do and how far they have read."""

from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from chat.errors import Code, Refused
from chat.models.device import Device


class Role(models.TextChoices):
    OWNER = "owner"
    EDITOR = "editor"
    VIEWER = "viewer"


class Participant(models.Model):
    """Loading the conversation through this row is the permission; there is no other check for reading."""

    conversation = models.ForeignKey("chat.Conversation", models.CASCADE, related_name="participants", db_index=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="participations")
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.EDITOR)
    read_serial = models.PositiveBigIntegerField(default=0)
    joined_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["conversation", "user"], name="participant_once"),
            models.CheckConstraint(condition=models.Q(role__in=Role.values), name="participant_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"

    def now(self) -> "Participant":
        """This participant as they are at this moment. Call with the conversation locked, so that it stays so."""
        found = type(self).objects.select_related("user").filter(pk=self.pk).first()
        if found is None:
            raise Refused(Code.FORBIDDEN, "You are no longer in this conversation.")
        return found

    def may_speak(self) -> None:
        """Refuse a viewer, saying so in words they can act on."""
        if self.role == Role.VIEWER:
            raise Refused(Code.FORBIDDEN, "You can read this conversation but not change it. Ask its owner.")

    def may_decide(self) -> None:
        """Refuse those who may not allow what a tool is about to do."""
        if self.role not in settings.CHAT_APPROVERS:
            roles = " or ".join(f"its {role}" for role in settings.CHAT_APPROVERS)
            raise Refused(Code.FORBIDDEN, f"Here only {roles} can decide about this.")

    def may_manage(self) -> None:
        """Refuse everybody but the owner."""
        if self.role != Role.OWNER:
            raise Refused(Code.FORBIDDEN, "Only the owner of this conversation can do that.")

    def identity(self, device: Device | None) -> dict[str, Any]:
        """Who does something, as the log says it."""
        return {
            "user": self.user.get_username(),
            "device": str(device.pk) if device else None,
            "device_name": device.name if device else "",
        }

    def has_read(self, serial: int) -> None:
        """Move the read position forward. Never back, whatever order the devices' reports arrive in."""
        type(self).objects.filter(pk=self.pk, read_serial__lt=serial).update(read_serial=serial)
