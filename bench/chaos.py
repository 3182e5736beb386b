"""Does anything get lost when devices keep losing their connection?

Devices are cut off at random moments, without a close frame, and come back after up to 0.2 s with their cursor;
meanwhile messages are sent, sent again with the same id, and stopped. Unit: violations, and seconds from the cut
to `sync` (the time away included). n: cuts. Targets: 0 lost, 0 repeated, 0 reordered, 0 altered; p99 ≤ 2 s.
Checked frame by frame with the tests' reader; at the end every device is compared with every other, with the
database, and each text with what the provider sends. Baseline: tokens lost by the plain application, cut as often.

Then all of it again through `tests/fault_proxy.py`, one before each device: half come by WebSocket, 30 % by SSE, 20 %
by long polls, and by another door by chance when they come back; they are cut by RST, by FIN in mid-frame, by a black
hole that they give up on, and while they are delayed with jitter or get slices of 1–7 bytes, also until `sync`.
The time of a cut is when the device knows: a black hole counts from when it gives up. There: median ≤ 250 ms as well.
What was under way in a black hole reaches the server after all, within a second of the device's return.
"""

import argparse
import asyncio
import math
import random
import sys
import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.client import Device, close_all, connect_all, reached
from bench.followers import STALL_SECONDS, Follower, Story, watch
from bench.process import Site
from bench.table import Row, median, milliseconds, percentile
from bench.weather import Traveller
from tests.fault_proxy import FaultProxy

NAME = "chaos"
SYNC_SECONDS = 2.0
MEDIAN_SECONDS = 0.25
KINDS = ("lost", "repeated", "reordered", "altered")
ENDS = {"completed", "cancelled", "failed", "interrupted"}


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--cuts", type=int, default=100 if quick else 1000)
    parser.add_argument("--devices", type=int, default=24)
    parser.add_argument("--conversations", type=int, default=6)
    parser.add_argument("--every", type=float, default=1.5, help="mean seconds between two cuts of one device")
    parser.add_argument("--only-faults", action="store_true", help="without the WebSockets that are cut directly")
    parser.add_argument("--seed", type=int, default=7)


class Speaker:
    """Sends to one conversation, from any of its devices, until told to end."""

    def __init__(self, followers: list[Follower], randomly: random.Random, story: Story) -> None:
        self._followers, self._randomly, self._story = followers, randomly, story

    async def speak(self, options: argparse.Namespace) -> None:
        while self._story.cuts < options.cuts:
            await self._send()

    async def _send(self) -> None:
        randomly, story = self._randomly, self._story
        signal_id = str(uuid.uuid4())
        send = {
            "type": "message.send",
            "id": signal_id,
            "text": f"/long {randomly.randint(20, 400)} /rate {randomly.choice((40, 80, 200))}",
            "when_busy": randomly.choice(("queue", "alongside", "interrupt")),
        }
        ack = await self._ask(send)
        if ack["type"] == "nack":
            story.refused += 1
            return
        story.sends.add(signal_id)
        if randomly.random() < 0.4:
            again = await self._ask(send, fresh=True)
            story.duplicates += 1
            if again.get("serial") != ack["serial"]:
                story.violated("altered", f"another answer to the same id: {ack} {again}")
        if randomly.random() < 0.4:
            await asyncio.sleep(randomly.uniform(0, 1.5))
            named = {"run": ack["run"]} if randomly.random() < 0.5 else {"send": signal_id}
            await self._ask({"type": "run.cancel", "id": str(uuid.uuid4()), **named})
            story.cancels += 1
        await reached(lambda: self._ended(ack["run"]), randomly.uniform(0, 6))

    async def _ask(self, signal: dict[str, Any], *, fresh: bool = False) -> dict[str, Any]:
        """Say it from one device after the other until one hears the answer, as a client with an outbox does."""
        name = signal["id"]
        if fresh:
            for follower in self._followers:
                follower.answers.pop(name, None)
        for _ in range(60):
            follower = self._randomly.choice(self._followers)
            follower.say(signal)
            if await reached(lambda: any(name in one.answers for one in self._followers), 0.5):
                return next(one.answers[name] for one in self._followers if name in one.answers)
        raise TimeoutError(f"no answer to {signal}")

    def _ended(self, run: str) -> bool:
        return any(one.view.runs.get(run, {}).get("state") in ENDS for one in self._followers)


async def ours(options: argparse.Namespace, *, faults: bool = False) -> tuple[Story, int]:
    """The story, and how many characters of text were compared."""
    story = Story()
    with Site(CHAT_PROVIDER="journaling") as site:
        made = site.prepare(conversations=options.conversations)
        server = site.serve()
        ids = [one["id"] for one in made["conversations"]]
        places = [ids[number % len(ids)] for number in range(options.devices)]
        async with AsyncExitStack() as ends:
            if faults:
                followers: list[Follower] = []
                for number, place in enumerate(places):
                    proxy = await ends.enter_async_context(FaultProxy(server.port, options.seed + number))
                    chance = random.Random(1000 + options.seed + number)
                    followers.append(Traveller(server, made["session"], place, story, proxy, chance))
            else:
                followers = [Follower(server, made["session"], place, story) for place in places]
            await connect_all([one.device for one in followers])
            by_place = {key: [one for one in followers if one.conversation == key] for key in ids}
            watching = [asyncio.create_task(watch(there, story)) for there in by_place.values()]
            async with asyncio.timeout(120 + 8 * options.cuts * options.every / options.devices):
                async with asyncio.TaskGroup() as group:
                    for number, one in enumerate(followers):
                        group.create_task(one.come_and_go(random.Random(options.seed + number), options))
                    for number, there in enumerate(by_place.values()):
                        group.create_task(Speaker(there, random.Random(-1 - number), story).speak(options))
            for there in by_place.values():
                there[0].say({"type": "run.cancel", "id": str(uuid.uuid4()), "scope": "all"})
            if not await reached(lambda: all(_settled(there) for there in by_place.values()), 60):
                story.violated("lost", f"not settled after 60 s: {[one.where() for one in followers]}")
            for task in watching:
                task.cancel()
            states = site.prepare(end_states=ids)
            compared = sum(compare(there, states[key], story, site.directory) for key, there in by_place.items())
            await close_all(one.device for one in followers)
        for trouble in server.troubles():
            story.violated("trouble", trouble)
        if options.verbose:
            print(story.summary(), *server.complaints()[5:], sep="\n", file=sys.stderr)
    return story, compared


