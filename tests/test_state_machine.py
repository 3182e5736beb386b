"""A conversation driven at random: whatever people, workers and crashes do, the log and every reader stay right.

Without an event loop: verbs, claims, commits and the reading that every transport uses, in any order.
"""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from hypothesis import HealthCheck
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from chat import group_commit, wire
from chat.batches import Delta
from chat.compaction import text_of
from chat.errors import Refused
from chat.models import Conversation, Event, Message, Participant, Run
from chat.models.state import ENDED, LIVE, STARTED, State
from chat.reading import read_frame
from chat.transcript import PAGE_TURNS, as_json, read_transcript
from tests.reducer import View

ANY = st.integers(min_value=0, max_value=99)  # which one, of however many there are
TEXTS = st.text(min_size=1, max_size=6, alphabet="aß🚂\n ")
HOW = st.sampled_from(["queue", "queue", "alongside", "interrupt", "reject"])
ENDINGS = st.sampled_from([State.COMPLETED, State.FAILED, State.INTERRUPTED, State.CANCELLED])


class Life(RuleBasedStateMachine):
    """One conversation, its people and its workers."""

    def __init__(self) -> None:
        super().__init__()
        name = uuid.uuid4().hex
        self.alice = User.objects.create(username=f"alice-{name}")
        self.bob = User.objects.create(username=f"bob-{name}")
        self.conversation = Conversation.begin(self.alice)
        self.owner = Participant.objects.select_related("conversation", "user").get(conversation=self.conversation)
        self.sent: dict[uuid.UUID, dict[str, Any]] = {}
        self.early: set[uuid.UUID] = set()
        self.said: dict[uuid.UUID, str] = {}  # run → what its attempts have had accepted
        self.attempts: list[tuple[Run, int]] = []  # every claim there ever was
        self.head = 0
        self.snapshots: dict[int, dict[str, Any]] = {}
        self.devices: list[View] = []

    # --- people ---------------------------------------------------------------------------------------------

    def attempt(self, verb: Callable[[], Any]) -> Any:
        """Do it, or be refused and change nothing."""
        before = self.fetch()
        try:
            return verb()
        except Refused:
            assert self.fetch() == before, "a refusal changed something"
            return None

    @precondition(lambda self: len(self.sent) < PAGE_TURNS - 1)
    @rule(text=TEXTS.filter(str.strip), how=HOW, early=st.booleans())
    def send(self, text: str, how: str, early: bool) -> None:
        client_id = self.early.pop() if early and self.early else uuid.uuid4()
        ack = self.attempt(lambda: self.conversation.send(by=self.owner, text=text, client_id=client_id, when_busy=how))
        if ack:
            self.sent[client_id] = ack

    @precondition(lambda self: self.sent)
    @rule(which=ANY, text=TEXTS)
    def send_again(self, which: int, text: str) -> None:
        client_id = pick(list(self.sent), which)
        ack = self.conversation.send(by=self.owner, text=text, client_id=client_id, when_busy="reject")
        assert ack["duplicate"] is True
        assert {key: ack[key] for key in ("message", "run", "serial")} == {
            key: self.sent[client_id][key] for key in ("message", "run", "serial")
        }

    @precondition(lambda self: len(self.early) < 3)
    @rule()
    def cancel_before_the_send(self) -> None:
        client_id = uuid.uuid4()
        self.early.add(client_id)
        self.conversation.cancel_send(by=self.owner, device=None, client_id=client_id)

    @precondition(lambda self: self.sent)
    @rule(which=ANY)
    def cancel(self, which: int) -> None:
        pick(self.runs(), which).cancel({"user": "alice", "device": None, "device_name": ""})

    @precondition(lambda self: self.sent)
    @rule(which=ANY)
    def cancel_by_send(self, which: int) -> None:
        self.conversation.cancel_send(by=self.owner, device=None, client_id=pick(list(self.sent), which))

    @rule()
    def cancel_all(self) -> None:
        self.conversation.cancel(by=self.owner, device=None, only_mine=False)
        assert not self.runs(State.QUEUED)

    @precondition(lambda self: self.sent)
    @rule(which=ANY)
    def retry(self, which: int) -> None:
        run = pick(self.runs(), which)
        self.attempt(lambda: self.conversation.retry(by=self.owner, run=run, device=None, client_id=uuid.uuid4()))

    @precondition(lambda self: self.sent)
    @rule(which=ANY, text=TEXTS)
    def edit(self, which: int, text: str) -> None:
        queue = self.conversation.queue
        self.attempt(lambda: queue.edit(by=self.owner, device=None, message=self.prompt(which), text=text))

    @precondition(lambda self: self.sent)
    @rule(which=ANY)
    def remove(self, which: int) -> None:
        self.attempt(lambda: self.conversation.queue.remove(by=self.owner, device=None, message=self.prompt(which)))

    @precondition(lambda self: self.sent)
    @rule(which=ANY, before=st.none() | ANY)
    def move(self, which: int, before: int | None) -> None:
        target = None if before is None else self.prompt(before)
        queue = self.conversation.queue
        self.attempt(lambda: queue.move(by=self.owner, device=None, message=self.prompt(which), before=target))

    @rule(title=st.sampled_from(["a", "b"]))
    def rename(self, title: str) -> None:
        self.conversation.rename(by=self.owner, title=title)

    @rule(role=st.sampled_from(["editor", "viewer"]))
    def let_in(self, role: str) -> None:
        self.conversation.add(by=self.owner, user=self.bob, role=role)

    @rule()
    def let_go(self) -> None:
        self.conversation.remove(by=self.owner, user=self.bob)

    # --- workers --------------------------------------------------------------------------------------------

    @rule()
    def claim(self) -> None:
        for run in Run.claim(self.conversation, "worker"):
            self.attempts.append((run, run.attempt))

    @precondition(lambda self: self.attempts)
    @rule(which=ANY, text=TEXTS, more=TEXTS)
    def write(self, which: int, text: str, more: str) -> None:
        run, attempt = pick(self.attempts, which)
        assert run.answer_id is not None
        said = self.said.get(run.pk, "")
        pieces = [(len(said), text), (len(said) + len(text), more)]
        deltas = [Delta(run.conversation_id, run.pk, attempt, run.answer_id, at, piece) for at, piece in pieces]
        now = Run.objects.get(pk=run.pk)
        may = now.state == State.RUNNING and now.attempt == attempt and now.cancel_requested_at is None
        refused = group_commit.commit(deltas)
        assert refused == (set() if may else {(run.pk, attempt)})
        if may:
            self.said[run.pk] = said + text + more

    @precondition(lambda self: self.attempts)
    @rule(which=ANY, state=ENDINGS)
    def end(self, which: int, state: State) -> None:
        run, attempt = pick(self.attempts, which)
        now = Run.objects.get(pk=run.pk)
        may = now.state in STARTED and now.attempt == attempt
        error = {"error_code": "overloaded", "error_message": "No."} if state == State.FAILED else {}
        assert run.end(state, attempt, usage={"output_tokens": 1}, **error) == may
        if may and now.cancel_requested_at is not None:
            assert Run.objects.get(pk=run.pk).state == State.CANCELLED

    @precondition(lambda self: self.attempts)
    @rule(which=ANY, killed=st.booleans())
    def lose_the_worker(self, which: int, killed: bool) -> None:
        run, attempt = pick(self.attempts, which)
        if not killed:
            run.hand_over(attempt)
            return
        past = timezone.now() - timedelta(seconds=1)
        Run.objects.filter(pk=run.pk, state__in=STARTED).update(lease_until=past)
        for late in Run.lapsed():
            late.recover()

    # --- devices --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.snapshots and len(self.devices) < 6)
    @rule(which=ANY)
    def connect(self, which: int) -> None:
        self.devices.append(shown(pick(list(self.snapshots.values()), which)))

    @precondition(lambda self: self.devices)
    @rule(which=ANY)
    def read_one_page(self, which: int) -> None:
        self.follow(pick(self.devices, which), pages=1)

    @precondition(lambda self: self.devices)
    @rule(which=ANY)
    def disconnect(self, which: int) -> None:
        self.devices.remove(pick(self.devices, which))

    # --- what must always be true ---------------------------------------------------------------------------

    @invariant()
    def serials_have_no_gap_and_replay_equals_fetch(self) -> None:
        head = Conversation.objects.get(pk=self.conversation.pk).head
        new = Event.objects.filter(conversation=self.conversation, serial__gt=self.head).order_by("serial")
        assert list(new.values_list("serial", flat=True)) == list(range(self.head + 1, head + 1))
        self.head = head
        now = self.fetch()
        self.snapshots[self.head] = now
        assert now["serial"] == self.head
        known = list(self.snapshots.values())
        for earlier in {id(each): each for each in (known[0], known[self.head % len(known)], known[-2:][0])}.values():
            view = shown(earlier)
            self.follow(view)
            assert view.comparable() == shown(now).comparable(), f"from {earlier['serial']} to {self.head}"

    @invariant()
    def every_run_ends_once_and_then_nothing(self) -> None:
        ends: dict[uuid.UUID | None, int] = {}
        for event in Event.objects.filter(conversation=self.conversation, run_id__isnull=False).order_by("serial"):
            assert event.run_id not in ends, f"{event.kind} after the end"
            if event.kind == "run.ended":
                ends[event.run_id] = event.serial
        assert set(ends) == {run.pk for run in self.runs(*ENDED)}

    @invariant()
    def at_most_one_answer_at_a_time_unless_asked_for(self) -> None:
        assert sum(not run.alongside for run in self.runs(*STARTED)) <= 1

    @invariant()
    def what_was_accepted_is_what_is_kept(self) -> None:
        for run in self.runs():
            if run.answer is None or run.started_serial is None:
                assert not self.said.get(run.pk)
            elif run.state in ENDED:
                assert run.answer.text == self.said.get(run.pk, "")
            assert (
                run.answer is None
                or run.started_serial is None
                or text_of(run.conversation_id, run.answer.pk, run.started_serial) == self.said.get(run.pk, "")
            )

    @invariant()
    def one_message_per_client_id(self) -> None:
        stored = Message.objects.filter(conversation=self.conversation, role="user")
        assert set(stored.values_list("client_id", flat=True)) == set(self.sent)
        assert stored.count() == len(self.sent)

    def teardown(self) -> None:
        now = self.fetch()
        for view in [*self.devices, *map(shown, self.snapshots.values()), View(cursor=0)]:
            self.follow(view)
            assert view.comparable() == shown(now).comparable()

    # --- helpers --------------------------------------------------------------------------------------------

    def runs(self, *states: State) -> list[Run]:
        runs = Run.objects.filter(conversation=self.conversation, state__in=states or (*LIVE, *ENDED))
        return list(runs.select_related("conversation", "prompt", "answer").order_by("created_at", "pk"))

    def prompt(self, which: int) -> uuid.UUID:
        return uuid.UUID(pick(list(self.sent.values()), which)["message"])

    def fetch(self) -> dict[str, Any]:
        """What a device that comes now is shown."""
        transcript = read_transcript(self.conversation.pk)
        frame: dict[str, Any] = json.loads(wire.control("snapshot", serial=transcript.serial, **as_json(transcript)))
        return frame

    def follow(self, view: View, pages: int = 1000) -> None:
        """Give a device what it has missed."""
        for _ in range(pages):
            frame = read_frame(self.conversation.pk, view.cursor, "json")
            if frame is None:
                return
            assert (frame.after, view.apply(json.loads(frame.body)), frame.serial) == (frame.after, True, view.cursor)


def pick(things: list[Any], which: int) -> Any:
    return things[which % len(things)]


def shown(snapshot: dict[str, Any]) -> View:
    view = View()
    view.apply(json.loads(json.dumps(snapshot)))
    return view


@pytest.mark.django_db
@pytest.mark.timeout(300)
def test_any_life_of_a_conversation_is_told_the_same_to_everybody() -> None:
    run_state_machine_as_test(
        Life,
        settings=examples(
            max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
