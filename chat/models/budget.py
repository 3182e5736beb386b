"""How much may be spent: by a user in a calendar month, and in a conversation altogether.

Above the limit nothing new begins. What runs may go on to the hard limit, which is somewhat higher: an answer that is
nearly there is worth more than what it costs beyond.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q, Sum

from chat.errors import Code, Refused
from chat.models.spending import Spending, this_month
from chat.models.state import LIVE, State
from chat.prices import PER, written

if TYPE_CHECKING:
    from chat.models.run import Run

WARN_PERCENT = 80
Key = tuple[Literal["user", "conversation"], Any]


class Budget(models.Model):
    """Another limit than the settings' for one user or one conversation. Empty: none at all."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, related_name="budget")
    conversation = models.OneToOneField("chat.Conversation", models.CASCADE, null=True, blank=True)
    limit = models.DecimalField(
        max_digits=12,
        decimal_places=2,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="In CHAT_CURRENCY: of a user for each calendar month, of a conversation altogether. "
        "0: nothing may be spent. Empty: as much as they like.",
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(user=None, conversation__isnull=False) | Q(user__isnull=False, conversation=None),
                name="budget_of_one",
                violation_error_message="A budget is of one user or of one conversation.",
            ),
            models.CheckConstraint(condition=Q(limit=None) | Q(limit__gte=0), name="budget_not_negative"),
        ]

    def __str__(self) -> str:
        return f"budget of {self.user or self.conversation}"

    @property
    def key(self) -> Key:
        return ("user", self.user_id) if self.user_id is not None else ("conversation", self.conversation_id)

    @property
    def amount(self) -> int | None:
        """In millionths."""
        return None if self.limit is None else int(self.limit * PER)


@dataclass(frozen=True, slots=True)
class Account:
    """A budget and what is spent of it, in millionths. One without a limit is none."""

    key: Key
    limit: int
    spent: int

    @property
    def hard(self) -> int:
        """Where what runs is stopped."""
        return int(self.limit * settings.CHAT_BUDGET_HARD_PERCENT / 100)

    @property
    def percent(self) -> int:
        return 100 if not self.limit else int(self.spent * 100 / self.limit)

    @property
    def is_used_up(self) -> bool:
        return self.spent >= self.limit

    @property
    def is_low(self) -> bool:
        return self.percent >= WARN_PERCENT

    @property
    def is_mine(self) -> bool:
        """Of the user, and not of the conversation."""
        return self.key[0] == "user"

    @property
    def renews_at(self) -> datetime | None:
        """When the next month begins. A conversation's is for good."""
        if not self.is_mine:
            return None
        following = this_month() + timedelta(days=32)
        return datetime(following.year, following.month, 1, tzinfo=UTC)

    @property
    def used(self) -> str:
        """How much of how much, for a person."""
        amount, _, _ = written(self.spent, settings.CHAT_CURRENCY).rpartition(" ")
        return f"{amount} of {written(self.limit, settings.CHAT_CURRENCY)}"

    @property
    def way_out(self) -> str:
        """When there is more to spend, and who can see to that."""
        who = f"{settings.CHAT_BUDGET_CONTACT} can raise it."
        if self.renews_at is None:
            return f"It does not renew by itself. {who}"
        return f"It renews on {self.renews_at.day} {self.renews_at:%B %Y}. {who}"

    def facts(self) -> dict[str, Any]:
        """For programs."""
        when = {"renews_at": self.renews_at.isoformat()} if self.renews_at is not None else {}
        return {
            "of": self.key[0],
            "limit": self.limit,
            "used": self.spent,
            "currency": settings.CHAT_CURRENCY,
            **when,
        }

    def refusal(self, *, with_others: bool) -> Refused:
        """For who asked. `with_others`: there is something left, and what runs already is reckoned to need it."""
        whose = f"Your budget for {this_month():%B}" if self.is_mine else "This conversation's budget"
        others = ", with what runs already" if with_others else ""
        message = f"{whose} is used up{others}: {self.used}. {self.way_out}"
        return Refused(Code.BUDGET, message, facts={"budget": self.facts()})

    def verdict(self, run: "Run", what: str) -> dict[str, Any]:
        """Why a run ended, for everybody in the conversation: how much a person may spend is nobody else's concern."""
        whose = "This conversation's budget"
        if self.is_mine:
            user = run.requested_by.get_username() if run.requested_by is not None else "somebody"
            whose = f"The budget of {user} for {this_month():%B}"
        message = f"{what}. {whose} is used up{'' if self.is_mine else f': {self.used}'}. {self.way_out}"
        return {"error_code": Code.BUDGET.value, "error_message": message, "retryable": False}


