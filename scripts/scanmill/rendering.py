"""Documents -> page images. The only module that knows PDF engines.

Untrusted files are opened in worker processes alone. A `Worker` is a small server process
(`python -m scanmill.rendering`) that forks a child for each document; the child limits its own address
space and CPU time, renders, and reports page by page. A child that dies or hangs costs the page it was
at; the next child goes on behind it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import itertools
import json
import math
import os
import queue
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pdf2image
import pdf2image.exceptions
import pypdfium2
import pypdfium2.raw as pdfium_c
from PIL import ExifTags, Image, ImageOps

from scanmill.archive import Document, page_files, parse_pages, source_path
from scanmill.errors import UserError
from scanmill.image_files import encode
from scanmill.progress import Progress, storage_error
from scanmill.store import (
    LIMITS_OF_REASON,
    Draft,
    SourceError,
    StageStore,
    read_record_metadata,
    source_digest,
)
from scanmill.tables import failed, from_rows

STAGE = "images"
POINTS_PER_INCH = 72.0

#: What the plan already knows cannot be opened, and why.
_REFUSED = {
    "outside": (
        "unsupported",
        "a link that leads out of the archive; archive.follow_links: true follows it",
    ),
    "missing": ("io", "there is no such file: a link that leads nowhere, or a path in the CSV"),
    "unsupported": ("unsupported", "not a regular file"),
}

#: A channel may differ from another by this much (of 255), and this share of pixels by more, on a page
#: that is stored as grey: JPEG noise of grey scans stays below, a red stamp or a yellowed leaf above.
GREY_TOLERANCE = 16
GREY_SHARE = 1e-5

#: Formats of page images. Pillow knows more, and starts Ghostscript for what turns out to be EPS.
IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "JPEG2000")

#: Degrees clockwise that make an image upright, by its EXIF Orientation (EXIF 2.3, 4.6.4); 4, 5 and 7
#: are mirrored as well.
EXIF_ROTATION = {3: 180, 4: 180, 5: 90, 6: 90, 7: 270, 8: 270}


class PageError(Exception):
    """A page or document that cannot become an image; carries a reason of the closed list."""

    def __init__(self, reason: str, message: str) -> None:
        """`reason` is one of `tables.REASONS`."""
        super().__init__(message)
        self.reason = reason


class PageImage(NamedTuple):
    """One page as an image file's bytes, and where it comes from."""

    data: bytes
    suffix: str
    width: int
    height: int
    dpi: tuple[float, float] | None
    source: str
    engine: str
    rotation: int
    page_size: tuple[float, float] | None
    to_pdf: list[float] | None


# Encoding -----------------------------------------------------------------------------------------


def is_grey(image: np.ndarray) -> bool:
    """Whether a colour image (H, W, 3) uint8 holds no colour worth keeping."""
    sample = image[::2, ::2].astype(np.int16)
    spread = sample.max(axis=2) - sample.min(axis=2)
    return np.count_nonzero(spread > GREY_TOLERANCE) <= GREY_SHARE * spread.size


def encode_page(image: np.ndarray, bilevel: bool, jpeg_quality: int) -> tuple[bytes, str]:
    """Encode (H, W) grey or (H, W, 3) RGB uint8: 1-bit PNG if `bilevel`, otherwise JPEG.

    Returns the file's bytes and its suffix. Colour images without colour are stored as grey.
    """
    suffix = "png" if bilevel else "jpg"
    if image.ndim == 3:
        grey = bilevel or is_grey(image)
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)
    try:
        return encode(image, suffix, bilevel, jpeg_quality), suffix
    except ValueError as error:
        raise PageError("unsupported", f"a page of {error}") from error


def check_pixels(width: float, height: float, limits: Mapping[str, float]) -> None:
    """Raise PageError where a page would exceed `images.limits.max_pixels`."""
    if width * height > limits["max_pixels"]:
        raise PageError(
            "too_large",
            f"{width:.0f} x {height:.0f} pixels are more than images.limits.max_pixels "
            f"({limits['max_pixels']:.0f})",
        )
    if width < 1 or height < 1:
        raise PageError("unsupported", f"a page of {width:.2f} x {height:.2f} pixels")


# PDF ----------------------------------------------------------------------------------------------


