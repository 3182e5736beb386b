"""A conversation as a program has it: iterate over what happens, say what you want, across every lost connection."""

import asyncio
import ssl
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from chat.client.address import Address, Identity
from chat.client.asking import Asking
from chat.client.errors import Left
from chat.client.facts import Part
from chat.client.frames import Ack, Hello, Nack, Ping, Pong
from chat.client.line import Line
from chat.client.link import Place
from chat.client.machine import State
from chat.client.memory import SHARED, Memory, Transport
from chat.client.outbox import Signal
from chat.client.reader import Delivered, Item, Reader
from chat.client.store import FileStore, Keeper, MemoryStore, Saved, Store
from chat.client.upload import upload
from chat.client.verbs import Verbs
from chat.client.view import Turn, View

# What the program has not taken; a poll asks for no more while there is so much.
MOST_ITEMS = 512
MOST_BYTES = 131_072


class Conversation(Verbs):
    """Made by `connect`. One task at a time may iterate; any number may speak.

    `view` is the conversation up to what was last iterated over, so it moves with the iteration alone. So does the
    cursor that is kept: what a program was given counts as done when it asks for the next.
    """

    def __init__(
        self,
        address: Address,
        identity: Identity,
        keeper: Keeper,
        *,
        name: str = "",
        memory: Memory = SHARED,
        transports: Sequence[Transport] = (),
        tls: ssl.SSLContext | None = None,
        on_state: Callable[["Conversation"], None] | None = None,
    ) -> None:
        self.address = address
        self.device = keeper.saved.device
        self.hello: Hello | None = None  # of the last connection: who we are, our role, the limits
        self.view = View()
        self._name = name
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(keeper.saved.cursor, keeper.saved.epoch)
        self._items: deque[Item] = deque()
        self._given: Item | None = None
        self._news, self._taken = asyncio.Event(), asyncio.Event()
        self._end: BaseException | None = None  # why there is no more
        self._acknowledging: asyncio.TimerHandle | None = None
        self._on_state = on_state
        self._place = Place(address, identity, self._query, lambda: self._reader.position, self._room)
        self._tls = tls
        self._line = Line(
            self._place,
            memory=memory,
            transports=transports,
            tls=tls,
            on_open=self._reader.connected,
            on_frame=self._frame,
            on_unsaid=lambda signal: self._asking.unsaid(signal),
            on_state=self._state_changed,
            on_failed=self._finish,
        )
        self._asking = Asking(self._line.say, self._signals_changed)
        for signal in keeper.saved.signals:
            self._asking.outbox.ask(signal)

    def start(self) -> None:
        self._keeper.start()
        self._line.start()

    # --- what is known --------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._line.machine.state

    @property
    def transport(self) -> Transport | None:
        """What is open, or being opened."""
        return self._line.machine.transport

    @property
    def trouble(self) -> str:
        """Why the last connection ended, for a person; empty if none has."""
        return self._line.why

    @property
    def turns(self) -> list[Turn]:
        """What was asked and answered, oldest first; what waits is `view.queue`."""
        return self.view.turns

    def text_of(self, message: str) -> str:
        """What a message says so far, somebody's or an answer's."""
        return self.view.text_of(message)

    @property
    def unanswered(self) -> list[Signal]:
        """What was asked and has no answer yet, also by an earlier run of this program."""
        return self._asking.outbox.signals

    # --- reading --------------------------------------------------------------------------------------------

    def __aiter__(self) -> "Conversation":
        return self

    async def __anext__(self) -> Delivered:
        """What happens next. Raises Closed when the server has closed for good; ends when we have left."""
        self._done_with()
        while True:
            while not self._items:
                if isinstance(self._end, Left):
                    raise StopAsyncIteration
                if self._end is not None:
                    raise self._end
                self._news.clear()
                await self._news.wait()
            item = self._given = self._items.popleft()
            self._taken.set()
            if item.frame is not None:
                self.view.apply(item.frame)
                return item.frame
            self._done_with()

    def _done_with(self) -> None:
        """The program has dealt with what it was given last."""
        item, self._given = self._given, None
        if item is None:
            return
        if item.cursor is not None:
            self._keeper.change(cursor=item.cursor, epoch=item.epoch)
        self._reader.applied(item, self._loop.time())
        self._acknowledge()

    def _acknowledge(self) -> None:
        """Now, or in a moment: the server sends no more than a window ahead of what was applied."""
        due, serial = self._reader.due(), self._keeper.saved.cursor
        if self._acknowledging is not None:
            self._acknowledging.cancel()
            self._acknowledging = None
        if due is None or serial is None:
            return
        if due <= self._loop.time():
            self._reader.acknowledged()
            self._line.say({"type": "flow", "serial": serial})
        else:
            self._acknowledging = self._loop.call_at(due, self._acknowledge)

    async def _room(self) -> None:
        while len(self._items) >= MOST_ITEMS or sum(item.size for item in self._items) >= MOST_BYTES:
            self._taken.clear()
            await self._taken.wait()

    # --- speaking -------------------------------------------------------------------------------------------

    async def _ask(self, kind: str, signal_id: str | None, **fields: Any) -> Ack:
        if self._end is not None:
            raise self._end
        return await self._asking.ask(kind, signal_id, fields)

    def _known(self) -> int:
        return max(self._asking.latest, self._reader.position or 0)

    async def upload(self, data: bytes, name: str) -> Part:
        """Bring a file, to be sent with a message. Tried again if the network breaks; kept once."""
        return await upload(self._place, self._tls, data, name)

    def typing(self) -> None:
        """The person is typing. Lost if there is no connection."""
        self._line.say({"type": "typing"})

    def hurry(self) -> None:
        """Try to connect now, if we wait to: somebody is looking, or the network has changed."""
        self._line.hurry()

    # --- what the line tells --------------------------------------------------------------------------------

    def _query(self) -> dict[str, str]:
        reader = self._reader
        query = {"device": self.device, "name": self._name}
        if reader.cursor is not None:
            query["after"] = str(reader.cursor)
        return query | ({"epoch": reader.epoch} if reader.epoch else {})

    def _frame(self, frame: Delivered, size: int) -> None:
        match frame:
            case Ping() | Pong():
                return
            case Ack() | Nack() if self._asking.answered(frame):
                return
            case _:
                pass
        self._items.extend(self._reader.take(frame, size))
        self._news.set()
        if isinstance(frame, Hello):
            self.hello = frame
            self._asking.flush()

    def _signals_changed(self) -> None:
        self._keeper.change(signals=tuple(self._asking.outbox.signals))

    def _state_changed(self) -> None:
        closed = self._line.machine.closed
        if closed is not None:
            self._finish(closed)
        if self._on_state is not None:
            self._on_state(self)

    def _finish(self, end: BaseException) -> None:
        """There will be nothing more; what was delivered may still be iterated over."""
        if self._end is None:
            self._end = end
            self._asking.end(end)
            self._news.set()

    async def leave(self, *, done: bool = True) -> None:
        """Close the connection. Whatever runs goes on: this is not a stop.

        `done`: the program has dealt with what it was given last. What it was not given yet, it is given next time.
        """
        if self._acknowledging is not None:
            self._acknowledging.cancel()
        if done:
            self._done_with()
        self._items.clear()
        self._finish(Left("We left before there was an answer."))
        try:
            await self._line.stop()
        finally:
            await self._keeper.close()


