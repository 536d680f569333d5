"""Finished runs of chosen documents, pages and regions, made by the stages but for the detector; and
what annotators make of their pages."""

import copy
import json
import zlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from finished_run import MODEL, SETTINGS, select, write_datasets

from scanmill import store
from scanmill.archive import Document, write_manifest
from scanmill.store import StageStore, write_dataset
from scanmill.summary import summarize_archive
from scanmill.tables import failed, from_rows

WIDTH, HEIGHT = 110, 160
OUTLINE = [20, 100, 90, 100, 95, 140, 20, 145]


class Page(NamedTuple):
    """A page of a run: what the detector finds on it, as (class, score, box, polygon)."""

    regions: tuple = (("text", 0.9, (10.5, 20.25, 80, 60), None),)
    suffix: str = ".jpg"
    ok: bool = True
    capped: bool = False
    type_height: float | None = None
    pixels: str | None = None
    """Pages of the same text have the same image; None: no other has it."""


def outlined(score=0.8):
    """A region with an outline, whose box is a little larger."""
    return ("figure", score, (18, 99, 97, 146), OUTLINE)


def write_run(directory: Path, documents, columns=None, shards=2) -> Path:
    """`documents`: name -> pages, `columns`: name -> the CSV's own columns. Returns `directory`."""
    results = directory / "results"
    names = list(documents)
    stages = {name: StageStore(results, name, SETTINGS[name], "code") for name in SETTINGS}
    files = {name: [] for name in ("shards", "images", "pages", "crops")}
    for number in range(shards):
        shard, mine = f"{number:05d}", names[number::shards]
        manifest = results / "shards" / f"{shard}.tsv"
        own = {name: json.dumps((columns or {}).get(name, {})) for name in mine}
        write_manifest(
            manifest, [Document(name, "pdf", name, 1, 1, columns=own[name]) for name in mine]
        )
        for name in mine:
            _write_document(stages, name, documents[name])
        write_datasets(stages["images"], shard, mine, {"sources": "{}"})
        write_datasets(stages["detections"], shard, mine)
        select(stages["regions"], shard, mine)
        write_dataset("crops", [], results / "crops" / f"{shard}.parquet")
        files["shards"].append(manifest)
        for name in ("images", "pages", "crops"):
            files[name].append(results / name / f"{shard}.parquet")
    outputs = (results / "documents.parquet", results / "failures.parquet")
    summarize_archive(*files.values(), *outputs)
    return directory


def _write_document(stages, document, pages):
    images, outcomes, found = [], [], []
    store_of_images = stages["images"]
    with store_of_images.replace(document, store_of_images.fingerprint(document)) as draft:
        for number, page in enumerate(pages, 1):
            key = {"document": document, "page": number}
            if not page.ok:
                images.append(key | failed("images", "timeout", "more than a second"))
                continue
            path = draft.files / f"{number:04d}{page.suffix}"
            seed = zlib.crc32((page.pixels or f"{document} {number}").encode())
            shape = (HEIGHT, WIDTH)
            pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
            path.write_bytes(cv2.imencode(page.suffix, pixels)[1])
            final = store_of_images.folder(document) / "images" / path.name
            images.append(
                key
                | {"status": "ok", "image": final.relative_to(store_of_images.results).as_posix()}
                | {"width": WIDTH, "height": HEIGHT, "sha256": store.file_digest(path)}
            )
            outcomes.append(
                key
                | {"status": "ok", "n_detections": len(page.regions), "capped": page.capped}
                | {"type_height": page.type_height}
            )
            ranked = sorted(page.regions, key=lambda region: -region[1])
            for rank, (name, score, box, polygon) in enumerate(ranked, 1):
                sides = zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True)
                row = {"detection": rank, "class_name": name, "score": score, "polygon": polygon}
                row["class_id"] = MODEL["classes"].index(name)
                found.append(key | row | dict(sides))
        draft.commit({"images": from_rows("images", images)})
    detections = stages["detections"]
    with detections.replace(document, detections.fingerprint(document)) as draft:
        tables = {"detections": found, "detected_pages": outcomes}
        draft.commit({name: from_rows(name, rows) for name, rows in tables.items()})


def exported(tasks, skipped=()):
    """What Label Studio 1.23 exports as JSON where somebody submits the predictions of all tasks as they
    are; those of the places `skipped` are skipped."""
    when = "2026-03-01T10:00:00.000000Z"
    export = []
    for number, task in enumerate(tasks, 1):
        task = copy.deepcopy(task)
        [prediction] = task["predictions"]
        results = [{**result, "origin": "prediction"} for result in prediction["result"]]
        is_skipped = number - 1 in skipped
        annotation = {
            "id": 100 + number,
            "completed_by": 1,
            "result": [] if is_skipped else results,
            "was_cancelled": is_skipped,
            "ground_truth": False,
            "created_at": when,
            "updated_at": when,
            "draft_created_at": None,
            "lead_time": 3.5,
            "prediction": {"id": number, **prediction},
            "result_count": 0,
            "unique_id": f"00000000-0000-4000-8000-{number:012d}",
            "import_id": None,
            "last_action": None,
            "bulk_created": False,
            "task": number,
            "project": 1,
            "updated_by": 1,
            "parent_prediction": number,
            "parent_annotation": None,
            "last_created_by": None,
        }
        export.append(
            {
                "id": number,
                "annotations": [annotation],
                "file_upload": "3f2a9c1b-tasks.json",
                "drafts": [],
                "predictions": [number],
                "data": task["data"],
                "meta": {},
                "created_at": when,
                "updated_at": when,
                "allow_skip": True,
                "inner_id": number,
                "total_annotations": int(not is_skipped),
                "cancelled_annotations": int(is_skipped),
                "total_predictions": 1,
                "comment_count": 0,
                "unresolved_comment_count": 0,
                "last_comment_updated_at": None,
                "project": 1,
                "updated_by": 1,
                "comment_authors": [],
            }
        )
    return export
