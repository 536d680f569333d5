"""Height of type and ink by cell, on drawn pages whose type is known, at several scales."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from scanmill.page_measures import ink_by_cell, type_height
from scanmill.tables import INK_CELLS

WORDS = [
    "the",
    "of",
    "and",
    "archive",
    "newspaper",
    "column",
    "printed",
    "volume",
    "under",
    "Council",
    "a",
    "in",
    "every",
    "which",
    "rosary",
    "judgement",
    "quay",
    "few",
    "boxes",
    "King",
    "Street",
    "market",
    "shipping",
    "harvest",
    "report",
    "by",
    "him",
    "six",
    "Zeal",
]


def text_page(x_height, shape=(1754, 1240), margin=0.08, seed=0):
    """Lines of text, dark on light, whose x is about `x_height` pixels high, and the x's real height."""
    rng = np.random.default_rng(seed)
    # Of Pillow's own font, so that no font of the system is needed, an x has half the size.
    font = ImageFont.load_default(size=max(round(x_height / 0.52), 1))
    top, bottom = font.getbbox("x")[1::2]
    height, width = shape
    page = Image.new("L", (width, height), 245)
    draw = ImageDraw.Draw(page)
    left, right = int(width * margin), int(width * (1 - margin))
    y = int(height * margin)
    while y + 3 * x_height < height * (1 - margin):
        x = float(left)
        while True:
            word = str(rng.choice(WORDS))
            if x + font.getlength(word) > right:
                break
            draw.text((x, y), word, font=font, fill=25)
            x += font.getlength(word) + x_height * 0.6
        y += round(2.6 * x_height)
    return np.array(page), bottom - top


def reduced(image, factor):
    height, width = image.shape[:2]
    size = -(-width // factor), -(-height // factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def halftone(grey, pitch):
    """1-bit: round dots on a grid turned by 45 degrees."""
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]] * (2**0.5 * np.pi / pitch)
    screen = (np.cos(x + y) + np.cos(x - y) + 2) / 4 * 255
    return np.where(grey > screen, 255, 0).astype(np.uint8)


def blurs(shape, low, high, sigma=60):
    """A picture of soft shades."""
    noise = np.random.default_rng(1).random(shape).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), sigma)
    return cv2.normalize(soft, None, low, high, cv2.NORM_MINMAX).astype(np.uint8)


def cells(image):
    return ink_by_cell(image).reshape(INK_CELLS, INK_CELLS).astype(float)


# Height of type -----------------------------------------------------------------------------------


@pytest.mark.parametrize("x_height", [5, 7, 10, 15, 22, 40])
@pytest.mark.parametrize("shape", [(1754, 1240), (3508, 2480), (1240, 1754)])
def test_height_is_that_of_an_x(x_height, shape):
    page, known = text_page(x_height, shape)
    assert type_height(page) == pytest.approx(known, rel=0.12)


def test_type_of_a_broadsheet_and_of_a_poster():
    for x_height, shape in ((18, (6000, 4200)), (100, (3508, 2480)), (60, (1754, 1240))):
        page, known = text_page(x_height, shape)
        assert type_height(page) == pytest.approx(known, rel=0.12)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_page_decoded_at_a_reduced_scale_has_type_as_much_smaller(factor):
    page, known = text_page(33, (3508, 2480))
    assert type_height(reduced(page, factor)) == pytest.approx(type_height(page) / factor, rel=0.1)
    small, known = text_page(18, (3508, 2480))
    assert type_height(reduced(small, factor)) == pytest.approx(known / factor, rel=0.15)


def test_black_and_white():
    page, known = text_page(15)
    assert type_height(np.where(page < 128, 0, 255).astype(np.uint8)) == pytest.approx(
        known, rel=0.12
    )


def test_grey_ink_on_brown_unevenly_lit_paper():
    page, known = text_page(15)
    light = np.linspace(0.45, 0.8, page.shape[1])
    noise = np.random.default_rng(0).normal(0, 4, page.shape)
    faded = (120 + page * 0.53) * light + noise
    assert type_height(faded.clip(0, 255).astype(np.uint8)) == pytest.approx(known, rel=0.12)


def test_headline_rules_and_pictures_do_not_decide():
    page, known = text_page(12, (3508, 2480))
    headline, _ = text_page(90, (500, 2480), margin=0.02)
    page[:500] = headline
    for x in range(400, 2480, 400):
        page[:, x : x + 4] = 20
    page[1500:1506] = 20
    page[700:1400, 500:1700] = halftone(blurs((700, 1200), 20, 235), 9)
    page[2400:3000, 300:1300] = blurs((600, 1000), 20, 235)
    assert type_height(page) == pytest.approx(known, rel=0.12)


def test_specks_do_not_decide():
    page, known = text_page(20)
    rng = np.random.default_rng(2)
    for _ in range(15_000):  # Six to a letter.
        centre = int(rng.integers(page.shape[1])), int(rng.integers(page.shape[0]))
        cv2.circle(page, centre, int(rng.integers(0, 3)), 40, -1)
    assert type_height(page) == pytest.approx(known, rel=0.15)


