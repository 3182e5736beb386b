"""A file on its way to the server, under one id for as long as it takes: it is kept once."""

import asyncio
import random
import ssl
import uuid

import httpx2

from chat.client import frames
from chat.client.errors import Closed, Lost, Refused, Unreadable, answered
from chat.client.facts import Part
from chat.client.frames import Ack, Bye, Nack
from chat.client.link import Place, frame
from chat.client.machine import backoff
from chat.client.outbox import TRIES, TRY_AGAIN

PATIENCE = httpx2.Timeout(30.0, write=120.0)
COME_BACK_BELOW = 4500


async def upload(place: Place, tls: ssl.SSLContext | None, data: bytes, name: str) -> Part:
    """Its part. Raises Refused, Closed, or Lost if the server could not be reached six times in a row."""
    query = {key: value for key, value in place.query().items() if key in {"device", "name"}}
    query["id"] = str(uuid.uuid4())
    headers = place.identity.speaking(place.address.origin)
    async with httpx2.AsyncClient(verify=tls if tls is not None else True, timeout=PATIENCE) as client:
        for tries in range(1, TRIES + 1):
            last, wait = tries == TRIES, 0.0
            try:
                response = await client.post(
                    place.address.files, params=query, headers=headers, files={"file": (name, data)}
                )
            except httpx2.HTTPError as error:
                if last:
                    raise answered(503) from error
            else:
                said = _read(response)
                match said:
                    case Ack(part=Part() as part):
                        return part
                    case Nack() if said.code not in TRY_AGAIN or last:
                        raise Refused(said.code, said.message, retryable=said.retryable, retry_after=said.retry_after)
                    case Bye() if said.close >= COME_BACK_BELOW:
                        raise Closed(said.close, said.code, said.message)
                    case _ if last:
                        raise answered(response.status_code)
                wait = said.retry_after if isinstance(said, Nack) else 0.0
            await asyncio.sleep(wait + backoff(tries, random.SystemRandom().random))
    raise AssertionError("the last try returns or raises")


def _read(response: httpx2.Response) -> object:
    """A frame, or None for what is none of ours."""
    if response.status_code == httpx2.codes.CONTENT_TOO_LARGE and not response.content:
        return Nack(id=None, code="too_large", message="This is too large to be sent from here.", retryable=False)
    try:
        return frames.read(frame(response.json()))
    except (ValueError, Lost, Unreadable):  # a proxy's page, or half of an answer
        return None
