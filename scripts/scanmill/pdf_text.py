"""The text that a PDF has of the regions of its pages, with boxes in pixels of the page images.

Opens untrusted files: called in worker processes alone.

Text of a PDF is worth having where the page was set, and worth little where it was scanned: there it is
what some OCR left, often unseen beneath the image. A region's text is trusted if

- it has characters, and of these at most UNUSABLE cannot be taken: they are invisible, or nobody can
  say which they are (fonts without a Unicode map: what comes out is U+FFFD, a private use or a control
  character);
- no image lies beneath or above more than IMAGE_SHARE of the region, as it does on scans;
- the box around all characters covers at least COVERED of the region's box: of headings that are
  drawn as outlines, the PDF has no text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pypdfium2
import pypdfium2.raw as pdfium_c
from pypdfium2 import PdfiumError

from scanmill.lifting import bounds, page_objects
from scanmill.lines import SAME_LINE, Line, join_pieces

#: Of a region's characters; ornaments and bullets of symbol fonts are few.
UNUSABLE = 0.05
#: Of a region's area: less than a drop capital or a formula that is an image takes.
IMAGE_SHARE = 0.3
#: Of a region's area. Regions are cropped with some padding, and last lines are short: of 197 regions of
#: text, titles, lists and tables on the demo archive's born-digital pages none has less than 0.63.
COVERED = 0.5

#: Unicode's general categories of what is no text: control, surrogate, private use, not assigned.
_NO_TEXT = ("Cc", "Cs", "Co", "Cn")


class _Characters(NamedTuple):
    """What a page has of text, in the order of its content; N characters."""

    texts: list[str]
    boxes: np.ndarray
    """(N, 4) float64: x_min, y_min, x_max, y_max in pixels of the page image."""
    usable: np.ndarray
    """(N,) bool."""
    pieces: np.ndarray
    """(N,) int64: number of the piece of a line that it belongs to."""
    words: np.ndarray
    """(N,) int64: number of the word that it belongs to; the blank after it does, too."""


def read_pages(
    path: str, pages: Sequence[Mapping[str, Any]], trusted: bool
) -> Iterator[list[list[Line] | None]]:
    """Of each of `pages`, for each of its boxes, the lines of text in it.

    A page is a mapping of `page` (1-based), `to_pdf` (6 numbers, see the table `images`) and `boxes` (N
    of x_min, y_min, x_max, y_max in pixels of the page image). With `trusted`, None stands in place of
    text that is not to be trusted; otherwise all text counts, invisible or not. Raises PdfiumError where
    PDFium cannot open the file; a page that it cannot load has None for each box.
    """
    with pypdfium2.PdfDocument(path) as pdf:
        for wanted in pages:
            boxes = np.array(wanted["boxes"], float).reshape(-1, 4)
            try:
                page = pdf[wanted["page"] - 1]
                characters, images = _read_page(page, wanted["to_pdf"])
            except PdfiumError:
                yield [None] * len(boxes)
                continue
            yield [_text_in(characters, images, box, trusted) for box in boxes]


def _read_page(page: pypdfium2.PdfPage, to_pdf: Sequence[float]) -> tuple[_Characters, np.ndarray]:
    """The characters of a page, and the boxes (M, 4) of its images, in pixels."""
    images = [
        bounds(item, matrix)
        for item, matrix, kind in page_objects(page)
        if kind == pdfium_c.FPDF_PAGEOBJ_IMAGE
    ]
    text = page.get_textpage()
    try:
        characters = _characters(text.raw, to_pdf)
    finally:
        text.close()
    return characters, _in_pixels(np.array(images, float).reshape(-1, 4), to_pdf)


def _characters(text: Any, to_pdf: Sequence[float]) -> _Characters:  # noqa: ANN401
    """All characters of a text page of PDFium, but the line breaks that it adds."""
    texts, boxes, usable, breaks = [], [], [], []
    rectangle, broken = pdfium_c.FS_RECTF(), True
    for index in range(pdfium_c.FPDFText_CountChars(text)):
        character = _character(text, index)
        if character in "\r\n":
            broken = True
            continue
        # Loose boxes are as high as the font, and as wide as the pen goes: lines of one height.
        pdfium_c.FPDFText_GetLooseCharBox(text, index, rectangle)
        texts.append(character)
        boxes.append((rectangle.left, rectangle.bottom, rectangle.right, rectangle.top))
        usable.append(_is_usable(text, index, character))
        breaks.append(broken)
        broken = False
    in_pixels = _in_pixels(np.array(boxes, float).reshape(-1, 4), to_pdf)
    breaks = np.array(breaks, bool)
    # Where a word is divided, PDFium adds no break.
    _, top, _, bottom = in_pixels.T
    shared = np.minimum(bottom[1:], bottom[:-1]) - np.maximum(top[1:], top[:-1])
    lower = np.minimum(bottom[1:] - top[1:], bottom[:-1] - top[:-1])
    breaks[1:] |= shared < SAME_LINE * lower
    blank = np.array([character.isspace() for character in texts], bool)
    begins = breaks | np.concatenate([[False], blank[:-1]])[: len(texts)]
    return _Characters(
        texts, in_pixels, np.array(usable, bool), breaks.cumsum(), begins.cumsum() - 1
    )


def _character(text: Any, index: int) -> str:  # noqa: ANN401
    if pdfium_c.FPDFText_IsHyphen(text, index) == 1:
        return "-"  # At the end of a line PDFium gives U+0002.
    code = pdfium_c.FPDFText_GetUnicode(text, index)
    return chr(code) if code < 0x110000 else "\ufffd"


def _is_usable(text: Any, index: int, character: str) -> bool:  # noqa: ANN401
    """Whether a character is known, and shows."""
    if character == "\ufffd" or unicodedata.category(character) in _NO_TEXT:
        return False
    if pdfium_c.FPDFText_HasUnicodeMapError(text, index) == 1:
        return False
    item = pdfium_c.FPDFText_GetTextObject(text, index)
    if not item:  # A blank that PDFium adds.
        return True
    return pdfium_c.FPDFTextObj_GetTextRenderMode(item) not in (
        pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE,
        pdfium_c.FPDF_TEXTRENDERMODE_CLIP,
    )


def _in_pixels(boxes: np.ndarray, to_pdf: Sequence[float]) -> np.ndarray:
    """Boxes (N, 4) of the page (left, bottom, right, top) as boxes of its image.

    x = a u + c v + e, y = b u + d v + f leads from pixels to the page; this goes back.
    """
    a, b, c, d, e, f = to_pdf
    back = np.linalg.inv([[a, c], [b, d]])
    corners = boxes.reshape(-1, 2, 2) - (e, f)
    pixels = corners @ back.T
    return np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)


def _text_in(
    characters: _Characters, images: np.ndarray, box: np.ndarray, trusted: bool
) -> list[Line] | None:
    """The lines in a box (4,); None where they are not to be trusted, if that counts."""
    chosen = _characters_in(characters, box)
    if trusted and not _is_trusted(characters, images, box, chosen):
        return None
    pieces = []
    for piece in np.unique(characters.pieces[chosen]):
        mine = chosen[characters.pieces[chosen] == piece]
        text = " ".join("".join(characters.texts[index] for index in mine).split())
        if text:
            low, high = (
                characters.boxes[mine, :2].min(axis=0),
                characters.boxes[mine, 2:].max(axis=0),
            )
            pieces.append(Line(text, None, *low.tolist(), *high.tolist()))
    return join_pieces(pieces)


def _characters_in(characters: _Characters, box: np.ndarray) -> np.ndarray:
    """The characters (int64) of the words whose middle lies in a box: it may cut the last letters."""
    middles = (characters.boxes[:, :2] + characters.boxes[:, 2:]) / 2
    count = np.bincount(characters.words)
    of_words = np.stack(
        [np.bincount(characters.words, middles[:, axis]) / count for axis in (0, 1)], axis=1
    )
    inside = ((of_words >= box[:2]) & (of_words <= box[2:])).all(axis=1)
    return np.flatnonzero(inside[characters.words])


def _is_trusted(
    characters: _Characters, images: np.ndarray, box: np.ndarray, chosen: np.ndarray
) -> bool:
    seen = [index for index in chosen if not characters.texts[index].isspace()]
    if not seen or np.mean(~characters.usable[seen]) > UNUSABLE:
        return False
    area = _area(box)
    if any(_area(_common(image, box)) > IMAGE_SHARE * area for image in images):
        return False
    around = np.concatenate(
        [characters.boxes[seen, :2].min(axis=0), characters.boxes[seen, 2:].max(axis=0)]
    )
    return _area(_common(around, box)) >= COVERED * area


def _common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.concatenate([np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])])


def _area(box: np.ndarray) -> float:
    """Of a box (4,); 0 of an empty one."""
    width, height = (box[2:] - box[:2]).clip(0)
    return float(width * height)
