"""Tasks for annotators: page images with the regions that a run found on them, for Label Studio.

What is written can be read back by `annotations`: document, page and the image's name travel in the
task, whatever becomes of the image's address.
"""

from __future__ import annotations

import colorsys
import itertools
import json
import os
import re
import shlex
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pyarrow as pa

from scanmill import store
from scanmill.annotations import is_outline
from scanmill.drawing import PALETTE, class_color
from scanmill.dropped_images import Renderer
from scanmill.errors import UserError
from scanmill.image_files import Unusable, decode, encode, read_bytes
from scanmill.layout_xml import NOT_XML
from scanmill.maintenance import find_results, read_plan, tool_command
from scanmill.outputs import check_output, new_folder
from scanmill.sampling import SampledPage, suspicions
from scanmill.store import document_folder, page_image_error, table_file
from scanmill.tables import SCHEMAS, by_page, read_table

IMAGES, TASKS, LABELS, README = "images", "tasks.json", "labels.xml", "README.txt"
#: What the README asks to save the corrections as.
EXPORT = "export.json"
#: Suffixes of page images that every browser shows; the others become PNG.
SHOWN = (".jpg", ".png")
#: Decimals of hundredths of a side: a hundredth of a pixel at 10 000.
DECIMALS = 4
#: Bytes of a document's name in the names of its images, so that a number and a suffix find room.
NAME_BYTES = 120
#: Missing images that are named.
_EXAMPLES = 5
#: Hex digits of a model's digest in its version.
_DIGEST = 12
#: Names of the two controls of labels.xml, which each result refers to.
_RECTANGLE, _POLYGON = "rectangle", "polygon"


class Written(NamedTuple):
    """What was written."""

    regions: int
    model_versions: list[str]


class _Page(NamedTuple):
    """A page to write, with what the run has of it."""

    sampled: SampledPage
    row: Mapping[str, Any]
    """Of `pages`."""
    regions: pa.Table
    model: Mapping[str, Any]
    """Its name, digest and classes."""


def write_tasks(
    directory: Path,
    pages: Sequence[SampledPage],
    output: Path,
    min_score: float = 0.0,
    boxes: bool = False,
) -> Written:
    """Write images, tasks.json, labels.xml and README.txt about pages of a finished run to `output`.

    Tasks are in the order of `pages`. Regions below `min_score` are left out; with `boxes` the others
    are boxes, though the model gave them outlines. The folder appears when all is written. Raises
    UserError as `check_output` does, and where a page's image or regions are not as the run left them.
    """
    if not 0 <= min_score <= 1:
        raise UserError(f"--min-score {min_score}: scores are between 0 and 1.")
    folder = check_output(output, directory)
    found = _find_pages(directory, pages)
    _check_images(directory, found)
    names = image_names([(page.row["document"], page.row["page"]) for page in found])
    classes = list(dict.fromkeys(name for page in found for name in page.model["classes"]))
    labels = label_config(classes)
    with new_folder(folder) as draft:
        (draft / IMAGES).mkdir()
        files = _write_images(directory, found, names, draft / IMAGES)
        tasks = [
            _task(page, folder.name, file, min_score, boxes)
            for page, file in zip(found, files, strict=True)
        ]
        text = ",\n".join(json.dumps(task, ensure_ascii=False) for task in tasks)
        (draft / TASKS).write_text(f"[\n{text}\n]\n", encoding="utf-8")
        (draft / LABELS).write_text(labels, encoding="utf-8")
        predictions = [prediction for task in tasks for prediction in task["predictions"]]
        versions = sorted({prediction["model_version"] for prediction in predictions})
        readme = _readme(folder, len(found), versions)
        (draft / README).write_text(readme, encoding="utf-8", errors="surrogateescape")
    return Written(sum(len(each["result"]) for each in predictions), versions)


# Pages of the run ---------------------------------------------------------------------------------


def _find_pages(directory: Path, pages: Sequence[SampledPage]) -> list[_Page]:
    """The pages in their order, with their rows, from the records of their documents."""
    results = find_results(directory)
    wanted: dict[str, dict[int, int]] = {}
    for place, page in enumerate(pages):
        wanted.setdefault(page.document, {})[page.page] = place
    found: dict[int, _Page] = {}
    for document, places in wanted.items():
        metadata = store.read_record_metadata(results, document, "regions") or {}
        rows, regions = {}, {}
        if "model" in metadata:
            folder = document_folder(results, document)
            table = read_table(folder / table_file("regions", "pages"))
            rows = {row["page"]: row for row in table.to_pylist() if row["status"] == "ok"}
            regions = by_page(read_table(folder / table_file("regions", "regions")))
        for number, place in places.items():
            if number not in rows:
                repair = tool_command("verify_results", directory, "--repair")
                raise UserError(
                    f"What the run found on page {number} of {document} is not in "
                    f"{document_folder(results, document)} any more. `{repair}` has the next run make "
                    "it again."
                )
            mine = regions.get(number, SCHEMAS["regions"].empty_table())
            model = json.loads(metadata["model"])
            found[place] = _Page(pages[place], rows[number], mine, model)
    return [found[place] for place in range(len(pages))]


