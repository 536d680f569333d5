"""Each finding is there where something is wrong, with its numbers, and gone with its remedy."""

import copy
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from scanmill.configs import load_config
from scanmill.conversion import count_parameters
from scanmill.errors import UserError
from scanmill.preflight import (
    CHECKS,
    GIB,
    Finding,
    anchor_shapes,
    best_iou,
    check_training,
    format_findings,
    propose_anchors,
    raise_findings,
    shape_iou,
    training_memory,
)

CONFIG = "mask_rcnn_R_50_FPN_3x.yaml"
RIGHT = ("MODEL.ROI_HEADS.NUM_CLASSES", 2, "TEST.EVAL_PERIOD", 1000)
CLASSES = ("text", "table")
CARD = {
    "classes": list(CLASSES),
    "kind": "detector",
    "input": {
        "format": "BGR",
        "pixel_mean": [103.53, 116.28, 123.675],
        "pixel_std": [1.0, 1.0, 1.0],
        "min_size": 800,
        "max_size": 1333,
    },
}
BACKBONE = CARD | {"classes": [], "kind": "backbone"}

#: A page of 800 x 1200 px stays as it is. An anchor of 128 x 128 px and ratio 0.7 has the shape of this.
TEXT = ("text", 150, 105)
TABLE = ("table", 130, 195)


def cut_corner(x, y, width, height):
    """The polygon of all of a box but a corner, 1/8 of it."""
    right, bottom = x + width, y + height
    return [x, y, right, y, right, y + height / 2, x + width / 2, bottom, x, bottom]


def dataset(*pages, classes=CLASSES, size=(800, 1200), polygons=True):
    """COCO of pages, each a list of (class, width, height), all at one place."""
    images, annotations = [], []
    for number, objects in enumerate(pages, start=1):
        images.append(
            {
                "id": number,
                "file_name": f"{number:04}.jpg",
                "width": size[0],
                "height": size[1],
                "document": "a.pdf",
            }
        )
        for name, width, height in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": classes.index(name) + 1,
                    "bbox": [10.0, 20.0, width, height],
                    "segmentation": [cut_corner(10, 20, width, height)] if polygons else [],
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def truth(*pages, val=None, **options):
    pages = pages or ([TEXT, TEXT, TABLE], [TEXT])
    val = pages if val is None else val
    return {"train": dataset(*pages, **options), "val": dataset(*val, **options)}


def check(overrides=(), data=None, card=CARD, given=(), memory_gb=None, name=CONFIG, devices=1):
    config = load_config(name, [*RIGHT, *overrides])
    before = config.dump()
    findings = check_training(config, data or truth(), card, given, memory_gb, devices)
    assert config.dump() == before
    return findings


def pairs(remedy):
    """The overrides of a remedy, without its alternative in prose."""
    return shlex.split(remedy.split(", or ")[0])


def only(findings, severity, *parts):
    """The one finding, with all of `parts` in what it says."""
    assert len(findings) == 1, format_findings(findings)
    [finding] = findings
    assert finding.severity == severity
    for part in parts:
        assert part in finding.what, finding.what
    return finding


def mended(overrides, finding, **given):
    """Taking the remedy, whatever it was that the finding said is gone."""
    return check([*overrides, *pairs(finding.remedy)], **given) == []


def test_a_right_config_has_no_findings():
    assert check() == []
    assert check(memory_gb=64.0) == []
    assert check(card=BACKBONE) == []
    assert len(CHECKS) == len(set(CHECKS)) == 18


# One setting that is wrong ------------------------------------------------------------------------

