"""Image files: what is read is what was written, or said to be unusable."""

import hashlib
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from scanmill.image_files import Unusable, decode, encode, is_bilevel_png, read_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 30), np.uint8)
COLOR = RNG.integers(0, 256, (40, 30, 3), np.uint8)


@pytest.mark.parametrize("pixels", [GREY, COLOR], ids=["grey", "color"])
def test_png_keeps_every_pixel(pixels):
    assert np.array_equal(decode(encode(pixels, "png", False, 90)), pixels)


def test_one_bit_is_black_or_white():
    data = encode(GREY, "png", True, 90)
    assert np.array_equal(decode(data), np.where(GREY >= 128, 255, 0))
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "1"


def test_jpeg_is_of_the_quality_asked_for():
    sizes = [len(encode(COLOR, "jpg", False, quality)) for quality in (30, 60, 95)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_bilevel_pngs_are_told_by_their_header():
    assert is_bilevel_png(encode(GREY, "png", True, 90))
    assert not is_bilevel_png(encode(GREY, "png", False, 90))
    assert not is_bilevel_png(encode(GREY, "jpg", True, 90))
    buffer = io.BytesIO()
    Image.fromarray(COLOR).quantize(2).save(buffer, "PNG", bits=1)
    assert buffer.getvalue()[24] == 1
    assert not is_bilevel_png(buffer.getvalue())  # A palette of two colours.
    assert not is_bilevel_png(b"")


@pytest.mark.parametrize(
    ("shape", "suffix", "kind"), [((1, 70_000), "jpg", "JPEG"), ((0, 5), "png", "PNG")]
)
def test_what_a_format_cannot_hold_is_an_error(shape, suffix, kind):
    message = f"{shape[1]} x {shape[0]} pixels cannot be a {kind}"
    with pytest.raises(ValueError, match=message):
        encode(np.zeros(shape, np.uint8), suffix, False, 90)


def test_memory_that_ends_is_not_taken_for_a_format_that_is_too_small(monkeypatch):
    def fail(*_):
        error = cv2.error("no memory")
        error.code = cv2.Error.STS_NO_MEM
        raise error

    monkeypatch.setattr(cv2, "imencode", fail)
    with pytest.raises(MemoryError):
        encode(GREY, "jpg", False, 90)


def test_page_images_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(encode(COLOR, "png", False, 90))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    data, pixels = read_image(path, digest)
    assert data == path.read_bytes()
    assert np.array_equal(pixels, COLOR)

    path.write_bytes(encode(COLOR[::-1], "png", False, 90))
    with pytest.raises(Unusable, match="not those that were rendered"):
        read_image(path, digest)
    path.write_bytes(b"no image")
    with pytest.raises(Unusable, match="cannot be decoded"):
        read_image(path, hashlib.sha256(b"no image").hexdigest())
    path.unlink()
    with pytest.raises(Unusable, match="No such file"):
        read_image(path, digest)
