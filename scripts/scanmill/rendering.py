"""Documents -> page images: a shard's work cut into tasks for workers, and the rows it becomes.

Untrusted files are opened in worker processes alone (`python -m scanmill.rendering`). A task is some
pages of a document in one way; a page that fails in one way is tried in the next: by the second engine,
and at last by the first one without anyone having looked into the file before.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from PIL import Image

from scanmill.archive import Document, page_files, parse_pages, source_path
from scanmill.errors import UserError
from scanmill.image_documents import ImageDocument
from scanmill.page_images import PageError, PageImage
from scanmill.pdf_documents import PdfDocument, choose_engines
from scanmill.progress import Progress, storage_error
from scanmill.store import (
    LIMITS_OF_REASON,
    Draft,
    SourceError,
    StageStore,
    read_record_metadata,
    source_digest,
)
from scanmill.tables import failed, from_rows
from scanmill.workers import (
    Worker,
    WorkerPool,
    cpu_used,
    limit_cpu,
    serve,
    too_much_memory,
    too_slow,
)

STAGE = "images"

#: Pages of a document that one worker does at a time: enough to make little of opening the document, few
#: enough that all workers have something of a single large one.
PAGES_PER_TASK = 32

#: Pages of a document's first task, before anyone knows how many there are: the others need not wait.
FIRST_PAGES = 4

#: What the plan already knows cannot be opened, and why.
_REFUSED = {
    "outside": (
        "unsupported",
        "a link that leads out of the archive; archive.follow_links: true follows it",
    ),
    "missing": ("io", "there is no such file: a link that leads nowhere, or a path in the CSV"),
    "unsupported": ("unsupported", "not a regular file"),
}


# In the worker process ----------------------------------------------------------------------------


def work(task: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Make a task's page images and report: `opened`, then `page`, `render`, `row` of each page."""
    # images.limits.max_pixels is checked before anything is decoded.
    Image.MAX_IMAGE_PIXELS = None
    try:
        document = _open(task)
    except Exception as error:
        say(event="failed", row=_failure(error, task["limits"]))
        return
    say(event="opened", pages=document.pages)
    limits, folder = task["limits"], Path(task["folder"])

    def tell(event: str, number: int) -> None:
        if event == "page":
            limit_cpu(limits["cpu_seconds"])
        say(event=event, page=number)

    numbers = task["pages"] or range(1, min(document.pages, FIRST_PAGES) + 1)
    for number in numbers:
        if number > document.pages:
            message = f"there is no page {number}: the document has {document.pages} pages"
            say(event="row", page=number, row=failed(STAGE, "unsupported", message))
    owed = [number for number in numbers if number <= document.pages]
    try:
        for number, image in document.images(owed, folder, tell):
            if isinstance(image, Exception):
                _raise_if_ours(image, folder)
                row = _failure(image, limits)
            else:
                row = _save(image, number, folder)
            say(event="row", page=number, row=row)
            if row.get("reason") == "memory" or cpu_used() > limits["cpu_seconds"]:
                # What is left of this process's memory may not do for the next page, and limits count
                # from a process's start: a fresh one goes on.
                return
    except OSError as error:
        say(event="fatal", message=storage_error(error) or f"Cannot write to {folder}: {error}")


def _raise_if_ours(error: Exception, folder: Path) -> None:
    """Raise an error of writing to `folder`, which is no failure of the page."""
    # Reading gives none of these; the file's name is not in the error of a write.
    if isinstance(error, OSError) and (
        error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        or str(error.filename or "").startswith(str(folder))
    ):
        raise error


def _open(task: Mapping[str, Any]) -> PdfDocument | ImageDocument:
    paths = [os.fsdecode(bytes.fromhex(path)) for path in task["paths"]]
    settings, limits = task["settings"], task["limits"]
    if task["kind"] == "pdf":
        way = {name: task[name] for name in ("engine", "inspect", "forms", "numbered")}
        return PdfDocument(paths[0], settings, limits, **way)
    if task["kind"] == "tiff":
        return ImageDocument.of_tiff(paths[0], settings, limits)
    return ImageDocument(paths, settings, limits)


def _failure(error: Exception, limits: Mapping[str, float]) -> dict[str, str]:
    """The outcome of a page or document that raised `error`: whatever a parser raises about a file is
    that file's failure."""
    if isinstance(error, PageError):
        return failed(STAGE, error.reason, str(error))
    if (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or getattr(error, "code", None) == cv2.Error.STS_NO_MEM
    ):
        return failed(STAGE, "memory", too_much_memory(limits))
    if isinstance(error, OSError):
        return _unreadable(error)
    return failed(STAGE, "corrupt", f"{type(error).__name__}: {error}")


