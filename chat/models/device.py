"""One browser or client of a user."""

import uuid
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.utils import timezone

from chat.errors import Code, Refused
from chat.models.event import new_id

SEEN_EVERY = timedelta(minutes=1)  # as precise as `last_seen_at` is: a thousand that come back at once write nothing


class Device(models.Model):
    """Named so that a person can tell "stopped from the phone" from "stopped from the laptop"."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="devices")
    name = models.CharField(max_length=80, default="A browser")
    # The session it last connected with: a device that is revoked is signed out, or it would come back as another.
    session_key = models.CharField(max_length=40, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now, db_index=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-last_seen_at"]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def first_seen(cls, user: Any, device_id: uuid.UUID, name: str, session_key: str = "") -> "Device":
        """Make the user's device of that id. Refuses one that is revoked, or another user's."""
        try:
            with transaction.atomic():
                return cls.objects.create(
                    pk=device_id, user=user, name=name[:80] or "A browser", session_key=session_key
                )
        except IntegrityError:
            # Another tab of the same browser may have been faster; anything else is not this user's to use.
            device = cls.objects.filter(pk=device_id, user=user, revoked_at=None).first()
        if device is None:
            raise Refused(Code.REVOKED, "This device was revoked or belongs to somebody else.")
        return device

    def seen(self, session_key: str) -> None:
        """It is here, in this session."""
        now = timezone.now()
        if self.session_key == session_key and abs(now - self.last_seen_at) <= SEEN_EVERY:
            return
        self.session_key, self.last_seen_at = session_key, now
        type(self).objects.filter(pk=self.pk, revoked_at=None).update(session_key=session_key, last_seen_at=now)

    def revoke(self) -> None:
        """Nothing more may be said from it, and its session ends. Idempotent: the first time stands."""
        type(self).objects.filter(pk=self.pk, revoked_at=None).update(revoked_at=timezone.now())
        if self.session_key:
            import_module(settings.SESSION_ENGINE).SessionStore(self.session_key).delete()
