"""Datasets for training: annotated pages, checked against their images, classes merged, split.

`make_dataset` finds what is wrong, `write_dataset` writes COCO, tables and a report. Neither changes
an image or a file of annotations.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from scanmill.annotated_images import ImageFolder, ImageHeader, read_headers, relative_name
from scanmill.annotations import (
    AnnotatedPage,
    AnnotatedRegion,
    Annotations,
    Polygon,
    Problem,
    annotation_files,
    coco_annotation,
    given_files,
    plain_text,
    polygon_area,
    read_annotations,
)
from scanmill.dataset_report import write_report
from scanmill.errors import UserError
from scanmill.progress import logger
from scanmill.regions import Box
from scanmill.splits import SPLITS, DocumentCounts, check_shares, split_documents
from scanmill.tables import from_rows, write_table

#: The settings of a dataset, where none are given.
DEFAULTS: Mapping[str, Any] = {
    # Files and folders of annotations, whose pages are divided; or such a list for each of train, val
    # and test (test alone: to judge a model by).
    "annotations": [],
    # Folder of the images; null: that of the annotations.
    "images": None,
    # Names in the order of their ids; null: all that there are, the most frequent first.
    "classes": None,
    # Name in the annotations -> name of the class, or null to leave its annotations out.
    "map": {},
    # Fewer in training are reported: a detector hardly learns a class from less.
    "min_examples": 20,
    # A regular expression on the images' names whose group 1 is the document; null: what the
    # annotations say, otherwise the image's folder.
    "document": None,
    "split": {"train": 0.7, "val": 0.15, "test": 0.15},
    "seed": 0,
}

#: Sides of a page of which two claims may differ in their ratio and still be of the same image.
SAME_RATIO = 0.01
#: Pixels by which a box may reach over the page's edge: Label Studio's hundredths, and sizes that
#: were scaled, are off by less.
EDGE = 1.0
#: Pixels below which a box, or an image below twice as many, has no inside.
MIN_SIDE = 1.0
#: Decimals of pixels that are kept.
DECIMALS = 2
#: Detectron2 and others have a class of this name of their own: what is in no box.
_BACKGROUND = "background"
#: Pages that are left out of the set where they hurt least, if their image is in another too.
_KEPT = {"test": 0, "val": 1, "train": 2}
_THREADS = 4


class DatasetObject(NamedTuple):
    """One object to learn, or to be found."""

    class_id: int
    """From 0, the place in the dataset's classes."""
    box: Box
    """Pixels of the upright image, within it."""
    polygons: tuple[Polygon, ...]
    """In the same pixels; none where there is only a box."""
    annotation: str
    """Its id in the file of annotations."""


class DatasetImage(NamedTuple):
    """One page of a dataset."""

    split: str
    document: str
    page: int | None
    file_name: str
    """Relative to the dataset's `images`, or absolute where the annotations say so."""
    path: Path
    width: int
    height: int
    sha256: str
    grey: bool
    file: str
    """The file of annotations."""
    objects: tuple[DatasetObject, ...]


class Dataset(NamedTuple):
    """Pages to train, validate and test a detector with, and what was wrong with them."""

    classes: tuple[str, ...]
    images: tuple[DatasetImage, ...]
    """In the order of their names."""
    problems: tuple[Problem, ...]
    image_folder: str
    """That names are relative to, as it was given."""


class _Page(NamedTuple):
    """A page whose image is known."""

    annotated: AnnotatedPage
    path: Path
    file_name: str
    header: ImageHeader
    split: str | None

    def problem(self, kind: str, severity: str, message: str, annotation: str = "") -> Problem:
        """A problem of this page."""
        file = self.annotated.file
        return Problem(kind, severity, file, self.file_name, annotation, message)


