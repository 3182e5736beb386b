"""Agents under races: two devices that decide at once, stops at random points of runs with tools, and a large input.

- decisions: each call is approved by one device and denied by another in the same moment. Target: one decision each,
  the same for both, and nothing executed twice or after a denial. n: calls.
- cancels: runs of many steps are stopped at a random moment, and the same conversation asks for the next one at once.
  Target: no request is refused by a server that refuses what the Messages API refuses, the provider's connection is
  closed within 250 ms (p99) and tools are told within 100 ms (p99), also with several at once, whose one process then
  has all the work a core can do. n: cancels. Baseline: one run at a time.
- input: a call whose arguments have a megabyte. Target: a delta at its end costs the server no more processor time
  than one at its beginning (last quarter ÷ first, at most 1.2). n: deltas.
"""

import argparse
import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from bench.client import Device, chat_device, close_all, connect_all, until
from bench.process import Process, Site
from bench.table import Row, milliseconds, percentile, times

NAME = "agents"
PARTS = ("decisions", "cancels", "input")
CLOSED, TOLD, FLAT = 0.25, 0.1, 1.2
NAMES = {"closed": "provider's connection closed", "told": "tools told"}
TOOLS = "bench.tools.quick,bench.tools.slow,bench.tools.gated"


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--races", type=int, default=10 if quick else 1000)
    parser.add_argument("--cancels", type=int, default=10 if quick else 500)
    parser.add_argument("--conversations", type=int, default=2 if quick else 10, help="at once")
    parser.add_argument("--bytes", type=int, default=100_000 if quick else 1_000_000)


class Watcher:
    """What one device was told of runs."""

    def __init__(self) -> None:
        self.requested: dict[str, dict[str, Any]] = {}  # run → approval.requested
        self.waiting: set[str] = set()
        self.decided: Counter[str] = Counter()  # call → decisions
        self.ended: dict[str, str] = {}  # run → reason
        self.written: list[tuple[int, int]] = []  # (monotonic ns, length of an input so far)

    def __call__(self, device: Device, body: bytes, now: int) -> None:
        frame = orjson.loads(body)
        for event in frame["events"] if frame["type"] == "batch" else (frame,):
            match event["type"]:
                case "approval.requested":
                    self.requested[event["run"]] = event
                case "approval.decided":
                    self.decided[event["call"]] += 1
                case "run.waiting":
                    self.waiting.add(event["run"])
                case "run.ended":
                    self.ended[event["run"]] = event["reason"]
                case "message.delta":
                    self.written.append((now, event["offset"] + len(event["text"])))


class Pair:
    """Two devices in one conversation."""

    def __init__(self, port: int, session: str, conversation: dict[str, Any]) -> None:
        self.watchers = Watcher(), Watcher()
        self.devices = [chat_device(port, session, conversation, watcher) for watcher in self.watchers]

    async def ask(self, text: str) -> str:
        return str((await self.devices[0].ask(text))["run"])

    async def both(self, condition: Any, what: str) -> None:
        await until(lambda: all(map(condition, self.watchers)), what, deadline=60)

    async def answer(self, device: Device, **signal: Any) -> dict[str, Any]:
        signal_id = str(uuid.uuid4())
        device.say({"id": signal_id, **signal})
        await until(lambda: signal_id in device.answers, "an answer")
        return device.answers.pop(signal_id)


@contextmanager
def installed(conversations: int, rate: float) -> Iterator[tuple[Process, Process, list[Pair], Path]]:
    with Site(CHAT_PROVIDER="claude", ANTHROPIC_API_KEY="bench", CHAT_TOOLS=TOOLS) as site:
        journal = site.directory / "journal"
        journal.touch()
        upstream = site.start("-m", "bench.agent_upstream", "--rate", str(rate))
        site.env |= {"ANTHROPIC_BASE_URL": upstream.url, "BENCH_JOURNAL": str(journal)}
        made = site.prepare(conversations=conversations)
        server = site.serve()
        pairs = [Pair(server.port, made["session"], one) for one in made["conversations"]]
        yield server, upstream, pairs, journal


def lines(journal: Path) -> list[tuple[str, str, str, float]]:
    return [tuple(json.loads(line)) for line in journal.read_text().splitlines()]


