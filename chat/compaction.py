"""The text of an answer's parts as the log has it, and the folding of many small deltas into few large snapshots.

The rule that makes folding safe at any moment: a text event says "from `offset` on, the text of this part is this".
Applying one is `text[:offset] + event.text`, so a snapshot that covers what a device already has changes
nothing. Offsets and lengths count Unicode code points. Parts are written one after the other.
"""

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from django.utils import timezone

from chat import log
from chat.log import Logged, insert
from chat.models.event import TEXT_KINDS, Event, Kind

READ_ROWS = 20_000
CHUNK = 32_768  # code points in one snapshot: keeps every frame far below the frame limit, even escaped


class Piece(NamedTuple):
    """One text event."""

    serial: int
    part: int
    offset: int
    text: str


def text_of(conversation: UUID, message: UUID, since: int, until: int | None = None, part: int = 0) -> str:
    """What the log says one part of the answer is. `since`: a serial before which there is nothing of it."""
    return fold(piece for piece in _text_events(conversation, message, since, until) if piece.part == part)


def fold(pieces: Iterable[Piece]) -> str:
    """Apply the pieces of one part in order. Linear in the text: pieces normally just follow one another."""
    parts: list[str] = []
    length = 0
    for piece in pieces:
        if piece.offset != length:
            parts = ["".join(parts)[: piece.offset]]
            length = len(parts[0])
        parts.append(piece.text)
        length += len(piece.text)
    return "".join(parts)


def compact(conversation: UUID, run: UUID, message: UUID, since: int) -> dict[int, str]:
    """Replace the answer's deltas by snapshots of at most `CHUNK` code points and return the whole text of each part.

    Each snapshot stands at the serial of the last delta it covers, so that no serial is ever new or reused.
    The caller holds the conversation's lock and has ended the run: nothing may be appended any more.
    """
    rows = list(_text_events(conversation, message, since, None))
    texts = {part: fold(row for row in rows if row.part == part) for part in {row.part for row in rows}}
    if len(rows) > len(texts):
        Event.objects.filter(
            conversation_id=conversation, serial__gte=since, message_id=message, kind__in=TEXT_KINDS
        ).delete()
        insert(conversation, _snapshots(rows, run, message), timezone.now())
    return texts


def _snapshots(rows: list[Piece], run: UUID, message: UUID) -> Iterable[Logged]:
    chunk: list[str] = []
    start = length = 0
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        chunk.append(row.text)
        length += len(row.text)
        ends = following is None or following.part != row.part
        if following is None or ends or length + len(following.text) > CHUNK:
            payload = {"part": row.part, "offset": start, "text": "".join(chunk)}
            yield Logged(row.serial, Kind.MESSAGE_SNAPSHOT, payload, run, message)
            start, length, chunk = 0 if ends else start + length, 0, []


def _text_events(conversation: UUID, message: UUID, since: int, until: int | None) -> Iterable[Piece]:
    after = since - 1
    while found := log.read(conversation, after, READ_ROWS, until=until, text_of=message):
        for event in found:
            yield Piece(event.serial, event.payload["part"], event.payload["offset"], event.payload["text"])
        after = found[-1].serial
