"""Pages of journals, books, reports and manuals, as HTML for the typesetter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from scanmill.manuscripts import Block
from scanmill.markup import element, image, paragraph, plain, region, title
from scanmill.page_parts import PROSE, footnotes, in_lines, row_of_logos
from scanmill.sheets import Sheet
from scanmill.typography import pick

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
#: How often there are blocks of each kind.
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


def _labelled(label: str, text: str) -> str:
    """Plain text after a bold label, as HTML."""
    return f"<b>{escape(label)}:</b> {escape(text)}"


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
        below = footnotes(sheet)
    blocks = sheet.blocks(_with_formulas(sheet, PROSE), width, height)
    flow = sheet.composer.set_blocks(blocks, sheet.column, height)
    if not opening and sheet.chance(0.22):
        flow = _ending(sheet, blocks)
    box = (left, sheet.top, sheet.right, sheet.bottom)
    sheet.frame(box, wide, flow, below, sheet.style.columns)


def _wide_float(sheet: Sheet, height: float) -> str:
    """A figure or a table as wide as the page."""
    width, _ = sheet.room
    block = sheet.author.figure() if sheet.chance(0.55) else sheet.author.table(10, 16)
    if block.kind == "figure":
        return sheet.composer.figure(block, width, height)
    return sheet.composer.table(block, width, 1.4 * height)


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
        "div", in_lines(author.words(2, 8) for _ in range(rng.integers(1, 4))), "font-size:.8em"
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
    below = footnotes(sheet) if sheet.chance(0.35) else ""
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
        row_of_logos(sheet)
    left = sheet.left
    if columns == 1 and sheet.chance(0.15):
        left += width * rng.uniform(0.15, 0.3)
    flow = sheet.composer.set_blocks(sheet.blocks(weights, width, height), sheet.column, height)
    below = footnotes(sheet) if sheet.chance(0.15) else ""
    sheet.frame((left, sheet.top, sheet.right, sheet.bottom), wide, flow, below, columns)


def compose_guide(sheet: Sheet) -> None:
    """A page of a manual or a schoolbook."""
    compose_report(sheet, GUIDE)
