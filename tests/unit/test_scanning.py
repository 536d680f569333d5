"""What moves a page's pixels moves its outlines as far; the rest moves nothing."""

import cv2
import numpy as np
import pytest

from scanmill import scanning
from scanmill.scanning import as_grey, scan_page

OUTLINES = [
    np.array([[80, 100], [420, 100], [420, 180], [80, 180]], float),
    np.array([[80, 260], [200, 260], [200, 240], [500, 240],
              [500, 500], [300, 500], [300, 530], [80, 530]], float),
    np.array([[340, 600], [520, 600], [520, 720], [340, 720]], float),
]  # fmt: skip
SHAPE = (800, 600)


def paint(outlines, shape=SHAPE):
    """Black polygons on white."""
    page = np.full(shape, 255, np.uint8)
    cv2.fillPoly(page, [np.rint(each).astype(np.int32) for each in outlines], 0)
    return page


def overlap(page, outlines):
    """IoU of what is dark on a page and what is within its outlines."""
    dark, inside = page < 128, paint(outlines, page.shape) < 128
    return (dark & inside).sum() / (dark | inside).sum()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("step", ["_warp", "_turn"])
def test_outlines_move_with_the_pixels(step, seed):
    rng = np.random.default_rng(seed)
    more = (3.0,) if step == "_turn" else ()
    page, moved = getattr(scanning, step)(paint(OUTLINES), OUTLINES, rng, *more)
    # What came in at the edges may be black, and is of no region.
    page[:30] = page[-30:] = page[:, :12] = page[:, -12:] = 255
    followed, still = overlap(page, moved), overlap(page, OUTLINES)
    assert followed > 0.994
    assert still < followed - 0.004


def test_a_dark_edge_makes_the_page_larger():
    rng = np.random.default_rng(3)
    page, moved = scanning._edge(paint(OUTLINES), OUTLINES, None, rng)
    assert page.shape[0] > SHAPE[0] or page.shape[1] > SHAPE[1]
    shift = moved[0][0] - OUTLINES[0][0]
    x, y = (moved[2].mean(axis=0)).astype(int)
    assert page[y, x] < 60
    for outline, there in zip(OUTLINES, moved, strict=True):
        np.testing.assert_allclose(there - outline, np.tile(shift, (len(outline), 1)))


@pytest.mark.parametrize(
    "step",
    [
        "_spread_ink",
        "_break_ink",
        "_age_paper",
        "_stain",
        "_write_on",
        "_light",
        "_reduce",
        "_grain",
        "_bilevel",
        "_tone",
    ],
)
def test_steps_that_move_nothing_keep_what_is_dark(step):
    page = cv2.GaussianBlur(paint(OUTLINES), (0, 0), 0.7)
    for seed in range(6):
        done = getattr(scanning, step)(page, np.random.default_rng(seed))
        assert (done.shape, done.dtype) == (page.shape, np.uint8)
        assert (done != page).any()
        ink, paper = done[page < 30].mean(), done[page > 225].mean()
        assert ink + 25 < paper


def test_the_page_behind_shows_mirrored():
    page, other = np.full(SHAPE, 255, np.uint8), paint([OUTLINES[2]])
    done = scanning._show_through(page, other, np.random.default_rng(0))
    assert done[660, 600 - 430] < 250
    assert done[660, 430] == 255


def test_scans_differ_by_seed_alone_and_keep_outlines_on_their_regions():
    page = paint(OUTLINES)
    page[::8] = page[1::8] = page[2::8] = 255  # Lines, as type has them: solid black is no page's.
    scans = [scan_page(page, OUTLINES, np.random.default_rng(seed), page) for seed in range(60)]
    again = scan_page(page, OUTLINES, np.random.default_rng(7), page)
    assert (again.pixels == scans[7].pixels).all()
    changed = sum(
        (each.pixels.shape != page.shape) or (each.pixels != page).any() for each in scans
    )
    assert 25 < changed < 60
    for scan in scans:
        assert (scan.pixels.ndim, scan.pixels.dtype) == (2, np.uint8)
        assert len(scan.outlines) == 3
        x, y = np.rint(scan.outlines[1].mean(axis=0)).astype(int)
        around = scan.pixels[max(0, y - 20) : y + 20, max(0, x - 20) : x + 20].mean()
        # Dark within the region, light between the regions; an inverted page is the other way round.
        between = scan.pixels[y, : int(scan.outlines[1][:, 0].min()) - 8].mean()
        assert abs(around - between) > 10


def test_colours_become_grey_by_weights_of_the_channels():
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 200
    greys = {int(as_grey(red, np.random.default_rng(seed))[0, 0]) for seed in range(40)}
    assert 60 in greys  # 0.299 of 200, which most pages have.
    assert len(greys) > 5
    assert max(greys) <= 200
    assert (as_grey(np.full((2, 2, 3), 255, np.uint8), np.random.default_rng(2)) >= 254).all()
