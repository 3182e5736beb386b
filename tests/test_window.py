"""How long a prompt is and may be, and the text of which a summary is made."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from chat.agent import recap, window
from chat.agent.prompt import Said
from chat.agent.provider import Turn
from chat.prices import tokens_in
from tests.histories import HISTORY, call, result, text, thought


def turn(*blocks: dict[str, Any], system: str = "") -> Turn:
    prompt: list[Any] = [{"role": "user", "content": list(blocks)}]
    return Turn(uuid.uuid4(), uuid.uuid4(), 1, system, prompt)


def test_the_window_is_that_of_the_model_else_of_the_provider_else_the_usual(settings: Settings) -> None:
    settings.CHAT_WINDOWS = '{"small": 1000, "claude": 5000}'
    settings.CHAT_WINDOW_TOKENS = 9000
    found = [window.window_of(*names).tokens for names in (("claude", "small"), ("claude", "x"), ("other", "x"))]
    assert found == [1000, 5000, 9000]
    assert window.window_of("claude", "small") == window.Window(1000, 700, 300)


def test_a_file_counts_as_what_it_takes_and_not_as_its_bytes() -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 1_000_000}}
    assert window.chars(turn({"type": "text", "text": "x" * 100}, system="y" * 10)) < 130
    assert window.IMAGE_CHARS <= window.chars(turn(picture)) < 2 * window.IMAGE_CHARS


def test_what_is_in_the_providers_cache_was_read_too() -> None:
    used = {"input_tokens": 1, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 100, "output_tokens": 1000}
    assert tokens_in(used) == 111
    assert window.tokens_per_char(10**12, 1) == window.MOST_TOKENS_PER_CHAR
    assert window.tokens_per_char(0, 10) == window.LEAST_TOKENS_PER_CHAR


@given(st.lists(st.integers(0, 10_000), max_size=20), st.integers(-100, 50_000))
def test_shares_have_room_together_or_are_the_least(lengths: list[int], room: int) -> None:
    share = window.shares(lengths, room, 200)
    assert sum(min(length, share) for length in lengths) <= room or share <= 200


@given(HISTORY, st.integers(500, 5_000), st.sampled_from(["", "before"]))
def test_what_is_to_be_summarised_has_room(history: list[Said], room: int, before: str) -> None:
    assert len(recap.asked(before, history, room)) <= room + 300


def test_what_is_to_be_summarised_tells_what_was_said_and_done() -> None:
    parts = [thought("Hm."), text("I look."), call("clock", 1), result(1, "noon", name="clock"), text("Noon.")]
    asked = recap.asked("They greeted.", [Said([text("When?")], parts, "cancelled")], 10_000)
    for told in ("They greeted.", "User: When?", "Assistant: I look.", '(calls clock with {"n": 1})', "(done) noon"):
        assert told in asked
    assert "(the answer was cancelled)" in asked
    assert "Hm." not in asked


@pytest.mark.parametrize(("turns", "length", "kept"), [(1, 20_000, 1), (3, 5_000, 3), (300, 2_000, 1)])
def test_of_what_is_too_much_all_is_clipped_and_at_last_the_oldest_goes(turns: int, length: int, kept: int) -> None:
    said = [Said([text(f"begin{number} " + "x" * length + f" end{number}")]) for number in range(turns)]
    asked = recap.asked("", said, 4_000)
    assert len(asked) <= 4_300
    assert asked.count("begin") >= kept
    assert f"begin{turns - 1} " in asked
    assert f" end{turns - 1}" in asked
