"""Pages of every kind that archives hold, as HTML for the typesetter.

A page is frames at fixed places; the columns of a frame are filled with more blocks than they hold, and
what does not fit is not on the page. Running heads, page numbers, stamps and ornaments lie outside of all
regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from scanmill.manuscripts import Article, Author, Block
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
_LINES = ("#000", "#333", "#777")


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

    def restyle(self, **changes: object) -> None:
        """Change the style before anything is set."""
        self.style = self.style._replace(**changes)
        self.composer.style = self.style

    def chance(self, share: float) -> bool:
        """True so often."""
        return self.rng.random() < share

    def blocks(self, weights: Mapping[str, float], width: float, height: float) -> list[Block]:
        """More than fills columns of `width` by `height` altogether, an article's or made up."""
        style = self.style
        length = 1.6 * width * height / (style.size**2 * 0.5 * style.leading) + 400
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
        """Columns of `flow` at `box` (x_min, y_min, x_max, y_max), over and under what is as wide as all."""
        x, y, x_max, y_max = box
        over = f'<div class="wide">{wide}</div>' if wide else ""
        under = f'<div class="wide">{below}</div>' if below else ""
        self.parts.append(
            f'<div class="frame zone" style="left:{x:.1f}px;top:{y:.1f}px;width:{x_max - x:.1f}px;'
            f'height:{y_max - y:.1f}px;{css}">{over}<div class="flow zone" '
            f'style="column-count:{columns}">{flow}</div>{under}</div>'
        )

    def place(self, box: Sequence[float], inner: str, css: str = "") -> None:
        """Anything at a box."""
        x, y, x_max, y_max = box
        self.parts.append(
            f'<div class="zone" style="position:absolute;left:{x:.1f}px;top:{y:.1f}px;'
            f'width:{x_max - x:.1f}px;height:{y_max - y:.1f}px;{css}">{inner}</div>'
        )

    def running(self) -> None:
        """Running head, page number, foot lines: some of them, none a region."""
        rng, author = self.rng, self.author
        number = str(rng.integers(1, 900)) if self.chance(0.93) else pick(rng, ("iv", "xii", "A-3"))
        if self.chance(0.25):
            number = pick(rng, ("– {} –", "[{}]", "Page {}", "{} / 240", "p. {}")).format(number)
        head, foot = self.top - 1.9 * self.style.size, self.bottom + self.style.size
        middle, end = "text-align:center", "text-align:end"
        width = self.right - self.left

        def put(y: float, text: str, css: str) -> None:
            self.parts.append(
                f'<div class="running" style="left:{self.left:.0f}px;width:{width:.0f}px;'
                f'top:{y:.0f}px;{css}">{escape(text)}</div>'
            )

        if self.chance(0.65):
            css = pick(
                rng, ("", "font-style:italic", "font-variant:small-caps", "font-family:sans-serif")
            )
            put(head, author.words(2, 7), f"{css};{pick(rng, ('', middle, end))}")
            if self.chance(0.3):
                put(head + 1.4 * self.style.size, "", "border-top:1px solid #333")
        if self.chance(0.8):
            put(pick(rng, (head, foot, foot)), number, pick(rng, ("", middle, middle, end)))
        if self.chance(0.25):
            put(foot, author.words(3, 12), pick(rng, ("", middle)))
            if self.chance(0.4):
                put(foot - 4, "", "border-top:1px solid #555")
        if self.chance(0.06):
            side = pick(rng, ("left:6px", f"left:{self.width - 22}px"))
            text = " ".join([author.words(2, 4)] * int(rng.integers(1, 5)))
            self.parts.append(
                f'<div class="running" style="{side};top:{self.top:.0f}px;writing-mode:vertical-rl;'
                f'transform:rotate(180deg);color:#666">{escape(text)}</div>'
            )
        if self.chance(0.05):
            lines = "".join(f"<div>{i}</div>" for i in range(5, 60, 5))
            self.place(
                (self.left - 26, self.top, self.left - 6, self.bottom),
                f'<div style="font-size:9px;line-height:{5 * self.style.size * self.style.leading:.0f}px">{lines}</div>',
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


# Parts of pages -----------------------------------------------------------------------------------

PROSE = {"paragraph": 10, "heading": 1.6, "list": 0.5, "figure": 0.5, "table": 0.5, "formula": 0.2}
BOOK = {
    "paragraph": 10,
    "heading": 0.5,
    "list": 0.25,
    "figure": 0.35,
    "table": 0.12,
    "formula": 0.05,
}
REPORT = {"paragraph": 6, "heading": 2.2, "list": 1.6, "figure": 1, "table": 1.1, "code": 0.25}
GUIDE = {"paragraph": 4, "heading": 2.2, "list": 2, "figure": 1.2, "table": 0.5, "code": 0.6}


def _text(html: str, css: str = "", tag: str = "p") -> str:
    return f'<{tag} class="flat" style="{css}" data-region="text">{html}</{tag}>'


def _wide_float(sheet: Sheet, height: float) -> str:
    """A figure or a table as wide as the page."""
    width = sheet.right - sheet.left
    block = sheet.author.figure() if sheet.chance(0.55) else sheet.author.table(10, 16)
    if block.kind == "figure":
        return sheet.composer.figure(block, width, height)
    return sheet.composer.table(block, width, 1.4 * height)


def _notes(sheet: Sheet) -> str:
    """Footnotes under a line."""
    rng = sheet.rng
    notes = "".join(
        f'<p class="note" data-region="text"><sup>{number + 1}</sup> {escape(sheet.author.prose(rng.uniform(40, 260)))}</p>'
        for number in range(rng.integers(1, 4))
    )
    line = pick(
        rng, ('<div style="border-top:1px solid #222;width:30%;margin:8px 0 4px"></div>', "")
    )
    return f'<div style="padding-top:6px">{line}{notes}</div>'


def _front(sheet: Sheet) -> str:
    """Title, authors, affiliations, abstract, as a journal's article begins."""
    rng, author, style = sheet.rng, sheet.author, sheet.style
    align = pick(rng, ("start", "start", "center"))
    names = ", ".join(
        author.name() + (f"<sup>{rng.integers(1, 6)}</sup>" if rng.random() < 0.7 else "")
        for _ in range(rng.integers(1, 12))
    )
    parts = []
    if sheet.chance(0.2):
        parts.append(
            f'<div style="margin-bottom:1em;font-size:.9em">{escape(author.words(1, 3))}</div>'
        )
    size = rng.uniform(1.3, 2.2)
    parts.append(
        f'<h1 style="font-size:{size:.2f}em;text-align:{align}" data-region="title">{escape(author.words(5, 20))}</h1>'
    )
    parts.append(
        _text(
            names,
            f"text-align:{align};margin:.4em 0;{pick(rng, ('', 'font-weight:bold', 'font-style:italic'))}",
        )
    )
    if sheet.chance(0.8):
        places = "".join(
            f"<sup>{i + 1}</sup> {escape(author.words(5, 12))}. " for i in range(rng.integers(1, 5))
        )
        parts.append(_text(places, f"text-align:{align};font-size:.85em"))
    if sheet.chance(0.3):
        parts.append(
            _text(
                escape(
                    f"{author.words(1, 1)} {rng.integers(1, 28)}, {rng.integers(1950, 2024)}; {author.words(2, 6)}"
                ),
                f"text-align:{align};font-size:.85em",
            )
        )
    abstract = []
    headings = sheet.chance(0.75)
    label = escape(pick(rng, ("Abstract", "ABSTRACT", "Summary", author.words(1, 1))))
    run_in = headings and sheet.chance(0.3)
    if headings and not run_in:
        abstract.append(f'<h3 style="margin-top:0" data-region="title">{label}</h3>')
    if sheet.chance(0.3):
        for _ in range(rng.integers(2, 5)):
            abstract.append(
                _text(
                    f"<b>{escape(author.words(1, 2))}:</b> {escape(author.prose(rng.uniform(120, 420)))}"
                )
            )
    else:
        lead = f"<b>{label}.</b> " if run_in else ""
        abstract.append(_text(lead + escape(author.prose(rng.uniform(500, 1700)))))
    if sheet.chance(0.5):
        abstract.append(
            _text(
                f"<b>Keywords:</b> {escape(', '.join(author.words(1, 2) for _ in range(rng.integers(3, 8))))}"
            )
        )
    box = pick(rng, ("", "", "", "background:#ececec;padding:10px", "border:1px solid #444;padding:10px",
                     "border-top:1px solid;border-bottom:1px solid;padding:8px 0", "margin:0 8%", "font-style:italic"))  # fmt: skip
    parts.append(
        f'<div style="{box};margin-bottom:{style.size:.0f}px;font-size:{rng.uniform(0.9, 1):.2f}em">{"".join(abstract)}</div>'
    )
    return "".join(parts)


# Kinds of pages -----------------------------------------------------------------------------------


def compose_article(sheet: Sheet) -> None:
    """A page of a journal: opening, within, or its last with the references."""
    rng = sheet.rng
    width, height = sheet.right - sheet.left, sheet.bottom - sheet.top
    columns = sheet.style.columns
    column = (width - (columns - 1) * sheet.style.gap) / columns
    sheet.running()
    wide = below = ""
    weights = PROSE
    opening = sheet.chance(0.2)
    left = sheet.left
    if opening:
        wide = _front(sheet)
        if sheet.chance(0.15):
            # A side bar of notes on the article.
            left = sheet.left + 0.27 * width
            notes = "".join(
                _text(
                    f"<b>{escape(sheet.author.words(1, 2))}:</b> {escape(sheet.author.prose(rng.uniform(30, 220)))}",
                    "font-size:.78em;text-align:start;margin-bottom:.8em",
                )
                for _ in range(rng.integers(2, 8))
            )
            sheet.place(
                (sheet.left, sheet.top + 0.2 * height, left - 0.04 * width, sheet.bottom), notes
            )
    elif columns > 1 and sheet.chance(0.25):
        wide = _wide_float(sheet, 0.4 * height)
    elif sheet.chance(0.1):
        below = _wide_float(sheet, 0.35 * height)
    if not below and sheet.chance(0.12):
        below = _notes(sheet)
    blocks = sheet.blocks(weights, width, height)
    flow = sheet.composer.set_blocks(blocks, column, height)
    if not opening and sheet.chance(0.22):
        cut = sheet.composer.set_blocks(blocks[: int(rng.integers(0, 6))], column, height)
        closing = "".join(
            f'<h3 data-region="title">{escape(sheet.author.heading(4))}</h3>{_text(escape(sheet.author.prose(rng.uniform(40, 300))))}'
            for _ in range(rng.integers(0, 4))
        )
        heading = f'<h2 data-region="title">{escape(pick(rng, ("References", "REFERENCES", "Bibliography", "Literature", sheet.author.heading(2))))}</h2>'
        flow = cut + closing + heading + sheet.composer.references(int(rng.integers(8, 110)))
    sheet.frame((left, sheet.top, sheet.right, sheet.bottom), wide, flow, below, columns)


def compose_book(sheet: Sheet) -> None:
    """A page of a book: one column as a rule, chapters that open with space."""
    width, height = sheet.right - sheet.left, sheet.bottom - sheet.top
    sheet.running()
    columns = sheet.style.columns
    column = (width - (columns - 1) * sheet.style.gap) / columns
    wide = ""
    if sheet.chance(0.2):
        space = height * sheet.rng.uniform(0, 0.25)
        chapter = f'<p style="text-align:center" data-region="title">{escape(pick(sheet.rng, ("Chapter {}", "CHAPTER {}.", "{}", "§ {}")).format(sheet.rng.integers(1, 40)))}</p>'
        wide = (
            f'<div style="padding-top:{space:.0f}px">{chapter if sheet.chance(0.5) else ""}'
            f'<h1 style="text-align:{pick(sheet.rng, ("center", "start"))}" data-region="title">{escape(sheet.author.heading(9))}</h1></div>'
        )
    below = _notes(sheet) if sheet.chance(0.2) else ""
    flow = sheet.composer.set_blocks(sheet.blocks(BOOK, width, height), column, height)
    bottom = (
        sheet.bottom if not sheet.chance(0.1) else sheet.top + height * sheet.rng.uniform(0.2, 0.8)
    )
    sheet.frame((sheet.left, sheet.top, sheet.right, bottom), wide, flow, below, columns)


def compose_report(sheet: Sheet, weights: Mapping[str, float] = REPORT) -> None:
    """A page of a report or a manual: headings, lists, tables, figures."""
    rng = sheet.rng
    width, height = sheet.right - sheet.left, sheet.bottom - sheet.top
    sheet.running()
    columns = sheet.style.columns
    column = (width - (columns - 1) * sheet.style.gap) / columns
    wide = ""
    if sheet.chance(0.12):
        wide = f'<h1 data-region="title">{escape(sheet.author.heading(9))}</h1>'
        if sheet.chance(0.4):
            wide += _text(escape(sheet.author.prose(rng.uniform(60, 400))), "font-size:1.15em")
    if sheet.chance(0.06):
        _logos(sheet)
    left = sheet.left
    if columns == 1 and sheet.chance(0.15):
        left += width * rng.uniform(0.15, 0.3)
    flow = sheet.composer.set_blocks(sheet.blocks(weights, width, height), column, height)
    below = _notes(sheet) if sheet.chance(0.15) else ""
    sheet.frame((left, sheet.top, sheet.right, sheet.bottom), wide, flow, below, columns)


def compose_guide(sheet: Sheet) -> None:
    """A page of a manual or a schoolbook."""
    compose_report(sheet, GUIDE)


def divide(
    box: Sequence[float], least: float, gap: float, rng: np.random.Generator, depth: int = 0
) -> list[tuple[float, ...]]:
    """Boxes that fill a box, `gap` apart, cut across or down at random until they are small."""
    x, y, x_max, y_max = box
    width, height = x_max - x, y_max - y
    if depth > 4 or (max(width, height) < 2.2 * least) or (depth > 1 and rng.random() < 0.2):
        return [(x, y, x_max, y_max)]
    share = rng.uniform(0.32, 0.68)
    if height > width * rng.uniform(0.7, 1.4):
        cut = y + share * height
        return divide((x, y, x_max, cut - gap / 2), least, gap, rng, depth + 1) + divide(
            (x, cut + gap / 2, x_max, y_max), least, gap, rng, depth + 1
        )
    cut = x + share * width
    return divide((x, y, cut - gap / 2, y_max), least, gap, rng, depth + 1) + divide(
        (cut + gap / 2, y, x_max, y_max), least, gap, rng, depth + 1
    )


def compose_newspaper(sheet: Sheet) -> None:
    """A page of a newspaper: a masthead, articles side by side, advertisements."""
    rng, author, style = sheet.rng, sheet.author, sheet.style
    top = sheet.top * 0.8
    left, right, bottom = sheet.width * 0.05, sheet.width * 0.95, sheet.height * 0.96
    if sheet.chance(0.35):
        tall = sheet.height * rng.uniform(0.05, 0.12)
        sheet.place(
            (left, top, right, top + tall),
            f'<h1 style="text-align:center;font-size:{tall * 0.6:.0f}px;white-space:nowrap;margin:0" data-region="title">{escape(author.words(1, 4)[:26])}</h1>',
        )
        top += tall
        if sheet.chance(0.7):
            sheet.place(
                (left, top, right, top + 2 * style.size),
                f'<div style="border-top:1px solid;border-bottom:1px solid;text-align:center">{escape(author.words(3, 9))}</div>',
            )
            top += 2.6 * style.size
    else:
        sheet.running()
    pitch = (right - left + style.gap) / style.columns
    if sheet.chance(0.35):
        # One stream of short items through all columns, as in the 19th century.
        blocks = sheet.author.article({"paragraph": 8, "heading": 2.5, "figure": 0.15, "table": 0.2},
                                      1.4 * (right - left) * (bottom - top) / (style.size**2 * 0.5 * style.leading))  # fmt: skip
        flow = sheet.composer.set_blocks(list(blocks), pitch - style.gap, bottom - top)
        sheet.frame((left, top, right, bottom), "", flow, "", style.columns)
        return
    ruled = sheet.chance(0.5)
    for x, y, x_max, y_max in divide((left, top, right, bottom), 1.6 * pitch, style.gap, rng):
        wide, tall = x_max - x, y_max - y
        if min(wide, tall) < 3 * style.size:
            continue
        columns = max(1, round(wide / pitch))
        if sheet.chance(0.12):
            sheet.place(
                (x, y, x_max, y_max),
                _advertisement(sheet, wide, tall),
                "border:1px solid #111;padding:6px",
            )
            continue
        size = rng.uniform(1.2, 1.6 + 0.7 * columns)
        head = f'<h2 style="font-size:{size:.2f}em;text-align:{pick(rng, ("start", "center"))};margin-top:0" data-region="title">{escape(author.words(2, 9))}</h2>'
        if sheet.chance(0.3):
            head += _text(escape(author.words(4, 16)), "font-weight:bold;text-align:start")
        if sheet.chance(0.2):
            head += _text(escape(author.name()), "font-size:.85em")
        if columns > 1 and sheet.chance(0.35):
            head += sheet.composer.picture(wide, 0.4 * tall)
            head += sheet.composer.caption(author.words(4, 18), "")
        blocks = sheet.blocks(
            {"paragraph": 10, "heading": 0.5, "figure": 0.25, "list": 0.1}, wide, tall
        )
        flow = sheet.composer.set_blocks(blocks, pitch - style.gap, tall)
        css = "border-bottom:1px solid #222" if ruled else ""
        sheet.frame((x, y, x_max, y_max), head, flow, "", columns, css)


def _advertisement(sheet: Sheet, width: float, height: float) -> str:
    rng, author = sheet.rng, sheet.author
    parts = [
        f'<h2 style="text-align:center;font-size:{rng.uniform(1.3, 2.6):.2f}em;margin-top:.2em" data-region="title">{escape(author.words(1, 3))}</h2>'
    ]
    if sheet.chance(0.5):
        parts.append(sheet.composer.picture(width * 0.8, height * 0.4))
    for _ in range(rng.integers(1, 4)):
        parts.append(_text(escape(author.words(3, 20)), "text-align:center;margin:.5em 0"))
    return "".join(parts)


def compose_brochure(sheet: Sheet) -> None:
    """A page of a magazine or a brochure: panels with grounds, pictures, short texts."""
    rng, author, style = sheet.rng, sheet.author, sheet.style
    gap = style.size * rng.uniform(0.6, 2)
    margin = sheet.width * rng.choice([0.0, 0.04, 0.08])
    box = [margin, margin, sheet.width - margin, sheet.height - margin]
    if sheet.chance(0.5):
        tall = sheet.height * rng.uniform(0.08, 0.2)
        ground = pick(rng, ("", "", f"background:{style.accent};color:#fff", "background:#ddd"))
        sheet.place(
            (box[0], box[1], box[2], box[1] + tall),
            f'<h1 style="margin:0;padding:.3em;font-size:{tall * 0.35:.0f}px" data-region="title">{escape(author.words(1, 6))}</h1>',
            ground,
        )
        box[1] += tall + gap
    for x, y, x_max, y_max in divide(box, sheet.width * 0.3, gap, rng):
        wide, tall = x_max - x, y_max - y
        kind = rng.random()
        if kind < 0.3 and sheet.materials.pictures:
            path = escape(pick(rng, sheet.materials.pictures))
            caption = ""
            share = 100
            if sheet.chance(0.35):
                caption = sheet.composer.caption(author.words(3, 14), "")
                share = 100 * max(0.4, 1 - 4.5 * style.size / tall)
            sheet.place(
                (x, y, x_max, y_max),
                f'<div data-region="figure" style="height:{share:.0f}%;overflow:hidden"><img src="file://{path}" style="width:100%;height:100%;object-fit:cover"></div>{caption}',
            )
            continue
        pad = style.size * rng.uniform(0.3, 1.2)
        grounds = ("", "", "", "background:#eee", "background:#e3edf7", "background:#fff3d6",
                   "border:1px solid #444", f"background:{style.accent if style.accent != '#000' else '#345'};color:#fff")  # fmt: skip
        css = f"padding:{pad:.0f}px;{pick(rng, grounds)}"
        columns = 1 if wide < 26 * style.size else int(rng.integers(1, 4))
        head = (
            f'<h2 style="margin-top:0;font-size:{rng.uniform(1.1, 2.2):.2f}em" data-region="title">{escape(author.words(1, 6))}</h2>'
            if sheet.chance(0.75)
            else ""
        )
        weights = {"paragraph": 6, "heading": 1, "list": 1.2, "table": 0.3, "figure": 0.3}
        blocks = list(
            sheet.author.article(weights, 1.3 * wide * tall / (style.size**2 * 0.5 * style.leading))
        )
        if sheet.chance(0.35):
            blocks = blocks[: int(rng.integers(1, 4))]
        flow = sheet.composer.set_blocks(blocks, wide / columns - pad, tall - 2 * pad)
        sheet.frame((x, y, x_max, y_max), head, flow, "", columns, css)
    if sheet.chance(0.3):
        sheet.running()


def compose_form(sheet: Sheet) -> None:
    """A form: fields to be filled in, tables of them, boxes to tick, sections."""
    rng, author, style = sheet.rng, sheet.author, sheet.style
    width = sheet.right - sheet.left
    if sheet.chance(0.5):
        sheet.running()
    parts = []
    if sheet.chance(0.3):
        logo = draw_logo(sheet)
        parts.append(
            f'<div style="text-align:{pick(rng, ("start", "center", "end"))}">{logo}</div>'
        )
    parts.append(
        f'<h1 style="text-align:{pick(rng, ("center", "start"))};font-size:{rng.uniform(1.2, 2):.2f}em" data-region="title">{escape(author.words(2, 9))}</h1>'
    )
    if sheet.chance(0.5):
        parts.append(_text(escape(author.prose(rng.uniform(60, 400)))))
    filled = sheet.chance(0.4)
    bar = pick(
        rng,
        (
            "background:#ccc;padding:2px 5px",
            "background:#222;color:#fff;padding:2px 5px",
            "",
            "border-bottom:1px solid",
            "",
        ),
    )

    def answer() -> str:
        if not filled:
            return "&nbsp;"
        face = pick(rng, ("Dancing Script", "DejaVu Sans Mono", "Kaushan Script", style.face))
        return f'<span style="font-family:{face!r};color:{pick(rng, ("#000", "#224"))}">{escape(author.words(1, 4))}</span>'

    for _ in range(rng.integers(3, 9)):
        if sheet.chance(0.7):
            label = pick(rng, ("{}. ", "Part {}: ", "{} ", "")).format(pick(rng, "ABC12345"))
            parts.append(
                f'<h3 style="{bar};text-align:start" data-region="title">{label}{escape(author.words(1, 6))}</h3>'
            )
        kind = rng.random()
        if kind < 0.35:
            columns = int(rng.integers(1, 5))
            rows = "".join(
                "<tr>"
                + "".join(
                    f'<td style="border:1px solid #333;height:{rng.uniform(1.8, 3):.1f}em"><small>{escape(author.words(1, 4))}</small><br>{answer()}</td>'
                    for _ in range(columns)
                )
                + "</tr>"
                for _ in range(rng.integers(2, 7))
            )
            parts.append(f'<table style="width:100%" data-region="table">{rows}</table>')
        elif kind < 0.5:
            block = author.table(6, 10)
            rows_ = [block.rows[0]] + [
                tuple([row[0]] + [""] * (len(row) - 1)) for row in block.rows[1:]
            ]
            parts.append(
                f'<div class="float">{sheet.composer.bare_table(rows_ if not filled else block.rows, width).replace("<table", "<table border=1")}</div>'
            )
        elif kind < 0.72:
            lines = "".join(
                f'<div style="display:flex;margin:.5em 0" data-region="text"><span>{escape(author.words(1, 5))}:</span>'
                f'<span class="ink" style="flex:1;border-bottom:1px {pick(rng, ("solid", "dotted"))} #333;margin:0 .3em">{answer()}</span></div>'
                for _ in range(rng.integers(2, 7))
            )
            parts.append(lines)
        elif kind < 0.87:
            box = pick(rng, ("☐", "□", "[ ]", "○"))
            items = "".join(
                f'<div class="item"><span class="mark">{box if rng.random() < 0.8 else "☒"}</span><div class="say">{escape(author.words(2, 14))}</div></div>'
                for _ in range(rng.integers(2, 8))
            )
            parts.append(f'<div class="list" data-region="list">{items}</div>')
        else:
            parts.append(
                _text(
                    escape(author.prose(rng.uniform(80, 600))),
                    f"font-size:{rng.uniform(0.8, 1):.2f}em",
                )
            )
    sheet.frame((sheet.left, sheet.top, sheet.right, sheet.bottom), "", "".join(parts))


def draw_logo(sheet: Sheet) -> str:
    """A mark of a house, which is a figure."""
    rng = sheet.rng
    size = rng.uniform(36, 90)
    if sheet.materials.pictures and sheet.chance(0.4):
        inner = f'<img src="file://{escape(pick(rng, sheet.materials.pictures))}" style="max-width:{2 * size:.0f}px;max-height:{size:.0f}px">'
    else:
        shapes = "".join(
            pick(rng, (
                f'<circle cx="{rng.uniform(15, 45):.0f}" cy="{rng.uniform(15, 45):.0f}" r="{rng.uniform(6, 15):.0f}" fill="{pick(rng, _LINES)}"/>',
                f'<rect x="{rng.uniform(2, 25):.0f}" y="{rng.uniform(2, 25):.0f}" width="{rng.uniform(8, 30):.0f}" height="{rng.uniform(8, 30):.0f}" fill="none" stroke="{pick(rng, _LINES)}" stroke-width="3"/>',
            ))
            for _ in range(rng.integers(2, 6))
        )  # fmt: skip
        inner = f'<svg width="{size:.0f}" height="{size:.0f}" viewBox="0 0 60 60">{shapes}<path d="M1 1h58v58h-58z" fill="none" stroke="#333"/></svg>'
    return f'<div data-region="figure" style="display:inline-block;line-height:0">{inner}</div>'


def compose_letter(sheet: Sheet) -> None:
    """A letter: head, address, date, paragraphs, a name."""
    rng, author = sheet.rng, sheet.author
    parts = []
    if sheet.chance(0.5):
        lines = "<br>".join(escape(author.words(2, 5)) for _ in range(rng.integers(1, 4)))
        place = pick(rng, ("start", "center", "end"))
        logo = draw_logo(sheet) if sheet.chance(0.4) else ""
        parts.append(
            f'<div style="text-align:{place};margin-bottom:2em">{logo}{_text(lines, f"text-align:{place};font-weight:bold")}</div>'
        )
    if sheet.chance(0.7):
        lines = "<br>".join(escape(author.words(1, 4)) for _ in range(rng.integers(2, 6)))
        parts.append(_text(lines, "text-align:start;margin-bottom:1.5em"))
    if sheet.chance(0.8):
        parts.append(
            _text(
                escape(
                    f"{author.words(1, 2)}, {rng.integers(1, 31)}. {rng.integers(1, 13)}. {rng.integers(1850, 2020)}"
                ),
                f"text-align:{pick(rng, ('start', 'end'))};margin-bottom:1.5em",
            )
        )
    if sheet.chance(0.4):
        parts.append(f'<h2 data-region="title">{escape(author.words(3, 10))}</h2>')
    if sheet.chance(0.7):
        parts.append(_text(escape(author.words(2, 4)) + ",", "margin-bottom:1em"))
    for _ in range(rng.integers(1, 7)):
        block = author.list() if sheet.chance(0.08) else author.paragraph(350)
        parts.append(sheet.composer.set_block(block, 500, 500))
    if sheet.chance(0.8):
        place = pick(rng, ("0", "50%"))
        face = pick(rng, ("Dancing Script", "Kaushan Script", "Z003"))
        sign = (
            f'<div style="font:{rng.uniform(24, 44):.0f}px {face!r};margin-inline-start:{place}">{escape(author.words(1, 2))}</div>'
            if sheet.chance(0.5)
            else "<br><br>"
        )
        parts.append(_text(escape(author.words(1, 3)) + ",", f"margin:1em 0 0 {place}") + sign)
        parts.append(
            _text(
                escape(author.name()) + "<br>" + escape(author.words(1, 4)),
                f"margin-inline-start:{place};text-align:start",
            )
        )
    if sheet.chance(0.4):
        sheet.running()
    sheet.frame((sheet.left, sheet.top, sheet.right, sheet.bottom), "", "".join(parts))


def compose_tables(sheet: Sheet) -> None:
    """A page of one or a few large tables."""
    width, height = sheet.right - sheet.left, sheet.bottom - sheet.top
    sheet.running()
    count = int(sheet.rng.choice([1, 1, 2, 3]))
    parts = []
    for _ in range(count):
        block = sheet.author.table(12, 60 // count)
        while len(block.rows) * sheet.style.size * 1.8 < 0.5 * height / count:
            more = sheet.author.table(12, 60)
            rows = [
                row[: len(block.rows[0])] for row in more.rows[1:] if len(row) >= len(block.rows[0])
            ]
            block = block._replace(rows=(*block.rows, *rows, block.rows[-1]))
        parts.append(sheet.composer.table(block, width, height / count, fill=True))
    if sheet.chance(0.4):
        blocks = sheet.blocks(PROSE, width, height / 2)
        parts.append(sheet.composer.set_blocks(blocks, width, height))
    sheet.frame((sheet.left, sheet.top, sheet.right, sheet.bottom), "", "".join(parts))


def compose_plate(sheet: Sheet) -> None:
    """A page of one or a few large figures with their captions."""
    rng = sheet.rng
    width, height = sheet.right - sheet.left, sheet.bottom - sheet.top
    sheet.running()
    count = int(rng.choice([1, 1, 1, 2, 3]))
    parts = []
    for _ in range(count):
        tall = height / count * rng.uniform(0.55, 0.85)
        parts.append(sheet.composer.picture(width, tall * 1.1))
        if sheet.chance(0.85):
            sheet.composer.figures += 1
            parts.append(
                sheet.composer.caption(
                    sheet.author.caption(), sheet.style.figure_label.format(sheet.composer.figures)
                )
            )
    sheet.frame((sheet.left, sheet.top, sheet.right, sheet.bottom), "", "".join(parts))


def compose_contents(sheet: Sheet) -> None:
    """A table of contents, or an index of several columns."""
    rng, author = sheet.rng, sheet.author
    sheet.running()
    heading = f'<h1 style="text-align:{pick(rng, ("center", "start"))}" data-region="title">{escape(pick(rng, ("Contents", "CONTENTS", "Table of Contents", author.words(1, 2))))}</h1>'
    page, lines = 1, []
    dots = pick(rng, ("border-bottom:1.5px dotted #333", "border-bottom:1.5px dotted #333", ""))
    for chapter in range(1, int(rng.integers(5, 30))):
        for depth in range(int(rng.choice([1, 1, 2, 4]))):
            page += int(rng.integers(1, 15))
            label = f"{chapter}. " if not depth else f"{chapter}.{depth} "
            label = label if sheet.style.numbered else ""
            bold = "font-weight:bold" if not depth and sheet.style.rule else ""
            lines.append(
                f'<div style="display:flex;padding-inline-start:{1.4 * bool(depth)}em;{bold}"><span>{label}{escape(author.words(2, 8))}</span>'
                f'<span style="flex:1;margin:0 .3em .3em;{dots}"></span><span>{page}</span></div>'
            )
    count = int((sheet.bottom - sheet.top) / (sheet.style.size * sheet.style.leading)) - 5
    body = f'<div data-region="table">{"".join(lines[:count])}</div>'
    sheet.frame(
        (sheet.left, sheet.top, sheet.right, sheet.bottom),
        heading if sheet.chance(0.7) else "",
        body,
    )


def compose_dictionary(sheet: Sheet) -> None:
    """Short entries in columns: dictionaries, catalogues, directories."""
    rng, author = sheet.rng, sheet.author
    sheet.running()
    columns = max(2, sheet.style.columns)
    hanging = pick(rng, ("padding-inline-start:1em;text-indent:-1em", "", "text-indent:1em"))
    flow = ""
    for _ in range(int(rng.integers(40, 110))):
        if sheet.chance(0.03):
            flow += f'<h2 style="text-align:center" data-region="title">{escape(author.words(1, 1)[:1].upper() if sheet.chance(0.6) else author.words(1, 3))}</h2>'
        flow += _text(
            f"<b>{escape(author.words(1, 2))}</b> {escape(author.prose(rng.uniform(50, 420)))}",
            hanging,
        )
    sheet.frame((sheet.left, sheet.top, sheet.right, sheet.bottom), "", flow, "", columns)


def compose_law(sheet: Sheet) -> None:
    """A page of an act, a contract, rules: articles of numbered paragraphs, which are lists."""
    rng, author = sheet.rng, sheet.author
    width, height = sheet.right - sheet.left, sheet.bottom - sheet.top
    sheet.running()
    sign = pick(rng, ("§ {}.", "Art. {}.", "Article {}", "§ {}", "{}."))
    number, parts = int(rng.integers(1, 60)), []
    align = pick(rng, ("center", "center", "start"))
    while len(parts) < 24:
        number += 1
        heading = sign.format(number)
        if sheet.chance(0.4):
            heading += " " + escape(author.words(1, 6))
        parts.append(f'<h3 style="text-align:{align}" data-region="title">{heading}</h3>')
        if sheet.chance(0.6):
            parts.append(sheet.composer.set_block(author.paragraph(220), width, height))
        if sheet.chance(0.75):
            items = tuple(author.prose(rng.uniform(40, 420)) for _ in range(rng.integers(2, 7)))
            if sheet.chance(0.3):
                items = (
                    *items,
                    (author.prose(80), tuple(author.prose(rng.uniform(30, 120)) for _ in range(3))),
                )
            parts.append(
                sheet.composer.set_block(Block("list", items=items, ordered=True), width, height)
            )
    below = _notes(sheet) if sheet.chance(0.15) else ""
    sheet.frame(
        (sheet.left, sheet.top, sheet.right, sheet.bottom),
        "",
        "".join(parts),
        below,
        sheet.style.columns,
    )


def _logos(sheet: Sheet) -> None:
    """A row of logos at the foot of a page."""
    count = int(sheet.rng.integers(2, 5))
    marks = "".join(draw_logo(sheet) for _ in range(count))
    tall = 0.085 * sheet.height
    box = (sheet.left, sheet.bottom - tall, sheet.right, sheet.bottom)
    sheet.place(
        box,
        f'<div style="display:flex;justify-content:space-around;align-items:center;height:100%">{marks}</div>',
    )
    sheet.bottom -= tall + 6


def compose_cover(sheet: Sheet) -> None:
    """A title page or a cover."""
    rng, author = sheet.rng, sheet.author
    if sheet.chance(0.35):
        # Coloured as a whole, or in part.
        ground = pick(rng, ("#123a6b", "#1d5c3a", "#7a1f1f", "#333", "#ddd", "#f2e6c8", "#cfe3f2"))
        dark = ground in ("#123a6b", "#1d5c3a", "#7a1f1f", "#333")
        share = 100 if dark else pick(rng, (100, 55, 40))
        place = pick(rng, ("top:0", "bottom:0"))
        sheet.parts.append(
            f'<div style="position:absolute;left:0;{place};width:100%;height:{share}%;background:{ground}"></div>'
        )
        sheet.restyle(ink="#fff" if dark else sheet.style.ink, heading_css="font-weight:bold")
    if sheet.chance(0.3):
        _logos(sheet)
    align = pick(rng, ("center", "center", "start", "end"))
    parts = []
    width, height = sheet.right - sheet.left, sheet.bottom - sheet.top
    space = lambda: f'<div style="height:{height * rng.uniform(0.02, 0.14):.0f}px"></div>'  # noqa: E731
    if sheet.chance(0.4):
        parts += [_text(escape(author.words(2, 6)), f"text-align:{align}"), space()]
    parts.append(
        f'<h1 style="font-size:{rng.uniform(1.8, 4):.2f}em;text-align:{align}" data-region="title">{escape(author.words(2, 10))}</h1>'
    )
    if sheet.chance(0.5):
        parts.append(
            f'<h2 style="text-align:{align}" data-region="title">{escape(author.words(3, 12))}</h2>'
        )
    parts.append(space())
    if sheet.chance(0.6):
        parts += [_text(escape(author.name()), f"text-align:{align};font-size:1.2em"), space()]
    if sheet.chance(0.5):
        parts += [sheet.composer.picture(width * 0.8, height * 0.4), space()]
    if sheet.chance(0.7):
        lines = "<br>".join(escape(author.words(1, 5)) for _ in range(rng.integers(1, 4)))
        parts.append(_text(lines, f"text-align:{align}"))
    sheet.frame((sheet.left, sheet.top, sheet.right, sheet.bottom), "", "".join(parts))


def compose_slide(sheet: Sheet) -> None:
    """A slide: a title, a list, perhaps a picture."""
    rng, author = sheet.rng, sheet.author
    width, height = sheet.right - sheet.left, sheet.bottom - sheet.top
    head = f'<h1 style="font-size:1.5em" data-region="title">{escape(author.words(2, 8))}</h1>'
    both = sheet.chance(0.4)
    blocks = [
        author.list() if sheet.chance(0.7) else author.paragraph(120)
        for _ in range(rng.integers(1, 3))
    ]
    flow = sheet.composer.set_blocks(blocks, width / (1 + both), height)
    if both:
        flow += f'<div style="break-before:column">{sheet.composer.picture(width / 2.2, height * 0.9)}</div>'
    elif sheet.chance(0.3):
        flow += sheet.composer.table(author.table(6, 8), width, height)
    sheet.frame((sheet.left, sheet.top, sheet.right, sheet.bottom), head, flow, "", 1 + both)
    if sheet.chance(0.5):
        sheet.running()


def compose_nothing(sheet: Sheet) -> None:
    """A page on which no region is: blank, with a number, with lines."""
    rng = sheet.rng
    if sheet.chance(0.5):
        sheet.running()
    if sheet.chance(0.2):
        pitch = rng.uniform(20, 36)
        lines = "".join(
            f'<div style="border-bottom:1px solid #999;height:{pitch:.0f}px"></div>'
            for _ in range(40)
        )
        sheet.place((sheet.left, sheet.top, sheet.right, sheet.bottom), lines)


class Kind(NamedTuple):
    """How pages of one kind are made, and how often."""

    weight: float
    compose: Callable[[Sheet], None]
    sizes: Sequence[str]
    columns: Sequence[int]
    type_size: tuple[float, float]
    """CSS pixels, least and most."""
    real: float = 0.4


_COMMON = ("A4", "A4", "letter", "journal", "journal", "B5")
KINDS: dict[str, Kind] = {
    "article": Kind(33, compose_article, _COMMON, (2, 2, 2, 1, 1, 3), (10.5, 15), 0.3),
    "book": Kind(14, compose_book, ("A5", "octavo", "octavo", "B5", "A4", "quarto"), (1, 1, 1, 1, 2), (11.5, 19), 0.35),
    "report": Kind(13, compose_report, ("A4", "letter", "letter", "B5"), (1, 1, 1, 2), (11.5, 17), 0.5),
    "guide": Kind(11, compose_guide, ("A4", "letter", "B5", "A5"), (1, 1, 2, 2, 3), (11, 17), 0.75),
    "newspaper": Kind(6, compose_newspaper, ("broadsheet", "tabloid", "A4"), (3, 4, 4, 5, 6), (11, 15), 0.1),
    "brochure": Kind(8, compose_brochure, ("A4", "letter", "A5", "square", "slide"), (1,), (11, 17), 0.0),
    "form": Kind(5, compose_form, ("A4", "letter", "legal", "A5"), (1,), (11, 15), 0.0),
    "letter": Kind(3, compose_letter, ("A4", "letter", "octavo"), (1,), (13, 19), 0.0),
    "tables": Kind(3, compose_tables, ("A4", "letter", "slide", "legal"), (1,), (10, 15), 0.0),
    "plate": Kind(2.5, compose_plate, _COMMON, (1,), (11, 15), 0.0),
    "contents": Kind(1.5, compose_contents, ("A4", "octavo", "letter"), (1,), (12, 17), 0.0),
    "dictionary": Kind(1.5, compose_dictionary, ("octavo", "A4", "B5"), (2, 2, 3), (10, 14), 0.0),
    "law": Kind(3, compose_law, ("A4", "letter", "B5", "octavo"), (1, 1, 1, 2), (11.5, 16), 0.0),
    "cover": Kind(2, compose_cover, ("A4", "octavo", "letter", "A5"), (1,), (13, 20), 0.0),
    "slide": Kind(1.5, compose_slide, ("slide",), (1,), (20, 32), 0.0),
    "nothing": Kind(1, compose_nothing, ("A4", "octavo", "letter"), (1,), (12, 16), 0.0),
}  # fmt: skip


def compose_page(
    materials: Materials,
    rng: np.random.Generator,
    kinds: Iterable[str] = tuple(KINDS),
    latin: float = 0.7,
) -> Page:
    """A page of a random kind, in Latin script so often, otherwise in any other that there is."""
    names = list(kinds)
    weights = np.array([KINDS[name].weight for name in names])
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    kind = KINDS[name]
    scripts = sorted(set(materials.typefaces) & set(materials.sentences))
    others = [script for script in scripts if script != "Latn"]
    script = "Latn"
    if others and (rng.random() >= latin or "Latn" not in scripts):
        # East Asian pages and Cyrillic ones are the most numerous in archives.
        common = [
            each for each in ("Hans", "Jpan", "Kore", "Cyrl", "Arab", "Hant") if each in others
        ]
        script = pick(rng, common if common and rng.random() < 0.6 else others)
    size = rng.uniform(*kind.type_size)
    sheet = Sheet(
        materials, script, pick(rng, kind.sizes), int(pick(rng, kind.columns)), size, rng, kind.real
    )
    if (
        rng.random() < 0.04
        and name in ("report", "guide", "article")
        and sheet.width < sheet.height
    ):
        sheet.width, sheet.height = sheet.height, sheet.width
        sheet.right, sheet.bottom = sheet.width - sheet.left, sheet.height - sheet.top
    if script in ("Jpan", "Hant", "Hans") and name in ("book", "newspaper") and rng.random() < 0.5:
        sheet.restyle(vertical=True)
    kind.compose(sheet)
    return sheet.page(name)
