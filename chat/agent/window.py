"""How much a model can read at once, and how much of that a prompt takes, about. Pure functions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings

from chat.agent.provider import PromptMessage, Turn

TOKENS_PER_CHAR = 1 / 3  # until a provider has counted: more than most languages take, so that there is room too early
MOST_TOKENS_PER_CHAR = 2.0  # no language takes more
LEAST_TOKENS_PER_CHAR = 0.05
IMAGE_CHARS = 5_000  # in place of the bytes of a file: an image takes up to 1,600 tokens
_FILES = ("image", "document")


@dataclass(frozen=True, slots=True)
class Window:
    """In tokens. Above `most` room is made, until no more than `keep` of what was said is told word for word."""

    tokens: int
    most: int
    keep: int


def window_of(provider: str, model: str) -> Window:
    """Of the model if the table has it, else of the provider, else the usual one."""
    table = read(settings.CHAT_WINDOWS)
    tokens = table.get(model) or table.get(provider) or settings.CHAT_WINDOW_TOKENS
    return Window(tokens, int(tokens * settings.CHAT_SUMMARY_AT), int(tokens * settings.CHAT_SUMMARY_KEEP))


@lru_cache(maxsize=4)
def read(text: str) -> dict[str, int]:
    """model or provider → tokens, from JSON. Raises ValueError, saying what is wrong."""
    try:
        table = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise ValueError("it is not an object")
    for name, tokens in table.items():
        if type(tokens) is not int or tokens <= 0:
            raise ValueError(f"{name!r} has a window of {tokens!r}")
    return table


def chars(turn: Turn) -> int:
    """How long everything is that the model is to read."""
    tools = sum(_weight(tool.definition) for tool in turn.tools)
    return len(turn.system) + tools + prompt_chars(turn.prompt)


def prompt_chars(prompt: Sequence[PromptMessage]) -> int:
    """The same of the messages alone."""
    return sum(_weight(message["content"]) for message in prompt)


def tokens_per_char(tokens: int, characters: int) -> float:
    """As a provider has counted: what the next prompt, which begins like this one, will be measured with."""
    return min(MOST_TOKENS_PER_CHAR, max(LEAST_TOKENS_PER_CHAR, tokens / max(1, characters)))


def shares(lengths: Sequence[int], room: int, least: int) -> int:
    """How much of each may be kept, at most and at least, so that all of them have room together."""
    share = max(lengths, default=0)
    while share > least and sum(min(length, share) for length in lengths) > room:
        share = max(least, share * 3 // 4)
    return share


def _weight(value: Any) -> int:
    match value:
        case str():
            return len(value)
        case dict() if value.get("type") in _FILES:
            return IMAGE_CHARS
        case dict():
            return sum(map(_weight, value.values()))
        case list() | tuple():
            return sum(map(_weight, value))
    return 4
