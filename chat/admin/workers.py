"""The processes that execute runs, with their heartbeats: those that serve, or `manage.py work`."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html

from chat.admin.lists import ReadOnly
from chat.admin.runs import ago
from chat.models import Worker


@admin.register(Worker)
class WorkerAdmin(ReadOnly):
    list_display = ["name", "status", "heartbeat", "executes", "engine", "started_at"]
    search_fields = ["name__istartswith"]
    search_help_text = "The beginning of a name, which is a host's"
    ordering = ["-seen_at"]
    fields = ["name", "status", "heartbeat", "executes", "engine", "started_at", "seen_at"]
    readonly_fields = ["status", "heartbeat", "executes"]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).annotate(moment=Now())

    @admin.display
    def status(self, worker: Any) -> str:
        """Silent: not heard of for as long as it takes to lose its leases."""
        silent = worker.moment - worker.seen_at > timedelta(seconds=settings.CHAT_LEASE_SECONDS)
        name = "silent" if silent else "draining" if worker.draining else "working"
        return format_html('<span class="status {}">{}</span>', name, name)

    @admin.display(ordering="seen_at")
    def heartbeat(self, worker: Any) -> str:
        return ago(worker.seen_at, worker.moment)

    @admin.display(description="runs", ordering="runs")
    def executes(self, worker: Worker) -> str:
        """As many as it said, with a link to those whose lease it has."""
        url = reverse("admin:chat_run_changelist")
        return format_html('<a href="{}?now=live&worker={}">{}</a>', url, worker.name, worker.runs)
