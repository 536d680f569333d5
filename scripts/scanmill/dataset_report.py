"""The report on a dataset: one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import html
import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scanmill.annotated_images import read_upright
from scanmill.annotations import KINDS
from scanmill.drawing import Shape, class_color, draw_shapes
from scanmill.image_files import encode
from scanmill.splits import SPLITS
from scanmill.tables import digest_json

if TYPE_CHECKING:
    from scanmill.coco import Dataset, DatasetImage

#: Pages that are drawn, and the longer side of their pictures in pixels: 12 of 1000 make 3 MB.
MAX_PAGES = 12
MAX_SIDE = 1000
JPEG_QUALITY = 80
#: Examples of each kind of problem; all are in problems.parquet.
EXAMPLES = 5
_SEVERITIES = ("error", "warning", "note")

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } th, td { padding: .2rem .8rem; text-align: left;
  border-bottom: 1px solid #ddd; vertical-align: top; } td.number, th.number { text-align: right; }
td { overflow-wrap: anywhere; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; }
.error { color: #a40000; } .warning { color: #8a5a00; } .note { color: #555; }
.pages { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem; }
figure { margin: 0; } img { max-width: 100%; } figcaption { font-size: .85rem; color: #555;
  overflow-wrap: anywhere; }
"""


def write_report(dataset: Dataset, path: Path) -> None:
    """Write the page to `path`, in one step."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        temporary.write_text(report(dataset), encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def report(dataset: Dataset) -> str:
    """The page: counts, problems, figures, pages drawn with their regions. It loads nothing."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Dataset</title>',
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<style>{_STYLE}</style></head><body><h1>Dataset</h1>",
        _sizes(dataset),
        "<h2>Objects per class</h2>",
        _class_counts(dataset),
        "<h2>Problems</h2>",
        _problems(dataset),
        "<h2>Objects per page</h2>",
        _objects_per_page(dataset),
        "<h2>Heights of boxes</h2>",
        "<p>In pixels of the page image; the detector sees them reduced as the page is.</p>",
        _distribution(dataset, "height in pixels", lambda box: box[3] - box[1]),
        "<h2>Aspect ratios of boxes</h2>",
        "<p>Height divided by width, as in Detectron2's ASPECT_RATIOS.</p>",
        _distribution(dataset, "height / width", lambda box: (box[3] - box[1]) / (box[2] - box[0])),
        "<h2>Pages</h2>",
        _pages(dataset),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


