"""A trial: the workflow itself on some pages of an archive, in a folder that is removed, measured.

It runs three times: on a page, so that everything is in the system's cache (a first start takes long,
once); on another, and on all others of the sample, so that what a job costs in any case can be told from
what a page costs.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import itertools
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from scanmill.archive import Document, decode_name, list_archive, parse_pages, source_path
from scanmill.errors import UserError
from scanmill.forecast import (
    CROPS,
    IMAGES,
    PAGE_TABLES,
    RECORDS,
    Files,
    Measured,
    Piece,
    Rate,
    Trial,
    Usage,
    rate,
)
from scanmill.maintenance import DATASETS
from scanmill.model_folders import CARD
from scanmill.progress import logger
from scanmill.registry import MODELS, ROOT, find_model, own_registry
from scanmill.settings import dump_settings
from scanmill.store import document_folder, note_source
from scanmill.tables import read_table

#: Seconds, at most, in which sources are read to find out how fast that is.
READING = 3.0


def run_trial(
    directory: Path,
    settings: Mapping[str, Any],
    archive: Path,
    documents: Sequence[Document],
    pieces: Sequence[Piece],
    cores: int,
) -> Trial:
    """Run the workflow of `directory` on `pieces` of its `documents`, and measure it."""
    parts = _divide(pieces)
    pieces = [piece for part in parts for piece in part]
    with tempfile.TemporaryDirectory(dir=directory, prefix=".forecast-") as temporary:
        trial = Path(temporary)
        _link_model(directory, trial, settings)
        _write_settings(trial, settings)
        sources = [source_path(archive, documents[piece.index]) for piece in pieces]
        seconds, costs, tables = [], [], []
        for end in itertools.accumulate(len(part) for part in parts):
            _write_archive(trial, pieces[:end], documents, sources)
            _note_sources(trial)
            logger.info("trying %d pages", _count(pieces[:end]))
            seconds.append(_run(trial, cores))
            costs.append(_read_benchmarks(trial))
            tables.append(_dataset_size(trial / "results"))
        results = trial / "results"
        measured = [
            _measure(results, f"{number:05d}", piece) for number, piece in enumerate(pieces)
        ]
        every_page = _count(pieces)
        # The first run warmed up; it counts where there was no other.
        pages = (1, _count(parts[-1]))
        return Trial(
            {name: _usage(name, costs, pages) for name in costs[0]},
            max(seconds[-1] - sum(cost["s"] for cost in costs[-1].values()), 0),
            _reading_rate(sources),
            len(datasets(results)),
            rate((1, every_page), (tables[0], tables[-1])),
            _uncompressed(results) / every_page,
            measured,
            _device(results),
        )


def _divide(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces of each run: a page, another page, and all others, as far as there are any."""
    parts, rest = [], list(pieces)
    while rest and len(parts) < 2:
        first = rest.pop(0)
        one = first._replace(end=first.start + 1)
        if first.end > one.end:
            rest.insert(0, first._replace(start=one.end))
        parts.append([one])
    return [*parts, rest] if rest else parts


def _count(pieces: Iterable[Piece]) -> int:
    """Pages of pieces."""
    return sum(piece.end - piece.start for piece in pieces)


# Before -------------------------------------------------------------------------------------------


def _link_model(directory: Path, trial: Path, settings: Mapping[str, Any]) -> None:
    """Let the trial find the model of the working directory."""
    directory, name = directory.absolute(), settings["model"]
    models, made = trial / "models", directory / "results" / "models" / name
    models.mkdir()
    if (made / CARD).exists():
        (models / name).symlink_to(made)
        return
    if name == settings["training"]["name"]:
        command = ["snakemake", "models", "--cores", "all", "--directory", str(directory)]
        raise UserError(
            f"The model {name} is still to be trained, so that nothing can be tried with it. Have it "
            f"made before: {shlex.join(command)}"
        )
    found = find_model(name, [directory / "models", MODELS], own_registry(directory))
    if isinstance(found, Path):
        (models / name).symlink_to(found)
        return
    # What is fetched for the trial stays where the run will look for it.
    (directory / "models" / "downloads").mkdir(parents=True, exist_ok=True)
    (models / "downloads").symlink_to(directory / "models" / "downloads")
    if (directory / "models.yaml").exists():
        (trial / "models.yaml").symlink_to(directory / "models.yaml")


def _write_settings(trial: Path, settings: Mapping[str, Any]) -> None:
    """The settings of the run, with the trial's archive in one shard, page images kept, so that they can
    be measured, and nothing to train."""
    listing = {"path": "archive/documents.csv", "include": ["**"], "exclude": []}
    changed = {
        "archive": {**settings["archive"], **listing},
        "shards": {"max_documents": 1_000_000, "max_bytes": 10**18},
        "images": {**settings["images"], "keep": True},
        "dataset": {**settings["dataset"], "annotations": []},
        "training": {**settings["training"], "name": None},
        "failures": {"max_failed_fraction": 1.0},
    }
    dump_settings({**settings, **changed}, trial / "config.yaml")


