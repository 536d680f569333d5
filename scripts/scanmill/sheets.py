"""A sheet of a synthetic page, on which frames, lines and pictures are put at their places.

A page is frames at fixed places; the columns of a frame are filled with more blocks than they hold,
and what does not fit is not on the page. Running heads, page numbers, stamps and ornaments lie outside
of all regions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from scanmill.manuscripts import Article, Author, Block
from scanmill.markup import element
from scanmill.typefaces import Typefaces
from scanmill.typography import Composer, new_style, pick, style_sheet

#: Width and height in CSS pixels (96 to the inch).
SIZES = {
    "A4": (794, 1123),
    "letter": (816, 1056),
    "journal": (793, 1040),
    "B5": (665, 945),
    "A5": (560, 794),
    "octavo": (580, 890),
    "quarto": (760, 950),
    "legal": (816, 1344),
    "broadsheet": (1500, 2080),
    "tabloid": (1056, 1500),
    "slide": (1024, 640),
    "square": (800, 800),
}
_CENTER, _END = "text-align:center", "text-align:end"
_RUNNING_FACES = (
    "",
    "font-style:italic",
    "font-variant:small-caps",
    "font-family:sans-serif",
)


class Materials(NamedTuple):
    """What pages are made of."""

    articles: Mapping[str, Sequence[Article]]
    """By script."""
    sentences: Mapping[str, Sequence[str]]
    headings: Mapping[str, Sequence[str]]
    pictures: Sequence[str]
    """Paths of image files."""
    typefaces: Mapping[str, Typefaces]


class Page(NamedTuple):
    """A page to be set."""

    kind: str
    script: str
    html: str
    width: int
    height: int


class Sheet:
    """A page being composed."""

    def __init__(
        self,
        materials: Materials,
        script: str,
        format_: str,
        columns: int,
        size: float,
        rng: np.random.Generator,
        real: float = 0.4,
    ) -> None:
        """`real` is the share of pages whose blocks are an article's as it was written."""
        self.materials, self.rng, self.script = materials, rng, script
        width, height = SIZES[format_]
        self.width, self.height = width, int(height * rng.uniform(0.94, 1.06))
        self.style = new_style(script, materials.typefaces[script], rng, columns, size)
        self.author = Author(
            script, materials.sentences[script], materials.headings.get(script, ()), rng
        )
        self.composer = Composer(self.style, self.author, materials.pictures, rng)
        self.parts: list[str] = []
        articles = materials.articles.get(script, ())
        self.article = pick(rng, articles) if articles and rng.random() < real else None
        side, top = rng.uniform(0.05, 0.14), rng.uniform(0.05, 0.1)
        self.left = self.width * side * rng.uniform(0.8, 1.2)
        self.right = self.width * (1 - side * rng.uniform(0.8, 1.2))
        self.top, self.bottom = self.height * top, self.height * (1 - top * rng.uniform(0.9, 1.3))

    def handwriting(self) -> str:
        """A family like a pen's; where the script has none, that of the text."""
        faces = self.materials.typefaces[self.script].handwriting
        return pick(self.rng, faces or (self.style.face,))

    def restyle(self, **changes: object) -> None:
        """Change the style before anything is set."""
        self.style = self.style._replace(**changes)
        self.composer.style = self.style

    def chance(self, share: float) -> bool:
        """True so often."""
        return self.rng.random() < share

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Where type may be: x_min, y_min, x_max, y_max."""
        return self.left, self.top, self.right, self.bottom

    @property
    def room(self) -> tuple[float, float]:
        """Width and height of that place."""
        return self.right - self.left, self.bottom - self.top

    @property
    def column(self) -> float:
        """Width of a column."""
        columns, gap = self.style.columns, self.style.gap
        return (self.right - self.left - (columns - 1) * gap) / columns

    def letters(self, width: float, height: float, share: float) -> float:
        """About so many letters fill a `share` of `width` by `height`."""
        return share * width * height / (self.style.size**2 * 0.5 * self.style.leading)

    def blocks(self, weights: Mapping[str, float], width: float, height: float) -> list[Block]:
        """More than fills columns of `width` by `height` altogether, an article's or made up."""
        length = self.letters(width, height, 1.6) + 400
        if self.article:
            start = int(self.rng.integers(max(1, len(self.article.blocks) - 12)))
            blocks, written = [], 0.0
            for block in self.article.blocks[start:]:
                blocks.append(block)
                written += len(block.text) + 60 + 40 * len(block.items)
                if written > length:
                    return blocks
            length -= written
        else:
            blocks = []
        return [*blocks, *self.author.article(weights, length)]

    def frame(
        self,
        box: Sequence[float],
        wide: str,
        flow: str,
        below: str = "",
        columns: int = 1,
        css: str = "",
    ) -> None:
        """Columns of `flow` at a box, and over and under them what is as wide as all."""
        over = element("div", wide, class_="wide") if wide else ""
        under = element("div", below, class_="wide") if below else ""
        inner = element("div", flow, f"column-count:{columns}", class_="flow zone")
        self.parts.append(
            element("div", over + inner + under, f"{_place(box)};{css}", class_="frame zone")
        )

    def fill(self, flow: str, wide: str = "", below: str = "", columns: int = 1) -> None:
        """The frame of a page that has one."""
        self.frame(self.box, wide, flow, below, columns)

    def place(self, box: Sequence[float], inner: str, css: str = "") -> None:
        """Anything at a box."""
        css = f"position:absolute;{_place(box)};{css}"
        self.parts.append(element("div", inner, css, class_="zone"))

    def running(self) -> None:
        """Running head, page number, foot lines: some of them, none a region."""
        rng, author = self.rng, self.author
        number = self._page_number()
        head, foot = self.top - 1.9 * self.style.size, self.bottom + self.style.size
        if self.chance(0.65):
            face = pick(rng, _RUNNING_FACES)
            side = pick(rng, ("", _CENTER, _END))
            if self.chance(0.15):  # Of two lines.
                self._line(head - 1.1 * self.style.size, author.words(3, 10), f"{face};{side}")
            self._line(head, author.words(2, 7), f"{face};{side}")
            if self.chance(0.3):
                self._line(head + 1.4 * self.style.size, "", "border-top:1px solid #333")
        if self.chance(0.8):
            y = pick(rng, (head, foot, foot))
            self._line(y, number, pick(rng, ("", _CENTER, _CENTER, _END)))
        if self.chance(0.25):
            self._line(foot, author.words(3, 12), pick(rng, ("", _CENTER)))
            if self.chance(0.4):
                self._line(foot - 4, "", "border-top:1px solid #555")
        if self.chance(0.06):
            self._line_beside()
        if self.chance(0.05):
            self._numbers_of_lines()

    def _page_number(self) -> str:
        rng = self.rng
        number = str(rng.integers(1, 900)) if self.chance(0.93) else pick(rng, ("iv", "xii", "A-3"))
        if self.chance(0.25):
            number = pick(rng, ("– {} –", "[{}]", "Page {}", "{} / 240", "p. {}")).format(number)
        return number

    def _line(self, y: float, text: str, css: str) -> None:
        """A line above or below all frames, as wide as they are."""
        place = f"left:{self.left:.0f}px;width:{self.right - self.left:.0f}px;top:{y:.0f}px"
        self.parts.append(element("div", escape(text), f"{place};{css}", class_="running"))

    def _line_beside(self) -> None:
        """A line that runs up the margin, as those who put files on the web stamp them."""
        side = pick(self.rng, ("left:6px", f"left:{self.width - 22}px"))
        text = " ".join([self.author.words(2, 4)] * int(self.rng.integers(1, 5)))
        css = (
            f"{side};top:{self.top:.0f}px;writing-mode:vertical-rl;"
            "transform:rotate(180deg);color:#666"
        )
        self.parts.append(element("div", escape(text), css, class_="running"))

    def _numbers_of_lines(self) -> None:
        """5, 10, 15 and so on down the margin."""
        pitch = 5 * self.style.size * self.style.leading
        lines = "".join(element("div", str(number)) for number in range(5, 60, 5))
        self.place(
            (self.left - 26, self.top, self.left - 6, self.bottom),
            element("div", lines, f"font-size:9px;line-height:{pitch:.0f}px"),
        )

    def page(self, kind: str) -> Page:
        """What is composed, as HTML."""
        css = style_sheet(self.style)
        size = f"body {{ width: {self.width}px; height: {self.height}px; }}"
        html = (
            f'<!DOCTYPE html><html lang="{self.style.language}"><meta charset="utf-8">'
            f"<style>{css}{size}</style><body>{''.join(self.parts)}</body></html>"
        )
        return Page(kind, self.script, html, self.width, self.height)


def _place(box: Sequence[float]) -> str:
    """A box as CSS."""
    x, y, x_max, y_max = box
    return f"left:{x:.1f}px;top:{y:.1f}px;width:{x_max - x:.1f}px;height:{y_max - y:.1f}px"
