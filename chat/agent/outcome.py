"""How a provider's turn came to its end, as the run's row will say it."""

from dataclasses import dataclass, field
from typing import Any

from chat.agent.saying import storable
from chat.models.state import State

MOST_CHARS = 40  # of a stop reason and of a code, as they are stored


@dataclass(slots=True)
class Outcome:
    """How the provider's turn came to its end."""

    state: State
    fields: dict[str, Any] = field(default_factory=dict)


def short(word: object) -> str:
    """A reason or a code, as the row can hold it."""
    return storable(str(word))[:MOST_CHARS]


def failure(code: str, message: str, *, retryable: bool) -> dict[str, Any]:
    """The fields of an outcome that is an error."""
    return {"error_code": code, "error_message": message, "retryable": retryable}
