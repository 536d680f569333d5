"""How many pages documents have, without their images: each is opened in a worker process
(`python -m scanmill.page_counts`), as rendering opens it, and closed again."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from PIL import Image

from scanmill.archive import Document, parse_pages
from scanmill.image_documents import ImageDocument
from scanmill.pdf_documents import PdfDocument, choose_engines
from scanmill.rendering import source_files, ways
from scanmill.workers import Worker, WorkerPool, serve

#: Kinds of documents whose files have to be opened to tell the number of their pages.
OPENED = ("pdf", "tiff")

#: A forecast does not wait for a file as long as a run does.
PATIENCE = {"cpu_seconds": 10, "wall_seconds": 30}


def work(task: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Open a document in one way and report its number of pages; of one that does not open, nothing."""
    Image.MAX_IMAGE_PIXELS = None  # As in rendering: images.limits.max_pixels counts.
    path, limits = os.fsdecode(bytes.fromhex(task["path"])), task["limits"]
    try:
        if task["kind"] == "tiff":
            pages = ImageDocument.of_tiff(path, {}, limits).pages
        else:
            way = {name: task[name] for name in ("engine", "inspect", "forms")}
            pages = PdfDocument(path, {}, limits, **way, numbered=False).pages
    except Exception:  # Whatever a parser raises about a file: the next way is tried.
        return
    say(event="pages", pages=pages)


def count_pages(
    documents: Iterable[Document],
    archive: Path,
    boundary: bytes | None,
    images: Mapping[str, Any],
    workers: int,
    seconds: float,
    at_least: int,
) -> dict[str, int]:
    """Document -> its pages, 0 where it does not open, in the given order until time is up.

    `boundary` as of `archive.link_boundary`, `images` the settings of that block. At least so many
    documents are counted, even if that takes longer than `seconds`.
    """
    task = {"limits": {**images["limits"], **PATIENCE}}
    engines = choose_engines(images["renderer"])
    counts: dict[str, int] = {}
    waiting: deque[tuple[Document, Future]] = deque()
    deadline = time.monotonic() + seconds

    def take(most: int) -> None:
        while len(waiting) > most:
            document, pages = waiting.popleft()
            counts[document.document] = pages.result()

    pool = WorkerPool(workers, "scanmill.page_counts")
    try:
        for number, document in enumerate(documents):
            if number >= at_least and time.monotonic() > deadline:
                break
            arguments = (document, archive, boundary, task, engines)
            waiting.append((document, pool.submit(_count, *arguments)))
            take(2 * workers)
        take(0)
    finally:
        pool.close()
    return counts


def _count(
    worker: Worker,
    document: Document,
    archive: Path,
    boundary: bytes | None,
    task: Mapping[str, Any],
    engines: list[str],
) -> int:
    """The pages of a document that the run makes rows of."""
    try:
        files = source_files(document, archive, boundary)
    except OSError:
        return 0
    pages = len(files)
    if document.kind in OPENED:
        tasks = (
            {**task, **way, "kind": document.kind, "path": files[0].hex()}
            for way in ways(document.kind, engines)
        )
        pages = next(filter(None, (_ask(worker, each) for each in tasks)), 0)
    selected = parse_pages(document.pages)
    return len(selected) if pages and selected else pages


def _ask(worker: Worker, task: Mapping[str, Any]) -> int:
    """What a worker counts; 0 where the document does not open, or ends its process."""
    return sum(
        message["pages"] for message in list(worker.run(task)) if message["event"] == "pages"
    )


if __name__ == "__main__":
    serve(work)
