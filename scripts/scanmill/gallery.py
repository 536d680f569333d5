"""Pictures of pages, small enough to be part of a report, and their regions beside them."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from scanmill import store
from scanmill.drawing import reduction_to
from scanmill.image_files import Unusable, decode_reduced, read_bytes
from scanmill.regions import BOX_COLUMNS
from scanmill.survey import ShownPage
from scanmill.tables import INK_CELLS

#: Pixels of a picture's longer side, at which headings can be read and columns told apart, and the
#: quality of its WebP: 15 to 50 kB a page.
PICTURE_SIDE = 720
QUALITY = 35
#: Bytes that pictures and regions may take in the report, so that it opens from a mail, too.
MAX_BYTES = 8_500_000


def gallery(
    pages: Iterable[ShownPage], classes: Sequence[str], results: Path, threads: int
) -> list[dict[str, Any]]:
    """The first of `pages`, as many as MAX_BYTES hold, as plain data for the report's script.

    Of regions: class (its place in `classes`), score in thousandths, box in pixels of the page, place in
    the reading order.
    """
    taken, size = [], 0
    with ThreadPoolExecutor(threads) as executor:
        pages = iter(pages)
        # By handfuls, as only the sizes say how many there will be.
        while handful := list(itertools.islice(pages, 4 * threads)):
            for shown in executor.map(lambda page: _as_data(page, classes, results), handful):
                size += len(json.dumps(shown))
                if size > MAX_BYTES:
                    return taken
                taken.append(shown)
    return taken


def _as_data(page: ShownPage, classes: Sequence[str], results: Path) -> dict[str, Any]:
    row = page.row
    picture, note = _picture(page, results)
    return {
        "document": row["document"],
        "page": row["page"],
        "width": row["width"],
        "height": row["height"],
        "image": row["image"],
        "flags": row["flags"],
        "regions": [list(_region(region, classes)) for region in page.regions],
        "picture": picture,
        "note": note,
    }


def _region(region: dict[str, Any], classes: Sequence[str]) -> Iterator[int]:
    yield classes.index(region["class_name"])
    yield round(1000 * region["score"])
    x_min, y_min, x_max, y_max = (round(region[name]) for name in BOX_COLUMNS)
    yield from (x_min, y_min, x_max - x_min, y_max - y_min)
    yield region["region"]


def _picture(page: ShownPage, results: Path) -> tuple[str, str]:
    """A picture as a data URI, and what there is to say of it."""
    row = page.row
    if store.are_dropped(results, row["document"]):
        return _ink(
            page.ink
        ), "The page image was not kept (images.keep): this is its ink in cells."
    try:
        data = read_bytes(results / row["image"], row["sha256"])
        reduction = reduction_to(max(row["width"], row["height"]), PICTURE_SIDE)
        pixels = decode_reduced(data, reduction, grey=False)
        if pixels is None:
            raise Unusable("it cannot be decoded")
    except Unusable as fault:
        return _ink(
            page.ink
        ), f"The page image cannot be shown ({fault}): this is its ink in cells."
    scale = min(1.0, PICTURE_SIDE / max(pixels.shape[:2]))
    size = [max(1, round(scale * side)) for side in pixels.shape[1::-1]]
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return _data_uri("webp", small, [cv2.IMWRITE_WEBP_QUALITY, QUALITY]), ""


def _ink(ink: bytes | None) -> str:
    """The cells of a page as a picture; white where nothing was measured."""
    cells = np.zeros(INK_CELLS**2, np.uint8) if ink is None else np.frombuffer(ink, np.uint8)
    return _data_uri("png", 255 - cells.reshape(INK_CELLS, INK_CELLS), [])


def _data_uri(kind: str, pixels: np.ndarray, options: Sequence[int]) -> str:
    data = cv2.imencode(f".{kind}", pixels, options)[1]
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
