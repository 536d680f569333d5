"""Pages of every kind that archives hold, as HTML for the typesetter: what is on each, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from scanmill.manuscripts import Block
from scanmill.markup import element, image, item, paragraph, plain, region, shape, title
from scanmill.sheets import Materials, Page, Sheet
from scanmill.typography import pick

_LINES = ("#000", "#333", "#777")
_ABSTRACTS = (
    "",
    "",
    "",
    "background:#ececec;padding:10px",
    "border:1px solid #444;padding:10px",
    "border-top:1px solid;border-bottom:1px solid;padding:8px 0",
    "margin:0 8%",
    "font-style:italic",
)
#: Of panels of brochures.
_GROUNDS = (
    "",
    "",
    "",
    "background:#eee",
    "background:#e3edf7",
    "background:#fff3d6",
    "border:1px solid #444",
)
#: Of headings of forms.
_BARS = (
    "background:#ccc;padding:2px 5px",
    "background:#222;color:#fff;padding:2px 5px",
    "",
    "border-bottom:1px solid",
    "",
)
_DARK_COVERS = ("#123a6b", "#1d5c3a", "#7a1f1f", "#333")


def _extent(box: Sequence[float]) -> tuple[float, float]:
    """Width and height of a box."""
    x, y, x_max, y_max = box
    return x_max - x, y_max - y


# Parts of pages -----------------------------------------------------------------------------------

#: How often there are blocks of each kind.
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
NEWS = {"paragraph": 10, "heading": 0.5, "figure": 0.25, "list": 0.1}
SHORT_NEWS = {"paragraph": 8, "heading": 2.5, "figure": 0.15, "table": 0.2}
PANELS = {"paragraph": 6, "heading": 1, "list": 1.2, "table": 0.3, "figure": 0.3}


def _labelled(label: str, text: str) -> str:
    """Plain text after a bold label, as HTML."""
    return f"<b>{escape(label)}:</b> {escape(text)}"


def _lines(texts: Iterable[str]) -> str:
    """Plain texts as lines of HTML."""
    return "<br>".join(map(escape, texts))


def _wide_float(sheet: Sheet, height: float) -> str:
    """A figure or a table as wide as the page."""
    width, _ = sheet.room
    block = sheet.author.figure() if sheet.chance(0.55) else sheet.author.table(10, 16)
    if block.kind == "figure":
        return sheet.composer.figure(block, width, height)
    return sheet.composer.table(block, width, 1.4 * height)


def _notes(sheet: Sheet) -> str:
    """Footnotes under a line."""
    rng = sheet.rng
    notes = ""
    for number in range(1, 1 + rng.choice([1, 1, 2, 2, 3, 4, 6, 8])):
        text = f"<sup>{number}</sup> {escape(sheet.author.prose(rng.uniform(40, 260)))}"
        notes += region("text", text, tag="p", class_="note")
    line = element("div", css="border-top:1px solid #222;width:30%;margin:8px 0 4px")
    return element("div", pick(rng, (line, "")) + notes, "padding-top:6px")


def _front(sheet: Sheet) -> str:
    """Title, authors, affiliations, abstract, as a journal's article begins."""
    rng, author = sheet.rng, sheet.author
    align = f"text-align:{pick(rng, ('start', 'start', 'center'))}"
    names = ", ".join(
        escape(author.name()) + (f"<sup>{rng.integers(1, 6)}</sup>" if rng.random() < 0.7 else "")
        for _ in range(rng.integers(1, 12))
    )
    parts = []
    if sheet.chance(0.2):
        section = escape(author.words(1, 3))
        parts.append(element("div", section, "margin-bottom:1em;font-size:.9em"))
    size = rng.uniform(1.3, 2.2)
    parts.append(title(author.words(5, 20), f"font-size:{size:.2f}em;{align}", 1))
    face = pick(rng, ("", "font-weight:bold", "font-style:italic"))
    parts.append(paragraph(names, f"{align};margin:.4em 0;{face}"))
    if sheet.chance(0.8):
        places = "".join(
            f"<sup>{i + 1}</sup> {escape(author.words(5, 12))}. " for i in range(rng.integers(1, 5))
        )
        parts.append(paragraph(places, f"{align};font-size:.85em"))
    if sheet.chance(0.3):
        date = f"{author.words(1, 1)} {rng.integers(1, 28)}, {rng.integers(1950, 2024)}"
        parts.append(plain(f"{date}; {author.words(2, 6)}", f"{align};font-size:.85em"))
    return "".join(parts) + _abstract(sheet)


def _abstract(sheet: Sheet) -> str:
    """An abstract, whole or in parts, perhaps in a box."""
    rng, author = sheet.rng, sheet.author
    parts = []
    headed = sheet.chance(0.75)
    label = pick(rng, ("Abstract", "ABSTRACT", "Summary", author.words(1, 1)))
    run_in = headed and sheet.chance(0.3)
    if headed and not run_in:
        parts.append(title(label, "margin-top:0", 3))
    if sheet.chance(0.3):
        for _ in range(rng.integers(2, 5)):
            text = _labelled(author.words(1, 2), author.prose(rng.uniform(120, 420)))
            parts.append(paragraph(text))
    else:
        lead = f"<b>{escape(label)}.</b> " if run_in else ""
        parts.append(paragraph(lead + escape(author.prose(rng.uniform(500, 1700)))))
    if sheet.chance(0.5):
        words = ", ".join(author.words(1, 2) for _ in range(rng.integers(3, 8)))
        parts.append(paragraph(_labelled("Keywords", words)))
    box, size = pick(rng, _ABSTRACTS), rng.uniform(0.9, 1)
    css = f"{box};margin-bottom:{sheet.style.size:.0f}px;font-size:{size:.2f}em"
    return element("div", "".join(parts), css)


