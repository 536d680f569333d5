"""Flags: what is worth a look on a page by itself, and beside its neighbours."""

import math

import numpy as np
import pytest

from scanmill import flags
from scanmill.flags import (
    FEWEST,
    FLAGS,
    LARGE_REGION,
    NEIGHBOURS,
    NO_IDEA,
    OF_DOCUMENT,
    SMALL_TYPE,
    PageMeasures,
    certainty,
    cover,
    document_flags,
    measure_page,
    page_flags,
    without_background,
)
from scanmill.tables import INK_CELLS, SCHEMAS, from_rows

PAGE = {"width": 320, "height": 640, "type_height": 5.0, "capped": False, "message": None}
USUAL = PageMeasures(320, 640, 4, 5.0, 0.9, 0.3, 0.6, 0.08, 0.1)


def detections(*rows, name="detections"):
    """Rows of (score, box)."""
    names = ("x_min", "y_min", "x_max", "y_max")
    return from_rows(
        name, [{"score": score, **dict(zip(names, box, strict=True))} for score, box in rows]
    )


def measured(*rows, ink=None, **page):
    found = detections(*rows)
    regions = detections(*[row for row in rows if row[0] >= 0.5], name="regions")
    return measure_page({**PAGE, **page}, ink, regions, found)


def flagged(*rows, ink=None, **page):
    return page_flags({**PAGE, **page}, measured(*rows, ink=ink, **page))


def ink_of(darkness, rows=slice(None), columns=slice(None)):
    cells = np.zeros((INK_CELLS, INK_CELLS), np.uint8)
    cells[rows, columns] = round(255 * darkness)
    return cells.reshape(-1).tolist()


TEXT = (0.9, (20, 20, 300, 500))


def test_an_ordinary_page_has_no_flag():
    assert flagged(TEXT, ink=ink_of(0.1, slice(1, 25), slice(2, 30))) == set()


def test_every_flag_has_a_meaning_and_can_be_set():
    every = page_flags(
        {**PAGE, "capped": True, "message": "rendered at 50 dpi"},
        USUAL._replace(n_regions=0, type_height=None, ink=0, largest=1.0),
    )
    every |= page_flags(PAGE, USUAL._replace(type_height=SMALL_TYPE - 0.01, ink_outside=0.6))
    assert every | OF_DOCUMENT == set(FLAGS)
    assert not every & OF_DOCUMENT


@pytest.mark.parametrize(
    ("ink", "height", "expected"),
    [
        (ink_of(0.0), None, {"no_regions", "blank"}),
        (None, None, {"no_regions"}),
        # A picture or a text that no region is found on is not blank.
        (ink_of(0.4), None, {"no_regions"}),
        (ink_of(0.0), 8.0, {"no_regions"}),
    ],
)
def test_a_page_without_regions_is_blank_if_nothing_is_on_it(ink, height, expected):
    assert flagged(ink=ink, type_height=height) == expected


def test_a_region_over_nine_tenths_of_the_page_is_flagged():
    height = 640 * LARGE_REGION
    assert "large_region" not in flagged((0.9, (0, 0, 320, height - 1)))
    assert "large_region" in flagged((0.9, (0, 0, 320, height + 1)))
    # What reaches beyond the page counts for what is on it.
    assert "large_region" not in flagged((0.9, (-5000, 0, 160, 640)))


def test_ink_outside_every_region_is_flagged():
    upper = (0.9, (0, 0, 320, 320))
    assert "ink_outside" in flagged(upper, ink=ink_of(0.2, slice(10, 32)))
    assert "ink_outside" not in flagged(upper, ink=ink_of(0.2, slice(0, 22)))
    # A speck on an empty page is not much ink.
    assert "ink_outside" not in flagged(upper, ink=ink_of(0.2, slice(31, 32), slice(0, 4)))


def test_the_black_around_a_book_is_no_ink():
    cells = np.full((INK_CELLS, INK_CELLS), 0.1)
    cells[:, :9] = 0.95
    cells[10:14, 20:24] = 0.9  # A dark picture, which does not reach to the edge.
    left = without_background(cells)
    assert (left[:, :9] == 0).all()
    assert (left[:, 9:] == cells[:, 9:]).all()
    black = ink_of(1.0, slice(None), slice(0, 12))
    assert "ink_outside" not in flagged((0.9, (150, 0, 320, 640)), ink=black)


def test_boxes_cover_cells_by_their_share():
    covered = cover(np.array([[0, 0, 0.5, 1], [0, 0, 1 / 64, 1], [0.75, 0.5, 0.75 + 1 / 64, 1]]))
    assert (covered[:, :16] == 1).all()
    assert (covered[:16, 16:] == 0).all()
    assert covered[16:, 24] == pytest.approx(0.5)
    assert covered.sum() == pytest.approx(32 * 16 + 16 * 0.5)
    assert not cover(np.empty((0, 4))).any()


