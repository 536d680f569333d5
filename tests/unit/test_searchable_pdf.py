"""Searchable PDFs: pdftotext finds the words where they stand, and pages stay as they are."""

import re
import shutil
import subprocess
from contextlib import closing
from html import unescape

import cv2
import numpy as np
import pikepdf
import pypdfium2
import pytest
from pikepdf import Array, Dictionary, Name
from recognized import add_text
from sampled_run import HEIGHT, WIDTH, Page, write_run

from scanmill.exports import export_results
from scanmill.page_images import PageBox, to_pdf
from scanmill.searchable_pdf import PdfPage, write_searchable_pdf
from scanmill.settings import dump_settings
from scanmill.store import file_digest, note_source
from scanmill.tables import from_rows, read_table, write_table
from scanmill.workers import Worker

pytestmark = pytest.mark.skipif(not shutil.which("pdftotext"), reason="Poppler is not installed")

LIMITS = {"cpu_seconds": 60, "wall_seconds": 60, "memory_mb": 4096}
#: Of the visible page, in points, and of its image, in pixels.
PAGE, SIZE = (200, 300), (400, 600)
LINES = [
    ["Hello wide world", 40, 60, 360, 100],
    ["Größe und Straße", 40, 120, 200, 140],
    ["第一章 海の漁業", 40, 160, 300, 190],
    ["Об улове сельди", 40, 220, 300, 250],
]


@pytest.fixture(scope="module")
def worker():
    with closing(Worker("scanmill.searchable_pdf")) as worker:
        yield worker


def write_source(path, rotation=0, content=b"", crop=(0, 0), pages=1):
    """A PDF whose visible box begins at `crop`, with fonts that pages inherit."""
    with pikepdf.new() as pdf:
        font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)
        x, y = crop
        width, height = PAGE if rotation in (0, 180) else PAGE[::-1]
        for _ in range(pages):
            pdf.add_blank_page(page_size=(600, 600))
            page = pdf.pages[-1].obj
            page.CropBox = Array([x, y, x + width, y + height])
            page.Rotate = rotation
            page.Contents = pdf.make_stream(content)
            del page.Resources
        pdf.Root.Pages.Resources = Dictionary(Font=Dictionary(F1=pdf.make_indirect(font)))
        pdf.save(path)
    return PageBox(x, y, x + width, y + height, rotation)


def rewrite(worker, source, output, box, lines, number=1, selected=None):
    matrix = to_pdf(box, PAGE[0] / SIZE[0], PAGE[1] / SIZE[1])
    page = PdfPage(number, *SIZE, (144, 144), matrix, None, lines)
    return write_searchable_pdf(worker, [page], bytes(source), selected, output, LIMITS)


def words(path, page=1):
    """(word, x_min, y_min, x_max, y_max) as pdftotext finds them: points, y down."""
    command = ["pdftotext", "-bbox", "-cropbox", "-f", str(page), "-l", str(page), path, "-"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(
        r'<word xMin="(.+?)" yMin="(.+?)" xMax="(.+?)" yMax="(.+?)">(.*?)</word>', said
    )
    return [(unescape(word), *map(float, box)) for *box, word in found]


def plain(path):
    return subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True).stdout


def rendered(path, page=0):
    with pypdfium2.PdfDocument(path) as pdf:
        return pdf[page].render(scale=1).to_numpy().copy()


# Places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_words_stand_where_their_lines_are(worker, tmp_path, rotation):
    # A page that leaves its state behind, and a transformation.
    content = b"q q 3 0 0 3 50 50 cm BT /F1 9 Tf 10 20 Td (seen) Tj"
    box = write_source(tmp_path / "a.pdf", rotation, content, crop=(30, 70))
    output = tmp_path / "out.pdf"
    assert rewrite(worker, tmp_path / "a.pdf", output, box, LINES) is None
    found = words(output)
    for text, *place in LINES:
        mine = [next(word for word in found if word[0] == part) for part in text.split()]
        # -bbox gives coordinates of the upright page.
        around = [min(w[1] for w in mine), min(w[2] for w in mine)]
        around += [max(w[3] for w in mine), max(w[4] for w in mine)]
        assert around == pytest.approx([value / 2 for value in place], abs=0.2), text
        ends = [word[3] for word in mine]
        assert ends == sorted(ends)
    assert np.array_equal(rendered(output), rendered(tmp_path / "a.pdf"))


