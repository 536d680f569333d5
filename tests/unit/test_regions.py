"""Thresholds, suppression of duplicates, reading order."""

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from scanmill.errors import UserError
from scanmill.regions import (
    check_settings,
    min_scores,
    reading_order,
    select_regions,
    suppress_duplicates,
)
from scanmill.tables import SCHEMAS, from_rows

CLASSES = ["text", "title", "list", "table", "figure"]
SETTINGS = {
    "classes": None,
    "min_score": {"default": 0.5},
    "duplicate_iou": 0.7,
    "reading_order": "columns",
    "page_tables": True,
}
# A4 at 300 dpi.
WIDTH, HEIGHT = 2480, 3508
# Columns as (x_min, x_max): the page has margins of 200 px and gutters of 60.
ONE = [(200, 2280)]
TWO = [(200, 1210), (1270, 2280)]
THREE = [(200, 853), (913, 1566), (1626, 2280)]


def column(x, top, bottom, cuts=()):
    """Paragraphs from `top` to `bottom` in the column `x`, 20 px apart, cut at `cuts`."""
    edges = [top, *cuts, bottom]
    return [
        (x[0], upper + (20 if upper != top else 0), x[1], lower) for upper, lower in pairwise(edges)
    ]


def skewed(boxes, degrees):
    """The upright boxes of `boxes` on a page that lies askew by `degrees`."""
    angle = np.deg2rad(degrees)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    boxes = np.asarray(boxes, dtype=float)
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] - (WIDTH / 2, HEIGHT / 2)
    corners = corners @ rotation + (WIDTH / 2, HEIGHT / 2)
    return np.hstack([corners.min(axis=1), corners.max(axis=1)])


def grown(boxes, pixels):
    return np.asarray(boxes, dtype=float) + np.array([-pixels, -pixels, pixels, pixels])


def places(boxes, width=WIDTH, height=HEIGHT):
    return reading_order(np.asarray(boxes, dtype=np.float32), width, height).tolist()


def assert_read_as_written(boxes, shuffles=5):
    """`boxes` are written here in the order in which they must be read, however they come."""
    boxes = np.asarray(boxes, dtype=np.float32)
    for seed in range(shuffles):
        shuffle = np.random.default_rng(seed).permutation(len(boxes))
        order = reading_order(boxes[shuffle], WIDTH, HEIGHT)
        assert shuffle[order].tolist() == list(range(len(boxes)))


HEADING = (200, 1700, 2280, 1780)  # full width, in the middle of the page

