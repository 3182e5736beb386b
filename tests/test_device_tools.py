"""Tools that run on a device: offered to all of a person's, answered by one, through restarts, stops and long waits."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.utils import timezone
from pytest_django import Settings

from chat import host as hosts
from chat.agent.provider import Text
from chat.errors import Refused
from chat.models import Conversation, Message, Run
from chat.models import Device as DeviceRow
from chat.models.deciding import answer as verb
from chat.models.state import State
from project import asgi
from tests import acting
from tests.acting import Acting, asks
from tests.conftest import with_settings
from tests.device import Device
from tests.guests import guest, let_in
from tests.test_agents import assert_equal_everywhere, call_in, decide

pytestmark = pytest.mark.usefixtures("quiet")
OVER_EVERY_DOOR = True

Make = Callable[..., Device]


@pytest.fixture
def agent(tuned: None, settings: Settings) -> type[Acting]:
    """What answers, of every conversation this test begins."""
    settings.CHAT_PROVIDERS = {"acting": "tests.acting.Acting"}
    settings.CHAT_PROVIDER = "acting"
    settings.CHAT_TOOLS = [f"tests.acting.{name}" for name in ("look", "listen", "hold", "delete", "note")]
    settings.CHAT_TOOLS += ["chat.agent.tools.ask_user"]
    Acting.steps, Acting.turns = [], []
    acting.ran.clear()
    acting.Held.until = asyncio.Event()
    return Acting


@pytest.fixture
async def laptop(agent: type[Acting], device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


@pytest.fixture
async def phone(laptop: Device, device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


async def offered(device: Device, run: str) -> dict[str, Any]:
    """The call that devices may answer, when the run waits for it."""
    await device.until(lambda: device.view.state_of(run) == "waiting", "the run to wait")
    call = call_in(device, run)
    assert call["status"] == "offered"
    return call


async def answer(device: Device, run: str, call: dict[str, Any], **what: Any) -> dict[str, Any]:
    return await device.say("tool.result", run=run, call=call["call"], **what)


async def test_a_device_answers_and_the_model_reads_what_and_from_where(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    agent.steps = [[Text("Look. "), *asks("look", where="out")], [Text("I see.")]]
    ack = await laptop.ask("What is there?")
    call = await offered(phone, ack["run"])
    assert call["offer"] == {"arguments": {"where": "out", "often": 1}, "user": "alice"}
    assert call["until"] > timezone.now().isoformat()
    assert not await Run.objects.filter(pk=ack["run"]).exclude(lease_until=None, worker="").aexists()
    said = await answer(phone, ack["run"], call, result="A tree.")
    assert (said["outcome"], said["text"], said["by"]["device"]) == ("done", "A tree.", phone.id)
    for one in (laptop, phone):
        assert (await one.ended(ack["run"]))["state"] == "completed"
        assert call_in(one, ack["run"])["offer"]["by"]["device"] == phone.id
        assert one.view.text_of(ack["run"]) == "Look. I see."
    [told] = agent.turns[1].prompt[-1]["content"]
    assert told["content"] == "A tree.\n\n[Answered by alice on Test]"
    assert "is_error" not in told
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


async def test_a_device_that_cannot_says_why(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("look", where="up")]
    ack = await laptop.ask("Look.")
    call = await offered(laptop, ack["run"])
    assert (await answer(laptop, ack["run"], call, error="It is dark."))["outcome"] == "error"
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    [told] = agent.turns[1].prompt[-1]["content"]
    assert (told["is_error"], told["content"][:11]) == (True, "It is dark.")


@pytest.mark.over_websocket
async def test_of_two_devices_that_race_one_wins_each_time(agent: type[Acting], laptop: Device, phone: Device) -> None:
    for number in range(50):
        agent.steps = [asks("look", where="out")]
        ack = await laptop.ask(f"What is there, {number}?")
        call = await offered(laptop, ack["run"])
        said = await asyncio.gather(
            answer(laptop, ack["run"], call, result="From the laptop."),
            answer(phone, ack["run"], call, result="From the phone."),
        )
        assert [one["type"] for one in said] == ["ack", "ack"]
        assert [said[0][name] for name in ("text", "by", "outcome")] == [said[1][n] for n in ("text", "by", "outcome")]
        assert said[0]["text"] == f"From the {'laptop' if said[0]['by']['device'] == laptop.id else 'phone'}."
        assert (await laptop.ended(ack["run"]))["state"] == "completed"
        results = [part["text"] for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_result"]
        assert results == [said[0]["text"]]
        await phone.ended(ack["run"])
        assert phone.view.parts_of(ack["run"]) == laptop.view.parts_of(ack["run"])
    assert len(agent.turns) == 100


async def test_an_answer_that_is_said_again_changes_nothing(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("look", where="out")]
    ack = await laptop.ask("Look.")
    call = await offered(laptop, ack["run"])
    signal = "11111111-2222-4333-8444-555555555555"
    first = await laptop.say("tool.result", signal_id=signal, run=ack["run"], call=call["call"], result="A tree.")
    again = await laptop.say("tool.result", signal_id=signal, run=ack["run"], call=call["call"], result="A tree.")
    late = await answer(laptop, ack["run"], call, result="A house.")
    assert first["text"] == again["text"] == late["text"] == "A tree."
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert (await answer(laptop, ack["run"], call, error="No."))["text"] == "A tree."


async def test_what_cannot_be_an_answer_is_refused(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [[*asks("look", "a", where="out"), *asks("note", "b", text="milk")]]
    ack = await laptop.ask("Look.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    call, note = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_use"]

    async def code(call: dict[str, Any] = call, run: str = ack["run"], **what: Any) -> str:
        return str((await answer(laptop, run, call, **what)).get("code"))

    assert await code(result="x" * 32_769) == "too_large"
    assert await code(error="x" * 2_001) == "too_large"
    assert await code() == await code(result="a", error="b") == await code(result="\0") == "invalid"
    assert await code(error="  ") == "invalid"
    assert await code({"call": ack["message"]}, result="A tree.") == "unknown_call"
    assert await code(note, result="A tree.") == "unknown_call"
    assert await code(run=ack["message"], result="A tree.") == "unknown_run"
    assert laptop.view.state_of(ack["run"]) == "waiting"
    assert (await answer(laptop, ack["run"], call, result="x" * 32_768))["outcome"] == "done"
    assert (await laptop.ended(ack["run"]))["state"] == "completed"


async def test_arguments_that_are_wrong_are_no_devices_business(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [[*asks("look", "a", when="now"), *asks("look", "b", where="x" * 40_000)]]
    ack = await laptop.ask("Look.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    results = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_result"]
    assert [part["outcome"] for part in results] == ["error", "error"]
    assert "tool.offered" not in [event["type"] for event in laptop.events]


async def test_only_the_devices_of_who_asked_may_answer(
    agent: type[Acting], device: Make, bob: User, laptop: Device, conversation: Conversation
) -> None:
    editor = await guest(device, conversation, bob)
    agent.steps = [asks("look", where="out")]
    ack = await laptop.ask("Look.")
    call = await offered(editor, ack["run"])
    assert (await answer(editor, ack["run"], call, result="Mine."))["code"] == "forbidden"
    assert (await answer(laptop, ack["run"], call, result="A tree."))["text"] == "A tree."
    agent.steps = [asks("look", where="out")]
    asked = await editor.ask("And here?")
    call = await offered(laptop, asked["run"])
    assert (await answer(laptop, asked["run"], call, result="Mine."))["code"] == "forbidden"
    await let_in(conversation, bob, "viewer")
    assert (await answer(editor, asked["run"], call, result="A house."))["code"] == "forbidden"
    assert (await Run.objects.aget(pk=asked["run"])).state == State.WAITING
    await laptop.say("run.cancel", run=asked["run"])


@pytest.mark.over_websocket
async def test_a_device_that_was_revoked_or_whose_person_has_left_may_not_answer(
    agent: type[Acting], device: Make, bob: User, laptop: Device, phone: Device, conversation: Conversation
) -> None:
    agent.steps = [asks("look", where="out")]
    ack = await laptop.ask("Look.")
    call = await offered(phone, ack["run"])
    row = await DeviceRow.objects.aget(pk=phone.id)
    await DeviceRow.objects.filter(pk=phone.id).aupdate(revoked_at=timezone.now())
    # Also past the door: the verb looks for itself, with the lock held.
    run = await Run.objects.select_related("conversation").aget(pk=ack["run"])
    by = await conversation.participants.select_related("user").aget(user=phone.user)
    with pytest.raises(Refused, match="revoked"):
        await sync_to_async(verb)(run, by=by, device=row, call=call["call"], text="A tree.")
    assert (await answer(phone, ack["run"], call, result="A tree.")).get("code") in {"revoked", "signed_out"}
    await laptop.say("run.cancel", run=ack["run"])
    bobs = await guest(device, conversation, bob)
    agent.steps = [asks("look", where="out")]
    ack = await bobs.ask("Look.")
    call = await offered(bobs, ack["run"])
    await conversation.participants.filter(user=bob).adelete()
    assert (await answer(bobs, ack["run"], call, result="A tree."))["code"] == "forbidden"
    assert (await Run.objects.aget(pk=ack["run"])).state == State.WAITING


async def test_a_stop_ends_the_offer_everywhere(
    agent: type[Acting], device: Make, alice: User, laptop: Device, phone: Device
) -> None:
    agent.steps = [asks("look", where="out")]
    ack = await laptop.ask("Look.")
    call = await offered(phone, ack["run"])
    await laptop.say("run.cancel", run=ack["run"])
    for one in (laptop, phone):
        assert (await one.ended(ack["run"]))["state"] == "cancelled"
        assert call_in(one, ack["run"])["status"] == "cancelled"
    late = await answer(phone, ack["run"], call, result="A tree.")
    assert (late["outcome"], late["by"]) == ("cancelled", None)
    agent.steps = []
    after = await laptop.ask("And now?")
    assert (await laptop.ended(after["run"]))["state"] == "completed"
    await assert_equal_everywhere(device, alice, ack["run"], laptop, phone)


@with_settings(CHAT_SWEEP_SECONDS=0.1)
async def test_what_no_device_answers_in_time_ends_and_the_model_reads_so(
    agent: type[Acting], device: Make, alice: User, laptop: Device
) -> None:
    agent.steps = [asks("look", where="out")]
    ack = await laptop.ask("Look.")
    call = await offered(laptop, ack["run"])
    await Run.objects.filter(pk=ack["run"]).aupdate(waits_until=timezone.now() - timedelta(seconds=1))
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert call_in(laptop, ack["run"])["status"] == "expired"
    [told] = agent.turns[1].prompt[-1]["content"]
    assert told["content"] == "Nobody answered: none of alice's devices did in time."
    assert (await answer(laptop, ack["run"], call, result="A tree."))["outcome"] == "expired"
    await assert_equal_everywhere(device, alice, ack["run"], laptop)


@with_settings(CHAT_SWEEP_SECONDS=0.1, CHAT_DEVICE_SECONDS=0.3)
async def test_each_call_ends_when_it_is_due_and_not_with_the_first_of_them(
    agent: type[Acting], laptop: Device
) -> None:
    agent.steps = [[*asks("delete", "a", what="all"), *asks("look", "b", where="out")]]
    ack = await laptop.ask("Look, and delete.")
    await laptop.until(lambda: "expired" in str(laptop.view.parts_of(ack["run"])), "the offer to end")
    delete, look = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_use"]
    assert (delete["status"], look["status"]) == ("waiting", "expired")
    assert laptop.view.state_of(ack["run"]) == "waiting"
    assert delete["until"] > look["until"]
    waits_until = (await Run.objects.aget(pk=ack["run"])).waits_until
    assert waits_until is not None
    assert waits_until > timezone.now() + timedelta(hours=1)
    await decide(laptop, ack["run"], delete, "approve")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == ["all"]


@with_settings(CHAT_SWEEP_SECONDS=0.1)
async def test_what_was_answered_before_the_run_waits_takes_its_time_with_it(
    agent: type[Acting], laptop: Device, settings: Settings
) -> None:
    settings.CHAT_DEVICE_SECONDS = 60
    agent.steps = [[*asks("delete", "a", what="all"), *asks("look", "b", where="out"), *asks("hold", "c", text="on")]]
    ack = await laptop.ask("Look, and delete.")
    await laptop.until(lambda: acting.ran == ["on"], "the other tool")
    _, look, _ = laptop.view.parts_of(ack["run"])
    await answer(laptop, ack["run"], look, result="A tree.")
    acting.Held.until.set()
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    delete = laptop.view.parts_of(ack["run"])[0]
    waits_until = (await Run.objects.aget(pk=ack["run"])).waits_until
    assert waits_until is not None
    assert waits_until.isoformat() == delete["until"]
    await laptop.say("run.cancel", run=ack["run"])


async def test_what_needs_approval_is_offered_when_it_has_it(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("listen", seconds=3)]
    ack = await laptop.ask("Listen.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    call = call_in(laptop, ack["run"])
    assert (call["status"], "offer" in call) == ("waiting", False)
    assert (await answer(laptop, ack["run"], call, result="Music."))["code"] == "unknown_call"
    assert (await decide(laptop, ack["run"], call, "approve"))["decision"] == "approved"
    await laptop.until(lambda: call_in(laptop, ack["run"])["status"] == "offered", "the offer")
    assert (await decide(laptop, ack["run"], call, "deny"))["decision"] == "approved"
    await answer(laptop, ack["run"], call, result="Music.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert "Music." in str(agent.turns[1].prompt[-1])


async def test_a_denied_one_is_never_offered(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("listen", seconds=3)]
    ack = await laptop.ask("Listen.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    await decide(laptop, ack["run"], call_in(laptop, ack["run"]), "deny")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert "tool.offered" not in [event["type"] for event in laptop.events]


@pytest.mark.over_websocket
@pytest.mark.in_process
async def test_an_offer_outlives_a_restart_of_everything(
    agent: type[Acting], device: Make, alice: User, laptop: Device, conversation: Conversation
) -> None:
    agent.steps = [[*asks("look", "a", where="out"), *asks("look", "b", where="up")]]
    ack = await laptop.ask("Look.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    first, second = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_use"]
    await answer(laptop, ack["run"], first, result="A tree.")
    await laptop.disconnect()
    await hosts.stop()
    hosts.provide(asgi.start_host)
    await hosts.running()
    fresh = await (await device(alice, conversation).connect()).synced()
    statuses = [part["status"] for part in fresh.view.parts_of(ack["run"]) if part["type"] == "tool_use"]
    assert statuses == ["done", "offered"]
    await laptop.connect()
    await answer(laptop, ack["run"], second, result="The sky.")
    for one in (laptop, fresh):
        assert (await one.ended(ack["run"]))["state"] == "completed"
    results = agent.turns[1].prompt[-1]["content"]
    assert ["A tree." in str(results), "The sky." in str(results), len(results)] == [True, True, 2]
    await assert_equal_everywhere(device, alice, ack["run"], laptop, fresh)


async def test_a_server_that_is_lost_beside_an_offer_leaves_nothing_open(
    agent: type[Acting], device: Make, alice: User, laptop: Device, conversation: Conversation
) -> None:
    agent.steps = [[*asks("look", "a", where="out"), *asks("hold", "b", text="on")]]
    ack = await laptop.ask("Look.")
    await laptop.until(lambda: acting.ran == ["on"], "the other tool")
    run = await Run.objects.select_related("conversation").aget(pk=ack["run"])
    assert await sync_to_async(run.hand_over)(run.attempt) == State.INTERRUPTED
    assert (await laptop.ended(ack["run"]))["state"] == "interrupted"
    found = await Message.objects.aget(run=ack["run"])
    assert [part["status"] for part in found.parts if part["type"] == "tool_use"] == ["cancelled", "unknown"]
    agent.steps = []
    after = await laptop.ask("And now?")
    assert (await laptop.ended(after["run"]))["state"] == "completed"
    await assert_equal_everywhere(device, alice, ack["run"], laptop)


async def test_a_question_has_its_defaults_when_devices_get_it(agent: type[Acting], laptop: Device) -> None:
    agent.steps = [asks("ask_user", question="Tea?", options=["Yes", "No"])]
    ack = await laptop.ask("Ask me.")
    call = await offered(laptop, ack["run"])
    arguments = {"question": "Tea?", "options": ["Yes", "No"], "several": False, "free_text": True}
    assert call["offer"]["arguments"] == arguments
    await answer(laptop, ack["run"], call, result="Yes")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"


@pytest.mark.over_websocket
async def test_a_page_has_what_is_offered_while_the_run_still_does_something_else(
    agent: type[Acting], device: Make, alice: User, laptop: Device, conversation: Conversation
) -> None:
    page = await (await device(alice, conversation, encoding="html").connect()).synced()
    agent.steps = [[*asks("look", "a", where="<out>"), *asks("hold", "b", text="on")]]
    ack = await laptop.ask("Look.")
    await laptop.until(lambda: acting.ran == ["on"], "the other tool")
    await laptop.until(lambda: "offered" in str(laptop.view.parts_of(ack["run"])), "the offer")
    call = next(part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_use")
    shown = f'data-offer="{call["call"]}" data-run="{ack["run"]}" data-tool="look" data-user="alice"'
    given = 'data-arguments="{&quot;often&quot;: 1, &quot;where&quot;: &quot;&lt;out&gt;&quot;}"'
    await page.until(lambda: any(f"{shown} {given}" in frame.get("html", "") for frame in page.frames), "the offer")
    assert laptop.view.state_of(ack["run"]) == "running"
    acting.Held.until.set()
    await answer(laptop, ack["run"], call, result="A tree.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"


@pytest.mark.over_websocket
@with_settings(CHAT_DEVICE_SECONDS=60)
async def test_a_page_says_of_each_call_until_when_it_waits(
    agent: type[Acting], device: Make, alice: User, laptop: Device, conversation: Conversation
) -> None:
    agent.steps = [[*asks("delete", "a", what="all"), *asks("look", "b", where="out")]]
    ack = await laptop.ask("Look, and delete.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    delete = laptop.view.parts_of(ack["run"])[0]
    page = await (await device(alice, conversation, encoding="html").connect()).synced()
    await page.until(lambda: any(f'datetime="{delete["until"]}"' in str(frame) for frame in page.frames), "its time")
    await laptop.say("run.cancel", run=ack["run"])
