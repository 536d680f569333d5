"""Write a demo archive of synthetic scans, and the regions on their pages as COCO JSON beside it.

    python scripts/make_demo_archive.py --output demo

writes `demo/archive/` (12 documents of 60 pages, and three files that cannot be read) and
`demo/archive.coco.json`. Every page is set in type as a vector PDF page from seeded pseudo-text;
"scans" are such pages, rasterised and degraded. The same seed gives the same bytes. The builders
(`write_scanned_pdf` and its like) each write one document, for tests.

Regions are boxes in PDF points (1/72 inch), origin top left, of the page as a viewer shows it.
Running titles and page numbers are no regions, as in PubLayNet; captions are text, as there.
"""

import argparse
import io
import itertools
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import img2pdf
import matplotlib
import numpy as np
import pikepdf
import pypdfium2
from fpdf import FPDF
from PIL import Image, ImageSequence

from scanmill.errors import UserError

# PubLayNet's classes in PubLayNet's order; the COCO category ids are 1 to 5.
CLASSES = ("text", "title", "list", "table", "figure")

Size = tuple[float, float]
Box = tuple[float, float, float, float]
A4: Size = (595, 842)
A3: Size = (842, 1191)
LETTER: Size = (612, 792)
LEDGER: Size = (1224, 792)

# Every document is as old as this: today's date would change the bytes.
WRITTEN = datetime(2000, 1, 1, tzinfo=UTC)


class Region(NamedTuple):
    """A region: a name of CLASSES and a box in points, origin top left of the upright page."""

    class_name: str
    x_min: float
    y_min: float
    x_max: float
    y_max: float


# Page numbers, from 1, each with the regions on that page.
KnownPages = list[tuple[int, list[Region]]]


# ---- Setting pages -----------------------------------------------------------------------------
# Coordinates are points, origin top left, y down, as fpdf2 has them with unit="pt".

# Regular, bold and italic faces, which come with matplotlib, and the factor that makes their
# lower-case letters about equally high at the same nominal size.
FACES = {
    "stix": (("STIXGeneral.ttf", "STIXGeneralBol.ttf", "STIXGeneralItalic.ttf"), 1.0),
    "serif": (("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSerif-Italic.ttf"), 0.84),
    "sans": (("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf"), 0.84),
}
FUNCTION_WORDS = "the of and to in a is that was for on with as by at from which not"
SYLLABLES = "ar bel con dra es fer gal hor in lum mar nor or pen quil ran sol ter ven vi"
ENDINGS = "us um ation er ing ed al ence ity ary e is ment ors able"
# Dark enough to survive as black when a scan is made bilevel.
INKS = ((62, 92, 128), (150, 70, 58), (92, 116, 72), (150, 108, 44))
# What a column is filled with, in random order, between paragraphs.
BLOCKS = ("title", "title", "list", "table", "figure", "text", "text", "text")


class Style(NamedTuple):
    """How a document is set; lengths in points, leading as a multiple of the type size."""

    family: str
    size: float
    leading: float
    columns: int
    align: str
    indent: float
    gap: float
    centred_titles: bool
    running_title: str


@dataclass
class Sheet:
    """The document being set: where to draw, at random, in what style, and what was drawn."""

    pdf: FPDF
    rng: np.random.Generator
    vocabulary: list[str]
    style: Style
    pending: list[str] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    tables: int = 0
    figures: int = 0


T = TypeVar("T")


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _new_vocabulary(rng: np.random.Generator) -> list[str]:
    """Return 400 words, every third a function word, which is about their share in running text."""
    syllables, endings, function_words = SYLLABLES.split(), ENDINGS.split(), FUNCTION_WORDS.split()
    content = [
        "".join(_pick(rng, syllables) for _ in range(rng.integers(1, 4))) + _pick(rng, endings)
        for _ in range(270)
    ]
    return content + [_pick(rng, function_words) for _ in range(130)]


def _new_style(rng: np.random.Generator, vocabulary: list[str], width: float) -> Style:
    columns = int(rng.integers(3, 5) if width > 700 else rng.integers(1, 4))
    family = _pick(rng, tuple(FACES))
    size = rng.uniform(*((10.5, 12.5), (9.5, 11), (9, 10), (9, 10))[columns - 1])
    indented = rng.random() < 0.5
    return Style(
        family=family,
        size=size * FACES[family][1],
        leading=rng.uniform(1.2, 1.4),
        columns=columns,
        align="left" if rng.random() < 0.2 else "justify",
        indent=12.0 if indented else 0.0,
        gap=4.0 if indented else 8.0,
        centred_titles=rng.random() < 0.3,
        running_title=" ".join(_phrase(rng, vocabulary, 4)),
    )


def _new_sheet(seed: int, width: float) -> Sheet:
    rng = np.random.default_rng(seed)
    vocabulary = _new_vocabulary(rng)
    style = _new_style(rng, vocabulary, width)
    pdf = FPDF(unit="pt")
    pdf.creation_date = WRITTEN
    pdf.set_auto_page_break(False)
    for face, file in zip(("", "B", "I"), FACES[style.family][0], strict=True):
        pdf.add_font("face", face, Path(matplotlib.get_data_path(), "fonts", "ttf", file))
    return Sheet(pdf, rng, vocabulary, style)


def _phrase(rng: np.random.Generator, vocabulary: list[str], n_words: int) -> list[str]:
    words = [vocabulary[i] for i in rng.integers(0, len(vocabulary), n_words)]
    return [words[0].capitalize(), *words[1:]]


