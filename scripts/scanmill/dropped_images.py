"""Page images that were dropped (`images.keep: false`), rendered again: as they were, or not at all."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from scanmill.archive import Document, link_boundary
from scanmill.errors import UserError
from scanmill.pdf_documents import choose_engines
from scanmill.progress import logger
from scanmill.rendering import render_document, source_files
from scanmill.settings import archive_path, output_settings, settings_of_last_run
from scanmill.store import are_dropped, document_folder, restore_images, source_changed
from scanmill.workers import WorkerPool

#: Beginning of the names of folders with images in the making.
_TEMPORARY = ".tmp-again-"

Rows = Sequence[Mapping[str, Any]]
"""Of ok pages of one document, as in the table `images`: document, page, image, sha256."""


class Renderer:
    """Renders pages of documents again, with the settings, the code and the limits of the images stage.

    Nothing is looked for, and no process started, before something has to be rendered. A context: its
    workers end with it. Raises UserError where a page does not come out as it was.
    """

    def __init__(
        self,
        directory: Path,
        documents: Iterable[Document],
        workers: int,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """`documents` as planned; `settings`: all of them, None for those of the last run."""
        self.directory, self.results = directory, directory / "results"
        self._documents = {document.document: document for document in documents}
        self._given = settings
        self._pool = WorkerPool(workers, "scanmill.rendering")

    def __enter__(self) -> Self:
        """Nothing is begun yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the workers."""
        self._pool.close()

    @contextlib.contextmanager
    def images(self, rows: Rows, folder: Path) -> Iterator[Rows]:
        """The rows with an `image` that can be read: as they are or, where the images were dropped, with
        the absolute path of one that lies below `folder` until the block ends."""
        if not rows or not are_dropped(self.results, rows[0]["document"]):
            yield rows
            return
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder) as temporary:
            yield self._render(rows, Path(temporary).absolute())

    def restore(self, documents: Iterable[Rows]) -> None:
        """Put the images of documents, all ok pages of each, back into the store.

        The caller holds the lock of the images stage.
        """
        with ThreadPoolExecutor(self._pool.size) as executor:
            futures = [executor.submit(self._restore, rows) for rows in documents]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                executor.shutdown(wait=False, cancel_futures=True)
                self._pool.close()  # What waits for a worker ends.
                raise

    def _restore(self, rows: Rows) -> None:
        name = rows[0]["document"]
        folder = document_folder(self.results, name)
        for left in folder.glob(f"{_TEMPORARY}*"):  # By a job that was killed.
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder) as temporary:
            made = self._render(rows, Path(temporary).absolute())
            restore_images(self.results, name, [Path(row["image"]) for row in made])

    def _render(self, rows: Rows, folder: Path) -> Rows:
        """Render the rows' pages into `folder`; returns the rows with the paths of the images."""
        document = self._documents[rows[0]["document"]]
        try:
            files = source_files(document, *self._archive)
            for file in files:
                os.stat(file)
        except OSError as error:
            raise self._error(
                document,
                f"{os.fsdecode(error.filename)} cannot be opened ({error.strerror})",
                "Is a disk not mounted? Put it back and run the same command again.",
            ) from error
        task = {
            **self._task,
            "kind": document.kind,
            "paths": [file.hex() for file in files],
            "pages": [row["page"] for row in rows],
            "folder": str(folder),
        }
        made = {row["page"]: row for row in render_document(self._pool, task, lambda: None)}
        for row in rows:
            # A document that does not open has a single row, of no page.
            again = made.get(row["page"]) or made[None]
            if again.get("sha256") != row["sha256"]:
                raise self._not_the_same(document, files, row["page"], again)
        logger.info("rendered again %s", document.document)
        return [{**row, "image": str(folder / made[row["page"]]["image"])} for row in rows]

    @cached_property
    def _settings(self) -> Mapping[str, Any]:
        return self._given or settings_of_last_run(self.directory)

    @cached_property
    def _archive(self) -> tuple[Path, bytes | None]:
        """The archive, and the boundary of links out of it."""
        archive = archive_path(self._settings, self.directory)
        return archive, link_boundary(archive, self._settings["archive"])

    @cached_property
    def _task(self) -> dict[str, Any]:
        """What tasks of all documents have in common."""
        settings = output_settings(self._settings, "images")
        return {
            "settings": settings,
            "limits": self._settings["images"]["limits"],
            "engines": choose_engines(settings["renderer"]),
        }

    def _not_the_same(
        self, document: Document, files: Sequence[bytes], page: int, again: Mapping[str, Any]
    ) -> UserError:
        """What to raise where a page comes out differently."""
        if source_changed(self.results, document.document, files):
            return self._error(
                document,
                "the archive's file has changed since",
                "Run your snakemake command again: it begins with planning anew.",
            )
        now = again["message"] if again["status"] == "failed" else f"rendered by {again['engine']}"
        forget = ["python", "scripts/forget_results.py", "--directory", str(self.directory)]
        forget += ["--stage", "images", "--documents", document.document]
        return self._error(
            document,
            f"page {page} comes out differently now ({now}): by another version of what renders it, "
            "or within other limits",
            f"`{shlex.join(forget)}` has the next run make its page images anew, and what follows.",
        )

    def _error(self, document: Document, cause: str, remedy: str) -> UserError:
        return UserError(
            f"The page images of {document.document} were dropped (images.keep: false) and are needed "
            f"again, but {cause}. {remedy}"
        )