WRONG = {
    "classes": (
        ("MODEL.ROI_HEADS.NUM_CLASSES", 3),
        "error",
        ["NUM_CLASSES is 3", "2 classes (text, table)", "background"],
        "MODEL.ROI_HEADS.NUM_CLASSES 2",
    ),
    "detections": (
        ("TEST.DETECTIONS_PER_IMAGE", 2),
        "error",
        ["DETECTIONS_PER_IMAGE is 2", "fullest page has 3 objects"],
        "TEST.DETECTIONS_PER_IMAGE 100",
    ),
    # 4 objects on 2 pages: 2.0 on average.
    "proposals": (
        ("MODEL.RPN.POST_NMS_TOPK_TEST", 19),
        "warning",
        ["POST_NMS_TOPK_TEST is 19", "2.0 objects on average", "3 at most", "fewer", "than 20"],
        "MODEL.RPN.POST_NMS_TOPK_TEST 100",
    ),
    "proposals of each level": (
        ("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 19, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 10),
        "warning",
        ["PRE_NMS_TOPK_TRAIN is 19", "POST_NMS_TOPK_TRAIN is 10"],
        "MODEL.RPN.PRE_NMS_TOPK_TRAIN 100 MODEL.RPN.POST_NMS_TOPK_TRAIN 100",
    ),
    "fewer proposals than objects": (
        ("MODEL.RPN.POST_NMS_TOPK_TRAIN", 2),
        "error",
        ["POST_NMS_TOPK_TRAIN is 2", "3 at most"],
        "MODEL.RPN.POST_NMS_TOPK_TRAIN 100",
    ),
    "flips": (
        ("INPUT.RANDOM_FLIP", "horizontal"),
        "warning",
        ["RANDOM_FLIP is horizontal", "1 of 2"],
        "INPUT.RANDOM_FLIP none",
    ),
    "flips in the test": (
        ("TEST.AUG.ENABLED", True),
        "warning",
        ["TEST.AUG.FLIP is True", "9 of the 18"],
        "TEST.AUG.FLIP False",
    ),
    "steps": (
        ("SOLVER.MAX_ITER", 3000, "SOLVER.WARMUP_ITERS", 100, "SOLVER.STEPS", (1000, 3000)),
        "warning",
        ["STEPS is (1000, 3000)", "MAX_ITER is 3000", "1 of 2 steps"],
        "SOLVER.STEPS '(2100, 2700)'",
    ),
    "warmup": (
        ("SOLVER.MAX_ITER", 2500, "SOLVER.STEPS", (2000,)),
        "warning",
        ["WARMUP_ITERS is 1000", "MAX_ITER is 2500", "40 %"],
        "SOLVER.WARMUP_ITERS 250",
    ),
    "warmup without end": (
        ("SOLVER.MAX_ITER", 1000, "SOLVER.STEPS", (900,), "SOLVER.WARMUP_ITERS", 5000),
        "warning",
        ["100 %"],
        "SOLVER.WARMUP_ITERS 100",
    ),
    # LayoutParser's recipe for 2 images, of 8 times the rate.
    "learning rate too high": (
        ("SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.02),
        "warning",
        ["BASE_LR is 0.02", "8 times the usual 0.0025", "NaN"],
        "SOLVER.BASE_LR 0.0025",
    ),
    "learning rate too low": (
        ("SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.00025),
        "warning",
        ["BASE_LR is 0.00025", "1/10 of the usual 0.0025"],
        "SOLVER.BASE_LR 0.0025",
    ),
    # 2 pages, 16 at a time: 2 epochs are over after 1 iteration.
    "no evaluation": (
        ("TEST.EVAL_PERIOD", 0),
        "warning",
        ["EVAL_PERIOD is 0", "none of the 270000"],
        "TEST.EVAL_PERIOD 1",
    ),
    "evaluation after the end": (
        ("SOLVER.MAX_ITER", 6000, "SOLVER.STEPS", (5000,), "TEST.EVAL_PERIOD", 6001),
        "warning",
        ["EVAL_PERIOD is 6001", "MAX_ITER is 6000"],
        "TEST.EVAL_PERIOD 1",
    ),
    "threshold": (
        ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.5),
        "warning",
        ["SCORE_THRESH_TEST is 0.5", "0.05", "regions.min_score"],
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.05",
    ),
    "order of colours": (
        ("INPUT.FORMAT", "RGB"),
        "error",
        ["FORMAT is RGB", "trained with INPUT.FORMAT BGR"],
        "INPUT.FORMAT BGR",
    ),
    "mean and deviation": (
        ("MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53], "MODEL.PIXEL_STD", [58.4, 57.1, 57.4]),
        "error",
        ["PIXEL_MEAN is [123.675, 116.28, 103.53]", "MODEL.PIXEL_MEAN [103.53, 116.28, 123.675]"],
        "MODEL.PIXEL_MEAN '[103.53, 116.28, 123.675]' MODEL.PIXEL_STD '[1.0, 1.0, 1.0]'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_setting_that_does_not_fit_is_found_and_mended(name):
    overrides, severity, parts, remedy = WRONG[name]
    finding = only(check(overrides), severity, *parts)
    assert finding.remedy == remedy
    assert mended(overrides, finding)


@pytest.mark.parametrize(
    "overrides",
    [
        ("TEST.DETECTIONS_PER_IMAGE", 3),
        ("MODEL.RPN.POST_NMS_TOPK_TEST", 20, "MODEL.RPN.PRE_NMS_TOPK_TEST", 20),
        ("TEST.AUG.FLIP", True),
        ("SOLVER.STEPS", (), "SOLVER.WARMUP_ITERS", 54_000),
        ("SOLVER.MAX_ITER", 5000, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
        ("SOLVER.BASE_LR", 0.0051),
        ("SOLVER.BASE_LR", 0.079),
        ("TEST.EVAL_PERIOD", 270_000),
        ("MODEL.PIXEL_MEAN", [103.5300001, 116.28, 123.675]),
    ],
)
def test_what_just_fits_is_no_finding(overrides):
    assert check(overrides) == []


def test_findings_come_in_one_order_and_say_whose_a_value_is():
    wrong = ["MODEL.ROI_HEADS.NUM_CLASSES", 3, "INPUT.RANDOM_FLIP", "horizontal"]
    wrong += ["INPUT.FORMAT", "RGB", "SOLVER.BASE_LR", 1.0, "TEST.DETECTIONS_PER_IMAGE", 2]
    findings = check(wrong, given={"SOLVER.BASE_LR"})
    assert [pairs(each.remedy)[0] for each in findings] == [
        "MODEL.ROI_HEADS.NUM_CLASSES",
        "TEST.DETECTIONS_PER_IMAGE",
        "INPUT.RANDOM_FLIP",
        "SOLVER.BASE_LR",
        "INPUT.FORMAT",
    ]
    whose = ["as you set it" in each.what for each in findings]
    assert whose == [False, False, False, True, False]
    assert sum("not set by you" in each.what for each in findings) == 4
    assert findings == check(wrong, given={"SOLVER.BASE_LR"})


# Classes ------------------------------------------------------------------------------------------


def test_the_same_classes_in_another_order_than_the_starts():
    card = CARD | {"classes": ["table", "text"]}
    finding = only(check(card=card), "error", "2 of 2 ids", "text (table), table (text)")
    assert finding.remedy == "classes '[table, text]' of the dataset"


def test_as_many_classes_of_other_names():
    card = CARD | {"classes": ["text", "figure"]}
    finding = only(check(card=card), "warning", "1 of 2 ids", "table (figure)", "1 of the names")
    assert "classes '[text, figure]'" in finding.remedy


@pytest.mark.parametrize("card", [BACKBONE, CARD | {"classes": ["a", "b", "c"]}])
def test_a_backbone_and_another_number_of_classes_are_nothing_to_compare_with(card):
    assert check(card=card) == []


def test_train_and_val_have_the_same_classes_in_one_order():
    data = truth()
    data["val"]["categories"] = [{"id": 1, "name": "table"}, {"id": 2, "name": "text"}]
    finding = only(check(data=data), "error", "(text, table)", "(table, text)")
    assert finding.remedy == "classes '[text, table]' of the dataset, for both"
    # The order of the list is none: that of the ids is.
    data["val"]["categories"] = [{"id": 2, "name": "table"}, {"id": 1, "name": "text"}]
    assert check(data=data) == []


# Dense pages --------------------------------------------------------------------------------------


def test_the_fullest_page_may_be_one_of_val():
    data = truth([TEXT], val=[[TEXT] * 501])
    findings = check(data=data)
    # 502 objects on 2 pages: 2510 proposals, and PRE_NMS_TOPK_TRAIN is 2000.
    assert [each.severity for each in findings] == ["error", "warning"]
    assert "fullest page has 501 objects" in findings[0].what
    assert findings[0].remedy == "TEST.DETECTIONS_PER_IMAGE 1100"
    assert "than 2510" in findings[1].what
    assert "251.0 objects on average" in findings[1].what
    assert mended(pairs(findings[0].remedy), findings[1], data=data)


def test_proposals_are_enough_for_the_fullest_page_where_most_are_nearly_empty():
    data = truth(*[[]] * 19, [TEXT] * 60)  # 3.0 on average
    overrides = ("MODEL.RPN.POST_NMS_TOPK_TEST", 59)
    only(check(overrides, data), "error", "POST_NMS_TOPK_TEST is 59", "60 at most", "than 60")
    assert check(("MODEL.RPN.POST_NMS_TOPK_TEST", 60), data) == []


def test_crowds_are_no_objects():
    data = truth()
    for annotation in data["train"]["annotations"][:2]:
        annotation["iscrowd"] = 1
    data["val"] = data["train"]
    assert check(("TEST.DETECTIONS_PER_IMAGE", 1), data) == []


# Anchors ------------------------------------------------------------------------------------------


def test_anchors_are_those_of_detectron2():
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

    for overrides in (
        [],
        ["MODEL.ANCHOR_GENERATOR.SIZES", [[8, 16], [32], [64], [100], [200]]],
        ["MODEL.ANCHOR_GENERATOR.SIZES", [[8, 16]]],
        ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1], [2], [0.5], [0.1], [9]]],
    ):
        config = load_config(CONFIG, overrides)
        generator = config.MODEL.ANCHOR_GENERATOR
        theirs = DefaultAnchorGenerator(
            sizes=generator.SIZES, aspect_ratios=generator.ASPECT_RATIOS, strides=[4, 8, 16, 32, 64]
        )
        corners = np.concatenate([cell.numpy() for cell in theirs.cell_anchors])
        mine = anchor_shapes(config)
        assert len(mine) == len(corners)
        np.testing.assert_allclose(
            sorted(map(tuple, mine)),
            sorted(map(tuple, corners[:, 2:] - corners[:, :2])),
            rtol=1e-4,
        )


def test_shape_iou_by_hand():
    sides = np.array([[10.0, 10.0], [20.0, 5.0], [0.0, 7.0]])
    shapes = np.array([[10.0, 10.0], [20.0, 10.0]])
    # 50 in common of 100 + 100; 100 of 100 + 200; ...
    expected = [[1, 100 / 200], [50 / 150, 100 / 200], [0, 0]]
    np.testing.assert_allclose(shape_iou(sides, shapes), expected)
    np.testing.assert_allclose(best_iou(sides, shapes), [1, 0.5, 0])


def test_an_anchor_of_half_the_iou_has_the_shape():
    squares = ["MODEL.ANCHOR_GENERATOR.SIZES", [[100]]]
    squares += ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[1.0]]]
    assert check(squares, truth([("text", 100, 50)] * 30)) == []
    only(check(squares, truth([("text", 100, 49)] * 30)), "warning", "all (0 %), text (0 % of 30)")


LINE = ("text", 640, 10)  # 0.0156: 1/6 of the flattest ratio there is


def test_flat_lines_have_no_anchor_until_they_are_given_one():
    # 24 lines and 6 tables: 20 % have an anchor, of text none.
    data = truth([LINE] * 24 + [TABLE] * 6)
    finding = only(
        check(data=data),
        "warning",
        "Of 30 objects, 20 % have",
        "all (20 %), text (0 % of 24)",
        "it is 100 % (text 100 %, table 100 %)",
        "begin anew",
    )
    keys = pairs(finding.remedy)[::2]
    assert keys == ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "MODEL.ANCHOR_GENERATOR.SIZES"]
    ratios, sizes = (json.loads(value) for value in pairs(finding.remedy)[1::2])
    assert [len(each) for each in ratios] == [5]  # As many as there were.
    assert len(sizes) == 5
    assert min(ratios[0]) == pytest.approx(10 / 640, rel=0.05)
    assert mended([], finding, data=data)


