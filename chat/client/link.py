"""What a transport has to do: carry frames one way and signals the other, and say how it ended. Nothing else."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from chat.client.address import Address, Identity
from chat.client.errors import Lost
from chat.client.outbox import Signal


@dataclass(frozen=True, slots=True)
class Ears:
    """Where a link tells what it hears.

    `frame(fields, size)` for what the connection brings; `answer(fields)` for what came another way; `alive()` when
    there is a sign of life without a frame; `unsaid(signal)` when one got no answer, which may be ours or theirs.
    """

    frame: Callable[[dict[str, Any], int], None]
    answer: Callable[[dict[str, Any]], None]
    alive: Callable[[], None]
    unsaid: Callable[[Signal], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where to connect, and as whom. `query` is asked at each connection: the cursor moves.

    `position` is the last serial we were given; `room` waits until there is room for more.
    """

    address: Address
    identity: Identity
    query: Callable[[], dict[str, str]]
    position: Callable[[], int | None]
    room: Callable[[], Awaitable[None]]


class Link(Protocol):
    """One connection."""

    async def run(self) -> None:
        """Connect and hear until it ends. Raises Lost, or returns. Cancelled: closes what is open."""

    def say(self, signal: Signal) -> None:
        """Send without waiting. What does not get through is heard of by the connection's end, or by `unsaid`."""


def parsed(text: str | bytes) -> dict[str, Any]:
    """A frame's fields. Raises Lost: whoever sends something else is not our server."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):  # the latter: brackets in brackets, deeper than any frame of ours
        fields = None
    return frame(fields)


def frame(fields: Any) -> dict[str, Any]:
    """The same of what was JSON already."""
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise Lost("what came is not a frame", refused=True)
    return fields