def test_black_border_of_a_scan():
    page, known = text_page(15)
    framed = cv2.copyMakeBorder(page, 90, 40, 200, 10, cv2.BORDER_CONSTANT, value=3)
    assert type_height(framed) == pytest.approx(known, rel=0.12)


def test_commas_and_dots_are_no_letters():
    page, known = text_page(15)
    leaders = page.copy()
    for y in range(150, 1600, 39):
        for x in range(620, 1140, 9):
            leaders[y : y + 3, x : x + 3] = 20
        leaders[y - 20 : y - 1, 620:1140] = 245
    assert type_height(leaders) == pytest.approx(known, rel=0.2)


def test_blank_page_has_no_type():
    noise = np.random.default_rng(0).normal(225, 5, (1754, 1240)).astype(np.uint8)
    for page in (np.full((1754, 1240), 255, np.uint8), np.zeros((1754, 1240), np.uint8), noise):
        assert type_height(page) is None
    framed = cv2.copyMakeBorder(noise, 90, 40, 200, 10, cv2.BORDER_CONSTANT, value=3)
    assert type_height(framed) is None


def test_page_of_a_few_letters_has_no_type():
    page = np.full((1754, 1240), 240, np.uint8)
    cv2.putText(page, "Chapter V", (400, 700), cv2.FONT_HERSHEY_SIMPLEX, 2, 10, 4)
    assert type_height(page) is None


@pytest.mark.parametrize("pitch", [8, 12, 20, 30])
def test_halftone_is_no_type(pitch):
    assert type_height(halftone(blurs((1754, 1240), 20, 235), pitch)) is None


def test_noise_and_dithering_are_no_type():
    rng = np.random.default_rng(0)
    shape = (1754, 1240)
    uniform = rng.integers(0, 256, shape, dtype=np.uint8)
    salt = np.where(rng.random(shape) < 0.3, 0, 255).astype(np.uint8)
    blotches = cv2.normalize(cv2.GaussianBlur(uniform, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
    dithered = Image.fromarray(blurs(shape, 20, 235)).convert("1").convert("L")
    for page in (uniform, salt, blotches, np.array(dithered), blurs(shape, 20, 235)):
        assert type_height(page) is None


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (17, 40), (40, 3000), (300, 20)]
)
def test_images_of_few_pixels(shape):
    rng = np.random.default_rng(0)
    for image in (np.full(shape, 255, np.uint8), rng.integers(0, 256, shape, dtype=np.uint8)):
        assert type_height(image) is None
        assert ink_by_cell(image).shape == (INK_CELLS * INK_CELLS,)


def test_height_is_the_same_every_time_and_the_page_as_it_was():
    page, _ = text_page(12)
    before = page.copy()
    assert type_height(page) == type_height(page)
    assert type_height(np.asfortranarray(page)) == type_height(page)
    assert np.array_equal(page, before)


# Ink by cell --------------------------------------------------------------------------------------


def test_ink_is_darkness_relative_to_the_paper():
    page = np.full((640, 640), 200, np.uint8)
    page[:20, :20] = 0
    page[:20, 20:40] = 100
    page[:20, 40:50] = 0
    page[20:40, :20] = 185
    ink = ink_by_cell(page)
    assert (ink.dtype, ink.shape) == (np.uint8, (INK_CELLS * INK_CELLS,))
    grid = ink.reshape(INK_CELLS, INK_CELLS)
    assert grid[0, :4].tolist() == [255, 128, 128, 0]
    assert not grid[1:].any(), "shades of paper are no ink"
    colour = cv2.cvtColor(page, cv2.COLOR_GRAY2BGR)
    assert np.array_equal(ink_by_cell(colour), ink)


def test_ink_of_a_large_page_is_where_it_lies():
    page = np.full((7103, 5311), 255, np.uint8)  # Neither side a multiple of anything near.
    page[3551:, :2655] = 0
    grid = cells(page)
    assert grid[16:, :16].min() > 245
    assert grid[:16].max() < 10
    assert grid[:, 16:].max() < 10


def test_ink_of_blank_and_of_black_pages():
    assert not ink_by_cell(np.full((320, 320), 120, np.uint8)).any()
    assert ink_by_cell(np.zeros((320, 320), np.uint8)).min() == 255


@pytest.mark.parametrize(
    ("factor", "of_cell", "of_page"), [(2, 3, 0.02), (4, 4, 0.02), (8, 6, 0.04)]
)
@pytest.mark.parametrize("kind", ["grey", "colour", "1-bit"])
def test_ink_is_the_same_on_a_page_decoded_at_a_reduced_scale(factor, of_cell, of_page, kind):
    # Sides of whole blocks of 8 in each of the 32 cells, so that it is the same cells.
    page, _ = text_page(20, (4096, 2560))
    page[1900:2700, 600:2000] = blurs((800, 1400), 30, 230)
    if kind == "1-bit":
        page = np.where(page < 128, 0, 255).astype(np.uint8)
    if kind == "colour":
        page = cv2.merge([(page * share).astype(np.uint8) for share in (0.75, 0.9, 1.0)])
    whole, small = cells(page), cells(reduced(page, factor))
    assert whole.mean() > 15
    assert np.abs(whole - small).max() <= of_cell
    assert small.mean() == pytest.approx(whole.mean(), rel=of_page)
