"""The tables Scanmill writes: fixed schemas, deterministic Parquet, content digests.

Every table is Parquet with zstd, the schema given here and, in the schema's metadata, the version of
that schema under ``scanmill.schema_version``. Two tables with equal rows and metadata are equal bytes
(of one pyarrow release): no times, hosts or durations are ever written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from scanmill.errors import UserError

SCHEMA_VERSION = "1"

#: Why a page or document failed: a closed list, so that people can filter on it.
REASONS = (
    "encrypted",
    "corrupt",
    "empty",
    "unsupported",
    "too_large",
    "timeout",
    "memory",
    "io",
    "detector",
    "engine",
)

INK_CELLS = 32

_OUTCOME = [
    ("status", pa.string()),
    ("stage", pa.string()),
    ("reason", pa.string()),
    ("message", pa.string()),
]
_KEY = [("document", pa.string()), ("page", pa.int32())]
_IMAGE = [
    ("image", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("dpi_x", pa.float32()),
    ("dpi_y", pa.float32()),
    ("source", pa.string()),
    ("engine", pa.string()),
    ("rotation", pa.int32()),
    ("page_width_pt", pa.float64()),
    ("page_height_pt", pa.float64()),
    ("to_pdf", pa.list_(pa.float64(), 6)),
    ("sha256", pa.string()),
]
_DETECTION = [
    *_KEY,
    ("detection", pa.int32()),
    ("class_id", pa.int32()),
    ("class_name", pa.string()),
    ("score", pa.float32()),
    ("x_min", pa.float32()),
    ("y_min", pa.float32()),
    ("x_max", pa.float32()),
    ("y_max", pa.float32()),
    ("polygon", pa.list_(pa.int32())),
]
_CROP = [
    *_KEY,
    ("detection", pa.int32()),
    ("class_name", pa.string()),
    ("x_min", pa.int32()),
    ("y_min", pa.int32()),
    ("x_max", pa.int32()),
    ("y_max", pa.int32()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("status", pa.string()),
    ("reason", pa.string()),
    ("message", pa.string()),
]
# A line of text: its box in pixels of the page image, as regions have theirs.
_LINE = pa.struct(
    [
        ("text", pa.string()),
        ("confidence", pa.float32()),
        ("x_min", pa.float32()),
        ("y_min", pa.float32()),
        ("x_max", pa.float32()),
        ("y_max", pa.float32()),
    ]
)

SCHEMAS: dict[str, pa.Schema] = {
    "images": pa.schema([*_KEY, *_OUTCOME, *_IMAGE]),
    "detections": pa.schema(_DETECTION),
    "detected_pages": pa.schema(
        [
            *_KEY,
            *_OUTCOME,
            ("n_detections", pa.int32()),
            ("capped", pa.bool_()),
            ("n_proposals", pa.int32()),
            ("precision", pa.string()),
            ("device", pa.string()),
            ("type_height", pa.float32()),
            ("ink", pa.list_(pa.uint8(), INK_CELLS * INK_CELLS)),
        ]
    ),
    "regions": pa.schema([*_DETECTION, ("region", pa.int32())]),
    "pages": pa.schema(
        [
            *_KEY,
            *_OUTCOME,
            *_IMAGE,
            ("n_detections", pa.int32()),
            ("n_regions", pa.int32()),
            ("capped", pa.bool_()),
            ("type_height", pa.float32()),
            ("flags", pa.list_(pa.string())),
        ]
    ),
    "crops": pa.schema([*_CROP, ("path", pa.string())]),
    # What a document's own record holds: the bytes too, as Hugging Face datasets decode them.
    "crop_images": pa.schema(
        [*_CROP, ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    ),
    "ocr": pa.schema(
        [
            *_KEY,
            ("detection", pa.int32()),
            ("class_name", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("message", pa.string()),
            ("text", pa.string()),
            ("confidence", pa.float32()),
            ("source", pa.string()),
            ("engine", pa.string()),
            ("language", pa.string()),
            ("lines", pa.list_(_LINE)),
        ]
    ),
    "documents": pa.schema(
        [
            ("document", pa.string()),
            ("path", pa.string()),
            ("bytes", pa.int64()),
            ("sha256", pa.string()),
            ("pages", pa.int32()),
            ("pages_ok", pa.int32()),
            ("pages_failed", pa.int32()),
            ("regions", pa.int32()),
            ("status", pa.string()),
            ("reason", pa.string()),
        ]
    ),
    "failures": pa.schema(
        [
            *_KEY,
            ("stage", pa.string()),
            ("reason", pa.string()),
            ("message", pa.string()),
        ]
    ),
    # Of a dataset to train on: its objects, and what was wrong with its annotations and images.
    "dataset": pa.schema(
        [
            ("split", pa.string()),
            *_KEY,
            ("file_name", pa.string()),
            ("image_id", pa.int32()),
            ("annotation_id", pa.int32()),
            ("class_id", pa.int32()),
            ("class_name", pa.string()),
            ("x_min", pa.float32()),
            ("y_min", pa.float32()),
            ("x_max", pa.float32()),
            ("y_max", pa.float32()),
            ("polygon", pa.list_(pa.float32())),
            ("page_width", pa.int32()),
            ("page_height", pa.int32()),
        ]
    ),
    "problems": pa.schema(
        [
            ("kind", pa.string()),
            ("severity", pa.string()),
            ("file", pa.string()),
            ("image", pa.string()),
            ("annotation", pa.string()),
            ("message", pa.string()),
        ]
    ),
}


def failed(stage: str, reason: str, message: str) -> dict[str, str]:
    """The outcome columns of a failed page or document."""
    if reason not in REASONS:
        raise ValueError(f"{reason!r} is not one of {REASONS}")
    return {
        "status": "failed",
        "stage": stage,
        "reason": reason,
        "message": " ".join(message.split())[:500],
    }


def from_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """A table of the schema `name` from dicts; a missing key is null, an unknown one an error."""
    schema = SCHEMAS[name]
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise ValueError(f"table {name} has no column {sorted(unknown)}")
    return pa.Table.from_pylist(list(rows), schema=schema)


def write_table(table: pa.Table, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write `table` to `path` in one step (a reader sees the old file or the whole new one)."""
    with TableWriter(path, table.schema, metadata) as writer:
        writer.write(table)


