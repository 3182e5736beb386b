"""How much one daphne process delivers when many devices follow one conversation, the log included.

Unit: frames delivered per second, over all devices, at the highest offered load that is kept up with: every
token arrives, p99 of token → device ≤ 0.5 s. The load is tokens per second in one conversation, doubled until
it is too much, then halved in between. n: frames in the measured window of the best step. Target: ≥ 8 times the
plain application (each consumer joins the group, one group_send per token, no log, default capacity).

A plain application that keeps up with no load at all is taken at the most it delivered at any.

Frames may carry several tokens under load, so deliveries of tokens (tokens/s × devices) are given as well; so is
the most that was delivered at any step, kept up with or not.
"""

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.client import Clock, Device, chat_device, close_all, connect_all, reached
from bench.process import Meter, Process, Site
from bench.provider import stamps
from bench.table import Row, milliseconds, percentile, times

NAME = "fan_out"
KEPT_UP_SECONDS = 0.5
RUN_RATE = 80.0  # tokens per second of one run, as models have it
MOST_RUNS = 32  # at once in one conversation
WARM_SECONDS = 1.0
SAMPLE = 8  # devices whose tokens are read; the others only count
TARGET = 8.0


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--devices", type=int, nargs="+", default=[20] if quick else [100, 1000])
    parser.add_argument("--seconds", type=float, default=1.5 if quick else 5, help="measured, per step")
    parser.add_argument("--steps", type=int, default=3 if quick else 9, help="at most, per side")
    parser.add_argument("--start", type=float, default=2_000, help="token deliveries per second of the first step")


@dataclass(slots=True)
class Step:
    """One offered load and what became of it."""

    offered: float  # token deliveries per second
    frames: float  # delivered per second
    window_frames: int
    tokens: float  # deliveries of tokens per second, as sampled
    delay: float  # p99, seconds
    complete: bool
    server_cpu: float
    client_cpu: float

    @property
    def kept_up(self) -> bool:
        return self.complete and self.delay <= KEPT_UP_SECONDS


Ask = Callable[[Device, int, float], Awaitable[None]]


