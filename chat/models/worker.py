"""A process that executes runs, as it tells of itself while it sweeps."""

from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

from chat.turns import writing

FORGOTTEN = timedelta(minutes=15)  # until then staff can see which one died


class Worker(models.Model):
    """For people to look at: nothing is decided by it. Whose a run is, and until when, its lease says."""

    name = models.CharField(primary_key=True, max_length=80)
    engine = models.CharField(max_length=40)
    runs = models.PositiveIntegerField(default=0)
    draining = models.BooleanField(default=False)
    # By the database's clock, so that those of many machines can be compared.
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name

    @classmethod
    def seen(cls, name: str, runs: int, *, draining: bool) -> None:
        """It is here, executing so many. Whoever has been silent for long is forgotten."""
        with writing():
            if not cls.objects.filter(pk=name).update(seen_at=Now(), runs=runs, draining=draining):
                cls.objects.create(name=name, engine=settings.CHAT_ENGINE, runs=runs, draining=draining)
            cls.objects.filter(seen_at__lt=Now() - FORGOTTEN).delete()

    @classmethod
    def left(cls, name: str) -> None:
        """It has ended as it should."""
        with writing():
            cls.objects.filter(pk=name).delete()