def poppler_version() -> str | None:
    """Version of the installed pdftoppm, or None."""
    if shutil.which("pdftoppm") is None:
        return None
    said = subprocess.run(["pdftoppm", "-v"], capture_output=True, text=True, check=False).stderr
    return said.split("\n")[0].rpartition(" ")[2] or "unknown"


def choose_engine(renderer: str) -> str:
    """The engine, with its version, that `images.renderer` stands for on this machine."""
    poppler = poppler_version() if renderer in ("auto", "poppler") else None
    if poppler:
        return f"poppler {poppler}"
    if renderer == "poppler":
        raise UserError(
            "images.renderer is `poppler`, but pdftoppm is not on the PATH. Install Poppler "
            "(Debian and Ubuntu: apt-get install poppler-utils; conda: poppler) or set `auto`."
        )
    return f"pdfium {pypdfium2.version.PDFIUM_INFO.version}"


class PageBox(NamedTuple):
    """The visible box of a PDF page in points, y up, and its rotation (degrees clockwise)."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    rotation: int

    @property
    def size(self) -> tuple[float, float]:
        """Width and height as shown, in points."""
        width, height = self.x_max - self.x_min, self.y_max - self.y_min
        return (height, width) if self.rotation in (90, 270) else (width, height)


def page_box(page: pypdfium2.PdfPage) -> PageBox:
    """The CropBox within the MediaBox, as viewers show it; empty where they do not overlap."""
    # get_mediabox and get_cropbox would miss what a page inherits from the page tree.
    return PageBox(*page.get_bbox(), page.get_rotation())


def to_pdf(box: PageBox, scale_x: float, scale_y: float) -> list[float]:
    """The affine (a, b, c, d, e, f) from image pixels (u right, v down) to PDF points (x, y up).

    x = a u + c v + e, y = b u + d v + f, as PDF writes matrices (ISO 32000-1, 8.3.3); `scale_*` are
    points per pixel along u and v of the image, which is turned clockwise by the page's rotation.
    """
    u, v = scale_x, scale_y
    return {
        0: [u, 0.0, 0.0, -v, box.x_min, box.y_max],
        90: [0.0, u, v, 0.0, box.x_min, box.y_min],
        180: [-u, 0.0, 0.0, v, box.x_max, box.y_min],
        270: [0.0, -u, -v, 0.0, box.x_max, box.y_max],
    }[box.rotation]


def is_bilevel(page: pypdfium2.PdfPage, box: PageBox) -> bool:
    """Whether all that a page shows is 1-bit images in black that cover most of it (a bilevel scan).

    Text is allowed where it is invisible (render mode 3): the layer that OCR adds.
    """
    if _has_marks(page):
        return False
    covered = 0.0
    for item in page.get_objects(max_depth=3):
        if item.type == pdfium_c.FPDF_PAGEOBJ_IMAGE:
            if item.get_metadata().bits_per_pixel != 1 or _is_colored(item):
                return False
            left, bottom, right, top = item.get_bounds()
            covered += max(right - left, 0.0) * max(top - bottom, 0.0)
        elif item.type == pdfium_c.FPDF_PAGEOBJ_TEXT:
            mode = pdfium_c.FPDFTextObj_GetTextRenderMode(item)
            if mode != pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE:
                return False
        elif item.type != pdfium_c.FPDF_PAGEOBJ_FORM:
            return False
    return covered >= 0.8 * (box.x_max - box.x_min) * (box.y_max - box.y_min)


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


def _is_colored(item: pypdfium2.PdfObject) -> bool:
    """Whether an image is a stencil through which something else than black is painted."""
    channels = [ctypes.c_uint() for _ in range(4)]
    painted = pdfium_c.FPDFPageObj_GetFillColor(item, *channels)
    return bool(painted) and any(channel.value for channel in channels[:3])


def _has_marks(page: pypdfium2.PdfPage) -> bool:
    """Whether a page has annotations that show: stamps, notes, filled-in fields, but not links."""
    for index in range(pdfium_c.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium_c.FPDFPage_GetAnnot(page, index)
        kind = pdfium_c.FPDFAnnot_GetSubtype(annotation)
        pdfium_c.FPDFPage_CloseAnnot(annotation)
        if kind not in (pdfium_c.FPDF_ANNOT_LINK, pdfium_c.FPDF_ANNOT_POPUP):
            return True
    return False


class PdfDocument:
    """An open PDF: its pages' boxes by PDFium, its pages' images by the engine chosen."""

    def __init__(self, path: str, settings: Mapping, limits: Mapping, engine: str) -> None:
        """Raises PageError where the file cannot be opened."""
        self.path, self.settings, self.limits, self.engine = path, settings, limits, engine
        with open(path, "rb") as file:  # An OSError names the cause better than any engine.
            if not file.read(1):
                raise PageError("empty", "the file has no bytes")
        self.pdf: pypdfium2.PdfDocument | None = None
        try:
            self.pdf = pypdfium2.PdfDocument(path)
            self.pages = len(self.pdf)
        except pypdfium2.PdfiumError as error:
            problem = _unopened(error)
            if problem.reason == "encrypted" or not self.by_poppler:
                raise problem from error
            self.pages = self._count_with_poppler(problem)
        if not self.pages:
            raise PageError("empty", "the PDF has no pages")
        if self.by_poppler and self.pdf is not None:
            # Poppler leaves out what is no page and counts on, so that the last one is not found;
            # by its numbers, pages would get the images of others.
            try:
                self._poppler_box(self.pages)
            except PageError:
                self.engine = choose_engine("pdfium")
        if not self.by_poppler:
            self.pdf.init_forms()  # Otherwise PDFium leaves out what fields are filled with.

    @property
    def by_poppler(self) -> bool:
        """Whether Poppler renders, not PDFium."""
        return self.engine.startswith("poppler")

    def _count_with_poppler(self, problem: PageError) -> int:
        """The number of pages of a file that PDFium could not open for `problem`."""
        try:
            return int(pdf2image.pdfinfo_from_path(self.path)["Pages"])
        except (pdf2image.exceptions.PDFPageCountError, KeyError, ValueError) as error:
            if "Incorrect password" in str(error):
                raise PageError("encrypted", "the PDF needs a password") from error
            raise PageError(problem.reason, f"{problem}; Poppler: {error}") from error

    def page(self, number: int) -> PageImage:
        """Render page `number` (1-based)."""
        page = box = None
        bilevel = False
        if self.pdf is not None:
            try:
                page = self.pdf[number - 1]
                box = page_box(page)
                bilevel = is_bilevel(page, box)
            except pypdfium2.PdfiumError as error:
                if not self.by_poppler:
                    raise PageError("corrupt", f"PDFium: {error}") from error
                page = box = None  # Poppler may still be able to.
        dpi = self.settings["dpi"]
        box = box or self._poppler_box(number)
        check_pixels(*_pixels(box, dpi), self.limits)
        if self.by_poppler:
            image = self._render_with_poppler(number, dpi, bilevel)
            if not _is_whole(image, box, dpi):
                # It takes a CropBox that leads out of the MediaBox for another one.
                box = self._poppler_box(number)
                check_pixels(*_pixels(box, dpi), self.limits)
            if not _is_whole(image, box, dpi):
                raise PageError("memory", f"{_too_much_memory(self.limits)}, as it seems")
            scale = (POINTS_PER_INCH / dpi, POINTS_PER_INCH / dpi)
        else:
            image = page.render(scale=dpi / POINTS_PER_INCH, rev_byteorder=True).to_numpy()
            # PDFium stretches the box over whole pixels, Poppler cuts the last one.
            scale = (box.size[0] / image.shape[1], box.size[1] / image.shape[0])
        height, width = image.shape[:2]
        check_pixels(width, height, self.limits)
        data, suffix = encode_page(image, bilevel, self.settings["jpeg_quality"])
        return PageImage(
            data,
            suffix,
            width,
            height,
            (POINTS_PER_INCH / scale[0], POINTS_PER_INCH / scale[1]),
            "rendered",
            self.engine,
            box.rotation,
            box.size,
            to_pdf(box, *scale),
        )

    def _poppler_box(self, number: int) -> PageBox:
        """The visible box of a page as Poppler takes it; PageError where it finds no such page."""
        query = ["pdfinfo", "-box", "-f", str(number), "-l", str(number), self.path]
        said = subprocess.run(query, capture_output=True, text=True, errors="replace", check=False)
        lines = dict(re.findall(rf"^Page +{number} (\w+): +(.+)$", said.stdout, re.MULTILINE))
        try:
            return PageBox(*map(float, lines["CropBox"].split()), int(lines["rot"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PageError("corrupt", f"Poppler finds no page {number}: {said.stderr}") from error

    def _render_with_poppler(self, number: int, dpi: int, grey: bool) -> np.ndarray:
        """(H, W) or (H, W, 3) RGB uint8. Poppler says nothing of why it made no image."""
        before = _cpu_used(resource.RUSAGE_CHILDREN)
        try:
            images = pdf2image.convert_from_path(
                self.path,
                dpi=dpi,
                first_page=number,
                last_page=number,
                use_cropbox=True,
                grayscale=grey,
            )
            if len(images) == 1:
                return np.asarray(images[0])
            cause = "no image"
        except pdf2image.exceptions.PDFPageCountError as error:
            cause = str(error)
        except (OSError, ValueError) as error:  # Half an image, as of a pdftoppm that was killed.
            if isinstance(error, OSError) and error.errno:
                raise
            cause = f"{type(error).__name__}: {error}"
        if _cpu_used(resource.RUSAGE_CHILDREN) - before >= 0.95 * self.limits["cpu_seconds"]:
            raise PageError("timeout", _too_slow(self.limits))
        raise PageError("corrupt", f"Poppler: {cause}")


def _pixels(box: PageBox, dpi: float) -> tuple[float, float]:
    """Width and height of a page's image."""
    return box.size[0] * dpi / POINTS_PER_INCH, box.size[1] * dpi / POINTS_PER_INCH


