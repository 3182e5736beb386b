"""The tests' Messages server as a model that uses tools, in a process of its own; `journal` on stdin asks what it saw.

What it does depends on what was asked last: `work NAME` is a turn of some steps by chance, each with words and calls;
`race NAME` calls the tool that must be allowed; `input SIZE` streams a call whose arguments have so many bytes;
anything else gets a short answer. It refuses what the real one refuses, so a bad prompt shows.
"""

import argparse
import asyncio
import json
import random
import sys
import zlib
from collections.abc import Sequence
from typing import Any

from tests.messages_script import Says, Streamed, Uses
from tests.messages_server import Exchange, MessagesServer, Request, Script

STEPS = 6
PIECE = 40  # bytes of an input in one delta


def asked_last(body: dict[str, Any]) -> tuple[str, int]:
    """What a person said last, and how often the model was asked since."""
    answers = 0
    for message in reversed(body["messages"]):
        if message["role"] == "assistant":
            answers += 1
            continue
        texts = [block["text"] for block in message["content"] if block["type"] == "text"]
        if any(block["type"] == "tool_result" for block in message["content"]) and not texts:
            continue
        return texts[-1] if texts else "", answers
    return "", answers


class Agent(MessagesServer):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate

    def script_for(self, request: Request) -> Script:
        text, step = asked_last(request.body)
        kind, _, name = text.partition(" ")
        match kind:
            case "work" if step < STEPS:
                return self._working(random.Random(zlib.crc32(text.encode()) + step), name)
            case "race" if not step:
                return self._asking([Uses("gated", {"text": name})])
            case "input" if not step:
                pieces = ['{"text": "', *["x" * PIECE] * (int(name.split()[0]) // PIECE), '"}']
                return self._asking([Uses("quick", pieces=pieces)])
        return Script(text="Done.")

    def _working(self, chance: random.Random, name: str) -> Script:
        words = " ".join(f"word{number}" for number in range(chance.randint(0, 40)))
        tools = [chance.choice(["slow", "slow", "quick"]) for _ in range(chance.randint(1, 3))]
        return self._asking([*([Says(words)] if words else []), *(Uses(tool, {"text": name * 4}) for tool in tools)])

    def _asking(self, blocks: Sequence[Streamed]) -> Script:
        return Script(blocks=blocks, rate=self._rate, stop_reason="tool_use")


def told(exchange: Exchange) -> dict[str, Any]:
    return {
        "asked": asked_last(exchange.request.body)[0],
        "at": exchange.at,
        "closed": exchange.client_closed,
        "finished": exchange.finished,
        "ended": exchange.sent[-1][0] if exchange.sent else exchange.at,
        "refused": exchange.refused,
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=80)
    options = parser.parse_args()
    async with Agent(options.rate) as server:
        print(server.url, flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line.strip() == "journal":
                print(json.dumps([told(exchange) for exchange in server.journal]), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
