"""PDF pages become images: both engines, every kind of page, every way to be broken."""

import os
import re
import shutil
import time
import zlib

import numpy as np
import pikepdf
import pytest
from rendered import (  # noqa: F401
    ENGINES,
    MARKS,
    add_page,
    content_of,
    load,
    needs_poppler,
    outcomes,
    photograph,
    pool,
    print_page,
    render,
    write_encrypted,
    write_pages,
    write_pdf,
    write_scan,
)

from scanmill.errors import UserError
from scanmill.pdf_documents import choose_engines
from scanmill.tables import from_rows

# Choosing the engine ------------------------------------------------------------------------------


def test_pdfium_serves_where_poppler_is_not_installed(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert [engine.split()[0] for engine in choose_engines("auto")] == ["pdfium"]
    with pytest.raises(UserError, match=r"pdftoppm is not on the PATH.*poppler-utils"):
        choose_engines("poppler")


@needs_poppler
def test_engines_name_their_versions():
    assert choose_engines("auto") == choose_engines("poppler") + choose_engines("pdfium")
    assert re.fullmatch(r"poppler \d[\d.]+ pdfium \d\S+", " ".join(choose_engines("auto")))


# What a page image is -----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_vector_page_has_the_size_of_its_resolution(pool, tmp_path, engine):
    pdf = write_pages(tmp_path / "vector.pdf", 2)
    rows = render(pool, pdf, tmp_path / "images", engine=engine, dpi=144)
    assert [row["image"] for row in rows] == ["0001.jpg", "0002.jpg"]
    for row in rows:
        assert (row["width"], row["height"]) == (400, 600)
        assert (row["dpi_x"], row["dpi_y"]) == (144, 144)
        assert (row["page_width_pt"], row["page_height_pt"]) == (200, 300)
        assert (row["source"], row["rotation"]) == ("rendered", 0)
        assert row["engine"] == choose_engines(engine)[0]
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
def test_scans_keep_their_kind(pool, tmp_path, engine, scan, encoding, options, format_, mode):
    pdf = write_scan(tmp_path / "scan.pdf", scan, encoding, **options)
    (row,) = render(pool, pdf, tmp_path / "images", engine=engine)
    image = load(tmp_path / "images", row)
    assert (image.format, image.mode, image.size) == (format_, mode, (200, 300))
    shown = np.asarray(image.convert("RGB"), np.int16)
    difference = np.abs(shown - np.asarray(scan.convert("RGB"), np.int16))
    assert np.median(difference) <= 2
    # Poppler moves images by up to a pixel.
    assert (difference > 40).mean() < 0.03


@pytest.mark.parametrize("engine", ENGINES)
def test_page_with_an_invisible_text_layer_stays_bilevel(pool, tmp_path, engine):
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
        (row,) = render(pool, path, tmp_path / name, engine=engine)
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
def test_stamps_and_filled_in_fields_are_shown_in_colour(pool, tmp_path, engine, subtype):
    path = write_annotated(tmp_path / "a.pdf", pikepdf.Name(subtype))
    (row,) = render(pool, path, tmp_path / "images", engine=engine)
    red, green, blue = load(tmp_path / "images", row).convert("RGB").getpixel((20, 280))
    assert red > 230
    assert max(green, blue) < 40


@pytest.mark.parametrize("engine", ENGINES)
def test_links_do_not_show(pool, tmp_path, engine):
    path = write_annotated(tmp_path / "a.pdf", pikepdf.Name.Link)
    (row,) = render(pool, path, tmp_path / "images", engine=engine)
    assert row["image"] == "0001.png"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("color", "suffix"), [("0 0 0", "png"), ("0.8 0 0", "jpg")])