def _write_archive(
    trial: Path, pieces: Sequence[Piece], documents: Sequence[Document], sources: Sequence[bytes]
) -> None:
    """An archive of pieces: a CSV that selects pages, and links to the documents under plain names."""
    folder = trial / "archive"
    folder.mkdir(exist_ok=True)
    rows = []
    for number, (piece, source) in enumerate(zip(pieces, sources, strict=False)):
        document = documents[piece.index]
        link = f"{number:05d}{_suffix(document)}"
        if not os.path.lexists(folder / link):
            os.symlink(source, os.fsencode(folder / link))
        selected = parse_pages(document.pages)
        numbers = (
            selected[piece.start : piece.end] if selected else range(piece.start + 1, piece.end + 1)
        )
        rows.append((f"{number:05d}", link, ",".join(map(str, numbers))))
    with (folder / "documents.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("document", "path", "pages"), *rows])


def _suffix(document: Document) -> str:
    """What a CSV tells the kind of a file by."""
    if document.kind == "image":
        return os.path.splitext(os.fsdecode(decode_name(document.path)))[1]
    return {"pdf": ".pdf", "tiff": ".tif"}.get(document.kind, "")


def _note_sources(trial: Path) -> None:
    """Spare the trial the hashing of whole documents for a few of their pages: it is reckoned apart."""
    settings = {"include": ["**"], "exclude": []}
    for document in list_archive(trial / "archive" / "documents.csv", settings).documents:
        stamp = (document.size, document.mtime_ns, document.listing)
        note_source(trial / "results", document.document, stamp, f"{int(document.document):064x}")


# The run ------------------------------------------------------------------------------------------


def _run(trial: Path, cores: int) -> float:
    """Run the workflow; seconds."""
    for path in trial.glob("benchmarks/**/*.tsv"):
        path.unlink()
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--benchmark-extended"]
    command += ["--snakefile", ROOT / "Snakefile", "--profile", ROOT / "profiles" / "default"]
    command += ["--directory", trial]
    start = time.perf_counter()
    done = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr)[-3000:]
        raise UserError(f"The trial failed. What it said last:\n{said}")
    return time.perf_counter() - start


def _read_benchmarks(trial: Path) -> dict[str, dict[str, Any]]:
    """Rule -> seconds, MB, threads and GPUs of its job; of the rules that ran."""
    costs = {}
    for path in sorted((trial / "benchmarks").glob("**/*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            (row,) = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        costs[row["rule_name"]] = {
            "s": float(row["s"]),
            # Of pages that processes share, each has its part in PSS; NA for a job shorter than a look.
            "memory": max(_number(row["max_pss"]), _number(row["max_uss"])),
            "threads": int(row["threads"]),
            "gpus": int(ast.literal_eval(row["resources"]).get("gpu", 0)),
        }
    return costs


def _number(text: str) -> float:
    return 0.0 if text in ("NA", "-") else float(text)


def _usage(rule: str, costs: Sequence[Mapping[str, Any]], pages: tuple[int, int]) -> Usage:
    """What a rule took over the last two runs, of so many pages, or over the only one."""
    mine = [cost[rule] for cost in costs if rule in cost]
    seconds = Rate(mine[0]["s"], 0.0)
    if len(mine) > 1:
        seconds = rate(pages, (mine[-2]["s"], mine[-1]["s"]))
    memory = max(each["memory"] for each in mine)
    return Usage(seconds, memory, mine[-1]["threads"], mine[-1]["gpus"])


# After --------------------------------------------------------------------------------------------


def _measure(results: Path, document: str, piece: Piece) -> Measured:
    """Pages and files of a document of the trial."""
    folder = document_folder(results, document)
    status = read_table(folder / "images.parquet", ["status"])["status"].to_pylist()
    found: dict[str, list[int]] = defaultdict(list)
    for base, _, names in os.walk(folder):
        for path in (Path(base, name) for name in names):
            found[_what(path.relative_to(folder))].append(path.stat().st_size)
    files = {what: Files(len(sizes), sum(sizes)) for what, sizes in found.items()}
    return Measured(piece, piece.end - piece.start, status.count("ok"), files)


def _what(path: Path) -> str:
    """What a file in a document's folder is."""
    if path.parts[0] in ("crops", "crops.parquet"):
        return CROPS
    if len(path.parts) == 1:
        return RECORDS
    return {"images": IMAGES, "regions": PAGE_TABLES, "ocr": PAGE_TABLES}[path.parts[0]]


def datasets(results: Path) -> list[Path]:
    """The tables of a run that are not of a document."""
    names = [name for each in DATASETS.values() for name in each]
    shards = [path for name in names for path in (results / name).glob("*.parquet")]
    return [*shards, *results.glob("*.parquet")]


def _dataset_size(results: Path) -> int:
    return sum(path.stat().st_size for path in datasets(results))


def _uncompressed(results: Path) -> int:
    """Bytes that the columns of all datasets take in memory, about."""
    files = (pq.read_metadata(path) for path in datasets(results))
    return sum(
        file.row_group(i).total_byte_size for file in files for i in range(file.num_row_groups)
    )


def _reading_rate(sources: Iterable[bytes]) -> float:
    """Bytes per second in which sources are read and hashed; infinite if there are none."""
    size, start = 0, time.perf_counter()
    files = [Path(os.fsdecode(source)) for source in sources]
    for path in files:
        # Of a folder of page images one is enough.
        path = (
            next((each for each in path.iterdir() if each.is_file()), path)
            if path.is_dir()
            else path
        )
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.sha256()
                while (block := file.read(1 << 20)) and time.perf_counter() - start < READING:
                    digest.update(block)
                    size += len(block)
    return size / (time.perf_counter() - start) if size else float("inf")


def _device(results: Path) -> str:
    for path in sorted((results / "detected_pages").glob("*.parquet")):
        rows = read_table(path, ["device", "precision"]).slice(0, 1).to_pylist()
        if rows:
            return f"{rows[0]['device']}, {rows[0]['precision']}"
    return ""
