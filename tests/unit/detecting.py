"""Helpers of the tests that detect: models, pages, and how two results are compared."""

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
import pytest
import torch
import yaml

from scanmill.detection import place
from scanmill.model_folders import CONFIG, read_card, read_config, write_card

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from make_demo_archive import write_vector_pdf

SHIPPED = Path(__file__).parents[2] / "models" / "scanmill-layout"
#: Short and longest side of the pages that it takes, in pixels.
SIZES = tuple(
    read_config(SHIPPED / CONFIG)["INPUT"][f"{side}_SIZE_TEST"] for side in ("MIN", "MAX")
)
#: Entries of a config that halve them, where only the way of the rows matters.
HALF = {"INPUT__MIN_SIZE_TEST": SIZES[0] // 2, "INPUT__MAX_SIZE_TEST": SIZES[1] // 2}
SETTINGS = {
    "score_floor": 0.05,
    "max_detections": 1000,
    "tiles": None,
    "precision": "float32",
    "polygons": True,
}
DPI = 100
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def skip_without_bfloat16(device):
    """On a CPU it takes AVX512; without it, `detection.precision: bfloat16` is refused."""
    if device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no instructions for bfloat16")


def copy_model(folder, **config):
    """The shipped model with other entries in its config, its card agreeing."""
    shutil.copytree(SHIPPED, folder)
    values = yaml.safe_load((folder / CONFIG).read_text())
    for key, value in config.items():
        *sections, last = key.split("__")
        block = values
        for section in sections:
            block = block.setdefault(section, {})
        block[last] = value
    (folder / CONFIG).write_text(yaml.safe_dump(values))
    card = read_card(folder)
    card.pop("sha256")
    write_card(folder, **card)
    return folder


def draw_pages(folder, count):
    """Grey A4 pages at 100 dpi, (H, W) uint8."""
    path = folder / "pages.pdf"
    write_vector_pdf(path, count, seed=5)
    with pypdfium2.PdfDocument(path) as document:
        return [
            page.render(scale=DPI / 72, grayscale=True).to_numpy().squeeze().copy()
            for page in document
        ]


def load(detector, image, index=0):
    """A page image as the detector takes it."""
    data = cv2.imencode(".png", image)[1].tobytes()
    return detector.dataset([], Path()).load(index, data, image.shape[1], image.shape[0])


def pixels(detector, image):
    """The pixels of an untiled page."""
    (only,) = load(detector, image).pixels
    return only


def detect(detector, batch, images):
    """What is found on the pages of one batch, and where: tiles, detections."""
    (tiles,) = detector.detect_batches([batch])
    windows = [(0, 0, image.shape[1], image.shape[0]) for image in images]
    return tiles, [place(*each) for each in zip(tiles, windows, strict=True)]


def assert_equal(one, other):
    """Bit for bit: detections."""
    for name in ("boxes", "scores", "class_ids"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert len(one.polygons) == len(other.polygons)
    for a, b in zip(one.polygons, other.polygons, strict=True):
        assert np.array_equal(a, b)


def iou(box, boxes):
    """Of one box (4,) with others (N, 4)."""
    corner, end = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.clip(end - corner, 0, None).prod(axis=1)
    area = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return common / (area - common)


def assert_same_detections(mine, theirs, floor, least_iou=0.99, tolerance=1e-3):
    """Every detection of either that is above the floor by more than the tolerance is one of the other:
    same class, the same box but for 1 % of its area, and score. `mine` and `theirs` are boxes, scores,
    class ids."""
    for one, other in ((mine, theirs), (theirs, mine)):
        boxes, scores, class_ids = one
        sure = np.flatnonzero(scores > floor + tolerance)
        assert len(sure) > 3
        for index in sure:
            same = (other[2] == class_ids[index]) & (np.abs(other[1] - scores[index]) <= tolerance)
            assert same.any(), (boxes[index], scores[index])
            assert iou(boxes[index], other[0][same]).max() >= least_iou
