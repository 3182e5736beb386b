"""What coming back costs, and that a long past does not make the present dearer.

Three figures. (1) A device that missed nothing: bytes of all frames up to `sync`, and time from opening the
socket to `sync` as the device sees it (the server's time is less); ≤ 1,000 bytes, ≤ 20 ms. (2) A device that
missed an answer of 50,000 tokens: bytes against the text's, baseline one frame per token; ≤ 1.2 times, ≤ 300 ms, once
while the answer is still live (a row per token in the log) and once when it has ended. (3) The server's processor
time per token in a conversation of 10,000 messages against one of 10; within 10 %. n: resumes; tokens.
"""

import argparse
import asyncio
import time
from dataclasses import dataclass
from typing import Any

import orjson

from bench.client import Clock, Device, chat_device, close_all, connect_all, device_path, until
from bench.process import Process, Site
from bench.provider import stamps
from bench.table import Row, median, milliseconds, percentile

NAME = "resume"


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--resumes", type=int, default=20 if quick else 200, help="of a device that missed nothing")
    parser.add_argument("--long-resumes", type=int, default=3 if quick else 20, help="of one that missed an answer")
    parser.add_argument("--tokens", type=int, default=5_000 if quick else 50_000, help="of that answer")
    parser.add_argument("--messages", type=int, default=500 if quick else 10_000, help="of the long conversation")
    parser.add_argument("--rounds", type=int, default=2 if quick else 7, help="of each, one after the other")
    parser.add_argument("--rate", type=float, default=800, help="tokens per second in those rounds")
    parser.add_argument("--seconds", type=float, default=1.5 if quick else 6, help="of each round")


@dataclass(slots=True)
class Resume:
    """One return."""

    seconds: float
    bytes: int
    text: str


class Reader:
    """Puts an answer's text together from its frames."""

    def __init__(self) -> None:
        self.text: dict[str, str] = {}

    def __call__(self, device: Device, body: bytes, now: int) -> None:
        frame = orjson.loads(body)
        for event in frame["events"] if frame["type"] == "batch" else (frame,):
            if event["type"] in {"message.delta", "message.snapshot"}:
                known = self.text.get(event["message"], "")
                self.text[event["message"]] = known[: event["offset"]] + event["text"]


async def come_back(server: Process, session: str, conversation: dict[str, Any], after: int) -> Resume:
    """Open a socket with a cursor and wait for `sync`."""
    reader = Reader()
    path = device_path(conversation["id"], after=after, epoch=conversation["epoch"])
    device = Device(server.port, path, session=session, subprotocol="conversation.v1.json", listen=reader)
    began = time.monotonic()
    await device.connect()
    async with asyncio.timeout(60):
        await device.synced.wait()
    seconds = time.monotonic() - began
    device.cut()
    if device.serial != conversation["head"]:
        raise RuntimeError(f"came back to {device.serial} instead of {conversation['head']}")
    return Resume(seconds, device.bytes, "".join(reader.text.values()))


async def nothing_missed(options: argparse.Namespace) -> Row:
    with Site() as site:
        made = site.prepare(conversations=1, history=40)
        server, place = site.serve(), made["conversations"][0]
        stays = chat_device(server.port, made["session"], place)
        await connect_all([stays])
        found: list[Resume] = []
        for _ in range(20):  # opens the connections of all database threads
            await come_back(server, made["session"], place, place["head"])
        for _ in range(options.resumes):
            found.append(await come_back(server, made["session"], place, place["head"]))
            await asyncio.sleep(0.005)
        fresh = Device(
            server.port, device_path(place["id"]), session=made["session"], subprotocol="conversation.v1.json"
        )
        await connect_all([fresh])
        await close_all([stays, fresh])
    size, seconds = max(one.bytes for one in found), median([one.seconds for one in found])
    return Row(
        NAME,
        "nothing missed: bytes, time (median)",
        f"{size:,} B, {milliseconds(seconds)}",
        "≤ 1,000 B, ≤ 20.0 ms",
        size <= 1000 and seconds <= 0.02,
        f"a page of 20 turns afresh {fresh.bytes:,} B",
        f"{size / fresh.bytes:.2f}×",
        str(len(found)),
        f"p99 {milliseconds(percentile([one.seconds for one in found], 0.99))}; ratio of bytes",
    )