def _prose(sheet: Sheet, n_words: int) -> list[str]:
    """Return sentences of `n_words` words or a few more, with commas, figures and full stops."""
    words: list[str] = []
    while len(words) < n_words:
        sentence = _phrase(sheet.rng, sheet.vocabulary, int(sheet.rng.integers(6, 18)))
        if sheet.rng.random() < 0.3:
            sentence[3] += ","
        if sheet.rng.random() < 0.15:
            sentence[4] = str(sheet.rng.integers(1700, 1960))
        words += [*sentence[:-1], sentence[-1] + "."]
    return words


def _set_font(sheet: Sheet, scale: float = 1.0, face: str = "") -> float:
    """Choose the face and return the distance of its baselines, in points."""
    sheet.pdf.set_font("face", face, sheet.style.size * scale)
    return sheet.pdf.font_size_pt * sheet.style.leading


def _break_lines(
    sheet: Sheet, words: list[str], width: float, indent: float = 0.0
) -> list[list[str]]:
    """Break words into lines of at most `width` points, hyphenating where much would stay empty."""
    measure = sheet.pdf.get_string_width
    space = measure(" ")
    lines: list[list[str]] = [[]]
    left = width - indent
    for word in words:
        rest = word
        if lines[-1] and measure(word) > left:
            cuts = [n for n in range(3, len(word) - 2) if measure(word[:n] + "-") <= left]
            if cuts and word.isalpha() and left > 0.15 * width:
                lines[-1].append(word[: cuts[-1]] + "-")
                rest = word[cuts[-1] :]
            lines.append([])
            left = width
        lines[-1].append(rest)
        left -= measure(rest) + space
    return lines


def _ink_extent(sheet: Sheet, words: list[str]) -> tuple[float, float]:
    """Return how far the ink of a line reaches above and below its baseline, in points."""
    font = sheet.pdf.current_font.ttfont
    names = font.getBestCmap()
    glyphs = [font["glyf"][names[ord(char)]] for char in set("".join(words))]
    scale = sheet.pdf.font_size_pt / font["head"].unitsPerEm
    return max(glyph.yMax for glyph in glyphs) * scale, -min(glyph.yMin for glyph in glyphs) * scale


def _union(boxes: Sequence[Box]) -> Box:
    x_min, y_min, x_max, y_max = zip(*boxes, strict=True)
    return min(x_min), min(y_min), max(x_max), max(y_max)


def _write_lines(
    sheet: Sheet,
    lines: list[list[str]],
    x: float,
    y: float,
    width: float,
    align: str = "left",
    indent: float = 0.0,
    ends: bool = True,
) -> Box:
    """Write lines below `y` in the current font; return the box of their ink.

    `align` is left, right, centre or justify; the last justified line stays short if the paragraph
    ends there. `indent` moves the first line to the right.
    """
    measure = sheet.pdf.get_string_width
    pitch = sheet.pdf.font_size_pt * sheet.style.leading
    boxes = []
    for row, words in enumerate(lines):
        baseline = y + 0.75 * sheet.pdf.font_size_pt + row * pitch
        start = x + (indent if row == 0 else 0.0)
        widths = [measure(word) for word in words]
        space = measure(" ")
        slack = x + width - start - sum(widths) - space * (len(words) - 1)
        if align == "justify" and len(words) > 1 and not (ends and row == len(lines) - 1):
            space += slack / (len(words) - 1)
        elif align in ("right", "centre"):
            start += slack if align == "right" else slack / 2
        above, below = _ink_extent(sheet, words)
        cursor = start
        for word, word_width in zip(words, widths, strict=True):
            sheet.pdf.text(cursor, baseline, word)
            cursor += word_width + space
        boxes.append((start, baseline - above, cursor - space, baseline + below))
    return _union(boxes)


def _grow(box: Box, margin: float) -> Box:
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


def _add_region(sheet: Sheet, class_name: str, box: Box) -> None:
    sheet.regions.append(Region(class_name, *box))


# Each block draws itself at (x, y), `width` wide, if `room` points of height are enough; it notes
# its regions and returns the y where it ends, or None if there was not enough room.


def _draw_text(sheet: Sheet, x: float, y: float, width: float, room: float) -> float | None:
    """Draw a paragraph, as much of it as there is room for."""
    pitch = _set_font(sheet)
    fitting = int(room / pitch)
    if fitting < 2:
        return None
    style = sheet.style
    words = _prose(sheet, int(sheet.rng.integers(25, 110)))
    lines = _break_lines(sheet, words, width, style.indent)
    whole = len(lines) <= fitting
    box = _write_lines(sheet, lines[:fitting], x, y, width, style.align, style.indent, ends=whole)
    _add_region(sheet, "text", box)
    return box[3] + style.gap


def _draw_title(sheet: Sheet, x: float, y: float, width: float, room: float) -> float | None:
    """Draw a section's heading, if the first lines of its text can follow."""
    pitch = _set_font(sheet, sheet.rng.uniform(1.1, 1.4), "B")
    words = _phrase(sheet.rng, sheet.vocabulary, int(sheet.rng.integers(2, 6)))
    if sheet.rng.random() < 0.4:
        words.insert(0, f"{sheet.rng.integers(1, 9)}.{sheet.rng.integers(1, 9)}")
    lines = _break_lines(sheet, words, width)
    if room < (len(lines) + 4) * pitch:
        return None
    align = "centre" if sheet.style.centred_titles else "left"
    box = _write_lines(sheet, lines, x, y + 4, width, align)
    _add_region(sheet, "title", box)
    return box[3] + 6


