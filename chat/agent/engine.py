"""Executes runs in this process, many at once: claims, cancels, renews leases, sweeps up after the dead, drains.

Everything it learns from the channel layer it also finds out by looking again on a timer. By itself it claims what it
hears of; under a job engine (`chat/agent/jobs.py`) it is told by jobs when to.
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Any

from channels.layers import get_channel_layer
from django.conf import settings
from django.db import DatabaseError
from django.utils.module_loading import import_string

from chat import bulletin, metrics
from chat.agent.named import Missing, provider_at
from chat.agent.prompt import prompt_of
from chat.agent.provider import Provider, Turn
from chat.agent.purses import LOOK_SECONDS, Purses
from chat.agent.runner import Runner, model_of
from chat.agent.toolbox import Toolbox
from chat.ending import end
from chat.errors import Refused
from chat.host import Host
from chat.logs import reason
from chat.models import Conversation, Run, Worker
from chat.models.deciding import expire, overdue
from chat.models.parts import next_step
from chat.models.queue import startable
from chat.news import ENGINES

logger = logging.getLogger(__name__)

RENEW_SECONDS = 1.0  # also the longest a cancel can go unnoticed when its announcement is lost
Claim = asyncio.Task[list[asyncio.Task[None]]]


class Engine:
    """Beside the server: `start` with it, `drain` before it ends, `close` with it."""

    def __init__(self, host: Host) -> None:
        self.worker = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._host = host
        self._purses = Purses(host)
        self._runners: dict[uuid.UUID, tuple[Runner, asyncio.Task[None]]] = {}
        self._providers: dict[str, Provider] = {}
        self._toolbox = Toolbox()
        self._claiming: dict[uuid.UUID, bool] = {}
        self._early: set[uuid.UUID] = set()  # cancels heard while a claim was under way
        self._tasks: list[asyncio.Task[None]] = []
        self._claims: set[Claim] = set()
        self.draining = False

    async def start(self) -> None:
        """Listen, and look at once for what a killed process left behind."""
        self._provider(settings.CHAT_PROVIDER)  # its import takes seconds, which no device should wait for
        self._toolbox.load()
        self._layer = get_channel_layer()
        self._channel = await self._layer.new_channel("engine")
        await self._layer.group_add(ENGINES, self._channel)
        self._host.desk.engine = self.heard
        metrics.watch_runs(lambda: self.running)
        self._tasks = [
            asyncio.create_task(self._listen(), name="engine"),
            asyncio.create_task(self._repeat(settings.CHAT_SWEEP_SECONDS, self._sweep), name="engine-sweep"),
            asyncio.create_task(self._repeat(RENEW_SECONDS, self._renew), name="engine-renew"),
            asyncio.create_task(self._repeat(LOOK_SECONDS, self._reckon), name="engine-reckon"),
        ]

    @property
    def running(self) -> int:
        """How many runs are being executed here."""
        return len(self._runners)

    async def drain(self, seconds: float) -> None:
        """Claim nothing more, give what runs so long to finish, then hand over the rest."""
        self.draining = True
        logger.info("draining", extra={"worker": self.worker, "runs": self.running, "seconds": seconds})
        await self._wait_for_runners(seconds)
        logger.info("handing over", extra={"worker": self.worker, "runs": self.running})
        for runner, _ in self._runners.values():
            runner.hand_over()
        await self._wait_for_runners(5.0)

    async def close(self) -> None:
        """Stop. Call `drain` first, or the leases of what runs are left to lapse."""
        self.draining = True
        await end(*self._tasks, *self._claims, *(task for _, task in self._runners.values()))
        for provider in self._providers.values():
            await provider.aclose()
        await self._toolbox.aclose()
        with suppress(DatabaseError):  # it is forgotten later
            await self._host.database.run(Worker.left, self.worker)

    async def _wait_for_runners(self, seconds: float) -> None:
        tasks = [*self._claims, *(task for _, task in self._runners.values())]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)

    # --- waking ---------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        while True:
            try:
                message = await self._layer.receive(self._channel)
            except Exception as error:  # noqa: BLE001 - whatever a layer raises, the timers go on
                logger.warning("the channel layer does not answer: %s", reason(error))
                await asyncio.sleep(0.5)
                continue
            if message["sender"] != self._host.desk.name:
                self.heard_from_others(message)

    def heard(self, message: dict[str, Any]) -> None:
        """Directly from this process's news desk: what was committed here."""
        self._take_cancels(message)
        self.wake(uuid.UUID(message["conversation"]))

    def heard_from_others(self, message: dict[str, Any]) -> None:
        """From another process over the layer. Whoever is first to claim has it."""
        self.heard(message)

    def _take_cancels(self, message: dict[str, Any]) -> None:
        conversation = uuid.UUID(message["conversation"])
        for run in map(uuid.UUID, message["cancels"]):
            if conversation in self._claiming:
                self._early.add(run)  # it may be ours already without being here yet
            self._stop(run, "announced")

    def _stop(self, run: uuid.UUID, why: str) -> None:
        if run in self._runners:
            self._runners[run][0].stop(why)

    def wake(self, conversation: uuid.UUID) -> None:
        """There may be something to start."""
        self.claim(conversation)

    def claim(self, conversation: uuid.UUID) -> Claim | None:
        """Start here what may start, one claim at a time per conversation, and once more if asked meanwhile.

        The task's result is the runs that were started. None: nobody claims when draining, and one claim is under way.
        """
        if self.draining:
            return None
        if conversation in self._claiming:
            self._claiming[conversation] = True
            return None
        self._claiming[conversation] = False
        task = asyncio.create_task(self._claim(conversation), name="engine-claim")
        self._claims.add(task)
        task.add_done_callback(self._claims.discard)
        return task

    async def _claim(self, conversation: uuid.UUID) -> list[asyncio.Task[None]]:
        started = []
        try:
            for run, turn in await self._host.database.run(claim, conversation, self.worker):
                started.append(self._execute(run, turn))
                if run.pk in self._early:
                    self._stop(run.pk, "announced")
        except Refused:
            pass  # the conversation was deleted meanwhile
        except Exception:
            facts = {"conversation": str(conversation), "worker": self.worker}
            logger.exception("could not claim; the sweep tries again", extra=facts)
        finally:
            again = self._claiming.pop(conversation)
            if not self._claiming:
                self._early.clear()
        if again:
            self.claim(conversation)
        return started

    def _execute(self, run: Run, turn: Turn) -> asyncio.Task[None]:
        # An earlier attempt of ours whose lease lapsed: its provider must not go on.
        self._stop(run.pk, "started again")
        provider = self._provider(run.provider)
        wallet = self._purses.open(run, model_of(provider))
        runner = Runner(
            self._host,
            run,
            provider,
            turn,
            toolbox=self._toolbox,
            turn_at=partial(turn_of, run),
            wallet=wallet,
            look=partial(self._purses.look, [wallet]),
        )
        task = asyncio.create_task(runner.execute(), name=f"run-{run.pk}")
        self._runners[run.pk] = (runner, task)
        task.add_done_callback(lambda done: self._executed(run.pk, done))
        return task

    def _executed(self, run: uuid.UUID, task: asyncio.Task[None]) -> None:
        if run in self._runners and self._runners[run][1] is task:
            del self._runners[run]
        if not task.cancelled() and (error := task.exception()) is not None:
            facts = {"run": str(run), "worker": self.worker}
            logger.error("a runner broke; its lease lapses", exc_info=error, extra=facts)

    def _provider(self, name: str) -> Provider:
        if name not in self._providers:
            try:
                self._providers[name] = provider_at(settings.CHAT_PROVIDERS[name])
            except Exception:
                logger.exception("there is no provider %s", name, extra={"provider": name})
                return Missing()
        return self._providers[name]

    # --- timers ---------------------------------------------------------------------------------------------

    async def _repeat(self, seconds: float, act: Any) -> None:
        name = getattr(act, "func", act).__name__
        while True:
            try:
                await act()
            except Exception as error:  # noqa: BLE001 - a database that is away comes back
                logger.warning("%s failed, tried again in %s s: %s", name, seconds, reason(error))
            await asyncio.sleep(seconds)

    async def _sweep(self) -> None:
        for conversation in await self._host.database.run(sweep, set(self._runners)):
            self.wake(conversation)
        await self._host.database.run(Worker.seen, self.worker, self.running, draining=self.draining)

    async def _renew(self) -> None:
        runs = dict(self._runners)
        if not runs:
            return
        mine = await self._host.database.run(Run.renew, self.worker, list(runs))
        for run, executing in runs.items():
            # Not another attempt of it, which was claimed here meanwhile.
            if run not in mine and self._runners.get(run) is executing:
                self._stop(run, "found by looking")  # cancelled, ended or taken over

    async def _reckon(self) -> None:
        if self._runners:
            await self._purses.look([runner.wallet for runner, _ in self._runners.values()])
        for runner, _ in self._runners.values():
            runner.check_budget()


