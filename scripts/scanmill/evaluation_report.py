"""An evaluation on disk: numbers as JSON and Parquet, plots, and one page to look at."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import ExifTags, Image

from scanmill.detection_errors import CROWD, ERRORS, FOUND_IOU, RIGHT
from scanmill.drawing import class_color, draw_comparison, reduction_to
from scanmill.errors import UserError
from scanmill.evaluation import Evaluation, Metric, PageScore
from scanmill.image_files import TURN_OF_ORIENTATION, UPRIGHT, decode_reduced, turn_pixels
from scanmill.matching import IOUS
from scanmill.tables import write_table

WORST_PAGES = 20
#: Pixels of the longer side of a drawn page, of which the report holds forty.
PAGE_SIDE = 1200
#: Read well on text, at a third of the bytes of 95.
JPEG_QUALITY = 70

METRICS = pa.schema(
    [
        ("class_name", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)

#: Lines of classes that share a colour.
_STYLES = ("-", "--", ":", "-.")


class SizeResult(NamedTuple):
    """A model judged with pages that are resized to one size."""

    min_size: int
    """INPUT.MIN_SIZE_TEST, in pixels."""
    max_size: int
    metrics: Mapping[str, Metric]
    """Of all classes, by name."""
    pages_per_second: float
    """From image files to detections, of a model that is loaded and warmed up."""
    memory: float
    """MB: on a GPU the most that torch reserved there, otherwise the peak of the process."""
    device: str


def write_evaluation(
    evaluation: Evaluation,
    truth: Mapping[str, Any],
    detections: pa.Table,
    images_root: Path,
    folder: Path,
    sizes: Sequence[SizeResult] = (),
) -> None:
    """Write the files of an evaluation into `folder`, the numbers first.

    `truth` and `detections` are those that were evaluated; `images_root` is the folder that the file
    names of the truth are relative to. Equal evaluations give equal bytes, but for the speed in `sizes`.
    Raises UserError for a page that cannot be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = as_json(evaluation) | {"sizes": [_size_as_json(each) for each in sizes]}
    text = json.dumps(content, sort_keys=True, indent=1, allow_nan=False)
    _write(folder / "evaluation.json", f"{text}\n".encode())
    rows = [each._asdict() for each in _all_metrics(evaluation)]
    write_table(pa.Table.from_pylist(rows, schema=METRICS), folder / "evaluation.parquet")
    write_table(evaluation.matches, folder / "matches.parquet")
    curves, confusion = draw_curves(evaluation), draw_confusion(evaluation)
    _write(folder / "precision_recall.png", curves)
    _write(folder / "confusion.png", confusion)
    pages = draw_worst_pages(evaluation, truth, detections, images_root)
    _write(folder / "report.html", report(evaluation, curves, confusion, pages, sizes).encode())


def _write(path: Path, data: bytes) -> None:
    """In one step: a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# Numbers ------------------------------------------------------------------------------------------


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """All numbers as plain data; null where nothing defines one."""
    overall: dict[str, Any] = {}
    by_class: dict[str, Any] = {name: {} for name in evaluation.classes}
    for each in _all_metrics(evaluation):
        where = overall if each.class_name is None else by_class[each.class_name]
        where[each.metric] = _metric_as_json(each)
    return {
        "classes": evaluation.classes,
        "setup": evaluation.setup,
        "overall": overall,
        "by_class": by_class,
        "min_score": evaluation.min_score,
        "curves": {
            name: {iou: curve._asdict() for iou, curve in curves.items()}
            for name, curves in evaluation.curves.items()
        },
        "confusion": evaluation.confusion,
        "pages": [page._asdict() for page in evaluation.pages],
    }


def _metric_as_json(metric: Metric) -> dict[str, float | None]:
    between = {} if metric.low is None else {"low": metric.low, "high": metric.high}
    return {"value": metric.value, **between}


def _size_as_json(size: SizeResult) -> dict[str, Any]:
    metrics = {
        name: _metric_as_json(each)
        for name, each in size.metrics.items()
        if name.startswith(("box_", "mask_"))
    }
    return {**size._asdict(), "metrics": metrics}


def _all_metrics(evaluation: Evaluation) -> Iterator[Metric]:
    """The metrics of `evaluation`, with its counts of errors and what mending them would gain."""
    yield from evaluation.metrics
    for kind in ERRORS:
        yield Metric(None, f"gain_{kind}", evaluation.gains[kind])
        counts = [each for each in evaluation.errors if each.kind == kind]
        for suffix in ("count", "selected"):
            metric = f"errors_{kind}" if suffix == "count" else f"errors_{kind}_selected"
            values = [float(getattr(each, suffix)) for each in counts]
            yield Metric(None, metric, sum(values))
            for each, value in zip(counts, values, strict=True):
                yield Metric(each.class_name, metric, value)


# Plots --------------------------------------------------------------------------------------------


def draw_curves(evaluation: Evaluation) -> bytes:
    """A PNG of precision over recall at IoU 0.5 and 0.75, with the chosen thresholds."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    recalls = np.linspace(0, 1, 101)
    used: dict[tuple, int] = {}
    for number, name in enumerate(evaluation.classes):
        color = class_color(name)
        style = _STYLES[used.setdefault(color, 0) % len(_STYLES)]
        used[color] += 1
        look = {"color": [part / 255 for part in color[::-1]], "linestyle": style}
        for axes, iou in ((left, "0.5"), (right, "0.75")):
            if iou in evaluation.curves[name]:
                precision = evaluation.curves[name][iou].precision
                axes.plot(recalls, precision, label=_escaped(name), **look)
        point = evaluation.thresholds[number]
        if point.is_chosen:
            left.plot(point.recall, point.precision, "o", color=look["color"])
    left.set_ylabel("precision")
    for axes, iou in ((left, "0.5"), (right, "0.75")):
        _frame(axes, f"IoU {iou}" + (" (dots: at the thresholds)" if iou == "0.5" else ""))
    handles, labels = left.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper")
    return _png(figure)


