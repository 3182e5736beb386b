"""Channel layers that behave as badly as real ones do: real layers, for tests to name in CHANNEL_LAYERS."""

import asyncio
import random
from typing import Any, ClassVar

from chat.layer import OneProcessLayer


def layer(name: str, **config: Any) -> dict[str, Any]:
    """CHANNEL_LAYERS with one of the classes below."""
    return {"default": {"BACKEND": f"tests.layers.{name}", "CONFIG": {"capacity": 10_000, **config}}}


class Silent(OneProcessLayer):
    """Takes everything and delivers nothing."""

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Lost."""


class Late(OneProcessLayer):
    """Delivers what is said of a conversation later, as a network does that is full."""

    SECONDS = 0.3

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        if group.startswith("conversation."):
            await asyncio.sleep(self.SECONDS)
        await super().group_send(group, message)


class Stubborn(OneProcessLayer):
    """Swallows the first cancel of a task that waits for it, as libraries do when a reply comes in the same moment."""

    async def group_add(self, group: str, channel: str) -> None:
        await _unmoved()
        await super().group_add(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        await _unmoved()
        await super().group_send(group, message)


async def _unmoved() -> None:
    try:
        await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling() > 1:
            raise


class Unreliable(OneProcessLayer):
    """Loses a tenth, says a tenth twice and holds a tenth back behind the next one, by a seed."""

    def __init__(self, seed: int = 1, share: float = 0.1, **config: Any) -> None:
        super().__init__(**config)
        self._chance = random.Random(seed)
        self._share = share
        self._late: list[tuple[str, dict[str, Any]]] = []
        self.lost = self.doubled = self.swapped = 0

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        fate = self._chance.random() / self._share
        if fate < 1:
            self.lost += 1
            return
        if fate < 2:
            self.swapped += 1
            self._late.append((group, message))
            return
        for _ in range(2 if fate < 3 else 1):
            await super().group_send(group, message)
        self.doubled += fate < 3
        late, self._late = self._late, []
        for earlier in late:
            await super().group_send(*earlier)


class Raising(OneProcessLayer):
    """Raises for a group whose name contains `groups`, as a layer does whose Redis is away, while `away`."""

    away: ClassVar[bool] = True

    def __init__(self, groups: str = "conversation.", **config: Any) -> None:
        super().__init__(**config)
        self._groups = groups

    def _check(self, group: str) -> None:
        if self.away and self._groups in group:
            raise ConnectionError("no Redis here")

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self._check(group)
        await super().group_send(group, message)

    async def group_add(self, group: str, channel: str) -> None:
        self._check(group)
        await super().group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self._check(group)
        await super().group_discard(group, channel)


class Slow(OneProcessLayer):
    """Joining takes effect at once and leaving late, and both take a while, as over a network."""

    SECONDS = 0.02

    async def group_add(self, group: str, channel: str) -> None:
        await super().group_add(group, channel)
        await asyncio.sleep(self.SECONDS / 4)

    async def group_discard(self, group: str, channel: str) -> None:
        await asyncio.sleep(self.SECONDS)
        await super().group_discard(group, channel)


class Hanging(OneProcessLayer):
    """Lets nobody join a conversation, and does not say so, while `hangs`."""

    hangs: ClassVar[bool] = True

    async def group_add(self, group: str, channel: str) -> None:
        while self.hangs and "conversation." in group:  # noqa: ASYNC110 - there is nobody to be told by
            await asyncio.sleep(0.05)
        await super().group_add(group, channel)
