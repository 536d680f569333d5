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

from scanmill.annotations import annotate, outline_area
from scanmill.augmentation import clip_polygon
from scanmill.layouts import KINDS, compose_page
from scanmill.progress import logger
from scanmill.scanning import as_grey, scan_page
from scanmill.sheets import Materials
from scanmill.typesetting import SetRegion, Typesetter

#: PubLayNet's classes in PubLayNet's order.
CLASSES = ("text", "title", "list", "table", "figure")
#: Pixels of a page's shorter side, at most: detectors of this kind are trained on fewer.
SIDE = 780
#: Share of pages that stand on their heads: detectors are not to read them.
OVERTURNED = 0.006
#: A region of which less is in the picture is none.
LEAST_OF_REGION = 0.5
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
    scanned: bool = True,
) -> tuple[SyntheticPage, np.ndarray]:
    """The page of a seed; and the same before it was scanned, (H, W), to show through the next one."""
    rng = np.random.default_rng(seed)
    done = None
    while done is None:
        page = compose_page(materials, rng, kinds)
        done = typesetter.set_page(page.html, page.width, page.height)
    pixels, regions = done
    zoom = min(1.0, SIDE / min(pixels.shape[:2]))
    if zoom < 1:
        pixels = cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    clean = as_grey(pixels, rng)
    outlines = [region.outline * zoom for region in regions]
    if not scanned:
        kept = [
            SetRegion(each.class_name, line) for each, line in zip(regions, outlines, strict=True)
        ]
        return SyntheticPage(page.kind, page.script, clean, kept), clean
    scan = scan_page(clean, outlines, rng, other)
    height, width = scan.pixels.shape
    kept = []
    for region, outline in zip(regions, scan.outlines, strict=True):
        inside = clip_polygon(outline.reshape(-1), np.array([0, 0, width, height])).reshape(-1, 2)
        if len(inside) >= 3 and outline_area(inside) >= max(
            4.0, LEAST_OF_REGION * outline_area(outline)
        ):
            kept.append(SetRegion(region.class_name, inside.astype(np.float64)))
    image = scan.pixels
    if rng.random() < OVERTURNED:
        image, kept = np.ascontiguousarray(image[::-1, ::-1]), []
    return SyntheticPage(page.kind, page.script, image, kept), clean


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
