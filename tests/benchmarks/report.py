"""What the report of a large run costs: seconds, and the peak memory of the process that writes it.

`make benchmark-report [ROWS=100000]`. Made are tables of so many regions, ten a page, ten pages a
document, a twentieth of the pages flagged, and page images of A4 at 300 dpi for all of them: copies of a
few, since only those that are shown are opened.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import cv2
import numpy as np
import pyarrow as pa

from scanmill.flags import FLAGS
from scanmill.report import ShardFiles, write_report
from scanmill.store import file_digest
from scanmill.tables import INK_CELLS, SCHEMAS, write_table

CLASSES = np.array(["text", "title", "list", "table", "figure"])
PER_PAGE = 10
PER_DOCUMENT = 10
WIDTH, HEIGHT = 2480, 3508
IMAGES = 20
SHARD = 20_000
"""Pages of a shard, as of 2048 documents."""


def write_images(results: Path, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Pages of lines of noise, about as hard to decode and to compress as text; path and sha256."""
    made = []
    for number in range(IMAGES):
        page = np.full((HEIGHT, WIDTH), 245, np.uint8)
        for top in range(200, HEIGHT - 200, 60):
            words = rng.integers(0, 255, (8, 500), dtype=np.uint8)
            page[top : top + 32, 200:2200] = cv2.resize(words, (2000, 32))
        path = results / "store" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), page)
        made.append((path.relative_to(results).as_posix(), file_digest(path)))
    return made


def write_tables(results: Path, rows: int) -> list[ShardFiles]:
    """The datasets of the shards, and the tables of the summary."""
    rng = np.random.default_rng(0)
    images = write_images(results, rng)
    pages = rows // PER_PAGE
    shards = []
    for number, start in enumerate(range(0, pages, SHARD)):
        count = min(SHARD, pages - start)
        names = [f"collection/{(start + i) // PER_DOCUMENT:07d}.pdf" for i in range(count)]
        numbers = [(start + i) % PER_DOCUMENT + 1 for i in range(count)]
        tables = _shard(names, numbers, images, rng)
        files = [results / name / f"{number:05d}.parquet" for name in ShardFiles._fields]
        model = {
            "model": json.dumps({"name": "m", "digest": "0" * 64, "classes": CLASSES.tolist()})
        }
        for table, path in zip(tables, files, strict=True):
            write_table(table, path, model)
        shards.append(ShardFiles(*files))
    documents = -(-pages // PER_DOCUMENT)
    columns = {
        "document": [f"collection/{number:07d}.pdf" for number in range(documents)],
        "pages": [PER_DOCUMENT] * documents,
        "pages_ok": [PER_DOCUMENT] * documents,
        "pages_failed": [0] * documents,
        "regions": [PER_DOCUMENT * PER_PAGE] * documents,
        "status": ["ok"] * documents,
    }
    write_table(_table("documents", columns), results / "documents.parquet")
    write_table(SCHEMAS["failures"].empty_table(), results / "failures.parquet")
    return shards


def _shard(
    names: list[str], numbers: list[int], images: list[tuple[str, str]], rng: np.random.Generator
) -> list[pa.Table]:
    """`pages`, `regions` and `detected_pages`."""
    count = len(names)
    key = {"document": names, "page": numbers, "status": ["ok"] * count}
    chosen = [images[i % IMAGES] for i in range(count)]
    flags = [[rng.choice(list(FLAGS))] if rng.random() < 0.05 else [] for _ in range(count)]
    pages = {
        **key,
        "image": [path for path, _ in chosen],
        "sha256": [digest for _, digest in chosen],
        "width": [WIDTH] * count,
        "height": [HEIGHT] * count,
        "n_regions": [PER_PAGE] * count,
        "flags": flags,
    }
    total = count * PER_PAGE
    x, y = rng.uniform(0, 1500, total), rng.uniform(0, 2500, total)
    regions = {
        "document": np.repeat(names, PER_PAGE).tolist(),
        "page": np.repeat(numbers, PER_PAGE),
        "detection": np.tile(np.arange(1, PER_PAGE + 1), count),
        "class_name": CLASSES[rng.integers(0, len(CLASSES), total)].tolist(),
        "score": rng.uniform(0.5, 1, total),
        "x_min": x,
        "y_min": y,
        "x_max": x + rng.uniform(20, 900, total),
        "y_max": y + rng.uniform(20, 900, total),
        "region": np.tile(np.arange(1, PER_PAGE + 1), count),
    }
    ink = pa.array(rng.integers(0, 100, count * INK_CELLS**2, dtype=np.uint8))
    cells = {**key, "ink": pa.FixedSizeListArray.from_arrays(ink, INK_CELLS**2)}
    tables = {"pages": pages, "regions": regions, "detected_pages": cells}
    return [_table(name, columns) for name, columns in tables.items()]


def _table(name: str, columns: dict) -> pa.Table:
    """A table of the schema `name`; the columns that are not given are null."""
    schema = SCHEMAS[name]
    count = len(next(iter(columns.values())))
    arrays = [
        pa.array(columns[field.name]).cast(field.type)
        if field.name in columns
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def write(directory: Path) -> None:
    """Write the report of the tables in `directory`: all that the measured process does."""
    results = directory / "results"
    names = sorted(path.name for path in (results / "pages").iterdir())
    shards = [ShardFiles(*(results / each / name for each in ShardFiles._fields)) for name in names]
    tables = results / "documents.parquet", results / "failures.parquet"
    write_report(directory, shards, *tables, results / "report.html", 2)


def main() -> None:
    """Make tables, write the report in a process of its own, print what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="regions")
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write(given.write)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder, "results"), given.rows)
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, __file__, "--write", folder])
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        if status:
            sys.exit("The report was not written.")
        size = Path(folder, "results", "report.html").stat().st_size
    print(
        f"{given.rows} regions: {seconds:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of them on "
        f"processors, {usage.ru_maxrss / 1024:.0f} MB; the file has {size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
