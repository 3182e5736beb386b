"""A run is one trace: its spans, what is in them, and that nothing anybody said is."""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_django import Settings

from chat import exporting, tracing
from chat.agent.claude import Claude
from chat.models import Conversation
from tests.collector import Collector
from tests.conftest import with_settings
from tests.device import Device, until
from tests.messages_server import MessagesServer, Script
from tests.providers import Call
from tests.remote import RemoteDevice, begin
from tests.server import Server

Make = Callable[..., Device]
SECRET = "xylophone-quartz"


@pytest.fixture
def kept() -> Iterator[InMemorySpanExporter]:
    """Every span that has ended."""
    exporter = InMemorySpanExporter()
    made = exporting.provider(SimpleSpanProcessor(exporter))
    tracing.use(made)
    yield exporter
    tracing.use(None)
    made.shutdown()


@pytest.fixture
async def laptop(kept: InMemorySpanExporter, device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


async def spans_of(kept: InMemorySpanExporter, run: str) -> dict[str, ReadableSpan]:
    """Of the run's trace, by what they are; waits for the one that ends last."""

    def found() -> dict[str, ReadableSpan]:
        trace = tracing.trace_id(uuid.UUID(run))
        return {span.name.split()[0]: span for span in kept.get_finished_spans() if span.context.trace_id == trace}

    await until(lambda: {"send", "run"} <= found().keys(), f"the spans of {run}")
    return found()


def events(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_an_answer_is_a_trace_of_its_send_its_run_and_the_call(
    laptop: Device, kept: InMemorySpanExporter, conversation: Conversation
) -> None:
    run = (await laptop.ask(f"/rate 0 /long 3000 /echo {SECRET}"))["run"]
    await laptop.ended(run)
    spans = await spans_of(kept, run)
    assert spans.keys() == {"send", "run", "chat"}
    ids = {"chat.run.id": run, "gen_ai.conversation.id": str(conversation.pk)}
    assert attributes(spans["send"]) == ids
    executed = attributes(spans["run"])
    assert executed.pop("chat.worker")
    assert executed == {**ids, "chat.run.attempt": 1, "chat.run.state": "completed"}
    assert spans["chat"].parent == spans["run"].context
    asked = attributes(spans["chat"])
    assert asked["gen_ai.request.model"] == asked["gen_ai.provider.name"] == "scripted"
    assert asked["gen_ai.response.finish_reasons"] == ("end_turn",)
    usage = next(frame["usage"] for frame in laptop.frames if frame["type"] == "run.ended")
    assert asked["gen_ai.usage.output_tokens"] == usage["output_tokens"] > 3000
    assert events(spans["chat"]) == ["first token"], "not one for each"
    assert len(kept.get_finished_spans()) == 3, "nothing is a span but these"
    assert SECRET not in "".join(span.to_json() for span in kept.get_finished_spans())
    first, *_ = spans["chat"].events
    begins = [spans["send"].start_time, spans["run"].start_time, spans["chat"].start_time, first.timestamp]
    assert begins == sorted(begins, key=lambda at: at or 0)


async def test_the_trace_of_a_run_that_was_stopped_says_so(
    calls: list[Call], laptop: Device, kept: InMemorySpanExporter
) -> None:
    run = (await laptop.ask("/rate 100 /long 5000"))["run"]
    await laptop.writes(run)
    await laptop.say("run.cancel", run=run)
    await laptop.ended(run)
    spans = await spans_of(kept, run)
    assert attributes(spans["run"])["chat.run.state"] == "cancelled"
    assert events(spans["run"]) == ["stop"]
    assert spans["run"].status.is_unset


async def test_the_trace_of_a_run_that_failed_has_its_code_and_not_its_message(
    laptop: Device, kept: InMemorySpanExporter
) -> None:
    run = (await laptop.ask("/rate 0 /echo So far. \n/fail overloaded"))["run"]
    await laptop.ended(run)
    spans = await spans_of(kept, run)
    for name in ("run", "chat"):
        assert attributes(spans[name])["error.type"] == "overloaded"
        assert not spans[name].status.is_ok
        assert spans[name].status.description == "overloaded"
    assert "exception" not in events(spans["chat"])


@with_settings(
    CHAT_PROVIDER="claude",
    CHAT_PROVIDERS={"claude": f"{Claude.__module__}.Claude"},
    CHAT_CLAUDE_MODEL="claude-of-the-tests",
    ANTHROPIC_API_KEY="key-of-the-tests",
)
async def test_the_call_of_claude_has_the_names_of_the_conventions(
    laptop: Device, kept: InMemorySpanExporter, settings: Settings
) -> None:
    usage = {"input_tokens": 1000, "cache_creation_input_tokens": 400, "cache_read_input_tokens": 20_000}
    async with MessagesServer(Script(usage=usage)) as server:
        settings.ANTHROPIC_BASE_URL = server.url
        server.script(Script(status=529, headers={"retry-after": "0"}))
        run = (await laptop.ask(SECRET))["run"]
        await laptop.ended(run)
    call = (await spans_of(kept, run))["chat"]
    assert call.name == "chat claude-of-the-tests"
    said = attributes(call)
    assert said["gen_ai.operation.name"] == "chat"
    assert said["gen_ai.provider.name"] == "anthropic"
    assert said["gen_ai.usage.input_tokens"] == 21_400, "with what the cache had"
    assert said["gen_ai.usage.cache_read.input_tokens"] == 20_000
    assert said["gen_ai.usage.cache_creation.input_tokens"] == 400
    assert events(call) == ["retry", "first token"]
    assert dict(call.events[0].attributes or {}) == {"error.type": "overloaded"}
    assert SECRET not in "".join(span.to_json() for span in kept.get_finished_spans())


async def test_without_anybody_to_collect_them_no_span_is_made(
    device: Make, alice: User, conversation: Conversation
) -> None:
    laptop = await (await device(alice, conversation).connect()).synced()
    run = (await laptop.ask("/rate 0 /echo Hello."))["run"]
    assert (await laptop.ended(run))["state"] == "completed"
    trace = tracing.RunTrace(uuid.uuid4(), uuid.uuid4(), 1, "worker")
    trace.calls("scripted", "scripted")
    assert trace._call is None


@pytest.mark.process
async def test_a_server_sends_its_traces_to_a_collector_the_last_ones_at_its_end(
    tmp_path: Path, devices: list[RemoteDevice]
) -> None:
    with Collector() as collector:
        # Nothing is sent by itself within the test: what comes was sent at the end.
        sending = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        async with Server(tmp_path, **sending) as server:
            laptop = RemoteDevice(server, *await begin(server))
            devices.append(laptop)
            await (await laptop.connect()).synced()
            run = (await laptop.ask(f"/rate 0 /echo {SECRET}"))["run"]
            assert (await laptop.ended(run))["state"] == "completed"
            assert collector.spans == []
            assert await server.terminate() == 0
        trace = f"{tracing.trace_id(uuid.UUID(run)):032x}"
        assert {(span.name, span.trace_id.hex()) for span in collector.spans} == {
            ("send", trace),
            ("run", trace),
            ("chat scripted", trace),
        }
        assert SECRET.encode() not in b"".join(collector.bodies)


@pytest.mark.process
async def test_a_collector_that_is_away_keeps_nobody_from_anything(tmp_path: Path, devices: list[RemoteDevice]) -> None:
    with Collector() as gone:
        address = gone.url
    sending = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "50", "LOG_FORMAT": "json"}
    async with Server(tmp_path, **sending) as server:
        laptop = RemoteDevice(server, *await begin(server))
        devices.append(laptop)
        await (await laptop.connect()).synced()
        for _ in range(3):
            run = (await laptop.ask("/rate 0 /echo Hello."))["run"]
            assert (await laptop.ended(run))["state"] == "completed"
        assert await server.terminate() == 0
    told = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    assert any(line["logger"].startswith("opentelemetry.") for line in told), "it is said"
