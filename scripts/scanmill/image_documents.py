"""The pages of image files: the frames of a TIFF, or the files of a folder.

A file that every reader shows alike is copied; others are decoded, turned upright, and encoded anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from scanmill.image_files import (
    TURN_OF_ORIENTATION,
    UPRIGHT,
    Turn,
    encode,
    jpegtran_version,
    turn_jpeg,
    turn_pixels,
)
from scanmill.page_images import (
    POINTS_PER_INCH,
    PageBox,
    PageError,
    PageImage,
    check_pixels,
    encode_page,
    to_pdf,
)

#: Formats of page images. Pillow knows more, and starts Ghostscript for what turns out to be EPS.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "JPEG2000")

#: Degrees clockwise that make an image upright, by its EXIF Orientation (EXIF 2.3, 4.6.4); 4, 5 and 7
#: are mirrored as well.
EXIF_ROTATION = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}

#: Suffix of the files that may stand as they are, by format, and the modes in which they may.
_COPIED = {
    "JPEG": ("jpg", ("L", "RGB")),
    "PNG": ("png", ("1", "L", "RGB")),
    "JPEG2000": ("jp2", ("L", "RGB")),
}


class ImageDocument:
    """A document of image files, or of the frames of one TIFF."""

    def __init__(self, paths: Sequence[str], settings: Mapping, limits: Mapping) -> None:
        """`paths` holds one path per page, or one path of a multi-page TIFF (`of_tiff`)."""
        self.paths, self.settings, self.limits = paths, settings, limits
        self.frames = None
        self.pages = len(paths)
        if not paths:
            raise PageError("empty", "the folder has no page images")

    @classmethod
    def of_tiff(cls, path: str, settings: Mapping, limits: Mapping) -> ImageDocument:
        """A multi-page TIFF."""
        document = cls([path], settings, limits)
        with _image_errors():
            document.frames = Image.open(path, formats=IMAGE_FORMATS)
            document.pages = document.frames.n_frames
        return document

    def images(
        self, numbers: Sequence[int], folder: Path, tell: Callable[[str, int], None]
    ) -> Iterator[tuple[int, PageImage | Exception]]:
        """Pages (1-based), each as its image or with what it failed by; `tell` as of PdfDocument."""
        del folder  # Nothing is made but in memory.
        for number in numbers:
            tell("page", number)
            try:
                image = self._page(number)
            except Exception as error:
                image = error
            yield number, image

    def _page(self, number: int) -> PageImage:
        """Page `number`, upright."""
        with _image_errors():
            if self.frames is not None:
                self.frames.seek(number - 1)
                return self._store(self.frames, None)
            path = self.paths[number - 1]
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                return self._store(image, path)

    def _store(self, image: Image.Image, path: str | None) -> PageImage:
        check_pixels(*image.size, self.limits)
        image.load()  # Decoded in any case: a damaged file must fail here, not at the detector.
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turn = TURN_OF_ORIENTATION.get(orientation, UPRIGHT)
        dpi = _dpi(image)
        width, height = image.size
        if turn.transpose:
            dpi, width, height = dpi and dpi[::-1], height, width
        suffix, modes = _COPIED.get(image.format, ("", ()))
        data = None
        if path is not None and image.mode in modes and not _transparent(image):
            data, engine = Path(path).read_bytes(), "copied"
            if turn != UPRIGHT:
                data = turn_jpeg(data, turn) if suffix == "jpg" else None
                engine = f"jpegtran {jpegtran_version()}" if data else ""
        if data is None:
            data, suffix = self._encoded(image, turn)
            engine = f"pillow {Image.__version__}"
        size = matrix = None
        if dpi:
            size = (width * POINTS_PER_INCH / dpi[0], height * POINTS_PER_INCH / dpi[1])
            scale = (POINTS_PER_INCH / dpi[0], POINTS_PER_INCH / dpi[1])
            matrix = to_pdf(PageBox(0.0, 0.0, *size, 0), *scale)
        rotation = EXIF_ROTATION.get(orientation, 0)
        return PageImage(data, suffix, width, height, dpi, "file", engine, rotation, size, matrix)

    def _encoded(self, image: Image.Image, turn: Turn) -> tuple[bytes, str]:
        """A file of the same pixels, turned: JPEG, but of 1-bit pages, and of what was a JPEG, PNG."""
        pixels = turn_pixels(_eight_bits(image), turn)
        if image.format == "JPEG" and image.mode in ("L", "RGB"):
            bgr = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])
            return encode(bgr, "png", False, 0), "png"  # Not a second time with loss.
        return encode_page(pixels, image.mode == "1", self.settings["jpeg_quality"])


@contextlib.contextmanager
def _image_errors() -> Iterator[None]:
    try:
        yield
    except Image.UnidentifiedImageError as error:  # Its own text is the path.
        raise PageError("corrupt", f"{type(error).__name__}: no image that is known") from error
    except (SyntaxError, EOFError, ValueError) as error:
        raise PageError("corrupt", f"{type(error).__name__}: {error}") from error
    except OSError as error:
        if error.errno:  # The file system's; Pillow's own have none.
            raise
        raise PageError("corrupt", f"{type(error).__name__}: {error}") from error


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """The resolution a file claims, if it can be that of a scan."""
    dpi = image.info.get("dpi")
    if dpi is None or not all(20 <= float(value) <= 10_000 for value in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def _transparent(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """(H, W) grey or (H, W, 3) RGB uint8; transparent pixels become white."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        wide = np.asarray(image).astype(np.int64)
        return (np.clip(wide, 0, 65535) >> 8).astype(np.uint8)
    if image.mode == "F":
        raise PageError("unsupported", "an image of floating-point numbers")
    if _transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB"))
