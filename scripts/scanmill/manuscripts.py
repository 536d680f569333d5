"""What synthetic pages say: articles of blocks, read from documentation that is installed, or made up.

`gather_articles` reads HTML documentation; `gather_phrases` the translations of programs, which are
there in languages that have no documentation. `Author` writes articles of these sentences: the blocks
follow one another at random, with the frequencies that it is told.
"""

from __future__ import annotations

import gettext
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lxml import etree, html
from PIL import Image

#: Characters of an article, at least.
LEAST = 1500
#: Blocks of an article, at most; longer documents become several.
MOST_BLOCKS = 120
#: Characters of a paragraph, a cell, a caption, at most: what is longer is cut at a sentence.
LONGEST = 1600
LONGEST_CELL, LONGEST_CAPTION = 120, 500
#: Pixels of an image's shorter side: smaller ones are icons within lines.
LEAST_PICTURE = 70
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_SPACE = re.compile(r"\s+")
#: Where one sentence ends and the next begins.
SENTENCE_END = re.compile(r"(?<=[.!?。！？।؟]) +|(?<=[。！？])")
#: Parts of pages that are no part of their text.
_NO_TEXT = ("script", "style", "nav", "header", "footer", "form", "noscript", "svg", "button")
#: In an element's class, id or role.
_NAVIGATION = re.compile(r"nav|toc|sidebar|breadcrumb|headerlink|related|menu", re.IGNORECASE)
_FIGURE = re.compile(r"figure|mediaobject")
_SCRIPT_RANGES = (
    ("Jpan", 0x3040, 0x30FF),
    ("Kore", 0xAC00, 0xD7AF),
    ("Hans", 0x4E00, 0x9FFF),
    ("Cyrl", 0x0400, 0x04FF),
    ("Grek", 0x0370, 0x03FF),
    ("Hebr", 0x0590, 0x05FF),
    ("Arab", 0x0600, 0x06FF),
    ("Deva", 0x0900, 0x097F),
    ("Beng", 0x0980, 0x09FF),
    ("Guru", 0x0A00, 0x0A7F),
    ("Gujr", 0x0A80, 0x0AFF),
    ("Orya", 0x0B00, 0x0B7F),
    ("Taml", 0x0B80, 0x0BFF),
    ("Telu", 0x0C00, 0x0C7F),
    ("Knda", 0x0C80, 0x0CFF),
    ("Mlym", 0x0D00, 0x0D7F),
    ("Sinh", 0x0D80, 0x0DFF),
    ("Thai", 0x0E00, 0x0E7F),
    ("Laoo", 0x0E80, 0x0EFF),
    ("Mymr", 0x1000, 0x109F),
    ("Geor", 0x10A0, 0x10FF),
    ("Armn", 0x0530, 0x058F),
    ("Ethi", 0x1200, 0x137F),
    ("Khmr", 0x1780, 0x17FF),
)


class Block(NamedTuple):
    """A piece of an article. `kind` says which fields it has."""

    kind: str
    """heading, paragraph, list, table, figure, code or formula."""
    text: str = ""
    """Of headings, paragraphs, code; of tables and figures the caption."""
    level: int = 2
    """Of a heading, from 1."""
    items: tuple = ()
    """Of a list: texts, or (text, items) of an item that has a list below it."""
    ordered: bool = False
    rows: tuple[tuple[str, ...], ...] = ()
    """Of a table: texts of its cells; none: a table of sentences is made up."""
    picture: str = ""
    """Path of a figure's picture; empty: one is drawn."""


class Article(NamedTuple):
    """Blocks in one script."""

    script: str
    blocks: tuple[Block, ...]


def script_of(text: str) -> str | None:
    """The script (ISO 15924) of most letters of a text; None where it has hardly any."""
    counts: Counter[str] = Counter()
    for char in text[:3000]:
        code = ord(char)
        if code < 0x250:
            counts["Latn"] += char.isalpha()
            continue
        for script, first, last in _SCRIPT_RANGES:
            if first <= code <= last:
                # One sign of these is as much text as a few letters.
                counts[script] += 3 if script in ("Hans", "Jpan", "Kore") else 1
                break
    if counts["Jpan"] and counts["Hans"] and counts["Jpan"] * 5 > counts["Hans"]:
        return "Jpan"
    best = counts.most_common(1)
    return best[0][0] if best and best[0][1] >= 5 else None


# Reading documentation ----------------------------------------------------------------------------


