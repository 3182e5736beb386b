"""The scripted provider does what its table says, and nothing else."""

import asyncio
import time
import uuid
from contextlib import aclosing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.agent.demonstration import demonstration
from chat.agent.provider import STOPPED_MARK, ProviderError, ProviderEvent, Stopped, Text, Turn, Usage
from chat.agent.scripted import Scripted, long_text, script_for


def turn(*texts: str) -> Turn:
    """Alternating texts, the first one from the user."""
    roles = ("user", "assistant")
    return Turn(
        run=uuid.uuid4(),
        conversation=uuid.uuid4(),
        attempt=1,
        system="You are a test.",
        prompt=[
            {
                "role": "user" if roles[n % 2] == "user" else "assistant",
                "content": [{"type": "text", "text": text}],
            }
            for n, text in enumerate(texts)
        ],
    )


async def replied(asked: Turn, into: list[ProviderEvent] | None = None) -> list[ProviderEvent]:
    events = [] if into is None else into
    async with aclosing(Scripted().reply(asked)) as reply:
        async for event in reply:
            events.append(event)
    return events


def text_of(events: list[ProviderEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


async def failure(asked: Turn) -> tuple[ProviderError, list[ProviderEvent]]:
    events: list[ProviderEvent] = []
    with pytest.raises(ProviderError) as caught:
        await replied(asked, events)
    return caught.value, events


async def test_echo_says_exactly_what_it_is_told() -> None:
    for text in (
        "hello",
        "two  spaces \n\nand a tab\t",
        " leading",
        "x" * 1000,
        "/long 5 is only",
        "talk, and /max too",
    ):
        events = await replied(turn(f"/rate 0 /echo {text}"))
        assert text_of(events) == text
        assert events[-1] == Stopped("end_turn")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="/")))
def test_echo_is_exact_for_any_text(text: str) -> None:
    assert script_for(turn(f"/echo {text}")).text == text


def test_echo_ends_at_a_line_that_begins_with_a_directive() -> None:
    script = script_for(turn("/echo hello\nworld\n/lost"))
    assert (script.text, script.end.lost) == ("hello\nworld", True)


async def test_long_counts_its_words() -> None:
    events = await replied(turn("/rate 0 /long 400"))
    assert text_of(events) == long_text(400)
    assert sum(isinstance(event, Text) for event in events) == 400


def test_words_that_only_look_like_directives_are_talk() -> None:
    for text in (
        "/longer 5",
        "/long five",
        "a/max",
        "/maximum",
        "http://host/lost",
        "/Max",
        "/fail",
        "/rate -1",
    ):
        assert script_for(turn(text)).text == demonstration(turn(text).prompt), text
        assert script_for(turn(text)).end.value == "end_turn", text


def test_only_the_last_user_message_is_obeyed() -> None:
    assert script_for(turn("/echo one", "one", "/echo two")).text == "two"


async def test_the_rate_is_kept() -> None:
    before = time.monotonic()
    await replied(turn("/rate 200 /long 101"))
    assert 0.49 <= time.monotonic() - before < 2  # at the usual rate it is 2.5 s


async def test_a_late_reader_is_caught_up_with() -> None:
    """All 50 tokens are due after two seconds, however long the reader took for the first."""
    before = time.monotonic()
    async with aclosing(Scripted().reply(turn("/rate 25 /long 51"))) as reply:
        async for event in reply:
            if event == Text("word1"):
                await asyncio.sleep(1.9)
    assert 1.99 <= time.monotonic() - before < 3.5


async def test_at_full_speed_the_loop_still_turns() -> None:
    turns = 0

    async def neighbour() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(neighbour())
    await replied(turn("/rate 0 /long 2000"))
    task.cancel()
    assert turns >= 100


async def test_slow_waits_before_the_first_token_only() -> None:
    before = time.monotonic()
    async with aclosing(Scripted().reply(turn("/slow 1 /rate 0 /long 5"))) as reply:
        await anext(reply)
        assert time.monotonic() - before >= 0.99
        async for _ in reply:
            pass
    assert time.monotonic() - before < 3


