"""Be a device of a conversation, here in the terminal, or in a pipe.

Lines that are typed are said. In a pipe each line is said, the answers are printed when they come, and it ends with 0
when the last one has. Ctrl-C quits: what runs goes on.
"""

import asyncio
import os
import sys
import threading
import uuid
from argparse import RawDescriptionHelpFormatter
from collections.abc import AsyncIterator, Coroutine
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from django.core.management.base import BaseCommand, CommandError, CommandParser

from chat.client import Closed, Conversation, Left, Offered, Offers, Refused, State, Unreadable, connect, events
from chat.client.question import DECLINED, Question
from chat.client.terminal import ASK, Screen, Status, how_it_ended, nearly_used_up, plain, to_decide

HELP = """\
/stop         stop what you asked for
/stop all     stop everything that runs or waits here
/queue        what waits to be answered
/title TEXT   give the conversation another title
/skip         do not answer what the agent asks you
/approve      let the tool run that waits for a decision
/deny REASON  do not; the agent reads why, if you say so
/quit         leave; what runs goes on
Anything else is said, or is the answer if the agent asks you something. To say it all the same, or what begins with
one of these, begin with a space."""


class Command(BaseCommand):
    help = __doc__
    requires_system_checks = []

    def create_parser(self, prog_name: str, subcommand: str, **options: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, formatter_class=RawDescriptionHelpFormatter, **options)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("url", help="the address of the conversation's page")
        parser.add_argument(
            "--token",
            default=os.environ.get("CONVERSATION_TOKEN", ""),
            help="an access token; better in CONVERSATION_TOKEN, where no other user of this machine sees it",
        )
        parser.add_argument("--name", default=f"Terminal on {os.uname().nodename}", help="what people call this device")
        parser.add_argument("--last", type=int, default=5, help="how many turns to show at first")
        parser.add_argument("--state", type=Path, help="where to keep who this device is and what was not yet sent")

    def handle(self, *args: Any, **options: Any) -> None:
        options["token"] = options["token"].strip()  # before `default_state`: with or without a line's end, one device
        if not options["token"]:
            raise CommandError("An access token is needed: --token, or CONVERSATION_TOKEN in the environment.")
        try:
            asyncio.run(self._chat(**options))
        except KeyboardInterrupt:
            sys.exit(130)
        except (Closed, Refused, Unreadable) as error:
            raise CommandError(plain(str(error))) from error
        except (ValueError, OSError) as error:
            raise CommandError(str(error)) from error

    async def _chat(self, url: str, token: str, name: str, last: int, state: Path | None, **_: Any) -> None:
        status = Status(sys.stderr)
        file = state or default_state(url, token)
        async with connect(url, token, name=name, cursor_file=file, resume=False, on_state=status) as talk:
            job: Terminal | Pipe
            if sys.stdin.isatty():
                job = Terminal(talk, Screen(sys.stdout, talk.view, last=last))
            else:
                job = Pipe(talk, sys.stdout)
            if sys.stdout.isatty() and sys.stderr.isatty():
                status.screen = job.screen
            try:
                await job.run()
            finally:
                status.end_line()  # what is said last stands on a line of its own
            if isinstance(job, Terminal) and talk.unanswered:
                self.stderr.write("-- not everything was sent: it will be, when you are back --")


