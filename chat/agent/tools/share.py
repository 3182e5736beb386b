"""Somebody else is let into the conversation that the model speaks in."""

from typing import Annotated, Any, Literal
from uuid import UUID

from django.contrib.auth import get_user_model
from pydantic import Field

from chat.agent.standing import participant
from chat.agent.tool import Context, tool
from chat.errors import Code, Refused


@tool(approval=True)
async def share_conversation(
    context: Context, username: Annotated[str, Field(min_length=1, max_length=150)], role: Literal["editor", "viewer"]
) -> str:
    """Let somebody into this conversation, all of its past included, or change what they may do here.

    Only its owner can, and somebody here must approve it.

    username: the exact name of an account here
    role: an editor reads and asks, a viewer only reads
    """
    await context.query(_share, context.user, context.conversation, username, role)
    return f"{username} is now {'an editor' if role == 'editor' else 'a viewer'} of this conversation."


def _share(user: Any, conversation: UUID, username: str, role: str) -> None:
    by = participant(user, conversation)
    by.may_manage()  # before anybody is told which names there are
    found = get_user_model().objects.filter(is_active=True, username=username).first()
    if found is None:
        raise Refused(Code.UNKNOWN_USER, "There is nobody of that name.")
    by.conversation.add(by=by, user=found, role=role)