LAYOUTS = {
    "one box": [(200, 300, 2280, 900)],
    "one column": column(ONE[0], 300, 3200, [500, 900, 1400, 1500, 2500]),
    "two columns": [
        *column(TWO[0], 300, 3200, [800, 1900]),
        *column(TWO[1], 300, 3200, [1200, 2200, 2900]),
    ],
    # Paragraphs that end at the same height are still no rows.
    "two columns, aligned": [
        *column(TWO[0], 300, 3200, [1000, 2000]),
        *column(TWO[1], 300, 3200, [1000, 2000]),
    ],
    "three columns": [
        *column(THREE[0], 300, 3200, [1000, 2000]),
        *column(THREE[1], 300, 3200, [500, 2000, 2100]),
        *column(THREE[2], 300, 2800, [1700]),
    ],
    "title, authors, abstract, two columns": [
        (500, 250, 1980, 400),
        (800, 450, 1680, 500),
        (400, 600, 2080, 1000),
        *column(TWO[0], 1080, 3200, [1900]),
        *column(TWO[1], 1080, 3200, [1500, 2500]),
    ],
    "two columns, full-width heading in the middle": [
        *column(TWO[0], 300, 1660, [900]),
        *column(TWO[1], 300, 1650, [1200]),
        HEADING,
        *column(TWO[0], 1820, 3200, [2500]),
        *column(TWO[1], 1820, 3200, [2100, 2700]),
    ],
    "three columns, full-width heading, two columns": [
        *column(THREE[0], 300, 1660, [900]),
        *column(THREE[1], 300, 1660, [900]),
        *column(THREE[2], 300, 1400, [900]),
        HEADING,
        *column(TWO[0], 1820, 3200, [2500]),
        *column(TWO[1], 1820, 3200, [2500]),
    ],
    # A short heading at the left, nearer to its own two columns than to the three above.
    "three columns, short heading, two columns": [
        *column(THREE[0], 300, 1660, [900]),
        *column(THREE[1], 300, 1660, [900]),
        *column(THREE[2], 300, 1660, [900]),
        (200, 1760, 700, 1830),
        *column(TWO[0], 1860, 3200, [2500]),
        *column(TWO[1], 1860, 3200, [2500]),
    ],
    "full-width figure and caption at the top": [
        (200, 250, 2280, 1200),
        (300, 1220, 2180, 1290),
        *column(TWO[0], 1360, 3200, [2500]),
        *column(TWO[1], 1360, 3200, [2500]),
    ],
    "full-width table at the bottom": [
        *column(TWO[0], 300, 2200, [1400]),
        *column(TWO[1], 300, 2000, [1400]),
        (200, 2260, 2280, 3200),
    ],
    "figure at the top of the right column": [
        *column(TWO[0], 300, 3200, [1400]),
        (1270, 300, 2280, 1100),
        (1300, 1110, 2250, 1200),
        *column(TWO[1], 1260, 3200, [2000]),
    ],
    # The article under the heading is read before the third column, which it leaves alone.
    "heading across the first two of three columns": [
        *column(THREE[0], 300, 1660, [900]),
        *column(THREE[1], 300, 1660, [1200]),
        (200, 1700, 1566, 1780),
        *column(THREE[0], 1820, 3200, [2600]),
        *column(THREE[1], 1820, 3200, [2600]),
        *column(THREE[2], 300, 3200, [1000, 2400]),
    ],
    "heading across the last two of three columns": [
        *column(THREE[0], 300, 3200, [1000, 2400]),
        *column(THREE[1], 300, 1660, [900]),
        *column(THREE[2], 300, 1660, [1200]),
        (913, 1700, 2280, 1780),
        *column(THREE[1], 1820, 3200, [2600]),
        *column(THREE[2], 1820, 3200, [2600]),
    ],
    # As above, but by chance the first column has a paragraph's end at the heading's height.
    "heading across the last two of three columns, aligned": [
        *column(THREE[0], 300, 1660, [900]),
        *column(THREE[0], 1690, 3200, [2600]),
        *column(THREE[1], 300, 1660, [900]),
        *column(THREE[2], 300, 1660, [1200]),
        (913, 1700, 2280, 1780),
        *column(THREE[1], 1820, 3200, [2600]),
        *column(THREE[2], 1820, 3200, [2600]),
    ],
    "heading above the first two of three columns": [
        (200, 300, 1566, 420),
        *column(THREE[0], 460, 3200, [900]),
        *column(THREE[1], 460, 3200, [1200]),
        *column(THREE[2], 300, 3200, [1000, 2400]),
    ],
    "marginal notes at the left": [
        (200, 620, 500, 760),
        (200, 1400, 500, 1500),
        (200, 1560, 500, 1650),
        *column((560, 2280), 300, 3200, [800, 1450, 2200]),
    ],
    "marginal notes at the right": [
        *column((200, 1920), 300, 3200, [800, 1450, 2200]),
        (1980, 620, 2280, 760),
        (1980, 1400, 2280, 1500),
        (1980, 1560, 2280, 1650),
    ],
    "running head and page number at its right, number of the sheet below": [
        (800, 180, 1500, 230),
        (2180, 180, 2280, 230),
        *column(TWO[0], 300, 3200, [1400]),
        *column(TWO[1], 300, 3200, [2000]),
        (1215, 3300, 1265, 3345),
    ],
    # Close to the text, yet no line of a column: it does not keep to one.
    "running head close to the columns": [
        (600, 180, 1900, 230),
        (2180, 180, 2280, 230),
        *column(THREE[0], 245, 3200, [1400]),
        *column(THREE[1], 245, 3200, [2000]),
        *column(THREE[2], 245, 3200, [800]),
    ],
    # Headings of columns are not taken for a running head.
    "columns that begin with headings": [
        (200, 250, 700, 320),
        *column(TWO[0], 350, 3200, [1400]),
        (1270, 250, 1900, 320),
        *column(TWO[1], 350, 3200, [2000]),
    ],
    "first column longer by a line": [
        *column(TWO[0], 300, 3250, [1400, 3170]),
        *column(TWO[1], 300, 3160, [2000]),
    ],
    # Far from the page's foot, a line apart is still the column's.
    "columns that end early, the first with a line apart": [
        *column(TWO[0], 300, 1700, [1400]),
        (200, 1850, 1210, 1910),
        *column(TWO[1], 300, 1690, [900]),
    ],
    # Nearer to the text that it signs than to the column below it.
    "signature above two columns": [
        (200, 300, 2280, 1000),
        (1500, 1020, 2280, 1080),
        *column(TWO[0], 1180, 3200, [2500]),
        *column(TWO[1], 1180, 3200, [1900]),
    ],
    # Nothing stands beside the date, so that the salutation is no column to its left.
    "letter": [
        (1500, 300, 2200, 360),
        (200, 480, 1100, 540),
        (200, 620, 2280, 1500),
        (200, 1540, 2280, 2200),
        (1300, 2300, 2100, 2360),
        (1400, 2400, 2000, 2500),
    ],
    "letter with a head of two blocks": [
        (200, 200, 900, 500),
        (1500, 200, 2280, 500),
        (200, 700, 1100, 760),
        (200, 820, 2280, 1500),
    ],
    "two figures with captions in a page of one column": [
        (200, 300, 2280, 900),
        (250, 960, 1150, 1700),
        (250, 1710, 1150, 1790),
        (1300, 960, 2200, 1700),
        (1300, 1710, 2200, 1790),
        (200, 1850, 2280, 3200),
    ],
    "boxes inside others": [
        (200, 300, 2280, 1500),
        (250, 350, 1200, 700),
        (250, 720, 1200, 1400),
        (260, 730, 700, 1000),
        (1250, 350, 2200, 1400),
        (200, 1560, 2280, 2000),
    ],
    # A picture frame around the whole page must not hide the columns.
    "page-sized box": [
        (20, 20, 2460, 3480),
        *column(TWO[0], 300, 3200, [1400]),
        *column(TWO[1], 300, 3200, [2000]),
    ],
    "initial that juts out of its paragraph": [
        (190, 300, 2280, 600),
        (150, 640, 400, 900),
        (230, 640, 2280, 1400),
        (200, 1440, 2280, 2000),
    ],
    # No cut divides these, that stand around the middle like the vanes of a wheel.
    "pinwheel": [
        (200, 300, 1500, 1200),
        (200, 1260, 840, 3200),
        (900, 1300, 1480, 2380),
        (1560, 300, 2280, 2400),
        (880, 2440, 2280, 3200),
    ],
    "pinwheel around columns with a heading": [
        (200, 300, 1700, 600),
        (200, 660, 440, 3200),
        (500, 660, 960, 1300),
        (1020, 660, 1480, 1300),
        (500, 1360, 1480, 1440),
        *column((500, 960), 1500, 2500, [2000]),
        (1020, 1500, 1480, 2500),
        (1760, 300, 2280, 2600),
        (500, 2660, 2280, 3200),
    ],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_read_in_order(name):
    assert_read_as_written(LAYOUTS[name])


@pytest.mark.parametrize("degrees", [-1.5, -0.7, 0.7, 1.5])
@pytest.mark.parametrize("name", LAYOUTS)
def test_page_slightly_askew_is_read_in_order(name, degrees):
    assert_read_as_written(skewed(LAYOUTS[name], degrees), shuffles=2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_overlapping_boxes_are_read_in_order(name):
    """Neighbours 20 px apart overlap by 10."""
    assert_read_as_written(grown(LAYOUTS[name], 15), shuffles=2)


@pytest.mark.parametrize("name", LAYOUTS)
def test_imprecise_boxes_are_read_in_order(name):
    boxes = np.asarray(LAYOUTS[name], dtype=float)
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 5, boxes.shape).clip(-12, 12)
        assert_read_as_written(boxes + noise, shuffles=1)


def test_no_boxes():
    order = reading_order(np.empty((0, 4), dtype=np.float32), WIDTH, HEIGHT)
    assert order.dtype == np.int64
    assert order.shape == (0,)


def test_order_of_random_boxes_is_a_permutation_that_ignores_their_order():
    for seed in range(100):
        random = np.random.default_rng(seed)
        corners = random.integers(0, 60, (random.integers(1, 60), 2, 2)) * 50
        boxes = np.hstack([corners.min(axis=1), corners.max(axis=1) + random.integers(1, 40)])
        boxes = np.unique(boxes, axis=0).astype(np.float32)
        order = reading_order(boxes, WIDTH, HEIGHT)
        assert order.dtype == np.int64
        assert sorted(order) == list(range(len(boxes)))
        shuffle = random.permutation(len(boxes))
        assert (boxes[shuffle][reading_order(boxes[shuffle], WIDTH, HEIGHT)] == boxes[order]).all()


def test_order_does_not_depend_on_resolution():
    for boxes in LAYOUTS.values():
        halved = np.asarray(boxes) / 2
        assert places(halved, WIDTH / 2, HEIGHT / 2) == places(boxes)


@pytest.mark.parametrize("shape", ["nested", "spiral", "equal", "points"])
def test_a_thousand_boxes_in_a_bad_arrangement(shape):
    """None needs recursion a thousand deep, and none gets lost."""
    step = np.arange(1000)
    rows = {
        "nested": [step, step, 5000 - step, 5000 - step],
        "spiral": [
            4 * step,
            4 * step,
            np.where(step % 2, 5000, 4 * step + 3),
            np.where(step % 2, 4 * step + 3, 5000),
        ],
        "equal": [0 * step, 0 * step, 0 * step + 90, 0 * step + 90],
        "points": [step % 30, step % 40, step % 30, step % 40],
    }
    boxes = np.stack(rows[shape], axis=1)
    order = places(boxes, 5000, 5000)
    assert sorted(order) == list(range(1000))
    if shape in ("nested", "equal"):
        assert order == list(range(1000))


NEWSPAPERS = Path(__file__).parents[3] / "shared/data/gbn_newspapers/data"


@pytest.mark.skipif(not NEWSPAPERS.exists(), reason=f"no newspaper pages in {NEWSPAPERS}")
def test_newspapers_are_read_as_their_annotators_did():
    """34 pages of 3 to 5 columns, advertisements and all, whose regions are written in order."""
    wrong = pairs = 0
    for path in sorted(NEWSPAPERS.glob("*/GT-PAGE/*.xml")):
        page = ElementTree.parse(path).getroot().find("{*}Page")
        outlines = [
            np.array([point.split(",") for point in region.find("{*}Coords").get("points").split()])
            for region in page.findall("{*}TextRegion")
        ]
        outlines = [outline.astype(np.float32) for outline in outlines]
        boxes = [[*outline.min(axis=0), *outline.max(axis=0)] for outline in outlines]
        order = places(boxes, int(page.get("imageWidth")), int(page.get("imageHeight")))
        earlier, later = np.triu_indices(len(order), k=1)
        pairs += len(earlier)
        wrong += (np.argsort(order)[earlier] > np.argsort(order)[later]).sum()
    assert pairs > 60000
    assert wrong < 0.02 * pairs


def naive_suppression(boxes, scores, max_iou):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda index: (-scores[index], index)):
        x_min, y_min, x_max, y_max = map(float, boxes[index])
        for other in kept:
            left, top, right, bottom = map(float, boxes[other])
            width = max(0.0, min(x_max, right) - max(x_min, left))
            height = max(0.0, min(y_max, bottom) - max(y_min, top))
            areas = (x_max - x_min) * (y_max - y_min) + (right - left) * (bottom - top)
            if width * height > max_iou * (areas - width * height):
                break
        else:
            kept.append(index)
    return kept


