"""Ends tasks, whatever they wait for.

One cancel is not enough: what arrives just as a reply comes in is swallowed by some libraries on Python 3.11 (that of
Redis among them), and the task goes on as if nothing had been said. A server that waits for it never ends.
"""

import asyncio
from typing import Any

AGAIN_SECONDS = 0.2


async def end(*tasks: "asyncio.Task[Any]", again: float = AGAIN_SECONDS) -> None:
    """Cancel every so many seconds until all have ended. What they ended with is nobody's concern any more."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=again)
        for task in ended:
            if not task.cancelled():
                task.exception()  # looked at, or its end would be reported as an error nobody saw
