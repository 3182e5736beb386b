"""Eight who write to one conversation at once: no serial twice, none missing, and to each their own order."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import connections, transaction

from chat import group_commit
from chat.batches import Delta
from chat.models import Conversation, Event, Kind, Participant, Run
from chat.models.state import LIVE, State

WRITERS = 8
ROUNDS = 8


@pytest.fixture
def by(alice: User, conversation: Conversation) -> Participant:
    return Participant.objects.select_related("conversation", "user").get(conversation=conversation, user=alice)


def answering(by: Participant, count: int) -> list[Run]:
    """So many runs that have begun."""
    with transaction.atomic():
        for _ in range(count):
            by.conversation.send(by=by, text="?", client_id=uuid4(), when_busy="alongside")
        return Run.claim(by.conversation, "worker")


def speak(run: Run, number: int) -> None:
    """As a worker commits what its provider says."""
    assert run.answer_id is not None
    said = Delta(run.conversation_id, run.pk, run.attempt, run.answer_id, len(word(0)) * number, word(number))
    assert group_commit.commit([said]) == set()


def word(number: int) -> str:
    return f"{number:02} "


def change_mind(by: Participant, number: int) -> None:
    """Ask, ask otherwise, take it back."""
    queue = by.conversation.queue
    ack = by.conversation.send(by=by, text=f"Question {number}", client_id=uuid4())
    asked = Conversation.objects.get(pk=by.conversation_id).messages.get(pk=ack["message"])
    queue.edit(by=by, device=None, message=asked.pk, text=f"Other question {number}")
    queue.remove(by=by, device=None, message=asked.pk)


def ask_and_cancel(by: Participant, number: int) -> None:
    ack = by.conversation.send(by=by, text=f"Aside {number}", client_id=uuid4(), when_busy="alongside")
    run = Run.objects.select_related("conversation").get(pk=ack["run"])
    assert run.cancel(by.identity(None))["outcome"] == "cancelled"


def rename(by: Participant, number: int) -> None:
    by.conversation.rename(by=by, title=f"Title {number}")


def all_at_once(jobs: list[Callable[[int], None]]) -> None:
    """Each of these in a thread, and over a connection, of its own."""
    together = Barrier(len(jobs))

    def write(job: Callable[[int], None]) -> None:
        try:
            together.wait(30)
            for number in range(ROUNDS):
                job(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(jobs)) as threads:
        list(threads.map(write, jobs))


def test_eight_writers_leave_no_hole_and_no_double_in_the_log(by: Participant) -> None:
    first, second = answering(by, 2)
    others = [change_mind, change_mind, ask_and_cancel, ask_and_cancel, rename, rename]
    jobs: list[Callable[[int], None]] = [
        lambda number: speak(first, number),
        lambda number: speak(second, number),
        *(lambda number, job=job: job(by, number) for job in others),
    ]
    assert len(jobs) == WRITERS
    before = Conversation.objects.get(pk=by.conversation_id).head
    all_at_once(jobs)

    head = Conversation.objects.get(pk=by.conversation_id).head
    log = Event.objects.filter(conversation=by.conversation_id)
    assert list(log.order_by("serial").values_list("serial", flat=True)) == list(range(1, head + 1))
    # created, queued, edited, ended, removed; created, queued, ended; renamed; said
    assert head - before == 2 * ROUNDS * (5 + 3 + 1 + 1)
    for run in (first, second):
        said = log.filter(run_id=run.pk, kind=Kind.MESSAGE_DELTA).order_by("serial")
        assert [event.payload["text"] for event in said] == [word(number) for number in range(ROUNDS)]
        assert run.end(State.COMPLETED, run.attempt)
        run.refresh_from_db()
        assert run.answer is not None
        assert run.answer.text == "".join(word(number) for number in range(ROUNDS))
    assert not Run.objects.filter(state__in=LIVE).exists()
