"""The one exception that crosses a boundary of this app, and every code a device can be refused with."""

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Why a signal was refused. The value goes over the wire; `docs/protocol.md` explains each."""

    INVALID = "invalid"
    TOO_LARGE = "too_large"
    UNKNOWN_SIGNAL = "unknown_signal"
    UNKNOWN_RUN = "unknown_run"
    UNKNOWN_MESSAGE = "unknown_message"
    UNKNOWN_CALL = "unknown_call"
    RUN_ENDED = "run_ended"
    UNKNOWN_USER = "unknown_user"
    FORBIDDEN = "forbidden"
    SIGNED_OUT = "signed_out"
    REVOKED = "revoked"
    BUSY = "busy"
    STALE = "stale"
    UNKNOWN_FILE = "unknown_file"
    UNSUPPORTED = "unsupported"
    CSRF = "csrf"
    DRAINING = "draining"
    RATE = "rate"
    BUDGET = "budget"
    STORAGE = "storage"


RETRYABLE = frozenset({Code.BUSY, Code.DRAINING, Code.RATE, Code.STORAGE})


class Lost(Exception):
    """The run is no longer this attempt's to write: cancelled, ended or taken over."""


class Refused(Exception):
    """What was asked for cannot be done, and nothing was changed. The message is for the person who asked."""

    def __init__(
        self, code: Code, message: str, *, retry_after: float | None = None, facts: dict[str, Any] | None = None
    ) -> None:
        """`facts`: further fields of the nack, for programs."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.facts = facts or {}

    @property
    def retryable(self) -> bool:
        """True if the same signal, sent again later and unchanged, may be accepted."""
        return self.code in RETRYABLE
