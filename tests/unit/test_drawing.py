"""Pictures of pages with their regions."""

import numpy as np
import pytest

from scanmill.drawing import (
    GAP,
    PALETTE,
    Shape,
    class_color,
    draw_comparison,
    draw_regions,
    draw_shapes,
)
from scanmill.tables import SCHEMAS, from_rows

PAPER = 240
BLUE = (178, 114, 0)  # BGR: text
VERMILLION = (0, 94, 213)  # title
ORANGE = (0, 159, 230)  # table


def region(name="text", box=(400, 600, 1600, 1400), place=1, polygon=None, class_id=0):
    return {
        "document": "a.pdf",
        "page": 1,
        "detection": place,
        "class_id": class_id,
        "class_name": name,
        "score": 0.873,
        **dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True)),
        "polygon": polygon,
        "region": place,
    }


def draw(*rows, shape=(3200, 2400), **options):
    page = np.full(shape, PAPER, dtype=np.uint8)
    return draw_regions(page, from_rows("regions", rows), **options)


def marked(picture):
    """Where something was drawn: bool [h, w]."""
    return (picture != PAPER).any(axis=2)


def test_colors_hang_on_names_alone():
    assert class_color("text") == BLUE
    assert class_color("title") == VERMILLION
    assert class_color("Title") == VERMILLION
    assert class_color("table") == ORANGE
    assert len({class_color(name) for name in ("text", "title", "list", "table", "figure")}) == 5
    # Names that are not listed: fixed, so that a change of the rule is seen.
    assert class_color("Caption") == (233, 180, 86)
    assert class_color("Überschrift")[::-1] in PALETTE.values()
    assert (draw(region("list", class_id=2)) == draw(region("list", class_id=0))).all()


def test_names_without_a_color_of_their_own_use_the_whole_palette():
    assert len({class_color(f"class {number}") for number in range(100)}) == len(PALETTE)


@pytest.mark.parametrize("shape", [(3200, 2400), (3200, 2400, 3)])
def test_a_large_page_is_reduced_and_left_as_it_was(shape):
    page = np.full(shape, PAPER, dtype=np.uint8)
    picture = draw_regions(page, from_rows("regions", [region()]))
    assert picture.shape == (1600, 1200, 3)
    assert picture.dtype == np.uint8
    assert (page == PAPER).all()
    # Half the size: the box is drawn at half its coordinates.
    for x, y in [(500, 300), (500, 700), (200, 500), (800, 500)]:
        assert tuple(picture[y, x]) == BLUE
    assert not marked(picture)[310:690, 210:790].any()


def test_a_page_is_never_enlarged_and_reduced_only_if_asked():
    assert draw(region(), shape=(1500, 1700), max_side=None).shape == (1500, 1700, 3)
    assert draw(region(), shape=(1500, 1700), max_side=2000).shape == (1500, 1700, 3)
    assert draw(region(), shape=(9000, 20), max_side=100).shape == (100, 1, 3)


def test_an_image_that_is_not_reduced_is_not_drawn_on():
    page = np.full((800, 600, 3), PAPER, dtype=np.uint8)
    picture = draw_regions(page, from_rows("regions", [region(box=(100, 100, 300, 300))]))
    assert marked(picture).any()
    assert (page == PAPER).all()


def test_a_page_without_regions_is_the_page():
    page = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    assert (draw_regions(page, SCHEMAS["regions"].empty_table()) == page).all()


def test_outline_is_drawn_where_there_is_one():
    triangle = [1000, 700, 1500, 1300, 500, 1300]
    with_outline, without = draw(region(polygon=triangle)), draw(region())
    for x, y in [(500, 350), (500, 650)]:  # the tip, the middle of the base
        assert tuple(with_outline[y, x]) == BLUE
        assert not marked(without)[y, x]
    assert tuple(with_outline[700, 500]) == BLUE  # the box is still there


def test_label_stands_above_the_box_and_tells_the_region():
    picture, other = draw(region(place=1)), draw(region(place=2))
    y, x = np.nonzero((picture != other).any(axis=2))
    assert 270 < y.min() <= y.max() < 300
    assert 200 <= x.min() <= x.max() < 220  # the number comes first
    assert tuple(picture[282, 201]) == BLUE
    assert (picture != draw(region("title"))).any()