def prepare_dataset(settings: Mapping[str, Any], folder: Path) -> Dataset:
    """Read annotations, check and divide them, write the dataset into `folder`, and log what there is.

    `settings` are those of `DEFAULTS`. Raises UserError as `make_dataset` does.
    """
    files = given_files(settings["annotations"])
    if not files:
        raise UserError(
            "There is nothing to train with: dataset.annotations is empty. Name files or folders of "
            "COCO, Label Studio, PAGE-XML or ALTO annotations there."
        )
    dataset = make_dataset(read_annotations(files), settings)
    write_dataset(dataset, folder)
    pages = Counter(image.split for image in dataset.images)
    logger.info(
        "%d pages (%s), %d objects of %d classes: %s",
        len(dataset.images),
        ", ".join(f"{split} {pages[split]}" for split in SPLITS if pages[split]),
        sum(len(image.objects) for image in dataset.images),
        len(dataset.classes),
        ", ".join(dataset.classes),
    )
    kinds = Counter((each.severity, each.kind) for each in dataset.problems)
    for (severity, kind), count in kinds.most_common():
        logger.warning("%s: %d of %s", severity, count, kind)
    logger.info("look at %s", folder / "report.html")
    return dataset


def make_dataset(annotations: Annotations, settings: Mapping[str, Any]) -> Dataset:
    """Check annotated pages against their images and divide them.

    `settings` are those of `DEFAULTS`, all optional. The result does not depend on the order of pages.

    Raises UserError for what has no answer but the user's: a class that is not in `classes` nor in
    `map`, a class named background, a training or validation set without pages, a class that is
    annotated, but not in training.
    """
    settings = {**DEFAULTS, **settings}
    problems = list(annotations.problems)
    renamed = _class_names(annotations.pages, settings, problems)
    folder = _image_folder(annotations.pages, settings)
    given = _given_splits(settings)
    pages = _find_images(annotations.pages, folder, settings["images"] is None, given, problems)
    pages = _without_duplicates(pages, problems)
    regions = {}
    for page in pages:
        scale = _scale(page, problems)
        if scale is not None:
            regions[page.file_name] = _place_regions(page, scale, renamed, problems)
    pages = [page for page in pages if page.file_name in regions]
    classes = _classes(regions.values(), settings)
    images = [_image(page, regions[page.file_name], classes) for page in pages]
    images = _with_documents(images, settings["document"], problems)
    if given is None:
        images = _divide(images, len(classes), settings)
    _check_splits(images, classes, settings, problems)
    return Dataset(tuple(classes), tuple(images), tuple(sorted(problems)), str(folder))


# Classes ------------------------------------------------------------------------------------------


def _class_names(
    pages: Sequence[AnnotatedPage], settings: Mapping[str, Any], problems: list[Problem]
) -> dict[str, str | None]:
    """The class of each name in the annotations, or None where it is left out."""
    counts = Counter(region.class_name for page in pages for region in page.regions)
    mapping, classes = settings["map"] or {}, settings["classes"]
    for name in [*(classes or ()), *mapping.values(), *(() if classes else counts)]:
        if name is not None and mapping.get(name, name) is not None:
            _check_background(mapping.get(name, name))
    if classes is not None:
        _check_classes(classes, mapping)
    renamed = {}
    for name in sorted(counts):
        # A name that is a class itself need not be in the map.
        target = mapping.get(name, name)
        if target is None:
            message = f"{counts[name]} annotations of the class {name}: `map` leaves them out"
            problems.append(Problem("dropped_class", "note", "", "", "", message))
        elif classes is not None and target not in classes:
            raise UserError(_unknown_class(name, counts[name], _file_of(name, pages), classes))
        renamed[name] = target
    for name in sorted(set(mapping) - set(counts)):
        message = f"`map` has {name}, and no annotation has that class{_nearest(name, counts)}"
        problems.append(Problem("unused_map", "warning", "", "", "", message))
    return renamed


