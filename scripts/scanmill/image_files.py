"""Image files of pages and crops: read, checked, decoded, encoded; the one place that does."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image


class Unusable(Exception):
    """A page image that is not as it was rendered; the text says why."""


def read_bytes(path: Path, sha256: str) -> bytes:
    """The bytes of a page image; Unusable where the file is missing, or has others than `sha256`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unusable(f"{type(error).__name__}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Unusable("its bytes are not those that were rendered")
    return data


def read_image(path: Path, sha256: str) -> tuple[bytes, np.ndarray]:
    """The bytes of a page image and its pixels, (H, W) grey or (H, W, 3) BGR uint8.

    Raises Unusable where the file is missing, has other bytes than those of `sha256`, or no image.
    """
    data = read_bytes(path, sha256)
    pixels = decode(data)
    if pixels is None:
        raise Unusable("it cannot be decoded")
    return data, pixels


def decode(data: bytes) -> np.ndarray | None:
    """(H, W) grey or (H, W, 3) BGR uint8, or None where the bytes are no image.

    Of 16 bits the upper eight; transparency and EXIF turns are not looked at.
    """
    return _decode(data, cv2.IMREAD_ANYCOLOR)


def decode_reduced(data: bytes, reduction: int, grey: bool) -> np.ndarray | None:
    """As `decode`, at 1 / `reduction` (1, 2, 4 or 8) of the size, the last row and column rounded up;
    in grey if `grey`.

    JPEGs are decoded at that size (libjpeg's scaling of the cosine transform), which takes a third of
    the time; the pixels of all others, bilevel pages among them, are averaged by area.
    """
    if data[:3] == _JPEG and reduction > 1:
        grey = grey or jpeg_components(data) == 1
        return _decode(data, _REDUCED[grey][reduction])
    pixels = decode(data)
    if pixels is None:
        return None
    if grey and pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    if reduction == 1:
        return pixels
    height, width = pixels.shape[:2]
    bottom, right = -height % reduction, -width % reduction
    if bottom or right:
        pixels = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    size = (pixels.shape[1] // reduction, pixels.shape[0] // reduction)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    if not data:  # An error of OpenCV's.
        return None
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)


_JPEG = b"\xff\xd8\xff"
_REDUCED = {
    True: {
        2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
        4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
        8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    },
    False: {
        2: cv2.IMREAD_REDUCED_COLOR_2,
        4: cv2.IMREAD_REDUCED_COLOR_4,
        8: cv2.IMREAD_REDUCED_COLOR_8,
    },
}


def jpeg_components(data: bytes) -> int:
    """Colour components of a JPEG, from its frame header (ITU-T T.81, B.2.2); 0 where there is none."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[at + 9]
        if marker == 0xFF:  # A fill byte.
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:  # Without a length.
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def encode(pixels: np.ndarray, suffix: str, bilevel: bool, jpeg_quality: int) -> bytes:
    """Encode (H, W) grey or (H, W, 3) BGR uint8 as `jpg`, or as `png`: of one bit if `bilevel`, which
    takes grey pixels.

    Raises ValueError for what the format cannot hold, as a side of more than 65500 pixels in JPEG.
    """
    if suffix == "png" and bilevel:
        buffer = io.BytesIO()
        black_and_white = Image.fromarray(pixels).point(lambda grey: 255 * (grey >= 128), mode="1")
        # Level 6, the default, takes twice as long for 3 % less.
        black_and_white.save(buffer, "PNG", compress_level=4)
        return buffer.getvalue()
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if suffix == "jpg" else []
    problem = ""
    try:
        done, data = cv2.imencode(f".{suffix}", pixels, options)
    except cv2.error as error:
        if error.code == cv2.Error.STS_NO_MEM:
            raise MemoryError from error
        done, problem = False, f": {error.err}"
    if not done:
        height, width = pixels.shape[:2]
        kind = {"jpg": "JPEG", "png": "PNG"}[suffix]
        raise ValueError(f"{width} x {height} pixels cannot be a {kind}{problem}")
    return data.tobytes()


def is_bilevel_png(data: bytes) -> bool:
    """Whether an image file is a PNG of one bit per pixel: depth and colour type of its IHDR chunk
    (PNG specification, 11.2.2)."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:26] == b"\x01\x00"


# Turning ------------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """What makes an image upright: rows and columns exchanged, then mirrored along x, along y."""

    transpose: bool
    flip_x: bool
    flip_y: bool


#: By the EXIF Orientation of an image (EXIF 2.3, 4.6.4).
TURN_OF_ORIENTATION = {
    1: Turn(False, False, False),
    2: Turn(False, True, False),
    3: Turn(False, True, True),
    4: Turn(False, False, True),
    5: Turn(True, False, False),
    6: Turn(True, True, False),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}
UPRIGHT = TURN_OF_ORIENTATION[1]

#: jpegtran's names of the same.
_JPEGTRAN = {
    2: ["-flip", "horizontal"],
    3: ["-rotate", "180"],
    4: ["-flip", "vertical"],
    5: ["-transpose"],
    6: ["-rotate", "90"],
    7: ["-transverse"],
    8: ["-rotate", "270"],
}


def turn_pixels(pixels: np.ndarray, turn: Turn) -> np.ndarray:
    """(H, W) or (H, W, channels), turned."""
    if turn.transpose:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if turn.flip_y else 1)
    columns = slice(None, None, -1 if turn.flip_x else 1)
    return np.ascontiguousarray(pixels[rows, columns])


def turn_jpeg(data: bytes, turn: Turn) -> bytes | None:
    """A JPEG turned without loss and without EXIF; None where jpegtran is missing, or cannot.

    It can where the sides that change places with their opposites are whole blocks.
    """
    orientation = next(number for number, same in TURN_OF_ORIENTATION.items() if same == turn)
    if shutil.which("jpegtran") is None:
        return None
    done = subprocess.run(
        ["jpegtran", "-copy", "icc", "-perfect", *_JPEGTRAN[orientation]],
        input=data,
        capture_output=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 and done.stdout else None


@lru_cache
def jpegtran_version() -> str:
    """Version of the installed jpegtran."""
    said = subprocess.run(
        ["jpegtran", "-version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return (said.stderr + said.stdout).split("version", 1)[-1].split("(")[0].strip() or "unknown"