def gather_articles(folders: Iterable[Path], most: int | None = None) -> Iterator[Article]:
    """The articles of the HTML files below `folders`, in the order of their names; at most `most` from
    one folder of files, so that no reference manual outweighs all else."""
    for folder in folders:
        counts: Counter[Path] = Counter()
        for path in sorted(folder.rglob("*.htm*")):
            package = Path(*path.relative_to(folder).parts[:1])
            if path.suffix not in (".html", ".htm", ".xhtml") or counts[package] >= (most or 1e9):
                continue
            for article in read_article(path):
                counts[package] += 1
                yield article


def read_article(path: Path) -> Iterator[Article]:
    """The articles of one HTML file; none where it has little text or cannot be parsed."""
    try:
        data = path.read_bytes()
        if len(data) > 4 << 20:
            return
        # Without a declaration, files are UTF-8: lxml would take them for Latin-1.
        declared = re.search(rb"charset=", data[:2048])
        parser = html.HTMLParser(encoding=None if declared else "utf-8")
        body = html.document_fromstring(data, parser=parser).find("body")
    except (OSError, etree.LxmlError, ValueError):
        return
    if body is None:
        return
    blocks = list(_blocks(body, path.parent))
    for start in range(0, len(blocks), MOST_BLOCKS):
        part = tuple(blocks[start : start + MOST_BLOCKS])
        prose = " ".join(block.text for block in part if block.kind == "paragraph")
        script = script_of(prose)
        if script and len(prose) >= LEAST // (3 if script in ("Hans", "Jpan", "Kore") else 1):
            yield Article(script, part)


def _text(element: html.HtmlElement, longest: int = LONGEST) -> str:
    words = _SPACE.sub(" ", "".join(element.itertext())).strip()
    words = words.replace("¶", "").replace("\ufffd", "").strip()
    if len(words) > longest:
        words = "".join(_cut(words, longest))
    return words


def _cut(text: str, longest: int) -> str:
    """Whole sentences of a text, or, of a first one that is longer, its beginning."""
    kept = ""
    for sentence in SENTENCE_END.split(text):
        if len(kept) + len(sentence) > longest:
            break
        kept += sentence + " "
    return kept.strip() or text[:longest]


def _blocks(element: html.HtmlElement, folder: Path) -> Iterator[Block]:
    """The blocks below an element, in their order."""
    for child in element:
        tag = child.tag
        if not isinstance(tag, str) or tag in _NO_TEXT:
            continue
        name = " ".join(filter(None, (child.get("class"), child.get("id"), child.get("role"))))
        if _NAVIGATION.search(name):
            continue
        if tag in _HEADINGS:
            text = _text(child, 160)
            if text:
                yield Block("heading", text, level=int(tag[1]))
        elif tag == "p":
            yield from _paragraph(child, folder)
        elif tag in ("ul", "ol"):
            items = _items(child)
            if len(items) >= 2:
                yield Block("list", items=items, ordered=tag == "ol")
        elif tag == "table":
            yield from _table(child, folder)
        elif tag in ("figure", "img") or (tag == "div" and _FIGURE.search(name)):
            yield from _figure(child, folder)
        elif tag == "pre":
            text = "".join(child.itertext()).strip("\n")[:1200]
            if text.strip():
                yield Block("code", text)
        else:
            yield from _blocks(child, folder)


def _paragraph(element: html.HtmlElement, folder: Path) -> Iterator[Block]:
    pictures = element.findall(".//img")
    text = _text(element)
    if pictures and len(text) < 40:
        yield from _figure(element, folder)
    elif len(text) > 20:
        yield Block("paragraph", text)


def _items(element: html.HtmlElement, depth: int = 0) -> tuple:
    items = []
    for item in element.findall("li"):
        inner = [each for each in item if each.tag in ("ul", "ol")]
        for each in inner:
            item.remove(each)
        text = _text(item, 400)
        if not text:
            continue
        below = _items(inner[0], depth + 1) if inner and depth < 2 else ()
        items.append((text, below) if below else text)
    return tuple(items[:25])


def _table(element: html.HtmlElement, folder: Path) -> Iterator[Block]:
    """A table of data; one that serves to lay out is gone through for what is in it."""
    if element.find(".//table") is not None or element.find(".//ul") is not None:
        yield from _blocks(element, folder)
        return
    rows = []
    for row in element.iterfind(".//tr"):
        cells = tuple(_text(each, LONGEST_CELL) for each in row if each.tag in ("td", "th"))
        if any(cells):
            rows.append(cells)
    columns = max(map(len, rows), default=0)
    # DocBook sets a note as a table: an icon and a word, and below it the text.
    full = sum(sum(map(bool, row)) >= 2 for row in rows)
    if full < 2 or columns > 14:
        yield from _blocks(element, folder)
        return
    filled = tuple(row + ("",) * (columns - len(row)) for row in rows[:40])
    caption = element.find("caption")
    text = _text(caption, LONGEST_CAPTION) if caption is not None else ""
    yield Block("table", text, rows=filled)


