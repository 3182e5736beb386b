"""Files in a prompt: what is shown obeys the API's rules, is bounded, and what was shown before stays as it was."""

import base64
import json
from itertools import pairwise
from typing import Any

from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from chat.agent import attachments
from chat.agent.attachments import Cost, block_of, put_in, references, within
from chat.agent.blocks import Block
from chat.agent.prompt import Said, build_prompt
from chat.agent.provider import PromptMessage
from tests.attaching import pdf, picture
from tests.histories import problems, text

KINDS = {
    "image": ("image/png", picture()),
    "pdf": ("application/pdf", pdf(3)),
    "text": ("text/plain", "Grüße".encode()),
    "blank": ("text/plain", b" \n"),
}
GONE = "gone"
FILES = st.lists(st.sampled_from([*KINDS, GONE]), max_size=4)


def part(file: str, kind: str) -> dict[str, Any]:
    return {"type": "image" if kind == "image" else "file", "file": file, "name": f"{file}.x", "state": "done"}


def told(turns: list[list[str]]) -> tuple[list[PromptMessage], dict[str, str]]:
    """A prompt of turns with these kinds of files, and what each file is."""
    kinds = {f"{turn}-{number}": kind for turn, some in enumerate(turns) for number, kind in enumerate(some)}
    asked = [
        [text(f"Question {turn}"), *(part(f"{turn}-{n}", kind) for n, kind in enumerate(some))]
        for turn, some in enumerate(turns)
    ]
    return build_prompt([Said(one, [text("Answer")], "completed") for one in asked[:-1]], asked[-1]), kinds


def resolved(prompt: list[PromptMessage], kinds: dict[str, str], costs: dict[str, Cost]) -> list[PromptMessage]:
    shown = within(references(prompt), costs)
    blocks = {one: block_of(f"{one}.x", *KINDS[kinds[one]]) for one in shown}
    return put_in(prompt, blocks, costs.keys() - shown)


def costs_of(kinds: dict[str, str]) -> dict[str, Cost]:
    """As `cost_of` has it of rows."""
    cost = {"image": (100, 1, 0), "pdf": (300, 0, 3), "text": (50, 0, 0), "blank": (2, 0, 0)}
    return {one: cost[kind] for one, kind in kinds.items() if kind != GONE}


def flat(prompt: list[PromptMessage]) -> list[Block]:
    return [block for message in prompt for block in message["content"]]


@given(st.lists(FILES, min_size=1, max_size=5))
def test_whatever_is_attached_the_request_is_taken_and_has_no_reference_left(turns: list[list[str]]) -> None:
    prompt, kinds = told(turns)
    before = json.dumps(prompt)
    found = resolved(prompt, kinds, costs_of(kinds))
    assert problems(found) == []
    assert json.dumps(prompt) == before, "what is built is a function of what is stored, and is left alone"
    shown = [block["type"] for block in flat(found) if block["type"] in ("image", "document")]
    assert len(shown) == sum(kind in ("image", "pdf", "text") for kind in kinds.values())
    assert all(f"{one}.x" in json.dumps(found) for one in kinds), "each is named, shown or not"


@given(st.lists(FILES, min_size=2, max_size=6))
def test_what_is_said_later_changes_nothing_that_was_shown_before(turns: list[list[str]]) -> None:
    earlier = [
        resolved(prompt, kinds, costs_of(kinds))
        for prompt, kinds in (told(turns[:n]) for n in range(1, len(turns) + 1))
    ]
    for one, next_one in pairwise(earlier):
        assert flat(next_one)[: len(flat(one))] == flat(one)


@given(st.lists(st.lists(st.integers(1, 700), max_size=4), max_size=12))
def test_the_cut_moves_rarely_and_never_back(sizes: list[list[int]]) -> None:
    """With room for 1,000 bytes."""
    costs = {f"{turn}-{n}": (size, 0, 0) for turn, some in enumerate(sizes) for n, size in enumerate(some)}
    groups = [[f"{turn}-{n}" for n in range(len(some))] for turn, some in enumerate(sizes)]
    with override_settings(CHAT_FILES_PROMPT_BYTES=1000):
        shown = [within(groups[:number], costs) for number in range(len(groups) + 1)]
    for number, now in enumerate(shown):
        assert sum(costs[one][0] for one in now) <= 1000
        if number:
            newest = set(groups[number - 1])
            assert now - newest <= shown[number - 1], "what was left out stays out"
            if shown[number - 1] - now:  # then there is room for a while
                assert sum(costs[one][0] for one in now) <= 500 or now <= newest
            assert not newest or newest & now, "something of the newest message is always shown"


def test_too_many_images_or_pages_are_too_much_as_well() -> None:
    images = [[f"{n}"] for n in range(101)]
    assert len(within(images, {one: (1, 1, 0) for [one] in images})) == 50
    papers = [["a"], ["b"], ["c"]]
    assert within(papers, {"a": (1, 0, 60), "b": (1, 0, 30), "c": (1, 0, 20)}) == {"b", "c"}
    assert within([["a", "b"]], {"a": (1, 0, 60), "b": (1, 0, 60)}) == {"a"}


def test_of_what_is_not_shown_the_model_is_told_why(settings: Settings) -> None:
    settings.CHAT_FILES_PROMPT_BYTES = 350
    prompt, kinds = told([["pdf", GONE], ["image"]])
    said = [block.get("text") for block in flat(resolved(prompt, kinds, costs_of(kinds)))]
    assert said[:2] == ["[file: 0-0.x, left out here: too many files at once]", "[file: 0-1.x, no longer there]"]
    assert said[-3:] == ["[image: 1-0.x]", None, "Question 1"]


def test_a_long_text_is_cut_and_says_so() -> None:
    block = block_of("long.txt", "text/plain", b"x" * 300_000)
    assert block is not None
    assert block["source"]["data"] == "x" * 200_000 + attachments.GOES_ON
    assert block["title"] == "long.txt"


def test_bytes_are_told_exactly() -> None:
    block = block_of("a.png", "image/png", picture())
    assert block is not None
    assert base64.b64decode(block["source"]["data"]) == picture()