def draw_logo(sheet: Sheet) -> str:
    """A mark of a house, half of them with its name: a figure."""
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
    if sheet.chance(0.5):
        name = _lines(sheet.author.words(1, 2)[:18] for _ in range(rng.integers(1, 4)))
        weight, high = pick(rng, ("bold", "normal")), size * rng.uniform(0.2, 0.32)
        css = f"font:{weight} {high:.0f}px/1.1 sans-serif;margin-inline-start:.5em;text-align:start"
        inner = element(
            "span", inner + element("span", name, css), "display:flex;align-items:center"
        )
    return region("figure", inner, "display:inline-block;line-height:0")


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


def _logos(sheet: Sheet) -> None:
    """A row of logos at the foot of a page."""
    count = int(sheet.rng.integers(2, 5))
    marks = "".join(draw_logo(sheet) for _ in range(count))
    tall = 0.085 * sheet.height
    css = "display:flex;justify-content:space-around;align-items:center;height:100%"
    box = (sheet.left, sheet.bottom - tall, sheet.right, sheet.bottom)
    sheet.place(box, element("div", marks, css))
    sheet.bottom -= tall + 6


# Journals, books, reports -------------------------------------------------------------------------


def _with_formulas(sheet: Sheet, weights: Mapping[str, float]) -> Mapping[str, float]:
    """The same, or as often as another paragraph a formula: some writers calculate."""
    return {**weights, "formula": 4.0} if sheet.chance(0.1) else weights


def compose_article(sheet: Sheet) -> None:
    """A page of a journal: opening, within, or its last with the references."""
    width, height = sheet.room
    sheet.running()
    wide = below = ""
    opening = sheet.chance(0.2)
    left = sheet.left
    if opening:
        if sheet.chance(0.4):
            _banner_of_journal(sheet)
            _, height = sheet.room
        wide = _front(sheet)
        if sheet.chance(0.15):
            left = _side_bar(sheet)
    elif sheet.style.columns > 1 and sheet.chance(0.25):
        wide = _wide_float(sheet, 0.4 * height)
    elif sheet.chance(0.1):
        below = _wide_float(sheet, 0.35 * height)
    if not below and sheet.chance(0.12):
        below = _notes(sheet)
    blocks = sheet.blocks(_with_formulas(sheet, PROSE), width, height)
    flow = sheet.composer.set_blocks(blocks, sheet.column, height)
    if not opening and sheet.chance(0.22):
        flow = _ending(sheet, blocks)
    box = (left, sheet.top, sheet.right, sheet.bottom)
    sheet.frame(box, wide, flow, below, sheet.style.columns)


def _banner_of_journal(sheet: Sheet) -> None:
    """The journal's name, marks and addresses over the first page of an article: nothing of it."""
    rng, author = sheet.rng, sheet.author
    tall = sheet.height * rng.uniform(0.03, 0.1)
    ground = pick(rng, ("", "", "background:#ddd", f"background:{sheet.style.accent};color:#fff"))
    rule = pick(
        rng, ("", "border-bottom:1px solid", "border-top:3px solid;border-bottom:1px solid")
    )
    size = rng.uniform(0.25, 0.5) * tall
    face = pick(rng, ("bold", "normal"))
    name = element("div", escape(author.words(1, 5)), f"font:{face} {size:.0f}px/1.1 sans-serif")
    lines = element(
        "div", _lines(author.words(2, 8) for _ in range(rng.integers(1, 4))), "font-size:.8em"
    )
    parts = [name, lines]
    if sheet.materials.pictures and sheet.chance(0.5):
        parts.append(
            image(
                pick(rng, sheet.materials.pictures),
                f"max-width:{2 * tall:.0f}px;max-height:{tall:.0f}px",
            )
        )
    order = [parts[i] for i in rng.permutation(len(parts))]
    css = f"display:flex;justify-content:space-between;align-items:center;{ground};{rule}"
    sheet.place((sheet.left, sheet.top, sheet.right, sheet.top + tall), "".join(order), css)
    sheet.top += tall + sheet.style.size * rng.uniform(0.5, 1.5)


def _side_bar(sheet: Sheet) -> float:
    """A bar of notes on an article, left of it; where the article begins."""
    rng, author = sheet.rng, sheet.author
    width, height = sheet.room
    left = sheet.left + 0.27 * width
    notes = ""
    for _ in range(rng.integers(2, 8)):
        text = _labelled(author.words(1, 2), author.prose(rng.uniform(30, 220)))
        notes += paragraph(text, "font-size:.78em;text-align:start;margin-bottom:.8em")
    box = (sheet.left, sheet.top + 0.2 * height, left - 0.04 * width, sheet.bottom)
    sheet.place(box, notes)
    return left


def _ending(sheet: Sheet, blocks: Sequence[Block]) -> str:
    """The last of an article's blocks, what is declared and acknowledged, the references."""
    rng, author = sheet.rng, sheet.author
    _, height = sheet.room
    end = int(rng.integers(0, 6))
    parts = [sheet.composer.set_blocks(blocks[:end], sheet.column, height)]
    for _ in range(rng.integers(0, 4)):
        parts.append(title(author.heading(4), level=3))
        parts.append(plain(author.prose(rng.uniform(40, 300))))
    own = author.heading(2)
    parts.append(title(pick(rng, ("References", "REFERENCES", "Bibliography", "Literature", own))))
    parts.append(sheet.composer.references(int(rng.integers(8, 110))))
    return "".join(parts)


def compose_book(sheet: Sheet) -> None:
    """A page of a book: one column as a rule, chapters that open with space."""
    width, height = sheet.room
    sheet.running()
    wide = _chapter(sheet) if sheet.chance(0.2) else ""
    below = _notes(sheet) if sheet.chance(0.35) else ""
    blocks = sheet.blocks(_with_formulas(sheet, BOOK), width, height)
    flow = sheet.composer.set_blocks(blocks, sheet.column, height)
    if sheet.chance(0.1):
        sheet.bottom = sheet.top + height * sheet.rng.uniform(0.2, 0.8)
    sheet.fill(flow, wide, below, sheet.style.columns)


