"""Channels' layers, made fit for many small messages. What they promise stays: hints, any of which may be lost."""

import fcntl
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from channels.layers import InMemoryChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer, RedisSingleShardConnection
from django.conf import settings
from redis.exceptions import ConnectionError as RedisConnectionError

CLEAN_SECONDS = 1.0


class Careful:
    """Mixed into a connection. When the other end has vanished the socket itself times out, which to redis looks like
    silence: it would read again at once, for ever, and nothing else in the process would get a turn.
    """

    async def _read_response_from_parser(self, **options: Any) -> Any:
        try:
            return await super()._read_response_from_parser(**options)  # type: ignore[misc]
        except TimeoutError as error:  # asyncio's own comes as a cancel
            raise RedisConnectionError(str(error)) from error


class Shard(RedisSingleShardConnection):  # type: ignore[misc]
    """With connections that notice."""

    def _ensure_redis(self) -> None:
        if self._redis is None:
            super()._ensure_redis()
            pool = self._redis.connection_pool  # type: ignore[attr-defined]
            pool.connection_class = type("CarefulConnection", (Careful, pool.connection_class), {})


class RedisLayer(RedisPubSubChannelLayer):  # type: ignore[misc]
    """Publishes what one commit wrote to many conversations in one round trip, in its order."""

    def _get_layer(self) -> Any:
        layer = super()._get_layer()
        if not all(isinstance(shard, Shard) for shard in layer._shards):
            layer._shards = [Shard(shard.host, layer) for shard in layer._shards]
        return layer

    async def receive(self, channel: str) -> dict[str, Any]:
        """As the layer's, which is otherwise looked up by name for every message."""
        message: dict[str, Any] = await self._get_layer().receive(channel)
        return message

    async def group_send_all(self, messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """(group, message) each. If it raises, any of them may have been sent."""
        layer = self._get_layer()
        shards: dict[Any, list[tuple[str, bytes]]] = defaultdict(list)
        for group, message in messages:
            name = layer._get_group_channel_name(group)
            shards[layer._get_shard(name)].append((name, self.serialize(message)))
        for shard, published in shards.items():
            # As the shard's own `publish` does for one.
            async with shard._lock:
                shard._ensure_redis()
                async with shard._redis.pipeline(transaction=False) as pipe:
                    for name, body in published:
                        pipe.publish(name, body)
                    await pipe.execute()


class OneProcessLayer(InMemoryChannelLayer):  # type: ignore[misc]
    """For one process, which is what the in-memory layer is for.

    Looks for what has expired once a second instead of at every send and receive (20 % of a busy process),
    and hands a group its message as it is: nobody changes one, so nobody needs a copy, or a task to get it.
    """

    _cleaned_at = 0.0

    def _clean_expired(self) -> None:
        now = time.monotonic()
        if now - self._cleaned_at >= CLEAN_SECONDS:
            self._cleaned_at = now
            super()._clean_expired()

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        self._clean_expired()
        expires = time.time() + self.expiry
        for channel in self.groups.get(group, ()):
            queue = self.channels.get(channel)
            if queue is None:
                await self.send(channel, message)  # makes the queue
            elif not queue.full():
                queue.put_nowait((expires, message))


class AlreadyServed(Exception):
    """Another process serves this database, and the channel layer is in memory: neither would hear of the other's news.
    Set REDIS_URL for all of them, or end the other one first (with uvicorn: --workers 1).
    """

    def __init__(self) -> None:
        super().__init__(" ".join(str(self.__doc__).split()))


def is_in_memory() -> bool:
    """Whether the channel layer ends with the process."""
    backend = settings.CHANNEL_LAYERS.get("default", {}).get("BACKEND", "")
    return str(backend).endswith(("InMemoryChannelLayer", "OneProcessLayer"))


class OnlyProcess:
    """Lives beside the host and holds a lock next to the database, which ends with the process however that ends."""

    def __init__(self, host: Any) -> None:
        self._lock: int | None = None

    async def start(self) -> None:
        """Raises AlreadyServed."""
        database = settings.DATABASES["default"]
        if not is_in_memory() or ":memory:" in str(database["NAME"]):
            return
        # Of SQLite the name is a path, of others it is not.
        lock = os.open(Path(settings.VAR_DIR) / f"{database['NAME']}.serving", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise AlreadyServed from None
        self._lock = lock

    async def drain(self, seconds: float) -> None:
        """It still serves."""

    async def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
