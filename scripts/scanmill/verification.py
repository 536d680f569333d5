"""A results folder checked: every row against its file, every table against what it was made from.

A repair removes what is damaged; what is gone, the next run makes again.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from scanmill import store
from scanmill.archive import RESERVED_NAMES, TEMPORARY_PREFIX, Document, read_manifest, store_path
from scanmill.crops import dataset_rows
from scanmill.errors import UserError
from scanmill.maintenance import (
    DATASETS,
    EXAMPLES,
    STAGE_OF,
    SUMMARY,
    dataset_file,
    find_plan,
    forget_results,
    names_of,
    stages_in_use,
)
from scanmill.progress import INTERVAL
from scanmill.store import STAGES, StageStore, document_folder, record_name
from scanmill.summary import summarize_archive
from scanmill.tables import (
    SCHEMAS,
    DamagedTable,
    by_document,
    by_page,
    read_metadata,
    read_table,
)

_SHARD = re.compile(r"[0-9]{5}")

# What becomes of a problem:
RUN = "run"  # The next run mends it by itself.
FORGET = "forget"  # The document's record and the shard's datasets of the stage are removed.
REBUILD = "rebuild"  # The shard's datasets of the stage are removed.
REPLAN = "replan"  # The manifest is removed, and the next run must be told to plan.
SUMMARIZE = "summarize"  # The summary is removed.
MOVE = "move"  # The user alone can tell.


class Problem(NamedTuple):
    """Something that is not as it should be."""

    what: str
    remedy: str
    stage: str = ""
    shard: str = ""
    document: str = ""
    page: int | None = None

    def __str__(self) -> str:
        """One line: where, and what."""
        page = "" if self.page is None else f", page {self.page}"
        where = f"{self.document}{page} ({self.stage}): " if self.document else ""
        return where + self.what


class Tally:
    """Counts what was checked, in whatever thread, and says so every 30 s."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` is told."""
        self.say, self.documents = say, 0
        self.done = self.dropped = self.images = self.bytes = 0
        self._lock = threading.Lock()
        self._next = time.monotonic() + INTERVAL

    def image(self, size: int) -> None:
        """Count a page image."""
        with self._lock:
            self.images += 1
            self.bytes += size
            if time.monotonic() >= self._next:
                self._next += INTERVAL
                self.say(str(self))

    def document(self, dropped: bool) -> None:
        """Count a document whose page images are done, or were dropped."""
        self.done += 1
        self.dropped += dropped

    def __str__(self) -> str:
        """How much was checked."""
        several = "s" if self.dropped > 1 else ""
        dropped = f", those of {self.dropped} document{several} dropped" if self.dropped else ""
        return (
            f"{self.done} of {self.documents} documents, {self.images} page images "
            f"({self.bytes / 1e6:.1f} MB{dropped}) checked"
        )


def verify_results(
    results: Path, plan: Mapping[str, Sequence[Document]], threads: int, tally: Tally
) -> Iterator[Problem]:
    """Check everything that `plan`, as `verify_plan` gave it, owes; yields what is wrong.

    Records and datasets are read in full, page images hashed.
    """
    problems, page_tables, reads_text = _verify_settings(results)
    yield from problems
    tally.documents = sum(map(len, plan.values()))
    sound = True
    with ThreadPoolExecutor(threads) as executor:
        try:
            for shard, documents in plan.items():
                check = ShardCheck(results, shard, names_of(documents), page_tables, tally)
                for problem in check.problems(executor):
                    sound &= problem.remedy == FORGET
                    yield problem
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise
    unmade = _unmade(results, plan)
    yield from unmade
    yield from _verify_summary(results, plan, sound and not unmade, reads_text)


