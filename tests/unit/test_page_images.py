"""What a page image is, and within which limits."""

import io

import numpy as np
import pytest
from PIL import Image

from scanmill.page_images import PageError, encode_page, is_grey


def test_colour_is_kept_where_there_is_any():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (500, 400, 1), np.uint8).repeat(3, axis=2)
    noise = rng.integers(-6, 7, grey.shape)
    noisy = np.clip(grey + noise, 0, 255).astype(np.uint8)
    assert is_grey(noisy)
    stamped = noisy.copy()
    stamped[100:120, 100:120] = (200, 30, 30)
    assert not is_grey(stamped)
    yellowed = (noisy * np.array([1, 0.95, 0.8])).astype(np.uint8)
    assert not is_grey(yellowed)
    assert Image.open(io.BytesIO(encode_page(noisy, False, 90)[0])).mode == "L"
    color = Image.open(io.BytesIO(encode_page(stamped, False, 90)[0]))
    red, green, blue = color.getpixel((110, 110))
    assert red > 150 > 80 > max(green, blue)


def test_more_pixels_on_a_side_than_jpeg_can_hold_is_no_image():
    with pytest.raises(PageError, match="cannot be a JPEG") as raised:
        encode_page(np.zeros((1, 70_000), np.uint8), False, 90)
    assert raised.value.reason == "unsupported"
