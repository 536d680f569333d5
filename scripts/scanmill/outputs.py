"""Where tools write what they were asked for: nothing over what is there, nothing by halves."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from scanmill.errors import UserError


def check_output(output: Path, directory: Path, what: str = "folder") -> Path:
    """The `folder` or `file` to write, without links; UserError where nothing may be written.

    An empty folder may be filled. `directory` is the working directory of a run.
    """
    path = output.resolve()
    results = (directory / "results").resolve()
    if path.is_relative_to(results):
        raise UserError(
            f"--output {output} lies in {results}, where runs write alone. Give a {what} elsewhere."
        )
    empty = what == "folder" and path.is_dir() and not any(path.iterdir())
    if path.exists() and not empty:
        raise UserError(
            f"--output {output}: there is something already, annotations perhaps, and nothing is "
            f"written over it. Give the name of a new {what}, or move this one away."
        )
    return path


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` when the block ends well."""
    draft = _draft(folder)
    draft.mkdir()
    try:
        yield draft
        os.rename(draft, folder)  # Takes the place of an empty folder, never of a full one.
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write, which becomes `path` when the block ends well."""
    draft = _draft(path)
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _draft(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent / f".tmp-output-{os.urandom(4).hex()}"
