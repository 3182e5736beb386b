"""What every event of the log has."""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in the conversation. Of a batch, `after` is the batch's."""

    type: ClassVar[str] = ""
    serial: int
    after: int = 0
    conversation: str = ""
