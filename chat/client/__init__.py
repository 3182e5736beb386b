"""A client of a conversation, for programs: the same connection machine as the browser's.

    async with connect("https://chat.example.org/conversations/…/", token) as conversation:
        await conversation.send("Where to?")
        async for event in conversation:
            ...

It needs nothing else of the project, nor Django; see docs/client.md.
"""

from chat.client import acts, events, frames
from chat.client.conversation import Conversation, connect
from chat.client.errors import Closed, Left, Refused, Unreadable
from chat.client.machine import State
from chat.client.memory import Memory, Transport
from chat.client.offers import DeviceTools, Offered, Offers
from chat.client.store import FileStore, MemoryStore, Saved, Store
from chat.client.view import Answer, Turn, View

__all__ = [
    "Answer",
    "Closed",
    "Conversation",
    "DeviceTools",
    "FileStore",
    "Left",
    "Memory",
    "MemoryStore",
    "Offered",
    "Offers",
    "Refused",
    "Saved",
    "State",
    "Store",
    "Transport",
    "Turn",
    "Unreadable",
    "View",
    "acts",
    "connect",
    "events",
    "frames",
]
