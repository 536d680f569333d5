"""What became of an archive: documents, failures, and whether too much failed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from scanmill.archive import Document, read_manifest
from scanmill.tables import (
    SCHEMAS,
    TableWriter,
    read_metadata,
    read_table,
    write_table,
)

#: Stages whose failures are of regions; their pages are ok.
OF_REGIONS = ("crops", "ocr")

_FAILURE = ("document", "page", "stage", "reason", "message")


def summarize_archive(
    manifests: Sequence[Path],
    images: Sequence[Path],
    pages: Sequence[Path],
    crops: Sequence[Path],
    documents_output: Path,
    failures_output: Path,
    ocr: Sequence[Path] = (),
) -> None:
    """Write `documents` and `failures` from the shards' manifests and datasets (lists of one order).

    `ocr` is empty where text was not asked for.
    """
    columns = _own_columns(manifests)
    schema = SCHEMAS["documents"]
    for name in columns:
        schema = schema.append(pa.field(name, pa.string()))
    failures = [SCHEMAS["failures"].empty_table()]
    with TableWriter(documents_output, schema) as writer:
        writer.write(schema.empty_table())
        for files in zip(manifests, images, pages, crops, strict=True):
            manifest, image_file, page_file, crop_file = files
            sha256 = json.loads(read_metadata(image_file)["sources"])
            outcome = ("document", "page", "status", "stage", "reason", "message", "n_regions")
            table = read_table(page_file, outcome)
            rows = _document_rows(read_manifest(manifest), sha256, table, columns)
            writer.write(pa.table(rows, schema))
            failures.append(table.filter(pc.equal(table["status"], "failed")).select(_FAILURE))
            failures.append(_failed_regions(crop_file, "crops"))
    failures += [_failed_regions(file, "ocr") for file in ocr]
    table = pa.concat_tables(failures).sort_by([(name, "ascending") for name in _FAILURE[:3]])
    write_table(table, failures_output)


def _own_columns(manifests: Sequence[Path]) -> list[str]:
    """Names of the CSV's own columns, in their order."""
    names: dict[str, None] = {}
    for manifest in manifests:
        if (
            b"{" not in manifest.read_bytes()
        ):  # Nor can there be columns: most archives are folders.
            continue
        for document in read_manifest(manifest):
            names |= dict.fromkeys(json.loads(document.columns or "{}"))
    return list(names)


def _document_rows(
    planned: Sequence[Document],
    sha256: Mapping[str, str],
    pages: pa.Table,
    columns: Sequence[str],
) -> dict[str, list]:
    """The columns of `documents` for the documents of a shard, of which `pages` has the outcomes.

    Counted for all documents at once: an archive may have a million.
    """
    is_ok = pc.cast(pc.equal(pages["status"], "ok"), pa.int32())
    counted = (
        pages.append_column("ok", is_ok)
        .group_by("document", use_threads=False)
        .aggregate([("page", "count"), ("ok", "sum"), ("n_regions", "sum")])
        .to_pydict()
    )
    place = {name: number for number, name in enumerate(counted["document"])}
    places = [place[document.document] for document in planned]
    n_pages, ok, regions = (
        [counted[column][number] for number in places]
        for column in ("page_count", "ok_sum", "n_regions_sum")
    )
    reasons = _most_frequent_reasons(pages)
    own = [json.loads(document.columns or "{}") for document in planned]
    names = [document.document for document in planned]
    return {
        "document": names,
        "path": [document.path for document in planned],
        "bytes": [document.size for document in planned],
        "sha256": [sha256.get(name) for name in names],
        "pages": n_pages,
        "pages_ok": ok,
        "pages_failed": [all_ - good for all_, good in zip(n_pages, ok, strict=True)],
        "regions": [count or 0 for count in regions],
        "status": [
            "ok" if name not in reasons else "partial" if good else "failed"
            for name, good in zip(names, ok, strict=True)
        ],
        "reason": [reasons.get(name) for name in names],
        **{column: [each.get(column) for each in own] for column in columns},
    }


def _most_frequent_reasons(pages: pa.Table) -> dict[str, str]:
    """Document -> why most of its failed pages failed; of equals the first by name."""
    failed = pages.filter(pc.is_valid(pages["reason"]))
    counts: dict[str, Counter[str]] = {}
    for document, reason in zip(
        failed["document"].to_pylist(), failed["reason"].to_pylist(), strict=True
    ):
        counts.setdefault(document, Counter())[reason] += 1
    return {
        document: min(bad, key=lambda reason: (-bad[reason], reason))
        for document, bad in counts.items()
    }


def _failed_regions(path: Path, stage: str) -> pa.Table:
    """The failures of a stage that works by region."""
    table = read_table(path, ("document", "page", "status", "reason", "message"))
    table = table.filter(pc.equal(table["status"], "failed"))
    stages = pa.repeat(pa.scalar(stage), table.num_rows)
    return table.append_column("stage", stages).select(_FAILURE)


def failure_report(
    documents: pa.Table, failures: pa.Table, max_failed_fraction: float
) -> tuple[str, bool]:
    """A text for people, and whether more than `max_failed_fraction` of the pages failed.

    A document that never opened counts as one page.
    """
    unopened = failures.filter(pc.is_null(failures["page"])).num_rows
    pages = (pc.sum(documents["pages"]).as_py() or 0) + unopened
    of_regions = pc.is_in(failures["stage"], pa.array(OF_REGIONS))
    on_pages = failures.filter(pc.invert(of_regions)).num_rows
    fraction = on_pages / pages if pages else 0.0
    too_much = fraction > max_failed_fraction
    lines = list(_report(documents, failures, pages, on_pages))
    if too_much:
        lines += [
            "",
            f"{fraction:.1%} of the pages failed, more than failures.max_failed_fraction "
            f"({max_failed_fraction:.1%}). Everything else is done. To accept it: "
            f"--config 'failures={{max_failed_fraction: {fraction + 0.005:.2f}}}'",
        ]
    return "\n".join(lines) + "\n", too_much


def _report(documents: pa.Table, failures: pa.Table, pages: int, on_pages: int) -> Iterator[str]:
    regions = pc.sum(documents["regions"]).as_py() or 0
    yield f"documents {documents.num_rows}, pages {pages - on_pages} ok, {on_pages} failed"
    yield f"regions   {regions}"
    if not failures.num_rows:
        return
    yield ""
    yield f"{'stage':<12}{'reason':<14}{'rows':>6}  for example"
    rows = failures.to_pylist()
    counted = Counter((row["stage"], row["reason"]) for row in rows)
    for (stage, reason), count in sorted(counted.items()):
        yield f"{stage:<12}{reason:<14}{count:>6}  {_example(rows, stage, reason)}"
    yield ""
    yield "All are rows of results/failures.parquet."


def retry_command(failures: pa.Table, directory: Path) -> str:
    """What has the failed documents tried again by the next run."""
    reasons = ",".join(sorted(set(failures["reason"].to_pylist())))
    return (
        "To have them tried again by the next run:\n"
        f"  python scripts/retry_failed.py --directory {quote(str(directory))} --reason {reasons}\n"
    )


def _example(rows: Sequence[Mapping[str, Any]], stage: str, reason: str) -> str:
    row = next(row for row in rows if (row["stage"], row["reason"]) == (stage, reason))
    where = row["document"] if row["page"] is None else f"{row['document']}, page {row['page']}"
    return f"{where}: {row['message']}"
