"""A model judged by annotated pages: what it finds there, classes by name, sizes."""

import cv2
import numpy as np
import pytest
from detecting import HALF, SETTINGS, SHIPPED, SIZES, draw_pages

from scanmill.detector import Detector
from scanmill.errors import UserError
from scanmill.evaluation_job import (
    JudgedModel,
    compare_sizes,
    detect_truth,
    in_classes_of,
)

CLASSES = ["text", "title", "list", "table", "figure"]


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Two pages without annotations; a COCO dict and their folder."""
    folder = tmp_path_factory.mktemp("pages")
    images = []
    for number, page in enumerate(draw_pages(folder, 2), 1):
        cv2.imwrite(str(folder / f"{number}.png"), page)
        height, width = page.shape
        images.append(
            {"id": 10 * number, "file_name": f"{number}.png", "width": width, "height": height}
        )
    return {"images": images, "annotations": [], "categories": []}, folder


def test_every_detection_is_judged_in_pixels_of_its_page(truth):
    content, folder = truth
    detector = Detector(SHIPPED, {**SETTINGS, "score_floor": 0.01}, "cpu")
    found = detect_truth(detector, content, folder, 2)
    assert set(found["image_id"].to_pylist()) == {10, 20}
    assert min(found["score"].to_pylist()) < 0.5
    [page, _] = detector.detect_raw([folder / "1.png", folder / "2.png"], 2)
    mine = [
        score
        for i, score in zip(found["image_id"].to_pylist(), found["score"].to_pylist(), strict=True)
        if i == 10
    ]
    assert mine == page["score"].to_pylist()
    assert np.max(found["x_max"].to_pylist()) <= content["images"][0]["width"]


def test_page_that_cannot_be_read_is_named(truth, tmp_path):
    content, _ = truth
    (tmp_path / "1.png").write_text("text")
    detector = Detector(SHIPPED, SETTINGS, "cpu")
    with pytest.raises(UserError, match=r"1\.png: "):
        detect_truth(detector, content, tmp_path, 1)


def test_classes_are_matched_by_name(caplog):
    annotations = [{"id": i, "category_id": i, "bbox": [0, 0, 1, 1]} for i in (1, 2, 3)]
    categories = [{"id": i, "name": n} for i, n in enumerate(["table", "stamp", "text"], 1)]
    truth = {"images": [], "annotations": annotations, "categories": categories}
    judged = in_classes_of(truth, CLASSES, "test.json")
    assert [each["name"] for each in judged["categories"]] == CLASSES
    assert [(a["id"], a["category_id"]) for a in judged["annotations"]] == [(1, 4), (3, 1)]
    assert "the model has no class stamp" in caplog.text
    with pytest.raises(UserError, match=r"test\.json has the classes table, stamp, text, .* none"):
        in_classes_of(truth, ["row"], "test.json")


def test_sizes_are_judged_each_by_itself(truth, caplog):
    caplog.set_level("INFO")
    content, folder = truth
    detector = Detector(SHIPPED, {**SETTINGS, "score_floor": 0.05}, "cpu")
    found = detect_truth(detector, content, folder, 2).to_pylist()
    annotations = [
        {
            "id": place,
            "image_id": each["image_id"],
            "category_id": each["class_id"] + 1,
            "bbox": [each["x_min"], each["y_min"], each["x_max"] - each["x_min"],
                     each["y_max"] - each["y_min"]],
            "iscrowd": 0,
            "segmentation": [],
        }
        for place, each in enumerate(found, 1)
    ]  # fmt: skip
    categories = [{"id": place, "name": name} for place, name in enumerate(CLASSES, 1)]
    images = [{**each, "document": "a", "page": 1} for each in content["images"]]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    model = JudgedModel(SHIPPED, {**SETTINGS, "score_floor": 0.05}, "cpu")
    (shortest, longest), half = SIZES, tuple(HALF.values())
    small, own = compare_sizes(
        model, [half[0], shortest], longest / shortest, whole, folder, 2, samples=0
    )
    assert (small.min_size, small.max_size) == half
    assert (own.min_size, own.max_size) == SIZES
    # What it finds at its own size is the truth here.
    assert own.metrics["box_AP"].value == pytest.approx(1)
    assert small.metrics["box_AP"].value < 0.9
    assert small.pages_per_second > 0
    assert own.memory > 100
    assert f"pages of {half[0]} / {half[1]} px: box_AP" in caplog.text