def _chapter(sheet: Sheet) -> str:
    """Space, a chapter's number, its title."""
    rng = sheet.rng
    space = sheet.room[1] * rng.uniform(0, 0.25)
    form = pick(rng, ("Chapter {}", "CHAPTER {}.", "{}", "§ {}"))
    number = region("title", form.format(rng.integers(1, 40)), "text-align:center", "p")
    head = number if sheet.chance(0.5) else ""
    align = pick(rng, ("center", "start"))
    head += title(sheet.author.heading(9), f"text-align:{align}", 1)
    return element("div", head, f"padding-top:{space:.0f}px")


def compose_report(sheet: Sheet, weights: Mapping[str, float] = REPORT) -> None:
    """A page of a report or a manual: headings, lists, tables, figures."""
    rng, author = sheet.rng, sheet.author
    width, height = sheet.room
    sheet.running()
    columns = sheet.style.columns
    wide = ""
    if sheet.chance(0.12):
        wide = title(author.heading(9), level=1)
        if sheet.chance(0.4):
            wide += plain(author.prose(rng.uniform(60, 400)), "font-size:1.15em")
    if sheet.chance(0.06):
        _logos(sheet)
    left = sheet.left
    if columns == 1 and sheet.chance(0.15):
        left += width * rng.uniform(0.15, 0.3)
    flow = sheet.composer.set_blocks(sheet.blocks(weights, width, height), sheet.column, height)
    below = _notes(sheet) if sheet.chance(0.15) else ""
    sheet.frame((left, sheet.top, sheet.right, sheet.bottom), wide, flow, below, columns)


def compose_guide(sheet: Sheet) -> None:
    """A page of a manual or a schoolbook."""
    compose_report(sheet, GUIDE)


# Newspapers and brochures -------------------------------------------------------------------------


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
        halves = (x, y, x_max, cut - gap / 2), (x, cut + gap / 2, x_max, y_max)
    else:
        cut = x + share * width
        halves = (x, y, cut - gap / 2, y_max), (cut + gap / 2, y, x_max, y_max)
    return [panel for half in halves for panel in divide(half, least, gap, rng, depth + 1)]


def compose_newspaper(sheet: Sheet) -> None:
    """A page of a newspaper: a masthead, articles side by side, advertisements."""
    style = sheet.style
    left, right, bottom = sheet.width * 0.05, sheet.width * 0.95, sheet.height * 0.96
    top = sheet.top * 0.8
    if sheet.chance(0.35):
        top = _masthead(sheet, left, top, right)
    else:
        sheet.running()
    box = (left, top, right, bottom)
    pitch = (right - left + style.gap) / style.columns
    if sheet.chance(0.35):
        _short_news(sheet, box, pitch - style.gap)
        return
    ruled = sheet.chance(0.5)
    for panel in divide(box, 1.6 * pitch, style.gap, sheet.rng):
        width, height = _extent(panel)
        if min(width, height) < 3 * style.size:
            continue
        if sheet.chance(0.12):
            advertisement = _advertisement(sheet, width, height)
            sheet.place(panel, advertisement, "border:1px solid #111;padding:6px")
        else:
            _news(sheet, panel, pitch, "border-bottom:1px solid #222" if ruled else "")


def _masthead(sheet: Sheet, left: float, top: float, right: float) -> float:
    """The newspaper's name, and a line of date and price; where the page goes on below."""
    author, size = sheet.author, sheet.style.size
    tall = sheet.height * sheet.rng.uniform(0.05, 0.12)
    css = f"text-align:center;font-size:{tall * 0.6:.0f}px;white-space:nowrap;margin:0"
    sheet.place((left, top, right, top + tall), title(author.words(1, 4)[:26], css, 1))
    top += tall
    if sheet.chance(0.7):
        css = "border-top:1px solid;border-bottom:1px solid;text-align:center"
        line = element("div", escape(author.words(3, 9)), css)
        sheet.place((left, top, right, top + 2 * size), line)
        top += 2.6 * size
    return top


def _short_news(sheet: Sheet, box: Sequence[float], column: float) -> None:
    """One stream of short items through all columns, as in the 19th century."""
    width, height = _extent(box)
    blocks = list(sheet.author.article(SHORT_NEWS, sheet.letters(width, height, 1.4)))
    flow = sheet.composer.set_blocks(blocks, column, height)
    sheet.frame(box, "", flow, "", sheet.style.columns)


def _news(sheet: Sheet, box: Sequence[float], pitch: float, css: str) -> None:
    """An article of a newspaper: a heading, perhaps a lead, a name and a picture, columns."""
    rng, author, composer = sheet.rng, sheet.author, sheet.composer
    width, height = _extent(box)
    columns = max(1, round(width / pitch))
    size = rng.uniform(1.2, 1.6 + 0.7 * columns)
    align = pick(rng, ("start", "center"))
    head = title(author.words(2, 9), f"font-size:{size:.2f}em;text-align:{align};margin-top:0")
    if sheet.chance(0.3):
        head += plain(author.words(4, 16), "font-weight:bold;text-align:start")
    if sheet.chance(0.2):
        head += plain(author.name(), "font-size:.85em")
    if columns > 1 and sheet.chance(0.35):
        head += composer.picture(width, 0.4 * height)
        head += composer.caption(author.words(4, 18), "")
    blocks = sheet.blocks(NEWS, width, height)
    flow = composer.set_blocks(blocks, pitch - sheet.style.gap, height)
    sheet.frame(box, head, flow, "", columns, css)


