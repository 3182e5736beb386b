"""What people attach, as staff see it: whose, how large, sent or not. Not what is in it."""

from django.contrib import admin
from django.template.defaultfilters import filesizeformat

from chat.admin.lists import ReadOnly
from chat.models import File


@admin.register(File)
class FileAdmin(ReadOnly):
    list_display = ["name", "short_id", "content_type", "bytes", "uploaded_by", "conversation", "is_sent", "created_at"]
    list_filter = [("discarded_at", admin.EmptyFieldListFilter)]
    list_select_related = ["uploaded_by", "conversation"]
    search_fields = ["uploaded_by__username__istartswith", "name__istartswith"]
    search_ids = ("pk", "conversation_id")
    search_help_text = "The first digits of its id or its conversation's, or the beginning of a name"
    ordering = ["-created_at"]
    fields = ["id", "name", "content_type", "size", "width", "height", "pages", "view_type", "view_size"]
    fields += ["uploaded_by", "conversation", "message", "created_at", "discarded_at"]

    @admin.display(description="size", ordering="size")
    def bytes(self, file: File) -> str:
        return filesizeformat(file.size)

    @admin.display(description="sent", boolean=True)
    def is_sent(self, file: File) -> bool:
        return file.message_id is not None
