"""Results folders looked after: how far a run is, what is damaged, what is to be made again.

What the tools beside the rules' scripts do. A folder's results are made again by the next run where a
record or dataset is gone: forgetting is all that a repair takes.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import re
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from scanmill import store
from scanmill.archive import (
    RESERVED_NAMES,
    TEMPORARY_PREFIX,
    Document,
    glob_regex,
    parse_pages,
    read_manifest,
    store_path,
)
from scanmill.crops import dataset_rows
from scanmill.drawing import draw_regions
from scanmill.errors import UserError
from scanmill.preprocessing import decode
from scanmill.progress import INTERVAL, storage_error
from scanmill.store import STAGES, StageStore, document_folder, record_name, table_file
from scanmill.summary import summarize_archive
from scanmill.tables import (
    REASONS,
    SCHEMAS,
    by_document,
    by_page,
    read_metadata,
    read_table,
)

#: The rule of each stage.
RULES = {
    "images": "render_pages",
    "detections": "detect_layout",
    "regions": "select_regions",
    "crops": "crop_regions",
}
#: The datasets of each stage: folders of results/.
DATASETS = {
    name: tuple("crops" if table == "crop_images" else table for table in stage.tables)
    for name, stage in STAGES.items()
}
STAGE_OF = {dataset: stage for stage, datasets in DATASETS.items() for dataset in datasets}
RECORD_TABLE = {"crops": "crop_images"}

SUMMARY = ("documents.parquet", "failures.parquet", "summary.txt")
_SHARD = re.compile(r"[0-9]{5}")
_FAILED_COLUMNS = ("document", "page", "stage", "reason")

# Lines of examples in a message.
EXAMPLES = 5
# Names looked through for one that resembles a misspelled one: 1 to 2 s of difflib.
COMPARED_NAMES = 20_000
# Bytes at the end of a log in which its last line of progress is looked for.
LOG_TAIL = 1 << 18


# Command line -------------------------------------------------------------------------------------


def tool_parser(description: str) -> argparse.ArgumentParser:
    """A parser of the command line with the option that every tool has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(),
        metavar="D",
        help="the working directory of the run, as in `snakemake --directory D` (default: here)",
    )
    return parser


def run_tool(tool: Callable[[], int]) -> int:
    """The exit status of a tool: its own, or 1 after telling what the user has to mend."""
    try:
        return tool()
    except UserError as error:
        message = str(error)
    except BrokenPipeError:  # `| head` has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        message = f"{error.filename}: {error.strerror}." if error.filename else storage_error(error)
        if message is None:
            raise
    print(f"error: {message}", file=sys.stderr)
    return 1


def tool_command(tool: str, directory: Path, *options: str) -> str:
    """The command that runs another tool on `directory`."""
    return shlex.join(["python", f"scripts/{tool}.py", "--directory", str(directory), *options])


def say_run_again(directory: Path, *options: str) -> str:
    """What to do after something was forgotten; `options` are those that the next run needs."""
    settings = directory / "results" / "settings.yaml"
    if not settings.exists():
        return (
            f"Now run your snakemake command again{', with ' * bool(options)}{' '.join(options)}."
        )
    command = ["snakemake", "--cores", "all", "--directory", str(directory)]
    return (
        "Now run your snakemake command again. With the settings of the last run, that is\n  "
        + shlex.join([*command, "--configfile", str(settings), *options])
    )


# The plan and its documents -----------------------------------------------------------------------


def find_results(directory: Path) -> Path:
    """The results folder of a working directory."""
    results = directory / "results"
    if not results.is_dir():
        raise UserError(
            f"There are no results in {directory}: {results} is not a folder. Give the working "
            "directory of a run, the one that snakemake was given, with --directory."
        )
    return results


def read_plan(results: Path) -> dict[str, list[Document]]:
    """Shard -> documents; nothing before there is a plan."""
    manifests = sorted((results / "shards").glob("*.tsv"))
    return {path.stem: read_manifest(path) for path in manifests}


def find_plan(results: Path) -> dict[str, list[Document]]:
    """As read_plan; no plan is a UserError."""
    plan = read_plan(results)
    if not plan:
        raise UserError(
            f"There is no plan in {results / 'shards'}, so that nothing is known of any document. "
            "Run snakemake, which begins with making it."
        )
    return plan


