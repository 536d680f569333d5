"""A shard's documents: page images in, each document's record of detections out.

Loader processes decode and resize pages ahead; the detector takes them in batches; other processes
trace outlines, and a thread writes finished documents, while the next batches run.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from scanmill.detector import Detector, TileDetections
from scanmill.outlines import mask_polygon
from scanmill.preprocessing import Page, Part, Sample, Window, batches, parts
from scanmill.progress import Progress
from scanmill.store import Fingerprint, StageStore, page_image_error
from scanmill.tables import SCHEMAS, failed, from_rows
from scanmill.tiles import Detections, merge_tiles
from scanmill.workers import die_with_parent

# isort: split
from torch import set_num_threads
from torch.utils.data import DataLoader

STAGE = "detections"

#: Batches that may wait for their outlines and for the disk: beyond, the detector waits for them.
BATCHES_BEHIND = 8
#: Pages that each loader decodes ahead.
PAGES_AHEAD = 8
#: Loaders and tracers give way to the network, which on CPUs waits for the slower of its threads.
NICE = 10


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
    set_num_threads(threads)
    on_gpu = detector.device.type == "cuda"
    loaders, tracers = (max(1, threads - 2), 2) if on_gpu else (max(1, threads // 4), 1)
    recorder = _Recorder(detector, documents, store, progress)
    pages = [page for work in documents for page in work.pages]
    behind: deque[Future] = deque()
    sent: deque[list[Part]] = deque()

    def pixels() -> Iterator[list[np.ndarray]]:
        loaded = map(recorder.expect, _load(detector, pages, store, loaders))
        for batch in batches(parts(loaded), detector.batch_size, detector.divisibility):
            sent.append(batch)
            yield [part.pixels for part in batch]

    outlining = ProcessPoolExecutor(tracers, get_context("fork"), _start_tracer)
    with outlining, ThreadPoolExecutor(1) as writing:
        try:
            for found in detector.detect(pixels()):
                batch = sent.popleft()
                placed = outlining.submit(
                    place_all, [(f, recorder.window(p)) for f, p in zip(found, batch, strict=True)]
                )
                bare = [each._replace(masks=None) for each in found]
                behind.append(writing.submit(recorder.add, batch, bare, placed))
                while len(behind) > BATCHES_BEHIND or (behind and behind[0].done()):
                    behind.popleft().result()
            for each in behind:
                each.result()
        except BaseException:
            outlining.shutdown(wait=False, cancel_futures=True)
            writing.shutdown(wait=False, cancel_futures=True)
            raise


def _start_loader(_: int) -> None:
    os.nice(NICE)


def _start_tracer() -> None:
    os.nice(NICE)
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # On Ctrl-C the parent ends it, and says so.


# Loading ------------------------------------------------------------------------------------------


def _unchanged(sample: Sample) -> Sample:
    return sample


def _load(
    detector: Detector, pages: Sequence[Page], store: StageStore, loaders: int
) -> Iterator[Sample]:
    """The pages in order, decoded ahead by loader processes."""
    loader = DataLoader(
        detector.dataset(pages, store.results),
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
            page = pages[sample.index]
            path = store.results / page.image
            raise page_image_error(path, page.document, page.page, sample.problem, Path.cwd())
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


# Recording ----------------------------------------------------------------------------------------


class _Recorder:
    """Puts tiles together to pages, and pages to documents, and writes a document once it is whole."""

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
        self.samples: dict[int, Sample] = {}
        self.tiles: dict[int, dict[int, tuple[TileDetections, Detections]]] = {}
        self.outcomes: dict[str, dict[int, dict[str, Any]]] = {}
        self.detections: dict[str, dict[int, Detections]] = {}
        for work in documents:
            if not work.pages:
                self._write(work)

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
                self._finish_page(part.index)

    def _finish_page(self, index: int) -> None:
        sample, mine = self.samples.pop(index), self.tiles.pop(index)
        tiles, placed = zip(*(mine[tile] for tile in sorted(mine)), strict=True)
        work, page = self.owners[index]
        merged = merge_tiles(sample.windows, placed)
        self.outcomes.setdefault(work.document, {})[page.page] = {
            "document": work.document,
            "page": page.page,
            "precision": self.detector.precision,
            "device": self.detector.device_kind,
            "ink": sample.ink,
            **self._outcome(sample, tiles, merged),
        }
        self.detections.setdefault(work.document, {})[page.page] = merged
        self.left[work.document] -= 1
        self.progress.page()
        if not self.left[work.document]:
            self._write(work)

    def _outcome(
        self, sample: Sample, tiles: Sequence[TileDetections], merged: Detections
    ) -> dict[str, Any]:
        problem = next((tile.problem for tile in tiles if tile.problem), None)
        if problem:
            return failed(STAGE, *problem)
        return {
            "status": "ok",
            "n_detections": len(merged.scores),
            "capped": any(map(self.detector.capped, tiles)),
            "n_proposals": sum(tile.n_proposals for tile in tiles),
            "type_height": sample.type_height,
        }

    def _write(self, work: Work) -> None:
        """Write a document's record."""
        outcomes = self.outcomes.pop(work.document, {})
        found = self.detections.pop(work.document, {})
        rows = [outcomes[page] for page in sorted(outcomes)]
        kept = {row["page"]: found[row["page"]] for row in rows if row["status"] == "ok"}
        tables = {
            "detections": _detections(work.document, kept, self.detector.classes),
            "detected_pages": from_rows("detected_pages", rows),
        }
        with self.store.replace(work.document, work.wanted) as draft:
            draft.commit(tables, {"model": self.detector.card["name"]})
        # Pages were counted one by one.
        self.progress.document(work.document, "computed", len(work.pages))


def _detections(document: str, found: dict[int, Detections], classes: Sequence[str]) -> pa.Table:
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
