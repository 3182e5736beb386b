"""What is used is counted, each token once, and a budget that is used up refuses, stops and says so."""

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connection, connections, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from chat.agent import wallet as wallets
from chat.agent.provider import Reasoning, Text, Usage
from chat.agent.purses import LOOK_SECONDS
from chat.agent.wallet import Meter, Purse, UsedUp
from chat.checks_budgets import what_may_be_spent
from chat.errors import Refused
from chat.models import Budget, Conversation, Run, Spending
from chat.models.budget import Account, accounts
from chat.models.event import new_id
from chat.models.spending import this_month
from chat.models.state import State
from chat.transcript import as_json, read_transcript
from tests import acting
from tests.acting import Acting, asks
from tests.conftest import with_settings
from tests.device import Device, until
from tests.guests import guest
from tests.messages_server import Fault, MessagesServer, Script

pytestmark = pytest.mark.usefixtures("quiet")

Make = Callable[..., Device]
# A word of the scripted provider costs a cent, one that it reads a tenth of that.
CENT, TENTH = 10_000, 1_000
PRICES = json.dumps({"scripted": {"input": TENTH, "output": CENT}})


@pytest.fixture
def priced(tuned: None, settings: Settings) -> None:
    settings.CHAT_PRICES = PRICES
    settings.CHAT_BUDGET_RESERVE = 0.1


