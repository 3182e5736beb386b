"""Frames by asking again and again, which gets through everywhere; signals by POST."""

import asyncio
import json
import ssl
import time
from contextlib import suppress
from typing import Any

import httpx2

from chat.client.errors import Lost
from chat.client.link import Ears, Place, frame
from chat.client.outbox import Signal
from chat.client.post import Poster, body_of
from chat.client.sse import FOREVER, broken, refused

AGAIN = 1.0  # seconds between two questions to which there was nothing to say, though they could have waited
LONGEST_WAIT = 20.0  # seconds; common proxies end a request that is silent for thirty


class PollLink:
    """One connection in the server's eyes, made of many requests. Each acknowledges what the ones before brought."""

    def __init__(self, place: Place, ears: Ears, tls: ssl.SSLContext) -> None:
        self._place = place
        self._ears = ears
        self._poster = Poster(place, ears, tls)
        self._wait = LONGEST_WAIT

    async def run(self) -> None:
        query = self._place.query()
        try:
            while True:
                asked = time.monotonic()
                self._hear(answer := await self._ask({**query, "wait": f"{self._wait:g}"}))
                if not answer["frames"]:
                    # Something on the way answers for the server: it must not be asked as fast as it can.
                    await asyncio.sleep(asked + AGAIN - time.monotonic())
                await self._room()
                query = self._next()
        except httpx2.HTTPError as error:
            raise broken(error) from error
        finally:
            await self._poster.close()

    def say(self, signal: Signal) -> None:
        if signal["type"] not in {"ping", "flow"}:  # each poll says both
            self._poster.say(signal)

    def _next(self) -> dict[str, str]:
        query = {name: value for name, value in self._place.query().items() if name != "after"}
        position = self._place.position()
        after = {} if position is None else {"after": str(position)}
        return {**query, **after, "connection": self._poster.connection}

    async def _ask(self, query: dict[str, str]) -> dict[str, Any]:
        response = await self._poster.client.get(
            self._place.address.events,
            params=query,
            headers={**self._place.identity.headers(), "Accept": "application/json"},
            timeout=FOREVER,
        )
        answer = body_of(response)
        if response.status_code != httpx2.codes.OK or answer is None:
            refused(self._ears, response)
        if answer is None or not isinstance(answer.get("frames"), list):
            raise Lost("what came is not the answer to a poll", refused=True)
        return answer

    def _hear(self, answer: dict[str, Any]) -> None:
        self._poster.connection = str(answer.get("connection", ""))
        self._ears.alive()
        for fields in map(frame, answer["frames"]):
            self._ears.frame(fields, len(json.dumps(fields)))
            if fields["type"] == "hello":
                self._wait = min(LONGEST_WAIT, float(fields.get("heartbeat", LONGEST_WAIT)))

    async def _room(self) -> None:
        """Ask for no more while the program has not taken what there is. That is no fault of the line."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait):
                    await self._place.room()
                    return
            self._ears.alive()
