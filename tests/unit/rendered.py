"""Documents to make page images of, and how tests have them made."""

import io
import os
import shutil

import img2pdf
import numpy as np
import pikepdf
import pytest
from PIL import Image

from scanmill.pdf_documents import choose_engines
from scanmill.rendering import render_document, run_task
from scanmill.workers import Worker, WorkerPool

needs_poppler = pytest.mark.skipif(
    shutil.which("pdftoppm") is None, reason="Poppler's pdftoppm is not installed"
)
ENGINES = [pytest.param("poppler", marks=needs_poppler), "pdfium"]
LIMITS = {"max_pixels": 2e8, "cpu_seconds": 60, "wall_seconds": 120, "memory_mb": 8192}
SETTINGS = {"dpi": 72, "lift": False, "renderer": "pdfium", "jpeg_quality": 90}
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
    worker = Worker("scanmill.rendering")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def pool():
    pool = WorkerPool(2, "scanmill.rendering")
    yield pool
    pool.close()


def task(paths, folder, kind="pdf", engine="pdfium", pages=None, dpi=72, lift=False, **limits):
    """A task as render_document takes them, and as it gives them to a worker first."""
    folder.mkdir(exist_ok=True)
    paths = paths if isinstance(paths, list) else [paths]
    return {
        "kind": kind,
        "paths": [os.fsencode(path).hex() for path in paths],
        "pages": pages,
        "folder": str(folder),
        "settings": {**SETTINGS, "dpi": dpi, "lift": lift},
        "limits": {**LIMITS, **limits},
        "engines": choose_engines(engine),
        "engine": choose_engines(engine)[0],
        "inspect": True,
        "forms": True,
        "numbered": False,
    }


def render(pool, *arguments, on_page=lambda: None, **options):
    """The rows of a document, tried in every way there is."""
    return render_document(pool, task(*arguments, **options), on_page)


def run(worker, *arguments, on_page=lambda: None, **options):
    """The rows of what one worker makes of a document's first pages in one way."""
    outcome = run_task(worker, task(*arguments, **options), on_page)
    return [{"page": page, **row} for page, row in sorted(outcome.rows.items())]


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


def write_tiles(path, before=0, after=0):
    """A page with a pattern of 6 * 10 ** 8 tiles, which PDFium looks at in no time, and others."""
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
        for _ in range(before):
            add_page(pdf, content_of(MARKS, 0, 0))
        add_page(pdf, b"/Pattern cs /P scn 0 0 200 300 re f", resources=resources)
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


def write_encrypted(path):
    write_pages(path, 1)
    with pikepdf.open(path, allow_overwriting_input=True) as pdf:
        pdf.save(encryption=pikepdf.Encryption(owner="secret", user="secret"))
