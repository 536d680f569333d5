"""Documents become page images: both engines, every kind of file, every way to fail."""

import concurrent.futures
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import cv2
import img2pdf
import numpy as np
import pikepdf
import pytest
from PIL import Image, ImageOps

from scanmill import rendering
from scanmill.archive import Document
from scanmill.errors import UserError
from scanmill.progress import Progress
from scanmill.rendering import (
    PageError,
    Worker,
    choose_engine,
    encode_page,
    is_grey,
    render_document,
    render_shard,
)
from scanmill.store import StageStore, document_folder, read_record_metadata
from scanmill.tables import SCHEMAS, failed, from_rows

needs_poppler = pytest.mark.skipif(
    shutil.which("pdftoppm") is None, reason="Poppler's pdftoppm is not installed"
)
ENGINES = [pytest.param("poppler", marks=needs_poppler), "pdfium"]
LIMITS = {"max_pixels": 2e8, "cpu_seconds": 60, "wall_seconds": 120, "memory_mb": 8192}
SETTINGS = {"dpi": 72, "renderer": "pdfium", "jpeg_quality": 90}
#: Colours that survive JPEG, and the squares of the mark pages (in points from the box's corner).
MARKS = {
    (255, 0, 0): (30, 40),
    (0, 160, 0): (150, 50),
    (0, 0, 255): (40, 220),
    (0, 0, 0): (160, 200),
}
SIDE = 10.0


@pytest.fixture(scope="module")
def worker():
    worker = Worker()
    yield worker
    worker.close()


def task(paths, folder, kind="pdf", engine="pdfium", pages=None, dpi=72, **limits):
    """A task as render_shard makes them."""
    folder.mkdir(exist_ok=True)
    paths = paths if isinstance(paths, list) else [paths]
    return {
        "kind": kind,
        "paths": [os.fsencode(path).hex() for path in paths],
        "pages": pages,
        "folder": str(folder),
        "settings": {**SETTINGS, "dpi": dpi},
        "limits": {**LIMITS, **limits},
        "engine": choose_engine(engine),
    }


def render(worker, *arguments, on_page=lambda: None, **options):
    return render_document(worker, task(*arguments, **options), on_page)


def outcomes(rows):
    return [(row["page"], row["status"], row.get("reason")) for row in rows]


def load(folder, row):
    """The image of a row, checked against what the row says of it."""
    image = Image.open(folder / row["image"])
    assert (row["width"], row["height"]) == image.size
    return image


def content_of(marks, x, y):
    """Drawing operators for squares of SIDE points, centred at points relative to (x, y)."""
    drawn = []
    for (red, green, blue), (u, v) in marks.items():
        color = f"{red / 255:.3f} {green / 255:.3f} {blue / 255:.3f} rg"
        corner = f"{x + u - SIDE / 2} {y + v - SIDE / 2}"
        drawn.append(f"{color} {corner} {SIDE} {SIDE} re f")
    return "\n".join(drawn).encode()


def add_page(pdf, content=b"", media=(0, 0, 200, 300), crop=None, rotate=0, resources=None):
    page = pikepdf.Dictionary(
        Type=pikepdf.Name.Page,
        Resources=resources or pikepdf.Dictionary(),
        Contents=pdf.make_stream(content),
    )
    if media:
        page.MediaBox = pikepdf.Array(media)
    if crop:
        page.CropBox = pikepdf.Array(crop)
    if rotate:
        page.Rotate = rotate
    pdf.pages.append(pikepdf.Page(page))


def write_pdf(path, *pages):
    """A PDF of pages given as add_page takes them."""
    with pikepdf.new() as pdf:
        for page in pages:
            add_page(pdf, **page)
        pdf.save(path)
    return path


def write_pages(path, count):
    """`count` pages with a little ink."""
    return write_pdf(path, *({"content": content_of(MARKS, 0, 0)} for _ in range(count)))


def write_bomb(path, levels, before=1, after=1):
    """A PDF with a page that paints 10 ** levels small squares, others before and after."""
    with pikepdf.new() as pdf:
        form = pdf.make_stream(
            b"0 g " + b"10 10 5 5 re f " * 10,
            Type=pikepdf.Name.XObject,
            Subtype=pikepdf.Name.Form,
            BBox=[0, 0, 200, 300],
        )
        for _ in range(levels - 1):
            form = pdf.make_stream(
                b"/X Do " * 10,
                Type=pikepdf.Name.XObject,
                Subtype=pikepdf.Name.Form,
                BBox=[0, 0, 200, 300],
                Resources=pikepdf.Dictionary(XObject=pikepdf.Dictionary(X=form)),
            )
        for _ in range(before):
            add_page(pdf, content_of(MARKS, 0, 0))
        resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(X=form))
        add_page(pdf, b"/X Do", resources=resources)
        for _ in range(after):
            add_page(pdf, content_of(MARKS, 0, 0))
        pdf.save(path)
    return path


def write_scan(path, image, encoding, dpi=72, **options):
    """A PDF of one page that an embedded image fills."""
    data = io.BytesIO()
    image.save(data, encoding, **options)
    layout = img2pdf.get_fixed_dpi_layout_fun((dpi, dpi))
    path.write_bytes(img2pdf.convert(data.getvalue(), layout_fun=layout))
    return path


