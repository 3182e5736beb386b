"""From the moment a provider has a token to the moment a device has it.

Many runs at once, a few devices each, at a rate models have; SQLite, the log included. Unit: milliseconds.
n: every token on every device. Targets: median ≤ 25 ms, p99 ≤ 100 ms; an answer's first token ≤ 15 ms in the
median. Baseline: the plain application (no log) with the same runs, devices and clients.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass

from bench.client import Clock, Device, chat_device, close_all, connect_all, reached
from bench.process import Meter, Process, Site
from bench.provider import stamps
from bench.table import Row, median, milliseconds, percentile, times

NAME = "latency"
STARTS = 20.0  # runs begun per second


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--devices", type=int, default=4, help="of each conversation")
    parser.add_argument("--rate", type=float, default=80, help="tokens per second of each run")
    parser.add_argument("--seconds", type=float, default=3 if quick else 15)


@dataclass(slots=True)
class Load:
    """What came of one load."""

    delays: list[float]
    first: list[float]
    expected: int  # delays, if nothing was lost or is late
    server_cpu: float
    client_cpu: float


async def stream(
    server: Process,
    talkers: list[Device],
    clock: Clock,
    watched: int,
    *,
    tokens: int,
    rate: float,
    plain: bool = False,
) -> Load:
    """Let every talker ask for one answer, wait until all have ended, and say what the clock saw.

    `watched`: how many devices of each conversation report to the clock.
    """
    meter = Meter(server)
    await start_all(talkers, tokens, rate, plain=plain)
    await asyncio.sleep(tokens / rate)
    _, server_cpu, client_cpu = meter.read()
    await reached(lambda: len(clock.ended) >= len(talkers), 10 + tokens / rate)
    await asyncio.sleep(0.2)
    first = [delay / 1e9 for delay in clock.first.values()]
    return Load(clock.seconds(), first, tokens * len(talkers) * watched, server_cpu, client_cpu)


async def start_all(talkers: list[Device], tokens: int, rate: float, *, plain: bool) -> None:
    """Begin one answer after the other, `STARTS` in a second: people do not all press enter at once."""
    began = time.monotonic()
    for number, talker in enumerate(talkers):
        await asyncio.sleep(max(0.0, began + number / STARTS - time.monotonic()))
        if plain:
            talker.say({"tokens": tokens, "rate": rate})
        else:
            await talker.ask(stamps(tokens, rate))


async def ours(options: argparse.Namespace) -> Load:
    with Site() as site:
        made = site.prepare(conversations=options.runs)
        server = site.serve()
        clock = Clock()
        groups = [
            [chat_device(server.port, made["session"], one, clock) for _ in range(options.devices)]
            for one in made["conversations"]
        ]
        devices = [device for group in groups for device in group]
        await connect_all(devices)
        load = await stream(
            server,
            [group[0] for group in groups],
            clock,
            options.devices,
            tokens=int(options.rate * options.seconds),
            rate=options.rate,
        )
        await close_all(devices)
        return load


async def plain(options: argparse.Namespace) -> Load:
    with Site() as site:
        server = site.serve_plain()
        clock = Clock()
        groups = [
            [Device(server.port, f"/plain/group-{number}/", listen=clock) for _ in range(options.devices)]
            for number in range(options.runs)
        ]
        devices = [device for group in groups for device in group]
        await connect_all(devices)
        load = await stream(
            server,
            [group[0] for group in groups],
            clock,
            options.devices,
            tokens=int(options.rate * options.seconds),
            rate=options.rate,
            plain=True,
        )
        await close_all(devices)
        return load


async def measure(options: argparse.Namespace) -> list[Row]:
    theirs, load = await plain(options), await ours(options)
    setting = f"{options.runs} runs × {options.devices} devices × {options.rate:g} tokens/s"
    remarks = (
        f"server {load.server_cpu:.0%}, client {load.client_cpu:.0%} of a core; plain server {theirs.server_cpu:.0%}"
    )
    arrived = f"{len(load.delays)} of {load.expected}"
    rows = []
    for what, share, target in (("median", 0.5, 0.025), ("p99", 0.99, 0.1)):
        figure, baseline = percentile(load.delays, share), percentile(theirs.delays, share)
        rows.append(
            Row(
                NAME,
                f"token → device, {what}; {setting}",
                milliseconds(figure),
                f"≤ {milliseconds(target)}",
                figure <= target and len(load.delays) == load.expected,
                f"plain app {milliseconds(baseline)}",
                times(figure, baseline),
                arrived,
                remarks,
            )
        )
    figure, baseline = median(load.first), median(theirs.first)
    rows.append(
        Row(
            NAME,
            "first token → device, median",
            milliseconds(figure),
            "≤ 15.0 ms",
            figure <= 0.015,
            f"plain app {milliseconds(baseline)}",
            times(figure, baseline),
            str(len(load.first)),
            f"p99 {milliseconds(percentile(load.first, 0.99))}",
        )
    )
    return rows
