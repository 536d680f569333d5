"""Scans come out of PDFs as they lie there, upright; what is not certain to be one does not."""

import io
import itertools
import shutil
import subprocess

import cv2
import numpy as np
import pikepdf
import pypdfium2
import pytest
import scan_pdfs as scans
from pikepdf import Array, Dictionary, Name
from PIL import Image, ImageCms
from scan_pdfs import BROKEN_BLOCKS, SCALE, WHOLE_BLOCKS

from scanmill.image_files import TURN_OF_ORIENTATION, turn_pixels
from scanmill.lifting import is_srgb, lift
from scanmill.pdf_documents import page_box

needs_poppler = pytest.mark.skipif(
    shutil.which("pdftoppm") is None, reason="Poppler's pdftoppm is not installed"
)
needs_jpegtran = pytest.mark.skipif(
    shutil.which("jpegtran") is None, reason="libjpeg-turbo's jpegtran is not installed"
)
DPI = 72 * SCALE
LIMITS = {"max_pixels": 2e8}
GREY, COLOUR = scans.picture(BROKEN_BLOCKS), scans.picture(BROKEN_BLOCKS, grey=False)
BILEVEL = scans.bilevel(BROKEN_BLOCKS)
PALETTE = [(0, 0, 0), (200, 30, 0), (0, 180, 40), (255, 255, 255)]
RED_AND_WHITE = Array(
    [Name.Indexed, Name.DeviceRGB, 1, pikepdf.String(b"\xc0\x10\x10\xff\xff\xff")]
)
#: Name -> the image, what Poppler's and our JPEG decoder may differ by, the suffix of an upright one.
KINDS = {
    "jpeg-grey": (scans.jpeg(GREY), 2, "jpg"),
    "jpeg-colour": (scans.jpeg(COLOUR), 2, "jpg"),
    "jpeg-whole-blocks": (scans.jpeg(scans.picture(WHOLE_BLOCKS, grey=False)), 2, "jpg"),
    "jpeg-progressive": (scans.jpeg(COLOUR, progressive=True, subsampling=0), 2, "jpg"),
    "jpeg-in-flate": (scans.in_flate(scans.jpeg(GREY)), 2, "jpg"),
    "jpx-grey": (scans.jpeg2000(GREY), 0, "jp2"),
    "jpx-colour": (scans.jpeg2000(COLOUR), 0, "jp2"),
    "jpx-bare": (scans.jpeg2000(COLOUR, no_jp2=True), 0, "j2k"),
    "g4": (scans.g4(BILEVEL), 0, "png"),
    "g4-black-is-1": (scans.g4(BILEVEL, black_is_1=True), 0, "png"),
    "jbig2": (scans.jbig2(BILEVEL), 0, "png"),
    "flate-1": (scans.flate_bits(BILEVEL), 0, "png"),
    "flate-1-inverted": (scans.flate_bits(BILEVEL, Decode=Array([1, 0])), 0, "png"),
    "stencil": (scans.stencil(BILEVEL), 0, "png"),
    "stencil-inverted": (scans.stencil(BILEVEL, Decode=Array([1, 0])), 0, "png"),
    "indexed-1": (scans.flate_bits(BILEVEL, ColorSpace=RED_AND_WHITE), 0, "png"),
    "flate-8": (scans.flate(GREY), 0, "png"),
    "flate-8-inverted": (scans.flate(GREY, Decode=Array([1, 0])), 0, "png"),
    "flate-rgb": (scans.flate(COLOUR), 0, "png"),
    "indexed": (scans.indexed(GREY, PALETTE), 0, "png"),
}
ADDITIONS = {
    "plain": {},
    "crop": {"crop": (10, 5, 15, 10)},
    "hidden-text": {"hidden_text": True},
    "user-unit": {"user_unit": 2.5},
    "off-origin": {"at": (-30.0, 1000.0)},
}


def lift_page(path, number=1, limits=LIMITS):
    pdf = pypdfium2.PdfDocument(path)
    with pikepdf.open(path) as structure:
        page = pdf[number - 1]
        unit = float(structure.pages[number - 1].obj.get("/UserUnit", 1))
        return lift(structure, page, number, page_box(page, unit), limits)


def pixels_of(data):
    """(H, W, 3) RGB, whatever the file holds."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(int)


def by_poppler(path):
    """The page at the image's own resolution."""
    command = ["pdftoppm", "-r", str(DPI), "-cropbox", "-png", str(path)]
    return pixels_of(subprocess.run(command, capture_output=True, check=True).stdout)