class TableWriter:
    """Writes a Parquet file row group by row group, put in place when the block ends well.

    For tables that do not fit in memory: a dataset concatenated from records, crops with their bytes.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, metadata: Mapping[str, str] | None = None
    ) -> None:
        """`metadata` are names and texts, stored under ``scanmill.<name>`` in the order of names."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.temporary = path.with_name(f".tmp-{os.getpid()}-{os.urandom(4).hex()}")
        entries = {"schema_version": SCHEMA_VERSION, **(metadata or {})}
        self.schema = schema.with_metadata({f"scanmill.{k}": entries[k] for k in sorted(entries)})
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> TableWriter:
        """Open the temporary file."""
        self._writer = pq.ParquetWriter(
            self.temporary,
            self.schema,
            compression="zstd",
            version="2.6",
            store_schema=True,
            # Without them most flipped bits in zstd pages are read as other values.
            write_page_checksum=True,
        )
        return self

    def write(self, table: pa.Table) -> None:
        """Append the rows of `table` (of the writer's schema) as row groups."""
        self._writer.write_table(table.cast(self.schema))

    def __exit__(self, kind: type | None, *rest: object) -> None:
        """Put the file in place, or remove it if the block failed."""
        try:
            self._writer.close()
            if kind is None:
                os.replace(self.temporary, self.path)
        finally:
            self.temporary.unlink(missing_ok=True)


