"""Pages through a detector: loader processes decode and resize them ahead; the detector takes them in
batches; other processes trace outlines, and a thread takes finished pages, while the next batches run.

Of a shard's documents each gets its record.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from scanmill.outlines import mask_polygon
from scanmill.preprocessing import Page, PageDataset, Part, Sample, Window, batches, parts
from scanmill.progress import Progress
from scanmill.store import Fingerprint, StageStore, page_image_error
from scanmill.tables import SCHEMAS, failed, from_rows
from scanmill.tiles import Detections, TileDetections, merge_tiles
from scanmill.workers import die_with_parent

# isort: split
from torch import set_num_threads
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from scanmill.detector import Detector

STAGE = "detections"

#: Batches that may wait for their outlines and for the disk: beyond, the detector waits for them.
BATCHES_BEHIND = 8
#: Pages that each loader decodes ahead.
PAGES_AHEAD = 8
#: Loaders and tracers give way to the network, which on CPUs waits for the slower of its threads.
NICE = 10


class FoundPage(NamedTuple):
    """What was found on one page."""

    sample: Sample
    """The page as it went in, without its pixels."""
    tiles: list[TileDetections]
    """As they came from the network, without masks."""
    detections: Detections
    """On the page, best first."""


def detect_pages(
    detector: Detector,
    dataset: PageDataset,
    threads: int,
    take: Callable[[FoundPage], None],
    unusable: Callable[[Sample], None],
) -> None:
    """Detect on all pages of `dataset`, in batches.

    Each page that is done is handed to `take`, in a thread of its own and in no certain order; a sample
    that has a `problem` instead of pixels to `unusable`.
    """
    set_num_threads(threads)
    on_gpu = detector.device.type == "cuda"
    loaders, tracers = (max(1, threads - 2), 2) if on_gpu else (max(1, threads // 4), 1)
    whole = _WholePages(take)
    behind: deque[Future] = deque()
    sent: deque[list[Part]] = deque()

    def pixels() -> Iterator[list[np.ndarray]]:
        loaded = map(whole.expect, _load(dataset, loaders, unusable))
        for batch in batches(parts(loaded), detector.batch_size, detector.divisibility):
            sent.append(batch)
            yield [part.pixels for part in batch]

    outlining = ProcessPoolExecutor(tracers, get_context("fork"), _start_tracer)
    with outlining, ThreadPoolExecutor(1) as taking:
        try:
            for found in detector.detect_batches(pixels()):
                batch = sent.popleft()
                placed = outlining.submit(
                    place_all, [(f, whole.window(p)) for f, p in zip(found, batch, strict=True)]
                )
                bare = [each._replace(masks=None) for each in found]
                behind.append(taking.submit(whole.add, batch, bare, placed))
                while len(behind) > BATCHES_BEHIND or (behind and behind[0].done()):
                    behind.popleft().result()
            for each in behind:
                each.result()
        except BaseException:
            outlining.shutdown(wait=False, cancel_futures=True)
            taking.shutdown(wait=False, cancel_futures=True)
            raise


class _WholePages:
    """Puts tiles together to pages."""

    def __init__(self, take: Callable[[FoundPage], None]) -> None:
        self.take = take
        self.samples: dict[int, Sample] = {}
        self.tiles: dict[int, dict[int, tuple[TileDetections, Detections]]] = {}

    def expect(self, sample: Sample) -> Sample:
        """Remember a page that goes to the detector, without its pixels."""
        self.samples[sample.index] = sample._replace(pixels=[None] * len(sample.pixels))
        return sample

    def window(self, part: Part) -> Window:
        """Where a tile lies on its page image."""
        return self.samples[part.index].windows[part.tile]

    def add(self, batch: Sequence[Part], found: Sequence[TileDetections], placed: Future) -> None:
        """Take what was found on the tiles of a batch, once it is in its place."""
        for part, tile, detections in zip(batch, found, placed.result(), strict=True):
            mine = self.tiles.setdefault(part.index, {})
            mine[part.tile] = (tile, detections)
            if len(mine) == len(self.samples[part.index].windows):
                self._finish(part.index)

    def _finish(self, index: int) -> None:
        sample, mine = self.samples.pop(index), self.tiles.pop(index)
        tiles, placed = zip(*(mine[tile] for tile in sorted(mine)), strict=True)
        self.take(FoundPage(sample, list(tiles), merge_tiles(sample.windows, placed)))


def page_outcome(detector: Detector, found: FoundPage) -> dict[str, Any]:
    """The columns of `detected_pages` that say how a page came out."""
    problem = next((tile.problem for tile in found.tiles if tile.problem), None)
    if problem:
        return failed(STAGE, *problem)
    return {
        "status": "ok",
        "n_detections": len(found.detections.scores),
        "capped": any(map(detector.capped, found.tiles)),
        "n_proposals": sum(tile.n_proposals for tile in found.tiles),
        "type_height": found.sample.type_height,
    }


# Loading ------------------------------------------------------------------------------------------


def _start_loader(_: int) -> None:
    os.nice(NICE)
    # By itself a loader that waits to hand over a page does not notice.
    die_with_parent()


def _start_tracer() -> None:
    os.nice(NICE)
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # On Ctrl-C the parent ends it, and says so.


def _unchanged(sample: Sample) -> Sample:
    return sample


def _load(
    dataset: PageDataset, loaders: int, unusable: Callable[[Sample], None]
) -> Iterator[Sample]:
    """The pages in order, decoded ahead by loader processes."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=loaders,
        prefetch_factor=PAGES_AHEAD,
        # Forked: a spawned loader would import the job's script again.
        multiprocessing_context="fork",
        # Arrays through a pipe, not tensors in shared memory, of which containers have little, and whose
        # server tells of a parent that was stopped with a traceback.
        collate_fn=_unchanged,
        worker_init_fn=_start_loader,
    )
    for sample in loader:
        if sample.problem:
            unusable(sample)
        else:
            yield sample


