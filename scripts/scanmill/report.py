"""The report on a run: one HTML file that needs nothing but itself and a browser."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

import scanmill
from scanmill.drawing import class_color
from scanmill.flags import FLAGS
from scanmill.forecast import duration
from scanmill.gallery import gallery
from scanmill.maintenance import RULES, tool_command
from scanmill.outputs import new_file
from scanmill.survey import (
    AREA_EDGES,
    MAX_DOCUMENTS,
    SCORE_EDGES,
    ClassCounts,
    Survey,
    choose_documents,
)
from scanmill.tables import read_metadata, read_table
from scanmill.timings import stage_times

_FOLDER = Path(__file__).parent
#: Failures that are listed; all are in failures.parquet.
MAX_FAILURES = 1000
#: Bars of the histogram of regions per page, at most.
BARS = 40

#: What XML forbids (XML 1.0, 2.2), and what turns the direction of the text around it (Unicode, UAX 9):
#: shown as a code, or a name would look like another.
_UNSHOWN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
    "|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


class ShardFiles(NamedTuple):
    """The datasets of a shard that the report is made from."""

    pages: Path
    regions: Path
    detected_pages: Path


class Bar(NamedTuple):
    """A bar of a histogram."""

    x: float
    """Its left edge and its width, shares of the axis."""
    width: float
    height: float
    """Share of the highest."""
    count: int
    label: str


class Histogram(NamedTuple):
    """What the template draws."""

    title: str
    class_name: str | None
    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, str]]
    """Place on the axis, a share, and what is written there."""
    highest: int
    total: int


def write_report(
    directory: Path,
    shards: Sequence[ShardFiles],
    documents: Path,
    failures: Path,
    output: Path,
    threads: int,
) -> None:
    """Write the report on the run in the working directory `directory` to `output`, in one step.

    `shards` are the datasets, `documents` and `failures` the tables of the summary.
    """
    survey = Survey()
    for shard in shards:
        survey.add_shard(*shard)
    html = render(directory, shards, survey, read_table(documents), read_table(failures), threads)
    with new_file(output) as draft:
        draft.write_text(html, encoding="utf-8")


def render(
    directory: Path,
    shards: Sequence[ShardFiles],
    survey: Survey,
    documents: pa.Table,
    failures: pa.Table,
    threads: int,
) -> str:
    """The page."""
    model = json.loads(read_metadata(shards[0].pages).get("model", "{}")) if shards else {}
    names = [*dict.fromkeys([*model.get("classes", []), *sorted(survey.classes)])]
    settings = directory / "results" / "settings.yaml"
    said = settings.read_text(encoding="utf-8") if settings.exists() else ""
    listed = choose_documents(documents, survey.flagged_by_document)
    shown = gallery(survey.shown_pages(), names, directory / "results", threads)
    style, script = (
        (_FOLDER / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
    )
    style += "".join(
        f".class-{code} {{ --class: {_css_color(name)} }}\n" for code, name in enumerate(names)
    )
    data = {
        "classes": names,
        "flags": list(FLAGS),
        "pages": shown,
        "documents": _columns(listed, _DOCUMENT),
        "failures": _columns(failures.slice(0, MAX_FAILURES), failures.schema.names),
        "draw": tool_command("draw_regions", directory.absolute()),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: shown_text(value) if type(value) is str else value,
    )
    environment.filters |= {"number": _number, "percent": _percent, "duration": duration}
    return environment.get_template("report.html.j2").render(
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        data=_embedded(data),
        version=scanmill.__version__,
        written=time.strftime("%Y-%m-%d %H:%M"),
        settings=said,
        archive=yaml.safe_load(said)["archive"]["path"] if said else "",
        model=model,
        survey=survey,
        counts=_counts(survey, documents, failures),
        names=names,
        class_rows=_class_rows(survey, names),
        flags=FLAGS,
        stages=list(stage_times(directory, list(RULES.values()))),
        reasons=_reasons(failures),
        retry=tool_command(
            "retry_failed", directory.absolute(), "--reason", _reason_names(failures)
        ),
        per_page=_per_page(survey.regions_per_page),
        scores=[_scores(name, survey.classes[name]) for name in names if name in survey.classes],
        areas=[_areas(name, survey.classes[name]) for name in names if name in survey.classes],
        pictured=len(shown),
        listed=listed.num_rows,
        documents=documents.num_rows,
        failed=failures.num_rows,
        max_failures=MAX_FAILURES,
        max_documents=MAX_DOCUMENTS,
    )


def shown_text(text: str) -> str:
    """A text as the report shows it: what cannot be shown, or would reorder others, as <U+202E>."""
    return _UNSHOWN.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


# Numbers ------------------------------------------------------------------------------------------

_DOCUMENT = ("document", "pages", "pages_failed", "regions", "flagged", "status")


def _counts(survey: Survey, documents: pa.Table, failures: pa.Table) -> dict[str, int]:
    return {
        "documents": documents.num_rows,
        "lost": pc.sum(pc.equal(documents["status"], "failed")).as_py() or 0,
        "pages": pc.sum(documents["pages"]).as_py() or 0,
        "failed": pc.sum(documents["pages_failed"]).as_py() or 0,
        "regions": sum(counts.regions for counts in survey.classes.values()),
        "flagged": survey.flagged_pages,
    }


def _class_rows(survey: Survey, names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class of the model, what was found of it."""
    most = max((counts.regions for counts in survey.classes.values()), default=0)
    rows = []
    for code, name in enumerate(names):
        counts = survey.classes.get(name, ClassCounts())
        rows.append(
            {
                "code": code,
                "name": name,
                "regions": counts.regions,
                "share": counts.regions / most if most else 0,
                "pages": counts.pages,
                "score": _median(counts.scores, SCORE_EDGES),
                "area": _median(counts.areas, AREA_EDGES),
            }
        )
    return rows


