"""Large pages in tiles: the windows that a page is cut into, and the page's detections from theirs."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import cv2
import numpy as np

from scanmill.errors import UserError
from scanmill.outlines import trace

Window = tuple[int, int, int, int]  # x_min, y_min, x_max, y_max, pixels of the page image

#: A box that ends this near an inner edge of its tile is cut by it; of the tile's side. On newspapers
#: the ends of boxes heap up at the edge and thin out to 2 % of the side; from there on they are as
#: many as anywhere else. On a tile of 17 cm (4000 px at 600 dpi) it is 3 mm, a line of text.
CUT = 0.02
#: The least IoU of two detections of one object, each clipped to what both tiles see. On newspapers
#: nearly all partners have more than 0.6, and the next best nearly always less than 0.5.
AGREEMENT = 0.5
#: A cut piece without its rest goes if this share of it lies in better detections.
COVERED = 0.5

#: The cells, along either side of its box, on which a united outline is traced.
OUTLINE_CELLS = 256

#: The sign of "outwards" for x_min, y_min, x_max, y_max.
_OUTWARDS = np.array([-1, -1, 1, 1])


class Detections(NamedTuple):
    """What was found on a tile or a page; coordinates in pixels of the page image."""

    boxes: np.ndarray
    """(N, 4) float32 x_min, y_min, x_max, y_max."""
    scores: np.ndarray
    """(N,) float32."""
    class_ids: np.ndarray
    """(N,) int32."""
    polygons: list[np.ndarray | None]
    """N outlines (2 P,) int32 x, y alternating, or None."""


class TileDetections(NamedTuple):
    """What the network finds on one tile, in pixels of the resized tile, as it came."""

    boxes: np.ndarray
    """(N, 4) float32 x_min, y_min, x_max, y_max."""
    scores: np.ndarray
    """(N,) float32."""
    class_ids: np.ndarray
    """(N,) int32."""
    masks: np.ndarray | None
    """(N, M, M) float32 probabilities over the boxes, or None."""
    shape: tuple[int, int]
    """(height, width) of the resized tile."""
    n_proposals: int
    problem: tuple[str, str] | None = None
    """(reason, message) where the tile failed."""


class _Pieces(NamedTuple):
    """The detections of all tiles, best first."""

    boxes: np.ndarray  # (N, 4) float64
    scores: np.ndarray
    class_ids: np.ndarray
    polygons: list[np.ndarray | None]
    tiles: np.ndarray  # (N,) int64: the number of the window each was found in
    cut: np.ndarray  # (N, 4) bool: whether each side lies at an inner edge of that window


def check_settings(tiles: Mapping[str, int] | None) -> None:
    """Raise UserError where `detection.tiles` cannot be obeyed."""
    if tiles is None:
        return
    for name in ("size", "overlap"):
        if name not in tiles:
            raise UserError(
                f"detection.tiles has no {name}. Give both, in pixels of the page image, such as "
                "{size: 5000, overlap: 1200}, or null."
            )
    if 2 * tiles["overlap"] > tiles["size"]:
        raise UserError(
            f"detection.tiles.overlap ({tiles['overlap']}) is more than half of detection.tiles.size "
            f"({tiles['size']}): a place of the page would lie in more than two tiles of a row. A "
            "quarter of the size is usual."
        )


# Cutting ------------------------------------------------------------------------------------------


def tile_boxes(width: int, height: int, size: int, overlap: int) -> list[Window]:
    """The windows that a page of `width` x `height` px is cut into, row by row.

    They are `size` px wide and high, or as the page where it is not larger, cover the page exactly,
    are spread evenly and overlap by `overlap` px or more (0 <= overlap < size). Where that leaves
    room, the overlap grows and not the tile shrinks: all tiles of an archive come to the model at one
    scale, and in one batch.
    """
    rows = _spread(height, size, overlap)
    columns = _spread(width, size, overlap)
    return [(x_min, y_min, x_max, y_max) for y_min, y_max in rows for x_min, x_max in columns]


def _spread(length: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """The fewest intervals of `size` that cover `length` and overlap by `overlap` or more."""
    if length <= size:
        return [(0, length)]
    count = -(-(length - overlap) // (size - overlap))
    starts = [i * (length - size) // (count - 1) for i in range(count)]
    return [(start, start + size) for start in starts]


# Merging ------------------------------------------------------------------------------------------


def merge_tiles(windows: Sequence[Window], parts: Sequence[Detections]) -> Detections:
    """The detections of a page, best score first, from those of its tiles.

    `windows` are the page's `tile_boxes`, `parts[i]` what was found on `windows[i]`, in pixels of the
    page. The order of either, and of the detections of a tile, makes no difference. Only detections
    of one class are united:

    * Two tiles see the same part of the page where they overlap. Detections that agree there (the IoU
      of what is left of their boxes is at least AGREEMENT) are of one object, unless one of them ends
      well inside its tile where the other goes on beyond that tile.
    * The best detection takes, from each tile that overlaps its own, the best of those that agree (by
      agreement times score), these take from theirs, and so on: one at most of each tile, so that
      rivals of low score, of which a page has many, never chain neighbours together. What is left
      over does the same, best first.
    * An object is as the best detection that no inner edge cuts has it, with its score: what another
      tile makes of a fragment of it says little. Where all are cut, as of a column longer than a tile,
      it has the box and the outline of their union and the mean of their scores, by area: with the
      best of them a strip at an edge, taken for a heading, would vouch for what its neighbour doubts.
    * At last, what is found again goes: a detection of IoU above AGREEMENT with a better one of other
      tiles (of those in one tile the model has chosen already), and a cut piece whose rest was not
      found if better ones cover it.
    """
    if len(windows) == 1:
        return Detections(*parts[0])
    order = sorted(range(len(windows)), key=windows.__getitem__)
    windows = np.array([windows[i] for i in order], np.float64).reshape(-1, 4)
    pieces = _gather(windows, [parts[i] for i in order])
    groups = _groups(pieces, windows)
    decisive = [_decisive(pieces, group) for group in groups]
    boxes = np.array([_box(pieces, each) for each in decisive]).reshape(-1, 4)
    scores = np.array([_score(pieces, each) for each in decisive], np.float32)
    class_ids = pieces.class_ids[[group[0] for group in groups]]
    # As the detector orders a page.
    x_min, y_min, x_max, y_max = boxes.T
    order = np.lexsort((y_max, x_max, y_min, x_min, class_ids, -scores))
    groups = [groups[i] for i in order]
    order = order[_stay(pieces, groups, boxes[order])]
    polygons = [_polygon(pieces, decisive[i]) for i in order]
    return Detections(boxes[order].astype(np.float32), scores[order], class_ids[order], polygons)


def _gather(windows: np.ndarray, parts: Sequence[Detections]) -> _Pieces:
    """The detections of all tiles in an order that depends on nothing but them."""
    counts = [len(part.scores) for part in parts]
    tiles = np.repeat(np.arange(len(windows)), counts)
    boxes = np.concatenate([np.zeros((0, 4)), *(part.boxes for part in parts)])
    scores = np.concatenate([np.zeros(0, np.float32), *(part.scores for part in parts)])
    class_ids = np.concatenate([np.zeros(0, np.int32), *(part.class_ids for part in parts)])
    polygons = [polygon for part in parts for polygon in part.polygons]
    page = np.array([0, 0, *windows[:, 2:].max(axis=0, initial=0)])
    boxes = np.clip(boxes, page[[0, 1, 0, 1]], page[[2, 3, 2, 3]])
    cut = (windows != page)[tiles] & (_beyond(boxes, windows[tiles]) >= -CUT)
    x_min, y_min, x_max, y_max = boxes.T
    order = np.lexsort((tiles, y_max, x_max, y_min, x_min, class_ids, -scores))
    order = order[_nonempty(boxes)[order]]
    polygons = [polygons[i] for i in order]
    return _Pieces(
        boxes[order], scores[order], class_ids[order], polygons, tiles[order], cut[order]
    )


def _beyond(boxes: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """How far each side of `boxes` (N, 4) lies outside of that of `windows`, of the window's side."""
    sides = windows[..., 2:] - windows[..., :2]
    return (boxes - windows) * _OUTWARDS / np.concatenate([sides, sides], axis=-1)


