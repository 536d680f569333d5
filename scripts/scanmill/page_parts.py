"""Parts that pages of several kinds have: footnotes, logos, lines; and how often a text has what."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import numpy as np

from scanmill.markup import element, image, region, shape
from scanmill.sheets import Sheet
from scanmill.typography import pick

#: How often there are blocks of each kind in an article.
PROSE = {"paragraph": 10, "heading": 1.6, "list": 0.5, "figure": 0.5, "table": 0.5, "formula": 0.2}
_LINES = ("#000", "#333", "#777")


def in_lines(texts: Iterable[str]) -> str:
    """Plain texts as lines of HTML."""
    return "<br>".join(map(escape, texts))


def footnotes(sheet: Sheet) -> str:
    """Footnotes under a line."""
    rng = sheet.rng
    notes = ""
    for number in range(1, 1 + rng.choice([1, 1, 2, 2, 3, 4, 6, 8])):
        text = f"<sup>{number}</sup> {escape(sheet.author.prose(rng.uniform(40, 260)))}"
        notes += region("text", text, tag="p", class_="note")
    line = element("div", css="border-top:1px solid #222;width:30%;margin:8px 0 4px")
    return element("div", pick(rng, (line, "")) + notes, "padding-top:6px")


def draw_logo(sheet: Sheet) -> str:
    """A mark of a house: a figure, perhaps with its name, which may also be a text beside it."""
    rng = sheet.rng
    size = rng.uniform(36, 90)
    if sheet.materials.pictures and sheet.chance(0.4):
        css = f"max-width:{2 * size:.0f}px;max-height:{size:.0f}px"
        inner = image(pick(rng, sheet.materials.pictures), css)
    else:
        shapes = "".join(_logo_shape(rng) for _ in range(rng.integers(2, 6)))
        shapes += shape("path", d="M1 1h58v58h-58z", fill="none", stroke="#333")
        side = f"{size:.0f}"
        inner = shape("svg", shapes, width=side, height=side, viewBox="0 0 60 60")
    if sheet.chance(0.55):
        return region("figure", inner, "display:inline-block;line-height:0")
    name = in_lines(sheet.author.words(1, 2)[:18] for _ in range(rng.integers(1, 4)))
    weight, high = pick(rng, ("bold", "normal")), size * rng.uniform(0.2, 0.32)
    css = f"font:{weight} {high:.0f}px/1.1 sans-serif;margin-inline-start:.5em;text-align:start"
    beside = "display:inline-flex;align-items:center"
    if sheet.chance(0.4):  # A mark, and a text.
        return element(
            "div", region("figure", inner, "line-height:0") + region("text", name, css), beside
        )
    return region("figure", inner + element("span", name, css), f"{beside};line-height:0")


def _logo_shape(rng: np.random.Generator) -> str:
    """A disc or a frame, of whole pixels."""

    def pixels(least: float, most: float) -> str:
        return f"{rng.uniform(least, most):.0f}"

    disc = shape(
        "circle",
        cx=pixels(15, 45),
        cy=pixels(15, 45),
        r=pixels(6, 15),
        fill=pick(rng, _LINES),
    )
    frame = shape(
        "rect",
        x=pixels(2, 25),
        y=pixels(2, 25),
        width=pixels(8, 30),
        height=pixels(8, 30),
        fill="none",
        stroke=pick(rng, _LINES),
        stroke_width=3,
    )
    return pick(rng, (disc, frame))


def row_of_logos(sheet: Sheet) -> None:
    """A row of logos at the foot of a page."""
    count = int(sheet.rng.integers(2, 5))
    marks = "".join(draw_logo(sheet) for _ in range(count))
    tall = 0.085 * sheet.height
    css = "display:flex;justify-content:space-around;align-items:center;height:100%"
    box = (sheet.left, sheet.bottom - tall, sheet.right, sheet.bottom)
    sheet.place(box, element("div", marks, css))
    sheet.bottom -= tall + 6