def _is_whole(image: np.ndarray, box: PageBox, dpi: float) -> bool:
    """Whether an image has the pixels of its page: Poppler gives one pixel where its memory ends."""
    height, width = image.shape[:2]
    wanted = _pixels(box, dpi)
    return abs(width - wanted[0]) <= 2 and abs(height - wanted[1]) <= 2


# Images -------------------------------------------------------------------------------------------


class ImageDocument:
    """A document of image files, or of the frames of one TIFF."""

    def __init__(self, paths: Sequence[str], settings: Mapping, limits: Mapping) -> None:
        """`paths` holds one path per page, or one path of a multi-page TIFF (`frames`)."""
        self.paths, self.settings, self.limits = paths, settings, limits
        self.frames = None
        self.pages = len(paths)
        if not paths:
            raise PageError("empty", "the folder has no page images")

    @classmethod
    def of_tiff(cls, path: str, settings: Mapping, limits: Mapping) -> ImageDocument:
        """A multi-page TIFF."""
        document = cls([path], settings, limits)
        with _image_errors():
            document.frames = Image.open(path, formats=IMAGE_FORMATS)
            document.pages = document.frames.n_frames
        return document

    def page(self, number: int) -> PageImage:
        """Page `number` (1-based), upright: bytes untouched where they can stay."""
        with _image_errors():
            if self.frames is not None:
                self.frames.seek(number - 1)
                return self._store(self.frames, None)
            path = self.paths[number - 1]
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                return self._store(image, path)

    def _store(self, image: Image.Image, path: str | None) -> PageImage:
        check_pixels(*image.size, self.limits)
        image.load()  # Decoded in any case: a damaged file must fail here, not at the detector.
        dpi = _dpi(image)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        turned = orientation != 1
        untouched = not turned and (
            (image.format == "JPEG" and image.mode in ("L", "RGB"))
            or (
                image.format == "PNG"
                and image.mode in ("1", "L", "RGB")
                and not _transparent(image)
            )
        )
        if path is not None and untouched:
            with open(path, "rb") as file:
                data = file.read()
            suffix = {"JPEG": "jpg", "PNG": "png"}[image.format]
            width, height, engine = *image.size, "copied"
        else:
            if turned:
                if dpi and orientation >= 5:  # Those that swap the axes.
                    dpi = (dpi[1], dpi[0])
                image = ImageOps.exif_transpose(image)
            bilevel = image.mode == "1"
            pixels = _eight_bits(image)
            data, suffix = encode_page(pixels, bilevel, self.settings["jpeg_quality"])
            width, height = image.size
            engine = f"pillow {Image.__version__}"
        size = matrix = None
        if dpi:
            size = (width * POINTS_PER_INCH / dpi[0], height * POINTS_PER_INCH / dpi[1])
            scale = (POINTS_PER_INCH / dpi[0], POINTS_PER_INCH / dpi[1])
            matrix = to_pdf(PageBox(0.0, 0.0, *size, 0), *scale)
        rotation = EXIF_ROTATION.get(orientation, 0)
        return PageImage(data, suffix, width, height, dpi, "file", engine, rotation, size, matrix)


