"""How many runs one process executes at once, at 80 tokens/s each, before tokens come late.

Unit: concurrent runs, at the last step whose median of token → device is ≤ 100 ms and which lost nothing (97 % of the
tokens due within the measured seconds are there 1 s after them); SQLite, the log included, devices as told. They
begin 20 in a second and are measured when all are live. n: tokens of that step. Target: ≥ 200. Baselines: the plain
application with the same devices (no log, no runs, only tokens to groups). Then the same through the anthropic
SDK with the local Messages server, and what the SDK costs: processor time per token with `claude` less that with
the bench's own provider, at the same load.
"""

import argparse
import asyncio
import sys
import time
from dataclasses import dataclass

from bench.client import Clock, Device, chat_device, close_all, connect_all
from bench.latency import STARTS, start_all
from bench.process import Meter, Process, Site
from bench.table import Row, median, milliseconds, percentile, times

NAME = "runs"
LATEST = 0.1
GRACE_SECONDS = 1.0
TARGET = 200


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument(
        "--steps", type=int, nargs="+", default=[5, 10] if quick else [25, 50, 100, 150, 200, 250, 300, 400]
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1] if quick else [1, 3], help="of each run")
    parser.add_argument("--rate", type=float, default=80, help="tokens per second of each run")
    parser.add_argument("--seconds", type=float, default=2 if quick else 8, help="per step")
    parser.add_argument("--sdk-runs", type=int, default=5 if quick else 30, help="for the cost of the SDK per token")


@dataclass(slots=True)
class Step:
    """So many runs at once, and what became of them."""

    runs: int
    delays: list[float]
    complete: bool
    server_cpu: float
    cost: float  # seconds of processor time per token

    def kept_up(self, latest: float = LATEST) -> bool:
        return self.complete and median(self.delays) <= latest

    def __str__(self) -> str:
        figures = f"median {milliseconds(median(self.delays))}, p99 {milliseconds(percentile(self.delays, 0.99))}"
        return f"{figures}, server {self.server_cpu:.0%}"


async def run_step(kind: str, runs: int, devices: int, options: argparse.Namespace) -> Step:
    """A fresh process, `runs` runs. `kind`: bench, claude or plain. One device of each conversation is timed."""
    tokens = tokens_of(runs, options)
    with Site(**({"CHAT_PROVIDER": "claude", "ANTHROPIC_API_KEY": "bench"} if kind == "claude" else {})) as site:
        if kind == "claude":
            upstream = site.start("-m", "bench.upstream", "--rate", str(options.rate), "--tokens", str(tokens))
            site.env["ANTHROPIC_BASE_URL"] = upstream.url
        clock = Clock()
        if kind == "plain":
            server = site.serve_plain()
            groups = [
                [Device(server.port, f"/plain/group-{number}/") for _ in range(devices)] for number in range(runs)
            ]
        else:
            made = site.prepare(conversations=runs)
            server = site.serve()
            groups = [
                [chat_device(server.port, made["session"], one) for _ in range(devices)]
                for one in made["conversations"]
            ]
        return await watched(groups, clock, server, tokens, options, plain=kind == "plain")


async def watched(
    groups: list[list[Device]],
    clock: Clock,
    server: Process,
    tokens: int,
    options: argparse.Namespace,
    *,
    plain: bool = False,
) -> Step:
    """Begin a run for every group of devices, and measure when all are live."""
    for group in groups:
        group[-1].listen = clock
    everybody = [device for group in groups for device in group]
    await connect_all(everybody)
    await start_all([group[0] for group in groups], tokens, options.rate, plain=plain)
    await asyncio.sleep(1.0)
    since, meter = time.monotonic_ns(), Meter(server)
    await asyncio.sleep(options.seconds)
    until, (passed, busy, _) = time.monotonic_ns(), meter.read()
    await asyncio.sleep(GRACE_SECONDS)
    arrived = [delay for made, delay in clock.delays if since <= made + delay < until]
    await close_all(everybody)
    delays = clock.seconds(since, until)
    due = len(groups) * options.rate * passed
    complete = not clock.holes and len(delays) >= 0.97 * due
    return Step(len(groups), delays, complete, busy, passed * busy / max(1, len(arrived)))


def tokens_of(runs: int, options: argparse.Namespace) -> int:
    """Enough for all to be live in the measured seconds, however slowly they begin; the end ends them."""
    return int(options.rate * (2 * runs / STARTS + options.seconds + 10))


async def climb(kind: str, devices: int, options: argparse.Namespace) -> Step:
    """The last step that was kept up with; ends at the first that was not."""
    best = Step(0, [], complete=False, server_cpu=0, cost=0)
    for runs in options.steps:
        step = await run_step(kind, runs, devices, options)
        if options.verbose:
            print(
                f"{kind} {runs} × {devices}: {step}, complete {step.complete}, {step.cost * 1e6:.0f} µs per token",
                file=sys.stderr,
                flush=True,
            )
        if not step.kept_up():
            break
        best = step
    return best


async def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for devices in options.devices:
        baseline = await climb("plain", devices, options)
        for kind in ("bench", "claude"):
            best = await climb(kind, devices, options)
            rows.append(
                Row(
                    NAME,
                    f"runs at once, {devices} device{'s' * (devices > 1)} each, "
                    + ("`claude` and a local server" if kind == "claude" else "scripted tokens"),
                    str(best.runs),
                    f"≥ {TARGET}",
                    best.runs >= TARGET,
                    f"plain app {baseline.runs}",
                    times(best.runs, baseline.runs),
                    f"{len(best.delays):,} tokens",
                    f"{best} (plain {baseline.server_cpu:.0%})",
                )
            )
    without = await run_step("bench", options.sdk_runs, 1, options)
    within = await run_step("claude", options.sdk_runs, 1, options)
    extra = within.cost - without.cost
    rows.append(
        Row(
            NAME,
            f"the SDK's part of the processor time per token, {options.sdk_runs} runs",
            f"{extra * 1e6:.0f} µs",
            baseline=f"without it {without.cost * 1e6:.0f} µs",
            ratio=times(within.cost, without.cost),
            n=f"{len(within.delays):,} tokens",
            remarks="ratio: with the SDK ÷ without",
        )
    )
    return rows