def test_boxes_are_measured_on_the_resized_page():
    # On a page 4 times as large, in either direction, objects are the same to the detector.
    large = [(name, 4 * width, 4 * height) for name, width, height in [TEXT, TABLE, TEXT, TEXT]]
    assert check(data=truth(large, size=(3200, 4800))) == []
    # With MAX_SIZE 600 they are half as large; 52 px have an anchor as 105 px have.
    sizes = ("INPUT.MAX_SIZE_TEST", 600)
    assert check(sizes, data=truth(large, size=(3200, 4800))) == []
    # 640 x 10 of a page 10 times as flat is a box of 128 x 20: not quite 0.1 high.
    flat = truth([("text", 640, 4)] * 30, size=(4000, 240))
    [finding] = [each for each in check(data=flat) if "ANCHOR" in each.remedy]
    assert "800 / 1333 px" in finding.what


def test_a_small_class_is_not_judged_and_a_badly_covered_one_is_not_hidden():
    def found(lines):
        return check(data=truth(*[[TABLE] * 20] * 10, [LINE] * lines))

    assert found(19) == []
    [finding] = found(20)
    assert "90 % have an anchor" in finding.what
    assert "below 70 % are text (0 % of 20)" in finding.what


def test_what_no_anchor_would_better_is_no_finding():
    # The first level's anchors, 4 px apart, are to have 16 px: an IoU of 100 / 256 with these.
    assert check(data=truth([("text", 10, 10)] * 30)) == []