def _advertisement(sheet: Sheet, width: float, height: float) -> str:
    """A few words in large type, perhaps a picture, lines in the middle."""
    rng, author = sheet.rng, sheet.author
    size = rng.uniform(1.3, 2.6)
    css = f"text-align:center;font-size:{size:.2f}em;margin-top:.2em"
    parts = [title(author.words(1, 3), css)]
    if sheet.chance(0.5):
        parts.append(sheet.composer.picture(width * 0.8, height * 0.4))
    for _ in range(rng.integers(1, 4)):
        parts.append(plain(author.words(3, 20), "text-align:center;margin:.5em 0"))
    return "".join(parts)


def compose_brochure(sheet: Sheet) -> None:
    """A page of a magazine or a brochure: panels with grounds, pictures, short texts."""
    rng = sheet.rng
    gap = sheet.style.size * rng.uniform(0.6, 2)
    margin = sheet.width * rng.choice([0.0, 0.04, 0.08])
    top, right = margin, sheet.width - margin
    if sheet.chance(0.5):
        top = _banner(sheet, margin, right) + gap
    box = (margin, top, right, sheet.height - margin)
    for panel in divide(box, sheet.width * 0.3, gap, rng):
        if rng.random() < 0.3 and sheet.materials.pictures:
            _picture_panel(sheet, panel)
        else:
            _text_panel(sheet, panel)
    if sheet.chance(0.3):
        sheet.running()


def _banner(sheet: Sheet, margin: float, right: float) -> float:
    """A title across the top of a page; where it ends."""
    rng = sheet.rng
    tall = sheet.height * rng.uniform(0.08, 0.2)
    colors = f"background:{sheet.style.accent};color:#fff"
    ground = pick(rng, ("", "", colors, "background:#ddd"))
    css = f"margin:0;padding:.3em;font-size:{tall * 0.35:.0f}px"
    box = (margin, margin, right, margin + tall)
    sheet.place(box, title(sheet.author.words(1, 6), css, 1), ground)
    return margin + tall


def _picture_panel(sheet: Sheet, box: Sequence[float]) -> None:
    """A picture that fills its panel, but for a caption."""
    path = pick(sheet.rng, sheet.materials.pictures)
    caption, share = "", 100.0
    if sheet.chance(0.35):
        caption = sheet.composer.caption(sheet.author.words(3, 14), "")
        share = 100 * max(0.4, 1 - 4.5 * sheet.style.size / _extent(box)[1])
    picture = image(path, "width:100%;height:100%;object-fit:cover")
    figure = region("figure", picture, f"height:{share:.0f}%;overflow:hidden")
    sheet.place(box, figure + caption)


def _text_panel(sheet: Sheet, box: Sequence[float]) -> None:
    """A short text on a ground of its own."""
    rng, author, style = sheet.rng, sheet.author, sheet.style
    width, height = _extent(box)
    pad = style.size * rng.uniform(0.3, 1.2)
    accent = "#345" if style.accent == "#000" else style.accent
    ground = pick(rng, (*_GROUNDS, f"background:{accent};color:#fff"))
    columns = 1 if width < 26 * style.size else int(rng.integers(1, 4))
    head = ""
    if sheet.chance(0.75):
        size = rng.uniform(1.1, 2.2)
        head = title(author.words(1, 6), f"margin-top:0;font-size:{size:.2f}em")
    blocks = list(author.article(PANELS, sheet.letters(width, height, 1.3)))
    if sheet.chance(0.35):
        blocks = blocks[: int(rng.integers(1, 4))]
    flow = sheet.composer.set_blocks(blocks, width / columns - pad, height - 2 * pad)
    sheet.frame(box, head, flow, "", columns, f"padding:{pad:.0f}px;{ground}")


# Forms and letters --------------------------------------------------------------------------------


def compose_form(sheet: Sheet) -> None:
    """A form: fields to be filled in, tables of them, boxes to tick, sections."""
    rng, author = sheet.rng, sheet.author
    if sheet.chance(0.5):
        sheet.running()
    parts = []
    if sheet.chance(0.3):
        logo = draw_logo(sheet)
        align = pick(rng, ("start", "center", "end"))
        parts.append(element("div", logo, f"text-align:{align}"))
    align, size = pick(rng, ("center", "start")), rng.uniform(1.2, 2)
    parts.append(title(author.words(2, 9), f"text-align:{align};font-size:{size:.2f}em", 1))
    if sheet.chance(0.5):
        parts.append(plain(author.prose(rng.uniform(60, 400))))
    filled = sheet.chance(0.4)
    bar = pick(rng, _BARS)
    for _ in range(rng.integers(3, 9)):
        if sheet.chance(0.7):
            form = pick(rng, ("{}. ", "Part {}: ", "{} ", ""))
            label = form.format(pick(rng, "ABC12345"))
            parts.append(title(label + author.words(1, 6), f"{bar};text-align:start", 3))
        kind = rng.random()
        make = next(make for below, make in _FORM_PARTS if kind < below)
        parts.append(make(sheet, filled))
    sheet.fill("".join(parts))


def _answer(sheet: Sheet, filled: bool) -> str:
    """What is written into a field of a form, by hand or by a machine."""
    if not filled:
        return "&nbsp;"
    rng = sheet.rng
    faces = (sheet.handwriting(), "DejaVu Sans Mono", sheet.handwriting(), sheet.style.face)
    css = f"font-family:{pick(rng, faces)!r};color:{pick(rng, ('#000', '#224'))}"
    return element("span", escape(sheet.author.words(1, 4)), css)


def _cells(sheet: Sheet, filled: bool) -> str:
    """A table of fields, each with its label."""

    def cell() -> str:
        css = f"border:1px solid #333;height:{rng.uniform(1.8, 3):.1f}em"
        label = element("small", escape(sheet.author.words(1, 4)))
        return element("td", f"{label}<br>{_answer(sheet, filled)}", css)

    rng = sheet.rng
    columns = int(rng.integers(1, 5))
    rows = "".join(
        element("tr", "".join(cell() for _ in range(columns))) for _ in range(rng.integers(2, 7))
    )
    return region("table", rows, "width:100%", "table")