@pytest.mark.parametrize("max_iou", [0.0, 0.3, 0.7, 1.0])
def test_suppression_equals_its_definition(max_iou):
    fewer = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        count = int(random.integers(0, 80))
        corner = random.uniform(0, 300, (count, 2))
        boxes = np.hstack([corner, corner + random.uniform(100, 200, (count, 2))])
        boxes = boxes.astype(np.float32)
        scores = (random.integers(1, 20, count) / 20).astype(np.float32)  # with ties
        kept = suppress_duplicates(boxes, scores, max_iou)
        assert kept.dtype == np.int64
        assert kept.tolist() == naive_suppression(boxes, scores, max_iou)
        fewer += len(kept) < count
    assert fewer >= 30 if max_iou < 1 else fewer == 0


def test_suppression_is_greedy_and_breaks_ties_by_index():
    # The middle box overlaps both others, which do not overlap enough.
    row = np.array([[0, 0, 100, 100], [30, 0, 130, 100], [60, 0, 160, 100]], dtype=np.float32)
    same = np.array([0.5, 0.5, 0.5], dtype=np.float32)
    assert suppress_duplicates(row, same, 0.5).tolist() == [0, 2]
    middle = np.array([0.5, 0.9, 0.5], dtype=np.float32)
    assert suppress_duplicates(row, middle, 0.5).tolist() == [1]
    # The third is suppressed by none that stays.
    falling = np.array([0.9, 0.8, 0.7], dtype=np.float32)
    assert suppress_duplicates(row, falling, 0.5).tolist() == [0, 2]