def chosen_engine() -> Any:
    """What a process that serves has beside it."""
    return import_string(settings.CHAT_ENGINES[settings.CHAT_ENGINE])


def claim(conversation: uuid.UUID, worker: str) -> list[tuple[Run, Turn]]:
    """Start what may start in a conversation, with what its provider needs to know."""
    started = Run.claim(Conversation(pk=conversation), worker)
    return [(run, turn_of(run, next_step(run.answer.parts if run.answer else []))) for run in started]


def turn_of(run: Run, step: int) -> Turn:
    """What the provider may know of a claimed run when it is asked for the so many-th time."""
    if step and run.answer is not None:
        run.answer.refresh_from_db(fields=["parts"])
    return Turn(
        run=run.pk,
        conversation=run.conversation_id,
        attempt=run.attempt,
        system=settings.CHAT_SYSTEM_PROMPT,
        prompt=prompt_of(run),
        step=step,
    )


def sweep(ours: Collection[uuid.UUID]) -> list[uuid.UUID]:
    """Recover runs whose lease lapsed, and return the conversations where something can start.

    `ours` are alive whatever their lease says: a database that was away for longer than a lease must not make
    this process give up its own runs when it comes back.
    """
    for run in Run.lapsed():
        if run.pk not in ours:
            try:
                run.recover()
            except Refused:
                pass  # its conversation was deleted meanwhile
            except Exception:
                logger.exception("could not recover a run; the next sweep tries again", extra=bulletin.ids(run))
    for run in overdue():
        try:
            expire(run)
        except Refused:
            pass
        except Exception:
            logger.exception("could not end a wait; the next sweep tries again", extra=bulletin.ids(run))
    return list(startable()[:500])
