"""Pages of newspapers and brochures: boxes side by side, each with its own text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from scanmill.markup import element, image, plain, region, title
from scanmill.sheets import Sheet
from scanmill.typography import pick

#: How often there are blocks of each kind.
NEWS = {"paragraph": 10, "heading": 0.5, "figure": 0.25, "list": 0.1}
SHORT_NEWS = {"paragraph": 8, "heading": 2.5, "figure": 0.15, "table": 0.2}
PANELS = {"paragraph": 6, "heading": 1, "list": 1.2, "table": 0.3, "figure": 0.3}
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


def _extent(box: Sequence[float]) -> tuple[float, float]:
    """Width and height of a box."""
    x, y, x_max, y_max = box
    return x_max - x, y_max - y


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