def _groups(pieces: _Pieces, windows: np.ndarray) -> list[list[int]]:
    """The pieces of each object, its best first; objects in the order of their best pieces."""
    partners = _partners(pieces, windows)
    free = np.ones(len(partners), bool)
    groups = []
    for first in range(len(partners)):
        if not free[first]:
            continue
        group, waiting, tiles = [], [first], {int(pieces.tiles[first])}
        free[first] = False
        while waiting:
            piece = heapq.heappop(waiting)
            group.append(piece)
            # By agreement and score: a poor rival may by chance agree a little better.
            for _, other in sorted((-agree * pieces.scores[j], j) for j, agree in partners[piece]):
                tile = int(pieces.tiles[other])
                if free[other] and tile not in tiles:
                    free[other] = False
                    tiles.add(tile)
                    heapq.heappush(waiting, other)
        groups.append(group)
    return groups


def _partners(pieces: _Pieces, windows: np.ndarray) -> list[list[tuple[int, float]]]:
    """For each piece those of other tiles that may be of the same object, and how well they agree."""
    partners: list[list[tuple[int, float]]] = [[] for _ in pieces.scores]
    for first, second in combinations(range(len(windows)), 2):
        for i, j, agree in _agreeing(pieces, windows, first, second):
            partners[i].append((j, agree))
            partners[j].append((i, agree))
    return partners


