"""News of commits, from the process that committed to every process that cares, over the channel layer.

The layer may drop any of it. Hubs notice by serial and timer, engines by timer.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import orjson
from channels.layers import get_channel_layer
from django.db import transaction

from chat.ending import end
from chat.log import Logged, News
from chat.logs import reason
from chat.models import Kind

logger = logging.getLogger(__name__)

ENGINES = "engines"
PEOPLE = "people"
AT_ONCE = 100  # messages handed to the layer together
PATIENCE_SECONDS = 2.0  # with a layer that does not answer: whoever waits for it keeps others from it
MAX_NEWS_BYTES = 262_144  # larger news says only that there is some; hubs then read the log
_WAKES_ENGINES = frozenset({Kind.RUN_QUEUED, Kind.RUN_CANCELLING, Kind.RUN_ENDED})


def group_of(conversation: UUID) -> str:
    """The channel group of a conversation: ASCII and short, whatever the id."""
    return f"conversation.{conversation.hex}"


def pack(news: News) -> dict[str, Any]:
    """News as a layer message. The events are one string: cheap to copy for a layer that copies."""
    body = orjson.dumps([tuple(event) for event in news.events]).decode()
    if len(body) > MAX_NEWS_BYTES:
        body = ""
    return {
        "type": "news",
        "conversation": news.conversation.hex,
        "after": news.after,
        "serial": news.events[-1].serial,
        "events": body,
        "since": news.since,
    }


def unpack(message: dict[str, Any]) -> News | None:
    """The news in a layer message; None if it only says that there is some."""
    if not message["events"]:
        return None
    events = [
        Logged(serial, kind, payload, UUID(run) if run else None, UUID(said) if said else None)
        for serial, kind, payload, run, said in orjson.loads(message["events"])
    ]
    return News(UUID(message["conversation"]), message["after"], events, message.get("since", 0.0))


def _for_others(news: News) -> Iterator[tuple[str, dict[str, Any]]]:
    """What engines and doors must do about it."""
    if any(event.kind in _WAKES_ENGINES for event in news.events):
        cancels = [str(event.run) for event in news.events if event.kind == Kind.RUN_CANCELLING]
        yield ENGINES, {"type": "wake", "conversation": news.conversation.hex, "cancels": cancels}
    for event in news.events:
        if event.kind == Kind.PARTICIPANT_LEFT:
            yield PEOPLE, {"type": "people", "conversation": news.conversation.hex, "user": event.payload["user"]}


class NewsDesk:
    """Publishes in the order of commit, from any thread, and never makes the one who committed wait."""

    def __init__(self) -> None:
        # Bounded, so that a layer that hangs costs old news and not the memory.
        self._queue: deque[tuple[str, dict[str, Any]]] = deque(maxlen=10_000)
        self.name = uuid4().hex
        self.engine: Callable[[dict[str, Any]], None] | None = None  # of this process: told first, and directly
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._publish_forever(), name="news-desk")

    async def close(self) -> None:
        await end(self._task)

    def announce(self, news: Sequence[News]) -> None:
        """What one commit wrote, perhaps to many conversations. Safe from any thread, also while the loop closes."""
        messages = []
        for item in news:
            messages += [(group_of(item.conversation), pack(item)), *_for_others(item)]
        self._post(messages)

    def tell_people(self, message: dict[str, Any]) -> None:
        """Something about users rather than a conversation, such as a logout, to every hub."""
        self._post([(PEOPLE, message)])

    def whisper(self, conversation: UUID, frame: dict[str, Any], sender: str) -> None:
        """An ephemeral frame to every device of a conversation except connection `sender`. Never stored."""
        body = orjson.dumps(frame).decode()
        message = {"type": "whisper", "conversation": conversation.hex, "frame": body, "sender": sender}
        self._post([(group_of(conversation), message)])

    def _post(self, messages: list[tuple[str, dict[str, Any]]]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._accept, messages)
        except RuntimeError:
            logger.info("news after the loop was closed: other processes find it by timer")

    def _accept(self, messages: list[tuple[str, dict[str, Any]]]) -> None:
        # A cancel for a run of this very process is not to wait for the layer and three turns of a busy loop.
        for group, message in messages:
            if group == ENGINES:
                message["sender"] = self.name
                if self.engine is not None:
                    self.engine(message)
        self._queue.extend(messages)
        self._wake.set()

    async def _publish_forever(self) -> None:
        layer = get_channel_layer()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                messages = [self._queue.popleft() for _ in range(min(len(self._queue), AT_ONCE))]
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        await _publish(layer, messages)
                except Exception as error:  # noqa: BLE001 - whatever a layer raises, the log has the truth
                    logger.warning("the channel layer refused news: %s", reason(error))


async def _publish(layer: Any, messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
    if hasattr(layer, "group_send_all"):
        await layer.group_send_all(messages)
        return
    refused = None
    for group, message in messages:
        try:
            await layer.group_send(group, message)
        except Exception as error:  # noqa: BLE001 - the others may be let through
            refused = error
    if refused is not None:
        raise refused


_desk: NewsDesk | None = None


def tell_people(message: dict[str, Any]) -> None:
    """`NewsDesk.tell_people` from anywhere, on any thread, once what this transaction does is committed.

    `message` names whom it concerns: `session` (a key), `token` (its hash), `device` (an id), or `conversation` (hex)
    with `user`.
    Hosts compare with the database and send away who may no longer listen. Where no host runs nothing is said,
    and hosts find out by timer.
    """
    transaction.on_commit(lambda: _tell_people(message))


def _tell_people(message: dict[str, Any]) -> None:
    if _desk is not None:
        _desk.tell_people({"type": "people", **message})


def set_desk(desk: NewsDesk | None) -> None:
    """The news desk of this process, for as long as its host lives."""
    global _desk
    _desk = desk
