"""Demo accounts, and conversations that show what an answer can be and how it can end. For development only.

Everything goes through the verbs and the log, in one transaction: a server that runs meanwhile never sees a
run it could start, and the one that is not over waits for a person. Safe to run again: what somebody has changed
or made since is left alone.
"""

import io
import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from PIL import Image, ImageDraw

from chat.batches import Delta
from chat.contents import inspect
from chat.group_commit import commit
from chat.management.demo_agent import acting, spent
from chat.models import Budget, Conversation, Device, File, Participant, Role, Run
from chat.models.answering import Answering
from chat.models.state import State
from chat.pages.accounts import DEMO_ACCOUNTS

ADMIN = ("admin", "admin-demo")
ARCHIVE_TURNS = 150
WORKER = "seed"
PIECE = 60  # code points in one delta, so that replaying the log has something to fold


class Command(BaseCommand):
    help = "Make the demo accounts and their conversations, if they are not there yet. Needs DEBUG."

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("Demo accounts have passwords that everybody knows. Set DEBUG=1 to make them.")
        with _without_bulletins(), transaction.atomic():
            made = seed()
        self.stdout.write(f"Demo: {made} conversations made." if made else "Demo: everything is there.")
        shown = ", ".join(f"{name} / {password}" for name, password in (*DEMO_ACCOUNTS.items(), ADMIN))
        self.stdout.write(f"Sign in as {shown}")


@contextmanager
def _without_bulletins() -> Iterator[None]:
    """Three hundred lines about runs that never were would bury the address of the site."""
    logger = logging.getLogger("chat.bulletin")
    logger.disabled, before = True, logger.disabled
    try:
        yield
    finally:
        logger.disabled = before


def seed() -> int:
    """Make what is missing and return how many conversations that were."""
    admin, secret = ADMIN
    if not User.objects.filter(username=admin).exists():
        User.objects.create_superuser(admin, password=secret)
    for name, password in DEMO_ACCOUNTS.items():
        if not User.objects.filter(username=name).exists():
            User.objects.create_user(name, password=password)
    # Her row is the lock: of two that seed at once, the second finds what the first has made.
    alice, bob = (User.objects.select_for_update().get(username=name) for name in ("alice", "bob"))
    if Participant.objects.filter(user=alice).exists():
        return 0
    talks = [
        Talk(alice, "The archive: 150 questions"),
        Talk(alice, "A timetable that broke off", bob, Role.VIEWER),
        Talk(alice, "Stopped half-way", bob, Role.EDITOR),
        Talk(alice, "Counting words", bob, Role.EDITOR),
        Talk(alice, "An agent at work", bob, Role.EDITOR),
    ]
    Budget.objects.get_or_create(user=alice, defaults={"limit": 1})
    for talk, fill in zip(talks, (archive, interrupted, stopped, finished, acting), strict=True):
        fill(talk)
    return len(talks)


