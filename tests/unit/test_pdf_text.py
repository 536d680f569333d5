"""Text of PDFs, by region, where it is to be trusted."""

import io

import numpy as np
import pikepdf
import pypdfium2
import pytest
from fpdf import FPDF
from PIL import Image

from scanmill.page_images import PageBox, to_pdf
from scanmill.pdf_text import read_pages

SIZE = (300, 400)
#: Pixels per point of the page images of these tests.
SCALE = 2.0
LINES = ("The herring of the coast", "is salted in barrels and", "sent to the inland towns")
#: Around these lines, in pixels.
BOX = [40 * SCALE, 85 * SCALE, 220 * SCALE, 135 * SCALE]


def write_pdf(path, lines=LINES, mode=None, picture=None, picture_last=False):
    pdf = FPDF(unit="pt", format=SIZE)
    pdf.add_page()

    def show_picture():
        data = io.BytesIO()
        Image.new("L", (50, 50), 200).save(data, "PNG")
        left, top, right, bottom = picture
        pdf.image(data, left, top, right - left, bottom - top)

    if picture and not picture_last:
        show_picture()
    pdf.set_font("Times", size=14)
    if mode is not None:
        pdf.text_mode = mode
    for number, line in enumerate(lines):
        pdf.text(45, 100 + 15 * number, line)
    if picture and picture_last:
        show_picture()
    pdf.output(path)
    return path


def page_of(path, box=BOX, rotation=0):
    with pypdfium2.PdfDocument(path) as pdf:
        bounds = pdf[0].get_bbox()
    matrix = to_pdf(PageBox(*bounds, rotation), 1 / SCALE, 1 / SCALE)
    return {"page": 1, "to_pdf": matrix, "boxes": [box]}


def read(path, trusted=True, **where):
    [[text]] = read_pages(str(path), [page_of(path, **where)], trusted)
    return text


def texts(lines):
    return [line.text for line in lines]


def test_lines_of_a_region_with_their_boxes_in_pixels_of_the_page_image(tmp_path):
    lines = read(write_pdf(tmp_path / "a.pdf"))
    assert texts(lines) == list(LINES)
    for number, line in enumerate(lines):
        assert line.confidence is None
        assert line.x_min == pytest.approx(45 * SCALE, abs=2)
        baseline = (100 + 15 * number) * SCALE
        assert line.y_min < baseline - 8 * SCALE
        assert baseline < line.y_max < baseline + 6 * SCALE


def test_what_is_beside_a_region_is_not_of_it(tmp_path):
    path = write_pdf(tmp_path / "a.pdf")
    assert texts(read(path, box=[BOX[0], BOX[1], BOX[2], 104 * SCALE])) == [LINES[0]]
    assert read(path, box=[0, 300 * SCALE, 200, 350 * SCALE]) is None
    assert read(path, trusted=False, box=[0, 300 * SCALE, 200, 350 * SCALE]) == []


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("corner", [(0, 0), (30, 50)])
def test_turned_pages_and_cropped_ones(tmp_path, rotation, corner):
    path = write_pdf(tmp_path / "a.pdf")
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        # Upside down in the file, upright in the viewer: the content is turned the other way.
        width, height = SIZE
        turn = {
            0: (1, 0, 0, 1, 0, 0),
            90: (0, 1, -1, 0, height, 0),
            180: (-1, 0, 0, -1, width, height),
            270: (0, -1, 1, 0, 0, width),
        }[rotation]
        page = pdf.pages[0]
        page.contents_add(f"{' '.join(map(str, turn))} cm".encode(), prepend=True)
        shown = (height, width) if rotation in (90, 270) else (width, height)
        # What lies to the left and below the CropBox is not shown.
        page.MediaBox = [0, 0, *shown]
        page.CropBox = [*corner, *shown]
        page.Rotate = rotation
        pdf.save(path)
    left, top = {
        0: (corner[0], 0),
        90: (corner[1], corner[0]),
        180: (0, corner[1]),
        270: (0, 0),
    }[rotation]
    cut = np.array([left, top, left, top]) * SCALE
    lines = read(path, box=(np.array(BOX) - cut).tolist(), rotation=rotation)
    assert texts(lines) == list(LINES)
    assert lines[0].x_min == pytest.approx(45 * SCALE - cut[0], abs=2)
    assert lines[0].y_max == pytest.approx(104 * SCALE - cut[1], abs=4)


def test_words_that_are_divided_stay_so(tmp_path):
    divided = ("The herring of the inland-", "coast is salted")
    path = write_pdf(tmp_path / "a.pdf", divided)
    assert texts(read(path, box=[80, 170, 440, 240])) == list(divided)


def test_unseen_text_is_not_trusted(tmp_path):
    path = write_pdf(tmp_path / "a.pdf", mode="INVISIBLE")
    assert read(path) is None
    assert texts(read(path, trusted=False)) == list(LINES)


@pytest.mark.parametrize("last", [False, True])
def test_text_on_an_image_or_beneath_it_is_not_trusted(tmp_path, last):
    whole = write_pdf(tmp_path / "whole.pdf", picture=(0, 0, *SIZE), picture_last=last)
    assert read(whole) is None
    # A vignette at the edge of a region spoils nothing.
    small = write_pdf(tmp_path / "small.pdf", picture=(200, 85, 220, 105), picture_last=last)
    assert texts(read(small)) == list(LINES)


def test_letters_without_a_meaning_are_not_trusted(tmp_path):
    path = write_pdf(tmp_path / "a.pdf")
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        font = next(iter(pdf.pages[0].Resources.Font.values()))
        font.ToUnicode = pdf.make_stream(
            b"/CIDInit /ProcSet findresource begin begincmap 1 begincodespacerange <00> <FF> "
            b"endcodespacerange 1 beginbfrange <21> <7e> <e021> endbfrange endcmap end"
        )
        pdf.save(path)
    assert read(path) is None


def test_text_that_covers_little_of_a_region_is_not_trusted(tmp_path):
    path = write_pdf(tmp_path / "a.pdf")
    assert read(path, box=[BOX[0], BOX[1], BOX[2], BOX[3] + 10 * SCALE]) is not None
    assert read(path, box=[BOX[0], BOX[1], BOX[2], BOX[3] + 100 * SCALE]) is None


def test_a_file_that_does_not_open(tmp_path):
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.4 nothing")
    with pytest.raises(pypdfium2.PdfiumError):
        list(read_pages(str(path), [{"page": 1, "to_pdf": [1, 0, 0, 1, 0, 0], "boxes": []}], True))