def _save(page: PageImage, number: int, folder: Path) -> dict:
    """Put the image in place; the columns of its row, `image` being the file's name."""
    name = f"{number:04d}.{page.suffix}"
    if isinstance(page.data, Path):
        with page.data.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(page.data, folder / name)
    else:
        sha256 = hashlib.sha256(page.data).hexdigest()
        (folder / name).write_bytes(page.data)
    width_pt, height_pt = page.page_size or (None, None)
    dpi_x, dpi_y = page.dpi or (None, None)
    return {
        "status": "ok",
        "message": page.note,
        "image": name,
        "width": page.width,
        "height": page.height,
        "dpi_x": dpi_x,
        "dpi_y": dpi_y,
        "source": page.source,
        "engine": page.engine,
        "rotation": page.rotation,
        "page_width_pt": width_pt,
        "page_height_pt": height_pt,
        "to_pdf": page.to_pdf,
        "sha256": sha256,
    }


# In the job ---------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What became of a task."""

    pages: int | None
    """Pages of the document; None where it did not open."""
    rows: dict[int, dict[str, Any]]
    asked: set[int]
    """Pages for which the engine was asked, so that a failure is the engine's own."""
    problem: dict[str, str] | None
    """Why the document did not open."""


def run_task(worker: Worker, task: Mapping[str, Any], on_page: Callable[[], None]) -> Outcome:
    """Have a worker do a task, and what a child leaves undone by the next child."""
    rows: dict[int, dict[str, Any]] = {}
    asked: set[int] = set()
    owed: list[int] | None = task["pages"]
    pages = None
    while True:
        opened, current, problem = False, None, None
        for message in worker.run({**task, "pages": owed}):
            event = message["event"]
            if event == "opened":
                opened, pages = True, message["pages"]
                owed = owed or list(range(1, min(pages, FIRST_PAGES) + 1))
            elif event == "page":
                current = message["page"]
            elif event == "render":
                asked.add(message["page"])
            elif event == "row":
                rows[message["page"]] = message["row"]
                if message["row"]["status"] == "ok":
                    on_page()
                current = None
            elif event == "failed":
                problem = message["row"]
            elif event == "fatal":
                raise UserError(message["message"])
            elif event == "end" and (message["how"] == "timeout" or message["code"] != 0):
                problem = _reason_of_death(message, task["limits"])
        if pages is None:
            return Outcome(None, {}, set(), problem)
        owed = [page for page in owed if page not in rows]
        if problem and not opened:  # It opened once and then no more.
            rows |= dict.fromkeys(owed, problem)
        elif problem and owed:  # Costs the page it was at; another child goes on behind it.
            rows[current or owed[0]] = problem
        owed = [page for page in owed if page not in rows]
        if not owed:
            return Outcome(pages, rows, asked, None)


def _reason_of_death(end: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, str]:
    """The outcome of the page at which a child died."""
    code = end["code"]
    if end["how"] == "timeout":
        message = f"no page within images.limits.wall_seconds ({limits['wall_seconds']:g} s)"
        return failed(STAGE, "timeout", message)
    if code == -signal.SIGXCPU:
        return failed(STAGE, "timeout", too_slow(limits))
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    # SIGKILL comes from the kernel, SIGABRT from PDFium, status 127 from glibc, where memory ends.
    if code in (-signal.SIGKILL, -signal.SIGABRT, 127):
        message = f"the worker process ended {how}, as when memory runs out"
        return failed(STAGE, "memory", message)
    return failed(STAGE, "corrupt", f"the worker process ended {how}")


def ways(kind: str, engines: Sequence[str]) -> list[dict[str, Any]]:
    """How pages of a kind of document are tried, in order: the engine, whether to look inside before,
    and whether PDFium fills in forms (some keep it, and Poppler, busy for ever)."""
    if kind != "pdf":
        return [{"engine": None, "inspect": False, "forms": False}]
    first, *others = engines
    return [
        {"engine": first, "inspect": True, "forms": True},
        *({"engine": engine, "inspect": False, "forms": True} for engine in (*others, first)),
        *(
            {"engine": engine, "inspect": False, "forms": False}
            for engine in engines
            if engine.startswith("pdfium")
        ),
    ]


