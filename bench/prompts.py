"""Requests the Messages API would refuse, of agents' conversations by chance: runs with tools that ended in every way.

Each history is built as Claude's provider would send it: the next prompt, and a run that goes on. The judge is that of
the tests (`tests/messages_rules.py`), which knows nothing of the project. A prefix is broken if what was asked before a
turn is not, to the byte, how the request after it begins. About half of the requests begin with a summary. Target: none
of either. No server, no database.
"""

import argparse
import asyncio
import os
import time
from typing import Any

import django
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bench.table import Row, median, milliseconds, percentile

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench.settings")
os.environ.setdefault("DEBUG", "1")
django.setup()

from chat.agent.prompt import Said, build_prompt  # noqa: E402  (its models need the settings)
from tests.histories import HISTORY, OWN, PROMPTS, SAID, SUMMARIES, problems  # noqa: E402

NAME = "prompts"


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--histories", type=int, default=100 if quick else 5000)
    parser.add_argument("--seed", type=int, default=1)


def built(histories: int, beginning: int) -> tuple[list[str], int, list[float], int]:
    """What was wrong, how many prefixes were broken, seconds per prompt, messages in all."""
    wrong: list[str] = []
    broken, messages = 0, 0
    took: list[float] = []

    @seed(beginning)
    @settings(
        max_examples=histories,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(HISTORY, SAID, PROMPTS, OWN, st.none() | SUMMARIES)
    def build(
        history: list[Said], said: Said, prompt: list[dict[str, Any]], own: list[dict[str, Any]], summary: str | None
    ) -> None:
        nonlocal broken, messages
        asked = build_prompt(history, said.prompt, summary=summary)
        before = [(m["role"], block) for m in asked for block in m["content"]]
        began = time.perf_counter()
        asked = build_prompt([*history, said], prompt, own, summary=summary)
        took.append(time.perf_counter() - began)
        messages += len(asked)
        wrong.extend(problems(asked))
        broken += [(m["role"], block) for m in asked for block in m["content"]][: len(before)] != before

    build()
    return wrong, broken, took, messages


async def measure(options: argparse.Namespace) -> list[Row]:
    wrong, broken, took, messages = await asyncio.to_thread(built, options.histories, options.seed)
    if options.verbose:
        print(*sorted(set(wrong)), sep="\n")
    return [
        Row(
            NAME,
            "histories of agents by chance: requests refused, prefixes broken",
            f"{len(wrong)}, {broken}",
            "0, 0",
            not wrong and not broken,
            n=f"{len(took):,}",
            remarks=f"{messages:,} messages; a prompt takes {milliseconds(median(took))} (p99 "
            f"{milliseconds(percentile(took, 0.99))})",
        )
    ]