def test_taking_proposals_comes_to_an_end():
    # Shapes without any order, from squares to lines: 5 x 5 anchors are not enough.
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(9), np.log(780), (400, 2)))
    pages = [[("text", *each) for each in sides.tolist()]]
    overrides = ["TEST.DETECTIONS_PER_IMAGE", 900, "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 4000]
    overrides += ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 4000, "MODEL.RPN.PRE_NMS_TOPK_TEST", 4000]
    overrides += ["MODEL.RPN.POST_NMS_TOPK_TEST", 4000]
    data = truth(*pages)
    for _ in range(6):
        findings = check(overrides, data)
        if not findings:
            break
        overrides += pairs(only(findings, "warning", "text").remedy)
    assert findings == []


def test_proposals_are_those_of_the_data_and_of_the_seed():
    rng = np.random.default_rng(1)
    size = rng.choice([40, 80, 160, 320, 640], 2000) * rng.uniform(0.95, 1.05, 2000)
    root = np.sqrt(rng.choice([0.05, 0.5, 3.0], 2000) * rng.uniform(0.95, 1.05, 2000))
    sides = np.stack([size / root, size * root], axis=1)
    weights = np.ones(len(sides))
    sizes, ratios = propose_anchors(sides, weights, [1] * 5, 3)
    np.testing.assert_allclose(sizes, [40, 80, 160, 320, 640], rtol=0.03)
    np.testing.assert_allclose(ratios, [0.05, 0.5, 3], rtol=0.03)
    assert propose_anchors(sides, weights, [1] * 5, 3) == (sizes, ratios)
    # Anchors of 40 px lie 64 px apart on the last level: there, they begin at 256.
    sizes, _ = propose_anchors(sides.clip(None, 60), weights, [16, 32, 64, 128, 256], 3)
    assert sizes[2:] == [64, 128, 256]
    # What does not count decides nothing.
    weights[size > 100] = 0
    sizes, _ = propose_anchors(sides, weights, [1, 1], 3)
    np.testing.assert_allclose(sizes, [40, 80], rtol=0.03)


