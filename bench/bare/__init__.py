"""A job that says when it begins and ends, and no more: for the job engines that `bench/engines.py` compares."""

import asyncio
import os
import time

JOURNAL = "BENCH_JOURNAL"  # the file that workers append to
TUNED = "BENCH_TUNED"  # set: with what an engine's manual says against workers that die
TOKENS = 80  # a second: what a run makes its loop do


async def job(number: int, asked: int, seconds: float) -> None:
    """Wake up as often as a run that streams. `asked`: when, in ns of CLOCK_MONOTONIC, which all processes share."""
    end = time.monotonic() + seconds
    _say("began", number, time.monotonic_ns() - asked)
    while (left := end - time.monotonic()) > 0:  # noqa: ASYNC110 - waking up is what it is for
        await asyncio.sleep(min(left, 1 / TOKENS))
    _say("ended", number, time.monotonic_ns() - asked)


def _say(what: str, number: int, after: int) -> None:
    """One write per line, so that whoever is killed leaves no half of one."""
    file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{what} {number} {after} {os.getpid()}\n".encode())
    os.close(file)