async def decisions(races: int, conversations: int) -> list[Row]:
    chance = random.Random(7)
    approved: set[str] = set()
    wrong: list[str] = []

    async def race(pair: Pair, name: str) -> None:
        run = await pair.ask(f"race {name}")
        await pair.both(lambda watcher: run in watcher.requested, "the request")
        asked = pair.watchers[0].requested[run]
        ways = ["approve", "deny"]
        chance.shuffle(ways)
        told = {"type": "tool.decide", "run": run, "call": asked["call"], "arguments_hash": asked["hash"]}
        answers = await asyncio.gather(
            *(
                pair.answer(device, **told, decision=way, reason="")
                for device, way in zip(pair.devices, ways, strict=True)
            )
        )
        await pair.both(lambda watcher: run in watcher.ended, "the end")
        if any(answer["type"] != "ack" or answer["by"] is None for answer in answers):
            wrong.append(f"not decided: {answers}")
        elif answers[0]["by"] != answers[1]["by"]:
            wrong.append(f"two deciders: {answers}")
        if [watcher.decided[asked["call"]] for watcher in pair.watchers] != [1, 1]:
            wrong.append(f"not one decision: {asked['call']}")
        winner = next(
            way
            for device, way in zip(pair.devices, ways, strict=True)
            if device.path.split("device=")[1].startswith(answers[0]["by"]["device"])
        )
        if winner == "approve":
            approved.add(asked["call"])

    async def several(pair: Pair, numbers: range) -> None:
        for number in numbers:
            await race(pair, str(number))

    with installed(conversations, 0) as (_, upstream, pairs, journal):
        await connect_all(device for pair in pairs for device in pair.devices)
        async with asyncio.TaskGroup() as group:
            for number, pair in enumerate(pairs):
                group.create_task(several(pair, range(number, races, conversations)))
        executed = Counter(call for what, _, call, _ in lines(journal) if what == "gated")
        refused = [entry["refused"] for entry in upstream.ask("journal") if entry["refused"]]
        await close_all(device for pair in pairs for device in pair.devices)
    twice = sum(count > 1 for count in executed.values())
    wrong += [f"executed and not approved: {call}" for call in executed.keys() - approved]
    wrong += [f"approved and not executed: {call}" for call in approved - executed.keys()]
    return [
        Row(
            NAME,
            "two devices decide at once: calls with other than one decision; executed twice",
            f"{len(wrong)}; {twice}",
            "0; 0",
            not wrong and not twice and not refused,
            n=f"{races:,}",
            remarks=f"{len(approved)} approved, {races - len(approved)} denied; {'; '.join(wrong[:2])}",
        )
    ]


@dataclass(frozen=True)
class Stopped:
    """Delays (seconds) until the provider's connection was closed and until tools were told; what went wrong."""

    closed: list[float]
    told: list[float]
    wrong: list[str]
    requests: int


async def stopped(cancels: int, conversations: int) -> Stopped:
    chance = random.Random(11)
    asked: dict[str, tuple[str, float]] = {}  # what was asked → run, when it was to stop
    wrong: list[str] = []

    async def several(pair: Pair, count: int) -> None:
        for _ in range(count):
            name = f"work {uuid.uuid4()}"
            run = await pair.ask(name)
            await asyncio.sleep(chance.uniform(0, 4))
            at = time.monotonic()
            answer = await pair.answer(pair.devices[1], type="run.cancel", run=run)
            if answer.get("outcome") == "cancelling":
                asked[name] = run, at
            await pair.both(lambda watcher, run=run: run in watcher.ended, "the end")
        run = await pair.ask("And now?")
        await pair.both(lambda watcher: run in watcher.ended, "the last answer")
        for reason in {watcher.ended[run] for watcher in pair.watchers} - {"completed"}:
            wrong.append(f"the last question {reason}")
        for reason in set(pair.watchers[0].ended.values()) - {"completed", "cancelled"}:
            wrong.append(f"a run {reason}")

    with installed(conversations, 30) as (_, upstream, pairs, journal):
        await connect_all(device for pair in pairs for device in pair.devices)
        async with asyncio.TaskGroup() as group:
            for number, pair in enumerate(pairs):
                group.create_task(several(pair, len(range(number, cancels, conversations))))
        entries: list[dict[str, Any]] = upstream.ask("journal")
        noted = lines(journal)
        await close_all(device for pair in pairs for device in pair.devices)
    wrong += [entry["refused"] for entry in entries if entry["refused"]]
    closed, told = [], []
    for entry in entries:
        _, at = asked.get(entry["asked"], ("", 0.0))
        if at and not entry["finished"]:
            if entry["closed"] is None:
                wrong.append("a connection stayed open")
            else:
                closed.append(entry["closed"] - at)
    when = dict(asked.values())
    executing = Counter((run, call) for what, run, call, _ in noted if what in ("quick", "slow"))
    wrong += [f"executed twice: {call}" for (_, call), count in executing.items() if count > 1]
    told = [at - when[run] for what, run, _, at in noted if what == "told" and run in when]
    wrong += ["a tool began after it"] * sum(
        what == "slow" and run in when and at > when[run] + CLOSED for what, run, _, at in noted
    )
    return Stopped(closed, told, wrong, len(entries))


