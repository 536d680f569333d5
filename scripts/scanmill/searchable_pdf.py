"""Searchable PDFs: documents with their recognized text, unseen, where it stands on the page.

A PDF keeps its pages as they are, and gets the lines that were recognized on their images (not those
that were taken from it). Other documents, and PDFs that cannot be rewritten, become PDFs of their page
images, whose bytes stay. Files are opened in worker processes alone
(`python -m scanmill.searchable_pdf`).

The text is in a font without outlines, each of whose characters is half as wide as high; a line is
stretched to its box. That is how Tesseract does it (its pdfrenderer.cpp), and needs no font of the
script.
"""

from __future__ import annotations

import io
import os
import signal
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import img2pdf
import pikepdf
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib.tables._g_l_y_f import Glyph
from pikepdf import Array, Dictionary, Name
from PIL import Image

from scanmill.layout_xml import xml_text
from scanmill.page_images import POINTS_PER_INCH, PageBox, to_pdf
from scanmill.workers import Worker, limit_cpu, serve, too_slow

#: Of page images that do not say theirs, pixels per inch.
DPI = 300.0
#: Pages made of images that are put together in one file at first: bounds memory, and open files.
PAGES_PER_PART = 64
#: In thousandths of the letters' height: how wide each is, and how far it goes below the line.
ADVANCE, DESCENT = 500, 200
#: A line so many times as high as wide, of several characters, runs downwards.
DOWNWARDS = 2.0
_FONT = Name("/ScanmillText")
#: Of an embedded font without names, as of ISO 32000-1, table 123: symbolic, of one width.
_FONT_FLAGS = 5
#: Codes in one section of a character map (Adobe technical note 5411, 1.4.1).
_CODES_PER_SECTION = 100

Line = Sequence[Any]
"""text, x_min, y_min, x_max, y_max: pixels of the page image."""


class PdfPage(NamedTuple):
    """A page to write."""

    number: int
    width: int
    height: int
    """Pixels of its image."""
    dpi: Sequence[float | None]
    """Of its image, along both sides."""
    to_pdf: Sequence[float] | None
    """Leads from the image's pixels to the PDF's units."""
    image: str | None
    """The path of its image; None where the PDF's own page is to be kept."""
    lines: Sequence[Line]


def write_searchable_pdf(
    worker: Worker,
    pages: Sequence[PdfPage],
    source: bytes | None,
    selected: Sequence[int] | None,
    output: Path,
    limits: Mapping[str, float],
) -> str | None:
    """Have a worker write `output`; returns None, or why there is none.

    With a `source` the PDF's own pages are kept, `selected` of them (None: all); without, pages are made
    of their images. `limits` are those of `images.limits`.
    """
    task = {
        "source": source and source.hex(),
        "selected": selected,
        "pages": pages,
        "output": str(output),
        "limits": dict(limits),
    }
    problem = None
    for message in worker.run(task):
        if message["event"] == "failed":
            problem = message["message"]
        elif message["event"] == "end" and (message["how"] == "timeout" or message["code"] != 0):
            problem = _how_it_ended(message, limits)
    if problem is not None:
        output.unlink(missing_ok=True)
    return problem


