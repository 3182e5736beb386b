"""Everybody is cut off at once and comes back within seconds: does the server take it, and what does a return cost?

Devices by all three doors, each with a session of its own, spread over conversations in some of which an answer streams
on, lose their connection in the same moment and come back, each after a random 0–5 s. Units: seconds from the cut until
the last device is in `sync` (target ≤ 8 s); returns that failed (refused, no `sync` within 30 s, or not at the log's
head in the end; target 0); queries to the database per return (target ≤ 4), counted in the server: those of the storm
less those of a span just before, in which the same answers stream to the same devices. n: returns.
"""

import argparse
import asyncio
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable
from typing import Any

from bench.client import Device, close_all, connect_all
from bench.http_client import device_at
from bench.process import Meter, Process, Site
from bench.provider import stamps
from bench.table import Row, median

NAME = "storm"
AWAY_SECONDS = 5.0
SYNC_SECONDS = 8.0
GIVE_UP_SECONDS = 30.0
MOST_QUERIES = 4.0
SHARES = {"websocket": 50, "sse": 30, "poll": 20}  # percent of the devices


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--devices", type=int, default=100 if quick else 1000)
    parser.add_argument("--conversations", type=int, default=10 if quick else 50)
    parser.add_argument("--streaming", type=int, default=2 if quick else 10, help="conversations with an answer live")
    parser.add_argument("--rate", type=float, default=20, help="tokens per second of each such answer")
    parser.add_argument("--seed", type=int, default=7)


class Comer:
    """A device that goes and comes."""

    def __init__(self, server: Process, session: str, place: dict[str, Any], door: str) -> None:
        self.place, self.door, self.id = place, door, str(uuid.uuid4())
        self._port, self._session = server.port, session
        self.device = self._new(place["head"])
        self.seconds = 0.0  # from the cut to `sync`; 0: it has not come back

    def _new(self, after: int) -> Device:
        return device_at(
            self.door,
            self._port,
            self._session,
            self.place["id"],
            device=self.id,
            after=after,
            epoch=self.place["epoch"],
        )

    async def come_back(self, cut_at: float, away: float) -> None:
        after = self.device.serial or self.place["head"]
        await asyncio.sleep(away)
        self.device = self._new(after)
        try:
            await self.device.connect()
        except OSError:
            return
        # No polling here: a thousand of these would be what is measured.
        waits = [asyncio.create_task(event.wait()) for event in (self.device.synced, self.device.closed)]
        await asyncio.wait(waits, timeout=GIVE_UP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if self.device.synced.is_set() and not self.device.lost:
            self.seconds = time.monotonic() - cut_at
        for wait in waits:
            wait.cancel()


def doors(count: int) -> list[str]:
    """As many as devices, in the shares they have, mixed evenly."""
    block = [door for door, share in SHARES.items() for _ in range(share // 10)]
    random.Random(1).shuffle(block)
    return [block[number % len(block)] for number in range(count)]


async def queries_during(server: Process, what: Awaitable[Any]) -> tuple[Counter[str], float]:
    """(by statement, seconds)"""
    before, began = Counter(server.ask("queries")), time.monotonic()
    await what
    return Counter(server.ask("queries")) - before, time.monotonic() - began


async def measure(options: argparse.Namespace) -> list[Row]:
    randomly = random.Random(options.seed)
    with Site() as site:
        made = site.prepare(conversations=options.conversations, history=40, sessions=options.devices)
        server = site.start("-m", "bench.counted_server")
        places = made["conversations"]
        comers = [
            Comer(server, session, places[number % len(places)], door)
            for number, (session, door) in enumerate(zip(made["sessions"], doors(options.devices), strict=True))
        ]
        await connect_all([one.device for one in comers])
        tokens = int(options.rate * (2 * SYNC_SECONDS + 3))  # on through the calm and the storm, and a little after
        for one in comers[: options.streaming]:
            await one.device.ask(stamps(tokens, options.rate))
        await asyncio.sleep(1.0)
        calm, calm_seconds = await queries_during(server, asyncio.sleep(AWAY_SECONDS))
        meter, cut_at = Meter(server), time.monotonic()
        for one in comers:
            one.device.cut()
        returns = asyncio.gather(*(one.come_back(cut_at, randomly.uniform(0, AWAY_SECONDS)) for one in comers))
        storm, storm_seconds = await queries_during(server, returns)
        _, server_cpu, client_cpu = meter.read()
        storm -= Counter({name: round(count * storm_seconds / calm_seconds) for name, count in calm.items()})
        await settle(comers)
        states = site.prepare(end_states=[place["id"] for place in places])
        behind = [one for one in comers if one.device.serial != states[one.place["id"]]["head"]]
        complaints = server.troubles()
        await close_all(one.device for one in comers)
    came = sorted(one.seconds for one in comers if one.seconds)
    failed = len({one.id for one in comers if not one.seconds} | {one.id for one in behind})
    last = max(came, default=float("nan"))
    each = sum(storm.values()) / options.devices
    if options.verbose:
        for statement, count in storm.most_common():
            print(f"{count / options.devices:7.2f}  {statement}", file=sys.stderr)
    what = f"{options.devices:,} devices in {options.conversations} conversations"
    mixed = ", ".join(f"{share} % {door}" for door, share in SHARES.items())
    return [
        Row(
            NAME,
            f"cut → all in sync; {what}",
            f"{last:.2f} s",
            f"≤ {SYNC_SECONDS:g} s",
            last <= SYNC_SECONDS and not failed,
            n=f"{len(came):,} returns",
            remarks=f"{mixed}; away up to {AWAY_SECONDS:g} s; half are back after {median(came):.2f} s; "
            f"server {server_cpu:.0%}, client {client_cpu:.0%} of a core, streaming included",
        ),
        Row(
            NAME,
            f"returns that failed; {what}",
            str(failed),
            "0",
            not failed,
            n=f"{options.devices:,} returns",
            remarks=f"{len(behind)} not at the head in the end; the server logged {len(complaints)} troubles"
            + (f": {complaints[-1][:160]}" if complaints else ""),
        ),
        Row(
            NAME,
            f"database queries per return; {what}",
            f"{each:.2f}",
            f"≤ {MOST_QUERIES:g}",
            each <= MOST_QUERIES,
            f"streaming alone {sum(calm.values()) / calm_seconds:,.0f}/s",
            n=f"{options.devices:,} returns",
            remarks="; ".join(f"{count / options.devices:.2f} {name}" for name, count in storm.most_common(8)),
        ),
    ]


async def settle(comers: list[Comer]) -> None:
    """Until nothing has arrived anywhere for two seconds; a minute at most."""
    last = -1
    for _ in range(30):
        if (now := sum(one.device.serial for one in comers)) == last:
            return
        last = now
        await asyncio.sleep(2.0)
