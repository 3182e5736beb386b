"""An approval is for one call alone, and who gives it sees all of what they approve."""

import json
import random
import unicodedata
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.approval import arguments_hash, visible

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict):
        return {key: shuffled(value[key], chance) for key in chance.sample(sorted(value), len(value))}
    return [shuffled(one, chance) for one in value] if isinstance(value, list) else value


@given(JSON, st.randoms(use_true_random=False))
def test_the_order_of_keys_and_a_way_through_json_do_not_change_the_hash(value: Any, chance: random.Random) -> None:
    expected = arguments_hash("act", {"with": value})
    assert arguments_hash("act", shuffled({"with": value}, chance)) == expected
    for spaced in (True, False):
        again = json.loads(json.dumps({"with": value}, ensure_ascii=spaced, indent=2 if spaced else None))
        assert arguments_hash("act", again) == expected


def as_jsonb(value: Any) -> Any:
    """As PostgreSQL gives it back: every number as its decimal digits."""
    if isinstance(value, float):
        return json.loads(format(Decimal(repr(value)), "f"))
    if isinstance(value, dict):
        return {key: as_jsonb(one) for key, one in sorted(value.items(), key=lambda item: (len(item[0]), item[0]))}
    return [as_jsonb(one) for one in value] if isinstance(value, list) else value


@given(JSON)
def test_a_way_through_a_database_does_not_change_the_hash(value: Any) -> None:
    assert arguments_hash("act", as_jsonb(value)) == arguments_hash("act", value)


def with_numbers_as_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: with_numbers_as_words(one) for key, one in value.items()}
    if isinstance(value, list):
        return [with_numbers_as_words(one) for one in value]
    return {"number": str(Fraction(repr(value)))} if type(value) in (int, float) else {"other": value}


SMALL = st.integers(0, 2) | st.sampled_from([0.0, 1.0, -0.0, 0.5, True, None, "0"])
FEW = SMALL | st.lists(SMALL, max_size=2) | st.dictionaries(st.sampled_from("ab"), SMALL, max_size=2)


@given(FEW | JSON, FEW | JSON)
def test_hashes_are_the_same_for_the_same_json_and_for_no_other(one: Any, other: Any) -> None:
    words, others = (json.dumps(with_numbers_as_words(value), sort_keys=True) for value in (one, other))
    assert (arguments_hash("act", one) == arguments_hash("act", other)) == (words == others)


DIFFERENT: list[tuple[str, Any]] = [
    ("act", {"a": 1}),
    ("other", {"a": 1}),
    ("act", {"a": "1"}),
    ("act", {"a": True}),
    ("act", {"a": None}),
    ("act", {}),
    ("act", {"a": [1]}),
    ("act", {"a": 1.5}),
    ("act", {"a": 2**60}),
    ("act", {"a": 2**60 + 1}),
    ("act", {"a": "é"}),
    ("act", {"a": "e\u0301"}),
    ("act", {"a": "e\u0301\u200b"}),
    ("act", {"a": {"a": 1}}),
    ("act", [{"a": 1}]),
]


def test_a_hash_is_of_this_tool_and_these_arguments_alone() -> None:
    hashes = {arguments_hash(name, given_input) for name, given_input in DIFFERENT}
    assert len(hashes) == len(DIFFERENT)
    # Written down somewhere, it must stay the same.
    assert arguments_hash("act", {"b": [1.0, "é"], "a": None}) == (
        "13d8badadec7d017ebb67d1647f64d55aaa3c3b20df36725f4ff0bb8b1855e84"
    )