async def whole_answer(options: argparse.Namespace, *, finished: bool) -> Row:
    with Site() as site:
        made = site.prepare(conversations=1, long_answer=options.tokens, finished=finished)
        server, place = site.serve(), made["conversations"][0]
        # One resume in advance: opening the database's connections is not the figure.
        await come_back(server, made["session"], place, place["head"])
        found = [await come_back(server, made["session"], place, 0) for _ in range(options.long_resumes)]
    text = " ".join(f"word{n}" for n in range(1, options.tokens + 1))
    size, seconds = max(one.bytes for one in found), median([one.seconds for one in found])
    right = all(one.text == text for one in found)
    frame = len(
        orjson.dumps(
            {
                "type": "message.delta",
                "after": 10_000,
                "serial": 10_001,
                "conversation": place["id"],
                "run": place["id"],
                "message": place["id"],
                "part": 0,
                "offset": 90_000,
                "text": "",
            }
        )
    )
    unmerged = frame * options.tokens + len(text)
    return Row(
        NAME,
        f"{options.tokens:,} tokens missed, answer {'ended' if finished else 'live'}: bytes ÷ text, time (median)",
        f"{size / len(text):.3f}×, {milliseconds(seconds)}",
        "≤ 1.2×, ≤ 300.0 ms",
        right and size <= 1.2 * len(text) and seconds <= 0.3,
        f"one frame per token {unmerged / len(text):.1f}×",
        f"{size / unmerged:.3f}×",
        str(len(found)),
        f"{size:,} B; slowest {milliseconds(max(one.seconds for one in found))}"
        + ("" if right else "; THE TEXT DIFFERS"),
    )


async def cost_of_a_round(server: Process, device: Device, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds of processor time per token while text streams; and of the run's start up to its first token."""
    clock = Clock()
    device.listen = clock
    tokens = int(options.rate * (options.seconds + 0.6))
    before = server.cpu()
    await device.ask(stamps(tokens, options.rate))
    await until(lambda: clock.delays, "the first token")
    started = server.cpu()
    await asyncio.sleep(0.3)
    cpu, seen = server.cpu(), len(clock.delays)
    await asyncio.sleep(options.seconds)
    cpu, seen = server.cpu() - cpu, len(clock.delays) - seen
    await until(lambda: clock.ended, "the end")
    await asyncio.sleep(0.5)
    return cpu / seen, started - before


async def long_past(options: argparse.Namespace) -> Row:
    """Rounds take turns, so that whatever else the machine does hits both sides."""
    with Site() as site:
        short = site.prepare(conversations=1, history=10)
        long = site.prepare(conversations=1, history=options.messages)
        server = site.serve()
        devices = [chat_device(server.port, side["session"], side["conversations"][0]) for side in (short, long)]
        await connect_all(devices)
        for device in devices:
            await cost_of_a_round(server, device, argparse.Namespace(rate=options.rate, seconds=0.5))
        rounds = [[await cost_of_a_round(server, device, options) for device in devices] for _ in range(options.rounds)]
        await close_all(devices)
    (small, start_small), (large, start_large) = (
        tuple(median([one[side][kind] for one in rounds]) for kind in (0, 1)) for side in (0, 1)
    )
    return Row(
        NAME,
        f"processor time per token, {options.messages:,} messages in the conversation",
        f"{large * 1e6:.0f} µs",
        "≤ 1.10×",
        large <= 1.1 * small,
        f"10 messages {small * 1e6:.0f} µs",
        f"{large / small:.2f}×",
        f"{options.rounds} × {int(options.rate * options.seconds):,} tokens",
        f"start of a run {milliseconds(start_large)} of processor time, with 10 messages {milliseconds(start_small)}",
    )


async def measure(options: argparse.Namespace) -> list[Row]:
    return [
        await nothing_missed(options),
        await whole_answer(options, finished=False),
        await whole_answer(options, finished=True),
        await long_past(options),
    ]
