"""COCO's matches: those of pycocotools, without its cut, counted again without matching."""

import copy

import numpy as np
import pyarrow as pa
import pytest
from evaluated import (
    coco_stats,
    make_detections,
    make_truth,
    perturb,
    plain_coco,
    random_truth,
)

from scanmill.errors import UserError
from scanmill.matching import (
    class_matches,
    class_precision,
    encode_mask,
    match_objects,
    max_detections,
    read_detections,
    read_truth,
    resample,
)


def read(truth, detections, min_size=0, max_size=0):
    classes, pages, objects = read_truth(truth, min_size, max_size)
    return objects, read_detections(detections, classes, pages), pages, len(classes)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


@pytest.mark.parametrize("levels", [None, 7])
@pytest.mark.parametrize("crowds", [0, 0.2])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_numbers_are_those_of_pycocotools(kind, crowds, levels, seed):
    truth = random_truth(seed=seed, masks=kind == "segm", crowds=crowds, twins=True)
    detections = perturb(truth, seed, masks=kind == "segm", levels=levels)
    ours = match_objects(*read(truth, detections), kind)
    theirs = plain_coco(truth, detections, kind)
    for key in ("precision", "recall", "scores"):
        np.testing.assert_allclose(
            ours.eval[key][..., 0], theirs.eval[key][..., -1], atol=1e-12, err_msg=key
        )
    assert 0.1 < theirs.stats["AP"] < 0.9
    assert_equal(coco_stats(ours), theirs.stats)


def test_sizes_are_those_of_resized_pages():
    truth, detections = random_truth(seed=3), perturb(random_truth(seed=3), 3)
    scale = {
        image["id"]: 500 / 1000 if image["width"] == 1000 else 600 / 3000
        for image in truth["images"]
    }
    ours = coco_stats(match_objects(*read(truth, detections, 500, 600)))
    assert_equal(ours, plain_coco(truth, detections, scale=scale).stats)
    original = plain_coco(truth, detections).stats
    assert ours["AP"] == pytest.approx(original["AP"], abs=1e-9)
    assert ours["AP_medium"] != pytest.approx(original["AP_medium"], abs=0.01)
    # 0 leaves pages as they are.
    assert_equal(coco_stats(match_objects(*read(truth, detections))), original)


