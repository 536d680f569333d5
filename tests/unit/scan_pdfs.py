"""PDFs whose pages are scans, written object by object: every codec, colour space and placement."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import pikepdf
from pikepdf import Array, Dictionary, Name
from PIL import Image

#: Images keep this far (in their pixels) from the page's edges: one that ends at a whole pixel Poppler
#: stretches over the next one.
INSET = 0.01
#: Pixels of an image per unit of the page it covers: 144 dpi.
SCALE = 2
#: A JPEG of this size can be turned without loss, whatever its sampling.
WHOLE_BLOCKS = (160, 96)
#: And of this size it cannot.
BROKEN_BLOCKS = (150, 90)


class Stream(NamedTuple):
    """An image XObject: its data as they stand in the file, and its dictionary."""

    data: bytes
    entries: dict


def picture(size, grey=True, seed=0):
    """(H, W) or (H, W, 3) uint8 without any symmetry: a slope, blocks, a corner mark."""
    width, height = size
    rng = np.random.default_rng(seed)
    slope = np.linspace(40, 230, width)[None, :] + np.linspace(-30, 20, height)[:, None]
    pixels = np.repeat(slope[..., None], 3, axis=2)
    for _ in range(6):
        x, y = rng.integers(0, width - 24), rng.integers(0, height - 24)
        pixels[y : y + 24, x : x + 24] = rng.integers(0, 256, 3)
    pixels[:16, :32] = (250, 20, 20)
    pixels = pixels.clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).convert("L")) if grey else pixels


def bilevel(size, seed=0):
    """(H, W) uint8 of 0 and 255."""
    return np.where(picture(size, seed=seed) < 110, 0, 255).astype(np.uint8)


def _entries(pixels, **entries):
    height, width = pixels.shape[:2]
    space = Name.DeviceGray if pixels.ndim == 2 else Name.DeviceRGB
    return {"Width": width, "Height": height, "ColorSpace": space, "BitsPerComponent": 8} | entries


def jpeg(pixels, mode=None, **options):
    """DCTDecode; `mode` CMYK as Photoshop writes it, inverted."""
    image = Image.fromarray(pixels)
    if mode:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **{"quality": 95, **options})
    entries = {"Filter": Name.DCTDecode}
    if mode == "CMYK":
        entries |= {"ColorSpace": Name.DeviceCMYK, "Decode": Array([1, 0] * 4)}
    return Stream(buffer.getvalue(), _entries(pixels, **entries))


def in_flate(stream):
    """The same under FlateDecode, as some writers have it."""
    entries = {**stream.entries, "Filter": Array([Name.FlateDecode, stream.entries["Filter"]])}
    return Stream(zlib.compress(stream.data), entries)


def jpeg2000(pixels, **options):
    """JPXDecode, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG2000", irreversible=False, **options)
    return Stream(buffer.getvalue(), _entries(pixels, Filter=Name.JPXDecode))


def flate(pixels, **entries):
    """FlateDecode of 8 bits."""
    return Stream(
        zlib.compress(pixels.tobytes()), _entries(pixels, Filter=Name.FlateDecode, **entries)
    )


def _packed(pixels):
    return np.packbits(pixels > 127, axis=1).tobytes()


def flate_bits(pixels, **entries):
    """FlateDecode of 1 bit."""
    return Stream(
        zlib.compress(_packed(pixels)),
        _entries(pixels, Filter=Name.FlateDecode, **{"BitsPerComponent": 1, **entries}),
    )


def stencil(pixels, **entries):
    """An image mask, painted in the current colour."""
    entries |= {"Filter": Name.FlateDecode, "BitsPerComponent": 1, "ImageMask": True}
    entries = _entries(pixels, **entries)
    del entries["ColorSpace"]
    return Stream(zlib.compress(_packed(pixels)), entries)


