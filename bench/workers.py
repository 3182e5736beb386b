"""One server, one worker, PostgreSQL and Redis: what does it cost that runs are executed elsewhere?

The same load twice on the same database and layer: executed by a worker that Procrastinate tells what to do, and by
the server itself (baseline). Units: ms from sending a message until its provider is called (target ≤ 30 ms in the
median; n: messages, one after the other in a conversation each), and from a token's making to its arrival at a device
(target: median ≤ 40 ms, p99 ≤ 150 ms; n: every token on every device). All on one machine, which they share.
"""

import argparse
import time
from dataclasses import dataclass

from bench import latency
from bench.client import Clock, Device, chat_device, close_all, connect_all, until
from bench.process import Meter, Site
from bench.provider import stamps
from bench.table import Row, median, milliseconds, percentile, times
from tests.backends import postgresql, redis

NAME = "workers"
DISPATCH, MEDIAN, P99 = 0.030, 0.040, 0.150


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--messages", type=int, default=20 if quick else 200)
    latency.add_arguments(parser, quick=quick)
    parser.set_defaults(runs=5 if quick else 50)


@dataclass(slots=True)
class Found:
    dispatch: list[float]
    load: latency.Load
    cpu: dict[str, float]  # shares of a core


async def found(options: argparse.Namespace, engine: str) -> Found:
    with Site(CHAT_ENGINE=engine) as site, postgresql(site.directory) as database, redis(site.directory) as layer:
        site.env |= {"DATABASE_URL": database, "REDIS_URL": layer}
        made = site.prepare(conversations=options.runs)
        processes = {"server": site.serve()}
        try:
            if engine == "procrastinate":
                processes["worker"] = site.start("manage.py", "work")
            clock, port = Clock(), processes["server"].port
            groups = [
                [chat_device(port, made["session"], one, clock) for _ in range(options.devices)]
                for one in made["conversations"]
            ]
            everybody = [device for group in groups for device in group]
            await connect_all(everybody)
            talkers = [group[0] for group in groups]
            dispatch = await dispatched(talkers, clock, options.messages)
            clock.delays.clear()
            clock.ended.clear()
            meters = {name: Meter(process) for name, process in processes.items()}
            load = await latency.stream(
                processes["server"],
                talkers,
                clock,
                options.devices,
                tokens=int(options.rate * options.seconds),
                rate=options.rate,
            )
            cpu = {name: meter.read()[1] for name, meter in meters.items()}
            await close_all(everybody)
        finally:
            for process in processes.values():  # before the database they use
                process.stop()
        return Found(dispatch, load, cpu)


async def dispatched(talkers: list[Device], clock: Clock, messages: int) -> list[float]:
    """Seconds from sending each message until the provider made its first token."""
    delays = []
    for number in range(messages):
        clock.delays.clear()
        ended, began = len(clock.ended), time.monotonic_ns()
        await talkers[number % len(talkers)].ask(stamps(1, 0))
        await until(lambda: clock.delays and len(clock.ended) > ended, "an answer")  # noqa: B023
        delays.append((clock.delays[0][0] - began) / 1e9)
    return delays


async def measure(options: argparse.Namespace) -> list[Row]:
    here, there = await found(options, "in-process"), await found(options, "procrastinate")
    shares = "; ".join(
        f"{', '.join(f'{name} {share:.0%}' for name, share in one.cpu.items())} of a core{where}"
        for one, where in ((there, ""), (here, " with the runs in the server"))
    )
    tails = "p99 {}, in the server {}".format(*(milliseconds(percentile(one.dispatch, 0.99)) for one in (there, here)))
    load = f"{options.runs} runs × {options.devices} devices × {options.rate:g} tokens/s"
    rows = []
    for what, figure, baseline, target, n, remarks in (
        (
            "send → provider called, median",
            median(there.dispatch),
            median(here.dispatch),
            DISPATCH,
            f"{len(there.dispatch)}",
            tails,
        ),
        *(
            (
                f"token → device, {name}; {load}",
                percentile(there.load.delays, share),
                percentile(here.load.delays, share),
                target,
                f"{len(there.load.delays):,} of {there.load.expected:,}",
                shares,
            )
            for name, share, target in (("median", 0.5, MEDIAN), ("p99", 0.99, P99))
        ),
    ):
        met = figure <= target and len(there.load.delays) == there.load.expected
        rows.append(
            Row(
                NAME,
                f"{what}; PostgreSQL + Redis, one server, one worker",
                milliseconds(figure),
                f"≤ {milliseconds(target)}",
                met,
                f"runs in the server {milliseconds(baseline)}",
                times(figure, baseline),
                n,
                remarks,
            )
        )
    return rows