@contextlib.contextmanager
def _image_errors() -> Iterator[None]:
    try:
        yield
    except Image.UnidentifiedImageError as error:  # Its own text is the path.
        raise PageError("corrupt", f"{type(error).__name__}: no image that is known") from error
    except (SyntaxError, EOFError, ValueError) as error:
        raise PageError("corrupt", f"{type(error).__name__}: {error}") from error
    except OSError as error:
        if error.errno:  # The file system's; Pillow's own have none.
            raise
        raise PageError("corrupt", f"{type(error).__name__}: {error}") from error


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """The resolution a file claims, if it can be that of a scan."""
    dpi = image.info.get("dpi")
    if dpi is None or not all(20 <= float(value) <= 10_000 for value in dpi):
        return None
    return float(dpi[0]), float(dpi[1])


def _transparent(image: Image.Image) -> bool:
    return "transparency" in image.info or image.mode in ("LA", "PA", "RGBA", "La", "RGBa")


def _eight_bits(image: Image.Image) -> np.ndarray:
    """(H, W) grey or (H, W, 3) RGB uint8; transparent pixels become white."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        wide = np.asarray(image).astype(np.int64)
        return (np.clip(wide, 0, 65535) >> 8).astype(np.uint8)
    if image.mode == "F":
        raise PageError("unsupported", "an image of floating-point numbers")
    if _transparent(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB"))


# The worker process -------------------------------------------------------------------------------


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve() -> None:
    """Read a task a line from standard input, run each in a forked child, relay what it reports."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback.
    for line in sys.stdin:
        task = json.loads(line)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _run_child(task, write_end)
        os.close(write_end)
        how = _relay(read_end, task["limits"]["wall_seconds"])
        os.close(read_end)
        with contextlib.suppress(ProcessLookupError):  # It may hang, or leave pdftoppm behind.
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"event": "end", "how": how, "code": code}), flush=True)


