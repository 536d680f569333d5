"""What printing, age, scanners and files do to a page: its pixels change, its outlines move with them.

Steps come in the order in which they befall a page: ink, paper, the book's shape, the scanner, the file.
Pages and results are grey, (H, W) uint8; outlines are (P, 2) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

#: Vertices of outlines are set at most so many pixels apart before a page is warped.
_DENSITY = 24.0
#: A grid of so many points carries a warp.
_GRID = 6


class Scan(NamedTuple):
    """A scanned page."""

    pixels: np.ndarray
    """(H, W) uint8."""
    outlines: list[np.ndarray]
    """Of each region, (P, 2) float64, pixels."""


def as_grey(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A coloured page (H, W, 3) as scanners and cameras make it grey: (H, W) uint8.

    The usual weights of the channels, or any: filters and lamps differ.
    """
    if rng.random() < 0.7:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    weights = rng.dirichlet(np.ones(3)).astype(np.float32)
    return cv2.transform(pixels, weights[None])


def scan_page(
    page: np.ndarray,
    outlines: Sequence[np.ndarray],
    rng: np.random.Generator,
    other: np.ndarray | None,
) -> Scan:
    """A page (H, W) as it comes out of an archive's scanner: well kept, or not.

    `other` is another page, which may show through the paper or stand at the edge.
    """
    outlines = [np.asarray(each, np.float64) for each in outlines]
    state = rng.random()
    if state < 0.42:
        # Born digital, or scanned without fault.
        return Scan(_file(page, rng, 0.25), list(outlines))
    worn = state > 0.72

    def happens(well: float, badly: float) -> bool:
        return rng.random() < (badly if worn else well)

    if happens(0.25, 0.5):
        page = _spread_ink(page, rng)
    if happens(0.03, 0.2):
        page = _break_ink(page, rng)
    if other is not None and happens(0.08, 0.3):
        page = _show_through(page, other, rng)
    if happens(0.2, 0.55):
        page = _age_paper(page, rng)
    if happens(0.03, 0.18):
        page = _stain(page, rng)
    if happens(0.05, 0.15):
        page = _write_on(page, rng)
    if happens(0.05, 0.25):
        page, outlines = _warp(page, outlines, rng)
    if happens(0.45, 0.65):
        page, outlines = _turn(page, outlines, rng, 1.2 if not worn else 3.0)
    if happens(0.06, 0.25):
        page, outlines = _edge(page, outlines, other, rng)
    if happens(0.12, 0.45):
        page = _light(page, rng)
    if happens(0.15, 0.35):
        page = cv2.GaussianBlur(page, (0, 0), rng.uniform(0.3, 1.1 if not worn else 1.6))
    if happens(0.06, 0.15):
        page = _reduce(page, rng)
    if happens(0.15, 0.4):
        page = _grain(page, rng)
    kind = rng.random()
    if kind < (0.14 if not worn else 0.25):
        page = _bilevel(page, rng)
    elif kind < 0.3:
        page = _tone(page, rng)
    if happens(0.01, 0.03):
        page = 255 - page
    return Scan(_file(page, rng, 0.6), list(outlines))


# Ink and paper ------------------------------------------------------------------------------------


