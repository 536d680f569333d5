"""Annotations of pages, in the formats that annotation tools write -> plain records.

COCO, Label Studio's own JSON, PAGE-XML and ALTO, told apart by content. What is broken in a file
becomes a `Problem`; nothing that a file says is left out without one. What needs the images or the
settings is done in `coco`.
"""

from __future__ import annotations

import json
import math
import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from scanmill.errors import UserError
from scanmill.regions import Box
from scanmill.splits import SPLITS
from scanmill.tables import digest_json

#: Suffixes of annotation files that are looked for in a folder.
SUFFIXES = (".json", ".xml")
#: Synthetic pages that one job makes.
PART_PAGES = 1000
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".jp2")

#: Every kind of problem, with what becomes of that which has it.
KINDS = {
    # Files.
    "unreadable_file": "a file of annotations that cannot be read; left out",
    "unknown_format": "a file in none of the formats that are read; left out",
    "unsupported_unit": "an ALTO file whose coordinates are no pixels; left out",
    # Pages.
    "malformed_image": "a page without what identifies its image; left out",
    "duplicate_id": "an id that is given twice; the second image is left out, annotations stay",
    "not_annotated": "a task that nobody has annotated, or that was skipped; left out",
    "several_annotations": "a task that several people annotated; one of them is taken",
    "missing_image": "an image that is not there; its page is left out",
    "ambiguous_image": "a name that several images could have; its page is left out",
    "unreadable_image": "an image that cannot be decoded; its page is left out",
    "tiny_image": "an image of a single row or column of pixels; its page is left out",
    "size_mismatch": "an image of another size than its annotations say",
    "duplicate_image": "a page whose image is that of another page; one of them is taken",
    "no_document": "a file name that the expression for documents does not match",
    "document_in_two_splits": "a document with pages on two sides of a split",
    # Annotations.
    "malformed_annotation": "an annotation whose coordinates or class cannot be read; left out",
    "unknown_category": "an annotation of a class that its file does not define; left out",
    "unknown_image": "an annotation of an image that its file does not have; left out",
    "unsupported_shape": "a shape that is neither box nor polygon; left out, or only its box taken",
    "several_classes": "an annotation with several classes; the first is taken",
    "crowd": "a box around many objects (iscrowd), which training would ignore; left out",
    "bad_polygon": "a polygon that is none; only the box is taken",
    "box_differs": "a box that is not the polygon's; the polygon's is taken",
    "clipped_box": "a box that reaches over the page's edge; cut off there",
    "outside_page": "a box that lies outside the page; left out",
    "degenerate_box": "a box without area; left out",
    # Classes.
    "dropped_class": "annotations whose class `map` leaves out",
    "unused_map": "a name in `map` that no annotation has",
    "few_examples": "a class with few examples to train on",
    "class_without_examples": "a class of `classes` that no annotation has",
    "mixed_polygons": "some objects have a polygon, others only a box",
}

#: Of box and polygon: below this intersection over union they are not of the same region.
SAME_BOX = 0.5
#: Tags of ALTO that can name the class of a block.
_ALTO_TAGS = ("LayoutTag", "StructureTag", "OtherTag")
_ALTO_BLOCKS = ("TextBlock", "Illustration", "GraphicalElement", "ComposedBlock")
_LABEL_STUDIO_LABELS = ("rectanglelabels", "polygonlabels", "labels")
#: Results of Label Studio that are shapes of other kinds.
_LABEL_STUDIO_SHAPES = ("brush", "ellipse", "keypoint", "bitmask", "vector")
_IMAGE_NAME = re.compile(r"\.(jpe?g|png|tiff?|jp2)$", re.IGNORECASE)

Polygon = tuple[float, ...]


class Problem(NamedTuple):
    """Something wrong with annotations, or with images or classes of a dataset."""

    kind: str
    """One of `KINDS`."""
    severity: str
    """`error`: something was left out; `warning`: mended or doubtful; `note`: as the settings say."""
    file: str
    """The file of annotations, as it was given; empty where it concerns the whole dataset."""
    image: str
    annotation: str
    message: str


