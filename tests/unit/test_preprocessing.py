"""Decoding, cutting, resizing, batching; compared with what Detectron2 does to a lone page."""

import hashlib
import io
import random
import warnings

import cv2
import numpy as np
import pytest
from detecting import draw_pages
from PIL import ExifTags, Image

from scanmill import preprocessing
from scanmill.image_files import decode, decode_reduced
from scanmill.page_measures import ink_by_cell
from scanmill.preprocessing import (
    PATIENCE,
    Page,
    PageDataset,
    Part,
    batches,
    canvas,
    pages_of,
    parts,
    resize,
    resized_shape,
)
from scanmill.tables import INK_CELLS, from_rows
from scanmill.tiles import tile_boxes

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
    small = ResizeTransform(300, 200, 240, 160)
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
        dataset = PageDataset(pages, tmp_path, kind, (160, 266))
        assert len(dataset) == 2
        for index, image in enumerate(images):
            sample = dataset[index]
            assert (sample.index, sample.problem) == (index, "")
            assert sample.windows == [(0, 0, 200, 300)]
            (pixels,) = sample.pixels
            assert pixels.flags["C_CONTIGUOUS"]
            # A grey page has one channel, which stands for three.
            assert len(pixels) == (3 if index == 0 and kind != "grey" else 1)
            expected = np.broadcast_to(pixels, (image.shape[2], 240, 160))
            assert np.array_equal(expected, image.transpose(2, 0, 1)), kind
            ink = ink_by_cell((color, grey)[index])
            assert np.abs(sample.ink.astype(int) - ink).max() <= 1


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
    wrong = good._replace(width=41)
    dataset = PageDataset([good, other, cut, no_image, gone, wrong], tmp_path, "grey", (80, 133))
    problems = [dataset[index].problem for index in range(6)]
    assert problems[0] == ""
    assert problems[1] == problems[2] == "its bytes are not those that were rendered"
    assert problems[3] == "it cannot be decoded"
    assert "No such file" in problems[4]
    assert problems[5] == "it is not 41 x 50 pixels, as images.parquet says"
    assert dataset[4].pixels == []
    assert dataset[4].ink.shape == (INK_CELLS * INK_CELLS,)


# Scaled decoding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("short", "reduction"),
    [(160, 1), (81, 1), (80, 2), (41, 2), (40, 4), (21, 4), (20, 8), (10, 8)],
)
@pytest.mark.parametrize(("suffix", "color"), [("jpg", "grey"), ("jpg", "BGR"), ("png", "grey")])
def test_page_is_decoded_as_small_as_leaves_twice_the_pixels(
    tmp_path, monkeypatch, short, reduction, suffix, color
):
    decoded = []

    def noted(data, by, grey):
        decoded.append((by, grey))
        return decode_reduced(data, by, grey)

    monkeypatch.setattr(preprocessing, "decode_reduced", noted)
    smooth = cv2.GaussianBlur(picture(480, 320, 3), (0, 0), 12)
    page = store_page(tmp_path, f"a.{suffix}", encode(smooth, f".{suffix}"), (480, 320))
    sample = PageDataset([page], tmp_path, color, (short, 1000))[0]
    assert decoded == [(reduction, color == "grey")]
    assert sample.problem == ""
    (pixels,) = sample.pixels
    assert pixels.shape[1:] == resized_shape(480, 320, short, 1000)
    if color == "grey":
        smooth = cv2.cvtColor(smooth, cv2.COLOR_BGR2GRAY)[..., None]
    whole = ResizeTransform(480, 320, *pixels.shape[1:]).apply_image(smooth).transpose(2, 0, 1)
    assert np.abs(pixels.astype(int) - whole).max() <= 8
    assert np.abs(pixels.astype(int) - whole).mean() < 2


