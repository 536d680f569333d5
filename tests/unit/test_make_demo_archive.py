"""The demo archive: the same bytes for a seed, and regions that are where the ink is."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import make_demo_archive
import numpy as np
import pikepdf
import pypdfium2
import pytest
from make_demo_archive import (
    A3,
    A4,
    CLASSES,
    LEDGER,
    make_archive,
    page_sizes,
    write_corrupt_pdf,
    write_encrypted_pdf,
    write_image_folder,
    write_mixed_pdf,
    write_rotated_pdf,
    write_scanned_pdf,
    write_tiff,
    write_vector_pdf,
)
from PIL import Image, ImageSequence

from scanmill.errors import UserError

DPI = 100
SCALE = DPI / 72


@pytest.fixture(scope="module")
def small_archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    make_archive(folder, seed=3, small=True)
    return folder


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def find_ink(pixels):
    """Return where a grey page is a quarter darker than the paper nearby."""
    paper = cv2.dilate(cv2.blur(pixels, (3, 3)), np.ones((25, 25), np.uint8))
    return pixels < 0.75 * paper


def ink_of_pages(path):
    """Yield each page, upright and at DPI, as bool H x W: True where there is ink."""
    if path.suffix == ".pdf":
        with pypdfium2.PdfDocument(path) as pdf:
            for page in pdf:
                yield find_ink(page.render(scale=SCALE, grayscale=True).to_numpy())
    elif path.is_dir():
        for file in sorted(path.iterdir(), key=lambda file: int(file.stem[5:])):
            yield find_ink(np.asarray(Image.open(file)))
    else:
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                yield ~np.asarray(frame)


def distances_to_ink(ink, region):
    """Return how far inside each side of a region its first ink lies, in points."""
    x_min, y_min, x_max, y_max = (round(value * SCALE) for value in region[1:])
    rows, columns = np.nonzero(ink[y_min:y_max, x_min:x_max])
    inside = [columns.min(), rows.min(), x_max - x_min - columns.max() - 1]
    return np.array([*inside, y_max - y_min - rows.max() - 1]) / SCALE


def ink_outside(ink, regions, margin):
    """Return the share of a page's ink that lies in none of its regions nor in its top margin."""
    outside = ink.copy()
    outside[: round(1.2 * margin * SCALE)] = False
    for region in regions:
        x_min, y_min, x_max, y_max = (value * SCALE for value in region[1:])
        outside[int(y_min) - 2 : int(y_max) + 3, int(x_min) - 2 : int(x_max) + 3] = False
    return outside.sum() / ink.sum()


# Turned by at most 0.6 degrees, a line of 490 points rises by 5 points.
SKEWED = 6.0
# Specks of bilevel scans.
SPECKS = 0.01


@pytest.mark.parametrize(
    ("name", "write", "slack", "stray"),
    [
        ("vector.pdf", write_vector_pdf, 1.5, 0),
        ("grey.pdf", partial(write_scanned_pdf, dpi=DPI), SKEWED, 0),
        ("colour.pdf", partial(write_scanned_pdf, dpi=DPI, grey=False), SKEWED, 0),
        ("g4.pdf", partial(write_scanned_pdf, dpi=DPI, kind="g4"), SKEWED, SPECKS),
        ("rotated.pdf", partial(write_rotated_pdf, dpi=DPI), SKEWED, 0),
        ("pages.tif", partial(write_tiff, dpi=DPI), SKEWED, SPECKS),
        ("folder", partial(write_image_folder, dpi=DPI), SKEWED, 0),
    ],
)
def test_regions_hold_the_ink_of_the_upright_page_and_nothing_else(
    tmp_path, name, write, slack, stray
):
    known = write(tmp_path / name, 4, seed=1)
    pages = list(ink_of_pages(tmp_path / name))
    assert [page for page, _ in known] == [1, 2, 3, 4]
    assert len(pages) == 4
    for (_, regions), ink in zip(known, pages, strict=True):
        assert ink_outside(ink, regions, 0.09 * A4[0]) <= stray
        for region in regions:
            # Rounding to pixels costs half a one on either side.
            assert distances_to_ink(ink, region).max() < slack + 1 / SCALE, region


