"""Page images -> the detector's inputs: decode, cut, resize, batch. Knows neither torch nor models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from scanmill.image_documents import ImageDocument
from scanmill.image_files import Unusable, decode_reduced, read_bytes
from scanmill.page_images import PageError, PageImage
from scanmill.page_measures import ink_by_cell, type_height
from scanmill.tables import INK_CELLS
from scanmill.tiles import tile_boxes

# The loaders are as many as there are processors for them. Set before they are forked: OpenCV's threads
# would not be there in the child, which waits for them for ever.
cv2.setNumThreads(0)

#: A page that waits while this many batches' worth of pages pass goes with what there is.
PATIENCE = 4
#: Pages are decoded at 1/8, 1/4 or 1/2 of their size where that leaves GAP times the pixels, along
#: either side, that the detector takes. With 2, box AP over the demo archive is that of whole pages
#: (73.5), with 1.5 it is 0.3 less, with 1 0.4.
REDUCTIONS = (8, 4, 2)
GAP = 2

Window = tuple[int, int, int, int]


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
    """One page as the detector takes it: whole, or in tiles."""

    index: int
    """Its place in the list of pages."""
    windows: list[Window]
    """x_min, y_min, x_max, y_max of each tile, in pixels of the page image."""
    pixels: list[np.ndarray]
    """Of each tile (C, H, W) uint8, resized; C is 1 for grey, otherwise 3."""
    ink: np.ndarray
    """(INK_CELLS * INK_CELLS,) uint8."""
    type_height: float | None
    """Height of the letters as the detector gets them, in pixels, or None where there are none."""
    problem: str
    """Why there is no page image, or empty."""


class Part(NamedTuple):
    """A tile of a page, which may be the whole page, on its way through the detector."""

    index: int
    """The page's place in the list of pages."""
    tile: int
    """Its place among the page's tiles."""
    pixels: np.ndarray
    """(C, H, W) uint8."""


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


def reduction_before(scale: float) -> int:
    """By how much a page may be reduced as it is decoded, before it is resized by `scale`."""
    return next((each for each in REDUCTIONS if scale * each * GAP <= 1), 1)