# Placing ------------------------------------------------------------------------------------------


def place(found: TileDetections, window: Window) -> Detections:
    """What was found on a tile, best first, in pixels of the page image: scaled as Detectron2's
    detector_postprocess does, without pasting masks on the page."""
    left, top, right, bottom = window
    width, height = right - left, bottom - top
    resized_height, resized_width = found.shape
    scale = np.array([width / resized_width, height / resized_height] * 2, np.float32)
    boxes = found.boxes * scale
    boxes[:, 0::2] = boxes[:, 0::2].clip(0, width) + np.float32(left)
    boxes[:, 1::2] = boxes[:, 1::2].clip(0, height) + np.float32(top)
    nonempty = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    # Equal scores: by class and place, so that the rank never depends on the processor's sort.
    order = np.lexsort((boxes[:, 1], boxes[:, 0], found.class_ids, -found.scores))
    order = order[nonempty[order]]
    polygons: list[np.ndarray | None] = [None] * len(order)
    if found.masks is not None:
        polygons = [mask_polygon(found.masks[i], boxes[i]) for i in order]
    return Detections(boxes[order], found.scores[order], found.class_ids[order], polygons)


def place_all(tiles: Sequence[tuple[TileDetections, Window]]) -> list[Detections]:
    """`place` for each of them."""
    return [place(found, window) for found, window in tiles]


# Documents ----------------------------------------------------------------------------------------


class Work(NamedTuple):
    """A document to detect on."""

    document: str
    pages: list[Page]
    wanted: Fingerprint


def detect_documents(
    detector: Detector,
    documents: Sequence[Work],
    store: StageStore,
    threads: int,
    progress: Progress,
) -> None:
    """Detect on all pages of `documents`, in batches across them; each is recorded once it is done."""
    recorder = _Recorder(detector, documents, store, progress)
    dataset = detector.dataset([page for _, page in recorder.owners], store.results)
    detect_pages(detector, dataset, threads, recorder.take, recorder.miss)


class _Recorder:
    """Puts pages together to documents, and writes a document once it is whole."""

    def __init__(
        self,
        detector: Detector,
        documents: Sequence[Work],
        store: StageStore,
        progress: Progress,
    ) -> None:
        self.detector, self.store, self.progress = detector, store, progress
        self.owners = [(work, page) for work in documents for page in work.pages]
        self.left = {work.document: len(work.pages) for work in documents}
        self.outcomes: dict[str, dict[int, dict[str, Any]]] = {}
        self.detections: dict[str, dict[int, Detections]] = {}
        for work in documents:
            if not work.pages:
                self._write(work)

    def miss(self, sample: Sample) -> None:
        """Stop: a page image is not as another stage made it."""
        _, page = self.owners[sample.index]
        path = self.store.results / page.image
        raise page_image_error(path, page.document, page.page, sample.problem, Path.cwd())

    def take(self, found: FoundPage) -> None:
        """Note what was found on a page, and write its document if it was the last."""
        work, page = self.owners[found.sample.index]
        self.outcomes.setdefault(work.document, {})[page.page] = {
            "document": work.document,
            "page": page.page,
            "precision": self.detector.precision,
            "device": self.detector.device_kind,
            "ink": found.sample.ink,
            **page_outcome(self.detector, found),
        }
        self.detections.setdefault(work.document, {})[page.page] = found.detections
        self.left[work.document] -= 1
        self.progress.page()
        if not self.left[work.document]:
            self._write(work)

    def _write(self, work: Work) -> None:
        """Write a document's record."""
        outcomes = self.outcomes.pop(work.document, {})
        found = self.detections.pop(work.document, {})
        rows = [outcomes[page] for page in sorted(outcomes)]
        kept = {row["page"]: found[row["page"]] for row in rows if row["status"] == "ok"}
        tables = {
            "detections": detections_table(work.document, kept, self.detector.classes),
            "detected_pages": from_rows("detected_pages", rows),
        }
        with self.store.replace(work.document, work.wanted) as draft:
            draft.commit(tables, {"model": self.detector.card["name"]})
        # Pages were counted one by one.
        self.progress.document(work.document, "computed", len(work.pages))


def detections_table(
    document: str, found: dict[int, Detections], classes: Sequence[str]
) -> pa.Table:
    """Rows of `detections` of a document, from what was found on each of its pages."""
    names = ("page", "detection", "class_id", "score", "x_min", "y_min", "x_max", "y_max")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    polygons: list[np.ndarray | None] = []
    for page, detections in found.items():
        count = len(detections.scores)
        columns["page"].append(np.full(count, page))
        columns["detection"].append(np.arange(1, count + 1))
        columns["class_id"].append(detections.class_ids)
        columns["score"].append(detections.scores)
        for i, name in enumerate(names[4:]):
            columns[name].append(detections.boxes[:, i])
        polygons += detections.polygons
    schema = SCHEMAS["detections"]
    merged = {k: np.concatenate([[], *parts]) for k, parts in columns.items()}
    class_ids = merged["class_id"].astype(np.int32)
    data = {
        "document": pa.repeat(pa.scalar(document), len(class_ids)),
        "class_name": pa.array([classes[i] for i in class_ids], pa.string()),
        "polygon": pa.array(polygons, schema.field("polygon").type),
    }
    data |= {k: pa.array(v).cast(schema.field(k).type) for k, v in merged.items()}
    return pa.table([data[name] for name in schema.names], schema=schema)
