"""Executes one attempt of one run: provider → log, then the one end. Needs nobody to be watching."""

import asyncio
import logging
import re
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from django.db import DatabaseError

from chat.agent.provider import Notice, Provider, ProviderError, Stopped, Text, Turn, Usage
from chat.errors import Refused
from chat.group_commit import Lost, Pen
from chat.host import Host
from chat.models import Run
from chat.models.run import State

logger = logging.getLogger(__name__)

END_RETRIES = (0.1, 0.5, 1.0, 2.0, 2.0)  # seconds; after that the lease lapses and a sweep ends the run
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # whatever a provider says, one text must not spoil a commit


@dataclass(slots=True)
class Outcome:
    """How the provider's turn came to its end."""

    state: State
    fields: dict[str, Any] = field(default_factory=dict)


class Runner:
    """`stop` and `hand_over` may be called at any time, any number of times; `execute` always ends the run."""

    def __init__(self, host: Host, run: Run, provider: Provider, turn: Turn) -> None:
        assert run.answer_id is not None
        self.run = run
        self._host = host
        self._provider = provider
        self._turn = turn
        self._pen = Pen(run.pk, run.attempt, run.conversation_id, run.answer_id)
        self._reply: asyncio.Task[str] | None = None
        self._usage: dict[str, int] = {}
        self._unwanted = False
        self._leaving = False

    def stop(self) -> None:
        """Somebody cancelled, or the run is no longer ours: close the provider's connection now."""
        self._unwanted = True
        if self._reply is not None:
            self._reply.cancel()

    def hand_over(self) -> None:
        """This process ends: close the provider's connection and give the run back."""
        self._leaving = True
        if self._reply is not None:
            self._reply.cancel()

    async def execute(self) -> None:
        """Run to the end. The provider works in a task of its own, so that a cancel never hits the ending."""
        if self._unwanted or self._leaving:
            outcome = Outcome(State.CANCELLED)
        else:
            self._reply = asyncio.create_task(self._collect(), name=f"reply-{self.run.pk}")
            await asyncio.wait([self._reply])
            outcome = self._outcome(self._reply)
        try:
            await self._host.commit.flush(self._pen)
        except Lost:
            outcome = Outcome(State.CANCELLED)
        except DatabaseError:
            outcome = Outcome(State.FAILED, _error("storage", "The answer could not be stored.", retryable=True))
        await self._end(outcome)

    async def _collect(self) -> str:
        """Write what the provider says and return why it ended."""
        stop_reason = ""
        async with aclosing(cast("Any", self._provider.reply(self._turn))) as events:
            async for event in events:
                match event:
                    case Text(text):
                        self._host.commit.write(self._pen, _UNSTORABLE.sub("\ufffd", text))
                    case Usage(tokens):
                        # Only what the log can hold: a bad number must not keep a run from ending.
                        self._usage = {name: count for name, count in tokens.items() if type(count) is int}
                    case Stopped(reason):
                        stop_reason = reason
                    case Notice():
                        self._tell(event)
        return stop_reason

    def _outcome(self, reply: asyncio.Task[str]) -> Outcome:
        if reply.cancelled() and (self._unwanted or self._leaving):
            return Outcome(State.CANCELLED)
        # A cancel that nobody here asked for came from inside the provider and is an error like any other.
        error = asyncio.CancelledError() if reply.cancelled() else reply.exception()
        match error:
            case None:
                return Outcome(State.COMPLETED, {"stop_reason": reply.result()})
            case Lost():
                return Outcome(State.CANCELLED)
            case ProviderError():
                state = State.INTERRUPTED if error.lost else State.FAILED
                return Outcome(state, _error(error.code, error.message, retryable=error.retryable))
            case DatabaseError():
                return Outcome(State.FAILED, _error("storage", "The answer could not be stored.", retryable=True))
        logger.error("run %s failed", self.run.pk, exc_info=error)
        return Outcome(State.FAILED, _error("internal", "Something went wrong while answering.", retryable=True))

    async def _end(self, outcome: Outcome) -> None:
        handing_over = self._leaving and not self._unwanted and outcome.state == State.CANCELLED
        for pause in (*END_RETRIES, None):
            try:
                if handing_over:
                    await self._host.database.run(self.run.hand_over, self.run.attempt)
                else:
                    await self._host.database.run(
                        self.run.end, outcome.state, self.run.attempt, usage=self._usage, **outcome.fields
                    )
            except Refused:
                return  # the conversation was deleted, and the run with it
            except DatabaseError as error:
                logger.warning("could not end run %s: %s", self.run.pk, error)
                if pause is not None:
                    await asyncio.sleep(pause)
            else:
                return

    def _tell(self, notice: Notice) -> None:
        frame = {
            "type": "progress",
            "run": str(self.run.pk),
            "text": notice.text,
            "expires_in": notice.expires_in,
        }
        self._host.desk.whisper(self.run.conversation_id, frame, "")


def _error(code: str, message: str, *, retryable: bool) -> dict[str, Any]:
    return {"error_code": code, "error_message": message, "retryable": retryable}