def names_of(documents: Iterable[Document]) -> list[str]:
    """The names of documents."""
    return [document.document for document in documents]


def choose_documents(
    plan: Mapping[str, Sequence[Document]], patterns: Sequence[str]
) -> dict[str, list[str]]:
    """Shard -> names of the documents that are named by, or match, one of the globs.

    Globs are those of archive.include. One that matches nothing is a UserError.
    """
    names = [name for documents in plan.values() for name in names_of(documents)]
    chosen: set[str] = set()
    for pattern in patterns:
        found = _matching(pattern, names)
        if not found:
            nearest = "\n".join(f"  {name}" for name in _nearest(pattern, names))
            raise UserError(
                f"None of the {len(names)} documents matches {pattern!r}. The nearest:\n{nearest}\n"
                "`*` stays within a folder, `**` spans folders: put the pattern in quotes."
            )
        chosen.update(found)
    mine = {
        shard: [name for name in names_of(documents) if name in chosen]
        for shard, documents in plan.items()
    }
    return {shard: names for shard, names in mine.items() if names}


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    try:
        matches = re.compile(glob_regex(pattern)).fullmatch
    except re.error as error:
        raise UserError(f"--documents: {pattern!r} is not a glob ({error}).") from error
    # A name may hold brackets; copied from a table it must find its document.
    return [name for name in names if name == pattern or matches(name)]


def _nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """A few names for someone who may have misspelled one."""
    literal = re.sub(r"[*?\[\]]+", "", pattern).strip("/").lower()
    inside = [name for name in names if literal and literal in name.lower()]
    if inside:
        return inside[:EXAMPLES]
    compared = names[:COMPARED_NAMES]
    alike = difflib.get_close_matches(literal, compared, EXAMPLES, 0.4)
    return alike or list(names[:EXAMPLES])


# Locks --------------------------------------------------------------------------------------------


class Holder(NamedTuple):
    """Who holds a lock file, or held it last."""

    text: str
    held: bool | None
    """None where it cannot be told: the process is, or was, on another machine."""


def lock_holder(path: Path) -> Holder | None:
    """Who holds the lock file `path`, found out without touching the lock; None if there is none.

    To try the lock, even shortly, could stop a run that starts at that moment.
    """
    try:
        text = path.read_text(errors="replace").strip()
        inode = path.stat().st_ino
    except FileNotFoundError:
        return None
    # proc_locks(5): number, FLOCK, ADVISORY, WRITE, process, device:inode; `->` is one that waits.
    fields = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    if any(field[1] == "FLOCK" and field[5].endswith(f":{inode}") for field in fields):
        return Holder(text, True)
    return Holder(text, False if f" on {socket.gethostname()}," in text else None)


def stage_lock_file(directory: Path, stage: str, shard: str) -> Path:
    """The file that `store.stage_lock` locks."""
    return directory / ".scanmill" / f"{stage}-{shard}.lock"