def _spread_ink(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strokes grow or shrink by part of a pixel."""
    change = cv2.erode if rng.random() < 0.6 else cv2.dilate
    share = rng.uniform(0.2, 0.9 if change is cv2.erode else 0.6)
    return cv2.addWeighted(change(page, np.ones((2, 2), np.uint8)), share, page, 1 - share, 0)


def _clouds(shape: tuple[int, int], cell: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1 or so, (H, W) float32; spots of about `cell` pixels."""
    height, width = (max(2, int(side / cell) + 2) for side in shape)
    small = rng.standard_normal((height, width), dtype=np.float32)
    return cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _break_ink(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Worn type: ink is missing in spots."""
    missing = np.clip(_clouds(page.shape, rng.uniform(2, 6), rng) - rng.uniform(0.6, 1.6), 0, 1)
    return (page + (255 - page.astype(np.float32)) * missing).astype(np.uint8)


def _show_through(page: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The page behind shows, mirrored and faint."""
    behind = cv2.resize(other[:, ::-1], page.shape[::-1])
    behind = cv2.GaussianBlur(behind, (0, 0), rng.uniform(0.6, 2.5)).astype(np.float32)
    share = rng.uniform(0.05, 0.3)
    return (page.astype(np.float32) * (1 - share * (255 - behind) / 255)).astype(np.uint8)


def _age_paper(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paper that is no longer white, and not evenly; ink that is no longer black."""
    paper = rng.uniform(150, 250) + rng.uniform(0, 14) * _clouds(
        page.shape, rng.uniform(40, 400), rng
    )
    paper += rng.uniform(0, 5) * _clouds(page.shape, rng.uniform(2, 8), rng)
    ink = rng.uniform(0, 70)
    share = page.astype(np.float32) / 255
    return (ink + (np.clip(paper, 90, 255) - ink) * share).clip(0, 255).astype(np.uint8)


def _stain(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Foxing, water, holes of a punch."""
    height, width = page.shape
    mask = np.zeros(page.shape, np.float32)
    for _ in range(int(rng.integers(1, 30))):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (
            int(rng.integers(1, max(2, width // 30))),
            int(rng.integers(1, max(2, width // 30))),
        )
        cv2.ellipse(
            mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.1, 0.5)), -1
        )
    mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.8, 5))
    page = (page * (1 - mask)).astype(np.uint8)
    if rng.random() < 0.4:
        for at in np.linspace(0.25, 0.75, int(rng.integers(2, 5))):
            cv2.circle(
                page,
                (int(0.03 * width), int(at * height)),
                int(0.011 * width),
                int(rng.integers(0, 90)),
                -1,
            )
    return page


def _write_on(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines of a pen, scribbles, a stamp: none is a region."""
    page = page.copy()
    height, width = page.shape
    ink = int(rng.integers(0, 120))
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(0.05, 0.9) * width, rng.uniform(0.05, 0.95) * height
        kind = rng.random()
        if kind < 0.4:
            length = rng.uniform(0.05, 0.5) * width
            points = np.stack([np.linspace(x, x + length, 12), y + rng.normal(0, 1.2, 12)], axis=1)
        elif kind < 0.75:
            steps = rng.normal((2.2, 0), (3, 7), (int(rng.integers(20, 90)), 2))
            points = (x, y) + np.cumsum(steps, axis=0) * width / 900
            points[:, 1] = y + (points[:, 1] - y) % (0.03 * height)
        else:
            _stamp(page, (x, y), rng.uniform(0.03, 0.07) * width, ink, rng)
            continue
        line = np.rint(points).astype(np.int32)
        cv2.polylines(page, [line], False, ink, int(rng.integers(1, 3)), cv2.LINE_AA)
    return page


def _stamp(
    page: np.ndarray,
    middle: tuple[float, float],
    radius: float,
    ink: int,
    rng: np.random.Generator,
) -> None:
    """Letters in a circle, onto the page."""
    x, y = map(int, middle)
    cv2.circle(page, (x, y), int(radius), ink, max(1, int(radius / 14)), cv2.LINE_AA)
    text = "".join(rng.choice(list("ABCDE 1890"), 6))
    start = (int(middle[0] - radius * 0.8), y)
    cv2.putText(page, text, start, cv2.FONT_HERSHEY_SIMPLEX, radius / 55, ink, 1, cv2.LINE_AA)


# Shape --------------------------------------------------------------------------------------------


def _dense(outline: np.ndarray) -> np.ndarray:
    """An outline with vertices close to one another, so that it can bend."""
    after = np.roll(outline, -1, axis=0)
    parts = []
    for start, end in zip(outline, after, strict=True):
        count = max(1, int(np.abs(end - start).max() / _DENSITY))
        parts.append(start + (end - start) * np.arange(count)[:, None] / count)
    return np.concatenate(parts)


def _paper(page: np.ndarray) -> float:
    return float(np.median(page[::7, ::7]))


def _warp(
    page: np.ndarray, outlines: Sequence[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paper that does not lie flat: smooth shifts, and lines that bend towards the book's spine."""
    height, width = page.shape
    strength = rng.uniform(0.001, 0.0045) * width
    shift_x = strength * _clouds(page.shape, width / _GRID, rng)
    shift_y = strength * _clouds(page.shape, width / _GRID, rng)
    if rng.random() < 0.5:
        across = np.linspace(0, 1, width, dtype=np.float32)
        across = across if rng.random() < 0.5 else across[::-1]
        shift_y = (
            shift_y
            + rng.uniform(-0.015, 0.015) * height * np.exp(-across * rng.uniform(4, 9))[None]
        )
    columns, rows = np.meshgrid(
        np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    )
    warped = cv2.remap(
        page, columns + shift_x, rows + shift_y, cv2.INTER_LINEAR, borderValue=_paper(page)
    )
    moved = []
    for outline in outlines:
        points = _dense(outline)
        # The page at p came from p + shift(p); shifts are smooth, so that two steps invert them.
        at = points.copy()
        for _ in range(2):
            x = np.clip(np.rint(at[:, 0]).astype(int), 0, width - 1)
            y = np.clip(np.rint(at[:, 1]).astype(int), 0, height - 1)
            at = points - np.stack([shift_x[y, x], shift_y[y, x]], axis=1)
        moved.append(at)
    return warped, moved


def _turn(
    page: np.ndarray, outlines: Sequence[np.ndarray], rng: np.random.Generator, most: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Askew by up to `most` degrees, sheared and scaled a little, and not quite in the middle."""
    height, width = page.shape
    angle = np.deg2rad(rng.uniform(-most, most) * rng.random())
    scale = rng.uniform(0.94, 1.03)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn[0, 0] *= rng.uniform(0.98, 1.02)
    middle = np.array([width, height]) / 2
    shift = middle - turn @ middle + rng.uniform(-0.012, 0.012, 2) * (width, height)
    matrix = np.hstack([turn, shift[:, None]])
    border = 0.0 if rng.random() < 0.25 else _paper(page)
    turned = cv2.warpAffine(
        page, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=border
    )
    return turned, [outline @ turn.T + shift for outline in outlines]


def _edge(
    page: np.ndarray,
    outlines: Sequence[np.ndarray],
    other: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The scanner's black bed, or a strip of the page beside it, at some of the sides."""
    width = page.shape[1]
    sides = [int(rng.uniform(0, 0.06) * width) if rng.random() < 0.6 else 0 for _ in range(4)]
    left, top, right, bottom = sides
    shade = float(rng.integers(0, 60)) if rng.random() < 0.8 else float(rng.integers(60, 255))
    framed = cv2.copyMakeBorder(page, top, bottom, left, right, cv2.BORDER_CONSTANT, value=shade)
    if other is not None and left > 8 and rng.random() < 0.4:
        strip = cv2.resize(other, (width, framed.shape[0]))[:, -left:]
        framed[:, :left] = strip
        gutter = max(2, left // 6)
        framed[:, left - gutter : left] = (framed[:, left - gutter : left] * 0.4).astype(np.uint8)
    if rng.random() < 0.4:
        noise = (rng.standard_normal(framed.shape, dtype=np.float32) * 14).astype(np.int16)
        outside = np.ones(framed.shape, bool)
        outside[top : framed.shape[0] - bottom, left : framed.shape[1] - right] = False
        framed[outside] = np.clip(framed[outside] + noise[outside], 0, 255).astype(np.uint8)
    return framed, [outline + np.array([left, top]) for outline in outlines]


# Scanner and file ---------------------------------------------------------------------------------


def _light(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven light: a slope, a shadow along the spine, darker corners."""
    height, width = page.shape
    across, down = (
        np.linspace(-1, 1, width, dtype=np.float32),
        np.linspace(-1, 1, height, dtype=np.float32),
    )
    light = 1 + rng.uniform(-0.2, 0.2) * across[None] + rng.uniform(-0.2, 0.2) * down[:, None]
    if rng.random() < 0.5:
        spine = across if rng.random() < 0.5 else across[::-1]
        light = light - rng.uniform(0.1, 0.6) * np.exp(-(spine + 1) * rng.uniform(8, 30))[None]
    if rng.random() < 0.3:
        light = light - rng.uniform(0, 0.15) * (across[None] ** 2 + down[:, None] ** 2)
    return np.clip(page * light, 0, 255).astype(np.uint8)


def _reduce(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scanned at few dots per inch."""
    height, width = page.shape
    factor = rng.uniform(0.45, 0.85)
    small = cv2.resize(page, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _grain(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(page.shape, dtype=np.float32) * rng.uniform(2, 16)
    return np.clip(page + noise, 0, 255).astype(np.uint8)


def _bilevel(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black and white at twice the pixels, as archives keep it, then reduced."""
    large = cv2.resize(page, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    kind = rng.random()
    if kind < 0.5:
        level, _ = cv2.threshold(large, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
        level = level * rng.uniform(0.85, 1.15)
        black = (large > level).astype(np.uint8) * 255
    elif kind < 0.8:
        size = int(rng.integers(12, 40)) * 2 + 1
        black = cv2.adaptiveThreshold(
            large,
            255,
            cv2.ADAPTIVE_THRESH_GAUSSIAN_C,
            cv2.THRESH_BINARY,
            size,
            float(rng.uniform(6, 18)),
        )
    else:
        # Ordered dither (Bayer, 1973), 4 x 4.
        bayer = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], np.float32)
        height, width = large.shape
        levels = np.tile((bayer + 0.5) * 16, (height // 4 + 1, width // 4 + 1))[:height, :width]
        black = (large > levels).astype(np.uint8) * 255
    return cv2.resize(black, page.shape[::-1], interpolation=cv2.INTER_AREA)


def _tone(page: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast and gamma of the scanner's software."""
    values = np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.3))
    values = (values - 0.5) * rng.uniform(0.7, 1.4) + 0.5 + rng.uniform(-0.12, 0.12)
    return cv2.LUT(page, np.clip(255 * values, 0, 255).astype(np.uint8))


def _file(page: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    """Compressed as JPEG, so often."""
    if rng.random() >= share:
        return page
    quality = int(rng.integers(25, 92))
    data = cv2.imencode(".jpg", page, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
