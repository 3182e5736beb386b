"""Frames as server-sent events; signals by POST."""

import ssl

import httpx2

from chat.client.errors import Lost, answered
from chat.client.link import Ears, Place, parsed
from chat.client.outbox import Signal
from chat.client.post import Poster, frame_in

LARGEST = 4 * 1024 * 1024  # bytes of one event
FOREVER = httpx2.Timeout(None, pool=None)  # the machine has its own patience


class SSELink:
    """One stream."""

    def __init__(self, place: Place, ears: Ears, tls: ssl.SSLContext) -> None:
        self._place = place
        self._ears = ears
        self._poster = Poster(place, ears, tls)

    async def run(self) -> None:
        place = self._place
        headers = {**place.identity.headers(), "Accept": "text/event-stream", "Cache-Control": "no-store"}
        try:
            async with self._poster.client.stream(
                "GET", place.address.events, params=place.query(), headers=headers, timeout=FOREVER
            ) as response:
                if response.status_code != httpx2.codes.OK:
                    await response.aread()
                    refused(self._ears, response)
                await self._listen(response)
        except httpx2.HTTPError as error:
            raise broken(error) from error
        finally:
            await self._poster.close()
        raise Lost("the stream ended")

    def say(self, signal: Signal) -> None:
        self._poster.say(signal)

    async def _listen(self, response: httpx2.Response) -> None:
        try:
            async for event in httpx2.EventSource(response, max_event_size=LARGEST):
                if not event.data:
                    continue
                fields = parsed(event.data)
                if fields.get("type") == "hello":
                    self._poster.connection = str(fields.get("connection", ""))
                self._ears.frame(fields, len(event.data))
        except httpx2.SSEError as error:
            raise Lost(f"no events here: {error}", refused=True) from error


def broken(error: httpx2.HTTPError) -> Lost:
    """What to make of a network that failed."""
    what = "could not connect" if isinstance(error, httpx2.ConnectError) else "the connection broke off"
    return Lost(f"{what}: {error}" if str(error) else what)


def refused(ears: Ears, response: httpx2.Response) -> None:
    """Hear the goodbye in an answer that is no stream. Raises Lost, always."""
    goodbye = frame_in(response)
    if goodbye is not None and goodbye["type"] == "bye":
        ears.frame(goodbye, len(response.content))
        raise Lost("the server said goodbye", code=goodbye.get("close"))
    raise answered(response.status_code)