def _figure(element: html.HtmlElement, folder: Path) -> Iterator[Block]:
    picture = element if element.tag == "img" else element.find(".//img")
    if picture is None:
        yield from _blocks(element, folder)
        return
    path = (folder / (picture.get("src") or "")).resolve()
    if not _large_enough(path):
        return
    caption = element.find(".//figcaption")
    if caption is None:
        caption = next((each for each in element.iterfind(".//p") if _text(each)), None)
    text = _text(caption, LONGEST_CAPTION) if caption is not None else picture.get("alt") or ""
    yield Block("figure", text[:LONGEST_CAPTION], picture=str(path))


def _large_enough(path: Path) -> bool:
    """Whether an image is a figure, and no icon within a line; of drawings without pixels, by bytes."""
    try:
        if path.suffix.lower() == ".svg":
            return path.stat().st_size > 3000
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".gif"):
            return False
        with Image.open(path) as image:
            return min(image.size) >= LEAST_PICTURE and max(image.size) <= 6000
    except (OSError, ValueError, Image.DecompressionBombError):
        return False


def gather_phrases(folders: Iterable[Path], longest: int = 400) -> dict[str, list[str]]:
    """Sentences of the translations below `folders` (gettext's .mo files), by script, without doubles.

    Latin sentences are left out: documentation has them.
    """
    found: dict[str, dict[str, None]] = {}
    paths = (path for folder in folders for path in sorted(folder.rglob("*.mo")))
    for path in paths:
        try:
            with path.open("rb") as file:
                messages = gettext.GNUTranslations(file)._catalog.values()
        except (OSError, ValueError, UnicodeDecodeError, LookupError):
            continue
        for message in messages:
            if not isinstance(message, str) or not 25 <= len(message) <= longest:
                continue
            text = _SPACE.sub(
                " ", re.sub(r"%[-\d.]*l?[a-z]|<[^>]*>|[_&{}$\\]", "", message)
            ).strip()
            script = script_of(text)
            if script and script != "Latn":
                found.setdefault(script, {})[text] = None
    return {script: list(texts) for script, texts in found.items()}


# Articles on disk ---------------------------------------------------------------------------------

#: Fields of a block are left out where they are these.
_DEFAULTS: Mapping[str, Any] = {**Block._field_defaults, "kind": None}


def write_articles(articles: Iterable[Article], path: Path) -> Counter[str]:
    """Write articles as JSON, one in a line; how many there are of each script."""
    counts: Counter[str] = Counter()
    with path.open("w", encoding="utf-8") as file:
        for article in articles:
            counts[article.script] += 1
            blocks = [
                {key: value for key, value in block._asdict().items() if value != _DEFAULTS[key]}
                for block in article.blocks
            ]
            file.write(json.dumps([article.script, blocks], ensure_ascii=False) + "\n")
    return counts


def read_articles(path: Path) -> list[Article]:
    """What `write_articles` wrote."""
    articles = []
    for line in path.read_text(encoding="utf-8").splitlines():
        script, blocks = json.loads(line)
        articles.append(Article(script, tuple(Block(**each) for each in blocks)))
    return articles


# Making up articles -------------------------------------------------------------------------------

#: Characters of a paragraph: the median, and the standard deviation of the logarithm (log-normal).
PARAGRAPH, PARAGRAPH_SPREAD = 420, 0.75
_COLUMNS = (
    "whole",
    "decimal",
    "decimal",
    "share",
    "spread",
    "money",
    "year",
    "tick",
    "words",
    "word",
)
#: As much is said by so many signs of these scripts for each letter of others.
_DENSE = {"Hans": 0.36, "Jpan": 0.45, "Kore": 0.5}
_UNITS = ("", "", "", "%", " mm", " kg", " °C", "*", " a")