def test_certainty_hardly_depends_on_doubtful_detections():
    sure = np.array([0.95, 0.9, 0.99])
    assert certainty(np.append(sure, [0.06] * 5)) == pytest.approx(certainty(sure), abs=0.1)
    assert certainty(np.array([0.95, 0.5, 0.5, 0.5])) < 0.7
    assert certainty(np.array([])) is None


def test_measures_are_shares_of_the_page():
    page = measured((0.9, (0, 0, 160, 320)), (0.2, (0, 0, 320, 640)), ink=ink_of(0.5))
    assert (page.n_regions, page.largest, page.covered) == (1, 0.25, 0.25)
    assert page.ink == pytest.approx(0.5, abs=0.01)
    assert page.ink_outside == pytest.approx(0.75)


# Beside its neighbours ----------------------------------------------------------------------------


def marks(pages, name):
    return [number for number, found in enumerate(document_flags(pages)) if name in found]


def test_pages_that_are_alike_are_not_unlike_each_other():
    rng = np.random.default_rng(0)
    pages = [
        USUAL._replace(certainty=rng.normal(0.9, 0.02), ink=rng.normal(0.08, 0.02))
        for _ in range(300)
    ]
    # By chance a few differ by three of their usual differences.
    assert sum(map(bool, document_flags(pages))) <= 3


def test_a_page_whose_scores_collapse_is_flagged():
    pages = [USUAL] * 20
    pages[7] = USUAL._replace(certainty=0.75)
    assert marks(pages, "low_scores") == [7]
    # Where pages differ that much, it is nothing odd.
    mixed = [USUAL._replace(certainty=score) for score in [0.95, 0.85, 0.75] * 8]
    assert marks(mixed, "low_scores") == []


def test_a_page_that_the_model_has_no_idea_of_is_flagged_also_among_its_like():
    assert marks([USUAL._replace(certainty=NO_IDEA - 0.01)] * 9, "low_scores") == list(range(9))
    assert marks([USUAL._replace(certainty=NO_IDEA - 0.01)], "low_scores") == [0]
    assert marks([USUAL._replace(certainty=None)] * 9, "low_scores") == []


@pytest.mark.parametrize(
    "other",
    [
        {"width": 640, "height": 1280},
        {"width": 640, "height": 320},
        {"ink": 0.45},
        {"covered": 0.1},
        {"type_height": 12.0},
    ],
)
def test_a_page_unlike_its_neighbours_is_flagged(other):
    pages = [USUAL] * 20
    pages[3] = USUAL._replace(**other)
    assert marks(pages, "unlike_neighbours") == [3]


def test_a_page_without_regions_or_type_is_compared_by_what_it_has():
    pages = [USUAL] * 20
    pages[3] = USUAL._replace(n_regions=0, covered=0.0, ink=0.0, type_height=None)
    pages[9] = USUAL._replace(type_height=None)
    assert marks(pages, "unlike_neighbours") == []


def test_documents_change_and_are_compared_with_what_is_near():
    pages = [USUAL] * 30 + [USUAL._replace(width=640, height=1280)] * 30
    assert marks(pages, "unlike_neighbours") == []


def test_few_pages_have_nothing_to_be_compared_with():
    odd = USUAL._replace(ink=0.9, certainty=0.6)
    assert not any(document_flags([USUAL] * (FEWEST - 1) + [odd]))
    assert document_flags([USUAL] * FEWEST + [odd])[-1] == OF_DOCUMENT
    assert document_flags([]) == []


def test_medians_are_those_of_the_neighbours_without_the_page():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, 2))
    values[5, 1] = math.nan
    middle, spread = flags._neighbours(values)
    for row in (0, 5, 20, 39):
        low = max(row - NEIGHBOURS, 0)
        others = np.concatenate([values[low:row], values[row + 1 : row + 1 + NEIGHBOURS]])
        assert middle[row] == pytest.approx(np.nanmedian(others, axis=0))
        away = np.nanmedian(np.abs(others - np.nanmedian(others, axis=0)), axis=0)
        assert spread[row] == pytest.approx(1.4826 * away)


def test_a_document_of_many_pages_takes_no_time():
    pages = [USUAL] * 5000
    pages[4000] = USUAL._replace(covered=0.0)
    assert marks(pages, "unlike_neighbours") == [4000]


def test_pages_without_rows_are_measured():
    nothing = SCHEMAS["regions"].empty_table(), SCHEMAS["detections"].empty_table()
    page = measure_page({**PAGE, "type_height": None}, None, *nothing)
    assert (page.certainty, page.largest, page.covered) == (None, 0.0, 0.0)
    assert page_flags(PAGE, page) == {"no_regions"}
    assert document_flags([page] * 9) == [set()] * 9
