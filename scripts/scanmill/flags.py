"""Flags: what is worth a look on a page, told from its tables alone.

Some are of the page itself, others compare it with the pages around it in its document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from scanmill.regions import BOX_COLUMNS
from scanmill.tables import INK_CELLS

#: Letters lower than this, in pixels of the detector's input, are hardly more than grey to it. With a
#: short side of 448 px, A4 pages of 9 and 10 pt have 3.2 to 4.1, newspapers of 1870 and 1888 2.7 to 2.9;
#: with 544 px, these have 3.2 to 3.5.
SMALL_TYPE = 3.1
#: A region that takes more of its page is no part of it: a scan of a cover, or a mistake.
LARGE_REGION = 0.9
#: More of the ink lies in no region. Of ordinary pages, whose running heads are no regions, at most 0.39
#: does (`make benchmark-flags`), of newspapers of 1870 and 1888 0.2 to 0.4.
INK_OUTSIDE = 0.5
#: Mean darkness of a page, of 1, from which there is something on it; pages of text have 0.03 to 0.2.
NOT_BLANK = 0.01
#: Cells of this darkness that reach to the edge are no ink, but what lay behind the book: type fills no
#: cell so, the black of scanners does.
BACKGROUND = 0.6
#: Certainty below which the detector had no idea of the page. Of woodblock prints it has 0.3 to 0.4, of
#: newspapers 0.75 to 0.87.
NO_IDEA = 0.5
#: By how much less certain than its neighbours a page is worth a look, and by how many of their usual
#: differences. Of pages planted upside down (seeds 1 and 2 of `make benchmark-flags`) 19 of 20 are, and
#: 4 of 360 ordinary ones.
COLLAPSE, COLLAPSE_SPREAD = 0.07, 3.0
#: Pages on either side that a page is compared with, and how many it needs at least.
NEIGHBOURS = 8
FEWEST = 4
#: A measure this many times the usual difference from the median of the neighbours is unlike them.
UNLIKE = 6.0
#: What differences of neighbours count for at least, or a page would be unlike others that are all
#: alike: of darkness (a figure on the page makes 0.15), of the share covered, of the logarithms of area,
#: aspect and height of type.
LEAST_SPREAD = (0.04, 0.05, 0.05, 0.03, 0.1)


class Flag(NamedTuple):
    """What the report says of a flag."""

    meaning: str
    remedy: str


FLAGS = {
    "capped": Flag(
        "The detector met a cap on detections or proposals: regions may be missing.",
        "Raise detection.max_detections, or cut large pages into detection.tiles.",
    ),
    "large_region": Flag(
        f"One region takes more than {LARGE_REGION:.0%} of the page.",
        "A cover, a plate or a photograph is right so; on a page of text the regions are missing.",
    ),
    "ink_outside": Flag(
        f"More than {INK_OUTSIDE:.0%} of the ink lies in no region.",
        "Lower regions.min_score if detections has what is missing; otherwise another model.",
    ),
    "low_scores": Flag(
        "The detector is much less sure than on the pages around it, or not sure at all.",
        "Upside down, skewed, faded, or of a kind that the model was not trained on.",
    ),
    "unlike_neighbours": Flag(
        "Size, ink or type, or how much of the page regions take, is far from the pages around it.",
        "A plate, a title page, an advertisement, or a page that belongs elsewhere.",
    ),
    "no_regions": Flag(
        "No region was found.",
        "Blank pages are flagged blank, too; the others show what the model does not know.",
    ),
    "blank": Flag(
        "No region, no type, hardly any ink.", "Nothing, if the original is blank as well."
    ),
    "small_type": Flag(
        "Letters are too small for the detector once the page is resized.",
        "detection.tiles, as in config/newspapers.yaml.",
    ),
    "reduced_dpi": Flag(
        "The page was too large for images.dpi and was rendered at a lower resolution.",
        "Raise images.limits.max_pixels.",
    ),
}
#: Those that depend on other pages of the document.
OF_DOCUMENT = frozenset({"low_scores", "unlike_neighbours"})


class PageMeasures(NamedTuple):
    """What flags are told from."""

    width: int
    height: int
    n_regions: int
    type_height: float | None
    certainty: float | None
    """See `certainty`."""
    largest: float
    """Share of the page that its largest region takes."""
    covered: float
    """Share of the page that regions take."""
    ink: float
    """Mean darkness, of 1, without the background at its edges."""
    ink_outside: float
    """Share of the ink that lies in no region; 0 where there is none."""


def measure_page(
    page: Mapping[str, Any], ink: Sequence[int] | None, regions: pa.Table, detections: pa.Table
) -> PageMeasures:
    """The measures of a page, a row of `pages`.

    `ink` are the INK_CELLS x INK_CELLS cells of `detected_pages`, or None where they are not known;
    `regions` and `detections` are the page's rows of these tables.
    """
    width, height = page["width"], page["height"]
    boxes = np.stack([regions[name].to_numpy() for name in BOX_COLUMNS], axis=1)
    boxes = (boxes / [width, height, width, height]).clip(0, 1)
    covered = cover(boxes)
    cells = np.full(INK_CELLS**2, np.nan) if ink is None else np.asarray(ink) / 255
    cells = without_background(cells.reshape(INK_CELLS, INK_CELLS))
    total = cells.sum()
    return PageMeasures(
        width,
        height,
        regions.num_rows,
        page["type_height"],
        certainty(detections["score"].to_numpy()),
        float((boxes[:, 2:] - boxes[:, :2]).prod(axis=1).max(initial=0)),
        float(covered.mean()),
        float(cells.mean()),
        float((cells * (1 - covered)).sum() / total) if total else 0.0,
    )


def without_background(cells: np.ndarray) -> np.ndarray:
    """Darkness by cell [h, w], of 1, without the dark cells that reach to the edges."""
    dark = np.pad(cells > BACKGROUND, 1, constant_values=True).astype(np.uint8)
    _, parts = cv2.connectedComponents(dark, connectivity=4)
    return np.where((parts == parts[0, 0])[1:-1, 1:-1], 0, cells)


def certainty(scores: np.ndarray) -> float | None:
    """How sure the detector was of what it found on a page, 0 to 1, from the scores [N] of all
    detections. None where there is none.

    Their mean, each weighted by itself: it hardly depends on how many doubtful ones the floor let
    through.
    """
    return float((scores**2).sum() / scores.sum()) if len(scores) else None


def cover(boxes: np.ndarray) -> np.ndarray:
    """[INK_CELLS, INK_CELLS]: the share of each cell that lies in a box of [N, 4], shares of the page.

    Of a cell that several boxes share, what the one with the most of it covers.
    """
    edges = np.arange(INK_CELLS)

    def overlap(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        upper = np.minimum(edges + 1, high[:, None] * INK_CELLS)
        return (upper - np.maximum(edges, low[:, None] * INK_CELLS)).clip(0, 1)

    covered = np.zeros((INK_CELLS, INK_CELLS))
    x, y = overlap(boxes[:, 0], boxes[:, 2]), overlap(boxes[:, 1], boxes[:, 3])
    for along_x, along_y in zip(x, y, strict=True):  # All at once would take 8 kB a box.
        np.maximum(covered, along_y[:, None] * along_x, out=covered)
    return covered


def page_flags(page: Mapping[str, Any], measures: PageMeasures) -> set[str]:
    """The flags of a page by itself; `page` is its row of `pages`."""
    empty, letters = not measures.n_regions, measures.type_height
    named = {
        "blank": empty and letters is None and measures.ink < NOT_BLANK,
        "capped": page["capped"],
        "ink_outside": not empty
        and measures.ink >= NOT_BLANK
        and measures.ink_outside > INK_OUTSIDE,
        "large_region": measures.largest > LARGE_REGION,
        "no_regions": empty,
        "reduced_dpi": page["message"] is not None,
        "small_type": letters is not None and letters < SMALL_TYPE,
    }
    return {name for name, holds in named.items() if holds}


def document_flags(measures: Sequence[PageMeasures]) -> list[set[str]]:
    """The flags that compare each page of a document, in their order, with those around it."""
    if not measures:
        return []
    certain = np.array([each.certainty for each in measures], float)[:, None]
    middle, spread = _neighbours(certain)
    with np.errstate(invalid="ignore"):  # Nothing is less or more than what is not known.
        collapsed = middle - certain > np.maximum(COLLAPSE, COLLAPSE_SPREAD * spread)
        low = (collapsed | (certain < NO_IDEA))[:, 0]
        values = np.array([_comparable(each) for each in measures])
        middle, spread = _neighbours(values)
        far = np.abs(values - middle) > UNLIKE * np.maximum(spread, LEAST_SPREAD)
    unlike = far.any(axis=1)
    return [
        {name for name, holds in (("low_scores", one), ("unlike_neighbours", other)) if holds}
        for one, other in zip(low, unlike, strict=True)
    ]


def _comparable(page: PageMeasures) -> tuple[float, ...]:
    """What pages of a document have in common, in the order of LEAST_SPREAD.

    Nothing is known of a page without regions: it is flagged in any case.
    """
    if not page.n_regions:
        return (math.nan,) * len(LEAST_SPREAD)
    return (
        page.ink,
        page.covered,
        math.log(page.width * page.height),
        math.log(page.width / page.height),
        math.log(page.type_height) if page.type_height else math.nan,
    )


def _neighbours(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and spread of each row's neighbours, column by column, of [N, columns].

    The spread is the median difference from the median, times what makes that a standard deviation of a
    normal distribution (1.4826). NaN where fewer than FEWEST neighbours are known.
    """
    around = np.pad(values, ((NEIGHBOURS, NEIGHBOURS), (0, 0)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(around, 2 * NEIGHBOURS + 1, axis=0)
    others = np.delete(windows, NEIGHBOURS, axis=2)
    few = np.isfinite(others).sum(axis=2) < FEWEST
    others[few] = 0  # Or numpy would warn of medians of nothing.
    middle = np.nanmedian(others, axis=2)
    spread = 1.4826 * np.nanmedian(np.abs(others - middle[..., None]), axis=2)
    middle[few] = spread[few] = np.nan
    return middle, spread
