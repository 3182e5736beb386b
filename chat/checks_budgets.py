"""What would go wrong with budgets later, said at the start. See `chat/checks.py`."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, register

from chat import prices

SUMS = ("CHAT_USER_BUDGET", "CHAT_CONVERSATION_BUDGET")


@register()
def what_may_be_spent(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """Budgets, and prices without which none counts anything."""
    for name in SUMS:
        value = getattr(settings, name)
        if not math.isfinite(value) or value < 0:
            yield Error(f"{name} is {value}.", hint="Give a sum in CHAT_CURRENCY; 0 for none.", id="chat.E046")
    percent = settings.CHAT_BUDGET_HARD_PERCENT
    if not 100 <= percent < math.inf:
        yield Error(
            f"CHAT_BUDGET_HARD_PERCENT is {percent}.",
            hint="Give 100 or more: what runs is stopped when so much of a budget is used. 110 is good.",
            id="chat.E047",
        )
    reserve = settings.CHAT_BUDGET_RESERVE
    if not 0 < reserve < math.inf:
        yield Error(
            f"CHAT_BUDGET_RESERVE is {reserve}.",
            hint="Give a sum above 0, about what a usual answer costs: without it any number could begin at once.",
            id="chat.E048",
        )
    if not settings.CHAT_CURRENCY.strip() or len(settings.CHAT_CURRENCY) > 8:
        yield Error(
            f"CHAT_CURRENCY is {settings.CHAT_CURRENCY!r}.",
            hint="Give what people call the currency of CHAT_PRICES, such as USD, in 8 characters at most.",
            id="chat.E049",
        )
    if any(getattr(settings, name) > 0 for name in SUMS) and not _has_prices():
        yield checks.Warning(
            "There is a budget, and CHAT_PRICES has no price: nothing counts, so nothing is ever refused.",
            hint="Give the prices of the models that answer in CHAT_PRICES.",
            id="chat.W003",
        )


def _has_prices() -> bool:
    try:
        return bool(prices.read(settings.CHAT_PRICES))
    except ValueError:  # another check tells
        return True
