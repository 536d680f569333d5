"""What a run will take: pages, hours, disk and memory, from counts of pages and a trial of some of them.

Pure functions. Pages are estimated as in a survey: documents are put into strata by kind and size, in
each of them some are counted, and bytes tell of the others (a ratio estimator). `trial` measures.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: Strata of documents of one kind, of equal bytes: large documents, which hold most pages, are few, and
#: in strata of their own, of which all or nearly all are counted.
STRATA = 8

#: Consecutive pages of the sample: a document's pages cost less together than each alone, and pages of
#: many documents tell more.
BLOCK = 5

#: Resamplings for an interval.
REPLICATES = 1000

#: What a cluster should grant, of what is expected: its nodes and the largest document are others.
MEMORY_MARGIN, RUNTIME_MARGIN = 1.5, 2.0


# Pages --------------------------------------------------------------------------------------------


def stratify(kinds: Sequence[str], sizes: np.ndarray) -> np.ndarray:
    """(N,) numbers of the strata of documents, from their kinds and bytes (N,)."""
    strata = np.zeros(len(sizes), int)
    for number, kind in enumerate(sorted(set(kinds))):
        own = np.flatnonzero(np.asarray(kinds) == kind)
        own = own[np.argsort(-sizes[own], kind="stable")]
        middle = np.cumsum(sizes[own]) - sizes[own] / 2
        share = middle / max(sizes[own].sum(), 1)
        strata[own] = number * STRATA + np.minimum(STRATA * share, STRATA - 1).astype(int)
    return strata


def counting_order(strata: np.ndarray, seed: int) -> np.ndarray:
    """(N,) indices of documents: one of each stratum in turn, at random within it, so that whenever
    counting stops, what was counted is a stratified random sample."""
    shuffled = np.random.default_rng(seed).permutation(len(strata))
    turn = np.empty(len(strata), int)
    for stratum in np.unique(strata):
        own = shuffled[strata[shuffled] == stratum]
        turn[own] = np.arange(len(own))
    return np.lexsort((strata, turn))


class Pages(NamedTuple):
    """An estimate of the pages of documents."""

    expected: np.ndarray
    """(N,) pages of each document: as counted, or as its bytes let expect."""
    low: float
    """Of all documents: the interval of 95 %."""
    high: float
    unopened: float
    """Documents that do not open, as far as can be told from those counted."""


def estimate_pages(sizes: np.ndarray, counts: np.ndarray, strata: np.ndarray, seed: int) -> Pages:
    """Estimate pages from those of the documents that were counted at random within each stratum.

    `sizes` are bytes (N,), `counts` pages (N,), NaN where nobody counted, 0 where a document does not
    open. The interval comes from a bootstrap of n - 1 of n counted documents (Rao and Wu 1988), to
    which the scatter of those not counted is added, so that it shrinks to nothing as all are counted.
    """
    rng = np.random.default_rng(seed)
    expected = counts.copy()
    unopened = float(np.count_nonzero(counts == 0))
    totals = np.zeros(REPLICATES)
    for stratum in np.unique(strata):
        own = strata == stratum
        known, unknown = own & ~np.isnan(counts), own & np.isnan(counts)
        if not unknown.any():
            continue
        pages, size = counts[known], np.maximum(sizes[known], 1)
        n, missing, unknown_size = len(pages), unknown.sum(), np.maximum(sizes[unknown], 1)
        ratio = pages.sum() / size.sum()
        expected[unknown] = ratio * unknown_size
        unopened += missing * np.mean(pages == 0)
        drawn = rng.multinomial(max(n - 1, 1), np.full(n, 1 / n), REPLICATES)
        ratios = drawn @ pages / (drawn @ size)
        scatter = math.sqrt(np.square(pages - ratio * size).sum() / max(n - 1, 1) * missing)
        totals += ratios * unknown_size.sum() + scatter * rng.standard_normal(REPLICATES)
    counted = np.nansum(counts)
    low, high = counted + np.maximum(np.quantile(totals, (0.025, 0.975)), 0)
    return Pages(expected, low, high, unopened)


class Piece(NamedTuple):
    """Consecutive pages of a document, counted from 0; `end` is exclusive."""

    index: int
    start: int
    end: int


def choose_pages(pages: np.ndarray, weights: np.ndarray, wanted: int, seed: int) -> list[Piece]:
    """A sample of about `wanted` pages of counted documents in which every page of the archive has the
    same chance to be, so that plain means over the sample are those of the archive.

    `pages` (N,) of each document, in an order in which neighbours are alike; `weights` (N,) how many
    documents of the archive each of them stands for. Blocks of BLOCK pages at equal steps along the
    line of all pages, across documents.
    """
    line = np.repeat(np.arange(len(pages)), pages)  # Of each page its document.
    if len(line) <= wanted:
        chosen = np.arange(len(line))
    else:
        ends = np.cumsum(weights[line])
        blocks = max(round(wanted / BLOCK), 1)
        starts = (np.arange(blocks) + np.random.default_rng(seed).random()) / blocks * ends[-1]
        first = np.searchsorted(ends, starts, side="right")
        chosen = np.unique((first[:, None] + np.arange(BLOCK)) % len(line))
    begins = np.cumsum(pages) - pages
    pieces: list[Piece] = []
    for position in chosen:
        index = int(line[position])
        page = int(position - begins[index])
        if pieces and pieces[-1].index == index and pieces[-1].end == page:
            pieces[-1] = pieces[-1]._replace(end=page + 1)
        else:
            pieces.append(Piece(index, page, page + 1))
    return pieces


# What was measured, per page ----------------------------------------------------------------------


class Rate(NamedTuple):
    """What something costs: once, and for every page."""

    once: float
    per_page: float

    def of(self, pages: float) -> float:
        """The cost of so many pages."""
        return self.once + self.per_page * pages


def rate(pages: tuple[int, int], costs: tuple[float, float]) -> Rate:
    """The rate that explains what a few and what more pages cost; neither part is below 0."""
    more = pages[1] - pages[0]
    per_page = max(costs[1] - costs[0], 0) / more if more > 0 else 0.0
    return Rate(max(costs[1] - per_page * pages[1], 0), per_page)


def document_rate(pages: np.ndarray, sizes: np.ndarray) -> Rate:
    """Bytes of a document's records: those of any document, and of each page (least squares)."""
    mean_pages, mean_size = pages.mean(), sizes.mean()
    spread = np.square(pages - mean_pages).sum()
    slope = ((pages - mean_pages) * (sizes - mean_size)).sum() / spread if spread else 0.0
    per_page = min(max(slope, 0.0), mean_size / mean_pages)
    return Rate(mean_size - per_page * mean_pages, per_page)


