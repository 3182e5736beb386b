"""Which transports did not work where, for some minutes: not every connection has to find it out again."""

import time
from collections.abc import Callable
from enum import StrEnum

FIRST = 300.0  # seconds
LONGEST = 3600.0


class Transport(StrEnum):
    """The doors of a conversation, best first."""

    WEBSOCKET = "websocket"
    SSE = "sse"
    POLL = "poll"


class Memory:
    """Forgets: a network is left behind, a proxy mended. What fails again right after that is remembered for longer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[tuple[str, Transport], tuple[float, float]] = {}  # → (until, for how long)

    def failed(self, host: str, transport: Transport) -> None:
        """It did not work there while a lesser one did."""
        _, before = self._failed.get((host, transport), (0.0, FIRST / 2))
        length = min(LONGEST, before * 2)
        self._failed[host, transport] = (self._clock() + length, length)

    def worked(self, host: str, transport: Transport) -> None:
        self._failed.pop((host, transport), None)

    def until(self, host: str, transport: Transport) -> float:
        """When it is worth another try, on our clock; 0 if it is now."""
        until, _ = self._failed.get((host, transport), (0.0, 0.0))
        return until if until > self._clock() else 0.0


SHARED = Memory()  # of this process
