"""Who may spend how much, and what was spent. Budgets are the one thing here that is edited: no device is told of them.

What is spent is only shown: a sum that somebody could correct would be worth nothing.
"""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db.models import OuterRef, Subquery, Sum
from django.http import HttpRequest

from chat.admin.lists import CappedPaginator, ReadOnly, short
from chat.models import Budget, Spending
from chat.models.budget import accounts
from chat.models.spending import this_month
from chat.prices import written


def money(millionths: int | None) -> str:
    """A sum; empty if there is none."""
    return "" if millionths is None else written(millionths, settings.CHAT_CURRENCY)


def spent_of(**row: Any) -> Subquery:
    """What was spent, for an annotation: `conversation=OuterRef("pk")`. The first is what it is summed by."""
    sums = Spending.objects.filter(**row).order_by().values(*list(row)[:1]).annotate(sum=Sum("cost"))
    return Subquery(sums.values("sum"))


@admin.register(Budget)
class BudgetAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["__str__", "limit", "used"]
    list_select_related = ["user", "conversation"]
    search_fields = ["user__username__istartswith", "conversation__title__istartswith"]
    search_help_text = "The beginning of a user's name or of a conversation's title"
    raw_id_fields = ["user", "conversation"]
    readonly_fields = ["used"]
    ordering = ["-pk"]
    paginator = CappedPaginator
    show_full_result_count = False
    actions_on_top = True

    class Media:
        css = {"all": ["chat/admin.css"]}

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        limit = str(Budget._meta.get_field("limit").help_text)
        kwargs["help_texts"] = {
            "user": "Their number, which the magnifier finds; or set it on the user's own page.",
            "conversation": "Its id, which the magnifier finds.",
            "limit": limit.replace("CHAT_CURRENCY", settings.CHAT_CURRENCY),
        }
        return super().get_form(request, obj, change, **kwargs)

    @admin.display(description="used of it now")
    def used(self, budget: Budget) -> str:
        return used_of(budget)


def used_of(budget: Budget) -> str:
    """How much of how much; what is used alone, where there is no limit."""
    of, whose = budget.key
    if budget.pk is None or whose is None:
        return ""
    found = accounts([whose] if of == "user" else [], [whose] if of == "conversation" else []).get(budget.key)
    return f"{found.used} ({found.percent} %)" if found is not None else "no limit"


class BudgetInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Budget
    fields = ["limit", "used"]
    readonly_fields = ["used"]
    extra = 0
    verbose_name_plural = "budget, if another than everybody's"

    @admin.display(description="used of it now")
    def used(self, budget: Budget) -> str:
        return used_of(budget)


admin.site.unregister(User)


@admin.register(User)
class Users(UserAdmin):  # type: ignore[type-arg]
    """Django's, with what each has spent this month and what they may."""

    list_display = ("username", "email", "first_name", "last_name", "is_staff", "spent")
    inlines = [BudgetInline]

    def get_queryset(self, request: HttpRequest) -> Any:
        month = {"user": OuterRef("pk"), "month": this_month()}
        return super().get_queryset(request).annotate(spent=spent_of(**month))

    def get_inlines(self, request: HttpRequest, obj: Any) -> Any:
        return super().get_inlines(request, obj) if obj is not None else []

    @admin.display(description="spent this month")
    def spent(self, user: Any) -> str:
        return money(user.spent)


@admin.register(Spending)
class SpendingAdmin(ReadOnly):
    list_display = [
        "created_at",
        "user",
        "model",
        "tokens_in",
        "tokens_out",
        "about",
        "estimated",
        "settled",
        "run_id8",
        "conversation_id8",
    ]
    list_filter = ["estimated", "settled"]
    list_select_related = ["user"]
    search_fields = ["user__username__istartswith", "model__istartswith"]
    search_ids = ("run", "conversation")
    search_help_text = (
        "The first digits of the id of a run or conversation, or the beginning of a user's name or a model"
    )
    ordering = ["-created_at"]
    exclude = ["cost"]  # in millionths, where `about` says it
    readonly_fields = ["about"]

    @admin.display(description="about", ordering="cost")
    def about(self, row: Spending) -> str:
        return money(row.cost) or "unknown"

    @admin.display(description="run")
    def run_id8(self, row: Spending) -> str:
        return short(row.run)

    @admin.display(description="conversation")
    def conversation_id8(self, row: Spending) -> str:
        return short(row.conversation)
