"""The store: one folder per document, one record per stage, reused while its fingerprint holds.

A stage owns, in a document's folder, a record `<stage>.parquet` (its rows of this document), further
tables of the same rows' kind, and at most one subfolder of files. The record is written last, so a
stage is done for a document exactly if its record can be read and every file it names is there in its
size. Whatever else lies there is what an interrupted job left, and is made again.

Page images may be dropped once nothing needs them (`images.keep: false`): their folder then holds the
marker DROPPED, the record stays and stays done, and files beside the marker count for nothing.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

import scanmill
from scanmill.archive import store_path
from scanmill.errors import UserError
from scanmill.tables import (
    SCHEMAS,
    DamagedTable,
    TableWriter,
    digest_json,
    read_metadata,
    read_table,
    write_table,
)

STORE = "store"
SOURCE_NOTE = "source.json"
#: In a document's folder of page images: they were dropped.
DROPPED = "dropped"
ROWS_PER_GROUP = 1 << 16


class Stage(NamedTuple):
    """What a stage writes for a document, and the modules of the library that decide it."""

    tables: tuple[str, ...]
    """Names of its schemas; the first is the record's."""
    folder: str | None
    modules: tuple[str, ...]


STAGES: dict[str, Stage] = {
    "images": Stage(
        ("images",),
        "images",
        (
            "image_documents",
            "image_files",
            "lifting",
            "page_images",
            "pdf_documents",
            "rendering",
        ),
    ),
    "detections": Stage(
        ("detections", "detected_pages"),
        None,
        (
            "backbones",
            "detection",
            "detector",
            "image_files",
            "network",
            "outlines",
            "page_measures",
            "preprocessing",
            "tiles",
        ),
    ),
    "regions": Stage(("regions", "pages"), "regions", ("flags", "pages", "regions")),
    "crops": Stage(("crop_images",), "crops", ("crops", "image_files")),
    "ocr": Stage(("ocr",), "ocr", ("image_files", "lines", "ocr", "ocr_engines", "pdf_text")),
}

#: Stages that a run does only if it is told to.
OPTIONAL = ("ocr",)

#: Which limits, raised, give a page that failed for this reason another chance.
LIMITS_OF_REASON = {
    "too_large": ("max_pixels",),
    "timeout": ("cpu_seconds", "wall_seconds"),
    "memory": ("memory_mb",),
}


def stages_of(settings: Mapping[str, Any]) -> list[str]:
    """The stages that a run with these settings does; older ones do not know of optional stages."""
    return [
        stage
        for stage in STAGES
        if stage not in OPTIONAL or settings.get(stage, {}).get("enabled", False)
    ]


def record_name(stage: str) -> str:
    """File name of a stage's record."""
    return f"{stage}.parquet"


def table_file(stage: str, table: str) -> str:
    """File name, in a document's folder, of one of a stage's tables."""
    return record_name(stage) if table == STAGES[stage].tables[0] else f"{table}.parquet"


def document_folder(results: Path, document: str) -> Path:
    """Where a document's records and files lie."""
    return results / STORE / store_path(document)


# Fingerprints -------------------------------------------------------------------------------------


class Fingerprint(NamedTuple):
    """What a stage's result for one document was made from, as two digests."""

    full: str
    """Settings, inputs and code."""
    data: str
    """Settings and inputs alone: what `reuse.code: accept` compares."""


def fingerprint(settings: Mapping[str, Any], inputs: object, code: str) -> Fingerprint:
    """Digest a stage's output settings, the content digests of its inputs, and its code."""
    data = digest_json({"settings": dict(settings), "inputs": inputs})
    return Fingerprint(_with_code(data, code), data)


def _with_code(data: str, code: str) -> str:
    return digest_json([data, code])


def code_digest(stage: str, package: Path | None = None) -> str:
    """16 hex digits over the syntax trees of the modules that decide a stage's output.

    Comments, docstrings and positions do not enter, and the digest is the same under every supported
    release of Python.
    """
    package = package or Path(__file__).parent
    digest = hashlib.sha256()
    for module in sorted(STAGES[stage].modules):
        source = (package / f"{module}.py").read_text(encoding="utf-8")
        digest.update(f"{module}:{syntax_digest(source)};".encode())
    return digest.hexdigest()[:16]


def syntax_digest(source: str) -> str:
    """A sha256 over the syntax tree of Python source, without comments, docstrings, positions."""
    digest = hashlib.sha256()
    _walk(ast.parse(source), digest.update)
    return digest.hexdigest()


