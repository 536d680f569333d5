"""What tests of the report share: tables of a finished run, as large as wanted, and page images."""

import json

import cv2
import numpy as np
import pyarrow as pa
import yaml

from scanmill.report import ShardFiles, write_report
from scanmill.store import document_folder, file_digest
from scanmill.tables import INK_CELLS, SCHEMAS, from_rows, write_table

CLASSES = ("text", "table", "figure")
MODEL = {"name": "scanmill-layout", "digest": "0123456789abcdef", "classes": list(CLASSES)}
WIDTH, HEIGHT = 300, 400


def page_row(document, page, **entries):
    """A row of `pages`, of a page that came out."""
    row = {"document": document, "page": page, "status": "ok", "width": WIDTH, "height": HEIGHT}
    return row | {"image": "none.jpg", "sha256": "", "n_regions": 0, "flags": [], **entries}


def region_row(document, page, place, class_name="text", score=0.9, box=(30, 40, 270, 140)):
    """A row of `regions`."""
    row = {"document": document, "page": page, "detection": place, "region": place}
    row |= {"class_id": CLASSES.index(class_name), "class_name": class_name, "score": score}
    return row | dict(zip(("x_min", "y_min", "x_max", "y_max"), map(float, box), strict=True))


def write_image(directory, document, page):
    """Write a page's image to the store; returns the columns of its row that name it."""
    results = directory / "results"
    path = document_folder(results, document) / "images" / f"{page:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH), 255, np.uint8)
    cv2.putText(pixels, str(page), (60, 200), cv2.FONT_HERSHEY_SIMPLEX, 4, 0, 8)
    cv2.imwrite(str(path), pixels)
    return {"image": path.relative_to(results).as_posix(), "sha256": file_digest(path)}


def write_run(directory, pages, regions=(), failures=(), shard="00000"):
    """Write the tables that the report is made from, of one shard; returns those of the shard."""
    results = directory / "results"
    counts = {}
    for row in regions:
        key = row["document"], row["page"]
        counts[key] = counts.get(key, 0) + 1
    rows = [
        {**row, "n_regions": counts.get((row["document"], row["page"]), 0)}
        if row["status"] == "ok"
        else row
        for row in pages
    ]
    ink = np.zeros(INK_CELLS**2, np.uint8)
    ink[300:500] = 120
    outcomes = [
        {"document": row["document"], "page": row["page"], "status": "ok", "ink": ink.tolist()}
        for row in rows
        if row["status"] == "ok"
    ]
    tables = {
        "pages": from_rows("pages", rows),
        "regions": from_rows("regions", list(regions)),
        "detected_pages": from_rows("detected_pages", outcomes),
    }
    for name, table in tables.items():
        about = {"model": json.dumps(MODEL)}
        write_table(table, results / name / f"{shard}.parquet", about)
    by_document = {}
    for row in rows:
        by_document.setdefault(row["document"], []).append(row)
    documents = [document_row(name, mine) for name, mine in by_document.items()]
    write_table(from_rows("documents", documents), results / "documents.parquet")
    write_table(from_rows("failures", list(failures)), results / "failures.parquet")
    settings = {"archive": {"image_folders": "document", "path": "/data/scans"}, "model": "m"}
    (results / "settings.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return shard_files(directory, shard)


def document_row(name, rows):
    ok = [row for row in rows if row["status"] == "ok"]
    counts = {"pages": len(rows), "pages_ok": len(ok), "pages_failed": len(rows) - len(ok)}
    regions = sum(row["n_regions"] for row in ok)
    return {"document": name, **counts, "regions": regions, "status": "ok" if ok else "failed"}


def shard_files(directory, shard="00000"):
    names = ("pages", "regions", "detected_pages")
    return ShardFiles(*(directory / "results" / name / f"{shard}.parquet" for name in names))


def report_on(directory, shards=None):
    """Write the report of a run; returns its path."""
    results = directory / "results"
    shards = [shard_files(directory)] if shards is None else shards
    tables = results / "documents.parquet", results / "failures.parquet"
    write_report(directory, shards, *tables, results / "report.html", 2)
    return results / "report.html"


def write_empty_run(directory):
    """The summary of an archive without documents: no shard has a table."""
    for name in ("documents", "failures"):
        write_table(
            pa.table(SCHEMAS[name].empty_table()), directory / "results" / f"{name}.parquet"
        )