def test_a_box_in_another_of_nearly_the_same_extent_is_a_duplicate_a_small_one_is_not():
    boxes = np.array([[0, 0, 1000, 800], [20, 20, 980, 780], [50, 50, 300, 200]], np.float32)
    scores = np.array([0.6, 0.8, 0.7], np.float32)
    assert suppress_duplicates(boxes, scores, 0.7).tolist() == [1, 2]


def detections(*rows):
    """The table `detections` of one page from (class_name, score, box, polygon)."""
    return from_rows(
        "detections",
        [
            {
                "document": "1888/a.pdf",
                "page": 7,
                "detection": rank,
                "class_id": CLASSES.index(name),
                "class_name": name,
                "score": score,
                **dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True)),
                "polygon": polygon,
            }
            for rank, (name, score, box, polygon) in enumerate(rows, start=1)
        ],
    )


PAGE = detections(
    ("text", 0.95, (1270, 500, 2280, 3200), None),
    ("list", 0.90, (200, 500, 1210, 3200), [200, 500, 1210, 500, 1210, 3200]),
    ("text", 0.80, (205, 510, 1205, 3190), None),  # the list again
    ("title", 0.70, (200, 250, 2280, 420), [200, 250, 2280, 250, 2280, 420]),
    ("table", 0.55, (400, 3250, 2000, 3400), None),
    ("figure", 0.30, (0, 0, 100, 3508), None),
)


