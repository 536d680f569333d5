"""Pages as they might have been scanned on another day: augmentation for training.

A page lies a little askew, its edges are cut, light and ink differ, the file was compressed. It is never
mirrored. The size of type is varied elsewhere, by resizing to a random INPUT.MIN_SIZE_TRAIN.

Coordinates are pixels of the image with the origin at its top left corner: pixel i covers i to i + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

#: Outlines of one object, each (2 P,) x, y, x, y, ....
Outlines = list[np.ndarray]

#: An object of which less stays in the picture is none any more.
LEAST_OF_OBJECT = 0.5
#: The colour of the paper is looked for on so many pixels along either side.
PAPER_SAMPLES = 200


class Augmentation(NamedTuple):
    """How often and how much pages are changed; probabilities of 0 leave them as they are.

    The strengths are what differs between scans of one archive, for pages of 600 to 1200 px; what would
    make type illegible teaches nothing.
    """

    rotation_probability: float = 0.5
    rotation: float = 2.0
    """Degrees, at most, to either side: pages fed askew; scanners' own software mends more."""
    crop_probability: float = 0.3
    crop: float = 0.8
    """Share of the width and of the height that stays, at least."""
    ink_probability: float = 0.2
    ink: float = 0.7
    """How much of one pixel strokes grow thicker or thinner, at most; at 1, hairlines vanish."""
    grey_probability: float = 0.2
    """Colour pages alone."""
    light_probability: float = 0.5
    brightness: float = 0.15
    """Added or taken, at most, as a share of white."""
    contrast: float = 0.25
    """Distances from middle grey grow or shrink by this share, at most."""
    gamma_probability: float = 0.3
    gamma: float = 1.4
    """Exponent, at most; at least, its inverse."""
    blur_probability: float = 0.2
    blur: float = 1.0
    """Standard deviation of the Gaussian in pixels, at most."""
    noise_probability: float = 0.2
    noise: float = 10.0
    """Standard deviation in grey values of 255, at most."""
    jpeg_probability: float = 0.3
    jpeg_quality: tuple[int, int] = (30, 90)
    """Lowest and highest quality of libjpeg."""


def augment(
    image: np.ndarray,
    boxes: np.ndarray,
    polygons: Sequence[Outlines],
    settings: Augmentation,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, list[Outlines], np.ndarray]:
    """Change a page at random, and its annotations with it.

    `image` (H, W) or (H, W, 3) uint8, BGR or RGB; `boxes` (N, 4) x_min, y_min, x_max, y_max;
    `polygons` the outlines of each object (a list may be empty), or empty where no object has any.
    Returns new ones of the same kinds, the image at most as large as it was, and `keep` (N,) bool:
    False where less than half of an object's area is still in the picture. What stays of the others is
    clipped to the picture. The same state of `rng` gives the same bytes; nothing given is changed.
    """
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    outlines = [[np.asarray(each, np.float32) for each in one] for one in polygons]
    if outlines and len(outlines) != len(boxes):
        raise ValueError(f"{len(outlines)} lists of polygons for {len(boxes)} boxes")
    image = image.copy()
    if _happens(settings.rotation_probability, rng):
        degrees = rng.uniform(-settings.rotation, settings.rotation)
        image, boxes, outlines = rotate(image, boxes, outlines, degrees)
    height, width = image.shape[:2]
    window = (0, 0, width, height)
    if _happens(settings.crop_probability, rng):
        window = _random_window(width, height, settings.crop, rng)
    image, boxes, outlines, keep = crop(image, boxes, outlines, window)
    return _restyle(image, settings, rng), boxes, outlines, keep


def _happens(probability: float, rng: np.random.Generator) -> bool:
    return rng.random() < probability


# Geometry -----------------------------------------------------------------------------------------


