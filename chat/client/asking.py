"""Who waits for which answer. Signals are asked again until they have one; callers are told of it, or of the end."""

import asyncio
import random
import uuid
from collections.abc import Callable
from typing import Any

from chat.client.errors import Refused
from chat.client.frames import Ack, Nack
from chat.client.outbox import Outbox, Signal


class Asking:
    """`say` sends a signal if there is a connection, `on_change` hears of every signal that comes or goes."""

    def __init__(self, say: Callable[[Signal], None], on_change: Callable[[], None]) -> None:
        self.outbox = Outbox(random.SystemRandom().random)
        self.latest = 0  # serial that an ack told us of
        self._say = say
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, list[asyncio.Future[Ack]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, kind: str, signal_id: str | None, fields: dict[str, Any]) -> Ack:
        given = {name: value for name, value in fields.items() if value is not None}
        signal = {"type": kind, "id": str(uuid.UUID(signal_id)) if signal_id else str(uuid.uuid4()), **given}
        answer: asyncio.Future[Ack] = self._loop.create_future()
        self._waiting.setdefault(signal["id"], []).append(answer)
        self.outbox.ask(signal)
        self._on_change()
        self._say(signal)
        return await answer

    def flush(self) -> None:
        """A connection is there."""
        for signal in self.outbox.flush():
            self._say(signal)

    def answered(self, frame: Ack | Nack) -> bool:
        """False: nobody waits for this answer, so it is news."""
        if not self.outbox.answered(frame, self._loop.time()):
            self._keep_time()
            return frame.id is not None
        self._on_change()
        callers = [one for one in self._waiting.pop(frame.id or "", []) if not one.done()]
        if isinstance(frame, Ack):
            self.latest = max(self.latest, frame.serial)
        for caller in callers:
            if isinstance(frame, Ack):
                caller.set_result(frame)
            else:
                caller.set_exception(
                    Refused(
                        frame.code,
                        frame.message,
                        retryable=frame.retryable,
                        retry_after=frame.retry_after,
                        budget=frame.budget,
                    )
                )
        return bool(callers)

    def unsaid(self, signal: Signal) -> None:
        """It got no answer, though the connection is there."""
        self.outbox.unsent(signal, self._loop.time())
        self._keep_time()

    def end(self, error: BaseException) -> None:
        """There will be no more answers."""
        if self._timer is not None:
            self._timer.cancel()
        for callers in self._waiting.values():
            for caller in callers:
                if not caller.done():
                    caller.set_exception(error)
        self._waiting.clear()

    def _keep_time(self) -> None:
        due = self.outbox.due
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None else self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        for signal in self.outbox.tick(self._loop.time()):
            self._say(signal)
        self._keep_time()