def _grid(sheet: Sheet, filled: bool) -> str:
    """A table with a head and a stub, whose other cells may be empty."""
    rows = sheet.author.table(6, 10).rows
    if not filled:
        rows = (rows[0], *((row[0], *[""] * (len(row) - 1)) for row in rows[1:]))
    table = sheet.composer.bare_table(rows, border=1)
    return element("div", table, class_="float")


def _fields(sheet: Sheet, filled: bool) -> str:
    """Lines to be filled in, each a text."""
    rng = sheet.rng
    lines = ""
    for _ in range(rng.integers(2, 7)):
        label = element("span", f"{escape(sheet.author.words(1, 5))}:")
        line = pick(rng, ("solid", "dotted"))
        css = f"flex:1;border-bottom:1px {line} #333;margin:0 .3em"
        field = element("span", _answer(sheet, filled), css, class_="ink")
        lines += region("text", label + field, "display:flex;margin:.5em 0")
    return lines


def _ticks(sheet: Sheet, filled: bool) -> str:
    """Boxes to tick, some of them ticked."""
    rng = sheet.rng
    box = pick(rng, ("☐", "□", "[ ]", "○"))
    items = "".join(
        item(box if rng.random() < 0.8 else "☒", escape(sheet.author.words(2, 14)))
        for _ in range(rng.integers(2, 8))
    )
    return region("list", items, class_="list")


def _remark(sheet: Sheet, filled: bool) -> str:
    """What is to be known, in smaller type."""
    text = sheet.author.prose(sheet.rng.uniform(80, 600))
    return plain(text, f"font-size:{sheet.rng.uniform(0.8, 1):.2f}em")


#: Parts of forms, each with the share of those up to it.
_FORM_PARTS: tuple[tuple[float, Callable[[Sheet, bool], str]], ...] = (
    (0.35, _cells),
    (0.5, _grid),
    (0.72, _fields),
    (0.87, _ticks),
    (1.0, _remark),
)


def compose_letter(sheet: Sheet) -> None:
    """A letter: head, address, date, paragraphs, a name."""
    if sheet.chance(0.2):
        face = sheet.handwriting()
        sheet.restyle(face=face, heading_face=face, justified=False)
    rng, author = sheet.rng, sheet.author
    parts = []
    if sheet.chance(0.5):
        parts.append(_letter_head(sheet))
    if sheet.chance(0.7):
        address = _lines(author.words(1, 4) for _ in range(rng.integers(2, 6)))
        parts.append(paragraph(address, "text-align:start;margin-bottom:1.5em"))
    if sheet.chance(0.8):
        day = f"{author.words(1, 2)}, {rng.integers(1, 31)}. {rng.integers(1, 13)}."
        date = f"{day} {rng.integers(1850, 2020)}"
        align = pick(rng, ("start", "end"))
        parts.append(plain(date, f"text-align:{align};margin-bottom:1.5em"))
    if sheet.chance(0.4):
        parts.append(title(author.words(3, 10)))
    if sheet.chance(0.7):
        parts.append(plain(author.words(2, 4) + ",", "margin-bottom:1em"))
    for _ in range(rng.integers(1, 7)):
        block = author.list() if sheet.chance(0.08) else author.paragraph(350)
        parts.append(sheet.composer.set_block(block, 500, 500))
    if sheet.chance(0.8):
        parts.append(_signature(sheet))
    if sheet.chance(0.4):
        sheet.running()
    sheet.fill("".join(parts))


def _letter_head(sheet: Sheet) -> str:
    """Who writes, perhaps with a logo."""
    rng = sheet.rng
    lines = _lines(sheet.author.words(2, 5) for _ in range(rng.integers(1, 4)))
    align = f"text-align:{pick(rng, ('start', 'center', 'end'))}"
    logo = draw_logo(sheet) if sheet.chance(0.4) else ""
    head = logo + paragraph(lines, f"{align};font-weight:bold")
    return element("div", head, f"{align};margin-bottom:2em")


def _signature(sheet: Sheet) -> str:
    """How a letter ends: greetings, a name by hand, and in type."""
    rng, author = sheet.rng, sheet.author
    place = pick(rng, ("0", "50%"))
    face = sheet.handwriting()
    sign = "<br><br>"
    if sheet.chance(0.5):
        css = f"font:{rng.uniform(24, 44):.0f}px {face!r};margin-inline-start:{place}"
        sign = element("div", escape(author.words(1, 2)), css)
    greeting = plain(author.words(1, 3) + ",", f"margin:1em 0 0 {place}")
    name = _lines((author.name(), author.words(1, 4)))
    return greeting + sign + paragraph(name, f"margin-inline-start:{place};text-align:start")


# Pages of one thing -------------------------------------------------------------------------------


