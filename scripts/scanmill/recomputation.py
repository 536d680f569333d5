"""Pages of a finished run computed again, and what then differs from the tables.

Each stage gets what the tables say it was given, so that a difference is of the stage it stands in.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pycocotools import mask as coco_mask

from scanmill import store
from scanmill.archive import Document, link_boundary
from scanmill.crops import crop_page
from scanmill.errors import UserError
from scanmill.flags import OF_DOCUMENT, measure_page, page_flags
from scanmill.maintenance import dataset_file
from scanmill.model_folders import model_digest, read_card
from scanmill.pdf_documents import choose_engines
from scanmill.preprocessing import Page
from scanmill.regions import select_regions
from scanmill.rendering import render_document, source_files
from scanmill.settings import archive_path, output_settings, settings_of_last_run
from scanmill.store import STAGES, document_folder
from scanmill.tables import (
    SCHEMAS,
    DamagedTable,
    from_rows,
    read_metadata,
    read_table,
)
from scanmill.workers import WorkerPool

if TYPE_CHECKING:
    from scanmill.detection import FoundPage
    from scanmill.detector import Detector
    from scanmill.preprocessing import Sample

#: What results of another kind of processor keep to.
MIN_IOU = 0.99
MAX_SCORE_DIFFERENCE = 1e-3


@dataclass
class Finding:
    """A page, what the tables have of it, and what differs from that."""

    document: str
    page: int
    rows: dict[str, pa.Table] = field(default_factory=dict)
    """Its rows of the tables of records; none where they cannot be compared."""
    model: str = ""
    """Digest of the model of its detections."""
    made_again: Path | None = None
    """Its page image as it was made again, if that is the same."""
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What could not be compared, and why."""

    @property
    def image(self) -> dict[str, Any]:
        """Its row of `images`."""
        return self.rows["images"].to_pylist()[0]

    def __str__(self) -> str:
        """One line: the page, and what differs."""
        said = "; ".join(self.differences) or "the same"
        notes = f" ({'; '.join(self.notes)})" if self.notes else ""
        return f"{self.document}, page {self.page}: {said}{notes}"


def choose_pages(
    results: Path, shards: Sequence[str], count: int, seed: int
) -> dict[str, list[Finding]]:
    """Shard -> some of the pages that are ok, in order; `count` in all, or as many as there are."""
    pages: list[tuple[str, str, int]] = []
    for shard in shards:
        path = dataset_file(results, "pages", shard)
        if path.exists():
            table = read_table(path, ["document", "page", "status"])
            table = table.filter(pc.equal(table["status"], "ok"))
            names, numbers = (table[name].to_pylist() for name in ("document", "page"))
            pages += [(shard, *page) for page in zip(names, numbers, strict=True)]
    chosen: dict[str, list[Finding]] = {}
    random = np.random.default_rng(seed)
    for index in sorted(random.choice(len(pages), min(count, len(pages)), replace=False)):
        shard, document, page = pages[index]
        chosen.setdefault(shard, []).append(Finding(document, page))
    return chosen


def recompute_pages(
    directory: Path,
    plan: Mapping[str, Sequence[Document]],
    chosen: Mapping[str, Sequence[Finding]],
) -> Iterator[Finding]:
    """Compute the pages again, with the settings and the model in results/; yields them compared.

    Reads the archive and the results, writes into a temporary folder alone.
    """
    results = directory / "results"
    settings = settings_of_last_run(directory)
    threads = os.cpu_count() or 1
    findings = [finding for each in chosen.values() for finding in each]
    for finding in findings:
        _read_rows(results, finding)
    with tempfile.TemporaryDirectory(prefix="scanmill-recomputed-") as folder:
        _render(directory, settings, plan, chosen, threads, Path(folder))
        usable = [finding for finding in findings if finding.rows and _has_image(results, finding)]
        _detect(results, settings, usable, threads)
        for finding in findings:
            if finding.rows:
                _compare_regions(finding, settings)
            if finding in usable:
                _compare_crops(results, finding, settings)
            yield finding