@pytest.mark.parametrize("seed", range(3))
def test_documents_have_all_classes_and_regions_that_do_not_overlap(tmp_path, seed):
    known = write_vector_pdf(tmp_path / "a.pdf", 4, seed)
    assert {region.class_name for _, regions in known for region in regions} == set(CLASSES)
    for _, regions in known:
        boxes = np.array([region[1:] for region in regions])
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        overlap = (high - low).clip(0).prod(axis=-1)
        np.fill_diagonal(overlap, 0)
        assert overlap.max() == 0


def test_scans_are_one_jpeg_or_g4_image_a_page(tmp_path):
    write_scanned_pdf(tmp_path / "grey.pdf", 1, seed=0, dpi=DPI)
    write_scanned_pdf(tmp_path / "colour.pdf", 1, seed=0, dpi=DPI, grey=False)
    write_scanned_pdf(tmp_path / "g4.pdf", 1, seed=0, dpi=DPI, kind="g4")
    found = {}
    for name in ("grey", "colour", "g4"):
        with pikepdf.open(tmp_path / f"{name}.pdf") as pdf:
            (image,) = pdf.pages[0].get_images().values()
            filters = image.Filter if isinstance(image.Filter, pikepdf.Array) else [image.Filter]
            found[name] = ([str(f) for f in filters], int(image.BitsPerComponent))
            found[name] += (str(image.ColorSpace),)
            if name == "g4":
                parameters = image.DecodeParms
                first = parameters[0] if isinstance(parameters, pikepdf.Array) else parameters
                assert first.K == -1
    assert found == {
        "grey": (["/DCTDecode"], 8, "/DeviceGray"),
        "colour": (["/DCTDecode"], 8, "/DeviceRGB"),
        "g4": (["/CCITTFaxDecode"], 1, "/DeviceGray"),
    }


def test_unknown_kind_of_scan_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="neither jpeg nor g4"):
        write_scanned_pdf(tmp_path / "a.pdf", 1, seed=0, kind="jbig2")


def test_rotated_pages_lie_on_their_side_in_the_file(tmp_path):
    write_rotated_pdf(tmp_path / "a.pdf", 4, seed=0, dpi=DPI)
    with pikepdf.open(tmp_path / "a.pdf") as pdf:
        assert [int(page.get("/Rotate", 0)) for page in pdf.pages] == [0, 90, 0, 270]
        lying = [page.mediabox[2] > page.mediabox[3] for page in pdf.pages]
    assert lying == [False, True, False, True]
    assert all(width < height for width, height in page_sizes(tmp_path / "a.pdf"))


def test_page_sizes_are_those_asked_for(tmp_path):
    write_mixed_pdf(tmp_path / "mixed.pdf", 3, seed=0)
    assert page_sizes(tmp_path / "mixed.pdf") == [A4, LEDGER, A4]
    write_tiff(tmp_path / "a.tif", 1, seed=0, dpi=DPI, size=A3)
    write_image_folder(tmp_path / "folder", 1, seed=0, dpi=DPI, size=A3)
    # A scan has whole pixels: at 100 dpi, 0.72 points.
    for name in ("a.tif", "folder"):
        assert page_sizes(tmp_path / name)[0] == pytest.approx(A3, abs=0.72)


def test_tiff_has_bilevel_g4_pages_with_their_resolution(tmp_path):
    write_tiff(tmp_path / "a.tif", 3, seed=0, dpi=DPI)
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames == 3
        for frame in ImageSequence.Iterator(image):
            assert (frame.mode, frame.info["compression"]) == ("1", "group4")
            assert frame.info["dpi"] == (DPI, DPI)


def test_image_folder_numbers_its_files_and_gives_their_resolution(tmp_path):
    known = write_image_folder(tmp_path / "folder", 2, seed=0, dpi=DPI, first_number=9)
    names = {file.name for file in (tmp_path / "folder").iterdir()}
    assert names == {"page-9.jpg", "page-10.jpg"}
    assert [page for page, _ in known] == [1, 2]
    with Image.open(tmp_path / "folder" / "page-9.jpg") as image:
        assert image.info["dpi"] == (DPI, DPI)


def test_corrupt_pdf_opens_nowhere(tmp_path):
    for seed in range(3):
        path = tmp_path / f"{seed}.pdf"
        assert write_corrupt_pdf(path, 2, seed) == []
        assert path.read_bytes().startswith(b"%PDF-")
        with pytest.raises(pypdfium2.PdfiumError, match="Data format error"):
            pypdfium2.PdfDocument(path)


