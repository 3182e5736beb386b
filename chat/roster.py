"""The connections of this process, by conversation and user: who is here, and who has just come or gone."""

import logging
import time
from collections.abc import Iterator
from typing import Any, Protocol
from uuid import UUID

logger = logging.getLogger(__name__)


class Known(Protocol):
    """By what its user is known: a session or the hash of a token."""

    @property
    def session(self) -> str | None: ...
    @property
    def token(self) -> str | None: ...


class Connected(Protocol):
    """A device's connection, as the host sees it."""

    conversation: UUID
    name: str
    user: str
    user_id: Any
    device: UUID
    applied: int | None
    heard_at: float
    transport: str
    encoding: str

    @property
    def credential(self) -> Known: ...
    def heard_by_post(self, applied: int | None, *, pinged: bool) -> None: ...
    def beat(self) -> None: ...
    async def close(self) -> None: ...


def ids(connection: Connected) -> dict[str, str]:
    """By what a connection is found in logs."""
    return {
        "conversation": str(connection.conversation),
        "device": str(connection.device),
        "connection": connection.name,
        "transport": connection.transport,
    }


class Roster:
    """A set of connections that also knows its users. A user with three tabs comes once and goes once."""

    def __init__(self) -> None:
        self._here: dict[UUID, dict[str, set[Connected]]] = {}
        self._named: dict[str, Connected] = {}

    def __iter__(self) -> Iterator[Connected]:
        """Over a copy: connections come and go while one looks."""
        return iter([c for users in self._here.values() for connections in users.values() for c in connections])

    def __len__(self) -> int:
        return len(self._named)

    def named(self, name: str) -> Connected | None:
        """The connection of that name, if it is here."""
        return self._named.get(name)

    def add(self, connection: Connected) -> bool:
        """Returns True if it is its user's first in this conversation here."""
        connections = self._here.setdefault(connection.conversation, {}).setdefault(connection.user, set())
        connections.add(connection)
        self._named[connection.name] = connection
        logger.debug("device connected", extra={**ids(connection), "encoding": connection.encoding})
        return len(connections) == 1

    def remove(self, connection: Connected) -> bool:
        """Returns True if it was its user's last in this conversation here; False if it was not in the roster."""
        users = self._here.get(connection.conversation, {})
        connections = users.get(connection.user, set())
        if connection not in connections:
            return False
        connections.remove(connection)
        del self._named[connection.name]
        logger.debug("device left", extra=ids(connection))
        if connections:
            return False
        del users[connection.user]
        if not users:
            del self._here[connection.conversation]
        return True

    def count(self, transport: str) -> int:
        """How many connections came by this door."""
        return sum(connection.transport == transport for connection in self)

    def users(self) -> dict[UUID, list[str]]:
        """Who is here, by conversation."""
        return {conversation: sorted(users) for conversation, users in self._here.items()}

    def users_of(self, conversation: UUID) -> list[str]:
        """Who is here in one conversation."""
        return sorted(self._here.get(conversation, {}))

    def silent(self, seconds: float) -> list[Connected]:
        """Connections that have said nothing for so long."""
        since = time.monotonic() - seconds
        return [connection for connection in self if connection.heard_at < since]