def apply(matrix, u, v):
    a, b, c, d, e, f = matrix
    return a * u + c * v + e, b * u + d * v + f


@needs_poppler
@pytest.mark.parametrize("kind", KINDS)
def test_lifted_pages_look_as_poppler_renders_them(tmp_path, kind):
    """All turns, by matrix and by /Rotate, with all that may surround a scan."""
    stream, tolerance, suffix = KINDS[kind]
    turns = itertools.product((0, 90, 180, 270), (False, True), (0, 90, 180, 270))
    for (turn, flip, rotate), (name, addition) in itertools.product(turns, ADDITIONS.items()):
        case = f"{kind} turned {turn} flip {flip} rotate {rotate} {name}"
        path = scans.write_scan(
            tmp_path / "scan.pdf", stream, turn=turn, flip=flip, rotate=rotate, **addition
        )
        image = lift_page(path)
        assert image, case
        expected, found = by_poppler(path), pixels_of(image.data)
        assert found.shape == expected.shape == (image.height, image.width, 3), case
        off = np.abs(found - expected)
        # The same coefficients, turned; but chroma is interpolated with other roundings.
        assert off.max() <= (4 if "jpegtran" in image.engine else tolerance), case
        assert off.mean() < 0.1, case
        assert image.source == "lifted"
        assert image.rotation == rotate
        unit = addition.get("user_unit", 1)
        assert image.dpi == pytest.approx((DPI / unit, DPI / unit), rel=1e-3), case
        if (turn + rotate) % 360 == 0 and not flip and name != "crop":
            assert (image.suffix, image.engine == "copied") == (suffix, suffix != "png"), case
        elif name == "crop" or suffix != "jpg":
            assert image.suffix == "png", case
        with Image.open(io.BytesIO(image.data)) as file:
            assert file.getexif().get(274, 1) == 1
            if kind in ("g4", "g4-black-is-1", "jbig2", "flate-1", "stencil"):
                assert file.mode == "1", case


@pytest.mark.parametrize("addition", ADDITIONS)
def test_a_mark_is_found_where_to_pdf_says(tmp_path, addition):
    """A black square at a known place of the page, in every placement."""
    pixels = np.full((WHOLE_BLOCKS[1], WHOLE_BLOCKS[0]), 255, np.uint8)
    pixels[40:48, 90:100] = 0
    for turn, flip, rotate in itertools.product(
        (0, 90, 180, 270), (False, True), (0, 90, 180, 270)
    ):
        for stream in (scans.jpeg(pixels), scans.g4(pixels)):
            options = ADDITIONS[addition]
            path = scans.write_scan(
                tmp_path / "mark.pdf", stream, turn=turn, flip=flip, rotate=rotate, **options
            )
            image = lift_page(path)
            # The mark's centre, on the unit square and so on the page.
            matrix, _ = scans.placement(WHOLE_BLOCKS, turn, flip, at=options.get("at", (0, 0)))
            x, y = apply(matrix, 95 / WHOLE_BLOCKS[0], 1 - 44 / WHOLE_BLOCKS[1])
            rows, columns = np.nonzero(pixels_of(image.data)[..., 0] < 128)
            u, v = columns.mean() + 0.5, rows.mean() + 0.5
            found = apply(image.to_pdf, u, v)
            assert np.hypot(found[0] - x, found[1] - y) * SCALE < 0.5


@needs_jpegtran
def test_turned_jpegs_of_whole_blocks_stay_jpegs_of_the_same_coefficients(tmp_path):
    pixels = scans.picture(WHOLE_BLOCKS, grey=False)
    stream = scans.jpeg(pixels)
    path = scans.write_scan(tmp_path / "scan.pdf", stream, rotate=90)
    image = lift_page(path)
    assert image.suffix == "jpg"
    assert image.engine.startswith("jpegtran ")
    # Turned back, the very same data.
    back = subprocess.run(
        ["jpegtran", "-rotate", "270", "-perfect"],
        input=image.data,
        capture_output=True,
        check=True,
    ).stdout
    again = subprocess.run(["jpegtran"], input=stream.data, capture_output=True, check=True).stdout
    assert back == again