def _check_background(name: str) -> None:
    if name.strip("_ ").lower() == _BACKGROUND:
        raise UserError(
            f"A class is named {name}. The detector has a background of its own, which is whatever "
            "lies in no box; a class of that name would be learnt beside it and take detections from "
            f"the others. Leave it out with map: {{{name}: null}}, or give it another name there."
        )


def _check_classes(classes: Sequence[str], mapping: Mapping[str, str | None]) -> None:
    double = [name for name, count in Counter(classes).items() if count > 1]
    if double:
        raise UserError(f"classes has {double[0]} twice: each name is one class. Remove one.")
    for name, target in mapping.items():
        if target is not None and target not in classes:
            raise UserError(
                f"map makes {target} of {name}, and classes has no {target}"
                f"{_nearest(target, classes)}. Its classes: {', '.join(classes)}. Add it there, or "
                "choose one of them."
            )


def _unknown_class(name: str, count: int, file: str, classes: Sequence[str]) -> str:
    return (
        f"{file}: {count} annotations have the class {name}, which is neither in classes nor in map"
        f"{_nearest(name, classes)}. Its classes: {', '.join(classes)}. Add {name} to classes, or to "
        f"map as a name of one of them, or with map: {{{name}: null}} leave its annotations out."
    )


def _file_of(name: str, pages: Sequence[AnnotatedPage]) -> str:
    return min(
        page.file for page in pages if any(region.class_name == name for region in page.regions)
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    lower = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.4)
    return f" (is it {lower[near[0]]}?)" if near else ""


def _classes(
    regions: Iterable[Sequence[AnnotatedRegion]], settings: Mapping[str, Any]
) -> list[str]:
    """The classes in the order of their ids."""
    if settings["classes"] is not None:
        return list(settings["classes"])
    counts = Counter(region.class_name for page in regions for region in page)
    return sorted(counts, key=lambda name: (-counts[name], name))


# Images -------------------------------------------------------------------------------------------


def _image_folder(pages: Sequence[AnnotatedPage], settings: Mapping[str, Any]) -> Path:
    """The folder that names of images are relative to."""
    if settings["images"] is not None:
        folder = Path(settings["images"])
        if not folder.is_dir():
            raise UserError(
                f"images is {folder}, and there is no such folder ({folder.absolute()}). Give the "
                "folder of the annotated images, or leave images out if they lie with the annotations."
            )
        return folder
    folders = {os.path.dirname(page.file) for page in pages}
    if len({os.path.isabs(each) for each in folders}) > 1:
        folders = {os.path.abspath(each) for each in folders}
    return Path(os.path.commonpath(folders)) if folders else Path()


def _given_splits(settings: Mapping[str, Any]) -> dict[str, str] | None:
    """The split of each file of annotations, or None where documents are to be divided."""
    given = settings["annotations"]
    if not isinstance(given, Mapping):
        return None
    named = [name for name in SPLITS if given.get(name)]
    for name, what in (("train", "training"), ("val", "validation")):
        if name not in named and named != ["test"]:
            raise UserError(
                f"The {what} set would be empty: annotations are given for {' and '.join(named)}, and "
                f"none for {name}. Give {name} files too, or one list for all, which is then divided "
                "by document."
            )
    splits: dict[str, str] = {}
    for name in named:
        for path in annotation_files(given[name]):
            if splits.setdefault(str(path), name) != name:
                raise UserError(
                    f"{path} is given for {splits[str(path)]} and for {name}: scores on pages that "
                    "were trained on say nothing. Remove it from one of them."
                )
    return splits


