"""What the person a tool acts for may do, asked anew at each call: a run may wait for days for an approval."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet

from chat.errors import Code, Refused
from chat.models import Participant


def participations(user: Any) -> QuerySet[Participant]:
    """The conversations somebody is in, through which everything that they may see is loaded."""
    return Participant.objects.filter(user=user, user__is_active=True).select_related("conversation", "user")


def participant(user: Any, conversation: UUID) -> Participant:
    """Their place in one conversation. Raises Refused where they have none."""
    found = participations(user).filter(conversation_id=conversation).first()
    if found is None:
        raise Refused(Code.FORBIDDEN, "Whoever asked is no longer in this conversation.")
    return found