@pytest.fixture
async def laptop(priced: None, device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


async def budget(limit: str | None, **whose: Any) -> Budget:
    return await Budget.objects.acreate(limit=limit, **whose)


async def spend(user: User | None, conversation: Conversation | None, cents: int, **more: Any) -> Spending:
    """As some other process would have written it."""
    here = conversation.pk if conversation is not None else UUID(int=0)
    fields = {"run": UUID(int=time.monotonic_ns()), "attempt": 1, "settled": True, "cost": cents * CENT, **more}
    return await Spending.objects.acreate(user=user, conversation=here, provider="scripted", **fields)


async def spent(user: User) -> int:
    """What counts of this month, in cents, rounded up."""
    rows = [row.cost or 0 async for row in Spending.objects.filter(user=user, month=this_month())]
    return math.ceil(sum(rows) / CENT)


def end_of(device: Device, run: str) -> dict[str, Any]:
    [event] = [event for event in device.events if event["type"] == "run.ended" and event["run"] == run]
    return event


# --- what is counted --------------------------------------------------------------------------------------------


async def test_an_answer_says_what_it_used_and_cost_live_and_in_a_snapshot(
    laptop: Device, device: Make, alice: User, conversation: Conversation
) -> None:
    ack = await laptop.ask("/rate 0 /long 20")
    await laptop.ended(ack["run"])
    said = end_of(laptop, ack["run"])
    assert said["usage"] == {"input_tokens": 4, "output_tokens": 20}
    assert (said["cost"], said["estimated"], said["model"]) == (4 * TENTH + 20 * CENT, False, "scripted")
    fresh = await (await device(alice, conversation).connect()).synced()
    [snapshot] = [frame for frame in fresh.frames if frame["type"] == "snapshot"]
    ending = snapshot["turns"][0]["answers"][0]["ending"]
    assert {name: said[name] for name in ending} == ending
    assert snapshot["spent"] == {"tokens_in": 4, "tokens_out": 20, "cost": said["cost"], "unknown": 0}
    assert next(frame for frame in fresh.frames if frame["type"] == "hello")["currency"] == "USD"


async def test_a_later_price_rewrites_no_history(
    laptop: Device, settings: Settings, conversation: Conversation
) -> None:
    ack = await laptop.ask("/rate 0 /long 5")
    await laptop.ended(ack["run"])
    settings.CHAT_PRICES = '{"scripted": {"input": 1, "output": 1}}'
    transcript = await sync_to_async(lambda: as_json(read_transcript(conversation.pk)))()
    assert transcript["turns"][0]["answers"][0]["ending"]["cost"] == 4 * TENTH + 5 * CENT
    assert transcript["spent"]["cost"] == 4 * TENTH + 5 * CENT


@pytest.mark.parametrize("prices", ["", '{"scripted": {"output": 15}}'], ids=["no price", "none for what it read"])
async def test_without_a_price_the_cost_is_unknown_and_not_nothing(
    laptop: Device, settings: Settings, conversation: Conversation, prices: str
) -> None:
    settings.CHAT_PRICES = prices
    ack = await laptop.ask("/rate 0 /long 5")
    await laptop.ended(ack["run"])
    assert end_of(laptop, ack["run"])["cost"] is None
    assert (await sync_to_async(Spending.total)(conversation.pk))["unknown"] == 1
    nothing = await laptop.ask("/fail-before")
    await laptop.ended(nothing["run"])
    assert end_of(laptop, nothing["run"])["cost"] == 0, "nothing costs nothing, whatever the price"


async def test_what_never_began_cost_nothing(laptop: Device) -> None:
    await laptop.ask("/rate 50 /long 1000")
    waiting = await laptop.ask("next")
    await laptop.say("run.cancel", run=waiting["run"])
    await laptop.ended(waiting["run"])
    assert (end_of(laptop, waiting["run"])["cost"], end_of(laptop, waiting["run"])["usage"]) == (0, {})
    await laptop.say("run.cancel", scope="all")


@pytest.mark.parametrize("ends", ["/fail overloaded", "/lost"])
async def test_an_answer_that_failed_is_paid_for_as_well(laptop: Device, alice: User, ends: str) -> None:
    ack = await laptop.ask(f"/rate 0 /long 7 {ends}")
    await laptop.ended(ack["run"])
    assert end_of(laptop, ack["run"])["usage"]["output_tokens"] == 7
    assert await spent(alice) == 8


async def test_what_was_stopped_is_estimated_as_far_as_nobody_had_counted(laptop: Device, alice: User) -> None:
    ack = await laptop.ask("/rate 200 /long 5000")  # counts every fiftieth
    await laptop.writes(ack["run"], 150)
    await laptop.say("run.cancel", run=ack["run"])
    await laptop.ended(ack["run"])
    said, text = end_of(laptop, ack["run"]), laptop.view.text_of(ack["run"])
    words = len(text.split())
    counted = words // 50 * 50
    rest = len(text) - len(" ".join(text.split()[:counted]))
    assert said["estimated"] is True
    assert counted < said["usage"]["output_tokens"] <= counted + 50 + rest
    assert said["cost"] == said["usage"]["input_tokens"] * TENTH + said["usage"]["output_tokens"] * CENT
    assert await spent(alice) == math.ceil(said["cost"] / CENT)


async def test_a_run_that_waited_for_a_person_counts_each_token_once(
    priced: None, settings: Settings, device: Make, alice: User, bob: User
) -> None:
    settings.CHAT_PROVIDERS, settings.CHAT_PROVIDER = {"acting": "tests.acting.Acting"}, "acting"
    settings.CHAT_TOOLS = ["tests.acting.note", "tests.acting.delete"]
    settings.CHAT_PRICES = json.dumps({"": {"input": TENTH, "output": CENT}})
    counts = [Usage({"input_tokens": 10, "output_tokens": 5})]
    Acting.steps = [[*asks("note", text="milk"), *counts], [*asks("delete", what="it"), *counts], [Text("."), *counts]]
    acting.ran.clear()
    conversation = await sync_to_async(Conversation.begin)(alice)
    one = await (await device(alice, conversation).connect()).synced()
    ack = await one.ask("Go.")
    await one.until(lambda: one.view.state_of(ack["run"]) == "waiting", "the run to wait")
    assert await Spending.objects.aget() is not None
    total = await sync_to_async(Spending.total)(conversation.pk)
    assert (total["tokens_in"], total["tokens_out"]) == (20, 10), "what has been used so far is known while it waits"
    [call] = [part for part in one.view.parts_of(ack["run"]) if part.get("status") == "waiting"]
    fields = {"call": call["call"], "decision": "approve", "arguments_hash": call["approval"]["hash"]}
    assert (await one.say("tool.decide", run=ack["run"], **fields))["type"] == "ack"
    await one.ended(ack["run"])
    assert end_of(one, ack["run"])["usage"] == {"input_tokens": 30, "output_tokens": 15}
    rows = [row async for row in Spending.objects.order_by("attempt")]
    assert [(row.attempt, row.tokens_in, row.settled) for row in rows] == [(1, 20, True), (2, 10, True)]
    assert end_of(one, ack["run"])["cost"] == sum(row.cost or 0 for row in rows) == 30 * TENTH + 15 * CENT


async def test_what_a_lost_server_had_used_is_counted(
    laptop: Device, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    await budget("100", user=alice)
    ack = await laptop.ask("/rate 100 /long 5000")
    await laptop.writes(ack["run"], 100)
    await until_stored(ack["run"])
    run = await Run.objects.select_related("conversation").aget(pk=ack["run"])
    past = datetime.now(UTC) - timedelta(minutes=1)
    monkeypatch.setattr(Run, "renew", classmethod(lambda cls, worker, runs: set(runs)))  # frozen, as far as we know
    await Run.objects.filter(pk=run.pk).aupdate(lease_until=past)
    await sync_to_async(run.recover)()
    await laptop.ended(ack["run"])
    said = end_of(laptop, ack["run"])
    assert said["reason"] == "interrupted"
    assert said["usage"]["output_tokens"] > 10
    assert said["cost"] > 10 * CENT


async def until_stored(run: str) -> None:
    end = time.monotonic() + 10
    while not await Spending.objects.filter(run=run, tokens_out__gt=0).aexists():
        assert time.monotonic() < end, "the row of a run that goes on"
        await asyncio.sleep(0.02)


# --- refusals ---------------------------------------------------------------------------------------------------


async def test_a_used_up_budget_refuses_and_says_whose_how_much_until_when_and_who_can_raise_it(
    laptop: Device, alice: User, conversation: Conversation
) -> None:
    first = await laptop.ask("/rate 0 /long 3")
    await laptop.ended(first["run"])
    await budget("0.50", user=alice)
    await spend(alice, None, 60)
    head = laptop.view.cursor
    nack = await laptop.say("message.send", text="More?")
    assert (nack["type"], nack["code"], nack["retryable"]) == ("nack", "budget", False)
    words = (
        "Your budget for",
        "0.6340 of 0.50 USD",
        "It renews on 1 ",
        ". An administrator of this site can raise it.",
    )
    assert all(word in nack["message"] for word in words), nack["message"]
    assert ";" not in nack["message"], "who can raise it is the beginning of a sentence"
    told = nack["budget"]
    assert (told["of"], told["limit"], told["used"]) == ("user", 50 * CENT, 60 * CENT + 4 * TENTH + 3 * CENT)
    renews = datetime.fromisoformat(told["renews_at"])
    assert renews > datetime.now(UTC)
    assert renews.day == 1
    assert await conversation.messages.acount() == 2, "nothing was stored"
    assert laptop.view.cursor == head
    run = await Run.objects.aget(pk=first["run"])
    await Run.objects.filter(pk=run.pk).aupdate(state=State.FAILED)
    assert (await laptop.say("run.retry", run=first["run"]))["code"] == "budget"


async def test_without_money_everything_else_goes_on(
    laptop: Device, device: Make, alice: User, conversation: Conversation
) -> None:
    ack = await laptop.ask("/rate 50 /long 1000")
    waiting = await laptop.ask("next")
    await laptop.writes(ack["run"], 5)
    await budget("0", user=alice)
    assert (await laptop.say("queue.edit", message=waiting["message"], text="after"))["type"] == "ack"
    assert (await laptop.say("conversation.rename", title="Dear"))["type"] == "ack"
    assert (await laptop.say("run.cancel", scope="all"))["type"] == "ack"
    await laptop.ended(ack["run"])
    fresh = await (await device(alice, conversation).connect()).synced()
    assert fresh.view.text_of(ack["run"]) == laptop.view.text_of(ack["run"])


async def test_a_conversations_budget_refuses_everybody_there_and_never_renews(
    laptop: Device, device: Make, alice: User, bob: User, conversation: Conversation
) -> None:
    bobs = await guest(device, conversation, bob)
    await budget("1.00", conversation=conversation)
    await spend(alice, conversation, 100, month=this_month() - timedelta(days=300))
    for one in (laptop, bobs):
        nack = await one.say("message.send", text="More?")
        assert (nack["code"], nack["budget"]["of"]) == ("budget", "conversation")
        assert "renews_at" not in nack["budget"]
        assert "This conversation's budget is used up: 1.00 of 1.00 USD." in nack["message"]
    elsewhere = await sync_to_async(Conversation.begin)(alice)
    other = await (await device(alice, elsewhere).connect()).synced()
    await other.ended((await other.ask("/rate 0 /long 2"))["run"])


async def test_a_budget_is_of_one_person_and_of_this_month(
    laptop: Device, device: Make, alice: User, bob: User, conversation: Conversation
) -> None:
    await budget("0.50", user=alice)
    await spend(alice, None, 500, month=(this_month() - timedelta(days=1)).replace(day=1))
    await spend(bob, conversation, 500)
    assert (await laptop.say("message.send", text="/rate 0 /long 2"))["type"] == "ack"


@with_settings(CHAT_USER_BUDGET=0.5, CHAT_CONVERSATION_BUDGET=0.5)
async def test_an_override_goes_before_the_setting_and_empty_is_no_limit(
    laptop: Device, alice: User, conversation: Conversation
) -> None:
    await spend(alice, conversation, 60)
    assert (await laptop.say("message.send", text="hello"))["budget"]["of"] in ("user", "conversation")
    mine = await budget(None, user=alice)
    assert (await laptop.say("message.send", text="hello"))["budget"]["of"] == "conversation"
    await budget("10", conversation=conversation)
    ack = await laptop.ask("/rate 0 /long 2")
    await laptop.ended(ack["run"])
    mine.limit = 0
    await mine.asave()
    assert (await laptop.say("message.send", text="hello"))["code"] == "budget"


async def test_from_80_percent_on_who_sends_is_warned(laptop: Device, alice: User) -> None:
    await budget("1.00", user=alice)
    await spend(alice, None, 79)
    ack = await laptop.ask("/rate 0 /long 1")
    await laptop.ended(ack["run"])
    assert "budget" not in ack
    warned = await laptop.ask("/rate 0 /long 1")
    await laptop.ended(warned["run"])
    assert (warned["budget"]["of"], warned["budget"]["limit"]) == ("user", 100 * CENT)
    assert warned["budget"]["used"] >= 80 * CENT


async def test_what_waits_ends_at_once_when_the_budget_is_used_up_before_its_turn(
    laptop: Device, alice: User, conversation: Conversation
) -> None:
    await budget("1.00", user=alice)
    first = await laptop.ask("/rate 100 /long 30")
    waiting = await laptop.ask("/rate 0 /long 2")
    await laptop.writes(first["run"], 3)
    await spend(alice, None, 75)
    for one in (first, waiting):
        await laptop.ended(one["run"])
    assert end_of(laptop, first["run"])["reason"] == "completed", "what has begun goes on to the hard limit"
    said = end_of(laptop, waiting["run"])
    assert (said["reason"], said["error"]["code"], said["retryable"]) == ("failed", "budget", False)
    assert said["error"]["message"].startswith("Not answered. The budget of alice for ")
    assert "USD" not in said["error"]["message"], "how much she may spend is nobody else's concern"
    assert said["cost"] == 0
    assert laptop.view.order == []
    assert (await laptop.say("run.retry", run=waiting["run"]))["code"] == "budget"
    await Budget.objects.aupdate(limit=10)
    again = await laptop.say("run.retry", run=waiting["run"])
    assert (await laptop.ended(again["run"]))["state"] == "completed"
    assert conversation is not None


# --- the hard limit ---------------------------------------------------------------------------------------------


@pytest.fixture
async def server(priced: None, settings: Settings) -> AsyncIterator[MessagesServer]:
    """The Messages API of this test, before the host starts."""
    async with MessagesServer() as server:
        settings.ANTHROPIC_BASE_URL, settings.ANTHROPIC_API_KEY = server.url, "sk-ant-of-a-test"
        settings.CHAT_PROVIDER = "claude"
        kinds = dict.fromkeys(("input", "cache_write", "cache_read"), TENTH)
        settings.CHAT_PRICES = json.dumps({settings.CHAT_CLAUDE_MODEL: {**kinds, "output": CENT}})
        yield server


async def test_at_the_hard_limit_the_providers_connection_is_closed_and_nobody_is_said_to_have_stopped_it(
    server: MessagesServer, laptop: Device, alice: User
) -> None:
    await budget("0.50", user=alice)
    server.script(Script(text="seven7 " * 2000, rate=100))
    ack = await laptop.ask("Go on for ever.")
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    said = end_of(laptop, ack["run"])
    assert (said["by"], said["error"]["code"]) == (None, "budget")
    assert said["error"]["message"].startswith("Stopped. The budget of alice for ")
    [exchange] = server.journal
    await until(lambda: exchange.client_closed, "the provider's connection to be closed")
    assert not exchange.finished
    assert 55 * CENT <= said["cost"] <= 55 * CENT + 3 * CENT, "one piece of text beyond the limit, at most"
    assert said["estimated"] is True
    # The piece that crossed it is the last that we have: what the server sent after it is what closing took.
    held = len(laptop.view.text_of(ack["run"]).split())
    crossed = [at for at, _ in exchange.sent][-1] - (exchange.tokens_sent - held) / 100
    assert exchange.client_closed is not None
    assert exchange.client_closed - crossed <= 0.25
    assert (await laptop.say("message.send", text="More?"))["code"] == "budget"


async def test_what_the_model_had_to_read_may_be_too_much_already(
    server: MessagesServer, laptop: Device, alice: User
) -> None:
    await budget("0.50", user=alice)
    server.script(Script(text="never shown", rate=2, usage={"input_tokens": 560}))
    ack = await laptop.ask("Read all of it.")
    await laptop.ended(ack["run"])
    assert end_of(laptop, ack["run"])["error"]["code"] == "budget"
    assert len(laptop.view.text_of(ack["run"])) <= len("never")


async def test_a_try_that_came_to_nothing_is_paid_for(server: MessagesServer, laptop: Device) -> None:
    usage = {"input_tokens": 40, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    server.script(
        Script(fault=Fault.ERROR_EVENT, headers={"retry-after": "0"}, usage=usage),
        Script(text="At last.", usage={**usage, "input_tokens": 2}),
    )
    ack = await laptop.ask("Try.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert end_of(laptop, ack["run"])["usage"]["input_tokens"] == 42


async def test_what_other_processes_spend_stops_a_run_within_two_seconds(laptop: Device, alice: User) -> None:
    await budget("1.00", user=alice)
    ack = await laptop.ask("/rate 5 /long 1000")
    await laptop.writes(ack["run"], 5)
    await spend(alice, None, 200)
    began = time.monotonic()
    await laptop.ended(ack["run"])
    assert time.monotonic() - began < LOOK_SECONDS + 1
    assert end_of(laptop, ack["run"])["error"]["code"] == "budget"


async def test_a_raised_budget_reaches_what_runs(laptop: Device, alice: User) -> None:
    mine = await budget("0.20", user=alice)
    ack = await laptop.ask("/rate 5 /long 40")
    mine.limit = 10
    await mine.asave()
    assert (await laptop.ended(ack["run"]))["state"] == "completed"


async def test_the_runs_of_a_process_share_a_purse(laptop: Device, device: Make, alice: User) -> None:
    await budget("1.00", user=alice)
    elsewhere = await sync_to_async(Conversation.begin)(alice)
    other = await (await device(alice, elsewhere).connect()).synced()
    acks = [(one, await one.ask("/rate 60 /long 1000")) for one in (laptop, other)]
    for one, ack in acks:
        await one.ended(ack["run"])
        assert end_of(one, ack["run"])["error"]["code"] == "budget"
    total = sum(end_of(one, ack["run"])["cost"] for one, ack in acks)
    assert 110 * CENT <= total <= 110 * CENT + 2 * 4 * CENT, "a piece of text each beyond the limit, at most"


async def test_a_tool_is_stopped_when_the_money_is_gone(
    priced: None, settings: Settings, device: Make, alice: User
) -> None:
    settings.CHAT_PROVIDERS, settings.CHAT_PROVIDER = {"acting": "tests.acting.Acting"}, "acting"
    settings.CHAT_TOOLS = ["tests.acting.wait_long"]
    Acting.steps = [asks("wait_long", text="paint")]
    acting.told_to_stop.clear()
    await budget("1.00", user=alice)
    conversation = await sync_to_async(Conversation.begin)(alice)
    one = await (await device(alice, conversation).connect()).synced()
    ack = await one.ask("Paint.")
    await one.until(lambda: "running" in str(one.view.parts_of(ack["run"])), "the tool to run")
    await spend(alice, None, 200)
    await one.ended(ack["run"])
    await until(lambda: acting.told_to_stop == ["paint"], "the tool to be told")
    assert end_of(one, ack["run"])["error"]["code"] == "budget"


# --- many at once -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "most"), [(0, 0), (35, 4)], ids=["at the limit", "with room for four"])
async def test_of_fifty_sends_at_once_no_more_begin_than_there_is_money_for(
    laptop: Device, device: Make, alice: User, left: int, most: int
) -> None:
    await budget("1.00", user=alice)
    await spend(alice, None, 100 - left)
    talks = [await sync_to_async(Conversation.begin)(alice) for _ in range(50)]
    devices = [await device(alice, talk).connect() for talk in talks]
    for one in devices:
        await one.synced()
    answers = await asyncio.gather(*(one.say("message.send", text="/rate 1 /long 9") for one in devices))
    accepted = [answer for answer in answers if answer["type"] == "ack"]
    assert len(accepted) == most
    assert {answer["code"] for answer in answers if answer["type"] == "nack"} == {"budget"}
    assert await Run.objects.exclude(pk__in=[ack["run"] for ack in accepted]).acount() == 0
    for one in devices:
        await one.say("run.cancel", scope="all")


def test_who_asks_in_two_conversations_at_once_waits_in_line(
    priced: None, alice: User, conversation: Conversation
) -> None:
    Budget.objects.create(user=alice, limit="0.10")  # for one answer at a time
    talks = [conversation, Conversation.begin(alice)]
    asked, go_on = threading.Event(), threading.Event()
    outcomes: list[str] = []

    def send(talk: Conversation) -> None:
        owner = talk.participants.select_related("user").get(user=alice)
        try:
            talk.send(by=owner, text="Hello", client_id=new_id(), device=None, when_busy="queue")
            outcomes.append("accepted")
        except Refused as refusal:
            outcomes.append(refusal.code)

    def first() -> None:
        with transaction.atomic():
            send(talks[0])
            asked.set()
            assert go_on.wait(10)
        connections.close_all()

    def second() -> None:
        send(talks[1])
        connections.close_all()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert asked.wait(10)
    threads[1].start()
    threads[1].join(0.5)
    assert outcomes == ["accepted"], "the second one does not know yet whether there is money left"
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert outcomes == ["accepted", "budget"]


async def test_what_was_spent_outlives_the_conversation_and_the_refusal_with_it(
    laptop: Device, device: Make, alice: User, conversation: Conversation
) -> None:
    ack = await laptop.ask("/rate 0 /long 60")
    await laptop.ended(ack["run"])
    running = await laptop.ask("/rate 100 /long 1000")
    await laptop.writes(running["run"], 50)
    before = await spent(alice)
    await sync_to_async(conversation.erase)()
    end = time.monotonic() + 10
    while await spent(alice) < before + 5:
        assert time.monotonic() < end, "what ran while it was deleted is settled as well"
        await asyncio.sleep(0.02)
    assert before >= 60
    await budget("0.50", user=alice)
    elsewhere = await sync_to_async(Conversation.begin)(alice)
    other = await (await device(alice, elsewhere).connect()).synced()
    assert (await other.say("message.send", text="More?"))["code"] == "budget"


async def test_a_run_ends_well_whose_user_is_deleted_meanwhile(
    laptop: Device, device: Make, alice: User, bob: User, conversation: Conversation
) -> None:
    bobs = await guest(device, conversation, bob)
    ack = await bobs.ask("/rate 100 /long 100")
    await laptop.writes(ack["run"], 20)
    await bob.adelete()
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    row = await Spending.objects.select_related("user").aget(run=ack["run"])
    assert (row.user, row.tokens_out) == (None, 100)


async def test_what_somebody_spent_outlives_them(alice: User, bob: User) -> None:
    row = await spend(bob, None, 5)
    await bob.adelete()
    await row.arefresh_from_db()
    assert (row.user_id, row.cost) == (None, 5 * CENT)


# --- the parts --------------------------------------------------------------------------------------------------


def test_a_token_costs_as_little_to_count_at_the_end_of_a_long_answer_as_at_its_beginning() -> None:
    meter = Meter({"input_tokens": 3, "output_tokens": 15})
    purse = Purse(("user", 1))
    purse.learn(Account(("user", 1), 10**12, 0))

    def seconds(pieces: int) -> float:
        began = time.perf_counter()
        for _ in range(pieces):
            meter.hears("word ")
            assert meter.cost is not None
            purse.check()
        return time.perf_counter() - began

    first = min(seconds(2_000) for _ in range(5))
    seconds(200_000)
    assert min(seconds(2_000) for _ in range(5)) < 3 * first


def test_the_money_is_counted_without_asking_the_database(alice: User, conversation: Conversation) -> None:
    run = Run(conversation=conversation, requested_by=alice, provider="scripted", attempt=1)
    wallet = wallets.Wallet(run, "scripted", [])
    with CaptureQueriesContext(connection) as queries:
        wallet.calls()
        for _ in range(100):
            wallet.takes(Text("word "))
            wallet.takes(Reasoning("hm "))
            wallet.takes(Usage({"output_tokens": 3}))
    assert len(queries) == 0


def test_what_a_provider_counts_stands_in_place_of_the_estimate() -> None:
    meter = Meter({"input_tokens": 1, "output_tokens": 10})
    meter.calls()
    meter.counts({"input_tokens": 100, "output_tokens": 1})
    meter.hears("x" * 35)
    assert (meter.usage, meter.estimated) == ({"input_tokens": 100, "output_tokens": 11}, True)
    assert meter.cost == 210
    meter.counts({"input_tokens": 100, "output_tokens": 8})
    assert (meter.usage["output_tokens"], meter.estimated, meter.cost) == (8, False, 180)
    meter.calls()
    meter.counts({"input_tokens": 5, "output_tokens": -3, "odd": "many"})
    assert (meter.usage, meter.cost) == ({"input_tokens": 105, "output_tokens": 8}, 185)


def test_a_purse_knows_its_own_runs_better_than_the_database(alice: User, conversation: Conversation) -> None:
    purse = Purse(("user", alice.pk))
    run = Run(conversation=conversation, requested_by=alice, provider="scripted", attempt=1)
    mine = wallets.Wallet(run, "scripted", [purse])
    mine.paid, mine.stored = 500, 100
    purse.learn(Account(purse.key, 1_000, 300))  # the hundred of ours among it
    assert purse.spent == 700
    purse.spent = 1_100
    with pytest.raises(UsedUp):
        purse.check()


def test_a_row_that_is_settled_is_not_written_over_by_what_was_read_before(
    alice: User, conversation: Conversation
) -> None:
    run = Run(conversation=conversation, requested_by=alice, provider="scripted", attempt=1)
    late, last = Spending.of(run, "scripted"), Spending.of(run, "scripted")
    last.pk = late.pk
    late.cost, last.cost = 5, 9
    last.settle()
    Spending.keep([late])
    assert Spending.objects.get().cost == 9
    last.settle()
    assert Spending.objects.count() == 1


def test_without_a_limit_budgets_cost_one_query(alice: User, conversation: Conversation) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert accounts([alice.pk], [conversation.pk]) == {}
    assert len(queries) == 1


# --- what staff see, and what is said at the start ----------------------------------------------------------------


def test_staff_see_what_was_spent_and_set_another_limit(
    alice: User, conversation: Conversation, settings: Settings
) -> None:
    settings.CHAT_PRICES = PRICES
    browser = Client()
    browser.force_login(User.objects.create_superuser("root", password="root-says-hello"))
    Spending.objects.create(run=new_id(), attempt=1, conversation=conversation.pk, user=alice, cost=123 * CENT)
    Spending.objects.create(run=new_id(), attempt=1, conversation=conversation.pk, user=alice, tokens_in=7)
    empty = browser.get("/admin/chat/budget/add/").content.decode()
    assert "In USD: of a user for each calendar month" in empty
    assert "Their number" in empty
    saved = browser.post("/admin/chat/budget/add/", {"user": alice.pk, "conversation": "", "limit": "2.00"})
    assert (saved.status_code, Budget.objects.get().amount) == (302, 200 * CENT)
    both = browser.post("/admin/chat/budget/add/", {"user": alice.pk, "conversation": conversation.pk, "limit": "2"})
    assert b"A budget is of one user or of one conversation." in both.content
    assert b"1.23 of 2.00 USD (61 %)" in browser.get("/admin/chat/budget/").content
    assert b"1.23 of 2.00 USD (61 %)" in browser.get(f"/admin/auth/user/{alice.pk}/change/").content
    for address in ("auth/user/", "chat/conversation/", f"chat/conversation/{conversation.pk}/change/"):
        assert b"1.23 USD" in browser.get(f"/admin/{address}").content, address
    ledger = browser.get("/admin/chat/spending/").content
    assert b"1.23 USD" in ledger
    assert b"unknown" in ledger
    row = Spending.objects.first()
    assert row is not None
    assert browser.post(f"/admin/chat/spending/{row.pk}/change/", {"cost": 0}).status_code == 403
    assert browser.post(f"/admin/chat/spending/{row.pk}/delete/", {"post": "yes"}).status_code == 403


def test_the_list_of_runs_shows_what_each_cost(alice: User, conversation: Conversation) -> None:
    browser = Client()
    browser.force_login(User.objects.create_superuser("root", password="root-says-hello"))
    owner = conversation.participants.select_related("user").get(user=alice)
    conversation.send(by=owner, text="Hello", client_id=new_id(), device=None, when_busy="queue")
    [run] = Run.claim(conversation, "test")
    paid = Spending.of(run, "scripted")
    paid.usage, paid.cost = {"output_tokens": 4}, 4 * CENT
    paid.settle()
    assert run.end(State.COMPLETED, run.attempt)
    assert b"0.04 USD" in browser.get("/admin/chat/run/").content
    shown = browser.get(f"/admin/chat/run/{run.pk}/change/").content.decode()
    assert "0.04 USD" in shown
    assert str(4 * CENT) not in shown, "millionths are for the database"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, []),
        ({"CHAT_USER_BUDGET": -1.0}, ["chat.E046"]),
        ({"CHAT_CONVERSATION_BUDGET": math.nan}, ["chat.E046"]),
        ({"CHAT_BUDGET_HARD_PERCENT": 99.0}, ["chat.E047"]),
        ({"CHAT_BUDGET_HARD_PERCENT": math.inf}, ["chat.E047"]),
        ({"CHAT_BUDGET_RESERVE": 0.0}, ["chat.E048"]),
        ({"CHAT_CURRENCY": " "}, ["chat.E049"]),
        ({"CHAT_USER_BUDGET": 5.0, "CHAT_PRICES": ""}, ["chat.W003"]),
        ({"CHAT_USER_BUDGET": 5.0, "CHAT_PRICES": PRICES}, []),
        ({"CHAT_USER_BUDGET": 5.0, "CHAT_PRICES": "no JSON"}, []),
    ],
)
def test_settings_that_cannot_work_are_told_at_the_start(
    settings: Settings, changes: dict[str, Any], told: list[str]
) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    assert [message.id for message in what_may_be_spent(None)] == told


def test_the_page_of_ones_usage_is_of_nobody_else(alice: User, bob: User, conversation: Conversation) -> None:
    browser = Client()
    assert browser.get("/usage/").status_code == 302
    browser.force_login(bob)
    Spending.objects.create(run=new_id(), attempt=1, conversation=conversation.pk, user=alice, cost=123 * CENT)
    last = (this_month() - timedelta(days=1)).replace(day=1)
    Spending.objects.create(run=new_id(), attempt=1, conversation=new_id(), user=bob, cost=45 * CENT, month=last)
    Spending.objects.create(run=new_id(), attempt=1, conversation=new_id(), user=bob, cost=67 * CENT)
    page = browser.get("/usage/").content
    assert b"1.23" not in page
    assert b"0.45 USD" in page
    assert b"0.67 USD" in page
    assert browser.get(f"/conversations/{conversation.pk}/budget/").status_code == 404
