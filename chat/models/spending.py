"""What was spent: one row for each attempt of a run, which outlives the run, its conversation and its user."""

import json
from collections.abc import Iterable, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from django.conf import settings
from django.db import connection, models
from django.db.models import Count, Q, Sum
from django.utils import timezone

from chat import log
from chat.models.event import new_id
from chat.turns import writing

if TYPE_CHECKING:
    from chat.models.run import Run

_KEEP = """
UPDATE chat_spending SET usage = %s, tokens_in = %s, tokens_out = %s, cost = %s, estimated = %s
 WHERE id = %s AND NOT settled
"""
_TOLD = ["usage", "tokens_in", "tokens_out", "cost", "estimated"]


def this_month() -> date:
    """Its first day, in UTC: when it began, budgets were renewed."""
    return timezone.now().date().replace(day=1)


class Spending(models.Model):
    """`cost` is in millionths of CHAT_CURRENCY, by the prices of that time; null: there was none for the model.

    `estimated`: the provider did not come to count all of it. While the attempt is executed the row is written every
    few seconds, so that others know of it, and so that it is there if the process dies; `settled` is its last word.
    Run and conversation are plain ids: the row stays when they go. A user may go while a run is executed, so nor is
    theirs held to be somebody's.
    """

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    run = models.UUIDField()
    attempt = models.PositiveSmallIntegerField()
    conversation = models.UUIDField()
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
        db_constraint=False,
    )
    month = models.DateField(default=this_month)
    provider = models.CharField(max_length=40)
    model = models.CharField(max_length=80, blank=True)
    usage = models.JSONField(default=dict)
    tokens_in = models.PositiveBigIntegerField(default=0)
    tokens_out = models.PositiveBigIntegerField(default=0)
    cost = models.BigIntegerField(null=True, blank=True)
    estimated = models.BooleanField(default=False)
    settled = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name_plural = "spending"
        indexes = [
            # With the cost in it a sum is read from the index alone.
            models.Index(fields=["user", "month", "cost"], name="spending_of_user"),
            models.Index(fields=["conversation", "cost"], name="spending_of_conversation"),
        ]
        constraints = [models.UniqueConstraint(fields=["run", "attempt"], name="spending_once")]

    def __str__(self) -> str:
        return f"attempt {self.attempt} of run {self.run}"

    @classmethod
    def of(cls, run: "Run", model: str) -> "Spending":
        """An attempt that begins. Nothing is stored yet."""
        return cls(
            run=run.pk,
            attempt=run.attempt,
            conversation=run.conversation_id,
            user_id=run.requested_by_id,
            provider=run.provider,
            model=model[:80],
        )

    def settle(self) -> None:
        """The last word: this is what the attempt has used."""
        self.settled = True
        with writing():
            type(self).objects.bulk_create(
                [self], update_conflicts=True, unique_fields=["id"], update_fields=[*_TOLD, "settled"]
            )

    @classmethod
    def keep(cls, rows: list[Self]) -> None:
        """What attempts that go on have used so far. One that was settled meanwhile is left alone."""
        # Plain SQL: to put one statement together for fifty rows took Django longer than a commit may take.
        stored = log.id_storer()
        told = [
            (json.dumps(row.usage), row.tokens_in, row.tokens_out, row.cost, row.estimated, stored(row.pk))
            for row in rows
        ]
        with writing():
            cls.objects.bulk_create(rows, ignore_conflicts=True)
            with connection.cursor() as cursor:
                cursor.executemany(_KEEP, told)

    @classmethod
    def tally(cls, run: UUID) -> dict[str, Any]:
        """What a run that ends has used, in all its attempts, as fields of the run. Empty if nobody knows of any."""
        rows = list(cls.objects.filter(run=run).order_by("attempt"))
        if not rows:
            return {}
        if not all(row.settled for row in rows):  # a process that was lost
            cls.objects.filter(run=run, settled=False).update(settled=True)
        costs = [row.cost for row in rows]
        return {
            "usage": added(row.usage for row in rows),
            "cost": None if None in costs else sum(cost or 0 for cost in costs),
            "estimated": any(row.estimated for row in rows),
            "model": rows[-1].model,
        }

    @classmethod
    def total(cls, conversation: UUID) -> dict[str, int]:
        """What the ended and waiting answers of a conversation have used; `unknown`: how many had no price."""
        settled = cls.objects.filter(conversation=conversation, settled=True)
        return summed(settled)


def summed(rows: models.QuerySet[Spending]) -> dict[str, int]:
    """Tokens, cost, and of how many the cost is not known."""
    names = ("tokens_in", "tokens_out", "cost")
    # Under names of their own: one that is a column's would stand for the sum in what follows it.
    sums = {f"{name}_sum": Sum(name, default=0) for name in names}
    found = rows.aggregate(**sums, unknown=Count("pk", filter=Q(cost=None)))
    return {**{name: int(found[f"{name}_sum"]) for name in names}, "unknown": found["unknown"]}


def added(usages: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts by name, one on top of the other."""
    total: dict[str, int] = {}
    for usage in usages:
        for name, count in usage.items():
            total[name] = total.get(name, 0) + count
    return total
