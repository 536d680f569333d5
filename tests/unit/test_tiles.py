"""Large pages in tiles: the windows, and the merging of what is found on them."""

from itertools import pairwise

import cv2
import numpy as np
import pytest

from scanmill.errors import UserError
from scanmill.outlines import MAX_POLYGON_POINTS
from scanmill.tiles import Detections, check_settings, merge_tiles, tile_boxes

TEXT, TITLE, FIGURE = 0, 1, 2
# A newspaper page at 600 dpi.
WIDTH, HEIGHT = 7100, 10590


def detections(*found):
    """Detections of (box, score, class[, polygon])."""
    return Detections(
        np.array([each[0] for each in found], np.float32).reshape(-1, 4),
        np.array([each[1] for each in found], np.float32),
        np.array([each[2] for each in found], np.int32),
        [each[3] if len(each) > 3 else None for each in found],
    )


def rectangle(x_min, y_min, x_max, y_max):
    return np.array([x_min, y_min, x_max, y_min, x_max, y_max, x_min, y_max], np.int32)


def rows(found):
    """What was found as a list of (box, score, class), to compare."""
    scores = found.scores.astype(float).round(4).tolist()
    boxes = map(tuple, found.boxes.tolist())
    return list(zip(boxes, scores, found.class_ids.tolist(), strict=True))


def clipped(box, window):
    return (*np.maximum(box[:2], window[:2]), *np.minimum(box[2:], window[2:]))


def seen(objects, window, sliver=40, outlines=False):
    """What a perfect detector finds of `objects` (box, score, class) on a tile; no slivers."""
    found = []
    for box, score, class_id in objects:
        piece = clipped(box, window)
        sides = np.subtract(piece[2:], piece[:2])
        if (sides >= np.minimum(sliver, np.subtract(box[2:], box[:2]))).all():
            polygon = [rectangle(*np.rint(piece).astype(int))] if outlines else []
            found.append((piece, score, class_id, *polygon))
    return detections(*found)


def column(x_min, x_max, edges, gap=30):
    """Paragraphs between `edges`, `gap` px apart."""
    return [(x_min, upper, x_max, lower - gap) for upper, lower in pairwise(edges)]


def newspaper():
    """(box, score, class) of a page of three columns, with long and short paragraphs, a heading
    across the page, a figure across two columns and titles of one line."""
    boxes = [
        *column(300, 2400, [1400, 1520, 3000, 3100, 9800, 9920, 10400]),
        *column(2460, 4560, [1400, 5200, 5280, 5360, 5440, 10400]),
        *column(4620, 6750, [1400, 1500, 1600, 1700, 1800, 4500]),
        *column(4620, 6750, [8100, 8200, 10400]),
    ]
    objects = [(box, 0.5 + 0.4 * i / len(boxes), TEXT) for i, box in enumerate(boxes)]
    objects += [((300, 300, 6750, 1300), 0.95, TITLE), ((2600, 4550, 6700, 8000), 0.93, FIGURE)]
    objects += [((4700, 4500, 6700, 4540), 0.6, TITLE)]
    return [(tuple(map(float, box)), round(score, 4), class_id) for box, score, class_id in objects]


def by_score(objects):
    return sorted(objects, key=lambda each: -each[1])


def iou(box, other):
    sides = np.subtract(*[clipped(box, other)[i : i + 2] for i in (2, 0)]).clip(0)
    areas = [np.prod(np.subtract(each[2:], each[:2])) for each in (box, other)]
    return sides.prod() / (sum(areas) - sides.prod())