@contextlib.contextmanager
def changing(directory: Path) -> Iterator[None]:
    """Hold the lock of a working directory while a tool changes its results."""
    find_results(directory)
    descriptor = store.lock_directory(directory)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _changing_stage(directory: Path, stage: str, shard: str) -> Iterator[None]:
    """Hold a stage's lock: after its run was killed, a job may still be at work."""
    try:
        descriptor = store.lock(stage_lock_file(directory, stage, shard))
    except store.Busy as holder:
        raise UserError(
            f"A job of an earlier run is still at work on the {stage} of shard {shard} ({holder}). "
            "Wait until it ends, or stop it; nothing was forgotten."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


# Forgetting ---------------------------------------------------------------------------------------


def dataset_file(results: Path, dataset: str, shard: str) -> Path:
    """A shard's file of a dataset."""
    return results / dataset / f"{shard}.parquet"


def forget_results(directory: Path, chosen: Mapping[tuple[str, str], Iterable[str]]) -> None:
    """Have the next run make results again: (stage, shard) -> documents whose records are removed.

    The stage's datasets of these shards are removed in any case: Snakemake runs a job again whose
    files are missing, and the jobs after it, which reuse what they had made of equal inputs. The
    caller holds the directory's lock.
    """
    results = directory / "results"
    for stage, shard in chosen:
        with _changing_stage(directory, stage, shard):
            pass  # Before anything is removed, since half a job would be done otherwise.
    for (stage, shard), documents in chosen.items():
        with _changing_stage(directory, stage, shard):
            # First: whenever this is interrupted, the next run makes a whole of it.
            for dataset in DATASETS[stage]:
                dataset_file(results, dataset, shard).unlink(missing_ok=True)
            for document in documents:
                store.forget(results, document, stage)


# Failures -----------------------------------------------------------------------------------------


def parse_reasons(text: str) -> list[str]:
    """Reasons from a list like `timeout,memory`."""
    reasons = [reason.strip() for reason in text.split(",") if reason.strip()]
    unknown = [reason for reason in reasons if reason not in REASONS]
    if unknown or not reasons:
        raise UserError(
            f"--reason {text}: {', '.join(unknown) or 'nothing'} is not a reason. Reasons are "
            f"{', '.join(REASONS)}."
        )
    return reasons


def known_rows(
    results: Path, dataset: str, shard: str, documents: Sequence[str], columns: Sequence[str]
) -> pa.Table:
    """What is known so far of a shard: the dataset's rows, before it exists those of its records."""
    with contextlib.suppress(FileNotFoundError):
        return read_table(dataset_file(results, dataset, shard), columns).select(columns)
    stage = STAGE_OF[dataset]
    pieces = [SCHEMAS[dataset].empty_table().select(columns)]
    for document in documents:
        folder = document_folder(results, document)
        if not (folder / record_name(stage)).exists():
            continue
        # A run that goes on may replace it at any moment.
        with contextlib.suppress(FileNotFoundError):
            path = folder / table_file(stage, RECORD_TABLE.get(dataset, dataset))
            rows = read_table(path, columns).select(columns)
            pieces.append(rows.replace_schema_metadata(None))
    return pa.concat_tables(pieces)


def outcomes(results: Path, shard: str, documents: Sequence[str]) -> tuple[int, pa.Table]:
    """How many of a shard's pages are ok so far; document, page, stage, reason of what failed.

    The final word on pages where it exists, otherwise that of the stages before. Failed crops are
    among the failed; their pages are ok.
    """
    columns = ("status", *_FAILED_COLUMNS)
    datasets = ["pages"]
    if not dataset_file(results, "pages", shard).exists():
        datasets = ["images", "detected_pages"]
    tables = [known_rows(results, name, shard, documents, columns) for name in datasets]
    failed = [_failed(table) for table in tables]
    ok = tables[0].num_rows - sum(table.num_rows for table in failed)
    crops = known_rows(results, "crops", shard, documents, ("status", "document", "page", "reason"))
    stage = pa.repeat(pa.scalar("crops"), crops.num_rows)
    failed.append(_failed(crops.append_column("stage", stage)))
    return ok, pa.concat_tables(failed)


def _failed(table: pa.Table) -> pa.Table:
    failed = table.filter(pc.equal(table["status"], "failed")).select(_FAILED_COLUMNS)
    return failed.replace_schema_metadata(None)


def failed_documents(
    results: Path, chosen: Mapping[str, Sequence[str]], reasons: Sequence[str], stage: str | None
) -> dict[tuple[str, str], dict[str, Counter[str]]]:
    """(stage, shard) -> document -> reasons, counted, of the chosen documents' failures.

    Only failures of `reasons`, and, if given, of `stage`.
    """
    found: dict[tuple[str, str], dict[str, Counter[str]]] = {}
    for shard, documents in chosen.items():
        _, failed = outcomes(results, shard, documents)
        wanted = set(documents)
        for row in failed.to_pylist():
            if row["reason"] not in reasons or row["document"] not in wanted:
                continue
            if stage is None or row["stage"] == stage:
                mine = found.setdefault((row["stage"], shard), {})
                mine.setdefault(row["document"], Counter())[row["reason"]] += 1
    return found


# Progress -----------------------------------------------------------------------------------------


class StageProgress(NamedTuple):
    """How far a stage is."""

    stage: str
    shards: int
    """With all their datasets."""
    documents: int
    """Of these shards, or with a record."""


class RunningJob(NamedTuple):
    """A job at work."""

    rule: str
    shard: str
    line: str
    """The last line of progress in its log, or its last line."""
    age: float
    """Seconds since the log was written to."""


def stage_progress(results: Path, plan: Mapping[str, Sequence[Document]]) -> list[StageProgress]:
    """How far each stage is; records are looked for in unfinished shards alone."""
    progress = []
    for stage, datasets in DATASETS.items():
        there = [{path.stem for path in (results / name).glob("*.parquet")} for name in datasets]
        done = set.intersection(*there) & plan.keys()
        documents = sum(len(plan[shard]) for shard in done)
        for shard in plan.keys() - done:
            folders = (document_folder(results, name) for name in names_of(plan[shard]))
            documents += sum((folder / record_name(stage)).exists() for folder in folders)
        progress.append(StageProgress(stage, len(done), documents))
    return progress


def running_jobs(directory: Path, plan: Mapping[str, Sequence[Document]]) -> list[RunningJob]:
    """The jobs at work: who holds a lock on this machine; elsewhere, who may and is not done."""
    jobs = []
    for path in sorted((directory / ".scanmill").glob("*.lock")):
        stage, _, shard = path.stem.rpartition("-")
        holder = lock_holder(path)
        if stage not in STAGES or shard not in plan or holder is None or holder.held is False:
            continue
        files = [dataset_file(directory / "results", name, shard) for name in DATASETS[stage]]
        if holder.held is None and all(file.exists() for file in files):
            continue
        log = directory / "logs" / RULES[stage] / f"{shard}.log"
        with contextlib.suppress(FileNotFoundError):
            age = max(0.0, time.time() - log.stat().st_mtime)
            jobs.append(RunningJob(RULES[stage], shard, _last_progress(log, RULES[stage]), age))
    return jobs


def _last_progress(log: Path, rule: str) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL))
        lines = file.read().decode(errors="replace").splitlines() or ["it has just begun"]
    said = [line.partition(f" {rule}: ")[2] for line in lines if f" INFO {rule}: " in line]
    return said[-1] if said else lines[-1]


