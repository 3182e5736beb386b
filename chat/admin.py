"""What staff see and may do. To look is cheap whatever the tables hold; to change is to call a verb.

Nothing is edited by hand: the log is the truth, and a row changed without an event would disagree with it on
every device. That is also why a user with conversations cannot be deleted here; deactivate them instead.
"""

import uuid
from collections import Counter
from functools import reduce
from operator import or_
from typing import Any, cast

from django.conf import settings
from django.contrib import admin, messages
from django.core.paginator import Paginator
from django.db.models import Prefetch, Q, QuerySet
from django.db.models.fields.json import KT
from django.db.models.functions import Left
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html

from chat import news
from chat.errors import Refused
from chat.models import Conversation, Device, Event, Message, Participant, Role, Run
from chat.models.run import LIVE, STARTED, State

COUNTED = 10_000  # rows; a list that is longer says so, and is searched rather than paged
SHORTEST_PREFIX = 4  # of an id, in hexadecimal digits


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Never counts a whole table, which would cost more than the page."""

    @cached_property
    def count(self) -> int:
        rows = cast("QuerySet[Any]", self.object_list)
        return rows.order_by().values("pk")[:COUNTED].count()


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """Lists that stay fast and rows nobody edits. Searches by id, or by the first digits of one."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # a count of the table per choice of each filter
    list_per_page = 50
    list_max_show_all = 200
    actions_on_top = True  # without it the admin writes an inline style, which the CSP would block
    search_ids: tuple[str, ...] = ("pk",)

    class Media:
        css = {"all": ["chat/admin.css"]}

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_verbs_permission(self, request: HttpRequest) -> bool:
        """What Django calls the permission to change allows the actions that call a verb."""
        return request.user.has_perm(f"chat.change_{self.opts.model_name}")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """By ids where the term can be one, else by the start of `search_fields`: never by a scan for a middle."""
        between = id_range(search_term)
        if between is None:
            return super().get_search_results(request, queryset, search_term)
        first, last = between
        found = [Q(**{f"{field}__gte": first, f"{field}__lte": last}) for field in self.search_ids]
        return queryset.filter(reduce(or_, found)), False


def id_range(term: str) -> tuple[uuid.UUID, uuid.UUID] | None:
    """The first and last id that begin with these hexadecimal digits; None if the term is no such thing."""
    digits = term.strip().replace("-", "").lower()
    if not SHORTEST_PREFIX <= len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        return None
    return uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))


def short(value: uuid.UUID | None) -> str:
    return value.hex[:8] if value else ""


def listed(model: str, name: str, conversation: Conversation) -> str:
    """A link to a list, narrowed to one conversation."""
    url = reverse(f"admin:chat_{model}_changelist")
    return format_html('<a href="{}?conversation__exact={}">{}</a>', url, conversation.pk, name)


class ByProvider(admin.SimpleListFilter):
    """By the providers there are. Django's own filter would look for them in every row."""

    title = parameter_name = "provider"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in settings.CHAT_PROVIDERS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(provider=self.value()) if self.value() else queryset


# --- conversations and people -------------------------------------------------------------------------------


class ParticipantInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Participant
    extra = 0
    can_delete = False
    fields = ["user", "role", "read_serial", "joined_at"]
    readonly_fields = ["user", "role", "read_serial", "joined_at"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).select_related("user")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Conversation)
