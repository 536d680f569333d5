"""From annotated pages to a model folder: configs, judging, classes by name."""

import cv2
import numpy as np
import pytest
from detecting import SETTINGS, SHIPPED, draw_pages

from scanmill.detector import Detector
from scanmill.errors import UserError
from scanmill.model_folders import read_card
from scanmill.training_job import TrainingJob, _base_config, _digest, detect_truth, in_classes_of

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
    detector = Detector(SHIPPED, {**SETTINGS, "score_floor": 0.05}, "cpu")
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


def job(**changed):
    plain = TrainingJob("mine", {"train": {}, "val": {}}, SHIPPED, None, (), 1)
    return plain._replace(**changed)


def test_config_is_that_of_the_model_to_start_from_or_the_one_that_is_named():
    card = read_card(SHIPPED)
    assert _base_config(job(overrides=("SEED", 3)), card).INPUT.MIN_SIZE_TEST == 448
    named = _base_config(job(config="mask_rcnn_R_50_FPN_3x.yaml", start=None), None)
    assert named.MODEL.RESNETS.DEPTH == 50
    with pytest.raises(UserError, match=r"training\.config is not set"):
        _base_config(job(start=None), None)
    with pytest.raises(UserError, match=r"training\.config is not set"):
        _base_config(job(), {**card, "kind": "backbone"})
    wrong = ("MODEL.PIXEL_STD", [57.375, 57.12, 58.395])
    with pytest.raises(UserError, match="the backbone ImageNet-R-50 needs"):
        _base_config(job(config="mask_rcnn_R_50_FPN_3x.yaml", overrides=wrong), card)


def test_digest_is_of_what_decides_the_model(tmp_path):
    card = read_card(SHIPPED)
    config = _base_config(job(), card)
    one = _digest(job(), config, card)
    assert _digest(job(name="other", strict=True, start=tmp_path), config, card) == one
    for other in (
        _digest(job(seed=1), config, card),
        _digest(job(truth={"train": {"images": [1]}, "val": {}}), config, card),
        _digest(job(), _base_config(job(overrides=("SEED", 3)), card), card),
        _digest(job(), config, None),
    ):
        assert other != one