# Sizes --------------------------------------------------------------------------------------------

TINY = ("MODEL.ANCHOR_GENERATOR.SIZES", [[4], [8], [64], [128], [256]])


def test_objects_of_few_pixels():
    # 10 % are 5 px high: 8 px at pages 1.6 times as large.
    data = truth([("table", 8, 5)] * 3 + [TEXT] * 27)
    finding = only(
        check(TINY, data),
        "warning",
        "800 / 1333 px, 5 % of all objects are at most 5.0 px",
        "table (3)",
        "1.6 times as large take 2.6 times",
    )
    assert finding.remedy == (
        "INPUT.MIN_SIZE_TEST 1280 INPUT.MAX_SIZE_TEST 2144 INPUT.MIN_SIZE_TRAIN "
        "'(1024, 1152, 1248, 1344, 1440)' INPUT.MAX_SIZE_TRAIN 2144, or tiles (`detection.tiles`)"
    )
    larger = ("MODEL.ANCHOR_GENERATOR.SIZES", [[6], [12], [100], [200], [400]])
    assert mended(larger, finding, data=data)
    # 3 % of them are few enough to be given up.
    assert check(TINY, truth([("table", 8, 5)] * 3 + [TEXT] * 97)) == []


# Pages and polygons -------------------------------------------------------------------------------