def canvas(height: int, width: int, divisibility: int) -> tuple[int, int]:
    """The padded (height, width) of a resized page: only equal ones share a batch, so that a page's
    result is that of a page alone."""
    step = max(divisibility, 1)
    return -(-height // step) * step, -(-width // step) * step


def resize(
    image: np.ndarray,
    height: int,
    width: int,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Resize (H, W) or (H, W, 3) uint8, or a `box` (x_min, y_min, x_max, y_max) of it, as Detectron2
    does: by Pillow's bilinear filter, which reaches wider where it makes smaller."""
    whole = (0, 0, image.shape[1], image.shape[0])
    if image.shape[:2] == (height, width) and box in (None, whole):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


class PageDataset:
    """The pages to detect on, as a map-style dataset for torch's DataLoader."""

    def __init__(
        self,
        pages: Sequence[Page],
        results: Path,
        color: str,
        sizes: tuple[int, int],
        tiles: Mapping[str, Any] | None = None,
    ) -> None:
        """`color` is `grey`, `BGR` or `RGB`; `sizes` are INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST in
        pixels; `tiles` has `size` and `overlap` in pixels of the page image."""
        self.pages, self.results, self.color = pages, results, color
        self.sizes, self.tiles = sizes, tiles

    def __len__(self) -> int:
        """Number of pages."""
        return len(self.pages)

    def __getitem__(self, index: int) -> Sample:
        """Read, check, decode, cut and resize one page."""
        page = self.pages[index]
        nothing = np.zeros(INK_CELLS * INK_CELLS, np.uint8)
        try:
            data = read_bytes(self.results / page.image, page.sha256)
            return self.load(index, data, page.width, page.height)
        except Unusable as error:
            return Sample(index, [], [], nothing, None, str(error))

    def windows(self, width: int, height: int) -> list[Window]:
        """The tiles of a page of that many pixels: one, unless there are to be more."""
        if self.tiles is None:
            return [(0, 0, width, height)]
        return tile_boxes(width, height, self.tiles["size"], self.tiles["overlap"])

    def load(self, index: int, data: bytes, width: int, height: int) -> Sample:
        """A page of `width` x `height` pixels from the bytes of its image; raises Unusable."""
        windows = self.windows(width, height)
        shapes = [
            resized_shape(bottom - top, right - left, *self.sizes)
            for left, top, right, bottom in windows
        ]
        scale = max(
            max(shape[0] / (bottom - top), shape[1] / (right - left))
            for shape, (left, top, right, bottom) in zip(shapes, windows, strict=True)
        )
        reduction = reduction_before(scale)
        image = decode_reduced(data, reduction, self.color == "grey")
        if image is None:
            raise Unusable("it cannot be decoded")
        if image.shape[:2] != (-(-height // reduction), -(-width // reduction)):
            raise Unusable(f"it is not {width} x {height} pixels, as images.parquet says")
        pixels = [
            self._channels(resize(image, *shape, tuple(side / reduction for side in window)))
            for shape, window in zip(shapes, windows, strict=True)
        ]
        grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        letters = type_height(grey)
        if letters is not None:
            letters *= reduction * scale
        return Sample(index, windows, pixels, ink_by_cell(grey), letters, "")

    def _channels(self, image: np.ndarray) -> np.ndarray:
        """(C, H, W) uint8; grey pages have one channel also for models of three."""
        if image.ndim == 2:
            return np.array(image)[None]
        if self.color == "RGB":
            image = image[..., ::-1]
        return np.ascontiguousarray(image.transpose(2, 0, 1))


#: Defaults of the workflow's settings `images`.
_FILES = {"jpeg_quality": 90, "max_pixels": 200_000_000}


class FileDataset(PageDataset):
    """Image files in place of the pages of an archive, treated as the workflow treats them."""

    def __init__(
        self,
        paths: Sequence[str],
        color: str,
        sizes: tuple[int, int],
        tiles: Mapping[str, Any] | None = None,
    ) -> None:
        """As PageDataset, with the files' paths."""
        super().__init__([], Path(), color, sizes, tiles)
        self.paths = paths

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        """Read, turn upright, cut and resize one image."""
        nothing = np.zeros(INK_CELLS * INK_CELLS, np.uint8)
        try:
            image = read_image_file(self.paths[index])
            return self.load(index, image.data, image.width, image.height)
        except (PageError, Unusable, OSError) as error:
            message = getattr(error, "strerror", None) or str(error)
            return Sample(index, [], [], nothing, None, message)


def read_image_file(path: str) -> PageImage:
    """An image file as the page image that the workflow would make of it; raises PageError."""
    with open(path, "rb") as file:
        head = file.read(1024)
    if b"%PDF-" in head:
        raise PageError("unsupported", "a PDF: the workflow makes page images of those")
    if head[:4] in (b"II*\0", b"MM\0*"):
        document = ImageDocument.of_tiff(path, _FILES, _FILES)
        if document.pages != 1:
            message = f"a TIFF of {document.pages} pages: the workflow takes those, as documents"
            raise PageError("unsupported", message)
    else:
        document = ImageDocument([path], _FILES, _FILES)
    [(_, image)] = document.images([1], Path(), lambda *_: None)
    if isinstance(image, Exception):
        raise image
    return image


def parts(samples: Iterable[Sample]) -> Iterator[Part]:
    """The tiles of pages, one by one."""
    for sample in samples:
        for tile, pixels in enumerate(sample.pixels):
            yield Part(sample.index, tile, pixels)


def batches(parts: Iterable[Part], batch_size: int, divisibility: int) -> Iterator[list[Part]]:
    """Group parts of equal canvas; one that waited for PATIENCE batches goes with what there is."""
    waiting: dict[tuple[int, int, int], list[Part]] = {}
    seen_at: dict[tuple[int, int, int], int] = {}
    for seen, part in enumerate(parts):
        channels, height, width = part.pixels.shape
        key = (channels, *canvas(height, width, divisibility))
        group = waiting.setdefault(key, [])
        group.append(part)
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