def rotate(
    image: np.ndarray, boxes: np.ndarray, polygons: Sequence[Outlines], degrees: float
) -> tuple[np.ndarray, np.ndarray, list[Outlines]]:
    """Turn a page about its middle, counterclockwise; it keeps its size, its corners become paper.

    Boxes become those of the turned polygons. Without polygons, what fills a box is unknown: the box of
    its turned corners would be right for a solid rectangle, and too large for everything else, by 35 px
    for a line of 1000 px at 2 degrees. Such a box becomes that of the turned ellipse inscribed in it:
    a square does not grow at all, a flat line by about half of that.
    """
    height, width = image.shape[:2]
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    middle = np.array([width, height]) / 2

    def turned(points: np.ndarray) -> np.ndarray:
        return (points.astype(np.float64) - middle) @ turn.T + middle

    # OpenCV's whole numbers are the middles of pixels, ours their corners.
    shift = middle - 0.5 - turn @ (middle - 0.5)
    image = cv2.warpAffine(
        image,
        np.hstack([turn, shift[:, None]]),
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_paper(image),
    )
    outlines = [
        [turned(each.reshape(-1, 2)).astype(np.float32).reshape(-1) for each in one]
        for one in polygons
    ]
    half = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64) / 2
    half = np.sqrt(half**2 @ (turn**2).T)
    centre = turned((boxes[:, :2].astype(np.float64) + boxes[:, 2:]) / 2)
    boxes = np.hstack([centre - half, centre + half]).astype(np.float32)
    for index, one in enumerate(outlines):
        if one:
            boxes[index] = _box_of(one)
    return image, boxes, outlines