# The windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [500, 1333, 3000, 4000])
@pytest.mark.parametrize("overlap", [0, 1, 120, 400])
@pytest.mark.parametrize(
    "page", [(WIDTH, HEIGHT), (4001, 3999), (4000, 4000), (90, 5000), (3001, 1)]
)
def test_windows_cover_the_page_evenly(page, size, overlap):
    windows = tile_boxes(*page, size, overlap)
    columns = sorted({(window[0], window[2]) for window in windows})
    lines = sorted({(window[1], window[3]) for window in windows})
    assert windows == [(x0, y0, x1, y1) for y0, y1 in lines for x0, x1 in columns]
    for spans, length in ((columns, page[0]), (lines, page[1])):
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        assert {high - low for low, high in spans} == {min(size, length)}
        shared = [upper[1] - lower[0] for upper, lower in pairwise(spans)]
        if shared:
            assert min(shared) >= overlap
            assert max(shared) - min(shared) <= 1
            # No more than are needed.
            assert len(spans) == 2 or (len(spans) - 1) * (size - overlap) + overlap < length
    assert all(isinstance(edge, int) for window in windows for edge in window)


def test_a_page_that_is_not_larger_is_one_window():
    assert tile_boxes(3000, 2000, 3000, 500) == [(0, 0, 3000, 2000)]
    assert len(tile_boxes(3001, 2000, 3000, 500)) == 2


# Objects that are seen as they are ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "overlap"), [(4000, 1000), (3000, 600), (2200, 300), (3000, 1800)]
)
def test_a_page_comes_back_as_it_is(size, overlap):
    objects = newspaper()
    windows = tile_boxes(WIDTH, HEIGHT, size, overlap)
    merged = merge_tiles(windows, [seen(objects, window) for window in windows])
    assert rows(merged) == by_score(objects)
    assert [array.dtype for array in merged[:3]] == [np.float32, np.float32, np.int32]


@pytest.mark.parametrize("seed", range(30))
def test_any_page_comes_back_as_it_is(seed):
    """Random columns of random paragraphs, in tiles of random size."""
    rng = np.random.default_rng(seed)
    width, height = rng.integers(2000, 8000, 2).tolist()
    size = int(rng.integers(1000, 5000))
    windows = tile_boxes(width, height, size, int(size * rng.uniform(0.12, 0.7)))
    sides = np.cumsum(rng.integers(200, 2500, 9))
    objects = []
    for x_min, x_max in pairwise([0, *sides[sides < width - 100].tolist(), width]):
        edges = np.cumsum(rng.choice([60, 90, 400, 3000], 60) + rng.integers(0, 60, 60))
        boxes = column(x_min + 10, x_max - 10, [5, *edges[edges < height].tolist()], 20)
        objects += [
            (tuple(map(float, box)), round(rng.uniform(0.5, 1), 4), int(rng.integers(2)))
            for box in boxes
        ]
    merged = merge_tiles(windows, [seen(objects, window) for window in windows])
    assert sorted(rows(merged)) == sorted(objects)


def test_outlines_come_back_as_they_are():
    objects = newspaper()
    windows = tile_boxes(WIDTH, HEIGHT, 3000, 600)
    merged = merge_tiles(windows, [seen(objects, window, outlines=True) for window in windows])
    for (box, _, _), polygon in zip(by_score(objects), merged.polygons, strict=True):
        assert polygon.dtype == np.int32
        corners = polygon.reshape(-1, 2)
        # Whole, or traced on a grid; a rectangle is four points in either case.
        assert sorted(map(tuple, corners.tolist())) == sorted(
            (int(x), int(y)) for x in box[::2] for y in box[1::2]
        )


def test_a_column_over_five_tiles_is_one():
    windows = tile_boxes(2500, 10000, 2500, 600)
    assert len(windows) == 5
    # Its neighbours end and begin at other heights, one of them in the overlap of two tiles.
    objects = [((900.0, 200.0, 1600.0, 9900.0), 0.9, TEXT)]
    objects += [
        ((100.0, top, 860.0, bottom), 0.8, TEXT) for top, bottom in [(200, 2200), (2230, 9900)]
    ]
    merged = merge_tiles(windows, [seen(objects, window) for window in windows])
    assert sorted(rows(merged)) == sorted(objects)


def test_the_score_of_an_object_in_pieces():
    windows = tile_boxes(1000, 1900, 1200, 500)
    # Its pieces are 1000 and 800 px high: the mean by area.
    parts = [
        detections(((100, 200, 900, 1200), 0.9, TEXT)),
        detections(((100, 700, 900, 1500), 0.45, TEXT)),
    ]
    assert rows(merge_tiles(windows, parts)) == [((100, 200, 900, 1500), 0.7, TEXT)]


