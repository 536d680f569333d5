"""Crops -> text: taken from the PDF where that is to be trusted, otherwise recognized.

What a document needs is in `Work`; each of its crops becomes a row of the table `ocr`. Crops go to the
engine in batches across documents, and a document is recorded once its last crop was read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scanmill.errors import UserError
from scanmill.lines import Line, mean_confidence
from scanmill.ocr_engines import Failure, check_engine, reason_of_death
from scanmill.progress import Progress
from scanmill.regions import BOX_COLUMNS
from scanmill.store import (
    LIMITS_OF_REASON,
    Fingerprint,
    StageStore,
    document_folder,
    owed_files,
    read_record_metadata,
    record_name,
)
from scanmill.tables import (
    by_page,
    content_digest,
    failed,
    from_rows,
    read_metadata,
    write_table,
)
from scanmill.workers import Worker, WorkerPool

STAGE = "ocr"

#: Classes of the registry's models that hold no text, or pictures whose labels read as noise: what
#: `ocr.classes: null` leaves out.
PICTURES = frozenset(
    {
        "figure",
        "Figure",
        "Background",
        "ImageRegion",
        "SeparatorRegion",
        "Photograph",
        "Illustration",
        "Map",
        "Comics/Cartoon",
        "Editorial Cartoon",
    }
)

#: Crops that a worker reads at a time: its process loads RapidOCR's models anew, which takes half as
#: long as a crop.
CROPS_PER_TASK = 16
#: Documents whose PDFs are read ahead, and batches that wait, for each worker.
AHEAD = 2
#: Height of a page, in inches, of which the resolution is not known: A4.
USUAL_HEIGHT = 11.7

_CROP_INPUTS = ("page", "detection", "class_name", "x_min", "y_min", "x_max", "y_max")

Key = tuple[int, int]
"""Page and detection."""
Crop = dict[str, Any]
"""A row of `crops`."""


class Work(NamedTuple):
    """A document whose crops are to be read."""

    document: str
    crops: list[Crop]
    """Those of the classes to read, in order of page and detection."""
    images: dict[int, dict[str, Any]]
    """Page -> its row of `images`."""
    pdf_pages: list[int]
    """Pages of which the PDF is asked for text."""
    wanted: Fingerprint
    kept: list[dict[str, Any]]
    """Rows of the record that stay."""
    pages: int
    """Pages of the document, for the progress."""


def wanted_crops(crops: pa.Table, classes: Sequence[str] | None) -> pa.Table:
    """The crops of a document that are to be read: ok, and of the classes of `ocr.classes`."""
    names = crops["class_name"]
    if classes is None:
        read = pc.invert(pc.is_in(names, pa.array(sorted(PICTURES))))
    else:
        read = pc.is_in(names, pa.array(classes, pa.string()))
    chosen = crops.filter(pc.and_(read, pc.equal(crops["status"], "ok")))
    return chosen.sort_by([("page", "ascending"), ("detection", "ascending")])


def plan_work(
    document: str, crops: pa.Table, images: pa.Table, source: str | None, store: StageStore
) -> Work | None:
    """What is left to do of a document; None where its record holds.

    `crops` and `images` are its rows of the datasets, `source` the sha256 of its file if it is a PDF,
    otherwise None. Raises UserError where a crop is missing.
    """
    chosen = wanted_crops(crops, store.settings["classes"])
    if chosen.num_rows and read_record_metadata(store.results, document, "crops") is None:
        raise crop_error(store.results, document)
    pages = set(chosen["page"].to_pylist())
    rows = {row["page"]: row for row in images.to_pylist() if row["page"] in pages}
    pdf_pages = [
        page
        for page, row in rows.items()
        if source is not None and _asks_pdf(row, store.settings["source"])
    ]
    # By content, as everything else: of a lifted page the PDF does not count.
    of_pdf = [source, [[page, rows[page]["to_pdf"]] for page in pdf_pages]] if pdf_pages else None
    dpi = [[page, _dpi(row)] for page, row in rows.items()]
    content = [
        hashlib.sha256(data).hexdigest()
        for _, data in read_crops(store.results, document, chosen.to_pylist())
    ]
    wanted = store.fingerprint([content_digest(chosen, _CROP_INPUTS), content, dpi, of_pdf])
    state = store.state(document, wanted)
    if state == "done":
        return None
    kept = []
    if state == "retry":  # Only what failed within lower limits is owed.
        kept = [row for row in store.read(document, STAGE).to_pylist() if row["status"] == "ok"]
    done = {(row["page"], row["detection"]) for row in kept}
    owed = [crop for crop in chosen.to_pylist() if _key(crop) not in done]
    return Work(document, owed, rows, pdf_pages, wanted, kept, images.num_rows)


def _asks_pdf(image: Mapping[str, Any], source: str) -> bool:
    """Whether the PDF may have text of a page: of one that was rendered, not of a scan."""
    return {"auto": image["source"] == "rendered", "pdf": True, "ocr": False}[source]


def _dpi(image: Mapping[str, Any]) -> float:
    return image["dpi_y"] or image["height"] / USUAL_HEIGHT


def _key(row: Mapping[str, Any]) -> Key:
    return row["page"], row["detection"]


def read_crops(results: Path, document: str, crops: Sequence[Crop]) -> Iterator[tuple[Crop, bytes]]:
    """The crops, in their order, each with the bytes of its image file.

    They lie in the document's record, or in files that it names.
    """
    owed = {_key(crop): crop for crop in crops}
    if not owed:
        return
    for row in _record_rows(results, document):
        if crop := owed.pop(_key(row), None):
            image = row["image"]
            yield crop, image["bytes"] or (results / image["path"]).read_bytes()
    if owed:
        raise crop_error(results, document)


def _record_rows(results: Path, document: str) -> Iterator[dict[str, Any]]:
    """Page, detection and image of a document's crops, a page in memory at a time."""
    record = document_folder(results, document) / record_name("crops")
    try:
        with pq.ParquetFile(record, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, ["page", "detection", "image"]).to_pylist()
    except pa.ArrowException as error:
        raise crop_error(results, document) from error
    except OSError as error:
        if error.errno:  # The file system's; what pyarrow says of pages has none.
            raise
        raise crop_error(results, document) from error