def _find_images(
    annotated: Sequence[AnnotatedPage],
    folder: Path,
    beside: bool,
    given: Mapping[str, str] | None,
    problems: list[Problem],
) -> list[_Page]:
    """The pages whose image is there and sound; `beside` their annotations they are looked for first
    where no folder was named."""
    images = ImageFolder(folder)
    found: list[tuple[AnnotatedPage, Path]] = []
    for page in annotated:
        own = Path(page.file).parent
        # Transkribus and others put PAGE-XML into a folder `page` below that of the images.
        places = [own, own.parent, folder] if beside else [folder, own, own.parent]
        candidates = images.find(page.image, places)
        if not candidates and page.file_name:
            candidates = images.find(page.file_name, places)
        if len(candidates) == 1:
            found.append((page, candidates[0]))
            continue
        kind, message = "missing_image", f"there is no such image in {folder}"
        if candidates:
            names = ", ".join(relative_name(path, folder) for path in candidates[:3])
            kind = "ambiguous_image"
            message = f"{len(candidates)} images in {folder} could be it: {names}"
        message += f"; {_lost(page)}"
        problems.append(Problem(kind, "error", page.file, page.image, "", message))
    headers = read_headers((path for _, path in found), _THREADS)
    pages = []
    for page, path in found:
        header, name = headers[path], relative_name(path, folder)
        if isinstance(header, str):
            kind, message = "unreadable_image", header
        elif min(header.width, header.height) < 2 * MIN_SIDE:
            kind, message = "tiny_image", f"it has {header.width} x {header.height} pixels"
        else:
            split = given.get(page.file) if given is not None else None
            if given is not None and split is None:
                raise UserError(
                    f"{page.file} was read, and is in none of train, val and test. Add it to one of "
                    "them, or give none of them for all to be divided."
                )
            pages.append(_Page(page, path, name, header, split))
            continue
        problems.append(Problem(kind, "error", page.file, name, "", f"{message}; {_lost(page)}"))
    return pages


def _lost(page: AnnotatedPage) -> str:
    return f"its page is left out, with {len(page.regions)} annotations"


def _without_duplicates(pages: Sequence[_Page], problems: list[Problem]) -> list[_Page]:
    """One page of each image, in the order of names: of several that with the most annotations."""

    def rank(page: _Page) -> tuple:
        in_test = _KEPT.get(page.split or "", 0)
        return (in_test, -len(page.annotated.regions), page.file_name, page.annotated)

    kept: dict[str, _Page] = {}
    for page in sorted(pages, key=rank):
        first = kept.setdefault(page.header.sha256, page)
        if first is not page:
            sets = f", and in {first.split}" if page.split != first.split else ""
            message = (
                f"it is the same image as {first.file_name} of {first.annotated.file}{sets}; "
                f"{_lost(page.annotated)}"
            )
            problems.append(page.problem("duplicate_image", "error", message))
    return sorted(kept.values(), key=lambda page: page.file_name)


def _scale(page: _Page, problems: list[Problem]) -> tuple[float, float] | None:
    """What coordinates along x and y are multiplied with to be pixels; None if that is unknown."""
    width, height = page.header.width, page.header.height
    claimed = (page.annotated.width, page.annotated.height)
    in_percent = (width / 100, height / 100)
    if None in claimed:
        if not page.annotated.percent:
            message = f"its annotations do not say its size; {width} x {height} is taken"
            problems.append(page.problem("size_mismatch", "warning", message))
        return in_percent if page.annotated.percent else (1.0, 1.0)
    scale = (width / claimed[0], height / claimed[1])
    said = f"it has {width} x {height} pixels, its annotations say {claimed[0]} x {claimed[1]}"
    if abs(scale[0] / scale[1] - 1) > SAME_RATIO:
        turned = abs(width / claimed[1] / (height / claimed[0]) - 1) <= SAME_RATIO
        hint = ", which is turned: was it annotated as its EXIF data turn it?" if turned else ""
        message = f"{said}{hint}; {_lost(page.annotated)}"
        problems.append(page.problem("size_mismatch", "error", message))
        return None
    if claimed != (width, height):
        message = f"{said}; coordinates are multiplied with {scale[0]:.4g}, {scale[1]:.4g}"
        problems.append(page.problem("size_mismatch", "warning", message))
    return in_percent if page.annotated.percent else scale


