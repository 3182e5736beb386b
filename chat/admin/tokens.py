"""Access tokens as staff see them: whose they are and whether they are used. Never a secret, nor its key."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from chat import news
from chat.admin.lists import ReadOnly
from chat.models import AccessToken


@admin.register(AccessToken)
class AccessTokenAdmin(ReadOnly):
    list_display = ["name", "short_id", "user", "last_used_at", "created_at", "revoked_at"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter)]
    list_select_related = ["user"]
    search_fields = ["user__username__istartswith", "name__istartswith"]
    search_help_text = "The first digits of an id, or the beginning of a name"
    ordering = ["-created_at"]
    fields = ["id", "user", "name", "created_at", "last_used_at", "revoked_at"]
    actions = ["revoke"]

    @admin.action(description="Revoke selected access tokens", permissions=["verbs"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[AccessToken]) -> None:
        tokens = list(queryset.filter(revoked_at=None))
        for token in tokens:
            token.revoke()
            news.tell_people({"token": token.key})
        self.message_user(request, f"Access tokens revoked: {len(tokens)}", messages.SUCCESS)
