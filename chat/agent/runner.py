"""Executes one attempt of one run: provider → log, then the one end. Needs nobody to be watching."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from itertools import chain, repeat
from typing import Any, cast

from django.conf import settings
from django.db import DatabaseError

from chat import bulletin, metrics
from chat.agent.attachments import Attachments
from chat.agent.loop import Loop
from chat.agent.outcome import Outcome, failure, short
from chat.agent.progress import whisper
from chat.agent.provider import Notice, Provider, ProviderError, Stopped, Text, Turn, Usage
from chat.agent.room import Room
from chat.agent.saying import progress_text, storable
from chat.agent.toolbox import Toolbox
from chat.agent.wallet import UsedUp, Wallet
from chat.agent.writer import Writer
from chat.database import AWAY
from chat.errors import Lost, Refused
from chat.host import Host
from chat.logs import reason
from chat.models import Run
from chat.models.state import State
from chat.tracing import RunTrace

logger = logging.getLogger(__name__)

END_RETRIES = (0.1, 0.5, *[1.0] * 5)  # seconds
AWAY_SECONDS = 3.0  # after those, for as long as the database is away; by another error a sweep ends the run
MOST_SECONDS = 3600.0  # that a notice is shown
LEAVE_SECONDS = 3.0  # for who was told to stop and does not; then its run ends without it


class Runner:
    """`stop` and `hand_over` may be called at any time, any number of times; `execute` always ends the run."""

    def __init__(
        self,
        host: Host,
        run: Run,
        provider: Provider,
        turn: Turn,
        *,
        toolbox: Toolbox,
        turn_at: Callable[[int], Turn],
        wallet: Wallet,
        look: Callable[[], Awaitable[None]],
    ) -> None:
        """`turn_at` makes, in a database thread, what the provider is asked at a later step; before each of those
        `look` asks what is left to spend.
        """
        self.run = run
        self._host = host
        self._provider = provider
        self._turn = turn
        self._writer = Writer(host, run)
        self._attachments = Attachments(host)
        self._cancelled = asyncio.Event()
        self.wallet, self._look = wallet, look
        self._used_up: UsedUp | None = None
        self._model = model_of(provider)
        summarise = self._summarise if hasattr(provider, "summarise") else None
        self._room = Room(host, run, self._model, summarise=summarise, turn_at=lambda step: self._loop.turn_at(step))
        self._loop = Loop(
            host,
            run,
            self._writer,
            toolbox,
            room=self._room,
            ask=self._ask,
            turn_at=turn_at,
            spent=wallet.spending,
            cancelled=self._cancelled,
        )
        self._reply: asyncio.Task[str | None] | None = None
        self._facts = {**bulletin.ids(run), "worker": run.worker, "provider": run.provider, "model": self._model}
        self._trace = RunTrace(run.pk, run.conversation_id, run.attempt, run.worker)
        self._unwanted = False
        self._leaving = False

    def stop(self, why: str) -> None:
        """Somebody cancelled, or the run is no longer ours: close the provider's connection now.

        `why`: how we know.
        """
        if not self._unwanted:
            self._unwanted = True
            self._trace.told_to_stop(why)
            logger.info("run is to stop", extra={**self._facts, "why": why})
        self._end_reply()

    def check_budget(self) -> None:
        """What others have spent may have used up what this is paid from: then as a stop, by nobody."""
        try:
            self.wallet.check()
        except UsedUp as used_up:
            self._used_up = used_up
            self._end_reply()

    def hand_over(self) -> None:
        """This process ends: close the provider's connection and give the run back."""
        self._leaving = True
        self._end_reply()

    def _end_reply(self) -> None:
        self._cancelled.set()
        if self._reply is not None:
            self._reply.cancel()

    async def execute(self) -> None:
        """Run to the end. The provider works in a task of its own, so that a cancel never hits the ending."""
        if self._unwanted or self._leaving:
            outcome = Outcome(State.CANCELLED)
        else:
            self._trace.calls(self.run.provider, self._model)
            self._reply = asyncio.create_task(self._loop.complete(self._turn), name=f"reply-{self.run.pk}")
            await self._replied(self._reply)
            if self._waits(self._reply):
                self.wallet.close()
                self._account(Outcome(State.WAITING))
                self._trace.ended(State.WAITING.value, "")
                return
            outcome = self._outcome(self._reply)
            self._account(outcome)
        try:
            await self._writer.flush()
        except Lost:
            outcome = Outcome(State.CANCELLED)
        except DatabaseError:
            outcome = Outcome(State.FAILED, failure("storage", "The answer could not be stored.", retryable=True))
        handing_over = self._leaving and not self._unwanted and outcome.state == State.CANCELLED
        await self._end(outcome, handing_over=handing_over)
        self._trace.ended("handed_over" if handing_over else outcome.state.value, outcome.fields.get("error_code", ""))

    async def _replied(self, reply: "asyncio.Task[str | None]") -> None:
        """Return when it has ended, or when it was told to and went on all the same.

        What it says after that is refused, here and by the log; the task itself nobody can end.
        """
        told = asyncio.create_task(self._cancelled.wait(), name=f"told-{self.run.pk}")
        await asyncio.wait([reply, told], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        _, deaf = await asyncio.wait([reply], timeout=LEAVE_SECONDS)
        if deaf:
            logger.error("the provider does not stop; its run ends without it", extra=self._facts)
            _deaf.add(reply)  # the loop itself would forget it
            reply.add_done_callback(_ended_after_all)

    async def _ask(self, turn: Turn) -> str:
        """Write what the provider says and return why it ended."""
        stop_reason = ""
        writer = self._writer
        if turn.step != self._turn.step:
            await self._look()
        turn = await self._attachments.into(turn)
        self.wallet.calls()
        async with aclosing(cast("Any", self._provider.reply(turn))) as events:
            async for event in events:
                if self._cancelled.is_set():  # it was told to stop and speaks on: it swallowed that
                    raise asyncio.CancelledError
                match event:
                    case Text(""):
                        pass
                    case Text(text):
                        if not writer.is_at("text"):
                            await writer.begin_text()
                        if not writer.has_begun:
                            self._trace.first_text()
                        writer.write(storable(text))
                    case Usage():
                        pass
                    case Stopped(reason):
                        stop_reason = short(reason)
                    case Notice():
                        self._tell(event)
                    case _:
                        await writer.take(event)
                self.wallet.takes(event)
        self._room.learn(turn, self.wallet.meter.now)
        return stop_reason

    async def _summarise(self, turn: Turn) -> tuple[str, dict[str, int]]:
        """What the provider says to that, and what it took; nothing if it refused."""
        said: list[str] = []
        self.wallet.calls()
        async with aclosing(cast("Any", self._provider).summarise(turn)) as events:
            async for event in events:
                match event:
                    case Text(text):
                        said.append(storable(text))
                    case Notice():
                        self._tell(event)
                    case Stopped("refusal"):
                        said.clear()
                self.wallet.takes(event)
        return "".join(said), self.wallet.meter.now

    @staticmethod
    def _waits(reply: "asyncio.Task[str | None]") -> bool:
        """It was given back until a person has decided: there is nothing to end."""
        ended = reply.done() and not reply.cancelled() and reply.exception() is None
        return ended and reply.result() is None

    def _outcome(self, reply: "asyncio.Task[str | None]") -> Outcome:
        told = self._unwanted or self._leaving
        if not reply.done() or (reply.cancelled() and told):
            return Outcome(State.CANCELLED) if told or self._used_up is None else self._stopped_by(self._used_up)
        if reply.cancelled() and self._used_up is not None:
            return self._stopped_by(self._used_up)
        # A cancel that nobody here asked for came from inside the provider and is an error like any other.
        error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
        match error:
            case None:
                return Outcome(State.COMPLETED, {"stop_reason": reply.result()})
            case Lost():
                return Outcome(State.CANCELLED)
            case UsedUp():
                return self._stopped_by(error)
            case ProviderError():
                state = State.INTERRUPTED if error.lost else State.FAILED
                message = storable(str(error.message))
                return Outcome(state, failure(short(error.code), message, retryable=bool(error.retryable)))
            case DatabaseError():
                return Outcome(State.FAILED, failure("storage", "The answer could not be stored.", retryable=True))
        logger.error("the provider broke", exc_info=error, extra=self._facts)
        if told:  # while it was cleaning up: that its run was to end is what counts
            return Outcome(State.CANCELLED)
        return Outcome(State.FAILED, failure("internal", "Something went wrong while answering.", retryable=True))

    def _stopped_by(self, used_up: UsedUp) -> Outcome:
        logger.info("run is to stop", extra={**self._facts, "why": "budget"})
        return Outcome(State.CANCELLED, used_up.account.verdict(self.run, "Stopped"))

    def _account(self, outcome: Outcome) -> None:
        """What the call has cost, and what became of it. An attempt that is given back was paid for, too."""
        code, stop_reason = outcome.fields.get("error_code", ""), outcome.fields.get("stop_reason", "")
        usage = self.wallet.meter.usage
        metrics.spent(self.run.provider, self._model, usage, settings.CHAT_PRICES)
        self._trace.answered(usage, stop_reason, code)
        if code not in {"", "storage", "budget"}:
            metrics.provider_failed(self.run.provider, code, retried=False)
            logger.warning("provider failed", extra={**self._facts, "code": code})

    async def _end(self, outcome: Outcome, *, handing_over: bool) -> None:
        spent = self.wallet.spending()
        for pause in chain(END_RETRIES, repeat(AWAY_SECONDS)):
            try:
                await self._host.database.run(spent.settle)  # also if the run is no longer ours, or gone
                self.wallet.close()
                if handing_over:
                    await self._host.database.run(self.run.hand_over, self.run.attempt)
                elif not await self._host.database.run(
                    self.run.end, outcome.state, self.run.attempt, **self._facts_of(outcome)
                ):
                    logger.warning("run was no longer ours to end", extra=self._facts)
            except Refused:
                return  # the conversation was deleted, and the run with it
            except DatabaseError as error:
                logger.warning("could not end the run: %s", reason(error), extra=self._facts)
                if pause == AWAY_SECONDS and not isinstance(error, AWAY):
                    return
                await asyncio.sleep(pause)
            else:
                return

    def _facts_of(self, outcome: Outcome) -> dict[str, Any]:
        """What the run's row says in the end."""
        return {**self._room.measured, **outcome.fields}

    def _tell(self, notice: Notice) -> None:
        if notice.code:
            metrics.provider_failed(self.run.provider, notice.code, retried=True)
            self._trace.retries(notice.code)
            facts = {**self._facts, "code": notice.code, "retry_in": round(notice.expires_in, 1)}
            logger.warning("provider failed, tries again", extra=facts)
        seconds = min(notice.expires_in, MOST_SECONDS) if notice.expires_in > 0 else 0.0  # also where it is no number
        whisper(self._host, self.run, progress_text(str(notice.text)), seconds)


def model_of(provider: Provider) -> str:
    """What figures and prices call that which answers; empty if it does not say."""
    return str(getattr(provider, "model", ""))


_deaf: set["asyncio.Task[str | None]"] = set()


def _ended_after_all(reply: "asyncio.Task[str | None]") -> None:
    _deaf.discard(reply)
    if not reply.cancelled():
        reply.exception()  # looked at, or it would be reported as an error nobody saw