class AnnotatedRegion(NamedTuple):
    """One region as it was annotated."""

    annotation: str
    """Its id in the file, or `#3` for the third where it has none."""
    class_name: str
    box: Box
    """x_min, y_min, x_max, y_max in the units of its page, as they were given: unchecked."""
    polygons: tuple[Polygon, ...] = ()
    """Each x, y, x, y, ... of three points or more; none where there is only a box."""


class AnnotatedPage(NamedTuple):
    """One page as it was annotated."""

    file: str
    image: str
    """The name of its image, as the file gives it."""
    width: int | None
    """Of the image, as the file claims; None where it claims nothing."""
    height: int | None
    regions: tuple[AnnotatedRegion, ...]
    document: str | None = None
    page: int | None = None
    percent: bool = False
    """Coordinates are hundredths of width and height, not pixels."""
    file_name: str | None = None
    """Another name of its image, where that is an address that may lead anywhere."""


class Annotations(NamedTuple):
    """What files of annotations hold."""

    pages: list[AnnotatedPage]
    problems: list[Problem]


class _Broken(Exception):
    """An annotation or file that is left out, and of which kind its problem is."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Place(NamedTuple):
    """Where problems are found, and the list they go to."""

    problems: list[Problem]
    file: str
    image: str = ""
    annotation: str = ""

    def of(self, annotation: str) -> _Place:
        return self._replace(annotation=annotation)

    def tell(self, kind: str, severity: str, message: str) -> None:
        self.problems.append(
            Problem(kind, severity, self.file, self.image, self.annotation, message)
        )


# Files --------------------------------------------------------------------------------------------


def synthetic_parts(settings: Mapping[str, int]) -> dict[str, int]:
    """The parts that synthetic pages are made in, of PART_PAGES or fewer: name, number of pages.

    `settings` are those of the block `synthesis`. A part's name begins with its split.
    """
    return {
        f"{split}-{number:03d}": min(PART_PAGES, settings[split] - number * PART_PAGES)
        for split in SPLITS
        for number in range(math.ceil(settings[split] / PART_PAGES))
    }


def given_files(annotations: Sequence[str] | Mapping[str, Sequence[str]]) -> list[str]:
    """The files and folders of the setting `annotations`, divided or not."""
    if not isinstance(annotations, Mapping):
        return list(annotations)
    unknown = sorted(set(annotations) - set(SPLITS))
    if unknown:
        raise UserError(f"dataset.annotations has {unknown[0]}: there are {', '.join(SPLITS)}.")
    return [path for name in SPLITS for path in annotations.get(name) or ()]


def annotation_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files that `paths` name: themselves, and of folders what ends in .json or .xml, in order.

    Raises UserError for a path that does not exist, and where there is no file at all.
    """
    files: dict[Path, None] = {}
    paths = [Path(path) for path in paths]
    for path in paths:
        if path.is_dir():
            found = (each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
            files |= dict.fromkeys(sorted(each for each in found if each.is_file()))
        elif path.exists():
            files[path] = None
        else:
            raise UserError(
                f"There are no annotations at {path}: no such file or folder. Is it spelled right? "
                f"A relative path is relative to the working directory, {Path.cwd()}."
            )
    if not files:
        raise UserError(
            f"There are no annotations in {', '.join(map(str, paths)) or 'an empty list'}: give "
            "files of COCO, Label Studio, PAGE-XML or ALTO, or folders of .json and .xml files."
        )
    return list(files)


def image_digest(annotations: Sequence[str | Path], images: str | None) -> str:
    """A digest of names, sizes and times of the images' folder (by default that of the annotations)."""
    folders = {Path(images)} if images else {Path(path).parent for path in annotations}
    known = []
    for folder in sorted(folders):
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                status = path.stat()
                known.append([str(path), status.st_size, status.st_mtime_ns])
    return digest_json(known)


def read_annotations(paths: Iterable[str | Path]) -> Annotations:
    """The pages of files and folders, and what is broken in them.

    Raises UserError as `annotation_files` does; whatever is wrong inside a file is a problem.
    """
    pages: list[AnnotatedPage] = []
    problems: list[Problem] = []
    for path in annotation_files(paths):
        place = _Place(problems, str(path))
        try:
            pages += _read_file(path, place)
        except _Broken as broken:
            place.tell(broken.kind, "error", str(broken))
    return Annotations(pages, problems)


def _read_file(path: Path, place: _Place) -> list[AnnotatedPage]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _Broken("unreadable_file", f"it cannot be read ({error.strerror})") from error
    # The first character, whatever the encoding: UTF-16 has zero bytes, and marks of byte order.
    first = data[:64].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1]
    if first == b"<":
        return _read_xml(data, place)
    if first in (b"{", b"["):
        return _read_json(data, place)
    raise _Broken("unknown_format", "it is empty" if not data else "it is neither JSON nor XML")


