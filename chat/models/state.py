"""The states of a run, and until when one is its worker's."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class State(models.TextChoices):
    """queued → running ⇄ waiting → one of the four ends."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # for a person or a device; no worker has it
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


STARTED = (State.RUNNING, State.WAITING)
LIVE = (State.QUEUED, *STARTED)
ENDED = (State.COMPLETED, State.CANCELLED, State.FAILED, State.INTERRUPTED)


def lease() -> Any:
    """When a lease that is given now ends, by the database's clock: those of two processes differ, and jump."""
    return Now() + timedelta(seconds=settings.CHAT_LEASE_SECONDS)


def has_lapsed() -> Q:
    """Started, and its worker has not renewed its lease: killed, frozen or cut off."""
    return Q(state=State.RUNNING, lease_until__lt=Now())
