"""Tools of MCP servers: real ones, as a program of ours and over HTTP on loopback."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import User
from mcp_types import Tool as Offer
from mcp_types import ToolAnnotations
from prometheus_client import REGISTRY
from pytest_django import Settings

from chat.agent import mcp_tools
from chat.agent.claude import definitions
from chat.agent.mcp_setting import servers_in
from chat.agent.mcp_tools import Servers, fault_of, tool_name
from chat.agent.provider import Text
from chat.agent.saying import MAX_RESULT_CHARS
from chat.agent.tool import Tool, ToolError
from chat.models import Conversation
from tests.acting import Acting, asks
from tests.backends import free_port
from tests.contexts import context
from tests.device import Device, until
from tests.test_scripted import turn

pytestmark = pytest.mark.usefixtures("quiet")

Make = Callable[..., Device]
COMMAND = [sys.executable, "-m", "tests.mcp_server"]
OFFERED = ["add", "environment", "fail", "odd_name_of_a-tool_270cb020", "picture", "remember", "wait"]
BY_STDIO = pytest.mark.parametrize("way", ["stdio"], indirect=True)


class Notes:
    """What the server says that it did."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def after(self, words: str) -> str:
        """What follows these words, to the end of the line; nothing until they are there."""
        return self.text.partition(words)[2].partition("\n")[0]


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes.txt")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may take its time to start: this machine does other things as well."""
    monkeypatch.setattr(mcp_tools, "LIST_SECONDS", 30.0)


@pytest.fixture(params=["stdio", "http"])
async def way(request: pytest.FixtureRequest, notes: Notes) -> AsyncIterator[dict[str, Any]]:
    """How a server is named in the setting: a program, or the address of one that runs."""
    if request.param == "stdio":
        yield {"command": COMMAND, "env": {"NOTES": str(notes.path)}, "for": "everybody"}
        return
    port = free_port()
    env = {**os.environ, "NOTES": str(notes.path)}
    process = await asyncio.create_subprocess_exec(
        *COMMAND, str(port), env=env, stderr=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: _listens(port), "the server to listen", 30)
        yield {"url": f"http://127.0.0.1:{port}/mcp", "for": "everybody"}
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def servers() -> AsyncIterator[Callable[..., Servers]]:
    """Make `Servers` of a setting; they are closed when the test ends."""
    made: list[Servers] = []

    def make(**specs: dict[str, Any]) -> Servers:
        made.append(Servers(servers_in(json.dumps(specs))))
        return made[-1]

    yield make
    for one in made:
        await one.aclose()


async def tools_of(servers: Servers, user: object = None) -> dict[str, Tool]:
    return {tool.name: tool for tool in await servers.tools_for(user)}


@pytest.fixture
def agent(tuned: None, settings: Settings, way: dict[str, Any]) -> type[Acting]:
    """What answers, with the tools of one server and no others."""
    settings.CHAT_PROVIDERS = {"acting": "tests.acting.Acting"}
    settings.CHAT_PROVIDER = "acting"
    settings.CHAT_TOOLS = []
    settings.CHAT_MCP_SERVERS = json.dumps({"toy": way})
    Acting.steps, Acting.turns = [], []
    return Acting


@pytest.fixture
async def laptop(agent: type[Acting], device: Make, alice: User, conversation: Conversation) -> Device:
    made = await (await device(alice, conversation).connect()).synced()
    made.deadline = 30.0  # a program may take its time to start
    return made


def result_in(device: Device, run: str) -> dict[str, Any]:
    [result] = [part for part in device.view.parts_of(run) if part["type"] == "tool_result"]
    return result


def left_out(server: str, what: str = "left_out") -> float:
    return REGISTRY.get_sample_value("chat_mcp_failures_total", {"server": server, "what": what}) or 0.0


# --- in a run -----------------------------------------------------------------------------------------------


async def test_a_run_has_the_servers_tools_and_what_they_find_is_read_by_the_model(
    agent: type[Acting], laptop: Device, notes: Notes
) -> None:
    agent.steps = [asks("toy__add", a=1, b=2), [Text("It is three.")]]
    ack = await laptop.ask("One and two?")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert [tool.name for tool in agent.turns[0].tools] == [f"toy__{name}" for name in OFFERED]
    assert agent.turns[1].tools == agent.turns[0].tools
    [add] = [tool for tool in agent.turns[0].tools if tool.name == "toy__add"]
    assert add.definition["input_schema"]["properties"]["a"] == {"title": "A", "type": "integer"}
    assert add.description == "Add two numbers."
    assert (result_in(laptop, ack["run"])["text"], result_in(laptop, ack["run"])["outcome"]) == ("3", "done")
    assert agent.turns[1].results == ["3"]
    assert notes.text == "add 1 2\n"


