"""Read the log forward: the one way to everything a reader has missed, merged, in pages of bounded size."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from chat import fragments, log, wire
from chat.log import Logged
from chat.models import Conversation, Event
from chat.models.event import TEXT_KINDS
from chat.wire import Frame

PAGE_ROWS = 20_000
MOST_ROWS = 2_048  # read at once: a page of tokens has some thousands, and what does not fit is read again
PAGE_CHARS = 60_000  # in one page frame, about
EVENT_CHARS = 200  # of an event that is not text, besides what it quotes
HTML_BACKLOG = 400  # events that are not text; a page further behind is shown the newest turns afresh

ENCODINGS = ("json", "html")
Writing = dict[tuple[UUID, int], tuple[int, int, list[str]]]  # message, part → index in merged, length, texts


@dataclass(frozen=True, slots=True)
class Page:
    """Merged events covering `after` < serial ≤ `serial`; `serial == after` means there was nothing."""

    after: int
    serial: int
    events: list[Logged]


def head_of(conversation: UUID) -> int:
    """The serial of the newest event."""
    return Conversation.objects.values_list("head", flat=True).get(pk=conversation)


def heads_of(conversations: list[UUID]) -> dict[UUID, int]:
    """The same for many, in one query. A conversation that no longer exists is missing."""
    return dict(Conversation.objects.filter(pk__in=conversations).values_list("pk", "head"))


def read_page(conversation: UUID, after: int) -> Page:
    """The next page of the log after a serial.

    Text events of one part of an answer become one, at the place of the first: the page is applied as a whole, so their
    order against other answers' text does not matter, and each says at which offset it belongs.
    """
    merged: list[Logged] = []
    writing: Writing = {}
    serial, chars = after, 0
    for event in _rows(conversation, after):
        size = _size(event)
        if chars and chars + size > PAGE_CHARS:
            break
        chars += size
        if event.kind in TEXT_KINDS and event.message is not None:
            _merge(merged, writing, event, event.payload["text"])
        else:
            merged.append(event)
        serial = event.serial
    for index, _, texts in writing.values():
        event = merged[index]
        merged[index] = event._replace(payload={**event.payload, "text": "".join(texts)})
    return Page(after, serial, merged)


def _rows(conversation: UUID, after: int) -> Iterator[Logged]:
    """At most a page of events, few at first: one may hold a token, or as much text as fits into a page."""
    size, left = 16, PAGE_ROWS
    while left > 0:
        events = log.read(conversation, after, min(size, left))
        yield from events
        if len(events) < size:
            return
        after, left, size = events[-1].serial, left - size, min(size * 16, MOST_ROWS)


def _size(event: Logged) -> int:
    """About how many characters an event adds to a page."""
    if event.kind in TEXT_KINDS:
        return len(event.payload["text"])
    # The end of a run shows its whole answer on a page.
    quoted = sum(len(part.get("text", "")) for part in event.payload.get("parts", ()))
    return EVENT_CHARS + quoted + len(event.payload.get("text", "")) + int(event.payload.get("length", 0))


def _merge(merged: list[Logged], writing: Writing, event: Logged, text: str) -> None:
    assert event.message is not None
    part = event.message, event.payload["part"]
    known = writing.get(part)
    if known is None:
        writing[part] = (len(merged), event.payload["offset"] + len(text), [text])
        merged.append(event)
        return
    index, length, texts = known
    offset, start = event.payload["offset"], merged[index].payload["offset"]
    if offset < length:  # a snapshot written over deltas this page has already read
        texts[:] = ["".join(texts)[: max(0, offset - start)]]
    if offset < start:  # and over what came before this page
        merged[index] = event
    texts.append(text)
    writing[part] = (index, offset + len(text), texts)


def encode_page(conversation: UUID, page: Page, encoding: str) -> Frame:
    """A page as one frame, for a reader that is behind."""
    if encoding == "json":
        return wire.page_frame(conversation, page.after, page.serial, page.events)
    return wire.html_frame("batch", page.after, page.serial, fragments.render(conversation, page.events))


def read_frame(conversation: UUID, after: int, encoding: str) -> Frame | None:
    """The next page after a serial as a frame; None if there is nothing more."""
    page = read_page(conversation, after)
    return encode_page(conversation, page, encoding) if page.serial > after else None


def is_far_behind(conversation: UUID, after: int) -> bool:
    """True if a page is better shown afresh than led through everything since."""
    missed = Event.objects.filter(conversation_id=conversation, serial__gt=after).exclude(kind__in=TEXT_KINDS)
    return missed.order_by().values("pk")[HTML_BACKLOG : HTML_BACKLOG + 1].exists()