def _read_rows(results: Path, finding: Finding) -> None:
    """Read what the document's records have of the page, unless a stage is not done for it."""
    folder, of_page = document_folder(results, finding.document), [("page", "=", finding.page)]
    rows = {}
    for stage in store.stages_of({}):  # Text is not recognized again.
        made = STAGES[stage]
        record = store.read_record_metadata(results, finding.document, stage)
        if record is None:
            finding.notes.append(f"not compared: its {stage} are damaged, or not made yet")
            return
        if record["code"] != store.code_digest(stage):
            version = record["scanmill_version"]
            finding.notes.append(f"{stage} by other code, of Scanmill {version}")
        if stage == "regions":
            finding.model = json.loads(record["model"])["digest"]
        for table in made.tables:
            path = folder / store.table_file(stage, table)
            try:
                rows[table] = pq.read_table(
                    path, filters=of_page, page_checksum_verification=True, partitioning=None
                ).replace_schema_metadata(None)
            except (pa.ArrowException, OSError) as error:
                finding.differences.append(DamagedTable(path, error).fault)
                return
    finding.rows = rows


def _has_image(results: Path, finding: Finding) -> bool:
    """Whether the page image is the one that the tables have; if not, nothing follows from it.

    In place of one that was dropped stands the one that was made again.
    """
    if store.are_dropped(results, finding.document):
        if finding.made_again is None:
            finding.notes.append("detections and crops not computed again: its image was dropped")
            return False
        made_again = pa.array([str(finding.made_again)])
        images = finding.rows["images"]
        place = images.schema.get_field_index("image")
        finding.rows["images"] = images.set_column(place, "image", made_again)
        return True
    path = results / finding.image["image"]
    if store.file_digest(path) == finding.image["sha256"]:
        return True
    finding.differences.append(f"{path} is not the image of its row: other bytes")
    return False


# Page images --------------------------------------------------------------------------------------


def _render(
    directory: Path,
    settings: Mapping[str, Any],
    plan: Mapping[str, Sequence[Document]],
    chosen: Mapping[str, Sequence[Finding]],
    threads: int,
    folder: Path,
) -> None:
    """Make the page images again from the archive, into `folder`, as far as it is what it was."""
    task = {
        "settings": output_settings(settings, "images"),
        "limits": settings["images"]["limits"],
        "engines": choose_engines(settings["images"]["renderer"]),
    }
    pool = WorkerPool(threads, "scanmill.rendering")
    try:
        for shard, findings in chosen.items():
            sources = _read_sources(dataset_file(directory / "results", "images", shard))
            documents = {document.document: document for document in plan[shard]}
            pages: dict[str, list[Finding]] = {}
            for finding in findings:
                if finding.rows:
                    pages.setdefault(finding.document, []).append(finding)
            for name, mine in pages.items():
                files, why = _find_source(directory, settings, documents[name], sources.get(name))
                if why:
                    for finding in mine:
                        finding.notes.append(f"not rendered again: {why}")
                    continue
                made_again = Path(tempfile.mkdtemp(dir=folder))
                own = {
                    "kind": documents[name].kind,
                    "paths": [file.hex() for file in files],
                    "pages": [finding.page for finding in mine],
                    "folder": str(made_again),
                }
                rows = render_document(pool, {**task, **own}, lambda: None)
                made = {row["page"]: row for row in rows}
                for finding in mine:
                    _compare_image(finding, made.get(finding.page, rows[0]), made_again)
    finally:
        pool.close()


