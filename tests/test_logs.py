"""What is logged: the important moments once, with ids, and never a word of what anybody has said."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import DatabaseError
from django.utils import timezone
from pytest_django import Settings

from chat import logs
from chat.agent.claude import Claude
from chat.host import Host
from chat.models import Conversation, Run
from tests.conftest import with_settings
from tests.device import Device, until
from tests.messages_server import Fault, MessagesServer, Script
from tests.remote import RemoteDevice, begin
from tests.server import Server

Make = Callable[..., Device]
QUESTION, ANSWER, TITLE = "zephyrine", "marmalade", "locomotive"  # each shorter than a token may be
SECRETS = (QUESTION, ANSWER, TITLE)


class Kept(logging.Handler):
    """Every record as both formats write it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logs.Json())
        self.lines: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self._line = logs.Line("{asctime} {levelname} {name} {message}", style="{")

    def emit(self, record: logging.LogRecord) -> None:
        record.exc_text = None  # of another handler's formatter
        self.lines.append(json.loads(self.format(record)))
        record.exc_text = None
        self.texts.append(self._line.format(record))
        record.exc_text = None

    def of(self, message: str, **facts: Any) -> list[dict[str, Any]]:
        """The lines with this message and these facts."""
        return [line for line in self.lines if line["message"] == message and facts.items() <= line.items()]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """Everything that our loggers say, at any level."""
    handler, ours = Kept(), logging.getLogger("chat")
    before = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    yield handler
    ours.removeHandler(handler)
    ours.setLevel(before)