# Regions ------------------------------------------------------------------------------------------


def _place_regions(
    page: _Page,
    scale: tuple[float, float],
    renamed: Mapping[str, str | None],
    problems: list[Problem],
) -> list[AnnotatedRegion]:
    """The regions of a page with the names of their classes, in pixels, within the page."""
    placed = []
    for region in page.annotated.regions:
        name = renamed[region.class_name]
        box = None if name is None else _place_box(page, region, scale, problems)
        if box is None:
            continue
        polygons = tuple(_place_polygon(each, scale, page.header) for each in region.polygons)
        solid = tuple(each for each in polygons if polygon_area(each) > 0)
        if len(solid) < len(polygons):
            message = f"{len(polygons) - len(solid)} of its polygons without area are left out"
            problems.append(page.problem("bad_polygon", "warning", message, region.annotation))
        placed.append(AnnotatedRegion(region.annotation, name, box, solid))
    return placed


def _place_box(
    page: _Page,
    region: AnnotatedRegion,
    scale: tuple[float, float],
    problems: list[Problem],
) -> Box | None:
    """The box of a region in pixels, cut off at the page's edge; None where nothing is left."""
    width, height = page.header.width, page.header.height
    x_min, x_max = (x * scale[0] for x in region.box[::2])
    y_min, y_max = (y * scale[1] for y in region.box[1::2])
    said = f"its box {x_min:g}, {y_min:g}, {x_max:g}, {y_max:g} (x_min, y_min, x_max, y_max)"

    def tell(kind: str, severity: str, message: str) -> None:
        problem = page.problem(kind, severity, f"{said} {message}", region.annotation)
        problems.append(problem)

    if x_max - x_min < MIN_SIDE or y_max - y_min < MIN_SIDE:
        return tell("degenerate_box", "error", "is less than a pixel wide or high; left out")
    box = _within((x_min, y_min, x_max, y_max), width, height)
    if box[2] - box[0] < MIN_SIDE or box[3] - box[1] < MIN_SIDE:
        return tell(
            "outside_page", "error", f"lies outside its {width} x {height} pixels; left out"
        )
    if min(x_min, y_min, width - x_max, height - y_max) < -EDGE:
        tell("clipped_box", "warning", f"reaches over its {width} x {height} pixels; cut off there")
    return box


def _within(numbers: Sequence[float], width: int, height: int) -> tuple[float, ...]:
    """x, y, x, y, ... moved into the page and rounded."""
    sides = (width, height)
    return tuple(
        round(min(max(number, 0.0), float(sides[place % 2])), DECIMALS)
        for place, number in enumerate(numbers)
    )


def _place_polygon(polygon: Polygon, scale: tuple[float, float], header: ImageHeader) -> Polygon:
    scaled = [number * scale[place % 2] for place, number in enumerate(polygon)]
    return _within(scaled, header.width, header.height)


def _image(page: _Page, regions: Sequence[AnnotatedRegion], classes: Sequence[str]) -> DatasetImage:
    """A page of the dataset; its document is what the annotations say, or the image's folder."""
    ids = {name: place for place, name in enumerate(classes)}
    return DatasetImage(
        page.split or "",
        page.annotated.document or os.path.dirname(page.file_name) or ".",
        page.annotated.page,
        page.file_name,
        page.path,
        *page.header,
        page.annotated.file,
        tuple(
            DatasetObject(ids[region.class_name], region.box, region.polygons, region.annotation)
            for region in regions
        ),
    )


# Splits -------------------------------------------------------------------------------------------