def _draw_list(sheet: Sheet, x: float, y: float, width: float, room: float) -> float | None:
    """Draw a list of bulleted, dashed or numbered items of one to three lines."""
    pitch = _set_font(sheet)
    marker = _pick(sheet.rng, ("•", "–", "{}.", "({})"))
    hang = sheet.pdf.get_string_width("(8) ") + 2
    items = [
        _break_lines(sheet, _prose(sheet, int(sheet.rng.integers(3, 14))), width - hang - 8)[:3]
        for _ in range(sheet.rng.integers(3, 8))
    ]
    if room < sum(len(item) * pitch + 2 for item in items) + 12:
        return None
    boxes = []
    y += 4
    for number, item in enumerate(items, start=1):
        boxes.append(_write_lines(sheet, [[marker.format(number)]], x + 8, y, hang))
        boxes.append(_write_lines(sheet, item, x + 8 + hang, y, width - hang - 8))
        y += len(item) * pitch + 2
    _add_region(sheet, "list", _union(boxes))
    return boxes[-1][3] + sheet.style.gap + 6


def _caption(sheet: Sheet, label: str, width: float) -> list[list[str]]:
    _set_font(sheet, 0.85)
    phrase = _phrase(sheet.rng, sheet.vocabulary, int(sheet.rng.integers(4, 16)))
    return _break_lines(sheet, [*label.split(), *phrase[:-1], phrase[-1] + "."], width)


def _cell_text(sheet: Sheet, column: int, row: int, width: float) -> str:
    """Return what stands in a table's cell: words in its first row and column, else numbers."""
    if row and column:
        return f"{10 ** sheet.rng.uniform(0, 4.5):,.{column % 3 // 2}f}"
    word = _phrase(sheet.rng, sheet.vocabulary, 1)[0]
    while sheet.pdf.get_string_width(word) > width:
        word = word[:-1]
    return word


def _draw_table(sheet: Sheet, x: float, y: float, width: float, room: float) -> float | None:
    """Draw a caption (a text region) and a table with all its lines, or three across."""
    caption = _caption(sheet, f"Table {sheet.tables + 1}.", width)
    pitch = _set_font(sheet, 0.85)
    n_rows = int(sheet.rng.integers(4, 15))
    n_columns = max(2, min(int(sheet.rng.integers(3, 8)), int(width / 52)))
    row_height = 1.15 * pitch
    if room < len(caption) * pitch + n_rows * row_height + 24:
        return None
    sheet.tables += 1
    box = _write_lines(sheet, caption, x, y + 6, width)
    _add_region(sheet, "text", box)
    top = box[3] + 6
    cell = width / n_columns
    for row, column in itertools.product(range(n_rows), range(n_columns)):
        _set_font(sheet, 0.85, "" if row else "B")
        text = _cell_text(sheet, column, row, cell - 8)
        baseline_gap = 0.5 * (row_height - 0.75 * sheet.pdf.font_size_pt)
        _write_lines(
            sheet,
            [[text]],
            x + column * cell + 4,
            top + row * row_height + baseline_gap,
            cell - 8,
            "right" if column else "left",
        )
    bottom = top + n_rows * row_height
    grid = sheet.rng.random() < 0.5
    line_width = 0.7
    sheet.pdf.set_line_width(line_width)
    for row in range(n_rows + 1) if grid else (0, 1, n_rows):
        sheet.pdf.line(x, top + row * row_height, x + width, top + row * row_height)
    for column in range(n_columns + 1) if grid else ():
        sheet.pdf.line(x + column * cell, top, x + column * cell, bottom)
    _add_region(sheet, "table", _grow((x, top, x + width, bottom), line_width / 2))
    return bottom + sheet.style.gap + 8


def _draw_figure(sheet: Sheet, x: float, y: float, width: float, room: float) -> float | None:
    """Draw a chart, a diagram, a map or a photograph, and its caption (a text region) below."""
    caption = _caption(sheet, f"Figure {sheet.figures + 1}.", width)
    pitch = _set_font(sheet, 0.85)
    height = min(width * sheet.rng.uniform(0.5, 0.9), 330)
    if room < height + len(caption) * pitch + 24:
        return None
    pictures = (_draw_bars, _draw_curves, _draw_photograph, _draw_map, _draw_diagram)
    box = _pick(sheet.rng, pictures)(sheet, (x, y + 6, x + width, y + 6 + height))
    sheet.figures += 1
    _set_font(sheet, 0.85)
    caption_box = _write_lines(sheet, caption, x, box[3] + 6, width)
    # Lines that run along the sides are at most 1.4 points wide.
    _add_region(sheet, "figure", _grow(box, 0.7))
    _add_region(sheet, "text", caption_box)
    return caption_box[3] + sheet.style.gap + 8


# Each picture fills the box that it is given and returns the box that it really covers.