def test_a_page_of_400_objects_counts_them_all():
    boxes = [(50 * (n % 20), 50 * (n // 20)) for n in range(400)]
    boxes = [(x, y, x + 40, y + 40) for x, y in boxes]
    truth = make_truth(*((1, "text", box) for box in boxes))
    detections = make_detections(*((1, "text", 1 - n / 500, b) for n, b in enumerate(boxes)))
    objects, found, pages, n_classes = read(truth, detections)
    assert max_detections(objects, found) == 400
    stats = coco_stats(match_objects(objects, found, pages, n_classes))
    assert (stats["AP"], stats["AR"]) == (pytest.approx(1), 1)
    assert plain_coco(truth, detections).stats["AR"] == 0.25


def test_detections_beyond_the_objects_are_not_cut_either():
    box = (0, 0, 100, 100)
    wrong = [(1, "text", 1 - n / 1000, (500, 500, 600, 600)) for n in range(250)]
    objects, found, pages, n_classes = read(
        make_truth((1, "text", box)), make_detections(*wrong, (1, "text", 0.1, box))
    )
    assert max_detections(objects, found) == 251
    assert coco_stats(match_objects(objects, found, pages, n_classes))["AR"] == 1


def test_max_detections_is_never_below_that_of_coco():
    objects, found, *_ = read(make_truth((1, "text", (0, 0, 9, 9))), make_detections())
    assert max_detections(objects, found) == 100


def test_annotations_that_count_from_zero_can_be_matched():
    """pycocotools takes id 0 for no match; Label Studio's exports begin with it."""
    truth = make_truth((1, "text", (0, 0, 100, 100)), (1, "text", (200, 200, 300, 300)))
    for each in truth["annotations"]:
        each["id"] -= 1
    detections = make_detections(
        (1, "text", 0.9, (0, 0, 100, 100)), (1, "text", 0.8, (200, 200, 300, 300))
    )
    assert plain_coco(truth, detections).stats["AR"] == 0.5
    assert coco_stats(match_objects(*read(truth, detections)))["AR"] == 1


# Resampling ---------------------------------------------------------------------------------------


def matches_of(truth, detections):
    objects, found, pages, n_classes = read(truth, detections)
    evaluation = match_objects(objects, found, pages, n_classes)
    return [class_matches(evaluation, label) for label in range(n_classes)], pages


def drawn(truth, detections, weights):
    """The pages `weights` times, as pages of their own."""
    images, annotations, rows = [], [], []
    for row, (image, weight) in enumerate(zip(truth["images"], weights, strict=True)):
        for copy_number in range(weight):
            number = 1000 * row + copy_number + 1
            images.append({**image, "id": number})
            for each in truth["annotations"]:
                if each["image_id"] == image["id"]:
                    new = {"id": len(annotations) + 1, "image_id": number}
                    annotations.append({**each, **new})
            for each in detections.to_pylist():
                if each["image_id"] == image["id"]:
                    rows.append({**each, "image_id": number})
    truth = {**truth, "images": images, "annotations": annotations}
    return truth, pa.Table.from_pylist(rows, schema=detections.schema)


@pytest.mark.parametrize("crowds", [0, 0.2])
def test_counting_anew_is_matching_anew(crowds):
    truth = random_truth(pages=8, seed=4, crowds=crowds)
    detections = perturb(truth, 4)
    matches, _ = matches_of(truth, detections)
    rng = np.random.default_rng(0)
    for weights in (np.ones(8, dtype=int), *rng.integers(0, 4, (5, 8))):
        again = plain_coco(*drawn(truth, detections, weights), max_detections=1000)
        for label, each in enumerate(matches):
            ours = class_precision(each, weights)
            assert ours.mean() == pytest.approx(again.stats[f"AP of {label}"], abs=1e-9)
            assert ours[0] == pytest.approx(again.stats[f"AP50 of {label}"], abs=1e-9)
    assert class_precision(matches[0]) == pytest.approx(class_precision(matches[0], np.ones(8)))


def test_documents_are_drawn_whole():
    truth = random_truth(pages=9, seed=5, documents=3)
    matches, pages = matches_of(truth, perturb(truth, 5))
    draws = resample(matches, pages.documents, seed=0, samples=300)
    assert draws.shape == (300, 3, 10)
    # Of three documents there are ten sets.
    assert len(np.unique(draws[:, 0].mean(axis=1).round(12))) == 10
    alone = [str(page) for page in range(9)]
    assert len(np.unique(resample(matches, alone, 0, 300)[:, 0].mean(axis=1).round(12))) > 250


def test_draws_depend_on_the_seed_alone():
    truth = random_truth(pages=6, objects=6)
    matches, pages = matches_of(truth, perturb(truth))
    first, second, other = (resample(matches, pages.documents, seed, 20) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other, equal_nan=True)


def test_one_document_has_no_interval():
    truth = random_truth(pages=3, objects=6)
    matches, pages = matches_of(truth, perturb(truth))
    assert resample(matches, ["a.pdf"] * 3, 0, 200) is None
    assert resample(matches, pages.documents, 0, 0) is None


# Input --------------------------------------------------------------------------------------------


def test_input_is_left_as_it_was():
    truth = random_truth(pages=2, objects=6, masks=True)
    before = copy.deepcopy(truth)
    match_objects(*read(truth, perturb(truth, masks=True)), "segm")
    assert truth == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 7}, "1 images that the annotations do not list, such as image 7"),
        ({"score": float("nan")}, "1 detections have no number as their score, the first on 1.png"),
        ({"x_max": float("inf")}, "no number as their x_max"),
        ({"class_id": 3}, "class 3 `text`"),
        ({"class_id": 1}, "call class 1 `text`; the annotations' classes are 0 `text`, 1 `title`"),
        ({"score": None}, "rows without score"),
    ],
)
def test_detections_that_do_not_fit_say_why(change, message):
    truth = make_truth((1, "text", (0, 0, 9, 9)))
    rows = make_detections((1, "text", 0.5, (0, 0, 9, 9))).to_pylist()
    table = pa.Table.from_pylist([rows[0] | change], schema=make_detections().schema)
    with pytest.raises(UserError, match=message):
        read(truth, table)


def test_detections_without_a_column_say_which():
    with pytest.raises(UserError, match="no column x_min, polygon"):
        read(make_truth(), make_detections().drop_columns(["x_min", "polygon"]))


def edited(**changes):
    truth = make_truth((1, "text", (0, 0, 9, 9)))
    truth["annotations"][0] |= changes
    return truth


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (edited(image_id=5), "Annotation 1 is of image 5"),
        (edited(category_id=0), "Annotation 1 of 1.png has category 0"),
        (edited(bbox=[0, 0, -4, 9]), r"Annotation 1 of 1.png has the bbox \[0, 0, -4, 9\]"),
        (edited(bbox=[0, 0, 9]), "bbox"),
        ({**make_truth(), "images": []}, "no page"),
        ({**make_truth(), "images": make_truth()["images"] * 2}, "same id"),
        ({**make_truth(), "categories": []}, "number them"),
        (
            {**make_truth(), "categories": [{"id": 0, "name": "text"}]},
            r"ids \[0\]: number them 1 to",
        ),
        (make_truth(classes=("text", "text")), "share a name"),
        (make_truth(size=(0, 10)), "1.png is 0 x 10 pixels"),
    ],
)
def test_truth_that_cannot_be_used_says_why(truth, message):
    with pytest.raises(UserError, match=message):
        read_truth(truth, 800, 1333)


def test_masks_come_from_polygons_runs_or_boxes():
    image = {"width": 20, "height": 10}
    square = [2, 2, 6, 2, 6, 6, 2, 6]
    mask = encode_mask([square], [0, 0, 20, 10], image)
    runs = {"size": [10, 20], "counts": [10, 20, 170]}
    assert encode_mask(mask, [0, 0, 1, 1], image) == mask
    assert encode_mask([], [2, 2, 4, 4], image) == mask
    assert encode_mask([[2, 2, 6, 6]], [2, 2, 4, 4], image) == mask
    assert encode_mask(runs, [0, 0, 1, 1], image)["size"] == [10, 20]