def _walk(node: object, update: Callable[[bytes], object]) -> None:
    """Feed a canonical text of `node`; empty fields are left out, as releases add new ones."""
    if isinstance(node, ast.AST):
        update(f"({type(node).__name__}".encode())
        for name in sorted(node._fields):
            if name in ("type_comment", "kind", "ctx"):
                continue
            value = getattr(node, name, None)
            if name == "body" and _has_docstring(node):
                value = value[1:]
            if isinstance(node, ast.JoinedStr):  # Python 3.12.1 puts empty texts between its parts.
                value = [part for part in value if getattr(part, "value", None) != ""]
            if value is None and not (isinstance(node, ast.Constant) and name == "value"):
                continue
            if value != []:
                update(f" {name}=".encode())
                _walk(value, update)
        update(b")")
    elif isinstance(node, list):
        for item in node:
            _walk(item, update)
            update(b",")
    else:
        # ascii: repr depends on what a release's Unicode tables call printable.
        update(f"{type(node).__name__}:{node!a}".encode())


def _has_docstring(node: ast.AST) -> bool:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None


# Records ------------------------------------------------------------------------------------------


@dataclass
class StageStore:
    """The store as one job of one stage sees it."""

    results: Path
    stage: str
    settings: Mapping[str, Any]
    code: str
    accept_code: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)

    def fingerprint(self, inputs: object) -> Fingerprint:
        """The fingerprint that a result made now, from `inputs`, would have."""
        return fingerprint(self.settings, inputs, self.code)

    def folder(self, document: str) -> Path:
        """The document's folder."""
        return document_folder(self.results, document)

    def state(self, document: str, wanted: Fingerprint) -> str:
        """`done`, `retry` (only pages that failed under lower limits are owed), or `stale`.

        Where page images were dropped, there are none to keep beside those that are owed: `stale`.
        """
        metadata = read_record_metadata(self.results, document, self.stage)
        if metadata is None:
            return "stale"
        same = metadata.get("fingerprint") == wanted.full
        if not same and not (self.accept_code and metadata.get("data") == wanted.data):
            return "stale"
        limits = json.loads(metadata.get("limits", "{}"))
        if any(self.limits.get(name, 0) > limit for name, limit in limits.items()):
            return "stale" if are_dropped(self.results, document, self.stage) else "retry"
        return "done"

    @contextlib.contextmanager
    def replace(self, document: str, wanted: Fingerprint) -> Iterator[Draft]:
        """Make a document's result of this stage anew: fill the draft, then `commit` it.

        The old result stays until then. Raises if the block ends without a commit.
        """
        folder = self.folder(document)
        folder.mkdir(parents=True, exist_ok=True)
        # The job holds its stage's lock: what lies here under this prefix was left by a killed job.
        prefix = f".tmp-{self.stage}-"
        for rest in folder.glob(f"{prefix}*"):
            shutil.rmtree(rest)
        temporary = folder / f"{prefix}{os.urandom(4).hex()}"
        temporary.mkdir()
        draft = Draft(self, folder, temporary, wanted)
        try:
            yield draft
            if not draft.committed:
                raise RuntimeError(f"{self.stage} of {document} was not committed")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read(self, document: str, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One table of this stage's record of a document."""
        return read_table(self.folder(document) / table_file(self.stage, table), columns)


@dataclass
class Draft:
    """A document's result in the making."""

    store: StageStore
    document_folder: Path
    temporary: Path
    wanted: Fingerprint
    committed: bool = False

    @property
    def files(self) -> Path:
        """The subfolder to fill: it becomes the stage's folder of the document."""
        folder = self.temporary / "files"
        folder.mkdir(exist_ok=True)
        return folder

    def commit(
        self,
        tables: Mapping[str, pa.Table],
        metadata: Mapping[str, str] | None = None,
        record_rows: Iterable[pa.Table] | None = None,
    ) -> None:
        """Put files, then tables, then the record in place.

        `tables` holds a table for every schema of the stage; the first, the record's, may be given as
        `record_rows` instead, piece by piece, where it is too large for memory.
        """
        stage = STAGES[self.store.stage]
        further = stage.tables[1:]
        for name in further:
            write_table(tables[name], self.temporary / name, metadata)
        moves = {self.temporary / name: f"{name}.parquet" for name in further}
        named = {final: path.stat().st_size for path, final in moves.items()}
        files = self.temporary / "files"
        for base, _, names in os.walk(files):
            for path in (Path(base, name) for name in names):
                relative = path.relative_to(files).as_posix()
                named[f"{stage.folder}/{relative}"] = path.stat().st_size
        entries = {
            **(metadata or {}),
            "fingerprint": self.wanted.full,
            "data": self.wanted.data,
            "code": self.store.code,
            "files": json.dumps(named, sort_keys=True),
            "scanmill_version": scanmill.__version__,
        }
        record, first = self.temporary / "record", stage.tables[0]
        with TableWriter(record, SCHEMAS[first], entries) as writer:
            for piece in record_rows if record_rows is not None else [tables[first]]:
                writer.write(piece)
        # Everything is made: from here on only renames, the old record away first, the new one last.
        own = self.document_folder / record_name(self.store.stage)
        own.unlink(missing_ok=True)
        if stage.folder:
            final = self.document_folder / stage.folder
            if final.exists():
                os.replace(final, self.temporary / "replaced")
            if files.exists():
                os.replace(files, final)
        for path, name in moves.items():
            os.replace(path, self.document_folder / name)
        os.replace(record, own)
        self.committed = True


def read_record_metadata(results: Path, document: str, stage: str) -> dict[str, str] | None:
    """A record's metadata, or None where the stage is not done for the document.

    Not done: no record, one that cannot be read, one with a table of another schema, or one that names
    a file that is missing (unless all were dropped) or has another size.
    """
    folder = document_folder(results, document)
    try:
        metadata = read_metadata(folder / record_name(stage))
        for path, size in owed_files(results, document, stage, metadata).items():
            if path.stat().st_size != size:
                return None
        for table in STAGES[stage].tables:
            schema = pq.read_schema(folder / table_file(stage, table))
            if not schema.equals(SCHEMAS[table]):
                return None
    except (OSError, pa.ArrowException, AttributeError, KeyError, ValueError):
        return None
    return metadata


def owed_files(
    results: Path, document: str, stage: str, metadata: Mapping[str, str]
) -> dict[Path, int]:
    """The files that a record with this metadata needs beside it, and their sizes in bytes."""
    if are_dropped(results, document, stage):
        return {}
    folder = document_folder(results, document)
    return {folder / name: size for name, size in json.loads(metadata["files"]).items()}


def forget(results: Path, document: str, stage: str) -> bool:
    """Remove a stage's record of a document, so that it is made again; True if there was one."""
    path = document_folder(results, document) / record_name(stage)
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def restamp(results: Path, document: str, stage: str, code: str) -> None:
    """Have a record say that `code` made it, from the settings and inputs that it was made from.

    What did make it stays in the entry `adopted_from`: of several times, the first. The rows are
    copied; a damaged record raises DamagedTable and stays as it is.
    """
    path = document_folder(results, document) / record_name(stage)
    known = read_metadata(path)
    made_by = {name: known[name] for name in ("code", "fingerprint", "scanmill_version")}
    entries = {
        "adopted_from": json.dumps(made_by, sort_keys=True),
        **known,
        "code": code,
        "fingerprint": _with_code(known["data"], code),
        "scanmill_version": scanmill.__version__,
    }
    try:
        with (
            pq.ParquetFile(path, page_checksum_verification=True) as file,
            TableWriter(path, SCHEMAS[STAGES[stage].tables[0]], entries) as writer,
        ):
            # Bytes of crops would not all fit into memory.
            for group in range(file.num_row_groups):
                writer.write(file.read_row_group(group))
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # The file system's; what pyarrow says of pages has none.
            raise
        raise DamagedTable(path, error) from error


# Dropped page images ------------------------------------------------------------------------------


def are_dropped(results: Path, document: str, stage: str = "images") -> bool:
    """Whether a stage's files of a document were dropped; only page images ever are."""
    return stage == "images" and (_images_folder(results, document) / DROPPED).exists()


def drop_images(results: Path, document: str) -> None:
    """Delete a document's page images, if there are any; its record stays.

    The marker comes first, so that whenever this is interrupted no record needs a file that is gone.
    """
    folder = _images_folder(results, document)
    images = [path for path in folder.glob("*") if path.name != DROPPED]
    if images:
        (folder / DROPPED).touch()
    for path in images:
        path.unlink()


def restore_images(results: Path, document: str, images: Iterable[Path]) -> None:
    """Move a document's page images, all of them, to where they were dropped.

    The marker goes last, so that whenever this is interrupted they are dropped still.
    """
    folder = _images_folder(results, document)
    for path in images:
        os.replace(path, folder / path.name)
    (folder / DROPPED).unlink()


def _images_folder(results: Path, document: str) -> Path:
    return document_folder(results, document) / "images"


def page_image_error(path: Path, document: str, page: int, why: str, directory: Path) -> UserError:
    """What to raise where a page image that another stage owes cannot be used."""
    repair = ["python", "scripts/verify_results.py", "--repair", "--directory", str(directory)]
    return UserError(
        f"The page image {path} of {document}, page {page}, was rendered but {why}. "
        f"`{shlex.join(repair)}` has what is damaged made again by the next run."
    )


def write_dataset(
    name: str, pieces: Iterable[pa.Table], output: Path, metadata: Mapping[str, str] | None = None
) -> int:
    """Write a shard's dataset of the schema `name` from its documents' rows; returns their number."""
    rows = 0
    with TableWriter(output, SCHEMAS[name], metadata) as writer:
        pending = [SCHEMAS[name].empty_table()]
        for piece in pieces:
            pending.append(piece.replace_schema_metadata(None))
            rows += piece.num_rows
            if sum(part.num_rows for part in pending) >= ROWS_PER_GROUP:
                writer.write(pa.concat_tables(pending))
                pending = []
        if pending:
            writer.write(pa.concat_tables(pending))
    return rows


# Sources ------------------------------------------------------------------------------------------


def file_digest(path: bytes | str | Path) -> str:
    """The sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class SourceError(Exception):
    """A document's file that cannot be read; `cause` is the OSError."""

    def __init__(self, cause: OSError) -> None:
        """Keep the cause: an OSError on our own files is another matter."""
        super().__init__(str(cause))
        self.cause = cause


def files_digest(files: Sequence) -> str:
    """The sha256 of a document's source: one file, or page images with their names, in order.

    Raises SourceError for a file that cannot be read.
    """
    try:
        digests = [file_digest(file) for file in files]
    except OSError as error:
        raise SourceError(error) from error
    if len(files) == 1:
        return digests[0]
    names = [os.path.basename(os.fsencode(file)).hex() for file in files]
    return digest_json([list(pair) for pair in zip(names, digests, strict=True)])


def source_digest(results: Path, document: str, stamp: Sequence[object], files: Sequence) -> str:
    """The sha256 of a document's source, hashed again only if its `stamp` changed.

    `stamp` is (size, mtime_ns, listing) as the plan saw them, `files` the paths to read: one, or the
    page images of a folder in order. Raises SourceError for a file that cannot be read.
    """
    path = document_folder(results, document) / SOURCE_NOTE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["stamp"] == list(stamp):
            return known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # Not hashed yet, or the note was damaged: hash.
    sha256 = files_digest(files)
    note_source(results, document, stamp, sha256)
    return sha256


def note_source(results: Path, document: str, stamp: Sequence[object], sha256: str) -> None:
    """Note the sha256 of a document's source, for as long as its `stamp` stays."""
    path = document_folder(results, document) / SOURCE_NOTE
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(".tmp-source")
    temporary.write_text(json.dumps({"stamp": list(stamp), "sha256": sha256}), encoding="utf-8")
    os.replace(temporary, path)


def source_changed(results: Path, document: str, files: Sequence) -> bool:
    """Whether the files have another digest than that noted when the document was rendered.

    Raises SourceError for a file that cannot be read.
    """
    path = document_folder(results, document) / SOURCE_NOTE
    return json.loads(path.read_text(encoding="utf-8"))["sha256"] != files_digest(files)


# Locks --------------------------------------------------------------------------------------------


class Busy(UserError):
    """Another process holds the lock."""


def lock(path: Path, wait: Callable[[str], None] | None = None) -> int:
    """Take the lock file `path`; returns the descriptor that holds it until the process ends.

    flock: the kernel frees it however the holder ends. Without `wait` a held lock raises Busy, which
    says host, pid and time of the holder; with it, `wait` is told the same and the call blocks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 4096).decode(errors="replace").strip() or "unknown"
        if wait is None:
            os.close(descriptor)
            raise Busy(holder) from None
        wait(holder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.ftruncate(descriptor, 0)
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(
        descriptor, f"process {os.getpid()} on {socket.gethostname()}, {started}\n".encode(), 0
    )
    return descriptor


def lock_directory(directory: Path) -> int:
    """Take the one lock of a working directory, for a run or for a tool that changes results."""
    try:
        return lock(directory / ".scanmill.lock")
    except Busy as holder:
        raise UserError(
            f"Another run or tool is at work in {directory} ({holder}). Wait until it ends, or stop "
            "it; nothing was changed."
        ) from None


def stage_lock_file(directory: Path, stage: str, shard: str) -> Path:
    """The file that `stage_lock` locks."""
    return directory / ".scanmill" / f"{stage}-{shard}.lock"


@contextlib.contextmanager
def stage_lock(directory: Path, stage: str, shard: str, log: Callable[[str], None]) -> Iterator:
    """Hold the lock of a stage of a shard: a job that outlived its run may still be at work on it."""

    def tell(holder: str) -> None:
        log(f"waiting: {holder} is at work on {stage} of shard {shard}; its results will be reused")

    descriptor = lock(stage_lock_file(directory, stage, shard), tell)
    try:
        yield
    finally:
        os.close(descriptor)
