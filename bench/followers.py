"""Devices that lose their connection again and again, and judge every frame they get with the tests' reader."""

import argparse
import asyncio
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import orjson

from bench.client import Device, reached
from bench.http_client import device_at
from bench.process import Process
from tests.reducer import View

STALL_SECONDS = 1.5
_KINDS = {
    "a gap": "lost",
    "a repeat": "repeated",
    "ended twice": "repeated",
    "a message twice": "repeated",
    "a hole": "reordered",
}


@dataclass
class Story:
    """What happened, for all devices together."""

    cuts: int = 0
    returns: list[float] = field(default_factory=list)
    violations: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    sends: set[str] = field(default_factory=set)
    duplicates: int = 0
    cancels: int = 0
    refused: int = 0
    unexpected: int = 0  # connections that ended and nobody had cut them
    stalls: int = 0  # devices that stood still for STALL_SECONDS although there was more and their line was good

    doors: Counter[str] = field(default_factory=Counter)  # returns by door
    faults: Counter[str] = field(default_factory=Counter)  # cuts by kind

    def summary(self) -> str:
        """For --verbose."""
        kinds = dict(self.violations + self.doors + self.faults)
        slow = ", ".join(f"{seconds:.2f}" for seconds in sorted(self.returns)[-10:])
        return "\n".join([f"{kinds}; slowest returns: {slow} s", *self.examples[:20]])

    def violated(self, kind: str, what: str) -> None:
        self.violations[kind] += 1
        self.examples.append(what[:200])


class Follower:
    """One device across all its connections: what it knows is checked with each frame."""

    calm = True  # nothing stands between it and the server now

    def __init__(self, server: Process, session: str, conversation: str, story: Story) -> None:
        self._server, self._session, self._story = server, session, story
        self.conversation = conversation
        self.id = str(uuid.uuid4())
        self.view = View()
        self.epoch: str | None = None
        self.answers: dict[str, dict[str, Any]] = {}
        self.device = self._new()

    def _new(self) -> Device:
        return self._at("websocket", self._server.port)

    def _at(self, door: str, port: int, resumes: Device | None = None) -> Device:
        """A connection of this device, from where it stands."""
        return device_at(
            door,
            port,
            self._session,
            self.conversation,
            device=self.id,
            after=self.view.cursor if self.view.cursor >= 0 else None,
            epoch=self.epoch,
            listen=self._event,
            ever=self._control,
            resumes=resumes,
        )

    def _event(self, device: Device, body: bytes, now: int) -> None:
        if device is self.device:
            self._apply(orjson.loads(body))

    def _control(self, device: Device, frame: dict[str, Any]) -> None:
        if device is not self.device:
            return
        if frame["type"] == "hello":
            self.epoch = frame["epoch"]
        elif frame["type"] in {"ack", "nack"} and frame["id"]:
            self.answers[frame["id"]] = frame
        elif frame["type"] == "reset":
            self._story.violated("lost", f"reset: {frame}")
        elif frame["type"] in {"snapshot", "snapshot.text"}:
            self._apply(frame)

    def _apply(self, frame: dict[str, Any]) -> None:
        try:
            self.view.apply(frame)
        except (AssertionError, KeyError, ValueError) as error:
            text = f"{error!r}"
            kind = next((kind for mark, kind in _KINDS.items() if mark in text), "altered")
            self._story.violated(kind, text)
            self.view = View()  # begin afresh, so that one violation is counted once
            self.device.cut()

    async def come_and_go(self, randomly: random.Random, options: argparse.Namespace) -> None:
        """Be cut off again and again until there have been enough cuts."""
        while True:
            await self._live(randomly.uniform(0, 2 * options.every))
            if self._story.cuts >= options.cuts:
                return
            self._story.cuts += 1
            began = await self._cut()
            await asyncio.sleep(randomly.uniform(0, 0.2))
            if await self._come_back():
                self._story.returns.append(time.monotonic() - began)
            else:
                self._story.violated("lost", "no sync within 30 s")

    async def _live(self, seconds: float) -> None:
        """Follow for a while. Whoever loses the connection for no reason comes back at once, up to 10 times."""
        end = time.monotonic() + seconds
        for _ in range(10):
            try:
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    await self.device.closed.wait()
            except TimeoutError:
                return
            self._story.unexpected += 1
            await self._come_back()

    async def _cut(self) -> float:
        """Lose the connection. Returns when the device knew, on the monotonic clock."""
        self.device.cut()
        return time.monotonic()

    async def _come_back(self) -> bool:
        self.device = self._new()
        await self.device.connect()
        return await reached(self.device.synced.is_set, 30)

    def say(self, signal: dict[str, Any]) -> None:
        """Speak if the socket is there; the speaker tries again elsewhere if not."""
        if not self.device.lost and self.device.synced.is_set():
            self.device.say(signal)

    def where(self) -> str:
        """For messages: which door, where it stands."""
        state = "lost" if self.device.lost else "live" if self.device.synced.is_set() else "opening"
        return f"{type(self.device).__name__} {state} at {self.view.cursor}"


async def watch(there: list[Follower], story: Story) -> None:
    """Count devices of one conversation that stand still although another one has more. Until cancelled."""
    stood: dict[str, tuple[int, float]] = {}
    while True:
        await asyncio.sleep(0.25)
        now, front = time.monotonic(), max(one.view.cursor for one in there)
        for one in there:
            at, since = stood.get(one.id, (-1, now))
            if one.view.cursor != at or at == front or not one.calm or not one.device.synced.is_set():
                stood[one.id] = one.view.cursor, now
            elif now - since > STALL_SECONDS:
                story.stalls += 1
                story.examples.append(f"stood still: {one.where()}, others at {front}")
                stood[one.id] = at, now + 60  # once
