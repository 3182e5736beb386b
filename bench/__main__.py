"""`python -m bench` measures everything at modest sizes; `python -m bench NAME --help` says what one can vary."""

import argparse
import asyncio
import sys
import time
from importlib import import_module

from bench.client import allow_many_sockets
from bench.table import Row, markdown

NAMES = (
    *("fan_out", "latency", "runs", "cancel", "resume", "memory"),
    *("chaos", "doors", "slow_readers", "storm", "programs", "workers", "engines", "append", "faults"),
    *("prompts", "agents"),
)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, add_help=False)
    parser.add_argument("name", nargs="?", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work, not how well")
    parser.add_argument("--verbose", action="store_true", help="say on stderr what each step found")
    known, rest = parser.parse_known_args(arguments)
    if known.name is None and rest:
        parser.print_help()
        sys.exit(0 if rest[0] in {"-h", "--help"} else 2)
    allow_many_sockets()
    rows: list[Row] = []
    for name in [known.name] if known.name else NAMES:
        rows += measure(name, rest, quick=known.quick, verbose=known.verbose)
    print(markdown(rows))


def measure(name: str, rest: list[str], *, quick: bool, verbose: bool) -> list[Row]:
    """One bench's rows. What does not work is a row too: the others are still worth measuring."""
    module = import_module(f"bench.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m bench {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser, quick=quick)
    options = parser.parse_args(rest)
    options.verbose = verbose
    print(f"{name} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        rows: list[Row] = asyncio.run(module.measure(options))
    except (RuntimeError, OSError, ExceptionGroup) as error:
        rows = [Row(name, "could not be measured", "–", met=False, remarks=" ".join(repr(error).split())[:300])]
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
