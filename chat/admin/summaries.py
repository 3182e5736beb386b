"""What the model was told in place of turns that no longer had room."""

from typing import Any

from django.contrib import admin
from django.db.models.functions import Left
from django.http import HttpRequest

from chat.admin.lists import ReadOnly
from chat.models import Summary


@admin.register(Summary)
class SummaryAdmin(ReadOnly):
    list_display = ["short_id", "conversation", "until", "opening", "model", "created_at"]
    list_select_related = ["conversation"]
    search_fields = ["model__istartswith"]
    search_ids = ("pk", "conversation_id")
    search_help_text = "The first digits of its id or its conversation's, or the beginning of a model's name"
    ordering = ["-created_at"]
    fields = ["conversation", "until", "text", "run", "model", "usage", "created_at"]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(first=Left("text", 60))

    @admin.display(description="text")
    def opening(self, summary: Any) -> str:
        return summary.first or "left out"
