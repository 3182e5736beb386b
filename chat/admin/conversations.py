"""Conversations, which staff may delete. What runs in them ends, and whoever watches is sent away."""

from typing import Any

from django.contrib import admin
from django.db.models import OuterRef, Prefetch, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from chat import news
from chat.admin.budgets import money, spent_of
from chat.admin.lists import ReadOnly, listed, who
from chat.errors import Refused
from chat.models import Conversation, Participant, Role, Run
from chat.models.state import LIVE, State


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
    list_display = ["__str__", "short_id", "owner", "live", "head", "provider", "spent", "updated_at"]
    search_fields = ["title__istartswith"]
    search_help_text = "The first digits of an id, or the beginning of a title"
    ordering = ["-updated_at"]
    readonly_fields = ["id", "epoch", "spent", "lists"]
    inlines = [ParticipantInline]

    def get_queryset(self, request: HttpRequest) -> Any:
        owners = Participant.objects.filter(role=Role.OWNER).select_related("user")
        return (
            super()
            .get_queryset(request)
            .annotate(spent=spent_of(conversation=OuterRef("pk")))
            .prefetch_related(
                Prefetch("participants", owners, to_attr="owners"),
                Prefetch("runs", Run.objects.filter(state__in=LIVE), to_attr="live_runs"),
            )
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("chat.delete_conversation")

    @admin.display
    def owner(self, conversation: Any) -> str:
        return ", ".join(owner.user.get_username() for owner in conversation.owners)

    @admin.display(description="live runs")
    def live(self, conversation: Any) -> str:
        return format_html("{}", len(conversation.live_runs) or "")

    @admin.display(description="cost")
    def spent(self, conversation: Any) -> str:
        return money(conversation.spent)

    @admin.display(description="what is in it")
    def lists(self, conversation: Conversation) -> str:
        models = (
            ("message", "messages"),
            ("run", "runs"),
            ("event", "events"),
            ("file", "files"),
            ("summary", "summaries"),
        )
        links = [listed(model, name, conversation) for model, name in models]
        return format_html("{} · {} · {} · {}", *links)

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


def delete(conversation: Conversation, by: dict[str, Any]) -> None:
    """Delete a conversation with its log. What runs is stopped first, and who watches is sent away."""
    try:
        stop(conversation, by)
        with conversation.locked() as locked:
            people = [person.user.get_username() for person in locked.participants.select_related("user")]
            locked.erase()
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