def accounts(users: Collection[Any], conversations: Collection[Any]) -> dict[Key, Account]:
    """Those of these that have a limit, with what is spent now. One query if none has."""
    return _with_spending(_limits(users, conversations))


def _limits(users: Collection[Any], conversations: Collection[Any]) -> dict[Key, int]:
    defaults: tuple[tuple[Literal["user", "conversation"], Collection[Any], float], ...] = (
        ("user", users, settings.CHAT_USER_BUDGET),
        ("conversation", conversations, settings.CHAT_CONVERSATION_BUDGET),
    )
    limits: dict[Key, int | None] = {
        (of, one): round(amount * PER) for of, all_of, amount in defaults if amount > 0 for one in all_of
    }
    for own in Budget.objects.filter(Q(user__in=users) | Q(conversation__in=conversations)):
        limits[own.key] = own.amount
    return {key: limit for key, limit in limits.items() if limit is not None and key[1] is not None}


def _with_spending(limits: Mapping[Key, int]) -> dict[Key, Account]:
    spent: dict[Key, int] = {}
    users = [one for of, one in limits if of == "user"]
    conversations = [one for of, one in limits if of == "conversation"]
    if users:
        of_users = Spending.objects.filter(user__in=users, month=this_month()).order_by().values_list("user")
        spent |= {("user", one): total or 0 for one, total in of_users.annotate(Sum("cost"))}
    if conversations:
        here = Spending.objects.filter(conversation__in=conversations).order_by().values_list("conversation")
        spent |= {("conversation", one): total or 0 for one, total in here.annotate(Sum("cost"))}
    return {key: Account(key, limit, spent.get(key, 0)) for key, limit in limits.items()}


def admit(run: "Run") -> dict[str, Any]:
    """Refuse a run that was just accepted, with the conversation locked, if a budget does not have room for it.

    Each run that lives counts as CHAT_BUDGET_RESERVE on top: of many that are asked for at once, no more begin than
    there is money for. Returns what the ack says: `budget`, the scarcest one, if it is nearly used up.
    """
    if not run.is_live:  # stopped before it came
        return {}
    user = run.requested_by_id
    limits = _limits([user], [run.conversation_id])
    if user is not None and ("user", user) in limits:  # who asks in several conversations at once waits in line
        get_user_model().objects.select_for_update(no_key=True).filter(pk=user).first()
    found = _with_spending(limits)
    others = type(run).objects.filter(state__in=LIVE).exclude(pk=run.pk).order_by()
    for account in found.values():
        mine = Q(requested_by=user) if account.is_mine else Q(conversation=run.conversation_id)
        reserved = round(settings.CHAT_BUDGET_RESERVE * PER) * others.filter(mine).count()
        if account.spent + reserved >= account.limit:
            raise account.refusal(with_others=not account.is_used_up)
    low = [account for account in found.values() if account.is_low]
    return {"budget": max(low, key=lambda account: account.percent).facts()} if low else {}


def may_start(run: "Run") -> tuple[State, dict[str, Any]] | None:
    """How a run ends whose turn has come and whose budget is used up; None if it may begin, or go on.

    One that has begun may go on to the hard limit. The run remembers the `accounts` it is paid from.
    """
    run.accounts = accounts([run.requested_by_id], [run.conversation_id])
    for account in run.accounts.values():
        if run.attempt and account.spent >= account.hard:
            return State.CANCELLED, account.verdict(run, "Stopped")
        if not run.attempt and account.is_used_up:
            return State.FAILED, account.verdict(run, "Not answered")
    return None