def mean_per_page(
    values: np.ndarray, pages: np.ndarray, sizes: np.ndarray, mean_size: float
) -> float:
    """The archive's mean per page of something of which the sample's pieces have `values` (N,).

    `sizes` (N,) are bytes per page of the documents that the pieces are of, `mean_size` is that of the
    archive: where the two go together, as with scans that are lifted, the mean of the sample is put
    right by the line of regression.
    """
    weights, means = pages / pages.sum(), values / pages
    mean, sample_size = weights @ means, weights @ sizes
    spread = weights @ np.square(sizes - sample_size)
    slope = weights @ ((sizes - sample_size) * (means - mean)) / spread if spread else 0.0
    return max(mean + slope * (mean_size - sample_size), 0.0)


# A trial ------------------------------------------------------------------------------------------

#: What a document comes to, for people.
IMAGES, PAGE_TABLES, CROPS, RECORDS = "page images", "tables by page", "crops", "records"
#: What a shard comes to.
TABLES = "tables"


class Files(NamedTuple):
    """How many files, and bytes."""

    files: int
    size: int


class Measured(NamedTuple):
    """What became of a piece: consecutive pages of a document that were a document of the trial."""

    piece: Piece
    pages: int
    ok: int
    files: dict[str, Files]
    """By IMAGES, PAGE_TABLES, CROPS, RECORDS."""


class Usage(NamedTuple):
    """What a rule's job of one shard takes."""

    seconds: Rate
    memory: float
    """MB, at the peak of all its processes."""
    threads: int
    gpus: int


class Trial(NamedTuple):
    """What was measured."""

    rules: dict[str, Usage]
    startup: float
    """Seconds that Snakemake itself takes, beside its jobs."""
    reading: float
    """Bytes per second in which one thread reads and hashes sources."""
    datasets: int
    """Tables of a run of one shard, the archive's own among them."""
    tables: Rate
    """Bytes of these."""
    table_memory: float
    """Bytes per page of these in memory."""
    pieces: list[Measured]
    device: str
    """Kind of processor that detected, and its arithmetic; empty if no page came so far."""


# Time ---------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """A job: seconds, and what it takes of a machine."""

    seconds: float
    threads: int
    gpus: int


def makespan(chains: Iterable[Sequence[Job]], cores: int, gpus: int) -> float:
    """Seconds until all chains of jobs are done that run one behind the other, as many chains side by
    side as cores and GPUs allow; chains with the least left go first."""
    ready: dict[int, deque[Sequence[Job]]] = defaultdict(deque)
    for chain in chains:
        ready[len(chain)].append(chain)
    ready.pop(0, None)
    running: list[tuple[float, int, Sequence[Job]]] = []
    now, number = 0.0, 0
    while True:
        for left in sorted(ready):
            queue = ready[left]
            while queue and queue[0][0].threads <= cores and queue[0][0].gpus <= gpus:
                chain = queue.popleft()
                cores, gpus, number = cores - chain[0].threads, gpus - chain[0].gpus, number + 1
                heapq.heappush(running, (now + chain[0].seconds, number, chain))
        if not running:
            return now
        now, _, (done, *rest) = heapq.heappop(running)
        cores, gpus = cores + done.threads, gpus + done.gpus
        if rest:
            ready[len(rest)].append(rest)