def default_state(url: str, token: str) -> Path:
    """One device for each token, however many conversations: people see their devices in a list."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    host = url.split("/conversations/", maxsplit=1)[0]
    name = sha256(f"{host} {token}".encode(errors="surrogateescape")).hexdigest()[:24]
    return folder / "conversation" / f"{name}.json"


class Terminal:
    """A person, who types while answers are written."""

    def __init__(self, talk: Conversation, screen: Screen) -> None:
        self.talk = talk
        self.screen = screen
        self._asking: set[asyncio.Task[None]] = set()
        self._offers = Offers(talk)
        self._asked = ""  # the call whose question was shown last
        self._shown = ""  # the call that was last shown to be decided about
        self._answered: set[str] = set()  # what is typed next is said: the server takes one answer

    async def run(self) -> None:
        self.screen.line("Type to say something; /help tells more.")
        await first_of(self._watch(), self._listen())

    async def _watch(self) -> None:
        async for event in self.talk:
            self.screen.show(event)
            self._offers.hear(event)
            self._ask_person()
            self._ask_to_decide()

    def _ask_to_decide(self) -> None:
        """What is to run if somebody allows it, once; the next one when that was decided."""
        _, part = self.talk.view.undecided or ("", None)
        if part is not None and part.call != self._shown:
            self._shown = part.call
            for line in to_decide(part):
                self.screen.line(line)

    def _decide(self, *, approve: bool, reason: str = "") -> None:
        """About what was shown: a hash of anything else is refused."""
        run, part = self.talk.view.undecided or ("", None)
        if part is None or part.approval is None or part.call != self._shown:
            self.screen.line("[nothing waits for a decision]")
            return
        seen = part.approval.hash
        self._ask(self.talk.decide(run, part.call, approve=approve, arguments_hash=seen, reason=reason))

    def _ask_person(self) -> None:
        """What the agent asks who sits here, once; the next one when that was answered."""
        open_one = self._question()
        if open_one is not None and open_one.call != self._asked:
            self._asked = open_one.call
            for line in Question.of(open_one.arguments).lines:
                self.screen.line(plain(line))

    def _question(self) -> Offered | None:
        offers = (offered for offered in self._offers.open.values() if offered.call not in self._answered)
        return next((offered for offered in offers if offered.name == ASK), None)

    async def _listen(self) -> None:
        async for line in typed():
            if line.strip() == "/quit":
                return
            if line.strip():
                self._carry_out(line)
        # The end of the input is a farewell, too.

    def _carry_out(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ") if line.startswith("/") else ("", "", "")
        match word, rest.strip():
            case "/help", "":
                self.screen.line(HELP)
            case "/queue", "":
                waiting = self.talk.view.queue
                for number, turn in enumerate(waiting, 1):
                    self.screen.line(f"{number}. {plain(turn.text)}")
                if not waiting:
                    self.screen.line("[nothing waits]")
            case "/stop", "":
                self._ask(self.talk.cancel(scope="mine"))
            case "/stop", "all":
                self._ask(self.talk.cancel(scope="all"))
            case "/skip", "" if (asked := self._question()) is not None:
                self._reply(asked, error=DECLINED)
            case "/approve", "":
                self._decide(approve=True)
            case "/deny", reason:
                self._decide(approve=False, reason=reason)
            case "/title", title if title:
                self._ask(self.talk.rename(title))
            case "", "" if not line.startswith(" ") and (asked := self._question()) is not None:
                self._answer(asked, line)
            case _:
                self._say(line.strip())

    def _answer(self, asked: Offered, line: str) -> None:
        text = Question.of(asked.arguments).answer_to(line)
        if text is None:
            self.screen.line("[that is none of the options: type its number]")
        else:
            self._reply(asked, result=text)

    def _reply(self, asked: Offered, **said: str) -> None:
        self._answered.add(asked.call)
        self._ask(self.talk.answer(asked.run, asked.call, **said))

    def _say(self, text: str) -> None:
        signal_id = str(uuid.uuid4())
        self.screen.mine.add(signal_id)
        self._ask(self.talk.send(text, id=signal_id))

    def _ask(self, asking: Coroutine[Any, Any, Any]) -> None:
        self.talk.hurry()
        task = asyncio.create_task(self._told(asking))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _told(self, asking: Coroutine[Any, Any, Any]) -> None:
        try:
            ack = await asking
            if ack.budget is not None:
                self.screen.line(nearly_used_up(ack.budget))
        except Refused as refusal:
            self.screen.line(f"[refused: {plain(refusal.message)}]")
        except (Closed, Left):
            return  # whoever watches hears of it


class Pipe:
    """A program that says line by line and reads the answers. Raises for the first that did not end well."""

    def __init__(self, talk: Conversation, out: TextIO) -> None:
        self.talk = talk
        self._runs: list[str] = []
        self.screen = Screen(out, talk.view, only=self._runs)
        self._changed = asyncio.Event()
        self._removed: set[str] = set()

    async def run(self) -> None:
        await first_of(self._watch(), self._speak(), self._arrive())

    async def _watch(self) -> None:
        async for event in self.talk:
            self.screen.show(event)
            if isinstance(event, events.MessageRemoved):
                self._removed.add(event.message)
            self._changed.set()

    async def _arrive(self) -> None:
        """Nobody is there to see that it goes on trying."""
        while self.talk.hello is None:
            if self.talk.state is State.OFFLINE:
                raise CommandError(f"Nobody answers there: {plain(self.talk.trouble)}")
            await asyncio.sleep(0.05)
        await asyncio.Event().wait()

    async def _speak(self) -> None:
        messages: list[str] = []
        async for line in typed():
            if line.strip():
                ack = await self.talk.send(line.strip())
                self._runs.append(ack.run)
                messages.append(ack.message)
                self.screen.refresh()  # all of it may have come before the ack was looked at
        for run, message in zip(self._runs, messages, strict=True):
            await self._ended(run, message)

    async def _ended(self, run: str, message: str) -> None:
        while (answer := self.talk.view.answer_of(run)) is None or answer.ending is None:
            if message in self._removed:
                raise CommandError("Somebody took the message back before it was answered.")
            self._changed.clear()
            await self._changed.wait()
        if how := how_it_ended(answer.ending):
            raise CommandError(how)


async def first_of(*jobs: Coroutine[Any, Any, None]) -> None:
    """Until one of them has ended. Raises what it raised."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def typed() -> AsyncIterator[str]:
    """The lines of the standard input, without their ends."""
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        """In a thread nobody waits for, past Python's buffer, whose lock would hold up the end of the program."""
        while chunk := os.read(0, 65_536):
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)
        loop.call_soon_threadsafe(chunks.put_nowait, b"")

    threading.Thread(target=read, name="typed", daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace")
