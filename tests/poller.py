"""Somebody who makes each request to the HTTP doors by hand."""

import json
import uuid
from typing import Any

from chat.models import Conversation
from tests.doors import Exchange


class Poller:
    """Asks by hand: nothing is asked again by itself."""

    def __init__(self, conversation: Conversation, session: str) -> None:
        self.path = f"/api/conversations/{conversation.pk}"
        self.known = {"host": "testserver", "cookie": f"sessionid={session}", "origin": "http://testserver"}
        self.device = str(uuid.uuid4())

    def ask(self, **query: str) -> Exchange:
        return Exchange("GET", f"{self.path}/events", {"device": self.device, **query}, self.known)

    async def answer(self, **query: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(await self.ask(**query).whole())
        return answer

    async def post(self, signal: dict[str, Any], device: str = "", **query: str) -> tuple[int, dict[str, Any]]:
        """Status and answer, empty if there is none."""
        query = {"device": device or self.device, **query}
        exchange = Exchange("POST", f"{self.path}/signals", query, self.known, json.dumps(signal).encode())
        said = await exchange.whole()
        return exchange.status, json.loads(said) if said else {}

    async def say(self, **signal: Any) -> None:
        _, said = await self.post({"id": str(uuid.uuid4()), **signal})
        assert said["type"] == "ack"
