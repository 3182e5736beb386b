"""What a person approves before a tool acts: exactly one call, shown as it is.

`arguments_hash` binds an approval to a tool and its arguments; `visible` shows a text whose characters might lie
about it. Both are pure, and know neither tools nor the database.
"""

import hashlib
import json
import re
from decimal import Decimal
from typing import Any

# Drawn as nothing, or as a gap, though Unicode counts them as letters, marks or symbols: fillers, selectors of
# variants, joiners, the empty Braille cell, a musical head that is none, Egyptian blanks.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufffc"
    "\U00013441\U00013442\U00016fe4\U0001d159\U000e0000-\U000e0fff]"
)
_OURS = "\u27e8"  # the bracket that `visible` opens: shown like the others, so that no text can imitate it


def visible(text: str) -> str:
    """The text with every character that cannot be seen, or that turns others around, as ⟨U+202E⟩.

    Shown this way: control and format characters (but newline and tab), all spaces but the usual one, separators of
    lines, variation selectors, tags, lone surrogates, private and unassigned code points, letters that are drawn as
    nothing, and the bracket ⟨ itself. Emoji made of several come apart: nothing is hidden between them, either.

    Letters that are written from right to left stay. A page shows the result isolated (`<bdi>`), so that they turn
    around nothing but themselves.
    """
    return "".join(one if _is_plain(one) else f"⟨U+{ord(one):04X}⟩" for one in text)


def _is_plain(character: str) -> bool:
    if character.isascii():
        return character.isprintable() or character in "\n\t"
    # For Python, printable is what is in none of Unicode's categories C and Z.
    return character.isprintable() and character != _OURS and not _BLANK.match(character)


def to_decide(name: str, input: object) -> dict[str, str]:  # noqa: A002 - the Messages API's name for it
    """What people are shown of a call that waits for them, and the hash that a decision names."""
    text = json.dumps(input, ensure_ascii=False, indent=2)
    return {"hash": arguments_hash(name, input), "shown": visible(text)}


def arguments_hash(name: str, input: object) -> str:  # noqa: A002 - the Messages API's name for it
    """SHA-256, in hexadecimal, of the canonical JSON of a tool's name and its arguments.

    The same before and after a database: neither the order of keys counts nor how a number is written (PostgreSQL
    makes 1e22 an integer). What differs as JSON otherwise differs here, to the last invisible character.
    """
    text = json.dumps([name, _canonical(input)], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _canonical(value: Any) -> Any:
    match value:
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise TypeError("an object of JSON has texts as keys")  # 1 and "1" would be the same
            return {key: _canonical(one) for key, one in value.items()}
        case list() | tuple():
            return [_canonical(one) for one in value]
        case float() if value.is_integer():
            # By its shortest decimal, as it is written: int(1e300) has other digits after the sixteenth.
            return int(Decimal(repr(value)))
        case _:
            return value
