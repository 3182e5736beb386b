"""Claude at its limits: an answer that is cut off goes on, a prompt that is too long is asked again with less in it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.template.loader import render_to_string
from pytest_django import Settings

from chat.agent.prompt import SUMMARISED
from chat.agent.provider import CONTINUE
from chat.agent.trouble import is_full
from chat.models import Conversation, Message, Run, Summary
from chat.transcript import Answer
from tests import acting
from tests.conftest import with_settings
from tests.device import Device
from tests.messages_script import Says, Thinks, Uses
from tests.messages_server import MessagesServer, Script

pytestmark = pytest.mark.usefixtures("quiet")
Make = Callable[..., Device]


@pytest.fixture
async def server(tuned: None, settings: Settings) -> AsyncIterator[MessagesServer]:
    """The Messages API of this test, before the host starts."""
    acting.ran.clear()
    async with MessagesServer() as server:
        settings.ANTHROPIC_BASE_URL, settings.ANTHROPIC_API_KEY = server.url, "sk-ant-of-a-test"
        settings.CHAT_PROVIDER = "claude"
        settings.CHAT_TOOLS = ["tests.acting.note"]
        yield server


@pytest.fixture
async def laptop(server: MessagesServer, device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


def cut(text: str = "", **more: Any) -> Script:
    return Script(text=text, stop_reason="max_tokens", **more)


def asked(server: MessagesServer, number: int) -> list[tuple[str, list[dict[str, Any]]]]:
    return [
        (message["role"], [{k: v for k, v in block.items() if k != "cache_control"} for block in message["content"]])
        for message in server.requests[number].body["messages"]
    ]


async def test_an_answer_that_is_cut_off_goes_on_and_reads_as_one(
    server: MessagesServer, device: Make, alice: User, laptop: Device
) -> None:
    server.script(cut("One two "), cut(" three fo"), Script(text="ur.\n\n- five"))
    ack = await laptop.ask("Count.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == "One two three four.\n\n- five"
    run = await Run.objects.select_related("answer", "prompt").aget(pk=ack["run"])
    assert run.stop_reason == "end_turn"
    assert asked(server, 2) == [
        ("user", [{"type": "text", "text": "Count."}]),
        ("assistant", [{"type": "text", "text": "One two"}]),
        ("user", [{"type": "text", "text": CONTINUE}]),
        ("assistant", [{"type": "text", "text": "three fo"}]),
        ("user", [{"type": "text", "text": CONTINUE}]),
    ]
    assert run.answer is not None
    html = render_to_string("chat/_answer.html", {"answer": Answer(run, run.answer, run.answer.parts)})
    assert "<p>One two three four.</p>" in html
    assert html.count('class="part text"') == 1
    # What was said becomes history as it was said: nothing that was asked before is asked otherwise.
    await laptop.ended((await laptop.ask("And now?"))["run"])
    assert asked(server, 3)[:5] == asked(server, 2)
    fresh = await (await device(alice, laptop.conversation).connect()).synced()
    assert laptop.view.comparable() == fresh.view.comparable()


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ("a ", " b", "a b"),
        ("a\n", "\n\nb", "a\n\nb"),
        ("a \n", "\nb", "a \nb"),
        ("a ", "b", "a b"),
        ("wo", "rd", "word"),
        ("a", " b", "a b"),
    ],
)
async def test_no_space_is_lost_or_doubled_where_it_was_cut(
    server: MessagesServer, laptop: Device, before: str, after: str, text: str
) -> None:
    server.script(cut(tokens=[before]), Script(tokens=[after]))
    ack = await laptop.ask("Go.")
    await laptop.ended(ack["run"])
    assert laptop.view.text_of(ack["run"]) == text


@with_settings(CHAT_CONTINUATIONS=1)
async def test_after_so_many_times_it_ends_and_a_person_may_let_it_go_on(
    server: MessagesServer, laptop: Device
) -> None:
    server.script(cut("one "), cut("two "), cut("never"))
    ack = await laptop.ask("Count.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    run = await Run.objects.select_related("answer", "prompt").aget(pk=ack["run"])
    assert (run.stop_reason, laptop.view.text_of(ack["run"])) == ("max_tokens", "one two ")
    assert len(server.journal) == 2
    assert run.usage["input_tokens"] + run.usage.get("cache_creation_input_tokens", 0) > 0
    html = render_to_string("chat/_answer.html", {"answer": Answer(run, run.answer, run.answer.parts)})  # type: ignore[union-attr]
    assert "The answer reached its length limit" in html
    assert "data-say=" in html


async def test_what_has_no_more_to_say_is_not_asked_for_ever(server: MessagesServer, laptop: Device) -> None:
    server.script(cut("one"), cut(tokens=[]), cut("never"))
    ack = await laptop.ask("Count.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert (await Run.objects.aget(pk=ack["run"])).stop_reason == "max_tokens"
    assert (laptop.view.text_of(ack["run"]), len(server.journal)) == ("one", 2)


@with_settings(CHAT_CONTINUATIONS=0)
async def test_without_continuations_it_ends_at_once(server: MessagesServer, laptop: Device) -> None:
    server.script(cut("one"))
    ack = await laptop.ask("Count.")
    await laptop.ended(ack["run"])
    assert (await Run.objects.aget(pk=ack["run"])).stop_reason == "max_tokens"
    assert len(server.journal) == 1


@pytest.mark.parametrize("pieces", [['{"text": "mi'], [], ['{"text": "milk"}']])
async def test_a_call_that_is_cut_off_is_not_run_and_asked_for_anew(
    server: MessagesServer, laptop: Device, pieces: list[str]
) -> None:
    server.script(
        cut(blocks=[Says("I note."), Uses("note", id="toolu_a", pieces=pieces)]),
        Script(blocks=[Uses("note", {"text": "milk"}, "toolu_b")], stop_reason="tool_use"),
        Script(text="Noted."),
    )
    ack = await laptop.ask("Note milk.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == ["milk"]
    calls = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_use"]
    assert [call["status"] for call in calls] == ["cancelled", "done"]
    assert asked(server, 1)[1:] == [
        ("assistant", [{"type": "text", "text": "I note.\n\n[a call of note was cut off here]"}]),
        ("user", [{"type": "text", "text": CONTINUE}]),
    ]
    assert asked(server, 2)[:3] == asked(server, 1)
    await laptop.ended((await laptop.ask("Thanks."))["run"])
    assert [exchange.finished for exchange in server.journal] == [True] * 4


async def test_calls_that_were_whole_are_run_and_the_one_behind_them_is_not(
    server: MessagesServer, laptop: Device
) -> None:
    both = [Uses("note", {"text": "eggs"}, "toolu_a"), Uses("note", id="toolu_b", pieces=['{"te'])]
    server.script(cut(blocks=both))
    ack = await laptop.ask("Note.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == ["eggs"]
    assert [exchange.finished for exchange in server.journal] == [True] * 2


async def test_thoughts_that_take_all_of_it_are_thought_again(server: MessagesServer, laptop: Device) -> None:
    server.script(cut(blocks=[Thinks("Hm.", signature="")]), Script(text="So."))
    ack = await laptop.ask("Why?")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == "So."
    assert [exchange.finished for exchange in server.journal] == [True] * 2


# --- the window ----------------------------------------------------------------------------------------------


def words(number: int) -> str:
    return " ".join(["word"] * number)


@with_settings(CHAT_WINDOW_TOKENS=100_000)
async def test_a_prompt_that_is_refused_as_too_long_is_asked_again_after_a_summary(
    server: MessagesServer, laptop: Device
) -> None:
    for _ in range(3):
        server.script(Script(text=words(200)))
        await laptop.ended((await laptop.ask(words(200)))["run"])
    server.window = 1_000
    server.script(Script(), Script(text="They said word."), Script(text="Yes."))
    ack = await laptop.ask("Do you remember?")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == "Yes."
    refused, summarising, answered = (exchange.request.body for exchange in server.journal[-3:])
    assert len(refused["messages"]) == 7
    assert ("tools" in refused, "tools" in summarising) == (True, False)
    assert answered["messages"][0]["content"][0]["text"] == f"{SUMMARISED}They said word."
    summary = await Summary.objects.select_related("run").aget()
    assert (summary.model, str(summary.run_id)) == (answered["model"], ack["run"])
    assert summary.usage["output_tokens"] > 0


@with_settings(CHAT_WINDOW_TOKENS=100_000)
async def test_what_does_not_fit_whatever_gives_way_fails_as_context_full(
    server: MessagesServer, laptop: Device
) -> None:
    server.window = 500
    ack = await laptop.ask(words(1_000))
    assert (await laptop.ended(ack["run"]))["state"] == "failed"
    run = await Run.objects.aget(pk=ack["run"])
    assert (run.error_code, run.retryable) == ("context_full", False)
    assert len(server.journal) == 1
    assert await Summary.objects.acount() == 0
    # The next question is not lost with it.
    assert (await laptop.ended((await laptop.ask("And now?"))["run"]))["state"] == "completed"
    assert [message.place is not None async for message in Message.objects.filter(role="user")] == [True, True]


@pytest.mark.parametrize(
    ("message", "tokens", "window"),
    [
        ("prompt is too long: 200251 tokens > 200000 maximum", 200_251, 200_000),
        (
            "input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000, decrease input length",
            178_959,
            136_000,
        ),
        ("prompt is too long", 0, 0),
    ],
)
def test_what_the_api_says_about_its_window_is_understood(message: str, tokens: int, window: int) -> None:
    full = is_full(message)
    assert full is not None
    assert (full.code, full.tokens, full.window) == ("context_full", tokens, window)


def test_other_refusals_are_not_about_the_window() -> None:
    assert is_full("max_tokens: 10000 > 4096, which is the maximum allowed number of output tokens") is None
