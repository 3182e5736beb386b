"""`python -m taskiq worker bench.bare.with_taskiq:broker`."""

import os

from taskiq_redis import RedisStreamBroker

from bench.bare import TUNED, job

IDLE_SECONDS = 15  # as long as this project lets the runs of a dead worker wait; by itself it is ten minutes


def made(url: str, *, tuned: bool) -> RedisStreamBroker:
    broker = RedisStreamBroker(url)
    if tuned:
        broker.idle_timeout = IDLE_SECONDS * 1000
        # It has no end by itself: a worker that is killed while it has the lock locks the others out.
        broker.unacknowledged_lock_timeout = 5.0
    broker.register_task(job, task_name="job")
    return broker


broker = made(os.environ.get("REDIS_URL", "redis://"), tuned=bool(os.environ.get(TUNED)))
