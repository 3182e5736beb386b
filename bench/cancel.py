"""From the cancel signal leaving a device to the provider's connection being closed, with many runs live.

The provider is `claude` against the local Messages server, whose journal says when the client closed. Unit:
milliseconds. n: cancels. Target: p99 ≤ 250 ms with 100 runs live. Baseline: the same with one run live. Measured at
two paces: as many events per second as a service that puts four tokens into each, and one event for every token.

Then the device is on a server and the provider on a worker, with PostgreSQL and Redis: p99 ≤ 250 ms with 50 runs live.
And with Redis standing still, so that nothing is announced: p99 ≤ 1.25 s. A run that streams learns of it from its next
commit, which is refused; one that waits, when the worker looks at its runs, once a second.
"""

import argparse
import asyncio
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from bench.client import chat_device, close_all, connect_all, until
from bench.fleet import Backing
from bench.process import Process, Site
from bench.table import Row, milliseconds, percentile, times
from tests.backends import postgresql, redis

NAME = "cancel"
TARGET = 0.25
BY_LOOKING = 1.0 + TARGET  # an engine looks once a second: RENEW_SECONDS in chat/agent/engine.py
PLACES = {"server": "", "worker": " at a worker", "silence": " at a worker, Redis standing still"}


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--runs", type=int, default=10 if quick else 100, help="live at once")
    parser.add_argument("--worker-runs", type=int, default=10 if quick else 50, help="live at once on a worker")
    parser.add_argument("--places", nargs="+", choices=PLACES, default=list(PLACES))
    parser.add_argument("--cancels", type=int, default=10 if quick else 300)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[20, 80], help="events per second of each run, one after the other"
    )


@asynccontextmanager
async def installed(place: str, runs: int, rate: float) -> AsyncIterator[tuple[Process, Process, Any, Backing | None]]:
    """The server, the Messages server, what `bench.prepare` made, and Redis if there is one."""
    with ExitStack() as stack:
        site = stack.enter_context(Site(CHAT_PROVIDER="claude", ANTHROPIC_API_KEY="bench"))
        upstream = site.start("-m", "bench.upstream", "--journal", "--rate", str(rate), "--tokens", "1000000")
        site.env["ANTHROPIC_BASE_URL"] = upstream.url
        layer = None
        if place != "server":
            database = stack.enter_context(postgresql(site.directory))
            url = stack.enter_context(redis(site.directory))
            layer = Backing.redis(site.directory, url)
            site.env |= {"DATABASE_URL": database, "REDIS_URL": url, "CHAT_ENGINE": "procrastinate"}
        made = site.prepare(conversations=runs)
        server = stack.enter_context(site.serve())
        if place != "server":
            stack.enter_context(site.start("manage.py", "work"))  # ended before the database it uses
        yield server, upstream, made, layer


async def cancels(place: str, runs: int, count: int, rate: float) -> tuple[list[float], int]:
    """Cancel `count` runs one after the other at random moments; a new one takes the place of each.

    Returns the delays, and how many answers went on to their end in spite of the cancel.
    """
    randomly = random.Random(5)
    async with installed(place, runs, rate) as (server, upstream, made, layer):
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
        if layer and place == "silence":
            layer.signal(signal.SIGSTOP)
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
        if layer:
            layer.signal(signal.SIGCONT)
        journal: list[dict[str, Any]] = upstream.ask("journal")
        await close_all(devices)
    stopped = [entry for entry in journal if entry["asked"] in asked]
    delays = [entry["closed"] - asked[entry["asked"]] for entry in stopped if entry["closed"] is not None]
    return delays, len(stopped) - len(delays)


async def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for place in options.places:
        runs = options.runs if place == "server" else options.worker_runs
        alone, _ = await cancels(place, 1, min(50, options.cancels), 80)
        for rate in options.rates[:1] if place == "silence" else options.rates:
            delays, missed = await cancels(place, runs, options.cancels, rate)
            early = options.cancels - len(delays) - missed
            limit = BY_LOOKING if place == "silence" else TARGET
            load = f"{runs} runs of {rate:.0f} events/s live"
            for what, share, target in (("median", 0.5, None), ("p99", 0.99, limit)):
                figure, baseline = percentile(delays, share), percentile(alone, share)
                rows.append(
                    Row(
                        NAME,
                        f"signal → provider's connection closed{PLACES[place]}, {load}, {what}",
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
