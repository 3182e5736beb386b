"""Two job engines with the same bare jobs: Procrastinate on PostgreSQL (figure), taskiq on Redis (baseline).

Each has a private backend and worker processes started by its own command; taskiq has its Redis streams broker, the
one that acknowledges. A job wakes up 80 times a second and does nothing. n: jobs. No line of this project is measured;
what its leases add is in `faults`. Parts:

dispatch: asked for → begun, one after the other, an idle worker. burst: many at once in one worker: until all have
begun, and how late they end. crash: SIGKILL with jobs in hand beside another worker: until those have begun there, with
the settings they come with and with what the manual says (Procrastinate: a periodic task, here every 5 s, for jobs of
workers without a heartbeat for 30 s; taskiq: idle_timeout, here 15 s, and a lock that ends); and how many jobs of a
worker that lives are begun a second time meanwhile. drain: SIGTERM with short and long jobs in hand. loss: waiting jobs
when the backend is killed and started again, or flushed, and whether the worker that was there goes on.
"""

import argparse
import asyncio
import importlib.util
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from bench.bare.engines import Engine, Procrastinate, Taskiq, exited
from bench.table import Row, median, milliseconds, percentile, times

NAME = "engines"
IN_HAND = 10  # jobs when a worker is ended
LIVE_SECONDS = 40.0
AFTER_FAULT = 10.0  # seconds; Procrastinate looks every 5 s by itself
SHORT_SECONDS, LONG_SECONDS, LIMIT_SECONDS = 2.0, 12.0, 5.0


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--jobs", type=int, default=20 if quick else 300, help="of dispatch")
    parser.add_argument("--burst", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=2 if quick else 8, help="of each job of the burst")
    parser.add_argument("--patience", type=float, default=4 if quick else 60, help="seconds, for what may never happen")


Cell = tuple[str, float | None, str]  # what to show, what to compare, a remark
Found = dict[str, Cell]  # by what was measured


async def dispatch(engine: Engine, options: argparse.Namespace) -> Found:
    await engine.start()
    numbers = []
    for _ in range(options.jobs):
        numbers += await engine.ask(1, 0)
        await engine.all_begun(numbers[-1:], 10)
        await asyncio.sleep(0.02)
    begun = engine.begun()
    delays = [begun[number][0].after for number in numbers]
    return {
        f"asked → begun, {name}; an idle worker": (milliseconds(figure), figure, "")
        for name, figure in (("median", median(delays)), ("p99", percentile(delays, 0.99)))
    }


async def burst(engine: Engine, options: argparse.Namespace) -> Found:
    await engine.start()
    began = time.monotonic()
    numbers = await engine.ask(options.burst, options.seconds)
    asking = time.monotonic() - began
    there = await engine.all_begun(numbers, 30)
    await asyncio.sleep(options.seconds + 2)
    begun, ended = engine.begun(), engine.ended()
    last = max((begun[number][0].after for number in numbers if begun[number]), default=float("nan"))
    late = [ended[number] - begun[number][0].after - options.seconds for number in numbers if number in ended]
    remark = f"{there} begun, {len(late)} ended; to ask for all took {asking:.2f} s"
    return {
        f"{options.burst} jobs at once in one worker: asked → the last begun": (f"{last:.2f} s", last, remark),
        f"{options.burst} jobs at once: ends late by, p99": (
            milliseconds(percentile(late, 0.99)),
            percentile(late, 0.99),
            f"{options.seconds:g} s each, awake 80 times a second",
        ),
    }


async def crash(engine: Engine, options: argparse.Namespace) -> Found:
    first = await engine.start()
    held = await engine.ask(IN_HAND, 5.0)
    await engine.all_begun(held, 10)
    engine.kill(first)
    began = time.monotonic()
    await engine.start()
    live = await engine.ask(IN_HAND, min(LIVE_SECONDS, options.patience))
    again: float | None = None
    while again is None and time.monotonic() - began < options.patience:
        await engine.ask(1, 0)  # taskiq looks after the dead only when there is something new
        if await engine.all_begun(held, 1.0, times=2) == len(held):
            again = time.monotonic() - began
    while time.monotonic() - began < min(options.patience, LIVE_SECONDS + 5):
        await engine.ask(1, 0)
        await asyncio.sleep(1.0)
    begun = engine.begun()
    back = sum(len(begun[number]) > 1 for number in held)
    twice = sum(len(begun[number]) > 1 for number in live)
    most = max(len(begun[number]) for number in live)
    shown = f"{again:.1f} s" if again else f"not within {options.patience:g} s"
    return {
        "worker killed → its jobs begun elsewhere": (shown, again, f"{back} of {IN_HAND} begun again"),
        f"jobs of {LIVE_SECONDS:g} s, whose worker lives, begun again meanwhile": (
            f"{twice} of {IN_HAND}",
            None,
            f"one of them {most} times in all" if twice else "",
        ),
    }