def _relay(descriptor: int, patience: float) -> str:
    """Pass the child's lines on until it ends, or says nothing for `patience` seconds."""
    rest = b""
    while True:
        ready, _, _ = select.select([descriptor], [], [], patience)
        if not ready:
            return "timeout"
        block = os.read(descriptor, 1 << 16)
        if not block:
            return "closed"
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()


def _run_child(task: Mapping[str, Any], write_end: int) -> None:
    """Render one document's pages under limits, report, and never return."""
    os.setsid()
    _die_with_parent()
    devnull = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(devnull, standard)

    def say(**message: object) -> None:
        os.write(write_end, json.dumps(message).encode() + b"\n")

    code = 0
    try:
        memory = int(task["limits"]["memory_mb"]) << 20
        _limit(resource.RLIMIT_AS, memory, memory)
        _limit(resource.RLIMIT_CORE, 0, 0)
        # images.limits.max_pixels is checked before anything is decoded.
        Image.MAX_IMAGE_PIXELS = None
        _render(task, say)
    except Exception as error:
        say(event="failed", row=_failure(error, task["limits"]))
    except BaseException:
        code = 1
    os._exit(code)


def _limit(kind: int, soft: float, hard: float) -> None:
    """Limit this process and its children, if there is not a lower limit already."""
    present = resource.getrlimit(kind)[1]
    if present != resource.RLIM_INFINITY:
        soft = min(soft, present)
        hard = present if hard == resource.RLIM_INFINITY else min(hard, present)
    resource.setrlimit(kind, (soft, hard))


