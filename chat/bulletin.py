"""What happens to runs, told to whoever operates this once it is committed: one log line each, and the figures."""

import logging
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction

from chat import metrics

logger = logging.getLogger(__name__)


def ids(run: Any) -> dict[str, Any]:
    """By what a run is found again in logs, traces and the database."""
    return {"conversation": str(run.conversation_id), "run": str(run.pk), "attempt": run.attempt}


def started(run: Any) -> None:
    """A worker has claimed it."""
    facts = {**ids(run), "worker": run.worker, "provider": run.provider}
    _tell(logging.INFO, "run started", facts)


def cancel_asked(run: Any) -> None:
    """Stored. Whoever executes it is yet to notice."""
    _tell(logging.INFO, "cancel asked for", {**ids(run), "worker": run.worker})


def lapsed(run: Any) -> None:
    """Its process was killed, frozen or cut off."""
    transaction.on_commit(metrics.leases_lapsed.inc)
    _tell(logging.WARNING, "lease lapsed", {**ids(run), "worker": run.worker, "losses": run.losses})


def waits(run: Any) -> None:
    """It was given back until a person has decided, or a device has answered."""
    _tell(logging.INFO, "run waits for an answer", {**ids(run), "worker": run.worker})


def queued_again(run: Any) -> None:
    """To begin again, or to go on. Say so while it still names the worker whose it was."""
    _tell(logging.INFO, "run queued again", {**ids(run), "worker": run.worker, "losses": run.losses})


def ended(run: Any) -> None:
    """Once."""
    seconds = _between(run.started_at, run.ended_at)
    # One that only waited ends in the same transaction: that would flatter the others.
    after = _between(run.cancel_requested_at, run.ended_at) if seconds is not None else None
    facts = {
        **ids(run),
        "worker": run.worker,
        "provider": run.provider,
        "state": str(run.state),
        "code": run.error_code,
        "stop_reason": run.stop_reason,
        "seconds": seconds,
        **{name: run.usage[name] for name in ("input_tokens", "output_tokens") if name in run.usage},
    }
    transaction.on_commit(partial(metrics.ended, str(run.state), run.error_code, seconds, after))
    _tell(logging.INFO, "run ended", facts)


def _tell(level: int, message: str, facts: dict[str, Any]) -> None:
    transaction.on_commit(partial(logger.log, level, message, extra=facts))


def _between(first: datetime | None, last: datetime | None) -> float | None:
    return None if first is None or last is None else round((last - first).total_seconds(), 3)
