"""How much a device may say: so many signals per second on average, and a burst of a few seconds' worth."""

import time
from collections import OrderedDict
from typing import Any, TypeVar
from uuid import UUID

from django.conf import settings

from chat.errors import Code, Refused

BURST_SECONDS = 5
REMEMBERED = 10_000  # devices; the one that spoke longest ago is forgotten, and has its whole burst again

Speaker = tuple[Any, UUID | None]  # user, device; None: whatever the user says without listening


K = TypeVar("K")
V = TypeVar("V")


class Remembered(OrderedDict[K, V]):
    """Of so many keys at most: the one that was set longest ago is forgotten."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)


class Allowances:
    """Of the devices that speak to this process, whatever doors they use."""

    def __init__(self) -> None:
        self._left: Remembered[Speaker, tuple[float, float]] = Remembered(REMEMBERED)  # → signals, at this moment
        self._done: Remembered[Speaker, float] = Remembered(REMEMBERED)  # user, conversation → when

    def spend(self, speaker: Speaker) -> None:
        """Take one signal from the allowance, which fills again with time. Raises Refused when it is empty."""
        rate, now = settings.CHAT_SIGNALS_PER_SECOND, time.monotonic()
        left, at = self._left.get(speaker, (rate * BURST_SECONDS, now))
        left = min(rate * BURST_SECONDS, left + (now - at) * rate)
        if left < 1:
            raise Refused(Code.RATE, "Too many signals.", retry_after=round((1 - left) / rate, 2))
        self._left[speaker] = left - 1, now

    def is_due(self, who: tuple[Any, UUID], seconds: float) -> bool:
        """True at most once in so many seconds for a user in a conversation."""
        now = time.monotonic()
        if now < self._done.get(who, now - seconds) + seconds:
            return False
        self._done[who] = now
        return True