def test_pages_without_objects():
    overrides = ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True)
    data = truth([TEXT], [], [TABLE], [], val=[[TEXT], []])
    finding = only(check(overrides, data), "warning", "ANNOTATIONS is True", "2 of 4 pages")
    assert mended(overrides, finding, data=data)
    assert check(overrides) == []  # There are none that are empty.
    assert check((), data) == []


def test_masks_want_polygons():
    finding = only(check(data=truth(polygons=False)), "error", "MASK_ON is True", "4 of 4 objects")
    assert finding.remedy == "MODEL.MASK_ON False"
    assert mended((), finding, data=truth(polygons=False))
    some = truth()
    some["train"]["annotations"][1]["segmentation"] = []
    only(check(data=some), "warning", "1 of 4 objects")


def test_polygons_want_masks_unless_they_are_boxes():
    finding = only(check(("MODEL.MASK_ON", False)), "warning", "MASK_ON is False", "4 of 4 objects")
    assert finding.remedy == "MODEL.MASK_ON True"
    boxes = truth()
    for annotation in boxes["train"]["annotations"]:
        x, y, width, height = annotation["bbox"]
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        annotation["segmentation"] = [corners]
    assert check(("MODEL.MASK_ON", False), boxes) == []


def test_an_empty_validation_set():
    only(check(data=truth(val=[[], []])), "warning", "2 pages of val have 0 objects")
    assert len(check(data=truth(val=[]))) == 1


def test_nothing_to_train_on_is_judged_without_a_crash():
    for pages in ([[]], []):
        data = {"train": dataset(*pages), "val": dataset(*pages)}
        assert [each.severity for each in check(data=data, memory_gb=64.0)] == ["warning"]
    points = truth([("text", 0, 0)] * 5)
    assert [pairs(each.remedy)[0] for each in check(data=points)] == ["INPUT.MIN_SIZE_TEST"]


# The start ----------------------------------------------------------------------------------------


def test_layers_that_are_frozen_at_random():
    findings = check(card=None)
    assert [each.severity for each in findings] == ["error", "error"]
    assert "FREEZE_AT is 2" in findings[0].what
    assert "first 2 stages" in findings[0].what
    assert findings[0].remedy == "MODEL.BACKBONE.FREEZE_AT 0"
    assert "MODEL.RESNETS.NORM is FrozenBN" in findings[1].what
    assert findings[1].remedy == "MODEL.RESNETS.NORM GN"
    assert mended(pairs(findings[0].remedy), findings[1], card=None)
    # A pyramid is new to a backbone, and not to a detector.
    overrides = ("MODEL.FPN.NORM", "FrozenBN")
    assert check(overrides) == []
    finding = only(check(overrides, card=BACKBONE), "error", "FPN.NORM is FrozenBN", "1 of 3 parts")
    assert mended(overrides, finding, card=BACKBONE)


def test_networks_of_timm_have_no_norm_of_resnets():
    assert check(name="mask_rcnn_convnext_tiny_FPN_3x.yaml", card=None) == []


def test_a_card_that_does_not_say_its_input_is_not_judged_by_it():
    card = {key: value for key, value in CARD.items() if key != "input"}
    assert check(("INPUT.FORMAT", "RGB"), card=card) == []


# Memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reported"),
    [
        ("mask_rcnn_R_50_FPN_3x.yaml", 3.4),
        ("mask_rcnn_R_101_FPN_3x.yaml", 4.6),
        ("mask_rcnn_X_101_32x8d_FPN_3x.yaml", 7.2),
    ],
)
def test_memory_is_about_what_detectron2s_zoo_reports(name, reported):
    config = load_config(name, ["MODEL.ROI_HEADS.NUM_CLASSES", 80])
    memory = training_memory(config, count_parameters(config), 800 * 1333, 2) / GIB
    assert memory == pytest.approx(reported, rel=0.1)


