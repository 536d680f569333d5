"""Synthetic pages with exact regions: composed, set in type, scanned, and written as COCO.

A page depends on its seed and number alone, and on the materials and typefaces that are installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from scanmill.annotations import annotate, polygon_area
from scanmill.augmentation import clip_polygon
from scanmill.errors import UserError
from scanmill.layouts import KINDS, compose_page
from scanmill.progress import logger
from scanmill.scanning import as_grey, scan_page
from scanmill.sheets import Materials, Page
from scanmill.typesetting import SetRegion, Typesetter

#: PubLayNet's classes in PubLayNet's order.
CLASSES = ("text", "title", "list", "table", "figure")
#: Pixels of an image's shorter side, at most: detectors of this kind are trained on fewer.
SIDE = 780
#: Share of pages that stand on their heads: detectors are not to read them.
OVERTURNED = 0.006
#: Kinds of pages that are scanned two by two, and how often.
BOUND, SPREADS = ("book", "dictionary", "cover", "plate"), 0.15
#: Share of the pixels of a line of type that differ from its ground, by so much, at least.
LEAST_INK, CONTRAST = 0.01, 40
#: The same of pages that were scanned, of whose ink light and age leave little.
FAINT = 20
#: A region of which less is in the picture is none.
LEAST_OF_REGION = 0.5
#: Square pixels of a region, at least.
SMALLEST = 4.0
#: So many pages in a row that cannot be set are no chance.
ATTEMPTS = 50
JPEG_QUALITY = 85


class SyntheticPage(NamedTuple):
    """A page and what is known of it."""

    kind: str
    script: str
    pixels: np.ndarray
    """(H, W) uint8."""
    regions: list[SetRegion]


def make_page(
    typesetter: Typesetter,
    materials: Materials,
    seed: Sequence[int],
    other: np.ndarray | None = None,
    kinds: Sequence[str] = tuple(KINDS),
) -> tuple[SyntheticPage, np.ndarray]:
    """The page of a seed; and the same before it was scanned, (H, W), to show through the next one."""
    rng = np.random.default_rng(seed)
    page, pixels, regions = _set_page(typesetter, materials, rng, kinds)
    if page.kind in BOUND and rng.random() < SPREADS:
        _, right, more = _set_page(typesetter, materials, rng, (page.kind,))
        pixels, regions = _open_book((pixels, regions), (right, more), rng)
    zoom = min(1.0, SIDE / min(pixels.shape[:2]))
    if zoom < 1:
        pixels = cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    clean = as_grey(pixels, rng)
    outlines = [region.outline * zoom for region in regions]
    scan = scan_page(clean, outlines, rng, other)
    height, width = scan.pixels.shape
    kept = []
    for region, outline in zip(regions, scan.outlines, strict=True):
        whole = outline.reshape(-1)
        inside = clip_polygon(whole, np.array([0, 0, width, height])).astype(np.float64)
        least = max(SMALLEST, LEAST_OF_REGION * polygon_area(whole.tolist()))
        if inside.size < 6 or polygon_area(inside.tolist()) < least:
            continue
        found = SetRegion(region.class_name, inside.reshape(-1, 2))
        # Black and white may leave nothing of it.
        if _has_ink(scan.pixels[:, :, None], found, FAINT):
            kept.append(found)
    image = scan.pixels
    if rng.random() < OVERTURNED:
        image, kept = np.ascontiguousarray(image[::-1, ::-1]), []
    return SyntheticPage(page.kind, page.script, image, kept), clean


def _set_page(
    typesetter: Typesetter, materials: Materials, rng: np.random.Generator, kinds: Sequence[str]
) -> tuple[Page, np.ndarray, list[SetRegion]]:
    """A page, its pixels (H, W, 3), its regions. Raises UserError where no page can be set."""
    for _ in range(ATTEMPTS):
        page = compose_page(materials, rng, kinds)
        done = typesetter.set_page(page.html, page.width, page.height)
        if done and all(_has_ink(done[0], region) for region in done[1]):
            return page, *done
    raise UserError(
        f"Of {ATTEMPTS} pages none could be set so that its type is seen: do the typefaces that "
        "fontconfig names have shapes that Chromium draws?"
    )


def _has_ink(pixels: np.ndarray, region: SetRegion, contrast: int = CONTRAST) -> bool:
    """Whether type is seen where it is set, on pixels (H, W, C): some faces have no shape for signs that
    they claim to have, and some grounds have the colour of the ink."""
    if region.class_name in ("table", "figure"):
        return True
    (left, top), (right, bottom) = region.outline.min(axis=0), region.outline.max(axis=0)
    box = pixels[int(top) : int(bottom) + 1, int(left) : int(right) + 1].astype(np.int16)
    ground = np.median(box, axis=(0, 1))
    return bool((np.abs(box - ground).max(axis=2) > contrast).mean() >= LEAST_INK)


def _open_book(
    left: tuple[np.ndarray, list[SetRegion]],
    right: tuple[np.ndarray, list[SetRegion]],
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[SetRegion]]:
    """Two pages as they lie in an open book, the right one as high as the left, the spine in shadow."""
    pixels, regions = left
    height, width = pixels.shape[:2]
    zoom = height / right[0].shape[0]
    beside = cv2.resize(
        right[0], (round(zoom * right[0].shape[1]), height), interpolation=cv2.INTER_AREA
    )
    both = np.hstack([pixels, beside])
    away = np.abs(np.arange(both.shape[1], dtype=np.float32) - width) / width
    shadow = 1 - rng.uniform(0, 0.7) * np.exp(-away * rng.uniform(15, 60))
    both = (both * shadow[None, :, None]).astype(np.uint8)
    moved = [each._replace(outline=each.outline * zoom + np.array([width, 0])) for each in right[1]]
    return both, [*regions, *moved]


def part_seed(part: str, seed: int) -> int:
    """The seed of a part of the pages, such as train-003: no two parts have the same pages."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{part}".encode()).digest()[:6], "big")


