"""Who is in which conversation, and from which devices."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from chat import news
from chat.admin.lists import ReadOnly
from chat.errors import Refused
from chat.models import Device, Participant


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

    @admin.action(description="Revoke selected devices", permissions=["verbs"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        devices = list(queryset.filter(revoked_at=None))
        for device in devices:
            device.revoke()
            news.tell_people({"device": str(device.pk)})
        self.message_user(request, f"Devices revoked: {len(devices)}", messages.SUCCESS)
