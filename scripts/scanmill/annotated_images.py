"""The images that annotations are about: found by the names that tools give them, measured, checked."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from scanmill.annotations import IMAGE_SUFFIXES, image_path
from scanmill.image_documents import IMAGE_FORMATS
from scanmill.image_files import TURN_OF_ORIENTATION, UPRIGHT, Turn, decode, turn_pixels
from scanmill.page_images import PageError

#: What Label Studio puts before the name of an uploaded file: the first part of a random UUID.
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")
#: JPEGs are decoded at this part of their size, which finds damage in a third of the time.
_REDUCTION = 8


#: Pillow's modes without colours.
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B")


class ImageHeader(NamedTuple):
    """What is known of an image file."""

    width: int
    height: int
    """Upright, as EXIF turns it."""
    sha256: str
    grey: bool
    """Whether it has no colours."""


class ImageFolder:
    """A folder with images, also in its subfolders."""

    def __init__(self, root: Path) -> None:
        """Nothing is listed before it is needed."""
        self.root = root

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """All images by their name, and by the name that Label Studio gives them."""
        found: dict[str, list[Path]] = {}
        for folder, folders, names in os.walk(self.root):
            folders.sort()
            for name in sorted(names):
                if name.lower().endswith(IMAGE_SUFFIXES):
                    for key in {name, uploaded_name(name)}:
                        found.setdefault(key, []).append(Path(folder, name))
        return found

    def find(self, name: str, places: Sequence[Path]) -> list[Path]:
        """The images that `name` may stand for: one, or none, or several that cannot be told apart.

        In this order: the path as it is, relative to each of `places`; the path without its first
        parts; any image of that name below the folder; the same without Label Studio's prefix.
        """
        path = Path(image_path(name).strip())
        parts = path.parts[1:] if path.is_absolute() else path.parts
        if not parts or "\0" in name:
            return []
        exact = [path] if path.is_absolute() else [place / path for place in places]
        for first in range(1, len(parts)):
            exact += [place.joinpath(*parts[first:]) for place in places]
        for candidate in exact:
            if _is_file(candidate):
                return [candidate]
        for wanted in (path.name, UPLOAD_PREFIX.sub("", path.name)):
            if wanted in self._by_name:
                return self._by_name[wanted]
        return []


def uploaded_name(name: str) -> str:
    """A file's name as Django, and so Label Studio, stores it (django.utils.text.get_valid_filename)."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # Too long, in a folder that may not be entered, no name at all.
        return False


def relative_name(path: Path, root: Path) -> str:
    """How a dataset names an image: relative to the images' folder if it lies there, with slashes."""
    absolute, folder = os.path.abspath(path), os.path.abspath(root)
    if path.is_absolute() and os.path.commonpath([absolute, folder]) != folder:
        return path.as_posix()
    return Path(os.path.relpath(absolute, folder)).as_posix()


def read_headers(paths: Iterable[Path], threads: int) -> Mapping[Path, ImageHeader | str]:
    """Of each image its size and digest, or why it cannot be used. All of each file is decoded."""
    unique: Sequence[Path] = sorted(set(paths))
    with _large_images(), ThreadPoolExecutor(threads) as pool:
        return dict(zip(unique, pool.map(_read_header, unique), strict=True))


@contextmanager
def _large_images() -> Iterator[None]:
    """Without warnings of images from 90 megapixels on, to which newspapers are scanned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _read_header(path: Path) -> ImageHeader | str:
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            return _measure(image, data)
    except Image.UnidentifiedImageError:  # Its own text is an object's address.
        return "it is no JPEG, PNG, TIFF or JPEG 2000" if data else "it is empty"
    except PageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    except (SyntaxError, EOFError, ValueError, Image.DecompressionBombError) as error:
        return str(error)


def _measure(image: Image.Image, data: bytes) -> ImageHeader:
    width, height = image.size
    if getattr(image, "n_frames", 1) > 1 and image.format == "TIFF":
        raise PageError("unsupported", f"a TIFF of {image.n_frames} pages: make an image of each")
    if image.mode == "F":
        raise PageError("unsupported", "an image of floating-point numbers")
    if _turn(image).transpose:
        width, height = height, width
    grey = image.mode in _GREY
    image.draft(None, (image.width // _REDUCTION, image.height // _REDUCTION))
    image.load()
    return ImageHeader(width, height, hashlib.sha256(data).hexdigest(), grey)


def _turn(image: Image.Image) -> Turn:
    """What makes an image upright."""
    return TURN_OF_ORIENTATION.get(image.getexif().get(ExifTags.Base.Orientation, 1), UPRIGHT)


def read_upright(path: Path) -> np.ndarray:
    """The pixels of an image that `read_headers` found sound: uint8, (H, W) grey or (H, W, 3) BGR."""
    data = path.read_bytes()
    with _large_images(), Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
        pixels = decode(data)
        if pixels is None:  # Of the kinds that only Pillow knows.
            pixels = np.asarray(image.convert("RGB"))[..., ::-1]
        return turn_pixels(pixels, _turn(image))
