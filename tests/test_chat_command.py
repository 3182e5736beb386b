"""`manage.py chat`: a person at a terminal, and a program at the other end of a pipe."""

import asyncio
import contextlib
import io
import os
import pty
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from chat.agent.scripted import long_text
from chat.client import View, events
from chat.client.event import Event
from chat.client.facts import Ending, Part, Problem, Who
from chat.client.terminal import Plain, Screen, how_it_ended, plain
from tests.device import until
from tests.fault_proxy import FaultProxy
from tests.remote import RemoteDevice, begin
from tests.server import PYTHON, ROOT, Server

pytestmark = pytest.mark.process
real = pytest.mark.asyncio(loop_scope="module")
TOKEN = """
from django.contrib.auth.models import User
from chat.models.token import AccessToken
print(AccessToken.issue(User.objects.get(username="alice"), "terminal")[1])
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def token(server: Server) -> str:
    """Alice's."""
    await begin(server)
    return (await server.python(TOKEN)).split()[-1]


def page(place: Server | FaultProxy, conversation: str) -> str:
    return f"{place.url}/conversations/{conversation}/"


def environment(server: Server, token: str) -> dict[str, str]:
    return {**server.environment, "CONVERSATION_TOKEN": token, "PYTHONIOENCODING": "utf-8"}


async def piped(server: Server, token: str, url: str, said: str, *options: str) -> tuple[int, str, str]:
    """Exit code, what was printed, and what was said about it."""
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        "manage.py",
        "chat",
        url,
        *options,
        cwd=ROOT,
        env=environment(server, token),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(40):
        out, err = await process.communicate(said.encode())
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@real
async def test_a_pipe_says_each_line_and_prints_the_answers_in_order(server: Server, token: str) -> None:
    conversation, _ = await begin(server)
    said = "/rate 200 /long 60\n\n/echo Second\r\n/echo Third, without an end"
    code, out, err = await piped(server, token, page(server, conversation), said)
    assert (code, out) == (0, f"{long_text(60)}\nSecond\nThird, without an end\n"), err


@real
async def test_nothing_said_is_nothing_printed(server: Server, token: str) -> None:
    conversation, _ = await begin(server)
    assert (await piped(server, token, page(server, conversation), ""))[:2] == (0, "")


@real
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/refuse", "refusal"),
        ("/echo So far\n/fail overloaded", "failed"),
        ("x" * 70_000, "too_large"),
        ("/lost", "interrupted"),
    ],
)
async def test_what_does_not_end_well_is_said_and_is_the_exit_code(
    server: Server, token: str, said: str, told: str
) -> None:
    conversation, _ = await begin(server)
    code, _, err = await piped(server, token, page(server, conversation), said)
    assert code == 1
    assert told in err
    assert "Traceback" not in err


@real
async def test_what_there_is_of_an_answer_that_ended_early_is_printed(server: Server, token: str) -> None:
    conversation, _ = await begin(server)
    code, out, err = await piped(server, token, page(server, conversation), "/long 3 /max")
    assert (code, out) == (1, "word1 word2 word3\n")
    assert err.endswith("CommandError: [ended: max_tokens]\n")


@real
async def test_what_cannot_be_kept_is_said_at_the_end(server: Server, token: str, tmp_path: Path) -> None:
    conversation, _ = await begin(server)
    (tmp_path / "file").touch()
    url = page(server, conversation)
    code, out, err = await piped(server, token, url, "/echo Me", "--state", str(tmp_path / "file" / "state"))
    assert (code, out) == (1, "")
    assert "Not a directory" in err
    assert "Traceback" not in err