def test_words_of_a_line_are_as_far_apart_as_their_letters(worker, tmp_path):
    box = write_source(tmp_path / "a.pdf")
    rewrite(worker, tmp_path / "a.pdf", tmp_path / "out.pdf", box, LINES[:1])
    # 16 characters over 160 points from 20 on.
    assert [(word[0], round(word[1]), round(word[3])) for word in words(tmp_path / "out.pdf")] == [
        ("Hello", 20, 70),
        ("wide", 80, 120),
        ("world", 130, 180),
    ]


def test_lines_that_run_downwards_and_to_the_left(worker, tmp_path):
    box = write_source(tmp_path / "a.pdf")
    lines = [["海の漁業", 300, 100, 340, 500], ["שלום עולם", 40, 60, 240, 100]]
    rewrite(worker, tmp_path / "a.pdf", tmp_path / "out.pdf", box, lines)
    text = plain(tmp_path / "out.pdf")
    assert "海の漁業" in text
    # pdftotext puts what runs to the left between marks of direction.
    assert "שלום עולם" in re.sub("[\u202a-\u202e]", "", text)
    down = next(word for word in words(tmp_path / "out.pdf") if word[0] == "海の漁業")
    assert down[1:] == pytest.approx((150, 50, 170, 250), abs=0.5)


def test_characters_of_all_planes_and_those_that_are_none(worker, tmp_path):
    box = write_source(tmp_path / "a.pdf")
    lines = [["𝔘nd 🐟", 40, 60, 240, 100], ["a\x00b\x0bc\ud7ff\ufffe", 40, 120, 240, 160]]
    lines += [["", 0, 0, 9, 9], ["flat", 0, 50, 50, 50], ["  ", 0, 0, 9, 9]]
    rewrite(worker, tmp_path / "a.pdf", tmp_path / "out.pdf", box, lines)
    assert [word[0] for word in words(tmp_path / "out.pdf")][:2] == ["𝔘nd", "🐟"]
    assert "flat" not in plain(tmp_path / "out.pdf")


def test_many_characters_have_a_code_each(worker, tmp_path):
    box = write_source(tmp_path / "a.pdf")
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    rewrite(worker, tmp_path / "a.pdf", tmp_path / "out.pdf", box, [[text, 0, 0, 400, 20]])
    assert plain(tmp_path / "out.pdf").strip() == text


# Pages --------------------------------------------------------------------------------------------


def test_only_the_selected_pages_stay(worker, tmp_path):
    box = write_source(tmp_path / "a.pdf", content=b"BT /F1 9 Tf 10 20 Td (seen) Tj ET", pages=4)
    output = tmp_path / "out.pdf"
    assert rewrite(worker, tmp_path / "a.pdf", output, box, LINES, 3, [2, 3]) is None
    with pikepdf.open(output) as pdf:
        assert len(pdf.pages) == 2
    assert [word[0] for word in words(output, 1)] == ["seen"]
    assert {"seen", "Hello"} <= {word[0] for word in words(output, 2)}


def test_what_cannot_be_rewritten_is_said(worker, tmp_path):
    box = write_source(tmp_path / "a.pdf")
    output = tmp_path / "out.pdf"
    assert "finds 1 pages" in rewrite(worker, tmp_path / "a.pdf", output, box, LINES, 2)
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4 nothing")
    assert "PdfError" in rewrite(worker, tmp_path / "b.pdf", output, box, LINES)
    with pikepdf.open(tmp_path / "a.pdf") as pdf:
        pdf.save(tmp_path / "c.pdf", encryption=pikepdf.Encryption(owner="o", user="u"))
    assert "PasswordError" in rewrite(worker, tmp_path / "c.pdf", output, box, LINES)
    assert not output.exists()


def test_page_images_keep_their_bytes(worker, tmp_path):
    rng = np.random.default_rng(0)
    pages = []
    for number in range(1, 71):  # More than one part.
        path = tmp_path / f"{number}.jpg"
        cv2.imwrite(str(path), rng.integers(0, 256, (60, 40), dtype=np.uint8))
        line = [f"page{number}", 10, 12, 30, 18]
        pages.append(PdfPage(number, 40, 60, (72.0, 36.0), None, str(path), [line]))
    output = tmp_path / "out.pdf"
    assert write_searchable_pdf(worker, pages, None, None, output, LIMITS) is None
    assert [path.name for path in tmp_path.glob("out.pdf*")] == ["out.pdf"]
    with pikepdf.open(output) as pdf:
        assert len(pdf.pages) == 70
        for number in (1, 70):
            page = pdf.pages[number - 1]
            [image] = page.get_images().values()
            assert image.read_raw_bytes() == (tmp_path / f"{number}.jpg").read_bytes()
            assert [float(value) for value in page.mediabox] == [0, 0, 40, 120]
    assert words(output, 70) == [("page70", *(pytest.approx(v) for v in (10, 24, 30, 36)))]