class Audience:
    """Devices of one conversation, a few of which read what they get."""

    def __init__(self, server: Process, devices: list[Device], ask: Ask, most_runs: int) -> None:
        self._server = server
        self._devices = devices
        self._ask = ask
        self._most_runs = most_runs
        spacing = max(1, len(devices) // SAMPLE)
        self._sample = devices[::spacing][:SAMPLE]

    async def offer(self, rate: float, seconds: float) -> Step:
        """`rate` tokens per second in the conversation for a while; returns when all has arrived or is late."""
        runs = max(1, min(self._most_runs, math.ceil(rate / RUN_RATE)))
        tokens = math.ceil(rate / runs * (WARM_SECONDS + seconds + 0.5))
        clock = Clock()
        for device in self._sample:
            device.listen = clock
        for _ in range(runs):
            await self._ask(self._devices[0], tokens, rate / runs)
        await reached(lambda: clock.delays, 10)
        await asyncio.sleep(WARM_SECONDS)
        since, frames, meter = time.monotonic_ns(), self._frames(), Meter(self._server)
        await asyncio.sleep(seconds)
        until, delivered = time.monotonic_ns(), self._frames() - frames
        passed, server_cpu, client_cpu = meter.read()
        due = runs * tokens * len(self._sample)
        complete = await reached(lambda: len(clock.delays) >= due, 5 + 2 * seconds)
        arrived = sum(since <= made + delay < until for made, delay in clock.delays)
        delay = percentile(clock.seconds(since, until), 0.99)
        share = arrived / len(self._sample) * len(self._devices)
        return Step(
            rate * len(self._devices),
            delivered / passed,
            delivered,
            share / passed,
            math.inf if math.isnan(delay) else delay,
            complete,
            server_cpu,
            client_cpu,
        )

    def _frames(self) -> int:
        return sum(device.frames for device in self._devices)

    async def climb(self, options: argparse.Namespace) -> list[Step]:
        """Double the load until it is too much, then look in between. Ends early when a step is not drained."""
        steps: list[Step] = []
        good, bad, offered = 0.0, math.inf, options.start
        for _ in range(options.steps):
            step = await self.offer(offered / len(self._devices), options.seconds)
            steps.append(step)
            if options.verbose:
                print(step, file=sys.stderr, flush=True)
            if step.kept_up:
                good = offered
            else:
                bad = offered
                await self._settle()
            offered = good * 2 if math.isinf(bad) else (good + bad) / 2
            if bad - good < 0.1 * good:
                break
        return steps

    async def _settle(self) -> None:
        """Wait until nothing more arrives: the next step must not pay for this one."""
        last = -1
        for _ in range(60):
            if (now := self._frames()) == last:
                return
            last = now
            await asyncio.sleep(0.5)


async def ask_ours(device: Device, tokens: int, rate: float) -> None:
    """One run of so many stamped tokens, at so many per second."""
    await device.ask(stamps(tokens, rate))


async def _ask_plain(device: Device, tokens: int, rate: float) -> None:
    device.say({"tokens": tokens, "rate": rate})


async def ours(count: int, options: argparse.Namespace) -> list[Step]:
    with Site() as site:
        made = site.prepare(conversations=1)
        server = site.serve()
        devices = [chat_device(server.port, made["session"], made["conversations"][0]) for _ in range(count)]
        await connect_all(devices)
        steps = await Audience(server, devices, ask_ours, MOST_RUNS).climb(options)
        await close_all(devices)
        return steps


async def plain(count: int, options: argparse.Namespace) -> list[Step]:
    with Site() as site:
        server = site.serve_plain()
        devices = [Device(server.port, "/plain/everybody/") for _ in range(count)]
        await connect_all(devices)
        steps = await Audience(server, devices, _ask_plain, MOST_RUNS).climb(options)
        await close_all(devices)
        return steps


async def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for count in options.devices:
        theirs, steps = await plain(count, options), await ours(count, options)
        figure, baseline = best(steps), best(theirs) or most_of(theirs)
        kept_up = "" if baseline.kept_up else " at its best, kept up with nothing"
        if figure is None:
            raise RuntimeError(f"{count} devices: kept up with nothing")
        most, most_baseline = (max(step.frames for step in side) for side in (steps, theirs))
        rows.append(
            Row(
                NAME,
                f"frames/s kept up with, {count:,} devices in one conversation",
                f"{figure.frames:,.0f}",
                f"≥ {TARGET:g}×",
                figure.frames >= TARGET * baseline.frames,
                f"plain app {baseline.frames:,.0f}{kept_up}",
                times(figure.frames, baseline.frames),
                f"{figure.window_frames:,}",
                f"{figure.tokens:,.0f} token deliveries/s (plain {baseline.tokens:,.0f}), p99 "
                f"{milliseconds(figure.delay)} (plain {milliseconds(baseline.delay)}); server {figure.server_cpu:.0%}, "
                f"client {figure.client_cpu:.0%} (plain {baseline.server_cpu:.0%}, {baseline.client_cpu:.0%}); "
                f"{cost(figure)} per frame (plain {cost(baseline)}); most at "
                f"any load {most:,.0f} (plain {most_baseline:,.0f})",
            )
        )
    return rows


def best(steps: list[Step], key: Callable[[Step], float] = lambda step: step.frames) -> Step | None:
    """The step with the most frames, or the most of something else, among those kept up with."""
    return max((step for step in steps if step.kept_up), key=key, default=None)


def most_of(steps: list[Step]) -> Step:
    """The step with the most frames, however late or few of those offered."""
    return max(steps, key=lambda step: step.frames)


def cost(step: Step) -> str:
    """Processor time of the server per frame, which other programs on the machine change least."""
    return f"{step.server_cpu / step.frames * 1e6:.0f} µs" if step.frames else "–"