class ConversationAdmin(ReadOnly):
    list_display = ["__str__", "short_id", "owner", "live", "head", "provider", "updated_at"]
    search_fields = ["title__istartswith"]
    search_help_text = "The first digits of an id, or the beginning of a title"
    ordering = ["-updated_at"]
    readonly_fields = ["id", "epoch", "lists"]
    inlines = [ParticipantInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        owners = Participant.objects.filter(role=Role.OWNER).select_related("user")
        return (
            super()
            .get_queryset(request)
            .prefetch_related(
                Prefetch("participants", owners, to_attr="owners"),
                Prefetch("runs", Run.objects.filter(state__in=LIVE), to_attr="live_runs"),
            )
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("chat.delete_conversation")

    @admin.display(description="id")
    def short_id(self, conversation: Any) -> str:
        return short(conversation.pk)

    @admin.display
    def owner(self, conversation: Any) -> str:
        return ", ".join(owner.user.get_username() for owner in conversation.owners)

    @admin.display(description="live runs")
    def live(self, conversation: Any) -> str:
        return format_html("{}", len(conversation.live_runs) or "")

    @admin.display(description="what is in it")
    def lists(self, conversation: Conversation) -> str:
        models = ("message", "messages"), ("run", "runs"), ("event", "events")
        links = [listed(model, name, conversation) for model, name in models]
        return format_html("{} · {} · {}", *links)

    # The admin would load and list everything that goes with a conversation, and ask whether each of it may be
    # deleted. Nothing of it may, alone; all of it goes with its conversation.
    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        conversations = list(objs)
        lines = [f"Conversation: {conversation}, with all that was said in it" for conversation in conversations]
        return lines, {"conversations": len(conversations)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        delete(obj, by=who(request))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for conversation in list(queryset):
            delete(conversation, by=who(request))


def who(request: HttpRequest) -> dict[str, Any]:
    """Who does something here, as the log says it."""
    return {"user": request.user.get_username(), "device": None, "device_name": "admin"}


def delete(conversation: Conversation, by: dict[str, Any]) -> None:
    """Delete a conversation with its log. What runs is stopped first, and who watches is sent away."""
    try:
        stop(conversation, by)
        with conversation.locked() as locked:
            people = [person.user.get_username() for person in locked.participants.select_related("user")]
            locked.delete()
    except Refused:
        return  # somebody else deleted it meanwhile
    for user in people:
        news.tell_people({"conversation": conversation.pk.hex, "user": user})


def stop(conversation: Conversation, by: dict[str, Any]) -> None:
    """Cancel what is live, in a transaction of its own: a worker that executes it hears of that and lets go."""
    with conversation.locked() as locked:
        live = locked.runs.filter(state__in=LIVE).select_related("prompt")
        # Waiting ones first: ending what runs must not let the next one start.
        for run in sorted(live, key=lambda run: run.state != State.QUEUED):
            run.cancel_locked(locked, by)


@admin.register(Participant)
class ParticipantAdmin(ReadOnly):
    list_display = ["user", "role", "conversation", "read_serial", "joined_at"]
    list_filter = ["role"]
    list_select_related = ["user", "conversation"]
    search_fields = ["user__username__istartswith"]
    search_ids = ("conversation_id",)
    search_help_text = "The beginning of a user's name, or the first digits of a conversation's id"
    ordering = ["-pk"]
    actions = ["remove"]

    @admin.action(description="Remove selected people from their conversations", permissions=["verbs"])
    def remove(self, request: HttpRequest, queryset: QuerySet[Participant]) -> None:
        removed = 0
        for participant in queryset.select_related("user", "conversation"):
            conversation = participant.conversation
            try:
                # By themselves, as the verb sees it: anybody may leave, except the owner.
                conversation.remove(by=participant, user=participant.user)
            except Refused as refusal:
                self.message_user(request, f"{participant} in {conversation}: {refusal.message}", messages.WARNING)
            else:
                removed += 1
        if removed:
            self.message_user(request, f"Removed from their conversations: {removed}", messages.SUCCESS)


@admin.register(Device)
class DeviceAdmin(ReadOnly):
    list_display = ["name", "short_id", "user", "last_seen_at", "created_at", "revoked_at"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter)]
    list_select_related = ["user"]
    search_fields = ["user__username__istartswith", "name__istartswith"]
    search_help_text = "The first digits of an id, or the beginning of a name"
    actions = ["revoke"]

    @admin.display(description="id")
    def short_id(self, device: Device) -> str:
        return short(device.pk)

    @admin.action(description="Revoke selected devices", permissions=["verbs"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        devices = list(queryset.filter(revoked_at=None))
        for device in devices:
            device.revoke()
            news.tell_people({"device": str(device.pk)})
        self.message_user(request, f"Devices revoked: {len(devices)}", messages.SUCCESS)


# --- what was said ------------------------------------------------------------------------------------------


@admin.register(Message)
class MessageAdmin(ReadOnly):
    list_display = ["short_id", "role", "author", "opening", "conversation", "place", "created_at", "removed_at"]
    list_filter = ["role"]
    list_select_related = ["author", "conversation"]
    search_fields = ["author__username__istartswith"]
    search_ids = ("pk", "conversation_id")
    search_help_text = "The first digits of its id or its conversation's, or the beginning of its author's name"
    ordering = ["-created_at"]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("parts").annotate(first=Left(KT("parts__0__text"), 60))

    @admin.display(description="id")
    def short_id(self, message: Message) -> str:
        return short(message.pk)

    @admin.display(description="text")
    def opening(self, message: Any) -> str:
        return message.first or ""


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
                return queryset.filter(is_stuck())
            case "stopping":
                return queryset.filter(state__in=LIVE).exclude(cancel_requested_at=None)
        return queryset


def is_stuck() -> Q:
    """Started, and its worker has not renewed its lease: the next sweep should recover it."""
    return Q(state__in=STARTED, lease_until__lt=timezone.now())


@admin.register(Run)
class RunAdmin(ReadOnly):
    list_display = [
        "short_id",
        "status",
        "conversation",
        "requested_by",
        "attempt",
        "worker",
        "error_code",
        "created_at",
    ]
    list_filter = [Now, "state", ByProvider]
    list_select_related = ["conversation", "requested_by"]
    search_fields = ["requested_by__username__istartswith", "error_code__istartswith"]
    search_ids = ("pk", "conversation_id")
    search_help_text = "The first digits of its id or its conversation's, or the beginning of a user's name or error"
    ordering = ["-created_at"]
    readonly_fields = ["status"]
    actions = ["cancel"]

    @admin.display(description="id")
    def short_id(self, run: Run) -> str:
        return short(run.pk)

    @admin.display(ordering="state")
    def status(self, run: Run) -> str:
        name, since = status_of(run)
        return format_html('<span class="run-status {}">{}</span> {}', name, name, since)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        runs = Run.objects.order_by()
        counts = {
            "live_runs": runs.filter(state__in=LIVE)[:COUNTED].count(),
            "stuck_runs": runs.filter(is_stuck())[:COUNTED].count(),
        }
        return super().changelist_view(request, {**counts, **(extra_context or {})})

    @admin.action(description="Cancel selected runs", permissions=["verbs"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        live = list(queryset.filter(state__in=LIVE).select_related("conversation"))
        outcomes = Counter(_cancel(run, who(request)) for run in live)
        outcomes["already_ended"] += queryset.count() - len(live)
        for outcome, level in OUTCOMES.items():
            if count := outcomes[outcome]:
                text = f"{count} {'run' if count == 1 else 'runs'}: {outcome.replace('_', ' ')}"
                self.message_user(request, text, level)


OUTCOMES = {
    "cancelled": messages.SUCCESS,
    "cancelling": messages.SUCCESS,
    "already_ended": messages.INFO,
    "deleted": messages.WARNING,
}


def _cancel(run: Run, by: dict[str, Any]) -> str:
    try:
        return str(run.cancel(by)["outcome"])
    except (Refused, Run.DoesNotExist):
        return "deleted"


def status_of(run: Run) -> tuple[str, str]:
    """A word for what a run does now, and for how long it has or still may."""
    now = timezone.now()
    if run.state in STARTED and run.lease_until is not None:
        left = (run.lease_until - now).total_seconds()
        if left < 0:
            return "stuck", f"lease lapsed {-left:.0f} s ago"
        return ("stopping" if run.cancel_requested_at else str(run.state)), f"lease {left:.0f} s"
    if run.state == State.QUEUED:
        return "queued", f"for {(now - run.created_at).total_seconds():.0f} s"
    return str(run.state), ""


@admin.register(Event)
class EventAdmin(ReadOnly):
    """The log. There is no way to add, change or delete an event here, for anybody."""

    list_display = ["conversation", "serial", "kind", "run", "message", "created_at"]
    list_filter = ["kind"]
    list_select_related = ["conversation"]
    search_fields = ["kind__istartswith"]
    search_ids = ("conversation_id",)
    search_help_text = "The first digits of a conversation's id, or the beginning of a kind"
    ordering = ["-pk"]
    fields = ["conversation", "serial", "kind", "payload", "run_id", "message_id", "created_at"]

    @admin.display
    def run(self, event: Event) -> str:
        return short(event.run_id)

    @admin.display
    def message(self, event: Event) -> str:
        return short(event.message_id)
