"""The nouns, each with what can happen to it."""

from chat.models.budget import Budget
from chat.models.cancelled_send import CancelledSend
from chat.models.conversation import Conversation
from chat.models.device import Device
from chat.models.event import Event, Kind
from chat.models.file import File
from chat.models.message import Message
from chat.models.participant import Participant, Role
from chat.models.run import Run
from chat.models.spending import Spending
from chat.models.steer import Steer
from chat.models.summary import Summary
from chat.models.token import AccessToken
from chat.models.worker import Worker

__all__ = [
    "AccessToken",
    "Budget",
    "CancelledSend",
    "Conversation",
    "Device",
    "Event",
    "File",
    "Kind",
    "Message",
    "Participant",
    "Role",
    "Run",
    "Spending",
    "Steer",
    "Summary",
    "Worker",
]