def test_page_of_odd_size_is_not_shifted(tmp_path):
    """The last row and column of a reduced page are parts of pixels."""
    image = np.full((805, 603), 255, np.uint8)
    image[400:410, 300:310] = 0
    image[-8:, -8:] = 0
    centres = []
    for reductions in ((), (8, 4, 2)):
        preprocessing.REDUCTIONS, before = reductions, preprocessing.REDUCTIONS
        try:
            page = store_page(tmp_path, "a.png", encode(image, ".png"), (805, 603))
            (pixels,) = PageDataset([page], tmp_path, "grey", (70, 1000))[0].pixels
        finally:
            preprocessing.REDUCTIONS = before
        dark = 255.0 - pixels[0, :90, :65]
        rows, columns = np.mgrid[: dark.shape[0], : dark.shape[1]]
        centres.append([(dark * each).sum() / dark.sum() for each in (rows, columns)])
    assert np.abs(np.subtract(*centres)).max() < 0.05


# Tiles --------------------------------------------------------------------------------------------


def test_large_page_is_cut_into_tiles(tmp_path):
    image = picture(500, 300, 1)
    page = store_page(tmp_path, "a.png", encode(image, ".png"), (500, 300))
    tiles = {"size": 200, "overlap": 50}
    sample = PageDataset([page], tmp_path, "grey", (200, 400), tiles)[0]
    assert sample.windows == tile_boxes(300, 500, 200, 50)
    assert len(sample.windows) == 6
    for (left, top, right, bottom), pixels in zip(sample.windows, sample.pixels, strict=True):
        assert np.array_equal(pixels[0], image[top:bottom, left:right])
    whole = PageDataset([page], tmp_path, "grey", (200, 400))[0]
    assert np.array_equal(sample.ink, whole.ink)
    assert [part[:2] for part in parts([sample, whole._replace(index=1)])] == [
        *[(0, tile) for tile in range(6)],
        (1, 0),
    ]


def test_tile_is_resized_as_the_part_of_the_page(tmp_path):
    image = cv2.GaussianBlur(picture(1000, 600, 1), (0, 0), 9)
    page = store_page(tmp_path, "a.png", encode(image, ".png"), (1000, 600))
    sample = PageDataset([page], tmp_path, "grey", (50, 99), {"size": 405, "overlap": 101})[0]
    for (left, top, right, bottom), pixels in zip(sample.windows, sample.pixels, strict=True):
        expected = resize(image[top:bottom, left:right], *pixels.shape[1:])
        # Within the tile: at its border, the whole page's filter sees beyond.
        difference = np.abs(pixels[0].astype(int) - expected)[2:-2, 2:-2]
        assert difference.max() <= 6


def test_height_of_the_type_is_that_which_the_detector_gets(tmp_path):
    (image,) = draw_pages(tmp_path, 1)
    page = store_page(tmp_path, "a.png", encode(image, ".png"), image.shape)
    heights = [
        PageDataset([page], tmp_path, "grey", sizes, tiles)[0].type_height
        for sizes, tiles in (
            ((400, 1000), None),
            ((200, 1000), None),
            ((200, 1000), {"size": 414, "overlap": 50}),
        )
    ]
    assert 2 < heights[0] < 8
    assert heights[1] == pytest.approx(heights[0] / 2, rel=0.2)
    assert heights[2] == pytest.approx(heights[0], rel=0.15)


# Page images of every kind ------------------------------------------------------------------------


def exif_turned(image):
    data = io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(image).save(data, "JPEG", exif=exif)
    return data.getvalue()


def cmyk_jpeg(image):
    data = io.BytesIO()
    Image.fromarray(image).convert("RGB").convert("CMYK").save(data, "JPEG")
    return data.getvalue()


def with_alpha(image):
    return encode(np.dstack([image, image, image, np.full_like(image, 9)]), ".png")


def sixteen_bits(image):
    return encode(image.astype(np.uint16) << 8, ".png")