def _read_json(data: bytes, place: _Place) -> list[AnnotatedPage]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _Broken("unreadable_file", f"it is no valid JSON ({error})") from error
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        return _read_coco(content, place)
    if isinstance(content, list) and any(_is_task(task) for task in content):
        return _read_label_studio(content, place)
    raise _Broken(
        "unknown_format",
        "it is JSON, but neither COCO (an object with `images`, `annotations`, `categories`) nor "
        "Label Studio's export of the kind JSON (a list of tasks with `data` and `annotations`)",
    )


class _Tree(ElementTree.TreeBuilder):
    """Refuses document types: entities, the bombs and the files of others, are defined there."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise _Broken(
            "unreadable_file",
            f"it has a document type (<!DOCTYPE {name} ...>), which is not read for safety; neither "
            "PAGE-XML nor ALTO needs one: remove that line",
        )


def _read_xml(data: bytes, place: _Place) -> list[AnnotatedPage]:
    try:
        parser = ElementTree.XMLParser(target=_Tree())  # noqa: S314 (_Tree refuses entities)
        parser.feed(data)
        root = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise _Broken("unreadable_file", f"it is no valid XML ({error})") from error
    name = _local(root)
    if name == "PcGts":
        return _read_page_xml(root, place)
    if name.lower() == "alto":
        return _read_alto(root, place)
    raise _Broken(
        "unknown_format", f"it is XML, but neither PAGE-XML nor ALTO: its root is <{name}>"
    )


# Shapes -------------------------------------------------------------------------------------------


def _numbers(values: object) -> list[float] | None:
    """A list of finite numbers, or None for anything else."""
    if not isinstance(values, list | tuple):
        return None
    numbers = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            numbers.append(float(value))
        except OverflowError:
            return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _parse_numbers(text: str) -> list[float]:
    """The numbers of a text, apart from each other by blanks or commas."""
    try:
        numbers = [float(part) for part in re.split(r"[\s,]+", text.strip()) if part]
    except ValueError as error:
        raise _Broken("malformed_annotation", f"{_short(text)} are no coordinates") from error
    if not all(map(math.isfinite, numbers)):
        raise _Broken("malformed_annotation", f"{_short(text)} are no coordinates")
    return numbers


def extent(polygons: Sequence[Polygon]) -> Box:
    """The smallest box around polygons."""
    x = [value for polygon in polygons for value in polygon[::2]]
    y = [value for polygon in polygons for value in polygon[1::2]]
    return min(x), min(y), max(x), max(y)


def polygon_area(polygon: Polygon) -> float:
    """The area of a polygon that does not cross itself (shoelace formula)."""
    points = [*zip(polygon[::2], polygon[1::2], strict=True), polygon[:2]]
    return abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(points))) / 2


def is_outline(polygon: Sequence[float]) -> bool:
    """Whether a polygon has an inside, and more than a pixel of width and height: less than one is
    reported as a box without area when it comes back."""
    if len(polygon) < 6 or not polygon_area(tuple(polygon)):
        return False
    x_min, y_min, x_max, y_max = extent([tuple(polygon)])
    return min(x_max - x_min, y_max - y_min) > 1


def coco_annotation(
    number: int,
    image_id: int,
    category_id: int,
    box: Box,
    polygons: Sequence[Polygon],
    decimals: int = 2,
) -> dict[str, Any]:
    """COCO's entry of a region; of the sides of its box and of its area so many decimals stay."""
    x_min, y_min, x_max, y_max = box
    width, height = x_max - x_min, y_max - y_min
    area = sum(map(polygon_area, polygons)) or width * height
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x_min, y_min, round(width, decimals), round(height, decimals)],
        "area": round(area, decimals),
        "iscrowd": 0,
        "segmentation": [list(polygon) for polygon in polygons],
    }


