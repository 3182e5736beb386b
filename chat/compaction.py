"""The text of an answer as the log has it, and the folding of its many small deltas into few large snapshots.

The rule that makes folding safe at any moment: a text event says "from `offset` on, the text is this".
Applying one is `text[:offset] + event.text`, so a snapshot that covers what a device already has changes
nothing. Offsets and lengths count Unicode code points.
"""

from collections.abc import Iterable
from uuid import UUID

from django.utils import timezone

from chat import log
from chat.log import Logged, insert
from chat.models.event import TEXT_KINDS, Event, Kind

Piece = tuple[int, tuple[int, str]]  # serial, (offset, text)
READ_ROWS = 20_000
CHUNK = 32_768  # code points in one snapshot: keeps every frame far below the frame limit, even escaped


def text_of(conversation: UUID, message: UUID, since: int, until: int | None = None) -> str:
    """What the log says the answer's first text part is. `since`: the serial of its run's start."""
    return fold(text for _, text in _text_events(conversation, message, since, until))


def texts_of(conversation: UUID, messages: dict[UUID, int], until: int) -> dict[UUID, str]:
    """The text at serial `until` of each answer being written: message id → serial of its run's start, → text."""
    return {message: text_of(conversation, message, since, until) for message, since in messages.items()}


def fold(pieces: Iterable[tuple[int, str]]) -> str:
    """Apply (offset, text) pieces in order. Linear in the text: pieces normally just follow one another."""
    parts: list[str] = []
    length = 0
    for offset, text in pieces:
        if offset != length:
            parts = ["".join(parts)[:offset]]
            length = len(parts[0])
        parts.append(text)
        length += len(text)
    return "".join(parts)


def compact(conversation: UUID, run: UUID, message: UUID, since: int) -> str:
    """Replace the answer's deltas by snapshots of at most `CHUNK` code points and return the whole text.

    Each snapshot stands at the serial of the last delta it covers, so that no serial is ever new or reused.
    The caller holds the conversation's lock and has ended the run: nothing may be appended any more.
    """
    rows = list(_text_events(conversation, message, since, None))
    text = fold(piece for _, piece in rows)
    if len(rows) > 1:
        Event.objects.filter(
            conversation_id=conversation, serial__gte=since, message_id=message, kind__in=TEXT_KINDS
        ).delete()
        insert(conversation, _snapshots(rows, run, message), timezone.now())
    return text


def _snapshots(rows: list[Piece], run: UUID, message: UUID) -> Iterable[Logged]:
    chunk: list[str] = []
    start = length = 0
    for number, (serial, (_, text)) in enumerate(rows):
        chunk.append(text)
        length += len(text)
        last = number == len(rows) - 1
        if last or length + len(rows[number + 1][1][1]) > CHUNK:
            payload = {"part": 0, "offset": start, "text": "".join(chunk)}
            yield Logged(serial, Kind.MESSAGE_SNAPSHOT, payload, run, message)
            start, length, chunk = start + length, 0, []


def _text_events(conversation: UUID, message: UUID, since: int, until: int | None) -> Iterable[Piece]:
    after = since - 1
    while found := log.read(conversation, after, READ_ROWS, until=until, text_of=message):
        for event in found:
            yield event.serial, (event.payload["offset"], event.payload["text"])
        after = found[-1].serial
