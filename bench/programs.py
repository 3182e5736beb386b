"""What the Python client (`chat/client/`) adds to a token's way, and what a program misses that is started often.

Programs follow one answer by each door. Unit: milliseconds from the provider's token to the program's `async for`.
n: every token on every program. Baseline: as many bare devices of the bench, by the same door from the same server.
Then one program with a cursor file is ended in the middle of an answer and started again, over and over: what it has
been given in all its lives, put together, must be what the database says, and no event but text given twice.
n: its lives.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.client import Clock, Device, close_all, connect_all, until
from bench.http_client import DOORS, device_at
from bench.process import Process, Site
from bench.provider import stamps
from bench.table import Row, median, milliseconds, percentile, times
from chat.client import Conversation, Memory, Transport, connect, events, frames
from chat.client.event import Event

NAME = "programs"


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--programs", type=int, default=5 if quick else 20, help="that follow one answer")
    parser.add_argument("--rate", type=float, default=80, help="tokens per second of the answer")
    parser.add_argument("--seconds", type=float, default=2 if quick else 8, help="each answer that is followed")
    parser.add_argument(
        "--lives", type=int, default=10 if quick else 100, help="of the program started again and again"
    )
    parser.add_argument("--seed", type=int, default=7)


@dataclass(slots=True)
class Way:
    """Delays of all tokens in seconds, and processor time of the reading side per token in seconds."""

    delays: Sequence[float]
    cpu: float


@dataclass(slots=True)
class Lives:
    """What one program with a cursor file was given in all of them."""

    texts: dict[str, str] = field(default_factory=dict)  # message → text
    starts: list[float] = field(default_factory=list)  # seconds from its start to `sync`
    holes: int = 0
    repeats: int = 0
    serials: set[int] = field(default_factory=set)  # of what is not text, which may be given again as it is merged
    ended: set[str] = field(default_factory=set)  # runs

    def take(self, event: Event) -> None:
        match event:
            case events.MessageDelta() | events.MessageSnapshot():
                known = self.texts.get(event.message, "")
                self.holes += event.offset > len(known)
                self.texts[event.message] = known[: event.offset] + event.text
            case _:
                self.repeats += event.serial in self.serials
                self.serials.add(event.serial)
                if isinstance(event, events.RunEnded):
                    self.ended.add(event.run)


async def bare(server: Process, made: dict[str, Any], door: str, options: argparse.Namespace) -> Way:
    place, clock, tokens = made["conversations"][0], Clock(), int(options.rate * options.seconds)
    devices: list[Device] = [
        device_at(
            door,
            server.port,
            made["session"],
            place["id"],
            after=place["head"],
            epoch=place["epoch"],
            listen=clock,
        )
        for _ in range(options.programs)
    ]
    await connect_all(devices)
    began = time.process_time()
    await devices[0].ask(stamps(tokens, options.rate))
    await until(lambda: len(clock.delays) >= tokens * len(devices), "all tokens", 30 + 3 * options.seconds)
    cpu = time.process_time() - began
    await close_all(devices)
    return Way(clock.seconds(), cpu / len(clock.delays))


async def client(server: Process, made: dict[str, Any], door: str, options: argparse.Namespace) -> Way:
    tokens, delays = int(options.rate * options.seconds), list[float]()
    url = f"{server.url}/conversations/{made['conversations'][1]['id']}/"
    waiting = asyncio.Semaphore(0)

    async def follow(conversation: Conversation) -> None:
        async for event in conversation:
            now = time.monotonic_ns()
            if isinstance(event, frames.Sync):
                waiting.release()
            elif isinstance(event, events.MessageDelta):
                delays.extend((now - int(stamp)) / 1e9 for stamp in event.text.split())
            elif isinstance(event, events.RunEnded):
                return

    async with AsyncExitStack() as stack:
        readers = [
            await stack.enter_async_context(
                connect(url, made["token"], name="Bench", transports=[Transport(door)], memory=Memory())
            )
            for _ in range(options.programs)
        ]
        async with asyncio.timeout(60 + 3 * options.seconds), asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(follow(reader))
            for _ in readers:
                await waiting.acquire()
            began = time.process_time()
            await readers[0].send(stamps(tokens, options.rate))
        cpu = time.process_time() - began
    if len(delays) != tokens * len(readers):
        raise RuntimeError(f"{door}: {len(delays)} of {tokens * len(readers)} tokens")
    return Way(delays, cpu / len(delays))


async def restarted(server: Process, made: dict[str, Any], door: str, file: Path, options: argparse.Namespace) -> Lives:
    """Ask in the first life, be ended at some event of each, and read the answer to its end in the last."""
    randomly, lives = random.Random(f"{options.seed} {door}"), Lives()
    place = made["conversations"][2]
    url = f"{server.url}/conversations/{place['id']}/"
    for life in range(options.lives + 1):
        last, left = life == options.lives, randomly.randint(1, 8)
        began = time.monotonic()
        async with (
            asyncio.timeout(60),
            connect(
                url, made["token"], cursor_file=file, transports=[Transport(door)], memory=Memory()
            ) as conversation,
        ):
            async for event in conversation:
                if isinstance(event, frames.Sync):
                    lives.starts.append(time.monotonic() - began)
                    if life == 0:
                        # Long enough for all lives: some 8 tokens and a start each.
                        await conversation.send(stamps(options.lives * 20, options.rate))
                elif isinstance(event, Event):
                    lives.take(event)
                    left -= 1
                if (left <= 0 and not last) or lives.ended:
                    break
        if lives.ended:
            break
    return lives


async def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for door in DOORS:
        with Site() as site:
            made = site.prepare(conversations=3)
            server = site.serve()
            plain, ours = await bare(server, made, door, options), await client(server, made, door, options)
            lives = await restarted(server, made, door, site.directory / "cursor.json", options)
            place = made["conversations"][2]["id"]
            runs = site.prepare(end_states=[place])[place]["runs"].values()
            altered = sorted(lives.texts.values()) != sorted(run["text"] for run in runs)
            troubles = "; ".join(server.troubles()[:3])
        rows += [
            Row(
                NAME,
                f"token → {options.programs} programs, median, {door}",
                milliseconds(median(ours.delays)),
                baseline=f"bare devices {milliseconds(median(plain.delays))}",
                ratio=times(median(ours.delays), median(plain.delays)),
                n=f"{len(ours.delays):,}",
                remarks=f"p99 {milliseconds(percentile(ours.delays, 0.99))}, bare "
                f"{milliseconds(percentile(plain.delays, 0.99))}; processor time of the reading side per token "
                f"{ours.cpu * 1e6:.0f} µs, bare {plain.cpu * 1e6:.0f} µs" + (f"; {troubles}" if troubles else ""),
            ),
            Row(
                NAME,
                f"started again and again with a cursor file: lost, repeated, altered, {door}",
                f"{lives.holes}, {lives.repeats}, {altered:d}",
                "0, 0, 0",
                not (lives.holes or lives.repeats or altered or troubles),
                n=f"{len(lives.starts)} lives",
                remarks=f"start → sync: median {milliseconds(median(lives.starts))}, p99 "
                f"{milliseconds(percentile(lives.starts, 0.99))}; "
                f"{sum(map(len, lives.texts.values())):,} characters compared",
            ),
        ]
    return rows