@real
async def test_who_may_not_come_in_is_told_so(server: Server, token: str) -> None:
    conversation, _ = await begin(server)
    other, _ = await begin(server, "bob")
    for secret, url, told in (
        ("cvt_nonsense", page(server, conversation), "signed_out"),
        (token, page(server, other), "forbidden"),
        (token, page(server, str(uuid.uuid4())), "forbidden"),
        (token, f"{server.url}/somewhere/", "address of a conversation"),
        ("", page(server, conversation), "access token is needed"),
        (" \n", page(server, conversation), "access token is needed"),
        ("cvt_non\nsense", page(server, conversation), "access token is none"),
        ("cvt_nonsensé", page(server, conversation), "access token is none"),
        (f" {token}\n", page(server, other), "forbidden"),
    ):
        code, out, err = await piped(server, secret, url, "Hello?")
        assert (code, out) == (1, ""), err
        assert told in err
        assert "Traceback" not in err
        assert "sens" not in err, "a secret"


class Keyboard:
    """A terminal with the command in it. `screen` is all it has shown."""

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self.process = process
        self.screen = ""
        self._terminal = terminal
        asyncio.get_running_loop().add_reader(terminal, self._read)

    def _read(self) -> None:
        try:
            chunk = os.read(self._terminal, 65_536)
        except OSError:  # the other end is closed
            chunk = b""
        if not chunk:
            asyncio.get_running_loop().remove_reader(self._terminal)
        self.screen += chunk.decode(errors="replace")

    def type(self, line: str) -> None:
        os.write(self._terminal, f"{line}\n".encode())

    async def shows(self, text: str) -> None:
        await until(lambda: text in self.screen, f"{text!r} in {self.screen!r}", 20.0)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._terminal)
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        os.close(self._terminal)