def _draw_axes(sheet: Sheet, box: Box) -> tuple[Box, Box]:
    """Draw axes with numbers; return the box of the plot area and the box of the whole."""
    x_min, y_min, x_max, y_max = box
    _set_font(sheet, 0.7)
    plot = (x_min + 30, y_min, x_max, y_max - 14)
    pdf = sheet.pdf
    pdf.set_line_width(0.8)
    pdf.line(plot[0], plot[1], plot[0], plot[3])
    pdf.line(plot[0], plot[3], plot[2], plot[3])
    boxes = [plot]
    for step in range(5):
        y = plot[3] - step / 5 * (plot[3] - plot[1])
        pdf.line(plot[0] - 3, y, plot[0], y)
        label = [[str(step * 250)]]
        boxes.append(_write_lines(sheet, label, x_min, y - 0.4 * pdf.font_size_pt, 25, "right"))
        x = plot[0] + (step + 0.5) / 5 * (plot[2] - plot[0])
        year = [[str(1900 + 10 * step)]]
        boxes.append(_write_lines(sheet, year, x - 20, plot[3] + 4, 40, "centre"))
    return plot, _union(boxes)


def _draw_bars(sheet: Sheet, box: Box) -> Box:
    plot, whole = _draw_axes(sheet, box)
    n_bars = int(sheet.rng.integers(5, 12))
    pitch = (plot[2] - plot[0]) / n_bars
    sheet.pdf.set_fill_color(*_pick(sheet.rng, INKS))
    for bar in range(n_bars):
        # The first bar reaches the top, so that the plot fills its box.
        height = (plot[3] - plot[1]) * (sheet.rng.uniform(0.15, 0.95) if bar else 1.0)
        left = plot[0] + (bar + 0.2) * pitch
        sheet.pdf.rect(left, plot[3] - height, 0.6 * pitch, height, style="DF")
    return whole


def _draw_curves(sheet: Sheet, box: Box) -> Box:
    plot, whole = _draw_axes(sheet, box)
    n_points = 14
    x = np.linspace(plot[0], plot[2], n_points)
    for ink in INKS[: sheet.rng.integers(2, 4)]:
        walk = np.cumsum(sheet.rng.normal(size=n_points))
        # Not to the very top: a sharp peak's mitre reaches beyond its point.
        share = 0.94 * (walk - walk.min()) / np.ptp(walk)
        y = plot[3] - share * (plot[3] - plot[1])
        sheet.pdf.set_draw_color(*ink)
        sheet.pdf.set_line_width(1.4)
        sheet.pdf.polyline(list(zip(x.tolist(), y.tolist(), strict=True)))
    sheet.pdf.set_draw_color(0)
    return whole


def _draw_frame(sheet: Sheet, box: Box) -> Box:
    sheet.pdf.set_line_width(1.0)
    sheet.pdf.rect(box[0], box[1], box[2] - box[0], box[3] - box[1])
    return box


