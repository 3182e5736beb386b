"""A conversation that outgrows the model's window: a summary stands for older turns, for the model and nobody else."""

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings

from chat.agent.prompt import LEFT_OUT, SUMMARISED
from chat.agent.provider import ProviderError, Turn
from chat.models import Conversation, Message, Run, Summary
from chat.transcript import read_transcript
from tests.acting import asks
from tests.conftest import with_settings
from tests.device import Device, until
from tests.remembering import Forgetful, Remembering

pytestmark = pytest.mark.usefixtures("quiet")
OVER_EVERY_DOOR = True
SMALL = with_settings(CHAT_WINDOW_TOKENS=1000)  # 700 tokens, and room is made; 300 are kept
TURN = "x" * 600  # 150 tokens

Make = Callable[..., Device]


@pytest.fixture
def model(tuned: None, settings: Settings) -> type[Remembering]:
    """What answers; its answers are long."""
    settings.CHAT_PROVIDERS = {"r": "tests.remembering.Remembering", "f": "tests.remembering.Forgetful"}
    settings.CHAT_PROVIDER = "r"
    settings.CHAT_TOOLS = ["tests.remembering.find"]
    Forgetful.answer, Remembering.steps, Forgetful.turns = "y" * 200, [], []
    Remembering.summaries, Remembering.asked, Remembering.closed = [], [], 0
    return Remembering