def crop(
    image: np.ndarray,
    boxes: np.ndarray,
    polygons: Sequence[Outlines],
    window: tuple[int, int, int, int],
) -> tuple[np.ndarray, np.ndarray, list[Outlines], np.ndarray]:
    """Cut `window` (x_min, y_min, x_max, y_max) out of a page; clip its objects, and say which to keep:
    those of which half the area or more stays, by their polygons where they have any."""
    left, top, right, bottom = window
    limits = np.array([left, top, right, bottom], np.float32)
    corner = limits[:2]
    outlines: list[Outlines] = []
    inside = np.hstack([boxes[:, :2].clip(corner, None), boxes[:, 2:].clip(None, limits[2:])])
    stays = _box_areas(inside) >= LEAST_OF_OBJECT * _box_areas(boxes)
    for index, one in enumerate(polygons):
        cut = (boxes[index] != inside[index]).any()
        clipped = [clip_polygon(each, limits) for each in one] if cut else one
        clipped = [each for each in clipped if each.size >= 6]
        if cut and one:
            before, after = (sum(map(_polygon_area, lines)) for lines in (one, clipped))
            stays[index] = after >= LEAST_OF_OBJECT * before
            if clipped:
                inside[index] = _box_of(clipped)
        outlines.append([each - np.tile(corner, each.size // 2) for each in clipped])
    # Beyond the picture, the clipped box of an object is inside out, and a line of no width has none.
    keep = stays & (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    inside[~keep] = inside[~keep].clip(np.tile(corner, 2), np.tile(limits[2:], 2))
    image = np.ascontiguousarray(image[top:bottom, left:right])
    return image, inside - np.tile(corner, 2), outlines, keep


def _random_window(
    width: int, height: int, least: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    sides = []
    for side in (width, height):
        kept = max(int(np.ceil(side * rng.uniform(least, 1))), 1)
        start = int(rng.integers(0, side - kept + 1))
        sides.append((start, start + kept))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


def clip_polygon(polygon: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The part of a polygon (2 P,) within `limits` (x_min, y_min, x_max, y_max): (2 Q,) float32, empty
    where nothing is. Side by side (Sutherland and Hodgman, 1974): pieces of a polygon that is cut in
    several stay joined, by lines of no area along the edge."""
    points = polygon.reshape(-1, 2).astype(np.float64)
    for axis, limit, sign in ((0, 0, 1), (1, 1, 1), (0, 2, -1), (1, 3, -1)):
        if not len(points):
            break
        depth = sign * (points[:, axis] - limits[limit])
        following, depth_after = np.roll(points, -1, axis=0), np.roll(depth, -1)
        crosses = (depth >= 0) != (depth_after >= 0)
        share = depth / np.where(crosses, depth - depth_after, 1)
        crossing = points + share[:, None] * (following - points)
        crossing[:, axis] = limits[limit]
        pairs = np.stack([points, crossing], axis=1)
        points = pairs[np.stack([depth >= 0, crosses], axis=1)]
    return points.astype(np.float32).reshape(-1)


def _box_areas(boxes: np.ndarray) -> np.ndarray:
    sides = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).clip(0)
    return sides[:, 0] * sides[:, 1]


def _polygon_area(polygon: np.ndarray) -> float:
    x, y = polygon.reshape(-1, 2).astype(np.float64).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _box_of(outlines: Outlines) -> np.ndarray:
    points = np.concatenate(outlines).reshape(-1, 2)
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


def _paper(image: np.ndarray) -> tuple[float, ...]:
    """The colour that most of a page has: its median, by channel."""
    height, width = image.shape[:2]
    some = image[:: -(-height // PAPER_SAMPLES), :: -(-width // PAPER_SAMPLES)]
    return tuple(np.atleast_1d(np.median(some, axis=(0, 1))).tolist())


# Ink, light, file ---------------------------------------------------------------------------------


def _restyle(image: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Change everything that moves nothing, in the order in which it happens to a page: its ink, the
    light, the lens, the sensor, the file."""
    if _happens(settings.ink_probability, rng):
        image = _change_ink(image, rng.uniform(-settings.ink, settings.ink))
    if _happens(settings.grey_probability, rng) and image.ndim == 3:
        image = _as_grey(image)
    if _happens(settings.light_probability, rng):
        brightness = rng.uniform(-settings.brightness, settings.brightness)
        contrast = rng.uniform(-settings.contrast, settings.contrast)
        image = _change_light(image, brightness, contrast)
    if _happens(settings.gamma_probability, rng):
        image = _change_gamma(image, settings.gamma ** rng.uniform(-1, 1))
    if _happens(settings.blur_probability, rng):
        sigma = rng.uniform(0, settings.blur)
        if sigma > 0:
            image = cv2.GaussianBlur(image, (0, 0), sigma)
    if _happens(settings.noise_probability, rng):
        image = _add_noise(image, rng.uniform(0, settings.noise), rng)
    if _happens(settings.jpeg_probability, rng):
        low, high = settings.jpeg_quality
        image = _compress(image, int(rng.integers(low, high + 1)))
    return image


def _change_ink(image: np.ndarray, share: float) -> np.ndarray:
    """Dark strokes grow by `share` of a pixel, or shrink where it is negative."""
    square = np.ones((2, 2), np.uint8)
    changed = (cv2.erode if share > 0 else cv2.dilate)(image, square)
    return cv2.addWeighted(changed, abs(share), image, 1 - abs(share), 0)


def _as_grey(image: np.ndarray) -> np.ndarray:
    # The channels weigh alike, so that their order, BGR or RGB, need not be known.
    grey = np.rint(image.mean(axis=2)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _change_light(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    values = np.arange(256, dtype=np.float64)
    return _map(image, (values - 127.5) * (1 + contrast) + 127.5 + brightness * 255)


def _change_gamma(image: np.ndarray, exponent: float) -> np.ndarray:
    return _map(image, 255 * (np.arange(256, dtype=np.float64) / 255) ** exponent)


def _map(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replace each grey value by its entry in `table` (256,)."""
    return cv2.LUT(image, np.rint(table.clip(0, 255)).astype(np.uint8))


def _add_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    # The same in all channels: coloured grains are smoothed away by every scanner.
    grains = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(sigma)
    if image.ndim == 3:
        grains = grains[:, :, None]
    return np.rint((image + grains).clip(0, 255)).astype(np.uint8)


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:  # A page of more than 65 500 px is none that JPEG can hold.
        return image
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if image.ndim == 2 else cv2.IMREAD_COLOR)
