"""What do people lose when processes, Redis or PostgreSQL die, freeze or forget, under load?

Two servers, two workers, PostgreSQL and Redis, all private; devices come back to any server that lives, as behind a
balancer, and everybody keeps asking. n: how often each fault was made. At the end of each phase every device is
compared with every other and with the database, and each text with what the provider says. Targets: 0 lost, repeated,
reordered or altered, 0 sends unanswered after they were said again, and
web-kill: in sync elsewhere ≤ 3 s, no run touched. web-term: `bye`, exit ≤ 15 s. worker-kill: its runs elsewhere or
ended ≤ 15 s. worker-term: it has left and its runs are elsewhere or ended ≤ 15 s. worker-freeze: nothing of the old
attempt after its end. redis-*: no send refused, devices behind the log by ≤ 2 s (1 s is the position timer).
postgresql-*: runs go on ≤ 2 s after it is back.
"""

import argparse
import asyncio
import random
import signal
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from bench.chaos import ENDS
from bench.client import connect_all, reached, until
from bench.fleet import Fleet
from bench.followers import Follower, Story
from bench.table import Row, median
from chat.agent.scripted import long_text

NAME = "faults"
PHASES = (
    *("web-kill", "web-term", "worker-kill", "worker-term", "worker-freeze"),
    *("redis-kill", "redis-flush", "redis-freeze", "postgresql-restart", "postgresql-kill", "postgresql-freeze"),
)
TIMES = {
    "web-kill": 20,
    "web-term": 10,
    "worker-kill": 20,
    "worker-term": 10,
}  # 3 of the others, 1 of what takes 20 s or more
ONCE = {"redis-freeze": 30.0, "postgresql-freeze": 20.0}
LIMIT = {"web": 3.0, "worker": 15.0, "redis": 2.0, "postgresql": 2.0}
HELD = "SELECT id FROM chat_run WHERE worker LIKE %s AND state = 'running'"
AWAY = 2.0  # seconds that Redis stays dead


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES[:3] if quick else PHASES)
    parser.add_argument(
        "--times", type=int, default=1 if quick else 0, help="of each fault; 0: as the project promises"
    )
    parser.add_argument("--conversations", type=int, default=5 if quick else 20)
    parser.add_argument("--devices", type=int, default=4, help="of each conversation")
    parser.add_argument("--rate", type=float, default=40, help="tokens per second of each run")
    parser.add_argument("--seed", type=int, default=7)


class Resident(Follower):
    """A device that wants to be connected, and comes back by itself to any server that lives."""

    def __init__(self, fleet: Fleet, session: str, conversation: str, story: Story, chance: random.Random) -> None:
        self._fleet, self._chance = fleet, chance
        self.byes = 0
        super().__init__(fleet.webs[0], session, conversation, story)

    def _new(self) -> Any:
        self.web = self._fleet.some_web(self._chance)
        return self._at("websocket", self.web.port)

    async def reside(self) -> None:
        """Until cancelled."""
        while True:
            await self.device.closed.wait()
            self.byes += self.device.why.startswith("bye")
            began = time.monotonic()
            while not await self._come_back():  # noqa: ASYNC110
                await asyncio.sleep(self._chance.uniform(0.05, 0.2))
            self._story.returns.append(time.monotonic() - began)

    async def _come_back(self) -> bool:
        self.device.cut()
        self.device = device = self._new()
        try:
            await device.connect()
        except OSError:
            return False
        await reached(lambda: device.synced.is_set() or device.closed.is_set(), 60)
        return device.synced.is_set() and not device.closed.is_set()

    @property
    def is_live(self) -> bool:
        return not self.device.lost and self.device.synced.is_set()