def test_an_object_cut_in_both_directions_is_one():
    windows = tile_boxes(2000, 2000, 1200, 300)
    box = (50.0, 60.0, 1950.0, 1940.0)
    merged = merge_tiles(windows, [seen([(box, 0.9, FIGURE)], window) for window in windows])
    assert rows(merged) == [(box, 0.9, FIGURE)]


def test_a_skewed_column_keeps_both_its_sides():
    windows = tile_boxes(1000, 2000, 1200, 300)
    parts = [
        detections(((100, 100, 800, 1200), 0.9, TEXT)),
        detections(((140, 800, 840, 1900), 0.8, TEXT)),
    ]
    assert rows(merge_tiles(windows, parts)) == [((100, 100, 840, 1900), 0.85, TEXT)]


# Objects found again ------------------------------------------------------------------------------


def test_of_two_whole_ones_the_better_stays():
    windows = tile_boxes(1000, 2000, 1200, 400)
    parts = [
        detections(((100, 900, 500, 1100), 0.7, TEXT, rectangle(100, 900, 500, 1100))),
        detections(((110, 890, 505, 1110), 0.8, TEXT, rectangle(110, 890, 505, 1110))),
    ]
    merged = merge_tiles(windows, parts)
    assert rows(merged) == [((110, 890, 505, 1110), 0.8, TEXT)]
    assert merged.polygons[0].tolist() == rectangle(110, 890, 505, 1110).tolist()


def test_a_fragment_of_what_the_neighbour_saw_whole_vanishes():
    windows = tile_boxes(1000, 2000, 1200, 400)
    # From the upper tile it is cut, and the model is surer of what is left of it, which it sees a
    # little larger than it is.
    parts = [
        detections(((90, 1050, 510, 1200), 0.95, TEXT)),
        detections(((100, 1060, 500, 1400), 0.8, TEXT)),
    ]
    assert rows(merge_tiles(windows, parts)) == [((100, 1060, 500, 1400), 0.8, TEXT)]


def test_a_fragment_that_agrees_with_nothing_vanishes_under_a_better_one():
    windows = tile_boxes(1000, 2000, 1200, 400)
    whole = ((100, 900, 500, 1400), 0.8, TEXT)
    fragment = ((100, 1120, 400, 1200), 0.3, TEXT)
    parts = [detections(fragment), detections(whole)]
    assert rows(merge_tiles(windows, parts)) == [whole]
    # Alone it stays, and so does one of another class.
    assert rows(merge_tiles(windows, [detections(fragment), detections()])) == [
        (fragment[0], 0.3, TEXT)
    ]
    other = (*fragment[:2], TITLE)
    assert rows(merge_tiles(windows, [detections(other), detections(whole)])) == [whole, other]


def test_a_strip_across_columns_vanishes_under_them_all():
    windows = tile_boxes(1000, 1900, 1200, 500)
    columns = [((x, 100.0, x + 300.0, 800.0), 0.9, TEXT) for x in (20.0, 340.0, 660.0)]
    # The lower tile takes the last lines of the columns for one paragraph.
    strip = ((20, 700, 960, 800), 0.8, TEXT)
    assert rows(merge_tiles(windows, [detections(*columns), detections(strip)])) == columns


def test_a_small_object_inside_a_large_one_stays():
    windows = tile_boxes(1000, 2000, 1200, 400)
    objects = [
        ((0.0, 100.0, 900.0, 2000.0), 0.9, TEXT),
        ((200.0, 1000.0, 800.0, 1100.0), 0.4, TEXT),
        ((200.0, 1150.0, 800.0, 1300.0), 0.3, TEXT),
        # At the page's edges, where nothing is cut.
        ((0.0, 300.0, 500.0, 500.0), 0.2, TEXT),
        ((200.0, 1900.0, 800.0, 2000.0), 0.1, TEXT),
    ]
    merged = merge_tiles(windows, [seen(objects, window) for window in windows])
    assert rows(merged) == objects


