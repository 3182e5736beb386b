"""Tools for stories about tools: they work until somebody lets them come to an end."""

import asyncio
import os
from pathlib import Path

from chat.agent.tool import Context, ToolRefused, tool


def _gate(name: str) -> Path:
    """While this file is missing, the tool of that name goes on."""
    return Path(os.environ["VAR_DIR"]) / f"gate-{name}"


@tool(seconds=300)
async def work(context: Context, name: str, says: str = "working") -> str:
    """Work until it is let go.

    name: of the gate
    says: its progress, in lines
    """
    for line in says.splitlines():
        await context.progress(line)
    while not _gate(name).exists():  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.02)
    return f"worked on {name}"


async def repeat(context: Context, text: str, times: int = 1) -> str:
    """Give back what it gets, so many times."""
    return text * times


async def refuse(context: Context, why: str) -> str:
    """Never work."""
    raise ToolRefused(why)


@tool(approval=True)
async def erase(context: Context, what: str) -> str:
    """Erase something for good."""
    return f"{what} is gone"
