"""One turn of the model for one prompt.

A run's state changes only while its conversation's row is locked and only by conditional update, so that
"terminal is terminal" holds whatever processes race.
"""

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from chat import bulletin, log
from chat.compaction import compact
from chat.models import telling
from chat.models.budget import Account, Key, may_start
from chat.models.device import Device
from chat.models.event import Kind, new_id
from chat.models.message import Message
from chat.models.participant import Participant
from chat.models.parts import next_step, text_in
from chat.models.sheet import Sheet, can_go_on, has_words
from chat.models.spending import Spending
from chat.models.state import ENDED, LIVE, STARTED, State, has_lapsed, lease
from chat.models.steer import miss, take_first
from chat.turns import writing

if TYPE_CHECKING:
    from chat.models.conversation import Conversation


class Run(models.Model):
    """`attempt` is the fencing token: an append or an end that carries another attempt is refused."""

    accounts: Mapping[Key, Account] = MappingProxyType({})  # of one that was just claimed: its budgets

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    conversation = models.ForeignKey("chat.Conversation", models.CASCADE, related_name="runs", db_index=False)
    prompt = models.ForeignKey(Message, models.CASCADE, related_name="runs")
    # Cascades: without its answer a live run would break its own rules while a conversation is deleted.
    answer = models.OneToOneField(Message, models.CASCADE, null=True, blank=True, related_name="run")
    state = models.CharField(max_length=12, choices=State.choices, default=State.QUEUED)
    alongside = models.BooleanField(default=False)
    position = models.BigIntegerField()
    provider = models.CharField(max_length=40)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")
    requested_from = models.ForeignKey(Device, models.SET_NULL, null=True, blank=True, related_name="+")
    attempt = models.PositiveSmallIntegerField(default=0)
    losses = models.PositiveSmallIntegerField(default=0)  # attempts whose server was lost; a hand-over is none
    worker = models.CharField(max_length=80, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    waits_until = models.DateTimeField(null=True, blank=True)  # for people or devices; then it is too late
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancelled_by = models.JSONField(null=True, blank=True)
    stop_reason = models.CharField(max_length=40, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_message = models.TextField(blank=True)
    steered = models.BooleanField(default=False)  # something waits to be told at its next step
    retryable = models.BooleanField(default=False)
    usage = models.JSONField(default=dict, blank=True)
    model = models.CharField(max_length=80, blank=True)
    cost = models.BigIntegerField(null=True, blank=True)  # as in Spending, of all attempts
    estimated = models.BooleanField(default=False)
    # The last prompt it was asked with, as we and as the provider measured it: how many tokens text has here.
    prompt_chars = models.PositiveIntegerField(default=0)
    prompt_tokens = models.PositiveIntegerField(default=0)
    started_serial = models.PositiveBigIntegerField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["conversation", "position"], name="run_live", condition=Q(state__in=LIVE)),
            models.Index(fields=["lease_until"], name="run_lease", condition=Q(state__in=STARTED)),
            models.Index(fields=["waits_until"], name="run_waits", condition=Q(state=State.WAITING)),
            models.Index(fields=["conversation", "created_at"], name="run_of_conversation"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=State.values), name="run_state_known"),
            models.CheckConstraint(
                condition=Q(state__in=LIVE, ended_at=None) | Q(state__in=ENDED, ended_at__isnull=False),
                name="run_ended_at_iff_ended",
            ),
            models.CheckConstraint(
                condition=~Q(state=State.RUNNING) | Q(lease_until__isnull=False, attempt__gt=0, answer__isnull=False),
                name="run_running_has_lease",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.state} run {self.pk}"

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    # --- cancel ---------------------------------------------------------------------------------------------

    def cancel(self, by: dict[str, Any]) -> dict[str, Any]:
        """Ask for the end. Stored at once and for ever; whoever executes the run then closes the provider.

        Returns what the ack says. Idempotent: asking twice, or after the end, changes nothing.
        """
        with self.conversation.locked() as conversation:
            return type(self).objects.select_related("prompt").get(pk=self.pk).cancel_locked(conversation, by)

    def cancel_locked(self, conversation: "Conversation", by: dict[str, Any]) -> dict[str, Any]:
        """`cancel` for a caller that holds the conversation's lock and has just read this row."""
        if self.state in ENDED:
            return {"outcome": "already_ended", "reason": self.state}
        if self.cancel_requested_at is None:
            self.cancel_requested_at, self.cancelled_by = timezone.now(), by
            self.save(update_fields=["cancel_requested_at", "cancelled_by"])
            bulletin.cancel_asked(self)
            if self.state != State.RUNNING:  # nobody executes it
                self.end_locked(conversation, State.CANCELLED)
                return {"outcome": "cancelled", "reason": State.CANCELLED.value}
            log.record(conversation, log.Entry(Kind.RUN_CANCELLING, {"by": by}, self.pk, self.answer_id))
        return {"outcome": "cancelling"}

    # --- start ----------------------------------------------------------------------------------------------

    @classmethod
    def claim(cls, conversation: "Conversation", worker: str) -> list["Run"]:
        """Start what may start now in this conversation, under a lease of this worker's, and return it.

        One at a time in queue order; those sent alongside, or begun before, wait for nobody. Without a budget, it ends.
        """
        claimed: list[Run] = []
        # Most who look find nothing, and need not stand in line for that: whoever queues a run says so afterwards.
        if not conversation.runs.filter(state=State.QUEUED).exists():
            return claimed
        with conversation.locked() as locked:
            live = locked.runs.filter(state__in=LIVE).select_related("prompt", "answer", "requested_by")
            runs = list(live.order_by("position"))
            busy = any(run.state in STARTED for run in runs)
            for run in runs:
                if run.state != State.QUEUED or (busy and not run.alongside and not run.attempt):
                    continue
                if (refused := may_start(run)) is not None:
                    run.end_locked(locked, refused[0], **refused[1])
                    continue
                run._start(locked, worker)
                claimed.append(run)
                busy = True
        return claimed

    def _start(self, conversation: "Conversation", worker: str) -> None:
        serial = conversation.head + 1
        prompt = self.prompt
        if prompt.place is None:
            prompt.place = serial
            prompt.save(update_fields=["place"])
        if self.answer is None:
            self.answer = Message.objects.create(
                conversation=conversation,
                parent=prompt,
                role=Message.Speaker.ASSISTANT,
                place=prompt.place,
                created_serial=serial,
            )
        self.state, self.worker, self.attempt = State.RUNNING, worker, self.attempt + 1
        self.lease_until = lease()
        self.started_at, self.started_serial = self.started_at or timezone.now(), self.started_serial or serial
        self.save(update_fields=["answer", "state", "worker", "attempt", "lease_until", "started_at", "started_serial"])
        del self.lease_until  # only the database knows it: it is read when somebody asks
        payload = {"prompt": str(prompt.pk), "place": prompt.place, "attempt": self.attempt}
        log.record(conversation, log.Entry(Kind.RUN_STARTED, payload, self.pk, self.answer.pk))
        if self.steered and not next_step(self.answer.parts):  # later ones are taken between steps
            take_first(conversation, self)
        bulletin.started(self)

    @classmethod
    def renew(cls, worker: str, runs: list[uuid.UUID]) -> set[uuid.UUID]:
        """Prolong the leases of `runs` and return those still this worker's to execute, for somebody."""
        mine = cls.objects.filter(pk__in=runs, worker=worker, state=State.RUNNING)
        with writing():
            mine.update(lease_until=lease())
        # When a user is deleted, nobody may be left who could read the answer.
        somebody = Participant.objects.filter(conversation=OuterRef("conversation"))
        return set(mine.filter(Exists(somebody), cancel_requested_at=None).values_list("pk", flat=True))

    # --- end ------------------------------------------------------------------------------------------------

    def end(self, state: State, attempt: int, **outcome: Any) -> bool:
        """End the run if this attempt still executes it. False: somebody else ended or restarted it.

        `outcome`: stop_reason, error_code, error_message, retryable. A run somebody asked to cancel ends as
        cancelled, however it came to its end. What it has used is in Spending.
        """
        with self.conversation.locked() as conversation:
            run = type(self).objects.select_related("prompt").filter(pk=self.pk).first()
            if run is None or run.state != State.RUNNING or run.attempt != attempt:
                return False
            run.end_locked(conversation, state, **outcome)
            return True

    def end_locked(self, conversation: "Conversation", state: State, **outcome: Any) -> None:
        """Write the one terminal event: text folded, open parts marked, row ended, log told. Lock held."""
        if self.cancel_requested_at is not None:
            state = State.CANCELLED
        outcome |= Spending.tally(self.pk) if self.attempt else {"cost": 0}
        for name, value in outcome.items():
            setattr(self, name, value)
        was = self.state
        self.state, self.ended_at, self.lease_until = state, timezone.now(), None
        row = type(self).objects.filter(pk=self.pk, state=was, attempt=self.attempt)
        changed = row.update(**{name: getattr(self, name) for name in ("state", "ended_at", "lease_until", *outcome)})
        assert changed == 1, "the conversation's lock was not held"
        length = self._end_answer(conversation)
        if self.prompt.place is None and self.prompt.removed_at is None:
            # Stopped while it waited: what was asked stays readable, after what has been said.
            self.prompt.place = conversation.head + 1
            self.prompt.save(update_fields=["place"])
        payload = {**self.ending(), "length": length}
        log.record(conversation, log.Entry(Kind.RUN_ENDED, payload, self.pk, self.answer_id))
        bulletin.ended(self)

    def _end_answer(self, conversation: "Conversation") -> int:
        """Everything that is open in it ends as the run does. Its length in code points of text."""
        answer = Message.objects.filter(pk__in=[self.answer_id]).first()
        if answer is None or not self.started_serial:
            miss(conversation, self, None)
            return 0
        self.answer = answer
        sheet = Sheet(conversation, self, answer.parts)
        texts = compact(conversation.pk, self.pk, answer.pk, self.started_serial)
        sheet.end_all(texts, "done" if self.state == State.COMPLETED else self.state)
        miss(conversation, self, sheet)
        sheet.keep()
        return len(text_in(sheet.parts))

    def ending(self) -> dict[str, Any]:
        """How it ended, as the log and every device say it."""
        return telling.ending(self)

    # --- recovery -------------------------------------------------------------------------------------------

    @classmethod
    def lapsed(cls) -> list["Run"]:
        """Those to `recover`, the longest lapsed first."""
        return list(cls.objects.filter(has_lapsed()).select_related("conversation").order_by("lease_until")[:500])

    def recover(self) -> State | None:
        """End or requeue a run whose lease lapsed, and return what it is now. None: it was renewed meanwhile."""
        with self.conversation.locked() as conversation:
            run = type(self).objects.select_related("prompt").filter(has_lapsed(), pk=self.pk).first()
            if run is None:
                return None
            run.losses += 1
            bulletin.lapsed(run)
            return run.release_locked(conversation)

    def hand_over(self, attempt: int) -> State | None:
        """Take it from its worker, as `recover` but at once. None: this attempt no longer executes it."""
        with self.conversation.locked() as conversation:
            run = type(self).objects.select_related("prompt").filter(pk=self.pk).first()
            if run is None or run.state != State.RUNNING or run.attempt != attempt:
                return None
            return run.release_locked(conversation)

    def release_locked(self, conversation: "Conversation") -> State:
        """Queue it again if nobody has seen a word of it yet or it is between two steps; else end it as interrupted."""
        if self.cancel_requested_at is not None:
            self.end_locked(conversation, State.CANCELLED)
        elif has_words(self) and (self.losses >= settings.CHAT_MAX_ATTEMPTS or not can_go_on(self)):
            self.end_locked(
                conversation,
                State.INTERRUPTED,
                error_code="server_lost",
                error_message="The server was lost while it answered. What it had written is kept.",
                retryable=True,
            )
        elif self.losses >= settings.CHAT_MAX_ATTEMPTS:
            self.end_locked(
                conversation,
                State.FAILED,
                error_code="attempts_exhausted",
                error_message=f"The server was lost {self.losses} times before a word of the answer came.",
                retryable=True,
            )
        else:
            self.queue_again_locked(conversation)
        return State(self.state)

    def queue_again_locked(self, conversation: "Conversation") -> None:
        """For whoever has room: it begins again, or goes on after what its answer has."""
        bulletin.queued_again(self)
        self.state, self.lease_until, self.waits_until, self.worker = State.QUEUED, None, None, ""
        self.save(update_fields=["state", "lease_until", "waits_until", "worker", "losses"])
        log.record(conversation, log.Entry(Kind.RUN_QUEUED, self.queueing(), self.pk, self.prompt_id))

    def queueing(self) -> dict[str, Any]:
        """What a `run.queued` event says."""
        return telling.queueing(self)