def crop_error(results: Path, document: str) -> UserError:
    """What to raise where crops that `crop_regions` made are damaged or gone."""
    path = document_folder(results, document) / record_name("crops")
    with contextlib.suppress(OSError, pa.ArrowException, KeyError, ValueError):
        sizes = owed_files(results, document, "crops", read_metadata(path))
        wrong = (file for file, size in sizes.items() if not _has_size(file, size))
        path = next(wrong, path)
    repair = ["python", "scripts/verify_results.py", "--repair", "--directory", str(Path.cwd())]
    return UserError(
        f"{path} holds crops of {document}, and is missing or damaged. `{shlex.join(repair)}` has what "
        "is damaged made again by the next run."
    )


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


# Reading ------------------------------------------------------------------------------------------


def recognize_documents(
    documents: Sequence[Work],
    store: StageStore,
    pdf_path: Callable[[str], bytes],
    workers: int,
    scratch: Path,
    progress: Progress,
) -> None:
    """Read the crops of `documents`, each with its record.

    `pdf_path` gives the path of a document's PDF. `scratch` is a folder for crops on their way to the
    engine. Raises UserError where the engine or a language is not installed.
    """
    engine = "pdfium"
    if store.settings["source"] != "pdf":
        engine = check_engine(store.settings["engine"], store.settings["languages"])
    recorder = _Recorder(store, engine, progress)
    shutil.rmtree(scratch, ignore_errors=True)  # A killed job may have left something there.
    pool = WorkerPool(workers, "scanmill.ocr_engines")
    try:
        owed = _crops_to_recognize(documents, store, pool, pdf_path, recorder)
        batches: deque[Future] = deque()
        number = 0
        while batch := list(islice(owed, CROPS_PER_TASK)):
            batches.append(pool.submit(_recognize, batch, scratch / f"{number}", store))
            number += 1
            if len(batches) > AHEAD * workers:
                recorder.take_all(batches.popleft().result())
        for each in batches:
            recorder.take_all(each.result())
    finally:
        pool.close()
        shutil.rmtree(scratch, ignore_errors=True)


