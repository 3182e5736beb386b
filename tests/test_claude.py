"""Claude's provider, by the real SDK over real HTTP: every way an answer can arrive, break off or be left."""

import asyncio
import json
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest
from django.conf import LazySettings

from chat.agent.claude import Claude, with_breakpoints
from chat.agent.provider import (
    Notice,
    PromptMessage,
    ProviderError,
    ProviderEvent,
    Stopped,
    Text,
    Turn,
    Usage,
)
from tests.messages_server import Exchange, Fault, MessagesServer, Script

KEY = "sk-ant-secret-of-the-tests"
LONG = " ".join(f"word{n}" for n in range(1, 401))
LONGER = " ".join(f"word{n}" for n in range(1, 20_001))
IMMEDIATELY = 2.0  # seconds, at most; usually a few milliseconds
AT_ONCE = {"retry-after": "0"}  # the wait before the next try, so that tests need not


def message(role: str, text: str) -> PromptMessage:
    return {
        "role": "assistant" if role == "assistant" else "user",
        "content": [{"type": "text", "text": text}],
    }


def turn(prompt: list[PromptMessage] | None = None, system: str = "You are a test.") -> Turn:
    return Turn(
        run=uuid.uuid4(),
        conversation=uuid.uuid4(),
        attempt=1,
        system=system,
        prompt=prompt if prompt is not None else [message("user", "Hello?")],
    )


@asynccontextmanager
async def serving(
    settings: LazySettings, default: Script | None = None
) -> AsyncIterator[tuple[MessagesServer, Claude]]:
    async with MessagesServer(default) as server:
        settings.ANTHROPIC_BASE_URL = server.url
        settings.ANTHROPIC_API_KEY = KEY
        settings.CHAT_CLAUDE_RETRIES = 2
        settings.CHAT_CLAUDE_IDLE_SECONDS = 5
        claude = Claude()
        try:
            yield server, claude
        finally:
            await claude.aclose()


async def replied(
    claude: Claude, asked: Turn | None = None, into: list[ProviderEvent] | None = None
) -> list[ProviderEvent]:
    events = [] if into is None else into
    async with aclosing(claude.reply(asked or turn())) as reply:
        async for event in reply:
            events.append(event)
    return events


async def failure(claude: Claude, asked: Turn | None = None) -> tuple[ProviderError, list[ProviderEvent]]:
    events: list[ProviderEvent] = []
    with pytest.raises(ProviderError) as caught:
        await replied(claude, asked, events)
    assert KEY not in str(caught.value) + caught.value.message
    return caught.value, events