class Speaker:
    """Keeps one conversation busy: asks, says it again until it is answered, waits for the end, asks the next."""

    def __init__(self, there: list[Resident], story: Story, chance: random.Random, rate: float) -> None:
        self._there, self._story, self._chance, self._rate = there, story, chance, rate
        self.asked: dict[str, str] = {}  # run → prompt
        self.quiet = False

    async def speak(self) -> None:
        while not self.quiet:
            words = self._chance.randint(80, 400)
            prompt, name = f"/rate {self._rate:g} /long {words}", str(uuid.uuid4())
            ack = await self._ask({"type": "message.send", "id": name, "text": prompt, "when_busy": "queue"})
            self.asked[ack["run"]] = prompt
            await until(lambda: self._ended(ack["run"]), "an end", 120)  # noqa: B023

    async def _ask(self, signal_: dict[str, Any]) -> dict[str, Any]:
        """As a client with an outbox does. A refusal that may pass is counted and said again."""
        name = signal_["id"]
        end = time.monotonic() + 90
        while time.monotonic() < end:
            for one in self._there:
                one.answers.pop(name, None)
            self._chance.choice(self._there).say(signal_)
            if await reached(lambda: any(name in one.answers for one in self._there), 1.0):
                answer = next(one.answers[name] for one in self._there if name in one.answers)
                if answer["type"] == "ack":
                    return answer
                self._story.refused += 1
                await asyncio.sleep(0.1)
        self._story.violated("lost", f"a send without an answer: {signal_}")
        raise TimeoutError("a send without an answer")

    def _ended(self, run: str) -> bool:
        return any(one.view.state_of(run) in ENDS for one in self._there)


@dataclass
class Found:
    """Of one phase."""

    n: int = 0
    seconds: list[float] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    story: Story = field(default_factory=Story)