def describe_progress(directory: Path) -> str:
    """What `show_progress.py` prints."""
    results = find_results(directory)
    plan = read_plan(results)
    holder = lock_holder(directory / ".scanmill.lock")
    lines = list(_describe_holder(holder))
    if not plan:
        return "\n".join(["There is no plan yet: a run begins with making it.", *lines])
    documents = sum(map(len, plan.values()))
    lines.insert(0, f"{documents} documents in {len(plan)} shards are planned.")
    lines += ["", f"{'stage':<12}{'shards':>16}{'documents':>24}"]
    for stage, shards, done in stage_progress(results, plan):
        lines.append(
            f"{stage:<12}{f'{shards} of {len(plan)}':>16}{f'{done} of {documents}':>24}"
            f"{_percent(done, documents):>7}"
        )
    lines += ["", *_describe_outcomes(results, plan)]
    jobs = running_jobs(directory, plan)
    if jobs:
        lines += ["", "At work:"]
        lines += [f"  {rule} {shard}: {line} ({age:.0f} s ago)" for rule, shard, line, age in jobs]
    return "\n".join(lines)


def _describe_holder(holder: Holder | None) -> Iterator[str]:
    if holder is None:
        yield "No run was here yet."
    elif holder.held:
        yield f"A run or tool is at work: {holder.text}."
    elif holder.held is None:
        yield f"The last run or tool was, or is, {holder.text}: on another machine."
    else:
        yield f"No run is at work. The last one: {holder.text}."


def _describe_outcomes(results: Path, plan: Mapping[str, Sequence[Document]]) -> Iterator[str]:
    ok, counted = 0, Counter()
    for shard, documents in plan.items():
        fine, failed = outcomes(results, shard, names_of(documents))
        ok += fine
        counted.update(zip(failed["stage"].to_pylist(), failed["reason"].to_pylist(), strict=True))
    pages = sum(count for (stage, _), count in counted.items() if stage != "crops")
    yield f"Pages so far: {ok} ok, {pages} failed."
    for (stage, reason), count in sorted(counted.items()):
        yield f"  {count:>8} {reason} at {stage}"


def _percent(done: int, total: int) -> str:
    return f"{100 * done // total} %" if total else ""


# Verification -------------------------------------------------------------------------------------

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
        self.done = self.images = self.bytes = 0
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

    def document(self) -> None:
        """Count a document whose page images are done."""
        self.done += 1

    def __str__(self) -> str:
        """How much was checked."""
        return (
            f"{self.done} of {self.documents} documents, {self.images} page images "
            f"({self.bytes / 1e6:.1f} MB) checked"
        )


