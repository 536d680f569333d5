"""Regions -> crops at the full resolution of the page image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
import pyarrow as pa

from scanmill.dropped_images import Renderer
from scanmill.errors import UserError
from scanmill.image_files import Unusable, encode, is_bilevel_png, read_image
from scanmill.progress import Progress
from scanmill.store import Draft, Fingerprint, StageStore, drop_images, page_image_error
from scanmill.tables import SCHEMAS, by_page, content_digest, failed, from_rows

STAGE = "crops"

_REGION_INPUTS = ("page", "detection", "class_name", "x_min", "y_min", "x_max", "y_max")


class Work(NamedTuple):
    """A document to crop."""

    document: str
    images: pa.Table
    regions: pa.Table
    wanted: Fingerprint


def inputs_digest(images: pa.Table, regions: pa.Table) -> list[str]:
    """What the crops of a document are made from, by content; the reading order is not."""
    ordered = regions.sort_by([("page", "ascending"), ("detection", "ascending")])
    return [
        content_digest(images, ("page", "image", "sha256")),
        content_digest(ordered, _REGION_INPUTS),
    ]


def padded_boxes(boxes: np.ndarray, padding: int, width: int, height: int) -> np.ndarray:
    """(N, 4) int32 whole pixels around float boxes (N, 4), `padding` more on each side, clipped to the
    page; x_max and y_max are exclusive."""
    low = np.floor(boxes[:, :2]).astype(np.int32) - padding
    high = np.ceil(boxes[:, 2:]).astype(np.int32) + padding
    return np.concatenate([low.clip(0), np.minimum(high, [width, height])], axis=1).astype(np.int32)


def crop_page(
    image: Mapping[str, Any], regions: pa.Table, results: Path, settings: Mapping[str, Any]
) -> list[tuple[dict[str, Any], bytes]]:
    """The rows (without `image`) and file bytes of one page's crops, in order of `detection`."""
    path = results / image["image"]
    try:
        data, pixels = read_image(path, image["sha256"])
    except Unusable as error:
        raise _unusable(path, image, str(error)) from error
    if pixels.shape[:2] != (image["height"], image["width"]):
        raise _unusable(path, image, "it is damaged: it has not the size that its row says")
    bilevel = is_bilevel_png(data)
    auto = "png" if path.suffix == ".png" else "jpg"
    suffix = {"auto": auto, "png": "png", "jpeg": "jpg"}[settings["format"]]
    regions = regions.sort_by("detection")
    corners = [regions[name].to_numpy() for name in ("x_min", "y_min", "x_max", "y_max")]
    height, width = pixels.shape[:2]
    boxes = padded_boxes(np.stack(corners, axis=1), settings["padding"], width, height)
    crops = []
    for row, box in zip(
        regions.select(["detection", "class_name"]).to_pylist(), boxes, strict=True
    ):
        x_min, y_min, x_max, y_max = (int(value) for value in box)
        row |= {"document": image["document"], "page": image["page"], "status": "ok"}
        row |= {"x_min": x_min, "y_min": y_min, "x_max": x_max, "y_max": y_max}
        row |= {"width": x_max - x_min, "height": y_max - y_min}
        try:
            crop = np.ascontiguousarray(pixels[y_min:y_max, x_min:x_max])
            content = encode(crop, suffix, bilevel, settings["jpeg_quality"])
        except ValueError as error:
            outcome = failed(STAGE, "unsupported", str(error))
            del outcome["stage"]
            row, content = row | outcome, b""
        # The class's name may be anything; a file's name may not.
        name = quote(row["class_name"], safe=" ")[:100]
        row["path"] = f"{image['page']:04d}/{row['detection']:04d}-{name}.{suffix}"
        crops.append((row, content))
    return crops


def _unusable(path: Path, image: Mapping[str, Any], why: str) -> UserError:
    return page_image_error(path, image["document"], image["page"], why, Path.cwd())


def crop_documents(
    documents: Sequence[Work],
    store: StageStore,
    threads: int,
    progress: Progress,
    renderer: Renderer,
    keep: bool,
) -> None:
    """Write the crops of `documents`, each with its record.

    Page images that were dropped come from `renderer`; without `keep`, the others are dropped once the
    crops are recorded.
    """
    cv2.setNumThreads(1)  # The documents run in parallel already.
    with ThreadPoolExecutor(threads) as executor:
        futures = [
            executor.submit(_crop_document, work, store, renderer, keep) for work in documents
        ]
        try:
            for work, future in zip(documents, futures, strict=True):
                future.result()
                progress.document(work.document, "computed", 1, work.images.num_rows)
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _crop_document(work: Work, store: StageStore, renderer: Renderer, keep: bool) -> None:
    pages = by_page(_wanted_regions(work, store.settings["classes"]))
    images = [image for image in work.images.to_pylist() if image["page"] in pages]
    with (
        store.replace(work.document, work.wanted) as draft,
        renderer.images(images, draft.temporary) as readable,
    ):
        pieces = _pieces(work.document, readable, pages, store, draft)
        # Files must lie there before the record names them; bytes would not all fit into memory.
        rows = list(pieces) if store.settings["store"] == "files" else pieces
        draft.commit({}, record_rows=rows)
    if not keep:
        drop_images(store.results, work.document)


def _wanted_regions(work: Work, classes: Sequence[str] | None) -> pa.Table:
    """The document's regions of the classes to crop."""
    if classes is None:
        return work.regions
    wanted = pa.compute.is_in(work.regions["class_name"], pa.array(classes, pa.string()))
    return work.regions.filter(wanted)


def _pieces(
    document: str,
    images: Sequence[Mapping[str, Any]],
    pages: Mapping[int, pa.Table],
    store: StageStore,
    draft: Draft,
) -> Iterator[pa.Table]:
    """The rows of the document's record, page by page."""
    settings = store.settings
    yield SCHEMAS["crop_images"].empty_table()
    for image in images:
        rows = []
        crops = crop_page(image, pages[image["page"]], store.results, settings)
        for row, content in crops:
            name = row.pop("path")
            if row["status"] != "ok":
                row["image"] = None
            elif settings["store"] == "files":
                path = draft.files / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
                final = store.folder(document) / "crops" / name
                path_in_results = final.relative_to(store.results).as_posix()
                row["image"] = {"bytes": None, "path": path_in_results}
            else:
                row["image"] = {"bytes": content, "path": None}
            rows.append(row)
        yield from_rows("crop_images", rows)


def dataset_rows(store: StageStore, document: str) -> pa.Table:
    """A record's rows as the dataset has them: without the bytes, `path` in place of `image`."""
    names = [name for name in SCHEMAS["crops"].names if name != "path"]
    table = store.read(document, "crop_images", [*names, "image.path"])
    path = pa.compute.struct_field(table["image"], "path")
    return table.select(names).append_column("path", path).cast(SCHEMAS["crops"])