def _sit_down() -> None:
    """In the new process: this terminal is its own, and Ctrl-C works even if the tests run in the background."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def sits_at(
    server: Server, token: str, conversation: str, *options: str, by: FaultProxy | None = None
) -> AsyncIterator[Keyboard]:
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        "manage.py",
        "chat",
        page(by or server, conversation),
        *options,
        cwd=ROOT,
        env=environment(server, token),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_sit_down,
    )
    os.close(theirs)
    keyboard = Keyboard(process, ours)
    try:
        yield keyboard
    finally:
        await keyboard.close()


def state_of(device: RemoteDevice, text: str) -> str:
    """Of the run of the message that says this."""
    runs = (run for run in device.view.runs.values() if device.view.messages[run["prompt"]]["text"] == text)
    return str(next(runs, {"state": ""})["state"])


@real
async def test_a_person_talks_and_sees_what_others_say(server: Server, token: str) -> None:
    conversation, session = await begin(server)
    other = RemoteDevice(server, conversation, session)
    await (await other.connect()).synced()
    await other.ended((await other.ask("/echo Before you came"))["run"])
    async with sits_at(server, token, conversation, "--name", "Her terminal") as alice:
        await alice.shows("alice: /echo Before you came")
        await alice.shows("* Before you came")
        await alice.shows("-- live by websocket --")
        alice.type("/rate 200 /long 40")
        await alice.shows(f"* {long_text(40)}".replace("\n", "\r\n"))
        alice.type("/hang")
        await until(lambda: state_of(other, "/hang") == "running", "the run that hangs")
        await other.ask("/echo From the other")
        await alice.shows("alice (waits): /echo From the other")
        alice.type("/queue")
        await alice.shows("1. /echo From the other")
        alice.type("/title Terminals")
        await alice.shows("[the title is now: Terminals]")
        alice.type("/stop all")
        await alice.shows("[stopped by alice]")
        alice.type("/help")
        await alice.shows("/stop all     stop everything")
        alice.type("/quit")
        assert await alice.process.wait() == 0
    await until(lambda: other.view.title == "Terminals", "the new title")
    await other.disconnect()


@real
async def test_ctrl_c_leaves_and_stops_nothing(server: Server, token: str) -> None:
    conversation, session = await begin(server)
    other = RemoteDevice(server, conversation, session)
    await (await other.connect()).synced()
    async with sits_at(server, token, conversation) as alice:
        alice.type("/rate 50 /long 100")
        await alice.shows("word3 ")
        os.kill(alice.process.pid, signal.SIGINT)
        assert await alice.process.wait() == 130
        assert "Traceback" not in alice.screen
    (run,) = await until(lambda: list(other.view.runs), "her question")
    assert (await other.ended(run))["state"] == "completed"
    await other.disconnect()


def lines_with(words: str, screen: str) -> set[str]:
    return {line for line in plain(screen).split("\n") if words in line}


@real
async def test_what_is_said_of_the_connection_stands_on_lines_of_its_own(server: Server, token: str) -> None:
    conversation, _ = await begin(server)
    mine = (await server.python(TOKEN)).split()[-1]
    revoke = "from chat.models import AccessToken; AccessToken.by_keys([AccessToken.key_of({!r})])[0].revoke()"
    async with FaultProxy(server.port) as proxy, sits_at(server, mine, conversation, by=proxy) as alice:
        alice.type("/rate 30 /long 5000")
        await alice.shows("word9 ")
        proxy.reset()
        await alice.shows("-- reconnecting")
        await until(lambda: alice.screen.count("-- live by websocket --") == 2, "live again", 20.0)
        assert {line[:3] for line in lines_with("--", alice.screen)} == {"-- "}
        seen = len(alice.screen)
        await until(lambda: "word" in alice.screen[seen:], "more of the answer")
        await server.python(revoke.format(mine))
        assert await alice.process.wait() == 1
        await alice.shows("CommandError")
        assert {line[:13] for line in lines_with("CommandError", alice.screen)} == {"CommandError:"}


@real
async def test_one_device_however_often_it_comes(server: Server, token: str, tmp_path: Path) -> None:
    conversation, _ = await begin(server)
    devices = "from chat.models import Device; print(Device.objects.filter(name='Counted').count())"
    for _ in range(2):
        url = page(server, conversation)
        code, *_ = await piped(server, token, url, "/echo Me", "--name", "Counted", "--state", str(tmp_path / "s"))
        assert code == 0
    assert (await server.python(devices)).split()[-1] == "1"


# --- what reaches the terminal ------------------------------------------------------------------------------

NASTY = [
    ("\x1b[31mred\x1b[0m", "red"),
    ("\x1b]0;title\x07text", "text"),
    ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x1bPdevice control\x1b\\after", "after"),
    ("\x9b2Jgone\x9d0;t\x9cstays", "gonestays"),
    ("bell\x07 back\x08 del\x7f nul\x00 esc\x1b", "bell back del nul esc"),
    ("\x1bcreset\x1b(0charset", "resetcharset"),
    ("line\r\nnext\rover", "line\nnextover"),
    ("tab\tand\nlines, ünïcödé 😀", "tab\tand\nlines, ünïcödé 😀"),
]


@pytest.mark.parametrize(("text", "shown"), NASTY)
def test_no_control_character_reaches_the_terminal_whole_or_in_pieces(text: str, shown: str) -> None:
    assert plain(text) == shown
    for size in (1, 2, 3):
        piecewise = Plain()
        assert "".join(piecewise(text[at : at + size]) for at in range(0, len(text), size)) == shown


def test_a_sequence_without_an_end_does_not_swallow_the_answer() -> None:
    piecewise = Plain()
    shown = "".join(piecewise("\x1b]0;" + "x" * 50 if part == 0 else "word ") for part in range(500))
    assert shown.count("word") > 200
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (Ending("p", 1, "completed", "end_turn", None, None, False, {}), ""),
        (Ending("p", 1, "completed", "max_tokens", None, None, False, {}), "[ended: max_tokens]"),
        (Ending("p", 1, "cancelled", "", Who("bob\x1b[1m", None, ""), None, True, {}), "[stopped by bob]"),
        (Ending("p", 1, "failed", "", None, Problem("x", "Too busy."), True, {}), "[failed: Too busy.]"),
    ],
)
def test_how_it_ended_is_said_when_it_is_not_the_usual(ending: Ending, told: str) -> None:
    assert how_it_ended(ending) == told


class Story:
    """A conversation without a server, shown as it happens."""

    def __init__(self, only: list[str] | None = None) -> None:
        self.view = View()
        self.out = io.StringIO()
        self.screen = Screen(self.out, self.view, only=only)
        self.serial = 0
        self.lengths: dict[str, int] = {}

    def happens(self, event: Event) -> None:
        self.view.apply(event)
        self.screen.show(event)

    def next(self) -> int:
        self.serial += 1
        return self.serial

    def ask(self, name: str, user: str, text: str) -> None:
        parts = (Part("text", text, "done"),)
        who = Who(user, None, "")
        serial = self.next()
        self.happens(
            events.MessageCreated(
                serial=serial,
                message=name,
                run=f"run-{name}",
                role="user",
                client_id="",
                by=who,
                parts=parts,
                place=serial,
            )
        )
        self.happens(
            events.RunStarted(
                serial=self.next(), run=f"run-{name}", message=f"answer-{name}", prompt=name, place=serial, attempt=1
            )
        )

    def write(self, name: str, text: str) -> None:
        at = self.lengths.get(name, 0)
        self.lengths[name] = at + len(text)
        message, run = f"answer-{name}", f"run-{name}"
        self.happens(events.MessageDelta(serial=self.next(), message=message, run=run, part=0, offset=at, text=text))

    def end(
        self, name: str, reason: str = "completed", usage: dict[str, int] | None = None, cost: int | None = None
    ) -> None:
        self.happens(
            events.RunEnded(
                serial=self.next(),
                run=f"run-{name}",
                length=0,
                prompt=name,
                place=1,
                reason=reason,
                stop_reason="end_turn",
                by=None,
                error=None,
                retryable=False,
                usage=usage or {},
                cost=cost,
                estimated=reason == "cancelled",
            )
        )


def test_an_answer_goes_on_after_what_came_between_and_a_second_one_waits_for_its_end() -> None:
    story = Story()
    story.ask("a", "alice", "First?")
    story.write("a", "One ")
    story.ask("b", "bob", "Second?\x1b[2J")
    story.write("b", "Beside ")
    story.write("a", "two\n")
    story.write("a", "lines")
    story.end("a")
    story.write("b", "it")
    story.end("b", "cancelled")
    assert story.out.getvalue() == ("alice: First?\n* One \nbob: Second?\n* two\nlines\n* Beside it\n[stopped]\n")


def test_what_an_answer_used_stands_below_it() -> None:
    story = Story()
    story.screen.currency = "USD"
    story.ask("a", "alice", "First?")
    story.write("a", "One")
    story.end("a", usage={"input_tokens": 1200, "cache_read_input_tokens": 34, "output_tokens": 5}, cost=12_300)
    story.ask("b", "alice", "Second?")
    story.end("b", "cancelled", usage={"output_tokens": 5})
    said = story.out.getvalue()
    assert "* One\n[1,234 tokens in, 5 out, about 0.0123 USD]\n" in said
    assert said.endswith("[stopped]\n[about 5 tokens out, cost unknown]\n")


def test_only_the_answers_that_were_asked_for_are_printed_in_the_order_of_asking() -> None:
    runs: list[str] = []
    story = Story(only=runs)
    story.ask("a", "alice", "First?")
    story.ask("x", "bob", "Beside?")
    story.ask("b", "alice", "Second?")
    story.write("x", "Not for us")
    story.end("x")
    story.write("b", "Two\n")
    story.end("b")
    runs += ["run-a", "run-b"]
    story.write("a", "One")
    assert story.out.getvalue() == "One"
    story.end("a", "cancelled")
    assert story.out.getvalue() == "One\nTwo\n"
