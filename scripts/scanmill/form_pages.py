"""Forms and letters, as HTML for the typesetter."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from scanmill.markup import element, item, paragraph, plain, region, title
from scanmill.page_parts import draw_logo, in_lines
from scanmill.sheets import Sheet
from scanmill.typography import pick

#: Of headings of forms.
_BARS = (
    "background:#ccc;padding:2px 5px",
    "background:#222;color:#fff;padding:2px 5px",
    "",
    "border-bottom:1px solid",
    "",
)


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
        address = in_lines(author.words(1, 4) for _ in range(rng.integers(2, 6)))
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
    lines = in_lines(sheet.author.words(2, 5) for _ in range(rng.integers(1, 4)))
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
    name = in_lines((author.name(), author.words(1, 4)))
    return greeting + sign + paragraph(name, f"margin-inline-start:{place};text-align:start")
