"""A small MCP server, made with the package's own API: `python -m tests.mcp_server [PORT]`, over stdio without one.

What it does is written to the file that NOTES names, a line each: whoever killed it can still read it.
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations

server = MCPServer("toy")
READS = ToolAnnotations(read_only_hint=True)


def note(text: str) -> None:
    with Path(os.environ["NOTES"]).open("a", encoding="utf-8") as notes:
        notes.write(f"{text}\n")


@server.tool(annotations=READS)
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    note(f"add {a} {b}")
    return a + b


@server.tool()
async def remember(text: str) -> str:
    """Write it down."""
    note(f"remember {text}")
    return f"remembered {text}"


@server.tool(annotations=READS)
async def wait(context: Context[Any, Any]) -> str:
    """Say how far it is, then wait until it is told to stop."""
    await context.report_progress(1, 4, "a quarter")
    note(f"wait {os.getpid()}")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        note(f"told to stop at {time.monotonic()}")
        raise
    return "at last"


@server.tool(annotations=READS)
async def fail() -> str:
    """Never works."""
    raise ToolError("It is Sunday.")


@server.tool(annotations=READS)
async def environment() -> str:
    """What it was given."""
    sys.stderr.write("somebody looks at \x1b[31mmy environment\n")
    return " ".join(sorted(os.environ))


@server.tool(annotations=READS, structured_output=False)
async def picture() -> list[Any]:
    """Words and a picture."""
    return ["This is it:", Image(data=b"x" * 300, format="png")]


@server.tool("odd name/of.a-tool", annotations=READS)
async def odd() -> str:
    """Has a name that cannot stay."""
    return "z" * 100_000


if __name__ == "__main__":
    sys.stderr.write("ready\n")
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