def _check_images(directory: Path, pages: Sequence[_Page]) -> None:
    """Find all images that are missing, and were not dropped, before anything is written."""
    results = directory / "results"
    paths = [
        results / page.row["image"]
        for page in pages
        if not store.are_dropped(results, page.row["document"])
    ]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        shown = "\n".join(f"  {path}" for path in missing[:_EXAMPLES])
        more = f"\n  and {len(missing) - _EXAMPLES} more" if len(missing) > _EXAMPLES else ""
        repair = tool_command("verify_results", directory, "--repair")
        raise UserError(
            f"{len(missing)} of the {len(pages)} chosen pages have no image any more:\n{shown}{more}\n"
            f"`{repair}` has the next run make them again; nothing was written."
        )


def _write_images(
    directory: Path, pages: Sequence[_Page], names: Sequence[str], folder: Path
) -> list[str]:
    """Write the pages' images to `folder`; returns the names of the files, `names` with suffixes.

    Document by document, so that where images were dropped each document is opened once.
    """
    by_document: dict[str, list[int]] = {}
    for place, page in enumerate(pages):
        by_document.setdefault(page.row["document"], []).append(place)
    plan = read_plan(directory / "results")
    files: dict[int, str] = {}
    with Renderer(directory, itertools.chain(*plan.values()), os.cpu_count() or 1) as renderer:
        for places in by_document.values():
            rows = [pages[place].row for place in places]
            with renderer.images(rows, folder) as readable:
                for place, row in zip(places, readable, strict=True):
                    name = names[place]
                    files[place] = name + _write_image(directory, row, folder / name)
    return [files[place] for place in range(len(pages))]


def _write_image(directory: Path, row: Mapping[str, Any], path: Path) -> str:
    """Write the image of a page, given by its row, to `path` and a suffix, which is returned."""
    source = directory / "results" / row["image"]
    try:
        data, suffix = read_bytes(source, row["sha256"]), source.suffix
        if suffix not in SHOWN:
            pixels = decode(data)
            if pixels is None:
                raise Unusable("it cannot be decoded")
            data, suffix = encode(pixels, "png", False, 0), ".png"
    except Unusable as error:
        raise page_image_error(
            source, row["document"], row["page"], str(error), directory
        ) from error
    path.with_name(path.name + suffix).write_bytes(data)
    return suffix


def image_names(pages: Sequence[tuple[str, int]]) -> list[str]:
    """A name without suffix for each (document, page), no two alike, also where case is not told apart.

    Letters (of any script), digits, `.`, `_` and `-` of the document stay; documents that come out equal
    are numbered in the order of their names.
    """
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for document in sorted({document for document, _ in pages}):
        text = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", document)).strip("._-")
        text = text.encode()[:NAME_BYTES].decode(errors="ignore") or "document"
        numbered = (f"{text}-{number}" for number in itertools.count(2))
        stem = next(
            each
            for each in itertools.chain([text], numbered)
            if unicodedata.normalize("NFC", each.casefold()) not in taken
        )
        taken.add(unicodedata.normalize("NFC", stem.casefold()))
        stems[document] = stem
    # The page is what stands behind the last dash: no number of a document can be taken for it.
    return [f"{stems[document]}-{page:04d}" for document, page in pages]


# Label Studio -------------------------------------------------------------------------------------


def _task(
    page: _Page, folder: str, file_name: str, min_score: float, boxes: bool
) -> dict[str, Any]:
    """A task of Label Studio, with the regions of its page as a prediction."""
    row = page.row
    path = urllib.parse.quote(os.fsencode(f"{folder}/{IMAGES}/{file_name}"), safe="/")
    results = [
        _result(region | {"polygon": None} if boxes else region, row["width"], row["height"])
        for region in page.regions.to_pylist()
        if region["score"] >= min_score
    ]
    prediction = {
        "model_version": f"{page.model['name']} {page.model['digest'][:_DIGEST]}",
        "result": results,
    }
    if results:  # To sort tasks by.
        mean = sum(each["score"] for each in results) / len(results)
        prediction["score"] = round(mean, DECIMALS)
    data = {
        "image": f"/data/local-files/?d={path}",
        "file_name": file_name,
        "document": row["document"],
        "page": row["page"],
        "width": row["width"],
        "height": row["height"],
        "stratum": page.sampled.stratum,
        "flags": list(suspicions(row)),
    }
    return {"data": data, "predictions": [prediction]}