def _failure(error: Exception, limits: Mapping[str, float]) -> dict[str, str]:
    """The outcome of a page or document that raised `error`: whatever a parser raises about a file is
    that file's failure."""
    if isinstance(error, PageError):
        return failed(STAGE, error.reason, str(error))
    if (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or getattr(error, "code", None) == cv2.Error.STS_NO_MEM
    ):
        return failed(STAGE, "memory", _too_much_memory(limits))
    if isinstance(error, OSError):
        return _unreadable(error)
    return failed(STAGE, "corrupt", f"{type(error).__name__}: {error}")


def _render(task: Mapping[str, Any], say: Callable[..., None]) -> None:
    settings, limits = task["settings"], task["limits"]
    _limit_cpu(limits["cpu_seconds"])
    paths = [os.fsdecode(bytes.fromhex(path)) for path in task["paths"]]
    if task["kind"] == "pdf":
        document = PdfDocument(paths[0], settings, limits, task["engine"])
    elif task["kind"] == "tiff":
        document = ImageDocument.of_tiff(paths[0], settings, limits)
    else:
        document = ImageDocument(paths, settings, limits)
    say(event="opened", pages=document.pages)
    folder = Path(task["folder"])
    for place, number in enumerate(task["pages"] or range(1, document.pages + 1)):
        if place and _cpu_used() > limits["cpu_seconds"]:
            return  # Limits count from a process's start: a fresh one goes on.
        say(event="page", page=number)
        try:
            _limit_cpu(limits["cpu_seconds"])
            if not 1 <= number <= document.pages:
                raise PageError(
                    "unsupported",
                    f"the document has {document.pages} pages, the CSV names page {number}",
                )
            row = _save(document.page(number), number, folder, say)
        except Exception as error:
            row = _failure(error, limits)
        say(event="row", page=number, row=row)
        if row.get("reason") == "memory":
            return  # What is left of this process's memory may not do for the next page.


def _save(page: PageImage, number: int, folder: Path, say: Callable[..., None]) -> dict:
    """Write the image; the columns of its row, `image` being the file's name."""
    name = f"{number:04d}.{page.suffix}"
    try:
        (folder / name).write_bytes(page.data)
    except OSError as error:
        say(event="fatal", message=storage_error(error) or f"Cannot write {folder / name}: {error}")
        os._exit(1)
    width_pt, height_pt = page.page_size or (None, None)
    dpi_x, dpi_y = page.dpi or (None, None)
    return {
        "status": "ok",
        "image": name,
        "width": page.width,
        "height": page.height,
        "dpi_x": dpi_x,
        "dpi_y": dpi_y,
        "source": page.source,
        "engine": page.engine,
        "rotation": page.rotation,
        "page_width_pt": width_pt,
        "page_height_pt": height_pt,
        "to_pdf": page.to_pdf,
        "sha256": hashlib.sha256(page.data).hexdigest(),
    }


