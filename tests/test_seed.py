"""The demo data: as if it had happened, made once, and in development only."""

import json
import logging
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command
from django.utils import timezone

from chat.approval import to_decide
from chat.management.commands import seed_demo
from chat.management.commands.seed_demo import ADMIN
from chat.models import Conversation, Device, Event, File, Message, Participant, Run, Summary
from chat.models.deciding import decide, overdue
from chat.models.state import LIVE, State
from chat.pages.accounts import DEMO_ACCOUNTS
from chat.reading import read_frame
from chat.transcript import as_json, read_transcript
from tests.reducer import View

MODELS: list[Any] = [User, Conversation, Participant, Device, Message, Run, Event, File, Summary]


SOME = 12
EVERY_TYPE = ["reasoning", "text", "tool_use", "tool_use", "tool_result", "tool_result", "text"]


def parts(run: Run) -> list[dict[str, Any]]:
    assert run.answer is not None
    found: list[dict[str, Any]] = run.answer.parts
    return found


def seed() -> str:
    out = StringIO()
    call_command("seed_demo", stdout=out)
    return out.getvalue()


def test_seeding_does_not_fill_the_screen_with_what_never_ran(
    transactional_db: None, settings: LazySettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DEBUG = True
    settings.MEDIA_ROOT = tmp_path
    with caplog.at_level(logging.INFO, "chat.bulletin"):
        assert "conversations made" in seed()
    assert caplog.messages == []


def contents() -> list[list[dict[str, Any]]]:
    return [list(model.objects.order_by("pk").values()) for model in MODELS]


@pytest.fixture
def seeded(transactional_db: None, settings: LazySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less in the archive: it is all alike."""
    monkeypatch.setattr(seed_demo, "ARCHIVE_TURNS", SOME)
    settings.DEBUG = True
    settings.MEDIA_ROOT = tmp_path
    seed()


@pytest.mark.usefixtures("seeded")
def test_seeding_again_changes_nothing() -> None:
    before = contents()
    assert "everything is there" in seed()
    assert contents() == before


@pytest.mark.usefixtures("seeded")
def test_what_somebody_did_since_is_left_alone() -> None:
    alice = User.objects.get(username="alice")
    alice.set_password("of-her-own-now")
    alice.save()
    Conversation.objects.exclude(title="Stopped half-way").delete()
    Device.objects.get(name="Alice's laptop").revoke()
    before = contents()
    seed()
    assert contents() == before


@pytest.mark.usefixtures("seeded")
def test_everybody_of_the_demo_can_sign_in() -> None:
    for name, password in (*DEMO_ACCOUNTS.items(), ADMIN):
        user = authenticate(username=name, password=password)
        assert user is not None
        assert user.is_superuser == (name == ADMIN[0])


@pytest.mark.usefixtures("seeded")
def test_nothing_is_left_to_be_started_and_one_run_waits_for_a_decision() -> None:
    waiting = Run.objects.get(state__in=LIVE)
    assert waiting.state == State.WAITING
    assert waiting.waits_until is not None
    assert waiting.waits_until > timezone.now() + timedelta(days=80)
    assert overdue() == []
    assert Run.claim(waiting.conversation, "worker") == []
    assert not Message.objects.filter(place=None).exists()


@pytest.mark.usefixtures("seeded")
def test_an_agent_thinks_calls_tools_is_denied_one_and_waits() -> None:
    ended, denied, waiting = Run.objects.filter(conversation__title="An agent at work").order_by("created_at")
    assert [part["type"] for part in parts(ended)] == EVERY_TYPE
    assert [part["outcome"] for part in parts(ended) if part["type"] == "tool_result"] == ["done", "done"]
    [refused] = [part["approval"] for part in parts(denied) if part["type"] == "tool_use"]
    assert (refused["decision"], refused["by"]["user"]) == ("denied", "bob")
    [call] = [part for part in parts(waiting) if part["type"] == "tool_use"]
    assert (call["name"], call["status"]) == ("rename_conversation", "waiting")
    assert call["approval"] == to_decide(call["name"], call["input"])
    assert all(part["state"] != "open" for run in (ended, denied, waiting) for part in parts(run))


@pytest.mark.usefixtures("seeded")
def test_what_waits_can_be_approved_and_is_then_to_be_executed() -> None:
    run = Run.objects.select_related("conversation", "answer").get(state=State.WAITING)
    [call] = [part for part in parts(run) if part["type"] == "tool_use"]
    alice = run.conversation.participants.select_related("user").get(user__username="alice")
    fields = {"call": call["call"], "arguments_hash": call["approval"]["hash"], "reason": ""}
    assert decide(run, by=alice, device=None, approve=True, **fields)["decision"] == "approved"
    assert Run.claim(run.conversation, "worker") == [run]


def replayed(conversation: Conversation) -> View:
    """What a program knows that has read the whole log."""
    view = View(cursor=0)
    while frame := read_frame(conversation.pk, view.cursor, "json"):
        view.apply(json.loads(frame.body))
    return view


def fetched(conversation: Conversation) -> View:
    """What a program knows that was given the transcript."""
    view = View()
    transcript = read_transcript(conversation.pk, size=10_000)
    view.apply({"type": "snapshot", "serial": transcript.serial, **as_json(transcript)})
    return view


@pytest.mark.usefixtures("seeded")
def test_the_log_of_every_conversation_replays_to_what_its_rows_say() -> None:
    conversations = list(Conversation.objects.all())
    assert len(conversations) == 5
    for conversation in conversations:
        assert replayed(conversation).comparable() == fetched(conversation).comparable()
        assert conversation.head == Event.objects.filter(conversation=conversation).latest("serial").serial


@pytest.mark.usefixtures("seeded")
def test_the_demo_shows_every_way_an_answer_can_be() -> None:
    done = Message.objects.filter(run__state="completed", conversation__title="Counting words")
    assert any("```python" in message.text for message in done)
    assert any("|---|" in message.text for message in done)

    chart = File.objects.get(message__conversation__title="Counting words")
    assert (chart.content_type, chart.width, chart.height) == ("image/png", 240, 150)
    assert default_storage.exists(str(chart.stored.name))

    cancelled = Run.objects.get(state="cancelled")
    assert cancelled.cancelled_by is not None
    assert (cancelled.cancelled_by["user"], cancelled.cancelled_by["device_name"]) == ("bob", "Bob's phone")
    assert cancelled.answer is not None
    assert cancelled.answer.text.endswith("The sea has")

    first, last = Run.objects.filter(state="interrupted").order_by("created_at")
    assert first.prompt.runs.filter(state="completed").count() == 1
    assert last.ending()["retryable"]
    assert last.prompt.runs.count() == 1

    (archive,) = [talk for talk in Conversation.objects.all() if talk.runs.count() == SOME]
    assert archive.messages.count() == 2 * SOME
    newest = Conversation.objects.order_by("-updated_at").first()
    assert newest is not None
    assert newest.title == "An agent at work"
    roles = set(Participant.objects.filter(user__username="bob").values_list("role", flat=True))
    assert roles == {"editor", "viewer"}


def test_outside_development_nothing_is_made(transactional_db: None, settings: LazySettings) -> None:
    settings.DEBUG = False
    with pytest.raises(CommandError, match="DEBUG=1"):
        seed()
    assert not User.objects.exists()