def _agreeing(
    pieces: _Pieces, windows: np.ndarray, first: int, second: int
) -> Iterator[tuple[int, int, float]]:
    """The pairs of pieces of two tiles that may be of one object, with the IoU in the overlap."""
    zone = _clip(windows[[first]], windows[second])
    if not _nonempty(zone)[0]:
        return
    clipped = _clip(pieces.boxes, zone[0])
    seen = _nonempty(clipped)
    a = np.flatnonzero(seen & (pieces.tiles == first))
    b = np.flatnonzero(seen & (pieces.tiles == second))
    agreement = _iou(clipped[a], clipped[b])
    agrees = (agreement >= AGREEMENT) & (pieces.class_ids[a][:, None] == pieces.class_ids[b])
    # Where one ends uncut and the other goes on, the tiles are of two minds about the object.
    goes_on = (_beyond(pieces.boxes[b], windows[first]) > CUT).astype(np.float32)
    goes_on_too = (_beyond(pieces.boxes[a], windows[second]) > CUT).astype(np.float32)
    agrees &= ~pieces.cut[a] @ goes_on.T + goes_on_too @ ~pieces.cut[b].T == 0
    for row, column in zip(*np.nonzero(agrees), strict=True):
        yield int(a[row]), int(b[column]), float(agreement[row, column])


def _decisive(pieces: _Pieces, group: list[int]) -> list[int]:
    """The pieces that an object is made of: the best one that is whole, or all."""
    whole = [piece for piece in sorted(group) if not pieces.cut[piece].any()]
    return whole[:1] or group


def _box(pieces: _Pieces, decisive: list[int]) -> np.ndarray:
    """The box (4,) float64 of an object."""
    boxes = pieces.boxes[decisive]
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def _score(pieces: _Pieces, decisive: list[int]) -> float:
    """The mean of its pieces' scores, by area."""
    return float(np.average(pieces.scores[decisive], weights=_areas(pieces.boxes[decisive])))


def _stay(pieces: _Pieces, groups: list[list[int]], boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: which objects, given best first, were not found again."""
    class_ids = pieces.class_ids[[group[0] for group in groups]]
    areas = _areas(boxes)
    in_tile = np.zeros((len(groups), pieces.tiles.max(initial=0) + 1), bool)
    for i, group in enumerate(groups):
        in_tile[i, pieces.tiles[group]] = True
    stays = np.zeros(len(groups), bool)
    for i, group in enumerate(groups):
        better = np.flatnonzero(stays[:i] & (class_ids[:i] == class_ids[i]))
        shared = _shared(boxes[[i]], boxes[better])[0]
        same = shared > AGREEMENT * (areas[i] + areas[better] - shared)
        gone = not (in_tile[better[same]] & in_tile[i]).any(axis=1).all()
        if pieces.cut[group].all(axis=0).any():  # A side of which no tile has seen the end.
            gone |= shared.sum() >= COVERED * areas[i]
        stays[i] = not gone
    return stays


def _polygon(pieces: _Pieces, decisive: list[int]) -> np.ndarray | None:
    """The outline of an object: (2 P,) int32, or None."""
    polygons = [pieces.polygons[i] for i in decisive if pieces.polygons[i] is not None]
    if len(polygons) < 2:
        return polygons[0] if polygons else None
    return _united(polygons, _box(pieces, decisive))


def _united(polygons: Sequence[np.ndarray], box: np.ndarray) -> np.ndarray | None:
    """The outline of the union's largest piece, traced on a grid over `box` (4,); None of a line."""
    corner, extent = box[:2], box[2:] - box[:2]
    grid = np.zeros((OUTLINE_CELLS, OUTLINE_CELLS), np.uint8)
    for polygon in polygons:
        cells = (polygon.reshape(-1, 2) - corner) / extent * (OUTLINE_CELLS - 1)
        # One by one: fillPoly leaves holes where outlines of one call overlap.
        cv2.fillPoly(grid, [np.rint(cells).astype(np.int32)], 1)
    outline = trace(grid)
    if outline is None:
        return None
    points = np.rint(corner + outline / (OUTLINE_CELLS - 1) * extent)
    return points.astype(np.int32).reshape(-1)


# Boxes --------------------------------------------------------------------------------------------


def _clip(boxes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """What `window` (4,) leaves of `boxes` (N, 4)."""
    low, high = np.maximum(boxes[:, :2], window[:2]), np.minimum(boxes[:, 2:], window[2:])
    return np.concatenate([low, high], axis=1)


def _nonempty(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2:] > boxes[..., :2]).all(axis=-1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The areas (N, M) that boxes (N, 4) and (M, 4) have in common."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    return (high - low).clip(min=0).prod(axis=2)


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The intersections over unions (N, M) of boxes (N, 4) and (M, 4), none of them empty."""
    shared = _shared(first, second)
    return shared / (_areas(first)[:, None] + _areas(second) - shared)