def _with_documents(
    images: Sequence[DatasetImage], expression: str | None, problems: list[Problem]
) -> list[DatasetImage]:
    """The images with the documents that a regular expression on their names gives them."""
    if expression is None:
        return list(images)
    example = r"such as document: '([^/]*)_\d+\.[a-z]+$'"
    try:
        pattern = re.compile(expression)
    except re.error as error:
        message = f"document is no regular expression: {expression} ({error}). Write one {example}."
        raise UserError(message) from error
    if not pattern.groups:
        raise UserError(
            f"document is {expression}, which has no group: put what is the document's name into "
            f"parentheses, {example}."
        )
    result = []
    for image in images:
        match = pattern.search(image.file_name)
        if match is None or not match[1]:
            message = f"document: {expression} does not match; the page is a document of its own"
            place = (image.file, image.file_name, "")
            problems.append(Problem("no_document", "warning", *place, message))
        result.append(image._replace(document=(match and match[1]) or image.file_name))
    if images and all(image.document == image.file_name for image in result):
        matched = any(pattern.search(image.file_name) for image in images)
        if not matched:
            raise UserError(
                f"document is {expression}, which matches none of {len(images)} file names, the first "
                f"of which is {images[0].file_name}. Write one that matches, {example}."
            )
    return result


def _divide(
    images: Sequence[DatasetImage], classes: int, settings: Mapping[str, Any]
) -> list[DatasetImage]:
    """The images with their splits."""
    shares = check_shares(settings["split"])
    if not images:
        return []
    pages: Counter[str] = Counter(image.document for image in images)
    objects = defaultdict(Counter)
    for image in images:
        objects[image.document].update(each.class_id for each in image.objects)
    documents = [
        DocumentCounts(name, count, tuple(objects[name][place] for place in range(classes)))
        for name, count in pages.items()
    ]
    splits = split_documents(documents, shares, settings["seed"])
    return [image._replace(split=splits[image.document]) for image in images]


def _check_splits(
    images: Sequence[DatasetImage],
    classes: Sequence[str],
    settings: Mapping[str, Any],
    problems: list[Problem],
) -> None:
    """Find what would spoil training or its evaluation; the worst of it raises UserError."""
    sizes = Counter(image.split for image in images)
    given = settings["annotations"]
    judged = isinstance(given, Mapping) and not given.get("train")
    wanted = (("test", "test"),) if judged else (("train", "training"), ("val", "validation"))
    for name, what in wanted:
        if not sizes[name]:
            left_out = Counter(each.kind for each in problems if each.severity == "error")
            why = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common(5))
            first = next((each for each in sorted(problems) if each.severity == "error"), None)
            shown = f", for example {first.file}, {first.image}: {first.message}" if first else ""
            raise UserError(
                f"The {what} set is empty: of {name}, no page is left. Left out: {why or 'nothing'}"
                f"{shown}. Mend those, or give {name} further pages."
            )
    counts = {name: count_classes(images, name, len(classes)) for name in SPLITS}
    for place, name in enumerate(() if judged else classes):
        train = counts["train"][place]
        others = [split for split in SPLITS[1:] if counts[split][place]]
        if not train and others:
            raise UserError(
                f"The class {name} has no example in training, but {counts[others[0]][place]} in "
                f"{others[0]}: it would never be found. Move pages with it to train, or merge it into "
                f"another class with map, or leave it out with map: {{{name}: null}}."
            )
        if not train:
            message = f"no annotation has the class {name}: it will never be found"
            problems.append(Problem("class_without_examples", "warning", "", "", "", message))
        elif train < settings["min_examples"]:
            message = (
                f"the class {name} has {train} examples in training, fewer than min_examples "
                f"({settings['min_examples']}): annotate more, or merge it with map"
            )
            problems.append(Problem("few_examples", "warning", "", "", "", message))
    _check_leaks(images, problems)
    outlined = sum(bool(each.polygons) for image in images for each in image.objects)
    total = sum(len(image.objects) for image in images)
    if 0 < outlined < total:
        message = f"{outlined} objects have a polygon and {total - outlined} only a box"
        problems.append(Problem("mixed_polygons", "warning", "", "", "", message))