def _how_it_ended(end: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    if end["how"] == "timeout":
        return f"no page within images.limits.wall_seconds ({limits['wall_seconds']:g} s)"
    if end["code"] == -signal.SIGXCPU:
        return too_slow(limits)
    return f"the worker process ended with status {end['code']}, as when memory runs out"


# In the worker process ----------------------------------------------------------------------------


def work(task: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Write one document's PDF, or report what it failed by."""
    Image.MAX_IMAGE_PIXELS = None  # Page images are within images.limits.max_pixels.
    pages = [PdfPage(*page) for page in task["pages"]]

    def tell() -> None:
        limit_cpu(task["limits"]["cpu_seconds"])
        say(event="page")

    try:
        if task["source"] is None:
            _write_images(pages, Path(task["output"]), tell)
        else:
            path = os.fsdecode(bytes.fromhex(task["source"]))
            _write_original(path, task["selected"], pages, task["output"], tell)
    except Exception as error:  # Whatever a parser raises about a file is that file's failure.
        say(event="failed", message=f"{type(error).__name__}: {error}")


def _write_original(
    path: str,
    selected: Sequence[int] | None,
    pages: Sequence[PdfPage],
    output: str,
    tell: Callable[[], None],
) -> None:
    """Rewrite a PDF with the text of its pages."""
    with pikepdf.open(path) as pdf:
        last = max(page.number for page in pages)
        if last > len(pdf.pages):
            raise ValueError(f"qpdf finds {len(pdf.pages)} pages, and there is text of page {last}")
        font = TextFont(pdf)
        for page in pages:
            if page.lines:
                font.put(pdf.pages[page.number - 1], page.lines, page.to_pdf)
            tell()
        font.finish()
        if selected is not None:
            for number in sorted(set(range(1, len(pdf.pages) + 1)) - set(selected), reverse=True):
                del pdf.pages[number - 1]
        _save(pdf, output, tell)


def _write_images(pages: Sequence[PdfPage], output: Path, tell: Callable[[], None]) -> None:
    """Make a PDF of page images, whose bytes stay where PDF knows their coding, and the text on them."""
    parts = [
        pages[start : start + PAGES_PER_PART] for start in range(0, len(pages), PAGES_PER_PART)
    ]
    with ExitStack() as stack, pikepdf.new() as pdf:
        for number, part in enumerate(parts):
            path = output.with_name(f"{output.name}.part-{number}")
            stack.callback(path.unlink, missing_ok=True)
            _write_part(part, path, tell)
            pdf.pages.extend(stack.enter_context(pikepdf.open(path)).pages)
        font = TextFont(pdf)
        for page, target in zip(pages, pdf.pages, strict=True):
            box = PageBox(*map(float, target.mediabox), 0)
            width, height = box.size
            font.put(target, page.lines, to_pdf(box, width / page.width, height / page.height))
        font.finish()
        _save(pdf, output, tell)


def _write_part(pages: Sequence[PdfPage], path: Path, tell: Callable[[], None]) -> None:
    """A PDF of a few page images."""
    with pikepdf.new() as pdf, ExitStack() as stack:
        for page in pages:
            written = img2pdf.convert(
                page.image,
                layout_fun=_layout(page),
                rotation=img2pdf.Rotation.none,  # Page images are upright.
                allow_oversized=True,
            )
            pdf.pages.extend(stack.enter_context(pikepdf.open(io.BytesIO(written))).pages)
            tell()
        pdf.save(path)


def _layout(page: PdfPage) -> Callable[..., tuple[float, ...]]:
    """What tells img2pdf how large page and image are, in points."""
    x, y = (dpi or DPI for dpi in page.dpi)
    size = (page.width * POINTS_PER_INCH / x, page.height * POINTS_PER_INCH / y)
    return lambda *_: (*size, *size)


def _save(pdf: pikepdf.Pdf, output: str | Path, tell: Callable[[], None]) -> None:
    pdf.save(output, deterministic_id=True, progress=lambda _: tell())


# Text ---------------------------------------------------------------------------------------------


class TextFont:
    """The font of a PDF's unseen text: a code for each character that occurs."""

    def __init__(self, pdf: pikepdf.Pdf) -> None:
        """Nothing is in it yet."""
        self.pdf = pdf
        self.codes: dict[str, int] = {}
        self.object = pdf.make_indirect(Dictionary(Type=Name.Font))

    def put(self, page: pikepdf.Page, lines: Iterable[Line], matrix: Sequence[float]) -> None:
        """Put lines on a page; `matrix` leads from their pixels to the page's units.

        Before all else that is on it: what follows may leave any state behind, and nothing covers
        what is not painted.
        """
        shown = [self._show(*line, matrix) for line in lines]
        content = "\n".join(text for text in shown if text)
        if not content:
            return
        page.add_resource(self.object, Name.Font, _FONT)
        content = f"q BT 3 Tr {_FONT} 1 Tf\n{content}\nET Q\n"
        page.contents_add(content.encode("ascii"), prepend=True)

    def _show(
        self,
        text: str,
        x_min: float,
        y_min: float,
        x_max: float,
        y_max: float,
        matrix: Sequence[float],
    ) -> str:
        """The operators that put one line into its box."""
        text = xml_text(" ".join(text.split()))
        width, height = x_max - x_min, y_max - y_min
        if not text or width <= 0 or height <= 0:
            return ""
        # Pixels along the line, and from its foot to its head, and where its first letter stands.
        along, up, start = (width, 0.0), (0.0, -height), (x_min, y_max)
        if height > DOWNWARDS * width and len(text) > 1:
            along, up, start = (0.0, height), (width, 0.0), (x_min, y_min)
        elif _is_right_to_left(text):  # Readers take the order of letters from where they stand.
            along, start = (-width, 0.0), (x_max, y_max)
        stretch = 1000 / (ADVANCE * len(text))
        origin = [begin + DESCENT / 1000 * side for begin, side in zip(start, up, strict=True)]
        numbers = [
            *_turned(matrix, along[0] * stretch, along[1] * stretch),
            *_turned(matrix, *up),
            *(base + side for base, side in zip(matrix[4:], _turned(matrix, *origin), strict=True)),
        ]
        codes = "".join(f"{self._code(character):04x}" for character in text)
        return f"{' '.join(f'{number:.5f}' for number in numbers)} Tm <{codes}> Tj"

    def _code(self, character: str) -> int:
        """Codes begin at 1."""
        return self.codes.setdefault(character, len(self.codes) + 1)

    def finish(self) -> None:
        """Fill the font in: all its characters are known now."""
        pdf = self.pdf
        descriptor = Dictionary(
            Type=Name.FontDescriptor,
            FontName=_FONT,
            Flags=_FONT_FLAGS,
            FontBBox=Array([0, -DESCENT, ADVANCE, 1000 - DESCENT]),
            ItalicAngle=0,
            Ascent=1000 - DESCENT,
            Descent=-DESCENT,
            CapHeight=1000 - DESCENT,
            StemV=80,
            FontFile2=pdf.make_stream(blank_font()),
        )
        descendant = Dictionary(
            Type=Name.Font,
            Subtype=Name.CIDFontType2,
            BaseFont=_FONT,
            CIDSystemInfo=Dictionary(Registry="Adobe", Ordering="Identity", Supplement=0),
            FontDescriptor=pdf.make_indirect(descriptor),
            DW=ADVANCE,
            # Every code is the glyph 1: the glyph 0 stands for what is missing.
            CIDToGIDMap=pdf.make_stream(b"\0\1" * (len(self.codes) + 1)),
        )
        self.object.Subtype = Name.Type0
        self.object.BaseFont = _FONT
        self.object.Encoding = Name("/Identity-H")
        self.object.DescendantFonts = Array([pdf.make_indirect(descendant)])
        self.object.ToUnicode = pdf.make_stream(character_map(self.codes).encode("ascii"))


def _turned(matrix: Sequence[float], x: float, y: float) -> tuple[float, float]:
    """A direction in pixels, in units of the PDF."""
    a, b, c, d = matrix[:4]
    return a * x + c * y, b * x + d * y


def _is_right_to_left(text: str) -> bool:
    """Whether more letters of a text run to the left than to the right."""
    kinds = [unicodedata.bidirectional(character) for character in text]
    return sum(kind in ("R", "AL") for kind in kinds) > kinds.count("L")


def blank_font() -> bytes:
    """A TrueType font with one glyph, which is empty, beside that of missing characters."""
    names = [".notdef", "blank"]
    font = FontBuilder(unitsPerEm=1000, isTTF=True)
    font.updateHead(created=0, modified=0)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({})
    font.setupGlyf({name: Glyph() for name in names})
    font.setupHorizontalMetrics(dict.fromkeys(names, (ADVANCE, 0)))
    font.setupHorizontalHeader(ascent=1000 - DESCENT, descent=-DESCENT)
    font.setupPost()
    font.font.recalcTimestamp = False
    data = io.BytesIO()
    font.save(data)
    return data.getvalue()


def character_map(codes: Mapping[str, int]) -> str:
    """What leads from codes back to characters (ISO 32000-1, 9.10.3)."""
    pairs = [
        f"<{code:04x}> <{character.encode('utf-16-be').hex()}>" for character, code in codes.items()
    ]
    sections = [
        pairs[start : start + _CODES_PER_SECTION]
        for start in range(0, len(pairs), _CODES_PER_SECTION)
    ]
    listed = "\n".join(
        f"{len(section)} beginbfchar\n" + "\n".join(section) + "\nendbfchar" for section in sections
    )
    return f"""\
/CIDInit /ProcSet findresource begin
12 dict begin
begincmap
/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def
/CMapName /Adobe-Identity-UCS def
/CMapType 2 def
1 begincodespacerange
<0000> <ffff>
endcodespacerange
{listed}
endcmap
CMapName currentdict /CMap defineresource pop
end
end
"""


if __name__ == "__main__":
    serve(work)
