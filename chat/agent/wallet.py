"""What an attempt of a run uses, token by token, and the budgets it is paid from.

The cost of a token here is a few additions, whatever the answer's length and however many runs there are: no query, no
walk through what was said before. What other processes spend is learned from the database, see `purses.py`.
"""

import math
from collections.abc import Mapping
from copy import copy
from typing import Any
from weakref import WeakSet

from django.conf import settings

from chat.agent.provider import Notice, Reasoning, Text, ToolInput, Usage
from chat.models import Run
from chat.models.budget import Account, Key
from chat.models.spending import Spending, added
from chat.prices import cost, per_token, tokens_in

MOST_TOKENS = 2**53
BYTES_PER_TOKEN = 3.5  # of UTF-8, where nobody has counted: rather too many tokens than too few


class UsedUp(Exception):
    """A budget's hard limit was crossed."""

    def __init__(self, account: Account) -> None:
        super().__init__(f"the budget of {account.key[0]} {account.key[1]} is used up")
        self.account = account


class Meter:
    """Counts what a provider says that it has used, and estimates what it has not counted yet."""

    def __init__(self, prices: Mapping[str, float] | None) -> None:
        self._prices = prices
        self._before: dict[str, int] = {}  # in calls that are over
        self._now: dict[str, int] = {}  # as counted in this one
        self._uncounted = 0  # bytes since
        self._counted_cost = self._cost_of({})
        self._was_estimated = False

    def calls(self) -> None:
        """The model is asked, once more: counts begin anew."""
        self._was_estimated = self.estimated
        self._before, self._now, self._uncounted = self.usage, {}, 0
        self._counted_cost = self._cost_of(self._before)

    def hears(self, text: str) -> None:
        self._uncounted += len(text.encode(errors="replace"))

    def counts(self, tokens: Mapping[str, Any]) -> None:
        """All of this call so far, and what was heard with it."""
        # Only what the log can hold: a bad number must not keep a run from ending.
        self._now = {name: count for name, count in tokens.items() if type(count) is int and 0 <= count < MOST_TOKENS}
        self._uncounted = 0
        self._counted_cost = self._cost_of(added([self._before, self._now]))

    @property
    def now(self) -> dict[str, int]:
        """As counted by who makes the tokens, in this call alone."""
        return dict(self._now)

    @property
    def _guess(self) -> int:
        return math.ceil(self._uncounted / BYTES_PER_TOKEN)

    @property
    def estimated(self) -> bool:
        """Some of it was not counted by who makes the tokens."""
        return self._was_estimated or self._uncounted > 0

    @property
    def usage(self) -> dict[str, int]:
        """By the provider's own names."""
        guessed = {"output_tokens": self._guess} if self._uncounted else {}
        return added([self._before, self._now, guessed])

    @property
    def cost(self) -> int | None:
        """In millionths; None if there is no price for some of it."""
        if self._counted_cost is None:
            return None
        if not self._uncounted:
            return round(self._counted_cost)
        price = (self._prices or {}).get("output_tokens")
        return None if price is None else round(self._counted_cost + self._guess * price)

    def _cost_of(self, usage: Mapping[str, int]) -> float | None:
        return cost(self._prices, usage)


class Purse:
    """What one budget has had spent, as this process knows it. No account: it has no limit."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.account: Account | None = None
        self.spent = 0
        self.wallets: WeakSet[Wallet] = WeakSet()  # that pay from it, here

    def learn(self, account: Account | None) -> None:
        """What the database says. Of our own runs we know better than what they last wrote there."""
        self.account = account
        if account is not None:
            self.spent = account.spent + sum(wallet.paid - wallet.stored for wallet in self.wallets)

    def check(self) -> None:
        """Raises UsedUp."""
        if self.account is not None and self.spent >= self.account.hard:
            raise UsedUp(self.account)


class Wallet:
    """One attempt's."""

    def __init__(self, run: Run, model: str, purses: list[Purse]) -> None:
        self.purses = purses
        self.meter = Meter(per_token(settings.CHAT_PRICES, model))
        self.paid = 0  # millionths that the purses know of
        self.stored = 0  # and that others can read
        self.is_new = False  # there is something to store
        self._spending = Spending.of(run, model)
        for purse in purses:
            purse.wallets.add(self)

    def calls(self) -> None:
        """The model is to be asked. Raises UsedUp if there is no money for it."""
        self.meter.calls()
        self.check()

    def takes(self, event: object) -> None:
        """Something that the provider said. Raises UsedUp if that was too much."""
        match event:
            case Text(text) | Reasoning(text) | ToolInput(text):
                self.meter.hears(text)
            case Usage(tokens):
                self.meter.counts(tokens)
            case Notice(code=code) if code:  # it tries again: what it has used for nothing is paid for as well
                self.meter.calls()
            case _:
                return
        self._pay()
        self.check()

    def check(self) -> None:
        """Raises UsedUp."""
        for purse in self.purses:
            purse.check()

    def _pay(self) -> None:
        now = self.meter.cost or 0
        for purse in self.purses:
            purse.spent += now - self.paid
        self.paid, self.is_new = now, True

    def close(self) -> None:
        """It is settled: the database knows all of it."""
        for purse in self.purses:
            purse.wallets.discard(self)

    def spending(self) -> Spending:
        """As it is to be stored now."""
        usage, row = self.meter.usage, copy(self._spending)
        row.usage, row.cost, row.estimated = usage, self.meter.cost, self.meter.estimated
        row.tokens_in, row.tokens_out = tokens_in(usage), usage.get("output_tokens", 0)
        return row
