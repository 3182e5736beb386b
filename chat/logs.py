"""How a log line is written: as JSON for programs, as text for people; with ids, and without what anybody has said.

What may stand beside a message is listed here: a logger of another package may attach a whole request. Of an
exception only the first line is told, because databases and parsers add the values they stumbled over.
"""

import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from pythonjsonlogger.json import JsonFormatter

# `extra` of a log call: ids, and few plain facts.
FIELDS = (
    *("conversation", "run", "attempt", "device", "connection", "worker"),
    *("provider", "model", "state", "code", "stop_reason", "why", "transport", "encoding"),
    *("server", "seconds", "input_tokens", "output_tokens", "retry_in", "losses", "runs", "devices"),
)
_Info = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def reason(error: BaseException) -> str:
    """What went wrong, in one line that may be logged. PostgreSQL's further lines hold rows, and rows hold text."""
    first = (str(error).splitlines() or [""])[0].strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def traced(error: BaseException) -> str:
    """The usual traceback, each exception with `reason` alone."""
    return "".join(_traced(error, set())).rstrip("\n")


def _traced(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _traced(before, seen)
        yield "\nwhich led to\n\n"
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _traced(one, seen)
            yield "\nwhich is part of\n\n"
    yield "Traceback (most recent call last):\n"
    yield from traceback.format_tb(error.__traceback__)
    yield f"{reason(error)}\n"


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name in FIELDS if (value := record.__dict__.get(name)) not in (None, "")}


class Line(logging.Formatter):
    """`time LEVEL logger message run=… conversation=…`"""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items())
        return f"{super().formatMessage(record)}{facts}"

    def formatException(self, ei: _Info) -> str:  # noqa: N802
        return traced(ei[1]) if ei[1] is not None else ""


class Json(JsonFormatter):
    """One object a line: time (ISO 8601, UTC), level, logger, message, then the facts; `exc_info` if there is one."""

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data |= {"time": time, "level": record.levelname, "logger": record.name, "message": record.message}
        log_data |= {**_facts(record), **message_dict}

    def formatException(self, ei: _Info) -> str:  # noqa: N802
        return traced(ei[1]) if ei[1] is not None else ""
