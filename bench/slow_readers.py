"""What devices that do not read cost the server, and those beside them.

Followers read an answer by WebSocket, first alone, then beside as many devices that came by one of the doors, were let
in and read nothing more. Units: milliseconds from the provider's token to a follower, p99 (target ≤ 1.5 times that
of the followers alone, in the same server); MiB by which the server grows while they stall (targets: ≤ 64 for all, ≤ 2
for each). n: every token on every follower.
"""

import argparse
import asyncio
from dataclasses import dataclass
from typing import Any

from bench.client import Clock, Device, chat_device, close_all, connect_all, reached
from bench.http_client import DOORS, device_at
from bench.process import Process, Site
from bench.provider import stamps
from bench.table import Row, median, milliseconds, percentile, times

NAME = "slow_readers"
MOST_TIMES = 1.5
MOST_MIB = 64.0
MOST_MIB_EACH = 2.0


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--followers", type=int, default=20)
    parser.add_argument("--slow", type=int, default=20, help="devices that do not read")
    parser.add_argument("--rate", type=float, default=400, help="tokens per second of the answer")
    parser.add_argument("--seconds", type=float, default=2 if quick else 10, help="each of the two answers")


@dataclass(slots=True)
class Beside:
    """The followers' delays in seconds, alone and beside those that do not read; MiB the server grew by."""

    alone: list[float]
    beside: list[float]
    grown: float
    troubles: list[str]


async def answer(server: Process, place: dict[str, Any], session: str, options: argparse.Namespace) -> list[float]:
    """Every token of one answer on every follower."""
    clock = Clock()
    followers = [chat_device(server.port, session, place, clock) for _ in range(options.followers)]
    await connect_all(followers)
    tokens = int(options.rate * options.seconds)
    await followers[0].ask(stamps(tokens, options.rate))
    await reached(lambda: len(clock.delays) >= tokens * len(followers), 30 + 3 * options.seconds)
    await reached(lambda: clock.ended, 10)
    await asyncio.sleep(0.2)
    place["head"] = followers[0].serial  # who comes next is not given this answer, too
    await close_all(followers)
    if len(clock.delays) != tokens * len(followers):
        raise RuntimeError(f"{len(clock.delays)} of {tokens * len(followers)} tokens")
    return clock.seconds()


async def beside(door: str, options: argparse.Namespace) -> Beside:
    with Site() as site:
        made = site.prepare(conversations=2)
        server, session = site.serve(), made["session"]
        warm, place = made["conversations"]
        await answer(server, warm, session, options)
        alone = await answer(server, warm, session, options)
        stalled: list[Device] = [
            device_at(door, server.port, session, place["id"], after=place["head"], epoch=place["epoch"])
            for _ in range(options.slow)
        ]
        await connect_all(stalled)
        for one in stalled:
            one.stop_reading()
        before = server.resident()
        delays = await answer(server, place, session, options)
        grown = (server.resident() - before) / 2**20
        troubles = server.troubles()
        await close_all(stalled)
        return Beside(alone, delays, grown, troubles)


async def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for door in DOORS:
        found = await beside(door, options)
        p99, baseline = percentile(found.beside, 0.99), percentile(found.alone, 0.99)
        ratio = p99 / baseline
        wrong = "; ".join(found.troubles[:3])
        each = found.grown / options.slow
        rows += [
            Row(
                NAME,
                f"token → {options.followers} followers, p99, beside {options.slow} that do not read, {door}",
                milliseconds(p99),
                f"≤ {MOST_TIMES:g}×",
                ratio <= MOST_TIMES and not wrong,
                f"alone {milliseconds(baseline)}",
                times(p99, baseline),
                f"{len(found.beside):,}",
                f"median {milliseconds(median(found.beside))}, alone {milliseconds(median(found.alone))}"
                + (f"; {wrong}" if wrong else ""),
            ),
            Row(
                NAME,
                f"memory of {options.slow} that do not read, {door}",
                f"{found.grown:.1f} MiB",
                f"≤ {MOST_MIB:g} MiB",
                found.grown <= MOST_MIB and each <= MOST_MIB_EACH,
                n=f"{options.slow}",
                remarks=f"{each:.2f} MiB each; the followers' frames and the log included",
            ),
        ]
    return rows
