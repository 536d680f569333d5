"""Kinds of errors, what mending them would gain, confusion."""

import numpy as np
import pytest
from evaluated import CLASSES, make_detections, make_truth, perturb, random_truth

from scanmill.detection_errors import (
    CROWD,
    ERRORS,
    RIGHT,
    count_confusion,
    count_errors,
    find_fates,
    mending_gains,
)
from scanmill.matching import class_matches, match_objects, read_detections, read_truth

BOX = (100, 100, 200, 200)
# Moved to the right by d, an area of 100 x 100 has the IoU (100 - d) / (100 + d) with what it was.
HALF = (130, 100, 230, 200)  # 0.54
POOR = (150, 100, 250, 200)  # 1 / 3
SLIGHT = (185, 100, 285, 200)  # 0.08


def judge(truth, detections):
    classes, pages, objects = read_truth(truth, 0, 0)
    found = read_detections(detections, classes, pages)
    evaluation = match_objects(objects, found, pages, len(classes))
    matches = [class_matches(evaluation, label) for label in range(len(classes))]
    return objects, found, find_fates(objects, found, matches), matches


def kinds(truth, *found):
    return judge(truth, make_detections(*found))[2].kind.tolist()


def counts(truth, detections, selected=None):
    objects, found, fates, _ = judge(truth, detections)
    if selected is None:
        selected = np.ones(len(found.page), dtype=bool)
    errors = count_errors(objects, found, fates, np.array(selected), CLASSES)
    counted = [each for each in errors if each.count or each.selected]
    return {(each.kind, each.class_name): (each.count, each.selected) for each in counted}


def gains(truth, *found):
    objects, found, fates, matches = judge(truth, make_detections(*found))
    return mending_gains(objects, found, fates, matches)


@pytest.mark.parametrize(
    ("name", "box", "kind", "iou"),
    [
        ("text", BOX, RIGHT, 1),
        ("text", HALF, RIGHT, 70 / 130),
        ("title", HALF, "class", 70 / 130),
        ("text", POOR, "location", 1 / 3),
        ("title", POOR, "both", 1 / 3),
        ("text", SLIGHT, "background", 15 / 185),
        ("title", SLIGHT, "background", 15 / 185),
        ("text", (500, 500, 600, 600), "background", 0),
        ("text", (150, 150, 150, 180), "background", 0),  # without area
    ],
)
def test_each_kind(name, box, kind, iou):
    truth = make_truth((1, "text", BOX))
    fates = judge(truth, make_detections((1, name, 0.9, box)))[2]
    assert fates.kind.tolist() == [kind]
    assert fates.iou[0] == pytest.approx(iou, abs=1e-6)
    assert fates.target.tolist() == [-1 if kind in ("background", "both") else 0]


def test_the_second_of_two_is_a_duplicate():
    truth = make_truth((1, "text", BOX))
    assert kinds(truth, (1, "text", 0.8, BOX), (1, "text", 0.9, HALF)) == ["duplicate", RIGHT]
    assert kinds(truth, (1, "text", 0.8, BOX), (1, "title", 0.9, BOX)) == [RIGHT, "class"]


def test_location_comes_before_class_and_class_before_duplicate():
    near = make_truth((1, "text", POOR), (1, "title", BOX))
    assert kinds(near, (1, "text", 0.9, BOX)) == ["location"]
    # As good on a title as on the text that is found already.
    both = make_truth((1, "text", BOX), (1, "title", BOX))
    assert kinds(both, (1, "text", 0.9, BOX), (1, "text", 0.8, BOX)) == [RIGHT, "class"]


def test_what_lies_in_a_crowd_is_no_error():
    truth = make_truth((1, "text", BOX, True))
    assert kinds(truth, (1, "text", 0.9, (110, 110, 130, 130))) == [CROWD]
    assert kinds(truth, (1, "title", 0.9, (110, 110, 130, 130))) == ["background"]
    assert counts(truth, make_detections()) == {}


def test_other_pages_do_not_matter():
    truth = make_truth((1, "text", BOX), pages=3)
    found = [(page, "text", 0.9, BOX) for page in (3, 1, 2)]
    assert kinds(truth, *found) == ["background", RIGHT, "background"]


def test_missed_is_what_nothing_came_near():
    truth = make_truth(
        (1, "text", BOX), (1, "title", (400, 0, 500, 100)), (1, "table", (700, 0, 800, 100))
    )
    found = make_detections(
        (1, "text", 0.9, POOR), (1, "text", 0.8, (400, 0, 500, 100)), (1, "text", 0.7, BOX)
    )
    errors = counts(truth, found)
    assert errors == {("location", "text"): (1, 1), ("class", "text"): (1, 1)} | {
        ("missed", "table"): (1, 1)
    }
    # Below the thresholds a detection is no error, but nor does it find anything.
    assert counts(truth, found, [True, False, False]) == {
        ("location", "text"): (1, 1),
        ("class", "text"): (1, 0),
        ("missed", "title"): (0, 1),
        ("missed", "table"): (1, 1),
    }


# What mending gains -------------------------------------------------------------------------------

PAIR = make_truth((1, "text", BOX), (1, "text", (400, 0, 500, 100)))
FIRST = (1, "text", 0.9, BOX)
HALF_RECALL = 51 / 101  # recalls 0, 0.01 .. 0.50 of COCO's 101