class Outcome(NamedTuple):
    """What became of a crop."""

    document: str
    crop: Crop
    source: str
    """`pdf` or `ocr`."""
    text: list[Line] | Failure
    """In pixels of the page image."""


def _crops_to_recognize(
    documents: Sequence[Work],
    store: StageStore,
    pool: WorkerPool,
    pdf_path: Callable[[str], bytes],
    recorder: _Recorder,
) -> Iterator[tuple[str, Crop, float, bytes]]:
    """Document, crop, resolution and bytes of what the PDFs do not say; the rest goes to `recorder`."""
    ahead: deque[tuple[Work, Future]] = deque()
    coming = iter(documents)
    while True:
        for work in islice(coming, AHEAD * pool.size - len(ahead)):
            ahead.append((work, pool.submit(_read_pdf, work, store, pdf_path)))
        if not ahead:
            return
        work, future = ahead.popleft()
        found = future.result()
        recorder.expect(work)
        for crop in work.crops:
            if (text := found.get(_key(crop))) is not None:
                recorder.take(Outcome(work.document, crop, "pdf", text))
        owed = [crop for crop in work.crops if found.get(_key(crop)) is None]
        for crop, data in read_crops(store.results, work.document, owed):
            yield work.document, crop, _dpi(work.images[crop["page"]]), data


def _read_pdf(
    worker: Worker, work: Work, store: StageStore, pdf_path: Callable[[str], bytes]
) -> dict[Key, list[Line] | Failure]:
    """What the PDF says of a document's crops; with `ocr.source: auto` only what is to be trusted."""
    only_pdf = store.settings["source"] == "pdf"
    if not work.crops or not (work.pdf_pages or only_pdf):
        return {}
    no_pdf = ("unsupported", "ocr.source is `pdf`, and this page is not of a PDF")
    found = {_key(crop): no_pdf for crop in work.crops} if only_pdf else {}
    crops = {page: [crop for crop in work.crops if crop["page"] == page] for page in work.pdf_pages}
    pages = [
        {
            "page": page,
            "to_pdf": work.images[page]["to_pdf"],
            "boxes": [[crop[name] for name in BOX_COLUMNS] for crop in mine],
        }
        for page, mine in crops.items()
    ]
    task: dict[str, Any] = {"trusted": not only_pdf}
    if pages:
        path = pdf_path(work.document)
        try:
            os.stat(path)
        except OSError as error:
            raise UserError(
                f"{os.fsdecode(path)} cannot be opened ({error.strerror}), and the text of "
                f"{work.document} is to be taken from it. Is a disk not mounted? Put it back and run "
                "the same command again, or set ocr.source: ocr."
            ) from error
        task["path"] = path.hex()
    outcomes = run_task(worker, {**task, "limits": dict(store.limits)}, "pages", pages)
    for mine, outcome in zip(crops.values(), outcomes, strict=True):
        texts = [outcome] * len(mine) if isinstance(outcome, tuple) else outcome
        for crop, text in zip(mine, texts, strict=True):
            if only_pdf or isinstance(text, list):
                found[_key(crop)] = text if text is not None else _NOT_LOADED
    return found


#: Of a page that PDFium cannot load.
_NOT_LOADED = ("corrupt", "PDFium: it cannot load the page")


def _recognize(
    worker: Worker,
    batch: Sequence[tuple[str, Crop, float, bytes]],
    folder: Path,
    store: StageStore,
) -> list[Outcome]:
    """Have a batch of crops read, which lie in `folder` for that long."""
    folder.mkdir(parents=True)
    items = []
    for number, (_, _, dpi, data) in enumerate(batch):
        path = folder / f"{number}"
        path.write_bytes(data)
        items.append({"path": str(path), "dpi": dpi})
    task = {name: store.settings[name] for name in ("engine", "languages")}
    outcomes = run_task(worker, {**task, "limits": dict(store.limits)}, "crops", items)
    shutil.rmtree(folder)
    return [
        Outcome(document, crop, "ocr", _on_page(outcome, crop))
        for (document, crop, _, _), outcome in zip(batch, outcomes, strict=True)
    ]


def _on_page(outcome: list[Line] | Failure, crop: Crop) -> list[Line] | Failure:
    if isinstance(outcome, tuple):
        return outcome
    return [line.moved(crop["x_min"], crop["y_min"]) for line in outcome]