def verify_results(
    results: Path, plan: Mapping[str, Sequence[Document]], threads: int, tally: Tally
) -> Iterator[Problem]:
    """Check everything that `plan`, as `verify_plan` gave it, owes; yields what is wrong.

    Records and datasets are read in full, page images hashed.
    """
    problems, page_tables = _verify_settings(results)
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
    yield from _verify_summary(results, plan, sound and not unmade)


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


def _verify_settings(results: Path) -> tuple[list[Problem], bool]:
    """Problems of settings.yaml, and whether pages have tables of their own."""
    path = results / "settings.yaml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        return [], settings["regions"]["page_tables"]
    except FileNotFoundError:
        what = f"{path} is missing: with which settings the results were made is not known."
    except (ValueError, TypeError, KeyError, yaml.YAMLError):
        what = f"{path} is damaged: with which settings the results were made is not known."
    # A run that has something to do writes it.
    return [Problem(what, SUMMARIZE)], False


def _unmade(results: Path, plan: Mapping[str, object]) -> list[Problem]:
    """The datasets that are not there (yet)."""
    problems = []
    for dataset, stage in STAGE_OF.items():
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
        for stage in STAGES:
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
                except UserError as error:
                    yield self._of_dataset(stage, _damaged(error))
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
            for found in checks:
                for problem in found:
                    if problem.remedy == REBUILD:
                        differing.append(problem)
                    else:
                        yield problem
                if stage == "images":
                    self.tally.document()
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
            if stage == "images":
                for page, what in self._images(tables["images"]):
                    yield damaged(what, page)
            if stage == "regions" and self.page_tables:
                for page, what in _page_tables(record.parent, tables):
                    yield damaged(what, page)
            if stage == "crops":
                for page, what in _crop_images(self.results, record):
                    yield damaged(what, page)
        except UserError as error:
            yield damaged(_damaged(error))
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


def _damaged(error: UserError) -> str:
    """What `tables.read_table` found, on one line and without its advice: a repair knows better."""
    text = " ".join(str(error).split())
    return text.rpartition(" Delete it ")[0] or text


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
        files = json.loads(read_metadata(record)["files"])
        sizes = {folder / name: size for name, size in files.items()}
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
        except UserError as error:
            yield page, _damaged(error)


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
    results: Path, plan: Mapping[str, Sequence[Document]], comparable: bool
) -> Iterator[Problem]:
    """Whether the summary is there and, if the datasets are sound, what follows from them."""
    tables = {}
    for name in SUMMARY[:2]:
        path = results / name
        try:
            tables[name] = read_table(path)
        except FileNotFoundError:
            yield Problem(f"{path} is missing: the run has not come to its end.", RUN)
        except UserError as error:
            yield Problem(_damaged(error), SUMMARIZE)
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
        summarize_archive(*groups, *made)
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


# A look at results --------------------------------------------------------------------------------

_TABLES = {
    "documents": "what became of each document",
    "pages": "each page, and document that never opened: image, size, what became of it",
    "regions": "each region: class, box, outline, score, place in the reading order",
    "crops": "each region cut out of its page",
    "detections": "what the detector saw, down to low scores: thresholds come after it",
    "failures": "each page or document that failed, and why",
}


def describe_results(directory: Path) -> str:
    """What `show_results.py` prints: where the results are, and what is in them."""
    results = find_results(directory)
    if not (results / "documents.parquet").exists():
        raise UserError(
            f"The run in {directory} has not come to its end: there is no "
            f"{results / 'documents.parquet'}. How far it is: "
            f"{tool_command('show_progress', directory)}"
        )
    documents = read_table(results / "documents.parquet", ("status", "pages_ok", "pages_failed"))
    ok, failed = (pc.sum(documents[name]).as_py() or 0 for name in ("pages_ok", "pages_failed"))
    lost = pc.sum(pc.equal(documents["status"], "failed")).as_py() or 0
    lines = [
        f"{documents.num_rows} documents with {ok} pages in tables. Failed: {failed} pages, {lost} "
        f"whole documents. The tables, in {results}:",
        "",
    ]
    for name, meaning in _TABLES.items():
        pattern, shown = f"{name}.parquet", f"{name}.parquet"
        if name in STAGE_OF:
            pattern, shown = f"{name}/[0-9]*.parquet", f"{name}/"
        rows = sum(pq.read_metadata(file).num_rows for file in results.glob(pattern))
        lines.append(f"  {shown:<18}{rows:>9} rows  {meaning}")
    lines += ["", *_describe_counts(results)]
    lines += _describe_page(directory)
    return "\n".join(lines)