def photograph(mode="RGB", size=(200, 300)):
    """A smooth picture: L, or RGB with much colour."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    channels = [x, y, 255 - x] if mode == "RGB" else [(x + y) / 2]
    return Image.fromarray(np.squeeze(np.stack(channels, axis=2).astype(np.uint8)))


def print_page(size=(200, 300)):
    """A 1-bit page: black bars on white."""
    pixels = np.full((size[1], size[0]), 255, np.uint8)
    for top in range(20, size[1] - 60, 60):
        pixels[top : top + 25, 20:-40] = 0
    return Image.fromarray(pixels).convert("1")


# Choosing the engine ------------------------------------------------------------------------------


def test_pdfium_serves_where_poppler_is_not_installed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert choose_engine("auto").startswith("pdfium ")
    with pytest.raises(UserError, match=r"pdftoppm is not on the PATH.*poppler-utils"):
        choose_engine("poppler")


@needs_poppler
def test_engine_names_its_version():
    assert choose_engine("auto") == choose_engine("poppler")
    name, version = choose_engine("auto").split()
    assert name == "poppler"
    assert version[0].isdigit()
    assert choose_engine("pdfium").startswith("pdfium ")


# What a page image is -----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_vector_page_has_the_size_of_its_resolution(worker, tmp_path, engine):
    pdf = write_pages(tmp_path / "vector.pdf", 2)
    rows = render(worker, pdf, tmp_path / "images", engine=engine, dpi=144)
    assert [row["image"] for row in rows] == ["0001.jpg", "0002.jpg"]
    for row in rows:
        assert (row["width"], row["height"]) == (400, 600)
        assert (row["dpi_x"], row["dpi_y"]) == (144, 144)
        assert (row["page_width_pt"], row["page_height_pt"]) == (200, 300)
        assert (row["source"], row["rotation"]) == ("rendered", 0)
        assert row["engine"] == choose_engine(engine)
        image = load(tmp_path / "images", row)
        assert (image.format, image.mode) == ("JPEG", "RGB")
    from_rows("images", [{"document": "vector.pdf", **row} for row in rows])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("scan", "encoding", "options", "format_", "mode"),
    [
        (photograph("RGB"), "JPEG", {}, "JPEG", "RGB"),
        (photograph("L"), "JPEG", {}, "JPEG", "L"),
        # Grey scans stored in colour: what most scanners make of a page.
        (photograph("L").convert("RGB"), "JPEG", {"quality": 60}, "JPEG", "L"),
        (print_page(), "TIFF", {"compression": "group4"}, "PNG", "1"),
    ],
    ids=["color", "grey", "grey-as-color", "g4"],
)
def test_scans_keep_their_kind(worker, tmp_path, engine, scan, encoding, options, format_, mode):
    pdf = write_scan(tmp_path / "scan.pdf", scan, encoding, **options)
    (row,) = render(worker, pdf, tmp_path / "images", engine=engine)
    image = load(tmp_path / "images", row)
    assert (image.format, image.mode, image.size) == (format_, mode, (200, 300))
    shown = np.asarray(image.convert("RGB"), np.int16)
    difference = np.abs(shown - np.asarray(scan.convert("RGB"), np.int16))
    assert np.median(difference) <= 2
    # Poppler moves images by up to a pixel.
    assert (difference > 40).mean() < 0.03


@pytest.mark.parametrize("engine", ENGINES)
def test_page_with_an_invisible_text_layer_stays_bilevel(worker, tmp_path, engine):
    pages = {}
    for name, mode in (("hidden", 3), ("shown", 0)):
        path = write_scan(tmp_path / f"{name}.pdf", print_page(), "TIFF", compression="group4")
        with pikepdf.open(path, allow_overwriting_input=True) as pdf:
            font = pikepdf.Dictionary(
                Type=pikepdf.Name.Font,
                Subtype=pikepdf.Name.Type1,
                BaseFont=pikepdf.Name.Helvetica,
            )
            pdf.pages[0].Resources.Font = pikepdf.Dictionary(F=font)
            text = f"BT /F 12 Tf {mode} Tr 20 20 Td (read) Tj ET"
            pdf.pages[0].contents_add(text.encode())
            pdf.save()
        (row,) = render(worker, path, tmp_path / name, engine=engine)
        pages[name] = row["image"]
    assert pages == {"hidden": "0001.png", "shown": "0001.jpg"}


def write_annotated(path, subtype):
    """A bilevel scan with a red square of 50 points as an annotation in its lower left corner."""
    write_scan(path, print_page(), "TIFF", compression="group4")
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        red = pdf.make_stream(
            b"1 0 0 rg 0 0 50 50 re f",
            Type=pikepdf.Name.XObject,
            Subtype=pikepdf.Name.Form,
            BBox=[0, 0, 50, 50],
        )
        annotation = pikepdf.Dictionary(
            Type=pikepdf.Name.Annot,
            Subtype=subtype,
            F=4,
            Rect=[0, 0, 50, 50],
            AP=pikepdf.Dictionary(N=red),
        )
        if subtype == pikepdf.Name.Widget:
            annotation.FT, annotation.T, annotation.V = pikepdf.Name.Tx, "field", "filled in"
        annotation = pdf.make_indirect(annotation)
        pdf.pages[0].Annots = pikepdf.Array([annotation])
        if subtype == pikepdf.Name.Widget:
            pdf.Root.AcroForm = pikepdf.Dictionary(Fields=pikepdf.Array([annotation]))
        pdf.save()
    return path


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("subtype", ["/Stamp", "/Widget"])
def test_stamps_and_filled_in_fields_are_shown_in_colour(worker, tmp_path, engine, subtype):
    path = write_annotated(tmp_path / "a.pdf", pikepdf.Name(subtype))
    (row,) = render(worker, path, tmp_path / "images", engine=engine)
    red, green, blue = load(tmp_path / "images", row).convert("RGB").getpixel((20, 280))
    assert red > 230
    assert max(green, blue) < 40


@pytest.mark.parametrize("engine", ENGINES)
def test_links_do_not_show(worker, tmp_path, engine):
    path = write_annotated(tmp_path / "a.pdf", pikepdf.Name.Link)
    (row,) = render(worker, path, tmp_path / "images", engine=engine)
    assert row["image"] == "0001.png"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("color", "suffix"), [("0 0 0", "png"), ("0.8 0 0", "jpg")])
def test_stencils_keep_their_colour(worker, tmp_path, engine, color, suffix):
    with pikepdf.new() as pdf:
        stencil = pdf.make_stream(
            b"\xf0" * (25 * 300),
            Type=pikepdf.Name.XObject,
            Subtype=pikepdf.Name.Image,
            Width=200,
            Height=300,
            BitsPerComponent=1,
            ImageMask=True,
        )
        resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(I=stencil))
        content = f"{color} rg 200 0 0 300 0 0 cm /I Do"
        add_page(pdf, content.encode(), resources=resources)
        pdf.save(tmp_path / "a.pdf")
    (row,) = render(worker, tmp_path / "a.pdf", tmp_path / "images", engine=engine)
    assert row["image"] == f"0001.{suffix}"
    pixels = np.asarray(load(tmp_path / "images", row).convert("RGB"), int)
    assert (pixels[..., 0].mean() - pixels[..., 1].mean() > 50) == (suffix == "jpg")


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


# to_pdf -------------------------------------------------------------------------------------------


def find_marks(image):
    """Colour -> centre in pixels, pixel (0, 0) reaching from 0 to 1."""
    pixels = np.asarray(image.convert("RGB"), np.int16)
    found = {}
    for color in MARKS:
        near = np.abs(pixels - color).max(axis=2) < 70
        assert near.any(), color
        rows, columns = np.nonzero(near)
        found[color] = (np.median(columns) + 0.5, np.median(rows) + 0.5)
    return found


MARK_PAGES = [
    {"media": (0, 0, 200, 300), "rotate": rotate, "crop": crop, "origin": origin}
    for rotate in (0, 90, 180, 270)
    for crop, origin in ((None, (0, 0)), ((12.3, 24.6, 192.9, 288.2), (12, 24)))
] + [
    {"media": (-50, 100, 150.4, 400.7), "crop": None, "rotate": 0, "origin": (-50, 100)},
    # A CropBox that leads out of the MediaBox on one side.
    {"media": (0, 0, 200, 300), "crop": (-20, 10, 190, 310), "rotate": 90, "origin": (0, 10)},
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("inherit", [False, True], ids=["own", "inherited"])
def test_to_pdf_leads_from_pixels_to_points(worker, tmp_path, engine, inherit):
    """Boxes of a page itself, and those that it inherits from the page tree."""
    documents = [MARK_PAGES] if not inherit else [[page] for page in MARK_PAGES]
    for number, pages in enumerate(documents):
        path = write_pdf(
            tmp_path / f"{number}.pdf",
            *(
                {
                    "content": content_of(MARKS, *page["origin"]),
                    **{key: page[key] for key in ("media", "crop", "rotate")},
                }
                for page in pages
            ),
        )
        if inherit:
            with pikepdf.open(path, allow_overwriting_input=True) as pdf:
                for key in ("/MediaBox", "/CropBox", "/Rotate"):
                    if key in pdf.pages[0].obj:
                        pdf.Root.Pages[key] = pdf.pages[0].obj[key]
                        del pdf.pages[0].obj[key]
                pdf.save()
        folder = tmp_path / f"images-{number}"
        for page, row in zip(
            pages, render(worker, path, folder, engine=engine, dpi=150), strict=True
        ):
            assert row["rotation"] == page["rotate"]
            media, crop = page["media"], page["crop"] or page["media"]
            box = [max(media[0], crop[0]), max(media[1], crop[1])]
            box += [min(media[2], crop[2]), min(media[3], crop[3])]
            sides = [box[2] - box[0], box[3] - box[1]]
            if page["rotate"] in (90, 270):
                sides.reverse()
            size = [row["page_width_pt"], row["page_height_pt"]]
            # Poppler ignores a CropBox that is wider than the MediaBox.
            if crop[2] - crop[0] <= media[2] - media[0] or engine == "pdfium":
                assert size == pytest.approx(sides, abs=0.02)
            pixels = [row["width"], row["height"]]
            assert pixels == pytest.approx([side * 150 / 72 for side in size], abs=1)
            assert [row["dpi_x"], row["dpi_y"]] == pytest.approx([150, 150], rel=0.01)
            a, b, c, d, e, f = row["to_pdf"]
            for color, (u, v) in find_marks(load(folder, row)).items():
                point = (a * u + c * v + e, b * u + d * v + f)
                mark = [i + j for i, j in zip(MARKS[color], page["origin"], strict=True)]
                assert point == pytest.approx(mark, abs=1.5 * 72 / 150), (page, color)


@needs_poppler
def test_poppler_says_which_box_it_shows(worker, tmp_path):
    """It ignores a CropBox wider than the MediaBox, even where they overlap only in part."""
    path = write_pdf(
        tmp_path / "crop.pdf",
        {"content": content_of(MARKS, 0, 0), "crop": (25, 35, 400, 500), "rotate": 90},
    )
    (row,) = render(worker, path, tmp_path / "images", engine="poppler", dpi=150)
    a, b, c, d, e, f = row["to_pdf"]
    for color, (u, v) in find_marks(load(tmp_path / "images", row)).items():
        point = (a * u + c * v + e, b * u + d * v + f)
        assert point == pytest.approx(MARKS[color], abs=1.5 * 72 / 150)


# Documents that do not open, pages that do not render ---------------------------------------------


def write_encrypted(path):
    write_pages(path, 1)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.save(encryption=pikepdf.Encryption(owner="secret", user="secret"))


def write_truncated(path):
    write_pages(path, 3)
    path.write_bytes(path.read_bytes()[:300])


def write_no_pages(path):
    with pikepdf.new() as pdf:
        pdf.save(path)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_encrypted, "encrypted"),
        (write_truncated, "corrupt"),
        (lambda path: path.write_bytes(b""), "empty"),
        (write_no_pages, "empty"),
        (lambda path: path.write_text("Dear reader,\n" * 100), "corrupt"),
        (lambda path: photograph().save(path, "JPEG"), "corrupt"),
        (lambda path: path.mkdir(), "io"),
        (lambda path: None, "io"),
    ],
    ids=["encrypted", "truncated", "zero-bytes", "no-pages", "text", "jpeg", "folder", "missing"],
)
def test_document_that_does_not_open_is_one_row(worker, tmp_path, engine, write, reason):
    path = tmp_path / "document.pdf"
    write(path)
    (row,) = render(worker, path, tmp_path / "images", engine=engine)
    assert (row["page"], row["status"], row["stage"]) == (None, "failed", "images")
    assert row["reason"] == reason
    assert row["message"]
    assert not list((tmp_path / "images").iterdir())


def write_broken_page(path):
    """Five pages, of which the third is no page."""
    write_pdf(path, *({"media": (0, 0, 200 + number, 300)} for number in range(1, 6)))
    with pikepdf.open(path) as pdf:
        number, generation = pdf.pages[2].objgen
    start = b"\n%d %d obj\n" % (number, generation)
    data = path.read_bytes()
    assert data.count(start + b"<<") == 1
    path.write_bytes(data.replace(start + b"<<", start + b"[["))
    return path


@pytest.mark.parametrize("engine", ENGINES)
def test_one_broken_page_costs_that_page(worker, tmp_path, engine):
    """And the others keep their numbers: Poppler would give page 3 the image of page 4."""
    path = write_broken_page(tmp_path / "broken.pdf")
    rows = render(worker, path, tmp_path / "images", engine=engine)
    ok, broken = ("ok", None), ("failed", "corrupt")
    expected = [(1, *ok), (2, *ok), (3, *broken), (4, *ok), (5, *ok)]
    assert outcomes(rows) == expected
    assert [row.get("width") for row in rows] == [201, 202, None, 204, 205]


@pytest.mark.parametrize("engine", ENGINES)
def test_page_without_area_is_no_page_of_one_pixel(worker, tmp_path, engine):
    """Poppler gives one white pixel for it."""
    path = write_pdf(tmp_path / "none.pdf", {"crop": (400, 400, 500, 500)}, {})
    rows = render(worker, path, tmp_path / "images", engine=engine)
    assert outcomes(rows) == [(1, "failed", "unsupported"), (2, "ok", None)]


@pytest.mark.parametrize("engine", ENGINES)
def test_selected_pages_alone_are_rendered(worker, tmp_path, engine):
    path = write_pages(tmp_path / "document.pdf", 4)
    rows = render(worker, path, tmp_path / "images", engine=engine, pages=[2, 4, 7])
    assert outcomes(rows) == [(2, "ok", None), (4, "ok", None), (7, "failed", "unsupported")]
    assert "has 4 pages, the CSV names page 7" in rows[2]["message"]
    assert sorted(os.listdir(tmp_path / "images")) == ["0002.jpg", "0004.jpg"]


def test_name_that_is_no_utf8_is_a_name(worker, tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"sc\xe4n \n'1'.pdf")
    shutil.copy(write_pages(tmp_path / "a.pdf", 1), name)
    for engine in ("poppler", "pdfium") if shutil.which("pdftoppm") else ("pdfium",):
        rows = render(worker, name, tmp_path / "images", engine=engine)
        assert outcomes(rows) == [(1, "ok", None)], engine


# Limits, deaths -----------------------------------------------------------------------------------


def children(pid):
    """The processes that a process has started."""
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def lives(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("number", "reason", "says"),
    [
        (signal.SIGKILL, "memory", "SIGKILL"),
        (signal.SIGSEGV, "corrupt", "SIGSEGV"),
        (signal.SIGSTOP, "timeout", "images.limits.wall_seconds"),
    ],
)
def test_child_that_dies_or_hangs_costs_the_page_it_was_at(worker, tmp_path, number, reason, says):
    path = write_pages(tmp_path / "long.pdf", 60)
    sent = []

    def on_page():
        if not sent:
            (child,) = children(worker.process.pid)
            os.kill(child, number)
            sent.append(child)

    limits = {"wall_seconds": 3} if number == signal.SIGSTOP else {}
    rows = render(worker, path, tmp_path / "images", on_page=on_page, **limits)
    assert [row["page"] for row in rows] == list(range(1, 61))
    bad = [row for row in rows if row["status"] != "ok"]
    assert [row["reason"] for row in bad] == [reason]
    assert says in bad[0]["message"]
    assert not lives(sent[0])
    assert not children(worker.process.pid)
    assert all((tmp_path / "images" / row["image"]).exists() for row in rows if row not in bad)


def test_worker_that_is_killed_costs_the_page_it_was_at(worker, tmp_path):
    """Where memory runs out, the kernel may take the parent of the process that needed it."""
    path = write_pages(tmp_path / "long.pdf", 60)
    killed = []

    def on_page():
        if not killed:
            killed.extend((worker.process.pid, *children(worker.process.pid)))
            os.kill(worker.process.pid, signal.SIGKILL)

    rows = render(worker, path, tmp_path / "images", on_page=on_page)
    assert [row["page"] for row in rows] == list(range(1, 61))
    bad = [row for row in rows if row["status"] != "ok"]
    assert [(row["reason"], "SIGKILL" in row["message"]) for row in bad] == [("memory", True)]
    assert not any(lives(process) for process in killed)

    os.kill(worker.process.pid, signal.SIGKILL)  # At rest, it costs nothing.
    worker.process.wait()
    assert all(row["status"] == "ok" for row in render(worker, path, tmp_path / "images"))


def test_worker_that_cannot_start_fails_the_job_and_no_document(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    broken = Worker()
    with pytest.raises((RuntimeError, BrokenPipeError)):
        render(broken, write_pages(tmp_path / "a.pdf", 1), tmp_path / "images")
    broken.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_page_that_needs_too_much_time_costs_itself(worker, tmp_path, engine):
    path = write_bomb(tmp_path / "bomb.pdf", levels=9)
    rows = render(worker, path, tmp_path / "images", engine=engine, cpu_seconds=0.5)
    assert outcomes(rows) == [(1, "ok", None), (2, "failed", "timeout"), (3, "ok", None)]
    assert "images.limits.cpu_seconds (0.5 s)" in rows[1]["message"]


@needs_poppler
def test_page_that_needs_too_much_of_popplers_time_costs_itself(worker, tmp_path):
    """A pattern of 6 * 10 ** 8 tiles, which PDFium looks at in no time."""
    with pikepdf.new() as pdf:
        pattern = pdf.make_stream(
            b"0 0 .3 .3 re f",
            Type=pikepdf.Name.Pattern,
            PatternType=1,
            PaintType=1,
            TilingType=1,
            BBox=[0, 0, 1, 1],
            XStep=0.01,
            YStep=0.01,
            Resources=pikepdf.Dictionary(),
        )
        resources = pikepdf.Dictionary(Pattern=pikepdf.Dictionary(P=pattern))
        add_page(pdf, b"/Pattern cs /P scn 0 0 200 300 re f", resources=resources)
        add_page(pdf, content_of(MARKS, 0, 0))
        pdf.save(tmp_path / "tiles.pdf")
    path, folder = tmp_path / "tiles.pdf", tmp_path / "images"
    rows = render(worker, path, folder, engine="poppler", cpu_seconds=0.5)
    assert outcomes(rows) == [(1, "failed", "timeout"), (2, "ok", None)]
    assert "images.limits.cpu_seconds (0.5 s)" in rows[0]["message"]


def test_time_limit_is_per_page_not_per_document(worker, tmp_path, monkeypatch):
    tasks = []
    run = Worker.run
    monkeypatch.setattr(Worker, "run", lambda self, task: tasks.append(task) or run(self, task))
    with pikepdf.open(write_bomb(tmp_path / "slow.pdf", levels=5, before=0, after=0)) as pdf:
        for _ in range(9):
            pdf.pages.append(pdf.pages[0])
        pdf.save(tmp_path / "all.pdf")
    rows = render(worker, tmp_path / "all.pdf", tmp_path / "images", cpu_seconds=0.5)
    assert [row["status"] for row in rows] == ["ok"] * 10, rows
    assert len(tasks) > 1  # One child alone would have met the limit.


def test_page_beyond_the_pixel_limit_is_not_rendered(worker, tmp_path):
    path = write_pdf(tmp_path / "sizes.pdf", {}, {"media": (0, 0, 14_000, 14_000)}, {})
    started = time.monotonic()
    rows = render(worker, path, tmp_path / "images", dpi=300, max_pixels=5_000_000)
    assert outcomes(rows) == [(1, "ok", None), (2, "failed", "too_large"), (3, "ok", None)]
    assert "images.limits.max_pixels (5000000)" in rows[1]["message"]
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("engine", ENGINES)
def test_page_that_needs_too_much_memory_costs_itself(worker, tmp_path, engine):
    path = write_pdf(tmp_path / "large.pdf", {}, {"media": (0, 0, 9000, 9000)}, {})
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    idle = int(status.partition("VmSize:")[2].split()[0]) >> 10
    rows = render(worker, path, tmp_path / "images", engine=engine, memory_mb=idle + 150)
    assert outcomes(rows) == [(1, "ok", None), (2, "failed", "memory"), (3, "ok", None)]


@needs_poppler
def test_single_pixel_of_a_poppler_out_of_memory_is_no_page(tmp_path, monkeypatch):
    """pdftoppm ends with 0 and one white pixel where its bitmap finds no memory."""
    path = write_pages(tmp_path / "a.pdf", 1)
    monkeypatch.setattr(
        rendering.pdf2image, "convert_from_path", lambda *_, **__: [Image.new("RGB", (1, 1))]
    )
    document = rendering.PdfDocument(str(path), SETTINGS, LIMITS, choose_engine("poppler"))
    with pytest.raises(PageError, match="memory_mb") as raised:
        document.page(1)
    assert raised.value.reason == "memory"


def test_lower_limits_of_the_machine_stay(tmp_path):
    """As batch systems set them: `ulimit -v` in the job's shell."""
    path = write_pages(tmp_path / "a.pdf", 1)
    text = json.dumps(task(path, tmp_path / "images"))
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 6000000 -t 50; exec "$0" -m scanmill.rendering', sys.executable],
        input=text + "\n",
        env={**os.environ, "PYTHONPATH": str(Path(rendering.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["opened", "page", "row", "end"]
    assert events[2]["row"]["status"] == "ok"


def test_worker_leaves_no_process_behind(tmp_path):
    worker = Worker()
    render(worker, write_pages(tmp_path / "a.pdf", 3), tmp_path / "images")
    assert not children(worker.process.pid)
    worker.close()
    assert worker.process.returncode is not None
    assert not Path(f"/proc/{worker.process.pid}").exists()
    assert worker.process.pid not in children(os.getpid())


def test_worker_closed_at_work_takes_its_child_along(tmp_path):
    worker = Worker()
    path = write_bomb(tmp_path / "bomb.pdf", levels=9, before=0)
    messages = worker.run(task(path, tmp_path / "images"))
    while next(messages)["event"] != "page":
        pass
    (child,) = children(worker.process.pid)
    worker.close()
    wait_until(lambda: not lives(child))


def wait_until(holds, seconds=20):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


ORPHANS = """
import json, sys
from scanmill.rendering import Worker
worker = Worker()
for message in worker.run(json.loads(sys.argv[1])):
    if message["event"] == "page":
        print(worker.process.pid, flush=True)
"""


def test_worker_and_child_end_with_their_parent(tmp_path):
    path = write_bomb(tmp_path / "bomb.pdf", levels=9, before=0)
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, json.dumps(task(path, tmp_path / "images"))],
        env={**os.environ, "PYTHONPATH": str(Path(rendering.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    worker = int(parent.stdout.readline())
    pids = [worker, *children(worker)]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not any(map(lives, pids)))


# Page images as they were delivered ---------------------------------------------------------------


def test_untouched_images_are_copied(worker, tmp_path):
    photograph("RGB").save(tmp_path / "1.jpg", dpi=(200, 100))
    photograph("L").save(tmp_path / "2.jpg")
    print_page().save(tmp_path / "3.png")
    photograph("RGB").save(tmp_path / "4.png", dpi=(300, 300))
    names = ["1.jpg", "2.jpg", "3.png", "4.png"]
    paths = [tmp_path / name for name in names]
    rows = render(worker, paths, tmp_path / "images", kind="images")
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
def test_turned_photographs_are_upright(worker, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x011A], exif[0x011B], exif[0x0128] = 150.0, 300.0, 2
    path = tmp_path / "1.jpg"
    photograph("RGB").save(path, exif=exif, dpi=(150, 300), quality=95)
    (row,) = render(worker, [path], tmp_path / "images", kind="image")
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


def test_unusual_images_become_eight_bits_on_white(worker, tmp_path):
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
    rows = render(worker, paths, tmp_path / "images", kind="images")
    assert [row["status"] for row in rows] == ["ok"] * 7, rows
    images = [load(tmp_path / "images", row) for row in rows]
    modes = [(image.format, image.mode) for image in images]
    assert modes == [
        ("JPEG", "L"),
        ("JPEG", "RGB"),
        ("JPEG", "RGB"),
        ("JPEG", "RGB"),
        ("PNG", "1"),
        ("JPEG", "RGB"),
        ("JPEG", "L"),
    ]
    same_picture(images[0], deep >> 8, 2)
    same_picture(images[1].crop((0, 0, 95, 300)), photograph("RGB").crop((0, 0, 95, 300)))
    assert np.asarray(images[1])[:, 110:].min() > 240
    for image in (images[2], images[3], images[5]):
        same_picture(image, photograph("RGB"))
    assert np.array_equal(images[4], print_page())
    assert rows[4]["dpi_x"] == 400
    same_picture(images[6], photograph("L"))


def test_tiff_of_several_pages(worker, tmp_path):
    frames = [print_page(), photograph("L", (300, 200)), photograph("RGB", (100, 120))]
    path = tmp_path / "pages.tif"
    frames[0].save(path, save_all=True, append_images=frames[1:], dpi=(200, 200))
    rows = render(worker, path, tmp_path / "images", kind="tiff")
    assert [row["image"] for row in rows] == ["0001.png", "0002.jpg", "0003.jpg"]
    for row, frame in zip(rows, frames, strict=True):
        image = load(tmp_path / "images", row)
        assert image.mode == frame.mode
        same_picture(image, frame)
    rows = render(worker, path, tmp_path / "selected", kind="tiff", pages=[3, 4])
    assert outcomes(rows) == [(3, "ok", None), (4, "failed", "unsupported")]


def test_damaged_image_is_a_row_and_costs_no_other(worker, tmp_path):
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
    rows = render(worker, paths, tmp_path / "images", kind="images")
    reasons = [None, "corrupt", "corrupt", "corrupt", "corrupt", "io", None]
    assert [row.get("reason") for row in rows] == reasons
    # Not asked whether it is EPS.
    assert rows[4]["message"].endswith("no image that is known")
    assert sorted(os.listdir(tmp_path / "images")) == ["0001.jpg", "0007.jpg"]


def test_image_beyond_the_pixel_limit_is_not_decoded(worker, tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"no pixels")
    (tmp_path / "1.png").write_bytes(png)
    (row,) = render(worker, [tmp_path / "1.png"], tmp_path / "images", kind="image")
    assert row["reason"] == "too_large"


# A shard ------------------------------------------------------------------------------------------


def shard(archive, results, documents, limits=None, workers=1, **settings):
    """Run render_shard as the rule does; returns the outcome of each document, and the digests."""
    store = StageStore(
        results, "images", {**SETTINGS, **settings}, "code", limits={**LIMITS, **(limits or {})}
    )
    outcomes = {}

    class Recorder(Progress):
        def document(self, name, outcome, work, pages=0):
            outcomes[name] = outcome
            super().document(name, outcome, work, pages)

    progress = Recorder("render_pages", len(documents), 1)
    digests = render_shard(documents, archive, None, store, workers, progress)
    return outcomes, digests, store, progress


def describe(archive, name, kind="pdf", pages="", **columns):
    """A manifest's row of a file."""
    status = os.stat(archive / name)
    return Document(name, kind, name, status.st_size, status.st_mtime_ns, pages, **columns)


@pytest.fixture
def archive(tmp_path):
    archive = tmp_path / "archive"
    archive.mkdir()
    return archive


def test_shard_makes_records_once(tmp_path, archive):
    write_pages(archive / "a.pdf", 3)
    (archive / "sub").mkdir()
    write_pages(archive / "sub" / "b.pdf", 1)
    write_encrypted(archive / "c.pdf")
    documents = [describe(archive, name) for name in ("a.pdf", "sub/b.pdf", "c.pdf")]
    results = tmp_path / "results"
    outcome, digests, store, progress = shard(archive, results, documents, workers=2)
    assert set(outcome.values()) == {"computed"}
    assert progress.done_pages == 4
    table = store.read("a.pdf", "images")
    assert table.schema.remove_metadata().equals(SCHEMAS["images"])
    rows = table.to_pylist()
    assert [row["image"] for row in rows] == [f"store/a.pdf/images/000{i}.jpg" for i in (1, 2, 3)]
    assert {row["document"] for row in rows} == {"a.pdf"}
    for row in rows:
        load(results, row)
    (row,) = store.read("c.pdf", "images").to_pylist()
    assert (row["document"], row["page"], row["reason"]) == ("c.pdf", None, "encrypted")
    again, same_digests, _, _ = shard(archive, results, documents, workers=2)
    assert set(again.values()) == {"reused"}
    assert same_digests == digests
    # Touched: hashed again, not rendered again.
    os.utime(archive / "a.pdf")
    documents[0] = describe(archive, "a.pdf")
    assert shard(archive, results, documents)[0]["a.pdf"] == "reused"
    write_pages(archive / "a.pdf", 2)
    documents[0] = describe(archive, "a.pdf")
    outcome, _, store, _ = shard(archive, results, documents)
    assert outcome == {"a.pdf": "computed", "sub/b.pdf": "reused", "c.pdf": "reused"}
    assert store.read("a.pdf", "images").num_rows == 2
    assert sorted(os.listdir(results / "store" / "a.pdf" / "images")) == ["0001.jpg", "0002.jpg"]
    assert set(shard(archive, results, documents, dpi=80)[0].values()) == {"computed"}


def test_raised_limit_tries_the_failed_pages_again_and_only_those(tmp_path, archive):
    results = tmp_path / "results"
    large = {"media": (0, 0, 900, 900)}
    write_pdf(archive / "a.pdf", {}, large, {}, {"media": (0, 0, 1300, 1300)})
    document = [describe(archive, "a.pdf")]
    low, middle, high = ({"max_pixels": limit} for limit in (100_000, 1_000_000, 2_000_000))
    outcome, _, store, _ = shard(archive, results, document, low)
    assert outcome == {"a.pdf": "computed"}
    reasons = store.read("a.pdf", "images")["reason"].to_pylist()
    assert reasons == [None, "too_large", None, "too_large"]
    kept = {
        name: os.stat(results / f"store/a.pdf/images/{name}") for name in ("0001.jpg", "0003.jpg")
    }
    assert shard(archive, results, document, low)[0] == {"a.pdf": "reused"}
    assert shard(archive, results, document, {"max_pixels": 50_000})[0] == {"a.pdf": "reused"}
    # More memory does not help a page that is too large.
    assert shard(archive, results, document, {**low, "memory_mb": 9000})[0] == {"a.pdf": "reused"}
    outcome, _, store, progress = shard(archive, results, document, middle)
    assert outcome == {"a.pdf": "retried"}
    assert progress.done_pages == 2
    rows = store.read("a.pdf", "images").to_pylist()
    assert [row["reason"] for row in rows] == [None, None, None, "too_large"]
    for row in rows[:3]:
        load(results, row)
    for name, before in kept.items():
        now = os.stat(results / f"store/a.pdf/images/{name}")
        assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert shard(archive, results, document, middle)[0] == {"a.pdf": "reused"}
    assert shard(archive, results, document, high)[0] == {"a.pdf": "retried"}
    assert read_record_metadata(results, "a.pdf", "images").get("limits", "{}") == "{}"
    assert shard(archive, results, document, {"max_pixels": 9e9})[0] == {"a.pdf": "reused"}


def test_raised_limit_leaves_pages_alone_that_failed_under_another(tmp_path, archive, monkeypatch):
    tried = []

    def render(worker, task, on_page):
        """Page 1 is too large, page 2 takes too long."""
        tried.append(task["pages"])
        reasons = {1: "too_large", 2: "timeout"}
        return [{"page": n, **failed("images", reasons[n], "")} for n in task["pages"] or reasons]

    monkeypatch.setattr(rendering, "render_document", render)
    write_pdf(archive / "a.pdf", {}, {})
    document, results = [describe(archive, "a.pdf")], tmp_path / "results"
    low = {"max_pixels": 100, "cpu_seconds": 1, "wall_seconds": 1}
    shard(archive, results, document, low)
    assert shard(archive, results, document, {**low, "memory_mb": 9000})[0] == {"a.pdf": "reused"}
    assert shard(archive, results, document, {**low, "max_pixels": 200})[0] == {"a.pdf": "retried"}
    assert shard(archive, results, document, {**low, "max_pixels": 200})[0] == {"a.pdf": "reused"}
    raised = {"max_pixels": 200, "cpu_seconds": 1, "wall_seconds": 2}
    assert shard(archive, results, document, raised)[0] == {"a.pdf": "retried"}
    assert tried == [None, [1], [2]]


def test_raised_limit_works_without_hard_links(tmp_path, archive, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_pdf(archive / "a.pdf", {}, {"media": (0, 0, 900, 900)})
    document, results = [describe(archive, "a.pdf")], tmp_path / "results"
    shard(archive, results, document, {"max_pixels": 100_000})
    before = (results / "store/a.pdf/images/0001.jpg").read_bytes()
    outcome, _, store, _ = shard(archive, results, document)
    assert outcome == {"a.pdf": "retried"}
    assert store.read("a.pdf", "images")["status"].to_pylist() == ["ok", "ok"]
    assert (results / "store/a.pdf/images/0001.jpg").read_bytes() == before


def test_folder_of_images_is_in_natural_order(tmp_path, archive):
    (archive / "book").mkdir()
    for number in (1, 2, 10):
        image = Image.new("L", (100 + number, 50))
        image.save(archive / "book" / f"page-{number}.png")
    document = describe(archive, "book", "images", listing="1")
    _, digests, store, _ = shard(archive, tmp_path / "results", [document])
    assert store.read("book", "images")["width"].to_pylist() == [101, 102, 110]
    os.rename(archive / "book" / "page-1.png", archive / "book" / "page-30.png")
    document = describe(archive, "book", "images", listing="2")
    outcome, changed, store, _ = shard(archive, tmp_path / "results", [document])
    assert outcome == {"book": "computed"}
    assert changed != digests
    assert store.read("book", "images")["width"].to_pylist() == [102, 110, 101]


def test_selection_of_pages_is_part_of_a_document(tmp_path, archive):
    write_pages(archive / "a.pdf", 3)
    results = tmp_path / "results"
    _, _, store, _ = shard(archive, results, [describe(archive, "a.pdf", pages="2,5")])
    rows = store.read("a.pdf", "images").to_pylist()
    assert outcomes(rows) == [(2, "ok", None), (5, "failed", "unsupported")]
    outcome, _, store, _ = shard(archive, results, [describe(archive, "a.pdf", pages="1-2")])
    assert outcome == {"a.pdf": "computed"}
    assert store.read("a.pdf", "images")["page"].to_pylist() == [1, 2]


def test_what_the_plan_refused_is_a_row(tmp_path, archive):
    documents = [
        Document("outside.pdf", "outside", "outside.pdf", 0, 0),
        Document("missing.pdf", "missing", "missing.pdf", 0, 0),
        Document("pipe.pdf", "unsupported", "pipe.pdf", 0, 0),
        # Gone, or a folder that cannot be read, since the plan was made.
        Document("gone.pdf", "pdf", "gone.pdf", 100, 1),
        Document("gone", "images", "gone", 100, 1, listing="1"),
    ]
    outcome, digests, store, _ = shard(archive, tmp_path / "results", documents)
    assert set(outcome.values()) == {"computed"}
    assert set(digests.values()) == {None}
    found = {name: store.read(name, "images").to_pylist() for name in outcome}
    assert all(len(rows) == 1 and rows[0]["page"] is None for rows in found.values())
    reasons = {name: rows[0]["reason"] for name, rows in found.items()}
    assert reasons == {
        "outside.pdf": "unsupported",
        "missing.pdf": "io",
        "pipe.pdf": "unsupported",
        "gone.pdf": "io",
        "gone": "io",
    }
    assert "archive.follow_links" in found["outside.pdf"][0]["message"]
    assert set(shard(archive, tmp_path / "results", documents)[0].values()) == {"reused"}
    write_pages(archive / "gone.pdf", 1)
    outcome, _, store, _ = shard(archive, tmp_path / "results", [describe(archive, "gone.pdf")])
    assert store.read("gone.pdf", "images")["status"].to_pylist() == ["ok"]


def test_image_that_cannot_be_written_ends_the_job(worker, tmp_path):
    request = task(write_pages(tmp_path / "a.pdf", 2), tmp_path / "images")
    with pytest.raises(UserError, match="Cannot write"):
        render_document(worker, {**request, "folder": str(tmp_path / "nowhere")}, lambda: None)
    # All its messages but the last were read: this worker is of no further use.
    assert list(worker.run(request))


def test_document_after_an_error_is_not_blamed_for_it(tmp_path, archive, monkeypatch):
    """The worker of a document that was given up still speaks of that document."""
    for name in ("a.pdf", "b.pdf", "c.pdf"):
        write_pages(archive / name, 4)
    documents = [describe(archive, name) for name in ("a.pdf", "b.pdf", "c.pdf")]
    original = concurrent.futures.as_completed
    monkeypatch.setattr(
        rendering,
        "as_completed",
        # Nothing is cancelled, as when the next document is quicker than the news of the error.
        lambda futures: original(concurrent.futures.wait(futures).done),
    )
    calls = threading.local()
    page = Progress.page

    def raises_once(self, count=1):
        if not getattr(calls, "made", False):
            calls.made = True
            raise UserError("the disk is full")
        page(self, count)

    monkeypatch.setattr(Progress, "page", raises_once)
    results = tmp_path / "results"
    with pytest.raises(UserError, match="the disk is full"):
        shard(archive, results, documents)
    store = StageStore(results, "images", SETTINGS, "code")
    done = [
        name
        for name in ("a.pdf", "b.pdf", "c.pdf")
        if (document_folder(results, name) / "images.parquet").exists()
    ]
    assert done == ["b.pdf", "c.pdf"]
    for name in done:
        assert store.read(name, "images")["status"].to_pylist() == ["ok"] * 4
    assert not list((results / "store").rglob(".tmp-*"))


def test_opencv_is_told_apart_from_a_full_memory():
    error = cv2.error("no room")
    error.code = cv2.Error.STS_NO_MEM
    assert rendering._failure(error, LIMITS)["reason"] == "memory"
    assert rendering._failure(cv2.error("odd"), LIMITS)["reason"] == "corrupt"
    assert rendering._failure(OSError(12, "Cannot allocate memory"), LIMITS)["reason"] == "memory"
    assert rendering._failure(OSError(5, "Input/output error"), LIMITS)["reason"] == "io"