class Archive(NamedTuple):
    """The documents of a plan (N of them), and what is left to do."""

    shards: np.ndarray
    """(N,) number of each document's shard."""
    sizes: np.ndarray
    """(N,) bytes."""
    pages: np.ndarray
    """(N,) pages as they are expected."""
    left: dict[str, np.ndarray]
    """Stage -> (N,) whether the document is still to do."""


class Stage(NamedTuple):
    """What is left of a stage."""

    jobs: int
    pages: float
    seconds: float
    """Of all its jobs, one after the other."""


def shard_seconds(
    archive: Archive, trial: Trial, rules: Mapping[str, str], left: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Stage -> (shards,) seconds of its jobs on the documents that are `left`; 0 where there are none.

    `rules` are those of the stages, in the order in which they follow one another.
    """
    count = int(archive.shards.max()) + 1
    seconds = {}
    for stage, rule in rules.items():
        usage, own = trial.rules[rule], left[stage]
        mine = archive.shards[own]
        pages = np.bincount(mine, archive.pages[own], count)
        seconds[stage] = usage.seconds.once + usage.seconds.per_page * pages
        if stage == "images":
            size = np.bincount(mine, archive.sizes[own], count)
            seconds[stage] += size / (trial.reading * usage.threads)
        seconds[stage][np.bincount(mine, minlength=count) == 0] = 0
    return seconds


def run_seconds(
    archive: Archive, trial: Trial, rules: Mapping[str, str], cores: int, gpus: int
) -> float:
    """Seconds of a run that does what is left: its start, jobs of shards side by side, its end."""
    seconds = shard_seconds(archive, trial, rules, archive.left)
    chains = [
        [
            Job(seconds[stage][shard], trial.rules[rule].threads, trial.rules[rule].gpus)
            for stage, rule in rules.items()
            if seconds[stage][shard]
        ]
        for shard in range(int(archive.shards.max()) + 1)
    ]
    others = trial.rules.keys() - rules.values() - {"plan_shards"}
    alone = sum(trial.rules[rule].seconds.of(archive.pages.sum()) for rule in others)
    return trial.startup + alone + makespan(chains, cores, gpus)


def disk(archive: Archive, trial: Trial) -> dict[str, Files]:
    """Files and bytes of all results once the archive is done."""
    opened = archive.pages > 0
    documents, pages = len(archive.pages), archive.pages.sum()
    mean_size = archive.sizes[opened].sum() / max(pages, 1)
    sizes = np.array(
        [archive.sizes[each.piece.index] / archive.pages[each.piece.index] for each in trial.pieces]
    )
    sampled = np.array([each.pages for each in trial.pieces])
    total = {}
    for what in (IMAGES, PAGE_TABLES, CROPS, RECORDS):
        found = [each.files.get(what, Files(0, 0)) for each in trial.pieces]
        size = np.array([each.size for each in found], float)
        files = document_rate(sampled, np.array([each.files for each in found], float))
        if what in (IMAGES, CROPS):
            amount = mean_per_page(size, sampled, sizes, mean_size) * pages
        else:
            by_document = document_rate(sampled, size)
            amount = by_document.once * documents + by_document.per_page * pages
        total[what] = Files(round(files.once * documents + files.per_page * pages), round(amount))
    shards = int(archive.shards.max()) + 1
    size = trial.tables.once * shards + trial.tables.per_page * pages
    total[TABLES] = Files(trial.datasets * shards, round(size))
    return total


def needs(
    archive: Archive, trial: Trial, rules: Mapping[str, str]
) -> dict[str, tuple[float, float]]:
    """Rule -> MB and seconds of the largest job, were all to be done."""
    pages = np.bincount(archive.shards, archive.pages).max()
    everything = dict.fromkeys(rules, np.ones(len(archive.pages), bool))
    seconds = shard_seconds(archive, trial, rules, everything)
    tables = trial.table_memory * pages / 1e6
    return {
        rule: (trial.rules[rule].memory + tables, seconds[stage].max())
        for stage, rule in rules.items()
    }


# A cluster ----------------------------------------------------------------------------------------


def set_resources(needs: Mapping[str, tuple[float, float]]) -> list[str]:
    """Lines of a Snakemake profile: rule -> MB and seconds of its largest job, with margins."""
    lines = ["set-resources:"]
    for rule, (memory, seconds) in needs.items():
        mem_mb = math.ceil(MEMORY_MARGIN * memory / 500) * 500
        runtime = math.ceil((RUNTIME_MARGIN * seconds / 60 + 5) / 5) * 5
        lines += [f"  {rule}:", f"    mem_mb: {mem_mb}", f"    runtime: {runtime}"]
    return lines


# For people ---------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.{int(seconds < 600)}f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360_000 else f"{seconds / 86_400:.1f} days"


def volume(size: float) -> str:
    """Bytes as people say them, in powers of ten."""
    power = min(int(math.log10(max(size, 1)) / 3), 4)
    return f"{size / 1000**power:.3g} {('B', 'KB', 'MB', 'GB', 'TB')[power]}"