class Phase:
    """One kind of fault against one fleet, again and again."""

    def __init__(self, name: str, fleet: Fleet, everybody: list[Resident], found: Found) -> None:
        self.name, self.fleet, self.everybody, self.found = name, fleet, everybody, found
        self.who, _, self.how = name.partition("-")

    async def make(self) -> float:
        """The fault, and the repair. Returns the seconds its target is about."""
        if self.who == "web":
            return await self._web()
        if self.who == "worker":
            return await self._worker()
        return await (self._redis() if self.who == "redis" else self._postgresql())

    async def _web(self) -> float:
        web = self.fleet.webs.pop(0)
        there = [one for one in self.everybody if one.web is web]
        byes = sum(one.byes for one in there)
        began = time.monotonic()
        web.popen.send_signal(signal.SIGKILL if self.how == "kill" else signal.SIGTERM)
        if self.how == "term":
            await until(lambda: web.popen.poll() is not None, "the end of a server", 30)
            exited = time.monotonic() - began
        await until(lambda: all(one.is_live and one.web is not web for one in there), "devices elsewhere", 60)
        back = time.monotonic() - began
        await asyncio.to_thread(self.fleet.start_web)
        if self.how == "kill":
            return back
        self.found.remarks["devices that were told bye"] += sum(one.byes for one in there) - byes
        self.found.remarks["devices"] += len(there)
        self.found.remarks["exit codes other than 0"] += web.popen.returncode != 0
        return exited

    async def _worker(self) -> float:
        worker = self.fleet.workers.pop(0)
        mine = f"%:{worker.popen.pid}:%"
        began = time.monotonic()
        how = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "freeze": signal.SIGSTOP}[self.how]
        worker.popen.send_signal(how)
        held = await self._rows(HELD, mine)  # before the start of another, which takes seconds
        self.found.remarks["runs it held"] += len(held)
        if self.how == "term":
            await until(lambda: worker.popen.poll() is not None, "the end of a worker", 30)
            self.found.remarks["exit codes other than 0"] += worker.popen.returncode != 0
        else:
            await asyncio.to_thread(self.fleet.start_worker)
        while await self._rows(HELD, mine):  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.05)
        took = time.monotonic() - began
        if self.how == "term":
            await asyncio.to_thread(self.fleet.start_worker)
        if self.how == "freeze":
            worker.popen.send_signal(signal.SIGCONT)
            await asyncio.sleep(3)
            late = await self._rows(
                "SELECT e.serial FROM chat_event e JOIN chat_event z ON z.run_id = e.run_id AND z.kind = 'run.ended'"
                " WHERE e.run_id = ANY (%s) AND e.serial > z.serial",
                [one[0] for one in held],
            )
            if late:
                self.found.story.violated("altered", f"{len(late)} events after the end")
            worker.stop()
        return took

    async def _redis(self) -> float:
        refused, backing = self.found.story.refused, self.fleet.redis
        lag = asyncio.create_task(self._lag())
        if self.how == "flush":
            await asyncio.to_thread(self.fleet.flush_redis)
        elif self.how == "kill":
            backing.signal(signal.SIGKILL)
            await backing.ended()
            await asyncio.sleep(AWAY)
            await backing.start(self.fleet.redis_answers)
        else:
            backing.signal(signal.SIGSTOP)
            await asyncio.sleep(ONCE[self.name])
            backing.signal(signal.SIGCONT)
        await asyncio.sleep(5)
        lag.cancel()
        with suppress(asyncio.CancelledError):
            await lag
        self.found.remarks["sends refused meanwhile"] += self.found.story.refused - refused
        return max(self._behind)

    async def _lag(self) -> None:
        """How long devices stay behind the log, looked at ten times a second."""
        self._behind = [0.0]
        ahead: dict[Resident, tuple[int, float]] = {}  # what it has to reach, and since when
        while True:
            heads = {str(pk): head for pk, head in await self._rows("SELECT id, head FROM chat_conversation")}
            now = time.monotonic()
            for one in self.everybody:
                if one in ahead and one.view.cursor >= ahead[one][0]:
                    del ahead[one]
                if one not in ahead and one.view.cursor < heads[one.conversation]:
                    ahead[one] = heads[one.conversation], now
            self._behind += [now - since for _, since in ahead.values()]
            await asyncio.sleep(0.1)

    async def _postgresql(self) -> float:
        backing = self.fleet.postgresql
        if self.how == "freeze":
            backing.signal(signal.SIGSTOP)
            await asyncio.sleep(ONCE[self.name])
            backing.signal(signal.SIGCONT)
        else:
            backing.signal(signal.SIGINT if self.how == "restart" else signal.SIGKILL)
            await backing.ended()
            await backing.start(self.fleet.database_answers)
        began = time.monotonic()
        known = {one: one.view.cursor for one in self.everybody}
        # Every conversation is written to again: its run goes on, or has ended and the next is there.
        await until(lambda: all(one.view.cursor > known[one] for one in self.everybody), "words again", 60)
        return time.monotonic() - began

    async def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self.fleet.rows, statement, *values)


async def phase(name: str, options: argparse.Namespace) -> Found:
    """A fleet of its own, a load, and the fault as often as it is to be made."""
    found, chance = Found(), random.Random(options.seed)
    story = found.story
    conversations = 50 if name == "web-term" and not options.times else options.conversations
    fleet = Fleet(CHAT_DRAIN_SECONDS="8")
    async with fleet.open(conversations) as made:
        places = [one["id"] for one in made["conversations"]]
        there = {
            key: [Resident(fleet, made["session"], key, story, chance) for _ in range(options.devices)]
            for key in places
        }
        everybody = [one for group in there.values() for one in group]
        await connect_all([one.device for one in everybody])
        speakers = [Speaker(group, story, chance, options.rate) for group in there.values()]
        residing = [asyncio.create_task(one.reside()) for one in everybody]
        async with asyncio.TaskGroup() as group:
            for speaker in speakers:
                group.create_task(speaker.speak())
            making = Phase(name, fleet, everybody, found)
            wanted = options.times or TIMES.get(name, 1 if name in ONCE else 3)
            while found.n < wanted:
                await asyncio.sleep(chance.uniform(1, 3))
                found.seconds.append(await making.make())
                found.n += 1
                if options.verbose:
                    print(f"{name} {found.n}: {found.seconds[-1]:.2f} s; {story.summary()}", file=sys.stderr)
            for speaker in speakers:
                speaker.quiet = True
        await until(lambda: all(one.is_live for one in everybody), "everybody back", 60)
        heads = {str(pk): head for pk, head in fleet.rows("SELECT id, head FROM chat_conversation")}
        await reached(lambda: all(one.view.cursor == heads[one.conversation] for one in everybody), 10)
        for task in residing:
            task.cancel()
        compare(fleet, there, speakers, found)
        for one in everybody:
            one.device.cut()
        for process in (*fleet.webs, *fleet.workers):
            found.remarks["tracebacks"] += sum("Traceback" in line for line in process.complaints())
    return found


