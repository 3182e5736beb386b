"""The tests' Messages server in a process of its own, with stamped tokens; `journal` on stdin asks what it saw.

A stamp is the moment the schedule says, so whatever this server is late counts against the project.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from tests.messages_server import MessagesServer, Script


class Stamps(list[str]):
    """Looks like a list of `count` tokens; each reading makes the stamps of an answer that begins now."""

    def __init__(self, count: int, rate: float) -> None:
        super().__init__([""] * count)
        self._rate = rate

    def __iter__(self) -> Iterator[str]:
        start = time.monotonic_ns()
        for number in range(len(self)):
            yield f"{start + int(number * 1e9 / self._rate)} "


def journal(server: MessagesServer) -> list[dict[str, Any]]:
    """One entry per request: what was asked last, how much was sent, when the client closed."""
    return [
        {
            "asked": exchange.request.body["messages"][-1]["content"][-1]["text"],
            "tokens": exchange.tokens_sent,
            "closed": exchange.client_closed,
            "finished": exchange.finished,
        }
        for exchange in server.journal
    ]


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=80)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--journal", action="store_true", help="remember every request")
    options = parser.parse_args()
    script = Script(tokens=Stamps(options.tokens, options.rate), rate=options.rate)
    async with MessagesServer(script, keep=options.journal) as server:
        print(server.url, flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.strip() == "journal":
                print(json.dumps(journal(server)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