class Talk:
    """A conversation being written: asks as Alice, answers as the model would have."""

    def __init__(self, alice: User, title: str, guest: User | None = None, role: str = Role.EDITOR) -> None:
        self.conversation = Conversation.begin(alice)
        self.alice = Participant.objects.select_related("user").get(conversation=self.conversation, user=alice)
        self.conversation.rename(by=self.alice, title=title)  # so that the title is in the log, too
        self.laptop = _device(alice, "Alice's laptop")
        if guest is not None:
            self.guest = self.conversation.add(by=self.alice, user=guest, role=role)
            self.phone = _device(guest, "Bob's phone")

    def ask(self, text: str, by: Participant | None = None, files: Sequence[File] = ()) -> Run:
        """Send a message and start its run."""
        device, ids = self.laptop if by is None else self.phone, [file.pk for file in files]
        self.conversation.send(by=by or self.alice, text=text, client_id=uuid.uuid4(), device=device, files=ids)
        return self.start()

    def attach(self, data: bytes, name: str) -> File:
        """Upload something as Alice."""
        content = inspect(data, settings.CHAT_FILE_TYPES)
        stored = File.put(data, content)
        return File.keep(stored, content, by=self.alice, client_id=uuid.uuid4(), name=name, size=len(data))

    def start(self) -> Run:
        (run,) = Run.claim(self.conversation, WORKER)
        return run

    def write(self, run: Run, text: str) -> None:
        """Stream the text into the log, in pieces."""
        assert run.answer_id is not None
        for at in range(0, len(text), PIECE):
            piece = text[at : at + PIECE]
            refused = commit([Delta(run.conversation_id, run.pk, run.attempt, run.answer_id, at, piece)])
            assert not refused

    def end(self, run: Run, state: State, usage: dict[str, int] | None = None, **outcome: Any) -> None:
        used = usage or {"input_tokens": 12, "output_tokens": 15}
        spent(run, used, estimated=state != State.COMPLETED).settle()
        assert run.end(state, run.attempt, **outcome)

    def summarise(self, run: Run, text: str) -> None:
        """What the model is told from here on in place of all that was said before."""
        before = self.conversation.messages.filter(place__lt=run.prompt.place).latest("place")
        assert before.place is not None
        usage = {"input_tokens": 4_100, "output_tokens": len(text) // 4}
        Answering(run).summarise(base=None, until=before.place, text=text, model="scripted", usage=usage)

    def answer(
        self, question: str, text: str, by: Participant | None = None, files: Sequence[File] = (), *, summary: str = ""
    ) -> None:
        """A whole turn that ends well. `summary`: of all before it."""
        run = self.ask(question, by, files)
        if summary:
            self.summarise(run, summary)
        self.write(run, text)
        usage = {"input_tokens": len(question) // 4, "output_tokens": len(text) // 4}
        self.end(run, State.COMPLETED, stop_reason="end_turn", usage=usage)


def _device(user: User, name: str) -> Device:
    known = Device.objects.filter(user=user, name=name, revoked_at=None).first()
    return known or Device.first_seen(user, uuid.uuid4(), name)


def finished(talk: Talk) -> None:
    """Answers with code and a table, and a question with a picture."""
    talk.answer("How do I count the words of a file in Python?", _CODE)
    talk.answer("And which of these is the fastest?", _TABLE, by=talk.guest)
    chart = talk.attach(_chart([110, 90, 40]), "seconds.png")
    talk.answer("I have drawn it. Is it right?", "Yes: three bars, and the last one is the shortest.", files=[chart])


def _chart(lengths: Sequence[int]) -> bytes:
    """Bars beside each other, as a PNG."""
    image = Image.new("RGB", (240, 150), "#f2f0ea")
    draw = ImageDraw.Draw(image)
    for number, length in enumerate(lengths):
        left = 35 + 65 * number
        draw.rectangle((left, 130 - length, left + 40, 130), fill="#0b6b5d")
    into = io.BytesIO()
    image.save(into, "PNG")
    return into.getvalue()


def stopped(talk: Talk) -> None:
    """Alice asked, Bob stopped it from his phone, and the next answer knows."""
    run = talk.ask("Write a long poem about the sea.")
    talk.write(run, _POEM)
    run.cancel(talk.guest.identity(talk.phone))
    talk.end(run, State.CANCELLED, usage={"input_tokens": 9, "output_tokens": 52})
    talk.answer("Thank you, four lines are enough. Which metre is it?", "Iambic tetrameter, **mostly**.", talk.guest)


def interrupted(talk: Talk) -> None:
    """Broke off, was tried again and answered; then another one that broke off and waits for somebody to retry."""
    lost: dict[str, Any] = {
        "error_code": "connection_lost",
        "error_message": "The connection to the model was lost.",
        "retryable": True,
    }
    run = talk.ask("Which trains go from Vienna to Prague in the morning?")
    talk.write(run, "There are several direct trains. The first one leaves at")
    talk.end(run, State.INTERRUPTED, **lost)
    talk.conversation.retry(by=talk.alice, run=run, device=talk.laptop, client_id=uuid.uuid4())
    again = talk.start()
    talk.write(again, "I have no timetable at hand. Ask the railway's own planner: it also knows the delays.")
    talk.end(again, State.COMPLETED, stop_reason="end_turn", usage={"input_tokens": 14, "output_tokens": 21})
    run = talk.ask("And back in the evening?")
    talk.write(run, "Much the same in the other direction: every two hours, and the last")
    talk.end(run, State.INTERRUPTED, **lost)


def archive(talk: Talk) -> None:
    """Long, and over: to scroll and to search. What is old in it was summarised for the model."""
    for number in range(1, ARCHIVE_TURNS + 1):
        summary = _SUMMARY if number == ARCHIVE_TURNS - 5 else ""
        talk.answer(f"What is {number} squared?", f"{number} × {number} = **{number * number}**.", summary=summary)


_SUMMARY = """\
They asked for the squares of whole numbers, one after the other, beginning with 1, and each was answered in the form
n × n = **n²**. Nothing else was decided, and nothing is open."""
_CODE = """\
Split at white space and count:

```python
from pathlib import Path


def count_words(path: Path) -> int:
    with path.open(encoding="utf-8") as lines:
        return sum(len(line.split()) for line in lines)
```

This reads *line by line*, so a large file does not have to fit into memory. Two things to know:

1. `split()` without an argument takes any run of white space as one separator.
2. A word with a hyphen counts **once**; use a regular expression if it should not.
"""
_TABLE = """\
For one file of 100 MB, roughly:

| How | Time | Memory |
|---|---:|---:|
| line by line | 1.1 s | 1 MB |
| `read().split()` | 0.9 s | 900 MB |
| `wc -w` | 0.4 s | 1 MB |

> Measure with your own files: these figures say more about the order than about the seconds.
"""
_POEM = """\
The sea has neither hour nor name,
It comes and goes and comes the same,
And what it takes from any shore
It carries to another's door,

The sea has"""
