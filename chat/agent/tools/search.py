"""What was said elsewhere: a search through the conversations of whoever asked, and through nobody else's.

Texts are compared here and not by the database, whose ways to find text in JSON differ: SQLite knows no case beyond
ASCII. So the work has bounds, and goes from the newest to the oldest in pages, each a short visit to a database
thread that asks anew who may see it.
"""

import re
import unicodedata
from typing import Annotated, Any, NamedTuple
from uuid import UUID

from pydantic import Field

from chat.agent.standing import participations
from chat.agent.tool import Context, ToolRefused
from chat.models import Message
from chat.models.parts import text_in

MAX_WORDS = 10
MAX_CONVERSATIONS = 200  # the newest
MAX_MESSAGES = 5_000  # of all of them together
MAX_TEXT = 8_000_000  # code points
PAGE = 50  # messages; each may be 65,536 characters
AROUND = 100  # characters of an excerpt on either side of the first word


class Page(NamedTuple):
    """How many messages were looked at, how much text they have, and those that have all of the words."""

    messages: int
    text: int
    hits: list[dict[str, str]]


async def search_conversations(
    context: Context,
    words: Annotated[str, Field(min_length=1, max_length=200)],
    limit: Annotated[int, Field(ge=1, le=20)] = 5,
) -> dict[str, Any]:
    """Find messages in the other conversations of the person who asked: those that have all of the words.

    Upper and lower case are the same. Newest conversations come first. What was said in this conversation is not
    searched, because you have read it.

    words: words, or parts of words, each of which must occur in the message
    limit: how many messages to return
    """
    wanted = _patterns(words)
    elsewhere = await context.query(_conversations, context.user, context.conversation)
    found: list[dict[str, str]] = []
    messages = text = 0
    for number, (conversation, title) in enumerate(elsewhere, 1):
        for start in range(0, MAX_MESSAGES, PAGE):
            page = await context.query(_page, context.user, conversation, start, wanted)
            found += [{"conversation": title, **hit} for hit in page.hits[: limit - len(found)]]
            if len(found) == limit:
                return {"found": found}
            messages, text = messages + page.messages, text + page.text
            if messages >= MAX_MESSAGES or text >= MAX_TEXT:
                return {"found": found, "note": f"Only the newest {messages} messages were searched."}
            if page.messages < PAGE:
                break
        await context.progress(f"{number} of {len(elsewhere)} conversations searched")
    if len(elsewhere) == MAX_CONVERSATIONS:
        return {"found": found, "note": f"Only the newest {MAX_CONVERSATIONS} conversations were searched."}
    return {"found": found}


def _patterns(words: str) -> list[re.Pattern[str]]:
    wanted = unicodedata.normalize("NFC", words).split()
    if not 0 < len(wanted) <= MAX_WORDS:
        raise ToolRefused(f"words: give one to {MAX_WORDS} of them.")
    return [re.compile(re.escape(word), re.IGNORECASE) for word in wanted]


def _conversations(user: Any, here: UUID) -> list[tuple[UUID, str]]:
    mine = participations(user).exclude(conversation_id=here).order_by("-conversation__updated_at", "pk")
    return [(one.conversation_id, str(one.conversation)) for one in mine[:MAX_CONVERSATIONS]]


def _page(user: Any, conversation: UUID, start: int, wanted: list[re.Pattern[str]]) -> Page:
    """Newest first; an empty page for whoever has been sent away meanwhile."""
    if not participations(user).filter(conversation_id=conversation).exists():
        return Page(0, 0, [])
    said = Message.objects.filter(conversation_id=conversation, removed_at=None, place__isnull=False)
    rows = said.order_by("-place", "-created_serial").values_list("parts", "role", "author__username", "created_at")
    messages = text = 0
    hits = []
    for parts, role, author, when in rows[start : start + PAGE]:
        words = unicodedata.normalize("NFC", text_in(parts))
        messages, text = messages + 1, text + len(words)
        if all(pattern.search(words) for pattern in wanted):
            who = "assistant" if role == Message.Speaker.ASSISTANT else author or "somebody whose account is gone"
            excerpt = _excerpt(words, wanted[0])
            hits.append({"who": who, "when": when.isoformat(timespec="minutes"), "excerpt": excerpt})
    return Page(messages, text, hits)


def _excerpt(text: str, first: re.Pattern[str]) -> str:
    at = first.search(text)
    assert at is not None
    begin, end = max(0, at.start() - AROUND), at.end() + AROUND
    return f"{'…' * (begin > 0)}{' '.join(text[begin:end].split())}{'…' * (end < len(text))}"
