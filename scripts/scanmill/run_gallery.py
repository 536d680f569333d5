"""Two runs compared, for people: a text, and one page of HTML with the pages that differ most."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from scanmill.drawing import draw_comparison, reduction_to
from scanmill.image_files import decode_reduced
from scanmill.outputs import new_file
from scanmill.regions import BOX_COLUMNS
from scanmill.run_differences import CHANGES, Comparison, count_classes, setup_differences
from scanmill.run_facts import counted

#: Pixels of the longer side of a drawn page: its labels can still be read.
PAGE_SIDE = 900
JPEG_QUALITY = 70
#: Pairs of classes that regions were renamed between, at most.
SHOWN_RENAMED = 20

_MEANINGS = {
    "kept": "same class, boxes share at least 90 % (IoU)",
    "moved": "same class, boxes share 50 to 90 %",
    "renamed": "another class, boxes share at least 50 %",
    "lost": "in A alone",
    "new": "in B alone",
}
_CLASS_HEADS = (
    "class",
    "in A",
    "in B",
    "kept",
    "moved",
    "renamed from",
    "renamed to",
    "lost",
    "new",
)


# Text ---------------------------------------------------------------------------------------------


def describe(comparison: Comparison) -> str:
    """What is printed: what made the runs, what could be compared, regions by class."""
    lines = [f"A  {comparison.a.given}", f"B  {comparison.b.given}", ""]
    for name, ours, theirs in setup_differences(comparison.a, comparison.b):
        lines += [f"{name}", f"  A  {ours}", f"  B  {theirs}"]
    lines += ["", *_notes(comparison), ""]
    rows = [_CLASS_HEADS, *_class_rows(comparison)]
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(_CLASS_HEADS))]
    for name, *counts in rows:
        numbers = (f"{count:>{width}}" for count, width in zip(counts, widths[1:], strict=True))
        lines.append("  ".join([f"{name:<{widths[0]}}", *numbers]))
    return "\n".join(lines)


def _class_rows(comparison: Comparison) -> list[list[Any]]:
    """Of each class and of all; a renamed region counts once in either column."""
    rows = [list(row.values()) for row in count_classes(comparison)]
    return [
        *rows,
        ["all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))],
    ]


def _notes(comparison: Comparison) -> Iterator[str]:
    """What was compared, and what could not be."""
    compared = comparison.pages["ok", "ok"]
    documents = counted(comparison.documents, "document")
    yield f"Compared: {counted(compared, 'page')} of {documents}."
    for count, one, other in ((comparison.only_a, "A", "B"), (comparison.only_b, "B", "A")):
        if count:
            yield f"In {one} alone, and not in {other}: {counted(count, 'document')}."
    others = [
        f"{count} {f'{ours} in both' if ours == theirs else f'{ours} in A and {theirs} in B'}"
        for (ours, theirs), count in sorted(comparison.pages.items())
        if (ours, theirs) != ("ok", "ok")
    ]
    if others:
        yield f"Not compared, of pages and documents that did not open: {', '.join(others)}."
    if comparison.scaled:
        yield (
            f"Images of another size in B: {counted(comparison.scaled, 'page')}. There its boxes are "
            "scaled to A's width and height."
        )


# HTML ---------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 100rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #8888; padding: .2rem .7rem; text-align: left; vertical-align: top;
         max-width: 40rem; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 2.5rem 0; }
figcaption { margin-bottom: .5rem; overflow-wrap: anywhere; }
img { width: 100%; height: auto; border: 1px solid #8888; }
"""


def write_gallery(comparison: Comparison, folder: Path) -> Path:
    """Write `folder`/gallery.html, which needs no other file; `folder` has the tables of `compare_runs`.

    A page whose image is in neither run, as `images.keep: false` leaves it, is drawn on white.
    """
    path = folder / "gallery.html"
    with new_file(path) as draft, draft.open("w", encoding="utf-8") as file:
        for part in _parts(comparison, folder):
            file.write(f"{part}\n")
    return path


