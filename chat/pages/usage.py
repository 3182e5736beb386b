"""What somebody has used and may use: a page of their own, and the warning beside a conversation.

Only ever of who asks: what others spend is nobody's concern, save what a conversation has used, which its people see.
"""

from typing import Any
from uuid import UUID

from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from chat.models import Conversation, Participant, Spending
from chat.models.budget import WARN_PERCENT, accounts
from chat.models.spending import summed, this_month
from chat.pages.conversations import page, partial

SHOWN = 20  # conversations, those that cost most
MONTHS = 12


@require_GET
@page
def usage(request: HttpRequest) -> HttpResponse:
    """This month against the budget, by conversation, and the months before."""
    mine = Spending.objects.filter(user=request.user.pk)
    account = accounts([request.user.pk], []).get(("user", request.user.pk))
    now = mine.filter(month=this_month())
    earlier = mine.filter(month__lt=this_month()).order_by().values("month")
    context = {
        "month": this_month(),
        "account": account,
        "warn_at": account and account.limit * WARN_PERCENT / 100,
        "now": summed(now),
        "pretended": now.filter(provider="scripted").exclude(cost=None).exists(),
        "conversations": _by_conversation(request.user, now),
        "months": earlier.annotate(answers=Count("run", distinct=True), cost=Sum("cost")).order_by("-month")[:MONTHS],
    }
    return render(request, "chat/usage.html", context)


def _by_conversation(user: Any, spending: Any) -> list[dict[str, Any]]:
    sums = spending.order_by().values("conversation").annotate(answers=Count("run", distinct=True), sum=Sum("cost"))
    rows = [{**row, "cost": row["sum"]} for row in sums.order_by("-sum")[:SHOWN]]
    found = Conversation.objects.filter(pk__in=[row["conversation"] for row in rows], participants__user=user)
    titles = dict(found.values_list("pk", "title"))
    return [{**row, "title": titles.get(row["conversation"])} for row in rows]


@require_GET
@partial
def budget(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What is nearly, or wholly, used up: this person's budget, or this conversation's."""
    mine = get_object_or_404(Participant, conversation=pk, user=request.user.pk)
    return render(request, "chat/_budget.html", {"accounts": accounts([mine.user_id], [pk]).values()})
