"""What is measured on a page image before it is resized: the height of its type, its ink by cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from scanmill.tables import INK_CELLS

#: Type is looked for at this share of the page's short side first (A4 at 10 pt: 0.008, a broadsheet
#: of 1888: 0.006, a book of 1700: 0.015), then larger, then smaller. By shares, so that a page that
#: was decoded at half its size is looked at in the same places.
EXPECTED = 0.009
FACTORS = (1.0, 4.0, 0.4)
#: Type this far from what was expected is measured again, at its own scale.
NEAR = (0.6, 1.8)
#: Letters are measured at about this height in pixels: smaller ones are enlarged, or their height
#: would be a matter of one pixel; larger ones are reduced, or a window would hold too few.
LETTER = 16
MAX_ENLARGED = 4.0
#: Windows that are looked at, and their side in pixels once scaled.
WINDOWS = 8
SIDE = 256
#: Fewer letters are no text, and lower ones, in pixels of the page, no letters.
MIN_LETTERS = 24
MIN_HEIGHT = 3.0
#: The quantile of the heights that is typical: below the median, as letters that touch each other
#: are as high as the highest of them.
TYPICAL = 0.35
#: Less than this of the paper's brightness is missing: paper, not ink.
CLEAN = 0.1
#: A short side of this many pixels is enough to measure ink.
ENOUGH = 800


class Components(NamedTuple):
    """Connected components of ink, in pixels of the page."""

    heights: np.ndarray
    """(N,) float64."""
    widths: np.ndarray
    """(N,) float64."""
    areas: np.ndarray
    """(N,) float64: of the ink alone."""
    weights: np.ndarray
    """(N,) float64: for how many it stands, as the borders of windows cut large ones more often."""


def type_height(grey: np.ndarray) -> float | None:
    """Height of the body type of a page in its pixels: that of an x, or a little more.

    `grey` is (H, W) uint8, dark type on light paper, of letters 4 pixels high or more. None where a
    few windows show too few letters: a blank page, a picture. Looks only at those windows.
    """
    for factor in FACTORS:
        expected = factor * EXPECTED * min(grey.shape)
        height = _height_about(grey, expected)
        if height is not None:
            if height and not NEAR[0] < height / expected < NEAR[1]:
                again = _height_about(grey, height)
                height = height if again is None else again
            return height if height >= MIN_HEIGHT else None
    return None


def ink_by_cell(image: np.ndarray) -> np.ndarray:
    """(INK_CELLS * INK_CELLS,) uint8: how dark each cell of the page is, from 0, paper, to 255, black.

    `image` is (H, W) grey or (H, W, 3) BGR uint8. The mean of the share of the paper's brightness that
    is missing, not the share of dark pixels: a page reduced by 8 has no dark pixels where it has thin
    strokes, but as much darkness.
    """
    height, width = image.shape[:2]
    # By a whole number first, which OpenCV does several times as fast. Less than a pixel of
    # the reduced page is left out at two of its edges.
    step = max(min(height, width) // ENOUGH, 1)
    small = image[: height - height % step, : width - width % step]
    small = cv2.resize(small, (width // step, height // step), interpolation=cv2.INTER_AREA)
    grey = small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    paper = max(_paper(_sample(grey, 256)), 1.0)
    missing = np.maximum(1 - np.arange(256) / paper, 0)
    # By a table of the 256 greys, faster than arithmetic pixel by pixel.
    darkness = np.where(missing < CLEAN, 0, 255 * missing).round().astype(np.uint8)
    cells = cv2.resize(
        cv2.LUT(grey, darkness), (INK_CELLS, INK_CELLS), interpolation=cv2.INTER_AREA
    )
    return cells.reshape(-1)


def _height_about(grey: np.ndarray, expected: float) -> float | None:
    """Height of the type, looked for at a scale fit for `expected` pixels.

    None where there are too few components of that size, 0 where there are and they are no letters.
    """
    scale = min(LETTER / expected, MAX_ENLARGED)
    found = [_components(window, scale) for window in _inked_windows(grey, round(SIDE / scale))]
    if not found:
        return None
    heights, widths, areas, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if len(heights) < MIN_LETTERS:
        return None
    # By ink, as a page may have more specks than letters.
    usual = _quantile(heights, weights * areas, 0.5)
    lower = heights < 2 * usual
    letters = lower & (heights > 0.5 * usual) & (widths < 3 * usual)
    if letters.sum() < MIN_LETTERS:
        return None
    inked = areas[letters].sum() / areas[lower].sum()
    if not _is_text(heights[letters], widths[letters], areas[letters], inked):
        return 0.0  # Dots and noise may look like letters at other scales, so those are not asked.
    return _quantile(heights[letters], weights[letters], TYPICAL)


def _is_text(heights: np.ndarray, widths: np.ndarray, areas: np.ndarray, inked: float) -> bool:
    """Whether components, (N,) each, are like letters, which have `inked` of the ink of the small ones.

    Most pages of text have 0.7 for the first difference, the worst of woodblock prints 0.4, noise and
    dithered pictures 0.15 to 0.39. The dots of halftones are alike in width and in how they fill their
    boxes, which they fill well; digits are alike in width alone.
    """
    noise = inked - _spread(heights) < 0.4
    filled = areas / (widths * heights)
    alike = _spread(widths) < 0.27 and _spread(filled) < 0.13
    dots = alike and np.median(filled) > 0.55
    return not noise and not dots


def _inked_windows(grey: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """At most WINDOWS squares of `side` pixels, spread over those of the page's grid that have about
    as much ink as most with ink have."""
    sides = [min(max(side, 1), length) for length in grey.shape]
    rows, columns = (length // own for length, own in zip(grey.shape, sides, strict=True))
    sample = _sample(grey, 24 * min(rows, columns))
    dark = (sample < 0.7 * _paper(sample)).astype(np.float32)
    share = cv2.resize(dark, (columns, rows), interpolation=cv2.INTER_AREA).ravel()
    (inked,) = np.nonzero((share > 0.02) & (share < 0.5))
    if not len(inked):
        return
    by_difference = np.argsort(np.abs(share[inked] - np.median(share[inked])), kind="stable")
    usual = np.sort(inked[by_difference[: max(WINDOWS, len(inked) // 2)]])
    count = min(WINDOWS, len(usual))
    for place in np.linspace(0, len(usual) - 1, count).round().astype(int):
        row, column = divmod(int(usual[place]), columns)
        y = (grey.shape[0] - sides[0]) * row // max(rows - 1, 1)
        x = (grey.shape[1] - sides[1]) * column // max(columns - 1, 1)
        yield grey[y : y + sides[0], x : x + sides[1]]


def _components(window: np.ndarray, scale: float) -> Components:
    """Those components of a window that no border cuts and that are no rules and no solid areas, found
    after it was resized by `scale`."""
    if 0.75 < scale < 1.35:
        scale = 1.0  # Not worth the blur.
    else:
        height, width = (max(round(scale * length), 1) for length in window.shape)
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        window = cv2.resize(window, (width, height), interpolation=how)
    level, ink = cv2.threshold(window, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    # Darker than Otsu's, which lies so near the paper that small letters run into each other.
    paper = cv2.mean(window, cv2.bitwise_not(ink))[0]
    level -= 0.15 * (paper - level)
    _, ink = cv2.threshold(window, level, 255, cv2.THRESH_BINARY_INV)
    _, _, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    x, y, widths, heights, areas = stats[1:].T  # The first is the paper.
    free_x, free_y = window.shape[1] - widths, window.shape[0] - heights
    whole = (x > 0) & (y > 0) & (x < free_x) & (y < free_y)
    sized = (heights >= 4) & (heights < SIDE / 3) & (widths < 4 * heights) & (heights < 8 * widths)
    kept = whole & sized
    # One that lies anywhere is cut by no border with the chance free_x * free_y / window.size.
    weights = window.size / (free_x[kept] * free_y[kept])
    return Components(heights[kept] / scale, widths[kept] / scale, areas[kept] / scale**2, weights)


def _sample(grey: np.ndarray, count: int) -> np.ndarray:
    """About `count` pixels a side, or up to twice as many, evenly from (H, W)."""
    step = max(min(grey.shape) // max(count, 1), 1)
    return grey[::step, ::step]


def _paper(sample: np.ndarray) -> float:
    """Grey level of the paper."""
    return float(np.percentile(sample, 90))


def _spread(values: np.ndarray) -> float:
    """Standard deviation as a share of the mean, of (N,)."""
    return float(values.std() / values.mean())


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """The value up to which `share` of the weights lies, (N,) each.

    Between the few distinct values, as the heights of letters are whole pixels of about LETTER.
    """
    distinct, which = np.unique(values, return_inverse=True)
    sums = np.bincount(which, weights)
    return float(np.interp(share * sums.sum(), np.cumsum(sums) - sums / 2, distinct))
