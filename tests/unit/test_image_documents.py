"""Page images as they were delivered."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from rendered import load, outcomes, photograph, pool, print_page, render  # noqa: F401

# Page images as they were delivered ---------------------------------------------------------------


def test_untouched_images_are_copied(pool, tmp_path):
    photograph("RGB").save(tmp_path / "1.jpg", dpi=(200, 100))
    photograph("L").save(tmp_path / "2.jpg")
    print_page().save(tmp_path / "3.png")
    photograph("RGB").save(tmp_path / "4.png", dpi=(300, 300))
    names = ["1.jpg", "2.jpg", "3.png", "4.png"]
    paths = [tmp_path / name for name in names]
    rows = render(pool, paths, tmp_path / "images", kind="images")
    assert [row["image"] for row in rows] == ["0001.jpg", "0002.jpg", "0003.png", "0004.png"]
    for row, path in zip(rows, paths, strict=True):
        assert (tmp_path / "images" / row["image"]).read_bytes() == path.read_bytes()
        assert (row["source"], row["engine"], row["rotation"]) == ("file", "copied", 0)
        load(tmp_path / "images", row)
    assert (rows[0]["dpi_x"], rows[0]["dpi_y"]) == (200, 100)
    assert (rows[0]["page_width_pt"], rows[0]["page_height_pt"]) == pytest.approx((72, 216))
    assert rows[0]["to_pdf"] == pytest.approx([0.36, 0, 0, -0.72, 0, 216])
    assert rows[1]["dpi_x"] is rows[1]["page_width_pt"] is rows[1]["to_pdf"] is None


def same_picture(image, expected, tolerance=10):
    difference = np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16))
    assert difference.mean() < tolerance


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_photographs_are_upright(pool, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x011A], exif[0x011B], exif[0x0128] = 150.0, 300.0, 2
    path = tmp_path / "1.jpg"
    photograph("RGB").save(path, exif=exif, dpi=(150, 300), quality=95)
    (row,) = render(pool, [path], tmp_path / "images", kind="image")
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    assert (row["width"], row["height"]) == upright.size
    assert (row["dpi_x"], row["dpi_y"]) == ((300, 150) if orientation >= 5 else (150, 300))
    image = load(tmp_path / "images", row)
    assert image.getexif().get(0x0112, 1) == 1
    same_picture(image, upright)
    if orientation in (3, 6, 8):  # The others are mirrored, too.
        with Image.open(path) as image:
            same_picture(image.rotate(-row["rotation"], expand=True), upright)


def test_unusual_images_become_eight_bits_on_white(pool, tmp_path):
    deep = np.linspace(0, 65535, 200 * 300).reshape(300, 200).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "1.png")
    clear = photograph("RGB").convert("RGBA")
    alpha = np.zeros((300, 200), np.uint8)
    alpha[:, :100] = 255
    clear.putalpha(Image.fromarray(alpha))
    clear.save(tmp_path / "2.png")
    photograph("RGB").quantize(64).save(tmp_path / "3.png")
    photograph("RGB").convert("CMYK").save(tmp_path / "4.jpg", quality=95)
    print_page().save(tmp_path / "5.tif", compression="group4", dpi=(400, 400))
    photograph("RGB").save(tmp_path / "6.jp2")
    photograph("L").convert("LA").save(tmp_path / "7.png")
    paths = sorted(tmp_path.glob("[1-7].*"))
    rows = render(pool, paths, tmp_path / "images", kind="images")
    assert [row["status"] for row in rows] == ["ok"] * 7, rows
    images = [load(tmp_path / "images", row) for row in rows]
    modes = [(image.format, image.mode) for image in images]
    assert modes == [
        ("JPEG", "L"),
        ("JPEG", "RGB"),
        ("JPEG", "RGB"),
        ("JPEG", "RGB"),
        ("PNG", "1"),
        ("JPEG2000", "RGB"),
        ("JPEG", "L"),
    ]
    assert [row["engine"] == "copied" for row in rows] == [False] * 5 + [True, False]
    same_picture(images[0], deep >> 8, 2)
    same_picture(images[1].crop((0, 0, 95, 300)), photograph("RGB").crop((0, 0, 95, 300)))
    assert np.asarray(images[1])[:, 110:].min() > 240
    for image in (images[2], images[3], images[5]):
        same_picture(image, photograph("RGB"))
    assert np.array_equal(images[4], print_page())
    assert rows[4]["dpi_x"] == 400
    same_picture(images[6], photograph("L"))


def test_tiff_of_several_pages(pool, tmp_path):
    frames = [print_page(), photograph("L", (300, 200)), photograph("RGB", (100, 120))]
    path = tmp_path / "pages.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:], dpi=(200, 200))
    rows = render(pool, path, tmp_path / "images", kind="tiff")
    assert [row["image"] for row in rows] == ["0001.png", "0002.jpg", "0003.jpg"]
    for row, frame in zip(rows, frames, strict=True):
        image = load(tmp_path / "images", row)
        assert image.mode == frame.mode
        same_picture(image, frame)
    rows = render(pool, path, tmp_path / "selected", kind="tiff", pages=[3, 4])
    assert outcomes(rows) == [(3, "ok", None), (4, "failed", "unsupported")]


def test_damaged_image_is_a_row_and_costs_no_other(pool, tmp_path):
    photograph().save(tmp_path / "1.jpg")
    data = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.tif").write_bytes(b"II*\0 no more")
    # Pillow would call Ghostscript for it.
    (tmp_path / "5.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n" * 9)
    photograph().save(tmp_path / "7.jpg")
    paths = [tmp_path / f"{name}" for name in ("1.jpg", "2.jpg", "3.png", "4.tif", "5.jpg")]
    paths += [tmp_path / "missing.jpg", tmp_path / "7.jpg"]
    rows = render(pool, paths, tmp_path / "images", kind="images")
    reasons = [None, "corrupt", "corrupt", "corrupt", "corrupt", "io", None]
    assert [row.get("reason") for row in rows] == reasons
    # Not asked whether it is EPS.
    assert rows[4]["message"].endswith("no image that is known")
    assert sorted(os.listdir(tmp_path / "images")) == ["0001.jpg", "0007.jpg"]


def test_image_beyond_the_pixel_limit_is_not_decoded(pool, tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"no pixels")
    (tmp_path / "1.png").write_bytes(png)
    (row,) = render(pool, [tmp_path / "1.png"], tmp_path / "images", kind="image")
    assert row["reason"] == "too_large"
