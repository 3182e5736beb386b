"""Workers that die, freeze and come back, databases that are away, providers that do what they should not."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import DatabaseError, transaction
from django.utils import timezone
from pytest_django import Settings

from chat import group_commit, log
from chat import host as hosts
from chat.agent.engine import Engine
from chat.agent.scripted import long_text
from chat.batches import Delta
from chat.database import Database
from chat.errors import Lost
from chat.group_commit import GroupCommit, Pen
from chat.log import Logged
from chat.models import Conversation, Event, Participant, Run
from chat.models.event import TEXT_KINDS, Kind
from chat.models.state import STARTED, State
from chat.reading import PAGE_CHARS, read_page
from chat.transcript import read_turns
from chat.turns import writing
from tests.conftest import with_settings
from tests.device import Device, until
from tests.locked import write_lock
from tests.providers import ERRORS, PROVIDERS, Call, Odd

Make = Callable[..., Device]
QUICK = {"CHAT_SWEEP_SECONDS": 0.1, "CHAT_LEASE_SECONDS": 3.0}


async def connected(device: Device) -> Device:
    return await (await device.connect()).synced()


# --- leases and attempts, without an event loop -----------------------------------------------------------------


@pytest.fixture
def owner(alice: User, conversation: Conversation) -> Participant:
    return Participant.objects.select_related("conversation", "user").get(conversation=conversation)


def started(owner: Participant, text: str = "") -> Run:
    with transaction.atomic():  # an engine that listens must not be faster
        owner.conversation.send(by=owner, text="/rate 0 /echo ?", client_id=uuid.uuid4(), when_busy="alongside")
        [run] = Run.claim(owner.conversation, "worker")
    if text:
        assert says(run, text) == set()
    return run


def says(run: Run, text: str, attempt: int | None = None) -> set[tuple[uuid.UUID, int]]:
    assert run.answer_id is not None
    delta = Delta(run.conversation_id, run.pk, attempt or run.attempt, run.answer_id, 0, text)
    return group_commit.commit([delta])


def lapse(run: Run) -> None:
    with writing():  # an engine that runs must not renew it in between
        Conversation.objects.select_for_update().get(pk=run.conversation_id)
        Run.objects.filter(pk=run.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
        for late in Run.lapsed():
            late.recover()
    run.refresh_from_db()


def ends_of(run: Run) -> list[dict[str, Any]]:
    return list(Event.objects.filter(run_id=run.pk, kind="run.ended").values_list("payload", flat=True))


def test_a_lapsed_run_that_said_nothing_is_tried_again_and_at_last_fails(owner: Participant) -> None:
    run = started(owner)
    for attempt in (1, 2):
        assert run.attempt == attempt
        lapse(run)
        assert (run.state, run.lease_until, run.worker) == (State.QUEUED, None, "")
        assert [again.pk for again in Run.claim(owner.conversation, "another")] == [run.pk]
        run.refresh_from_db()
    lapse(run)
    assert (run.state, run.error_code, run.retryable) == (State.FAILED, "attempts_exhausted", True)
    assert len(ends_of(run)) == 1


def test_a_lapsed_run_that_has_said_something_is_interrupted_with_its_text(owner: Participant) -> None:
    run = started(owner, "half of")
    lapse(run)
    assert (run.state, run.error_code, run.retryable) == (State.INTERRUPTED, "server_lost", True)
    assert run.answer is not None
    assert run.answer.text == "half of"
    [end] = ends_of(run)
    assert (end["reason"], end["retryable"]) == ("interrupted", True)


def test_a_lapsed_run_that_somebody_stopped_is_cancelled(owner: Participant) -> None:
    run = started(owner)
    run.cancel(owner.identity(None))
    lapse(run)
    assert run.state == State.CANCELLED
    assert ends_of(run)[0]["by"]["user"] == "alice"


def test_a_lease_that_was_renewed_is_left_alone(owner: Participant) -> None:
    run = started(owner)
    Run.objects.filter(pk=run.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    [late] = Run.lapsed()
    assert Run.renew("worker", [run.pk]) == {run.pk}
    late.recover()
    run.refresh_from_db()
    assert (run.state, run.attempt) == (State.RUNNING, 1)
    assert Run.renew("somebody else", [run.pk]) == set()


@pytest.mark.parametrize("hours", [25, -1])
def test_a_process_whose_clock_is_wrong_gives_and_renews_and_judges_leases_rightly(
    owner: Participant, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    right = timezone.now
    runs = [started(owner)]
    with monkeypatch.context() as patch:
        patch.setattr(timezone, "now", lambda: right() + timedelta(hours=hours))
        runs.append(started(owner))
        assert Run.lapsed() == []
        runs[0].recover()
        assert Run.renew("worker", [runs[0].pk]) == {runs[0].pk}
    assert Run.lapsed() == []
    for run in runs:
        run.refresh_from_db()
        assert run.lease_until is not None
        assert (run.state, run.attempt) == (State.RUNNING, 1)
        assert abs(run.lease_until - right()) < timedelta(minutes=5)


def test_which_answer_is_the_last_is_asked_of_no_clock(owner: Participant) -> None:
    """The first was asked for at a server that lives in tomorrow."""
    conversation, client_id = owner.conversation, uuid.uuid4()
    conversation.send(by=owner, text="?", client_id=client_id)
    [first] = Run.claim(conversation, "worker")
    assert says(first, "tomorrow's") == set()
    assert first.end(State.FAILED, 1, error_code="overloaded")
    Run.objects.filter(pk=first.pk).update(created_at=timezone.now() + timedelta(hours=25))
    ack = conversation.retry(by=owner, run=first, device=None, client_id=uuid.uuid4())
    [turn] = read_turns([first.prompt], conversation.head)
    assert [str(answer.run.pk) for answer in turn.answers] == [str(first.pk), ack["run"]]
    assert conversation.send(by=owner, text="?", client_id=client_id)["run"] == str(first.pk)
    assert conversation.cancel_send(by=owner, device=None, client_id=client_id)["outcome"] == "cancelled"
    assert Run.objects.get(pk=ack["run"]).state == State.CANCELLED


def test_i5_a_zombie_can_neither_write_nor_end_nor_give_back_what_another_took_over(owner: Participant) -> None:
    run = started(owner)
    lapse(run)
    Run.claim(owner.conversation, "another")
    head = Conversation.objects.get(pk=owner.conversation.pk).head
    assert says(run, "late", attempt=1) == {(run.pk, 1)}
    assert run.end(State.COMPLETED, 1) is False
    run.hand_over(1)
    run.refresh_from_db()
    assert (run.state, run.attempt) == (State.RUNNING, 2)
    assert Conversation.objects.get(pk=owner.conversation.pk).head == head
    assert says(run, "mine", attempt=2) == set()
    assert run.end(State.COMPLETED, 2) is True
    assert run.end(State.COMPLETED, 2) is False
    assert says(run, "more", attempt=2) == {(run.pk, 2)}
    assert len(ends_of(run)) == 1


def test_in_one_commit_a_zombie_is_refused_and_its_successor_is_not(owner: Participant) -> None:
    run = started(owner)
    lapse(run)
    Run.claim(owner.conversation, "another")
    assert run.answer_id is not None
    deltas = [Delta(run.conversation_id, run.pk, attempt, run.answer_id, 0, f"by {attempt}") for attempt in (1, 2)]
    assert group_commit.commit(deltas) == {(run.pk, 1)}
    [text] = Event.objects.filter(run_id=run.pk, kind__in=TEXT_KINDS)
    assert text.payload["text"] == "by 2"


def test_one_refused_text_does_not_hold_up_the_others_of_its_commit(owner: Participant) -> None:
    runs = [started(owner) for _ in range(3)]
    runs[1].cancel(owner.identity(None))
    deltas = [Delta(run.conversation_id, run.pk, 1, run.answer_id, 0, "x") for run in runs if run.answer_id]
    assert group_commit.commit(deltas) == {(runs[1].pk, 1)}
    written = Event.objects.filter(kind__in=TEXT_KINDS).values_list("run_id", flat=True)
    assert set(written) == {runs[0].pk, runs[2].pk}


def test_text_for_a_deleted_conversation_is_refused_and_the_rest_is_written(owner: Participant) -> None:
    other = Conversation.begin(owner.user)
    here = started(owner)
    there = started(Participant.objects.select_related("conversation", "user").get(conversation=other))
    Conversation.objects.filter(pk=other.pk).delete()
    deltas = [Delta(run.conversation_id, run.pk, 1, run.answer_id, 0, "x") for run in (there, here) if run.answer_id]
    assert group_commit.commit(deltas) == {(there.pk, 1)}
    assert Event.objects.filter(run_id=here.pk, kind__in=TEXT_KINDS).count() == 1


def test_a_reader_that_compaction_overtakes_has_the_text_once(owner: Participant) -> None:
    """It reads in several statements. In the first there were deltas, in the second a snapshot of them all."""
    run = started(owner, "Twice ")
    conversation = run.conversation
    conversation.refresh_from_db()
    known, text = conversation.head, "Twice " + "x" * 20
    assert run.answer_id is not None
    group_commit.commit([Delta(conversation.pk, run.pk, 1, run.answer_id, 6 + at, "x") for at in range(20)])
    Event.objects.filter(conversation=conversation, serial__gt=known + 16).delete()
    snapshot = {"part": 0, "offset": 0, "text": text}
    log.insert(
        conversation.pk, [Logged(known + 20, Kind.MESSAGE_SNAPSHOT, snapshot, run.pk, run.answer_id)], timezone.now()
    )
    [event] = read_page(conversation.pk, known).events
    assert "Twice "[: event.payload["offset"]] + event.payload["text"] == text


async def test_two_attempts_of_one_run_in_one_process_do_not_get_in_each_others_way(
    owner: Participant,
) -> None:
    def taken_over() -> Run:
        run = started(owner)
        lapse(run)
        Run.claim(owner.conversation, "another")
        return run

    run = await sync_to_async(taken_over)()
    assert run.answer_id is not None
    zombie, heir = (Pen(run.pk, attempt, run.conversation_id, run.answer_id) for attempt in (1, 2))
    database = Database()
    commit = GroupCommit(database)
    commit.start()
    for piece in ("a", "b"):
        commit.write(zombie, "late" + piece)
        commit.write(heir, "good" + piece)
    async with asyncio.timeout(20):
        await commit.flush(heir)
        with pytest.raises(Lost):
            await commit.flush(zombie)
    with pytest.raises(Lost):
        commit.write(zombie, "still here")
    await commit.close()
    database.close()
    texts = [event.payload["text"] async for event in Event.objects.filter(run_id=run.pk, kind__in=TEXT_KINDS)]
    assert "".join(texts) == "goodagoodb"


async def test_a_text_that_no_database_takes_fails_its_run_and_the_writer_goes_on(owner: Participant) -> None:
    spoilt, sound = await sync_to_async(lambda: [started(owner) for _ in range(2)])()
    database = Database()
    commit = GroupCommit(database)
    commit.start()
    for run, text, fails in ((spoilt, "\ud800", True), (sound, "fine", False)):
        assert run.answer_id is not None
        pen = Pen(run.pk, run.attempt, run.conversation_id, run.answer_id)
        commit.write(pen, text)
        async with asyncio.timeout(20):
            if fails:
                with pytest.raises(DatabaseError):
                    await commit.flush(pen)
            else:
                await commit.flush(pen)
    await commit.close()
    database.close()
    assert await Event.objects.filter(run_id=sound.pk, kind__in=TEXT_KINDS).aexists()


@pytest.mark.sqlite
async def test_text_behind_what_could_not_be_stored_is_not_stored_either(
    impatient: None, owner: Participant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is to read an answer with a hole in the middle."""
    monkeypatch.setattr(group_commit, "RETRY_SECONDS", (0.05,))
    unlucky, sound = await sync_to_async(lambda: [started(owner) for _ in range(2)])()
    database = Database()
    commit = GroupCommit(database)
    commit.start()
    pens = []
    for run in (unlucky, sound):
        assert run.answer_id is not None
        pens.append(Pen(run.pk, run.attempt, run.conversation_id, run.answer_id))
    async with asyncio.timeout(20):
        with write_lock():
            commit.write(pens[0], "Lost. ")
            await until(lambda: not pens[0].pending, "the commit that fails")
            commit.write(pens[0], "Said meanwhile.")
            with pytest.raises(DatabaseError):
                await commit.flush(pens[0])
        commit.write(pens[1], "fine")
        await commit.flush(pens[1])
        await until(lambda: not pens[0].pending, "the next commit")
        with pytest.raises(DatabaseError):
            commit.write(pens[0], "more")
    await commit.close()
    database.close()
    texts = [event.payload["text"] async for event in Event.objects.filter(kind__in=TEXT_KINDS)]
    assert texts == ["fine"]


