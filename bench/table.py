"""One measured figure as a row of a Markdown table, and the arithmetic on samples."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

COLUMNS = ("bench", "what", "figure", "target", "met", "baseline", "ratio", "n", "remarks")


@dataclass(frozen=True, slots=True)
class Row:
    """`met` is None where there is nothing to meet. `ratio` is figure ÷ baseline unless it says otherwise."""

    bench: str
    what: str
    figure: str
    target: str = "–"
    met: bool | None = None
    baseline: str = "–"
    ratio: str = "–"
    n: str = ""
    remarks: str = ""

    def cells(self) -> tuple[str, ...]:
        met = "–" if self.met is None else "yes" if self.met else "**no**"
        return (
            self.bench,
            self.what,
            self.figure,
            self.target,
            met,
            self.baseline,
            self.ratio,
            self.n,
            self.remarks,
        )


def markdown(rows: Iterable[Row]) -> str:
    """The whole table."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def percentile(samples: Sequence[float], share: float) -> float:
    """Nearest rank; NaN if nothing was measured, which meets no target."""
    if not samples:
        return math.nan
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1 if share else 0)]


def median(samples: Sequence[float]) -> float:
    return percentile(samples, 0.5)


def times(figure: float, baseline: float) -> str:
    """How many times the baseline, for people."""
    return f"{figure / baseline:.2f}×" if baseline and not math.isnan(figure + baseline) else "–"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