def _cpu_used(who: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def _limit_cpu(seconds: float) -> None:
    """Have the kernel end this process after `seconds` more of CPU time; children inherit the bound."""
    soft = int(_cpu_used() + seconds) + 1
    _limit(resource.RLIMIT_CPU, soft, resource.RLIM_INFINITY)


def _too_slow(limits: Mapping[str, float]) -> str:
    return f"more than images.limits.cpu_seconds ({limits['cpu_seconds']:g} s)"


def _too_much_memory(limits: Mapping[str, float]) -> str:
    return f"more than images.limits.memory_mb ({limits['memory_mb']:g} MB)"


# The job's side -----------------------------------------------------------------------------------


class Worker:
    """A worker process as the job sees it."""

    def __init__(self) -> None:
        """Start the process."""
        self.process = self._start()

    def _start(self) -> subprocess.Popen:
        package = str(Path(__file__).parents[1])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        return subprocess.Popen(
            [sys.executable, "-m", "scanmill.rendering"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def run(self, task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The messages of a task, the last one of event `end`. Read all before the next task.

        A worker that is killed, as where memory runs out, ends the task as a killed child does, and
        another takes its place.
        """
        if self.process.poll() is not None:
            self._replace()
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            message = json.loads(line)
            yield message
            if message["event"] == "end":
                return
        yield {"event": "end", "how": "closed", "code": self._replace()}

    def _replace(self) -> int:
        """Start another process in place of one that was killed; returns how that one ended."""
        code = self.process.wait()
        if code >= 0:  # Not killed, so it will not be better with another one.
            raise RuntimeError(f"a render worker ended with status {code}")
        self.close()
        self.process = self._start()
        return code

    def close(self) -> None:
        """End the process, and with it what it has at work."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def _reason_of_death(end: Mapping[str, Any], limits: Mapping[str, float]) -> dict[str, str]:
    """The outcome of the page at which a child died."""
    code = end["code"]
    if end["how"] == "timeout":
        message = f"no page within images.limits.wall_seconds ({limits['wall_seconds']:g} s)"
        return failed(STAGE, "timeout", message)
    if code == -signal.SIGXCPU:
        return failed(STAGE, "timeout", _too_slow(limits))
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    # SIGKILL comes from the kernel, SIGABRT from PDFium, status 127 from glibc, where memory ends.
    if code in (-signal.SIGKILL, -signal.SIGABRT, 127):
        message = f"the worker process ended {how}, as when memory runs out"
        return failed(STAGE, "memory", message)
    return failed(STAGE, "corrupt", f"the worker process ended {how}")


def render_document(
    worker: Worker, task: Mapping[str, Any], on_page: Callable[[], None]
) -> list[dict[str, Any]]:
    """One row per page, in order of pages; one with page None for a document that never opened.

    `task` holds kind, paths (hex), pages (a list, or None for all), folder, settings, limits, engine.
    """
    rows: dict[int, dict[str, Any]] = {}
    owed: list[int] | None = task["pages"]
    opened_once = False
    while True:
        opened, current, problem = False, None, None
        for message in worker.run({**task, "pages": owed}):
            event = message["event"]
            if event == "opened":
                opened = opened_once = True
                owed = owed or list(range(1, message["pages"] + 1))
            elif event == "page":
                current = message["page"]
            elif event == "row":
                rows[message["page"]] = message["row"]
                on_page()
                current = None
            elif event == "failed":
                problem = message["row"]
            elif event == "fatal":
                raise UserError(message["message"])
            elif event == "end" and (message["how"] == "timeout" or message["code"] != 0):
                problem = _reason_of_death(message, task["limits"])
        if not opened_once:
            return [{"page": None, **problem}]
        owed = [page for page in owed if page not in rows]
        if problem and not opened:  # It opened once and then no more.
            rows |= dict.fromkeys(owed, problem)
            owed = []
        elif problem and owed:  # Costs the page it was at; another child goes on behind it.
            rows[current or owed[0]] = problem
            owed = [page for page in owed if page not in rows]
        if not owed:
            return [{"page": page, **rows[page]} for page in sorted(rows)]


def source_files(document: Document, archive: Path, boundary: bytes | None) -> list[bytes]:
    """The paths of a document's files, page images in the order of their pages."""
    path = source_path(archive, document)
    if document.kind == "images":
        return [os.path.join(path, name) for name in page_files(path, boundary)]
    return [path]


def render_shard(
    documents: Sequence[Document],
    archive: Path,
    boundary: bytes | None,
    store: StageStore,
    workers: int,
    progress: Progress,
) -> dict[str, str | None]:
    """Bring the store's page images of `documents` up to date; returns the sha256 of each source.

    `boundary` as of `archive.link_boundary`.
    """
    engine = choose_engine(store.settings["renderer"])
    pool: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    sha256: dict[str, str | None] = {}
    started: list[Worker] = []

    def one(document: Document) -> tuple[str, str | None, str, int]:
        task = {
            "kind": document.kind,
            "settings": dict(store.settings),
            "limits": dict(store.limits),
            "engine": engine,
        }
        try:
            files = source_files(document, archive, boundary)
        except OSError as error:
            files = error
        return document.document, *_one_document(
            document, files, store, task, pool, started, progress.page
        )

    try:
        with ThreadPoolExecutor(workers) as executor:
            for _ in range(workers):
                pool.put(None)  # A worker is started when there is something to render.
            futures = {executor.submit(one, document): document for document in documents}
            try:
                for future in as_completed(futures):
                    name, digest, outcome, pages = future.result()
                    sha256[name] = digest
                    progress.document(name, outcome, futures[future].size or 1, pages)
            except BaseException:
                executor.shutdown(cancel_futures=True)
                raise
    finally:
        for worker in started:
            worker.close()
    return sha256


def _one_document(
    document: Document,
    files: list[bytes] | OSError,
    store: StageStore,
    task: dict[str, Any],
    pool: queue.SimpleQueue,
    started: list[Worker],
    on_page: Callable[[], None],
) -> tuple[str | None, str, int]:
    """sha256 of the source, `computed`, `reused` or `retried`, and pages that on_page didn't count."""
    name = document.document
    sha256, problem = None, None
    if document.kind in _REFUSED:
        problem = failed(STAGE, *_REFUSED[document.kind])
    elif isinstance(files, OSError):
        problem = _unreadable(files)
    elif files:
        stamp = (document.size, document.mtime_ns, document.listing)
        try:
            sha256 = source_digest(store.results, name, stamp, files)
        except SourceError as error:
            problem = _unreadable(error.cause)
    pages = parse_pages(document.pages)
    inputs = {"kind": document.kind, "sha256": sha256, "pages": pages, "problem": problem}
    wanted = store.fingerprint(inputs)
    state = store.state(name, wanted)
    if state == "done":
        return sha256, "reused", 0
    kept = _keep(store, name) if state == "retry" else []
    with store.replace(name, wanted) as draft:
        if problem:
            rows = [{"page": None, **problem}]
        else:
            rows = _render_or_keep(
                document, files, store, draft, task, kept, pool, started, on_page
            )
        for row in rows:
            row["document"] = name
            if row["status"] == "ok" and "/" not in row["image"]:
                final = (store.folder(name) / "images" / row["image"]).relative_to(store.results)
                row["image"] = final.as_posix()
        draft.commit({"images": from_rows("images", rows)}, _limits_note(rows, store.limits))
    return sha256, "retried" if kept else "computed", 0


def _unreadable(error: OSError) -> dict[str, str]:
    """The outcome of what the system does not let us read; without the path, since a table must not
    depend on where the archive lies."""
    return failed(STAGE, "io", f"{type(error).__name__}: {error.strerror or error}")


def _keep(store: StageStore, name: str) -> list[dict[str, Any]]:
    """The rows of a record that raised limits do not touch."""
    metadata = read_record_metadata(store.results, name, STAGE) or {}
    under = json.loads(metadata.get("limits", "{}"))
    again = {
        reason
        for reason, limits in LIMITS_OF_REASON.items()
        if any(store.limits[limit] > under.get(limit, math.inf) for limit in limits)
    }
    rows = store.read(name, "images").to_pylist()
    return [row for row in rows if row["reason"] not in again and row["page"] is not None]


def _render_or_keep(
    document: Document,
    files: Sequence[bytes],
    store: StageStore,
    draft: Draft,
    task: dict[str, Any],
    kept: list[dict[str, Any]],
    pool: queue.SimpleQueue,
    started: list[Worker],
    on_page: Callable[[], None],
) -> list[dict[str, Any]]:
    """Rows of all pages: the kept ones, their images linked into the draft, and the rendered ones."""
    pages = parse_pages(document.pages)
    if kept:
        old = store.read(document.document, "images").to_pylist()
        pages = sorted({row["page"] for row in old} - {row["page"] for row in kept})
        for row in kept:
            if row["image"]:
                _link(store.results / row["image"], draft.files / Path(row["image"]).name)
    worker = pool.get()
    try:
        if worker is None:
            worker = Worker()
            started.append(worker)
        rows = render_document(
            worker,
            {
                **task,
                "paths": [file.hex() for file in files],
                "pages": pages,
                "folder": str(draft.files.absolute()),
            },
            on_page,
        )
    except BaseException:
        pool.put(None)  # The worker's answers may be out of step with the questions now.
        raise
    pool.put(worker)
    return sorted(itertools.chain(kept, rows), key=lambda row: row["page"] or 0)


def _link(source: Path, target: Path) -> None:
    """A second name for a file, or a copy on file systems without hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _limits_note(rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> dict[str, str]:
    """The limits that some page failed under: raised, they are worth another try."""
    names = {n for row in rows for n in LIMITS_OF_REASON.get(row.get("reason"), ())}
    return {"limits": json.dumps({n: limits[n] for n in sorted(names)})} if names else {}


if __name__ == "__main__":
    serve()