def _draw_photograph(sheet: Sheet, box: Box) -> Box:
    """Draw a framed grey picture of clouds, a horizon and things in front of it, at 150 dpi."""
    width, height = (round((box[2 + i] - box[i]) * 150 / 72) for i in (0, 1))
    picture = np.zeros((height, width), np.float32)
    for octave in range(1, 6):
        noise = sheet.rng.random((2**octave, 2**octave), dtype=np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) / octave
    picture = cv2.normalize(picture, None, 90, 230, cv2.NORM_MINMAX)
    picture[height * 3 // 5 :] *= 0.6
    for _ in range(sheet.rng.integers(2, 6)):
        centre = (int(sheet.rng.integers(width)), int(height * sheet.rng.uniform(0.5, 0.8)))
        axes = (int(width * sheet.rng.uniform(0.03, 0.12)), int(height * 0.2))
        cv2.ellipse(picture, centre, axes, 0, 0, 360, float(sheet.rng.uniform(10, 90)), -1)
    picture += 6 * sheet.rng.standard_normal(picture.shape, dtype=np.float32)
    image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
    sheet.pdf.image(_jpeg(image, 150), box[0], box[1], box[2] - box[0], box[3] - box[1])
    return _draw_frame(sheet, box)


def _draw_map(sheet: Sheet, box: Box) -> Box:
    """Draw a framed map of three islands with lines of depth around them, and their names."""
    x_min, y_min, x_max, y_max = box
    # Small enough that three islands with their shallows stay apart and within the frame.
    span = min((x_max - x_min) / 3, y_max - y_min)
    turn = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    sheet.pdf.set_line_width(0.8)
    for island in range(3):
        coast = sum(
            np.cos(wave * turn + sheet.rng.uniform(0, 2 * math.pi)) / wave for wave in range(2, 9)
        )
        centre_x = x_min + (x_max - x_min) * (island + 0.5) / 3
        centre_y = y_min + (y_max - y_min) * sheet.rng.uniform(0.45, 0.55)
        sheet.pdf.set_fill_color(*_pick(sheet.rng, INKS))
        for ring in (1.24, 1.16, 1.08, 1.0):
            radius = ring * span * (0.25 + 0.06 * coast)
            x, y = centre_x + radius * np.cos(turn), centre_y + radius * np.sin(turn)
            style = "DF" if ring == 1.0 else "D"
            sheet.pdf.polygon(list(zip(x.tolist(), y.tolist(), strict=True)), style=style)
        _set_font(sheet, 0.7, "I")
        name = [_phrase(sheet.rng, sheet.vocabulary, 1)]
        _write_lines(sheet, name, centre_x - 30, y_max - 16, 60, "centre")
    return _draw_frame(sheet, box)


def _draw_diagram(sheet: Sheet, box: Box) -> Box:
    """Draw a tree of labelled boxes, the outer ones at the sides of the picture."""
    x_min, y_min, x_max, y_max = box
    _set_font(sheet, 0.75)
    n_leaves = 3
    cell_width, cell_height = (x_max - x_min) / n_leaves - 10, min(30.0, (y_max - y_min) / 4)
    middle = (x_min + x_max - cell_width) / 2
    leaves = [
        x_min + leaf * (x_max - x_min - cell_width) / (n_leaves - 1) for leaf in range(n_leaves)
    ]
    sheet.pdf.set_line_width(0.8)
    bend = (y_min + y_max) / 2
    for left in leaves:
        points = [
            (middle + cell_width / 2, y_min + cell_height),
            (middle + cell_width / 2, bend),
            (left + cell_width / 2, bend),
            (left + cell_width / 2, y_max - cell_height),
        ]
        sheet.pdf.polyline(points)
    for left, top in [(middle, y_min), *((left, y_max - cell_height) for left in leaves)]:
        sheet.pdf.rect(left, top, cell_width, cell_height)
        text = [[_cell_text(sheet, 0, 0, cell_width - 6)]]
        _write_lines(sheet, text, left, top + cell_height / 2 - 4, cell_width, "centre")
    return box


DRAW: dict[str, Callable[[Sheet, float, float, float, float], float | None]] = {
    "text": _draw_text,
    "title": _draw_title,
    "list": _draw_list,
    "table": _draw_table,
    "figure": _draw_figure,
}


def _next_block(sheet: Sheet) -> str:
    """Return the class of the block that comes next: a shuffled pack, dealt again when empty."""
    if not sheet.pending:
        for block in sheet.rng.permutation(BLOCKS):
            sheet.pending += [str(block), "text"]
    return sheet.pending.pop()


def _fill_column(sheet: Sheet, x: float, y: float, width: float, bottom: float) -> None:
    """Set one block below the other until no more lines fit; what did not fit comes next."""
    while True:
        block = _next_block(sheet)
        end = DRAW[block](sheet, x, y, width, bottom - y)
        if end is None and block != "text":
            sheet.pending.append(block)
            end = _draw_text(sheet, x, y, width, bottom - y)
        if end is None:
            return
        y = end


def _draw_masthead(sheet: Sheet, x: float, y: float, width: float) -> float:
    """Draw the title of an article and its author (a text region) over all columns."""
    _set_font(sheet, sheet.rng.uniform(1.8, 2.4), "B")
    words = _phrase(sheet.rng, sheet.vocabulary, int(sheet.rng.integers(4, 9)))
    box = _write_lines(sheet, _break_lines(sheet, words, width), x, y, width, "centre")
    _add_region(sheet, "title", box)
    _set_font(sheet, 1.05, "I")
    author = [word.capitalize() for word in _phrase(sheet.rng, sheet.vocabulary, 3)]
    box = _write_lines(sheet, [author], x, box[3] + 12, width, "centre")
    _add_region(sheet, "text", box)
    return box[3] + 18


def _draw_running_title(sheet: Sheet, number: int, width: float, margin: float) -> None:
    """Draw the running title and the page number, which are no regions."""
    y = 0.62 * margin
    _set_font(sheet, 0.9, "I")
    _write_lines(sheet, [sheet.style.running_title.split()], margin, y, width, "centre")
    _set_font(sheet, 0.9)
    _write_lines(sheet, [[str(number)]], margin, y, width, "right" if number % 2 else "left")


def _draw_page(sheet: Sheet, number: int, size: Size) -> list[Region]:
    """Set one page: masthead and float over the whole width now and then, then the columns."""
    sheet.regions = []
    sheet.pdf.add_page(format=size)
    margin = 0.09 * min(size)
    width, bottom = size[0] - 2 * margin, size[1] - margin
    _draw_running_title(sheet, number, width, margin)
    top = 1.25 * margin
    n_columns = sheet.style.columns
    if number == 1 or sheet.rng.random() < 0.2:
        top = _draw_masthead(sheet, margin, top, width)
    if n_columns > 1 and sheet.rng.random() < 0.3:
        over_all = _pick(sheet.rng, (_draw_table, _draw_figure))
        # Never more than half a page, or the columns below would be too short for anything.
        top = over_all(sheet, margin, top, width, 0.5 * (bottom - top)) or top
    gutter = 0.035 * size[0]
    column_width = (width - (n_columns - 1) * gutter) / n_columns
    for column in range(n_columns):
        left = margin + column * (column_width + gutter)
        if column and size[0] > 700:
            sheet.pdf.set_line_width(0.5)
            sheet.pdf.line(left - gutter / 2, top, left - gutter / 2, bottom)
        _fill_column(sheet, left, top, column_width, bottom)
    return sheet.regions


def draw_document(n_pages: int, seed: int, sizes: Sequence[Size]) -> tuple[bytes, KnownPages]:
    """Return a vector PDF, its pages of the given sizes in turn, and the regions on them."""
    sheet = _new_sheet(seed, sizes[0][0])
    pages = range(1, n_pages + 1)
    known = [(page, _draw_page(sheet, page, sizes[(page - 1) % len(sizes)])) for page in pages]
    return bytes(sheet.pdf.output()), known


# ---- Scanning ----------------------------------------------------------------------------------


def _jpeg(image: Image.Image, dpi: int) -> io.BytesIO:
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=80, dpi=(dpi, dpi))
    encoded.seek(0)
    return encoded


