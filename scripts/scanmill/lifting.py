"""A PDF page that is one scan gives its image as it lies in the file.

JPEG and JPEG 2000 keep their bytes; what is coded otherwise is decoded once and stored without loss;
the image is turned upright. What is not certain to look as a viewer shows it is not lifted, and the page
is rendered: `lift` returns None.

PDFium tells what a page paints, and where; qpdf (pikepdf) tells how an image is coded.
"""

from __future__ import annotations

import ctypes
import io
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import pikepdf
import pypdfium2
import pypdfium2.raw as pdfium_c
from PIL import ExifTags, Image, ImageCms

from scanmill.image_files import (
    UPRIGHT,
    Turn,
    decode,
    encode,
    jpegtran_version,
    turn_jpeg,
    turn_pixels,
)
from scanmill.page_images import LOWEST_DPI, POINTS_PER_INCH, PageBox, PageImage

#: How far an image may be from straight, and from its neighbour in a stack, in its own pixels.
PIXEL_TOLERANCE = 0.5

#: A page's margin that its scan may leave white, as share of a side: page boxes are often rounded.
MARGIN = 0.01

#: How unlike width and height of a pixel may be. Beyond (faxes of 204 x 98 dpi) type looks squashed.
ASPECT_TOLERANCE = 0.05

#: Colour profiles are taken for sRGB up to this difference (of 255): two conversions' rounding.
PROFILE_TOLERANCE = 2

#: Forms within forms that are looked into, and strips of a page: more is no scan.
MAX_DEPTH = 8
MAX_STRIPS = 4096

_RIGHT_AND_DOWN = {
    0: ((1, 0), (0, -1)),
    90: ((0, 1), (1, 0)),
    180: ((-1, 0), (0, 1)),
    270: ((0, -1), (-1, 0)),
}
"""By rotation of the page: where right and down of the shown page lead in its own axes."""


class _NotLiftable(Exception):
    """Something that is not certain to look as the viewer shows it."""


class Painted(NamedTuple):
    """An image that a page paints: PDFium's object, and the matrix from unit square to page."""

    item: Any
    matrix: pypdfium2.PdfMatrix


class Placed(NamedTuple):
    """Pixels on a page: how many, and where the corner and a step right and down lead, in its units."""

    width: int
    height: int
    corner: tuple[float, float]
    right: tuple[float, float]
    down: tuple[float, float]

    def at(self, u: float, v: float) -> tuple[float, float]:
        """The point of the page under pixel coordinates."""
        return (
            self.corner[0] + u * self.right[0] + v * self.down[0],
            self.corner[1] + u * self.right[1] + v * self.down[1],
        )

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """The pixel coordinates of a point of the page."""
        (a, b), (c, d) = self.right, self.down
        x, y = x - self.corner[0], y - self.corner[1]
        area = a * d - b * c
        return (d * x - c * y) / area, (a * y - b * x) / area

    def turned(self, turn: Turn) -> Placed:
        """The same pixels after a turn."""
        placed = self
        if turn.transpose:
            placed = Placed(self.height, self.width, self.corner, self.down, self.right)
        if turn.flip_x:
            placed = placed._replace(
                corner=placed.at(placed.width, 0), right=_negative(placed.right)
            )
        if turn.flip_y:
            placed = placed._replace(
                corner=placed.at(0, placed.height), down=_negative(placed.down)
            )
        return placed

    def cut(self, left: int, top: int, right: int, bottom: int) -> Placed:
        """The part between pixel columns and rows."""
        return self._replace(width=right - left, height=bottom - top, corner=self.at(left, top))


