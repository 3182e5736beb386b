"""What a tool or an agent says, as text that can be stored and shown: clean, and no longer than it may be."""

import json
import re
from typing import Any

from pydantic_core import to_jsonable_python

MAX_RESULT_CHARS = 32_768  # code points of a result, with the sentence that says it was cut
MAX_PROGRESS_CHARS = 200
MOST_LEVELS = 100  # of JSON: whoever writes it down again has a stack that ends
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # no database keeps it
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # as JSON writes it; `\\u0000` are six characters that anybody may say
Path = tuple[int | str, ...]


def progress_text(text: str) -> str:
    """What is shown of what somebody says of how far it is."""
    return storable(text)[:MAX_PROGRESS_CHARS]


def storable(text: str) -> str:
    """The text with U+FFFD for what a database refuses. Two halves that belong together become their character."""
    if not UNSTORABLE.search(text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "\ufffd")


def result_text(result: object) -> str:
    """What the model is told: text as it is, everything else as JSON."""
    if not isinstance(result, str):
        result = json.dumps(to_jsonable_python(result), ensure_ascii=False, separators=(",", ":"))
    text = storable(str(result))
    if len(text) <= MAX_RESULT_CHARS:
        return text
    note = f"\n\n[The result has {len(text):,} characters and was cut here.]"
    return text[: MAX_RESULT_CHARS - len(note)] + note


def is_storable(value: object) -> bool:
    """Whether JSON can be kept as it is, by every database, and read again. Raises TypeError for what is no JSON."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):  # a number that is none, or has no end; too many levels
        return False
    return unstorable_in(value) is None and not _is_deep(value)


def unstorable_in(value: object) -> Path | None:
    """Where in JSON a text is that no database keeps: its first eight steps. None: nowhere.

    Without recursion: how deep it is, a model decides.
    """
    waiting: list[tuple[Path, object]] = [((), value)]
    while waiting:
        path, one = waiting.pop()
        if isinstance(one, dict):
            waiting += [((*path, str(key))[:8], inner) for key, inner in one.items()]
            waiting += [(path, key) for key in one]
        elif isinstance(one, list | tuple):
            waiting += [((*path, number)[:8], inner) for number, inner in enumerate(one)]
        elif isinstance(one, str) and UNSTORABLE.search(one):
            return path
    return None


def storable_json(value: Any) -> Any:
    """JSON with U+FFFD for what a database refuses, in all its texts."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(storable(_NUL.sub("\\1\ufffd", text)))


def _is_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(MOST_LEVELS):
        inside = (inner for one in level for inner in (one.values() if isinstance(one, dict) else one))
        level = [one for one in inside if isinstance(one, dict | list | tuple)]
    return bool(level)