def annotate(
    number: int, image_id: int, category_id: int, outline: np.ndarray, decimals: int = 1
) -> dict[str, Any]:
    """COCO's entry of a region with the outline (P, 2), of whose pixels so many decimals stay."""
    points = np.round(outline.astype(float), decimals)
    box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
    polygon = tuple(points.reshape(-1).tolist())
    return coco_annotation(number, image_id, category_id, box, [polygon], decimals)


def _outline(numbers: list[float]) -> Polygon:
    """The polygon of the coordinates of an XML file."""
    if len(numbers) % 2 or len(numbers) < 6:
        raise _Broken(
            "malformed_annotation",
            f"an outline of {len(numbers)} coordinates: it takes three points or more",
        )
    return tuple(numbers)


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def _box(given: Box | None, polygons: tuple[Polygon, ...], place: _Place) -> Box:
    """The box of a region: as given, unless its polygons are about something else."""
    if not polygons:
        if given is None:
            raise _Broken("malformed_annotation", "it has neither a box nor a polygon")
        return given
    outer = extent(polygons)
    if given is None:
        return outer
    if _overlap(given, outer) < SAME_BOX:
        place.tell(
            "box_differs",
            "warning",
            f"its box {_listed(given)} is not that of its polygon {_listed(outer)} (x_min, y_min, "
            "x_max, y_max); the polygon's is taken",
        )
        return outer
    return given


# COCO ---------------------------------------------------------------------------------------------


def _read_coco(content: Mapping[str, Any], place: _Place) -> list[AnnotatedPage]:
    """COCO, also as Label Studio exports it."""
    names = {
        _key(category.get("id")): plain_text(category["name"].strip())
        for category in _dicts(content.get("categories"))
        if isinstance(category.get("name"), str)
    }
    pages: dict[object, AnnotatedPage] = {}
    for number, image in enumerate(_entries(content["images"]), 1):
        name, key = image.get("file_name"), _key(image.get("id"))
        if not isinstance(name, str) or not name or key is None:
            place.tell("malformed_image", "error", f"image {number} has no file_name or no id")
        elif key in pages:
            message = f"the id {key} is that of {pages[key].image} too"
            place._replace(image=name).tell("duplicate_id", "error", message)
        else:
            width, height = _size(image.get("width")), _size(image.get("height"))
            page = AnnotatedPage(place.file, name, width, height, (), *_source(image))
            pages[key] = page

    regions: dict[object, list[AnnotatedRegion]] = {key: [] for key in pages}
    ids = Counter()
    annotations = content.get("annotations")
    if not isinstance(annotations, list):
        place.tell("malformed_annotation", "warning", "the file has no list `annotations`")
        annotations = []
    for number, annotation in enumerate(_entries(annotations), 1):
        given, key = _key(annotation.get("id")), _key(annotation.get("image_id"))
        identity = f"#{number}" if given is None else str(given)
        image = pages[key].image if key in pages else ""
        here = place._replace(image=image, annotation=identity)
        ids[identity] += 1
        if ids[identity] == 2:
            here.tell("duplicate_id", "warning", "other annotations have the same id")
        try:
            if key not in pages:
                raise _Broken("unknown_image", f"there is no image {annotation.get('image_id')}")
            regions[key].append(_coco_region(annotation, identity, names, here))
        except _Broken as broken:
            here.tell(broken.kind, "error", str(broken))
    return [page._replace(regions=tuple(regions[key])) for key, page in pages.items()]


