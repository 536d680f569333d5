"""How synthetic pages look: a style drawn at random, and blocks of an article as HTML in that style.

Conventions of PubLayNet (Zhong et al., 2019): paragraphs, captions, footnotes, authors and formulas
are text; headings are titles; a list is one region with all its items, and so is a bibliography;
tables and figures are without their captions. A table of contents is a table, as in DocLayNet
(Pfitzmann et al., 2022).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple, TypeVar

import numpy as np

from scanmill.illustrations import draw_figure
from scanmill.manuscripts import Author, Block
from scanmill.markup import element, image, item, region, title
from scanmill.typefaces import Typefaces

#: Faces like those of most books and journals come so often among those of Latin script.
USUAL = 0.65
_USUAL_TEXT = (
    "Nimbus Roman", "TeX Gyre Termes", "Tinos", "Liberation Serif", "FreeSerif", "STIXGeneral", "STIX",
    "P052", "TeX Gyre Pagella", "C059", "Schoolbook Uralic", "CMU Serif", "Latin Modern Roman",
    "Linux Libertine O", "EB Garamond", "Charis SIL", "Gentium Basic", "URW Bookman", "Old Standard TT",
    "Caladea", "Noto Serif", "PT Serif", "Vollkorn", "Nimbus Sans", "TeX Gyre Heros", "Liberation Sans",
    "Arimo", "FreeSans", "Carlito", "Open Sans", "Noto Sans", "PT Sans", "Lato", "DejaVu Serif",
)  # fmt: skip
_RIGHT_TO_LEFT = ("Hebr", "Arab")
_LANGUAGES = {
    "Hans": "zh-Hans",
    "Jpan": "ja",
    "Kore": "ko",
    "Arab": "ar",
    "Hebr": "he",
}
_BULLETS = ("•", "•", "•", "–", "-", "■", "▪", "○", "◦", "►", "✓", "*", "·", "□", "→", "★")
_COLORS = (
    "#7a1f1f", "#123a6b", "#1d5c3a", "#444", "#8a5a00", "#5b2a6e", "#0077a8", "#b03a2e", "#d2691e",
    "#e07b00", "#2e86c1", "#6aa121",
)  # fmt: skip
_SYMBOLS = "xyzabnkmtpqrαβγδεθλμνπρστφψωΔΣΩ"
#: Between the baselines of lines, in sizes of their type, and how often.
_LEADINGS = {
    1.05: 0.06,
    1.15: 0.16,
    1.2: 0.22,
    1.25: 0.2,
    1.3: 0.14,
    1.4: 0.1,
    1.5: 0.06,
    1.7: 0.03,
    2.0: 0.03,
}
_HEADING_FACES = ("font-style:italic", "font-variant:small-caps", "text-transform:uppercase")
_TABLE_RULES = (
    "three",
    "three",
    "three",
    "grid",
    "grid",
    "rows",
    "stripes",
    "none",
    "outer",
    "columns",
)
_TABLE_HEADS = (
    "",
    "",
    "",
    "background:#eee",
    "background:#d9e2ef",
    "background:#333;color:#fff",
)
#: Of rows that part a table.
_PARTINGS = (
    "",
    "background:#ddd",
    "background:#777;color:#fff;text-align:center",
    "background:#bbb",
)
_CAPTIONS = (
    "",
    "",
    "font-style:italic",
    "text-align:center",
    "font-weight:bold",
    "font-family:sans-serif",
)
#: Of figures and of tables, in Latin script and in others.
_LABELS = (
    ("Figure {}", "Figure {}", "Fig. {}", "FIGURE {}", "Abbildung {}"),
    ("Table {}", "Table {}", "TABLE {}", "Tab. {}", "Tabelle {}"),
)
_OTHER_LABELS = (
    ("Figure {}", "Fig. {}", "FIGURE {}", "Fig {}", "Abb. {}", "Рис. {}", "图{}", "圖{}", "{}"),
    ("Table {}", "表{}", "Таблица {}", "{}"),
)
_MARKS = ("{}.", "{}.", "({})", "{})", "[{}]")
_CODE = ("", "", "background:#eee;padding:4px", "border:1px solid #999;padding:4px")
_FILTERS = ("", "", "filter:grayscale(1);", "filter:grayscale(1) contrast(1.4);")
#: Of panels of a figure.
_LETTER = (
    "position:absolute;left:3px;top:9px;font:bold 12px sans-serif;color:#fff;"
    "text-shadow:0 0 2px #000"
)
#: Letters of items that are paragraphs: with numbers that do not hang out, these would be texts.
LONG_ITEM = 120
#: Where words may break.
_BREAKS = re.compile(r"(?<=[a-z]{3}[aeiouy])(?=[bcdfghklmnprstvz][aeiouy][a-z]{2})")

Item = TypeVar("Item")


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
    heading_space: tuple[float, float]
    """Above and below, in sizes of the text."""
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


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
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
    heading_css = _heading_css(accent, rng)
    spacing = size * (rng.uniform(0, 0.15) if indented else rng.uniform(0.35, 1.1))
    figure_labels, table_labels = _LABELS if script == "Latn" else _OTHER_LABELS
    return Style(
        script=script,
        face=face,
        heading_face=other if rng.random() < 0.4 else face,
        size=size,
        leading=_leading(script, rng),
        columns=columns,
        gap=size * rng.uniform(1.1, 2.6),
        rule=rng.random() < (0.12 if columns < 4 else 0.5),
        justified=rng.random() < 0.68,
        indent=size * rng.uniform(0.8, 2.2) if indented else 0.0,
        spacing=spacing,
        title_size=rng.uniform(1.3, 2.6),
        heading_size=_heading_size(rng),
        heading_css=heading_css,
        heading_space=(rng.uniform(0.3, 1.5), rng.uniform(0, 0.7)),
        heading_align=pick(rng, ("start", "start", "start", "center")),
        numbered=rng.random() < 0.35,
        run_in=rng.random() < 0.15,
        bullet=pick(rng, _BULLETS),
        list_indent=size * rng.choice([0, 0.6, 1.2, 2.2]),
        item_spacing=size * rng.choice([0, 0, 0.15, 0.4, 0.8]),
        table_rules=pick(rng, _TABLE_RULES),
        table_css=pick(rng, _TABLE_HEADS),
        caption_above=rng.random() < 0.7,
        caption_css=pick(rng, _CAPTIONS),
        figure_label=pick(rng, figure_labels),
        table_label=pick(rng, table_labels),
        ink="#000" if rng.random() < 0.8 else pick(rng, ("#222", "#333", "#1a1a2e", "#3b2f2f")),
        paper="#fff",
        accent=accent,
        vertical=False,
        drop_cap=rng.random() < 0.06,
        citations=float(rng.choice([0, 0, 0, 0.02, 0.05])),
    )


def _leading(script: str, rng: np.random.Generator) -> float:
    leading = float(rng.choice(list(_LEADINGS), p=list(_LEADINGS.values())))
    return leading + (0.25 if script not in ("Latn", "Cyrl", "Grek", "Hebr") else 0)


def _heading_size(rng: np.random.Generator) -> float:
    """Of headings, in sizes of the text: in journals most are as large as that."""
    if rng.random() < 0.35:
        return 1.0
    return float(np.clip(rng.normal(1.18, 0.18), 0.95, 1.9))


def _heading_css(accent: str, rng: np.random.Generator) -> str:
    """How headings differ from the text, but for their face and size."""
    weight = pick(rng, ("bold", "bold", "bold", "normal"))
    css = [f"font-weight:{weight}"]
    only_colored = weight == "normal" and rng.random() < 0.4
    if only_colored:
        css.append(f"color:{pick(rng, _COLORS)}")
    elif rng.random() < 0.15 or weight == "normal":
        css.append(pick(rng, _HEADING_FACES))
    if not only_colored and rng.random() < 0.3:
        css.append(f"color:{accent}")
    if rng.random() < 0.08:
        css.append("border-bottom:1px solid")
    if rng.random() < 0.05:
        css.append("border-top:2px solid")
    if rng.random() < 0.09:
        color = pick(rng, _COLORS) if accent == "#000" else accent
        grounds = ("#ddd", "#333;color:#fff", f"{color};color:#fff")
        css.append(f"background:{pick(rng, grounds)}")
    if rng.random() < 0.1:
        css.append("letter-spacing:.08em")
    return ";".join(css)


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
      margin: {s.heading_space[0] * s.size:.1f}px 0 {s.heading_space[1] * s.size:.1f}px; }}
    h1 {{ font-size: {s.title_size:.2f}em; margin-top: 0; }}
    h2 {{ font-size: {s.heading_size:.2f}em; }}
    h3 {{ font-size: {max(1, s.heading_size * 0.9):.2f}em; }}
    h4, h5, h6 {{ font-size: 1em; font-style: italic; }}
    .list {{ margin: {0.3 * s.size:.1f}px 0 {max(s.spacing, 0.4 * s.size):.1f}px;
      padding-inline-start: {s.list_indent:.1f}px; }}
    .item {{ display: flex; margin-bottom: {s.item_spacing:.1f}px; text-align: {align}; }}
    .item > .mark {{ flex: none; min-width: 1.5em; padding-inline-end: .35em; }}
    .item > .say {{ flex: 1 1 0; min-width: 0; }}
    .inline > .item {{ display: block; text-indent: {s.indent:.1f}px; }}
    .inline > .item > * {{ display: inline; }}
    .inline > .item .item {{ text-indent: 0; }}
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
    rules = {
        "three": (
            "table { border-top: 1.5px solid #111; border-bottom: 1.5px solid #111; } "
            f"thead {{ border-bottom: {thin}; }}"
        ),
        "grid": f"td, th {{ border: {thin}; }}",
        "rows": "tr { border-bottom: 1px solid #888; } thead { border-bottom: 2px solid #222; }",
        "stripes": "tbody tr:nth-child(odd) { background: #ececec; }",
        "none": "",
        "outer": f"table {{ border: {thin}; }} thead {{ border-bottom: {thin}; }}",
        "columns": (
            f"td + td {{ border-inline-start: {thin}; }} "
            f"thead, table {{ border-bottom: {thin}; }} table {{ border-top: {thin}; }}"
        ),
    }
    return head + rules[style.table_rules]


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
        if style.script == "Latn" and style.justified:
            text = _BREAKS.sub("\u00ad", text)
        text = escape(text, quote=False)
        if rng.random() < 0.12:
            text = self._emphasised(text)
        if style.citations and rng.random() < 0.8:
            text = self._cited(text)
        return text

    def _emphasised(self, text: str) -> str:
        """HTML of which a few words stand out."""
        rng = self.rng
        tokens = text.split(" ")
        if len(tokens) > 8:
            at = int(rng.integers(len(tokens) - 3))
            tag = pick(rng, ("i", "i", "b", "u"))
            end = at + int(rng.integers(1, 4))
            tokens[at:end] = [element(tag, " ".join(tokens[at:end]))]
        return " ".join(tokens)

    def _cited(self, text: str) -> str:
        """HTML with numbers of sources at some of its commas and stops."""
        rng = self.rng
        mark = pick(rng, ("<sup>{}</sup>", " [{}]", " ({})"))

        def source(_: re.Match[str]) -> str:
            cited = rng.random() < 10 * self.style.citations
            return mark.format(rng.integers(1, 90)) if cited else ""

        return re.sub(r"(?<=[a-z])(?=[.,] )", source, text)

    def paragraph(self, block: Block) -> str:
        """A paragraph."""
        rng, style = self.rng, self.style
        text = self.words(block.text)
        name = "par first" if self.after_heading and rng.random() < 0.7 else "par"
        if style.run_in and rng.random() < 0.3:
            text = f"<b>{escape(self.author.words(1, 4))}.</b> {text}"
        if style.drop_cap and self.after_heading and len(text) > 200 and text[0].isalpha():
            text = element("span", text[0], class_="cap") + text[1:]
        return region("text", text, tag="p", class_=name)

    def heading(self, block: Block) -> str:
        """A heading."""
        style, level = self.style, min(max(block.level, 1), 4)
        number = ""
        if style.numbered and level > 1 and not block.text[:1].isdigit():
            depth = level - 2
            self.section[depth] += 1
            self.section[depth + 1 :] = [0] * (2 - depth)
            number = ".".join(str(each) for each in self.section[: depth + 1])
            number += pick(self.rng, (" ", ". ", "  "))
        return title(number + block.text, level=level)

    def list(self, block: Block) -> str:
        """A list: one region, whatever lists are within it."""
        form = pick(self.rng, _MARKS)
        letters = self.rng.random() < 0.2
        items = self._items(block.items, block.ordered, form, letters, 0)
        long = sum(len(str(each)) for each in block.items) > LONG_ITEM * len(block.items)
        flush = self.rng.random() < 0.2 and not (long and block.ordered)
        name = "list inline" if flush else "list"
        return region("list", items, class_=name)

    def _items(
        self, items: Sequence[Any], ordered: bool, form: str, letters: bool, depth: int
    ) -> str:
        parts = []
        for number, each in enumerate(items, 1):
            text, below = each if isinstance(each, list | tuple) else (each, ())
            name = chr(96 + min(number, 26)) if letters ^ (depth > 0) else str(number)
            mark = form.format(name) if ordered else (self.style.bullet if not depth else "–")
            inner = self._items(below, ordered, form, letters, depth + 1) if below else ""
            parts.append(item(mark, self.words(text) + inner))
        return "".join(parts)

    def references(self, count: int) -> str:
        """A bibliography: one list."""
        rng = self.rng
        entries = [self.author.reference() for _ in range(count)]
        first = int(rng.integers(1, 60)) if rng.random() < 0.5 else 1
        kind = pick(rng, ("numbers", "numbers", "hang", "brackets"))
        if kind == "hang":
            parts = [element("p", each, class_="hang") for each in sorted(entries)]
        else:
            form = "{}." if kind == "numbers" else "[{}]"
            parts = [
                item(form.format(number), each, "min-width:2em")
                for number, each in enumerate(entries, first)
            ]
        size = rng.choice([1, 0.9, 0.82])
        return region("list", "".join(parts), f"font-size:{size}em", class_="list")

    def code(self, block: Block) -> str:
        """Lines of a program: text."""
        return region("text", escape(block.text), pick(self.rng, _CODE), "pre")

    def formula(self, block: Block | None = None) -> str:
        """A displayed formula: text."""
        rng = self.rng
        number = ""
        if rng.random() < 0.5:
            css = "position:absolute;inset-inline-end:0"
            number = element("span", f"({rng.integers(1, 40)})", css)
        kind = rng.random()
        right = self._cases() if kind < 0.1 else self._matrix() if kind < 0.2 else self._row()
        terms = f"<mrow>{self._term()}<mo>=</mo>{right}</mrow>"
        css = (
            "position:relative;display:flex;align-items:center;justify-content:center;"
            "margin:.6em 0;break-inside:avoid"
        )
        return region("text", element("math", terms, display="block") + number, css)

    def _term(self, depth: int = 0) -> str:
        """A symbol, or what is built of some, as MathML; `depth` is that of fractions and roots."""
        rng = self.rng
        name = f"<mi>{pick(rng, _SYMBOLS)}</mi>"
        kind = rng.random()
        if kind < 0.3:
            return f"<msub>{name}<mi>{pick(rng, 'ijknmt012')}</mi></msub>"
        if kind < 0.45:
            return f"<msup>{name}<mn>{rng.integers(2, 5)}</mn></msup>"
        if kind < 0.6 and depth < 2:
            above, below = self._row(depth + 1), self._row(depth + 1)
            return f"<mfrac><mrow>{above}</mrow><mrow>{below}</mrow></mfrac>"
        if kind < 0.7 and depth < 2:
            sign = f"<mo>{pick(rng, '∑∫∏')}</mo>"
            first = "<mrow><mi>i</mi><mo>=</mo><mn>1</mn></mrow>"
            return f"<munderover>{sign}{first}<mi>n</mi></munderover>{name}"
        if kind < 0.76 and depth < 2:
            return f"<msqrt>{self._row(depth + 1)}</msqrt>"
        if kind < 0.84:
            return f"<mn>{rng.integers(1, 99)}</mn>"
        return name

    def _row(self, depth: int = 0) -> str:
        """Terms with one sign between them."""
        rng = self.rng
        sign = pick(rng, ("+", "−", "·", "≤", "=") if depth < 1 else ("+", "−"))
        terms = [self._term(depth) for _ in range(rng.integers(1, 4))]
        return f"<mo>{sign}</mo>".join(terms)

    def _cases(self) -> str:
        """What holds in each of a few cases, behind a brace, as MathML."""
        rows = [
            f"<mtr><mtd>{self._row(1)}</mtd><mtd>{self._term(2)}<mo>&gt;</mo>{self._term(2)}</mtd></mtr>"
            for _ in range(self.rng.integers(2, 5))
        ]
        return f"<mo>{{</mo><mtable>{''.join(rows)}</mtable>"

    def _matrix(self) -> str:
        """Terms in rows and columns between brackets, as MathML."""
        columns, count = self.rng.integers(1, 5), self.rng.integers(2, 5)
        rows = "".join(
            f"<mtr>{''.join(f'<mtd>{self._term(2)}</mtd>' for _ in range(columns))}</mtr>"
            for _ in range(count)
        )
        left, right = pick(self.rng, ("()", "[]", "||"))
        return f"<mo>{left}</mo><mtable>{rows}</mtable><mo>{right}</mo>"

    def caption(self, text: str, label: str) -> str:
        """A caption: text."""
        text = self.words(text) if text else self.words(self.author.words(2, 8))
        lead = pick(self.rng, ("<b>{}.</b> ", "<b>{}</b> ", "{}. ", "<i>{}:</i> ", "{} "))
        if "{}" in label and self.rng.random() > 0.1:
            text = lead.format(label) + text
        return region("text", text, tag="p", class_="caption")

    def figure(self, block: Block, width: float, tall: float) -> str:
        """A figure and its caption."""
        self.figures += 1
        caption = self.caption(block.text, self.style.figure_label.format(self.figures))
        if self.rng.random() < 0.1:
            caption = ""
        picture = self.picture(width, tall, block.picture)
        inner = caption + picture if self.rng.random() < 0.1 else picture + caption
        return element("div", inner, class_="float")

    def picture(self, width: float, tall: float, path: str = "") -> str:
        """A picture alone, at most `width` by `tall` pixels."""
        rng = self.rng
        wide = width * (1 if rng.random() < 0.65 else rng.uniform(0.4, 1))
        high = max(50.0, min(tall * rng.uniform(0.5, 1), wide * rng.uniform(0.35, 1.3)))
        if path or (self.pictures and rng.random() < 0.5):
            inner = self.images(wide, high, path)
        else:
            inner = draw_figure(wide, high, self.author.words, rng)
            if rng.random() < 0.15:
                inner += self._legend(wide)
        return region("figure", inner, class_="picture")

    def _legend(self, width: float) -> str:
        """What the signs of a figure mean, line by line under it: part of the figure."""
        rng = self.rng
        signs = pick(rng, ("■□▲△●○", "abcdef", "123456", "*†‡§¶#"))
        lines = [
            element("div", f"{sign}&ensp;{escape(self.author.words(1, 7))}")
            for sign in signs[: rng.integers(2, 7)]
        ]
        css = (
            f"width:{width:.0f}px;columns:{rng.integers(1, 4)};line-height:1.3;text-align:start;"
            f"font-size:{rng.uniform(0.7, 0.95):.2f}em;margin-top:.4em"
        )
        return element("div", "".join(lines), css)

    def images(self, width: float, tall: float, path: str = "") -> str:
        """One image, or several with letters."""
        rng = self.rng
        css = pick(rng, _FILTERS)
        css += pick(rng, ("", "", "border:1px solid #222;"))
        if not path and rng.random() >= 0.7:
            return self._panels(width, tall, css)
        size = f"max-width:{width:.0f}px;max-height:{tall:.0f}px"
        if not path and rng.random() < 0.7:
            # As large as its place: pictures of few pixels are enlarged, and all are cut.
            size = f"width:{width:.0f}px;height:{tall:.0f}px;object-fit:cover"
        return image(path or pick(rng, self.pictures), f"{size};{css}")

    def _panels(self, width: float, tall: float, css: str) -> str:
        """Images in rows and columns, each with a letter or without."""
        rng = self.rng
        columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 3))
        gap = rng.choice([1, 3, 8])
        cells = ""
        for number in range(columns * rows):
            letter = element("b", chr(65 + number), _LETTER) if rng.random() < 0.8 else ""
            fit = f"display:block;width:100%;height:100%;object-fit:cover;{css}"
            picture = image(pick(rng, self.pictures), fit)
            cells += element("div", picture + letter, "position:relative;min-height:0;min-width:0")
        grid = (
            f"display:grid;width:{width:.0f}px;height:{tall:.0f}px;gap:{gap}px;"
            f"grid-template:repeat({rows},minmax(0,1fr))/repeat({columns},minmax(0,1fr))"
        )
        return element("div", cells, grid)

    def table(self, block: Block, width: float, tall: float, fill: bool = False) -> str:
        """A table, its caption and its notes; rows that would not fit are left out, and a block without
        any becomes a table of sentences."""
        rng, style = self.rng, self.style
        self.tables += 1
        room = 0.85 * tall if fill else tall * rng.uniform(0.3, 0.7)
        rows = self._fitting(block.rows, width, room) if block.rows else []
        caption = note = ""
        if rng.random() < 0.85:
            caption = self.caption(block.text, style.table_label.format(self.tables))
        if rng.random() < 0.25:
            words = self.words(self.author.words(4, 24))
            note = region("text", f"{words}.", tag="p", class_="caption")
        inner = self.bare_table(rows) if rows else self.worded_table(width, room)
        above, below = (caption, note) if style.caption_above else ("", note + caption)
        return element("div", above + inner + below, class_="float")

    def _fitting(
        self, rows: Sequence[Sequence[str]], width: float, tall: float
    ) -> list[Sequence[str]]:
        """The first rows and columns of a table: of a wide one that stands in a narrow column."""
        size = 0.88 * self.style.size
        columns = max(2, min(len(rows[0]), int(width / (3.4 * self.style.size))))
        letters = max(3, width / (0.5 * size) / columns)
        kept: list[Sequence[str]] = []
        used = 0.0
        for row in rows:
            cells = row[:columns]
            used += 1.6 * size * max(1, max(map(len, cells)) / letters)
            if used > tall and len(kept) > 2:
                break
            kept.append(cells)
        return kept

    def bare_table(self, rows: Sequence[Sequence[str]], border: int | None = None) -> str:
        """The table alone; `border` is HTML's."""
        rng = self.rng
        headed = rng.random() < 0.9
        numbers = f"text-align:{pick(rng, ('start', 'end', 'center'))}"
        parting = pick(rng, ("font-weight:bold", "font-style:italic", "text-align:center"))
        columns = len(rows[0])
        lines = [_row_of_table(row, numbers, parting) for row in rows]
        head = ""
        if headed and columns > 3 and rng.random() < 0.2:
            head = self._heads_over_columns(columns)
        css = ""
        if rng.random() < 0.8:
            css = f"width:{100 if rng.random() < 0.7 else rng.integers(55, 100)}%"
        size = 0.88 * rng.choice([1, 1, 0.9, 0.8])
        padding = rng.choice([0, 0, 0.15, 0.4])
        css += f";max-width:100%;font-size:{size:.2f}em;line-height:{1.2 + padding}"
        css += pick(rng, ("", "", ";margin:0 auto"))
        thead = element("thead", head + lines[0]) if headed else ""
        tbody = element("tbody", "".join(lines[headed:]))
        return region("table", thead + tbody, css, "table", border=border)

    def worded_table(self, width: float, tall: float) -> str:
        """A table whose cells hold sentences, paragraphs and lists, which are no regions there."""
        rng, author, size = self.rng, self.author, self.style.size
        type_size = rng.choice([0.8, 0.9, 1.0])
        shares = rng.dirichlet([1.5] * int(rng.integers(2, 5 if width < 40 * size else 6)))
        shares = (shares + 0.12) / (shares + 0.12).sum()
        kinds = [pick(rng, ("words", "phrase", "prose", "prose", "points")) for _ in shares]
        if rng.random() < 0.3:
            kinds[0] = "number"
        padding = f"padding:{pick(rng, (0.1, 0.3, 0.6))}em {pick(rng, (0.3, 0.5, 0.9))}em"
        rows, used = [], 0.0
        if rng.random() < 0.7:
            ground = self.style.table_css or pick(rng, ("", "background:#ddd"))
            face = pick(rng, ("bold", "bold", "normal"))
            cells = (escape(author.words(1, 4)) for _ in shares)
            css = f"{padding};{ground};font-weight:{face}"
            rows.append(element("tr", "".join(element("td", cell, css) for cell in cells)))
        parted = 0.2 if rng.random() < 0.3 else 0
        parting = f"{padding};font-weight:bold;{pick(rng, _PARTINGS)}"
        while len(rows) < 2 or (used < tall and len(rows) < 40):
            number, cells, lines = len(rows), [], 1.0
            if rng.random() < parted:
                words = escape(author.words(1, 7))
                rows.append(element("tr", element("td", words, parting, colspan=len(shares))))
                used += 1.6 * size * type_size * self.style.leading
            for kind, share in zip(kinds, shares, strict=True):
                letters = max(4.0, 2 * share * width / (size * type_size))
                text, length = self._worded_cell(kind, number, letters)
                cells.append(element("td", text, f"{padding};width:{100 * share:.0f}%"))
                lines = max(lines, length / letters)
            used += (lines + 0.6) * size * type_size * self.style.leading
            rows.append(element("tr", "".join(cells)))
        css = f"width:100%;font-size:{type_size}em;line-height:{self.style.leading}"
        border = 1 if rng.random() < 0.7 else None
        return region("table", element("tbody", "".join(rows)), css, "table", border=border)

    def _worded_cell(self, kind: str, number: int, letters: float) -> tuple[str, float]:
        """A cell's HTML, and how many letters it has; a line of it holds `letters`."""
        rng, author = self.rng, self.author
        if rng.random() < 0.08:
            return "", 0
        if kind == "number":
            return f"{number}.", 1
        if kind == "points":
            texts = [author.prose(rng.uniform(15, 130)) for _ in range(rng.integers(1, 6))]
            marks = pick(rng, (self.style.bullet, "–", "1"))
            points = (
                item(f"{place}." if marks == "1" else marks, escape(text))
                for place, text in enumerate(texts, 1)
            )
            return "".join(points), sum(len(text) + letters for text in texts)
        if kind == "prose":
            parts = [author.prose(rng.lognormal(4.8, 0.7)) for _ in range(rng.choice([1, 1, 1, 2]))]
        else:
            parts = [author.words(*((1, 6) if kind == "words" else (4, 14)))]
        lines = [*map(escape, parts)]
        if rng.random() < 0.1:
            parts.append(author.words(1, 4))
            lines.insert(0, element("b", escape(parts[-1])))
        return "<br>".join(lines), sum(len(part) + letters / 2 for part in parts)

    def ledger(self, tall: float) -> str:
        """A table as of budgets: codes that stand the further in the deeper they are, what they mean,
        those of the first depth perhaps in capitals, amounts."""
        rng, author, size = self.rng, self.author, self.style.size
        depths = int(rng.integers(2, 5))
        amounts, depth, used, rows = int(rng.integers(0, 4)), 0, 0.0, []
        codes = [int(rng.integers(1, 900)) for _ in range(depths)]
        top = pick(rng, ("font-weight:bold", "font-weight:bold;text-transform:uppercase", ""))
        gap = rng.uniform(0, 0.8)
        while used < tall or len(rows) < 3:
            codes[depth] += int(rng.integers(1, 30))
            cells = "".join(
                element("td", str(codes[place] * 10**place) if place == depth else "", "width:4em")
                for place in range(depths)
            )
            cells += element("td", escape(author.words(2, 8 + 8 * (depth > 0))))
            for _ in range(amounts):
                amount = f"{rng.integers(10, 10**7):,}.00"
                cells += element("td", amount, "text-align:end;white-space:nowrap")
            css = f"{top};line-height:{1.3 + gap}" if not depth else "line-height:1.3"
            rows.append(element("tr", cells, css))
            used += 1.7 * size
            depth = min(depths - 1, depth + 1) if rng.random() < 0.5 else int(rng.integers(depths))
        return region("table", element("tbody", "".join(rows)), "width:100%", "table")

    def _heads_over_columns(self, columns: int) -> str:
        """A row of a table's head whose two cells stand over several columns each."""
        split = int(self.rng.integers(1, columns - 1))
        cells = "<td></td>"
        for span in (split, columns - 1 - split):
            words = escape(self.author.words(1, 3))
            cells += element("td", words, "text-align:center", colspan=span)
        return element("tr", cells)


def _row_of_table(row: Sequence[str], numbers: str, parting: str) -> str:
    """A row; one of a single word parts those above it from those below it."""
    if len(row) > 2 and row[0] and not any(row[1:]):
        return element("tr", element("td", escape(row[0]), parting, colspan=len(row)))
    cells = (element("td", escape(cell), numbers if i else "") for i, cell in enumerate(row))
    return element("tr", "".join(cells))
