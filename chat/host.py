"""What lives beside the server in one process, on its event loop: started with it, drained and closed with it.

daphne says nothing about its start and end, uvicorn speaks `lifespan`; `serve` and `project/asgi.py` turn
either into `start` and `drain` here. There is one host per process; the doors find it by `running()`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol
from uuid import UUID

from django.conf import settings

from chat import log, metrics
from chat.allowance import Allowances, Remembered
from chat.database import Database
from chat.ending import end
from chat.group_commit import GroupCommit
from chat.hub import Hub
from chat.logs import reason
from chat.news import NewsDesk, set_desk
from chat.roster import Connected, Roster

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 5.0
REMEMBERED = 10_000  # acks, about 3 MB
HEARTBEATS = 2.5  # a device that has said nothing for so many is gone, whatever its socket says


class Beside(Protocol):
    """Something that lives with the host, such as the engine."""

    async def start(self) -> None: ...
    async def drain(self, seconds: float) -> None: ...
    async def close(self) -> None: ...


class Host:
    """The parts, in the order in which they come up, and the connections of this process."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.allowances = Allowances()
        self.draining = False
        self.answers: Remembered[tuple[Any, UUID], str] = Remembered(REMEMBERED)  # (user, signal) → its ack
        self._beside: list[Beside] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(
        self, beside: Iterable[Callable[["Host"], Beside]], doorkeeper: Callable[[Database], "Doorkeeper"]
    ) -> None:
        """Bring everything up, in the order in which it is needed."""
        self.database = Database()
        self.desk = NewsDesk()
        self.commit = GroupCommit(self.database)
        self.hub = Hub(self.database, self._on_people)
        self.doorkeeper = doorkeeper(self.database)
        log.set_outlet(self.desk.announce)
        set_desk(self.desk)
        metrics.watch_devices(self.roster.count)
        self.commit.start()
        await self.hub.start()
        for make in beside:
            part = make(self)
            await part.start()
            self._beside.append(part)
        self._tasks = [
            asyncio.create_task(self._beat(), name="heartbeat"),
            asyncio.create_task(self._recheck(), name="recheck"),
        ]

    async def drain(self) -> None:
        """Send the devices away, then let what runs finish or hand it over."""
        if self.draining:
            return
        self.draining = True
        logger.info("sending the devices away", extra={"devices": len(self.roster)})
        await self.doorkeeper.drain(list(self.roster))
        for part in self._beside:
            await part.drain(settings.CHAT_DRAIN_SECONDS)

    async def close(self) -> None:
        """Take everything down. Nothing of this host runs afterwards."""
        await end(*self._tasks)
        for connection in list(self.roster):
            await connection.close()
        for part in reversed(self._beside):
            await part.close()
        await self.hub.close()
        await self.commit.close()
        log.set_outlet(None)
        set_desk(None)
        await self.desk.close()
        self.database.close()

    def remember(self, signal: tuple[Any, UUID], answer: str) -> None:
        """Keep the ack of a signal whose repetition would do something again. The oldest go first."""
        self.answers[signal] = answer

    def heard_elsewhere(self, connection: str, speaker: Connected, *, pinged: bool) -> None:
        """A device spoke over HTTP to this process, and its connection is another's: tell that one."""
        by = [speaker.user_id, str(speaker.device)]
        said = {"by": by, "applied": speaker.applied, "pinged": pinged}
        self.desk.tell_people({"type": "people", "connection": connection, **said})

    def _on_people(self, message: dict[str, Any]) -> None:
        if "connection" in message:
            here = self.roster.named(message["connection"])
            if here is not None and [here.user_id, str(here.device)] == message["by"]:
                here.heard_by_post(message["applied"], pinged=message["pinged"])
            return
        gone = [connection for connection in self.roster if _concerns(message, connection)]
        if gone:
            task = asyncio.create_task(self.doorkeeper.recheck(gone), name="people")
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(settings.CHAT_HEARTBEAT_SECONDS)
            await self.doorkeeper.idle(self.roster.silent(settings.CHAT_HEARTBEAT_SECONDS * HEARTBEATS))
            for number, connection in enumerate(self.roster):
                connection.beat()
                if number % 50 == 49:
                    await asyncio.sleep(0)  # a thousand heartbeats must not hold up a token
            for conversation, users in self.roster.users().items():
                self.tell_presence(conversation, users, online=True)

    def tell_presence(self, conversation: UUID, users: list[str], *, online: bool) -> None:
        """Tell a conversation who is here, once for all devices of a user and all users of a beat."""
        self.desk.whisper(conversation, {"type": "presence", **self.presence(users, online=online)}, "")

    def presence(self, users: list[str], *, online: bool = True) -> dict[str, Any]:
        """The fields of a `presence` frame."""
        expires_in = settings.CHAT_HEARTBEAT_SECONDS * HEARTBEATS if online else 0
        return {"users": users, "online": online, "expires_in": expires_in}

    async def _recheck(self) -> None:
        """A logout or removal whose announcement was lost."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            try:
                await self.doorkeeper.recheck(list(self.roster))
            except Exception as error:  # noqa: BLE001 - a database that is away comes back
                logger.warning("could not recheck connections: %s", reason(error))


class Doorkeeper(Protocol):
    """Lets devices in and sends them away; the transport's part of the host."""

    async def let_in(self, wish: Any) -> Any: ...
    async def drain(self, connections: list[Any]) -> None: ...
    async def idle(self, connections: list[Any]) -> None: ...
    async def recheck(self, connections: list[Any]) -> None: ...


def _concerns(message: dict[str, Any], connection: Connected) -> bool:
    """A message concerns who it names: what it does not name is no match, whatever the connection lacks."""
    session, token, conversation = (message.get(name) for name in ("session", "token", "conversation"))
    if session is not None and session == connection.credential.session:
        return True
    if token is not None and token == connection.credential.token:
        return True
    if conversation is not None and conversation == connection.conversation.hex:
        return bool(message.get("user") == connection.user)
    return bool(message.get("device") == str(connection.device))


_start: Callable[[], Awaitable[Host]] | None = None
_host: asyncio.Task[Host] | None = None
_ending: asyncio.Task[None] | None = None


def provide(start: Callable[[], Awaitable[Host]]) -> None:
    """Say how this process makes its host. `project/asgi.py` does; tests bring their own."""
    global _start, _host, _ending
    _start, _host, _ending = start, None, None


async def running() -> Host:
    """The host of this process, started now if nothing has started it yet."""
    global _host
    if _host is None:
        assert _start is not None, "project/asgi.py has not been imported"
        _host = asyncio.ensure_future(_start())
    return await asyncio.shield(_host)


async def stop() -> None:
    """Drain and close the host of this process, if there is one. Whoever asks again waits for the same end."""
    global _ending
    if _host is None:
        return
    if _ending is None:
        _ending = asyncio.ensure_future(_stop(_host))
    await asyncio.shield(_ending)


async def _stop(task: asyncio.Task[Host]) -> None:
    global _host, _ending
    try:
        host = await task
        await host.drain()
        await host.close()
    finally:
        _ending = None
        if _host is task:  # until now, so that whoever comes meanwhile is sent away and starts no other
            _host = None
