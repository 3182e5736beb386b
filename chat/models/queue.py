"""The messages of a conversation that wait for their turn, and what can be done to them from any device."""

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from chat import log
from chat.errors import Code, Refused
from chat.models.device import Device
from chat.models.event import Kind
from chat.models.participant import Participant
from chat.models.parts import files_in, text_parts
from chat.models.run import Run
from chat.models.state import STARTED, State

if TYPE_CHECKING:
    from chat.models.conversation import Conversation


def startable() -> QuerySet[Run, uuid.UUID]:
    """The ids of the conversations where a run could start now and has not, each once."""
    started = Run.objects.filter(conversation=OuterRef("conversation"), state__in=STARTED)
    waiting = Run.objects.filter(state=State.QUEUED).filter(Q(alongside=True) | Q(attempt__gt=0) | ~Exists(started))
    return waiting.order_by().values_list("conversation", flat=True).distinct()


@dataclass(frozen=True, slots=True)
class Queue:
    """Each verb refuses with `stale` once the message's run has started, and returns the order for its ack."""

    conversation: "Conversation"

    def waiting(self) -> list[Run]:
        """Runs whose message is in the queue, next first."""
        runs = self.conversation.runs.filter(state=State.QUEUED, prompt__place=None).select_related("prompt")
        return list(runs.order_by("position"))

    def order(self) -> list[str]:
        """The ids of the waiting messages, next first."""
        return [str(run.prompt_id) for run in self.waiting()]

    def edit(self, *, by: Participant, device: Device | None, message: uuid.UUID, text: str) -> dict[str, Any]:
        """Change what a waiting message says. Its files stay; one that has some may say nothing."""
        with self.conversation.locked() as conversation:
            by.now().may_speak()
            run = conversation.queue.find(message)
            files = files_in(run.prompt.parts)
            if not text and not files:
                raise Refused(Code.INVALID, "text: a message without files must say something.")
            run.prompt.parts = [*text_parts(text), *files]
            run.prompt.save(update_fields=["parts"])
            payload = {"parts": run.prompt.parts, "by": by.identity(device)}
            log.record(conversation, log.Entry(Kind.MESSAGE_EDITED, payload, run.pk, message))
            return {"order": conversation.queue.order()}

    def remove(self, *, by: Participant, device: Device | None, message: uuid.UUID) -> dict[str, Any]:
        """Take a waiting message back: it and its run are gone from every device."""
        with self.conversation.locked() as conversation:
            by.now().may_speak()
            run = conversation.queue.find(message)
            who = by.identity(device)
            run.prompt.removed_at = timezone.now()
            run.prompt.save(update_fields=["removed_at"])
            run.end_locked(conversation, State.CANCELLED, cancelled_by=who)
            log.record(conversation, log.Entry(Kind.MESSAGE_REMOVED, {"by": who}, None, message))
            return {"order": conversation.queue.order()}

    def move(
        self, *, by: Participant, device: Device | None, message: uuid.UUID, before: uuid.UUID | None
    ) -> dict[str, Any]:
        """Put a waiting message before another one, or last."""
        with self.conversation.locked() as conversation:
            by.now().may_speak()
            queue = conversation.queue
            moved = queue.find(message)
            others = [run for run in queue.waiting() if run.pk != moved.pk]
            target = queue.find(before).pk if before else None
            at = next((i for i, run in enumerate(others) if run.pk == target), len(others))
            order = [*others[:at], moved, *others[at:]]
            for position, run in zip(sorted(run.position for run in order), order, strict=True):
                Run.objects.filter(pk=run.pk).update(position=position)
            ids = queue.order()
            log.record(conversation, log.Entry(Kind.QUEUE_CHANGED, {"order": ids, "by": by.identity(device)}))
            return {"order": ids}

    def find(self, message: uuid.UUID) -> Run:
        """The run of a waiting message. Raises Refused: `stale` if it no longer waits, else `unknown_message`."""
        run = next((run for run in self.waiting() if run.prompt_id == message), None)
        if run is not None:
            return run
        if self.conversation.messages.filter(pk=message).exists():
            raise Refused(Code.STALE, "This message no longer waits: its answer has started or it was removed.")
        raise Refused(Code.UNKNOWN_MESSAGE, "There is no such message here.")
