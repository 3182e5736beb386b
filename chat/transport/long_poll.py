"""The long-poll door: a connection whose frames are fetched, each answer asked for when the last one was read.

Between two polls the connection stays, so that a poll costs no more than its frames. An answer that was lost is
noticed by its number, and the device then begins anew from its cursor, as after any other lost connection.
"""

import asyncio
import json
import time

from chat import host
from chat.ending import end
from chat.host import Host
from chat.transport.connection import Connection
from chat.transport.http import Receive, Request, Scope, Send, Unwelcome, admit, answer, connect, turn_away, watched
from chat.transport.mailbox import Letter, Mailbox
from chat.wire import read_serial

LONGEST_WAIT = 25.0  # seconds; proxies give up on silence after 60 or even 30
USUAL_WAIT = 20.0
OPENING_SECONDS = 5.0  # until `hello`; only a database that is slow takes longer than an instant
GATHER_SECONDS = 0.1  # from one answer to the next while text streams


class Poll:
    """A connection between and during its polls."""

    def __init__(self, connection: Connection, mailbox: Mailbox, opening: "asyncio.Task[None]") -> None:
        self.connection = connection
        self.mailbox = mailbox
        self._opening = opening
        self._answers = 0
        self._answered_at = 0.0
        self._reader: object = None
        connection.door = self
        connection.end = self.end

    @property
    def name(self) -> str:
        """Of the connection, and of the answer that the device must have read to go on."""
        return f"{self.connection.name}.{self._answers}"

    async def fetch(self, seconds: float) -> list[Letter] | None:
        """What there is, after waiting for it if there is nothing; None if a newer poll has taken over."""
        reader = self._reader = object()
        self.connection.hear()
        try:
            if self._answers == 0:  # everything missed and `sync` in one answer, if there is room for it
                await self.mailbox.wait(OPENING_SECONDS)
                await asyncio.wait([self._opening], timeout=GATHER_SECONDS)
            else:
                await self.mailbox.wait(seconds)
                await self._gather(seconds)
            if self._reader is not reader:
                return None
        finally:
            if self._reader is reader:
                self._reader = None
        self._answers += 1
        self._answered_at = time.monotonic()
        self.connection.hear()
        return self.mailbox.take()

    async def abandon(self) -> None:
        """A poll was cut off, or its page closed. Unless another one has taken over, the device is gone."""
        if self._reader is None:
            await self.close()

    async def _gather(self, seconds: float) -> None:
        """A poll for each token would be the dearest way to stream."""
        rest = self._answered_at + GATHER_SECONDS - time.monotonic()
        if rest > 0 and seconds > 0 and not self.mailbox.ended:
            await asyncio.sleep(rest)

    async def end(self, code: int) -> None:
        """The connection is over. Who waits for a poll is still given the goodbye."""
        await self.mailbox.end(code)
        if self._reader is None:
            await self.close()

    async def close(self) -> None:
        """Leave the conversation. Not a stop."""
        self._opening.cancel()
        await self.mailbox.end()
        await self.connection.close()


async def poll(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the frames there are, or the first to come, or after a while with none."""
    try:
        request = Request(scope)
        current = await _go_on(await host.running(), request)
    except Unwelcome as why:
        await turn_away(send, why)
        return
    async with watched(receive) as device_gone:
        fetching = asyncio.create_task(current.fetch(_wait(request.wanted.get("wait"))), name="poll-fetch")
        await asyncio.wait([fetching, device_gone], return_when=asyncio.FIRST_COMPLETED)
        if not fetching.done():  # the line was cut, or the page closed: whoever comes back begins from its cursor
            await end(fetching)
            await current.abandon()
            return
        letters = fetching.result()
        if letters is None:  # told nothing, not even a new name: with the old one it begins anew
            await answer(send, 200, _body(request.wanted.get("connection", ""), []))
            return
        if current.mailbox.ended:
            await current.close()
        await answer(send, 200, _body(current.name, letters))


async def _go_on(found: Host, request: Request) -> Poll:
    """The connection the request names, if the device has read all that was answered there; else a new one."""
    connection = request.connection(found)
    known = connection.door if connection is not None else None
    if isinstance(known, Poll):
        if known.name == request.wanted["connection"]:
            applied = read_serial(request.wanted.get("after", ""))
            if applied is not None:
                known.connection.flow(applied)
            return known
        await known.close()
    connection, mailbox = connect(found, request, "long_poll")
    access = await admit(connection, request)
    after, epoch = request.wanted.get("after"), request.wanted.get("epoch")
    return Poll(connection, mailbox, asyncio.create_task(connection.serve(access, after, epoch), name="poll-open"))


def _wait(given: str | None) -> float:
    try:
        return USUAL_WAIT if given is None else min(LONGEST_WAIT, max(0.0, float(given)))
    except ValueError:
        return USUAL_WAIT


def _body(name: str, letters: list[Letter]) -> str:
    """The frames are JSON already."""
    return f'{{"connection":{json.dumps(name)},"frames":[{",".join(letter.body for letter in letters)}]}}'
