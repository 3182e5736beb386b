"""The root: owns the serial counter and the log, and everything a participant can do to it."""

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import models
from django.utils import timezone

from chat import log
from chat.errors import Code, Refused
from chat.models.budget import admit
from chat.models.cancelled_send import CancelledSend
from chat.models.device import Device
from chat.models.event import Kind, new_id
from chat.models.file import File
from chat.models.message import Message
from chat.models.participant import Participant, Role
from chat.models.queue import Queue
from chat.models.run import Run
from chat.models.saying import Saying, acceptance
from chat.models.state import LIVE, State
from chat.turns import writing

TITLE_LENGTH = 80


class Conversation(models.Model):
    """`head` is the serial of the newest event. Whoever changes anything here holds this row's lock first."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    title = models.CharField(max_length=TITLE_LENGTH, blank=True)
    provider = models.CharField(max_length=40, blank=True, help_text="Empty: the one CHAT_PROVIDER names.")
    head = models.PositiveBigIntegerField(default=0)
    # Changes when history was rewritten outside the log (a restored backup): every cursor is then void.
    epoch = models.UUIDField(default=new_id, editable=False)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return self.title or "New conversation"

    @classmethod
    def begin(cls, owner: Any, title: str = "") -> "Conversation":
        """A new, empty conversation of this user's."""
        with writing():
            conversation = cls.objects.create()
            with conversation.locked() as locked:
                locked._join(owner, Role.OWNER)
                if title:
                    locked.rename_locked(title)
        conversation.refresh_from_db()
        return conversation

    @contextmanager
    def locked(self) -> Iterator["Conversation"]:
        """A transaction that holds this row's lock, with the row as it is now. Never await inside."""
        with writing():
            try:
                yield type(self).objects.select_for_update().get(pk=self.pk)
            except type(self).DoesNotExist:
                raise Refused(Code.FORBIDDEN, "This conversation no longer exists.") from None

    def erase(self) -> None:
        """Delete it with its log, under the lock: text committed meanwhile would belong to nothing."""
        with self.locked() as conversation:
            File.discard_locked(conversation.files.all())
            conversation.delete()

    # --- speaking -------------------------------------------------------------------------------------------

    def send(
        self,
        *,
        by: Participant,
        text: str,
        client_id: uuid.UUID,
        when_busy: str = "queue",
        device: Device | None = None,
        parent: uuid.UUID | None = None,
        steer: uuid.UUID | None = None,
        files: Sequence[uuid.UUID] = (),
    ) -> dict[str, Any]:
        """Store a message and the run that will answer it, and return what the ack says.

        The same `client_id` again returns the first answer with `duplicate`. Refuses with `busy` (when_busy
        is reject, or too much waits), `stale` (`parent` is no longer the newest message, `steer` or one of `files` was
        sent already), `unknown_file`, `too_large` (so many files), `unknown_message` (no such `steer`), `budget` or
        `forbidden`.
        """
        saying = Saying(by, device, text, client_id, when_busy, parent, steer, files)
        with self.locked() as conversation:
            by.now().may_speak()
            return saying.to(conversation)

    def retry(self, *, by: Participant, run: Run, device: Device | None, client_id: uuid.UUID) -> dict[str, Any]:
        """Answer a prompt again whose run failed, was stopped or interrupted. Queued behind what is live."""
        with self.locked() as conversation:
            by.now().may_speak()
            again = Run.objects.filter(pk=client_id).first()
            if again is not None and again.conversation_id != conversation.pk:
                raise Refused(Code.INVALID, "This id is taken.")
            if again is not None:
                return acceptance(again.prompt, again, duplicate=True)
            prompt = conversation.messages.get(pk=run.prompt_id)
            if prompt.removed_at is not None:
                raise Refused(Code.STALE, "This message was removed.")
            if prompt.runs.exclude(state__in=(State.FAILED, State.INTERRUPTED, State.CANCELLED)).exists():
                raise Refused(Code.STALE, "This message has an answer, or one is on its way.")
            # The client's id becomes the run's, which makes a repeated retry find the first.
            new = Run.objects.create(
                pk=client_id,
                conversation=conversation,
                prompt=prompt,
                position=conversation.head + 1,
                provider=conversation.provider or settings.CHAT_PROVIDER,
                requested_by=by.user,
                requested_from=device,
            )
            log.record(conversation, log.Entry(Kind.RUN_QUEUED, new.queueing(), new.pk, prompt.pk))
            return acceptance(prompt, new, duplicate=False) | admit(new)

    def cancel(
        self, *, by: Participant, device: Device | None, only_mine: bool, until: int | None = None
    ) -> dict[str, Any]:
        """Stop everything that is live here, waiting messages included, or only what this user asked for.

        `until`: nothing that was asked after this serial. A stop that comes late must not hit a later question.
        """
        with self.locked() as conversation:
            by.now().may_speak()
            who = by.identity(device)
            live = conversation.runs.filter(state__in=LIVE).select_related("prompt").order_by("position")
            runs = [
                run
                for run in live
                if (not only_mine or run.requested_by_id == by.user_id)
                and (until is None or run.prompt.created_serial <= until)
            ]
            # Waiting ones first: ending what runs must not let the next one start.
            for run in sorted(runs, key=lambda run: run.state != State.QUEUED):
                run.cancel_locked(conversation, who)
            outcome = "cancelling" if runs else "already_ended"
            return {"outcome": outcome, "runs": [str(run.pk) for run in runs]}

    def cancel_send(self, *, by: Participant, device: Device | None, client_id: uuid.UUID) -> dict[str, Any]:
        """Stop the run of a send known by its client id only, also if that send has not arrived yet."""
        with self.locked() as conversation:
            by.now().may_speak()
            who = by.identity(device)
            message = conversation.messages.filter(client_id=client_id).first()
            if message is not None:
                return message.runs.select_related("prompt").latest("position").cancel_locked(conversation, who)
            steer = conversation.steers.filter(client_id=client_id).select_related("run__prompt").first()
            if steer is not None:  # that send became part of an answer: it is what is stopped
                return steer.run.cancel_locked(conversation, who)
            CancelledSend.remember(conversation, client_id, who)
            return {"outcome": "cancelling"}

    # --- the queue ------------------------------------------------------------------------------------------

    @property
    def queue(self) -> Queue:
        """The waiting messages and what can be done to them."""
        return Queue(self)

    # --- people ---------------------------------------------------------------------------------------------

    def add(self, *, by: Participant, user: Any, role: str) -> Participant:
        """Let somebody in, or change what they may do. The owner stays the owner."""
        with self.locked() as conversation:
            by.now().may_manage()
            known = conversation.participants.filter(user=user).first()
            if known is None:
                return conversation._join(user, role)
            if known.role == Role.OWNER or role == Role.OWNER:
                raise Refused(Code.INVALID, "A conversation has one owner, who stays it.")
            if known.role != role:
                known.role = role
                known.save(update_fields=["role"])
                payload = {"user": user.get_username(), "role": role}
                log.record(conversation, log.Entry(Kind.PARTICIPANT_CHANGED, payload))
            return known

    def remove(self, *, by: Participant, user: Any) -> None:
        """Let somebody go. Anybody may leave; only the owner may send somebody else away."""
        with self.locked() as conversation:
            if by.user_id != user.pk:
                by.now().may_manage()
            known = conversation.participants.filter(user=user).first()
            if known is None:
                return
            if known.role == Role.OWNER:
                raise Refused(Code.INVALID, "The owner cannot leave the conversation.")
            known.delete()
            log.record(conversation, log.Entry(Kind.PARTICIPANT_LEFT, {"user": user.get_username()}))

    def rename(self, *, by: Participant, title: str) -> None:
        """Give it another title."""
        with self.locked() as conversation:
            by.now().may_speak()
            conversation.rename_locked(title)

    def title_after(self, said: str) -> None:
        """Call it by the first line's worth of what was said, at whole words where there are any. Lock held."""
        title = " ".join(said.split())
        if len(title) > TITLE_LENGTH:
            head = title[: TITLE_LENGTH - 1]
            title = (head.rsplit(" ", 1)[0] if " " in head[TITLE_LENGTH // 2 :] else head) + "…"
        self.rename_locked(title)

    def rename_locked(self, title: str) -> None:
        """`rename` for a caller that holds the lock."""
        self.title = title[:TITLE_LENGTH]
        self.save(update_fields=["title"])
        log.record(self, log.Entry(Kind.CONVERSATION_RENAMED, {"title": self.title}))

    def _join(self, user: Any, role: str) -> Participant:
        participant = Participant.objects.create(conversation=self, user=user, role=role)
        payload = {"user": user.get_username(), "role": role}
        log.record(self, log.Entry(Kind.PARTICIPANT_JOINED, payload))
        return participant

    def newest_message(self) -> Message | None:
        """The last message of the transcript."""
        return self.messages.exclude(place=None).order_by("-place", "-created_serial").first()