@pytest.mark.skipif(shutil.which("pdftoppm") is None, reason="Poppler is not installed")
def test_corrupt_and_encrypted_pdfs_do_not_open_in_poppler(tmp_path):
    write_corrupt_pdf(tmp_path / "corrupt.pdf", 2, seed=0)
    write_encrypted_pdf(tmp_path / "encrypted.pdf", 1, seed=0)
    for name, message in (("corrupt", "trailer"), ("encrypted", "Incorrect password")):
        command = ["pdftoppm", "-r", "10", str(tmp_path / f"{name}.pdf"), str(tmp_path / "page")]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode != 0
        assert message in result.stderr


def test_encrypted_pdf_opens_with_its_password_only(tmp_path):
    known = write_encrypted_pdf(tmp_path / "a.pdf", 2, seed=0)
    with pytest.raises(pypdfium2.PdfiumError, match="password"):
        pypdfium2.PdfDocument(tmp_path / "a.pdf")
    with pypdfium2.PdfDocument(tmp_path / "a.pdf", password="demo") as pdf:
        assert len(pdf) == len(known) == 2


def test_archive_holds_every_kind_of_document(small_archive):
    names = set(contents(small_archive / "archive"))
    assert len(names) == 16
    assert "books/Flora und Gärten.pdf" in names
    assert "newspapers/1888/photographed/page-9.jpg" in names
    assert "newspapers/1888/photographed/page-10.jpg" in names
    assert "letters/survey.tif" in names
    assert (small_archive / "archive" / "damaged" / "empty.pdf").stat().st_size == 0
    assert {path.name for path in small_archive.iterdir()} == {"archive", "archive.coco.json"}


def test_full_archive_has_twelve_documents_of_sixty_pages():
    documents = make_demo_archive._plan_archive(small=False)
    assert len(documents) == 12
    assert sum(n_pages for _, n_pages, _ in documents) == 60


def test_coco_describes_every_page_in_points(small_archive):
    coco = json.loads((small_archive / "archive.coco.json").read_text(encoding="utf-8"))
    assert "points" in coco["info"]["unit"]
    assert "top left" in coco["info"]["origin"]
    assert [c["name"] for c in coco["categories"]] == list(CLASSES)
    sizes = {}
    for image in coco["images"]:
        assert image["file_name"] == f"{image['document']}#{image['page']}"
        sizes.setdefault(image["document"], []).append((image["width"], image["height"]))
    assert len(sizes) == 12
    for document, expected in sizes.items():
        found = page_sizes(small_archive / "archive" / document)
        assert np.array(found) == pytest.approx(np.array(expected), abs=0.01)
    images = {image["id"]: image for image in coco["images"]}
    assert {a["image_id"] for a in coco["annotations"]} == set(images)
    assert {a["category_id"] for a in coco["annotations"]} == {1, 2, 3, 4, 5}
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        image = images[annotation["image_id"]]
        assert min(x, y) > 0
        assert min(width, height) > 1
        assert x + width < image["width"]
        assert y + height < image["height"]


def test_same_seed_same_bytes_from_the_command_line(small_archive, tmp_path):
    script = Path(make_demo_archive.__file__)
    command = [sys.executable, script, "--output", tmp_path, "--seed", "3"]
    command += ["--pages-scale", "small"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "12 documents of 23 pages" in result.stdout
    assert contents(tmp_path) == contents(small_archive)


def test_another_seed_gives_other_pages(tmp_path):
    write_vector_pdf(tmp_path / "1.pdf", 1, seed=1)
    write_vector_pdf(tmp_path / "2.pdf", 1, seed=2)
    assert (tmp_path / "1.pdf").read_bytes() != (tmp_path / "2.pdf").read_bytes()


def test_existing_archive_is_left_alone(tmp_path):
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "mine.pdf").write_bytes(b"mine")
    with pytest.raises(UserError, match="already exists"):
        make_archive(tmp_path, small=True)
    assert contents(tmp_path) == {"archive/mine.pdf": b"mine"}


def test_half_an_archive_of_an_interrupted_run_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(
        make_demo_archive, "_plan_archive", lambda small: [("a.pdf", 1, write_vector_pdf)]
    )
    (tmp_path / "archive.partial").mkdir()
    (tmp_path / "archive.partial" / "half.pdf").touch()
    make_archive(tmp_path)
    names = set(contents(tmp_path / "archive"))
    assert "a.pdf" in names
    assert "half.pdf" not in names
    assert not (tmp_path / "archive.partial").exists()
