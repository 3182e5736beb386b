"""A title for the conversation that the model speaks in."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from chat.agent.standing import participant
from chat.agent.tool import Context, ToolRefused, tool
from chat.approval import visible
from chat.models.conversation import TITLE_LENGTH


@tool(approval=True)
async def rename_conversation(
    context: Context, title: Annotated[str, Field(min_length=1, max_length=TITLE_LENGTH)]
) -> str:
    """Give this conversation another title. Somebody here must approve it, and who asked be allowed to.

    title: the new title, one line of plain text
    """
    plain = " ".join(title.split())
    if all(visible(one) != one for one in plain):
        raise ToolRefused("title: must have something that can be seen.")
    await context.query(_rename, context.user, context.conversation, plain)
    return f"The conversation is now called {plain}"


def _rename(user: Any, conversation: UUID, title: str) -> None:
    by = participant(user, conversation)
    by.conversation.rename(by=by, title=title)