def _skew(
    pixels: np.ndarray, regions: list[Region], angle: float, page: Size, dpi: int
) -> tuple[np.ndarray, list[Region]]:
    """Turn a white page of H x W (x 3) uint8 about its centre by `angle` degrees, and its regions.

    A region becomes the upright box of its turned corners, clipped at the edges of the page, in
    points of the scan (pixels * 72 / dpi), which is larger than the page by parts of a pixel.
    """
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    white = (255, 255, 255)
    turned = cv2.warpAffine(
        pixels, turn, (width, height), flags=cv2.INTER_LINEAR, borderValue=white
    )
    scale = np.array([width / page[0], height / page[1]])
    limit = np.array([width, height])
    moved = []
    for class_name, *box in regions:
        corners = np.array(list(itertools.product(box[0::2], box[1::2]))) * scale
        # Half a pixel: OpenCV's coordinates are those of pixel centres, ours of their edges.
        corners = ((corners - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5).clip(0, limit) * 72 / dpi
        moved.append(
            Region(class_name, *corners.min(axis=0).tolist(), *corners.max(axis=0).tolist())
        )
    return turned, moved


def _shading(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Return H x W float32 around 1: mottled paper, lit unevenly, darker towards one edge."""
    mottles = rng.normal(1.0, 0.008, (24, 18)).astype(np.float32)
    edge = np.linspace(rng.uniform(0.86, 0.95), 1.0, 18, dtype=np.float32)
    light = mottles * (edge if rng.random() < 0.5 else edge[::-1])
    return cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC)


def age_page(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Print a page of H x W (x 3) uint8 on old paper and scan it with blur and noise."""
    pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.6, 0.9))
    paper = rng.uniform(0.9, 1.0) * np.array([243.0, 229.0, 194.0])
    ink = np.array([52.0, 42.0, 36.0])
    if pixels.ndim == 2:
        paper, ink = paper.mean(keepdims=True), ink.mean(keepdims=True)
    light = _shading(rng, pixels.shape[1], pixels.shape[0])
    noise = 2.5 * rng.standard_normal(pixels.shape[:2], dtype=np.float32)
    channels = [
        light * (channel * np.float32((high - low) / 255) + np.float32(low)) + noise
        for channel, low, high in zip(
            np.atleast_3d(pixels).transpose(2, 0, 1), ink, paper, strict=True
        )
    ]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8).squeeze()


def _make_bilevel(rng: np.random.Generator, pixels: np.ndarray) -> np.ndarray:
    """Make a grey page (H x W uint8) bool, True white, with ragged edges and specks."""
    blurred = cv2.GaussianBlur(pixels, (0, 0), 0.8)
    ragged = 18 * rng.standard_normal(pixels.shape, dtype=np.float32)
    white = blurred + cv2.GaussianBlur(ragged, (0, 0), 0.7) > rng.uniform(130, 160)
    n_specks = pixels.size // 60_000
    rows, columns = (rng.integers(0, size, n_specks) for size in pixels.shape)
    for row, column, extent in zip(rows, columns, rng.integers(1, 4, n_specks), strict=True):
        white[row : row + extent, column : column + extent] = False
    return white


def _scan_pages(
    n_pages: int, seed: int, sizes: Sequence[Size], kind: str, dpi: int, grey: bool
) -> Iterator[tuple[Image.Image, list[Region]]]:
    """Yield scans of printed pages, upright, and the regions on them in points of the scan.

    `kind` is "jpeg" (mode L if grey, else RGB) or "g4" (mode 1).
    """
    if kind not in ("jpeg", "g4"):
        raise ValueError(f"kind is {kind!r}: neither jpeg nor g4")
    printed, known = draw_document(n_pages, seed, sizes)
    with pypdfium2.PdfDocument(printed) as document:
        for number, regions in known:
            rng = np.random.default_rng([seed, number])
            page = document[number - 1]
            flat = kind == "g4" or grey
            bitmap = page.render(scale=dpi / 72, grayscale=flat, rev_byteorder=True)
            pixels = bitmap.to_numpy()
            pixels, moved = _skew(pixels, regions, rng.uniform(-0.6, 0.6), page.get_size(), dpi)
            pixels = _make_bilevel(rng, pixels) if kind == "g4" else age_page(rng, pixels)
            yield Image.fromarray(pixels), moved


def _encode(image: Image.Image, dpi: int) -> bytes:
    """Return a page as the file that it becomes in a PDF: G4 TIFF of bilevel pages, else JPEG."""
    if image.mode != "1":
        return _jpeg(image, dpi).getvalue()
    encoded = io.BytesIO()
    image.save(encoded, "TIFF", compression="group4", dpi=(dpi, dpi))
    return encoded.getvalue()


def _embed(path: Path, images: list[bytes], dpi: int, rotations: Sequence[int]) -> None:
    """Write a PDF of one encoded image per page, each page with its /Rotate."""
    layout = img2pdf.get_fixed_dpi_layout_fun((dpi, dpi))
    written = img2pdf.convert(images, layout_fun=layout, creationdate=WRITTEN, moddate=WRITTEN)
    with pikepdf.open(io.BytesIO(written)) as pdf:
        for page, rotation in zip(pdf.pages, rotations, strict=True):
            if rotation:
                page.Rotate = rotation
        # img2pdf's identifier is random, and would be kept.
        del pdf.trailer.ID
        pdf.save(path, deterministic_id=True)


# ---- Documents ---------------------------------------------------------------------------------
# Each builder writes one document at `path` and returns the regions on its pages.