def lift(
    pdf: pikepdf.Pdf, page: pypdfium2.PdfPage, number: int, box: PageBox, limits: Mapping
) -> PageImage | None:
    """Page `number` (1-based), if all it shows is a scan; None if it must be rendered."""
    try:
        images, hidden_text = find_scan(page, box)
        strips = [_place(image) for image in images]
        order = _in_order(strips)
        placed = _stack([strips[index] for index in order])
        turn, window = _orient(placed, box)
        if placed.width * placed.height > limits["max_pixels"]:
            raise _NotLiftable
        upright = placed.turned(turn)
        resources = Resources(pdf.pages[number - 1], hidden_text)
        scans = [Scan(images[index].item, resources) for index in order]
        whole = window == (0, 0, upright.width, upright.height)
        data, suffix, engine = _encoded(scans, placed, turn, None if whole else window)
    except _NotLiftable:
        return None
    except Exception:
        # Whatever a damaged object raises in one of the libraries: the renderers cope better with it.
        return None
    shown = upright.cut(*window)
    scale_x, scale_y = math.hypot(*shown.right), math.hypot(*shown.down)
    return PageImage(
        data,
        suffix,
        shown.width,
        shown.height,
        (POINTS_PER_INCH / (scale_x * box.unit), POINTS_PER_INCH / (scale_y * box.unit)),
        "lifted",
        engine,
        box.rotation,
        box.size,
        [*shown.right, *shown.down, *shown.corner],
    )


# What a page paints -------------------------------------------------------------------------------


def page_objects(page: pypdfium2.PdfPage) -> Iterator[tuple[Any, pypdfium2.PdfMatrix, int]]:
    """(object, matrix of its container, type) of a page and its forms, from the topmost down.

    Forms come before what is in them. The raw interface: a page of OCR has thousands of objects.
    """
    count = pdfium_c.FPDFPage_CountObjects(page)
    topmost_first = (pdfium_c.FPDFPage_GetObject(page, n) for n in range(count - 1, -1, -1))
    yield from _with_contents(topmost_first, pypdfium2.PdfMatrix(), 0)


def _with_contents(
    items: Iterator, matrix: pypdfium2.PdfMatrix, depth: int
) -> Iterator[tuple[Any, pypdfium2.PdfMatrix, int]]:
    for item in items:
        kind = pdfium_c.FPDFPageObj_GetType(item)
        yield item, matrix, kind
        if kind == pdfium_c.FPDF_PAGEOBJ_FORM:
            if depth == MAX_DEPTH:  # It may hold anything.
                yield item, matrix, pdfium_c.FPDF_PAGEOBJ_UNKNOWN
                continue
            count = pdfium_c.FPDFFormObj_CountObjects(item)
            within = (pdfium_c.FPDFFormObj_GetObject(item, n) for n in range(count - 1, -1, -1))
            yield from _with_contents(within, _matrix(item).multiply(matrix), depth + 1)


def find_scan(page: pypdfium2.PdfPage, box: PageBox) -> tuple[list[Painted], bool]:
    """The images that make up a page, the topmost first, and whether there is invisible text.

    Either the topmost image covers all else, or there is nothing else. Raises _NotLiftable for any other
    page.
    """
    images: list[Painted] = []
    hidden_text = False
    if has_marks(page):
        raise _NotLiftable
    for item, matrix, kind in page_objects(page):
        if kind == pdfium_c.FPDF_PAGEOBJ_TEXT:
            mode = pdfium_c.FPDFTextObj_GetTextRenderMode(item)
            if mode == pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE:
                hidden_text = True
                continue
        if kind == pdfium_c.FPDF_PAGEOBJ_PATH and _is_unseen(item, bool(images)):
            continue
        if kind not in (pdfium_c.FPDF_PAGEOBJ_IMAGE, pdfium_c.FPDF_PAGEOBJ_FORM):
            raise _NotLiftable
        if pdfium_c.FPDFPageObj_HasTransparency(item) or not _clip_spares(item, matrix, box):
            raise _NotLiftable
        if kind == pdfium_c.FPDF_PAGEOBJ_IMAGE:
            images.append(Painted(item, _matrix(item).multiply(matrix)))
            if len(images) > MAX_STRIPS:
                raise _NotLiftable
            if len(images) == 1 and not _is_stencil(item, page) and _covers(images[0], box):
                break
    if not images:
        raise _NotLiftable
    return images, hidden_text


