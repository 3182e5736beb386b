"""What a program shows instead of a session: a secret that its person has made, and can take back."""

import re
import secrets
from collections.abc import Collection
from datetime import timedelta
from hashlib import sha256
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import models
from django.db.models import Q
from django.utils import timezone

from chat.errors import Code, Refused
from chat.models.event import new_id
from chat.turns import writing

PREFIX = "cvt_"  # so that a secret in a log or a repository is recognised for what it is, by people and by scanners
SECRET_LENGTH = len(PREFIX) + 43  # 32 bytes of chance in base64
NAME_LENGTH = 80
MOST = 20  # that stand, per user
USED_EVERY = timedelta(minutes=1)  # as precise as `last_used_at` is: a program that reconnects costs no write


class AccessToken(models.Model):
    """Stands until it is revoked and as long as its user is active, whatever becomes of their password."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="access_tokens")
    name = models.CharField(max_length=NAME_LENGTH)
    # No salt and no slow hash, as a password would need: nobody guesses 32 bytes, and it must be found by this.
    key = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name

    @classmethod
    def issue(cls, user: Any, name: str) -> tuple["AccessToken", str]:
        """A new token and its secret, which can never be had again. Refuses a user who has `MOST` that stand."""
        secret = PREFIX + secrets.token_urlsafe(32)
        with writing():
            # The user's row is the lock: two forms sent at once must not both be the last one.
            owner = get_user_model().objects.select_for_update().get(pk=user.pk)
            if cls.objects.filter(user=owner, revoked_at=None).count() >= MOST:
                raise Refused(Code.FORBIDDEN, f"You have {MOST} tokens. Revoke one that you no longer need.")
            return cls.objects.create(user=owner, name=name[:NAME_LENGTH], key=cls.key_of(secret)), secret

    @staticmethod
    def key_of(secret: str) -> str:
        """What is stored of a secret, and all that may be kept of it. Empty for what cannot be one, whatever it is."""
        if len(secret) != SECRET_LENGTH or not secret.startswith(PREFIX):
            return ""
        return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

    @classmethod
    def by_keys(cls, keys: Collection[str]) -> "list[AccessToken]":
        """Those that stand, with their users, in one query or none. Not a use: see `use`."""
        possible = [key for key in keys if re.fullmatch("[0-9a-f]{64}", key)]
        if not possible:
            return []
        return list(cls.objects.filter(key__in=possible, revoked_at=None, user__is_active=True).select_related("user"))

    def revoke(self) -> None:
        """It lets nobody in any more. Idempotent: the first time stands."""
        type(self).objects.filter(pk=self.pk, revoked_at=None).update(revoked_at=timezone.now())

    def use(self) -> None:
        """Note that it was used."""
        now = timezone.now()
        if self.last_used_at is not None and abs(now - self.last_used_at) < USED_EVERY:
            return
        # Looked at again where it is written: of many connections at once, one writes.
        stale = Q(last_used_at=None) | ~Q(last_used_at__range=(now - USED_EVERY, now + USED_EVERY))
        if type(self).objects.filter(stale, pk=self.pk).update(last_used_at=now):
            self.last_used_at = now
