"""From the cancel signal leaving a device to the provider's connection being closed, with many runs live.

The provider is `claude` against the local Messages server, whose journal says when the client closed. Unit:
milliseconds. n: cancels. Target: p99 ≤ 250 ms with 100 runs live. Baseline: the same with one run live. Measured at
two paces: as many events per second as a service that puts four tokens into each, and one event for every token.
"""

import argparse
import asyncio
import random
import time
import uuid
from typing import Any

from bench.client import chat_device, close_all, connect_all, until
from bench.process import Site
from bench.table import Row, milliseconds, percentile, times

NAME = "cancel"
TARGET = 0.25


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--runs", type=int, default=10 if quick else 100, help="live at once")
    parser.add_argument("--cancels", type=int, default=10 if quick else 300)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[20, 80], help="events per second of each run, one after the other"
    )


async def cancels(runs: int, count: int, rate: float) -> tuple[list[float], int]:
    """Cancel `count` runs one after the other at random moments; a new one takes the place of each.

    Returns the delays, and how many answers went on to their end in spite of the cancel.
    """
    randomly = random.Random(5)
    with Site(CHAT_PROVIDER="claude", ANTHROPIC_API_KEY="bench") as site:
        upstream = site.start("-m", "bench.upstream", "--journal", "--rate", str(rate), "--tokens", "1000000")
        site.env["ANTHROPIC_BASE_URL"] = upstream.url
        made = site.prepare(conversations=runs)
        server = site.serve()
        devices = [chat_device(server.port, made["session"], one) for one in made["conversations"]]
        await connect_all(devices)
        live: dict[int, tuple[str, str]] = {}
        asked: dict[str, float] = {}

        async def begin(number: int) -> None:
            name = f"answer {uuid.uuid4()}"
            ack = await devices[number].ask(name)
            live[number] = name, ack["run"]

        for number in range(runs):
            await begin(number)
        await asyncio.sleep(2.0)
        for _ in range(count):
            number = randomly.randrange(runs)
            name, run = live[number]
            signal_id = str(uuid.uuid4())
            asked[name] = time.monotonic()
            devices[number].say({"type": "run.cancel", "id": signal_id, "run": run})
            await until(lambda d=devices[number], s=signal_id: s in d.answers, "an ack")  # type: ignore[misc]
            await begin(number)
            await asyncio.sleep(randomly.uniform(0, 0.05) + (0.3 if runs == 1 else 0))
        await asyncio.sleep(2.0)
        journal: list[dict[str, Any]] = upstream.ask("journal")
        await close_all(devices)
    stopped = [entry for entry in journal if entry["asked"] in asked]
    delays = [entry["closed"] - asked[entry["asked"]] for entry in stopped if entry["closed"] is not None]
    return delays, len(stopped) - len(delays)


async def measure(options: argparse.Namespace) -> list[Row]:
    alone, _ = await cancels(1, min(50, options.cancels), 80)
    rows = []
    for rate in options.rates:
        delays, missed = await cancels(options.runs, options.cancels, rate)
        early = options.cancels - len(delays) - missed
        for what, share, target in (("median", 0.5, None), ("p99", 0.99, TARGET)):
            figure, baseline = percentile(delays, share), percentile(alone, share)
            rows.append(
                Row(
                    NAME,
                    f"signal → provider's connection closed, {options.runs} runs of {rate:.0f} events/s live, {what}",
                    milliseconds(figure),
                    f"≤ {milliseconds(target)}" if target else "–",
                    figure <= target and not missed if target else None,
                    f"one run live {milliseconds(baseline)}",
                    times(figure, baseline),
                    str(len(delays)),
                    f"{missed} stayed open; stopped before the model was called: {early}",
                )
            )
    return rows
