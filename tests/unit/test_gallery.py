"""Pictures of pages: small, of the right page, or of its ink where there is no image."""

import base64
import json

import cv2
import numpy as np
import pytest
from reported import CLASSES, HEIGHT, WIDTH, page_row, region_row, write_image

from scanmill import gallery
from scanmill.image_files import encode
from scanmill.store import drop_images, file_digest
from scanmill.survey import ShownPage
from scanmill.tables import INK_CELLS

INK = bytes([0] * 512 + [200] * 512)


def shown(directory, page, ink=INK, regions=(), **entries):
    row = page_row("a.pdf", page, **{**write_image(directory, "a.pdf", page), **entries})
    return ShownPage(row, regions, ink)


def pictures(directory, *pages):
    return gallery.gallery(pages, CLASSES, directory / "results", 2)


def decoded(uri):
    kind, _, data = uri.partition(";base64,")
    pixels = np.frombuffer(base64.b64decode(data), np.uint8)
    return kind, cv2.imdecode(pixels, cv2.IMREAD_GRAYSCALE)


def test_pictures_are_those_of_their_pages_in_order(tmp_path):
    made = pictures(tmp_path, *(shown(tmp_path, number) for number in range(1, 14)))
    assert [page["page"] for page in made] == list(range(1, 14))
    for page in made:
        kind, pixels = decoded(page["picture"])
        original = cv2.imread(str(tmp_path / "results" / page["image"]), cv2.IMREAD_GRAYSCALE)
        assert kind == "data:image/webp"
        assert pixels.shape == (HEIGHT, WIDTH)  # Never enlarged.
        assert np.abs(pixels.astype(int) - original).mean() < 4
        assert page["note"] == ""


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_pages_become_small_in_their_proportions(tmp_path, suffix):
    page = np.full((5000, 3000), 255, np.uint8)
    page[2500:] = 0
    path = tmp_path / "results" / f"large.{suffix}"
    path.parent.mkdir()
    path.write_bytes(encode(page, suffix, False, 90))
    entries = {"image": path.name, "sha256": file_digest(path), "width": 3000, "height": 5000}
    [made] = pictures(tmp_path, shown(tmp_path, 1, **entries))
    _, pixels = decoded(made["picture"])
    assert pixels.shape == (gallery.PICTURE_SIDE, round(0.6 * gallery.PICTURE_SIDE))
    assert pixels[:340].min() > 230
    assert pixels[380:].max() < 25


def test_regions_are_whole_pixels_of_the_page(tmp_path):
    region = region_row("a.pdf", 1, 7, "table", 0.8765, (10.4, 20.6, 110.4, 220.6))
    [made] = pictures(tmp_path, shown(tmp_path, 1, regions=[region]))
    assert made["regions"] == [[CLASSES.index("table"), 876, 10, 21, 100, 200, 7]]


def test_dropped_images_are_shown_as_ink(tmp_path):
    page = shown(tmp_path, 1)
    drop_images(tmp_path / "results", "a.pdf")
    [made] = pictures(tmp_path, page)
    kind, pixels = decoded(made["picture"])
    assert kind == "data:image/png"
    assert pixels.shape == (INK_CELLS, INK_CELLS)
    assert (pixels[:16] == 255).all()
    assert (pixels[16:] == 55).all()
    assert "images.keep" in made["note"]


def test_images_that_are_missing_or_damaged_are_shown_as_ink_and_told(tmp_path):
    missing = shown(tmp_path, 1, image="store/gone.png")
    other = shown(tmp_path, 2, sha256="00")
    [first, second] = pictures(tmp_path, missing, other._replace(ink=None))
    assert "FileNotFoundError" in first["note"]
    assert "not those that were rendered" in second["note"]
    assert (decoded(second["picture"])[1] == 255).all()


def test_as_many_pages_are_taken_as_the_bytes_hold(tmp_path, monkeypatch):
    pages = [shown(tmp_path, number) for number in range(1, 30)]
    one = len(json.dumps(pictures(tmp_path, pages[0])[0]))
    monkeypatch.setattr(gallery, "MAX_BYTES", 10 * one)
    made = pictures(tmp_path, *pages)
    assert 5 <= len(made) <= 12
    assert sum(len(json.dumps(page)) for page in made) <= 10 * one