def test_stencils_keep_their_colour(pool, tmp_path, engine, color, suffix):
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
    (row,) = render(pool, tmp_path / "a.pdf", tmp_path / "images", engine=engine)
    assert row["image"] == f"0001.{suffix}"
    pixels = np.asarray(load(tmp_path / "images", row).convert("RGB"), int)
    assert (pixels[..., 0].mean() - pixels[..., 1].mean() > 50) == (suffix == "jpg")


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
def test_to_pdf_leads_from_pixels_to_points(pool, tmp_path, engine, inherit):
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
            pages, render(pool, path, folder, engine=engine, dpi=150), strict=True
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
def test_poppler_says_which_box_it_shows(pool, tmp_path):
    """It ignores a CropBox wider than the MediaBox, even where they overlap only in part."""
    path = write_pdf(
        tmp_path / "crop.pdf",
        {"content": content_of(MARKS, 0, 0), "crop": (25, 35, 400, 500), "rotate": 90},
    )
    (row,) = render(pool, path, tmp_path / "images", engine="poppler", dpi=150)
    a, b, c, d, e, f = row["to_pdf"]
    for color, (u, v) in find_marks(load(tmp_path / "images", row)).items():
        point = (a * u + c * v + e, b * u + d * v + f)
        assert point == pytest.approx(MARKS[color], abs=1.5 * 72 / 150)


# Documents that do not open, pages that do not render ---------------------------------------------


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
def test_document_that_does_not_open_is_one_row(pool, tmp_path, engine, write, reason):
    path = tmp_path / "document.pdf"
    write(path)
    (row,) = render(pool, path, tmp_path / "images", engine=engine)
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
def test_one_broken_page_costs_that_page(pool, tmp_path, engine):
    """And the others keep their numbers: Poppler would give page 3 the image of page 4."""
    path = write_broken_page(tmp_path / "broken.pdf")
    rows = render(pool, path, tmp_path / "images", engine=engine)
    ok, broken = ("ok", None), ("failed", "corrupt")
    expected = [(1, *ok), (2, *ok), (3, *broken), (4, *ok), (5, *ok)]
    assert outcomes(rows) == expected
    assert [row.get("width") for row in rows] == [201, 202, None, 204, 205]


@pytest.mark.parametrize("engine", ENGINES)
def test_page_whose_cropbox_shows_nothing(pool, tmp_path, engine):
    """Poppler can be told to show the MediaBox; otherwise it gives one white pixel. PDFium cannot."""
    path = write_pdf(tmp_path / "none.pdf", {"crop": (400, 400, 500, 500)}, {})
    rows = render(pool, path, tmp_path / "images", engine=engine)
    if engine == "poppler":
        assert outcomes(rows) == [(1, "ok", None), (2, "ok", None)]
        assert (rows[0]["width"], rows[0]["height"]) == (200, 300)
        assert rows[0]["to_pdf"] == [1, 0, 0, -1, 0, 300]
    else:
        assert outcomes(rows) == [(1, "failed", "unsupported"), (2, "ok", None)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "media",
    [
        (0, 0, 1e6, 1e6),
        (0, 0, 1e6, 1e-3),
        (0, 0, 200, 1e-3),
    ],
)
def test_page_boxes_that_no_image_can_have(pool, tmp_path, engine, media):
    path = write_pdf(tmp_path / "odd.pdf", {"media": media}, {})
    rows = render(pool, path, tmp_path / "images", engine=engine)
    assert [row["status"] for row in rows] == ["failed", "ok"]
    assert rows[0]["reason"] in ("too_large", "unsupported")


def test_box_that_is_none_is_a_letter(pool, tmp_path):
    """As PDFium has it; Poppler does not say which box it takes."""
    path = write_pdf(tmp_path / "odd.pdf", {"media": (0, 0, 0, 300)})
    (row,) = render(pool, path, tmp_path / "images", engine="auto")
    assert (row["width"], row["height"]) == (612, 792)