def _result(region: Mapping[str, Any], width: int, height: int) -> dict[str, Any]:
    """A region as Label Studio has it: an outline where there is one, in hundredths of the sides."""
    polygon = region["polygon"] or ()
    kind, value = _RECTANGLE, _box_value(region, width, height)
    if is_outline(polygon):
        points = zip(polygon[::2], polygon[1::2], strict=True)
        hundredths = [[_hundredths(x, width), _hundredths(y, height)] for x, y in points]
        kind, value = _POLYGON, {"points": hundredths, "closed": True}
    return {
        "id": f"detection-{region['detection']}",
        "type": f"{kind}labels",
        "from_name": kind,
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(region["score"], 6),
        "value": {**value, f"{kind}labels": [region["class_name"]]},
    }


def _box_value(region: Mapping[str, Any], width: int, height: int) -> dict[str, float]:
    return {
        "x": _hundredths(region["x_min"], width),
        "y": _hundredths(region["y_min"], height),
        "width": _hundredths(region["x_max"] - region["x_min"], width),
        "height": _hundredths(region["y_max"] - region["y_min"], height),
        "rotation": 0,
    }


def _hundredths(pixels: float, side: int) -> float:
    return round(100 * pixels / side, DECIMALS)


def label_config(classes: Sequence[str]) -> str:
    """Label Studio's labelling configuration, XML: boxes and outlines of the classes."""
    broken = next((name for name in classes if NOT_XML.search(name)), None)
    if broken is not None:
        raise UserError(
            f"The model has a class {broken!r}, which the XML of Label Studio cannot hold. Give it "
            "another name in its model.json."
        )
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value="$document, page $page", size="5")
    colors = distinct_colors(classes)
    for kind, tag in ((_RECTANGLE, "RectangleLabels"), (_POLYGON, "PolygonLabels")):
        ElementTree.SubElement(
            view, "Header", value={_RECTANGLE: "Boxes"}.get(kind, "Outlines"), size="6"
        )
        control = ElementTree.SubElement(view, tag, name=kind, toName="image")
        for name in classes:
            ElementTree.SubElement(control, "Label", value=name, background=colors[name])
    ElementTree.SubElement(
        view, "Image", name="image", value="$image", zoom="true", zoomControl="true"
    )
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def distinct_colors(classes: Iterable[str]) -> dict[str, str]:
    """A colour for each class, `#rrggbb`, no two alike: that of drawings where it is free."""
    colors: dict[str, str] = {}
    for name in classes:
        wanted = [class_color(name)[::-1], *PALETTE.values()]
        free = (each for each in map(_hex, wanted) if each not in colors.values())
        colors[name] = next(itertools.chain(free, _hues(colors.values())))
    return colors


def _hues(taken: Iterable[str]) -> Iterator[str]:
    """Colours that are not taken, hues far apart: by the golden ratio."""
    taken = set(taken)
    for number in itertools.count(1):
        lightness = (0.45, 0.6, 0.3)[number // 12 % 3]
        rgb = colorsys.hls_to_rgb(number * 0.618034 % 1, lightness, 0.7)
        color = _hex(round(255 * each) for each in rgb)
        if color not in taken:
            yield color


def _hex(rgb: Iterable[int]) -> str:
    return "#" + bytes(rgb).hex()


def _readme(folder: Path, pages: int, versions: Sequence[str]) -> str:
    """How to annotate the pages of `folder`, and how the corrections come back."""
    root = shlex.quote(str(folder.parent))
    export = json.dumps(str(folder / EXPORT), ensure_ascii=False)
    return f"""\
{pages} page images, and the regions that {" and ".join(versions)} found on them, for Label Studio.

1. Start Label Studio (pip install label-studio) so that it may show these images:

     export LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true
     export LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={root}
     label-studio start

2. Make a project. In Settings > Labeling Interface > Code, put the content of {LABELS} and save.
3. In Settings > Cloud Storage > Add Source Storage, choose Local Files and give this path:

     {folder / IMAGES}

   Add it, and do not synchronise it: the tasks come from the next step.
4. Import {TASKS}.
5. In Settings > Annotation, let predictions be used for prelabeling.
6. Correct the regions of each page and submit. A page without regions is submitted empty; a page that
   is skipped does not come back. The first pages are a fair sample themselves: you may stop anywhere.
7. Export as JSON (not JSON-MIN, not COCO, which lose document and page), and save it as

     {folder / EXPORT}

8. In config.yaml of the working directory where you train:

     dataset:
       annotations: [{export}]

   The export has to lie beside the images, or dataset.images to name their folder. Leave
   dataset.document as it is: documents and pages come with the tasks.

Where this folder is moved, its name has to stay, and the paths above change.
"""
