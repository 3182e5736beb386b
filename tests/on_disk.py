"""Tools of a server process, which write down what they do where a test finds it after the process is gone."""

import asyncio
import os
from pathlib import Path

from chat.agent.tool import Context, tool


async def record(context: Context, text: str, seconds: float = 0.0) -> str:
    """Write it down, and go on for a while."""
    _write(text)
    await asyncio.sleep(seconds)
    return f"recorded {text}"


@tool(approval=True)
async def sign(context: Context, text: str) -> str:
    """Write it down, if somebody allows it."""
    return await record(context, text)


def _write(text: str) -> None:
    with Path(os.environ["VAR_DIR"], "done.txt").open("a") as file:
        file.write(f"{text}\n")