def _coco_region(
    annotation: Mapping[str, Any], identity: str, names: Mapping[object, str], place: _Place
) -> AnnotatedRegion:
    category = _key(annotation.get("category_id"))
    if category is None or category not in names:
        shown = annotation.get("category_id")
        raise _Broken("unknown_category", f"there is no category {_short(shown)}")
    if annotation.get("iscrowd"):
        raise _Broken("crowd", f"iscrowd is {_short(annotation['iscrowd'])}")
    box = None
    if annotation.get("bbox"):
        numbers = _numbers(annotation["bbox"])
        if numbers is None or len(numbers) != 4:
            message = f"its bbox {_short(annotation['bbox'])} is not x, y, width, height"
            raise _Broken("malformed_annotation", message)
        x, y, width, height = numbers
        box = (x, y, x + width, y + height)
    polygons = _coco_polygons(annotation.get("segmentation"), box, place)
    return AnnotatedRegion(identity, names[category], _box(box, polygons, place), polygons)


def _coco_polygons(segmentation: object, box: Box | None, place: _Place) -> tuple[Polygon, ...]:
    """The polygons among what COCO files have for `segmentation`."""
    if not segmentation:
        return ()
    if isinstance(segmentation, dict):
        if box is None:
            raise _Broken("unsupported_shape", "it is a mask of run lengths, without a box")
        message = "its mask of run lengths is not read; its box is taken"
        place.tell("unsupported_shape", "warning", message)
        return ()
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    if not any(isinstance(part, list) for part in parts):  # One polygon, without the outer list.
        parts = [parts]
    polygons = []
    for part in parts:
        numbers = _numbers(part)
        if numbers is not None and len(numbers) >= 6 and len(numbers) % 2 == 0:
            polygons.append(tuple(numbers))
        elif numbers is None or len(numbers) not in (0, 4):
            message = f"its polygon {_short(part)} is not x, y of three points or more"
            place.tell("bad_polygon", "warning", message)
        # Four numbers are how Label Studio writes a box: that is what `bbox` says too.
        elif len(numbers) == 4 and box is None:
            raise _Broken("malformed_annotation", "it has no bbox, and no polygon")
    return tuple(polygons)


# Label Studio -------------------------------------------------------------------------------------


def _is_task(task: object) -> bool:
    return isinstance(task, dict) and isinstance(task.get("data"), dict)


def _read_label_studio(tasks: list[object], place: _Place) -> list[AnnotatedPage]:
    """Label Studio's export of the kind JSON; `completions` is how releases before 1.0 call it."""
    pages = []
    for number, task in enumerate(tasks, 1):
        identity = _key(task.get("id")) if isinstance(task, dict) else None
        identity = f"task {number if identity is None else identity}"
        image = _task_image(task["data"]) if _is_task(task) else None
        if image is None:
            message = f"{identity} has no `data` with the name of an image"
            place.tell("malformed_image", "error", message)
            continue
        here = place._replace(image=image)
        made = [
            each
            for each in _dicts(task.get("annotations", task.get("completions")))
            if not each.get("was_cancelled")
        ]
        if not made:
            message = f"{identity} has no annotation; submit an empty one for an empty page"
            here.tell("not_annotated", "warning", message)
            continue
        # What was marked as the truth, and otherwise what was changed last.
        chosen = max(made, key=lambda each: (bool(each.get("ground_truth")), _when(each)))
        if len(made) > 1:
            message = f"{identity} has {len(made)} annotations; {chosen.get('id')} is taken"
            here.tell("several_annotations", "warning", message)
        results = _dicts(chosen.get("result"))
        regions = tuple(_label_studio_regions(results, here))
        sizes = [
            (result.get("original_width"), result.get("original_height")) for result in results
        ]
        width, height = next((pair for pair in sizes if all(map(_size, pair))), (None, None))
        pages.append(
            AnnotatedPage(
                place.file,
                image,
                _size(width),
                _size(height),
                regions,
                *_source(task["data"]),
                percent=True,
                file_name=_file_name(task["data"]),
            )
        )
    return pages


def _when(annotation: Mapping[str, Any]) -> str:
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def _task_image(data: Mapping[str, Any]) -> str | None:
    """The image of a task: `image`, as in Label Studio's templates, or what looks like one."""
    texts = {key: value for key, value in data.items() if isinstance(value, str) and value}
    if "image" in texts:
        return texts["image"]
    return next((value for value in texts.values() if _IMAGE_NAME.search(image_path(value))), None)