def _parts(comparison: Comparison, folder: Path) -> Iterator[str]:
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Two runs compared</title>'
        # Nothing is fetched and nothing runs, whatever documents and classes are called.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>\n<h1>Two runs compared</h1>"
    )
    runs = [("", "A", "B"), ("run", comparison.a.given, comparison.b.given)]
    yield _table([*runs, *setup_differences(comparison.a, comparison.b)])
    yield "".join(f"<p>{_text(note)}</p>" for note in _notes(comparison))
    yield "<h2>Regions by class</h2>"
    yield _table([_CLASS_HEADS, *_class_rows(comparison)])
    yield _table([("", "of each page, one to one"), *_MEANINGS.items()])
    renamed = [
        (one, other, count)
        for (one, other, change), count in comparison.regions.most_common()
        if change == "renamed"
    ]
    if renamed:
        yield "<h2>Renamed</h2>"
        yield _table([("in A", "in B", "regions"), *renamed[:SHOWN_RENAMED]])
    if comparison.most_changed.num_rows:
        yield "<h2>Documents that differ most</h2>"
        columns = ["document", "pages_compared", *CHANGES]
        rows = comparison.most_changed.select(columns).to_pylist()
        heads = ("document", "pages", *CHANGES)
        yield _table([heads, *(tuple(row.values()) for row in rows)])
    yield "<h2>Pages that differ most</h2>"
    if not comparison.largest.num_rows:
        yield "<p>No region has changed.</p>"
    else:
        yield (
            "<p>A on the left, B on the right. Thin lines: kept. The order is by the share of the page "
            "that lies in regions that changed.</p>"
        )
    for page in comparison.largest.to_pylist():
        yield _figure(page, comparison, folder)
    yield "</body></html>"


def _table(rows: Sequence[Sequence[object]]) -> str:
    """The first row are the heads of columns."""
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = []
        for column, value in enumerate(row):
            is_number = all(isinstance(each[column], int) for each in rows[1:])
            cells.append(f"<{tag}{' class=number' * is_number}>{_text(value)}</{tag}>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _text(value: object) -> str:
    """A value as text; marks of writing direction in a name turn nothing around it."""
    return f"<bdi>{escape(str(value))}</bdi>"


def _figure(page: Mapping[str, Any], comparison: Comparison, folder: Path) -> str:
    counts = ", ".join(f"{page[change]} {change}" for change in CHANGES)
    name = f"{_text(page['document'])}, page {page['page']}"
    image, missing = _page_image(page, comparison)
    jpeg = base64.b64encode(_draw_page(image, page, _regions(page, folder))).decode()
    return (
        f"<figure><figcaption><b>{name}</b>: {counts}{missing}</figcaption>"
        f'<img src="data:image/jpeg;base64,{jpeg}" alt="the page with the regions of A and of B">'
        "</figure>"
    )


def _regions(page: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The rows of regions.parquet of a page."""
    of_page = (pc.field("document") == page["document"]) & (pc.field("page") == page["page"])
    rows: pa.Table = ds.dataset(folder / "regions.parquet").to_table(filter=of_page)
    return rows.to_pylist()


def _page_image(page: Mapping[str, Any], comparison: Comparison) -> tuple[np.ndarray, str]:
    """The pixels of a page, of A's or of B's image, uint8; white, and words that say so, without one."""
    longest = max(page["width_a"], page["height_a"])
    reduction = reduction_to(longest, PAGE_SIDE)
    for run, side in ((comparison.a, "a"), (comparison.b, "b")):
        try:
            data = (run.results / page[f"image_{side}"]).read_bytes()
        except OSError:
            continue
        pixels = decode_reduced(data, reduction, grey=False)
        if pixels is not None:
            return pixels, ""
    shape = (page["height_a"] // reduction, page["width_a"] // reduction)
    return np.full(shape, 255, np.uint8), ". Its image is in neither run any more"


def _draw_page(
    image: np.ndarray, page: Mapping[str, Any], regions: Sequence[Mapping[str, Any]]
) -> bytes:
    """A JPEG of the page with A's regions, and beside it with B's."""
    size = (page["width_a"], page["height_a"])
    scale = np.array([size[0] / page["width_b"], size[1] / page["height_b"]] * 2)
    sides = [
        [_drawn(row, "a", np.ones(4)) for row in regions if row["detection_a"] is not None],
        [_drawn(row, "b", scale) for row in regions if row["detection_b"] is not None],
    ]
    picture = draw_comparison(image, size, *sides, max_side=PAGE_SIDE)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def _drawn(row: Mapping[str, Any], side: str, scale: np.ndarray) -> dict[str, Any]:
    """A region as `draw_comparison` wants it, in pixels of A."""
    box = np.array([row[f"{name}_{side}"] for name in BOX_COLUMNS]) * scale
    label = None if row["change"] == "kept" else f"{row[f'class_name_{side}']} {row['change']}"
    return {
        "class_name": row[f"class_name_{side}"],
        **dict(zip(BOX_COLUMNS, box, strict=True)),
        "polygons": [],
        "error": label,
    }