async def cancels(count: int, conversations: int) -> list[Row]:
    alone = await stopped(max(10, count // 5), 1)
    busy = await stopped(count - count // 5, conversations)
    wrong = alone.wrong + busy.wrong
    rows = [
        Row(
            NAME,
            f"stopped at random points, one run with tools at a time and {conversations} at once: "
            "requests refused, turns failed",
            str(len(wrong)),
            "0",
            not wrong,
            n=f"{count}",
            remarks=f"{alone.requests + busy.requests} requests; {'; '.join(wrong[:2])}",
        )
    ]
    for what, target in (("closed", CLOSED), ("told", TOLD)):
        baseline: list[float] = getattr(alone, what)
        for at_once, delays in ((1, baseline), (conversations, getattr(busy, what))):
            for name, share in (("median", 0.5), ("p99", 0.99)):
                figure = percentile(delays, share)
                rows.append(
                    Row(
                        NAME,
                        f"signal → {NAMES[what]}, runs with tools at once: {at_once}, {name}",
                        milliseconds(figure),
                        f"≤ {milliseconds(target)}" if share > 0.9 else "–",
                        figure <= target if share > 0.9 else None,
                        "one run at a time" if at_once > 1 else "–",
                        times(figure, percentile(baseline, share)) if at_once > 1 else "–",
                        str(len(delays)),
                    )
                )
    return rows


async def large_input(size: int) -> list[Row]:
    with installed(1, 1500) as (server, _, [pair], journal):
        await connect_all(pair.devices)
        watcher = pair.watchers[0]
        marks: list[float] = []
        run = await pair.ask(f"input {size}")
        for quarter in range(5):
            least = size * quarter // 4 * 0.98

            def there(least: float = least) -> bool:
                return bool(watcher.written) and watcher.written[-1][1] >= least

            await until(there, "more of the input", deadline=240)
            marks.append(server.cpu())
        await pair.both(lambda watcher: run in watcher.ended, "the end")
        executed = sum(what == "quick" for what, *_ in lines(journal))
        await close_all(pair.devices)
    costs = [later - earlier for earlier, later in pairwise(marks)]
    deltas = size // 40
    ratio = costs[3] / costs[0]
    return [
        Row(
            NAME,
            f"a call with {size:,} bytes of input: processor time per delta in its last quarter",
            f"{costs[3] / (deltas / 4) * 1e6:.0f} µs",
            f"≤ {FLAT}×",
            ratio <= FLAT and executed == 1,
            f"in its first quarter {costs[0] / (deltas / 4) * 1e6:.0f} µs",
            times(costs[3], costs[0]),
            f"{deltas:,}",
            f"quarters: {', '.join(f'{cost:.2f} s' for cost in costs)}; executed {executed} time",
        )
    ]


async def measure(options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    if "decisions" in options.parts:
        rows += await decisions(options.races, options.conversations)
    if "cancels" in options.parts:
        rows += await cancels(options.cancels, options.conversations)
    if "input" in options.parts:
        rows += await large_input(options.bytes)
    return rows