@pytest.fixture
async def laptop(kept: Kept, device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


async def test_a_whole_story_is_told_by_ids_and_without_a_word_of_it(
    kept: Kept, laptop: Device, device: Make, alice: User, conversation: Conversation, host: Host
) -> None:
    phone = await (await device(alice, conversation, door="sse").connect()).synced()
    await laptop.say("conversation.rename", title=TITLE)
    done = await laptop.ask(f"{QUESTION} /rate 0 /echo {ANSWER}")
    await laptop.ended(done["run"])
    assert laptop.view.text_of(done["run"]) == ANSWER
    failed = await phone.ask(f"{QUESTION} /rate 0 /echo {ANSWER}\n/fail overloaded")
    await phone.ended(failed["run"])
    stopped = await laptop.ask(f"{QUESTION} /rate 50 /echo {' '.join([ANSWER] * 2000)}")
    await laptop.writes(stopped["run"], 20)
    await phone.say("run.cancel", run=stopped["run"])
    await laptop.ended(stopped["run"])
    await phone.disconnect()
    await until(lambda: kept.of("device left"), "the end of the phone")
    await until(lambda: len(kept.of("run ended")) == 3, "three ends")

    place = {"conversation": str(conversation.pk)}
    for ack, state, code in ((done, "completed", None), (failed, "failed", "overloaded"), (stopped, "cancelled", None)):
        [started] = kept.of("run started", run=ack["run"], **place)
        assert started["worker"]
        [ended] = kept.of("run ended", run=ack["run"], **place)
        assert (ended["state"], ended.get("code"), ended["attempt"]) == (state, code, 1)
        assert ended["worker"] == started["worker"]
        assert ended["seconds"] >= 0
        assert ended["input_tokens"] > 0
        assert ended["level"] == "INFO"
    [provider] = kept.of("provider failed", run=failed["run"], **place)
    assert (provider["code"], provider["level"]) == ("overloaded", "WARNING")
    assert len(kept.of("cancel asked for", run=stopped["run"], **place)) == 1
    [told] = kept.of("run is to stop", run=stopped["run"], **place)
    assert told["why"] == "announced"
    for one, transport in ((laptop, "websocket"), (phone, "sse")):
        [came] = kept.of("device connected", device=one.id, **place)
        assert came["transport"] == transport
        assert came["connection"]
    [left] = kept.of("device left", **place)
    assert left["device"] == phone.id

    everything = json.dumps(kept.lines) + "\n".join(kept.texts)
    for secret in (*SECRETS, laptop.session):
        assert secret not in everything
    assert any(f"run={done['run']}" in text for text in kept.texts)


@with_settings(
    CHAT_PROVIDER="claude",
    CHAT_PROVIDERS={"claude": f"{Claude.__module__}.Claude"},
    ANTHROPIC_API_KEY="key-of-the-tests",
)
async def test_what_a_service_does_wrong_is_told_with_the_run_and_without_the_key(
    kept: Kept, laptop: Device, settings: Settings
) -> None:
    async with MessagesServer() as server:
        settings.ANTHROPIC_BASE_URL = server.url
        server.script(Script(status=529, headers={"retry-after": "0"}))
        server.script(Script(text=f"{ANSWER} {ANSWER}", fault=Fault.MALFORMED, after=1))
        run = (await laptop.ask(QUESTION))["run"]
        await laptop.ended(run)
    await until(lambda: kept.of("run ended"), "the end")
    [again] = kept.of("provider failed, tries again", run=run, provider="claude")
    assert (again["code"], again["level"]) == ("overloaded", "WARNING")
    [at_last] = kept.of("provider failed", run=run)
    assert at_last["code"] == "connection_lost"
    for secret in (*SECRETS, "key-of-the-tests"):
        assert secret not in json.dumps(kept.lines)


@with_settings(CHAT_SWEEP_SECONDS=0.05)
async def test_what_a_sweep_finds_is_told_with_whose_it_was(kept: Kept, laptop: Device) -> None:
    run = (await laptop.ask("/rate 0 /slow 3000 /echo Late."))["run"]
    await until(lambda: kept.of("run started", run=run), "the start")
    # As if another process had claimed it, and died.
    lapsed = timezone.now() - timedelta(seconds=1)
    await Run.objects.filter(pk=run).aupdate(worker="of-the-dead", attempt=2, lease_until=lapsed)
    await until(lambda: kept.of("run is to stop", run=run, attempt=1), "a lease that is lost")
    await until(lambda: kept.of("run was no longer ours to end", run=run, attempt=1), "an end that is refused")
    await until(lambda: kept.of("lease lapsed", run=run, worker="of-the-dead"), "the sweep")
    await until(lambda: kept.of("run queued again", run=run, worker="of-the-dead", losses=1), "the queue")
    await until(lambda: kept.of("run started", run=run, attempt=3), "the next attempt")


def raised() -> DatabaseError:
    """As psycopg does: the row that was refused stands below the message."""
    try:
        try:
            raise ValueError(f"odd value\nin {ANSWER}")
        except ValueError as error:
            detail = f"new row violates a check\nDETAIL:  Failing row contains (1, {QUESTION})."
            raise DatabaseError(detail) from error
    except DatabaseError as error:
        return error


def test_of_an_exception_only_the_first_line_is_told(kept: Kept) -> None:
    error = raised()
    logging.getLogger("chat.test").error("it failed: %s", logs.reason(error), exc_info=error)
    logging.getLogger("chat.test").error("all of it", exc_info=ExceptionGroup("several", [error]))
    for text in (*(line["exc_info"] for line in kept.lines), *kept.texts):
        assert "ValueError: odd value\n" in text
        assert "DatabaseError: new row violates a check" in text
        assert "in raised" in text, "where it was"
        assert QUESTION not in text
        assert ANSWER not in text
    assert kept.lines[0]["message"] == "it failed: DatabaseError: new row violates a check"


def test_what_others_attach_is_not_shown(kept: Kept) -> None:
    logging.getLogger("chat.test").warning(
        "as Django does", extra={"request": QUESTION, "params": QUESTION, "run": "r"}
    )
    assert kept.lines[0].keys() == {"time", "level", "logger", "message", "run"}
    assert kept.texts[0].endswith("WARNING chat.test as Django does run=r")


@pytest.mark.process
async def test_a_server_at_its_most_talkative_says_no_word_of_it_either(
    tmp_path: Path, devices: list[RemoteDevice]
) -> None:
    """With every logger of every package at DEBUG, as an operator would set it to find a fault."""
    async with MessagesServer(Script(text=f"So: {ANSWER}")) as service:
        claude = {"ANTHROPIC_API_KEY": "key-of-the-tests", "ANTHROPIC_BASE_URL": service.url}
        talkative = {"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json", "DJANGO_SETTINGS_MODULE": "project.settings"}
        async with Server(tmp_path, **claude, **talkative) as server:
            laptop = RemoteDevice(server, *await begin(server))
            devices.append(laptop)
            await (await laptop.connect()).synced()
            run = (await laptop.ask(QUESTION))["run"]
            # It loads the SDK now, which on a busy machine takes its time.
            await until(lambda: '"run ended"' in server.output, "the end in the log", 60)
            assert (await laptop.ended(run))["state"] == "completed"
            assert laptop.view.text_of(run) == f"So: {ANSWER}"
            assert await server.terminate() == 0
    said = [line for line in server.output.splitlines() if not line.startswith("Serving on")]
    lines = [json.loads(line) for line in said]
    assert [line["run"] for line in lines if line["message"] == "run ended"] == [run]
    assert any(line["message"] == "device connected" and line["device"] == laptop.id for line in lines)
    assert any(line["message"] == "draining" for line in lines)
    for secret in (QUESTION, ANSWER, laptop.session, "key-of-the-tests"):
        assert secret not in server.output
