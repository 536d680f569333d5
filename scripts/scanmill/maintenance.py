"""Results folders looked after: how far a run is, what is in it, what is to be made again.

What most tools beside the rules' scripts do; `verification` checks. A result is made again by the next
run where its record or dataset is gone: forgetting is all that it takes.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import shlex
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from scanmill import store
from scanmill.archive import (
    Document,
    glob_regex,
    parse_pages,
    read_manifest,
    store_path,
)
from scanmill.drawing import draw_regions
from scanmill.dropped_images import Renderer
from scanmill.errors import UserError
from scanmill.image_files import Unusable, encode, read_image
from scanmill.progress import storage_error
from scanmill.store import (
    STAGES,
    document_folder,
    page_image_error,
    record_name,
    table_file,
)
from scanmill.summary import OF_REGIONS
from scanmill.tables import (
    REASONS,
    SCHEMAS,
    by_page,
    read_table,
)

#: The rule of each stage.
RULES = {
    "images": "render_pages",
    "detections": "detect_layout",
    "regions": "select_regions",
    "crops": "crop_regions",
    "ocr": "recognize_text",
}
#: The datasets of each stage: folders of results/.
DATASETS = {
    name: tuple("crops" if table == "crop_images" else table for table in stage.tables)
    for name, stage in STAGES.items()
}
STAGE_OF = {dataset: stage for stage, datasets in DATASETS.items() for dataset in datasets}
RECORD_TABLE = {"crops": "crop_images"}

SUMMARY = ("documents.parquet", "failures.parquet", "summary.txt")
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


def add_documents(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the option that chooses documents, see `choose_documents`."""
    parser.add_argument(
        "--documents",
        required=required,
        action="append",
        metavar="GLOB",
        help="names of documents, with * and ** as in archive.include; may be given several times",
    )


def split_overrides(values: Sequence[str]) -> tuple[list[str], list[str]]:
    """What an option of several values took for its own, and the KEY VALUE overrides behind it.

    They begin at the first that is written as a key of Detectron2, such as MODEL.WEIGHTS.
    """
    values = list(values)
    keys = (
        i for i, value in enumerate(values) if re.fullmatch(r"[A-Z0-9_]+(\.[A-Z0-9_]+)+", value)
    )
    first = next(keys, len(values))
    return values[:first], values[first:]


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


def stages_in_use(results: Path) -> list[str]:
    """The stages of a results folder: optional ones where the last run did them, or they were done."""
    asked: list[str] = []
    # A damaged file is told by verify_results.py.
    with contextlib.suppress(OSError, ValueError, AttributeError, yaml.YAMLError):
        text = (results / "settings.yaml").read_text(encoding="utf-8")
        asked = store.stages_of(yaml.safe_load(text))
    return [
        stage
        for stage in STAGES
        if stage not in store.OPTIONAL or stage in asked or any((results / stage).glob("*.parquet"))
    ]


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