def text_of(events: list[ProviderEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def notices(events: list[ProviderEvent]) -> list[Notice]:
    return [event for event in events if isinstance(event, Notice)]


async def eventually(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.002)


# --- an answer that arrives ------------------------------------------------------------------------


async def test_the_text_arrives_byte_for_byte_and_the_end_comes_last(settings: LazySettings) -> None:
    text = "Grüße, 世界 🎉\n\n| a | b |\n" + LONG
    async with serving(settings, Script(text=text)) as (_, claude):
        events = await replied(claude)
    assert text_of(events) == text
    assert [event for event in events if isinstance(event, Stopped)] == [events[-1]] == [Stopped("end_turn")]
    assert not notices(events)


async def test_an_answer_in_slices_of_a_few_bytes_is_the_same(settings: LazySettings) -> None:
    text = "Grüße, 世界 🎉 " * 20
    async with serving(settings, Script(text=text, dribble=True)) as (_, claude):
        assert text_of(await replied(claude)) == text


async def test_the_request_is_made_from_the_settings_and_the_turn(settings: LazySettings) -> None:
    async with serving(settings) as (server, claude):
        settings.CHAT_CLAUDE_MODEL = "claude-test-model"
        settings.CHAT_CLAUDE_MAX_TOKENS = 77
        await replied(claude, turn(system="Be brief."))
        await replied(claude, turn(system=""))
        [first, second] = server.requests
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert (first.body["model"], first.body["max_tokens"], first.body["stream"]) == (
        "claude-test-model",
        77,
        True,
    )
    assert first.body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    assert "system" not in second.body


async def test_empty_settings_leave_address_and_key_to_the_environment(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings) as (server, claude):
        settings.ANTHROPIC_BASE_URL = settings.ANTHROPIC_API_KEY = ""
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-the-environment")
        await replied(claude)
        assert server.requests[0].headers["authorization"] == "Bearer key-of-the-environment"


async def test_an_empty_address_in_the_environment_means_the_usual_one(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ANTHROPIC_BASE_URL = ""
    settings.ANTHROPIC_API_KEY = KEY
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "")
    claude = Claude()
    assert str(claude._connected().base_url).startswith("https://")
    await claude.aclose()


async def test_without_any_key_the_error_says_what_to_set(
    settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    async with serving(settings) as (server, claude):
        settings.ANTHROPIC_API_KEY = ""
        error, _ = await failure(claude)
        assert not server.requests
    assert (error.code, error.retryable) == ("authentication", False)
    assert "ANTHROPIC_API_KEY" in error.message


async def test_usage_is_counted_from_the_start_and_at_the_end_in_whole_numbers(
    settings: LazySettings,
) -> None:
    script = Script(
        text="one two three", usage={"input_tokens": 12, "service_tier": "standard", "cache_creation": None}
    )
    async with serving(settings, script) as (_, claude):
        events = await replied(claude)
    counts = [event.tokens for event in events if isinstance(event, Usage)]
    assert events[0] == Usage(counts[0])
    assert (counts[0]["input_tokens"], counts[-1]["input_tokens"], counts[-1]["output_tokens"]) == (12, 12, 3)
    names = {"input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"}
    assert all(set(count) == names and {type(n) for n in count.values()} == {int} for count in counts)


@pytest.mark.parametrize("reason", ["end_turn", "max_tokens", "refusal", "pause_turn", "reason_of_tomorrow"])
async def test_the_stop_reason_is_passed_on(settings: LazySettings, reason: str) -> None:
    async with serving(settings, Script(stop_reason=reason)) as (_, claude):
        assert (await replied(claude))[-1] == Stopped(reason)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["a\0b"], "a\ufffdb"),
        (["\0"], "\ufffd"),
        (["lone \ud83d here"], "lone \ufffd here"),
        (["lone \udc00", " low"], "lone \ufffd low"),
        (["halves \ud83c", "\udf89 joined"], "halves 🎉 joined"),
        (["halves \ud83c", " apart"], "halves \ufffd apart"),
        (["at the end \ud83c"], "at the end \ufffd"),
        (["", "", "empty ones", ""], "empty ones"),
    ],
)
async def test_text_is_storable_whatever_is_sent(settings: LazySettings, tokens: list[str], expected: str) -> None:
    async with serving(settings, Script(tokens=tokens)) as (_, claude):
        events = await replied(claude)
    assert text_of(events) == expected
    assert all(event.text for event in events if isinstance(event, Text))


async def test_events_nobody_knows_are_ignored(settings: LazySettings) -> None:
    extra: list[tuple[str, Any]] = [
        ("event_of_tomorrow", {"index": 0, "news": [1, 2]}),
        ("content_block_delta", {"index": 0, "delta": {"type": "delta_of_tomorrow", "more": 1}}),
    ]
    async with serving(settings, Script(text="still the same text", extra=extra)) as (_, claude):
        events = await replied(claude)
    assert (text_of(events), events[-1]) == ("still the same text", Stopped("end_turn"))


async def test_turns_share_their_connections(settings: LazySettings) -> None:
    async with serving(settings) as (server, claude):
        for _ in range(5):
            await replied(claude)
        assert (len(server.requests), server.connections) == (5, 1)


async def test_a_body_that_stays_open_after_the_end_does_not_hold_the_run(settings: LazySettings) -> None:
    async with serving(settings, Script(linger=30)) as (server, claude):
        before = time.monotonic()
        assert (await replied(claude))[-1] == Stopped("end_turn")
        assert time.monotonic() - before < 10
        await eventually(lambda: server.journal[0].client_closed)


