"""What the tables of a run say of how it was made: models, processors, engines; read shard by shard."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from scanmill.tables import read_metadata, read_table


def counted(number: int, what: str) -> str:
    """`1 page`, `2 pages`."""
    return f"{number} {what}{'s' * (number != 1)}"


def finished_shards(results: Path) -> list[str]:
    """The shards that have regions and the final word on their pages, in order."""
    there = [{path.stem for path in (results / name).glob("*.parquet")} for name in _FINAL]
    return sorted(set.intersection(*there))


_FINAL = ("pages", "regions")


def models_of(results: Path, shards: Sequence[str]) -> list[dict[str, Any]]:
    """The models that found the regions: name, digest, classes. One, unless a run is under way."""
    said = {read_metadata(results / "regions" / f"{shard}.parquet")["model"] for shard in shards}
    return [json.loads(text) for text in sorted(said)]


def count_values(
    results: Path, dataset: str, shards: Sequence[str], columns: Sequence[str]
) -> Counter[tuple]:
    """How many rows of a dataset have each combination of values in `columns`.

    Rows with a null among them are left out: those of what failed, of which it is not known.
    """
    counts: Counter[tuple] = Counter()
    for shard in shards:
        counts += count_rows(read_table(results / dataset / f"{shard}.parquet", columns), columns)
    return Counter({values: count for values, count in counts.items() if None not in values})


def count_rows(table: pa.Table, columns: Sequence[str]) -> Counter[tuple]:
    """How many rows of a table have each combination of values in `columns`."""
    groups = table.group_by(list(columns), use_threads=False).aggregate([([], "count_all")])
    return Counter(
        {tuple(row[name] for name in columns): row["count_all"] for row in groups.to_pylist()}
    )