class Author:
    """Writes in one script: takes sentences as others wrote them, in another order."""

    def __init__(
        self,
        script: str,
        sentences: Sequence[str],
        headings: Sequence[str],
        rng: np.random.Generator,
    ) -> None:
        """`sentences` must be some; without `headings`, beginnings of sentences serve."""
        self.script, self.sentences, self.headings, self.rng = script, sentences, headings, rng
        self.dense = _DENSE.get(script, 1.0)
        self.spaced = script not in ("Hans", "Jpan", "Thai", "Laoo", "Khmr", "Mymr")

    def _sentence(self) -> str:
        return self.sentences[int(self.rng.integers(len(self.sentences)))]

    def prose(self, length: float) -> str:
        """About `length` characters of Latin text, or as much of another script."""
        length *= self.dense
        parts: list[str] = []
        while sum(map(len, parts)) < length:
            parts.append(self._sentence())
        text = (" " if self.spaced else "").join(parts)
        if len(text) > 1.25 * length:
            end = text.rfind(" ", 0, int(1.15 * length)) if self.spaced else int(1.1 * length)
            text = text[: end if end > 0.3 * length else int(length)].rstrip(" ,;:、，") + (
                "." if self.spaced else "。"
            )
        return text

    def words(self, few: int, many: int) -> str:
        """A phrase of `few` to `many` words."""
        count = int(self.rng.integers(few, many + 1))
        text = self._sentence()
        if not self.spaced:
            return text[: max(2, int(count * 2.2))].strip("。、，；： \u3000") or text.strip()
        words = text.split()
        start = int(self.rng.integers(max(1, len(words) - count + 1)))
        phrase = " ".join(words[start : start + count]).strip(".,;:()[]\"'")
        phrase = phrase or max(words, key=len)  # Of signs alone, nothing is left.
        return phrase[:1].upper() + phrase[1:]

    def heading(self, many: int = 8) -> str:
        """A heading."""
        if self.headings and self.rng.random() < 0.6:
            text = self.headings[int(self.rng.integers(len(self.headings)))]
            return re.sub(r"^[\dA-Z]?[\d.]+\s+", "", text)[: 14 * many] or text
        return self.words(1, many)

    def paragraph(self, median: float = PARAGRAPH) -> Block:
        """A paragraph."""
        length = median * np.exp(self.rng.normal(0, PARAGRAPH_SPREAD))
        return Block("paragraph", self.prose(float(np.clip(length, 25, 2600))))

    def name(self) -> str:
        """A person's name."""
        words = [word for word in self.words(3, 6).split() if len(word) > 2] or [self.words(1, 2)]
        return " ".join(word[:1].upper() + word[1:12] for word in words[: self.rng.integers(2, 4)])

    def reference(self) -> str:
        """An entry of a bibliography, as HTML."""
        rng = self.rng
        letters = "ABCDEFGHJKLMNPRSTW"
        people = ", ".join(
            f"{escape(self.name().split()[-1])} {letters[rng.integers(18)]}"
            + (letters[rng.integers(18)] if rng.random() < 0.4 else "")
            for _ in range(min(8, 1 + rng.poisson(2.2)))
        )
        year, volume, page = rng.integers(1890, 2025), rng.integers(1, 300), rng.integers(1, 2000)
        journal = " ".join(word[:6].capitalize() for word in self.words(1, 5).split())
        journal = f"<i>{escape(journal)}</i>"
        title = escape(self.words(5, 16))
        pages = f"{page}–{page + rng.integers(2, 30)}"
        return (
            f"{people}. {title}. {journal} {year};{volume}:{pages}.",
            f"{people} ({year}) {title}. {journal} {volume}, {pages}.",
            f"{people}: {title}. {journal} {year}, <b>{volume}</b>:{pages}.",
            f"{people}, “{title},” {journal}, vol. {volume}, pp. {pages}, {year}.",
        )[int(rng.integers(4))]

    def list(self) -> Block:
        """A list of short or long items, sometimes with lists below them."""
        rng = self.rng
        # A quarter are paragraphs with marks.
        length = float(np.exp(rng.normal(*((4.2, 0.8) if rng.random() < 0.75 else (5.5, 0.4)))))
        items: list[Any] = []
        for _ in range(int(rng.choice([2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 10, 12, 16]))):
            text = self.prose(float(np.clip(length * np.exp(rng.normal(0, 0.4)), 8, 700)))
            if rng.random() < 0.5:
                text = text.rstrip(".。")
            items.append(text)
        if rng.random() < 0.25:
            below = float(rng.choice([30, 60, 150]))
            for at in rng.permutation(len(items))[: rng.integers(1, 4)]:
                count = int(rng.integers(2, 6))
                items[at] = (
                    items[at],
                    tuple(self.prose(rng.uniform(0.4, 1.6) * below) for _ in range(count)),
                )
        return Block("list", items=tuple(items), ordered=bool(rng.random() < 0.45))

    def table(self, most_columns: int = 9, most_rows: int = 24) -> Block:
        """A table: its columns are numbers, words or ticks."""
        rng = self.rng
        columns = int(np.clip(rng.poisson(3.2) + 2, 2, most_columns))
        count = int(np.clip(np.exp(rng.normal(2.1, 0.6)), 3, most_rows))
        wordy = rng.random() < 0.25
        fills = [
            self._column(["words", "phrase", "phrase"] if wordy else None, count)
            for _ in range(columns - 1)
        ]
        stub = [self.words(1, 7 if rng.random() < 0.3 else 3) for _ in range(count)]
        body = list(zip(stub, *fills, strict=True))
        head = tuple(self.words(1, 3) if i or rng.random() < 0.6 else "" for i in range(columns))
        if rng.random() < 0.12:
            at = int(rng.integers(1, count))
            body.insert(at, (self.words(1, 4), *[""] * (columns - 1)))
        return Block("table", self.caption(), rows=(head, *body))

    def _column(self, kinds: Sequence[str] | None, count: int) -> list[str]:
        rng = self.rng
        kind = rng.choice(kinds or _COLUMNS)
        size, unit = 10 ** rng.uniform(0, 5), _UNITS[rng.integers(len(_UNITS))]
        decimals = int(rng.integers(1, 4))
        cells = []
        for _ in range(count):
            value = size * rng.lognormal(0, 0.7)
            if rng.random() < 0.05:
                cells.append(("–", "", "n/a", "—")[rng.integers(4)])
            elif kind == "whole":
                cells.append(f"{value:,.0f}{unit}")
            elif kind == "decimal":
                cells.append(f"{value % 100:.{decimals}f}{unit}")
            elif kind == "share":
                cells.append(f"{value:.0f} ({rng.uniform(0, 100):.1f}%)")
            elif kind == "spread":
                cells.append(f"{value % 50:.2f} ± {rng.uniform(0, 5):.2f}")
            elif kind == "money":
                cells.append(f"{value:,.2f}")
            elif kind == "year":
                cells.append(f"{rng.integers(1600, 2025)}")
            elif kind == "tick":
                cells.append(("✓", "", "×", "+", "•")[rng.integers(5)])
            elif kind == "phrase":
                cells.append(self.words(4, 16))
            elif kind == "words":
                cells.append(self.words(1, 5))
            else:
                cells.append(self.words(1, 1))
        return cells

    def caption(self) -> str:
        """A caption without its number."""
        return self.prose(float(np.clip(np.exp(self.rng.normal(4.6, 0.9)), 12, 900)))

    def figure(self) -> Block:
        """A figure that is to be drawn."""
        return Block("figure", self.caption())

    def code(self) -> Block:
        """Lines of a program."""
        rng = self.rng
        lines = []
        for _ in range(rng.integers(3, 14)):
            indent = "  " * int(rng.integers(0, 4))
            word = re.sub(r"\W+", "_", self.words(1, 3)).lower()[:24]
            lines.append(
                f"{indent}{word} = {word[:5]}({rng.integers(100)})"
                if rng.random() < 0.7
                else f"{indent}{word}:"
            )
        return Block("code", "\n".join(lines))

    def article(self, weights: Mapping[str, float], length: float) -> Iterator[Block]:
        """Blocks of at least `length` characters altogether, of kinds by `weights`."""
        kinds = list(weights)
        shares = np.array([weights[kind] for kind in kinds], float)
        shares /= shares.sum()
        median = PARAGRAPH * float(np.exp(self.rng.normal(0, 0.35)))
        written, last = 0.0, ""
        while written < length:
            kind = str(self.rng.choice(kinds, p=shares))
            if kind == last and kind not in ("paragraph", "figure"):
                continue
            if kind == "heading":
                level = int(self.rng.choice([2, 2, 3, 3, 4]))
                yield Block("heading", self.heading(), level=level)
                written += 80
                kind = "paragraph"
            if kind == "paragraph":
                block = self.paragraph(median)
            elif kind == "formula":
                block = Block("formula")
            elif kind == "table" and self.rng.random() < 0.15:
                block = Block("table", self.caption())  # Of sentences.
            else:
                block = getattr(self, kind)()
            yield block
            last = kind
            written += {"figure": 900, "table": 700}.get(kind, len(block.text) + 60) / (
                self.dense if kind == "paragraph" else 1
            )
            if kind == "list":
                written += sum(len(str(item)) for item in block.items)
