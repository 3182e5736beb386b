"""What somebody attaches to a message: a row here, its bytes in Django's default storage.

Bytes are written before there is a row and removed before it goes, so that a row always says where they are. What is
discarded has a date, and is removed at once if the storage answers and by a sweep if not.
"""

import logging
import unicodedata
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import models, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone

from chat.contents import IMAGES, Content
from chat.errors import Code, Refused
from chat.logs import reason
from chat.models.event import new_id
from chat.models.participant import Participant
from chat.models.parts import Part
from chat.turns import writing

if TYPE_CHECKING:
    from chat.models.conversation import Conversation
    from chat.models.message import Message

logger = logging.getLogger(__name__)

NAME_LENGTH = 120
UNSENT_KEPT = timedelta(days=1)
SWEPT_AT_ONCE = 200
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # also what turns the direction of text: exe.gpj


@dataclass(frozen=True, slots=True)
class Stored:
    """Where the bytes are: of the file, and of the smaller view of it, if it has one."""

    name: str
    view: str = ""


class File(models.Model):
    """`message` is null until it is sent; then it is the conversation's. The id is made by whoever uploads it."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    # What has none is to be removed: its bytes may be longer there than the conversation was.
    conversation = models.ForeignKey("chat.Conversation", models.SET_NULL, null=True, related_name="files")
    message = models.ForeignKey("chat.Message", models.SET_NULL, null=True, blank=True, related_name="files")
    uploaded_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    name = models.CharField(max_length=NAME_LENGTH)
    content_type = models.CharField(max_length=80)
    size = models.PositiveBigIntegerField()
    width = models.PositiveIntegerField(null=True, blank=True)
    height = models.PositiveIntegerField(null=True, blank=True)
    pages = models.PositiveIntegerField(default=0)
    stored = models.FileField(max_length=200)
    view = models.FileField(max_length=200, blank=True)
    view_type = models.CharField(max_length=80, blank=True)
    view_size = models.PositiveBigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now)
    discarded_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["uploaded_by", "created_at"], name="file_unsent", condition=Q(message=None)),
            models.Index(fields=["discarded_at"], name="file_discarded", condition=Q(discarded_at__isnull=False)),
            models.Index(fields=["created_at"], name="file_created"),  # as staff look through them
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def is_image(self) -> bool:
        return self.content_type in IMAGES.values()

    def part(self) -> Part:
        """Of the message it is sent with."""
        told = {"file": str(self.pk), "name": self.name, "content_type": self.content_type, "size": self.size}
        if self.is_image:
            return {"type": "image", **told, "width": self.width, "height": self.height, "state": "done"}
        return {"type": "file", **told, "state": "done"}

    # --- upload ---------------------------------------------------------------------------------------------

    @classmethod
    def expected(cls, by: Participant, client_id: uuid.UUID) -> "File | None":
        """Before its bytes are read: the file of that id, if it came before. Raises Refused if it may not come."""
        by.may_speak()
        known = cls.objects.filter(pk=client_id).first()
        if known is None:
            cls._check_room(by)
        elif (known.conversation_id, known.uploaded_by_id, known.discarded_at) != (
            by.conversation_id,
            by.user_id,
            None,
        ):
            raise Refused(Code.INVALID, "This id is taken.")
        return known

    @classmethod
    def _check_room(cls, by: Participant) -> None:
        if (
            cls.objects.filter(uploaded_by=by.user, message=None, discarded_at=None).count()
            >= settings.CHAT_FILES_UNSENT
        ):
            waiting = f"You have {settings.CHAT_FILES_UNSENT} files that are not sent. Send or remove some of them."
            raise Refused(Code.BUSY, waiting, retry_after=60.0)

    @staticmethod
    def put(data: bytes, content: Content) -> Stored:
        """Write the bytes, under a name that says nothing. Raises Refused: `storage`; then nothing is left of them."""
        name = f"files/{uuid.uuid4().hex[:2]}/{uuid.uuid4().hex}"
        view = f"{name}-view" if content.view else ""
        try:
            default_storage.save(name, ContentFile(data))
            if content.view:
                default_storage.save(view, ContentFile(content.view.data))
        except Exception as error:
            File.drop(Stored(name, view))
            logger.exception("a file could not be stored")
            raise Refused(Code.STORAGE, "The file could not be stored. Try again.", retry_after=2.0) from error
        return Stored(name, view)

    @staticmethod
    def drop(stored: Stored) -> bool:
        """Remove bytes. False, with a line in the log, if the storage does not let us; none there is fine."""
        try:
            for name in filter(None, (stored.view, stored.name)):
                default_storage.delete(name)
        except Exception as error:  # noqa: BLE001 - whatever a storage raises
            logger.warning("a file could not be removed: %s", reason(error))
            return False
        return True

    @classmethod
    def keep(
        cls, stored: Stored, content: Content, *, by: Participant, client_id: uuid.UUID, name: str, size: int
    ) -> "File":
        """The row of bytes that were `put`. If one of that id was faster it is that one: look at `stored`.

        The user's row is the lock: of many uploads at once none may be one too many.
        """
        with by.conversation.locked() as conversation:
            by.now().may_speak()
            get_user_model().objects.select_for_update(no_key=True).get(pk=by.user_id)
            known = cls.expected(by, client_id)
            return known or cls.objects.create(
                pk=client_id,
                conversation=conversation,
                uploaded_by=by.user,
                name=cleaned(name),
                content_type=content.content_type,
                size=size,
                width=content.width,
                height=content.height,
                pages=content.pages,
                stored=stored.name,
                view=stored.view,
                view_type=content.view.content_type if content.view else "",
                view_size=len(content.view.data) if content.view else 0,
            )

    # --- sending --------------------------------------------------------------------------------------------

    @classmethod
    def to_send(cls, conversation: "Conversation", by: Participant, ids: Sequence[uuid.UUID]) -> "list[File]":
        """In this order, each once. Call with the conversation locked. Refuses all if it refuses one."""
        if not ids:
            return []
        if len(ids) > settings.CHAT_FILES_PER_MESSAGE:
            raise Refused(Code.TOO_LARGE, f"A message may have {settings.CHAT_FILES_PER_MESSAGE} files.")
        mine = cls.objects.select_for_update().filter(conversation=conversation, uploaded_by=by.user, discarded_at=None)
        found = {file.pk: file for file in mine.filter(pk__in=ids)}
        if not found.keys() >= set(ids):
            raise Refused(Code.UNKNOWN_FILE, "A file of this message is no longer here. Attach it again.")
        if sent := [file.name for file in found.values() if file.message_id is not None]:
            raise Refused(Code.STALE, f"{sent[0]} was sent already. Attach it again.")
        return [found[one] for one in dict.fromkeys(ids)]

    @classmethod
    def bind(cls, files: "Iterable[File]", message: "Message") -> None:
        """They are this message's from now on."""
        if ids := [file.pk for file in files]:
            cls.objects.filter(pk__in=ids).update(message=message)

    # --- reading --------------------------------------------------------------------------------------------

    @classmethod
    def seen_by(cls, participant: Participant) -> "models.QuerySet[File, File]":
        """What was sent in their conversation, and what they are about to send."""
        here = cls.objects.filter(conversation=participant.conversation, discarded_at=None, message__removed_at=None)
        return here.filter(Q(message__isnull=False) | Q(uploaded_by=participant.user))

    # --- going ----------------------------------------------------------------------------------------------

    @classmethod
    def remove(cls, by: Participant, pk: uuid.UUID) -> dict[str, Any]:
        """Take back what is not sent. Idempotent: what is gone is gone."""
        with by.conversation.locked() as conversation:
            by.now().may_speak()
            mine = cls.objects.filter(pk=pk, conversation=conversation, uploaded_by=by.user, discarded_at=None)
            if mine.exclude(message=None).exists():
                raise Refused(Code.STALE, "This file was sent already.")
            cls.discard_locked(mine)
            return {}

    @classmethod
    def discard_locked(cls, files: "models.QuerySet[File, File]") -> None:
        """They are gone now, and their bytes when this is committed."""
        gone = list(files.values_list("pk", flat=True))
        if gone:
            cls.objects.filter(pk__in=gone).update(discarded_at=Now())
            transaction.on_commit(partial(cls.sweep, gone), robust=True)

    @classmethod
    def sweep(cls, only: Iterable[uuid.UUID] | None = None) -> int:
        """Remove what is discarded, and what nobody has sent, or kept, for a day. How many went."""
        late = timezone.now() - UNSENT_KEPT
        old = Q(message=None, created_at__lt=late) | Q(message__removed_at__lt=late)
        if only is None:
            with writing():
                found = cls.objects.filter(old, discarded_at=None).values_list("pk", "message")[:SWEPT_AT_ONCE]
                stale = list(found)
                cls.objects.filter(pk__in=[pk for pk, message in stale if message]).update(discarded_at=Now())
                # Looked at again where it is written: one may have been sent meanwhile.
                unsent = cls.objects.filter(pk__in=[pk for pk, message in stale if not message], message=None)
                unsent.update(discarded_at=Now())
        gone = cls.objects.filter(Q(discarded_at__isnull=False) | Q(conversation=None))
        gone = gone if only is None else gone.filter(pk__in=only)
        removed = [
            file.pk for file in gone[:SWEPT_AT_ONCE] if cls.drop(Stored(file.stored.name or "", file.view.name or ""))
        ]
        cls.objects.filter(pk__in=removed).delete()
        return len(removed)


def cleaned(name: str) -> str:
    """A name that shows as what it is: no path, nothing that cannot be seen, not longer than a line."""
    last = name.replace("\\", "/").rpartition("/")[2]
    seen = " ".join("".join(" " if unicodedata.category(one) in _UNSEEN else one for one in last).split()).strip(". ")
    if len(seen) > NAME_LENGTH:
        stem, dot, ending = seen.rpartition(".")
        keeps = dot and len(ending) <= 10
        seen = f"{stem[: NAME_LENGTH - len(ending) - 2]}….{ending}" if keeps else f"{seen[: NAME_LENGTH - 1]}…"
    return seen or "file"