def _file_name(data: Mapping[str, Any]) -> str | None:
    """The image's own name, which stands beside its address in tasks that were made from a run."""
    name = data.get("file_name")
    return name if isinstance(name, str) and _IMAGE_NAME.search(name) else None


def image_path(name: str) -> str:
    """The path that an image's name stands for, with slashes: names may be addresses.

    Of Label Studio's local files, `/data/local-files/?d=folder/page.jpg`, it is what stands behind
    `?d=`.
    """
    if name.startswith("/data/") or re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE):
        parts = urllib.parse.urlsplit(name)
        local = urllib.parse.parse_qs(parts.query).get("d")
        name = local[0] if local else urllib.parse.unquote(parts.path)
    return name.replace("\\", "/")


def _label_studio_regions(
    results: Sequence[Mapping[str, Any]], place: _Place
) -> Iterator[AnnotatedRegion]:
    """The regions of an annotation; with separate tags, a shape and its label share an id."""
    labels = {_key(result.get("id")): _labels(result) for result in results if _labels(result)}
    seen = set()
    for number, result in enumerate(results, 1):
        kind, value = str(result.get("type")), result.get("value")
        given = _key(result.get("id"))
        identity = f"#{number}" if given is None else str(given)
        here = place.of(identity)
        if kind.startswith(_LABEL_STUDIO_SHAPES):
            here.tell("unsupported_shape", "error", f"it is a shape of the kind {kind}")
            continue
        is_shape = isinstance(value, dict) and ("points" in value or "height" in value)
        if not is_shape and not kind.startswith(("rectangle", "polygon")):
            continue  # A choice, a text, a relation: nothing that has a place on the page.
        if given is not None and given in seen:
            continue  # Shape, label and transcript of one region repeat its coordinates.
        seen.add(given)
        try:
            if not isinstance(value, dict):
                raise _Broken("malformed_annotation", "it has no `value`")
            names = _labels(result) or labels.get(given if given is not None else "")
            if not names:
                raise _Broken("malformed_annotation", "it has no label")
            if len(names) > 1:
                message = f"it has the classes {', '.join(names)}; {names[0]} is taken"
                here.tell("several_classes", "warning", message)
            if result.get("image_rotation"):
                message = "the image was turned while it was annotated; turn its file instead"
                raise _Broken("unsupported_shape", message)
            polygons, box = _label_studio_shape(result, value)
            yield AnnotatedRegion(identity, names[0], _box(box, polygons, here), polygons)
        except _Broken as broken:
            here.tell(broken.kind, "error", str(broken))


def _labels(result: Mapping[str, Any]) -> list[str]:
    value = result.get("value")
    if not isinstance(value, dict):
        return []
    found = next((value[key] for key in _LABEL_STUDIO_LABELS if value.get(key)), [])
    names = found if isinstance(found, list) else [found]
    return [plain_text(name.strip()) for name in names if isinstance(name, str) and name.strip()]


def _label_studio_shape(
    result: Mapping[str, Any], value: Mapping[str, Any]
) -> tuple[tuple[Polygon, ...], Box | None]:
    """(polygons, box) in hundredths of width and height."""
    if "points" in value:
        points = [_numbers(point) for point in _list(value["points"])]
        if len(points) < 3 or any(point is None or len(point) != 2 for point in points):
            message = f"its points {_short(value['points'])} are not x, y of three points or more"
            raise _Broken("malformed_annotation", message)
        return (tuple(number for point in points for number in point),), None
    numbers = _numbers([value.get(key) for key in ("x", "y", "width", "height")])
    if numbers is None:
        raise _Broken("malformed_annotation", f"it has no x, y, width, height: {_short(value)}")
    x, y, width, height = numbers
    turn = _numbers([value.get("rotation") or 0])
    if turn is None:
        raise _Broken("malformed_annotation", f"its rotation is {_short(value.get('rotation'))}")
    if turn[0] % 360 == 0:
        return (), (x, y, x + width, y + height)
    sizes = [_size(result.get(key)) for key in ("original_width", "original_height")]
    if not all(sizes):
        raise _Broken(
            "malformed_annotation", "it is turned, and original_width, _height are missing"
        )
    # Turned clockwise about its first corner, in pixels: hundredths differ along the two sides.
    aspect, angle = sizes[0] / sizes[1], math.radians(turn[0])
    polygon = []
    for right, down in ((0, 0), (width, 0), (width, height), (0, height)):
        polygon.append(x + right * math.cos(angle) - down * math.sin(angle) / aspect)
        polygon.append(y + right * math.sin(angle) * aspect + down * math.cos(angle))
    return (tuple(polygon),), None


