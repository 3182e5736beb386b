"""A device that travels: its network fails in every way networks do, and it comes back by whatever door there is."""

import asyncio
import random
import time

from bench.client import Device
from bench.followers import Follower, Story
from bench.http_client import DOORS, Poll
from bench.process import Process
from tests.fault_proxy import FaultProxy

SHARES = (50, 30, 20)  # percent, in the order of DOORS
FAULTS = ("reset", "half a frame", "black hole", "delayed", "sliced")
NOTICE_SECONDS = 2.0  # so long a cut may go unnoticed, since nothing is said; then it becomes a reset


class Traveller(Follower):
    """A follower behind a proxy of its own."""

    def __init__(
        self,
        server: Process,
        session: str,
        conversation: str,
        story: Story,
        proxy: FaultProxy,
        chance: random.Random,
    ) -> None:
        self.proxy, self._chance = proxy, chance
        self._last: Device | None = None
        super().__init__(server, session, conversation, story)

    def _new(self) -> Device:
        """Half the polls after a poll go on with the connection they had, if they know where that ended."""
        door = self._chance.choices(DOORS, SHARES)[0]
        self._story.doors[door] += 1
        last = self._last
        goes_on = isinstance(last, Poll) and last.serial == self.view.cursor and self._chance.random() < 0.5
        self._last = self._at(door, self.proxy.port, last if goes_on else None)
        return self._last

    async def _cut(self) -> float:
        """One of FAULTS. The time is that of the end of the connection, as the device sees it."""
        fault = self._chance.choice(FAULTS)
        self._story.faults[fault] += 1
        self.calm = False
        faults = self.proxy.faults
        match fault:
            case "half a frame":
                self.proxy.end_mid_frame()
                await self._notice()
            case "black hole":
                return await self._fall_into_a_black_hole()
            case "delayed":
                faults.delay, faults.jitter = self._chance.uniform(0.01, 0.06), self._chance.uniform(0, 0.05)
                await asyncio.sleep(self._chance.uniform(0.2, 1.0))
            case "sliced":
                faults.slices = True
                await asyncio.sleep(self._chance.uniform(0.1, 0.4))
        self.proxy.reset()
        await self._notice()
        at = time.monotonic()
        self.device.cut()  # what else it had open
        return at

    async def _fall_into_a_black_hole(self) -> float:
        """The device gives up after a while. The server hears the rest, and that it is gone, when it has come back."""
        limbo = FaultProxy(self.proxy.target)
        limbo.faults.black_hole = True
        for connection in self.proxy.open:
            connection.proxy = limbo
        await asyncio.sleep(self._chance.uniform(0.2, 1.5))
        self.device.cut()
        asyncio.get_running_loop().call_later(self._chance.uniform(0, 1), limbo.heal)
        return time.monotonic()

    async def _notice(self) -> None:
        try:
            async with asyncio.timeout(NOTICE_SECONDS):
                await self.device.closed.wait()
        except TimeoutError:
            pass

    async def _come_back(self) -> bool:
        came = await super()._come_back()
        self.proxy.heal()
        self.calm = True
        return came