def write_vector_pdf(path: Path, n_pages: int, seed: int, size: Size = A4) -> KnownPages:
    """Write a born-digital PDF: fonts and vector graphics, and photographs as JPEG."""
    return write_mixed_pdf(path, n_pages, seed, (size,))


def write_mixed_pdf(
    path: Path, n_pages: int, seed: int, sizes: Sequence[Size] = (A4, LEDGER)
) -> KnownPages:
    """Write a born-digital PDF whose pages have the given sizes in turn."""
    written, known = draw_document(n_pages, seed, sizes)
    path.write_bytes(written)
    return known


def write_scanned_pdf(
    path: Path,
    n_pages: int,
    seed: int,
    kind: str = "jpeg",
    dpi: int = 200,
    grey: bool = True,
    size: Size = A4,
    rotations: Sequence[int] = (0,),
) -> KnownPages:
    """Write a PDF of one scan per page, as JPEG (kind "jpeg") or 1-bit CCITT G4 ("g4").

    `rotations` are the pages' /Rotate, in turn: 90 means that the page was scanned with its top to
    the left, and that viewers turn it clockwise. The regions are those of the upright page.
    """
    known, images, turns = [], [], []
    scans = _scan_pages(n_pages, seed, (size,), kind, dpi, grey)
    for number, (image, regions) in enumerate(scans, start=1):
        rotation = rotations[(number - 1) % len(rotations)]
        # Pillow turns counter-clockwise, /Rotate clockwise.
        images.append(_encode(image.rotate(rotation, expand=True), dpi))
        turns.append(rotation)
        known.append((number, regions))
    _embed(path, images, dpi, turns)
    return known


def write_rotated_pdf(path: Path, n_pages: int, seed: int, dpi: int = 200) -> KnownPages:
    """Write a PDF of grey scans: an upright page, one with /Rotate 90, an upright one, one 270."""
    return write_scanned_pdf(path, n_pages, seed, dpi=dpi, rotations=(0, 90, 0, 270))


def write_tiff(path: Path, n_pages: int, seed: int, dpi: int = 200, size: Size = A4) -> KnownPages:
    """Write a TIFF of 1-bit pages, CCITT G4, with its resolution."""
    scans = list(_scan_pages(n_pages, seed, (size,), "g4", dpi, grey=True))
    first, *others = (image for image, _ in scans)
    first.save(
        path,
        "TIFF",
        compression="group4",
        dpi=(dpi, dpi),
        save_all=True,
        append_images=others,
    )
    return [(number, regions) for number, (_, regions) in enumerate(scans, start=1)]


def write_image_folder(
    path: Path,
    n_pages: int,
    seed: int,
    dpi: int = 200,
    grey: bool = True,
    size: Size = A4,
    first_number: int = 1,
) -> KnownPages:
    """Make a folder of JPEG pages, with their resolution: page-1.jpg ... page-10.jpg.

    The names start at `first_number`; the pages of the document are numbered from 1 all the same.
    """
    path.mkdir(parents=True)
    known = []
    scans = _scan_pages(n_pages, seed, (size,), "jpeg", dpi, grey)
    for number, (image, regions) in enumerate(scans, start=1):
        name = f"page-{first_number + number - 1}.jpg"
        (path / name).write_bytes(_encode(image, dpi))
        known.append((number, regions))
    return known


def write_encrypted_pdf(path: Path, n_pages: int, seed: int) -> KnownPages:
    """Write a vector PDF that opens with the password "demo" only."""
    written, known = draw_document(n_pages, seed, (A4,))
    # RC4 with 128 bits (R=3), since newer ciphers salt at random and no two files would be equal.
    lock = pikepdf.Encryption(owner="demo", user="demo", R=3, aes=False, metadata=False)
    with pikepdf.open(io.BytesIO(written)) as pdf:
        pdf.save(path, encryption=lock, static_id=True)
    return known