# --- the process ends -------------------------------------------------------------------------------------------


@with_settings(CHAT_DRAIN_SECONDS=30.0)
async def test_an_answer_that_ends_within_the_grace_is_finished(
    calls: list[Call], device: Make, alice: User, conversation: Conversation, quiet: None
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/rate 200 /long 100")
    await laptop.writes(ack["run"])
    began = time.monotonic()
    await hosts.stop()
    assert time.monotonic() - began < 15
    run = await Run.objects.select_related("answer").aget(pk=ack["run"])
    assert run.state == State.COMPLETED
    assert run.answer is not None
    assert run.answer.text == long_text(100)


@pytest.mark.parametrize(
    ("text", "state"),
    [("/rate 0 /echo Half.\n/hang", State.INTERRUPTED), ("/slow 60 /echo Nothing yet.", State.QUEUED)],
)
async def test_an_answer_that_does_not_is_handed_over(
    calls: list[Call], device: Make, alice: User, conversation: Conversation, quiet: None, text: str, state: State
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask(text)
    if state == State.INTERRUPTED:
        await laptop.writes(ack["run"])
    await until(lambda: calls)
    await hosts.stop()
    assert calls[0].closed_at, "the call is closed, nobody pays for what nobody gets"
    run = await Run.objects.aget(pk=ack["run"])
    assert (run.state, run.lease_until) == (state, None)
    await laptop.disconnect()
    await hosts.running()
    await laptop.connect()
    if state == State.QUEUED:
        await until(lambda: len(calls) == 2)
        assert calls[1].turn.attempt == 2
        await until(lambda: laptop.view.state_of(ack["run"]) == "running")
        await laptop.say("run.cancel", run=ack["run"])
    ended = await laptop.ended(ack["run"])
    assert ended["state"] == ("cancelled" if state == State.QUEUED else "interrupted")


async def test_a_stop_while_the_process_ends_is_a_stop(
    calls: list[Call], device: Make, alice: User, conversation: Conversation, quiet: None
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/slow 60 /echo Nothing.")
    await until(lambda: calls)
    run = await Run.objects.select_related("conversation").aget(pk=ack["run"])
    await asyncio.gather(hosts.stop(), sync_to_async(run.cancel)({"user": "alice", "device": None, "device_name": ""}))
    await run.arefresh_from_db()
    assert run.state == State.CANCELLED


@with_settings(**QUICK)
async def test_i10_a_process_that_dies_without_a_word_is_swept_up_after(
    calls: list[Call], device: Make, host: hosts.Host, alice: User, conversation: Conversation, quiet: None
) -> None:
    def of_a_dead_process() -> list[Run]:
        owner = Participant.objects.select_related("conversation", "user").get(conversation=conversation)
        return [started(owner, "so far"), started(owner)]

    laptop = await connected(device(alice, conversation))
    spoke, silent = await sync_to_async(of_a_dead_process)()
    later = await laptop.ask("/rate 0 /echo Now me.")
    assert (await laptop.ended(str(spoke.pk)))["state"] == "interrupted"
    await until(lambda: any(call.turn.run == silent.pk for call in calls), "the silent one is tried again")
    assert (await laptop.ended(later["run"]))["state"] == "completed"
    await laptop.ended(str(silent.pk))
    assert laptop.view.text_of(str(spoke.pk)) == "so far"
    assert not await Run.objects.filter(state__in=STARTED, lease_until__lt=timezone.now()).aexists()


@with_settings(CHAT_SWEEP_SECONDS=0.1)
async def test_a_run_of_ours_that_lapsed_while_we_slept_has_one_call_in_the_end(
    calls: list[Call], device: Make, alice: User, conversation: Conversation, quiet: None
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/slow 60 /echo Never.")
    await until(lambda: len(calls) == 1)
    await sync_to_async(lapse)(await Run.objects.aget(pk=ack["run"]))  # as another process sees it
    await until(lambda: len(calls) == 2, "the second attempt")
    await until(lambda: calls[0].closed_at, "the first attempt's call is closed")
    assert not calls[1].closed_at
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    await until(lambda: calls[1].closed_at)


# --- the database is away ---------------------------------------------------------------------------------------


@pytest.mark.sqlite
async def test_a_database_that_is_locked_for_seconds_loses_nothing(
    impatient: None, device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/rate 200 /long 300")
    await laptop.writes(ack["run"])
    with write_lock():
        nack = await laptop.say("message.send", text="/rate 0 /echo After.")
        assert (nack["code"], nack["retryable"]) == ("storage", True)
        shown = len(laptop.view.text_of(ack["run"]))  # by now all that had been committed has come
        await asyncio.sleep(2.0)
        assert len(laptop.view.text_of(ack["run"])) <= shown + 200
    again = await laptop.ask("/rate 0 /echo After.", signal_id=nack["id"])
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == long_text(300)
    assert (await laptop.ended(again["run"]))["state"] == "completed"


@pytest.mark.sqlite
async def test_a_run_that_ends_while_the_database_is_locked_ends_afterwards(
    impatient: None, device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/slow 1.5 /rate 0 /long 50")
    await until(lambda: laptop.view.state_of(ack["run"]) == "running")
    with write_lock():
        await asyncio.sleep(2.5)
        assert laptop.view.state_of(ack["run"]) == "running"
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == long_text(50)


@pytest.mark.sqlite
async def test_devices_can_come_and_read_while_nothing_can_be_written(
    impatient: None, device: Make, alice: User, conversation: Conversation
) -> None:
    """A device that is new here cannot be let in, and is told to come back rather than left without a word."""
    laptop = await connected(device(alice, conversation))
    stranger = device(alice, conversation, session=laptop.session)
    with write_lock():
        await stranger.connect()
        await until(lambda: stranger.closed == 4002, "a goodbye that says to come back")
        assert stranger.frames[-1]["type"] == "bye"
        assert laptop.closed is None
    await stranger.disconnect()
    await connected(stranger)


# --- providers that do what they should not ---------------------------------------------------------------------


@pytest.fixture
async def odd(settings: Settings, device: Make, alice: User) -> Device:
    """A device in a conversation that is answered by `Odd`."""
    settings.CHAT_PROVIDERS = PROVIDERS
    Odd.attempts.clear()
    answered_oddly = await sync_to_async(Conversation.begin)(alice)
    await Conversation.objects.filter(pk=answered_oddly.pk).aupdate(provider="odd")
    return await connected(device(alice, answered_oddly))


async def test_whatever_a_provider_raises_the_run_fails_and_keeps_its_text(odd: Device) -> None:
    for what in ERRORS:
        ack = await odd.ask(what)
        ended = await odd.ended(ack["run"])
        assert (ended["state"], ended["error"]["code"]) == ("failed", "internal"), what
        assert ended["error"]["message"] == "Something went wrong while answering.", "no internals are shown"
        assert odd.view.text_of(ack["run"]) == "So far. ", what
    assert Odd.attempts == [1] * len(ERRORS), "an error is not a crash: nobody pays twice"


async def test_a_provider_that_says_nothing_ends_with_nothing(odd: Device) -> None:
    ack = await odd.ask("nothing")
    assert (await odd.ended(ack["run"]))["state"] == "completed"
    assert odd.view.text_of(ack["run"]) == ""
    ack = await odd.ask("stranger")
    assert (await odd.ended(ack["run"]))["error"]["code"] == "internal", "what is no event is no answer"


async def test_a_giant_piece_is_stored_and_sent_in_pieces(odd: Device) -> None:
    ack = await odd.ask("giant")
    assert (await odd.ended(ack["run"]))["state"] == "completed"
    assert odd.view.text_of(ack["run"]) == "🚂" * 200_000
    assert max(len(frame.get("text", "")) for frame in odd.frames) <= PAGE_CHARS
    run = await Run.objects.select_related("answer").aget(pk=ack["run"])
    assert run.answer is not None
    assert run.answer.text == "🚂" * 200_000


async def test_empty_pieces_are_no_events(odd: Device) -> None:
    ack = await odd.ask("empty")
    await odd.ended(ack["run"])
    assert odd.view.text_of(ack["run"]) == "Finally."
    assert not [frame for frame in odd.frames if frame["type"] == "message.delta" and not frame["text"]]


async def test_text_that_cannot_be_stored_is_replaced_and_spoils_nobody_elses(
    odd: Device, device: Make, alice: User
) -> None:
    other = await connected(device(alice, await sync_to_async(Conversation.begin)(alice)))
    neighbour = await other.ask("/rate 100 /long 60")
    for what, state, text in (("unstorable", "completed", "a�b��cd"), ("no-text", "failed", "")):
        ack = await odd.ask(what)
        assert (await odd.ended(ack["run"]))["state"] == state
        assert odd.view.text_of(ack["run"]) == text
    assert (await other.ended(neighbour["run"]))["state"] == "completed"
    assert other.view.text_of(neighbour["run"]) == long_text(60)


async def test_a_provider_that_does_not_listen_is_told_again(odd: Device) -> None:
    ack = await odd.ask("deaf")
    await odd.writes(ack["run"])
    await odd.say("run.cancel", run=ack["run"])
    assert (await odd.ended(ack["run"]))["state"] == "cancelled"


@with_settings(CHAT_PROVIDER="claude", ANTHROPIC_API_KEY="never-sent")
async def test_a_provider_is_there_before_anybody_asks(host: hosts.Host) -> None:
    """Making Claude's takes seconds, which no device should wait for."""
    engine = next(one for one in host._beside if isinstance(one, Engine))
    assert engine._providers.keys() == {"claude"}


@pytest.mark.parametrize("provider", ["broken", "unheard-of"])
async def test_a_provider_that_cannot_be_made_fails_its_runs_at_once_and_no_others(
    settings: Settings, device: Make, alice: User, caplog: pytest.LogCaptureFixture, provider: str
) -> None:
    settings.CHAT_PROVIDERS, settings.CHAT_PROVIDER = PROVIDERS, provider
    laptop = await connected(device(alice, await sync_to_async(Conversation.begin)(alice)))
    for _ in range(2):
        ack = await laptop.ask("hello")
        ended = await laptop.ended(ack["run"])
        assert (ended["state"], ended["error"]["code"]) == ("failed", "no_provider")
    assert any(record.levelno == logging.ERROR and provider in record.getMessage() for record in caplog.records)
    settings.CHAT_PROVIDER = "scripted"
    other = await connected(device(alice, await sync_to_async(Conversation.begin)(alice)))
    ack = await other.ask("/rate 0 /echo Fine.")
    assert (await other.ended(ack["run"]))["state"] == "completed"


@with_settings(CHAT_SWEEP_SECONDS=0.1, CHAT_MAX_ATTEMPTS=3)
async def test_w1_a_poison_run_is_tried_three_times_and_then_given_up(
    calls: list[Call], device: Make, alice: User, conversation: Conversation, quiet: None
) -> None:
    laptop = await connected(device(alice, conversation))
    ack = await laptop.ask("/slow 60 /echo Poison.")
    later = await laptop.ask("/slow 0 /rate 0 /echo Next.")
    for attempt in (1, 2, 3):
        await until(lambda attempt=attempt: len(calls) == attempt, f"attempt {attempt}")  # type: ignore[misc]
        assert calls[-1].turn.attempt == attempt
        await sync_to_async(lapse)(await Run.objects.aget(pk=ack["run"]))
    ended = await laptop.ended(ack["run"])
    assert (ended["state"], ended["error"]["code"]) == ("failed", "attempts_exhausted")
    assert (await laptop.ended(later["run"]))["state"] == "completed"
    await until(lambda: all(call.closed_at for call in calls))
    assert len(calls) == 4