@pytest.mark.slow
async def test_five_hundred_answers_are_written_at_once(settings: LazySettings) -> None:
    async with serving(settings, Script(text=LONG, after=1, fault=Fault.SILENCE)) as (server, claude):
        settings.CHAT_CLAUDE_IDLE_SECONDS = 60
        tasks = [asyncio.create_task(replied(claude)) for _ in range(500)]
        await eventually(lambda: sum(exchange.tokens_sent for exchange in server.journal) == 500, 60)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
        await eventually(lambda: all(exchange.client_closed for exchange in server.journal), 30)


# --- the prompt cache ------------------------------------------------------------------------------


def without_marks(raw: bytes) -> bytes:
    return re.sub(rb',\s*"cache_control":\s*\{"type":\s*"ephemeral"\}', b"", raw)


async def test_twenty_turns_have_the_same_prefix_to_the_byte_and_read_it_from_the_cache(
    settings: LazySettings,
) -> None:
    """S17, with a stopped answer among them."""
    async with serving(settings) as (server, claude):
        prompt: list[PromptMessage] = []
        reads = []
        for number in range(20):
            prompt = [*prompt, message("user", f"Question {number}, ünd more")]
            events = await replied(claude, turn(prompt))
            [*_, usage] = [event.tokens for event in events if isinstance(event, Usage)]
            reads.append((usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]))
            mark = "\n\n[stopped by the user]" if number == 7 else ""
            prompt = [*prompt, message("assistant", text_of(events) + mark)]
        bodies = [without_marks(request.raw) for request in server.requests]
        marked = [request.raw.count(b"cache_control") for request in server.requests]
    assert marked == [2] + [3] * 19
    for earlier, later in pairwise(bodies):
        start = earlier.index(b'"messages"')
        messages = earlier[start : earlier.index(b"}]", earlier.rindex(b"Question")) + 3]
        assert later[start:].startswith(messages[:-1])
        assert json.loads(earlier)["system"] == json.loads(later)["system"]
    # Each turn reads all that the turn before stored: what that one read and what it added.
    assert [read for read, _ in reads[1:]] == [read + created for read, created in reads[:-1]]


async def test_the_turn_is_not_changed_by_the_breakpoints() -> None:
    prompt = [message("user", "a"), message("assistant", "b"), message("user", "c")]
    before = json.dumps(prompt)
    marked = with_breakpoints(prompt)
    assert json.dumps(prompt) == before
    assert ["cache_control" in entry["content"][-1] for entry in marked] == [True, False, True]


# --- an answer that breaks off ---------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.TRUNCATE, Fault.CUT, Fault.RESET, Fault.MALFORMED])
async def test_an_answer_that_breaks_off_after_text_is_lost_and_keeps_it(settings: LazySettings, fault: Fault) -> None:
    async with serving(settings, Script(text=LONG, rate=500, fault=fault, after=20)) as (server, claude):
        error, events = await failure(claude)
        assert len(server.requests) == 1
    assert (error.code, error.lost, error.retryable) == ("connection_lost", True, True)
    assert text_of(events) == " ".join(LONG.split()[:20])
    assert not any(isinstance(event, Stopped) for event in events)


@pytest.mark.parametrize("fault", [Fault.TRUNCATE, Fault.CUT, Fault.RESET, Fault.MALFORMED, Fault.DISCONNECT])
async def test_an_answer_that_breaks_off_before_any_text_is_asked_for_again(
    settings: LazySettings, fault: Fault
) -> None:
    async with serving(settings) as (server, claude):
        server.script(Script(fault=fault))
        events = await replied(claude)
        assert len(server.requests) == 2
    assert (text_of(events), events[-1]) == ("Hello from the test server.", Stopped("end_turn"))
    assert len(notices(events)) == 1