def _settled(there: list[Follower]) -> bool:
    same = len({one.view.cursor for one in there}) == 1
    return same and all(run["state"] in ENDS for one in there for run in one.view.runs.values())


def compare(there: list[Follower], state: dict[str, Any], story: Story, journals: Path) -> int:
    """Every device with the first, the first with the database, the database with the provider."""
    first = there[0].view
    for one in there:
        if one.view.cursor != state["head"]:
            story.violated("lost", f"a device is at {one.view.cursor}, the log at {state['head']}")
        if one.view.comparable() != first.comparable():
            story.violated("altered", "two devices differ")
    for run, stored in state["runs"].items():
        journal = journals / f"said-{run}.txt"
        said = journal.read_text() if journal.exists() else ""  # one that was stopped before it began
        if not said.startswith(stored["text"]) or (stored["state"] == "completed" and said != stored["text"]):
            story.violated("altered", f"run {run} is not what the provider sent")
        known = first.runs.get(run)
        if known is None or first.text_of(run) != stored["text"] or known["state"] != stored["state"]:
            story.violated("altered", f"run {run} differs between device and database: {known}")
    asked = [stored["client_id"] for stored in state["runs"].values()]
    if len(asked) != len(set(asked)):
        story.violated("repeated", "a message stored twice")
    return sum(len(stored["text"]) for stored in state["runs"].values()) * len(there)


async def plain(options: argparse.Namespace) -> float:
    """The share of tokens that devices of the plain application never get, cut just as often."""
    seconds, rate = 10.0, 40.0
    with Site() as site:
        server = site.serve_plain()
        paths = [f"/plain/group-{number % options.conversations}/" for number in range(options.devices)]
        devices = [Device(server.port, path) for path in paths]
        await connect_all(devices)
        for device in devices[: options.conversations]:
            device.say({"tokens": int(seconds * rate), "rate": rate})
        end = time.monotonic() + seconds
        received = 0

        async def come_and_go(number: int, randomly: random.Random) -> None:
            nonlocal received
            while time.monotonic() < end:
                await asyncio.sleep(randomly.uniform(0, 2 * options.every))
                received += devices[number].frames
                devices[number].cut()
                await asyncio.sleep(randomly.uniform(0, 0.2))
                devices[number] = await Device(server.port, paths[number]).connect()
                await reached(devices[number].synced.is_set, 10)

        await asyncio.gather(*(come_and_go(n, random.Random(options.seed + n)) for n in range(options.devices)))
        await asyncio.sleep(1.0)
        received += sum(device.frames for device in devices)
        await close_all(devices)
    sent: int = options.devices * (int(seconds * rate) + 1)
    return 1 - received / sent


async def measure(options: argparse.Namespace) -> list[Row]:
    lost = await plain(options)
    rows = []
    if not options.only_faults:
        rows += rows_of(*await ours(options), options, "", lost, median_target=math.inf)
    return rows + rows_of(
        *await ours(options, faults=True), options, "all doors, all faults: ", lost, median_target=MEDIAN_SECONDS
    )


def rows_of(
    story: Story, compared: int, options: argparse.Namespace, what: str, lost: float, *, median_target: float
) -> list[Row]:
    """What was violated, and how fast they were back."""
    late, half = percentile(story.returns, 0.99), median(story.returns)
    target = "" if math.isinf(median_target) else f"median ≤ {milliseconds(median_target)}, "
    came_by = ", ".join(f"{count} {name}" for name, count in sorted((story.doors + story.faults).items()))
    return [
        Row(
            NAME,
            f"{what}violations ({', '.join(KINDS)}); {options.devices} devices, {options.conversations} conversations",
            ", ".join(str(story.violations[kind]) for kind in KINDS),
            "0, 0, 0, 0",
            not story.violations,
            f"plain app loses {lost:.1%} of the tokens",
            n=f"{story.cuts:,} cuts",
            remarks=f"{len(story.sends)} messages, {story.duplicates} sent twice, {story.cancels} stopped, "
            f"{story.refused} refused; {compared:,} characters compared; {story.unexpected} connections ended "
            f"uncut, {story.stalls} devices stood still for {STALL_SECONDS:g} s"
            + (f"; {story.violations['trouble']} troubles in the server" if story.violations["trouble"] else "")
            + "".join(f"; {one}" for one in story.examples[:3]),
        ),
        Row(
            NAME,
            f"{what}cut → sync, p99",
            milliseconds(late),
            f"{target}≤ {milliseconds(SYNC_SECONDS)}",
            late <= SYNC_SECONDS and half <= median_target and len(story.returns) == story.cuts,
            n=f"{len(story.returns):,} returns",
            remarks=f"median {milliseconds(half)}, of which up to 200 ms are the device's own pause"
            + (f"; a black hole counts from when the device gave up; {came_by}" if came_by else ""),
        ),
    ]