def run_task(
    worker: Worker, task: Mapping[str, Any], kind: str, items: Sequence[Mapping[str, Any]]
) -> list[Any]:
    """What a worker makes of each item: `pages` of a PDF or `crops`, see `ocr_engines.work`.

    A process that dies or hangs costs the item it was at; another one goes on behind it.
    """
    outcomes: dict[int, Any] = {}
    while owed := [number for number in range(len(items)) if number not in outcomes]:
        current = owed[0]
        for message in worker.run({**task, kind: [items[number] for number in owed]}):
            if message["event"] == "begun":
                current = owed[message["item"]]
            elif message["event"] == "lines":
                outcomes[owed[message["item"]]] = _as_lines(message["lines"], kind)
            elif message["event"] == "failed":
                outcomes[owed[message["item"]]] = tuple(message["failure"])
            elif message["event"] == "end" and (message["how"] == "timeout" or message["code"]):
                outcomes.setdefault(current, _failure(message, task["limits"]))
    return [outcomes[number] for number in range(len(items))]


def _as_lines(said: list | None, kind: str) -> list:
    if kind == "crops":
        return [Line(*line) for line in said]
    return [text and [Line(*line) for line in text] for text in said]


def _failure(end: Mapping[str, Any], limits: Mapping[str, float]) -> Failure:
    if end["how"] == "timeout":
        return (
            "timeout",
            f"nothing within images.limits.wall_seconds ({limits['wall_seconds']:g} s)",
        )
    return reason_of_death(end["code"], "the worker process", limits)


# Recording ----------------------------------------------------------------------------------------


class _Recorder:
    """Puts crops together to documents, and writes a document once it is whole."""

    def __init__(self, store: StageStore, engine: str, progress: Progress) -> None:
        self.store, self.engine, self.progress = store, engine, progress
        self.works: dict[str, Work] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def expect(self, work: Work) -> None:
        """Begin with a document."""
        self.works[work.document] = work
        self.rows[work.document] = list(work.kept)
        self._write_if_whole(work)

    def take(self, outcome: Outcome) -> None:
        """Note what became of a crop, and write its document if it was the last."""
        self.rows[outcome.document].append(text_row(outcome, self.store.settings))
        self._write_if_whole(self.works[outcome.document])

    def take_all(self, outcomes: Sequence[Outcome]) -> None:
        """Note what became of a batch."""
        for outcome in outcomes:
            self.take(outcome)

    def _write_if_whole(self, work: Work) -> None:
        if len(self.rows[work.document]) < len(work.kept) + len(work.crops):
            return
        del self.works[work.document]
        rows = sorted(self.rows.pop(work.document), key=_key)
        table = from_rows(STAGE, rows)
        limits = {
            name: self.store.limits[name]
            for row in rows
            for name in LIMITS_OF_REASON.get(row["reason"], ())
        }
        about = {"engine": self.engine}
        with self.store.replace(work.document, work.wanted) as draft:
            if self.store.settings["page_tables"]:
                for page, mine in by_page(table).items():
                    own = {**about, "fingerprint": work.wanted.full}
                    write_table(mine, draft.files / f"{page:04d}.parquet", own)
            note = {**about, "limits": json.dumps(limits, sort_keys=True)} if limits else about
            draft.commit({STAGE: table}, note)
        outcome = "retried" if work.kept else "computed"
        self.progress.document(work.document, outcome, work.pages, work.pages)


def text_row(outcome: Outcome, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The row of `ocr` that a crop becomes."""
    from_pdf = outcome.source == "pdf"
    row = {name: outcome.crop[name] for name in ("page", "detection", "class_name")} | {
        "document": outcome.document,
        "source": outcome.source,
        "engine": "pdfium" if from_pdf else settings["engine"],
        "language": None if from_pdf else "+".join(settings["languages"]),
    }
    if isinstance(outcome.text, tuple):
        said = failed(STAGE, *outcome.text)
        return row | {name: said[name] for name in ("status", "reason", "message")}
    return row | {
        "status": "ok",
        "reason": None,
        "text": "\n".join(line.text for line in outcome.text),
        "confidence": mean_confidence(outcome.text),
        "lines": [line._asdict() for line in outcome.text],
    }
