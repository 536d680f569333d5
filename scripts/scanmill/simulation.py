"""Archives of many tiny documents, and finished results for them.

What a large archive costs is measured on one that takes minutes to make. Every document is the same page
under another name, in a tree of collections and years. Its results are those of a real run on one of
them, the sample, written under every name: the tables of all shards are what a run would have written.
Of the documents of some shards there are also the folders of the store; those of a million would be ten
million files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from fpdf import FPDF

from scanmill import crops, pages
from scanmill.archive import Document
from scanmill.settings import output_settings
from scanmill.store import (
    STAGES,
    Fingerprint,
    StageStore,
    document_folder,
    fingerprint,
    source_digest,
    stages_of,
    table_file,
    write_dataset,
)
from scanmill.tables import read_metadata, read_table, write_table

#: The document that is really run.
SAMPLE = "sample.pdf"
#: Documents in a folder, and such folders in one: the width of real trees.
FOLDER = 250
#: The datasets of the shards.
DATASETS = ("images", "detections", "detected_pages", "regions", "pages", "crops")
#: Metadata of records that `Draft.commit` writes.
OF_COMMIT = ("fingerprint", "data", "code", "files", "scanmill_version", "schema_version")


def page_pdf() -> bytes:
    """A PDF of one small page with a heading and two paragraphs, of 1.3 kB, always the same bytes."""
    pdf = FPDF(unit="pt", format=(298, 421))
    pdf.set_creation_date(datetime(2000, 1, 1, tzinfo=UTC))
    pdf.add_page()
    pdf.set_font("Times", "B", 16)
    pdf.text(40, 60, "Of the Fishery")
    pdf.set_font("Times", size=10)
    for top in (90, 250):
        for line in range(9):
            pdf.text(40, top + 13 * line, "the herring of the northern coast is salted in barrels")
    return bytes(pdf.output())


def document_names(count: int) -> Iterator[str]:
    """Names of documents in a tree: `collection-003/1887/0001234.pdf`."""
    for number in range(count):
        folder, year = divmod(number // FOLDER, FOLDER)
        yield f"collection-{folder:03d}/{1700 + year}/{number:07d}.pdf"


def write_archive(folder: Path, count: int) -> None:
    """Write an archive of `count` documents; those that are there stay."""
    content = page_pdf()
    made = None
    for name in document_names(count):
        path = folder / name
        if path.parent != made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made = path.parent
        if not path.exists():
            path.write_bytes(content)


def renamed(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """The rows of the sample, of each of the documents `names` in their order.

    Names stand in the column `document`, and in the paths of files in the store.
    """
    count = rows.num_rows
    table = rows.take(pa.array(np.tile(np.arange(count), len(names))))
    own = pa.array(np.repeat(np.array(names, dtype=object), count), pa.string())
    for name in ("document", "image"):
        if name not in table.column_names or table.schema.field(name).type != pa.string():
            continue
        column = own
        if name == "image":
            before, after = (f"store/{part}" for part in ("", SAMPLE))
            tail = pc.utf8_slice_codeunits(table[name].combine_chunks(), len(after), None)
            column = pc.binary_join_element_wise(before, own, tail, "")
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def write_shard(sample: Path, results: Path, shard: str, documents: Sequence[Document]) -> None:
    """Write the datasets of a shard of these documents, with the metadata that a run gives them.

    `sample` are the results of the run on the sample.
    """
    names = [document.document for document in documents]
    for dataset in DATASETS:
        source = sample / dataset / "00000.parquet"
        metadata = read_metadata(source)
        kept = {key: metadata[key] for key in ("sources", "model") if key in metadata}
        if "sources" in kept:
            sha256 = json.loads(kept["sources"])[SAMPLE]
            kept["sources"] = json.dumps(dict.fromkeys(names, sha256), sort_keys=True)
        rows = renamed(read_table(source), names)
        write_dataset(dataset, [rows], results / dataset / f"{shard}.parquet", kept)


def write_store(sample: Path, results: Path, archive: Path, document: Document) -> None:
    """Write a document's folder of the store."""
    name, own = document.document, document_folder(sample, SAMPLE)
    stamp = (document.size, document.mtime_ns, document.listing)
    source_digest(results, name, stamp, [archive / document.path])
    rows = {
        table: renamed(read_table(own / table_file(stage, table)), [name])
        for stage in stages_of({})
        for table in STAGES[stage].tables
    }
    for stage in stages_of({}):
        metadata = read_metadata(own / table_file(stage, STAGES[stage].tables[0]))
        wanted = _wanted(sample, stage, rows, metadata)
        kept = {key: value for key, value in metadata.items() if key not in OF_COMMIT}
        store = StageStore(results, stage, {}, metadata["code"])
        with store.replace(name, wanted) as draft:
            if folder := STAGES[stage].folder:
                for path in filter(Path.is_file, sorted((own / folder).rglob("*"))):
                    _copy(path, draft.files / path.relative_to(own / folder), name)
            mine = {table: rows[table] for table in STAGES[stage].tables}
            draft.commit(mine, _renamed_metadata(kept, name))


def _wanted(
    sample: Path, stage: str, rows: Mapping[str, pa.Table], metadata: Mapping[str, str]
) -> Fingerprint:
    """The fingerprint that a run gives: the sample's, where the document's name is no input."""
    if stage == "regions":
        model = json.loads(read_metadata(sample / "detections" / "00000.parquet")["model"])
        tables = (rows["images"], rows["detected_pages"], rows["detections"])
        inputs = pages.inputs_digest(*tables, model)
    elif stage == "crops":
        inputs = crops.inputs_digest(rows["images"], rows["regions"])
    else:
        return Fingerprint(metadata["fingerprint"], metadata["data"])
    settings = yaml.safe_load((sample / "settings.yaml").read_text(encoding="utf-8"))
    return fingerprint(output_settings(settings, stage), inputs, metadata["code"])


def _copy(path: Path, target: Path, name: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        metadata = _renamed_metadata(read_metadata(path), name)
        write_table(renamed(read_table(path), [name]), target, metadata)
    else:
        shutil.copyfile(path, target)


def _renamed_metadata(metadata: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value.replace(SAMPLE, name) for key, value in metadata.items()}


def count_files(folder: Path) -> tuple[int, int]:
    """Files below a folder, and their bytes."""
    files = size = 0
    for base, _, names in os.walk(folder):
        for name in names:
            files += 1
            size += os.lstat(os.path.join(base, name)).st_size
    return files, size