def test_what_one_tile_holds_apart_stays_apart():
    windows = tile_boxes(1000, 2000, 1200, 400)
    # The model's own suppression has let both stand: IoU 0.6.
    both = [((100, 100, 500, 300), 0.9, TEXT), ((100, 150, 500, 350), 0.8, TEXT)]
    assert rows(merge_tiles(windows, [detections(*both), detections()])) == both


@pytest.mark.parametrize("upside_down", [False, True])
def test_of_two_minds_about_an_object_the_better_stays(upside_down):
    windows = tile_boxes(1000, 1900, 1200, 500)
    # One tile saw its end, the other saw it go on: IoU 0.52.
    boxes = [(100, 720, 900, 1100), (100, 720, 900, 1450)]
    if upside_down:
        windows = windows[::-1]
        boxes = [(x_min, 1900 - y_max, x_max, 1900 - y_min) for x_min, y_min, x_max, y_max in boxes]
    for scores in ((0.9, 0.8), (0.7, 0.8)):
        both = [(box, score, TEXT) for box, score in zip(boxes, scores, strict=True)]
        merged = merge_tiles(windows, [detections(each) for each in both])
        assert rows(merged) == [max(both, key=lambda each: each[1])]


def test_objects_are_compared_by_the_scores_that_they_end_with():
    windows = tile_boxes(1000, 1900, 1200, 500)
    # The best piece of all is a fragment of the poorest object.
    fragment, whole = ((50, 1110, 90, 1200), 0.95, TEXT), ((50, 1110, 90, 1300), 0.3, TEXT)
    short, long = ((100, 720, 900, 1100), 0.9, TEXT), ((100, 720, 900, 1450), 0.8, TEXT)
    merged = merge_tiles(windows, [detections(fragment, short), detections(long, whole)])
    assert rows(merged) == [short, whole]


# Distinct objects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seam", range(760, 1260, 20))
def test_neighbours_are_not_united(seam):
    # Two paragraphs one below the other, wherever their gap lies to the edges of the tiles; and the
    # same from left to right.
    windows = tile_boxes(2000, 2000, 1200, 400)
    boxes = [(100, 300, 1900, seam), (100, seam + 10, 1900, 1700)]
    for turn in (slice(None), [1, 0, 3, 2]):
        objects = [(tuple(np.array(box, float)[turn]), 0.9, TEXT) for box in boxes]
        merged = merge_tiles(windows, [seen(objects, window) for window in windows])
        assert rows(merged) == objects


def test_classes_are_apart():
    windows = tile_boxes(1000, 2000, 1200, 400)
    objects = [
        ((100.0, 100.0, 900.0, 1900.0), 0.9, TEXT),
        ((100.0, 100.0, 900.0, 1900.0), 0.4, FIGURE),
    ]
    merged = merge_tiles(windows, [seen(objects, window) for window in windows])
    assert rows(merged) == objects
    halves = [
        detections(((100, 100, 900, 1200), 0.9, TEXT)),
        detections(((100, 800, 900, 1900), 0.8, FIGURE)),
    ]
    assert len(merge_tiles(windows, halves).scores) == 2


def test_what_agrees_well_goes_before_what_scores_a_little_more():
    windows = tile_boxes(1000, 2000, 1200, 400)
    # The lower tile also saw the column's left half, and is a little surer of it.
    halves = [((100, 800, 560, 1700), 0.84, TEXT), ((100, 800, 900, 1900), 0.8, TEXT)]
    upper = ((100, 100, 900, 1200), 0.95, TEXT)
    merged = merge_tiles(windows, [detections(upper), detections(*halves)])
    assert rows(merged) == [((100, 100, 900, 1900), 0.875, TEXT)]


def test_a_paragraph_that_ends_is_not_continued():
    windows = tile_boxes(1000, 1900, 1200, 500)
    # One tile saw a paragraph end where the other saw a block go on.
    both = [((100, 100, 900, 1100), 0.9, TEXT), ((100, 800, 900, 1700), 0.8, TEXT)]
    assert rows(merge_tiles(windows, [detections(each) for each in both])) == both
    both = [((100, 800, 900, 1800), 0.9, TEXT), ((100, 200, 900, 1100), 0.8, TEXT)]
    assert rows(merge_tiles(windows, [detections(each) for each in both[::-1]])) == both


