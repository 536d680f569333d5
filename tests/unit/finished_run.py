"""A small finished run, made by the stages themselves but for the detector, for tests to change."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from scanmill import crops, maintenance, pages, store, verification
from scanmill.archive import Document, read_manifest, write_manifest
from scanmill.dropped_images import Renderer
from scanmill.maintenance import DATASETS
from scanmill.progress import Progress
from scanmill.store import StageStore, document_folder, stages_of, write_dataset
from scanmill.summary import summarize_archive
from scanmill.tables import (
    SCHEMAS,
    by_document,
    failed,
    from_rows,
    read_table,
)
from scanmill.verification import Tally

SCRIPTS = Path(maintenance.__file__).parents[1]
MODEL = {"name": "m", "digest": "d", "classes": ["text", "figure"]}
SETTINGS = {
    "images": {},
    "detections": {},
    "regions": {
        "classes": None,
        "min_score": {"default": 0.5},
        "duplicate_iou": 0.7,
        "reading_order": "columns",
        "page_tables": True,
    },
    "crops": {
        "classes": None,
        "padding": 2,
        "format": "auto",
        "jpeg_quality": 90,
        "store": "files",
    },
}
# Text is not asked for.
STAGES = stages_of({})
# `box` is a folder of page images, in which a PDF lies; `images` has a stage's name.
PLAN = {"00000": ["a.pdf", "box", "box/b[1].pdf"], "00001": ["bad.pdf", "images"]}
DOCUMENTS = [name for names in PLAN.values() for name in names]
GOOD = [name for name in DOCUMENTS if name != "bad.pdf"]


def plan(directory: Path, shards=PLAN) -> None:
    for shard, names in shards.items():
        documents = [Document(name, "pdf", name, 10, 1) for name in names]
        write_manifest(directory / "results" / "shards" / f"{shard}.tsv", documents)


def run(directory: Path) -> list[tuple[str, str]]:
    """Do what Snakemake does: jobs whose files are missing, and those after them.

    Returns (stage, document) of what was computed, not reused.
    """
    results, computed = directory / "results", []
    manifests = {path.stem: read_manifest(path) for path in results.glob("shards/*.tsv")}
    any_ran = False
    for shard, documents in sorted(manifests.items()):
        ran = False
        for stage in STAGES:
            files = [results / name / f"{shard}.parquet" for name in DATASETS[stage]]
            if ran or not all(file.exists() for file in files):
                mine = StageStore(results, stage, SETTINGS[stage], "code")
                computed += JOBS[stage](mine, shard, [document.document for document in documents])
                ran = any_ran = True
    outputs = [results / name for name in maintenance.SUMMARY]
    if any_ran or not all(path.exists() for path in outputs):
        settings = {"regions": SETTINGS["regions"], "crops": SETTINGS["crops"]}
        (results / "settings.yaml").write_text(yaml.safe_dump(settings))
        files = [
            [results / name / f"{shard}.{suffix}" for shard in sorted(manifests)]
            for name, suffix in zip(
                ("shards", "images", "pages", "crops"), ("tsv", *["parquet"] * 3), strict=True
            )
        ]
        summarize_archive(*files, *outputs[:2])
        outputs[2].write_text("done\n")
    return computed


def stale(mine: StageStore, document: str, inputs: object) -> store.Fingerprint | None:
    wanted = mine.fingerprint(inputs)
    return wanted if mine.state(document, wanted) == "stale" else None


def render(mine: StageStore, shard: str, documents: list[str]) -> list[tuple[str, str]]:
    computed = []
    for document in documents:
        if not (wanted := stale(mine, document, document)):
            continue
        computed.append((mine.stage, document))
        rows = []
        with mine.replace(document, wanted) as draft:
            for page in (1, 2):
                image = np.full((120, 90), 255, np.uint8)
                image[20:40, 10:80] = 16 * len(document) % 256
                path = draft.files / f"{page:04d}.png"
                cv2.imwrite(str(path), image)
                final = mine.folder(document) / "images" / path.name
                rows.append(
                    {
                        "document": document,
                        "page": page,
                        "status": "ok",
                        "image": final.relative_to(mine.results).as_posix(),
                        "width": 90,
                        "height": 120,
                        "sha256": store.file_digest(path),
                    }
                )
            if document == "bad.pdf":
                outcome = failed("images", "timeout", "more than a second")
                rows[1] = {"document": document, "page": 2, **outcome}
                path.unlink()
            draft.commit({"images": from_rows("images", rows)})
    write_datasets(mine, shard, documents, {"sources": "{}"})
    return computed


def detect(mine: StageStore, shard: str, documents: list[str]) -> list[tuple[str, str]]:
    computed = []
    images = by_document(read_table(mine.results / "images" / f"{shard}.parquet"))
    for document in documents:
        rows = [row for row in images[document].to_pylist() if row["status"] == "ok"]
        wanted = stale(mine, document, [row["sha256"] for row in rows])
        if not wanted:
            continue
        computed.append((mine.stage, document))
        for row in rows:
            assert store.file_digest(mine.results / row["image"]) == row["sha256"]
        box = {"x_min": 10, "y_min": 20, "x_max": 80, "y_max": 40}
        found = [
            {
                "document": document,
                "page": row["page"],
                "detection": 1,
                "class_id": 0,
                "class_name": "text",
                "score": 0.9,
                **box,
            }
            for row in rows
        ]
        outcomes = [
            {"document": document, "page": row["page"], "status": "ok", "n_detections": 1}
            | {"capped": False, "n_proposals": 9, "precision": "float32", "device": "cpu"}
            for row in rows
        ]
        if document == "bad.pdf":
            outcomes[0] |= failed("detections", "detector", "RuntimeError") | {"n_detections": None}
            found = []
        tables = {
            "detections": from_rows("detections", found),
            "detected_pages": from_rows("detected_pages", outcomes),
        }
        with mine.replace(document, wanted) as draft:
            draft.commit(tables)
    write_datasets(mine, shard, documents)
    return computed


def select(mine: StageStore, shard: str, documents: list[str]) -> list[tuple[str, str]]:
    computed = []
    names = ("images", "detected_pages", "detections")
    tables = [by_document(read_table(mine.results / name / f"{shard}.parquet")) for name in names]
    for document in documents:
        empty = [SCHEMAS[name].empty_table() for name in names]
        inputs = [
            table.get(document, nothing) for table, nothing in zip(tables, empty, strict=True)
        ]
        if wanted := stale(mine, document, pages.inputs_digest(*inputs, MODEL)):
            computed.append((mine.stage, document))
            with mine.replace(document, wanted) as draft:
                pages.finish_document(*inputs, MODEL, mine, draft)
    write_datasets(mine, shard, documents, {"model": json.dumps(MODEL, sort_keys=True)})
    return computed


def crop(mine: StageStore, shard: str, documents: list[str]) -> list[tuple[str, str]]:
    computed = []
    images = by_document(read_table(mine.results / "images" / f"{shard}.parquet"))
    regions = by_document(read_table(mine.results / "regions" / f"{shard}.parquet"))
    for document in documents:
        found = regions.get(document, SCHEMAS["regions"].empty_table())
        inputs = images[document], found
        if wanted := stale(mine, document, crops.inputs_digest(*inputs)):
            computed.append((mine.stage, document))
            work = crops.Work(document, *inputs, wanted)
            with Renderer(mine.results.parent, [], 1) as renderer:
                progress = Progress("crop_regions", 1, 1)
                crops.crop_documents([work], mine, 1, progress, renderer, keep=True)
    rows = (crops.dataset_rows(mine, document) for document in documents)
    write_dataset("crops", rows, mine.results / "crops" / f"{shard}.parquet")
    return computed


def write_datasets(mine: StageStore, shard: str, documents: list[str], metadata=None) -> None:
    for name in DATASETS[mine.stage]:
        rows = (mine.read(document, name) for document in documents)
        write_dataset(name, rows, mine.results / name / f"{shard}.parquet", metadata)


JOBS = {"images": render, "detections": detect, "regions": select, "crops": crop}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The working directory of a run that has ended: not to be changed."""
    directory = tmp_path_factory.mktemp("finished")
    plan(directory)
    assert run(directory) == [(s, d) for names in PLAN.values() for s in STAGES for d in names]
    return directory


@pytest.fixture
def directory(finished, tmp_path):
    """A copy of it."""
    copy = tmp_path / "run"
    shutil.copytree(finished, copy)
    return copy


def verify(directory: Path) -> list[verification.Problem]:
    results = directory / "results"
    documents, problems = verification.verify_plan(results)
    tally = Tally(lambda line: None)
    return problems + list(verification.verify_results(results, documents, 2, tally))


def contents(directory: Path) -> dict[str, bytes]:
    """All results but the text whose time alone counts."""
    results = directory / "results"
    files = [path for path in results.rglob("*") if path.is_file()]
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in files}


def tool(name: str, directory: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPTS / f"{name}.py", "--directory", directory, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def flip(path: Path, position: int = 100) -> None:
    """Change one byte; the size stays."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


def flip_value(path: Path) -> None:
    """Change one byte of the values of a table: the last of the first column."""
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    flip(path, start + column.total_compressed_size - 1)


def stored(directory: Path, document: str) -> Path:
    return document_folder(directory / "results", document)