def synthesize_pages(
    materials: Materials, folder: Path, name: str, count: int, seed: int
) -> Mapping[str, int]:
    """Write `count` pages as `folder`/`name`/*.jpg and `folder`/`name`.json (COCO).

    The same seed and materials give the same pages. The JSON comes last: without it, the pages are to be
    made again. Returns how many regions there are of each class.
    """
    images = folder / name
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(parents=True)
    content: dict[str, Any] = {
        "info": {"description": f"Scanmill, synthetic pages, seed {seed}"},
        "images": [],
        "annotations": [],
        "categories": [{"id": place, "name": each} for place, each in enumerate(CLASSES, 1)],
    }
    counts: Counter[str] = Counter()
    for number, page in enumerate(_pages(materials, count, seed), 1):
        file_name = f"{name}/{number:05d}.jpg"
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        cv2.imwrite(str(folder / file_name), page.pixels, quality)
        height, width = page.pixels.shape
        content["images"].append(
            {
                "id": number,
                "file_name": file_name,
                "width": width,
                "height": height,
                "document": f"{name}-{number:05d}",
                "kind": page.kind,
                "script": page.script,
            }
        )
        for region in page.regions:
            counts[region.class_name] += 1
            category = CLASSES.index(region.class_name) + 1
            entry = annotate(len(content["annotations"]) + 1, number, category, region.outline)
            content["annotations"].append(entry)
        if number % 100 == 0:
            logger.info("%s: %d of %d pages", name, number, count)
    draft = folder / f".{name}.tmp"
    draft.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    os.replace(draft, folder / f"{name}.json")
    return counts


def _pages(materials: Materials, count: int, seed: int) -> Iterator[SyntheticPage]:
    other = None
    with Typesetter() as typesetter:
        for number in range(count):
            page, other = make_page(typesetter, materials, (seed, number), other)
            yield page
