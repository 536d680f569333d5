"""Write synthetic page images and their annotations: COCO of train, val and test pages.

    python scripts/make_annotated_pages.py --output pages --pages 96 24 60

Pages are set as those of the demo archive, in documents of two, and lie askew by up to 6 degrees: a
region is a turned rectangle, and its box is looser. Half of the pictures are vignettes, whose
outlines are ellipses or blobs. Lists count as text, so that the classes are not those of the shipped
model. The same seed gives the same bytes.
"""

import argparse
import hashlib
import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
from make_demo_archive import A4, LETTER, Region, age_page, draw_document

from scanmill.annotations import annotate
from scanmill.augmentation import rotate
from scanmill.errors import UserError
from scanmill.maintenance import run_tool

CLASSES = ("text", "title", "table", "figure")
SPLITS = ("train", "val", "test")
#: Pages of the splits, by default.
PAGES = (96, 24, 60)
PAGES_PER_DOCUMENT = 2
#: Pixels of a page's shorter side.
SIDE = 600
#: Degrees by which pages lie askew, at most.
ASKEW = 6.0
#: Share of pictures that are vignettes, corners of their outlines, grey of the ground they stand on.
VIGNETTES, CORNERS, GROUND = 0.5, 40, 0.82
JPEG_QUALITY = 85
#: Decimals of pixels that are kept of outlines.
DECIMALS = 2


def draw_page(
    page: pypdfium2.PdfPage, regions: Sequence[Region], rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A page as it is scanned, (H, W) uint8, and the outline of each region, (P, 2) in its pixels."""
    size = page.get_size()
    bitmap = page.render(scale=SIDE / min(size), grayscale=True)
    pixels = bitmap.to_numpy().squeeze().copy()
    height, width = pixels.shape
    zoom = np.array([width / size[0], height / size[1]])
    outlines = []
    for class_name, *box in regions:
        low, high = np.array(box[:2]) * zoom, np.array(box[2:]) * zoom
        unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
        vignette = class_name == "figure" and rng.random() < VIGNETTES
        if vignette:
            unit = draw_blob(rng)
        outlines.append(low + unit * (high - low))
        if vignette:
            cut_vignette(pixels, outlines[-1], rng.random() < 0.5)
    flat = [[outline.reshape(-1)] for outline in outlines]
    boxes = np.zeros((len(flat), 4), np.float32)
    turned, _, moved = rotate(pixels, boxes, flat, rng.uniform(-ASKEW, ASKEW))
    limits = (width, height)
    return age_page(rng, turned), [each.reshape(-1, 2).clip(0, limits) for [each] in moved]


def draw_blob(rng: np.random.Generator) -> np.ndarray:
    """An outline that fills the unit square, (CORNERS, 2): an ellipse's, or with bays."""
    turn = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False)
    depth = 0.25 if rng.random() < 0.5 else 0.0
    radius = 1 + depth * sum(
        np.cos(wave * turn + rng.uniform(0, 2 * math.pi)) / wave for wave in range(2, 6)
    )
    points = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    return (points - points.min(axis=0)) / np.ptp(points, axis=0)


def cut_vignette(pixels: np.ndarray, outline: np.ndarray, rim: bool) -> None:
    """Leave of a picture what is within its outline (P, 2), on a grey ground; its box becomes paper."""
    left, top = np.floor(outline.min(axis=0)).astype(int)
    right, bottom = np.ceil(outline.max(axis=0)).astype(int)
    box = pixels[top:bottom, left:right]
    corners = np.rint(outline - (left, top)).astype(np.int32)
    inside = cv2.fillPoly(np.zeros(box.shape, np.uint8), [corners], 1).astype(bool)
    box[:] = np.where(inside, (box * GROUND).astype(np.uint8), 255)
    if rim:
        cv2.polylines(box, [corners], True, 40, 1, cv2.LINE_AA)


def draw_pages(count: int, split: str, first: int, seed: int) -> Iterator[tuple[dict, bytes, list]]:
    """`count` pages in documents numbered from `first`: image's entry without id, JPEG, regions as
    (class id, outline)."""
    for index in range(math.ceil(count / PAGES_PER_DOCUMENT)):
        pages = min(PAGES_PER_DOCUMENT, count - index * PAGES_PER_DOCUMENT)
        number = first + index
        printed, known = draw_document(pages, 1000 * seed + number, (A4, LETTER)[number % 2 :][:1])
        name = f"{split}-{index + 1:03d}"
        with pypdfium2.PdfDocument(printed) as document:
            for page, regions in known:
                rng = np.random.default_rng([seed, number, page])
                pixels, outlines = draw_page(document[page - 1], regions, rng)
                quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
                data = cv2.imencode(".jpg", pixels, quality)[1].tobytes()
                classes = ["text" if each[0] == "list" else each[0] for each in regions]
                ids = [CLASSES.index(each) + 1 for each in classes]
                image = {
                    "file_name": f"{name}-{page}.jpg",
                    "width": pixels.shape[1],
                    "height": pixels.shape[0],
                    "document": name,
                    "page": page,
                    "sha256": hashlib.sha256(data).hexdigest(),
                }
                yield image, data, list(zip(ids, outlines, strict=True))


def make_pages(folder: Path, pages: Sequence[int] = PAGES, seed: int = 0) -> None:
    """Write `folder`: images/, train.json, val.json, test.json, as `prepare_dataset` writes them.

    `pages` are those of each split. No document is in two of them. The folder gets its name when it is
    complete; raises UserError where it already is.
    """
    if folder.exists():
        raise UserError(f"{folder} already exists: delete it, or choose another folder.")
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "images").mkdir(parents=True)
    categories = [{"id": place, "name": name} for place, name in enumerate(CLASSES, 1)]
    images = objects = documents = 0
    for split, count in zip(SPLITS, pages, strict=True):
        info = {"description": f"Scanmill, synthetic, {split}", "images": str(folder / "images")}
        content: dict = {"info": info, "images": [], "annotations": [], "categories": categories}
        for image, data, regions in draw_pages(count, split, documents, seed):
            images += 1
            (draft / "images" / image["file_name"]).write_bytes(data)
            content["images"].append({"id": images, **image})
            for category_id, outline in regions:
                objects += 1
                entry = annotate(objects, images, category_id, outline, DECIMALS)
                content["annotations"].append(entry)
        documents += math.ceil(count / PAGES_PER_DOCUMENT)
        (draft / f"{split}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    draft.rename(folder)


def describe(folder: Path) -> Mapping[str, int]:
    """Pages by split."""
    contents = {split: json.loads((folder / f"{split}.json").read_text()) for split in SPLITS}
    return {split: len(content["images"]) for split, content in contents.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the folder to make")
    parser.add_argument(
        "--pages",
        type=int,
        nargs=3,
        default=PAGES,
        metavar=("TRAIN", "VAL", "TEST"),
        help=f"pages of each split (default: {' '.join(map(str, PAGES))})",
    )
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other pages")
    given = parser.parse_args()
    make_pages(given.output, given.pages, given.seed)
    written = ", ".join(f"{split} {count}" for split, count in describe(given.output).items())
    print(f"{given.output}: {written} pages")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