async def test_a_stop_reaches_the_server_and_the_next_question_works(
    agent: type[Acting], laptop: Device, notes: Notes
) -> None:
    agent.steps = [asks("toy__wait")]
    ack = await laptop.ask("Wait.")
    await laptop.until(lambda: notes.after("wait "), "the tool to begin")
    await laptop.until(lambda: any(frame["type"] == "progress" for frame in laptop.frames), "how far it is")
    assert [frame["text"] for frame in laptop.frames if frame["type"] == "progress"] == ["a quarter"]
    began = time.monotonic()
    await laptop.say("run.cancel", run=ack["run"])
    assert (await laptop.ended(ack["run"]))["state"] == "cancelled"
    await laptop.until(lambda: notes.after("told to stop at "), "the tool to hear of it")
    told = float(notes.after("told to stop at "))
    assert told - began < 2.0  # a few ms where nothing else runs: docs/decisions/0015
    assert result_in(laptop, ack["run"])["outcome"] == "unknown"
    agent.steps = [asks("toy__add", a=2, b=2)]
    assert (await laptop.ended((await laptop.ask("Go on."))["run"]))["state"] == "completed"


async def test_what_may_change_something_waits_for_a_person_and_is_done_once(
    agent: type[Acting], laptop: Device, notes: Notes
) -> None:
    agent.steps = [[*asks("toy__remember", text="milk"), *asks("toy__add", "toolu_2", a=1, b=1)]]
    ack = await laptop.ask("Remember milk.")
    await laptop.until(lambda: laptop.view.state_of(ack["run"]) == "waiting", "the run to wait")
    assert notes.text == "add 1 1\n", "what only reads is not held up"
    [call, _] = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_use"]
    decision = {"run": ack["run"], "call": call["call"], "decision": "approve"}
    await laptop.say("tool.decide", **decision, arguments_hash=call["approval"]["hash"])
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    assert notes.text == "add 1 1\nremember milk\n"
    assert "remembered milk" in str(agent.turns[1].prompt[-1])