@asynccontextmanager
async def connect(
    url: str,
    token: str = "",
    *,
    session: str = "",
    device: str | None = None,
    name: str = "",
    cursor_file: str | Path | None = None,
    store: Store | None = None,
    resume: bool = True,
    transports: Sequence[Transport] = (),
    memory: Memory = SHARED,
    tls: ssl.SSLContext | None = None,
    on_state: Callable[[Conversation], None] | None = None,
) -> AsyncGenerator[Conversation, None]:
    """Be a device of the conversation whose page is at `url`, until the block ends. Does not wait for a connection.

    `token` is an access token; `session` a session's cookie in its place. `cursor_file` or `store` keep device, cursor
    and what was not answered, for the next time; with `resume=False` that begins with a snapshot all the same.
    `device` is a UUID. `transports`: only these, in this order. Raises ValueError for an address, a token or a device
    that is none.
    """
    address, identity = Address.of(url), Identity.of(token, session)
    keeping: Store = store or (FileStore(cursor_file) if cursor_file is not None else MemoryStore())
    if device is not None:
        device = str(uuid.UUID(device))
    found = await asyncio.to_thread(keeping.load)
    saved = Saved(address.conversation, device or (found.device if found is not None else str(uuid.uuid4())))
    if found is not None and (found.conversation, found.device) == (saved.conversation, saved.device):
        saved = found if resume else Saved(saved.conversation, saved.device, signals=found.signals)
    conversation = Conversation(
        address,
        identity,
        Keeper(keeping, saved),
        name=name,
        memory=memory,
        transports=transports,
        tls=tls,
        on_state=on_state,
    )
    try:
        conversation.start()
        yield conversation
    except BaseException as error:
        try:
            await conversation.leave(done=False)
        except Exception as another:  # noqa: BLE001 - the program's own comes first, and a cancel is not to be lost
            error.add_note(f"Leaving the conversation failed as well: {another!r}")
        raise
    await conversation.leave()