def test_what_agrees_well_goes_before_what_scores_a_little_more():
    windows = tile_boxes(1000, 2000, 1200, 400)
    # The lower tile also saw the column's left half, and is a little surer of it.
    halves = [((100, 800, 560, 1700), 0.84, TEXT), ((100, 800, 900, 1900), 0.8, TEXT)]
    upper = ((100, 100, 900, 1200), 0.95, TEXT)
    merged = merge_tiles(windows, [detections(upper), detections(*halves)])
    assert rows(merged) == [((100, 100, 900, 1900), 0.875, TEXT)]


def test_a_paragraph_that_ends_is_not_continued():
    windows = tile_boxes(1000, 1900, 1200, 500)
    # The upper tile saw a paragraph end where the lower one saw a block go on below.
    both = [((100, 100, 900, 1100), 0.9, TEXT), ((100, 800, 900, 1700), 0.8, TEXT)]
    assert rows(merge_tiles(windows, [detections(each) for each in both])) == both


def test_what_scores_well_goes_before_what_agrees_a_little_more():
    windows = tile_boxes(1000, 2000, 1200, 400)
    rivals = [((100, 800, 880, 1900), 0.9, TEXT), ((100, 800, 900, 1600), 0.1, TEXT)]
    upper = ((100, 100, 900, 1200), 0.9, TEXT)
    merged = merge_tiles(windows, [detections(upper), detections(*rivals)])
    assert rows(merged) == [((100, 100, 900, 1900), 0.9, TEXT)]


def test_rivals_of_low_score_do_not_chain():
    # On every tile of a column beside the true paragraphs pairs of them, each with the next: all
    # would be one by any chain of partners.
    windows = tile_boxes(1000, 6000, 1500, 500)
    edges = list(range(100, 6000, 320))
    paragraphs = [((100.0, a, 900.0, b - 20.0), 0.9, TEXT) for a, b in pairwise(edges)]
    pairs = [
        ((100.0, a, 900.0, b - 20.0), 0.1, TEXT) for a, b in zip(edges, edges[2:], strict=False)
    ]
    parts = [seen([*paragraphs, *pairs], window) for window in windows]
    merged = merge_tiles(windows, parts)
    assert [each for each in rows(merged) if each[1] > 0.5] == paragraphs
    assert max(box[3] - box[1] for box, _, _ in rows(merged)) <= 640


# Noise, order, edges ------------------------------------------------------------------------------


def noisy(objects, window, rng):
    """As a detector sees a tile: edges some pixels off, scores that differ, poor rivals."""
    found = []
    for box, score, class_id in rows(seen(objects, window)):
        sides = np.tile(np.subtract(box[2:], box[:2]), 2)
        off = clipped(box + rng.normal(0, 0.01, 4) * np.minimum(sides, 800), window)
        found.append((off, score - rng.uniform(0, 0.1), class_id))
        for _ in range(3):
            rival = clipped(box + rng.uniform(-0.3, 0.3, 4) * sides, window)
            found.append((rival, rng.uniform(0.05, 0.3), class_id))
    return detections(*(each for each in found if np.less(each[0][:2], each[0][2:]).all()))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("size", "overlap"), [(4000, 1000), (3000, 600)])