@pytest.mark.parametrize("engine", ENGINES)
def test_large_page_is_rendered_smaller_and_says_so(pool, tmp_path, engine):
    """A map of 0.7 m, and a strip longer than a JPEG can be."""
    path = write_pdf(
        tmp_path / "map.pdf",
        {"media": (0, 0, 2000, 2000), "content": content_of(MARKS, 0, 0)},
        {"media": (0, 0, 70_000, 20)},
        {},
    )
    rows = render(pool, path, tmp_path / "images", engine=engine, max_pixels=1_565_000)
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert [row["message"] is None for row in rows] == [False, False, True]
    assert rows[0]["message"].startswith("rendered at 45 dpi instead of 72: ")
    assert (rows[0]["width"], rows[1]["width"]) == (1250, 65_139)
    assert rows[0]["dpi_x"] == pytest.approx(45, rel=1e-3)
    a, b, c, d, e, f = rows[0]["to_pdf"]
    for color, (u, v) in find_marks(load(tmp_path / "images", rows[0])).items():
        assert (a * u + c * v + e, b * u + d * v + f) == pytest.approx(MARKS[color], abs=2)


@pytest.mark.parametrize("engine", ENGINES)
def test_user_unit_makes_pages_larger_than_their_boxes(pool, tmp_path, engine):
    path = write_pdf(tmp_path / "poster.pdf", {"content": content_of(MARKS, 0, 0)})
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.pages[0].UserUnit = 2
        pdf.save()
    (row,) = render(pool, path, tmp_path / "images", engine=engine, dpi=36)
    assert (row["width"], row["height"]) == (200, 300)
    assert (row["dpi_x"], row["page_width_pt"]) == (36, 200)
    a, b, c, d, e, f = row["to_pdf"]
    for color, (u, v) in find_marks(load(tmp_path / "images", row)).items():
        assert (a * u + c * v + e, b * u + d * v + f) == pytest.approx(MARKS[color], abs=1)


def write_loop(path):
    """A page tree whose node is its own child, and a form that paints itself."""
    with pikepdf.new() as pdf:
        form = pdf.make_stream(
            b"0 g 10 10 20 20 re f /X Do",
            Type=pikepdf.Name.XObject,
            Subtype=pikepdf.Name.Form,
            BBox=[0, 0, 200, 300],
        )
        form.Resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(X=form))
        add_page(pdf, b"/X Do", resources=pikepdf.Dictionary(XObject=pikepdf.Dictionary(X=form)))
        add_page(pdf, content_of(MARKS, 0, 0))
        pdf.Root.Pages.Kids.append(pdf.Root.Pages)
        pdf.Root.Pages.Count = 3
        pdf.save(path)


def write_zip_bomb(path):
    """A page whose content is a gigabyte of blanks in some kilobytes, and one of an image of them."""
    blanks = zlib.compress(zlib.compress(b" " * (1 << 30), 9), 9)
    zeros = zlib.compress(zlib.compress(bytes(1 << 30), 9), 9)
    with pikepdf.new() as pdf:
        twice = pikepdf.Array([pikepdf.Name.FlateDecode] * 2)
        add_page(pdf)
        pdf.pages[0].Contents = pikepdf.Stream(pdf, blanks, Filter=twice)
        image = pdf.make_stream(
            zeros,
            Type=pikepdf.Name.XObject,
            Subtype=pikepdf.Name.Image,
            Width=100,
            Height=100,
            BitsPerComponent=8,
            ColorSpace=pikepdf.Name.DeviceGray,
            Filter=twice,
        )
        resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(I=image))
        add_page(pdf, b"200 0 0 300 0 0 cm /I Do", resources=resources)
        none = pikepdf.StreamDecodeLevel.none
        pdf.save(path, compress_streams=False, recompress_flate=False, stream_decode_level=none)
    assert path.stat().st_size < 30_000


def write_lying_count(path):
    """Two pages and a page tree that claims a million."""
    write_pages(path, 2)
    data = path.read_bytes()
    assert data.count(b"/Count 2 ") == 1
    path.write_bytes(data.replace(b"/Count 2 ", b"/Count 1000000 "))


