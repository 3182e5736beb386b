"""What was asked and has no answer yet. Pure.

It is asked again under the same id until it is answered, so it is carried out once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chat.client.frames import Ack, Nack
from chat.client.machine import backoff

TRY_AGAIN = frozenset({"storage", "rate", "draining"})
TRIES = 6  # of being refused for now, before we believe it

Signal = dict[str, Any]


@dataclass(slots=True)
class _Asked:
    signal: Signal
    tries: int = 0
    again_at: float | None = None
    unsent: int = 0


class Outbox:
    """`flush` what there is when a connection greets us, `answered` with each answer, `tick` when it is `due`."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._asked: dict[str, _Asked] = {}

    @property
    def signals(self) -> list[Signal]:
        """In the order they were asked."""
        return [asked.signal for asked in self._asked.values()]

    @property
    def due(self) -> float | None:
        return min((asked.again_at for asked in self._asked.values() if asked.again_at is not None), default=None)

    def ask(self, signal: Signal) -> None:
        """From now on it is asked. One with an id that is already asked is the same."""
        self._asked.setdefault(signal["id"], _Asked(signal))

    def forget(self, signal_id: str) -> None:
        self._asked.pop(signal_id, None)

    def flush(self) -> list[Signal]:
        """A connection is there: everything, in the order it was asked."""
        for asked in self._asked.values():
            asked.again_at = None
        return self.signals

    def answered(self, frame: Ack | Nack, now: float) -> bool:
        """True: this is the answer. False: it is asked again later, or nobody asked."""
        asked = self._asked.get(frame.id or "")
        if asked is None:
            return False
        if isinstance(frame, Nack) and frame.code in TRY_AGAIN and asked.tries < TRIES:
            asked.tries += 1
            asked.again_at = now + frame.retry_after + backoff(asked.tries, self._random)
            return False
        del self._asked[asked.signal["id"]]
        return True

    def unsent(self, signal: Signal, now: float) -> None:
        """It did not get through, or its answer did not get back: ask again, for as long as it takes."""
        asked = self._asked.get(signal.get("id", ""))
        if asked is not None:
            asked.unsent += 1
            asked.again_at = now + backoff(asked.unsent, self._random)

    def tick(self, now: float) -> list[Signal]:
        """What is to be asked again now."""
        late = [asked for asked in self._asked.values() if asked.again_at is not None and now >= asked.again_at]
        for asked in late:
            asked.again_at = None
        return [asked.signal for asked in late]
