"""Runs: who executes them and how they get on. They can be cancelled, and taken from a worker that is stuck."""

from collections import Counter
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Case, DateTimeField, OuterRef, QuerySet, Subquery, When
from django.db.models.functions import Now as DatabaseNow
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html

from chat.admin.budgets import money
from chat.admin.lists import COUNTED, ReadOnly, made_of, who
from chat.errors import Refused
from chat.models import Event, Run, Steer
from chat.models.state import ENDED, LIVE, STARTED, State, has_lapsed
from chat.transcript import answer_of

NEAR = 200  # events of the conversation, among which a run's last one is looked for


class ByProvider(admin.SimpleListFilter):
    """By the providers there are. Django's own filter would look for them in every row."""

    title = parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in settings.CHAT_PROVIDERS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset


class Now(admin.SimpleListFilter):
    """By what a run does at this moment."""

    title = "now"
    parameter_name = "now"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("live", "Live"), ("stuck", "Stuck: its lease has lapsed"), ("stopping", "Asked to stop")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        match self.value():
            case "live":
                return queryset.filter(state__in=LIVE)
            case "stuck":
                return queryset.filter(has_lapsed())
            case "stopping":
                return queryset.filter(state__in=LIVE).exclude(cancel_requested_at=None)
        return queryset


class SteerInline(admin.TabularInline):  # type: ignore[type-arg]
    """What was added to it while it ran."""

    model = Steer
    extra = 0
    can_delete = False
    fields = ["text", "author", "state", "step", "created_at"]
    readonly_fields = ["text", "author", "state", "step", "created_at"]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Run)
class RunAdmin(ReadOnly):
    list_display = [
        "short_id",
        "status",
        "lease",
        "lag",
        "attempt",
        "worker",
        "conversation",
        "requested_by",
        "error_code",
        "about",
        "created_at",
    ]
    list_filter = [Now, "state", ByProvider]
    list_select_related = ["conversation", "requested_by"]
    search_fields = ["requested_by__username__istartswith", "error_code__istartswith", "worker__istartswith"]
    search_ids = ("pk", "conversation_id")
    search_help_text = (
        "The first digits of its id or its conversation's, or the beginning of a user's name, an error or a worker"
    )
    ordering = ["-created_at"]
    exclude = ["cost"]  # in millionths, where `about` says it
    readonly_fields = ["status", "lease", "lag", "about", "made_of"]
    actions = ["cancel", "requeue"]
    inlines = [SteerInline]

    def get_queryset(self, request: HttpRequest) -> Any:
        # A run that is silent among many that speak must not cost a walk through all they said.
        near = Event.objects.filter(
            conversation=OuterRef("conversation"),
            serial__gt=OuterRef("conversation__head") - NEAR,
            run_id=OuterRef("pk"),
        )
        last = Subquery(near.order_by("-serial").values("created_at")[:1])
        return (
            super()
            .get_queryset(request)
            .annotate(
                moment=DatabaseNow(),
                last_event=Case(When(state__in=STARTED, then=last), output_field=DateTimeField()),
            )
        )

    @admin.display(ordering="state")
    def status(self, run: Any) -> str:
        """A word for what it does now."""
        name = str(run.state)
        if run.state == State.RUNNING and run.lease_until < run.moment:
            name = "stuck"
        elif run.state == State.RUNNING and run.cancel_requested_at:
            name = "stopping"
        return format_html('<span class="status {}">{}</span>', name, name)

    @admin.display(ordering="lease_until")
    def lease(self, run: Any) -> str:
        """For how long it still is its worker's, or people's to decide about."""
        if run.state == State.WAITING and run.waits_until:
            return f"waits for {ago(run.moment, run.waits_until)}".removesuffix(" ago") + " at most"
        if run.state != State.RUNNING:
            return ""
        left = (run.lease_until - run.moment).total_seconds()
        return f"{left:.0f} s left" if left >= 0 else f"lapsed {ago(run.lease_until, run.moment)}"

    @admin.display(description="what it wrote and did")
    def made_of(self, run: Run) -> str:
        return made_of(answer_of(run, run.conversation.head).parts)

    @admin.display
    def lag(self, run: Any) -> str:
        """For how long nothing has become of it."""
        if run.state == State.QUEUED:
            return f"queued {ago(run.created_at, run.moment)}"
        if run.state not in STARTED:
            return ""
        return f"last event {ago(run.last_event, run.moment) if run.last_event else f'over {NEAR} events ago'}"

    @admin.display(description="cost", ordering="cost")
    def about(self, run: Any) -> str:
        """What it has cost, or that nobody knows."""
        return money(run.cost) or ("unknown" if run.usage else "")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        runs = Run.objects.order_by()
        counts = {
            "live_runs": runs.filter(state__in=LIVE)[:COUNTED].count(),
            "stuck_runs": runs.filter(has_lapsed())[:COUNTED].count(),
        }
        return super().changelist_view(request, {**counts, **(extra_context or {})})

    @admin.action(description="Cancel selected runs", permissions=["verbs"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        self._tell(request, Counter(_cancel(run, who(request)) for run in queryset.select_related("conversation")))

    @admin.action(description="Requeue selected runs, taking them from their workers", permissions=["verbs"])
    def requeue(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        self._tell(request, Counter(_requeue(run) for run in queryset.select_related("conversation")))

    def _tell(self, request: HttpRequest, outcomes: Counter[str]) -> None:
        for outcome, (text, level) in OUTCOMES.items():
            if count := outcomes[outcome]:
                self.message_user(request, f"{count} {'run' if count == 1 else 'runs'}: {text}", level)


OUTCOMES = {
    "cancelled": ("cancelled", messages.SUCCESS),
    "cancelling": ("cancelling", messages.SUCCESS),
    "requeued": ("taken away and queued again", messages.SUCCESS),
    "interrupted": ("ended as interrupted, with the text so far", messages.SUCCESS),
    "stopped": ("ended as cancelled, as somebody had asked before", messages.SUCCESS),
    "failed": ("ended as failed, after too many lost workers", messages.WARNING),
    "not_started": ("queued already, and no worker's to give back", messages.INFO),
    "waits": ("no worker's to give back: it waits for a person or a device", messages.INFO),
    "already_ended": ("already ended", messages.INFO),
    "moved": ("ended or went to another worker meanwhile; nothing was done", messages.WARNING),
    "deleted": ("deleted meanwhile, with the conversation", messages.WARNING),
}
BECAME = {
    State.QUEUED: "requeued",
    State.INTERRUPTED: "interrupted",
    State.CANCELLED: "stopped",
    State.FAILED: "failed",
    None: "moved",
}


def _cancel(run: Run, by: dict[str, Any]) -> str:
    if run.state in ENDED:
        return "already_ended"
    try:
        return str(run.cancel(by)["outcome"])
    except (Refused, Run.DoesNotExist):
        return "deleted"


def _requeue(run: Run) -> str:
    """As the sweep does if its lease has lapsed, which counts as a loss; else as its worker does when it ends."""
    if run.state in ENDED:
        return "already_ended"
    if run.state == State.QUEUED:
        return "not_started"
    if run.state == State.WAITING:
        return "waits"
    try:
        return BECAME[run.recover() or run.hand_over(run.attempt)]
    except Refused:
        return "deleted"


def ago(then: datetime, now: datetime) -> str:
    """In the largest unit that says something. Clocks may differ: what is to come has just been."""
    seconds = max(0.0, (now - then).total_seconds())
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