def compare(fleet: Fleet, there: dict[str, list[Resident]], speakers: list[Speaker], found: Found) -> None:
    """Every device with the first, the first with the database, the texts with what the provider says."""
    stored = {
        str(run): (state, text)
        for run, state, text in fleet.rows(
            "SELECT r.id, r.state, coalesce(m.parts -> 0 ->> 'text', '')"
            " FROM chat_run r LEFT JOIN chat_message m ON m.id = r.answer_id"
        )
    }
    asked = {run: prompt for speaker in speakers for run, prompt in speaker.asked.items()}
    for run in asked.keys() - stored.keys():
        found.story.violated("lost", f"an acknowledged send is not there: {run}")
    for run in stored.keys() - asked.keys():
        found.story.violated("repeated", f"a run nobody asked for: {run}")
    for run, (state, text) in stored.items():
        found.states[state] += 1
        whole = long_text(int(asked.get(run, "0").split()[-1]))
        if state not in ENDS or not whole.startswith(text) or (state == "completed" and whole != text):
            found.story.violated("altered", f"run {run} is {state} with {len(text)} of {len(whole)} characters")
    for group in there.values():
        first = group[0].view
        for one in group:
            if one.view.comparable() != first.comparable():
                found.story.violated("altered", "two devices differ")
        for run in first.runs:
            if (first.state_of(run), first.text_of(run)) != stored.get(run):
                found.story.violated("altered", f"run {run} differs between device and database")


async def measure(options: argparse.Namespace) -> list[Row]:
    rows = []
    for name in options.phases:
        try:
            found = await phase(name, options)
        except (psycopg.Error, ExceptionGroup, TimeoutError, RuntimeError) as error:
            rows.append(
                Row(NAME, name, "could not be measured", met=False, remarks=" ".join(repr(error).split())[:300])
            )
            continue
        rows.append(row_of(name, found))
    return rows


def row_of(name: str, found: Found) -> Row:
    """The slowest of all, and what was violated."""
    limit = 15.0 if name == "web-term" else LIMIT[name.partition("-")[0]]
    touched = found.states.total() - found.states["completed"] if name.startswith("web") else 0
    refused = found.remarks["sends refused meanwhile"] if name.startswith("redis") else 0
    told = found.remarks["devices"] == found.remarks["devices that were told bye"]
    wrong = found.story.violations.total() + touched + refused + found.remarks["exit codes other than 0"]
    remarks = [
        f"median {median(found.seconds):.2f} s",
        ", ".join(f"{count} {state}" for state, count in sorted(found.states.items())),
        f"{found.story.refused} sends refused and said again",
        *(f"{count} {what}" for what, count in sorted(found.remarks.items()) if count),
        *found.story.examples[:3],
    ]
    return Row(
        NAME,
        f"{name}: slowest; violations",
        f"{max(found.seconds):.2f} s; {found.story.violations.total()}",
        f"≤ {limit:g} s; 0",
        max(found.seconds) <= limit and not wrong and told,
        n=f"{found.n} × {sum(found.states.values())} runs",
        remarks="; ".join(remarks),
    )
