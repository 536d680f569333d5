"""Decoding, resizing, batching; compared with what Detectron2 does to a lone page."""

import hashlib
import io
import random
import warnings

import cv2
import numpy as np
import pytest
from PIL import Image

from scanmill.image_files import decode
from scanmill.preprocessing import (
    PATIENCE,
    Page,
    PageDataset,
    Sample,
    batches,
    canvas,
    ink_by_cell,
    pages_of,
    resize,
    resized_shape,
)
from scanmill.tables import INK_CELLS, from_rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform


def picture(height, width, channels=3, seed=0):
    """Noise on a gradient: what a resampling filter shows its teeth on."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, height * width).reshape(height, width, 1)
    pixels = ramp + rng.integers(0, 56, (height, width, channels))
    return np.squeeze(pixels.astype(np.uint8))


# Sizes --------------------------------------------------------------------------------------------


def test_resized_shape_is_detectron2s():
    rng = random.Random(0)
    # 6400 x 1325 at 640 is where two ways to round differ.
    cases = [(6400, 1325, 640, 640), (3508, 2480, 800, 1333), (100, 100, 448, 800)]
    for _ in range(20_000):
        sizes = rng.choice([(800, 1333), (448, 800), (608, 1000), (640, 640), (1, 2)])
        cases.append((rng.randint(1, 12_000), rng.randint(1, 12_000), *sizes))
    for height, width, min_size, max_size in cases:
        expected = ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
        if min(expected) > 0:
            case = (height, width, min_size, max_size)
            assert resized_shape(*case) == expected, case


def test_very_long_page_keeps_a_pixel():
    assert resized_shape(10_000, 3, 448, 800) == (800, 1)
    assert resized_shape(1, 65_000, 800, 1333) == (1, 1333)


def test_size_zero_keeps_the_page():
    """As Detectron2 reads INPUT.MIN_SIZE_TEST 0."""
    assert resized_shape(3508, 2480, 0, 1333) == (3508, 2480)


def test_canvas_is_the_next_multiple():
    assert canvas(800, 566, 32) == (800, 576)
    assert canvas(801, 1, 32) == (832, 32)
    assert canvas(801, 577, 0) == (801, 577)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("old", "new"), [((351, 248), (80, 57)), ((100, 40), (250, 100)), ((64, 64), (64, 64))]
)
def test_resize_is_detectron2s_bit_for_bit(channels, old, new):
    image = picture(*old, channels)
    expected = ResizeTransform(*old, *new).apply_image(image)
    assert np.array_equal(resize(image, *new), expected)


# Pages of a dataset -------------------------------------------------------------------------------


def store_page(results, name, data, shape):
    (results / name).write_bytes(data)
    return Page("a.pdf", 1, name, shape[1], shape[0], hashlib.sha256(data).hexdigest())


def encode(image, suffix):
    return cv2.imencode(suffix, image)[1].tobytes()


def test_page_is_read_resized_and_turned_to_channels(tmp_path):
    color, grey = picture(300, 200), picture(300, 200, 1)
    pages = [
        store_page(tmp_path, "color.png", encode(color, ".png"), (300, 200)),
        store_page(tmp_path, "grey.png", encode(grey, ".png"), (300, 200)),
    ]
    small = ResizeTransform(300, 200, 120, 80)
    wide = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    expected = {
        "BGR": [small.apply_image(color), small.apply_image(wide)],
        "RGB": [small.apply_image(color[..., ::-1]), small.apply_image(wide)],
        "grey": [
            small.apply_image(cv2.cvtColor(color, cv2.COLOR_BGR2GRAY))[..., None],
            small.apply_image(grey)[..., None],
        ],
    }
    for kind, images in expected.items():
        dataset = PageDataset(pages, tmp_path, kind, 80, 133)
        assert len(dataset) == 2
        for index, image in enumerate(images):
            sample = dataset[index]
            assert (sample.index, sample.problem) == (index, "")
            assert sample.pixels.flags["C_CONTIGUOUS"]
            assert np.array_equal(sample.pixels, image.transpose(2, 0, 1)), kind
            source = (color, grey)[index]
            assert np.array_equal(sample.ink, ink_by_cell(source))


def test_bilevel_pages_are_black_and_white():
    pixels = np.zeros((40, 64), bool)
    pixels[:, ::3] = True
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    image = decode(buffer.getvalue())
    assert image.dtype == np.uint8
    assert np.array_equal(image, pixels * np.uint8(255))


def test_page_image_that_is_not_the_rendered_one_is_a_problem(tmp_path):
    good = store_page(tmp_path, "good.jpg", encode(picture(50, 40), ".jpg"), (50, 40))
    other = store_page(tmp_path, "other.jpg", encode(picture(50, 40), ".jpg"), (50, 40))
    (tmp_path / "other.jpg").write_bytes(encode(picture(50, 40, seed=1), ".jpg"))
    cut = store_page(tmp_path, "cut.jpg", encode(picture(50, 40), ".jpg"), (50, 40))
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-100])
    no_image = store_page(tmp_path, "no.jpg", b"text", (50, 40))
    gone = good._replace(image="gone.jpg")
    dataset = PageDataset([good, other, cut, no_image, gone], tmp_path, "grey", 80, 133)
    problems = [dataset[index].problem for index in range(5)]
    assert problems[0] == ""
    assert problems[1] == problems[2] == "its bytes are not those that were rendered"
    assert problems[3] == "it cannot be decoded"
    assert "No such file" in problems[4]
    assert dataset[4].pixels.shape == (1, 0, 0)


def test_pages_of_images_are_those_that_have_one():
    ok = {"status": "ok", "image": "x.png", "width": 3, "height": 4, "sha256": "f"}
    failed = {"document": "a", "page": 2, "status": "failed"}
    rows = [{"document": "a", "page": 1, **ok}, failed, {"document": "a", "page": 3, **ok}]
    assert pages_of(from_rows("images", rows)) == [
        Page("a", 1, "x.png", 3, 4, "f"),
        Page("a", 3, "x.png", 3, 4, "f"),
    ]


# Batches ------------------------------------------------------------------------------------------


def sample(index, height, width, channels=1):
    return Sample(index, np.zeros((channels, height, width), np.uint8), np.zeros(1), "")


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_hold_every_page_once_and_equal_canvases(batch_size):
    rng = random.Random(1)
    heights = [800] * 10 + [780, 640, 333]
    samples = [
        sample(index, rng.choice(heights), rng.randrange(400, 640), rng.choice([1, 1, 1, 3]))
        for index in range(500)
    ]
    found = list(batches(iter(samples), batch_size, 32))
    assert sorted(each.index for batch in found for each in batch) == list(range(500))
    for batch in found:
        assert 1 <= len(batch) <= batch_size
        assert len({(s.pixels.shape[0], *canvas(*s.pixels.shape[1:], 32)) for s in batch}) == 1
        assert [s.index for s in batch] == sorted(s.index for s in batch)
    assert list(batches([], batch_size, 32)) == []


def test_pages_of_one_size_fill_their_batches():
    samples = [sample(index, 800, 570 + index % 6) for index in range(20)]
    assert [len(batch) for batch in batches(samples, 8, 32)] == [8, 8, 4]


@pytest.mark.parametrize("rare_every", [1000, 30, 7])
def test_rare_page_waits_no_longer_than_patience(rare_every):
    """Whether it is the only one of its kind, or others of its kind come now and then."""
    batch_size, seen = 4, 0

    def stream():
        nonlocal seen
        for index in range(400):
            seen = index
            yield sample(index, 320, 320) if index % rare_every == 5 else sample(index, 800, 576)

    waited = [seen - each.index for batch in batches(stream(), batch_size, 32) for each in batch]
    assert len(waited) == 400
    assert max(waited) <= PATIENCE * batch_size


# Ink ----------------------------------------------------------------------------------------------


def test_ink_is_the_share_of_dark_pixels_by_cell():
    page = np.full((640, 320), 250, np.uint8)
    page[0:20, 0:10] = 0  # The first cell, whole.
    page[20:25, 10:20] = 60  # A quarter of the second cell of the second row.
    page[620:640, 310:320] = 160  # The last cell, but not dark enough.
    ink = ink_by_cell(page)
    assert (ink.dtype, ink.shape) == (np.uint8, (INK_CELLS * INK_CELLS,))
    cells = ink.reshape(INK_CELLS, INK_CELLS).astype(int)
    assert cells[0, 0] == 255
    assert cells[1, 1] == pytest.approx(64, abs=1)
    assert cells.sum() == cells[0, 0] + cells[1, 1]


def test_ink_is_measured_against_the_paper():
    page = np.full((320, 320), 120, np.uint8)  # Brown paper.
    page[:160] = 40
    cells = ink_by_cell(page).reshape(INK_CELLS, INK_CELLS)
    assert (cells[:16] == 255).all()
    assert (cells[16:] == 0).all()
    assert not ink_by_cell(np.full((320, 320), 120, np.uint8)).any()
    color = np.full((320, 320, 3), (90, 140, 170), np.uint8)
    color[:160] = (20, 20, 60)
    assert np.array_equal(ink_by_cell(color).reshape(INK_CELLS, INK_CELLS), cells)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (33, 1000), (1000, 31)])
def test_ink_of_pages_of_any_size(shape):
    ink = ink_by_cell(np.full(shape, 255, np.uint8))
    assert ink.shape == (INK_CELLS * INK_CELLS,)
    assert not ink.any()
