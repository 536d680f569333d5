"""The pages of a PDF as images: lifted where they are scans, otherwise rendered.

Poppler renders by pdf2image, in runs of pages, since most of the time of a single page would go into
starting and opening; PDFium renders in this process.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pdf2image
import pdf2image.exceptions
import pikepdf
import pypdfium2
import pypdfium2.raw as pdfium_c
from PIL import Image

from scanmill.errors import UserError
from scanmill.lifting import bounds, has_marks, is_bit_image, lift, page_objects
from scanmill.page_images import (
    LONGEST_SIDE,
    POINTS_PER_INCH,
    PageBox,
    PageError,
    PageImage,
    choose_dpi,
    encode_page,
    is_grey,
    to_pdf,
)
from scanmill.workers import cpu_used, too_much_memory, too_slow

#: Pages that one pdftoppm renders: more save little, and are all done again one by one if one fails.
PAGES_PER_CALL = 32

#: Of pages that come uncompressed, which lie on the disk until all are read.
PIXMAPS_PER_CALL = 8

#: A page of which images cover this much is a scan, with whatever else is on it.
SCAN_SHARE = 0.8

#: Pixels per inch, and in all, of the small picture of a page that tells whether it is grey.
PREVIEW_DPI = 36
PREVIEW_PIXELS = 1e6


def poppler_version() -> str | None:
    """Version of the installed pdftoppm, or None."""
    if shutil.which("pdftoppm") is None:
        return None
    said = subprocess.run(["pdftoppm", "-v"], capture_output=True, text=True, check=False).stderr
    return said.split("\n")[0].rpartition(" ")[2] or "unknown"


def choose_engines(renderer: str) -> list[str]:
    """The engines, with their versions, that `images.renderer` stands for on this machine, in the order
    in which they try a page."""
    pdfium = f"pdfium {pypdfium2.version.PDFIUM_INFO.version}"
    poppler = poppler_version() if renderer in ("auto", "poppler") else None
    if renderer == "poppler" and not poppler:
        raise UserError(
            "images.renderer is `poppler`, but pdftoppm is not on the PATH. Install Poppler "
            "(Debian and Ubuntu: apt-get install poppler-utils; conda: poppler) or set `auto`."
        )
    engines = [f"poppler {poppler}"] if poppler else []
    return engines if renderer == "poppler" else [*engines, pdfium]


def page_box(page: pypdfium2.PdfPage, unit: float) -> PageBox:
    """The CropBox within the MediaBox, as viewers show it; empty where they do not overlap."""
    # get_mediabox and get_cropbox would miss what a page inherits from the page tree.
    return PageBox(*page.get_bbox(), page.get_rotation(), unit)


def image_share(page: pypdfium2.PdfPage, box: PageBox) -> tuple[float, bool]:
    """The share of a page that images cover, and whether all that it shows is 1-bit images in black.

    Text is allowed where it is invisible (render mode 3): the layer that OCR adds.
    """
    covered, bilevel = 0.0, not has_marks(page)
    for item, matrix, kind in page_objects(page):
        if kind == pdfium_c.FPDF_PAGEOBJ_IMAGE:
            bilevel = bilevel and is_bit_image(item, page)
            left, bottom, right, top = bounds(item, matrix)
            covered += max(right - left, 0.0) * max(top - bottom, 0.0)
        elif kind == pdfium_c.FPDF_PAGEOBJ_TEXT:
            mode = pdfium_c.FPDFTextObj_GetTextRenderMode(item) if bilevel else None
            bilevel = mode == pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE
        elif kind != pdfium_c.FPDF_PAGEOBJ_FORM:
            bilevel = False
    area = (box.x_max - box.x_min) * (box.y_max - box.y_min)
    return (covered / area if area else 0.0), bilevel


def is_bilevel(page: pypdfium2.PdfPage, box: PageBox) -> bool:
    """Whether a page is a bilevel scan: nothing but 1-bit images in black that cover most of it."""
    share, bilevel = image_share(page, box)
    return bilevel and share >= SCAN_SHARE


def _unopened(error: pypdfium2.PdfiumError) -> PageError:
    """Why PDFium did not open a file."""
    code = getattr(error, "err_code", None)
    if code == pdfium_c.FPDF_ERR_PASSWORD:
        return PageError("encrypted", "the PDF needs a password")
    if code == pdfium_c.FPDF_ERR_SECURITY:
        return PageError("encrypted", f"PDFium: {error}")
    if code == pdfium_c.FPDF_ERR_SUCCESS:  # What it says of a PDF whose page tree is empty.
        return PageError("empty", "the PDF has no pages")
    return PageError("corrupt", f"PDFium: {error}")


class _Wanted(NamedTuple):
    """A page that Poppler is to render."""

    number: int
    box: PageBox
    dpi: float
    style: str
    """`bilevel`, `grey` or `colour`."""


class PdfDocument:
    """An open PDF.

    `engine` renders. With `inspect`, PDFium and qpdf look into the file first: pages that are scans are
    lifted, and scans without colour come out grey. Without it Poppler works alone: then `numbered` says
    that pages have their numbers from PDFium. Without `forms` PDFium leaves out what fields are filled
    with.
    """

    def __init__(
        self,
        path: str,
        settings: Mapping,
        limits: Mapping,
        engine: str,
        inspect: bool = True,
        forms: bool = True,
        numbered: bool = False,
    ) -> None:
        """Raises PageError where the file cannot be opened."""
        self.path, self.settings, self.limits, self.engine = path, settings, limits, engine
        with open(path, "rb") as file:  # An OSError names the cause better than any engine.
            if not file.read(1):
                raise PageError("empty", "the file has no bytes")
        self.pdf: pypdfium2.PdfDocument | None = None
        problem = None
        self.structure: pikepdf.Pdf | None = None
        #: Whether Poppler numbers the pages as they are numbered; None where nobody has looked.
        self.in_order: bool | None = None
        if inspect or not self.by_poppler:
            try:
                self.pdf = pypdfium2.PdfDocument(path)
                self.pages = len(self.pdf)
            except pypdfium2.PdfiumError as error:
                problem = _unopened(error)
                if problem.reason == "encrypted" or not self.by_poppler:
                    raise problem from error
        if inspect and self.pdf is not None:
            self._open_structure()
        if self.pdf is None:
            self.pages = self._count_with_poppler(problem)
            self.in_order = None if numbered else True
        if not self.pages:
            raise PageError("empty", "the PDF has no pages")
        if forms and not self.by_poppler:
            self.pdf.init_forms()  # Otherwise PDFium leaves out what fields are filled with.

    def _open_structure(self) -> None:
        try:
            self.structure = pikepdf.open(self.path)
            if len(self.structure.pages) == self.pages and not self.structure.get_warnings():
                self.in_order = True
            # A page tree may claim any number of pages; each would become a failed row.
            if self.pages > len(self.structure.objects):
                self.pages = len(self.structure.pages)
        except Exception:  # Whatever qpdf makes of a damaged file: then nothing is lifted.
            self.structure = None

    @property
    def by_poppler(self) -> bool:
        """Whether Poppler renders, not PDFium."""
        return self.engine.startswith("poppler")

    def images(
        self, numbers: Sequence[int], folder: Path, tell: Callable[[str, int], None]
    ) -> Iterator[tuple[int, PageImage | Exception]]:
        """Pages (1-based) in any order, each as its image or with what it failed by.

        `tell` hears ("page", number) before a page is opened and ("render", number) before the engine
        is asked for it. Files are made in `folder`.
        """
        for start in range(0, len(numbers), PAGES_PER_CALL):
            wanted = []
            for number in numbers[start : start + PAGES_PER_CALL]:
                tell("page", number)
                try:
                    image = self._look_at(number, tell)
                except Exception as error:
                    image = error
                if isinstance(image, _Wanted):
                    wanted.append(image)
                else:
                    yield number, image
            for run in _runs(wanted):
                yield from self._by_poppler(run, folder, tell)

    def _look_at(self, number: int, tell: Callable[[str, int], None]) -> PageImage | _Wanted:
        """The image of a page, or what Poppler has to render."""
        page = box = None
        if self.pdf is not None:
            try:
                page = self.pdf[number - 1]
                box = page_box(page, self._unit(number))
            except pypdfium2.PdfiumError as error:
                if not self.by_poppler:
                    raise PageError("corrupt", f"PDFium: {error}") from error
                page = box = None  # Poppler may still be able to.
        if page is not None and self.structure is not None and self.settings["lift"]:
            lifted = lift(self.structure, page, number, box, self.limits)
            if lifted is not None:
                return lifted
        if self.by_poppler:
            self._check_numbering()
        if not self.by_poppler:
            if page is None:
                raise PageError("corrupt", "PDFium: it cannot load the page")
            tell("render", number)
            return self._by_pdfium(page, box)
        if box is None or 0 in box.size:
            box = self._poppler_box(number)
        dpi = choose_dpi(box, self.settings["dpi"], self.limits)
        return _Wanted(number, box, dpi, "colour" if page is None else _style(page, box))

    def _unit(self, number: int) -> float:
        """/UserUnit of a page: neither engine heeds it."""
        try:
            unit = float(self.structure.pages[number - 1].obj.get("/UserUnit", 1))
        except Exception:  # No structure, no such page, no number.
            return 1.0
        return unit if 0 < unit < math.inf else 1.0

    # PDFium ---------------------------------------------------------------------------------------

    def _by_pdfium(self, page: pypdfium2.PdfPage, box: PageBox) -> PageImage:
        dpi = choose_dpi(box, self.settings["dpi"], self.limits)
        scale = dpi * box.unit / POINTS_PER_INCH
        pixels = page.render(scale=scale, rev_byteorder=True).to_numpy()
        bilevel = is_bilevel(page, box)
        data, suffix = encode_page(pixels, bilevel, self.settings["jpeg_quality"])
        return self._rendered(data, suffix, pixels.shape[1::-1], box, dpi)

    def _rendered(
        self, data: bytes | Path, suffix: str, size: tuple[int, int], box: PageBox, dpi: float
    ) -> PageImage:
        units = POINTS_PER_INCH / (dpi * box.unit)
        scale = (units, units)
        if not self.by_poppler:
            # PDFium stretches the box over whole pixels, Poppler cuts the last one.
            scale = (box.size[0] / size[0], box.size[1] / size[1])
        note = None
        if dpi != self.settings["dpi"]:
            note = (
                f"rendered at {dpi:.0f} dpi instead of {self.settings['dpi']:g}: the page would have "
                f"more pixels than images.limits.max_pixels ({self.limits['max_pixels']:.0f}), or than "
                f"{LONGEST_SIDE} on a side"
            )
        return PageImage(
            data,
            suffix,
            *size,
            tuple(POINTS_PER_INCH / (step * box.unit) for step in scale),
            "rendered",
            self.engine,
            box.rotation,
            box.size,
            to_pdf(box, *scale),
            note,
        )

    # Poppler --------------------------------------------------------------------------------------

    def _count_with_poppler(self, problem: PageError | None) -> int:
        """The number of pages of a file that PDFium could not open for `problem`, or must not."""
        try:
            return int(pdf2image.pdfinfo_from_path(self.path)["Pages"])
        except (pdf2image.exceptions.PDFPageCountError, KeyError, ValueError) as error:
            if "Incorrect password" in str(error):
                raise PageError("encrypted", "the PDF needs a password") from error
            if problem is not None:
                raise PageError(problem.reason, f"{problem}; Poppler: {error}") from error
            raise PageError("corrupt", f"Poppler: {error}") from error

    def _check_numbering(self) -> None:
        """Leave a document to PDFium whose pages Poppler numbers otherwise.

        Poppler leaves out what is no page and counts on, so that the last one is not found; by its
        numbers, pages would get the images of others.
        """
        if self.in_order is None:
            try:
                self._poppler_box(self.pages)
                self.in_order = True
            except PageError:
                self.in_order = False
        if self.in_order:
            return
        if self.pdf is None:
            raise PageError("corrupt", "Poppler: its numbers of the pages cannot be relied upon")
        (self.engine,) = choose_engines("pdfium")
        self.pdf.init_forms()

    def _poppler_box(self, number: int) -> PageBox:
        """The visible box of a page as Poppler takes it, or the MediaBox, if nothing of it is visible.

        Raises PageError where it finds no such page.
        """
        query = ["pdfinfo", "-box", "-f", str(number), "-l", str(number), self.path]
        said = subprocess.run(query, capture_output=True, text=True, errors="replace", check=False)
        lines = dict(re.findall(rf"^Page +{number} (\w+): +(.+)$", said.stdout, re.MULTILINE))
        try:
            rotation, unit = int(lines["rot"]), self._unit(number)
            cropped, whole = (
                PageBox(*map(float, lines[name].split()), rotation, unit)
                for name in ("CropBox", "MediaBox")
            )
            return whole._replace(uncropped=True) if 0 in cropped.size else cropped
        except (KeyError, TypeError, ValueError) as error:
            first = (said.stderr.splitlines() or ["it does not say why"])[0]
            raise PageError("corrupt", f"Poppler finds no page {number}: {first}") from error

    def _by_poppler(
        self, run: Sequence[_Wanted], folder: Path, tell: Callable[[str, int], None]
    ) -> Iterator[tuple[int, PageImage | Exception]]:
        """Consecutive pages of one style: all at once, and what that leaves out one by one."""
        with tempfile.TemporaryDirectory(dir=folder, prefix=".poppler-") as scratch:
            files = {}
            if len(run) > 1:
                tell("render", run[0].number)
                files = self._call(run, Path(scratch), self.limits["wall_seconds"] / 4)
            for wanted in run:
                try:
                    file = files.get(wanted.number)
                    image = file and self._checked(file, wanted)
                    if image is None:
                        tell("page", wanted.number)
                        tell("render", wanted.number)
                        image = self._alone(wanted, Path(scratch))
                except Exception as error:
                    image = error
                yield wanted.number, image

    def _alone(self, wanted: _Wanted, scratch: Path) -> PageImage:
        """One page. Poppler says nothing of why it made no image."""
        before = cpu_used(resource.RUSAGE_CHILDREN)
        file = self._call([wanted], scratch, None).get(wanted.number)
        image = file and self._checked(file, wanted)
        if image is None and file is not None:
            # It takes a CropBox that leads out of the MediaBox for another one.
            box = self._poppler_box(wanted.number)
            dpi = choose_dpi(box, self.settings["dpi"], self.limits)
            wanted = wanted._replace(box=box, dpi=dpi)
            file = self._call([wanted], scratch, None).get(wanted.number)
            image = file and self._checked(file, wanted)
            if image is None:
                _check_space(scratch)
                raise PageError("memory", f"{too_much_memory(self.limits)}, as it seems")
        if image is None:
            if cpu_used(resource.RUSAGE_CHILDREN) - before >= 0.95 * self.limits["cpu_seconds"]:
                raise PageError("timeout", too_slow(self.limits))
            _check_space(scratch)
            raise PageError("corrupt", "Poppler: no image")
        return image

    def _call(
        self, run: Sequence[_Wanted], scratch: Path, patience: float | None
    ) -> dict[int, Path]:
        """The image files that one pdftoppm makes of a run of pages, by number."""
        first = run[0]
        folder = Path(tempfile.mkdtemp(dir=scratch))
        jpeg = {"quality": self.settings["jpeg_quality"], "progressive": False, "optimize": False}
        colour = first.style == "colour"
        with contextlib.suppress(  # What it made before it failed is there.
            pdf2image.exceptions.PDFPageCountError,
            pdf2image.exceptions.PDFPopplerTimeoutError,
            ValueError,
        ):
            pdf2image.convert_from_path(
                self.path,
                dpi=first.dpi * first.box.unit,
                first_page=first.number,
                last_page=run[-1].number,
                use_cropbox=not first.box.uncropped,
                grayscale=not colour,
                fmt="jpeg" if colour else "ppm",  # Its grey JPEGs are RGB.
                jpegopt=jpeg if colour else None,
                output_folder=folder,
                paths_only=True,
                timeout=patience,
            )
        files = {}
        for path in folder.iterdir():
            number = re.search(r"-(\d+)\.\w+$", path.name)
            if number:
                files[int(number[1])] = path
        return files

    def _checked(self, file: Path, wanted: _Wanted) -> PageImage | None:
        """The page image in a file of Poppler's; None where it is not whole."""
        data = file.read_bytes()
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "PPM")) as image:
                size, jpeg = image.size, image.format == "JPEG"
        except (OSError, ValueError, SyntaxError):
            return None
        # A JPEG ends with EOI if pdftoppm came that far; where memory ends, its page is one pixel.
        n_pixels = size[0] * size[1]
        whole = data.endswith(b"\xff\xd9") if jpeg else len(data) > n_pixels
        expected = (inches * wanted.dpi for inches in wanted.box.inches)
        if not whole or any(abs(a - b) > 2 for a, b in zip(size, expected, strict=True)):
            return None
        if jpeg:
            return self._rendered(file, "jpg", size, wanted.box, wanted.dpi)
        # A PGM is a header and the pixels, row by row.
        pixels = np.frombuffer(data, np.uint8)[-n_pixels:].reshape(size[::-1])
        bilevel = wanted.style == "bilevel"
        data, suffix = encode_page(pixels, bilevel, self.settings["jpeg_quality"])
        return self._rendered(data, suffix, size, wanted.box, wanted.dpi)