def _frame(axes: Axes, title: str) -> None:
    axes.set(title=title, xlabel="recall", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)


def draw_confusion(evaluation: Evaluation) -> bytes:
    """A PNG of the confusion matrix: counts, shaded by their share of the row."""
    counts = np.array(evaluation.confusion)
    names = [*map(_escaped, evaluation.classes), "background"]
    side = 2.5 + 0.6 * len(names)
    figure = Figure(figsize=(side + 0.5, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="detected as", ylabel="annotated as")
    return _png(figure)


def _escaped(name: str) -> str:
    """A class name as it is: matplotlib takes what is between two $ for a formula."""
    return name.replace("$", r"\$")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


# Pages --------------------------------------------------------------------------------------------


def draw_worst_pages(
    evaluation: Evaluation,
    truth: Mapping[str, Any],
    detections: pa.Table,
    images_root: Path,
    count: int = WORST_PAGES,
) -> list[tuple[PageScore, bytes]]:
    """The worst pages as JPEGs: the truth on the left, what is detected on the right.

    Of detections, those at or above the thresholds. Pages with no error are left out.
    """
    images = {image["id"]: image for image in truth["images"]}
    names = {category["id"]: category["name"] for category in truth["categories"]}
    drawn = []
    for page in evaluation.pages[:count]:
        if page.f1 == 1:
            break
        image = images[page.image_id]
        of_page = pc.equal(evaluation.matches["image_id"], page.image_id)
        matches = evaluation.matches.filter(of_page).to_pylist()
        found = {each["annotation"] for each in matches if _is_kept(each) and each["kind"] == RIGHT}
        annotated = [
            _annotated(each, names[each["category_id"]], each["id"] in found)
            for each in truth["annotations"]
            if each["image_id"] == page.image_id
        ]
        rows = detections.filter(pc.equal(detections["image_id"], page.image_id)).to_pylist()
        # Both are in the order in which they were detected; missed objects follow.
        detected = [
            _detected(row, match)
            for row, match in zip(rows, matches[: len(rows)], strict=True)
            if _is_kept(match)
        ]
        pixels = _read_page(images_root, image)
        size = (image["width"], image["height"])
        picture = draw_comparison(pixels, size, annotated, detected, max_side=PAGE_SIDE)
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        drawn.append((page, jpeg))
    return drawn


def _is_kept(match: Mapping) -> bool:
    return bool(match["selected"])


def _annotated(annotation: Mapping, name: str, is_found: bool) -> dict[str, Any]:
    left, top, width, height = annotation["bbox"]
    outline = annotation.get("segmentation") or []
    is_right = is_found or annotation.get("iscrowd")
    return {
        "class_name": name,
        "x_min": left,
        "y_min": top,
        "x_max": left + width,
        "y_max": top + height,
        "polygons": outline if isinstance(outline, list) else [],
        "error": None if is_right else f"{name} not found",
    }


def _detected(row: Mapping, match: Mapping) -> dict[str, Any]:
    is_right = match["kind"] in (RIGHT, CROWD)
    return {
        **row,
        "polygons": [row["polygon"]] if row["polygon"] else [],
        "error": None if is_right else f"{row['class_name']} {row['score']:.2f} {match['kind']}",
    }


def _read_page(images_root: Path, image: Mapping) -> np.ndarray:
    """The pixels of a page, upright, at the least size that is enough; UserError if that fails."""
    path = images_root / image["file_name"]
    remedy = "Mend or remove it, or set the folder of the images right."
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). {remedy}") from error
    longest = max(image["width"], image["height"])
    reduction = reduction_to(longest, PAGE_SIDE)
    pixels = decode_reduced(data, reduction, grey=False)
    if pixels is None:
        raise UserError(f"{path} is no image. {remedy}")
    try:
        with Image.open(io.BytesIO(data)) as file:
            orientation = file.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, ValueError, SyntaxError):  # OpenCV reads what Pillow does not.
        orientation = 1
    # As the workflow makes page images, and annotators see them.
    pixels = turn_pixels(pixels, TURN_OF_ORIENTATION.get(orientation, UPRIGHT))
    expected = (-(-image["height"] // reduction), -(-image["width"] // reduction))
    if pixels.shape[:2] != expected:
        height, width = (side * reduction for side in pixels.shape[:2])
        raise UserError(
            f"{path} is about {width} x {height} pixels, in the annotations {image['width']} x "
            f"{image['height']}: they are of another image. Mend the annotations' size and boxes."
        )
    return pixels


# The page -----------------------------------------------------------------------------------------


def report(
    evaluation: Evaluation,
    curves: bytes,
    confusion: bytes,
    pages: Sequence[tuple[PageScore, bytes]],
    sizes: Sequence[SizeResult] = (),
) -> str:
    """One HTML page that needs no other file; `curves` and `confusion` are PNGs, `pages` JPEGs."""
    body = "".join(
        (
            _headline(evaluation),
            _by_class(evaluation),
            _by_size(sizes),
            "<h2>Precision and recall</h2>",
            _image(curves, "png", "Precision over recall"),
            _thresholds(evaluation),
            "<h2>Confusion</h2><p>At the thresholds. Rows are what is annotated, columns what is "
            f"detected there (IoU from {FOUND_IOU:g}); the last of each is nothing.</p>",
            _image(confusion, "png", "Confusion matrix"),
            _errors(evaluation),
            _worst(evaluation, pages),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em;
       color: #1a1a1a; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
td small, p.note { color: #666 }
pre { background: #f4f4f4; padding: .8em; display: inline-block; min-width: 20em }
img { max-width: 100%; height: auto }
figure { margin: 1.5em 0 } figcaption { margin-bottom: .3em }
i.class { display: inline-block; width: .8em; height: .8em; margin-right: .4em }
"""


def _headline(evaluation: Evaluation) -> str:
    setup = evaluation.setup
    rows = []
    for kind in ("box", "mask"):
        metrics = {
            each.metric: each
            for each in evaluation.metrics
            if each.class_name is None and each.metric.startswith(f"{kind}_")
        }
        if metrics:
            values = [metrics[f"{kind}_{each}"] for each in _SUMMARY]
            rows.append([kind, *map(_value, values)])
    names = ["", *(each.replace("_", " ") for each in _SUMMARY)]
    interval = (
        f"In small print: where AP lies in 95 % of {setup['samples']} draws of {setup['documents']} "
        "documents; of fewer than about ten it is too narrow."
        if setup["documents"] > 1 and setup["samples"]
        else "Of one document alone there is no interval."
    )
    return (
        f"<h1>Evaluation</h1><p>{setup['pages']} pages of {setup['documents']} documents, "
        f"{setup['objects']} objects, {setup['detections']} detections.</p>"
        f"<h2>Average precision</h2>{_table(names, rows)}"
        f'<p class="note">In percent, as COCO computes it, but over up to {setup["max_detections"]} '
        "detections a page, so that none is cut off. AP: mean over IoU "
        f"{IOUS[0]:g} to {IOUS[-1]:g}; AR: recall of all detections. Small, medium, large: below 32², "
        f"to 96² and above, in pixels of pages resized to {setup['min_size']} / {setup['max_size']}. "
        f"{interval}</p>"
    )


_SUMMARY = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR")


def _by_class(evaluation: Evaluation) -> str:
    values = {(each.class_name, each.metric): each for each in evaluation.metrics}
    kinds = [kind for kind in ("box", "mask") if (None, f"{kind}_AP") in values]
    metrics = [f"{kind}_{name}" for kind in kinds for name in ("AP", "AP50", "AP75")]
    rows = [
        [
            _class(name),
            *(f"{values[name, each].value:.0f}" for each in ("objects", "detections")),
            *(_value(values[name, metric]) for metric in metrics),
        ]
        for name in evaluation.classes
    ]
    names = ["class", "objects", "detections", *(each.replace("_", " ") for each in metrics)]
    return f"<h3>By class</h3>{_table(names, rows)}"


def _by_size(sizes: Sequence[SizeResult]) -> str:
    if not sizes:
        return ""
    kinds = [name for name in ("box_AP", "box_AP50", "mask_AP") if name in sizes[0].metrics]
    rows = [
        [
            f"{each.min_size} / {each.max_size}",
            *(_value(each.metrics[kind]) for kind in kinds),
            f"{each.pages_per_second:.2f}",
            f"{each.memory:.0f}",
        ]
        for each in sizes
    ]
    names = ["short / long side, px", *(kind.replace("_", " ") for kind in kinds), "pages/s", "MB"]
    return (
        f"<h3>By size of the input</h3>{_table(names, rows)}"
        '<p class="note">INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, to which pages are resized before '
        "they are detected on: a model is best near the sizes that it was trained with. Speed from "
        f"image files to detections, and peak memory, on {html.escape(sizes[0].device)}.</p>"
    )


def _thresholds(evaluation: Evaluation) -> str:
    rows = [
        [
            _class(each.class_name),
            f"{each.score:.2f}" + ("" if each.is_chosen else " <small>default</small>"),
            *map(_percent, (each.precision, each.recall, each.f1)),
        ]
        for each in evaluation.thresholds
    ]
    settings = yaml.safe_dump(
        {"regions": {"min_score": evaluation.min_score}}, sort_keys=False, allow_unicode=True
    )
    return (
        f"<h2>Thresholds</h2><p>The score that maximises F1 at IoU {FOUND_IOU:g}, for each class. For "
        f"the config:</p><pre>{html.escape(settings)}</pre>"
        + _table(["class", "score", "precision", "recall", "F1"], rows)
        + '<p class="note">Chosen on these very pages, on which they look a little better than on '
        "others; of a class with a dozen objects they say little.</p>"
    )


def _errors(evaluation: Evaluation) -> str:
    rows = []
    for kind in ERRORS:
        counts = [each for each in evaluation.errors if each.kind == kind]
        rows.append(
            [
                f"{kind} <small>{_MEANING[kind]}</small>",
                _percent(evaluation.gains[kind]),
                str(sum(each.count for each in counts)),
                str(sum(each.selected for each in counts)),
                *(str(each.selected) for each in counts),
            ]
        )
    names = ["kind", "AP50 to gain", "all", "at thresholds", *map(_class, evaluation.classes)]
    return (
        "<h2>Errors by kind</h2>"
        + _table(names, rows)
        + '<p class="note">After TIDE (Bolya et al., ECCV 2020). To gain: what AP50, in points, would '
        "rise by if all errors of the kind were mended. By class: at the thresholds.</p>"
    )


_MEANING = {
    "class": "right place, another class",
    "location": "right class, IoU 0.1 to 0.5",
    "both": "another class, IoU 0.1 to 0.5",
    "duplicate": "of an object already found",
    "background": "nothing there",
    "missed": "no detection near it",
}


def _worst(evaluation: Evaluation, pages: Sequence[tuple[PageScore, bytes]]) -> str:
    figures = "".join(
        f"<figure><figcaption><b>{html.escape(page.image)}</b> "
        f"F1 {_percent(page.f1)}: {page.right} right, {page.wrong} wrong, {page.missed} not found"
        f"</figcaption>{_image(jpeg, 'jpeg', page.image)}</figure>"
        for page, jpeg in pages
    )
    legend = " &nbsp; ".join(map(_class, evaluation.classes))
    return (
        f"<h2>Worst pages</h2><p>By F1 at the thresholds and IoU {FOUND_IOU:g}. Left what is annotated, "
        "right what is detected. Thin lines are right; broad ones are errors and say which.</p>"
        f"<p>{legend}</p>{figures or '<p>No page has an error.</p>'}"
    )


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{lines}</table>"


def _class(name: str) -> str:
    blue, green, red = class_color(name)
    color = f"#{red:02x}{green:02x}{blue:02x}"
    return f'<i class="class" style="background:{color}"></i>{html.escape(name)}'


def _value(metric: Metric) -> str:
    text = _percent(metric.value)
    if metric.low is None:
        return text
    return f"{text} <small>{_percent(metric.low)}–{_percent(metric.high)}</small>"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _image(data: bytes, kind: str, text: str) -> str:
    source = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{source}" alt="{html.escape(text)}">'
