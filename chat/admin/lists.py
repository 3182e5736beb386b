"""What all lists have in common: nothing in them is edited, and to look is cheap whatever the tables hold."""

import uuid
from functools import reduce
from operator import or_
from typing import Any, cast

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html

from chat.models import Conversation
from chat.models.parts import Part

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

    @admin.display(description="id")
    def short_id(self, row: Any) -> str:
        return short(row.pk)

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


def made_of(parts: list[Part]) -> str:
    """What a message is made of, as a table."""
    return render_to_string("admin/chat/parts.html", {"parts": parts})


def listed(model: str, name: str, conversation: Conversation) -> str:
    """A link to a list, narrowed to one conversation."""
    url = reverse(f"admin:chat_{model}_changelist")
    return format_html('<a href="{}?conversation__exact={}">{}</a>', url, conversation.pk, name)


def who(request: HttpRequest) -> dict[str, Any]:
    """Who does something here, as the log says it."""
    return {"user": request.user.get_username(), "device": None, "device_name": "admin"}
