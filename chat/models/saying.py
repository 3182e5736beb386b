"""A message on its way into a conversation: what somebody says, and what is done with it while answers run."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.conf import settings

from chat import log
from chat.errors import Code, Refused
from chat.models.budget import admit
from chat.models.cancelled_send import CancelledSend
from chat.models.device import Device
from chat.models.event import Kind
from chat.models.file import File
from chat.models.message import Message
from chat.models.participant import Participant
from chat.models.parts import text_parts
from chat.models.run import Run
from chat.models.state import LIVE
from chat.models.steer import mark_sent, send_missed, steer_in_place_of_message

if TYPE_CHECKING:
    from chat.models.conversation import Conversation

QUEUE_LIMIT = 50  # waiting messages of one conversation
ALONGSIDE_LIMIT = 32  # runs at once in one conversation


@dataclass(frozen=True, slots=True)
class Saying:
    """`Conversation.send` says what each is."""

    by: Participant
    device: Device | None
    text: str
    client_id: uuid.UUID
    when_busy: str
    parent: uuid.UUID | None
    steer: uuid.UUID | None
    files: Sequence[uuid.UUID]

    def to(self, conversation: "Conversation") -> dict[str, Any]:
        """Store it, and return what the ack says. The conversation is locked."""
        known = conversation.messages.filter(client_id=self.client_id).first()
        if known is not None:
            return acceptance(known, known.runs.earliest("position"), duplicate=True)
        missed = send_missed(conversation, self.steer) if self.steer else None
        self._check_parent(conversation)
        live = list(conversation.runs.filter(state__in=LIVE).select_related("prompt").order_by("position"))
        if self.when_busy == "steer" and not self.files and missed is None and not self._stopped_before(conversation):
            steered = steer_in_place_of_message(
                conversation, live, by=self.by, device=self.device, text=self.text, client_id=self.client_id
            )
            if steered is not None:
                return steered
        self._check_room(live)
        attached = File.to_send(conversation, self.by, self.files)
        who = self.by.identity(self.device)
        if self.when_busy == "interrupt":
            for run in live:
                if run.prompt.place is not None:  # running or about to; what waits in the queue stays there
                    run.cancel_locked(conversation, who)
        ack = self._accept(conversation, live, attached, who)
        if missed is not None:
            mark_sent(conversation, missed, ack["message"], who)
        return ack

    @property
    def _queues(self) -> bool:
        """Where something runs it waits for its turn; so does a steer that nothing can take."""
        return self.when_busy in ("queue", "steer")

    def _accept(
        self, conversation: "Conversation", live: list[Run], attached: Sequence[File], who: dict[str, Any]
    ) -> dict[str, Any]:
        if not conversation.title:
            conversation.title_after(self.text.strip() or attached[0].name)
        serial = conversation.head + 1
        message = Message.objects.create(
            conversation=conversation,
            parent=conversation.newest_message(),
            role=Message.Speaker.USER,
            author=self.by.user,
            device=self.device,
            client_id=self.client_id,
            parts=[*text_parts(self.text), *(file.part() for file in attached)],
            place=None if live and self._queues else serial,
            created_serial=serial,
        )
        File.bind(attached, message)
        first = min([serial, *(run.position for run in live)])
        run = Run.objects.create(
            conversation=conversation,
            prompt=message,
            alongside=self.when_busy == "alongside",
            position=first - 1 if self.when_busy == "interrupt" else serial,
            provider=conversation.provider or settings.CHAT_PROVIDER,
            requested_by=self.by.user,
            requested_from=self.device,
        )
        created: dict[str, Any] = {"role": "user", "client_id": str(self.client_id), "by": who}
        created |= {"parts": message.parts, "place": message.place}
        log.record(
            conversation,
            log.Entry(Kind.MESSAGE_CREATED, created, run.pk, message.pk),
            log.Entry(Kind.RUN_QUEUED, run.queueing(), run.pk, message.pk),
        )
        if (early := self._stopped_before(conversation)) is not None:
            run.cancel_locked(conversation, early.by)
            early.delete()
        return acceptance(message, run, duplicate=False) | admit(run)

    def _stopped_before(self, conversation: "Conversation") -> CancelledSend | None:
        """The cancel of this send, if that came first."""
        return CancelledSend.objects.filter(conversation=conversation, client_id=self.client_id).first()

    def _check_parent(self, conversation: "Conversation") -> None:
        newest = conversation.newest_message() if self.parent is not None else None
        if self.parent is not None and (newest is None or newest.pk != self.parent):
            raise Refused(Code.STALE, "The conversation has moved on since you read it.")

    def _check_room(self, live: list[Run]) -> None:
        if live and self.when_busy == "reject":
            raise Refused(Code.BUSY, "An answer is still running.", retry_after=2.0)
        if self._queues and sum(run.prompt.place is None for run in live) >= QUEUE_LIMIT:
            raise Refused(Code.BUSY, f"{QUEUE_LIMIT} messages are waiting already.", retry_after=10.0)
        if self.when_busy == "alongside" and sum(run.prompt.place is not None for run in live) >= ALONGSIDE_LIMIT:
            raise Refused(Code.BUSY, f"{ALONGSIDE_LIMIT} answers are running already.", retry_after=5.0)


def acceptance(message: Message, run: Run, *, duplicate: bool) -> dict[str, Any]:
    """What the ack says of a message, or of a retry."""
    state = "waiting" if message.place is None else "starting"
    ack = {"message": str(message.pk), "run": str(run.pk), "serial": message.created_serial, "state": state}
    return {**ack, "duplicate": True} if duplicate else ack
