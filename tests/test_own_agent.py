"""Agents that people bring: what docs/own-agent.md promises, and its examples, run."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from django.contrib.auth.models import User
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pytest_django import Settings

from chat import host as hosts
from chat.agent import runner
from chat.agent.named import NoProvider, provider_at
from chat.agent.provider import Line, PromptMessage, ProviderEvent, lines_before_the_question
from chat.models import Conversation, Run
from examples import framework, plain
from tests import acting, own_agents
from tests.device import Device, until

Make = Callable[..., Device]
ROOT = Path(__file__).resolve().parent.parent
NAMES = ["noting", "short", "watching", "string", "bad_block", "long_reason", "silent", "deaf", "talkative"]
NAMES += ["last_word", "blocking", "unready", "leaving"]


@pytest.fixture(autouse=True)
def forgotten() -> None:
    acting.ran.clear()
    own_agents.happened.clear()
    own_agents.release = asyncio.Event()


@pytest.fixture
async def answered_by(
    tuned: None, settings: Settings, device: Make, alice: User, conversation: Conversation
) -> Callable[[str], Any]:
    """A device in a conversation that an agent of this name answers."""
    examples = {"plain": "examples.plain.reply", "framework": "examples.framework.reply"}
    own = {name: f"tests.own_agents.{name}" for name in NAMES}
    settings.CHAT_PROVIDERS = {**settings.CHAT_PROVIDERS, **examples, **own, "acting": "tests.acting.Acting"}
    settings.CHAT_TOOLS = ["tests.acting.note", "tests.acting.delete"]
    settings.CHAT_TOOLS += ["tests.own_agents.look_too", "tests.own_agents.chatty"]

    async def make(name: str) -> Device:
        await Conversation.objects.filter(pk=conversation.pk).aupdate(provider=name)
        return await (await device(alice, conversation).connect()).synced()

    return make


def results_in(device: Device, run: str) -> list[tuple[str, str]]:
    parts = device.view.parts_of(run)
    return [(part["name"], part["outcome"]) for part in parts if part["type"] == "tool_result"]


# --- what an agent has --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
async def test_an_agent_may_be_a_function_that_asks_for_tools(answered_by: Callable[[str], Any]) -> None:
    laptop = await answered_by("noting")
    ack = await laptop.ask("Milk.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == "The tool said: noted Milk.."
    assert acting.ran == ["Milk."]
    assert next(frame["text"] for frame in laptop.frames if frame["type"] == "progress") == "thinking"


@pytest.mark.usefixtures("quiet")
async def test_what_is_approved_is_shown_also_if_the_agent_did_not_write_it_out(
    answered_by: Callable[[str], Any],
) -> None:
    laptop = await answered_by("short")
    ack = await laptop.ask("Delete it.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    [call] = laptop.view.parts_of(ack["run"])
    assert json.loads(call["text"]) == json.loads(call["approval"]["shown"]) == {"what": "it"}
    await laptop.say("run.cancel", run=ack["run"])
    await laptop.ended(ack["run"])
    assert acting.ran == []


@pytest.mark.usefixtures("quiet")
async def test_a_stop_can_be_seen_and_awaited_by_the_agent_and_its_tools(answered_by: Callable[[str], Any]) -> None:
    laptop = await answered_by("watching")
    ack = await laptop.ask("Go.")
    await laptop.until(lambda: "looks" in own_agents.happened, "the tool to run")
    assert own_agents.happened[0] == "closed, False", "between its steps nothing of an agent is kept"
    assert "seen" not in own_agents.happened
    await laptop.say("run.cancel", run=ack["run"])
    await laptop.ended(ack["run"])
    assert {"seen", "tool, True"} <= set(own_agents.happened)


@pytest.mark.usefixtures("quiet")
async def test_progress_is_the_latest_and_no_flood(answered_by: Callable[[str], Any]) -> None:
    acting.Acting.steps, acting.Acting.turns = [acting.asks("chatty")], []
    laptop = await answered_by("acting")
    ack = await laptop.ask("Go.")
    last = str(own_agents.MANY - 1)

    def told() -> list[str]:
        return [frame["text"] for frame in laptop.frames if frame["type"] == "progress"]

    await laptop.until(lambda: told()[-1:] == [last], "the last of them")
    assert len(told()) < 50
    own_agents.release.set()
    await laptop.ended(ack["run"])


def test_the_history_is_what_was_said_before_the_question() -> None:
    def said(role: str, *texts: str, **block: Any) -> PromptMessage:
        blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in texts]
        return {"role": role, "content": [*blocks, *([block] if block else [])]}  # type: ignore[typeddict-item]

    past = [said("user", "One?", "Two?"), said("assistant", "Both.", type="tool_use", name="x")]
    now = [said("user", "Three?"), said("assistant", "Let me see.", type="tool_use", name="x")]
    found: PromptMessage = {"role": "user", "content": [{"type": "tool_result", "content": "3"}]}
    expected = [Line("user", "One?"), Line("user", "Two?"), Line("assistant", "Both.")]
    assert lines_before_the_question([*past, now[0]]) == expected
    assert lines_before_the_question([*past, *now, found]) == expected
    assert lines_before_the_question([*past, *now, said("user", "[go on]")]) == expected
    assert lines_before_the_question(past[:1]) == [Line("user", "One?")]
    assert lines_before_the_question([]) == []


# --- what an agent must not do ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state", "code"),
    [
        ("string", "failed", "internal"),
        ("bad_block", "failed", "internal"),
        ("leaving", "failed", "internal"),
        ("long_reason", "completed", ""),
    ],
)
async def test_what_is_no_event_ends_the_run_and_the_log_says_what_it_was(
    answered_by: Callable[[str], Any], caplog: pytest.LogCaptureFixture, name: str, state: str, code: str
) -> None:
    laptop = await answered_by(name)
    ack = await laptop.ask("Go.")
    ended = await laptop.ended(ack["run"])
    assert (ended["state"], (ended["error"] or {"code": ""})["code"]) == (state, code)
    assert laptop.view.text_of(ack["run"]) == "So far. "
    if name == "string":
        assert "a reply yields events of chat.agent.provider, and not str" in caplog.text
    assert len((await Run.objects.aget(pk=ack["run"])).stop_reason) <= 40


@pytest.mark.usefixtures("quiet")
async def test_a_call_whose_arguments_never_come_is_an_error_and_it_goes_on(answered_by: Callable[[str], Any]) -> None:
    laptop = await answered_by("unready")
    ack = await laptop.ask("Go.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert results_in(laptop, ack["run"]) == [("note", "error")]
    assert laptop.view.text_of(ack["run"]) == "Or not. So."


@pytest.mark.usefixtures("quiet")
async def test_an_agent_that_never_speaks_runs_until_somebody_stops_it(answered_by: Callable[[str], Any]) -> None:
    laptop = await answered_by("silent")
    ack = await laptop.ask("Well?")
    await laptop.until(lambda: own_agents.happened == ["asked"], "the agent to be asked")
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    assert own_agents.happened == ["asked", "closed"]


async def test_a_run_ends_also_if_its_agent_does_not(
    answered_by: Callable[[str], Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LEAVE_SECONDS", 0.2)
    laptop = await answered_by("deaf")
    ack = await laptop.ask("Well?")
    await laptop.writes(ack["run"])
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    assert "the provider does not stop; its run ends without it" in caplog.messages
    assert set(own_agents.happened) == {"ignored"}
    own_agents.release.set()
    await until(lambda: "left" in own_agents.happened, "its end")
    assert laptop.view.text_of(ack["run"]) == "I do not listen. "


@pytest.mark.parametrize("name", ["talkative", "last_word"])
async def test_what_an_agent_says_after_it_was_told_to_stop_is_not_heard(
    answered_by: Callable[[str], Any], name: str
) -> None:
    laptop = await answered_by(name)
    ack = await laptop.ask("Well?")
    text = await laptop.writes(ack["run"])
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    assert laptop.view.text_of(ack["run"]) == text


@pytest.mark.parametrize("name", ["talkative", "last_word", "deaf"])
async def test_a_process_that_ends_gives_the_run_back_whatever_the_agent_does(
    answered_by: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(runner, "LEAVE_SECONDS", 0.2)
    laptop = await answered_by(name)
    ack = await laptop.ask("Well?")
    text = await laptop.writes(ack["run"])
    await hosts.stop()
    own_agents.release.set()
    run = await Run.objects.select_related("answer").aget(pk=ack["run"])
    assert (run.state, run.error_code) == ("interrupted", "server_lost"), "with a retry offered"
    assert run.answer is not None
    assert run.answer.text == text


async def test_an_agent_that_blocks_holds_everybody_up_and_loses_nothing(
    answered_by: Callable[[str], Any], device: Make, alice: User, make_another: Conversation
) -> None:
    other = await (await device(alice, make_another).connect()).synced()
    laptop = await answered_by("blocking")
    neighbour = await other.ask("/rate 100 /long 60")
    ack = await laptop.ask("Well?")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert laptop.view.text_of(ack["run"]) == "Let me think. Done."
    assert (await other.ended(neighbour["run"]))["state"] == "completed"
    assert len(other.view.text_of(neighbour["run"]).split()) == 60


@pytest.fixture
def make_another(tuned: None, alice: User) -> Conversation:
    return Conversation.begin(alice)


@pytest.mark.parametrize("name", ["no_generator", "Half", "release"])
def test_what_cannot_answer_is_not_taken(name: str) -> None:
    with pytest.raises(NoProvider):
        provider_at(f"tests.own_agents.{name}")


# --- the examples -------------------------------------------------------------------------------------------


def test_the_page_shows_the_examples_as_they_are() -> None:
    page = (ROOT / "docs" / "own-agent.md").read_text(encoding="utf-8")
    for name in ("plain", "framework"):
        source = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
        assert f"```python\n{source}```" in page, name


def test_the_page_has_all_that_an_agent_may_yield() -> None:
    page = (ROOT / "docs" / "own-agent.md").read_text(encoding="utf-8")
    assert [event.__name__ for event in get_args(ProviderEvent) if f"`{event.__name__}(" not in page] == []


class Completions:
    """A server that speaks the chat-completions format: says `words`, then ends as told, or waits for ever."""

    def __init__(self) -> None:
        self.words: list[str] = ["Hello", " there."]
        self.ends = "[DONE]"  # "": it breaks off; "hang": it waits
        self.status = "200 OK"
        self.asked: list[dict[str, Any]] = []
        self.closed = 0

    async def __aenter__(self) -> "Completions":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1/chat/completions"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        self.asked.append(json.loads(await reader.readexactly(length)))
        writer.write(f"HTTP/1.1 {self.status}\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n".encode())
        for word in self.words:
            writer.write(b"data: %s\n\n" % json.dumps({"choices": [{"delta": {"content": word}}]}).encode())
        if self.ends == "hang":
            assert await reader.read() == b""
            self.closed += 1
        elif self.ends:
            writer.write(b"data: [DONE]\n\n")
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def completions(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Completions]:
    async with Completions() as server:
        monkeypatch.setattr(plain, "URL", server.url)
        yield server


@pytest.mark.usefixtures("quiet")
async def test_the_plain_example_answers_and_knows_what_was_said(
    answered_by: Callable[[str], Any], completions: Completions
) -> None:
    laptop = await answered_by("plain")
    for question in ("Hello?", "And again?"):
        ack = await laptop.ask(question)
        assert (await laptop.ended(ack["run"]))["state"] == "completed"
        assert laptop.view.text_of(ack["run"]) == "Hello there."
    asked = [(message["role"], message["content"]) for message in completions.asked[1]["messages"]]
    assert asked[1:] == [("user", "Hello?"), ("assistant", "Hello there."), ("user", "And again?")]


@pytest.mark.usefixtures("quiet")
async def test_a_stop_closes_the_plain_examples_connection(
    answered_by: Callable[[str], Any], completions: Completions
) -> None:
    completions.ends = "hang"
    laptop = await answered_by("plain")
    ack = await laptop.ask("Hello?")
    await laptop.writes(ack["run"], len("Hello there."))
    assert completions.closed == 0
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    await until(lambda: completions.closed == 1, "the connection to be closed")


@pytest.mark.parametrize(
    ("status", "ends", "state", "code"),
    [("200 OK", "", "interrupted", "connection_lost"), ("503 Busy", "[DONE]", "failed", "server_error")],
)
@pytest.mark.usefixtures("quiet")
async def test_the_plain_example_says_what_went_wrong(
    answered_by: Callable[[str], Any], completions: Completions, status: str, ends: str, state: str, code: str
) -> None:
    completions.status, completions.ends = status, ends
    laptop = await answered_by("plain")
    ack = await laptop.ask("Hello?")
    ended = await laptop.ended(ack["run"])
    assert (ended["state"], ended["error"]["code"]) == (state, code)


class Model:
    """What the framework asks: a model without a network, that asks for tools and then says what they said."""

    def __init__(self) -> None:
        self.hangs = False
        self.closed = 0
        self.tools: list[str] = []

    async def stream(
        self, messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncGenerator[str | dict[int, DeltaToolCall], None]:
        self.tools = [tool.name for tool in info.function_tools]
        results = [part.content for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        if results:
            yield "They said: "
            yield ", ".join(map(str, results))
            return
        yield "Let me see. "
        if self.hangs:
            try:
                await asyncio.Event().wait()
            finally:
                self.closed += 1
        yield {1: DeltaToolCall("note", '{"text": ', tool_call_id="call-a")}
        yield {1: DeltaToolCall(None, '"milk"}')}
        yield {2: DeltaToolCall("delete", '{"what": "eggs"}', tool_call_id="call-b")}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    made = Model()
    monkeypatch.setattr(framework.agent, "model", FunctionModel(stream_function=made.stream))
    return made


@pytest.mark.usefixtures("quiet")
async def test_the_frameworks_tools_are_ours_with_approval_and_all(
    answered_by: Callable[[str], Any], model: Model
) -> None:
    laptop = await answered_by("framework")
    ack = await laptop.ask("Note milk, delete eggs.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    assert acting.ran == ["milk"]
    [call] = [part for part in laptop.view.parts_of(ack["run"]) if part.get("status") == "waiting"]
    decision = {"run": ack["run"], "call": call["call"], "decision": "approve"}
    await laptop.say("tool.decide", **decision, arguments_hash=call["approval"]["hash"])
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert acting.ran == ["milk", "eggs"]
    assert model.tools == ["note", "delete", "look_too", "chatty"]
    assert laptop.view.text_of(ack["run"]) == "Let me see. They said: noted milk, deleted eggs"
    assert results_in(laptop, ack["run"]) == [("note", "done"), ("delete", "done")]
    run = await Run.objects.aget(pk=ack["run"])
    assert run.usage["output_tokens"] > 0


@pytest.mark.usefixtures("quiet")
async def test_a_stop_ends_the_frameworks_own_task(answered_by: Callable[[str], Any], model: Model) -> None:
    model.hangs = True
    laptop = await answered_by("framework")
    ack = await laptop.ask("Go.")
    await laptop.writes(ack["run"])
    assert model.closed == 0
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    assert laptop.view.text_of(ack["run"]) == "Let me see. "
    assert model.closed == 1, "before the run is told to have ended"
    model.hangs = False
    again = await laptop.ask("Go on.")
    await laptop.until(lambda: laptop.view.state_of(again["run"]) == "waiting", "the next one to work")
    await laptop.say("run.cancel", run=again["run"])
    await laptop.ended(again["run"])