async def test_a_body_that_never_has_an_end_is_lost_when_the_tries_are_used_up(
    settings: LazySettings,
) -> None:
    async with serving(settings, Script(fault=Fault.TRUNCATE)) as (server, claude):
        settings.CHAT_CLAUDE_RETRIES = 1
        error, _ = await failure(claude)
        assert len(server.requests) == 2
    assert (error.code, error.lost, error.retryable) == ("connection_lost", True, True)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("overloaded_error", "overloaded"),
        ("api_error", "server_error"),
        ("rate_limit_error", "rate_limited"),
        ("error_of_tomorrow", "server_error"),
    ],
)
async def test_w7_an_error_inside_a_good_answer(settings: LazySettings, kind: str, code: str) -> None:
    before = Script(fault=Fault.ERROR_EVENT, error=kind, headers=AT_ONCE)
    after = Script(text=LONG, fault=Fault.ERROR_EVENT, error=kind, after=3)
    async with serving(settings) as (server, claude):
        server.script(before, before, after)
        error, events = await failure(claude)
        assert len(server.requests) == 3
    assert (error.code, error.lost, error.retryable) == (code, True, True)
    assert text_of(events) == "word1 word2 word3"
    assert len(notices(events)) == 2


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "rate_limited"),
        (529, "overloaded"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "server_error"),
    ],
)
async def test_busy_is_tried_again_a_bounded_number_of_times(settings: LazySettings, status: int, code: str) -> None:
    async with serving(settings, Script(status=status, headers=AT_ONCE)) as (server, claude):
        error, events = await failure(claude)
        assert len(server.requests) == 3
        server.script(Script(status=status, headers=AT_ONCE))
        server.default = Script(text="at last")
        assert text_of(await replied(claude)) == "at last"
    assert (error.code, error.lost, error.retryable) == (code, False, True)
    assert len(notices(events)) == 2


async def test_a_refused_connection_is_tried_again_and_then_unreachable(settings: LazySettings) -> None:
    async with serving(settings) as (_, claude):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            settings.ANTHROPIC_BASE_URL = f"http://127.0.0.1:{unused.getsockname()[1]}"
            settings.CHAT_CLAUDE_RETRIES = 1
            error, events = await failure(claude)
    assert (error.code, error.lost, error.retryable) == ("unreachable", False, True)
    assert len(notices(events)) == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_request"),
        (401, "authentication"),
        (402, "billing"),
        (403, "permission"),
        (404, "not_found"),
        (413, "too_large"),
        (422, "invalid_request"),
    ],
)
async def test_a_refusal_is_final(settings: LazySettings, status: int, code: str) -> None:
    async with serving(settings, Script(status=status)) as (server, claude):
        error, events = await failure(claude)
        assert len(server.requests) == 1
    assert (error.code, error.retryable, error.lost, events) == (code, False, False, [])
    assert error.message.endswith(".") or "It says:" in error.message


async def test_an_invalid_request_says_why_but_never_the_key(settings: LazySettings) -> None:
    async with serving(settings) as (_, claude):
        error, _ = await failure(claude, turn([message("user", "one"), message("user", "two")]))
        settings.ANTHROPIC_API_KEY = "alternate"  # as if the service repeated the key in its message
        again, _ = await failure(claude, turn([message("user", "one"), message("user", "two")]))
    assert "roles must alternate" in error.message
    assert "roles must …, beginning" in again.message


# --- waiting ---------------------------------------------------------------------------------------


async def test_a_wait_is_announced_and_kept(settings: LazySettings) -> None:
    async with serving(settings) as (server, claude):
        server.script(Script(status=529, headers={"retry-after": "1"}))
        events = await replied(claude)
        [first, second] = server.journal
    [notice] = notices(events)
    assert re.fullmatch(r"Claude is busy, trying again in [12] s", notice.text)
    assert 1.0 < notice.expires_in < 5
    assert 1.0 <= second.at - first.at < 5


async def test_a_date_to_wait_for_is_understood(settings: LazySettings) -> None:
    async with serving(settings) as (server, claude):
        began, due = time.monotonic(), datetime.now(UTC) + timedelta(seconds=3)
        server.script(Script(status=429, headers={"retry-after": format_datetime(due, usegmt=True)}))
        await replied(claude)
        [_, second] = server.journal
    assert 1.9 <= second.at - began < 7  # the header has whole seconds