def test_jpegs_that_cannot_be_turned_without_loss_become_pngs_of_the_same_pixels(tmp_path):
    stream = scans.jpeg(GREY)
    path = scans.write_scan(tmp_path / "scan.pdf", stream, rotate=90)
    image = lift_page(path)
    assert image.suffix == "png"
    own = cv2.imdecode(np.frombuffer(stream.data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (pixels_of(image.data)[..., 0] == turn_pixels(own, TURN_OF_ORIENTATION[6])).all()


def test_bytes_are_those_of_the_stream(tmp_path):
    for stream in (scans.jpeg(COLOUR), scans.jpeg2000(COLOUR)):
        image = lift_page(scans.write_scan(tmp_path / "scan.pdf", stream, hidden_text=True))
        assert image.data == stream.data


# More than one image ------------------------------------------------------------------------------


def write_page(path, streams, content, size=BROKEN_BLOCKS, **options):
    width, height = size[0] / SCALE, size[1] / SCALE
    with pikepdf.new() as pdf:
        scans.add_scan(pdf, streams, content, [0, 0, width, height], **options)
        pdf.save(path)
    return path


def strips(pixels, heights, make, order):
    """The streams and operators of a page cut into strips, painted in the given order."""
    height, width = pixels.shape[:2]
    assert sum(heights) == height
    streams, operators, top = {}, [], 0
    for index, rows in enumerate(heights):
        name = f"S{index}"
        streams[name] = make(np.ascontiguousarray(pixels[top : top + rows]))
        top += rows
        matrix = (width / SCALE, 0, 0, rows / SCALE, 0, (height - top) / SCALE)
        operators.append(scans.show(name, matrix))
    return streams, b"\n".join(operators[index] for index in order)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("make", [scans.g4, scans.flate, scans.jpeg])
@pytest.mark.parametrize("rotate", [0, 90, 180])
def test_strips_become_one_image(tmp_path, make, order, rotate):
    pixels = BILEVEL if make is scans.g4 else GREY
    heights = (32, 32, 26)
    streams, content = strips(pixels, heights, make, order)
    path = write_page(tmp_path / "strips.pdf", streams, content, rotate=rotate)
    image = lift_page(path)
    assert image.suffix == "png"
    expected = turn_pixels(pixels, TURN_OF_ORIENTATION[{0: 1, 90: 6, 180: 3}[rotate]])
    off = np.abs(pixels_of(image.data)[..., 0] - expected.astype(int))
    assert off.max() <= (40 if make is scans.jpeg else 0)  # Of coding it, at quality 95.
    assert off.mean() < 1


def test_strips_with_a_gap_or_overlap_are_rendered(tmp_path):
    streams, content = strips(GREY, (45, 45), scans.flate, (0, 1))
    moved = content.replace(b"0.000000 22.500000 cm /S0", b"0.000000 24.000000 cm /S0")
    assert moved != content
    assert lift_page(write_page(tmp_path / "gap.pdf", streams, content))
    assert lift_page(write_page(tmp_path / "gap.pdf", streams, moved)) is None


# What is rendered instead -------------------------------------------------------------------------

WHOLE = scans.placement(BROKEN_BLOCKS)[0]
FLATE = scans.flate(GREY)


def variant(stream, **entries):
    return stream._replace(entries={**stream.entries, **entries})


CALIBRATED = Array([Name.CalGray, Dictionary(WhitePoint=Array([0.95, 1, 1.09]), Gamma=1.0)])
TURNED = Image.Exif()
TURNED[274] = 6  # Orientation
RENDERED = {
    "text over the scan": {"after": "BT /F0 12 Tf 5 5 Td (stamp) Tj ET"},
    "a line over the scan": {"after": "0 0 m 50 50 l S"},
    "clipped to a part": {"before": "0 0 40 40 re W n"},
    "clipped to no rectangle": {"before": "0 0 m 200 0 l 0 200 l h W n"},
    "clipped to a trapezium": {"before": "-90 -9 m 200 -9 l 300 90 l 0 90 l h W n"},
    "text that clips": {"after": "BT /F0 12 Tf 7 Tr 5 5 Td (hidden) Tj ET"},
    "half transparent": {"before": "/Half gs"},
    "smaller than the page": {"matrix": (60, 0, 0, 40, 5, 2)},
    "askew": {"matrix": (75, 1, -1, 45, 0, 0)},
    "squashed": {"matrix": (75, 0, 0, 90, 0, -45)},
    "beneath a coarse background": {"matrix": (7500, 0, 0, 4500, -10, -10)},
    "cmyk": {"stream": scans.jpeg(COLOUR, "CMYK")},
    "inverted jpeg": {"stream": variant(scans.jpeg(GREY), Decode=Array([1, 0]))},
    "jpeg with EXIF orientation": {"stream": scans.jpeg(GREY, exif=TURNED)},
    "jpeg cut off": {"stream": scans.jpeg(GREY)._replace(data=scans.jpeg(GREY).data[:-900])},
    "jpeg of another size": {"stream": variant(scans.jpeg(GREY), Height=80)},
    "jpeg of other colours": {"stream": variant(scans.jpeg(GREY), ColorSpace=Name.DeviceRGB)},
    "jpx cut off": {"stream": scans.jpeg2000(GREY)._replace(data=scans.jpeg2000(GREY).data[:-900])},
    "colour key mask": {"stream": variant(FLATE, Mask=Array([0, 10]))},
    "optional content": {"stream": variant(FLATE, OC=Dictionary(Type=Name.OCG))},
    "calibrated grey": {"stream": variant(FLATE, ColorSpace=CALIBRATED)},
    "default colours": {
        "resources": {"ColorSpace": Dictionary(DefaultGray=CALIBRATED)}
    },
    "layers": {"resources": {"Properties": Dictionary(L0=Dictionary(Type=Name.OCG, Name="layer"))}},
    "red stencil": {"stream": scans.stencil(BILEVEL), "before": "1 0 0 rg"},
    "stencil over a picture": {"stream": scans.stencil(BILEVEL), "under": True},
    "more pixels than allowed": {"limits": {"max_pixels": 10_000}},
}  # fmt: skip


@pytest.mark.parametrize("case", RENDERED)
def test_what_is_not_certain_is_not_lifted(tmp_path, case):
    options = dict(RENDERED[case])
    streams = {"Im0": options.get("stream", FLATE)}
    content = scans.show(
        "Im0",
        options.get("matrix", WHOLE),
        "q " + options.get("before", ""),
        "Q " + options.get("after", ""),
    )
    if options.get("under"):
        streams["Im1"] = FLATE
        content = scans.show("Im1", WHOLE) + content
    resources = options.get("resources", {})
    resources = {"ExtGState": Dictionary(Half=Dictionary(ca=0.5)), **resources}
    path = write_page(tmp_path / "page.pdf", streams, content, **resources)
    assert lift_page(path, limits=options.get("limits", LIMITS)) is None
    if not options.get("limits"):
        # It is this that keeps it from being lifted, and nothing else about the page.
        plain = write_page(
            tmp_path / "plain.pdf", {"Im0": FLATE}, scans.show("Im0", WHOLE, "q ", "Q "),
            ExtGState=Dictionary(Half=Dictionary(ca=0.5)),
        )  # fmt: skip
        assert lift_page(plain)


def test_soft_masks_are_rendered(tmp_path):
    with pikepdf.new() as pdf:
        width, height = BROKEN_BLOCKS[0] / SCALE, BROKEN_BLOCKS[1] / SCALE
        scans.add_scan(pdf, {"Im0": FLATE}, scans.show("Im0", WHOLE), [0, 0, width, height])
        mask = pdf.make_stream(FLATE.data, Type=Name.XObject, Subtype=Name.Image, **FLATE.entries)
        pdf.pages[0].Resources.XObject.Im0.SMask = mask
        pdf.save(tmp_path / "mask.pdf")
    assert lift_page(tmp_path / "mask.pdf") is None


def test_stamps_over_a_scan_are_rendered(tmp_path):
    path = scans.write_scan(tmp_path / "scan.pdf", FLATE)
    for subtype, lifted in ((Name.Link, True), (Name.Stamp, False)):
        with pikepdf.open(path) as pdf:
            note = Dictionary(Type=Name.Annot, Subtype=subtype, Rect=Array([5, 5, 20, 20]))
            pdf.pages[0].Annots = Array([pdf.make_indirect(note)])
            pdf.save(tmp_path / "marked.pdf")
        assert (lift_page(tmp_path / "marked.pdf") is not None) == lifted


# What does not matter -----------------------------------------------------------------------------

LIFTED = {
    "text beneath": {"under": "BT /F0 12 Tf 5 5 Td (covered) Tj ET"},
    "a picture beneath": {"under": "q 30 0 0 30 0 0 cm /Im1 Do Q"},
    "white paper": {"under": "1 g 0 0 200 200 re f"},
    "clipped to itself": {"before": "0 0 75 45 re W n"},
    "an empty path": {"after": "0 0 10 10 re n"},
    "a margin of half a percent": {"matrix": (74.8, 0, 0, 44.9, 0.1, 0.05)},
    "within a form": {"form": True},
}


@pytest.mark.parametrize("case", LIFTED)
def test_what_a_viewer_does_not_show_does_not_matter(tmp_path, case):
    options = LIFTED[case]
    content = scans.show(
        "Im0", options.get("matrix", WHOLE), options.get("before", ""), options.get("after", "")
    )
    content = options.get("under", "").encode() + b" q " + content + b" Q"
    stream = scans.jpeg(GREY)
    path = tmp_path / "page.pdf"
    if options.get("form"):
        with pikepdf.new() as pdf:
            scans.add_scan(pdf, {"Im0": stream}, b"q 2 0 0 2 -10 -20 cm /Fm0 Do Q", [0, 0, 75, 45])
            page = pdf.pages[0]
            image = page.Resources.XObject.Im0
            form = pdf.make_stream(
                scans.show("Im0", (37.5, 0, 0, 22.5, 1, 2)),
                Type=Name.XObject,
                Subtype=Name.Form,
                BBox=Array([0, 0, 100, 100]),
                Matrix=Array([1, 0, 0, 1, 4, 8]),
                Resources=Dictionary(XObject=Dictionary(Im0=image)),
            )
            page.Resources.XObject = Dictionary(Fm0=form)
            pdf.save(path)
    else:
        write_page(path, {"Im0": stream, "Im1": FLATE}, content)
    image = lift_page(path)
    assert image
    assert image.data == stream.data
    if options.get("form"):
        assert image.to_pdf == pytest.approx([0.5, 0, 0, -0.5, 0, 45], abs=1e-3)


def test_the_same_picture_on_every_page_and_encrypted_files(tmp_path):
    """Resources that all pages share; data that are longer in the file than they are."""
    streams = {f"Im{n}": scans.jpeg(scans.picture(BROKEN_BLOCKS, seed=n)) for n in range(3)}
    with pikepdf.new() as pdf:
        for n in range(3):
            scans.add_scan(pdf, streams, scans.show(f"Im{n}", WHOLE), [0, 0, 75, 45])
        for page in pdf.pages:
            page.Resources = pdf.pages[0].Resources
        pdf.save(tmp_path / "shared.pdf")
        pdf.save(tmp_path / "locked.pdf", encryption=pikepdf.Encryption(owner="secret", user=""))
    for name in ("shared.pdf", "locked.pdf"):
        lifted = [lift_page(tmp_path / name, number).data for number in (1, 2, 3)]
        assert lifted == [stream.data for stream in streams.values()]


def test_profiles_like_srgb_are_kept_and_others_converted_by_the_renderer(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert is_srgb(srgb, 3)
    assert not is_srgb(srgb, 1)
    assert not is_srgb(b"no profile", 3)
    assert not is_srgb(linear_profile(srgb), 3)
    for data, lifted in ((srgb, True), (linear_profile(srgb), False)):
        with pikepdf.new() as pdf:
            icc = pdf.make_stream(data, N=3)
            stream = variant(scans.jpeg(COLOUR), ColorSpace=Array([Name.ICCBased, icc]))
            scans.add_scan(pdf, {"Im0": stream}, scans.show("Im0", WHOLE), [0, 0, 75, 45])
            pdf.save(tmp_path / "icc.pdf")
        assert (lift_page(tmp_path / "icc.pdf") is not None) == lifted


def linear_profile(srgb):
    """sRGB's profile with its curves replaced by straight ones."""
    data = bytearray(srgb)
    count = int.from_bytes(data[128:132], "big")
    for place in range(132, 132 + 12 * count, 12):
        if bytes(data[place : place + 4]) in (b"rTRC", b"gTRC", b"bTRC"):
            offset = int.from_bytes(data[place + 4 : place + 8], "big")
            data[offset : offset + 14] = b"curv" + bytes(4) + (1).to_bytes(4, "big") + b"\x01\x00"
            data[place + 8 : place + 12] = (14).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("content", [b"0 0 m 9 9 l S", b"0 0 9 9 re n"])
@pytest.mark.parametrize("depth", [3, 12])
def test_forms_over_a_scan_are_looked_into(tmp_path, content, depth):
    """As deep as is reasonable: beyond they may hold anything."""
    with pikepdf.new() as pdf:
        entries = {"Type": Name.XObject, "Subtype": Name.Form, "BBox": Array([0, 0, 75, 45])}
        form = pdf.make_stream(content, **entries)
        for _ in range(depth):
            within = Dictionary(XObject=Dictionary(Fm0=form))
            form = pdf.make_stream(b"/Fm0 Do", Resources=within, **entries)
        scans.add_scan(
            pdf, {"Im0": FLATE}, scans.show("Im0", WHOLE, after="/Fm0 Do"), [0, 0, 75, 45]
        )
        pdf.pages[0].Resources.XObject.Fm0 = form
        pdf.save(tmp_path / "forms.pdf")
    unseen = content.endswith(b"n")
    assert (lift_page(tmp_path / "forms.pdf") is not None) == (unseen and depth == 3)