def verify_plan(results: Path) -> tuple[dict[str, list[Document]], list[Problem]]:
    """The plan as far as it can be read, and what is wrong with it or has no part in it."""
    plan, problems = {}, []
    shards = {path.stem for path in (results / "shards").glob("*.tsv")}
    if not shards:
        find_plan(results)
    for shard in sorted(shards):
        try:
            plan[shard] = read_manifest(results / "shards" / f"{shard}.tsv")
        except UserError:
            what = f"{results / 'shards' / f'{shard}.tsv'} is damaged: its documents are not known."
            problems.append(Problem(what, REPLAN, shard=shard))
    known = set(shards)
    for dataset, stage in STAGE_OF.items():
        for path in sorted((results / dataset).glob("*.parquet")):
            if path.stem in shards or path.name.startswith("."):
                continue
            if not _SHARD.fullmatch(path.stem):
                what = f"{path} is none of Scanmill's and is read as a part of the table: move it."
                problems.append(Problem(what, MOVE))
                continue
            known.add(path.stem)
            what = f"{path} belongs to no shard: there is no manifest {path.stem}.tsv."
            problems.append(Problem(what, REBUILD, stage, path.stem))
    for shard in _missing_shards(known, shards):
        path = results / "shards" / f"{shard}.tsv"
        what = f"{path} is missing, and what documents it had: numbers have no gaps."
        problems.append(Problem(what, REPLAN, shard=shard))
    return plan, problems


def _missing_shards(known: set[str], shards: set[str]) -> list[str]:
    """Shards are numbered without gaps, so that one that is missing was there once."""
    last = max((int(shard) for shard in known if _SHARD.fullmatch(shard)), default=-1)
    return [f"{number:05d}" for number in range(last + 1) if f"{number:05d}" not in shards]


def _verify_settings(results: Path) -> tuple[list[Problem], bool, bool]:
    """Problems of settings.yaml, and whether pages have tables of their own, and runs read text."""
    path = results / "settings.yaml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [], settings["regions"]["page_tables"], "ocr" in store.stages_of(settings)
    except FileNotFoundError:
        what = f"{path} is missing: with which settings the results were made is not known."
    except (ValueError, TypeError, KeyError, yaml.YAMLError):
        what = f"{path} is damaged: with which settings the results were made is not known."
    # A run that has something to do writes it.
    return [Problem(what, SUMMARIZE)], False, False


def _unmade(results: Path, plan: Mapping[str, object]) -> list[Problem]:
    """The datasets that are not there (yet)."""
    problems = []
    in_use = stages_in_use(results)
    for dataset, stage in STAGE_OF.items():
        if stage not in in_use:
            continue
        missing = [shard for shard in plan if not dataset_file(results, dataset, shard).exists()]
        if missing:
            some = ", ".join(missing[:EXAMPLES]) + (", ..." if len(missing) > EXAMPLES else "")
            what = (
                f"{results / dataset} has no file of {len(missing)} of {len(plan)} shards "
                f"({some}): not made yet, or deleted."
            )
            problems.append(Problem(what, RUN, stage))
    return problems