@pytest.mark.parametrize("color", ["grey", "BGR", "RGB"])
@pytest.mark.parametrize(
    ("write", "shape"),
    [
        (sixteen_bits, (300, 200)),
        (lambda image: encode(np.dstack([image.astype(np.uint16) << 8] * 3), ".png"), (300, 200)),
        (cmyk_jpeg, (300, 200)),
        (with_alpha, (300, 200)),
        (exif_turned, (300, 200)),
        (lambda image: encode(image, ".png"), (1, 1)),
        (lambda image: encode(image, ".png"), (1, 300)),
        (lambda image: encode(image, ".jpg"), (40, 30_000)),
        (lambda image: encode(image, ".png"), (30_000, 40)),
    ],
    ids=["16 bits", "48 bits", "CMYK", "alpha", "EXIF", "one pixel", "one row", "wide", "long"],
)
def test_page_image_of_any_kind_is_the_page(tmp_path, write, shape, color):
    """EXIF turns are not looked at: width and height in the tables are those of the pixels."""
    image = cv2.GaussianBlur(picture(*shape, 1).reshape(shape), (0, 0), 5)
    page = store_page(tmp_path, "a", write(image), shape)
    sample = PageDataset([page], tmp_path, color, (150, 250))[0]
    assert sample.problem == ""
    (pixels,) = sample.pixels
    height, width = resized_shape(*shape, 150, 250)
    assert pixels.shape[1:] == (height, width)
    expected = resize(image, height, width)
    assert np.abs(pixels.astype(int) - expected).mean() < 6
    assert sample.ink.shape == (INK_CELLS * INK_CELLS,)


def test_bytes_that_are_no_image_of_that_size_are_a_problem(tmp_path):
    whole = encode(picture(300, 200), ".jpg")
    header = whole[:300]
    for data in (b"", b"\xff\xd8\xff", header, whole[: len(whole) // 2]):
        page = store_page(tmp_path, "a.jpg", data, (300, 200))
        for sizes in ((40, 100), (150, 250)):
            sample = PageDataset([page], tmp_path, "BGR", sizes)[0]
            # libjpeg fills up what is missing of a page that begins well; the stage before refuses it.
            assert sample.problem == "it cannot be decoded" or len(data) > 1000


def test_pages_of_images_are_those_that_have_one():
    ok = {"status": "ok", "image": "x.png", "width": 3, "height": 4, "sha256": "f"}
    failed = {"document": "a", "page": 2, "status": "failed"}
    rows = [{"document": "a", "page": 1, **ok}, failed, {"document": "a", "page": 3, **ok}]
    assert pages_of(from_rows("images", rows)) == [
        Page("a", 1, "x.png", 3, 4, "f"),
        Page("a", 3, "x.png", 3, 4, "f"),
    ]


# Batches ------------------------------------------------------------------------------------------


def part(index, height, width, channels=1):
    return Part(index, 0, np.zeros((channels, height, width), np.uint8))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_hold_every_page_once_and_equal_canvases(batch_size):
    rng = random.Random(1)
    heights = [800] * 10 + [780, 640, 333]
    samples = [
        part(index, rng.choice(heights), rng.randrange(400, 640), rng.choice([1, 1, 1, 3]))
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
    samples = [part(index, 800, 570 + index % 6) for index in range(20)]
    assert [len(batch) for batch in batches(samples, 8, 32)] == [8, 8, 4]


@pytest.mark.parametrize("rare_every", [1000, 30, 7])
def test_rare_page_waits_no_longer_than_patience(rare_every):
    """Whether it is the only one of its kind, or others of its kind come now and then."""
    batch_size, seen = 4, 0

    def stream():
        nonlocal seen
        for index in range(400):
            seen = index
            yield part(index, 320, 320) if index % rare_every == 5 else part(index, 800, 576)

    waited = [seen - each.index for batch in batches(stream(), batch_size, 32) for each in batch]
    assert len(waited) == 400
    assert max(waited) <= PATIENCE * batch_size