def write_missing_fonts(path):
    with pikepdf.new() as pdf:
        font = pikepdf.Dictionary(
            Type=pikepdf.Name.Font,
            Subtype=pikepdf.Name.TrueType,
            BaseFont=pikepdf.Name("/NobodyHasThisFont"),
        )
        text = b"BT /F0 24 Tf 20 100 Td (words) Tj ET BT /Gone 24 Tf 20 200 Td (words) Tj ET"
        for _ in range(2):
            resources = pikepdf.Dictionary(Font=pikepdf.Dictionary(F0=font))
            add_page(pdf, text, resources=resources)
        pdf.save(path)


def write_image_without_pixels(path):
    with pikepdf.new() as pdf:
        for width in (0, 100):
            image = pdf.make_stream(
                b"",
                Type=pikepdf.Name.XObject,
                Subtype=pikepdf.Name.Image,
                Width=width,
                Height=0,
                BitsPerComponent=8,
                ColorSpace=pikepdf.Name.DeviceGray,
            )
            resources = pikepdf.Dictionary(XObject=pikepdf.Dictionary(I=image))
            add_page(pdf, b"200 0 0 300 0 0 cm /I Do", resources=resources)
        pdf.save(path)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "write",
    [
        write_loop,
        write_zip_bomb,
        write_lying_count,
        write_missing_fonts,
        write_image_without_pixels,
    ],
)
def test_traps(pool, tmp_path, engine, write):
    """Each has two pages; whatever becomes of them, it is two rows, soon."""
    path = tmp_path / "trap.pdf"
    write(path)
    options = {"lift": True, "cpu_seconds": 20, "memory_mb": 3000}
    started = time.monotonic()
    rows = render(pool, path, tmp_path / "images", engine=engine, **options)
    assert time.monotonic() - started < 120
    assert [row["page"] for row in rows][:2] == [1, 2]
    assert all(row["status"] == "ok" or (row["reason"] and row["message"]) for row in rows)
    if write is not write_zip_bomb:
        assert [row["status"] for row in rows][:2] == ["ok", "ok"], rows
    assert len(rows) == (3 if write is write_loop and len(rows) == 3 else 2)


@needs_poppler
def test_what_only_poppler_opens_has_popplers_numbers(pool, tmp_path):
    """Two kilobytes of something else come first: PDFium looks no further than the first."""
    path = write_pages(tmp_path / "behind.pdf", 3)
    path.write_bytes(b"\0" * 2000 + path.read_bytes())
    rows = render(pool, path, tmp_path / "images", engine="auto")
    assert [(row["status"], row["engine"].split()[0]) for row in rows] == [("ok", "poppler")] * 3
    (row,) = render(pool, path, tmp_path / "none", engine="pdfium")
    assert row["reason"] == "corrupt"


@pytest.mark.parametrize("engine", ENGINES)
def test_selected_pages_alone_are_rendered(pool, tmp_path, engine):
    path = write_pages(tmp_path / "document.pdf", 4)
    rows = render(pool, path, tmp_path / "images", engine=engine, pages=[2, 4, 7])
    assert outcomes(rows) == [(2, "ok", None), (4, "ok", None), (7, "failed", "unsupported")]
    assert "no page 7: the document has 4 pages" in rows[2]["message"]
    assert sorted(os.listdir(tmp_path / "images")) == ["0002.jpg", "0004.jpg"]


def test_name_that_is_no_utf8_is_a_name(pool, tmp_path):
    name = os.path.join(os.fsencode(tmp_path), b"sc\xe4n \n'1'.pdf")
    shutil.copy(write_pages(tmp_path / "a.pdf", 1), name)
    for engine in ("poppler", "pdfium") if shutil.which("pdftoppm") else ("pdfium",):
        rows = render(pool, name, tmp_path / "images", engine=engine)
        assert outcomes(rows) == [(1, "ok", None)], engine