class ShardCheck(NamedTuple):
    """The checks of one shard."""

    results: Path
    shard: str
    documents: Sequence[str]
    page_tables: bool
    tally: Tally

    def problems(self, executor: ThreadPoolExecutor) -> Iterator[Problem]:
        """All that is wrong, stage by stage."""
        numbers: dict[str, pa.Table] = {}
        for stage in stages_in_use(self.results):
            datasets: dict[str, dict[str, pa.Table]] = {}
            made, foreign = True, False
            for name in DATASETS[stage]:
                path = dataset_file(self.results, name, self.shard)
                try:
                    table = read_table(path)
                    datasets[name] = by_document(table)
                except FileNotFoundError:
                    made = False
                    continue
                except DamagedTable as error:
                    yield self._of_dataset(stage, error.fault)
                    continue
                except (ValueError, KeyError) as error:
                    yield self._of_dataset(stage, f"{path} has not the rows it should: {error}.")
                    continue
                for problem in self._of_rows(stage, path, table, datasets[name]):
                    foreign = True
                    yield problem
                if {"page", "status"} <= set(table.column_names):
                    numbers[name] = table.select(["document", "page", "status"])
            checks = executor.map(
                lambda name, stage=stage, datasets=datasets, made=made: list(
                    self._document(stage, name, datasets, made)
                ),
                self.documents,
            )
            differing = []
            for name, found in zip(self.documents, checks, strict=True):
                for problem in found:
                    if problem.remedy == REBUILD:
                        differing.append(problem)
                    else:
                        yield problem
                if stage == "images":
                    self.tally.document(store.are_dropped(self.results, name))
            yield from self._of_differing(differing, foreign)
        yield from self._of_pages(numbers)

    def _of_dataset(self, stage: str, what: str) -> Problem:
        return Problem(what, REBUILD, stage, self.shard)

    def _of_differing(self, problems: Sequence[Problem], foreign: bool) -> Iterator[Problem]:
        """Whether records or dataset are to blame where they differ.

        A damaged record concerns a single document, an old dataset most of them; `foreign` is one
        that is wrong in any case. In doubt it is the record: what is put together again from a
        damaged one would be wrong.
        """
        differing = len({problem.document for problem in problems})
        few = differing <= max(1, len(self.documents) // 2)
        for problem in problems:
            yield problem._replace(remedy=FORGET if few and not foreign else REBUILD)

    def _of_rows(
        self, stage: str, path: Path, table: pa.Table, slices: Mapping[str, pa.Table]
    ) -> Iterator[Problem]:
        """Columns, and which documents there are, in which order."""
        if not table.schema.remove_metadata().equals(SCHEMAS[path.parent.name]):
            yield self._of_dataset(stage, f"{path} has other columns than this version writes.")
        planned = set(self.documents)
        strangers = slices.keys() - planned
        if strangers:
            what = (
                f"{path} has rows of {len(strangers)} documents that are not planned for it, as "
                f"{min(strangers)}."
            )
            yield self._of_dataset(stage, what)
        if [name for name in self.documents if name in slices] != [
            name for name in slices if name in planned
        ]:
            yield self._of_dataset(stage, f"{path}: the documents are not in order.")

    def _of_pages(self, numbers: Mapping[str, pa.Table]) -> Iterator[Problem]:
        """Whether each stage speaks of the pages that the stage before has left it."""
        if "images" not in numbers:
            return
        images = numbers["images"]
        owed = {
            "detected_pages": images.filter(pc.equal(images["status"], "ok")),
            "pages": images,
        }
        for name, expected in owed.items():
            key = ["document", "page"]
            if name in numbers and not numbers[name].select(key).equals(expected.select(key)):
                path = dataset_file(self.results, name, self.shard)
                what = f"{path} has not the pages that images/{self.shard}.parquet has."
                yield self._of_dataset(STAGE_OF[name], what)

    def _document(
        self, stage: str, document: str, datasets: Mapping[str, Mapping[str, pa.Table]], made: bool
    ) -> Iterator[Problem]:
        """What is wrong with a document's result of a stage, as against the shard's datasets."""
        record = document_folder(self.results, document) / record_name(stage)

        def damaged(what: str, page: int | None = None) -> Problem:
            return Problem(what, FORGET, stage, self.shard, document, page)

        faults = [damaged(what, page) for page, what in _faults(self.results, stage, document)]
        if faults:
            if made or record.exists():
                yield from faults
            return
        try:
            tables = _read_result(self.results, stage, document)
            if stage == "images" and not store.are_dropped(self.results, document):
                for page, what in self._images(tables["images"]):
                    yield damaged(what, page)
            if stage == "regions" and self.page_tables:
                for page, what in _page_tables(record.parent, tables):
                    yield damaged(what, page)
            if stage == "ocr":
                for page, what in _text_tables(record.parent, tables["ocr"]):
                    yield damaged(what, page)
            if stage == "crops":
                for page, what in _crop_images(self.results, record):
                    yield damaged(what, page)
        except DamagedTable as error:
            yield damaged(error.fault)
            return
        except (OSError, pa.ArrowException) as error:
            path = getattr(error, "filename", None) or record
            yield damaged(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.")
            return
        for name, table in tables.items():
            if name not in datasets:
                continue
            found = datasets[name].get(document, SCHEMAS[name].empty_table())
            if not found.equals(table):
                path = dataset_file(self.results, name, self.shard)
                what = f"its rows in {path} are not those of its record."
                yield Problem(what, REBUILD, stage, self.shard, document)

    def _images(self, images: pa.Table) -> Iterator[tuple[int, str]]:
        """Hash the page images."""
        for row in images.filter(pc.equal(images["status"], "ok")).to_pylist():
            path = self.results / row["image"]
            size = path.stat().st_size
            if store.file_digest(path) != row["sha256"]:
                yield row["page"], f"{path} is not the image that was written: other bytes."
            self.tally.image(size)


def _faults(results: Path, stage: str, document: str) -> Iterator[tuple[int | None, str]]:
    """Page and what is wrong where a stage is not done for a document; nothing where it is."""
    if store.read_record_metadata(results, document, stage) is not None:
        return
    folder = document_folder(results, document)
    record = folder / record_name(stage)
    if not record.exists():
        yield None, f"{record} is missing."
        return
    try:
        sizes = store.owed_files(results, document, stage, read_metadata(record))
    except (OSError, pa.ArrowException, KeyError, ValueError, AttributeError):
        yield None, f"{record} is damaged."
        return
    wrong = False
    for path, size in sizes.items():
        if not path.exists() or path.stat().st_size != size:
            wrong = True
            numbers = re.findall(r"/([0-9]{4,})[./]", str(path.relative_to(folder.parent)))
            how = f"has not its {size} bytes" if path.exists() else "is missing"
            yield int(numbers[0]) if numbers else None, f"{path} {how}."
    if not wrong:
        yield None, f"{record} has other columns than this version writes."


def _read_result(results: Path, stage: str, document: str) -> dict[str, pa.Table]:
    """All tables of a document's stage, by the dataset that has their rows."""
    # Fingerprints are not looked at: of settings and code it needs nothing.
    mine = StageStore(results, stage, {}, "")
    if stage != "crops":
        return {table: mine.read(document, table) for table in STAGES[stage].tables}
    return {"crops": dataset_rows(mine, document)}


def _page_tables(folder: Path, tables: Mapping[str, pa.Table]) -> Iterator[tuple[int, str]]:
    """Whether each ok page has its own table, of the rows that the record has."""
    found = by_page(tables["regions"])
    pages = tables["pages"].filter(pc.equal(tables["pages"]["status"], "ok"))
    for page in pages["page"].to_pylist():
        path = folder / "regions" / f"{page:04d}.parquet"
        try:
            if not read_table(path).equals(found.get(page, SCHEMAS["regions"].empty_table())):
                yield page, f"{path} has not the rows that the document's record has."
        except FileNotFoundError:
            yield page, f"{path} is missing."
        except DamagedTable as error:
            yield page, error.fault


def _text_tables(folder: Path, text: pa.Table) -> Iterator[tuple[int, str]]:
    """Whether the tables of pages, where there are any, have the rows that the record has."""
    for page, rows in by_page(text).items():
        path = folder / "ocr" / f"{page:04d}.parquet"
        try:
            if not read_table(path).equals(rows):
                yield page, f"{path} has not the rows that the document's record has."
        except FileNotFoundError:
            continue  # ocr.page_tables: a file that was owed is missed by its record.
        except DamagedTable as error:
            yield page, error.fault


def _crop_images(results: Path, record: Path) -> Iterator[tuple[int, str]]:
    """Whether each ok crop has its bytes or its file."""
    with pq.ParquetFile(record, page_checksum_verification=True) as file:
        for group in range(file.num_row_groups):  # The bytes would not all fit into memory.
            crops = file.read_row_group(group, ["page", "detection", "status", "image"])
            crops = crops.filter(pc.equal(crops["status"], "ok"))
            content, path = (pc.struct_field(crops["image"], name) for name in ("bytes", "path"))
            here = pc.is_valid(content).to_pylist()
            rows = zip(crops["page"].to_pylist(), path.to_pylist(), here, strict=True)
            for page, name, has_bytes in rows:
                if not has_bytes and not (name and (results / name).is_file()):
                    yield page, f"{results / name if name else record}: a crop is missing."


def _verify_summary(
    results: Path, plan: Mapping[str, Sequence[Document]], comparable: bool, reads_text: bool
) -> Iterator[Problem]:
    """Whether the summary is there and, if the datasets are sound, what follows from them."""
    tables = {}
    for name in SUMMARY[:2]:
        path = results / name
        try:
            tables[name] = read_table(path)
        except FileNotFoundError:
            yield Problem(f"{path} is missing: the run has not come to its end.", RUN)
        except DamagedTable as error:
            yield Problem(error.fault, SUMMARIZE)
    if "documents.parquet" in tables:
        planned = {name for documents in plan.values() for name in names_of(documents)}
        lost = set(tables["documents.parquet"]["document"].to_pylist()) - planned
        if lost:
            what = f"The summary has {len(lost)} documents that are not planned, as {min(lost)}."
            yield Problem(what, REPLAN)
            return
    if not comparable or len(tables) < 2:
        return
    groups = [
        [results / "shards" / f"{shard}.tsv" for shard in plan],
        *([dataset_file(results, name, shard) for shard in plan] for name in _SUMMARIZED),
    ]
    with tempfile.TemporaryDirectory() as folder:
        made = [Path(folder, name) for name in SUMMARY[:2]]
        text = [dataset_file(results, "ocr", shard) for shard in plan]
        summarize_archive(*groups, *made, text if reads_text else ())
        for path in made:
            if not read_table(path).equals(tables[path.name]):
                what = f"{results / path.name} is not what follows from the datasets."
                yield Problem(what, SUMMARIZE)


_SUMMARIZED = ("images", "pages", "crops")


def unplanned_folders(results: Path, plan: Mapping[str, Sequence[Document]]) -> list[Path]:
    """Folders of the store with results of documents that are not planned, any more or yet."""
    planned = {store_path(name) for documents in plan.values() for name in names_of(documents)}
    top = results / store.STORE
    found = []
    for base, folders, files in os.walk(top):
        folder = Path(base).relative_to(top).as_posix()
        if folder != ".":
            # Below a document's name these are its stages' own; see archive.store_path.
            folders[:] = [
                name
                for name in folders
                if name not in RESERVED_NAMES and not name.startswith(TEMPORARY_PREFIX)
            ]
            if folder not in planned and RESERVED_NAMES.intersection(files):
                found.append(Path(base))
    return sorted(found)


def repair_results(directory: Path, problems: Iterable[Problem]) -> tuple[str, list[str]]:
    """Remove exactly what is damaged, so that the next run makes it again.

    Returns a sentence on what was removed, and options that the next run needs. The caller holds
    the directory's lock.
    """
    results = directory / "results"
    problems = list(problems)
    chosen: dict[tuple[str, str], set[str]] = {}
    for problem in problems:
        if problem.remedy in (FORGET, REBUILD):
            documents = chosen.setdefault((problem.stage, problem.shard), set())
            if problem.remedy == FORGET:
                documents.add(problem.document)
    forget_results(directory, chosen)  # First, since a job at work stops it.
    lost = [problem.shard for problem in problems if problem.remedy == REPLAN]
    manifests = [results / "shards" / f"{shard}.tsv" for shard in lost if shard]
    manifests = [path for path in manifests if path.exists()]
    summary = []
    if any(problem.remedy == SUMMARIZE for problem in problems):
        summary = [results / name for name in SUMMARY if (results / name).exists()]
    for path in manifests + summary:
        path.unlink()
    removed = {
        "results of documents": sum(map(len, chosen.values())),
        "tables of shards": sum(len(DATASETS[stage]) for stage, _ in chosen),
        "damaged manifests": len(manifests),
        "tables of the summary": len(summary),
    }
    parts = [f"{count} {what}" for what, count in removed.items() if count]
    said = f"For the next run to make again, removed: {', '.join(parts) or 'nothing'}."
    return said, ["--forcerun", "plan_shards"] if lost else []