async def test_fail_comes_after_what_precedes_it() -> None:
    error, events = await failure(turn("/rate 0 /long 7 /fail rate_limited /long 3"))
    assert (error.code, error.retryable, error.lost) == ("rate_limited", True, False)
    assert text_of(events) == long_text(7)


async def test_fail_without_anything_to_say_says_nothing() -> None:
    error, events = await failure(turn("/fail invalid_request"))
    assert (error.code, error.retryable, text_of(events)) == ("invalid_request", False, "")


async def test_fail_before_comes_before_everything() -> None:
    error, events = await failure(turn("/slow 60 /long 7 /fail-before"))
    assert (error.code, error.lost, events) == ("overloaded", False, [])


async def test_lost_ends_as_a_lost_connection_after_the_text() -> None:
    error, events = await failure(turn("/rate 0 /long 7 /lost"))
    assert (error.code, error.retryable, error.lost) == ("connection_lost", True, True)
    assert text_of(events) == long_text(7)


async def test_hang_is_silent_for_ever_and_can_be_cancelled() -> None:
    async with aclosing(Scripted().reply(turn("/rate 0 /long 7 /hang"))) as reply:
        events = [await anext(reply) for _ in range(9)]
        assert (text_of(events), events[-1]) == (long_text(7), Usage({"input_tokens": 5, "output_tokens": 7}))
        more = asyncio.ensure_future(anext(reply))
        assert not (await asyncio.wait({more}, timeout=0.3))[0]
        more.cancel()
        with pytest.raises(asyncio.CancelledError):
            await more


@pytest.mark.parametrize(("directive", "reason"), [("/refuse", "refusal"), ("/max", "max_tokens")])
async def test_stop_reasons_are_passed_on(directive: str, reason: str) -> None:
    events = await replied(turn(f"/rate 0 /echo some words\n{directive}"))
    assert (text_of(events), events[-1]) == ("some words", Stopped(reason))


async def test_tokens_are_counted_at_least_every_fifty_and_at_the_end() -> None:
    events = await replied(turn("one two", "three", "/rate 0 /long 120"))
    counts = [event.tokens for event in events if isinstance(event, Usage)]
    assert [count["output_tokens"] for count in counts] == [0, 50, 100, 120]
    assert {count["input_tokens"] for count in counts} == {7}
    assert isinstance(events[-2], Usage)


async def test_usage_counts_every_token() -> None:
    events = await replied(turn("/rate 0 /long 3 /usage"))
    counts = [event.tokens["output_tokens"] for event in events if isinstance(event, Usage)]
    assert counts == [0, 1, 2, 3, 3]


async def test_a_failed_turn_is_counted_too() -> None:
    _, events = await failure(turn("/rate 0 /long 7 /lost"))
    assert events[-1] == Usage({"input_tokens": 5, "output_tokens": 7})


def test_the_demonstration_shows_all_of_markdown_in_about_twelve_seconds() -> None:
    text = demonstration(turn("What is this?").prompt)
    for mark in (
        "\n## ",
        "\n### ",
        "\n1. ",
        "\n- ",
        "\n```python\n",
        "\n|---|",
        "\n> What is this?",
        "**",
        "`stop`",
    ):
        assert mark in text, mark
    assert 10 <= len(list(script_for(turn("What is this?")).tokens())) / 40 <= 14


def test_the_demonstration_depends_on_the_prompt_alone() -> None:
    assert demonstration(turn("same").prompt) == demonstration(turn("same").prompt)
    assert len({demonstration(turn(text).prompt) for text in ("one", "two", "{three}", "a | b", "")}) == 5


def test_the_demonstration_knows_the_words_it_was_stopped_at() -> None:
    stopped = "It was a dark and stormy night, the rain fell" + STOPPED_MARK
    assert "dark and stormy" not in demonstration(turn("go", "It was a dark and stormy night", "go on").prompt)
    assert "stormy night, the rain fell" in demonstration(turn("go", stopped, "go on").prompt)
    assert "stopped me at once" in demonstration(turn("go", STOPPED_MARK, "go on").prompt)


async def test_after_something_was_added_it_says_what_it_heard() -> None:
    asked = replace(turn("/rate 0 /long 2", "word1 word2", "Focus on flights only."), step=1)
    said = text_of(await replied(asked))
    assert said == "I have heard it: “Focus on flights only.”"
