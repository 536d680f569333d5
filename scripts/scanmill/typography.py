"""How synthetic pages look: a style drawn at random, and blocks of an article as HTML in that style.

Conventions of PubLayNet (Zhong et al., 2019): paragraphs, captions, footnotes, authors and formulas are
text; headings are titles; a list is one region with all its items, and so is a bibliography; tables and
figures are without their captions. A table of contents is a table, as in DocLayNet (Pfitzmann et al.,
2022).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from scanmill.illustrations import draw_figure
from scanmill.manuscripts import Author, Block
from scanmill.typefaces import Typefaces

#: Faces like those of most books and journals come so often among those of Latin script.
USUAL = 0.55
_USUAL_TEXT = (
    "Nimbus Roman", "TeX Gyre Termes", "Tinos", "Liberation Serif", "FreeSerif", "STIXGeneral", "STIX",
    "P052", "TeX Gyre Pagella", "C059", "Schoolbook Uralic", "CMU Serif", "Latin Modern Roman",
    "Linux Libertine O", "EB Garamond", "Charis SIL", "Gentium Basic", "URW Bookman", "Old Standard TT",
    "Caladea", "Noto Serif", "PT Serif", "Vollkorn", "Nimbus Sans", "TeX Gyre Heros", "Liberation Sans",
    "Arimo", "FreeSans", "Carlito", "Open Sans", "Noto Sans", "PT Sans", "Lato", "DejaVu Serif",
)  # fmt: skip
_RIGHT_TO_LEFT = ("Hebr", "Arab")
_EAST_ASIAN = ("Hans", "Hant", "Jpan", "Kore")
_LANGUAGES = {
    "Hans": "zh-Hans",
    "Hant": "zh-Hant",
    "Jpan": "ja",
    "Kore": "ko",
    "Arab": "ar",
    "Hebr": "he",
}
_BULLETS = ("•", "•", "•", "–", "-", "■", "▪", "○", "◦", "►", "✓", "*", "·", "□", "→", "★")
_COLORS = ("#7a1f1f", "#123a6b", "#1d5c3a", "#444", "#8a5a00", "#5b2a6e", "#0077a8", "#b03a2e")
_SYMBOLS = "xyzabnkmtpqrαβγδεθλμνπρστφψωΔΣΩ"


class Style(NamedTuple):
    """What all pages of one document have in common. Lengths in CSS pixels."""

    script: str
    face: str
    heading_face: str
    size: float
    leading: float
    columns: int
    gap: float
    rule: bool
    justified: bool
    indent: float
    spacing: float
    title_size: float
    heading_size: float
    heading_css: str
    heading_align: str
    numbered: bool
    run_in: bool
    bullet: str
    list_indent: float
    item_spacing: float
    table_rules: str
    table_css: str
    caption_above: bool
    caption_css: str
    figure_label: str
    table_label: str
    ink: str
    paper: str
    accent: str
    vertical: bool
    drop_cap: bool
    citations: float

    @property
    def direction(self) -> str:
        """ltr or rtl."""
        return "rtl" if self.script in _RIGHT_TO_LEFT else "ltr"

    @property
    def language(self) -> str:
        """As HTML names it, where it decides how signs look."""
        return _LANGUAGES.get(self.script, "")


def pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:  # noqa: ANN401
    """One of them, at random."""
    return items[int(rng.integers(len(items)))]


def choose_face(typefaces: Typefaces, script: str, rng: np.random.Generator) -> str:
    """A family to set text in."""
    usual = [each for each in _USUAL_TEXT if each in typefaces.text]
    if script == "Latn":
        if usual and rng.random() < USUAL:
            return pick(rng, usual)
        return pick(
            rng, typefaces.text if rng.random() < 0.85 else typefaces.display or typefaces.text
        )
    return pick(rng, (*typefaces.text, *typefaces.text, *typefaces.display))


def new_style(
    script: str, typefaces: Typefaces, rng: np.random.Generator, columns: int, size: float
) -> Style:
    """A style at random, of so many columns and type of about `size` CSS pixels."""
    face = choose_face(typefaces, script, rng)
    other = choose_face(typefaces, script, rng)
    if script == "Latn" and rng.random() < 0.08 and typefaces.display:
        other = pick(rng, typefaces.display)
    colored = rng.random() < 0.3
    accent = pick(rng, _COLORS) if colored else "#000"
    indented = rng.random() < 0.55
    size = size * rng.uniform(0.88, 1.12)
    weight = pick(rng, ("bold", "bold", "bold", "normal"))
    heading = [f"font-weight:{weight}"]
    if rng.random() < 0.15 or weight == "normal":
        heading.append(
            pick(rng, ("font-style:italic", "font-variant:small-caps", "text-transform:uppercase"))
        )
    if rng.random() < 0.3:
        heading.append(f"color:{accent}")
    if rng.random() < 0.08:
        heading.append("border-bottom:1px solid")
    if rng.random() < 0.05:
        heading.append("border-top:2px solid")
    if rng.random() < 0.05:
        heading.append(
            pick(
                rng,
                (
                    "background:#ddd",
                    "background:#333;color:#fff",
                    f"background:{accent};color:#fff",
                ),
            )
        )
    if rng.random() < 0.1:
        heading.append("letter-spacing:.08em")
    spacing = size * (rng.uniform(0, 0.15) if indented else rng.uniform(0.35, 1.1))
    return Style(
        script=script,
        face=face,
        heading_face=other if rng.random() < 0.4 else face,
        size=size,
        leading=float(rng.choice([1.05, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.7, 2.0],
                                 p=[.06, .16, .22, .2, .14, .1, .06, .03, .03]))
        + (0.25 if script not in ("Latn", "Cyrl", "Grek", "Hebr") else 0),
        columns=columns,
        gap=size * rng.uniform(1.1, 2.6),
        rule=rng.random() < (0.12 if columns < 4 else 0.5),
        justified=rng.random() < 0.68,
        indent=size * rng.uniform(0.8, 2.2) if indented else 0.0,
        spacing=spacing,
        title_size=rng.uniform(1.3, 2.6),
        heading_size=float(np.clip(rng.normal(1.18, 0.18), 0.95, 1.9)),
        heading_css=";".join(heading),
        heading_align=pick(rng, ("start", "start", "start", "center")),
        numbered=rng.random() < 0.35,
        run_in=rng.random() < 0.15,
        bullet=pick(rng, _BULLETS),
        list_indent=size * rng.choice([0, 0.6, 1.2, 2.2]),
        item_spacing=size * rng.choice([0, 0, 0.15, 0.4, 0.8]),
        table_rules=pick(rng, ("three", "three", "three", "grid", "grid", "rows", "stripes", "none", "outer", "columns")),
        table_css=pick(rng, ("", "", "", "background:#eee", "background:#d9e2ef", "background:#333;color:#fff")),
        caption_above=rng.random() < 0.7,
        caption_css=pick(rng, ("", "", "font-style:italic", "text-align:center", "font-weight:bold", "font-family:sans-serif")),
        figure_label=pick(rng, ("Figure {}", "Fig. {}", "FIGURE {}", "Fig {}", "Abb. {}", "Рис. {}", "图{}", "圖{}", "{}"))
        if script != "Latn" else pick(rng, ("Figure {}", "Figure {}", "Fig. {}", "FIGURE {}", "Abbildung {}")),
        table_label=pick(rng, ("Table {}", "Table {}", "TABLE {}", "Tab. {}", "Tabelle {}"))
        if script == "Latn" else pick(rng, ("Table {}", "表{}", "Таблица {}", "{}")),
        ink="#000" if rng.random() < 0.8 else pick(rng, ("#222", "#333", "#1a1a2e", "#3b2f2f")),
        paper="#fff",
        accent=accent,
        vertical=False,
        drop_cap=rng.random() < 0.06,
        citations=float(rng.choice([0, 0, 0, 0.02, 0.05])),
    )  # fmt: skip


def style_sheet(style: Style) -> str:
    """The style as CSS."""
    s = style
    align = "justify" if s.justified else "start"
    writing = "writing-mode:vertical-rl;" if s.vertical else ""
    return f"""
    * {{ box-sizing: border-box; }}
    html, body {{ margin: 0; padding: 0; }}
    body {{ position: relative; overflow: hidden; background: {s.paper}; color: {s.ink};
      font: {s.size:.2f}px/{s.leading} "{s.face}", "Noto Sans", sans-serif; direction: {s.direction}; }}
    .zone {{ overflow: hidden; }}
    .flow {{ column-fill: auto; column-gap: {s.gap:.1f}px; {writing}
      column-rule: {"1px solid #444" if s.rule else "none"}; }}
    .frame {{ position: absolute; display: flex; flex-direction: column; }}
    .frame > .flow {{ flex: 1 1 0; min-height: 0; }}
    .frame > .wide {{ flex: none; }}
    p {{ margin: 0 0 {s.spacing:.1f}px; text-align: {align}; orphans: 2; widows: 2; }}
    p.par {{ text-indent: {s.indent:.1f}px; }}
    p.first, p.flat {{ text-indent: 0; }}
    h1, h2, h3, h4, h5, h6 {{ {s.heading_css}; font-family: "{s.heading_face}", "Noto Sans", sans-serif;
      text-align: {s.heading_align}; line-height: 1.2; break-after: avoid; break-inside: avoid;
      margin: {0.9 * s.size:.1f}px 0 {0.45 * s.size:.1f}px; }}
    h1 {{ font-size: {s.title_size:.2f}em; margin-top: 0; }}
    h2 {{ font-size: {s.heading_size:.2f}em; }}
    h3 {{ font-size: {max(1, s.heading_size * 0.9):.2f}em; }}
    h4, h5, h6 {{ font-size: 1em; font-style: italic; }}
    .list {{ margin: {0.3 * s.size:.1f}px 0 {max(s.spacing, 0.4 * s.size):.1f}px;
      padding-inline-start: {s.list_indent:.1f}px; }}
    .item {{ display: flex; margin-bottom: {s.item_spacing:.1f}px; text-align: {align}; }}
    .item > .mark {{ flex: none; min-width: 1.5em; padding-inline-end: .35em; }}
    .item > .say {{ flex: 1 1 0; min-width: 0; }}
    .hang {{ padding-inline-start: 1.6em; text-indent: -1.6em; margin: 0 0 {s.item_spacing:.1f}px;
      text-align: {align}; }}
    .float {{ break-inside: avoid; margin: {0.7 * s.size:.1f}px 0; }}
    .caption {{ font-size: .88em; margin: {0.35 * s.size:.1f}px 0; text-indent: 0; {s.caption_css}; }}
    figure {{ margin: 0; }}
    .picture {{ display: table; margin: 0 auto; line-height: 0; max-width: 100%; overflow: hidden; }}
    .picture text {{ line-height: normal; }}
    table {{ border-collapse: collapse; font-size: .88em; line-height: 1.25; text-indent: 0; }}
    td, th {{ padding: .14em .5em; text-align: start; vertical-align: top; overflow-wrap: anywhere; }}
    pre {{ font-family: "DejaVu Sans Mono", monospace; font-size: .82em; line-height: 1.25;
      margin: {0.5 * s.size:.1f}px 0; white-space: pre-wrap; break-inside: avoid; }}
    .running {{ position: absolute; font-size: .85em; white-space: nowrap; line-height: 1.2; }}
    .note {{ font-size: .82em; margin: 0 0 2px; text-indent: 0; }}
    .cap {{ float: inline-start; font-size: 3.1em; line-height: .85; padding-inline-end: .08em; }}
    {table_rules(s)}
    """


def table_rules(style: Style) -> str:
    """CSS of the lines and grounds of tables."""
    head = f"thead td {{ {style.table_css}; font-weight: bold; }}" if style.table_css else ""
    thin = "1px solid #333"
    return (
        head
        + {
            "three": f"table {{ border-top: 1.5px solid #111; border-bottom: 1.5px solid #111; }} thead {{ border-bottom: {thin}; }}",
            "grid": f"td, th {{ border: {thin}; }}",
            "rows": "tr { border-bottom: 1px solid #888; } thead { border-bottom: 2px solid #222; }",
            "stripes": "tbody tr:nth-child(odd) { background: #ececec; }",
            "none": "",
            "outer": f"table {{ border: {thin}; }} thead {{ border-bottom: {thin}; }}",
            "columns": f"td + td {{ border-inline-start: {thin}; }} thead, table {{ border-bottom: {thin}; }} table {{ border-top: {thin}; }}",
        }[style.table_rules]
    )


class Composer:
    """Sets blocks as HTML in one style; counts figures, tables and headings."""

    def __init__(
        self, style: Style, author: Author, pictures: Sequence[str], rng: np.random.Generator
    ) -> None:
        """`pictures` are paths of image files."""
        self.style, self.author, self.pictures, self.rng = style, author, pictures, rng
        self.figures, self.tables = int(rng.integers(1, 9)), int(rng.integers(1, 6))
        self.section = [int(rng.integers(1, 7)), 0, 0]
        self.after_heading = True

    def set_blocks(self, blocks: Sequence[Block], width: float, tall: float) -> str:
        """Blocks one after the other, for a column of `width` by `tall` pixels."""
        parts = []
        for block in blocks:
            parts.append(self.set_block(block, width, tall))
            self.after_heading = block.kind == "heading"
        return "\n".join(parts)

    def set_block(self, block: Block, width: float, tall: float) -> str:
        """One block."""
        if block.kind == "figure":
            return self.figure(block, width, 0.45 * tall)
        if block.kind == "table":
            return self.table(block, width, tall)
        return getattr(self, block.kind)(block)

    def words(self, text: str) -> str:
        """A text as HTML: words may break, some are emphasised, sources are cited."""
        rng, style = self.rng, self.style
        if "<" in text and re.search(r"</[ib]>", text):
            return text
        if style.script == "Latn" and style.justified:
            text = re.sub(
                r"(?<=[a-z]{3}[aeiouy])(?=[bcdfghklmnprstvz][aeiouy][a-z]{2})", "\u00ad", text
            )
        text = escape(text, quote=False)
        if rng.random() < 0.12:
            tokens = text.split(" ")
            if len(tokens) > 8:
                at = int(rng.integers(len(tokens) - 3))
                tag = pick(rng, ("i", "i", "b", "u"))
                end = at + int(rng.integers(1, 4))
                tokens[at:end] = [f"<{tag}>{' '.join(tokens[at:end])}</{tag}>"]
                text = " ".join(tokens)
        if style.citations and rng.random() < 0.8:
            mark = pick(rng, ("<sup>{}</sup>", " [{}]", " ({})"))
            text = re.sub(
                r"(?<=[a-z])(?=[.,] )",
                lambda _: (
                    mark.format(rng.integers(1, 90)) if rng.random() < 10 * style.citations else ""
                ),
                text,
            )
        return text

    def paragraph(self, block: Block) -> str:
        """A paragraph."""
        rng, style = self.rng, self.style
        text = self.words(block.text)
        css = "par first" if self.after_heading and rng.random() < 0.7 else "par"
        if style.run_in and rng.random() < 0.3:
            text = f"<b>{escape(self.author.words(1, 4))}.</b> {text}"
        if style.drop_cap and self.after_heading and len(text) > 200 and text[0].isalpha():
            text = f'<span class="cap">{text[0]}</span>{text[1:]}'
        return f'<p class="{css}" data-region="text">{text}</p>'

    def heading(self, block: Block) -> str:
        """A heading."""
        style, level = self.style, min(max(block.level, 1), 4)
        number = ""
        if style.numbered and level > 1 and not block.text[:1].isdigit():
            depth = level - 2
            self.section[depth] += 1
            self.section[depth + 1 :] = [0] * (2 - depth)
            number = ".".join(str(each) for each in self.section[: depth + 1]) + pick(
                self.rng, (" ", ". ", "  ")
            )
        return f'<h{level} data-region="title">{number}{escape(block.text)}</h{level}>'

    def list(self, block: Block) -> str:
        """A list: one region, whatever lists are within it."""
        ordered = block.ordered
        form = pick(self.rng, ("{}.", "{}.", "({})", "{})", "[{}]"))
        letters = self.rng.random() < 0.2
        return f'<div class="list" data-region="list">{self._items(block.items, ordered, form, letters, 0)}</div>'

    def _items(
        self, items: Sequence[Any], ordered: bool, form: str, letters: bool, depth: int
    ) -> str:
        parts = []
        for number, item in enumerate(items, 1):
            text, below = item if isinstance(item, list | tuple) else (item, ())
            name = chr(96 + min(number, 26)) if letters ^ (depth > 0) else str(number)
            mark = form.format(name) if ordered else (self.style.bullet if not depth else "–")
            inner = self._items(below, ordered, form, letters, depth + 1) if below else ""
            parts.append(
                f'<div class="item"><span class="mark">{mark}</span>'
                f'<div class="say">{self.words(text)}{inner}</div></div>'
            )
        return "".join(parts)

    def references(self, count: int) -> str:
        """A bibliography: one list."""
        rng = self.rng
        entries = [self.author.reference() for _ in range(count)]
        first = int(rng.integers(1, 60)) if rng.random() < 0.5 else 1
        kind = pick(rng, ("numbers", "numbers", "hang", "brackets"))
        if kind == "hang":
            inner = "".join(f'<p class="hang">{each}</p>' for each in sorted(entries))
        else:
            form = "{}." if kind == "numbers" else "[{}]"
            inner = "".join(
                f'<div class="item"><span class="mark" style="min-width:2em">{form.format(first + i)}</span>'
                f'<div class="say">{each}</div></div>'
                for i, each in enumerate(entries)
            )
        size = rng.choice([1, 0.9, 0.82])
        return f'<div class="list" style="font-size:{size}em" data-region="list">{inner}</div>'

    def code(self, block: Block) -> str:
        """Lines of a program: text."""
        css = pick(
            self.rng, ("", "", "background:#eee;padding:4px", "border:1px solid #999;padding:4px")
        )
        return f'<pre style="{css}" data-region="text">{escape(block.text)}</pre>'

    def formula(self, block: Block | None = None) -> str:
        """A displayed formula: text."""
        rng = self.rng

        def term(depth: int = 0) -> str:
            name = f"<mi>{pick(rng, _SYMBOLS)}</mi>"
            kind = rng.random()
            if kind < 0.3:
                return f"<msub>{name}<mi>{pick(rng, 'ijknmt012')}</mi></msub>"
            if kind < 0.45:
                return f"<msup>{name}<mn>{rng.integers(2, 5)}</mn></msup>"
            if kind < 0.6 and depth < 2:
                return f"<mfrac><mrow>{row(depth + 1)}</mrow><mrow>{row(depth + 1)}</mrow></mfrac>"
            if kind < 0.7 and depth < 2:
                sign = pick(rng, "∑∫∏")
                return f"<munderover><mo>{sign}</mo><mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow><mi>n</mi></munderover>{name}"
            if kind < 0.76 and depth < 2:
                return f"<msqrt>{row(depth + 1)}</msqrt>"
            if kind < 0.84:
                return f"<mn>{rng.integers(1, 99)}</mn>"
            return name

        def row(depth: int = 0) -> str:
            signs = ("+", "−", "·", "≤", "=") if depth < 1 else ("+", "−")
            return f"<mo>{pick(rng, signs)}</mo>".join(
                term(depth) for _ in range(rng.integers(1, 4))
            )

        number = ""
        if rng.random() < 0.5:
            number = (
                f'<span style="position:absolute;inset-inline-end:0">({rng.integers(1, 40)})</span>'
            )
        formula = f'<math display="block"><mrow>{term()}<mo>=</mo>{row()}</mrow></math>'
        return (
            f'<div style="position:relative;display:flex;align-items:center;justify-content:center;'
            f'margin:.6em 0;break-inside:avoid" data-region="text">{formula}{number}</div>'
        )

    def caption(self, text: str, label: str) -> str:
        """A caption: text."""
        text = self.words(text) if text else self.words(self.author.words(2, 8))
        lead = pick(self.rng, ("<b>{}.</b> ", "<b>{}</b> ", "{}. ", "<i>{}:</i> ", "{} "))
        if "{}" in label and self.rng.random() > 0.1:
            text = lead.format(label) + text
        return f'<p class="caption" data-region="text">{text}</p>'

    def figure(self, block: Block, width: float, tall: float) -> str:
        """A figure and its caption."""
        self.figures += 1
        caption = self.caption(block.text, self.style.figure_label.format(self.figures))
        if self.rng.random() < 0.1:
            caption = ""
        picture = self.picture(width, tall, block.picture)
        inner = caption + picture if self.rng.random() < 0.1 else picture + caption
        return f'<div class="float">{inner}</div>'

    def picture(self, width: float, tall: float, path: str = "", most: float = 1.0) -> str:
        """A picture alone, at most `width` by `tall` pixels."""
        rng = self.rng
        wide = width * (most if rng.random() < 0.65 else rng.uniform(0.4, 1) * most)
        high = max(50.0, min(tall * rng.uniform(0.5, 1), wide * rng.uniform(0.35, 1.3)))
        if path or (self.pictures and rng.random() < 0.5):
            inner = self.images(wide, high, path)
        else:
            inner = draw_figure(wide, high, self.author.words, rng)
        return f'<div class="picture" data-region="figure">{inner}</div>'

    def images(self, width: float, tall: float, path: str = "") -> str:
        """One image, or several with letters."""
        rng = self.rng
        css = pick(rng, ("", "", "filter:grayscale(1);", "filter:grayscale(1) contrast(1.4);"))
        css += pick(rng, ("", "", "border:1px solid #222;"))
        if path or rng.random() < 0.7:
            size = f"max-width:{width:.0f}px;max-height:{tall:.0f}px"
            if not path and rng.random() < 0.7:
                # As large as its place: pictures of few pixels are enlarged, and all are cut.
                size = f"width:{width:.0f}px;height:{tall:.0f}px;object-fit:cover"
            path = path or pick(rng, self.pictures)
            return f'<img src="file://{escape(path)}" style="{size};{css}">'
        columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        gap = rng.choice([1, 3, 8])
        cells = []
        for number in range(columns * rows):
            label = ""
            if rng.random() < 0.8:
                label = f'<b style="position:absolute;left:3px;top:9px;font:bold 12px sans-serif;color:#fff;text-shadow:0 0 2px #000">{chr(65 + number)}</b>'
            cells.append(
                f'<div style="position:relative;min-height:0;min-width:0">'
                f'<img src="file://{escape(pick(rng, self.pictures))}" '
                f'style="display:block;width:100%;height:100%;object-fit:cover;{css}">{label}</div>'
            )
        return (
            f'<div style="display:grid;width:{width:.0f}px;height:{tall:.0f}px;gap:{gap}px;'
            f'grid-template:repeat({rows},minmax(0,1fr))/repeat({columns},minmax(0,1fr))">{"".join(cells)}</div>'
        )

    def table(self, block: Block, width: float, tall: float, fill: bool = False) -> str:
        """A table, its caption and its notes; rows that would not fit are left out."""
        rng, style = self.rng, self.style
        self.tables += 1
        line = style.size * 0.88 * 1.6
        # What is left of a wide table in a narrow column are its first columns.
        columns = max(2, min(len(block.rows[0]), int(width / (3.4 * style.size))))
        letters = width / (0.5 * style.size * 0.88) / columns
        room = 0.85 * tall if fill else tall * rng.uniform(0.3, 0.7)
        rows, used = [], 0.0
        for row in block.rows:
            used += line * max(1, max(len(cell) for cell in row[:columns]) / max(letters, 3))
            if used > room and len(rows) > 2:
                break
            rows.append(row[:columns])
        caption = (
            self.caption(block.text, style.table_label.format(self.tables))
            if rng.random() < 0.85
            else ""
        )
        note = ""
        if rng.random() < 0.25:
            note = (
                f'<p class="caption" data-region="text">{self.words(self.author.words(4, 24))}.</p>'
            )
        inner = self.bare_table(rows, width)
        above, below = (caption, note) if style.caption_above else ("", note + caption)
        return f'<div class="float">{above}{inner}{below}</div>'

    def bare_table(self, rows: Sequence[Sequence[str]], width: float) -> str:
        """The table alone."""
        rng = self.rng
        head = 1 if rng.random() < 0.9 else 0
        numeric = pick(rng, ("start", "end", "center"))
        columns = len(rows[0])

        def cells(row: Sequence[str]) -> str:
            if columns > 2 and sum(map(bool, row)) == 1 and row[0]:
                return f'<td colspan="{columns}" style="{span}">{escape(row[0])}</td>'
            return "".join(
                f"<td{f' style=text-align:{numeric}' if i else ''}>{escape(cell)}</td>"
                for i, cell in enumerate(row)
            )

        span = pick(rng, ("font-weight:bold", "font-style:italic", "text-align:center"))
        over = ""
        if head and columns > 3 and rng.random() < 0.2:
            split = int(rng.integers(1, columns - 1))
            over = (
                f'<tr><td></td><td colspan="{split}" style="text-align:center">{escape(self.author.words(1, 3))}</td>'
                + (
                    f'<td colspan="{columns - 1 - split}" style="text-align:center">{escape(self.author.words(1, 3))}</td>'
                )
                + "</tr>"
            )
        top = "".join(f"<tr>{cells(row)}</tr>" for row in rows[:head])
        body = "".join(f"<tr>{cells(row)}</tr>" for row in rows[head:])
        wide = (
            f"width:{100 if rng.random() < 0.7 else rng.integers(55, 100)}%"
            if rng.random() < 0.8
            else ""
        )
        size = rng.choice([1, 1, 0.9, 0.8])
        padding = rng.choice([0, 0, 0.15, 0.4])
        place = pick(rng, ("", "", "margin:0 auto"))
        thead = f"<thead>{over}{top}</thead>" if head else ""
        return (
            f'<table style="{wide};max-width:100%;font-size:{0.88 * size:.2f}em;line-height:{1.2 + padding};{place}" '
            f'data-region="table">{thead}<tbody>{body}</tbody></table>'
        )
