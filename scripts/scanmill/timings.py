"""How long the jobs of a run took, from Snakemake's benchmarks and the jobs' own logs.

A job's files tell of the last time that it ran. What it reused cost it no time, so that speeds are those
of the pages that it computed; of jobs that reused everything only the seconds are told.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

#: What `progress.Progress.finish` logs last.
_COMPUTED = re.compile(r"; computed ([0-9]+) pages; done in ")
# Bytes at the end of a log in which that line is.
_TAIL = 4096


class StageTime(NamedTuple):
    """The jobs of a rule, as they last ran."""

    rule: str
    jobs: int
    pages: int
    """Computed, not reused."""
    seconds: float
    """Of all jobs, also those that ran side by side; the start of Python and of the model with them."""
    seconds_computing: float
    """Of those jobs that computed a page."""
    memory_mb: float
    """The most that a job had."""

    @property
    def pages_per_second(self) -> float | None:
        """Of a job; None where none computed anything."""
        return (
            self.pages / self.seconds_computing if self.pages and self.seconds_computing else None
        )


def stage_times(directory: Path, rules: Sequence[str]) -> Iterator[StageTime]:
    """Of each of the `rules` that has run in the working directory."""
    for rule in rules:
        jobs = [
            (_number(row["s"]), _number(row["max_rss"]), _computed(directory, rule, path.stem))
            for path in sorted((directory / "benchmarks" / rule).glob("*.tsv"))
            for row in _rows(path)
        ]
        if jobs:
            yield StageTime(
                rule,
                len(jobs),
                sum(pages for _, _, pages in jobs),
                sum(seconds for seconds, _, _ in jobs),
                sum(seconds for seconds, _, pages in jobs if pages),
                max(memory for _, memory, _ in jobs),
            )


def _rows(benchmark: Path) -> list[dict[str, str]]:
    """The one row of a benchmark that Snakemake wrote; none of a file that was cut off."""
    with benchmark.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [row for row in rows if row.get("s") and row.get("max_rss")]


def _number(text: str) -> float:
    """Jobs of less than a second have no memory measured (`NA` or `-`)."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _computed(directory: Path, rule: str, shard: str) -> int:
    """Pages that a job computed; 0 where its log does not say."""
    path = directory / "logs" / rule / f"{shard}.log"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL, 0))
        found = _COMPUTED.findall(file.read().decode(errors="replace"))
    return int(found[-1]) if found else 0