@pytest.mark.parametrize(
    ("found", "kind", "before", "after"),
    [
        ([FIRST], "missed", HALF_RECALL, 1),
        ([FIRST, (1, "text", 0.8, (450, 0, 550, 100))], "location", HALF_RECALL, 1),
        ([FIRST, (1, "title", 0.8, (400, 0, 500, 100))], "class", HALF_RECALL, 1),
        ([FIRST, (1, "text", 0.95, (800, 800, 850, 850))], "background", HALF_RECALL / 2, None),
        ([FIRST, (1, "text", 0.95, HALF)], "duplicate", HALF_RECALL, None),
    ],
)
def test_gain_of_one_error(found, kind, before, after):
    gained = gains(PAIR, *found)
    assert gained[kind] == pytest.approx((after or HALF_RECALL) - before)
    others = {name for name in ERRORS if gained[name] > 1e-12} - {kind, "missed"}
    assert not others


def test_of_several_errors_about_one_object_the_best_is_mended():
    second = (450, 0, 550, 100)
    found = [FIRST, (1, "text", 0.8, second), (1, "text", 0.7, second)]
    assert gains(PAIR, *found)["location"] == pytest.approx(1 - HALF_RECALL)
    # An object that is found already gains nothing by another detection of it, which is removed.
    found = [(1, "text", 0.9, BOX), (1, "text", 0.8, POOR), (1, "text", 0.7, (400, 0, 500, 100))]
    assert gains(PAIR, *found)["location"] == pytest.approx(1 - (51 + 50 * 2 / 3) / 101)


def test_a_class_that_is_wholly_missed():
    truth = make_truth((1, "text", BOX), (1, "title", (400, 0, 500, 100)))
    assert gains(truth, FIRST)["missed"] == pytest.approx(0.5)
    false = (1, "title", 0.5, (800, 800, 900, 900))
    assert gains(truth, FIRST, false)["missed"] == 0


def test_nothing_is_gained_where_nothing_is_asked():
    assert set(gains(make_truth(), FIRST).values()) == {None}
    assert set(gains(make_truth((*FIRST[:2], BOX)), FIRST).values()) == {0}


def test_gains_are_those_of_the_authors_code():
    """tidecv (github.com/dbolya/tide) on the same boxes, with COCO's recalls: its own, x / 100, miss a
    recall of 0.07 or 0.29 by a rounding, and gain up to 0.002 more."""
    truth = random_truth(pages=8, objects=20, seed=7)
    detections = perturb(truth, seed=7)
    objects, found, fates, matches = judge(truth, detections)
    everything = np.ones(len(found.page), dtype=bool)
    errors = count_errors(objects, found, fates, everything, CLASSES)
    ours = {kind: sum(e.count for e in errors if e.kind == kind) for kind in ERRORS}
    assert ours == TIDE_COUNTS
    assert mending_gains(objects, found, fates, matches) == pytest.approx(TIDE_GAINS, abs=1e-6)


TIDE_COUNTS = {
    "class": 11,
    "location": 26,
    "both": 5,
    "duplicate": 14,
    "background": 8,
    "missed": 25,
}
TIDE_GAINS = {
    "class": 0.109121,
    "location": 0.162291,
    "both": 0.002787,
    "duplicate": 0.015874,
    "background": 0.01026,
    "missed": 0.094804,
}

# Confusion ----------------------------------------------------------------------------------------


def confusion(truth, *found, least=0.0):
    classes, pages, objects = read_truth(truth, 0, 0)
    detections = read_detections(make_detections(*found), classes, pages)
    selected = detections.scores >= np.float32(least)
    counted = count_confusion(objects, detections, selected, len(classes))
    names = [*CLASSES, None]
    return {
        (names[row], names[column]): int(counted[row, column])
        for row, column in zip(*np.nonzero(counted), strict=True)
    }


def test_every_cell():
    truth = make_truth(
        (1, "text", BOX), (1, "title", (400, 0, 500, 100)), (1, "table", (700, 0, 800, 100))
    )
    found = [FIRST, (1, "text", 0.8, (405, 0, 505, 100)), (1, "table", 0.7, (0, 700, 100, 800))]
    assert confusion(truth, *found) == {
        ("text", "text"): 1,
        ("title", "text"): 1,
        ("table", None): 1,
        (None, "table"): 1,
    }
    assert confusion(truth, *found, least=0.85) == {
        ("text", "text"): 1,
        ("title", None): 1,
        ("table", None): 1,
    }


def test_better_scores_choose_first_whatever_their_class():
    truth = make_truth((1, "text", BOX))
    found = [(1, "text", 0.8, BOX), (1, "title", 0.9, HALF)]
    assert confusion(truth, *found) == {("text", "title"): 1, (None, "text"): 1}
    assert confusion(truth, (1, "text", 0.9, POOR)) == {("text", None): 1, (None, "text"): 1}


def test_of_two_objects_at_one_place_that_of_the_same_class():
    for names in (("text", "title"), ("title", "text")):
        truth = make_truth(*((1, name, BOX) for name in names))
        assert confusion(truth, (1, "title", 0.9, BOX), (1, "text", 0.8, BOX)) == {
            ("text", "text"): 1,
            ("title", "title"): 1,
        }


def test_crowds_are_in_no_cell():
    truth = make_truth((1, "text", BOX, True), (1, "text", (400, 0, 500, 100)))
    found = [(1, "text", 0.9, (110, 110, 130, 130)), (1, "text", 0.8, (110, 110, 600, 600))]
    assert confusion(truth, *found) == {("text", None): 1, (None, "text"): 1}


def test_pages_are_kept_apart():
    truth = make_truth((2, "text", BOX), pages=3)
    found = [(1, "text", 0.9, BOX), (2, "text", 0.1, BOX)]
    assert confusion(truth, *found) == {("text", "text"): 1, (None, "text"): 1}
    assert confusion(make_truth(pages=2)) == {}
