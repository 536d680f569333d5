"""Page images -> the detector's inputs: decode, resize, batch. Knows neither torch nor models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from scanmill.image_files import Unusable, read_image
from scanmill.tables import INK_CELLS

#: A page that waits while this many batches' worth of pages pass goes with what there is.
PATIENCE = 4


class Page(NamedTuple):
    """One page image of the store."""

    document: str
    page: int
    image: str
    """Path relative to the results folder."""
    width: int
    height: int
    sha256: str


class Sample(NamedTuple):
    """One page as the detector takes it."""

    index: int
    """Its place in the list of pages."""
    pixels: np.ndarray
    """(C, H, W) uint8, resized; C is 1 for grey, otherwise 3."""
    ink: np.ndarray
    """(INK_CELLS * INK_CELLS,) uint8."""
    problem: str
    """Why there is no page image, or empty."""


def resized_shape(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """(height, width) as Detectron2's ResizeShortestEdge computes them: 0 for `min_size` keeps a page
    as it is. At least one pixel, where Detectron2 fails on a page a thousand times as long as wide."""
    if min_size == 0:
        return height, width
    scale = min_size / min(height, width)
    new_height, new_width = (
        (min_size, scale * width) if height < width else (scale * height, min_size)
    )
    longest = max(new_height, new_width)
    if longest > max_size:
        scale = max_size / longest
        new_height, new_width = new_height * scale, new_width * scale
    return max(int(new_height + 0.5), 1), max(int(new_width + 0.5), 1)


def canvas(height: int, width: int, divisibility: int) -> tuple[int, int]:
    """The padded (height, width) of a resized page: only equal ones share a batch, so that a page's
    result is that of a page alone."""
    step = max(divisibility, 1)
    return -(-height // step) * step, -(-width // step) * step


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W) or (H, W, 3) uint8 as Detectron2 does: Pillow's bilinear filter with antialias."""
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def ink_by_cell(image: np.ndarray) -> np.ndarray:
    """(INK_CELLS * INK_CELLS,) uint8: the share of dark pixels, of 255, by cell of the page.

    Dark is darker than 0.6 of the paper, the 90th percentile of a sample of the pixels.
    """
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    paper = np.percentile(grey[::8, ::8], 90)
    # By a table of the 256 greys: comparing pixel by pixel took longer than decoding the page.
    dark = np.where(np.arange(256) < 0.6 * paper, 255, 0).astype(np.uint8)
    ink = cv2.LUT(grey, dark)
    cells = cv2.resize(ink, (INK_CELLS, INK_CELLS), interpolation=cv2.INTER_AREA)
    return cells.reshape(-1)


class PageDataset:
    """The pages to detect on, as a map-style dataset for torch's DataLoader."""

    def __init__(
        self, pages: Sequence[Page], results: Path, color: str, min_size: int, max_size: int
    ) -> None:
        """`color` is `grey`, `BGR` or `RGB`; sizes in pixels, as INPUT.MIN/MAX_SIZE_TEST."""
        self.pages, self.results, self.color = pages, results, color
        self.min_size, self.max_size = min_size, max_size

    def __len__(self) -> int:
        """Number of pages."""
        return len(self.pages)

    def __getitem__(self, index: int) -> Sample:
        """Read, check, decode and resize one page."""
        page = self.pages[index]
        nothing = np.zeros((1, 0, 0), np.uint8), np.zeros(INK_CELLS * INK_CELLS, np.uint8)
        try:
            _, image = read_image(self.results / page.image, page.sha256)
        except Unusable as error:
            return Sample(index, *nothing, str(error))
        return Sample(index, self.pixels(image), ink_by_cell(image), "")

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """(C, H, W) uint8 from a decoded page."""
        height, width = resized_shape(*image.shape[:2], self.min_size, self.max_size)
        if self.color == "grey":
            if image.ndim == 3:
                image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
            return np.array(resize(image, height, width))[None]
        if image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        image = resize(image, height, width)
        if self.color == "RGB":
            image = image[..., ::-1]
        return np.ascontiguousarray(image.transpose(2, 0, 1))


def batches(
    samples: Iterable[Sample], batch_size: int, divisibility: int
) -> Iterator[list[Sample]]:
    """Group samples of equal canvas; one that waited for PATIENCE batches goes with what there is."""
    waiting: dict[tuple[int, int, int], list[Sample]] = {}
    seen_at: dict[tuple[int, int, int], int] = {}
    for seen, sample in enumerate(samples):
        channels, height, width = sample.pixels.shape
        key = (channels, *canvas(height, width, divisibility))
        group = waiting.setdefault(key, [])
        group.append(sample)
        seen_at.setdefault(key, seen)
        for other in list(waiting):
            late = seen - seen_at[other] >= PATIENCE * batch_size
            if len(waiting[other]) == batch_size or late:
                del seen_at[other]
                yield waiting.pop(other)
    yield from waiting.values()


def pages_of(images: pa.Table) -> list[Page]:
    """The pages of rows of `images` that have an image."""
    columns = ("document", "page", "image", "width", "height", "sha256")
    rows = images.filter(pc.equal(images["status"], "ok")).select(columns).to_pylist()
    return [Page(**row) for row in rows]