@pytest.mark.parametrize("value", [{1: "x"}, {"a": float("nan")}, {"a": float("inf")}, {"a": {1, 2}}, {"a": b"x"}])
def test_what_is_not_json_has_no_hash(value: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        arguments_hash("act", value)


ATTACKS = {
    "a file's ending turned around": ("invoice\u202efdp.exe", "invoice⟨U+202E⟩fdp.exe"),
    "an isolate that swaps words": ("pay \u2067alice\u2069 bob", "pay ⟨U+2067⟩alice⟨U+2069⟩ bob"),
    "a comment that is none": ("/*\u202e } \u2066if (admin)\u2069 \u2066 begin */", None),
    "a name that only looks the same": ("al\u200bice", "al⟨U+200B⟩ice"),
    "a joiner": ("ad\u200dmin", "ad⟨U+200D⟩min"),
    "a word joiner": ("ad\u2060min", "ad⟨U+2060⟩min"),
    "a byte order mark": ("\ufeffalice", "⟨U+FEFF⟩alice"),
    "a soft hyphen": ("pass\u00adword", "pass⟨U+00AD⟩word"),
    "words in tags": ("hi" + "".join(chr(0xE0000 + ord(one)) for one in "rm -rf"), None),
    "bytes in variation selectors": ("😀" + "\ufe00\ufe0f\U000e0100\U000e01ef", None),
    "a filler for a name": ("\u3164", "⟨U+3164⟩"),
    "other fillers": ("\u115f\u1160\uffa0\u2800", "⟨U+115F⟩⟨U+1160⟩⟨U+FFA0⟩⟨U+2800⟩"),
    "marks that are drawn as nothing": ("\u17b4\u034f\u180e\u180b", "⟨U+17B4⟩⟨U+034F⟩⟨U+180E⟩⟨U+180B⟩"),
    "a space that is none": ("rm\u00a0-rf\u3000/\u2009x\u1680", "rm⟨U+00A0⟩-rf⟨U+3000⟩/⟨U+2009⟩x⟨U+1680⟩"),
    "a line break that is none": ("ok\u2028rm\u2029", "ok⟨U+2028⟩rm⟨U+2029⟩"),
    "a line written over": ("rm -rf /\rls     ", "rm -rf /⟨U+000D⟩ls     "),
    "an escape of terminals": ("\x1b[8mhidden\x1b[0m\x9b", "⟨U+001B⟩[8mhidden⟨U+001B⟩[0m⟨U+009B⟩"),
    "a backspace": ("no\b\byes\x7f", "no⟨U+0008⟩⟨U+0008⟩yes⟨U+007F⟩"),
    "an end that is none": ("a\0b", "a⟨U+0000⟩b"),
    "half a character": ("\ud83d", "⟨U+D83D⟩"),
    "an annotation": ("\ufff9a\ufffab\ufffb", "⟨U+FFF9⟩a⟨U+FFFA⟩b⟨U+FFFB⟩"),
    "no character": ("\U000e1000\uffff\ue000", "⟨U+E1000⟩⟨U+FFFF⟩⟨U+E000⟩"),
    "what looks like ours": ("⟨U+202E⟩", "⟨U+27E8⟩U+202E⟩"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_hidden_from_who_approves(name: str) -> None:
    attack, shown = ATTACKS[name]
    assert shown is None or visible(attack) == shown
    assert is_visible(visible(attack))
    assert visible(attack).count("⟨") == sum(visible(one) != one for one in attack)


def is_visible(text: str) -> bool:
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    selectors = {*range(0xFE00, 0xFE10), *range(0x180B, 0x1810), *range(0xE0000, 0xE1000)}
    return all(
        one in " \n\t" or (unicodedata.category(one) not in hidden and not one.isspace() and ord(one) not in selectors)
        for one in text
    )


@given(st.text(st.characters()) | st.text(st.sampled_from("a⟨\u202e\u200b\ufe0f\U000e0041\u00a0\n")))
def test_what_is_shown_has_nothing_invisible_and_is_never_ambiguous(text: str) -> None:
    shown = visible(text)
    assert is_visible(shown)
    parts = shown.split("⟨U+")
    back = parts[0] + "".join(chr(int(code, 16)) + rest for code, rest in (part.split("⟩", 1) for part in parts[1:]))
    assert back == text


@pytest.mark.parametrize(
    "text", ["plain\n\ttext", "Grüße, Ærø, Łódź", "日本語", "שלום", "مرحبا", "😀 2 × 3 – “x”", "नमस्ते"]
)
def test_what_can_be_seen_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