@pytest.mark.parametrize("asked", ["garbage", "nan", "inf", ""])
async def test_a_wait_that_cannot_be_read_is_our_own(settings: LazySettings, asked: str) -> None:
    async with serving(settings) as (server, claude):
        server.script(Script(status=429, headers={"retry-after": asked}))
        await replied(claude)
        [first, second] = server.journal
    assert 0.4 <= second.at - first.at < 5


@pytest.mark.parametrize(
    ("status", "asked", "code", "said"),
    [(429, "3600", "rate_limited", "60 minutes"), (529, "90", "overloaded", "90 seconds")],
)
async def test_a_wait_that_is_too_long_is_not_waited(
    settings: LazySettings, status: int, asked: str, code: str, said: str
) -> None:
    async with serving(settings, Script(status=status, headers={"retry-after": asked})) as (server, claude):
        error, events = await failure(claude)
        assert len(server.requests) == 1
    assert (error.code, error.retryable, events) == (code, True, [])
    assert said in error.message


async def test_our_own_waits_grow_and_differ(settings: LazySettings) -> None:
    async with serving(settings, Script(status=529)) as (server, claude):
        _, events = await failure(claude)
        gaps = [b.at - a.at for a, b in pairwise(server.journal)]
    waits = [notice.expires_in - 2 for notice in notices(events)]
    assert 0.5 <= waits[0] <= 1.0 <= waits[1] <= 2.0
    assert all(gap >= wait - 0.01 for gap, wait in zip(gaps, waits, strict=True))


@pytest.mark.parametrize("fault", [Fault.SILENCE, Fault.PINGS, Fault.NOISE])
@pytest.mark.parametrize("after", [0, 5])
async def test_w2_silence_ends_within_a_bound_even_with_pings(settings: LazySettings, fault: Fault, after: int) -> None:
    async with serving(settings, Script(text=LONG, fault=fault, after=after)) as (server, claude):
        server.script(Script())
        await replied(claude)  # the first request also makes the client
        settings.CHAT_CLAUDE_IDLE_SECONDS = 0.8
        before = time.monotonic()
        error, events = await failure(claude)
        assert 0.8 <= time.monotonic() - before < 5
        await eventually(lambda: server.journal[1].client_closed, IMMEDIATELY)
        assert len(server.requests) == 2
    assert (error.code, error.lost, error.retryable) == ("idle_timeout", after > 0, True)
    assert text_of(events) == " ".join(LONG.split()[:after])


async def test_w2_silence_before_the_first_byte_ends_too(settings: LazySettings) -> None:
    async with serving(settings, Script(headers_after=30)) as (_, claude):
        settings.CHAT_CLAUDE_IDLE_SECONDS = 0.4
        error, _ = await failure(claude)
    assert (error.code, error.lost) == ("idle_timeout", False)


async def test_the_time_the_reader_takes_is_not_silence(settings: LazySettings) -> None:
    async with serving(settings, Script(text="one two three", rate=50)) as (_, claude):
        settings.CHAT_CLAUDE_IDLE_SECONDS = 1.0
        heard: list[ProviderEvent] = []
        async with aclosing(claude.reply(turn())) as reply:
            async for event in reply:
                heard.append(event)
                await asyncio.sleep(1.1 if len(heard) < 3 else 0)
    assert heard[-1] == Stopped("end_turn")


# --- leaving ---------------------------------------------------------------------------------------


async def left(exchange: Exchange, moment: float) -> None:
    """The client closed this exchange soon after `moment`, and nothing was sent to it afterwards."""
    await eventually(lambda: exchange.client_closed or exchange.finished, IMMEDIATELY)
    if exchange.client_closed is not None:
        assert exchange.client_closed - moment <= IMMEDIATELY
        assert exchange.bytes_after(exchange.client_closed) == 0
    assert exchange.bytes_after(moment + IMMEDIATELY) == 0


async def cancelled(task: asyncio.Task[Any]) -> float:
    """Cancels, and returns when that was; the task must really end as cancelled, and at once."""
    moment = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - moment < IMMEDIATELY
    return moment