def _check_leaks(images: Sequence[DatasetImage], problems: list[Problem]) -> None:
    """Report documents with pages in several splits: only a given split has any."""
    splits = defaultdict(Counter)
    for image in images:
        splits[image.document][image.split] += 1
    for document, counts in splits.items():
        if len(counts) > 1:
            parts = " and ".join(f"{counts[name]} in {name}" for name in SPLITS if counts[name])
            message = (
                f"the document {document} has pages on both sides: {parts}; scores will be better "
                "than on documents that were never seen"
            )
            problems.append(Problem("document_in_two_splits", "warning", "", "", "", message))


def count_classes(images: Iterable[DatasetImage], split: str, classes: int) -> list[int]:
    """Objects of each class in a split."""
    counts = Counter(
        each.class_id for image in images if image.split == split for each in image.objects
    )
    return [counts[place] for place in range(classes)]


# Writing ------------------------------------------------------------------------------------------


def write_dataset(dataset: Dataset, folder: Path) -> None:
    """Write train.json, val.json, test.json, dataset.parquet, problems.parquet, report.html.

    Equal datasets are equal bytes: no times, and no paths but those that were given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in coco_files(dataset).items():
        temporary = folder / f".tmp-{name}-{os.getpid()}.json"
        try:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            os.replace(temporary, folder / f"{name}.json")
        finally:
            temporary.unlink(missing_ok=True)
    write_table(object_table(dataset), folder / "dataset.parquet")
    write_table(problem_table(dataset.problems), folder / "problems.parquet")
    write_report(dataset, folder / "report.html")


def coco_files(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """The content of each split's COCO file; ids are unique over all of them."""
    categories = [{"id": place, "name": name} for place, name in enumerate(dataset.classes, 1)]
    files = {
        split: {
            "info": {"description": f"Scanmill, {split}", "images": dataset.image_folder},
            "images": [],
            "annotations": [],
            "categories": categories,
        }
        for split in SPLITS
    }
    for image_id, annotation_id, image in _numbered(dataset):
        content = files[image.split]
        content["images"].append(
            {
                "id": image_id,
                "file_name": image.file_name,
                "width": image.width,
                "height": image.height,
                "document": image.document,
                "page": image.page,
                "sha256": image.sha256,
                "grey": image.grey,
            }
        )
        for number, each in enumerate(image.objects, annotation_id):
            entry = coco_annotation(number, image_id, each.class_id + 1, each.box, each.polygons)
            content["annotations"].append(entry)
    return files


def _numbered(dataset: Dataset) -> Iterable[tuple[int, int, DatasetImage]]:
    """(its id, the id of its first object, the image) of each image; ids begin at 1."""
    annotation_id = 1
    for image_id, image in enumerate(dataset.images, 1):
        yield image_id, annotation_id, image
        annotation_id += len(image.objects)


def object_table(dataset: Dataset) -> pa.Table:
    """The table `dataset`: a row per object, with the ids of the COCO files."""
    rows = []
    for image_id, annotation_id, image in _numbered(dataset):
        for number, each in enumerate(image.objects, annotation_id):
            largest = max(each.polygons, key=polygon_area, default=None)
            rows.append(
                {
                    "split": image.split,
                    "document": plain_text(image.document),
                    "page": image.page,
                    "file_name": plain_text(image.file_name),
                    "image_id": image_id,
                    "annotation_id": number,
                    "class_id": each.class_id,
                    "class_name": plain_text(dataset.classes[each.class_id]),
                    **dict(zip(("x_min", "y_min", "x_max", "y_max"), each.box, strict=True)),
                    "polygon": largest,
                    "page_width": image.width,
                    "page_height": image.height,
                }
            )
    return from_rows("dataset", rows)


def problem_table(problems: Iterable[Problem]) -> pa.Table:
    """The table `problems`."""
    rows = [
        {key: plain_text(value) or None for key, value in problem._asdict().items()}
        for problem in problems
    ]
    return from_rows("problems", rows)
