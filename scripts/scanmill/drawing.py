"""Pictures of pages with their regions."""

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

# The palette of Okabe & Ito, "Color universal design" (2008), told apart with every kind of colour
# vision, as RGB; without its black and yellow, which are lost among ink and on paper.
PALETTE = {
    "blue": (0, 114, 178),
    "vermillion": (213, 94, 0),
    "bluish green": (0, 158, 115),
    "orange": (230, 159, 0),
    "reddish purple": (204, 121, 167),
    "sky blue": (86, 180, 233),
}
# Classes that tend to share a page have different colours; those of other classes may meet.
COLORS = {
    "text": "blue",
    "title": "vermillion",
    "list": "bluish green",
    "table": "orange",
    "figure": "reddish purple",
}

# Shares of the drawn image's longer side: at 1600 px lines of 3 px, letters 14 px high.
LINE_WIDTH = 0.002
LETTER_HEIGHT = 0.009
# Pixels between pages that are compared.
GAP = 12


class Shape(NamedTuple):
    """A region to draw, in pixels of the page."""

    class_name: str
    box: tuple[float, float, float, float]
    """x_min, y_min, x_max, y_max."""
    polygons: Sequence[Sequence[float]]
    """Each x, y, x, y, ...; none where there is only a box."""
    label: str


def reduction_to(longest: int, side: int) -> int:
    """By how much an image whose longer side is `longest` may be decoded reduced (1, 2, 4 or 8) to be
    shown with a longer side of `side` pixels."""
    return max(each for each in (1, 2, 4, 8) if each == 1 or longest >= each * side)


def class_color(name: str) -> tuple[int, int, int]:
    """Return the BGR colour of a class: by its name alone, the same in every run and model."""
    known = COLORS.get(name.lower())
    color = (
        PALETTE[known] if known else [*PALETTE.values()][zlib.crc32(name.encode()) % len(PALETTE)]
    )
    return color[::-1]


def draw_regions(
    image: np.ndarray, regions: pa.Table, *, max_side: int | None = 1600
) -> np.ndarray:
    """Return a picture of a page with its regions, uint8 BGR [h, w, 3]; `image` stays as it is.

    Each region gets its box, the outline of its mask where it has one, and a label: its place in
    the reading order, class and score. `image` is uint8, grey [H, W] or BGR [H, W, 3]; `regions` is
    a table of the schema `regions` in pixels of that image. A page whose longer side exceeds
    `max_side` pixels is reduced to it first (None: never).
    """
    shapes = [
        Shape(
            row["class_name"],
            (row["x_min"], row["y_min"], row["x_max"], row["y_max"]),
            [row["polygon"]] if row["polygon"] else [],
            f"{row['region']} {row['class_name']} {row['score']:.2f}",
        )
        for row in regions.to_pylist()
    ]
    return draw_shapes(image, shapes, max_side=max_side)


def draw_shapes(
    image: np.ndarray, shapes: Sequence[Shape], *, max_side: int | None = 1600
) -> np.ndarray:
    """As `draw_regions`, of regions that are in no table: with their own labels."""
    canvas = _canvas(image, max_side)
    # For each axis, since a size in whole pixels stretches the page a little.
    zoom = np.array([canvas.shape[1] / image.shape[1], canvas.shape[0] / image.shape[0]])
    line = max(1, round(LINE_WIDTH * max(canvas.shape[:2])))
    for shape in shapes:
        _draw_shape(canvas, shape, zoom, line)
    for shape in shapes:  # last, so that no line crosses a label
        _draw_label(canvas, shape, zoom)
    return canvas


def draw_comparison(
    image: np.ndarray,
    page_size: tuple[int, int],
    *sides: Sequence[Mapping],
    max_side: int | None = 1200,
) -> np.ndarray:
    """Return the same page several times from left to right, each with other regions, uint8 BGR.

    `image` is as for `draw_regions`, of any size; regions are in pixels of a page of `page_size` (width,
    height). Each is a mapping with `class_name`, `x_min` .. `y_max`, `polygons` (a list of x and y
    alternating) and `error`: None for a region that is right, which gets thin lines alone, or what is
    wrong with it, which is written to it.
    """
    page = _canvas(image, max_side)
    zoom = np.array([page.shape[1] / page_size[0], page.shape[0] / page_size[1]])
    line = max(2, round(LINE_WIDTH * max(page.shape[:2])))
    gap = np.full((page.shape[0], GAP, 3), 255, dtype=np.uint8)
    parts = []
    for regions in sides:
        picture = page.copy()
        shapes = [
            Shape(
                row["class_name"],
                (row["x_min"], row["y_min"], row["x_max"], row["y_max"]),
                row["polygons"],
                row["error"] or "",
            )
            for row in regions
        ]
        for shape in shapes:
            _draw_shape(picture, shape, zoom, line if shape.label else 1)
        for shape in shapes:
            if shape.label:
                _draw_label(picture, shape, zoom)
        parts += [gap, picture]
    return np.hstack(parts[1:])


def _canvas(image: np.ndarray, max_side: int | None) -> np.ndarray:
    """Return a BGR copy of `image`, its longer side reduced to `max_side` pixels if it has more."""
    height, width = image.shape[:2]
    scale = min(1.0, max_side / max(height, width)) if max_side else 1.0
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image.copy()


def _draw_shape(canvas: np.ndarray, shape: Shape, zoom: np.ndarray, line: int) -> None:
    """Draw a region's outlines and its box in the colour of its class, `line` pixels wide."""
    color = class_color(shape.class_name)
    upper, lower = _points(np.reshape(shape.box, (2, 2)), zoom)
    for polygon in shape.polygons:
        outline = _points(np.reshape(polygon, (-1, 2)), zoom)
        cv2.polylines(canvas, [outline], True, color, line, cv2.LINE_AA)
    # Thinner beside an outline, which says more.
    cv2.rectangle(canvas, upper, lower, color, max(1, line // 2) if shape.polygons else line)


def _points(points: np.ndarray | list, zoom: np.ndarray) -> np.ndarray:
    """Scale points [N, 2] of the page to int32 pixels of the picture."""
    return np.rint(np.asarray(points) * zoom).astype(np.int32)


def _draw_label(canvas: np.ndarray, shape: Shape, zoom: np.ndarray) -> None:
    """Write a region's label above its upper left corner, moved into the picture."""
    text, color = shape.label, class_color(shape.class_name)
    corner = _points([shape.box[:2]], zoom)[0]
    height, width = canvas.shape[:2]
    font, letters = cv2.FONT_HERSHEY_SIMPLEX, max(7, round(LETTER_HEIGHT * max(height, width)))
    size = cv2.getFontScaleFromHeight(font, letters)
    (text_width, text_height), below = cv2.getTextSize(text, font, size, 1)
    pad = max(1, letters // 4)
    x = max(0, min(int(corner[0]), width - text_width - 2 * pad))
    y = max(0, int(corner[1]) - text_height - below - 2 * pad)
    end = (x + text_width + 2 * pad, y + text_height + below + 2 * pad)
    cv2.rectangle(canvas, (x, y), end, color, cv2.FILLED)
    # Black on light colours, white on dark ones, by luma (ITU-R BT.601, here in BGR).
    ink = (0, 0, 0) if np.dot(color, (0.114, 0.587, 0.299)) > 128 else (255, 255, 255)
    origin = (x + pad, y + pad + text_height)
    cv2.putText(canvas, text, origin, font, size, ink, 1, cv2.LINE_AA)
