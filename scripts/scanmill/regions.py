"""Regions of a page: its raw detections after class selection, thresholds, suppression, ordering.

Everything here is a pure function of one page's detections, so that a changed threshold never runs
the detector again.
"""

import difflib
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from scanmill.errors import UserError

Interval = tuple[float, float]
Box = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max

BOX_COLUMNS = ("x_min", "y_min", "x_max", "y_max")

# Constants of the reading order. They were tried on the layouts in the tests and on 34 newspaper
# pages, where 98 % of all pairs of regions come in the order of the annotators; half or double the
# shrinking still gives 97 %.
#
# Boxes lose a quarter of their sides at either end before gaps are looked for, at most 1 % of the
# page's longer side: neighbours overlap by some pixels, and on a page 1 degree askew a full-width
# heading reaches down into the columns below it by 1.7 % of the page's width.
SHRINK_OF_BOX = 0.25
SHRINK_OF_PAGE = 0.01
# A box of which this share lies in a larger one is part of it.
NESTED = 0.8
# A running head or foot is one line high (2.5 % of an A4 page is 7 mm) and lies in the outer tenth.
LINE_OF_PAGE = 0.025
MARGIN_OF_PAGE = 0.1


def min_scores(setting: float | Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """Return the lowest score that a region of each class in `classes` may have.

    `setting` is one number for all, or `default` and exceptions by class name. Raises UserError for
    a name that the model does not have and for a class that is left without a number.
    """
    if not isinstance(setting, Mapping):
        return dict.fromkeys(classes, float(setting))
    check_class_names("regions.min_score", (name for name in setting if name != "default"), classes)
    missing = [name for name in classes if name not in setting and "default" not in setting]
    if missing:
        raise UserError(
            f"regions.min_score gives no score for {_listed(missing)} and no `default`: add "
            f"`default: 0.5`, or a score for each of the model's classes ({_listed(classes)})."
        )
    return {name: _min_score(setting, name) for name in classes}


def check_settings(
    settings: Mapping, score_floor: float, classes: Sequence[str] | None = None
) -> None:
    """Raise UserError where the `regions` block of the config cannot be obeyed.

    `settings` has the keys of that block (values of the right types), `score_floor` is
    `detection.score_floor`, `classes` are the model's class names, or None while they are unknown.
    """
    setting = settings["min_score"]
    for name, score in setting.items() if isinstance(setting, Mapping) else [(None, setting)]:
        if score < score_floor:
            key = "regions.min_score" if name is None else f"regions.min_score.{name}"
            raise UserError(
                f"{key} is {score:g}, below detection.score_floor ({score_floor:g}): detections "
                f"below the floor are never kept, so none can be found again. Raise {key} to "
                f"{score_floor:g} or more, or lower detection.score_floor, which runs the detector "
                "again."
            )
    if classes is not None:
        check_class_names("regions.classes", settings["classes"] or (), classes)
        min_scores(setting, classes)


def suppress_duplicates(boxes: np.ndarray, scores: np.ndarray, max_iou: float) -> np.ndarray:
    """Return the int64 indices of the boxes that stay, best score first.

    A box goes if its intersection over union with a better one that stays is more than `max_iou`,
    whatever their classes (greedy non-maximum suppression). `boxes` is [N, 4], `scores` [N]; of
    equal scores the lower index is the better. Memory grows with N * N: 32 MB at 1000 boxes.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order].astype(np.float64)
    intersection, area = _intersections(boxes)
    duplicate = np.triu(intersection > max_iou * (area[:, None] + area - intersection), k=1)
    stays = np.ones(len(boxes), dtype=bool)
    for row in np.flatnonzero(duplicate.any(axis=1)):
        if stays[row]:
            stays[duplicate[row]] = False
    return order[stays].astype(np.int64)


def select_regions(
    detections: pa.Table, page_width: int, page_height: int, settings: Mapping
) -> pa.Table:
    """Return the regions of one page: the rows of `detections` that stay, in reading order.

    `detections` has the columns of the table of that name; its boxes are pixels of the page image,
    of `page_width` x `page_height`. `settings` is the `regions` block of the config, which
    `check_settings` has passed. The result has one more column, `region` (int32, from 1).
    """
    boxes = np.stack([_numpy(detections, name) for name in BOX_COLUMNS], axis=1)
    scores = _numpy(detections, "score")
    rows = np.flatnonzero(_is_selected(detections["class_name"], scores, settings))
    rows = rows[suppress_duplicates(boxes[rows], scores[rows], settings["duplicate_iou"])]
    if settings["reading_order"] == "columns":
        rows = rows[reading_order(boxes[rows], page_width, page_height)]
    else:
        rows = rows[_by_position(boxes[rows])]
    regions = detections.take(pa.array(rows, pa.int64()))
    places = np.arange(1, len(rows) + 1, dtype=np.int32)
    return regions.append_column(pa.field("region", pa.int32()), pa.array(places))


def reading_order(boxes: np.ndarray, page_width: float, page_height: float) -> np.ndarray:
    """Return the int64 permutation that puts `boxes` ([N, 4], pixels) into reading order.

    A heuristic for scripts that run from left to right, by geometry alone. Recursive XY-cut (Nagy &
    Seth, "Hierarchical representation of optically scanned documents", ICPR 1984) with these turns:

    * Rows between horizontal gaps that have a vertical gap in common are columns and are read one
      column after the other; whatever crosses that gap, such as a full-width heading, ends them.
    * A gap makes columns only where something stands on both sides of it at the same height: the
      date to the right at the head of a letter is read before the salutation below it, to the left.
    * Boxes are shrunk first, so that some overlap and a page slightly askew do no harm.
    * A running head or foot comes first or last, a box inside another one just after it.
    * Where no cut is left, boxes are ordered by pairs as in Breuel, "High performance document
      layout analysis", SDIUT 2003: of two that share a column the upper comes first, of others the
      left one, unless boxes between them order the two already.

    Marginal notes are a column, read where it stands: before the text if they are to the left. The
    order of distinct boxes does not depend on the order in which they are given.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    ranks = _by_position(boxes)
    boxes = boxes[ranks]
    children = defaultdict(list)
    for index, parent in enumerate(_parents(boxes)):
        children[parent].append(index)

    shrink = np.minimum(
        SHRINK_OF_BOX * (boxes[:, 2:] - boxes[:, :2]),
        SHRINK_OF_PAGE * max(page_width, page_height),
    )
    shrunk = np.hstack([boxes[:, :2] + shrink, boxes[:, 2:] - shrink])
    shrunk = [tuple(box) for box in shrunk.tolist()]
    order = []
    stack = [-1]  # the page, whose children are the boxes that are in no other
    while stack:
        order.append(stack.pop())
        inside = children[order[-1]]
        if inside:
            head, body, foot = _running_lines(inside, boxes, shrunk, page_height)
            inside = [*_xy_cut(head, shrunk), *_xy_cut(body, shrunk), *_xy_cut(foot, shrunk)]
            stack += inside[::-1]
    return ranks[order[1:]]


def _by_position(boxes: np.ndarray) -> np.ndarray:
    """Return the int64 permutation of `boxes` [N, 4]: top to bottom, then left to right."""
    return np.lexsort((boxes[:, 3], boxes[:, 2], boxes[:, 0], boxes[:, 1]))


def _parents(boxes: np.ndarray) -> list[int]:
    """Return for each box [N, 4] the smallest larger box that it lies in, or -1."""
    if not len(boxes):
        return []
    intersection, area = _intersections(boxes)
    inside = (area[:, None] < area) & (intersection > 0) & (intersection >= NESTED * area[:, None])
    parents = np.where(inside, area, np.inf).argmin(axis=1)
    return np.where(inside.any(axis=1), parents, -1).tolist()


def _running_lines(
    group: list[int], boxes: np.ndarray, shrunk: list[Box], page_height: float
) -> list[list[int]]:
    """Cut off the running head and foot: [head, body, foot], any of them empty.

    They are rows one line high near the page's edge that are no lines of a column: they stand clear
    of the next row by more than their height, or do not keep to its columns.
    """
    rows = _split(group, shrunk, axis=1)

    def is_line(row: list[int], neighbour: list[int]) -> bool:
        top, bottom = boxes[row, 1].min(), boxes[row, 3].max()
        gap = max(boxes[neighbour, 1].min() - bottom, top - boxes[neighbour, 3].max())
        columns = len(_intervals(neighbour, shrunk))
        return (
            bottom - top <= LINE_OF_PAGE * page_height
            and min(bottom, page_height - top) <= MARGIN_OF_PAGE * page_height
            and (gap > bottom - top or 1 < columns != len(_intervals(row + neighbour, shrunk)))
        )

    head = rows.pop(0) if len(rows) > 1 and is_line(rows[0], rows[1]) else []
    foot = rows.pop() if len(rows) > 1 and is_line(rows[-1], rows[-2]) else []
    return [head, [index for row in rows for index in row], foot]


def _xy_cut(group: list[int], boxes: list[Box]) -> list[int]:
    """Return the indices in `group` in reading order, by cuts at horizontal and vertical gaps."""
    order = []
    stack = [group] if group else []
    while stack:  # not recursive: a thousand boxes may be a thousand cuts deep
        group = stack.pop()
        parts = _parts(group, boxes)
        if len(parts) > 1:
            stack += parts[::-1]
        else:
            order += _by_pairs(group, boxes)
    return order


def _parts(group: list[int], boxes: list[Box]) -> list[list[int]]:
    """Cut a group once: into stretches from top to bottom, or one stretch into its columns."""
    rows = [_row(members, boxes) for members in _split(group, boxes, axis=1)]
    if len(rows) == 1:
        return _split(group, boxes, axis=0)
    columns = _columns_between(rows)
    if not columns:
        return [row.members for row in rows]
    first, last = columns
    if last - first < len(rows):
        stretches = [rows[:first], rows[first:last], rows[last:]]
        return [[index for row in rows for index in row.members] for rows in stretches if rows]
    gaps = _common_gaps(rows)
    parts = [[] for _ in range(len(gaps) + 1)]
    for index in group:
        parts[bisect(gaps, boxes[index][0])].append(index)
    return parts


class _Row(NamedTuple):
    """Boxes between two horizontal gaps."""

    members: list[int]
    intervals: list[Interval]  # of x, disjoint, from left to right
    top: float
    bottom: float


def _row(members: list[int], boxes: list[Box]) -> _Row:
    return _Row(
        members,
        _intervals(members, boxes),
        min(boxes[index][1] for index in members),
        max(boxes[index][3] for index in members),
    )


def _columns_between(rows: list[_Row]) -> tuple[int, int] | None:
    """Find the tallest vertical gap: return the first row that it runs through, and the last + 1.

    A gap begins in a row that has boxes on both sides of it. None if there is no such row.
    """
    found = []
    reached = []  # (last row + 1, gap) of what was found from the rows before
    for start, row in enumerate(rows):
        reached = [(last, gap) for last, gap in reached if last > start]
        for (_, low), (high, _) in pairwise(row.intervals):
            if any(low < right and left < high for _, (left, right) in reached):
                continue
            first, last, gaps = start, start + 1, [(low, high)]
            while last < len(rows) and (rest := _subtract(gaps, rows[last].intervals)):
                last, gaps = last + 1, rest
            while first > 0 and (rest := _subtract(gaps, rows[first - 1].intervals)):
                first, gaps = first - 1, rest
            found.append((rows[last - 1].bottom - rows[first].top, -first, last))
            reached += [(last, gap) for gap in gaps]
    if not found:
        return None
    _, first, last = max(found)
    first = -first

    def space(row: int) -> float:
        return rows[row].top - rows[row - 1].bottom

    # A lone box at either end, such as a heading, may be nearer to what lies beyond: it goes there.
    if last < len(rows) and len(rows[last - 1].intervals) == 1 and space(last) < space(last - 1):
        last -= 1
    if first > 0 and len(rows[first].intervals) == 1 and space(first) < space(first + 1):
        first += 1
    return first, last


def _common_gaps(rows: list[_Row]) -> list[float]:
    """Return the x of the vertical gaps all `rows` share that a row has boxes on both sides of."""
    intervals = _union(interval for row in rows for interval in row.intervals)
    extents = [(row.intervals[0][1], row.intervals[-1][0]) for row in rows if row.intervals[1:]]
    gaps = [(left[1] + right[0]) / 2 for left, right in pairwise(intervals)]
    return [gap for gap in gaps if any(left < gap < right for left, right in extents)]


def _by_pairs(group: list[int], boxes: list[Box]) -> list[int]:
    """Return the indices in `group`, which no cut divides, in Breuel's order of pairs."""
    if len(group) == 1:
        return group
    group = sorted(group, key=lambda index: (boxes[index][1] + boxes[index][3], index))
    x_min, _, x_max, _ = np.array([boxes[index] for index in group]).T
    left = x_max[:, None] <= x_min
    above = np.triu(~(left | left.T), k=1)
    reached = above.copy()  # by a chain of boxes, each above the next
    for row in range(len(group) - 1, -1, -1):
        reached[row] |= reached[above[row]].any(axis=0)
    before = above | (left & ~(reached | reached.T))
    waiting = before.sum(axis=0)
    order = []
    for _ in group:
        # Pairs may contradict each other in a circle: then the box with the fewest before it.
        first = int(waiting.argmin())
        order.append(group[first])
        waiting = waiting - before[first]
        waiting[first] = len(group) * 2
    return order


def _split(group: list[int], boxes: list[Box], axis: int) -> list[list[int]]:
    """Cut `group` at the gaps of its projection on x (axis 0) or y (axis 1), in their order."""
    parts = []
    reach = -np.inf
    for index in sorted(group, key=lambda index: (boxes[index][axis], index)):
        if boxes[index][axis] > reach:
            parts.append([])
        parts[-1].append(index)
        reach = max(reach, boxes[index][axis + 2])
    return parts


def _union(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the disjoint intervals, from left to right, that cover the same as `intervals`."""
    union = []
    for low, high in sorted(intervals):
        if union and low <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], high))
        else:
            union.append((low, high))
    return union


def _intervals(group: list[int], boxes: list[Box]) -> list[Interval]:
    """Return the intervals of x that the boxes in `group` cover."""
    return _union((boxes[index][0], boxes[index][2]) for index in group)


def _subtract(gaps: list[Interval], intervals: list[Interval]) -> list[Interval]:
    """Return what `intervals` leave of `gaps`."""
    for low, high in intervals:
        gaps = [
            part
            for left, right in gaps
            for part in ((left, min(right, low)), (max(left, high), right))
            if part[0] < part[1]
        ]
    return gaps


def _intersections(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the areas [N, N] that each two of `boxes` float64 [N, 4] share, and their own, [N]."""
    x_min, y_min, x_max, y_max = boxes.T
    width = np.minimum(x_max[:, None], x_max) - np.maximum(x_min[:, None], x_min)
    height = np.minimum(y_max[:, None], y_max) - np.maximum(y_min[:, None], y_min)
    return width.clip(min=0) * height.clip(min=0), (x_max - x_min) * (y_max - y_min)


def _min_score(setting: float | Mapping[str, float], name: str) -> float:
    if not isinstance(setting, Mapping):
        return float(setting)
    return float(setting[name if name in setting else "default"])


def _is_selected(names: pa.ChunkedArray, scores: np.ndarray, settings: Mapping) -> np.ndarray:
    """Return for each detection whether its class is wanted and its score not too low: bool [N]."""
    encoded = names.combine_chunks().dictionary_encode()
    lowest = [
        _min_score(settings["min_score"], name)
        if settings["classes"] is None or name in settings["classes"]
        else np.inf
        for name in encoded.dictionary.to_pylist()
    ]
    # In float32, as scores are: 0.7 would otherwise be more than a score of 0.7.
    return scores >= np.array(lowest, dtype=np.float32)[encoded.indices.to_numpy()]


def _numpy(table: pa.Table, column: str) -> np.ndarray:
    return table[column].combine_chunks().to_numpy(zero_copy_only=False)


def check_class_names(key: str, names: Iterable[str], classes: Sequence[str]) -> None:
    """Raise UserError for the first of `names` that is no class of the model."""
    for name in names:
        if name not in classes:
            lower = {known.lower(): known for known in classes}
            near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.4)
            hint = f" Did you mean `{lower[near[0]]}`?" if near else ""
            raise UserError(
                f"{key} names the class `{name}`, which the model does not have.{hint} "
                f"Its classes: {_listed(classes)}."
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