def render_document(
    pool: WorkerPool, task: Mapping[str, Any], on_page: Callable[[], None]
) -> list[dict[str, Any]]:
    """One row per page, in order of pages; one with page None for a document that never opened.

    `task` holds kind, paths (hex), pages (a list, or None for all), folder, settings, limits, engines.
    """
    rows: dict[int, dict[str, Any]] = {}
    problems: list[dict[str, str]] = []
    owed: list[int] | None = task["pages"]
    asked: dict[tuple, set[int]] = {}
    for way in ways(task["kind"], task["engines"]):
        # A page that an engine failed is not for the same engine again.
        by_engine = asked.setdefault((way["engine"], way["forms"]), set())
        pages = owed and [page for page in owed if page not in by_engine]
        if pages == []:
            continue
        way |= {"numbered": bool(rows)}
        outcomes = _in_parallel(pool, {**task, **way, "pages": pages}, on_page)
        if all(outcome.pages is None for outcome in outcomes):
            problems.append(outcomes[0].problem)
            if problems[-1]["reason"] == "io":
                break
        for outcome in outcomes:
            by_engine |= outcome.asked
            for page, row in outcome.rows.items():
                rows[page] = _joined([rows[page], row]) if page in rows else row
        if rows:
            owed = [page for page, row in sorted(rows.items()) if row["status"] != "ok"]
            if not owed:
                break
    if not rows:
        return [{"page": None, **_joined(problems)}]
    for _ in owed:  # Those that came out were counted then.
        on_page()
    return [{"page": page, **rows[page]} for page in sorted(rows)]


def _in_parallel(
    pool: WorkerPool, task: Mapping[str, Any], on_page: Callable[[], None]
) -> list[Outcome]:
    """A task, cut so that every worker has something of it; a single outcome if it never opened."""
    pages, outcomes = task["pages"], []
    if pages is None:
        outcomes = [pool.submit(run_task, task, on_page).result()]
        if outcomes[0].pages is None:
            return outcomes
        pages = list(range(FIRST_PAGES + 1, outcomes[0].pages + 1))
    size = min(max(math.ceil(len(pages) / (2 * pool.size)), 1), PAGES_PER_TASK)
    parts = [pages[start : start + size] for start in range(0, len(pages), size)]
    futures = [pool.submit(run_task, {**task, "pages": part}, on_page) for part in parts]
    outcomes += [future.result() for future in futures]
    if all(outcome.pages is None for outcome in outcomes):
        return outcomes[:1]
    opened = outcomes[: -len(parts)] if parts else outcomes
    for part, outcome in zip(parts, outcomes[len(outcomes) - len(parts) :], strict=True):
        if outcome.pages is None:  # It opened for others: a failure of these pages.
            outcome = outcome._replace(rows=dict.fromkeys(part, outcome.problem))
        opened.append(outcome)
    return opened


