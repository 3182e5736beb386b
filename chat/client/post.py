"""Signals by POST, for connections on which one can only listen."""

import asyncio
import json
import ssl
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import httpx2

from chat.client import frames
from chat.client.errors import Unreadable
from chat.client.link import Ears, Place
from chat.client.outbox import Signal

PATIENCE = httpx2.Timeout(10.0)
AT_ONCE = frozenset({"run.cancel", "flow", "ping", "typing"})  # a stop waits for nobody
LATER = frozenset({408, 425, 429})


class Poster:
    """Sends what is asked in the order it was asked. Its answers are heard like those of a socket."""

    def __init__(self, place: Place, ears: Ears, tls: ssl.SSLContext) -> None:
        self.connection = ""  # the server's name of the connection we listen on
        # Not shared with the link before: what the pool holds is as dead as the connection that was lost.
        self.client = httpx2.AsyncClient(verify=tls)
        self._place = place
        self._ears = ears
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def say(self, signal: Signal) -> None:
        task = asyncio.create_task(self._post(signal), name=f"client-post-{signal['type']}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.client.aclose()

    async def _post(self, signal: Signal) -> None:
        turn: AbstractAsyncContextManager[Any] = nullcontext() if signal["type"] in AT_ONCE else self._turn
        async with turn:
            place = self._place
            query = {name: value for name, value in place.query().items() if name in {"device", "name"}}
            if self.connection:
                query["connection"] = self.connection
            try:
                response = await self.client.post(
                    place.address.signals,
                    params=query,
                    content=json.dumps(signal).encode(),
                    headers={**place.identity.speaking(place.address.origin), "Content-Type": "application/json"},
                    timeout=PATIENCE,
                )
            except httpx2.HTTPError:
                self._ears.unsaid(signal)
                return
        self._answered(signal, response)

    def _answered(self, signal: Signal, response: httpx2.Response) -> None:
        if response.status_code == httpx2.codes.NO_CONTENT:
            return
        answer = frame_in(response, signal.get("id"))
        if answer is not None and answer["type"] == "pong":
            return  # it says nothing of the connection on which we listen
        if answer is not None and answer["type"] in {"ack", "nack"}:
            self._ears.answer(answer)
        elif answer is not None and answer["type"] == "bye" and not answer.get("retry_in"):
            self._refused(signal, str(answer.get("code", "")), str(answer.get("message", "")))
        elif response.is_server_error or response.status_code in LATER or response.is_success:
            self._ears.unsaid(signal)
        else:
            status = response.status_code
            self._refused(signal, f"http_{status}", f"The server, or something before it, answered HTTP {status}.")

    def _refused(self, signal: Signal, code: str, message: str) -> None:
        if "id" in signal:
            refusal = {"code": code, "message": message, "retryable": False}
            self._ears.answer({"type": "nack", "id": signal["id"], **refusal})


def body_of(response: httpx2.Response) -> dict[str, Any] | None:
    """The object that is the body of an answer, if it is one."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def frame_in(response: httpx2.Response, signal_id: str | None = None) -> dict[str, Any] | None:
    """The frame that is the body of an answer, if it is one of our server's: others answer in JSON, too.

    To a signal that could not be read at all the answer has no id; we know which one it was.
    """
    body = body_of(response)
    if body is None:
        return None
    if body.get("type") in ("ack", "nack"):
        body["id"] = body.get("id") or signal_id
    try:
        return body if frames.read(body) is not None else None
    except Unreadable:
        return None
