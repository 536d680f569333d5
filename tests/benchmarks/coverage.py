"""How much of the annotated text of pages a model's text regions cover, and what they cover beside it.

    python tests/benchmarks/coverage.py --truth coco.json --images FOLDER --text paragraph caption \\
        [--tiles 5000 1200]

For OCR that counts more than whether regions are cut as the annotators cut them. Text regions are those
of text, title and list from `--min-score` on; areas are counted on a grid of `CELL` pixels.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import scanmill.torch_setup  # noqa: F401

# isort: split
import cv2
import numpy as np
import torch

from scanmill.detector import Detector
from scanmill.training_job import VALIDATION

TEXT = ("text", "title", "list")
#: Pixels of the page image to a cell.
CELL = 8


def paint(outlines: Iterable[np.ndarray], height: int, width: int) -> np.ndarray:
    """Which cells (H / CELL, W / CELL) lie within outlines (P, 2), in pixels."""
    mask = np.zeros((height // CELL + 1, width // CELL + 1), np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [np.rint(outline / CELL).astype(np.int32)], 1)
    return mask.astype(bool)


def corners(x_min: float, y_min: float, x_max: float, y_max: float) -> np.ndarray:
    """A box as an outline."""
    return np.array([[x_min, y_min], [x_max, y_min], [x_max, y_max], [x_min, y_max]])


def annotated(truth: dict, image: dict, names: set[str]) -> list[np.ndarray]:
    """The outlines of an image's annotations of these classes."""
    ids = {each["id"] for each in truth["categories"] if each["name"] in names}
    mine = [
        each
        for each in truth["annotations"]
        if each["image_id"] == image["id"] and each["category_id"] in ids
    ]
    return [
        np.array(part, float).reshape(-1, 2)
        for each in mine
        for part in each["segmentation"] or [corners(*_ends(each["bbox"])).reshape(-1)]
    ]


def _ends(box: list[float]) -> tuple[float, ...]:
    return box[0], box[1], box[0] + box[2], box[1] + box[3]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--truth", type=Path, required=True, help="COCO")
    parser.add_argument("--images", type=Path, required=True, help="the folder of its images")
    parser.add_argument("--text", nargs="+", required=True, help="its classes that are text")
    parser.add_argument("--model", type=Path, default=ROOT / "models/scanmill-layout")
    parser.add_argument("--tiles", type=int, nargs=2, metavar=("SIZE", "OVERLAP"))
    parser.add_argument("--min-score", type=float, default=0.5)
    given = parser.parse_args()
    tiles = dict(zip(("size", "overlap"), given.tiles, strict=True)) if given.tiles else None
    detector = Detector(given.model, {**VALIDATION, "tiles": tiles, "polygons": True})
    truth = json.loads(given.truth.read_text(encoding="utf-8"))
    paths = [given.images / each["file_name"] for each in truth["images"]]
    areas = np.zeros(3)
    tables = detector.detect_raw(paths, torch.get_num_threads())
    for image, table in zip(truth["images"], tables, strict=True):
        shape = image["height"], image["width"]
        found = paint(
            (
                np.array(row["polygon"], float).reshape(-1, 2)
                if row["polygon"]
                else corners(row["x_min"], row["y_min"], row["x_max"], row["y_max"])
                for row in table.to_pylist()
                if row["class_name"] in TEXT and row["score"] >= given.min_score
            ),
            *shape,
        )
        text = paint(annotated(truth, image, set(given.text)), *shape)
        areas += (found & text).sum(), text.sum(), found.sum()
    both, text, found = areas
    print(f"{len(paths)} pages, tiles {given.tiles or 'none'}, score from {given.min_score}")
    print(f"text that is covered: {100 * both / text:.1f} %")
    print(f"covered beside it: {100 * (found - both) / max(found, 1):.1f} % of what is covered")


if __name__ == "__main__":
    main()
