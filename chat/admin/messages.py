"""What was said, and the log."""

from typing import Any

from django.contrib import admin
from django.db.models.fields.json import KT
from django.db.models.functions import Left
from django.http import HttpRequest

from chat.admin.lists import ReadOnly, made_of, short
from chat.models import Event, Message, Run
from chat.transcript import answer_of


@admin.register(Message)
class MessageAdmin(ReadOnly):
    list_display = ["short_id", "role", "author", "opening", "conversation", "place", "created_at", "removed_at"]
    list_filter = ["role"]
    list_select_related = ["author", "conversation"]
    search_fields = ["author__username__istartswith"]
    search_ids = ("pk", "conversation_id")
    search_help_text = "The first digits of its id or its conversation's, or the beginning of its author's name"
    ordering = ["-created_at"]
    exclude = ["parts"]
    readonly_fields = ["made_of"]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("parts").annotate(first=Left(KT("parts__0__text"), 60))

    @admin.display(description="parts")
    def made_of(self, message: Message) -> str:
        """An answer that is being written has the text that is in the log by now."""
        run = Run.objects.filter(answer=message).select_related("conversation", "answer").first()
        return made_of(message.parts if run is None else answer_of(run, run.conversation.head).parts)

    @admin.display(description="text")
    def opening(self, message: Any) -> str:
        return message.first or ""


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
