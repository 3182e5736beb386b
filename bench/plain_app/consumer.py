"""The consumer of the Channels tutorial, sending the same frames as the project for every token."""

import asyncio
import time
import uuid
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer

_producing: set[asyncio.Task[None]] = set()


class Plain(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """A socket that is told what its group is told. `{"tokens": N, "rate": R}` begins an answer to all."""

    async def connect(self) -> None:
        self.group = self.scope["url_route"]["kwargs"]["group"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()
        await self.send_json({"type": "sync", "serial": 0})

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive_json(self, content: dict[str, Any]) -> None:
        if "tokens" in content:
            task = asyncio.create_task(produce(self.group, content["tokens"], content["rate"]))
            _producing.add(task)
            task.add_done_callback(_producing.discard)

    async def token(self, event: dict[str, Any]) -> None:
        await self.send_json(event["frame"])


async def produce(group: str, tokens: int, rate: float) -> None:
    """Stamped tokens at `rate` per second, one message to the group for each."""
    layer, loop = get_channel_layer(), asyncio.get_running_loop()
    ids = {name: str(uuid.uuid4()) for name in ("conversation", "run", "message")}
    start, offset = loop.time(), 0
    for number in range(tokens):
        wait = start + number / rate - loop.time()
        await asyncio.sleep(max(0.0, wait))
        text = f"{time.monotonic_ns()} "
        frame = {
            "type": "message.delta",
            "after": number,
            "serial": number + 1,
            **ids,
            "part": 0,
            "offset": offset,
            "text": text,
        }
        offset += len(text)
        await layer.group_send(group, {"type": "token", "frame": frame})
    frame = {"type": "run.ended", "after": tokens, "serial": tokens + 1, **ids}
    await layer.group_send(group, {"type": "token", "frame": frame})