@pytest.fixture
async def laptop(model: type[Remembering], device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


@pytest.fixture
async def phone(laptop: Device, device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


async def talk(device: Device, turns: int, first: int = 0) -> list[str]:
    """So many turns that end well; their runs."""
    runs = []
    for number in range(first, first + turns):
        ack = await device.ask(f"{number} {TURN}")
        assert (await device.ended(ack["run"]))["state"] == "completed"
        runs.append(ack["run"])
    return runs


def flat(turn: Turn) -> list[tuple[str, Any]]:
    return [(message["role"], block) for message in turn.prompt for block in message["content"]]


def first_words(turn: Turn) -> str:
    return str(turn.prompt[0]["content"][0]["text"])


def summaries_in(view: Any) -> list[dict[str, Any]]:
    return [message["summary"] for message in view.messages.values() if "summary" in message]


@SMALL
async def test_a_conversation_that_outgrows_the_window_goes_on_with_a_summary_on_every_device(
    model: type[Remembering], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    runs = await talk(laptop, 6)
    [summary] = [one async for one in Summary.objects.select_related("run")]
    assert (summary.text, summary.usage) == ("summary 1", {"input_tokens": 100, "output_tokens": 7})
    fresh = await (await device(alice, laptop.conversation).connect()).synced()
    await phone.ended(runs[-1])
    for one in (laptop, phone):
        await one.until(lambda one=one: one.view.cursor >= fresh.view.cursor, "the same position")  # type: ignore[misc]
        assert one.view.comparable() == fresh.view.comparable()
        assert [(told["text"], told["until"]) for told in summaries_in(one.view)] == [("summary 1", summary.until)]
    # Nothing is gone: every turn can be read, and the run that made it has paid for it.
    assert [message["text"][0] for message in fresh.view.messages.values() if message["role"] == "user"] == list(
        "012345"
    )
    assert summary.run is not None
    assert summary.run.usage["input_tokens"] == 100 + summary.run.prompt_tokens
    told = first_words(model.turns[-1])
    assert told == f"{SUMMARISED}summary 1"
    covered = await Message.objects.filter(role="user", place__lte=summary.until).acount()
    assert flat(model.turns[-1])[1] == ("user", {"type": "text", "text": f"{covered} {TURN}"})


@SMALL
async def test_the_cut_stays_until_there_is_no_more_room_and_the_next_summary_is_made_of_the_one_before(
    model: type[Remembering], laptop: Device
) -> None:
    await talk(laptop, 14)
    assert 2 <= len(model.asked) <= 5
    for before, after in pairwise(model.turns):
        if first_words(before) == first_words(after):
            assert flat(after)[: len(flat(before))] == flat(before)
    begins = [first_words(turn) for turn in model.turns]
    changes = sum(one != other for one, other in pairwise(begins))
    assert changes == len(model.asked)
    assert all(turn.system for turn in model.turns)
    assert "summary 1" in model.asked[1]
    assert "User: 0 x" in model.asked[0]
    assert "User: 0 x" not in model.asked[1]
    untils = [one.until async for one in Summary.objects.order_by("created_at")]
    assert untils == sorted(untils)
    run = await Run.objects.alatest("created_at")
    assert 0 < run.prompt_tokens <= 700


@SMALL
async def test_who_cannot_summarise_forgets_and_everybody_is_told(
    model: type[Remembering], settings: Settings, laptop: Device
) -> None:
    settings.CHAT_PROVIDER = "f"
    await talk(laptop, 6)
    assert first_words(model.turns[-1]) == LEFT_OUT
    [summary] = [one async for one in Summary.objects.all()]
    assert (summary.text, summary.model) == ("", "")
    html = await sync_to_async(page)(laptop.user, laptop.conversation)
    assert "the model does not know them" in html


def page(user: User, conversation: Conversation) -> str:
    client = Client()
    client.force_login(user)
    return client.get(f"/conversations/{conversation.pk}/").content.decode()


@SMALL
async def test_a_summary_that_fails_ends_the_run_as_any_failure_and_can_be_tried_again(
    model: type[Remembering], laptop: Device
) -> None:
    model.summaries = [ProviderError("overloaded", "Busy.", retryable=True)]
    ack: dict[str, Any] = {}
    for number in range(6):
        ack = await laptop.ask(f"{number} {TURN}")
        if (await laptop.ended(ack["run"]))["state"] != "completed":
            break
    run = await Run.objects.aget(pk=ack["run"])
    assert (run.state, run.error_code, run.retryable) == ("failed", "overloaded", True)
    assert await Summary.objects.acount() == 0
    again = await laptop.say("run.retry", run=ack["run"])
    assert (await laptop.ended(again["run"]))["state"] == "completed"
    assert (model.closed, await Summary.objects.acount()) == (2, 1)


@SMALL
async def test_a_stop_while_it_is_summarised_closes_the_provider_and_leaves_everything_as_it_was(
    model: type[Remembering], laptop: Device, phone: Device
) -> None:
    model.summaries = [asyncio.Event()]
    await talk(laptop, 3)
    ack = await laptop.ask(f"3 {TURN}")
    await until(lambda: model.asked, "the summary to be made")
    await phone.until(lambda: said_busy(phone, ack["run"]), "to be told what takes so long")
    began = time.monotonic()
    await phone.say("run.cancel", run=ack["run"])
    await until(lambda: model.closed, "the provider to be closed")
    assert time.monotonic() - began < 1.0
    for one in (laptop, phone):
        assert (await one.ended(ack["run"]))["state"] == "cancelled"
        await one.until(lambda one=one: said_busy(one, ack["run"])[-1] == "", "the indicator to end")  # type: ignore[misc]
    assert await Summary.objects.acount() == 0
    assert len(model.turns) == 3
    await talk(laptop, 1, first=4)
    assert await Summary.objects.acount() == 1


def said_busy(device: Device, run: str) -> list[str]:
    return [frame["text"] for frame in device.frames if frame["type"] == "progress" and frame["run"] == run]


@SMALL
async def test_a_server_that_is_lost_while_it_summarises_leaves_no_half_and_another_begins_again(
    model: type[Remembering], laptop: Device, phone: Device
) -> None:
    gate = asyncio.Event()
    model.summaries = [gate]
    await talk(laptop, 3)
    ack = await laptop.ask(f"3 {TURN}")
    await until(lambda: model.asked, "the summary to be made")
    run = await Run.objects.select_related("conversation").aget(pk=ack["run"])
    await sync_to_async(run.hand_over)(run.attempt)
    for one in (laptop, phone):
        assert (await one.ended(ack["run"]))["state"] == "completed"
        await one.until(lambda one=one: said_busy(one, ack["run"])[-1] == "", "the indicator to end")  # type: ignore[misc]
    await run.arefresh_from_db()
    gate.set()  # whom it was taken from
    await until(lambda: model.closed == 2, "both to be closed")
    assert (run.attempt, [one.text async for one in Summary.objects.all()]) == (2, ["summary 2"])
    assert first_words(model.turns[-1]) == f"{SUMMARISED}summary 2"
    assert laptop.view.comparable() == phone.view.comparable()


@SMALL
async def test_a_prompt_that_is_answered_anew_is_no_turn_to_be_summarised(
    model: type[Remembering], laptop: Device
) -> None:
    model.steps = [asks("find", "a", letter="x", length=2000), [ProviderError("overloaded", "Busy.", retryable=True)]]
    ack = await laptop.ask(f"0 {TURN}")
    assert (await laptop.ended(ack["run"]))["state"] == "failed"
    model.steps = []
    again = await laptop.say("run.retry", run=ack["run"])
    assert (await laptop.ended(again["run"]))["error"] is None
    assert await Summary.objects.acount() == 0


@SMALL
async def test_two_runs_at_once_make_one_summary(model: type[Remembering], laptop: Device) -> None:
    await talk(laptop, 3)
    gate, other = asyncio.Event(), asyncio.Event()
    model.summaries = [gate, other]
    one = await laptop.ask(f"one {TURN}")
    two = await laptop.ask(f"two {TURN}", when_busy="alongside")
    await until(lambda: len(model.asked) == 2, "both to be summarising")
    other.set()
    await laptop.ended(two["run"])
    gate.set()
    await laptop.ended(one["run"])
    assert {laptop.view.state_of(ack["run"]) for ack in (one, two)} == {"completed"}
    assert [(one.text) async for one in Summary.objects.all()] == ["at last"]
    assert [first_words(turn) for turn in model.turns[-2:]] == [f"{SUMMARISED}at last"] * 2


@SMALL
async def test_what_tools_found_gives_way_for_the_model_and_stays_for_people(
    model: type[Remembering], device: Make, alice: User, laptop: Device
) -> None:
    model.steps = [asks("find", f"id{number}", letter=str(number), length=1200) for number in range(4)]
    ack = await laptop.ask("Find a lot.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert (await Run.objects.aget(pk=ack["run"])).prompt_tokens <= 700
    results = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_result"]
    assert [len(part["text"]) for part in results] == [1200] * 4
    assert [part["told"] for part in results if "told" in part]
    told = [block for _, block in flat(model.turns[-1]) if block["type"] == "tool_result"]
    assert "more characters were left out" in told[0]["content"]
    assert "left out" not in told[-1]["content"]
    fresh = await (await device(alice, laptop.conversation).connect()).synced()
    assert laptop.view.comparable() == fresh.view.comparable()
    # The same for ever: what comes later begins with it.
    model.steps = []
    before = model.turns[-1]
    await laptop.ended((await laptop.ask("And now?"))["run"])
    if not await Summary.objects.aexists():
        assert flat(model.turns[-1])[: len(flat(before))] == flat(before)


@SMALL
async def test_one_enormous_result_is_told_as_far_as_there_is_room(model: type[Remembering], laptop: Device) -> None:
    model.steps = [asks("find", letter="z", length=20_000)]
    ack = await laptop.ask("Find it.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    run = await Run.objects.aget(pk=ack["run"])
    [result] = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_result"]
    assert len(result["text"]) == 20_000
    assert 200 < result["told"] < 2_800
    assert 300 < run.prompt_tokens <= 700


@pytest.mark.over_websocket
@SMALL
async def test_the_page_shows_it_at_the_cut_live_as_after_a_reload_and_its_text_only_to_who_opens_it(
    model: type[Remembering], device: Make, alice: User, charlie: User, conversation: Conversation
) -> None:
    model.summaries = ["They <b>counted</b>."]
    watching = await (await device(alice, conversation, encoding="html").connect()).synced()
    laptop = await (await device(alice, conversation).connect()).synced()
    await talk(laptop, 5)
    summary = await Summary.objects.aget()
    line = f'<aside id="summary-{summary.pk}"'
    await watching.until(lambda: any(line in frame.get("html", "") for frame in watching.frames), "the line")
    html = await sync_to_async(page)(alice, conversation)
    [live] = [frame["html"] for frame in watching.frames if line in frame.get("html", "")]
    fragment = live[live.index(line) : live.index("</aside>")]
    assert fragment in html
    assert "counted" not in html
    prompts = [message async for message in Message.objects.filter(role="user").order_by("place")]
    cut = next(number for number, message in enumerate(prompts) if message.place == summary.until)
    order = [
        html.index(f'id="turn-{prompts[cut].pk}"'),
        html.index(line),
        html.index(f'id="turn-{prompts[cut + 1].pk}"'),
    ]
    assert order == sorted(order)
    assert await sync_to_async(text_for)(alice, summary) == (200, "They <b>counted</b>.", "text/plain; charset=utf-8")
    assert (await sync_to_async(text_for)(charlie, summary))[0] == 404


def text_for(user: User, summary: Summary) -> tuple[int, str, str]:
    client = Client()
    client.force_login(user)
    response = client.get(f"/conversations/{summary.conversation_id}/summaries/{summary.pk}/")
    return response.status_code, response.content.decode(), response["Content-Type"]


@pytest.mark.over_websocket
@SMALL
async def test_a_summary_is_on_the_page_of_its_turn_alone(model: type[Remembering], laptop: Device) -> None:
    await talk(laptop, 6)
    summary = await Summary.objects.aget()

    def cuts() -> list[int]:
        found: list[int] = []
        page, before = read_transcript(laptop.conversation.pk, size=1), None
        while True:
            found += [turn.summary.until for turn in page.turns if turn.summary is not None]
            if (before := page.older) is None:
                return found
            page = read_transcript(laptop.conversation.pk, before=before, size=1)

    assert await sync_to_async(cuts)() == [summary.until]


async def test_where_all_of_it_fits_nothing_is_looked_up(
    model: type[Remembering], laptop: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Run] = []
    for what in ("_look", "_ratio_of"):
        monkeypatch.setattr(f"chat.agent.room.{what}", looked.append)
    await talk(laptop, 8)
    assert (model.asked, looked) == ([], [])
    assert await Summary.objects.acount() == 0