# Of a run -----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A finished run over an archive of PDFs of two pages."""
    pages = {
        "a.pdf": [Page(), Page()],
        "b.pdf": [Page(), Page(ok=False)],
        "c.pdf": [Page(ok=False)],
    }
    directory = write_run(tmp_path / "run", pages, shards=1)
    results, archive = directory / "results", tmp_path / "archive"
    archive.mkdir()
    for name in pages:
        write_source(archive / name, content=b"BT /F1 9 Tf 10 20 Td (seen) Tj ET", pages=2)
        note_source(results, name, [], file_digest(archive / name))
    # Page images of 2 points a pixel.
    place = {"to_pdf": [2, 0, 0, -2, 0, PAGE[1]], "dpi_x": 36, "dpi_y": 36}
    path = results / "pages" / "00000.parquet"
    write_table(from_rows("pages", [row | place for row in read_table(path).to_pylist()]), path)
    settings = {"archive": {"path": str(archive), "follow_links": False}}
    dump_settings(settings | {"images": {"limits": LIMITS}}, results / "settings.yaml")
    return directory


def test_pdfs_keep_their_pages_and_get_their_text(run, tmp_path, capsys):
    add_text(run)
    assert export_results(run, "pdf", tmp_path / "out") == f"2 PDFs: {tmp_path / 'out'}"
    for number in (1, 2):
        found = {word[0]: word[1:] for word in words(tmp_path / "out/a.pdf", number)}
        assert {"seen", "region", f"{number}.1", "of", "a.pdf", "läßt", "漢字"} == set(found)
        # The region's first line: from (10.5, 20.25) in pixels.
        assert found["region"][:2] == pytest.approx((21, 40.5), abs=0.2)
    assert [word[0] for word in words(tmp_path / "out/b.pdf", 2)] == ["seen"]
    said = capsys.readouterr().err
    assert said == "left out, none of its pages is ok: c.pdf (timeout)\n"
    assert not list(tmp_path.glob(".tmp*"))


def test_text_that_was_taken_from_a_pdf_is_not_put_there_twice(run, tmp_path):
    add_text(run, source="pdf")
    export_results(run, "pdf", tmp_path / "out")
    assert [word[0] for word in words(tmp_path / "out/a.pdf")] == ["seen"]


@pytest.mark.parametrize("damage", ["changed", "gone", "broken"])
def test_a_pdf_that_cannot_be_used_is_made_of_its_page_images(run, tmp_path, capsys, damage):
    add_text(run)
    source = tmp_path / "archive/b.pdf"
    if damage == "gone":
        source.unlink()
    else:
        source.write_bytes(b"%PDF-1.4 something else")
    if damage == "broken":
        note_source(run / "results", "b.pdf", [], file_digest(source))
    assert export_results(run, "pdf", tmp_path / "out").startswith("2 PDFs")
    said = capsys.readouterr().err
    why = {
        "changed": "it has changed since the run",
        "gone": "it cannot be read (No such file or directory)",
        "broken": "PdfError",
    }
    assert f"b.pdf is made of its page images, as its file cannot be used: {why[damage]}" in said
    assert "b.pdf has 1 pages without an image, which its PDF lacks" in said
    with pikepdf.open(tmp_path / "out/b.pdf") as pdf:
        [page] = pdf.pages
        assert [float(value) for value in page.mediabox] == [0, 0, 2 * WIDTH, 2 * HEIGHT]
    found = {word[0]: word[1:] for word in words(tmp_path / "out/b.pdf")}
    assert found["region"][:2] == pytest.approx((21, 40.5), abs=0.2)


def test_a_document_without_source_and_images_is_left_out(run, tmp_path, capsys):
    add_text(run)
    (tmp_path / "archive/b.pdf").unlink()
    for path in (run / "results/store/b.pdf/images").iterdir():
        path.unlink()
    assert export_results(run, "pdf", tmp_path / "out").startswith("1 PDFs")
    assert "left out: b.pdf: The page image " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.pdf"]