def indexed(pixels, colors):
    """FlateDecode of 8-bit indices into `colors`; grey values pick the nearest of evenly spread ones."""
    indices = (pixels.astype(int) * len(colors) // 256).astype(np.uint8)
    palette = bytes(channel for color in colors for channel in color)
    space = Array([Name.Indexed, Name.DeviceRGB, len(colors) - 1, pikepdf.String(palette)])
    return flate(indices, ColorSpace=space)


def _t6(pixels):
    """ITU-T T.6 (G4) data in which black is black."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).convert("1", dither=Image.Dither.NONE)
    # MinIsWhite, in one strip.
    image.save(buffer, "TIFF", compression="group4", tiffinfo={262: 0, 278: pixels.shape[0]})
    with Image.open(io.BytesIO(buffer.getvalue())) as tiff:
        (start,), (size,) = tiff.tag_v2[273], tiff.tag_v2[279]
    return buffer.getvalue()[start : start + size]


def g4(pixels, black_is_1=False):
    """CCITTFaxDecode; with BlackIs1 the samples are inverted, and Decode inverts them back."""
    height, width = pixels.shape
    parameters = Dictionary(K=-1, Columns=width, Rows=height, BlackIs1=black_is_1)
    entries = {"BitsPerComponent": 1, "Filter": Name.CCITTFaxDecode, "DecodeParms": parameters}
    if black_is_1:
        entries["Decode"] = Array([1, 0])
    return Stream(_t6(pixels), _entries(pixels, **entries))


def jbig2(pixels):
    """JBIG2Decode: page information and one generic region in MMR (ITU-T T.88, 7.4.8, 7.4.6)."""
    height, width = pixels.shape
    page = struct.pack(">IIIIBH", width, height, 0, 0, 0, 0)
    region = struct.pack(">IIIIBB", width, height, 0, 0, 0, 1) + _t6(pixels)

    def segment(number, kind, body):
        return struct.pack(">IBBBI", number, kind, 0, 1, len(body)) + body

    return Stream(
        segment(0, 48, page) + segment(1, 38, region),
        _entries(pixels, BitsPerComponent=1, Filter=Name.JBIG2Decode),
    )


def placement(size, turn=0, flip=False, scale=SCALE, at=(0.0, 0.0)):
    """(matrix, page size): an image placed so that it covers a page, turned clockwise, mirrored.

    The matrix maps the unit square (ISO 32000-1, 8.9.5) to the page, whose corner is `at`.
    """
    width, height = size[0] / scale, size[1] / scale
    if turn in (90, 270):
        width, height = height, width
    page = width, height
    width, height = (side - 2 * INSET / scale for side in page)
    x, y = (corner + INSET / scale for corner in at)
    matrix = {
        0: (width, 0, 0, height, x, y),
        90: (0, -height, width, 0, x, y + height),
        180: (-width, 0, 0, -height, x + width, y + height),
        270: (0, height, -width, 0, x + width, y),
    }[turn]
    if flip:  # From left to right, of the page as it is without /Rotate.
        a, b, c, d, e, f = matrix
        matrix = (-a, b, -c, d, 2 * x + width - e, f)
    return matrix, page


def show(name, matrix, before="", after=""):
    """Operators that paint an XObject."""
    numbers = " ".join(f"{number:.6f}" for number in matrix)
    return f"{before} q {numbers} cm /{name} Do Q {after}".encode()


HIDDEN_TEXT = "BT /F0 12 Tf 3 Tr 5 5 Td (hidden words) Tj ET"


def add_scan(
    pdf,
    streams,
    content,
    media,
    crop=None,
    rotate=0,
    user_unit=None,
    **resources,
):
    """Append a page that paints `streams` (name -> Stream) by `content`."""
    images = {}
    for name, stream in streams.items():
        images[f"/{name}"] = pdf.make_stream(
            stream.data, Type=Name.XObject, Subtype=Name.Image, **stream.entries
        )
    font = Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica)
    page = Dictionary(
        Type=Name.Page,
        MediaBox=Array(media),
        Resources=Dictionary(XObject=Dictionary(images), Font=Dictionary(F0=font), **resources),
        Contents=pdf.make_stream(content),
    )
    if crop:
        page.CropBox = Array(crop)
    if rotate:
        page.Rotate = rotate
    if user_unit:
        page.UserUnit = user_unit
    pdf.pages.append(pikepdf.Page(page))


def write_scan(
    path,
    stream,
    *,
    turn=0,
    flip=False,
    rotate=0,
    crop=None,
    user_unit=None,
    hidden_text=False,
    at=(0.0, 0.0),
    scale=SCALE,
):
    """A PDF of one page that `stream` covers. `crop`: units cut from left, bottom, right, top."""
    size = stream.entries["Width"], stream.entries["Height"]
    matrix, (width, height) = placement(size, turn, flip, scale, at)
    x, y = at
    box = None
    if crop:
        left, bottom, right, top = crop
        box = [x + left, y + bottom, x + width - right, y + height - top]
    content = show("Im0", matrix, after=HIDDEN_TEXT if hidden_text else "")
    with pikepdf.new() as pdf:
        media = [x, y, x + width, y + height]
        add_scan(pdf, {"Im0": stream}, content, media, box, rotate, user_unit)
        pdf.save(path)
    return path
