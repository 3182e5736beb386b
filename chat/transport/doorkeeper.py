"""Lets devices in, and sends them away: the process ends, they fall silent, or they may no longer listen."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from uuid import UUID

from chat.database import AWAY, Database
from chat.models import Device, Participant
from chat.transport.access import NO_TOKEN, Access, Credential
from chat.transport.admission import Credentials, Wish, enter_all
from chat.transport.close import Close
from chat.transport.connection import Connection

REASONS = {
    Close.SIGNED_OUT: "You are signed out.",
    Close.FORBIDDEN: "You are no longer in this conversation.",
    Close.REVOKED: "This device was signed out from another one.",
}
MOST_AT_ONCE = 50  # are let in together
PATIENCE = 0.2  # seconds that the next wait for those before them


class Doorkeeper:
    """Of one process. Every goodbye is a `bye` frame with a code, then a close that says whether to come back."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._credentials = Credentials()
        self._waiting: deque[tuple[Wish, asyncio.Future[Access]]] = deque()
        self._letting_in: asyncio.Task[None] | None = None

    async def let_in(self, wish: Wish) -> Access:
        """Raises Refused. Who comes while others are let in waits a little, and goes in with all who wait then."""
        answer: asyncio.Future[Access] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, answer))
        if self._letting_in is None or self._letting_in.done():
            self._letting_in = asyncio.create_task(self._let_all_in(), name="let-in")
        return await answer

    async def _let_all_in(self) -> None:
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
            entering = asyncio.create_task(self._let_some_in(some), name="let-some-in")
            # A database that cannot be written holds up who is new, and nobody behind them.
            await asyncio.wait([entering], timeout=PATIENCE)

    async def _let_some_in(self, some: list[tuple[Wish, asyncio.Future[Access]]]) -> None:
        results = await self._enter([wish for wish, _ in some])
        for (_, answer), result in zip(some, results, strict=True):
            if answer.done():  # it has left meanwhile
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    async def _enter(self, wishes: list[Wish]) -> Sequence[Access | Exception]:
        try:
            return await self._database.run(enter_all, wishes, self._credentials)
        except AWAY as error:  # the database is away: for all of them
            return [error] * len(wishes)
        except Exception as error:  # noqa: BLE001 - told to whom it concerns
            if len(wishes) == 1:
                return [error]
        # What one of them brings must not keep the others out.
        return [(await self._enter([wish]))[0] for wish in wishes]

    async def drain(self, connections: list[Connection]) -> None:
        await end_all(connections, Close.DRAIN)

    async def idle(self, connections: list[Connection]) -> None:
        await end_all(connections, Close.IDLE)

    async def recheck(self, connections: list[Connection]) -> None:
        """Compare with the database and send away whoever may no longer listen."""
        if not connections:
            return
        rows = [(c.credential, c.user_id, c.conversation, c.device) for c in connections]
        verdicts = await self._database.run(judge, rows, self._credentials)
        for connection, verdict in zip(connections, verdicts, strict=True):
            if verdict is not None:
                by_token = verdict is Close.SIGNED_OUT and connection.credential.token is not None
                await connection.bye(verdict, NO_TOKEN if by_token else REASONS[verdict])


def judge(rows: Iterable[tuple[Credential, int, UUID, UUID]], credentials: Credentials) -> list[Close | None]:
    """Why each (credential, user, conversation, device) must go, or None. Few queries if nothing has changed."""
    rows = list(rows)
    standing = credentials.look({row[0] for row in rows})
    people = set(
        Participant.objects.filter(conversation__in={row[2] for row in rows}).values_list("user_id", "conversation_id")
    )
    revoked = set(
        Device.objects.filter(pk__in={row[3] for row in rows}).exclude(revoked_at=None).values_list("pk", flat=True)
    )
    verdicts: list[Close | None] = []
    for credential, user, conversation, device in rows:
        if device in revoked:
            verdicts.append(Close.REVOKED)
        elif standing.owner(credential) != user:
            verdicts.append(Close.SIGNED_OUT)
        else:
            verdicts.append(None if (user, conversation) in people else Close.FORBIDDEN)
    return verdicts


def spread(count: int) -> float:
    """Over how many seconds to spread the return of so many devices: a deploy is not a stampede."""
    return min(5.0, 0.2 + count / 400)


async def end_all(connections: list[Connection], close: Close) -> None:
    """Say goodbye to many at once."""
    within = spread(len(connections))
    await asyncio.gather(*(c.bye(close, retry_within=within) for c in connections), return_exceptions=True)