@BY_STDIO
async def test_a_server_that_is_killed_in_the_middle_is_an_error_and_started_again_when_needed(
    agent: type[Acting], laptop: Device, notes: Notes
) -> None:
    lost = left_out("toy", "lost")
    agent.steps = [asks("toy__wait"), asks("toy__add", "toolu_2", a=1, b=2)]
    ack = await laptop.ask("Wait.")
    await laptop.until(lambda: notes.after("wait "), "the tool to begin")
    first = int(notes.after("wait "))
    os.kill(first, signal.SIGKILL)
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    results = [part for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_result"]
    assert [part["outcome"] for part in results] == ["error", "done"]
    assert "was lost during the call. What it had begun may have taken effect." in results[0]["text"]
    assert results[1]["text"] == "3", "the same run goes on with a new process"
    assert notes.text.count("wait") == 1, "and never calls again what was begun"
    assert left_out("toy", "lost") == lost + 1


@pytest.mark.parametrize("way", ["stdio"], indirect=True)
async def test_a_server_that_is_away_is_left_out_and_its_history_stays_valid(
    agent: type[Acting], laptop: Device, way: dict[str, Any], settings: Settings
) -> None:
    agent.steps = [asks("toy__add", a=1, b=2), asks("nobody__add", "toolu_2"), asks("toy__gone", "toolu_3")]
    ack = await laptop.ask("Add.")
    assert (await laptop.ended(ack["run"]))["state"] == "completed"
    results = [part["text"] for part in laptop.view.parts_of(ack["run"]) if part["type"] == "tool_result"]
    assert results[1:] == [
        "There is no tool nobody__add.",
        "There is no tool toy__gone now: the server toy does not offer it to this person, or cannot be reached.",
    ]
    asked = turn("What?")
    told = type(asked)(asked.run, asked.conversation, 1, "", agent.turns[-1].prompt)
    assert [tool["name"] for tool in definitions(told)] == ["toy__add", "nobody__add", "toy__gone"]
    assert definitions(turn("What?")) == []


# --- a server and its tools ---------------------------------------------------------------------------------


async def test_results_are_words_and_an_error_is_one(servers: Callable[..., Servers], way: dict[str, Any]) -> None:
    tools = await tools_of(servers(toy=way))
    assert list(tools) == [f"toy__{name}" for name in OFFERED]
    assert [name for name, tool in tools.items() if tool.needs_approval] == ["toy__remember"]
    picture = await tools["toy__picture"].call(context(), {})
    assert picture == "This is it:\n\n[an image, image/png, 300 bytes: it cannot be shown here]"
    for name, wrong, words in (("fail", {}, "It is Sunday."), ("add", {"a": "one"}, "valid integer")):
        with pytest.raises(ToolError, match=words):
            await tools[f"toy__{name}"].call(context(), wrong)
    long = await tools["toy__odd_name_of_a-tool_270cb020"].call(context(), {})
    assert len(long) == MAX_RESULT_CHARS
    assert long.endswith("was cut here.]")


async def test_two_calls_run_beside_each_other(
    servers: Callable[..., Servers], way: dict[str, Any], notes: Notes
) -> None:
    tools = await tools_of(servers(toy=way))
    waiting = asyncio.create_task(tools["toy__wait"].call(context(show=_unheard), {}))
    await until(lambda: notes.after("wait "), "the tool to begin", 30)
    assert await tools["toy__add"].call(context(), {"a": 20, "b": 22}) == "42"
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def _unheard(text: str) -> None:
    """Nobody watches."""


async def test_a_call_has_so_many_seconds(servers: Callable[..., Servers], way: dict[str, Any], notes: Notes) -> None:
    tools = await tools_of(servers(toy={**way, "seconds": 0.5}))
    with pytest.raises(ToolError, match=r"longer than 0\.5 seconds"):
        await tools["toy__wait"].call(context(show=_unheard), {})
    await until(lambda: notes.after("told to stop at "), "the tool to hear of it")


@BY_STDIO
async def test_a_program_gets_none_of_our_keys_and_its_complaints_are_in_the_log(
    servers: Callable[..., Servers],
    way: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    monkeypatch.setenv("SECRET_KEY", "secret")
    caplog.set_level(logging.INFO, "chat.agent")
    tools = await tools_of(servers(toy=way))
    found = (await tools["toy__environment"].call(context(), {})).split()
    assert "NOTES" in found
    assert set(found) - {"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER", "LC_CTYPE"} == {"NOTES"}
    line = "a server says: somebody looks at ⟨U+001B⟩[31mmy environment"
    await until(lambda: line in caplog.messages, "the line in the log")


@BY_STDIO
async def test_a_program_ends_when_it_is_let_go(
    servers: Callable[..., Servers], way: dict[str, Any], notes: Notes
) -> None:
    made = servers(toy=way)
    tools = await tools_of(made)
    waiting = asyncio.create_task(tools["toy__wait"].call(context(show=_unheard), {}))
    await until(lambda: notes.after("wait "), "the tool to begin", 30)
    process = int(notes.after("wait "))
    await made.aclose()
    with pytest.raises(ToolError, match="was lost during the call"):
        await waiting
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@BY_STDIO
async def test_who_may_use_it_which_of_it_and_what_is_approved_the_setting_says(
    servers: Callable[..., Servers],
    way: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    staff, guest = SimpleNamespace(is_staff=True), SimpleNamespace(is_staff=False)
    usual = {name: value for name, value in way.items() if name != "for"}
    made = servers(
        few={**usual, "tools": ["remember", "add", "nothing"], "approve": "all"},
        free={**way, "tools": ["remember"], "approve": "none"},
    )
    assert list(await tools_of(made, guest)) == ["free__remember"]
    tools = await tools_of(made, staff)
    assert {name: tool.needs_approval for name, tool in tools.items()} == {
        "few__add": True,
        "few__remember": True,
        "free__remember": False,
    }
    monkeypatch.setattr(mcp_tools, "LISTED_SECONDS", 0)
    await tools_of(made, staff)
    told = "of a server the tool 'nothing' is left out: it has no such tool"
    assert caplog.messages.count(told) == 1, "once, not each time they are listed"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"command": ["/nowhere/at-all"]}, "No such file"),
        ({"command": [sys.executable, "-c", "print('I speak something else')"]}, "Connection closed"),
        ({"url": "http://127.0.0.1:9/mcp"}, ""),
        ({"command": [sys.executable, "-c", "import time; time.sleep(600)"]}, "it did not answer in time"),
    ],
    ids=["missing", "no server", "unreachable", "silent"],
)
async def test_a_server_that_fails_costs_one_run_a_moment_and_the_others_nothing(
    servers: Callable[..., Servers],
    spec: dict[str, Any],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mcp_tools, "LIST_SECONDS", 1.0)
    before = left_out("bad")
    made = servers(bad={**spec, "for": "everybody"})
    assert await tools_of(made) == {}
    began = time.monotonic()
    assert await tools_of(made) == {}
    assert time.monotonic() - began < 0.5
    assert left_out("bad") == before + 2
    said = [message for message in caplog.messages if message.startswith("a server's tools are left out: ")]
    assert len(said) == 1, "and the log is told once"
    assert why in said[0]