class DamagedTable(UserError):
    """A file of ours that cannot be read; `fault` says so without the remedy."""

    def __init__(self, path: Path, error: Exception) -> None:
        """The remedy depends on where the file lies."""
        self.fault = f"{path} is damaged ({' '.join(str(error).split())})."
        remedy = "Delete it and run again: it is rebuilt from the store."
        if "store" in path.parts:  # Nothing would notice that a document's record is gone.
            remedy = "`python scripts/verify_results.py --repair` has the next run make it again."
        super().__init__(f"{self.fault} {remedy}")


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one file of ours; a damaged file raises DamagedTable."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns=list(columns) if columns else None)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # The file system's; what pyarrow says of pages has none.
            raise
        raise DamagedTable(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Scanmill's own entries of a file's schema metadata, without their prefix."""
    metadata = pq.read_schema(path).metadata or {}
    return {
        key.decode().removeprefix("scanmill."): value.decode()
        for key, value in metadata.items()
        if key.startswith(b"scanmill.")
    }


def check_schema_version(results: Path) -> None:
    """Raise UserError where results were written by a release with other schemas.

    One table of each dataset is looked at: a release changes all of them together.
    """
    for dataset in sorted(SCHEMAS):
        table = next((results / dataset).glob("*.parquet"), None)
        if table is None:
            continue
        try:
            version = read_metadata(table).get("schema_version")
        except (pa.ArrowException, OSError):
            continue  # Damaged: those who read it say so, with the remedy.
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{table} has tables of version {version or 'none'}, and this release of Scanmill "
                f"writes version {SCHEMA_VERSION}: they cannot stand beside each other. Go on with the "
                "release that wrote them, or begin anew in another working directory (--directory)."
            )


def by_document(table: pa.Table) -> dict[str, pa.Table]:
    """Cut a table whose rows are grouped by document into one slice per document, in order."""
    return _slices(table, "document")


def by_page(table: pa.Table) -> dict[int, pa.Table]:
    """Cut the rows of one document, grouped by page, into one slice per page."""
    return _slices(table, "page")


def _slices(table: pa.Table, column: str) -> dict[Any, pa.Table]:
    slices: dict[Any, pa.Table] = {}
    if not table.num_rows:
        return slices
    for value, start, length in _runs(table[column]):
        if value in slices:
            raise ValueError(f"the rows of {column} {value} are not together")
        slices[value] = table.slice(start, length)
    return slices


def _runs(column: pa.ChunkedArray) -> Iterator[tuple[Any, int, int]]:
    """(value, start, length) of each run of equal values."""
    encoded = pc.run_end_encode(column.combine_chunks())
    start = 0
    for value, end in zip(encoded.values.to_pylist(), encoded.run_ends.to_pylist(), strict=True):
        yield value, start, end - start
        start = end


def content_digest(table: pa.Table, columns: Iterable[str] | None = None) -> str:
    """A sha256 of the rows of `table`: equal values give equal digests, however they are chunked.

    It does not depend on the Parquet file, its metadata, or the release of pyarrow.
    """
    digest = hashlib.sha256()
    for name in columns or table.schema.names:
        digest.update(f"{name}:{_kind(table.schema.field(name).type)}:{table.num_rows};".encode())
        column = table[name]
        for chunk in column.chunks[:1] if column.num_chunks == 1 else [column.combine_chunks()]:
            _digest_array(digest, chunk)
    return digest.hexdigest()


def _kind(kind: pa.DataType) -> str:
    """A name for a column's type; pyarrow's of a list differs before and after Parquet."""
    return f"list<{_kind(kind.value_type)}>" if hasattr(kind, "value_type") else str(kind)


def _digest_array(digest: hashlib._Hash, array: pa.Array) -> None:
    digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        lengths = pc.fill_null(pc.binary_length(array), 0)
        digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        for value in array:
            if value.is_valid:
                text = value.as_py()
                digest.update(text.encode() if isinstance(text, str) else text)
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = pc.fill_null(pc.list_value_length(array), 0)
        digest.update(lengths.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
        _digest_array(digest, array.flatten())
    elif pa.types.is_boolean(kind):
        digest.update(pc.fill_null(array, False).to_numpy(zero_copy_only=False).tobytes())
    else:
        values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())


def digest_json(value: object) -> str:
    """A sha256 of plain data, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
