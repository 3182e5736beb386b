"""Redis as a channel layer, when its machine is gone."""

import asyncio
import errno
import shutil
from pathlib import Path

import pytest

from chat.layer import RedisLayer
from tests.backends import redis

pytestmark = pytest.mark.process


async def test_a_socket_that_times_out_is_connected_again_and_does_not_keep_the_loop(tmp_path: Path) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed: make packages")
    with redis(tmp_path) as url:
        layer = RedisLayer(hosts=[url])
        channel = await layer.new_channel("test")
        await layer.group_add("all", channel)
        [shard] = layer._get_layer()._shards
        # What asyncio does when the kernel gives up on the other end.
        shard._pubsub.connection._reader.set_exception(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        heard = asyncio.create_task(layer.receive(channel))
        async with asyncio.timeout(60):
            while not heard.done():
                await layer.group_send("all", {"type": "news"})
                await asyncio.wait([heard], timeout=0.5)
        assert heard.result() == {"type": "news"}
        await layer.flush()