# PAGE-XML and ALTO --------------------------------------------------------------------------------


_Reader = Callable[[ElementTree.Element, _Place], AnnotatedRegion]


def _read_page_xml(root: ElementTree.Element, place: _Place) -> list[AnnotatedPage]:
    """PAGE-XML of the PRImA lab, whatever the year of its namespace."""
    pages = []
    for page in _children(root, "Page"):
        image = page.get("imageFilename", "")
        if not image:
            place.tell("malformed_image", "error", "its <Page> has no imageFilename")
            continue
        elements = [each for each in page.iter() if _local(each).endswith("Region")]
        # What has no type, and the outline of the region that it lies in, is the text of that one.
        inner = {
            each
            for outer in elements
            for each in _children(outer, "TextRegion")
            if not (each.get("type") or each.get("custom")) and _points(each) == _points(outer)
        }
        elements = [each for each in elements if each not in inner]
        regions = _xml_regions(elements, "id", _page_region, place._replace(image=image))
        sizes = (_size(page.get(key)) for key in ("imageWidth", "imageHeight"))
        pages.append(AnnotatedPage(place.file, image, *sizes, regions))
    if not pages and not _children(root, "Page"):
        place.tell("malformed_image", "error", "it has no <Page>")
    return pages


def _xml_regions(
    elements: Sequence[ElementTree.Element], attribute: str, read: _Reader, place: _Place
) -> tuple[AnnotatedRegion, ...]:
    """What `read` makes of elements; the problems of those of which it makes nothing."""
    regions = []
    for number, element in enumerate(elements, 1):
        here = place.of(element.get(attribute) or f"#{number}")
        try:
            regions.append(read(element, here))
        except _Broken as broken:
            here.tell(broken.kind, "error", str(broken))
    return tuple(regions)