def write_corrupt_pdf(path: Path, n_pages: int, seed: int) -> KnownPages:
    """Write the first half of a vector PDF, as an interrupted copy leaves it: no page is known.

    Its catalogue stood at the end, so that there is nothing to repair it from.
    """
    written, _ = draw_document(n_pages, seed, (A4,))
    path.write_bytes(written[: len(written) // 2])
    return []


# ---- The archive -------------------------------------------------------------------------------

Builder = Callable[[Path, int, int], KnownPages]


def _plan_archive(small: bool) -> list[tuple[str, int, Builder]]:
    """Return name, pages and builder of each readable document.

    A small archive has the same documents of at most two pages, scanned at 100 dpi.
    """
    fine, coarse = (100, 100) if small else (300, 200)
    # Numbered across 9 and 10 at either size, so that natural order is not that of the alphabet.
    folder = partial(write_image_folder, dpi=coarse, first_number=9 if small else 1)
    scans, g4 = partial(write_scanned_pdf, dpi=coarse), partial(write_scanned_pdf, kind="g4")
    documents = [
        ("annual-report-1931.pdf", 6, write_vector_pdf),
        ("bulletin/1902-03.pdf", 6, partial(g4, dpi=fine)),
        ("bulletin/1902-04.pdf", 1, partial(write_vector_pdf, size=LETTER)),
        ("books/Flora und Gärten.pdf", 5, partial(scans, grey=False, size=LETTER)),
        ("books/travels.pdf", 6, partial(scans, dpi=fine)),
        ("journal/vol-1.pdf", 6, partial(scans, grey=False)),
        ("letters/turned.pdf", 4, partial(write_rotated_pdf, dpi=coarse)),
        ("letters/survey.tif", 5, partial(write_tiff, dpi=coarse)),
        ("newspapers/1888/gazette-10-27.pdf", 4, partial(g4, dpi=fine, size=A3)),
        ("newspapers/1888/photographed", 10, folder),
        ("statistics/abstract.pdf", 3, partial(write_vector_pdf, size=LETTER)),
        ("statistics/tables.pdf", 4, write_mixed_pdf),
    ]
    return [
        (name, min(n_pages, 2) if small else n_pages, write) for name, n_pages, write in documents
    ]


def page_sizes(path: Path) -> list[Size]:
    """Return width and height, in points and as a viewer shows it, of each page of a document here."""
    if path.suffix == ".pdf":
        with pypdfium2.PdfDocument(path) as pdf:
            return [pdf.get_page_size(i) for i in range(len(pdf))]
    files = [path]
    if path.is_dir():
        files = sorted(path.iterdir(), key=lambda file: int(file.stem.split("-")[1]))
    sizes = []
    for file in files:
        with Image.open(file) as image:
            for frame in ImageSequence.Iterator(image):
                dpi = frame.info["dpi"]
                sizes.append(tuple(float(frame.size[i] * 72 / dpi[i]) for i in (0, 1)))
    return sizes


def _annotation(number: int, image_id: int, region: Region) -> dict:
    class_name, *box = region
    x_min, y_min, x_max, y_max = (round(value, 2) for value in box)
    width, height = round(x_max - x_min, 2), round(y_max - y_min, 2)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": CLASSES.index(class_name) + 1,
        "bbox": [x_min, y_min, width, height],
        "area": round(width * height, 2),
        "segmentation": [[x_min, y_min, x_max, y_min, x_max, y_max, x_min, y_max]],
        "iscrowd": 0,
    }


def _to_coco(known: dict[str, KnownPages], sizes: dict[str, list[Size]], seed: int) -> dict:
    """Return the COCO dataset of all pages of all documents."""
    images, annotations = [], []
    for document in sorted(known):
        for (page, regions), (width, height) in zip(known[document], sizes[document], strict=True):
            image = {
                "id": len(images) + 1,
                "file_name": f"{document}#{page}",
                "document": document,
                "page": page,
                "width": round(width, 2),
                "height": round(height, 2),
            }
            images.append(image)
            for region in regions:
                annotations.append(_annotation(len(annotations) + 1, image["id"], region))
    info = {
        "description": "Known regions of the demo archive of synthetic pages that lies beside it",
        "unit": "PDF points (1/72 inch): boxes, and width and height of images",
        "origin": "top left of the upright page, as a viewer shows it",
        "document": "path in the archive, with suffix; a folder of page images is one document",
        "page": "from 1; running titles and page numbers are no regions",
        "seed": seed,
    }
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    return {
        "info": info,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def make_archive(folder: Path, seed: int = 0, small: bool = False) -> None:
    """Write `folder/archive/`, the documents, and `folder/archive.coco.json`, the known regions.

    A small archive has the same documents of at most two pages, scanned at 100 dpi. The archive
    gets its name when it is complete, so that an interrupted run leaves no half of it. Raises
    UserError where an archive already is: there may be other documents in it by now.
    """
    archive = folder / "archive"
    if archive.exists():
        raise UserError(f"{archive} already exists: delete it, or choose another --output")
    partial_archive = folder / "archive.partial"
    if partial_archive.exists():
        shutil.rmtree(partial_archive)
    known, sizes = {}, {}
    for index, (name, n_pages, write) in enumerate(_plan_archive(small)):
        path = partial_archive / name
        path.parent.mkdir(parents=True, exist_ok=True)
        known[name] = write(path, n_pages, 100 * seed + index)
        sizes[name] = page_sizes(path)
    damaged = partial_archive / "damaged"
    damaged.mkdir()
    write_corrupt_pdf(damaged / "interrupted-copy.pdf", 2, 100 * seed + 98)
    write_encrypted_pdf(damaged / "password.pdf", 2, 100 * seed + 99)
    (damaged / "empty.pdf").touch()
    coco = json.dumps(_to_coco(known, sizes, seed), ensure_ascii=False, indent=1)
    (folder / "archive.coco.json").write_text(coco + "\n", encoding="utf-8")
    partial_archive.rename(archive)


def _describe(folder: Path) -> str:
    """Return what was written, in two lines."""
    coco = json.loads((folder / "archive.coco.json").read_text(encoding="utf-8"))
    n_documents = len({image["document"] for image in coco["images"]})
    files = [path for path in (folder / "archive").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    return (
        f"{folder / 'archive'}: {n_documents} documents of {len(coco['images'])} pages and 3 files "
        f"that cannot be read, {size / 1e6:.1f} MB\n"
        f"{folder / 'archive.coco.json'}: {len(coco['annotations'])} known regions"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a demo archive of synthetic scans.")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other pages")
    parser.add_argument(
        "--pages-scale",
        choices=("full", "small"),
        default="full",
        help="small: at most two pages per document, at 100 dpi",
    )
    options = parser.parse_args(arguments)
    try:
        make_archive(options.output, options.seed, options.pages_scale == "small")
    except (UserError, OSError) as error:
        sys.exit(str(error))
    print(_describe(options.output))


if __name__ == "__main__":
    main()