async def all_left(server: MessagesServer, moments: dict[int, float]) -> None:
    """Each exchange whose prompt is one of these numbers was left at its moment."""
    for exchange in server.journal:
        asked = exchange.request.body["messages"][-1]["content"][0]["text"]
        if asked.isdecimal():
            await left(exchange, moments[int(asked)])


async def test_s13_a_cancel_at_any_instant_closes_the_connection(settings: LazySettings) -> None:
    """200 instants: before the request, before the headers, between them and the text, all over the text."""
    script = Script(text=LONGER, rate=2000, headers_after=0.02, text_after=0.02)
    moments: dict[int, float] = {}
    async with serving(settings, script) as (server, claude):
        server.script(Script())
        await replied(claude)  # the first request also makes the client
        for number in range(200):
            task = asyncio.create_task(replied(claude, turn([message("user", str(number))])))
            instant = (number % 40) * (0.0025 if number % 4 else 0.0005)
            await asyncio.wait({task}, timeout=instant)
            moments[number] = await cancelled(task)
        await all_left(server, moments)
        tokens = [exchange.tokens_sent for exchange in server.journal[1:] if not exchange.finished]
        assert len(tokens) > 100  # on a slow machine a quarter is cancelled before the request has come
        assert min(tokens) == 0
        assert max(tokens) > 10


async def test_a_cancel_as_the_bytes_arrive_is_not_swallowed(settings: LazySettings) -> None:
    """A cancel and the end of a read at the same instant: as fast as the server can send."""
    moments: dict[int, float] = {}
    async with serving(settings, Script(text=LONG * 5)) as (server, claude):
        for number in range(100):
            events: list[ProviderEvent] = []
            task = asyncio.create_task(replied(claude, turn([message("user", str(number))]), events))
            for _ in range(10_000):
                if len(events) > number % 20:
                    break
                await asyncio.sleep(0)
            moments[number] = await cancelled(task)
        await all_left(server, moments)
        assert len(server.journal) == 100


async def test_leaving_the_generator_closes_the_connection(settings: LazySettings) -> None:
    async with serving(settings, Script(text=LONGER, rate=200)) as (server, claude):
        for count in (1, 2, 3, 20):
            reply = claude.reply(turn())
            for _ in range(count):
                await anext(reply)
            moment = time.monotonic()
            await reply.aclose()
            await left(server.journal[-1], moment)
            assert not server.journal[-1].finished


async def test_a_dropped_generator_closes_the_connection(settings: LazySettings) -> None:
    async with serving(settings, Script(text=LONGER, rate=200)) as (server, claude):
        async for event in claude.reply(turn()):
            if isinstance(event, Text):
                break
        moment = time.monotonic()  # and no gc.collect(): that alone can block the loop for 300 ms
        await left(server.journal[0], moment)
        assert not server.journal[0].finished


async def test_a_cancel_before_the_first_byte_closes_the_connection(settings: LazySettings) -> None:
    async with serving(settings, Script(headers_after=30)) as (server, claude):
        task = asyncio.create_task(replied(claude))
        await eventually(lambda: server.journal)
        moment = await cancelled(task)
        await left(server.journal[0], moment)
        assert not server.journal[0].sent


async def test_a_cancel_during_a_wait_ends_it(settings: LazySettings) -> None:
    async with serving(settings, Script(status=529, headers={"retry-after": "30"})) as (server, claude):
        events: list[ProviderEvent] = []
        task = asyncio.create_task(replied(claude, None, events))
        await eventually(lambda: notices(events))
        await cancelled(task)
        assert len(server.requests) == 1


async def test_after_a_cancel_the_next_turn_is_answered(settings: LazySettings) -> None:
    async with serving(settings, Script(text=LONG, rate=200)) as (server, claude):
        for _ in range(3):
            task = asyncio.create_task(replied(claude))
            await asyncio.wait({task}, timeout=0.05)
            task.cancel()
            await asyncio.wait({task})
        server.default = Script(text="fine")
        assert text_of(await replied(claude)) == "fine"


async def test_closing_twice_and_before_use_is_harmless(settings: LazySettings) -> None:
    async with serving(settings) as (_, claude):
        await Claude().aclose()
        await replied(claude)
        await claude.aclose()
        await claude.aclose()
