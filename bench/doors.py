"""What the two HTTP doors deliver, beside the WebSocket, when many devices follow one conversation.

Unit, load and search are `fan_out`'s, once for each door in a server of its own: frames delivered per second, over all
devices, at the highest offered load kept up with (every token arrives, p99 of token → device ≤ 0.5 s). n: frames
in the measured window of the best step. Baseline: the WebSocket in the same run. Targets: SSE ≥ 0.5 times that, long
polls ≥ 0.1 times. Frames merge under load and the tokens are made in the same process, so the most deliveries of tokens
at any step kept up with scatter more; they are given as well.
"""

import argparse
from collections import Counter

from bench.client import close_all, connect_all
from bench.fan_out import MOST_RUNS, Audience, Step, ask_ours, best
from bench.http_client import DOORS, device_at
from bench.process import Site
from bench.table import Row, milliseconds, times

NAME = "doors"
TARGETS = {"sse": 0.5, "poll": 0.1}


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--devices", type=int, default=20 if quick else 100)
    parser.add_argument("--seconds", type=float, default=1.5 if quick else 4, help="measured, per step")
    parser.add_argument("--steps", type=int, default=3 if quick else 10, help="at most, per door")
    parser.add_argument("--start", type=float, default=8_000, help="token deliveries per second of the first step")


async def through(door: str, options: argparse.Namespace) -> tuple[Step, float, str]:
    """The step with the most frames by one door; the most tokens per second at any; what went wrong at any."""
    with Site() as site:
        made = site.prepare(conversations=1)
        server, place = site.serve(), made["conversations"][0]
        devices = [
            device_at(door, server.port, made["session"], place["id"], after=place["head"], epoch=place["epoch"])
            for _ in range(options.devices)
        ]
        await connect_all(devices)
        steps = await Audience(server, devices, ask_ours, MOST_RUNS).climb(options)
        gone = Counter(device.why for device in devices if device.lost)
        wrong = "; ".join([*(f"{count} devices lost: {why}" for why, count in gone.items()), *server.troubles()[:3]])
        await close_all(devices)
        found = best(steps)
        if found is None:
            raise RuntimeError(f"{door}: kept up with nothing; {wrong}")
        return found, max(step.tokens for step in steps if step.kept_up), wrong


async def measure(options: argparse.Namespace) -> list[Row]:
    found = {door: await through(door, options) for door in DOORS}
    socket, _, _ = found["websocket"]
    return [
        Row(
            NAME,
            f"frames/s kept up with, {door}, {options.devices:,} devices in one conversation",
            f"{step.frames:,.0f}",
            f"≥ {TARGETS[door]:g}×" if door in TARGETS else "–",
            step.frames >= TARGETS[door] * socket.frames and not wrong if door in TARGETS else None,
            f"websocket {socket.frames:,.0f}" if step is not socket else "–",
            times(step.frames, socket.frames) if step is not socket else "–",
            f"{step.window_frames:,}",
            f"{step.tokens:,.0f} token deliveries/s (the most at any step: {tokens:,.0f}), "
            f"p99 {milliseconds(step.delay)}; server {step.server_cpu:.0%}, client "
            f"{step.client_cpu:.0%}; {step.server_cpu / step.frames * 1e6:.1f} µs of the server per frame delivered"
            + (f"; {wrong}" if wrong else ""),
        )
        for door, (step, tokens, wrong) in found.items()
    ]
