"""Somebody who makes each request to the HTTP doors by hand."""

import asyncio
import json
import uuid
from typing import Any

from chat.models import Conversation
from tests.doors import Exchange, exchange
from tests.sockets import RemoteExchange


class Poller:
    """Asks by hand: nothing is asked again by itself."""

    def __init__(self, conversation: Conversation, session: str) -> None:
        self.path = f"/api/conversations/{conversation.pk}"
        self.known = {"host": "testserver", "cookie": f"sessionid={session}", "origin": "http://testserver"}
        self.device = str(uuid.uuid4())
        self.after = "0"

    def ask(self, **query: str) -> Exchange | RemoteExchange:
        return exchange("GET", f"{self.path}/events", {"device": self.device, **query}, self.known)

    async def answer(self, **query: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.ask(**query).whole())
        return answer

    async def begin(self, **query: str) -> dict[str, Any]:
        """A new connection, read up to its `sync`: a slow database may take more than one answer for that."""
        said = await self.answer(**query)
        return await self.hear("sync", said)

    async def hear(self, kind: str, said: dict[str, Any]) -> dict[str, Any]:
        """Go on asking until there was a frame of this kind; all frames since `said`, and the connection's name now."""
        frames = list(said["frames"])
        async with asyncio.timeout(20):
            while kind not in [frame["type"] for frame in frames]:
                self._stand_at(frames)
                said = await self.answer(connection=said["connection"], after=self.after, wait="5")
                frames += said["frames"]
        self._stand_at(frames)
        return {"connection": said["connection"], "frames": frames}

    def _stand_at(self, frames: list[dict[str, Any]]) -> None:
        told = [str(frame["serial"]) for frame in frames if "serial" in frame and frame["type"] != "hello"]
        self.after = (told or [self.after])[-1]

    async def begin_quietly(self) -> dict[str, Any]:
        """The same, and what others are told of our coming has come as well: nothing follows by itself."""
        said = await self.begin()
        await self.post({"type": "typing"})  # by the same way, so it comes after that
        return await self.hear("typing", {**said, "frames": []})

    async def post(self, signal: dict[str, Any], device: str = "", **query: str) -> tuple[int, dict[str, Any]]:
        """Status and answer, empty if there is none."""
        query = {"device": device or self.device, **query}
        posted = exchange("POST", f"{self.path}/signals", query, self.known, json.dumps(signal).encode())
        said = await posted.whole()
        return posted.status, json.loads(said) if said else {}

    async def say(self, **signal: Any) -> None:
        _, said = await self.post({"id": str(uuid.uuid4()), **signal})
        assert said["type"] == "ack"
