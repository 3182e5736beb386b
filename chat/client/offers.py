"""Tools that run on this device: what the agent asks of the devices of its person, and functions that answer.

    tools = DeviceTools(conversation, {"read_sensor": read_sensor})
    async for event in conversation:
        tools.hear(event)

The server takes the first answer of all devices of the person, so a function reads or asks, and changes nothing. What
was offered before a stored cursor is not offered again: begin with a snapshot where that matters.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chat.client import acts, events, frames
from chat.client.conversation import Conversation
from chat.client.errors import Closed, Left, Refused
from chat.client.reader import Delivered

Function = Callable[[Mapping[str, Any]], Awaitable[object]]
MOST_RESULT, MOST_ERROR = 32_768, 2_000  # code points


@dataclass(frozen=True, slots=True)
class Offered:
    """A call that waits for a device of the person we are."""

    run: str
    call: str
    name: str
    arguments: Mapping[str, Any]


class Offers:
    """Which calls wait for us: `hear` what the conversation yields, in order."""

    def __init__(self, talk: Conversation) -> None:
        self.open: dict[str, Offered] = {}  # by call, the oldest first
        self._talk = talk

    def hear(self, frame: Delivered) -> None:
        match frame:
            case acts.ToolOffered() if self._is_ours(frame.user):
                self.open[frame.call] = Offered(frame.run, frame.call, frame.name, frame.arguments)
            case acts.ToolResult():
                self.open.pop(frame.call, None)
            case events.RunEnded():
                self.open = {call: one for call, one in self.open.items() if one.run != frame.run}
            case frames.Snapshot():
                self.open = {
                    part.call: Offered(answer.run, part.call, part.name, part.offer.arguments)
                    for answer in self._talk.view.live
                    for part in answer.parts
                    if part.status == "offered" and part.offer is not None and self._is_ours(part.offer.user)
                }

    def _is_ours(self, user: str) -> bool:
        return self._talk.hello is not None and self._talk.hello.user == user


class DeviceTools:
    """Answers with what functions return: text, or anything that can be JSON. One that raises says what it raised.

    Each call is begun once, as a task, which is cancelled when somebody else was faster or the answer was stopped.
    """

    def __init__(self, talk: Conversation, functions: Mapping[str, Function]) -> None:
        self._talk = talk
        self._functions = functions
        self._offers = Offers(talk)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def hear(self, frame: Delivered) -> None:
        self._offers.hear(frame)
        for call in self._tasks.keys() - self._offers.open.keys():
            self._tasks[call].cancel()
            if self._tasks[call].done():
                del self._tasks[call]
        for call, offered in self._offers.open.items():
            if offered.name in self._functions and call not in self._tasks:
                self._tasks[call] = asyncio.create_task(self._answer(offered), name=f"tool-{offered.name}")

    async def stop(self) -> None:
        """Begin nothing more, and end what was begun."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _answer(self, offered: Offered) -> None:
        said: dict[str, str] = {}
        try:
            result = await self._functions[offered.name](offered.arguments)
            text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
            said["result"] = text
            if len(text) > MOST_RESULT:
                said = {"error": f"The result has {len(text):,} characters, which is too long."}
        except Exception as error:  # noqa: BLE001 - whatever a function raises, the agent is told and goes on
            said = {"error": str(error)[:MOST_ERROR].strip() or type(error).__name__}
        try:
            await self._talk.answer(offered.run, offered.call, **said)
        except Refused as refusal:  # text that cannot be kept, or it is being stopped
            if "result" in said and refusal.code == "invalid":
                await self._talk.answer(offered.run, offered.call, error=f"The result was refused: {refusal.message}")
        except (Closed, Left):
            return