def _median(counts: np.ndarray, edges: np.ndarray) -> float | None:
    """The median of what a histogram has counted, within its bar by a straight line."""
    total = counts.sum()
    if not total:
        return None
    return float(np.interp(total / 2, np.r_[0, np.cumsum(counts)], edges))


def _reasons(failures: pa.Table) -> list[dict[str, Any]]:
    """Stage and reason, how often, and an example, the most frequent first."""
    counted = (
        failures.append_column("row", pa.array(range(failures.num_rows), pa.int64()))
        .group_by(["stage", "reason"], use_threads=False)
        .aggregate([("row", "count"), ("row", "min")])
        .sort_by([("row_count", "descending"), ("row_min", "ascending")])
        .to_pylist()
    )
    return [{**row, "example": failures.slice(row["row_min"], 1).to_pylist()[0]} for row in counted]


def _reason_names(failures: pa.Table) -> str:
    return ",".join(sorted(set(pc.unique(failures["reason"]).to_pylist())))


# Histograms ---------------------------------------------------------------------------------------


def _per_page(counted: Counter[int]) -> Histogram:
    """Regions per page; the last bar has all pages with more than 99 of 100."""
    total = counted.total()
    values = np.array(sorted(counted), int)
    sums = np.cumsum([counted[value] for value in values])
    # A page of a thousand regions must not press all others into one bar.
    last = int(values[np.searchsorted(sums, 0.99 * total)]) if total else 0
    step = max(math.ceil((last + 1) / BARS), 1)
    number = last // step + 1
    heights = np.zeros(number, int)
    for value, count in counted.items():
        heights[min(value // step, number - 1)] += count
    labels = []
    for index in range(number):
        low, high = index * step, (index + 1) * step - 1
        several = f"{low}" if step == 1 else f"{low} to {high}"
        labels.append(
            f"{low} or more" if index == number - 1 and max(values, default=0) > high else several
        )
    every = max(math.ceil(number / 8), 1)
    ticks = [((index + 0.5) / number, str(index * step)) for index in range(0, number, every)]
    return _histogram("Regions per page", None, heights, labels, ticks)


def _scores(name: str, counts: ClassCounts) -> Histogram:
    # What lies below every threshold is empty: the axis begins with the first score there is.
    first = min(int(np.flatnonzero(counts.scores)[0]), 25)
    edges = SCORE_EDGES[first:]
    labels = [f"{low:.2f} to {high:.2f}" for low, high in itertools.pairwise(edges)]
    places = [tick for tick in (0, 0.25, 0.5, 0.75, 1) if tick >= edges[0] - 1e-9]
    ticks = [((tick - edges[0]) / (1 - edges[0]), f"{tick:g}") for tick in places]
    return _histogram(name, name, counts.scores[first:], labels, ticks)


def _areas(name: str, counts: ClassCounts) -> Histogram:
    edges = AREA_EDGES
    labels = [
        f"{_percent(low)} to {_percent(high)} of the page"
        for low, high in itertools.pairwise(edges)
    ]
    ticks = [
        (place / 4, text) for place, text in enumerate(("0.01 %", "0.1 %", "1 %", "10 %", "100 %"))
    ]
    return _histogram(name, name, counts.areas, labels, ticks)


def _histogram(
    title: str,
    class_name: str | None,
    counts: np.ndarray,
    labels: Iterable[str],
    ticks: Sequence[tuple[float, str]],
) -> Histogram:
    highest = int(counts.max(initial=0))
    width = 1 / len(counts)
    bars = [
        Bar(index * width, width, count / highest, int(count), label)
        for index, (count, label) in enumerate(zip(counts, labels, strict=True))
        if count
    ]
    return Histogram(title, class_name, bars, ticks, highest, int(counts.sum()))


# In the page --------------------------------------------------------------------------------------


def _columns(table: pa.Table, names: Sequence[str]) -> dict[str, list]:
    return {name: table[name].to_pylist() for name in names}


def _embedded(data: Mapping[str, Any]) -> str:
    """Plain data as JSON that cannot end the element it stands in; texts as they are shown."""
    text = json.dumps(_shown(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _shown(value: Any) -> Any:  # noqa: ANN401
    """Plain data with its texts as they are shown."""
    if isinstance(value, str):
        return shown_text(value)
    if isinstance(value, Mapping):
        return {name: _shown(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    return value


def _hash(text: str) -> str:
    """What a Content-Security-Policy names an element by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _css_color(name: str) -> str:
    blue, green, red = class_color(name)
    return f"#{red:02x}{green:02x}{blue:02x}"


def _number(value: float) -> str:
    """With thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def _percent(share: float) -> str:
    percent = 100 * share
    digits = 0 if percent >= 10 or percent == 0 else 1 if percent >= 1 else 2
    return f"{percent:.{digits}f} %"
