"""What a results folder has of documents that are gone from the plan, and of jobs that were killed.

The plan alone decides, never the archive, which may be unmounted.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scanmill import store
from scanmill.archive import RESERVED_NAMES, TEMPORARY_PREFIX, Document
from scanmill.errors import UserError
from scanmill.maintenance import STAGE_OF, names_of, tool_command
from scanmill.tables import read_table
from scanmill.verification import REPLAN, unplanned_folders, verify_plan

DOCUMENT = "of a document that is not planned"
TEMPORARY = "left by a killed job"
LOCK = "the lock of a shard that is not planned"


class Leftover(NamedTuple):
    """What may be deleted at a place."""

    path: Path
    """A document's folder, of which only what Scanmill keeps there goes; or a file or folder."""
    what: str
    files: int
    bytes: int

    def __str__(self) -> str:
        """One line."""
        return f"{self.path}: {self.what}, {self.files} files, {self.bytes / 1e6:.1f} MB"


def find_plan_to_keep(directory: Path) -> dict[str, list[Document]]:
    """The plan; UserError where some of it may be lost, so that what it had would look left over.

    Manifests have no gaps, so that one lost between others is missed; the last ones, with all their
    tables, are missed only by the summary, which therefore must be there.
    """
    results = directory / "results"
    plan, problems = verify_plan(results)
    lost = [problem.what for problem in problems if problem.remedy == REPLAN]
    if lost:
        remedy = tool_command("verify_results", directory, "--repair")
        raise UserError(f"{lost[0]} Nothing is deleted until the plan is whole again: {remedy}")
    try:
        known = read_table(results / "documents.parquet", ["document"])["document"].to_pylist()
    except FileNotFoundError:
        raise UserError(
            f"{results / 'documents.parquet'} is missing: the run has not come to its end. Only "
            "beside the summary can a plan be seen to be whole: run your snakemake command first."
        ) from None
    strangers = set(known) - {name for documents in plan.values() for name in names_of(documents)}
    if strangers:
        raise UserError(
            f"The summary has {len(strangers)} documents that are not planned, as "
            f"{min(strangers)}: a manifest was lost, or the run has not come to its end since they "
            "were gone. Run your snakemake command first."
        )
    return plan


def find_leftovers(directory: Path, plan: Mapping[str, Sequence[Document]]) -> Iterator[Leftover]:
    """What may be deleted beside what `plan`, a whole one, needs."""
    results = directory / "results"
    unplanned = unplanned_folders(results, plan)
    for folder in unplanned:
        yield _measured(folder, DOCUMENT, list(_own_entries(folder)))
    for path in _temporaries(results):
        if path.parent not in unplanned:
            yield _measured(path, TEMPORARY, [path])
    for path in sorted((directory / ".scanmill").glob("*.lock")):
        stage, _, shard = path.stem.rpartition("-")
        if stage in store.STAGES and shard not in plan:
            yield _measured(path, LOCK, [path])


def remove_leftover(results: Path, leftover: Leftover) -> None:
    """Delete it, and the folders of the store that are empty then."""
    path = leftover.path
    # Folders first: by its files a document's folder is found again, should this be interrupted.
    entries = list(_own_entries(path)) if leftover.what == DOCUMENT else [path]
    for entry in sorted(entries, key=Path.is_file):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    top = results / store.STORE
    folder = path if leftover.what == DOCUMENT else path.parent
    while top in folder.parents and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _own_entries(folder: Path) -> Iterator[Path]:
    """What a document has in its folder; whatever else lies there may be other documents'."""
    for path in folder.iterdir():
        if path.name in RESERVED_NAMES or path.name.startswith(TEMPORARY_PREFIX):
            yield path


def _temporaries(results: Path) -> Iterator[Path]:
    """Temporary files and folders of the datasets and the store."""
    for name in ("shards", *STAGE_OF):
        yield from sorted((results / name).glob(f"{TEMPORARY_PREFIX}*"))
    top = results / store.STORE
    for base, folders, files in os.walk(top):
        if Path(base) == top:  # Here a document may have such a name, from a CSV.
            continue
        yield from (
            Path(base, name)
            for name in sorted(folders + files)
            if name.startswith(TEMPORARY_PREFIX)
        )
        folders[:] = [
            name
            for name in folders
            if name not in RESERVED_NAMES and not name.startswith(TEMPORARY_PREFIX)
        ]


def _measured(path: Path, what: str, entries: Sequence[Path]) -> Leftover:
    files = [file for entry in entries for file in _files(entry)]
    return Leftover(path, what, len(files), sum(file.lstat().st_size for file in files))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir() or path.is_symlink():
        yield path
        return
    for base, _, names in os.walk(path):
        yield from (Path(base, name) for name in names)
