"""What a message is made of: typed parts as JSON objects, in order. Pure functions of them.

- text: `text`;
- reasoning: `text`, and `signature` (without which it cannot be given back) or `data` (what the provider hides);
- tool_use: `call` (our id), `id` (the provider's), `name`, `text` (its arguments as they came), `input`, `status`,
  `approval` (what a person is asked to allow), `offer` (what a device is asked to do: `arguments`, and `user`, whose
  devices may), `until` (when nobody may decide or answer any more), `answer` (what a device said);
- tool_result: `call`, `name`, `text`, `outcome`, `error`; `told`, if it is longer than the model is still told: the
  number of characters that it is;
- image: `file` (its id), `name`, `content_type`, `size`, `width`, `height`; file: the same without the last two;
- citation: `title`, `url`, `text` (the quote); what part `of` says `at` this code point rests on it;
- steer: `text`, what was added meanwhile, `steer`, `who`; `state` is `missed` if it was not answered, then `sent`;
- block: `block`, whatever else the provider said, kept as it is.

Each has `state`: `open` while it is written, then `done`, or how its run ended; and `step`: which call of the model
made it, 0 where missing. `cut`: the model reached its limit in the middle of it. A part that is open has `since`, the
serial at which it began; its text is in the log.
`status` of a call: `asked`, `waiting` (for a person to approve), `approved`, `offered` (to devices), `running`, or its
outcome: `done`, `error`, `denied`, `expired`, `cancelled` (it never ran), `unknown` (it may have run).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

Part = dict[str, Any]

OPEN = "open"
OUTCOMES = frozenset({"done", "error", "denied", "expired", "cancelled", "unknown"})
STARTABLE = frozenset({"asked", "approved"})
PENDING = frozenset({"waiting", "offered"})  # on somebody out there, for whom a run gives its worker back
# What no device needs to know: how we keep it, and what only the provider can read.
_PRIVATE = frozenset({"since", "id", "input", "signature", "data", "block", "by", "reason", "answer", "cut"})
# What the model is told, and people are shown, of a call that has no result of its own.
RESULTS = {
    "denied": "Not run: {by} denied it.",
    "expired": "Not run: nobody approved it in time.",
    "cancelled": "Not run: it was stopped first.",
    "unknown": "It may have run: its outcome is not known.",
}
UNANSWERED = "Nobody answered: none of {user}'s devices did in time."


def text_in(parts: Iterable[Part]) -> str:
    """The text parts joined."""
    return "".join(part["text"] for part in parts if part["type"] == "text")


def text_parts(text: str, state: str = "done") -> list[Part]:
    """Parts of a message that is only text. `state`: `done`, or how its run ended if not completed."""
    return [{"type": "text", "text": text, "state": state}] if text else []


def files_in(parts: Iterable[Part]) -> list[Part]:
    """What is attached."""
    return [part for part in parts if part["type"] in ("image", "file")]


def shown(parts: Iterable[Part]) -> list[Part]:
    """As devices get them."""
    return [{name: value for name, value in part.items() if name not in _PRIVATE} for part in parts]


def calls_in(parts: Iterable[Part]) -> Iterator[tuple[int, Part]]:
    """(number of the part, part) of each tool call."""
    return ((number, part) for number, part in enumerate(parts) if part["type"] == "tool_use")


def unanswered(parts: Iterable[Part]) -> list[Part]:
    """The calls that have no result yet."""
    return [part for _, part in calls_in(parts) if part.get("status") not in OUTCOMES]


def goes_on(parts: Sequence[Part], number: int) -> bool:
    """Whether a part is text that goes on where the text before it was cut off: people read the two as one."""
    here, before = parts[number], parts[number - 1] if number else {}
    return here["type"] == "text" == before.get("type") and bool(before.get("cut"))


def is_between_steps(parts: Sequence[Part]) -> bool:
    """Whether all that was begun of an answer is done: whoever takes it over can go on.

    Only where a step is known to be whole: something has come of its calls, or was decided about them.
    """
    said = [part for part in parts if part["type"] not in ("steer", "citation")]
    begun = any(part["state"] == OPEN or part.get("status") == "running" for part in said)
    decided = any(part.get("status") in PENDING | {"approved"} for part in said)
    return bool(said) and not begun and (decided or said[-1]["type"] == "tool_result")


def next_step(parts: Iterable[Part]) -> int:
    """Which call of the model comes after these: 0 for an answer that has nothing yet."""
    return max((part.get("step", 0) + 1 for part in parts if part["type"] != "steer"), default=0)