@pytest.mark.parametrize(("name", "ink"), [("title", 255), ("table", 0)])
def test_letters_contrast_with_their_patch(name, ink):
    label = draw(region(name))[275:297, 200:330]
    assert (np.abs(label.astype(int) - ink).max(axis=2) < 40).sum() > 20


def test_labels_stay_in_the_picture():
    """At the page's corners, where there is no room above or to the right."""
    upper = draw(region(box=(0, 0, 800, 800)))
    assert tuple(upper[1, 1]) == BLUE
    assert marked(upper)[:18, :70].all()
    right = draw(region(box=(2380, 1600, 2400, 3200)))
    assert marked(right)[782:798, 1130:].all()


def test_lines_and_letters_grow_with_the_picture():
    small, large = (
        marked(draw(region(box=(400, 600, 1600, 1400)), max_side=side)) for side in (400, 3200)
    )
    # Across the left edge at half its height; label and box from the top.
    assert large[1000].sum() >= 4 * small[125].sum()
    assert np.flatnonzero(small.any(axis=1)).min() in range(59, 68)
    assert np.flatnonzero(large.any(axis=1)).min() in range(540, 565)


def test_equal_regions_give_equal_pictures():
    rows = [region(), region("title", (100, 100, 2300, 300), 2, [100, 100, 2300, 100, 200, 300])]
    assert (draw(*rows) == draw(*rows)).all()


def test_shapes_with_several_polygons_and_labels_of_their_own():
    page = np.full((800, 600), PAPER, dtype=np.uint8)
    parts = [[100, 300, 200, 300, 200, 400], [300, 500, 400, 500, 400, 600]]
    picture = draw_shapes(page, [Shape("text", (100, 300, 400, 600), parts, "text")])
    assert picture.shape == (800, 600, 3)
    for x, y in [(150, 300), (200, 350), (350, 500), (400, 550)]:
        assert tuple(picture[y, x]) == BLUE
    assert not marked(picture)[420:480, 150:350].any()
    # A longer label is a longer patch above the same box.
    longer = draw_shapes(page, [Shape("text", (100, 300, 400, 600), parts, "text of a label")])
    assert marked(longer)[:298].sum() > marked(picture)[:298].sum() > 0


# Comparison ---------------------------------------------------------------------------------------


def compared(name="text", box=(400, 600, 1600, 1400), error=None, polygons=()):
    sides = dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
    return {"class_name": name, **sides, "polygons": polygons, "error": error}


def compare(*sides, shape=(3200, 2400), **options):
    page = np.full(shape, PAPER, dtype=np.uint8)
    return draw_comparison(page, (2400, 3200), *sides, **options)


def test_pages_stand_side_by_side_with_their_own_regions():
    picture = compare([compared()], [compared("title"), compared("table", (0, 2000, 400, 2400))])
    assert picture.shape == (1200, 2 * 900 + GAP, 3)
    left, gap, right = np.split(picture, [900, 900 + GAP], axis=1)
    assert (gap == 255).all()
    assert tuple(left[400, 150]) == BLUE
    assert tuple(right[400, 150]) == VERMILLION
    assert tuple(right[800, 150]) == ORANGE
    assert not marked(left)[700:].any()


def test_errors_are_broad_and_say_which():
    right = marked(compare([compared()]))
    wrong = marked(compare([compared(error="text missed")]))
    assert right[400].sum() == 2  # an upright line of one pixel on either side
    assert wrong[400].sum() >= 4
    assert not right[:220].any()
    assert wrong[212:222, 150:200].all()  # the label's patch
    assert (wrong != marked(compare([compared(error="title missed")]))).any()


def test_compared_regions_are_in_pixels_of_the_page_not_of_the_image():
    small = compare([compared()], shape=(400, 300))
    assert small.shape == (400, 300, 3)
    assert tuple(small[133, 50]) == BLUE


def test_all_outlines_of_a_compared_region_are_drawn():
    parts = [[500, 700, 700, 700, 700, 900], [1000, 700, 1200, 700, 1200, 900]]
    picture = marked(compare([compared(polygons=parts)]))
    assert picture[262, 190]
    assert picture[262, 380]
    assert not marked(compare([compared()]))[262, 190]


def test_a_page_to_compare_is_not_drawn_on():
    page = np.full((800, 600, 3), PAPER, dtype=np.uint8)
    draw_comparison(page, (600, 800), [compared(box=(100, 100, 300, 300))], [])
    assert (page == PAPER).all()