def _describe_counts(results: Path) -> Iterator[str]:
    """Regions by class, failures by reason."""
    classes: Counter[str] = Counter()
    for file in sorted((results / "regions").glob("[0-9]*.parquet")):
        counted = pc.value_counts(read_table(file, ("class_name",))["class_name"])
        classes.update({row["values"]: row["counts"] for row in counted.to_pylist()})
    yield "Regions by class:    " + _counts(classes)
    reasons = read_table(results / "failures.parquet", ("reason",))["reason"].to_pylist()
    yield "Failures by reason:  " + _counts(Counter(reasons))


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"


def _describe_page(directory: Path) -> Iterator[str]:
    """A row, and the files, of the first page that has regions; nothing if there is none."""
    results = directory / "results"
    for file in sorted((results / "pages").glob("[0-9]*.parquet")):
        pages = read_table(file, ("document", "page", "image", "n_regions"))
        pages = pages.filter(pc.greater(pages["n_regions"], 0)).slice(0, 1).to_pylist()
        if not pages:
            continue
        page = pages[0]
        document, number = page["document"], page["page"]
        of_page = (pc.field("document") == document) & (pc.field("page") == number)
        yield from ("", f"The first row of regions on page {number} of {document}:")
        region = read_table(results / "regions" / file.name).filter(of_page).to_pylist()[0]
        yield from (f"  {name:<11} {_shown(value)}" for name, value in region.items())
        folder = document_folder(results, document)
        yield from ("", "Of that page", f"  the image        {results / page['image']}")
        if (folder / "regions" / f"{number:04d}.parquet").exists():
            yield f"  its own table    {folder / 'regions' / f'{number:04d}.parquet'}"
        crops = read_table(results / "crops" / file.name, ("document", "page", "path"))
        paths = crops.filter(of_page)["path"].to_pylist()
        if paths:
            where = folder / "crops.parquet"
            yield f"  the crops        {(results / paths[0]).parent if paths[0] else where}"
        options = ("--documents", document, "--pages", str(number))
        command = tool_command("draw_regions", directory, *options)
        yield from ("  a drawing        " + command,)
        return


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"{len(value) // 2} points: {', '.join(map(str, value[:6]))}, ..."
    return str(value)


# Drawing ------------------------------------------------------------------------------------------

JPEG_QUALITY = 90


class PageRegions(NamedTuple):
    """A page and its regions."""

    page: dict
    """Its row of `pages`."""
    regions: pa.Table


def pages_to_draw(
    results: Path, documents: Iterable[str], pages: str | None
) -> Iterator[PageRegions]:
    """The final rows of the documents' pages with their regions.

    `pages` is a selection like `1-3,8`. Documents that are not that far have none.
    """
    try:
        wanted = parse_pages(pages or "")
    except ValueError as error:
        raise UserError(f"--pages: {error}.") from error
    for document in documents:
        if store.read_record_metadata(results, document, "regions") is None:
            continue
        folder = document_folder(results, document)
        regions = by_page(read_table(folder / table_file("regions", "regions")))
        for row in read_table(folder / table_file("regions", "pages")).to_pylist():
            if wanted is None or row["page"] in wanted:
                yield PageRegions(row, regions.get(row["page"], SCHEMAS["regions"].empty_table()))


def draw_page(results: Path, drawn: PageRegions, folder: Path) -> Path:
    """Draw an ok page's regions to `folder`/document/page.jpg; returns that path."""
    row = drawn.page
    source = results / row["image"]
    try:
        image = decode(source.read_bytes())
    except FileNotFoundError:
        image = None
    if image is None:
        raise UserError(
            f"The page image {source} is missing or damaged. "
            f"`{tool_command('verify_results', results.parent, '--repair')}` has it made again by "
            "the next run."
        )
    path = folder / store_path(row["document"]) / f"{row['page']:04d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = draw_regions(image, drawn.regions)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(data.tobytes())
    return path