def has_marks(page: pypdfium2.PdfPage) -> bool:
    """Whether a page has annotations that show: stamps, notes, filled-in fields, but not links."""
    for index in range(pdfium_c.FPDFPage_GetAnnotCount(page)):
        annotation = pdfium_c.FPDFPage_GetAnnot(page, index)
        kind = pdfium_c.FPDFAnnot_GetSubtype(annotation)
        pdfium_c.FPDFPage_CloseAnnot(annotation)
        if kind not in (pdfium_c.FPDF_ANNOT_LINK, pdfium_c.FPDF_ANNOT_POPUP):
            return True
    return False


def is_bit_image(item: Any, page: pypdfium2.PdfPage) -> bool:  # noqa: ANN401
    """Whether an image has 1 bit per pixel and no colour."""
    return _metadata(item, page).bits_per_pixel == 1 and not is_colored(item)


def bounds(item: Any, matrix: pypdfium2.PdfMatrix) -> tuple[float, float, float, float]:  # noqa: ANN401
    """Left, bottom, right, top of an image on the page, given its container's matrix."""
    return _bounds(_matrix(item).multiply(matrix))


def is_colored(item: Any) -> bool:  # noqa: ANN401
    """Whether an image is a stencil through which something else than black is painted."""
    color = _fill_color(item)
    return color is not None and any(color)


def _fill_color(item: Any) -> tuple[int, ...] | None:  # noqa: ANN401
    channels = [ctypes.c_uint() for _ in range(4)]
    if not pdfium_c.FPDFPageObj_GetFillColor(item, *channels):
        return None
    return tuple(channel.value for channel in channels[:3])


def _matrix(item: Any) -> pypdfium2.PdfMatrix:  # noqa: ANN401
    matrix = pdfium_c.FS_MATRIX()
    if not pdfium_c.FPDFPageObj_GetMatrix(item, matrix):
        raise _NotLiftable
    return pypdfium2.PdfMatrix.from_raw(matrix)


def _is_unseen(path: Any, below: bool) -> bool:  # noqa: ANN401
    """Whether a path leaves no trace: neither filled nor drawn, or white where nothing is beneath it
    but paper (`below` the images)."""
    fill, stroke = ctypes.c_int(), ctypes.c_int()
    if not pdfium_c.FPDFPath_GetDrawMode(path, fill, stroke):
        return False
    if not fill.value and not stroke.value:
        return True
    return below and not stroke.value and _fill_color(path) == (255, 255, 255)


def _clip_spares(item: Any, matrix: pypdfium2.PdfMatrix, box: PageBox) -> bool:  # noqa: ANN401
    """Whether an object's clipping paths are rectangles that hide nothing of the object on the page.

    `matrix` is that of the object's container, in whose axes the paths are.
    """
    clip = pdfium_c.FPDFPageObj_GetClipPath(item)
    if not clip:
        return True
    seen = _seen_bounds(item, matrix, box)
    for path in range(max(pdfium_c.FPDFClipPath_CountPaths(clip), 0)):
        points = []
        for index in range(pdfium_c.FPDFClipPath_CountPathSegments(clip, path)):
            segment = pdfium_c.FPDFClipPath_GetPathSegment(clip, path, index)
            if pdfium_c.FPDFPathSegment_GetType(segment) == pdfium_c.FPDF_SEGMENT_BEZIERTO:
                return False
            x, y = ctypes.c_float(), ctypes.c_float()
            pdfium_c.FPDFPathSegment_GetPoint(segment, x, y)
            points.append(matrix.on_point(x.value, y.value))
        if len(points) < 4:
            return False
        xs, ys = zip(*points, strict=True)
        left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
        slack = MARGIN * min(box.x_max - box.x_min, box.y_max - box.y_min)
        corners = {
            (x in (left, right), y in (bottom, top)) for x, y in points
        }  # Of a rectangle, every point is a corner.
        if corners != {(True, True)} or len({(x, y) for x, y in points}) != 4:
            return False
        if (
            left > seen[0] + slack
            or bottom > seen[1] + slack
            or right < seen[2] - slack
            or top < seen[3] - slack
        ):
            return False
    return True


