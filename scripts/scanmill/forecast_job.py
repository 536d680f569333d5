"""The forecast of a working directory: its plan and settings, counts of pages, a trial, and the text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scanmill import forecast
from scanmill.archive import Document, link_boundary
from scanmill.errors import UserError
from scanmill.forecast import IMAGES, Archive, Files, Pages, Trial
from scanmill.maintenance import (
    DATASETS,
    RULES,
    dataset_file,
    known_rows,
    lock_holder,
    names_of,
    read_plan,
)
from scanmill.page_counts import count_pages
from scanmill.progress import logger
from scanmill.registry import ROOT
from scanmill.settings import archive_path, load_settings
from scanmill.store import STORE, document_folder, record_name, stages_of
from scanmill.trial import run_trial

#: Seconds in which as many documents as possible are counted, and how many of a stratum in any case.
COUNTING, AT_LEAST = 60.0, 10

#: Kinds of documents that the plan knows not to open.
REFUSED = ("outside", "missing", "unsupported")

SEED = 0

STAGE_NAMES = {
    "images": "page images",
    "detections": "detection",
    "regions": "regions",
    "crops": "crops",
    "ocr": "text",
}


class Found(NamedTuple):
    """What is known of an archive before the trial."""

    documents: list[Document]
    archive: Archive
    pages: Pages
    counted: np.ndarray
    """(N,) whether the pages of a document are known, not estimated."""
    weights: np.ndarray
    """(N,) for how many documents a counted one stands in the sample; 0 for what is not to be tried."""


def describe_forecast(
    directory: Path, configfile: Path | None, sample: int, cores: int, machines: Sequence[int]
) -> Iterator[str]:
    """Lines of the forecast, as they become known."""
    plan = find_plan(directory)
    settings = find_settings(directory, configfile)
    holder = lock_holder(directory / ".scanmill.lock")
    if holder and holder.held:
        logger.warning("a run is at work (%s): hours come out too long", holder.text)
    source = archive_path(settings, directory)
    found = look_at(directory / "results", plan, source, settings, cores)
    yield from _describe_archive(found, len(plan))
    if not found.weights.any():
        yield "Nothing is left to try: all pages are done, or no document opens."
        return
    order = np.flatnonzero(found.weights)
    pieces = forecast.choose_pages(
        found.archive.pages[order].astype(int), found.weights[order], sample, SEED
    )
    pieces = [piece._replace(index=int(order[piece.index])) for piece in pieces]
    trial = run_trial(directory, settings, source, found.documents, pieces, cores)
    yield from _describe_trial(trial)
    yield from _describe_time(found, trial, cores, machines)
    yield from _describe_disk(found.archive, trial, settings["images"])
    yield from _describe_cluster(found.archive, trial)


# What there is ------------------------------------------------------------------------------------


def find_plan(directory: Path) -> dict[str, list[Document]]:
    """Shard -> documents; a UserError says how to make a plan where there is none."""
    plan = read_plan(directory / "results")
    if plan:
        return plan
    command = ["snakemake", "plan", "--cores", "1", "--directory", str(directory)]
    settings = directory / "results" / "settings.yaml"
    if settings.exists():
        command += ["--configfile", str(settings)]
    elif not (directory / "config.yaml").exists():
        command += ["--config", "archive=/path/to/scans"]
    raise UserError(
        f"There is no plan in {directory}: which documents there are is not known yet. Make it with\n"
        f"  {shlex.join(command)}"
    )


def find_settings(directory: Path, configfile: Path | None) -> dict[str, Any]:
    """The settings of the last call of Snakemake in `directory`, and `configfile` laid over them."""
    used = directory / "results" / "settings.yaml"
    files = [path for path in (used if used.exists() else None, configfile) if path]
    defaults, schema = (ROOT / "config" / f"config{each}.yaml" for each in ("", ".schema"))
    return load_settings(defaults, schema, directory, {}, files)


def look_at(
    results: Path,
    plan: Mapping[str, Sequence[Document]],
    source: Path,
    settings: Mapping[str, Any],
    cores: int,
) -> Found:
    """Tell what is done, count pages of what is not, and estimate the rest."""
    documents = [document for each in plan.values() for document in each]
    sizes = np.array([document.size for document in documents], float)
    left = left_to_do(results, plan, stages_of(settings))
    counts = np.full(len(documents), np.nan)
    counts[[document.kind == "image" for document in documents]] = 1
    counts[[document.kind in REFUSED for document in documents]] = 0
    known = known_pages(results, plan) if not left["images"].all() else {}
    for index in np.flatnonzero(~left["images"]):
        counts[index] = known.get(documents[index].document, 0)

    unknown = np.flatnonzero(np.isnan(counts))
    mine = [documents[index] for index in unknown]
    strata = forecast.stratify([document.kind for document in mine], sizes[unknown])
    order = forecast.counting_order(strata, SEED)
    logger.info("counting pages of %d documents", len(mine))
    counted = count_pages(
        (mine[index] for index in order),
        source,
        link_boundary(source, settings["archive"]),
        settings["images"],
        cores,
        COUNTING,
        AT_LEAST * len(np.unique(strata)),
    )
    found = np.array([counted.get(document.document, np.nan) for document in mine], float)
    estimate = forecast.estimate_pages(sizes[unknown], found, strata, SEED)
    certain, refused = np.nansum(counts), np.count_nonzero(counts == 0)
    counts[unknown] = estimate.expected
    is_counted = np.ones(len(documents), bool)
    is_counted[unknown] = ~np.isnan(found)
    unopened = refused + estimate.unopened
    pages = Pages(counts, certain + estimate.low, certain + estimate.high, unopened)
    shards = np.repeat(np.arange(len(plan)), [len(each) for each in plan.values()])
    weights = sample_weights(counts, is_counted, unknown, strata)
    weights[~np.any(list(left.values()), axis=0)] = 0
    return Found(documents, Archive(shards, sizes, counts, left), pages, is_counted, weights)


def sample_weights(
    pages: np.ndarray, counted: np.ndarray, unknown: np.ndarray, strata: np.ndarray
) -> np.ndarray:
    """(N,) how many documents a counted one stands for: those of its stratum that were not counted are
    shared out by pages. `strata` (K,) are those of the documents `unknown` (K,) before."""
    weights = counted.astype(float) * (pages > 0)
    for stratum in np.unique(strata):
        own = unknown[strata == stratum]
        mine = own[counted[own]]
        if pages[mine].sum():
            weights[mine] *= pages[own].sum() / pages[mine].sum()
    return weights


def left_to_do(
    results: Path, plan: Mapping[str, Sequence[Document]], stages: Sequence[str]
) -> dict[str, np.ndarray]:
    """Stage -> (N,) whether each document, in the order of the plan, is still to do.

    Results of older settings count as done, as for `show_progress.py`.
    """
    begun = (results / STORE).exists()
    left = {}
    for stage in stages:
        done: list[bool] = []
        for shard, documents in plan.items():
            done += (
                _done(results, stage, shard, names_of(documents))
                if begun
                else [False] * len(documents)
            )
        left[stage] = ~np.array(done, bool)
    return left


def _done(results: Path, stage: str, shard: str, documents: Sequence[str]) -> list[bool]:
    """Whether each document of a shard has a record; if its tables are newer than its manifest, yes."""
    planned = (results / "shards" / f"{shard}.tsv").stat().st_mtime_ns
    files = [dataset_file(results, name, shard) for name in DATASETS[stage]]
    if all(file.exists() and file.stat().st_mtime_ns > planned for file in files):
        return [True] * len(documents)
    records = (document_folder(results, name) / record_name(stage) for name in documents)
    return [record.exists() for record in records]


def known_pages(results: Path, plan: Mapping[str, Sequence[Document]]) -> dict[str, int]:
    """Document -> its pages, of those that have page images."""
    known: dict[str, int] = {}
    for shard, documents in plan.items():
        rows = known_rows(results, "images", shard, names_of(documents), ("document", "page"))
        counted = rows.group_by("document").aggregate([("page", "count")])
        known |= dict(zip(*(column.to_pylist() for column in counted.columns), strict=True))
    return known


# In words -----------------------------------------------------------------------------------------


def _describe_archive(found: Found, shards: int) -> Iterator[str]:
    archive, pages, total = found.archive, found.pages, found.archive.pages.sum()
    size = forecast.volume(archive.sizes.sum())
    yield f"{len(found.documents)} documents in {shards} shards, {size}"
    if found.counted.all():
        yield f"Pages: {total:.0f}, all counted"
    else:
        yield (
            f"Pages: {total:.0f} ({pages.low:.0f} to {pages.high:.0f} with 95 %), from those of "
            f"{np.count_nonzero(found.counted)} documents"
        )
    if round(pages.unopened):
        yield f"Documents that do not open: {pages.unopened:.0f}"
    done = archive.pages[~archive.left["crops"]].sum()
    if done:
        yield f"Done already: {done:.0f} pages"


def _describe_trial(trial: Trial) -> Iterator[str]:
    tried = sum(each.pages for each in trial.pieces)
    failed = tried - sum(each.ok for each in trial.pieces)
    of = len({each.piece.index for each in trial.pieces})
    on = trial.device or "nothing, as no page came so far"
    yield f"Tried: {tried} pages of {of} documents, {failed} failed; detection on {on}"


def _describe_time(
    found: Found, trial: Trial, cores: int, machines: Sequence[int]
) -> Iterator[str]:
    archive = found.archive
    rules = {stage: RULES[stage] for stage in archive.left}
    seconds = forecast.shard_seconds(archive, trial, rules, archive.left)
    yield ""
    yield f"{'Left to do':<16}{'jobs':>7}{'start of one':>14}{'pages/s':>10}{'in all':>10}"
    for stage, rule in rules.items():
        once, per_page = trial.rules[rule].seconds
        speed = f"{1 / per_page:.3g}" if per_page else ""
        mine = seconds[stage]
        yield (
            f"  {STAGE_NAMES[stage]:<14}{np.count_nonzero(mine):>7}{f'{once:.1f} s':>14}{speed:>10}"
            f"{forecast.duration(mine.sum()):>10}"
        )
    gpus = int(any(usage.gpus for usage in trial.rules.values()))
    total = archive.pages.sum()
    low, middle, high = (
        forecast.run_seconds(
            archive._replace(pages=archive.pages * pages / total), trial, rules, cores, gpus
        )
        for pages in (found.pages.low, total, found.pages.high)
    )
    between = ""
    if not found.counted.all():
        between = f" ({forecast.duration(low)} to {forecast.duration(high)} as pages may be)"
    yield f"Together, with {cores} cores: {forecast.duration(middle)}{between}"
    if machines and not gpus:
        yield "No GPU was measured, but a CPU: the following is for machines like this one."
    for count in machines:
        what = "GPUs, each with" if gpus else "machines, each with"
        took = forecast.run_seconds(archive, trial, rules, cores * count, gpus * count)
        yield f"  on {count} {what} {cores} cores: {forecast.duration(took)}"


def _describe_disk(archive: Archive, trial: Trial, images: Mapping[str, Any]) -> Iterator[str]:
    disk = forecast.disk(archive, trial)
    when = "Disk in the end"
    if not images["keep"]:
        when = "Disk at most"
        share = min(images["wave"] / (archive.shards.max() + 1), 1)
        disk[IMAGES] = Files(*(round(share * each) for each in disk[IMAGES]))
    yield ""
    yield f"{when:<16}{'files':>12}{'':>6}bytes"
    for what, each in disk.items():
        yield f"  {what:<14}{each.files:>12}{forecast.volume(each.size):>11}"
    files, size = (sum(each[i] for each in disk.values()) for i in (0, 1))
    yield f"  {'together':<14}{files:>12}{forecast.volume(size):>11}"


def _describe_cluster(archive: Archive, trial: Trial) -> Iterator[str]:
    yield ""
    yield "For a cluster's profile (MB, minutes of the largest shard, with margins):"
    rules = {stage: RULES[stage] for stage in archive.left}
    yield from forecast.set_resources(forecast.needs(archive, trial, rules))
