"""What the log, and every device, is told of a run."""

from typing import TYPE_CHECKING, Any

from chat.models.state import State

if TYPE_CHECKING:
    from chat.models.run import Run


def ending(run: "Run") -> dict[str, Any]:
    """How it ended. `cost` is null if it is not known, which is not the same as nothing."""
    return {
        "prompt": str(run.prompt_id),
        "place": run.prompt.place,
        "reason": run.state,
        "stop_reason": run.stop_reason,
        "by": run.cancelled_by if run.state == State.CANCELLED else None,
        "error": {"code": run.error_code, "message": run.error_message} if run.error_code else None,
        "retryable": run.retryable or run.state == State.INTERRUPTED,
        "usage": run.usage,
        "model": run.model,
        "cost": run.cost,
        "estimated": run.estimated,
    }


def queueing(run: "Run") -> dict[str, Any]:
    """What a `run.queued` event says."""
    return {"alongside": run.alongside, "waiting": run.prompt.place is None, "attempt": run.attempt}