def drain(*, limited: bool) -> Callable[[Engine, argparse.Namespace], Awaitable[Found]]:
    async def measured(engine: Engine, options: argparse.Namespace) -> Found:
        options_of_worker = [engine.limit, f"{LIMIT_SECONDS:g}"] if limited else []
        first = await engine.start(*options_of_worker)
        held = await engine.ask(IN_HAND, SHORT_SECONDS) + await engine.ask(IN_HAND, LONG_SECONDS)
        await engine.all_begun(held, 10)
        leaving = asyncio.create_task(exited(first, max(20.0, options.patience)))
        await asyncio.sleep(0)  # not before: it would take what the other is to be given
        await engine.start(*options_of_worker)
        took = await leaving
        await engine.all_begun(held, 3.0, times=2)
        begun, ended = engine.begun(), engine.ended()
        finished = sum(number in ended for number in held)
        elsewhere = sum(len(begun[number]) > 1 for number in held)
        shown = f"{took:.1f} s" if took else "not at all"
        fate = f"of {len(held)} jobs {finished} finished, {elsewhere} begun elsewhere within 3 s"
        return {"SIGTERM → the worker is gone": (f"{shown}; {fate}", took, "")}

    return measured


async def loss(engine: Engine, options: argparse.Namespace) -> Found:
    lost, after = [], []
    for fault in engine.faults:
        waiting = await engine.ask(options.burst, 0)
        await asyncio.sleep(2)  # Redis writes once a second
        await engine.fault(fault)
        worker = await engine.start()
        begun = await engine.all_begun(waiting, AFTER_FAULT)
        lost.append(f"{options.burst - begun} of {options.burst} ({fault})")
        await engine.fault(fault)
        counts = [await engine.all_begun(await engine.ask(IN_HAND, 0), AFTER_FAULT) for _ in range(2)]
        code = worker.poll()
        end = "" if code is None else f"; it had ended with exit code {code}"
        after.append(f"{counts[0]} and {counts[1]} of {IN_HAND} ({fault}{end})")
        engine.kill(worker)
    return {
        "jobs that waited, lost with a backend killed and started, or flushed": (", ".join(lost), None, ""),
        f"by a worker that was there: jobs asked for at once after that, and {AFTER_FAULT:g} s later": (
            ", ".join(after),
            None,
            "",
        ),
    }


# By name: the settings to try, whether each is tuned, and what is done with it.
Variants = tuple[tuple[str, bool, Callable[[Engine, argparse.Namespace], Awaitable[Found]]], ...]
PARTS: dict[str, Variants] = {
    "dispatch": (("", False, dispatch),),
    "burst": (("", False, burst),),
    "crash": (("as it comes", False, crash), ("as the manual says", True, crash)),
    "drain": (("as it comes", False, drain(limited=False)), (f"limit {LIMIT_SECONDS:g} s", False, drain(limited=True))),
    "loss": (("", False, loss),),
}
TOGETHER = {"crash", "drain", "loss"}  # mostly waiting, so they may wait at the same time


async def found(part: str, options: argparse.Namespace) -> dict[tuple[str, str], Found]:
    """By variant and engine."""
    kinds: list[type[Engine]] = [Procrastinate]
    if importlib.util.find_spec("taskiq_redis") is not None:
        kinds.append(Taskiq)
    results: dict[tuple[str, str], Found] = {}
    async with AsyncExitStack() as stack:
        opened = []
        for name, tuned, act in PARTS[part]:
            for kind in kinds:
                engine = await stack.enter_async_context(kind(tuned=tuned))
                opened.append((name, engine, act))
        if part in TOGETHER:
            done = await asyncio.gather(*(act(engine, options) for _, engine, act in opened))
        else:
            done = [await act(engine, options) for _, engine, act in opened]
        for (name, engine, _), one in zip(opened, done, strict=True):
            results[name, engine.name] = one
            if options.verbose:
                print(part, name, engine.name, one, file=sys.stderr, flush=True)
    return results


async def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    samples = {"dispatch": options.jobs, "burst": options.burst, "loss": options.burst, "drain": 2 * IN_HAND}
    for part in options.parts:
        results = await found(part, options)
        for name, _, _ in PARTS[part]:
            there = results.get((name, Taskiq.name))
            for what, (shown, figure, remark) in results[name, Procrastinate.name].items():
                theirs, other, remark_there = there[what] if there else ("is not installed", None, "")
                rows.append(
                    Row(
                        NAME,
                        what + (f"; {name}" if name else ""),
                        f"Procrastinate {shown}",
                        baseline=f"taskiq {theirs}",
                        ratio=times(figure, other) if figure and other else "–",
                        n=str(samples.get(part, IN_HAND)),
                        remarks="; taskiq: ".join(one for one in (remark, remark_there) if one),
                    )
                )
    return rows
