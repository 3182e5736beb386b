"""What somebody adds to an answer while it is being made: "focus on flights only".

It is told to the model at the answer's next step, where it becomes a part of it. One that no step followed, or that
nothing was answered to, is missed: it can be sent as a message of its own.
"""

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from chat import log
from chat.errors import Code, Refused
from chat.models.device import Device
from chat.models.event import Kind, new_id
from chat.models.message import Message
from chat.models.participant import Participant
from chat.models.sheet import Sheet
from chat.models.state import ENDED

if TYPE_CHECKING:
    from chat.models.conversation import Conversation
    from chat.models.run import Run

MOST_PENDING = 20  # of one run


class Steer(models.Model):
    """`step` is the call of the model it was told at, `part` its place in the answer; null while neither is."""

    class State(models.TextChoices):
        """pending → consumed, or missed → sent. A consumed one is missed if the run ends before it is answered."""

        PENDING = "pending"
        CONSUMED = "consumed"
        MISSED = "missed"
        SENT = "sent"

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    conversation = models.ForeignKey("chat.Conversation", models.CASCADE, related_name="steers", db_index=False)
    run = models.ForeignKey("chat.Run", models.CASCADE, related_name="steers")
    client_id = models.UUIDField()
    text = models.TextField()
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")
    by = models.JSONField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    step = models.PositiveSmallIntegerField(null=True, blank=True)
    part = models.PositiveSmallIntegerField(null=True, blank=True)
    created_serial = models.PositiveBigIntegerField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["created_serial"]
        constraints = [
            models.UniqueConstraint(fields=["conversation", "client_id"], name="steer_client_id_once"),
            models.CheckConstraint(
                condition=models.Q(state__in=["pending", "consumed", "missed", "sent"]), name="steer_state_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.state} steer: {self.text[:60]}"

    def told(self) -> dict[str, Any]:
        """As devices get it."""
        return {"steer": str(self.pk), "text": self.text, "by": self.by, "state": self.state}

    def acceptance(self, *, duplicate: bool = False) -> dict[str, Any]:
        """What the ack of the signal says."""
        ack = {"steer": str(self.pk), "run": str(self.run_id), "serial": self.created_serial, "state": "steering"}
        return {**ack, "duplicate": True} if duplicate else ack


def steer(run: "Run", *, by: Participant, device: Device | None, text: str, client_id: uuid.UUID) -> dict[str, Any]:
    """Tell a run something at its next step. Refuses with `run_ended`, `busy`, or `forbidden` (only who asked)."""
    with run.conversation.locked() as conversation:
        by.now().may_speak()
        known = conversation.steers.filter(client_id=client_id).first()
        if known is not None:
            return known.acceptance(duplicate=True)
        return _accept(conversation, conversation.runs.get(pk=run.pk), by, device, text, client_id)


def steer_in_place_of_message(
    conversation: "Conversation",
    live: Sequence["Run"],
    *,
    by: Participant,
    device: Device | None,
    text: str,
    client_id: uuid.UUID,
) -> dict[str, Any] | None:
    """The ack if a message became a steer of the newest run of its author's that is under way; None if there is none.

    `live` are the conversation's, in order; its lock is held.
    """
    known = conversation.steers.filter(client_id=client_id).first()
    if known is not None:
        return known.acceptance(duplicate=True)
    for run in reversed(live):
        under_way = run.prompt.place is not None and run.cancel_requested_at is None
        if under_way and run.requested_by_id == by.user_id:
            return _accept(conversation, run, by, device, text, client_id)
    return None


def _accept(
    conversation: "Conversation",
    run: "Run",
    by: Participant,
    device: Device | None,
    text: str,
    client_id: uuid.UUID,
) -> dict[str, Any]:
    if run.state in ENDED or run.cancel_requested_at is not None:
        raise Refused(Code.RUN_ENDED, "This answer has ended. Send it as a message.")
    if run.requested_by_id != by.user_id:
        # Its tools act as who asked: what they may see is not for others to point at.
        raise Refused(Code.FORBIDDEN, "Only who asked can steer this answer. Send a message.")
    if run.steers.filter(state=Steer.State.PENDING).count() >= MOST_PENDING:
        raise Refused(Code.BUSY, f"{MOST_PENDING} remarks wait for its next step already.", retry_after=5.0)
    new = Steer.objects.create(
        conversation=conversation,
        run=run,
        client_id=client_id,
        text=text,
        author=by.user,
        by=by.identity(device),
        created_serial=conversation.head + 1,
    )
    type(run).objects.filter(pk=run.pk).update(steered=True)
    payload = {"steer": str(new.pk), "client_id": str(client_id), "text": text, "by": new.by}
    log.record(conversation, log.Entry(Kind.RUN_STEERED, payload, run.pk, run.answer_id))
    return new.acceptance()


def take(sheet: Sheet, step: int) -> list[str]:
    """Make what waits a part of the answer, before what the model says at this step. Returns the texts."""
    run, texts = sheet.run, []
    for one in run.steers.filter(state=Steer.State.PENDING):
        part = sheet.add({"type": "steer", "steer": str(one.pk), "text": one.text, "who": one.by, "step": step})
        told = {"steer": str(one.pk), "part": part, "step": step, "text": one.text, "who": one.by}
        sheet.say(Kind.STEER_CONSUMED, **told)
        run.steers.filter(pk=one.pk).update(state=Steer.State.CONSUMED, step=step, part=part)
        texts.append(one.text)
    type(run).objects.filter(pk=run.pk).update(steered=False)
    run.steered = False
    return texts


def take_first(conversation: "Conversation", run: "Run") -> None:
    """What came before the run began is told at its first step."""
    assert run.answer is not None
    sheet = Sheet(conversation, run, run.answer.parts)
    take(sheet, 0)
    sheet.keep()


def miss(conversation: "Conversation", run: "Run", sheet: Sheet | None) -> None:
    """The run ends: what waits, and what was told and not answered, is missed. Lock held."""
    for number, part in reversed(list(enumerate(sheet.parts if sheet else ()))):
        if part["type"] != "steer":
            break
        assert sheet is not None
        part["state"] = "missed"
        sheet.say(Kind.STEER_MISSED, steer=part["steer"], part=number)
        run.steers.filter(pk=part["steer"]).update(state=Steer.State.MISSED)
    if not run.steered:
        return
    waiting = run.steers.filter(state=Steer.State.PENDING)
    missed = [log.Entry(Kind.STEER_MISSED, {"steer": str(one.pk)}, run.pk, run.answer_id) for one in waiting]
    waiting.update(state=Steer.State.MISSED)
    type(run).objects.filter(pk=run.pk).update(steered=False)
    if missed:
        log.record(conversation, *missed)


def send_missed(conversation: "Conversation", missed: uuid.UUID) -> Steer:
    """The steer that a message is about to replace. Raises Refused unless it is missed: two devices may try at once."""
    found = conversation.steers.filter(pk=missed).first()
    if found is None:
        raise Refused(Code.UNKNOWN_MESSAGE, "There is no such remark here.")
    if found.state != Steer.State.MISSED:
        raise Refused(Code.STALE, "It was sent already, or the answer has heard it.")
    return found


def mark_sent(conversation: "Conversation", found: Steer, message: str, by: dict[str, Any]) -> None:
    """It is a message now."""
    found.state = Steer.State.SENT
    found.save(update_fields=["state"])
    told: dict[str, Any] = {"steer": str(found.pk), "sent_as": message, "by": by}
    answer = Message.objects.filter(run=found.run_id).first()
    if found.part is not None and answer is not None:
        answer.parts[found.part]["state"] = "sent"
        answer.save(update_fields=["parts"])
        told["part"] = found.part
    log.record(conversation, log.Entry(Kind.STEER_SENT, told, found.run_id, answer.pk if answer else None))