def compose_tables(sheet: Sheet) -> None:
    """A page of one or a few large tables."""
    width, height = sheet.room
    sheet.running()
    if sheet.chance(0.15):
        head = title(sheet.author.words(2, 8), level=3) if sheet.chance(0.4) else ""
        sheet.fill(head + sheet.composer.ledger(height * sheet.rng.uniform(0.2, 1.1)))
        return
    if sheet.chance(0.3):  # One that began before, and goes on overleaf.
        sheet.fill(sheet.composer.worded_table(width, height * sheet.rng.uniform(0.7, 1.4)))
        return
    count = int(sheet.rng.choice([1, 1, 2, 3]))
    parts = []
    for _ in range(count):
        if sheet.chance(0.3):
            block = Block("table", sheet.author.caption())
            parts.append(sheet.composer.table(block, width, height / count, fill=True))
            continue
        block = sheet.author.table(12, 60 // count)
        columns = len(block.rows[0])
        while len(block.rows) * sheet.style.size * 1.8 < 0.5 * height / count:
            more = sheet.author.table(12, 60)
            rows = [row[:columns] for row in more.rows[1:] if len(row) >= columns]
            block = block._replace(rows=(*block.rows, *rows, block.rows[-1]))
        parts.append(sheet.composer.table(block, width, height / count, fill=True))
    if sheet.chance(0.4):
        blocks = sheet.blocks(PROSE, width, height / 2)
        parts.append(sheet.composer.set_blocks(blocks, width, height))
    sheet.fill("".join(parts))


def compose_plate(sheet: Sheet) -> None:
    """A page of one or a few large figures with their captions."""
    rng, composer = sheet.rng, sheet.composer
    width, height = sheet.room
    sheet.running()
    count = int(rng.choice([1, 1, 1, 2, 3]))
    parts = []
    for _ in range(count):
        tall = height / count * rng.uniform(0.55, 0.85)
        parts.append(composer.picture(width, tall * 1.1))
        if sheet.chance(0.85):
            composer.figures += 1
            label = sheet.style.figure_label.format(composer.figures)
            parts.append(composer.caption(sheet.author.caption(), label))
    sheet.fill("".join(parts))


def compose_contents(sheet: Sheet) -> None:
    """A table of contents, or an index of several columns."""
    rng, author, style = sheet.rng, sheet.author, sheet.style
    sheet.running()
    align = pick(rng, ("center", "start"))
    names = ("Contents", "CONTENTS", "Table of Contents", author.words(1, 2))
    heading = title(pick(rng, names), f"text-align:{align}", 1)
    if sheet.chance(0.35):
        sheet.fill(_contents_of_journal(sheet), heading if sheet.chance(0.7) else "")
        return
    page, lines = 1, []
    dotted = "border-bottom:1.5px dotted #333"
    dots = pick(rng, (dotted, dotted, ""))
    chapters = pick(rng, ("", "font-weight:bold", "font-weight:bold;margin-top:1em"))
    bare = bool(chapters) and sheet.chance(0.35)
    inset, many = pick(rng, (0, 1.4, 2.5)), pick(rng, (8, 8, 20))
    for chapter in range(1, int(rng.integers(5, 30))):
        for depth in range(int(rng.choice([1, 1, 2, 4]))):
            page += int(rng.integers(1, 15))
            number = f"{chapter}.{depth} " if depth else f"{chapter}. "
            name = escape((number if style.numbered else "") + author.words(2, many))
            opens = "" if depth else chapters
            css = (
                f"display:flex;align-items:end;padding-inline-start:{inset * bool(depth)}em;{opens}"
            )
            leader = element("span", css=f"flex:1;margin:0 .3em .3em;{dots}")
            line = element("span", name)
            if depth or not bare:
                line += leader + element("span", str(page))
            lines.append(element("div", line, css))
    count = int((sheet.bottom - sheet.top) / (style.size * style.leading)) - 5
    body = region("table", "".join(lines[:count]))
    sheet.fill(body, heading if sheet.chance(0.7) else "")


def _contents_of_journal(sheet: Sheet) -> str:
    """Authors and names of articles over several lines, each with its page; in parts with headings."""
    rng, author = sheet.rng, sheet.author
    page, parts = int(rng.integers(1, 200)), []
    gap, face = rng.uniform(0, 0.9), pick(rng, ("b", "i", "span"))
    dots = pick(rng, ("border-bottom:1.5px dotted #333", ""))
    for _ in range(rng.integers(1, 5)):
        entries = ""
        for _ in range(rng.integers(2, 12)):
            page += int(rng.integers(2, 30))
            text = element(face, escape(author.name())) + pick(rng, (", ", "<br>", ": "))
            text += f"<i>{escape(author.words(5, 30))}</i>"
            said = element("span", text, "max-width:85%")
            line = said + element("span", css=f"flex:1;margin:0 .3em .3em;{dots}")
            line += element("span", str(page), "align-self:flex-end")
            entries += element("div", line, f"display:flex;margin-bottom:{gap:.2f}em")
        if parts or sheet.chance(0.3):
            parts.append(title(author.words(1, 4), "text-align:center"))
        parts.append(region("table", entries))
    return "".join(parts)


def compose_dictionary(sheet: Sheet) -> None:
    """Short entries in columns: dictionaries, catalogues, directories."""
    rng, author = sheet.rng, sheet.author
    sheet.running()
    hanging = pick(rng, ("padding-inline-start:1em;text-indent:-1em", "", "text-indent:1em"))
    flow = ""
    for _ in range(int(rng.integers(40, 110))):
        if sheet.chance(0.03):
            letter = sheet.chance(0.6)
            text = author.words(1, 1)[:1].upper() if letter else author.words(1, 3)
            flow += title(text, "text-align:center")
        entry = f"<b>{escape(author.words(1, 2))}</b> "
        entry += escape(author.prose(rng.uniform(50, 420)))
        flow += paragraph(entry, hanging)
    sheet.fill(flow, columns=max(2, sheet.style.columns))


def compose_law(sheet: Sheet) -> None:
    """A page of an act, a contract, rules: articles of numbered paragraphs.

    Paragraphs and the points under them are texts, as in DocLayNet.
    """
    rng, author = sheet.rng, sheet.author
    sheet.running()
    number, parts = int(rng.integers(1, 60)), []
    if sheet.chance(0.2):
        parts.append(_head_of_act(sheet))
    sign = pick(rng, ("§ {}.", "Art. {}.", "Article {}", "§ {}", "{}.", "Section {}"))
    align = f"text-align:{pick(rng, ('center', 'center', 'start'))}"
    chapters = 0.12 if sheet.chance(0.5) else 0
    hanging = sheet.chance(0.35)
    inset = f"margin-inline-start:{pick(rng, (0, 1, 1.5, 2.5))}em"
    indent = f"text-indent:{pick(rng, (0, 0, 1.5))}em"
    while len(parts) < 30:
        number += 1
        if sheet.chance(chapters):
            parts.append(title(f"Chapter {number % 12 + 1}", "text-align:center", 3))
            parts.append(title(author.words(1, 6), "text-align:center", 3))
        heading = sign.format(number)
        if sheet.chance(0.3):
            heading += " " + author.words(1, 6)
        parts.append(title(heading, align, 3))
        if sheet.chance(0.4):
            parts.append(plain(author.prose(rng.uniform(20, 500)), indent))
        elif hanging:
            parts.append(_hanging_clauses(sheet))
        else:
            parts.append(_flush_clauses(sheet, indent, inset))
    below = _notes(sheet) if sheet.chance(0.15) else ""
    sheet.fill("".join(parts), below=below, columns=sheet.style.columns)


def _head_of_act(sheet: Sheet) -> str:
    """What an act is, its date, its name, perhaps why it is made."""
    rng, author = sheet.rng, sheet.author
    css = "text-align:center"
    day = f"{rng.integers(1, 29)} {author.words(1, 1)} {rng.integers(1850, 2025)}"
    parts = [title(author.words(1, 3).upper(), css, 2), plain(day, f"{css};margin:.6em 0")]
    parts.append(title(author.words(3, 14), css, 3))
    if sheet.chance(0.6):
        parts.append(plain(author.prose(rng.uniform(60, 400))))
    return "".join(parts)


def _flush_clauses(sheet: Sheet, indent: str, inset: str) -> str:
    """The numbered paragraphs of an article, each a text, as are the points below them.

    `indent` and `inset` are CSS of the ones and of the others.
    """
    rng, author = sheet.rng, sheet.author
    parts = []
    for number in range(1, 1 + rng.integers(1, 7)):
        parts.append(plain(f"{number}. {author.prose(rng.uniform(40, 480))}", indent))
        if sheet.chance(0.25):
            for point in range(1, 1 + rng.integers(2, 6)):
                parts.append(plain(f"{point}) {author.prose(rng.uniform(20, 220))}", inset))
    return "".join(parts)


def _hanging_clauses(sheet: Sheet) -> str:
    """The numbered paragraphs of an article whose numbers stand out, each a text, as are the points."""
    rng, author = sheet.rng, sheet.author
    mark, parts = pick(rng, ("{}.", "{})", "({})")), []
    below = pick(rng, ("{})", "{}.", "–"))
    for number in range(1, 1 + rng.integers(2, 7)):
        said = escape(author.prose(rng.uniform(40, 420)))
        parts.append(region("text", item(mark.format(number), said)))
        if sheet.chance(0.3):
            for point in range(rng.integers(2, 6)):
                said = escape(author.prose(rng.uniform(20, 200)))
                inner = item(below.format(chr(97 + point)), said)
                parts.append(region("text", inner, "margin-inline-start:1.6em"))
    return "".join(parts)


def compose_cover(sheet: Sheet) -> None:
    """A title page or a cover."""
    rng, author = sheet.rng, sheet.author
    if sheet.chance(0.35):
        _colored_ground(sheet)
    if sheet.chance(0.3):
        _logos(sheet)
    align = f"text-align:{pick(rng, ('center', 'center', 'start', 'end'))}"
    parts = []
    width, height = sheet.room

    def space() -> str:
        return element("div", css=f"height:{height * rng.uniform(0.02, 0.14):.0f}px")

    if sheet.chance(0.4):
        parts += [plain(author.words(2, 6), align), space()]
    size = rng.uniform(1.8, 4)
    parts.append(title(author.words(2, 10), f"font-size:{size:.2f}em;{align}", 1))
    if sheet.chance(0.5):
        parts.append(title(author.words(3, 12), align))
    parts.append(space())
    if sheet.chance(0.6):
        parts += [plain(author.name(), f"{align};font-size:1.2em"), space()]
    if sheet.chance(0.5):
        parts += [sheet.composer.picture(width * 0.8, height * 0.4), space()]
    if sheet.chance(0.7):
        lines = _lines(author.words(1, 5) for _ in range(rng.integers(1, 4)))
        parts.append(paragraph(lines, align))
    sheet.fill("".join(parts))


def compose_imprint(sheet: Sheet) -> None:
    """What stands on the back of a title page: who did what, where it was printed, under which terms.

    A line that a label opens is a text of its own; lines that go on one from another are one.
    """
    rng, author = sheet.rng, sheet.author
    align = f"text-align:{pick(rng, ('center', 'start', 'start'))};text-indent:0"
    gap, close = rng.uniform(0.8, 3), rng.uniform(0, 0.5)
    height = sheet.room[1]
    face = pick(rng, ("b", "span", "i"))
    parts = []
    for _ in range(rng.integers(3, 9)):
        css = f"{align};margin:0 0 {gap:.1f}em"
        kind = rng.random()
        if kind < 0.3:  # A role above those who had it.
            lines = [author.words(1, 3), *(author.name() for _ in range(rng.integers(1, 4)))]
            said = element(face, escape(lines[0])) + "<br>" + _lines(lines[1:])
            parts.append(paragraph(said, css))
        elif kind < 0.55:  # Roles, each before who had it.
            tight = f"{align};margin:0 0 {close:.1f}em"
            for _ in range(rng.integers(2, 8)):
                said = element(face, escape(f"{author.words(1, 3)}:")) + f" {escape(author.name())}"
                parts.append(paragraph(said, tight))
            parts.append(element("div", css=f"height:{gap:.1f}em"))
        elif kind < 0.7:
            parts.append(paragraph(_lines(author.words(2, 7) for _ in range(3)), css))
        elif kind < 0.8:
            number = "-".join(
                str(rng.integers(10 ** (many - 1), 10**many)) for many in (3, 2, 4, 3)
            )
            parts.append(plain(f"ISBN {number}-{rng.integers(10)}", css))
        elif kind < 0.88:
            parts.append(element("div", draw_logo(sheet), css))
        else:
            parts.append(plain(author.prose(rng.uniform(40, 500)), css))
    space = element("div", css=f"height:{height * rng.choice([0, 0, 0.2, 0.4]):.0f}px")
    sheet.fill(space + "".join(parts))


def _colored_ground(sheet: Sheet) -> None:
    """Colour a cover as a whole, or in part."""
    rng = sheet.rng
    ground = pick(rng, (*_DARK_COVERS, "#ddd", "#f2e6c8", "#cfe3f2"))
    dark = ground in _DARK_COVERS
    share = 100 if dark else pick(rng, (100, 55, 40))
    place = pick(rng, ("top:0", "bottom:0"))
    css = f"position:absolute;left:0;{place};width:100%;height:{share}%;background:{ground}"
    sheet.parts.append(element("div", css=css))
    sheet.restyle(ink="#fff" if dark else sheet.style.ink, heading_css="font-weight:bold")


def compose_slide(sheet: Sheet) -> None:
    """A slide: a title, a list, perhaps a picture."""
    rng, author, composer = sheet.rng, sheet.author, sheet.composer
    width, height = sheet.room
    head = title(author.words(2, 8), "font-size:1.5em", 1)
    both = sheet.chance(0.4)
    blocks = [
        author.list() if sheet.chance(0.7) else author.paragraph(120)
        for _ in range(rng.integers(1, 3))
    ]
    flow = composer.set_blocks(blocks, width / (1 + both), height)
    if both:
        picture = composer.picture(width / 2.2, height * 0.9)
        flow += element("div", picture, "break-before:column")
    elif sheet.chance(0.3):
        flow += composer.table(author.table(6, 8), width, height)
    sheet.fill(flow, head, columns=1 + both)
    if sheet.chance(0.5):
        sheet.running()


def compose_nothing(sheet: Sheet) -> None:
    """A page on which no region is: blank, with a number, with lines."""
    if sheet.chance(0.5):
        sheet.running()
    if sheet.chance(0.2):
        pitch = sheet.rng.uniform(20, 36)
        line = element("div", css=f"border-bottom:1px solid #999;height:{pitch:.0f}px")
        sheet.place(sheet.box, 40 * line)


# Kinds of pages -----------------------------------------------------------------------------------


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
_BOOKS = ("A5", "octavo", "octavo", "B5", "A4", "quarto")
_NEWSPAPERS = ("broadsheet", "tabloid", "A4")
_BROCHURES = ("A4", "letter", "A5", "square", "slide")
KINDS: dict[str, Kind] = {
    "article": Kind(27, compose_article, _COMMON, (2, 2, 2, 1, 1, 3), (10.5, 15), 0.3),
    "book": Kind(14, compose_book, _BOOKS, (1, 1, 1, 1, 2), (11.5, 19), 0.35),
    "report": Kind(13, compose_report, ("A4", "letter", "letter", "B5"), (1, 1, 1, 2), (11.5, 17), 0.5),
    "guide": Kind(9, compose_guide, ("A4", "letter", "B5", "A5"), (1, 1, 2, 2, 3), (11, 17), 0.75),
    "newspaper": Kind(6, compose_newspaper, _NEWSPAPERS, (3, 4, 4, 5, 6), (11, 15), 0.1),
    "brochure": Kind(8, compose_brochure, _BROCHURES, (1,), (11, 17), 0.0),
    "form": Kind(5, compose_form, ("A4", "letter", "legal", "A5"), (1,), (11, 15), 0.0),
    "letter": Kind(3, compose_letter, ("A4", "letter", "octavo"), (1,), (13, 19), 0.0),
    "tables": Kind(8, compose_tables, ("A4", "letter", "slide", "legal"), (1,), (10, 15), 0.0),
    "plate": Kind(2.5, compose_plate, _COMMON, (1,), (11, 15), 0.0),
    "contents": Kind(5.5, compose_contents, ("A4", "octavo", "letter"), (1,), (12, 17), 0.0),
    "dictionary": Kind(1.5, compose_dictionary, ("octavo", "A4", "B5"), (2, 2, 3), (10, 14), 0.0),
    "law": Kind(7, compose_law, ("A4", "letter", "B5", "octavo"), (1, 1, 1, 2), (11.5, 16), 0.0),
    "cover": Kind(3.5, compose_cover, ("A4", "octavo", "letter", "A5"), (1,), (13, 20), 0.0),
    "imprint": Kind(2.5, compose_imprint, ("A4", "A5", "octavo", "B5"), (1,), (11, 16), 0.0),
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
    script = _choose_script(materials, rng, latin)
    size = rng.uniform(*kind.type_size)
    format_, columns = pick(rng, kind.sizes), pick(rng, kind.columns)
    sheet = Sheet(materials, script, format_, columns, size, rng, kind.real)
    lying = rng.random() < 0.04 and name in ("report", "guide", "article")
    if lying and sheet.width < sheet.height:
        sheet.width, sheet.height = sheet.height, sheet.width
        sheet.right, sheet.bottom = sheet.width - sheet.left, sheet.height - sheet.top
    if script in ("Jpan", "Hans") and name in ("book", "newspaper") and rng.random() < 0.5:
        sheet.restyle(vertical=True)
    kind.compose(sheet)
    return sheet.page(name)


def _choose_script(materials: Materials, rng: np.random.Generator, latin: float) -> str:
    scripts = sorted(set(materials.typefaces) & set(materials.sentences))
    others = [script for script in scripts if script != "Latn"]
    if not others or (rng.random() < latin and "Latn" in scripts):
        return "Latn"
    # East Asian pages and Cyrillic ones are the most numerous in archives.
    common = [each for each in ("Hans", "Jpan", "Kore", "Cyrl", "Arab") if each in others]
    return pick(rng, common if common and rng.random() < 0.6 else others)
