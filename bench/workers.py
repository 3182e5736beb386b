"""One server, one worker, PostgreSQL and Redis: what does it cost that runs are executed elsewhere?

The same load twice on the same database and layer: executed by a worker that Procrastinate tells what to do, and by
the server itself (baseline). Units: ms from sending a message until its provider is called (target ≤ 30 ms in the
median; n: messages, one after the other in a conversation each), and from a token's making to its arrival at a device
(target: median ≤ 40 ms, p99 ≤ 150 ms; n: every token on every device). All on one machine, which they share.

Then more and more runs with one device each, as in `runs`: the last step whose median is ≤ 150 ms and which lost
nothing. Target: ≥ 500 of 80 tokens/s. n: tokens of that step.
"""

import argparse
import sys
import time
from dataclasses import dataclass

from bench import latency
from bench import runs as runs_at_once
from bench.client import Clock, Device, chat_device, close_all, connect_all, until
from bench.process import Meter, Site
from bench.provider import stamps
from bench.table import Row, median, milliseconds, percentile, times
from tests.backends import postgresql, redis

NAME = "workers"
WHERE = "PostgreSQL + Redis, one server, one worker"
DISPATCH, MEDIAN, P99 = 0.030, 0.040, 0.150
RUNS, LATEST = 500, 0.150


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--messages", type=int, default=20 if quick else 200)
    latency.add_arguments(parser, quick=quick)
    parser.add_argument("--parts", nargs="+", choices=("load", "steps"), default=["load", "steps"])
    parser.add_argument("--steps", type=int, nargs="+", default=[5] if quick else [25, 50, 100, 200, 300, 400, 500])
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


async def step(runs: int, options: argparse.Namespace) -> tuple[runs_at_once.Step, float]:
    """So many runs at once, one device each; and the worker's share of a core from its start on."""
    with (
        Site(CHAT_ENGINE="procrastinate", CHAT_WORKER_RUNS=str(runs + 50)) as site,
        postgresql(site.directory) as database,
        redis(site.directory) as layer,
    ):
        site.env |= {"DATABASE_URL": database, "REDIS_URL": layer}
        made = site.prepare(conversations=runs)
        server, worker = site.serve(), site.start("manage.py", "work")
        try:
            groups = [[chat_device(server.port, made["session"], one)] for one in made["conversations"]]
            tokens, meter = runs_at_once.tokens_of(runs, options), Meter(worker)
            done = await runs_at_once.watched(groups, Clock(), server, tokens, options)
            return done, meter.read()[1]
        finally:
            for process in (server, worker):  # before the database they use
                process.stop()


async def steps(options: argparse.Namespace) -> Row:
    """Until one was not kept up with."""
    best, tried = None, []
    for runs in options.steps:
        done, worker = await step(runs, options)
        said = f"{done}, worker {worker:.0%}"
        tried.append(f"{runs}: {said}{'' if done.complete else ', not all of it within a second'}")
        if options.verbose:
            print(tried[-1], file=sys.stderr, flush=True)
        if not done.kept_up(LATEST):
            break
        best = done
    return Row(
        NAME,
        f"runs at once with a median ≤ {milliseconds(LATEST)}, 1 device each × {options.rate:g} tokens/s; {WHERE}",
        str(best.runs if best else 0),
        f"≥ {RUNS}",
        best is not None and best.runs >= RUNS,
        n=f"{len(best.delays) if best else 0:,} tokens",
        remarks="; ".join(tried[-2:]),
    )


async def measure(options: argparse.Namespace) -> list[Row]:
    rows = await loaded(options) if "load" in options.parts else []
    return [*rows, await steps(options)] if "steps" in options.parts else rows


async def loaded(options: argparse.Namespace) -> list[Row]:
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
                f"{what}; {WHERE}",
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