def _joined(failures: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One outcome of what several ways said of a page: an image; or a reason, preferably one that a
    raised limit may mend, and all messages."""
    failures = list(failures)
    if failures[-1]["status"] == "ok":
        return dict(failures[-1])
    reasons = [failure["reason"] for failure in failures]
    reason = next((reason for reason in reasons if reason in LIMITS_OF_REASON), reasons[0])
    messages = dict.fromkeys(failure["message"] for failure in failures)
    return failed(STAGE, reason, "; ".join(messages))


def source_files(document: Document, archive: Path, boundary: bytes | None) -> list[bytes]:
    """The paths of a document's files, page images in the order of their pages."""
    path = source_path(archive, document)
    if document.kind == "images":
        return [os.path.join(path, name) for name in page_files(path, boundary)]
    return [path]


def render_shard(
    documents: Sequence[Document],
    archive: Path,
    boundary: bytes | None,
    store: StageStore,
    workers: int,
    progress: Progress,
) -> dict[str, str | None]:
    """Bring the store's page images of `documents` up to date; returns the sha256 of each source.

    `boundary` as of `archive.link_boundary`. As many documents as workers are open at a time.
    """
    task = {
        "settings": dict(store.settings),
        "limits": dict(store.limits),
        "engines": choose_engines(store.settings["renderer"]),
    }
    sha256: dict[str, str | None] = {}
    pool = WorkerPool(workers, "scanmill.rendering")

    def one(document: Document) -> tuple[str, str | None, str]:
        try:
            files = source_files(document, archive, boundary)
        except OSError as error:
            files = error
        return document.document, *_one_document(document, files, store, task, pool, progress.page)

    try:
        with ThreadPoolExecutor(workers) as executor:
            futures = {executor.submit(one, document): document for document in documents}
            try:
                for future in as_completed(futures):
                    name, digest, outcome = future.result()
                    sha256[name] = digest
                    progress.document(name, outcome, futures[future].size or 1, 0)
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                pool.close()  # What waits for a worker ends.
                raise
    finally:
        pool.close()
    return sha256


def _one_document(
    document: Document,
    files: list[bytes] | OSError,
    store: StageStore,
    task: Mapping[str, Any],
    pool: WorkerPool,
    on_page: Callable[[], None],
) -> tuple[str | None, str]:
    """sha256 of the source, and `computed`, `reused` or `retried`."""
    name = document.document
    sha256, problem = None, None
    if document.kind in _REFUSED:
        problem = failed(STAGE, *_REFUSED[document.kind])
    elif isinstance(files, OSError):
        problem = _unreadable(files)
    elif files:
        stamp = (document.size, document.mtime_ns, document.listing)
        try:
            sha256 = source_digest(store.results, name, stamp, files)
        except SourceError as error:
            problem = _unreadable(error.cause)
    pages = parse_pages(document.pages)
    inputs = {"kind": document.kind, "sha256": sha256, "pages": pages, "problem": problem}
    wanted = store.fingerprint(inputs)
    state = store.state(name, wanted)
    if state == "done":
        return sha256, "reused"
    kept = _keep(store, name) if state == "retry" else []
    with store.replace(name, wanted) as draft:
        if problem:
            rows = [{"page": None, **problem}]
        else:
            rows = _render_or_keep(document, files, store, draft, task, kept, pool, on_page)
            _sweep(draft.files, rows)
        for row in rows:
            row["document"] = name
            if row["status"] == "ok" and "/" not in row["image"]:
                final = (store.folder(name) / "images" / row["image"]).relative_to(store.results)
                row["image"] = final.as_posix()
        draft.commit({"images": from_rows("images", rows)}, _limits_note(rows, store.limits))
    return sha256, "retried" if kept else "computed"


def _sweep(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Remove what workers left that died before they could say so."""
    named = {Path(row["image"]).name for row in rows if row.get("image")}
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in named:
            path.unlink()


def _unreadable(error: OSError) -> dict[str, str]:
    """The outcome of what the system does not let us read; without the path, since a table must not
    depend on where the archive lies."""
    return failed(STAGE, "io", f"{type(error).__name__}: {error.strerror or error}")


def _limits_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The limits that a page met: it failed by them, or came out smaller for them."""
    if row["status"] == "ok":
        return ("max_pixels",) if row["message"] else ()
    return LIMITS_OF_REASON.get(row["reason"], ())


def _keep(store: StageStore, name: str) -> list[dict[str, Any]]:
    """The rows of a record that raised limits do not touch."""
    metadata = read_record_metadata(store.results, name, STAGE) or {}
    under = json.loads(metadata.get("limits", "{}"))
    raised = {name for name, limit in store.limits.items() if limit > under.get(name, math.inf)}
    rows = store.read(name, "images").to_pylist()
    return [row for row in rows if row["page"] is not None and not raised & {*_limits_of(row)}]


def _render_or_keep(
    document: Document,
    files: Sequence[bytes],
    store: StageStore,
    draft: Draft,
    task: Mapping[str, Any],
    kept: list[dict[str, Any]],
    pool: WorkerPool,
    on_page: Callable[[], None],
) -> list[dict[str, Any]]:
    """Rows of all pages: the kept ones, their images linked into the draft, and the rendered ones."""
    pages = parse_pages(document.pages)
    if kept:
        old = store.read(document.document, "images").to_pylist()
        pages = sorted({row["page"] for row in old} - {row["page"] for row in kept})
        for row in kept:
            if row["image"]:
                _link(store.results / row["image"], draft.files / Path(row["image"]).name)
    own = {
        "kind": document.kind,
        "paths": [file.hex() for file in files],
        "pages": pages,
        "folder": str(draft.files.absolute()),
    }
    rows = render_document(pool, {**task, **own}, on_page)
    return sorted(itertools.chain(kept, rows), key=lambda row: row["page"] or 0)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy on file systems without hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _limits_note(rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> dict[str, str]:
    """The limits that some page met: raised, they are worth another try."""
    names = sorted({name for row in rows for name in _limits_of(row)})
    return {"limits": json.dumps({name: limits[name] for name in names})} if names else {}


if __name__ == "__main__":
    Image.init()  # Pillow loads its formats when one is needed: each child would, anew.
    serve(work)