@BY_STDIO
async def test_a_program_that_starts_slowly_is_there_for_the_runs_that_come_later(
    servers: Callable[..., Servers], way: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_tools, "LIST_SECONDS", 0.001)
    made = servers(toy=way)
    assert await tools_of(made) == {}
    monkeypatch.setattr(mcp_tools, "LIST_SECONDS", 30.0)
    async with asyncio.timeout(30):
        while not await tools_of(made):  # noqa: ASYNC110 - it is asked as runs ask it
            await asyncio.sleep(0.02)


@BY_STDIO
async def test_who_cannot_reach_a_server_again_is_told_that_nothing_was_done(
    servers: Callable[..., Servers], way: dict[str, Any], notes: Notes, tmp_path: Path
) -> None:
    program = tmp_path / "server"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.mcp_server "$@"\n')
    program.chmod(0o755)
    tools = await tools_of(servers(toy={**way, "command": [str(program)]}))
    waiting = asyncio.create_task(tools["toy__wait"].call(context(show=_unheard), {}))
    await until(lambda: notes.after("wait "), "the tool to begin", 30)
    program.unlink()
    os.kill(int(notes.after("wait ")), signal.SIGKILL)
    await asyncio.wait([waiting])
    with pytest.raises(ToolError, match="cannot be reached now"):
        await tools["toy__remember"].call(context(), {"text": "milk"})
    assert "remember" not in notes.text


# --- names, offers, the setting -----------------------------------------------------------------------------


def test_names_are_the_apis_and_no_two_clash() -> None:
    names = ["a", "a.b", "a/b", "a_b", "x" * 64, "x" * 65, "é", "", "A"]
    made = [tool_name("toy", name) for name in names]
    assert len(set(made)) == len(names)
    assert all(
        len(name) <= 64 and name.isascii() and set(name) <= set("_-") | set(filter(str.isalnum, name)) for name in made
    )
    assert made[:1] == ["toy__a"]
    assert tool_name("toy", "a.b") == made[1], "the same each time"


@pytest.mark.parametrize(
    ("schema", "fault"),
    [
        ({"type": "object"}, ""),
        ({"type": "object", "properties": {"a": {"anyOf": [{}, {}]}}}, ""),
        ({"type": "object", "anyOf": []}, "its schema has anyOf at the top"),
        ({"properties": {}}, "its arguments are no object"),
        ({"type": "object", "title": "x" * 30_000}, "it is too long"),
        ({"type": "object", "title": "\ud800"}, "it has characters that cannot be sent"),
    ],
)
def test_what_the_api_would_refuse_is_left_out(schema: dict[str, Any], fault: str) -> None:
    offer = Offer.model_construct(name="one", input_schema=schema, annotations=ToolAnnotations())
    assert fault_of(offer) == fault


def test_servers_keep_the_order_of_the_setting() -> None:
    read = servers_in('{"b": {"command": ["x"]}, "a": {"url": "https://example.org/mcp"}}')
    assert list(read) == ["b", "a"]
    assert (read["b"].to, read["b"].approve, read["b"].tools) == ("staff", "changes", None)
    assert servers_in("") == {}


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("{", "it is no JSON, from character 2 on"),
        ("[]", "it is not an object of servers by name"),
        ('{"a__b": {"command": ["x"]}}', "'a__b' is no name for a server"),
        ('{"é": {"command": ["x"]}}', "'é' is no name for a server"),
        ('{"a": {}}', "a: give either command or url"),
        ('{"a": {"command": ["x"], "url": "https://example.org"}}', "a: give either command or url"),
        ('{"a": {"command": ["x"], "headers": {"A": "b"}}}', "a: env goes with command, and headers with url"),
        ('{"a": {"command": [" "]}}', "a: command begins with the name of a program"),
        ('{"a": {"command": "x y"}}', "a.command: Input should be a valid tuple"),
        ('{"a": {"url": "ftp://example.org"}}', "a: url is not the address of an HTTP server"),
        ('{"a": {"command": ["x"], "approve": "some"}}', "a.approve: Input should be 'all', 'none' or 'changes'"),
        ('{"a": {"command": ["x"], "for": "me"}}', "a.for: Input should be 'everybody' or 'staff'"),
        ('{"a": {"command": ["x"], "seconds": 0}}', "a.seconds: Input should be greater than 0"),
        ('{"a": {"command": ["x"], "key": "hunter2"}}', "a.key: Extra inputs are not permitted"),
    ],
)
def test_a_setting_that_cannot_be_read_says_why_and_repeats_no_value(setting: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}") as error:
        servers_in(setting)
    assert "hunter2" not in str(error.value)
