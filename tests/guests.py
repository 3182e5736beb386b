"""Others who are in a conversation, in tests."""

from collections.abc import Callable

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from chat.models import Conversation, Role
from tests.device import Device


async def let_in(conversation: Conversation, user: User, role: str = "editor") -> None:
    """By its owner. Who is in it already has this role from now on."""
    owner = await conversation.participants.select_related("user").aget(role=Role.OWNER)
    await sync_to_async(conversation.add)(by=owner, user=user, role=role)


async def guest(device: Callable[..., Device], conversation: Conversation, user: User, role: str = "editor") -> Device:
    """A live device of somebody who was let in for it."""
    await let_in(conversation, user, role)
    return await (await device(user, conversation).connect()).synced()
