"""Tools that write down what happened to them, as lines of $BENCH_JOURNAL: (what, run, call, monotonic time)."""

import asyncio
import json
import os
import time

from chat.agent.tool import Context, tool


def note(what: str, context: Context) -> None:
    line = json.dumps([what, str(context.run), str(context.call), time.monotonic()]) + "\n"
    journal = os.open(os.environ["BENCH_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(journal, line.encode())
    finally:
        os.close(journal)


async def quick(context: Context, text: str) -> str:
    """Be done at once."""
    note("quick", context)
    return f"{len(text)} characters"


async def slow(context: Context, text: str) -> str:
    """Work for a while, until told to stop."""
    note("slow", context)
    try:
        for _ in range(20):
            await asyncio.sleep(0.05)
            await context.progress(text)
    except asyncio.CancelledError:
        note("told", context)
        raise
    return "done"


@tool(approval=True)
async def gated(context: Context, text: str) -> str:
    """Do what must be allowed."""
    note("gated", context)
    return "done"