def _page_region(element: ElementTree.Element, place: _Place) -> AnnotatedRegion:
    """A region; its class is the type in @custom, else the @type of text and custom regions, else the
    element's name."""
    name = _local(element)
    # Transkribus keeps types beyond the schema's own in @custom: structure {type:heading;}
    custom = re.search(r"structure\s*\{[^}]*\btype:\s*([^;}]+)", element.get("custom", ""))
    if custom:  # In which it writes what would end the type as \u003b.
        name = re.sub(r"\\u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), custom[1].strip())
    elif name in ("TextRegion", "CustomRegion"):
        name = element.get("type", "").strip() or name
    points = _points(element)
    if points is None:
        raise _Broken("malformed_annotation", "it has no <Coords>")
    polygon = _outline(_parse_numbers(points))
    return AnnotatedRegion(place.annotation, name, extent([polygon]), (polygon,))


def _points(element: ElementTree.Element) -> str | None:
    """The outline of a region of PAGE-XML as it is written; None where it has none."""
    coords = _children(element, "Coords")
    if not coords:
        return None
    points = coords[0].get("points")
    if points is None:  # Until 2010.
        points = " ".join(
            f"{point.get('x', '')},{point.get('y', '')}" for point in _children(coords[0], "Point")
        )
    return points


def _read_alto(root: ElementTree.Element, place: _Place) -> list[AnnotatedPage]:
    """ALTO 2 to 4; classes are the tags of blocks, as in SegmOnto."""
    unit = _text(root, "MeasurementUnit")
    if unit != "pixel":
        said = f"MeasurementUnit is {unit}" if unit else "there is no MeasurementUnit"
        raise _Broken(
            "unsupported_unit",
            f"{said}: without the scan's resolution, which ALTO does not give, only `pixel` says "
            "where on the image a block lies",
        )
    image = _text(root, "fileName")
    pages = [element for element in root.iter() if _local(element) == "Page"]
    if not image or len(pages) != 1:
        message = f"it has {len(pages)} <Page> and the fileName `{image}`: it takes one of each"
        raise _Broken("malformed_image", message)
    tags = {
        tag.get("ID"): tag.get("LABEL", "").strip()
        for tag in root.iter()
        if _local(tag) in _ALTO_TAGS
    }
    elements = [
        element
        for element in pages[0].iter()
        # eScriptorium's home of lines that are in no region.
        if _local(element) in _ALTO_BLOCKS
        and not element.get("ID", "").startswith("eSc_dummyblock")
    ]

    def read(element: ElementTree.Element, here: _Place) -> AnnotatedRegion:
        return _alto_region(element, tags, here)

    regions = _xml_regions(elements, "ID", read, place._replace(image=image))
    sizes = (_size(pages[0].get(key)) for key in ("WIDTH", "HEIGHT"))
    return [AnnotatedPage(place.file, image, *sizes, regions)]


def _alto_region(
    element: ElementTree.Element, tags: Mapping[str | None, str], place: _Place
) -> AnnotatedRegion:
    """A block; its class is its tag's label, else its TYPE or the element's name.

    SegmOnto numbers zones of a page as in `MainZone:column#2`: the number is left out.
    """
    references = element.get("TAGREFS", "").split()
    labels = [tags[reference] for reference in references if tags.get(reference)]
    if references and not any(reference in tags for reference in references):
        raise _Broken("unknown_category", f"its tags {' '.join(references)} are not in <Tags>")
    names = [re.sub(r"#\d+$", "", label) for label in labels]
    name = (names or [element.get("TYPE", "").strip() or _local(element)])[0]
    if len(set(names)) > 1:
        message = f"it has the classes {', '.join(names)}; {name} is taken"
        place.tell("several_classes", "warning", message)
    box = None
    given = [element.get(key) for key in ("HPOS", "VPOS", "WIDTH", "HEIGHT")]
    if all(given):
        x, y, width, height = _parse_numbers(" ".join(given))
        box = (x, y, x + width, y + height)
    shapes = [part for shape in _children(element, "Shape") for part in _children(shape, "Polygon")]
    polygons = tuple(_outline(_parse_numbers(shape.get("POINTS", ""))) for shape in shapes)
    return AnnotatedRegion(place.annotation, name, _box(box, polygons, place), polygons)


# Odds and ends of files ---------------------------------------------------------------------------


def _local(element: ElementTree.Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]


def _children(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [child for child in element if _local(child) == name]


def _text(root: ElementTree.Element, name: str) -> str:
    """The text of the first element of that name; empty where there is none."""
    found = next((element for element in root.iter() if _local(element) == name), None)
    return "" if found is None else (found.text or "").strip()


def _list(value: object) -> list:
    return value if isinstance(value, list) else []


def _dicts(value: object) -> list[dict]:
    return [each for each in _list(value) if isinstance(each, dict)]


def _entries(values: list) -> list[dict]:
    """Objects of a list; whatever is none, as an empty one, so that it is found to be malformed."""
    return [each if isinstance(each, dict) else {} for each in values]


def _key(value: object) -> int | str | None:
    """An id of JSON; None for what can be none."""
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _size(value: object) -> int | None:
    """A claimed width or height; None where it claims nothing that could be one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return round(number) if math.isfinite(number) and number >= 1 else None


def _source(fields: Mapping[str, Any]) -> tuple[str | None, int | None]:
    """The `document` and `page` that travel with an image."""
    document, page = fields.get("document"), fields.get("page")
    if isinstance(page, str) and page.strip().isdecimal():
        page = int(page)
    is_number = isinstance(page, int) and not isinstance(page, bool)
    return (
        document if isinstance(document, str) and document else None,
        page if is_number and abs(page) < 2**31 else None,
    )


def plain_text(text: str) -> str:
    """A text that can be stored: JSON, and names of files, may hold halves of characters."""
    return text.encode("utf-8", "backslashreplace").decode()


def _listed(box: Box) -> str:
    return ", ".join(f"{value:g}" for value in box)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