def check_finished(
    directory: Path,
    plan: Mapping[str, Sequence[Document]],
    datasets: Sequence[str] = ("pages", "regions"),
) -> None:
    """Raise UserError unless there are these datasets of every shard."""
    files = {
        shard: [dataset_file(directory / "results", name, shard) for name in datasets]
        for shard in plan
    }
    missing = {
        shard: [path for path in paths if not path.exists()] for shard, paths in files.items()
    }
    missing = {shard: paths for shard, paths in missing.items() if paths}
    if missing:
        first = next(iter(missing.values()))[0]
        raise UserError(
            f"The run in {directory} is not finished: {len(missing)} of {len(plan)} shards have no "
            f"{first.parent.name} yet (there is no {first}). {say_run_again(directory)}"
        )


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
        descriptor = store.lock(store.stage_lock_file(directory, stage, shard))
    except store.Busy as holder:
        raise UserError(
            f"A job of an earlier run is still at work on the {stage} of shard {shard} ({holder}). "
            "Wait until it ends, or stop it; nothing was forgotten."
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def no_job_at_work(directory: Path) -> Iterator[None]:
    """Hold the locks of all stages of shards while what jobs make is changed. UserError where a job,
    which may have outlived its run, is at work."""
    with contextlib.ExitStack() as held:
        for path in sorted((directory / ".scanmill").glob("*.lock")):
            try:
                held.callback(os.close, store.lock(path))
            except store.Busy as holder:
                raise UserError(
                    f"A job of an earlier run is still at work ({path.stem}: {holder}). Wait until it "
                    "ends, or stop it; nothing was changed."
                ) from None
        yield


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

    The final word on pages where it exists, otherwise that of the stages before. Failed regions are
    among the failed; their pages are ok.
    """
    columns = ("status", *_FAILED_COLUMNS)
    datasets = ["pages"]
    if not dataset_file(results, "pages", shard).exists():
        datasets = ["images", "detected_pages"]
    tables = [known_rows(results, name, shard, documents, columns) for name in datasets]
    failed = [_failed(table) for table in tables]
    ok = tables[0].num_rows - sum(table.num_rows for table in failed)
    for stage in OF_REGIONS:
        regions = known_rows(
            results, stage, shard, documents, ("status", "document", "page", "reason")
        )
        stages = pa.repeat(pa.scalar(stage), regions.num_rows)
        failed.append(_failed(regions.append_column("stage", stages)))
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
    for stage in stages_in_use(results):
        datasets = DATASETS[stage]
        there = [{path.stem for path in (results / name).glob("*.parquet")} for name in datasets]
        done = set.intersection(*there) & plan.keys()
        documents = sum(len(plan[shard]) for shard in done)
        for shard in plan.keys() - done:
            folders = (document_folder(results, name) for name in names_of(plan[shard]))
            documents += sum((folder / record_name(stage)).exists() for folder in folders)
        progress.append(StageProgress(stage, len(done), documents))
    return progress


def running_jobs(directory: Path, plan: Mapping[str, Sequence[Document]]) -> list[RunningJob]:
    """The jobs at work: who holds a lock, or may on another machine, and is not done."""
    jobs = []
    for path in sorted((directory / ".scanmill").glob("*.lock")):
        stage, _, shard = path.stem.rpartition("-")
        holder = lock_holder(path)
        if stage not in STAGES or shard not in plan or holder is None or holder.held is False:
            continue
        files = [dataset_file(directory / "results", name, shard) for name in DATASETS[stage]]
        # A job's own tables are gone while it is at work; those of images stay where a later stage has
        # their lock, to drop page images or to put them back.
        if all(file.exists() for file in files):
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
    pages = sum(count for (stage, _), count in counted.items() if stage not in OF_REGIONS)
    yield f"Pages so far: {ok} ok, {pages} failed."
    for (stage, reason), count in sorted(counted.items()):
        yield f"  {count:>8} {reason} at {stage}"


def _percent(done: int, total: int) -> str:
    return f"{100 * done // total} %" if total else ""


# A look at results --------------------------------------------------------------------------------

_TABLES = {
    "documents": "what became of each document",
    "pages": "each page, and document that never opened: image, size, what became of it",
    "regions": "each region: class, box, outline, score, place in the reading order",
    "crops": "each region cut out of its page",
    "ocr": "the text of each region",
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
        if name in store.OPTIONAL and not (results / name).exists():
            continue
        if name in STAGE_OF:
            pattern, shown = f"{name}/[0-9]*.parquet", f"{name}/"
        rows = sum(pq.read_metadata(file).num_rows for file in results.glob(pattern))
        lines.append(f"  {shown:<18}{rows:>9} rows  {meaning}")
    lines += ["", *_describe_counts(results)]
    lines += _describe_page(directory)
    report = results / "report.html"
    if report.exists():
        lines += ["", f"The report, for a browser: {report}"]
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
        image = results / page["image"]
        if store.are_dropped(results, document):
            image = "dropped (images.keep: false); a drawing renders it again"
        yield from ("", "Of that page", f"  the image        {image}")
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
    results: Path, documents: Iterable[str], pages: str | None, renderer: Renderer, folder: Path
) -> Iterator[PageRegions]:
    """The final rows of the documents' pages with their regions.

    `pages` is a selection like `1-3,8`. Documents that are not that far have none. Images that were
    dropped lie below `folder` until the next document's turn.
    """
    try:
        wanted = parse_pages(pages or "")
    except ValueError as error:
        raise UserError(f"--pages: {error}.") from error
    for document in documents:
        if store.read_record_metadata(results, document, "regions") is None:
            continue
        own = document_folder(results, document)
        regions = by_page(read_table(own / table_file("regions", "regions")))
        rows = read_table(own / table_file("regions", "pages")).to_pylist()
        rows = [row for row in rows if wanted is None or row["page"] in wanted]
        ok = [row for row in rows if row["status"] == "ok"]
        with renderer.images(ok, folder) as readable:
            images = {row["page"]: row for row in readable}
            for row in rows:
                mine = regions.get(row["page"], SCHEMAS["regions"].empty_table())
                yield PageRegions(images.get(row["page"], row), mine)


def draw_page(results: Path, drawn: PageRegions, folder: Path) -> Path:
    """Draw an ok page's regions to `folder`/document/page.jpg; returns that path."""
    row = drawn.page
    source = results / row["image"]
    try:
        _, image = read_image(source, row["sha256"])
    except Unusable as error:
        raise page_image_error(
            source, row["document"], row["page"], str(error), results.parent
        ) from error
    path = folder / store_path(row["document"]) / f"{row['page']:04d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = draw_regions(image, drawn.regions)
    path.write_bytes(encode(picture, "jpg", False, JPEG_QUALITY))
    return path
