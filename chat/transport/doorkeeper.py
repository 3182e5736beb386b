"""Sends devices away: when the process ends, when they fall silent, when their user is no longer let in."""

import asyncio
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.utils import timezone

from chat.database import Database
from chat.models import AccessToken, Device, Participant
from chat.transport.access import NO_TOKEN, Credential, user_of
from chat.transport.close import Close
from chat.transport.connection import Connection

REASONS = {
    Close.SIGNED_OUT: "You are signed out.",
    Close.FORBIDDEN: "You are no longer in this conversation.",
    Close.REVOKED: "This device was signed out from another one.",
}
Good = dict[Credential, tuple[Any, ...]]  # session → what it was when it was last looked into


class Doorkeeper:
    """Every goodbye is a `bye` frame with a code, then a close that says whether to come back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._good: Good = {}

    async def drain(self, connections: list[Connection]) -> None:
        await end_all(connections, Close.DRAIN)

    async def idle(self, connections: list[Connection]) -> None:
        await end_all(connections, Close.IDLE)

    async def recheck(self, connections: list[Connection]) -> None:
        """Compare with the database and send away whoever may no longer listen."""
        if not connections:
            return
        rows = [(c.credential, c.user_id, c.conversation, c.device) for c in connections]
        verdicts = await self._database.run(judge, rows, self._good)
        for connection, verdict in zip(connections, verdicts, strict=True):
            if verdict is not None:
                by_token = verdict is Close.SIGNED_OUT and connection.credential.token is not None
                await connection.bye(verdict, NO_TOKEN if by_token else REASONS[verdict])


def judge(rows: Iterable[tuple[Credential, int, UUID, UUID]], good: Good) -> list[Close | None]:
    """Why each (credential, user, conversation, device) must go, or None. Few queries if nothing has changed."""
    rows = list(rows)
    standing = signed_in({row[0]: row[1] for row in rows if row[0].token is None}, good)
    standing |= with_tokens({row[0] for row in rows if row[0].token is not None})
    people = set(
        Participant.objects.filter(conversation__in={row[2] for row in rows}).values_list("user_id", "conversation_id")
    )
    revoked = set(
        Device.objects.filter(pk__in={row[3] for row in rows}).exclude(revoked_at=None).values_list("pk", flat=True)
    )
    verdicts: list[Close | None] = []
    for key, user, conversation, device in rows:
        if device in revoked:
            verdicts.append(Close.REVOKED)
        elif standing.get(key) != user:
            verdicts.append(Close.SIGNED_OUT)
        else:
            verdicts.append(None if (user, conversation) in people else Close.FORBIDDEN)
    return verdicts


def with_tokens(credentials: set[Credential]) -> dict[Credential, int]:
    """Which access tokens still stand, and for whom."""
    if not credentials:
        return {}
    found = AccessToken.objects.filter(key__in=[credential.token for credential in credentials], revoked_at=None)
    return {Credential(token=key): user for key, user in found.filter(user__is_active=True).values_list("key", "user")}


def signed_in(keys: dict[Credential, int], good: Good) -> dict[Credential, int]:
    """Which sessions still stand, and for whom. `good` remembers what was looked into and need not be again.

    A session stands as long as its row, its user's password and whether they are active are as they were.
    """
    stored = dict(
        Session.objects.filter(
            session_key__in=[key.session for key in keys], expire_date__gt=timezone.now()
        ).values_list("session_key", "session_data")
    )
    users = {
        pk: state
        for pk, *state in get_user_model()
        .objects.filter(pk__in=set(keys.values()))
        .values_list("pk", "password", "is_active")
    }
    standing: dict[Credential, int] = {}
    for key, user in keys.items():
        state = (stored.get(key.session or ""), user, *users.get(user, ()))
        if state[0] is None:
            continue
        if good.get(key) != state and getattr(user_of(key), "pk", None) == user:
            good[key] = state
        if good.get(key) == state:
            standing[key] = user
    for gone in good.keys() - standing.keys():
        if gone in keys:
            del good[gone]
    return standing


def spread(count: int) -> float:
    """Over how many seconds to spread the return of so many devices: a deploy is not a stampede."""
    return min(5.0, 0.2 + count / 400)


async def end_all(connections: list[Connection], close: Close) -> None:
    """Say goodbye to many at once."""
    within = spread(len(connections))
    await asyncio.gather(*(c.bye(close, retry_within=within) for c in connections), return_exceptions=True)