def _style(page: pypdfium2.PdfPage, box: PageBox) -> str:
    """How Poppler is to render a page: `bilevel`, `grey` or `colour`.

    Grey pays where images are: other pages take longer in grey, and their JPEGs are as large.
    """
    share, bilevel = image_share(page, box)
    if share < SCAN_SHARE or has_marks(page):  # The preview has not what fields are filled with.
        return "colour"
    if bilevel:
        return "bilevel"
    width, height = page.get_size()
    scale = min(
        PREVIEW_DPI * box.unit / POINTS_PER_INCH, math.sqrt(PREVIEW_PIXELS / (width * height))
    )
    preview = page.render(scale=scale, rev_byteorder=True).to_numpy()
    # Nothing on it: what PDFium cannot show may have any colour.
    return "grey" if is_grey(preview[..., :3]) and preview.min() < 255 else "colour"


def _runs(wanted: Sequence[_Wanted]) -> Iterator[list[_Wanted]]:
    """Consecutive pages that one call can render."""
    run: list[_Wanted] = []
    for page in wanted:
        full = page.style != "colour" and len(run) == PIXMAPS_PER_CALL
        if run and (full or _call_key(run[-1], 1) != _call_key(page, 0)):
            yield run
            run = []
        run.append(page)
    if run:
        yield run


def _call_key(page: _Wanted, ahead: int) -> tuple[Any, ...]:
    return page.number + ahead, page.dpi * page.box.unit, page.style, page.box.uncropped


def _check_space(folder: Path) -> None:
    """Raise the OSError, if there is one, by which Poppler could not write: it does not say."""
    probe = folder / "probe"
    probe.write_bytes(bytes(1 << 22))
    probe.unlink()