def _read_sources(images: Path) -> dict[str, str | None]:
    """The sha256 of each document's source, from a dataset's metadata."""
    try:
        return json.loads(read_metadata(images)["sources"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DamagedTable(images, error) from error


def _find_source(
    directory: Path, settings: Mapping[str, Any], document: Document, sha256: str | None
) -> tuple[list[bytes], str]:
    """The files of a document; or none, and why it is not what it was."""
    try:
        archive = archive_path(settings, directory)
    except UserError:
        return [], f"the archive, {settings['archive']['path']}, is not there"
    try:
        files = source_files(document, archive, link_boundary(archive, settings["archive"]))
        if files and store.files_digest(files) == sha256:
            return files, ""
        return [], "its source has changed since"
    except (OSError, store.SourceError) as error:
        return [], f"its source cannot be read: {error}"


def _compare_image(finding: Finding, row: Mapping[str, Any], folder: Path) -> None:
    then = finding.image
    if row["status"] != "ok":
        finding.differences.append(f"images: failed now ({row['reason']}: {row['message']})")
        return
    if row["sha256"] == then["sha256"]:
        finding.made_again = folder / row["image"]
    # Through the table's types, which have fewer digits.
    [now] = from_rows("images", [{**row, "document": finding.document}]).to_pylist()
    names = [name for name in then if name not in ("image", "engine") and then[name] != now[name]]
    if names:
        said = ", ".join(f"{name} {_shown(then[name])} -> {_shown(now[name])}" for name in names)
        engines = "" if then["engine"] == now["engine"] else f" by {now['engine']}"
        finding.differences.append(f"images: {said}{engines}")


# Detections ---------------------------------------------------------------------------------------


def _detect(
    results: Path, settings: Mapping[str, Any], findings: Sequence[Finding], threads: int
) -> None:
    """Detect again on the page images of `findings`."""
    folder = results / "models" / settings["model"]
    digest = model_digest(read_card(folder))
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.model != digest:
            what = f"not detected again: by another model than {folder} has now"
            finding.notes.append(what)
            continue
        [outcome] = finding.rows["detected_pages"].to_pylist()
        groups.setdefault(outcome["precision"], []).append(finding)
    if not groups:
        return
    from scanmill.detector import Detector, choose_device, choose_precision  # torch takes seconds.

    device, size = (settings["detection"][key] for key in ("device", "batch_size"))
    for recorded, mine in groups.items():
        try:
            precision = choose_precision(recorded, choose_device(device))
        except UserError:  # This processor has no instructions for it.
            precision = "float32"
        own = {**output_settings(settings, "detection"), "precision": precision}
        detector = Detector(folder, own, device, size)
        _detect_with(detector, results, mine, settings["detection"]["score_floor"], threads)


def _detect_with(
    detector: Detector,
    results: Path,
    findings: Sequence[Finding],
    score_floor: float,
    threads: int,
) -> None:
    from scanmill.detection import detect_pages, detections_table, page_outcome

    def take(found: FoundPage) -> None:
        finding = findings[found.sample.index]
        page = {finding.page: found.detections}
        outcome = {
            "document": finding.document,
            "page": finding.page,
            "precision": detector.precision,
            "device": detector.device_kind,
            "ink": found.sample.ink,
            **page_outcome(detector, found),
        }
        _compare_detections(
            finding,
            detections_table(finding.document, page, detector.classes),
            from_rows("detected_pages", [outcome]),
            score_floor,
        )

    def miss(sample: Sample) -> None:
        findings[sample.index].differences.append(f"detections: {sample.problem}")

    dataset = detector.dataset([_page(finding) for finding in findings], results)
    detect_pages(detector, dataset, threads, take, miss)


def _page(finding: Finding) -> Page:
    return Page(**{name: finding.image[name] for name in Page._fields})


def _compare_detections(
    finding: Finding, detections: pa.Table, outcome: pa.Table, score_floor: float
) -> None:
    """Bit by bit on the same kind of processor; elsewhere, and on GPUs, as far as is promised."""
    then, [before], [now] = (
        finding.rows["detections"],
        finding.rows["detected_pages"].to_pylist(),
        outcome.to_pylist(),
    )
    same_kind = all(before[name] == now[name] for name in ("precision", "device"))
    if same_kind and before["device"].startswith("cpu"):
        said = [
            first_difference(then, detections),
            first_difference(finding.rows["detected_pages"], outcome),
        ]
    elif now["status"] != before["status"]:
        said = [f"{before['status']} -> {now['status']} ({now['message']})"]
    else:
        said = [beyond_tolerance(then, detections, score_floor)]
    finding.differences += [f"detections: {each}" for each in said if each]


def beyond_tolerance(then: pa.Table, now: pa.Table, score_floor: float) -> str:
    """How many detections have no counterpart of their class, MIN_IOU and MAX_SCORE_DIFFERENCE.

    Those so near to the floor of scores that they may have fallen below it are not missed.
    """
    classes = [each["class_name"].to_numpy(zero_copy_only=False) for each in (then, now)]
    scores = [each["score"].to_numpy() for each in (then, now)]
    iou = coco_mask.iou(_sides(then), _sides(now), [0] * now.num_rows)
    iou = np.reshape(iou, (then.num_rows, now.num_rows))
    same = (classes[0][:, None] == classes[1][None]) & (iou >= MIN_IOU)
    same &= np.abs(scores[0][:, None] - scores[1][None]) <= MAX_SCORE_DIFFERENCE
    sure = [each > score_floor + MAX_SCORE_DIFFERENCE for each in scores]
    gone = np.count_nonzero(~same.any(axis=1) & sure[0])
    new = np.count_nonzero(~same.any(axis=0) & sure[1])
    if not gone and not new:
        return ""
    return (
        f"{gone} of {len(scores[0])} are not found again with IoU {MIN_IOU} and a score within "
        f"{MAX_SCORE_DIFFERENCE}, and {new} of {len(scores[1])} were not there"
    )


def _sides(detections: pa.Table) -> np.ndarray:
    """(N, 4) float64: x, y, width, height."""
    corners = [detections[name].to_numpy() for name in ("x_min", "y_min", "x_max", "y_max")]
    boxes = np.stack(corners, axis=1).astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


# Regions and crops --------------------------------------------------------------------------------


def _compare_regions(finding: Finding, settings: Mapping[str, Any]) -> None:
    [page] = finding.rows["pages"].to_pylist()
    [outcome] = finding.rows["detected_pages"].to_pylist()
    regions = select_regions(
        finding.rows["detections"],
        page["width"],
        page["height"],
        output_settings(settings, "regions"),
    )
    said = first_difference(finding.rows["regions"], regions.cast(SCHEMAS["regions"]))
    if said:
        finding.differences.append(f"regions: {said}")
    now = {name: outcome[name] for name in ("n_detections", "capped", "type_height")}
    now |= {"n_regions": regions.num_rows, "message": page["message"]}
    measures = measure_page({**page, **now}, outcome["ink"], regions, finding.rows["detections"])
    # What compares it with other pages is not computed again: they are not at hand.
    compared = OF_DOCUMENT.intersection(page["flags"])
    now["flags"] = sorted(page_flags(now, measures) | compared)
    for name in now:
        if page[name] != now[name]:
            what = f"pages: {name} {_shown(page[name])} -> {_shown(now[name])}"
            finding.differences.append(what)


def _compare_crops(results: Path, finding: Finding, settings: Mapping[str, Any]) -> None:
    wanted = output_settings(settings, "crops")
    regions, then = finding.rows["regions"], finding.rows["crop_images"]
    if wanted["classes"] is not None:
        chosen = pa.array(wanted["classes"], pa.string())
        regions = regions.filter(pc.is_in(regions["class_name"], chosen))
    crops = crop_page(finding.image, regions, results, wanted) if regions.num_rows else []
    rows = [{name: row[name] for name in row if name != "path"} for row, _ in crops]
    now = from_rows("crop_images", rows)
    said = first_difference(then.drop_columns("image"), now.drop_columns("image"))
    if not said:
        kept = then["image"].to_pylist()
        other = [
            row["detection"]
            for (row, content), image in zip(crops, kept, strict=True)
            if image is not None and _crop_bytes(results, image) != content
        ]
        said = f"other bytes of the crops of detections {_shown(other)}" if other else ""
    if said:
        finding.differences.append(f"crops: {said}")


def _crop_bytes(results: Path, image: Mapping[str, Any]) -> bytes:
    return image["bytes"] if image["path"] is None else (results / image["path"]).read_bytes()


# Differences --------------------------------------------------------------------------------------


def first_difference(then: pa.Table, now: pa.Table) -> str:
    """Where two tables of the same columns begin to differ, in words; nothing where they do not."""
    if then.num_rows != now.num_rows:
        return f"{then.num_rows} rows -> {now.num_rows}"
    for number, (old, new) in enumerate(zip(then.to_pylist(), now.to_pylist(), strict=True), 1):
        for name, value in old.items():
            if value != new[name]:
                return f"row {number}, {name} {_shown(value)} -> {_shown(new[name])}"
    return ""


def _shown(value: object) -> str:
    """A value in a message: long ones shortened, numbers with all their digits."""
    text = str(value)
    return text if len(text) <= 40 else f"{text[:16]}..."