def test_memory_by_hand():
    config = load_config(CONFIG)
    # 12 * 10 M + 3 * (1 M * (600 + 690) + 0.2 G)
    assert training_memory(config, 10_000_000, 1_000_000, 3) == pytest.approx(4.59e9)
    half = load_config(CONFIG, ["SOLVER.AMP.ENABLED", True])
    assert training_memory(half, 0, 1_000_000, 1) == pytest.approx(0.2e9 + 600e6 + 0.6 * 690e6)
    whole = load_config(CONFIG, ["MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.NORM", "GN"])
    assert training_memory(whole, 0, 1_000_000, 1) == pytest.approx(0.2e9 + 600e6 + 3 * 690e6)


def test_a_step_that_does_not_fit():
    # Pages become 896 x 1333 and 896 x 1344 px with their padding, 1.20 million.
    finding = only(
        check(memory_gb=10.0),
        "warning",
        "GiB, and the device has 10.0",
        "16 images",
        "1.20 million",
    )
    batch, rate = (float(value) for value in pairs(finding.remedy)[1::2])
    assert rate == pytest.approx(0.02 * batch / 16)
    assert mended((), finding, memory_gb=10.0)
    more = ["SOLVER.IMS_PER_BATCH", int(batch) + 1, "SOLVER.BASE_LR", rate]
    assert len(check(more, memory_gb=10.0)) == 1
    # 16 images are 4 for each of 4 devices.
    assert check(memory_gb=10.0, devices=4) == []


def test_a_page_that_does_not_fit_alone():
    finding = only(check(memory_gb=1.5), "warning", "has 1.5")
    keys = pairs(finding.remedy)[::2]
    assert keys[2:] == ["INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN"]
    assert mended((), finding, memory_gb=1.5)


# Reports ------------------------------------------------------------------------------------------

ERRORS = [Finding("error", "A is 1.", "A 2"), Finding("error", "B is 1.", "B 2")]
WARNINGS = [Finding("warning", "C is 1.", "C 2")]


def test_findings_in_the_log():
    assert format_findings([]) == "Preflight: data, config and start fit each other."
    assert format_findings([*WARNINGS, *ERRORS]) == (
        "Preflight: 2 errors, 1 warning.\n"
        "- warning: C is 1.\n  Remedy: C 2\n"
        "- error: A is 1.\n  Remedy: A 2\n"
        "- error: B is 1.\n  Remedy: B 2"
    )


def test_errors_stop_and_warnings_only_where_they_are_told_to():
    raise_findings([])
    raise_findings(WARNINGS)
    raise_findings([], strict=True)
    with pytest.raises(UserError) as error:
        raise_findings([*ERRORS, *WARNINGS])
    assert "A 2" in str(error.value)
    assert "B 2" in str(error.value)
    assert "C 2" not in str(error.value)
    with pytest.raises(UserError, match="C 2"):
        raise_findings(WARNINGS, strict=True)


# Real pages ---------------------------------------------------------------------------------------

DATA = Path(__file__).parents[3] / "shared/data"


def real(name):
    path = DATA / name / "coco.json"
    if not path.exists():
        pytest.skip(f"no annotations in {path}")
    data = json.loads(path.read_text())
    return {"train": data, "val": copy.deepcopy(data)}


def test_newspapers():
    data = real("gbn_newspapers")
    findings = check(("MODEL.ROI_HEADS.NUM_CLASSES", 4), data)
    assert [pairs(each.remedy)[0] for each in findings] == [
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
        "INPUT.MIN_SIZE_TEST",
    ]
    anchors, small = findings
    # Separators are lines of 1:100.
    assert "SeparatorRegion (5 % of 467)" in anchors.what
    assert "it is 93 %" in anchors.what
    assert "3.8 px" in small.what
    zoo = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
    findings = check(("MODEL.ROI_HEADS.NUM_CLASSES", 4), data, name=zoo)
    [cut] = [each for each in findings if each.severity == "error"]
    assert "fullest page has 143 objects" in cut.what
    assert any("Of 2529 objects, 32 % have an anchor" in each.what for each in findings)


def test_books():
    data = real("cremma_books")
    overrides = ("MODEL.ROI_HEADS.NUM_CLASSES", 10)
    assert check(overrides, data) == []
    zoo = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    findings = check(overrides, data, name=zoo)
    assert [pairs(each.remedy)[0] for each in findings] == [
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
        "INPUT.RANDOM_FLIP",
    ]
    assert "Title (34 % of 86)" in findings[0].what