def test_noise_and_rivals_change_no_object(seed, size, overlap):
    rng = np.random.default_rng(seed)
    objects = [(box, 0.9, class_id) for box, _, class_id in newspaper()]
    windows = tile_boxes(WIDTH, HEIGHT, size, overlap)
    merged = merge_tiles(windows, [noisy(objects, window, rng) for window in windows])
    good = [each for each in rows(merged) if each[1] > 0.5]
    assert len(good) == len(objects)
    for box, _, class_id in objects:
        assert max(iou(box, other) for other, _, kind in good if kind == class_id) > 0.85
    assert (merged.boxes >= 0).all()
    assert (merged.boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert (np.diff(merged.scores) <= 0).all()


def test_the_order_of_tiles_and_detections_makes_no_difference():
    rng = np.random.default_rng(7)
    windows = tile_boxes(WIDTH, HEIGHT, 3000, 600)
    parts = [noisy(newspaper(), window, rng) for window in windows]
    # Equal scores, so that ties are met.
    parts = [part._replace(scores=part.scores.round(1)) for part in parts]
    merged = merge_tiles(windows, parts)
    for _ in range(5):
        order = rng.permutation(len(windows))
        shuffled = []
        for i in order:
            each = rng.permutation(len(parts[i].scores))
            boxes, scores, class_ids, polygons = parts[i]
            polygons = [polygons[j] for j in each]
            shuffled.append(Detections(boxes[each], scores[each], class_ids[each], polygons))
        again = merge_tiles([windows[i] for i in order], shuffled)
        assert all(np.array_equal(a, b) for a, b in zip(merged[:3], again[:3], strict=True))


def test_equal_detections_of_two_tiles():
    windows = tile_boxes(1000, 2000, 1200, 400)
    box = (100, 900, 500, 1100)
    parts = [
        detections((box, 0.9, TEXT, rectangle(*box))),
        detections((box, 0.9, TEXT, rectangle(100, 900, 400, 1100))),
    ]
    merged = merge_tiles(windows, parts)
    again = merge_tiles(windows[::-1], parts[::-1])
    assert len(merged.scores) == len(again.scores) == 1
    assert merged.polygons[0].tolist() == again.polygons[0].tolist()


def test_equal_scores_go_by_class_and_place():
    windows = tile_boxes(1000, 2000, 1200, 400)
    ordered = [
        ((700.0, 300.0, 800.0, 400.0), 0.9, FIGURE),
        ((500.0, 1500.0, 600.0, 1600.0), 0.5, TEXT),
        ((100.0, 200.0, 200.0, 300.0), 0.5, TITLE),
        ((100.0, 1400.0, 200.0, 1500.0), 0.5, TITLE),
        ((300.0, 200.0, 400.0, 300.0), 0.5, TITLE),
        ((600.0, 100.0, 700.0, 200.0), 0.5, TITLE),
    ]
    merged = merge_tiles(windows, [seen(ordered[::-1], window) for window in windows])
    assert rows(merged) == ordered


def test_nothing_found():
    windows = tile_boxes(1000, 2000, 1200, 400)
    merged = merge_tiles(windows, [detections(), detections()])
    assert [array.shape for array in merged[:3]] == [(0, 4), (0,), (0,)]
    assert [array.dtype for array in merged[:3]] == [np.float32, np.float32, np.int32]
    assert merged.polygons == []
    one = ((100, 100, 300, 300), 0.9, TEXT)
    assert rows(merge_tiles(windows, [detections(), detections(one)])) == [one]


def test_a_single_window_is_the_page():
    part = detections(
        ((0, 0, 90, 90), 0.9, TEXT, rectangle(0, 0, 90, 90)),
        ((0, 0, 90, 85), 0.8, TEXT),
        ((10, 10, 20, 20), 0.7, FIGURE),
    )
    merged = merge_tiles([(0, 0, 100, 100)], [part])
    assert all(a is b for a, b in zip(merged, part, strict=True))


def test_boxes_stay_inside_the_page():
    windows = tile_boxes(1000, 2000, 1200, 400)
    part = detections(((-3, 700, 1002, 2001), 0.9, TEXT), ((-9, 900, 0, 1000), 0.8, TEXT))
    assert rows(merge_tiles(windows, [detections(), part])) == [((0, 700, 1000, 2000), 0.9, TEXT)]


# Outlines -----------------------------------------------------------------------------------------


def test_the_outline_of_a_union_has_both_shapes():
    windows = tile_boxes(1000, 2000, 1200, 400)
    # A broad head and a narrower foot, which the lower tile sees for the most part.
    upper = np.array([100, 100, 900, 100, 900, 700, 700, 700, 700, 1200, 100, 1200], np.int32)
    parts = [
        detections(((100, 100, 900, 1200), 0.9, FIGURE, upper)),
        detections(((100, 800, 700, 1900), 0.8, FIGURE, rectangle(100, 800, 700, 1900))),
    ]
    merged = merge_tiles(windows, parts)
    assert [box for box, _, _ in rows(merged)] == [(100, 100, 900, 1900)]
    true = [100, 100, 900, 100, 900, 700, 700, 700, 700, 1900, 100, 1900]
    drawn = [np.zeros((2000, 1000), np.uint8) for _ in range(2)]
    for canvas, polygon in zip(drawn, (merged.polygons[0], np.array(true)), strict=True):
        cv2.fillPoly(canvas, [polygon.reshape(-1, 2).astype(np.int32)], 1)
    assert (drawn[0] != drawn[1]).mean() < 0.005


def test_an_outline_has_few_points():
    windows = tile_boxes(1000, 2000, 1200, 400)
    rng = np.random.default_rng(1)
    parts = []
    for top, bottom in ((100, 1200), (800, 1900)):
        left = np.stack([rng.integers(100, 200, 15), np.linspace(top, bottom, 15)], axis=1)
        right = np.stack([rng.integers(800, 900, 15), np.linspace(bottom, top, 15)], axis=1)
        polygon = np.concatenate([left, right]).astype(np.int32).reshape(-1)
        parts.append(detections(((100, top, 900, bottom), 0.9, TEXT, polygon)))
    (polygon,) = merge_tiles(windows, parts).polygons
    assert 6 <= len(polygon) <= 2 * MAX_POLYGON_POINTS
    assert (polygon.reshape(-1, 2) >= 100).all()
    assert (polygon.reshape(-1, 2) <= [900, 1900]).all()


def test_a_piece_without_an_outline():
    windows = tile_boxes(1000, 2000, 1200, 400)
    upper = rectangle(100, 100, 900, 1200)
    halves = [((100, 100, 900, 1200), 0.9, TEXT), ((100, 800, 900, 1900), 0.8, TEXT)]
    parts = [detections((*halves[0], upper)), detections(halves[1])]
    assert merge_tiles(windows, parts).polygons[0].tolist() == upper.tolist()
    parts = [detections(half) for half in halves]
    assert merge_tiles(windows, parts).polygons == [None]


@pytest.mark.parametrize(("end", "start"), [(500, 1000), (900, 1700)])
def test_of_outlines_that_do_not_touch_the_larger_stays(end, start):
    windows = tile_boxes(1000, 2000, 1200, 400)
    outlines = [rectangle(100, 100, 900, end), rectangle(100, start, 900, 1900)]
    parts = [
        detections(((100, 100, 900, 1200), 0.9, TEXT, outlines[0])),
        detections(((100, 800, 900, 1900), 0.8, TEXT, outlines[1])),
    ]
    (polygon,) = merge_tiles(windows, parts).polygons
    larger = outlines[0] if end - 100 > 1900 - start else outlines[1]
    corners, expected = (
        np.array(sorted(each.reshape(-1, 2).tolist())) for each in (polygon, larger)
    )
    # To the next cell of the grid.
    assert np.abs(corners - expected).max() <= 1800 / 255


def test_two_lines_have_no_outline():
    windows = tile_boxes(1000, 2000, 1200, 400)
    parts = [
        detections(((100, 100, 900, 1200), 0.9, TEXT, rectangle(500, 100, 500, 1200))),
        detections(((100, 800, 900, 1900), 0.8, TEXT, rectangle(500, 800, 500, 1900))),
    ]
    assert merge_tiles(windows, parts).polygons == [None]


def test_overlap_of_more_than_half_a_tile_is_refused():
    check_settings(None)
    check_settings({"size": 1000, "overlap": 500})
    with pytest.raises(UserError, match=r"overlap \(501\) is more than half .*size \(1000\)"):
        check_settings({"size": 1000, "overlap": 501})
    with pytest.raises(UserError, match="has no overlap"):
        check_settings({"size": 1000})