def _seen_bounds(
    item: Any,  # noqa: ANN401
    matrix: pypdfium2.PdfMatrix,
    box: PageBox,
) -> tuple[float, float, float, float]:
    """The part of the page that an object may paint: of an image its corners, else all."""
    if pdfium_c.FPDFPageObj_GetType(item) != pdfium_c.FPDF_PAGEOBJ_IMAGE:
        return box[:4]
    left, bottom, right, top = bounds(item, matrix)
    return (
        max(left, box.x_min),
        max(bottom, box.y_min),
        min(right, box.x_max),
        min(top, box.y_max),
    )


def _bounds(matrix: pypdfium2.PdfMatrix) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of the unit square on the page."""
    xs, ys = zip(*(matrix.on_point(x, y) for x in (0, 1) for y in (0, 1)), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _covers(image: Painted, box: PageBox, slack: float = 0.5) -> bool:
    """Whether an image leaves no more of the page free than `slack` units on each side."""
    left, bottom, right, top = _bounds(image.matrix)
    return (
        left <= box.x_min + slack
        and bottom <= box.y_min + slack
        and right >= box.x_max - slack
        and top >= box.y_max - slack
    )


# Where its pixels are -----------------------------------------------------------------------------


def _size(item: Any) -> tuple[int, int]:  # noqa: ANN401
    width, height = ctypes.c_uint(), ctypes.c_uint()
    if not pdfium_c.FPDFImageObj_GetImagePixelSize(item, width, height):
        raise _NotLiftable
    if not width.value or not height.value:
        raise _NotLiftable
    return width.value, height.value


def _place(image: Painted) -> Placed:
    width, height = _size(image.item)
    a, b, c, d, e, f = image.matrix.get()
    placed = Placed(
        width, height, (c + e, d + f), (a / width, b / width), (-c / height, -d / height)
    )
    if not abs(a * d - b * c) > 0:
        raise _NotLiftable
    return placed


def _in_order(strips: Sequence[Placed]) -> list[int]:
    """The order of strips along the way down of their pixels."""
    return sorted(range(len(strips)), key=lambda index: strips[0].pixel(*strips[index].corner)[1])


def _stack(strips: Sequence[Placed]) -> Placed:
    """The one image that strips make up, each continuing the one before downwards."""
    whole = strips[0]
    for strip in strips[1:]:
        same = all(
            math.hypot(p[0] - q[0], p[1] - q[1]) * max(strip.width, strip.height)
            <= PIXEL_TOLERANCE * math.hypot(*q)
            for p, q in ((strip.right, whole.right), (strip.down, whole.down))
        )
        u, v = whole.pixel(*strip.corner)
        next_to = abs(u) <= PIXEL_TOLERANCE and abs(v - whole.height) <= PIXEL_TOLERANCE
        if strip.width != whole.width or not same or not next_to:
            raise _NotLiftable
        whole = whole._replace(height=whole.height + strip.height)
    if len(strips) == 1:
        return whole
    # A step is that of all, from the first corner to the last one, so that rounding does not add up.
    end = strips[-1].at(0, strips[-1].height)
    down = tuple((end[axis] - whole.corner[axis]) / whole.height for axis in (0, 1))
    return whole._replace(down=down)


def _orient(placed: Placed, box: PageBox) -> tuple[Turn, tuple[int, int, int, int]]:
    """The turn that makes an image upright, and the pixels of the turned one that the page shows.

    Raises _NotLiftable for an image that is askew, does not cover the page, or has no use as it is.
    """
    right, down = _RIGHT_AND_DOWN[box.rotation]
    transpose = abs(_dot(placed.right, right)) < abs(_dot(placed.right, down))
    across, along = (placed.down, placed.right) if transpose else (placed.right, placed.down)
    turn = Turn(transpose, _dot(across, right) < 0, _dot(along, down) < 0)
    upright = placed.turned(turn)
    scale_x, scale_y = math.hypot(*upright.right), math.hypot(*upright.down)
    askew = max(
        abs(_dot(upright.right, down)) * upright.width / scale_y,
        abs(_dot(upright.down, right)) * upright.height / scale_x,
    )
    dpi = POINTS_PER_INCH / (max(scale_x, scale_y) * box.unit)
    squashed = abs(scale_x / scale_y - 1) > ASPECT_TOLERANCE
    if askew > PIXEL_TOLERANCE or squashed or dpi < LOWEST_DPI:
        raise _NotLiftable
    xs, ys = zip(
        upright.pixel(box.x_min, box.y_min), upright.pixel(box.x_max, box.y_max), strict=True
    )
    window = []
    for (low, high), side in ((sorted(xs), upright.width), (sorted(ys), upright.height)):
        slack = MARGIN * (high - low) + PIXEL_TOLERANCE
        if low < -slack or high > side + slack:
            raise _NotLiftable
        window.append((max(round(low), 0), min(round(high), side)))
    (left, end), (top, bottom) = window
    if left >= end or top >= bottom:
        raise _NotLiftable
    return turn, (left, top, end, bottom)


def _dot(p: Sequence[float], q: Sequence[float]) -> float:
    return p[0] * q[0] + p[1] * q[1]


def _negative(p: Sequence[float]) -> tuple[float, float]:
    return -p[0], -p[1]


# How its images are coded -------------------------------------------------------------------------


class Resources:
    """The image XObjects that a page can paint, by the data that PDFium reads of them."""

    def __init__(self, page: pikepdf.Page, hidden_text: bool) -> None:
        """Raises _NotLiftable where resources change how images look, or may show hidden text."""
        self.images: list[pikepdf.Stream] = []
        self.hidden_text = hidden_text
        self._collect(page.resources, set(), 0)

    def _collect(self, resources: pikepdf.Object, seen: set, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _NotLiftable
        spaces = resources.get("/ColorSpace", {})
        if any(name in spaces for name in ("/DefaultGray", "/DefaultRGB", "/DefaultCMYK")):
            raise _NotLiftable
        if any(_is_optional(entry) for entry in _values(resources.get("/Properties", {}))):
            raise _NotLiftable
        fonts = _values(resources.get("/Font", {})) if self.hidden_text else ()
        if any(font.get("/Subtype") == "/Type3" for font in fonts):  # Painted in any mode.
            raise _NotLiftable
        for entry in _values(resources.get("/XObject", {})):
            if entry.objgen in seen:
                continue
            seen.add(entry.objgen)
            if entry.get("/Subtype") == "/Image":
                self.images.append(entry)
            elif entry.get("/Subtype") == "/Form":
                if "/OC" in entry:
                    raise _NotLiftable
                if "/Resources" in entry:
                    self._collect(entry.Resources, seen, depth + 1)

    def stream_of(self, item: Any, data: bytes) -> pikepdf.Stream:  # noqa: ANN401
        """The stream behind an image: equal in size and `data`. Inline images have none."""
        size = _size(item)
        found = [
            stream
            for stream in self.images
            if (int(stream.Width), int(stream.Height)) == size
            # Encrypted, they are longer by less than this.
            and int(stream.get("/Length", -1)) in range(len(data), len(data) + 64)
            and stream.read_raw_bytes() == data
        ]
        if not found or any(_codings(stream) != _codings(found[0]) for stream in found):
            raise _NotLiftable
        return found[0]


def _values(dictionary: Mapping) -> list[pikepdf.Object]:
    """The entries of a dictionary that are dictionaries or streams."""
    kinds = (pikepdf.Dictionary, pikepdf.Stream)
    return [entry for _, entry in dictionary.items() if isinstance(entry, kinds)]


def _is_optional(entry: pikepdf.Object) -> bool:
    return entry.get("/Type") in ("/OCG", "/OCMD")


#: The entries of an image's dictionary that decide how its data look.
_CODING = (
    "/ColorSpace",
    "/BitsPerComponent",
    "/Decode",
    "/ImageMask",
    "/Mask",
    "/SMask",
    "/SMaskInData",
    "/OC",
    "/Filter",
    "/DecodeParms",
)


def _codings(stream: pikepdf.Stream) -> list[pikepdf.Object | None]:
    return [stream.get(name) for name in _CODING]


def _buffer(get: Any, item: Any) -> bytes:  # noqa: ANN401
    size = get(item, None, 0)
    buffer = (ctypes.c_ubyte * size)()
    get(item, buffer, size)
    return bytes(buffer)


def _is_stencil(item: Any, page: pypdfium2.PdfPage) -> bool:  # noqa: ANN401
    """Whether an image is a mask through which colour is painted. PDFium gives it no colour space."""
    metadata = _metadata(item, page)
    return metadata.bits_per_pixel == 1 and metadata.colorspace == 0


def _metadata(item: Any, page: pypdfium2.PdfPage) -> Any:  # noqa: ANN401
    metadata = pdfium_c.FPDF_IMAGEOBJ_METADATA()
    pdfium_c.FPDFImageObj_GetImageMetadata(item, page, metadata)
    return metadata


class Scan:
    """An image of a page, and how it is coded."""

    def __init__(self, item: Any, resources: Resources) -> None:  # noqa: ANN401
        """Raises _NotLiftable where it cannot be shown as it is."""
        self.item, self.size = item, _size(item)
        self.data = _buffer(pdfium_c.FPDFImageObj_GetImageDataRaw, item)
        stream = resources.stream_of(item, self.data)
        self.stencil = bool(stream.get("/ImageMask", False))
        if any(name in stream for name in ("/SMask", "/Mask", "/OC")):
            raise _NotLiftable
        if int(stream.get("/SMaskInData", 0)):
            raise _NotLiftable
        filters = _filters(stream)
        if len(filters) > 1:
            self.data = _buffer(pdfium_c.FPDFImageObj_GetImageDataDecoded, item)
        self.codec = filters[-1][0] if filters else ""
        self.parameters = filters[-1][1] if filters else {}
        decode = [float(number) for number in stream.get("/Decode", [])]
        space = stream.get("/ColorSpace")
        if self.stencil:
            if is_colored(self.item):
                raise _NotLiftable
            self.color = "grey"
        else:
            self.color = _color(space)
        self.indexed = isinstance(space, pikepdf.Array) and space[0] in ("/Indexed", "/I")
        self.bits = 1 if self.stencil else int(stream.get("/BitsPerComponent", 8))
        usual = decode in ([], [0.0, 1.0] * (len(decode) // 2))
        if self.codec in ("/DCTDecode", "/JPXDecode") and (not usual or self.stencil):
            raise _NotLiftable
        if self.bits not in (1, 8) and not self.indexed:
            raise _NotLiftable

    def file(self) -> tuple[bytes, str] | None:
        """The bytes of a JPEG or JPEG 2000 file that can stand as it is, and its suffix."""
        if self.indexed and self.codec in ("/DCTDecode", "/JPXDecode"):
            raise _NotLiftable
        if self.codec == "/DCTDecode":
            if int(self.parameters.get("/ColorTransform", 1)) != 1:
                raise _NotLiftable
            check_jpeg(self.data, self.size, self.color)
            return self.data, "jpg"
        if self.codec == "/JPXDecode":
            return self.data, check_jpeg2000(self.data, self.size, self.color)
        return None

    def pixels(self) -> np.ndarray:
        """(H, W) grey or (H, W, 3) BGR uint8, decoded."""
        file = self.file()
        if file is not None:
            return decode(file[0])
        bitmap = pdfium_c.FPDFImageObj_GetBitmap(self.item)
        if not bitmap:
            raise _NotLiftable
        pixels = pypdfium2.PdfBitmap.from_raw(bitmap).to_numpy()
        if pixels.ndim == 3:
            grey = pixels[..., 0]
            alike = np.array_equal(grey, pixels[..., 1]) and np.array_equal(grey, pixels[..., 2])
            pixels = grey if alike else pixels[..., :3]
        if pixels.shape[1::-1] != self.size:
            raise _NotLiftable
        return 255 - pixels if self.stencil else pixels


def _filters(stream: pikepdf.Stream) -> list[tuple[str, Mapping]]:
    """Name and parameters of each filter, in the order of decoding."""
    names = stream.get("/Filter", [])
    names = list(names) if isinstance(names, pikepdf.Array) else [names]
    parameters = stream.get("/DecodeParms", [])
    parameters = list(parameters) if isinstance(parameters, pikepdf.Array) else [parameters]
    parameters += [None] * (len(names) - len(parameters))
    known = [one if isinstance(one, pikepdf.Dictionary) else {} for one in parameters]
    filters = [(str(name), one) for name, one in zip(names, known, strict=True)]
    if any(name == "/Crypt" for name, _ in filters):
        raise _NotLiftable
    return filters


def _color(space: pikepdf.Object | None) -> str | None:
    """`grey` or `rgb` where samples mean what they mean in PNG and JPEG; None for JPEG 2000 that says
    it itself. Raises _NotLiftable for any other colour space."""
    if space is None:
        return None
    if isinstance(space, pikepdf.Name):
        family, rest = str(space), []
    else:
        family, *rest = list(space)
        family = str(family)
    if family in ("/DeviceGray", "/G"):
        return "grey"
    if family in ("/DeviceRGB", "/RGB"):
        return "rgb"
    if family == "/ICCBased":
        channels = int(rest[0].N)
        if channels in (1, 3) and is_srgb(rest[0].read_bytes(), channels):
            return "grey" if channels == 1 else "rgb"
    if family in ("/Indexed", "/I"):
        return _color(rest[0]) and "rgb"
    raise _NotLiftable


@lru_cache(maxsize=32)
def is_srgb(profile: bytes, channels: int) -> bool:
    """Whether the colours of an ICC profile are sRGB's, up to PROFILE_TOLERANCE: to keep the samples is
    to keep the colours."""
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "L" if channels == 1 else "RGB",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return False
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    if channels == 1:
        samples = np.arange(256, dtype=np.uint8)[None]
        expected = np.repeat(samples[..., None], 3, axis=2)
    else:
        samples = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        expected = samples
    shown = np.asarray(ImageCms.applyTransform(Image.fromarray(samples), transform))
    return int(np.abs(shown.astype(int) - expected).max()) <= PROFILE_TOLERANCE


def check_jpeg(data: bytes, size: tuple[int, int], color: str | None) -> None:
    """Raise where a JPEG is not what the PDF says, is cut off, or would be shown turned."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        if image.size != size or image.mode != {"grey": "L", "rgb": "RGB"}.get(color):
            raise _NotLiftable
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            raise _NotLiftable
        sample = None if "progressive" in image.info else _start_of_jpeg(data)
    # At an eighth of its size most of the arithmetic is left out.
    with Image.open(io.BytesIO(sample or data), formats=("JPEG",)) as image:
        image.draft("L", (max(image.width // 8, 1), max(image.height // 8, 1)))
        image.load()


def _start_of_jpeg(data: bytes, length: int = 1 << 16) -> bytes | None:
    """What must be decoded of a JPEG to know that all of it can be: its tables and `length` bytes, if it
    is a single scan with an end (EOI); otherwise None.

    Within a scan nothing is fatal to libjpeg. Markers: ITU-T T.81, table B.1.
    """
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1] != 0xDA:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    scan = np.frombuffer(data, np.uint8)[place + 2 :]
    marked = np.flatnonzero(scan[:-1] == 0xFF)
    codes = scan[marked + 1]
    # A stuffed zero, a restart, a fill byte go on.
    others = np.flatnonzero((codes != 0) & ((codes < 0xD0) | (codes > 0xD7)) & (codes != 0xFF))
    if not len(others) or codes[others[0]] != 0xD9:
        return None
    end = place + 2 + int(marked[others[0]])
    return data[: min(place + length, end)] + b"\xff\xd9"


def check_jpeg2000(data: bytes, size: tuple[int, int], color: str | None) -> str:
    """The suffix for a JPEG 2000 file or codestream; raises where it is not what the PDF says, or is
    more than 8 bits of grey or RGB."""
    if data.startswith(b"\xff\x4f\xff\x51"):  # SOC and SIZ: a bare codestream has no colours.
        suffix, own = "j2k", color
    else:
        suffix, own = "jp2", _jp2_color(data)
    pixels = decode(data)
    kind = None
    if pixels is not None and pixels.dtype == np.uint8:
        kind = {(2,): "grey", (3, 3): "rgb"}.get((pixels.ndim, *pixels.shape[2:]))
    if kind is None or kind != own or kind != (color or own) or pixels.shape[1::-1] != size:
        raise _NotLiftable
    return suffix


def _jp2_color(data: bytes) -> str | None:
    """The enumerated colour space of a JP2 file (ISO 15444-1, annex I), if that is all it has."""
    color = None
    for kind, body in _boxes(data):
        if kind == b"jp2h":
            for inner, content in _boxes(body):
                if inner in (b"pclr", b"cmap", b"cdef"):  # A palette, or channels of other meaning.
                    raise _NotLiftable
                if inner == b"colr":
                    method, space = content[0], content[3:7]
                    known = {16: "rgb", 17: "grey"}
                    color = known.get(struct.unpack(">I", space)[0]) if method == 1 else None
                    if color is None:
                        raise _NotLiftable
    return color


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of JP2 boxes."""
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, place + 8)
            head = 16
        end = place + size if size else len(data)
        if end < place + head:
            raise _NotLiftable
        yield kind, data[place + head : end]
        place = end


def _encoded(
    scans: Sequence[Scan],
    placed: Placed,
    turn: Turn,
    window: tuple[int, int, int, int] | None,
) -> tuple[bytes, str, str]:
    """The bytes of the upright image file, its suffix, and what made it."""
    if len(scans) == 1 and window is None:
        file = scans[0].file()
        if file is not None and turn == UPRIGHT:
            return *file, "copied"
        if file is not None and file[1] == "jpg":
            turned = turn_jpeg(file[0], turn)
            if turned is not None:
                return turned, "jpg", f"jpegtran {jpegtran_version()}"
    pieces = [scan.pixels() for scan in scans]
    bilevel = all(
        scan.bits == 1 and _is_black_and_white(piece)
        for scan, piece in zip(scans, pieces, strict=True)
    )
    if len(pieces) > 1:
        if any(piece.ndim != pieces[0].ndim for piece in pieces):
            pieces = [
                cv2.cvtColor(piece, cv2.COLOR_GRAY2BGR) if piece.ndim == 2 else piece
                for piece in pieces
            ]
        pixels = np.concatenate(pieces)
    else:
        (pixels,) = pieces
    if pixels.shape[:2] != (placed.height, placed.width):
        raise _NotLiftable
    pixels = turn_pixels(pixels, turn)
    if window is not None:
        left, top, right, bottom = window
        pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    engine = f"pdfium {pypdfium2.version.PDFIUM_INFO.version}"
    return encode(pixels, "png", bilevel, 0), "png", engine


def _is_black_and_white(pixels: np.ndarray) -> bool:
    """Whether samples of two values are black and white, not two colours of a palette."""
    return pixels.ndim == 2 and {int(pixels.min()), int(pixels.max())} <= {0, 255}
