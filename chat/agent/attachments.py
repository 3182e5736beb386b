"""Files on their way to the model: a prompt names them, and their bytes get in just before the provider is asked.

What is shown is a function of the prompt and of rows that never change, so the same history gives the same bytes: the
provider's cache of prompts goes on working. What no longer fits, or is gone, stays as the sentence that names it.
"""

import asyncio
import base64
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from django.conf import settings

from chat.agent.blocks import REFERENCE, Block
from chat.agent.provider import PromptMessage, ProviderError, Turn
from chat.contents import MOST_PAGES, PDF
from chat.host import Host
from chat.models import File

logger = logging.getLogger(__name__)

MOST_IMAGES = 100  # in one request to a model with 200,000 tokens
MOST_TEXT = 200_000  # characters of one file: about a quarter of what such a model can read
GOES_ON = f"\n\n[the file goes on: these are its first {MOST_TEXT:,} characters]"
LEFT_OUT, GONE = "left out here: too many files at once", "no longer there"
Cost = tuple[int, int, int]  # bytes, images, pages


class Attachments:
    """Of one turn: a file is read once, however many steps it has."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._blocks: dict[str, Block | None] = {}  # None: it is gone

    async def into(self, turn: Turn) -> Turn:
        """The turn with the files in its prompt. Raises ProviderError if the storage does not answer."""
        groups = references(turn.prompt)
        if not groups:
            return turn
        rows = await self._host.database.run(_rows, [one for group in groups for one in group])
        shown = within(groups, {one: cost_of(row) for one, row in rows.items()})
        for one in shown - self._blocks.keys():
            self._blocks[one] = await asyncio.to_thread(_read, rows[one])
        left_out = rows.keys() - shown
        return replace(turn, prompt=put_in(turn.prompt, {one: self._blocks[one] for one in shown}, left_out))


def references(prompt: Sequence[PromptMessage]) -> list[list[str]]:
    """The files of each message that has some, in order."""
    groups = ([block["file"] for block in message["content"] if block["type"] == REFERENCE] for message in prompt)
    return [group for group in groups if group]


def within(groups: Sequence[Sequence[str]], costs: Mapping[str, Cost]) -> set[str]:
    """Those that are shown. What has no cost is gone.

    When there is too much, the oldest messages' files go until half of the room is free: so it happens rarely that the
    beginning of a prompt changes. Of one message that is too much by itself, what fits is shown.
    """
    most: Cost = (settings.CHAT_FILES_PROMPT_BYTES, MOST_IMAGES, MOST_PAGES)
    kept: list[list[str]] = []
    for group in groups:
        fitting: list[str] = []
        for one in group:
            if one in costs and _fits([*fitting, one], costs, most):
                fitting.append(one)
        kept.append(fitting)
        if not _fits(_flat(kept), costs, most):
            while len(kept) > 1 and not _fits(_flat(kept), costs, (most[0] // 2, most[1] // 2, most[2] // 2)):
                kept.pop(0)
    return set(_flat(kept))


def _fits(files: Iterable[str], costs: Mapping[str, Cost], most: Cost) -> bool:
    totals = [sum(column) for column in zip(*(costs[one] for one in files), strict=True)]
    return all(total <= limit for total, limit in zip(totals, most, strict=False))


def _flat(groups: Iterable[Iterable[str]]) -> list[str]:
    return [one for group in groups for one in group]


def put_in(
    prompt: Sequence[PromptMessage], blocks: Mapping[str, Block | None], left_out: Iterable[str]
) -> list[PromptMessage]:
    """The prompt with blocks for its references, each behind the sentence that names it. Changes nothing."""
    left_out = set(left_out)

    def told(block: Block) -> list[Block]:
        if block["type"] != REFERENCE:
            return [block]
        shown = blocks.get(block["file"])
        if shown is not None:
            return [_text(f"[{block['text']}]"), shown]
        return [_text(f"[{block['text']}, {LEFT_OUT if block['file'] in left_out else GONE}]")]

    return [{**message, "content": [new for old in message["content"] for new in told(old)]} for message in prompt]


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def cost_of(file: File) -> Cost:
    """What it takes of a request's room."""
    if file.is_image:
        return file.view_size or file.size, 1, 0
    return (file.size, 0, file.pages) if file.content_type == PDF else (min(file.size, 4 * MOST_TEXT), 0, 0)


def _rows(ids: Sequence[str]) -> dict[str, File]:
    return {str(file.pk): file for file in File.objects.filter(pk__in=ids, discarded_at=None)}


def _read(file: File) -> Block | None:
    stored = file.view or file.stored
    try:
        with stored.open("rb") as opened:
            data = opened.read()
    except FileNotFoundError:
        logger.warning("a file is not in the storage")
        return None
    except Exception as error:
        logger.exception("a file could not be read")
        message = "A file of this conversation could not be read. Try again."
        raise ProviderError("storage", message, retryable=True) from error
    return block_of(file.name, file.view_type or file.content_type, data)


def block_of(name: str, content_type: str, data: bytes) -> Block | None:
    """As the Messages API takes it. None for a text of nothing, which it refuses."""
    if content_type.startswith("text/"):
        text = data.decode("utf-8-sig", errors="replace")
        cut = text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + GOES_ON
        source: dict[str, Any] = {"type": "text", "media_type": "text/plain", "data": cut}
        return {"type": "document", "source": source, "title": name} if text.strip() else None
    source = {"type": "base64", "media_type": content_type, "data": base64.b64encode(data).decode()}
    if content_type == PDF:
        return {"type": "document", "source": source, "title": name}
    return {"type": "image", "source": source}
