"""How much streamed text one database takes: rows of the log per second, by group commits of one token per run.

Nothing but the commits: no devices, no provider, no layer. Each process commits for its runs, one commit after the
other, as a worker under full load does; a row is then one token, where a worker would merge several. n: commits.
PostgreSQL is a private one with Debian's settings; it shares the machine with the processes. Baseline: SQLite,
one process. This is the figure docs/scaling.md reckons with.
"""

import argparse
import asyncio
import json
from typing import Any, NoReturn

from bench.process import Process, Site
from bench.table import Row, milliseconds, times
from tests.backends import postgresql

NAME = "append"


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--seconds", type=float, default=1 if quick else 5)
    parser.add_argument("--runs", type=int, nargs="+", default=[5] if quick else [1, 50, 200], help="of each process")
    parser.add_argument("--processes", type=int, nargs="+", default=[1] if quick else [1, 4])


def written(site: Site, processes: int, runs: int, seconds: float) -> list[dict[str, Any]]:
    """What each process found, all writing at once."""
    writers = [site.start("-m", "bench.writer", str(runs), str(seconds)) for _ in range(processes)]
    for one in writers:
        assert one.popen.stdin is not None
        one.popen.stdin.write("\n")
        one.popen.stdin.flush()
    found = [json.loads(one.read_line() or _why(one)) for one in writers]
    for one in writers:
        one.stop()
    return found


def _why(process: Process) -> NoReturn:
    raise RuntimeError("\n".join(process.complaints()[-5:]))


async def measure(options: argparse.Namespace) -> list[Row]:
    return await asyncio.to_thread(_measure, options)


def _measure(options: argparse.Namespace) -> list[Row]:
    sqlite: dict[int, float] = {}
    with Site() as site:
        site.prepare()
        for runs in options.runs:
            [alone] = written(site, 1, runs, options.seconds)
            sqlite[runs] = alone["rows"]
    rows = []
    with Site() as site, postgresql(site.directory) as database:
        site.env |= {"DATABASE_URL": database}
        site.prepare()
        for processes in options.processes:
            for runs in options.runs:
                found = written(site, processes, runs, options.seconds)
                total = sum(one["rows"] for one in found)
                rows.append(
                    Row(
                        NAME,
                        f"rows/s into PostgreSQL; {processes} × {runs} runs",
                        f"{total:,.0f}",
                        baseline=f"SQLite, 1 × {runs} runs {sqlite[runs]:,.0f}",
                        ratio=times(total, sqlite[runs]),
                        n=f"{sum(one['commits'] for one in found):,}",
                        remarks=f"a commit takes {milliseconds(max(one['median'] for one in found))} (p99 "
                        f"{milliseconds(max(one['p99'] for one in found))}); each process "
                        f"{max(one['cpu'] for one in found):.0%} of a core",
                    )
                )
    return rows
