"""What a page image is: its bytes, its geometry, its limits; and why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from scanmill.image_files import encode

POINTS_PER_INCH = 72.0

#: A page that would have more pixels than `images.limits.max_pixels` is rendered with a lower
#: resolution, but not below this one: smaller type cannot be read at half of it.
LOWEST_DPI = 36.0

#: The longest side that a JPEG of libjpeg can have (JPEG_MAX_DIMENSION of jmorecfg.h).
LONGEST_SIDE = 65_500

#: A channel may differ from another by this much (of 255), and this share of pixels by more, on a page
#: that is stored as grey: JPEG noise of grey scans stays below, a red stamp or a yellowed leaf above.
GREY_TOLERANCE = 16
GREY_SHARE = 1e-5


class PageError(Exception):
    """A page or document that cannot become an image; carries a reason of the closed list."""

    def __init__(self, reason: str, message: str) -> None:
        """`reason` is one of `tables.REASONS`."""
        super().__init__(message)
        self.reason = reason


class PageImage(NamedTuple):
    """One page as an image file, and where it comes from."""

    data: bytes | Path
    """The file's bytes, or a file that may be moved."""
    suffix: str
    width: int
    height: int
    dpi: tuple[float, float] | None
    source: str
    engine: str
    rotation: int
    page_size: tuple[float, float] | None
    to_pdf: list[float] | None
    note: str | None = None
    """What a reader of the table should know of a page that came out all the same."""


class PageBox(NamedTuple):
    """The visible box of a PDF page in its units, y up; its rotation, degrees clockwise."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    rotation: int
    unit: float = 1.0
    """Points per unit: /UserUnit (ISO 32000-1, 14.11.1)."""
    uncropped: bool = False
    """It is the MediaBox, as the CropBox shows nothing of it."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height as shown, in units."""
        width, height = self.x_max - self.x_min, self.y_max - self.y_min
        return (height, width) if self.rotation in (90, 270) else (width, height)

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height as shown."""
        width, height = self.size
        return width * self.unit / POINTS_PER_INCH, height * self.unit / POINTS_PER_INCH


def to_pdf(box: PageBox, scale_x: float, scale_y: float) -> list[float]:
    """The affine (a, b, c, d, e, f) from image pixels (u right, v down) to PDF units (x, y up).

    x = a u + c v + e, y = b u + d v + f, as PDF writes matrices (ISO 32000-1, 8.3.3); `scale_*` are
    units per pixel along u and v of the image, which is turned clockwise by the page's rotation.
    """
    u, v = scale_x, scale_y
    return {
        0: [u, 0.0, 0.0, -v, box.x_min, box.y_max],
        90: [0.0, u, v, 0.0, box.x_min, box.y_min],
        180: [-u, 0.0, 0.0, v, box.x_max, box.y_min],
        270: [0.0, -u, -v, 0.0, box.x_max, box.y_max],
    }[box.rotation]


def check_pixels(width: float, height: float, limits: Mapping[str, float]) -> None:
    """Raise PageError where a page would exceed `images.limits.max_pixels`."""
    if width * height > limits["max_pixels"]:
        raise PageError(
            "too_large",
            f"{width:.0f} x {height:.0f} pixels are more than images.limits.max_pixels "
            f"({limits['max_pixels']:.0f})",
        )
    if width < 1 or height < 1:
        raise PageError("unsupported", f"a page of {width:.2f} x {height:.2f} pixels")


def choose_dpi(box: PageBox, dpi: float, limits: Mapping[str, float]) -> float:
    """The resolution to render a page with: `dpi`, or the highest whole number that the limits allow.

    Raises PageError for a page without area, and for one too large at LOWEST_DPI.
    """
    width, height = (inches * dpi for inches in box.inches)
    if not (width >= 1 and height >= 1):  # A NaN, too.
        raise PageError("unsupported", f"a page of {width:.2f} x {height:.2f} pixels")
    shrink = min(
        math.sqrt(limits["max_pixels"] / (width * height)), LONGEST_SIDE / max(width, height)
    )
    if shrink >= 1:
        return dpi
    allowed = math.floor(dpi * shrink)
    if allowed < LOWEST_DPI:
        width, height = (inches * LOWEST_DPI for inches in box.inches)
        raise PageError(
            "too_large",
            f"{width:.0f} x {height:.0f} pixels, at {LOWEST_DPI:.0f} dpi, are more than "
            f"images.limits.max_pixels ({limits['max_pixels']:.0f}) or {LONGEST_SIDE} on a side",
        )
    return allowed


def is_grey(image: np.ndarray) -> bool:
    """Whether a colour image (H, W, 3) uint8 holds no colour worth keeping."""
    sample = image[::2, ::2].astype(np.int16)
    spread = sample.max(axis=2) - sample.min(axis=2)
    return np.count_nonzero(spread > GREY_TOLERANCE) <= GREY_SHARE * spread.size


def encode_page(image: np.ndarray, bilevel: bool, jpeg_quality: int) -> tuple[bytes, str]:
    """Encode (H, W) grey or (H, W, 3) RGB uint8: 1-bit PNG if `bilevel`, otherwise JPEG.

    Returns the file's bytes and its suffix. Colour images without colour are stored as grey.
    """
    suffix = "png" if bilevel else "jpg"
    if image.ndim == 3:
        grey = bilevel or is_grey(image)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)
    try:
        return encode(image, suffix, bilevel, jpeg_quality), suffix
    except ValueError as error:
        raise PageError("unsupported", f"a page of {error}") from error
