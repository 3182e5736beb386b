"""The budgets of what runs in this process, compared with the database every few seconds, and before each step.

A process knows its own runs to the token, and those of others as of their last look: how far several processes may go
beyond a hard limit together is what they spend in LOOK_SECONDS.
"""

import time
from collections.abc import Collection
from weakref import WeakValueDictionary

from chat.agent.wallet import Purse, Wallet
from chat.host import Host
from chat.models import Run
from chat.models.budget import Account, Key, accounts
from chat.models.spending import Spending

LOOK_SECONDS = 2.0
STORE_SECONDS = 10.0  # what no budget is concerned with: so much is lost with a process that is killed


class Purses:
    """One for each user and each conversation of the runs here, which share it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._open: WeakValueDictionary[Key, Purse] = WeakValueDictionary()
        self._all_stored_at = 0.0

    def open(self, run: Run, model: str) -> Wallet:
        """For an attempt that was just claimed."""
        keys: list[Key] = [("conversation", run.conversation_id), ("user", run.requested_by_id)]
        purses = [self._open.setdefault(key, Purse(key)) for key in keys if key[1] is not None]
        for purse in purses:
            purse.learn(run.accounts.get(purse.key))
        return Wallet(run, model, purses)

    async def look(self, wallets: Collection[Wallet]) -> None:
        """Write down what these have used, and read what is left of their budgets."""
        due = time.monotonic() - self._all_stored_at > STORE_SECONDS
        if due:
            self._all_stored_at = time.monotonic()
        storing = {
            wallet: (wallet.paid, wallet.spending())
            for wallet in wallets
            if wallet.is_new and (due or any(purse.account is not None for purse in wallet.purses))
        }
        keys = {purse.key for wallet in wallets for purse in wallet.purses}
        found = await self._host.database.run(_look, [row for _, row in storing.values()], keys)
        for wallet, (paid, _) in storing.items():
            wallet.stored, wallet.is_new = paid, wallet.paid != paid
        for key in keys:
            if (purse := self._open.get(key)) is not None:
                purse.learn(found.get(key))


def _look(rows: list[Spending], keys: Collection[Key]) -> dict[Key, Account]:
    if rows:
        Spending.keep(rows)
    return accounts([one for of, one in keys if of == "user"], [one for of, one in keys if of == "conversation"])