# Tables -------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    """A table of cells, whose texts are HTML; numbers stand to the right."""

    def cell(value: str | int) -> str:
        return f'<td class="number">{value}</td>' if isinstance(value, int) else f"<td>{value}</td>"

    body = [f"<tr>{''.join(map(cell, row))}</tr>" for row in rows]
    return "\n".join(
        ["<table>", f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>", *body, "</table>"]
    )


def _sizes(dataset: Dataset) -> str:
    def row(name: str, images: Sequence[DatasetImage]) -> tuple[str | int, ...]:
        documents = {image.document for image in images}
        objects = sum(len(image.objects) for image in images)
        empty = sum(not image.objects for image in images)
        return name, len(documents), len(images), empty, objects

    rows = [row(name, [each for each in dataset.images if each.split == name]) for name in SPLITS]
    rows.append(row("all", dataset.images))
    return _table(("set", "documents", "pages", "pages without objects", "objects"), rows)


def _class_counts(dataset: Dataset) -> str:
    counts = Counter(
        (image.split, each.class_id) for image in dataset.images for each in image.objects
    )
    rows = []
    for place, name in enumerate(dataset.classes):
        numbers = [counts[split, place] for split in SPLITS]
        blue, green, red = class_color(name)
        swatch = f'<span class="swatch" style="background: rgb({red}, {green}, {blue})"></span>'
        rows.append((place, f"{swatch}{html.escape(name)}", *numbers, sum(numbers)))
    return _table(("class_id", "class", *SPLITS, "all"), rows)


def _problems(dataset: Dataset) -> str:
    if not dataset.problems:
        return "<p>None was found.</p>"
    groups: dict[tuple[int, str], list] = {}
    for problem in dataset.problems:
        key = (_SEVERITIES.index(problem.severity), problem.kind)
        groups.setdefault(key, []).append(problem)
    parts = ["<p>An error left something out; a warning was mended, or should be looked at.</p>"]
    for (place, kind), problems in sorted(groups.items()):
        severity = _SEVERITIES[place]
        parts.append(
            f'<h3 class="{severity}">{severity}: {kind}, {len(problems)}</h3><p>{KINDS[kind]}</p>'
        )
        columns = ("file", "image", "annotation", "message")
        rows = [
            [html.escape(getattr(each, name)) for name in columns] for each in problems[:EXAMPLES]
        ]
        parts.append(_table(columns, rows))
        if len(problems) > EXAMPLES:
            parts.append(f"<p>And {len(problems) - EXAMPLES} more, in problems.parquet.</p>")
    return "\n".join(parts)


# Figures ------------------------------------------------------------------------------------------


def _objects_per_page(dataset: Dataset) -> str:
    figure, axes = _figure(3.2)
    counts = [
        [len(image.objects) for image in dataset.images if image.split == name] for name in SPLITS
    ]
    most = max(map(max, filter(None, counts)), default=0)
    step = max(1, -(-(most + 1) // 40))  # At most 40 bars, of whole numbers of objects.
    edges = np.arange(0, most + step + 1, step) - 0.5
    colors = ["#444444", "#888888", "#cccccc"]
    axes.hist(counts, bins=edges, stacked=True, color=colors, label=list(SPLITS))
    axes.set(xlabel="objects", ylabel="pages")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return _embedded(figure, "Histogram of the number of objects per page")


def _distribution(dataset: Dataset, label: str, measure: Callable[[tuple], float]) -> str:
    """Quartiles by class, whiskers at the 5th and the 95th hundredth, and what lies beyond."""
    values: list[list[float]] = [[] for _ in dataset.classes]
    for image in dataset.images:
        for each in image.objects:
            values[each.class_id].append(measure(each.box))
    shown = [place for place, numbers in enumerate(values) if numbers]
    if not shown:
        return "<p>There are no objects.</p>"
    figure, axes = _figure(0.9 + 0.32 * len(shown))
    boxes = axes.boxplot(
        [values[place] for place in shown],
        orientation="horizontal",
        patch_artist=True,
        whis=(5, 95),
        flierprops={"marker": ".", "markersize": 3},
        medianprops={"color": "black"},
    )
    names = [dataset.classes[place] for place in shown]
    for patch, name in zip(boxes["boxes"], names, strict=True):
        patch.set_facecolor([value / 255 for value in class_color(name)[::-1]])
    # A dollar sign would begin a formula.
    axes.set_yticks(range(1, len(names) + 1), [name.replace("$", r"\$") for name in names])
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel=label)
    return _embedded(figure, f"Distribution by class: {label}")


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots()


def _embedded(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names in scripts that matplotlib's own font lacks are boxes: no reason for alarm.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return _img(buffer.getvalue(), "png", description)


def _img(data: bytes, kind: str, description: str) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(description)}" src="{source}">'


# Pages --------------------------------------------------------------------------------------------


def _pages(dataset: Dataset) -> str:
    figures = []
    for image in shown_pages(dataset):
        picture = encode(_drawn(image, dataset.classes), "jpg", False, JPEG_QUALITY)
        caption = f"{image.split}: {image.file_name}, {len(image.objects)} objects"
        figures.append(
            f"<figure>{_img(picture, 'jpeg', caption)}"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    return '<div class="pages">\n' + "\n".join(figures) + "\n</div>"


def shown_pages(dataset: Dataset) -> list[DatasetImage]:
    """The pages to draw: first such as show a class that none before does, then any, up to 12.

    By chance, but the same in every run.
    """

    def shuffled() -> Iterator[DatasetImage]:
        yield from sorted(dataset.images, key=lambda image: digest_json(image.file_name))

    chosen: list[DatasetImage] = []
    seen: set[int] = set()
    for image in shuffled():
        classes = {each.class_id for each in image.objects}
        if len(chosen) < MAX_PAGES and classes - seen:
            chosen.append(image)
            seen |= classes
    chosen += [image for image in shuffled() if image not in chosen][: MAX_PAGES - len(chosen)]
    return sorted(chosen, key=lambda image: (SPLITS.index(image.split), image.file_name))


def _drawn(image: DatasetImage, classes: Sequence[str]) -> np.ndarray:
    """The page with its regions, uint8 BGR [h, w, 3]."""
    shapes = [
        Shape(classes[each.class_id], each.box, each.polygons, classes[each.class_id])
        for each in image.objects
    ]
    return draw_shapes(read_upright(image.path), shapes, max_side=MAX_SIDE)