def select(page=PAGE, **settings):
    return select_regions(page, WIDTH, HEIGHT, SETTINGS | settings)


def test_regions_of_a_page():
    regions = select()
    assert regions.schema.equals(SCHEMAS["regions"])
    assert regions["detection"].to_pylist() == [4, 2, 1, 5]
    assert regions["region"].to_pylist() == [1, 2, 3, 4]
    for row in regions.drop_columns("region").to_pylist():
        assert row == PAGE.slice(row["detection"] - 1, 1).to_pylist()[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"classes": ["text", "table"]}, [3, 1, 5]),
        ({"classes": []}, []),
        ({"min_score": 0.9}, [2, 1]),
        ({"min_score": 0.7}, [4, 2, 1]),  # 0.7 is a little less in float32
        ({"min_score": {"default": 0.99, "title": 0.1}}, [4]),
        ({"min_score": {"default": 0.5, "figure": 0.1}}, [6, 4, 2, 1, 5]),
        ({"duplicate_iou": 1.0}, [4, 2, 3, 1, 5]),
        # Thresholds come first: what is under its own cannot suppress another.
        ({"min_score": {"default": 0.5, "list": 0.95}}, [4, 3, 1, 5]),
        ({"reading_order": "position"}, [4, 2, 1, 5]),
    ],
)
def test_settings_of_regions(settings, expected):
    regions = select(**settings)
    assert regions["detection"].to_pylist() == expected
    assert regions["region"].to_pylist() == list(range(1, len(expected) + 1))
    assert regions.schema.equals(SCHEMAS["regions"])


