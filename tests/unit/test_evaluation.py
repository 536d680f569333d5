"""All numbers of an evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluated import (
    CLASSES,
    make_detections,
    make_truth,
    metric,
    perturb,
    plain_coco,
    random_truth,
)

from scanmill.detection_errors import ERRORS
from scanmill.errors import UserError
from scanmill.evaluation import MATCHES, evaluate
from scanmill.regions import check_settings, min_scores

NEWSPAPERS = Path(__file__).parents[3] / "shared/data/gbn_newspapers/coco_val.json"
BOX = (100, 100, 200, 200)


def judge(truth, *found, **options):
    detections = make_detections(*found)
    return evaluate(truth, detections, 800, 1333, **{"samples": 0, **options})


# Average precision --------------------------------------------------------------------------------


def assert_agrees(evaluation, kind, coco, classes=CLASSES):
    for name in ("AP", "AP50", "AP75", "AR"):
        assert metric(evaluation, f"{kind}_{name}").value == pytest.approx(
            coco.stats[name], abs=1e-6
        )
    for label, name in enumerate(classes):
        for stat in ("AP", "AP50"):
            assert metric(evaluation, f"{kind}_{stat}", name).value == pytest.approx(
                coco.stats[f"{stat} of {label}"], abs=1e-6
            )


def test_boxes_and_masks_agree_with_pycocotools():
    truth = random_truth(masks=True, crowds=0.1)
    detections = perturb(truth, masks=True)
    evaluation = evaluate(truth, detections, 800, 1333, samples=0)
    assert_agrees(evaluation, "box", plain_coco(truth, detections))
    assert_agrees(evaluation, "mask", plain_coco(truth, detections, "segm"))
    # Pages of 1000 x 1000 become 800 x 800, those of 2000 x 3000 become 800 x 1200.
    scale = {i["id"]: 800 / i["width"] for i in truth["images"]}
    resized = plain_coco(truth, detections, scale=scale)
    for size in ("small", "medium", "large"):
        for name in (f"AP_{size}", f"AR_{size}"):
            assert metric(evaluation, f"box_{name}").value == pytest.approx(
                resized.stats[name], abs=1e-6
            )


def test_masks_are_judged_where_both_sides_have_them():
    truth, outlined = random_truth(pages=3), random_truth(pages=3, masks=True)

    def has_masks(truth, masks):
        evaluation = evaluate(truth, perturb(truth, masks=masks), 800, 1333, samples=0)
        return any(each.metric == "mask_AP" for each in evaluation.metrics)

    assert has_masks(outlined, True)
    assert not has_masks(outlined, False)
    assert not has_masks(truth, True)


def test_400_objects_on_a_page_are_400():
    boxes = [(50 * (n % 20), 50 * (n // 20)) for n in range(400)]
    boxes = [(x, y, x + 40, y + 40) for x, y in boxes]
    truth = make_truth(*((1, "text", box) for box in boxes))
    evaluation = judge(truth, *((1, "text", 1 - n / 500, box) for n, box in enumerate(boxes)))
    assert metric(evaluation, "box_AP").value == pytest.approx(1)
    assert metric(evaluation, "box_AR").value == 1
    assert evaluation.setup["max_detections"] == 400
    assert evaluation.thresholds[0].score == 0.2
    assert evaluation.thresholds[0].recall == 1


def test_curves_are_those_that_ap_is_the_area_of():
    truth = random_truth()
    evaluation = evaluate(truth, perturb(truth), 800, 1333, samples=0)
    for name in CLASSES:
        for iou, number in (("0.5", "AP50"), ("0.75", "AP75")):
            curve = evaluation.curves[name][iou]
            assert len(curve.precision) == len(curve.score) == 101
            value = metric(evaluation, f"box_{number}", name).value
            assert np.mean(curve.precision) == pytest.approx(value)
            reached = [score for score in curve.score if score is not None]
            assert reached == sorted(reached, reverse=True)
            assert sum(precision > 0 for precision in curve.precision) == len(reached)


# Intervals ----------------------------------------------------------------------------------------


def test_intervals_hold_the_value_and_narrow_with_documents():
    widths = []
    for documents in (4, 40):
        truth = random_truth(pages=40, objects=10, documents=documents)
        evaluation = evaluate(truth, perturb(truth), 800, 1333, samples=100)
        for name in (None, "text", "title"):
            for number in ("box_AP", "box_AP50"):
                each = metric(evaluation, number, name)
                assert each.low < each.value < each.high
        each = metric(evaluation, "box_AP")
        widths.append(each.high - each.low)
    assert all(0.01 < width < 0.3 for width in widths)
    assert metric(evaluation, "box_AP_small").low is None


def test_intervals_are_percentiles_of_full_evaluations():
    """Against pycocotools on each drawn set of documents."""
    truth = random_truth(pages=6, objects=12, seed=2, documents=6)
    detections = perturb(truth, 2)
    evaluation = evaluate(truth, detections, 800, 1333, seed=5, samples=30)
    draws = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), size=30)
    values = []
    for draw in draws:
        images, annotations, rows = [], [], []
        for image in truth["images"]:
            for copy in range(draw[int(image["document"][0])]):
                number = 100 * image["id"] + copy
                images.append({**image, "id": number})
                annotations += [
                    {**each, "image_id": number, "id": 1000 * number + each["id"]}
                    for each in truth["annotations"]
                    if each["image_id"] == image["id"]
                ]
                rows += [
                    {**row, "image_id": number}
                    for row in detections.to_pylist()
                    if row["image_id"] == image["id"]
                ]
        drawn = {**truth, "images": images, "annotations": annotations}
        table = type(detections).from_pylist(rows, schema=detections.schema)
        values.append(plain_coco(drawn, table, max_detections=100).stats)
    for name in ("AP", "AP50", "AP75"):
        low, high = np.percentile([value[name] for value in values], (2.5, 97.5))
        each = metric(evaluation, f"box_{name}")
        assert (each.low, each.high) == (pytest.approx(low), pytest.approx(high))


def test_equal_input_gives_equal_numbers():
    truth = random_truth(pages=6, objects=8)
    detections = perturb(truth)
    first, second = (evaluate(truth, detections, 800, 1333, samples=20) for _ in range(2))
    assert first == second
    other = evaluate(truth, detections, 800, 1333, samples=20, seed=1)
    assert metric(other, "box_AP").low != metric(first, "box_AP").low
    assert metric(other, "box_AP").value == metric(first, "box_AP").value


def test_one_document_alone_has_no_interval():
    truth = random_truth(pages=4, documents=1)
    each = metric(evaluate(truth, perturb(truth), 800, 1333), "box_AP")
    assert each.value is not None
    assert (each.low, each.high) == (None, None)


# Thresholds ---------------------------------------------------------------------------------------


def spots(count):
    """Boxes that do not meet."""
    return [
        (200 * (n % 5), 200 * (n // 5), 200 * (n % 5) + 99, 200 * (n // 5) + 99)
        for n in range(count)
    ]


def threshold(scores, *, objects=4):
    """The threshold of (score, is right), where there are so many objects."""
    boxes = spots(objects + len(scores))
    free, wrong = iter(boxes[:objects]), iter(boxes[objects:])
    truth = make_truth(*((1, "text", box) for box in boxes[:objects]))
    found = [(1, "text", score, next(free if right else wrong)) for score, right in scores]
    return judge(truth, *found).thresholds[0]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # F1 at 0.9: 2/5, 0.7: 4/7 (one wrong between), 0.5: 6/8, then only wrong ones.
        ([(0.9, 1), (0.8, 0), (0.7, 1), (0.5, 1), (0.4, 0), (0.3, 0)], (0.5, 3 / 4, 3 / 4)),
        ([(0.987, 1), (0.6543, 1)], (0.65, 1, 1 / 2)),
        # 0.29 in float32 is a little less than 0.29, and passes a threshold of 0.29 all the same.
        ([(0.29, 1)], (0.29, 1, 1 / 4)),
        # 100 times that in float32 is a little less than 53.
        ([(0.53, 1)], (0.53, 1, 1 / 4)),
        ([(1.0, 1)], (1.0, 1, 1 / 4)),
        # Rounded down it takes in the wrong ones, and says so.
        ([(0.709, 1), (0.701, 0)], (0.7, 1 / 2, 1 / 4)),
        ([(0.031, 1), (0.02, 0)], (0.05, None, 0)),
        # All of one score or none: F1 2/5 at 0.9, 4/8 at 0.8.
        ([(0.9, 1), (0.8, 1), (0.8, 0), (0.8, 0)], (0.8, 2 / 4, 2 / 4)),
        ([(0.9, 1), (0.8, 1), *[(0.8, 0)] * 6], (0.9, 1, 1 / 4)),
        # Of equals the highest.
        ([(0.9, 1), (0.8, 1), (0.7, 0), (0.6, 0), (0.5, 0), (0.4, 1)], (0.8, 1, 1 / 2)),
    ],
)
def test_threshold_maximises_f1(scores, expected):
    found = threshold(scores)
    assert found.is_chosen
    assert (found.score, found.precision, found.recall) == expected


def test_nothing_found_leaves_the_default():
    truth = make_truth((1, "text", BOX), (1, "title", (300, 300, 400, 400)))
    evaluation = judge(
        truth,
        (1, "text", 0.8, BOX),
        (1, "title", 0.9, (700, 700, 800, 800)),
        (1, "table", 0.9, BOX),
    )
    text, title, table = evaluation.thresholds
    assert (text.score, text.is_chosen, text.f1) == (0.8, True, 1)
    assert (title.score, title.is_chosen, title.precision, title.recall) == (0.5, False, 0, 0)
    assert (table.score, table.is_chosen, table.precision, table.recall) == (0.5, False, 0, None)
    assert evaluation.min_score == {"text": 0.8, "default": 0.5}


def test_regions_take_the_thresholds():
    truth = random_truth()
    setting = evaluate(truth, perturb(truth), 800, 1333, samples=0).min_score
    settings = {"min_score": setting, "classes": None}
    check_settings(settings, 0.05, CLASSES)
    assert min_scores(setting, CLASSES) == {name: setting[name] for name in CLASSES}


def test_what_the_thresholds_promise_is_what_selection_gives():
    truth = random_truth()
    evaluation = evaluate(truth, perturb(truth), 800, 1333, samples=0)
    for each in evaluation.thresholds:
        rows = evaluation.matches.to_pylist()
        kept = [r for r in rows if r["class_name"] == each.class_name and r["selected"]]
        right = sum(row["kind"] == "right" for row in kept)
        assert min(row["score"] for row in kept) >= np.float32(each.score)
        assert each.precision == right / len(kept)
        assert each.recall == right / metric(evaluation, "objects", each.class_name).value
        assert metric(evaluation, "F1", each.class_name).value == each.f1


# Pages and rows -----------------------------------------------------------------------------------


def test_worst_pages_come_first():
    boxes = spots(4)
    truth = make_truth(*((page, "text", box) for page in (1, 5, 3, 4) for box in boxes), pages=6)
    found = [(1, "text", 0.9, box) for box in boxes]
    found += [(3, "text", 0.9, box) for box in boxes[:2]]
    found += [(4, "text", 0.9, boxes[0]), (2, "text", 0.9, boxes[0])]
    found += [(1, "text", 0.1, (900, 900, 950, 950))]  # below the threshold: nobody will see it
    pages = judge(truth, *found).pages
    assert [(p.image_id, p.f1, p.right, p.wrong, p.missed) for p in pages] == [
        (5, 0, 0, 0, 4),
        (2, 0, 0, 1, 0),
        (4, 2 / 5, 1, 0, 3),
        (3, 4 / 6, 2, 0, 2),
        (1, 1, 4, 0, 0),
        (6, 1, 0, 0, 0),
    ]
    assert (pages[0].image, pages[0].document, pages[0].page) == ("5.png", "5.pdf", 5)


def test_matches_have_a_row_for_each_detection_and_each_missed_object():
    truth = make_truth(
        (2, "text", BOX), (1, "title", BOX), (1, "table", (500, 0, 600, 100)), pages=2
    )
    evaluation = judge(
        truth,
        (2, "text", 0.9, BOX),
        (1, "text", 0.8, (101, 100, 200, 200)),
        (2, "text", 0.4, (700, 700, 800, 800)),
    )
    assert evaluation.matches.schema == MATCHES
    names = ("image_id", "kind", "class_name", "selected", "annotation", "annotation_class")
    rows = [tuple(row[name] for name in names) for row in evaluation.matches.to_pylist()]
    assert rows == [
        (1, "class", "text", False, 2, "title"),
        (1, "missed", "table", None, 3, "table"),
        (2, "right", "text", True, 1, "text"),
        (2, "background", "text", False, None, None),
    ]
    first = evaluation.matches.to_pylist()[0]
    assert (first["image"], first["document"], first["page"]) == ("1.png", "1.pdf", 1)
    assert first["iou"] == pytest.approx(0.99)
    assert first["score"] == pytest.approx(0.8)


def test_sums_agree():
    truth = random_truth(crowds=0.1)
    detections = perturb(truth)
    evaluation = evaluate(truth, detections, 800, 1333, samples=0)
    kinds = [row["kind"] for row in evaluation.matches.to_pylist()]
    for kind in ERRORS:
        assert sum(e.count for e in evaluation.errors if e.kind == kind) == kinds.count(kind)
    assert len(kinds) - kinds.count("missed") == detections.num_rows
    assert "crowd" in kinds
    confusion = np.array(evaluation.confusion)
    objects = [metric(evaluation, "objects", name).value for name in CLASSES]
    assert confusion[:-1].sum(axis=1).tolist() == objects
    assert evaluation.setup["objects"] == sum(objects)
    assert sum(page.right + page.missed for page in evaluation.pages) == sum(objects)


# Bad input ----------------------------------------------------------------------------------------


def test_no_detections_at_all():
    truth = random_truth(pages=4, masks=True)
    evaluation = evaluate(truth, make_detections(), 800, 1333, samples=10)
    assert metric(evaluation, "box_AP").value == metric(evaluation, "box_AR").value == 0
    assert (metric(evaluation, "box_AP").low, metric(evaluation, "box_AP").high) == (0, 0)
    assert evaluation.min_score == {"default": 0.5}
    assert {each.kind for each in evaluation.errors if each.count} == {"missed"}
    assert evaluation.gains["background"] == 0
    assert {page.f1 for page in evaluation.pages} == {0}
    assert np.array(evaluation.confusion)[:, -1].sum() == evaluation.setup["objects"]


def test_no_objects_at_all():
    evaluation = judge(make_truth(pages=2), (1, "text", 0.9, BOX), samples=10)
    assert metric(evaluation, "box_AP").value is None
    assert metric(evaluation, "box_AP").low is None
    assert set(evaluation.gains.values()) == {None}
    assert [page.f1 for page in evaluation.pages] == [0, 1]
    assert evaluation.curves["text"] == {}
    nothing = judge(make_truth(pages=2), samples=10)
    assert [page.f1 for page in nothing.pages] == [1, 1]
    assert nothing.matches.num_rows == 0


def test_a_class_without_truth_and_one_that_is_never_predicted():
    truth = make_truth((1, "text", BOX), (2, "title", BOX), pages=2)
    evaluation = judge(truth, (1, "text", 0.9, BOX), (2, "table", 0.8, BOX), samples=20)
    assert metric(evaluation, "box_AP", "text").value == pytest.approx(1)
    assert metric(evaluation, "box_AP", "title").value == 0
    assert metric(evaluation, "box_AP", "table").value is None
    # COCO's mean is over the classes that there are.
    assert metric(evaluation, "box_AP").value == pytest.approx(0.5)
    # A draw without the only document of a class does not count for it.
    assert metric(evaluation, "box_AP", "text").low == pytest.approx(1)
    assert metric(evaluation, "box_AP", "table").low is None


def test_boxes_without_area_match_nothing():
    flat = (100, 100, 100, 200)
    evaluation = judge(make_truth((1, "text", flat)), (1, "text", 0.9, flat), samples=0)
    assert metric(evaluation, "box_AP").value == 0
    assert [each.kind for each in evaluation.errors if each.count] == ["background", "missed"]


def test_pages_that_are_said_to_be_of_one_pixel_are_judged():
    truth = make_truth((1, "text", BOX), size=(1, 1))
    beside = (500, 500, 900, 900)
    evaluation = judge(truth, (1, "text", 0.9, BOX), (1, "text", 0.8, beside))
    assert metric(evaluation, "box_AP").value == pytest.approx(1)
    counts = {(each.kind, each.class_name): each.count for each in evaluation.errors if each.count}
    assert counts == {("background", "text"): 1}


def test_detections_that_do_not_fit_are_the_users():
    truth = make_truth((1, "text", BOX))
    for row in ((9, "text", 0.5, BOX), (1, "text", float("nan"), BOX)):
        with pytest.raises(UserError):
            judge(truth, row)


def test_pages_that_name_no_document_are_their_own():
    truth = random_truth(pages=4)
    for image in truth["images"]:
        del image["document"], image["page"]
    evaluation = evaluate(truth, perturb(truth), 800, 1333, samples=5)
    assert evaluation.setup["documents"] == 4
    assert evaluation.pages[0].document == evaluation.pages[0].image
    assert evaluation.pages[0].page is None


@pytest.mark.skipif(not NEWSPAPERS.exists(), reason=f"{NEWSPAPERS} is missing")
@pytest.mark.parametrize("seed", [0, 1])
def test_newspapers(seed):
    """Seven pages of 42 to 137 regions, boxes and masks, at sizes of 7000 x 10000 pixels."""
    truth = json.loads(NEWSPAPERS.read_text(encoding="utf-8"))
    detections = perturb(truth, seed, masks=True)
    evaluation = evaluate(truth, detections, 800, 1333, samples=50)
    names = [category["name"] for category in truth["categories"]]
    fullest = evaluation.setup["max_detections"]
    assert fullest > 100
    for kind, coco in (("box", "bbox"), ("mask", "segm")):
        theirs = plain_coco(truth, detections, coco, max_detections=fullest)
        assert_agrees(evaluation, kind, theirs, names)
    assert 0.1 < metric(evaluation, "box_AP").value < 0.9
    # In pixels of the original every region is large.
    assert metric(evaluation, "box_AP_medium").value is not None
