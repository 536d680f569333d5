"""Pages of one thing, as HTML for the typesetter: tables, plates, contents, acts, covers, slides."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from scanmill.manuscripts import Block
from scanmill.markup import element, item, paragraph, plain, region, title
from scanmill.page_parts import PROSE, draw_logo, footnotes, in_lines, row_of_logos
from scanmill.sheets import Sheet
from scanmill.typography import pick

_DARK_COVERS = ("#123a6b", "#1d5c3a", "#7a1f1f", "#333")


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
    if sheet.chance(0.45):
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
    """Authors and names of articles over several lines, each with its page, in parts.

    What the parts are called are titles between tables, or all is one table.
    """
    rng, author = sheet.rng, sheet.author
    page, parts = int(rng.integers(1, 200)), []
    gap, face = rng.uniform(0, 1.3), pick(rng, ("b", "i", "span"))
    after, wide = pick(rng, (", ", "<br>", "<br>", ": ")), pick(rng, (85, 92))
    named, align = pick(rng, ("i", "i", "span")), pick(rng, ("start", "justify"))
    dots = pick(rng, ("border-bottom:1.5px dotted #333", "border-bottom:1.5px dotted #333", ""))
    inside = sheet.chance(0.35)
    for _ in range(rng.integers(1, 5)):
        entries = ""
        if inside and sheet.chance(0.8):  # What a part is called belongs to the table.
            css = f"display:block;margin:{gap:.2f}em 0"
            entries = element("b", escape(author.words(1, 4)), css)
        for _ in range(rng.integers(2, 12)):
            page += int(rng.integers(2, 30))
            text = element(face, escape(author.name())) + after
            text += element(named, escape(author.words(5, 30)))
            said = element("span", text, f"max-width:{wide}%;text-align:{align}")
            line = said + element("span", css=f"flex:1;margin:0 .3em .3em;{dots}")
            line += element("span", str(page), "align-self:flex-end")
            entries += element("div", line, f"display:flex;margin-bottom:{gap:.2f}em")
        if not inside and (parts or sheet.chance(0.3)):
            parts.append(title(author.words(1, 4), "text-align:center"))
        parts.append(entries if inside else region("table", entries))
    return region("table", "".join(parts)) if inside else "".join(parts)


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
    chapters = 0.2 if sheet.chance(0.5) else 0
    hanging = sheet.chance(0.35)
    inset = 1.6 if hanging else pick(rng, (0, 1, 1.5, 2.5))
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
        else:
            parts.append(_clauses(sheet, hanging, indent, inset))
    below = footnotes(sheet) if sheet.chance(0.15) else ""
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


def _clauses(sheet: Sheet, hanging: bool, indent: str, inset: float) -> str:
    """The numbered paragraphs of an article, each a text, as are the points under them, and theirs.

    Their numbers stand out if they are `hanging`; if not, `indent` is the paragraphs' CSS. Points lie
    `inset` em further in than what they are under.
    """
    rng, author = sheet.rng, sheet.author
    points = pick(rng, ("1)", "a)", "–"))
    marks = (pick(rng, ("1.", "1.", "1)", "(1)")), points, "–" if points == "a)" else "a)")

    def level(depth: int) -> Iterator[str]:
        for number in range(1, 1 + rng.integers(1 + bool(depth), 7)):
            mark = marks[depth].replace("1", str(number)).replace("a", chr(96 + number))
            said = escape(author.prose(rng.uniform(20, (480, 220, 160)[depth])))
            css = f"margin-inline-start:{depth * inset}em" if depth else ""
            if hanging:
                yield region("text", item(mark, said), css)
            else:
                yield paragraph(f"{mark} {said}", css or indent)
            if depth < 2 and sheet.chance((0.3, 0.15)[depth]):
                yield from level(depth + 1)

    return "".join(level(0))


def compose_cover(sheet: Sheet) -> None:
    """A title page or a cover."""
    rng, author = sheet.rng, sheet.author
    if sheet.chance(0.35):
        _colored_ground(sheet)
    if sheet.chance(0.3):
        row_of_logos(sheet)
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
        lines = in_lines(author.words(1, 5) for _ in range(rng.integers(1, 4)))
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
            role = element(face, escape(author.words(1, 3)))
            names = in_lines(author.name() for _ in range(rng.integers(1, 4)))
            parts.append(paragraph(f"{role}<br>{names}", css))
        elif kind < 0.55:  # Roles, each before who had it.
            tight = f"{align};margin:0 0 {close:.1f}em"
            for _ in range(rng.integers(2, 8)):
                said = element(face, escape(f"{author.words(1, 3)}:")) + f" {escape(author.name())}"
                parts.append(paragraph(said, tight))
            parts.append(element("div", css=f"height:{gap:.1f}em"))
        elif kind < 0.7:
            parts.append(paragraph(in_lines(author.words(2, 7) for _ in range(3)), css))
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