def test_order_by_position_goes_from_top_to_bottom_then_left_to_right():
    page = detections(
        ("text", 0.9, (1270, 300, 2280, 900), None),
        ("text", 0.8, (200, 300, 1210, 1900), None),
        ("text", 0.7, (200, 2000, 1210, 3200), None),
        ("text", 0.6, (1270, 950, 2280, 3200), None),
    )
    assert select(page, reading_order="position")["detection"].to_pylist() == [2, 1, 4, 3]
    assert select(page, reading_order="columns")["detection"].to_pylist() == [2, 3, 1, 4]


def test_a_page_without_detections_has_a_table_without_rows():
    regions = select(PAGE.slice(0, 0))
    assert regions.num_rows == 0
    assert regions.schema.equals(SCHEMAS["regions"])
    assert select(SCHEMAS["detections"].empty_table()).equals(regions)


def test_a_page_in_chunks_or_cut_from_a_longer_table_gives_the_same():
    chunks = pa.concat_tables([PAGE.slice(0, 2), PAGE.slice(2)])
    assert chunks["score"].num_chunks == 2
    assert select(chunks).equals(select())
    longer = pa.concat_tables([PAGE, PAGE, PAGE]).combine_chunks()
    assert select(longer.slice(6, 6)).equals(select())


def test_min_scores():
    assert min_scores(0.4, ["text", "title"]) == {"text": 0.4, "title": 0.4}
    setting = {"default": 0.5, "title": 0.3}
    assert min_scores(setting, ["text", "title"]) == {"text": 0.5, "title": 0.3}
    assert min_scores({"text": 1, "title": 0}, ["text", "title"]) == {"text": 1.0, "title": 0.0}


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ({"default": 0.5, "tabel": 0.3}, ["`tabel`", "Did you mean `table`?", "`figure`"]),
        ({"default": 0.5, "Title": 0.3}, ["`Title`", "Did you mean `title`?"]),
        ({"text": 0.5, "list": 0.5}, ["`title`, `table`, `figure`", "`default`"]),
        ({}, ["`text`", "`default`"]),
    ],
)
def test_wrong_min_scores(setting, parts):
    with pytest.raises(UserError) as error:
        min_scores(setting, CLASSES)
    for part in ["regions.min_score", *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"min_score": 0.01}, ["regions.min_score is 0.01", "score_floor (0.05)", "never kept"]),
        ({"min_score": {"default": 0.5, "list": 0.04}}, ["regions.min_score.list is 0.04"]),
        ({"min_score": {"default": 0.5, "lst": 0.6}}, ["regions.min_score names", "`list`?"]),
        ({"classes": ["text", "tables"]}, ["regions.classes names", "`tables`", "`table`?"]),
        ({"classes": ["Überschrift"]}, ["`Überschrift`", "Its classes: `text`"]),
    ],
)
def test_wrong_settings(settings, parts):
    with pytest.raises(UserError) as error:
        check_settings(SETTINGS | settings, 0.05, CLASSES)
    for part in parts:
        assert part in str(error.value)


def test_right_settings():
    check_settings(SETTINGS, 0.05, CLASSES)
    check_settings(SETTINGS | {"min_score": 0.05, "classes": ["table"]}, 0.05, CLASSES)
    # Names can be judged only once the model is known, the floor always.
    unknown = SETTINGS | {"classes": ["advert"], "min_score": {"default": 0.5, "advert": 0.3}}
    check_settings(unknown, 0.05, None)
    with pytest.raises(UserError, match="score_floor"):
        check_settings(unknown, 0.4, None)
