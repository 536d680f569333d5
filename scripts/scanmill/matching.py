"""Truth and detections as COCO matches them: checked, matched once, counted as often as one likes."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scanmill.errors import UserError
from scanmill.preprocessing import resized_shape

#: COCO's: 0.50, 0.55 .. 0.95, and the recalls at which precision is read.
IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
#: COCO's sizes, in squared pixels; here of the page as the detector sees it. What is outside of `all`
#: would be neither right nor wrong: a box on a page that is said to be of 1 pixel exceeds COCO's 1e10.
SIZES = {
    "all": (0, math.inf),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, math.inf),
}
#: COCO cuts at 100 detections a page; below that nobody's numbers would be comparable.
LEAST_MAX_DETECTIONS = 100

COLUMNS = {
    "image_id": pa.int64(),
    "class_id": pa.int32(),
    "class_name": pa.string(),
    "score": pa.float32(),
    "x_min": pa.float32(),
    "y_min": pa.float32(),
    "x_max": pa.float32(),
    "y_max": pa.float32(),
    "polygon": pa.list_(pa.int32()),
}


class Pages(NamedTuple):
    """The pages of the truth, by their image ids."""

    images: list[Mapping]
    """As COCO has them, in the order of their ids."""
    scales: np.ndarray
    """[I] squared pixels of the resized page for each of the image."""
    documents: list[str]
    """The document of each page; a page that names none is one of its own."""


class Objects(NamedTuple):
    """Regions of all pages: those of the truth or those detected. N of them, in the order given."""

    page: np.ndarray
    """[N] int64, indices of `Pages.images`."""
    label: np.ndarray
    """[N] int64, 0-based classes."""
    boxes: np.ndarray
    """[N, 4] float64: left, top, width and height in pixels of the image."""
    areas: np.ndarray
    """[N] float64, squared pixels of the image: of the outline where the truth says so, as in COCO."""
    scores: np.ndarray
    """[N] float32, 1 in the truth."""
    crowd: np.ndarray
    """[N] bool: what is found there is neither right nor wrong."""
    ids: np.ndarray
    """[N] int64: the annotations' own, 1 .. N for detections."""
    outlines: list
    """Polygons or RLE of each, [] for those that have none."""

    def take(self, rows: np.ndarray) -> Objects:
        """Those of a boolean mask or indices."""
        chosen = np.arange(len(self.page))[rows]
        arrays = [values[chosen] for values in self[:-1]]
        return Objects(*arrays, [self.outlines[row] for row in chosen])


class ClassMatches(NamedTuple):
    """What COCO matched of one class, D detections of all pages, best score first."""

    detections: np.ndarray
    """[D] rows of the detections."""
    page: np.ndarray
    """[D] indices of pages."""
    scores: np.ndarray
    """[D] float32."""
    right: np.ndarray
    """[T, D] bool: matched with an object, at each of IOUS."""
    wrong: np.ndarray
    """[T, D] bool: matched with none. Neither, where it lies in a crowd."""
    truth: np.ndarray
    """[D] the row of the object it is matched with at the first of IOUS, or -1."""
    objects: np.ndarray
    """[I] objects of the class on each page."""


# Reading ------------------------------------------------------------------------------------------


def read_truth(truth: Mapping, min_size: int, max_size: int) -> tuple[list[str], Pages, Objects]:
    """Return the names of the classes, the pages and the objects of a COCO dict.

    `min_size` and `max_size` are those that the detector resizes pages to. Raises UserError for a dict
    that cannot be evaluated against.
    """
    classes = _class_names(truth)
    images = sorted(truth["images"], key=lambda image: image["id"])
    if not images:
        raise UserError("The annotations have no page to evaluate on: add pages to this split.")
    rows = {image["id"]: row for row, image in enumerate(images)}
    if len(rows) < len(images):
        raise UserError("Two images of the annotations have the same id: make their ids unique.")
    annotations = truth["annotations"]
    by_id = {image["id"]: image for image in images}
    for annotation in annotations:
        _check_annotation(annotation, by_id, len(classes))
    scales = []
    for image in images:
        height, width = image["height"], image["width"]
        if min(height, width) < 1:
            raise UserError(
                f"{image['file_name']} is {width} x {height} pixels in the annotations: mend its "
                "width and height, or take the page out."
            )
        resized = resized_shape(height, width, min_size, max_size)
        scales.append(resized[0] * resized[1] / (height * width))
    boxes = np.array([each["bbox"] for each in annotations], dtype=np.float64).reshape(-1, 4)
    areas = [
        each.get("area", box[2] * box[3]) for each, box in zip(annotations, boxes, strict=True)
    ]
    objects = Objects(
        page=np.array([rows[each["image_id"]] for each in annotations], dtype=np.int64),
        label=np.array([each["category_id"] - 1 for each in annotations], dtype=np.int64),
        boxes=boxes,
        areas=np.array(areas, dtype=np.float64),
        scores=np.ones(len(annotations), dtype=np.float32),
        crowd=np.array([bool(each.get("iscrowd", 0)) for each in annotations], dtype=bool),
        ids=np.array([each["id"] for each in annotations], dtype=np.int64),
        outlines=[each.get("segmentation") or [] for each in annotations],
    )
    documents = [str(image.get("document", image["file_name"])) for image in images]
    return classes, Pages(images, np.array(scales), documents), objects


def _class_names(truth: Mapping) -> list[str]:
    """Names in the order of ids, which must be 1 .. K: other ids shift classes without an error."""
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    names = [category["name"] for category in categories]
    if [category["id"] for category in categories] != list(range(1, len(names) + 1)) or not names:
        raise UserError(
            f"The annotations' categories have the ids {[each['id'] for each in categories]}: "
            f"number them 1 to {len(names)}, in the order of the model's classes."
        )
    if len(set(names)) < len(names):
        raise UserError(f"Two categories of the annotations share a name: {', '.join(names)}.")
    return names


def _check_annotation(annotation: Mapping, images: Mapping[int, Mapping], n_classes: int) -> None:
    where = f"Annotation {annotation['id']}"
    if annotation["image_id"] not in images:
        raise UserError(
            f"{where} is of image {annotation['image_id']}, which the annotations do not list: add "
            "the image, or remove the annotation."
        )
    where += f" of {images[annotation['image_id']]['file_name']}"
    if annotation["category_id"] not in range(1, n_classes + 1):
        raise UserError(
            f"{where} has category {annotation['category_id']}, which the annotations do not list: "
            f"their categories are 1 to {n_classes}."
        )
    box = annotation["bbox"]
    if len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) < 0:
        raise UserError(
            f"{where} has the bbox {list(box)}: it must be four numbers, left, top, width, height."
        )


def read_detections(detections: pa.Table, classes: Sequence[str], pages: Pages) -> Objects:
    """Return the rows of a table with the columns COLUMNS; raises UserError for one that does not fit.

    What does not fit: a page or a class that the truth does not have, scores or boxes that are no
    numbers.
    """
    missing = [name for name in COLUMNS if name not in detections.column_names]
    if missing:
        raise UserError(
            f"The detections have no column {', '.join(missing)}: they are not of this version of "
            "Scanmill. Detect the pages again."
        )
    table = detections.select(list(COLUMNS)).cast(pa.schema(COLUMNS))
    column = {name: table[name].combine_chunks() for name in COLUMNS}
    for name in COLUMNS:
        if name != "polygon" and column[name].null_count:
            raise UserError(f"The detections have rows without {name}. Detect the pages again.")
    numbers = {name: column[name].to_numpy() for name in COLUMNS if name not in _NOT_NUMBERS}
    rows = {image["id"]: row for row, image in enumerate(pages.images)}
    unknown = sorted(set(numbers["image_id"].tolist()) - set(rows))
    if unknown:
        raise UserError(
            f"The detections have {len(unknown)} images that the annotations do not list, such as "
            f"image {unknown[0]}: they are of other annotations. Detect the pages of these again."
        )
    for name in ("score", "x_min", "y_min", "x_max", "y_max"):
        wrong = np.flatnonzero(~np.isfinite(numbers[name]))
        if len(wrong):
            file = pages.images[rows[int(numbers["image_id"][wrong[0]])]]["file_name"]
            raise UserError(
                f"{len(wrong)} detections have no number as their {name}, the first on {file}: the "
                "model diverged in training. Train it with a lower learning rate."
            )
    _check_classes(numbers["class_id"], column["class_name"], classes)
    corners = np.stack(
        [numbers[name] for name in ("x_min", "y_min", "x_max", "y_max")], axis=1
    ).astype(np.float64)
    sides = (corners[:, 2:] - corners[:, :2]).clip(min=0)
    page_ids = numbers["image_id"].tolist()
    return Objects(
        page=np.array([rows[image] for image in page_ids], dtype=np.int64),
        label=numbers["class_id"].astype(np.int64),
        boxes=np.hstack([corners[:, :2], sides]),
        areas=sides.prod(axis=1),
        scores=numbers["score"],
        crowd=np.zeros(len(page_ids), dtype=bool),
        ids=np.arange(1, len(page_ids) + 1),
        outlines=[[polygon] if polygon else [] for polygon in column["polygon"].to_pylist()],
    )


_NOT_NUMBERS = ("class_name", "polygon")


def _check_classes(ids: np.ndarray, names: pa.Array, classes: Sequence[str]) -> None:
    """Equal numbers may stand for other classes where two lists of them differ in their order."""
    for class_id, name in sorted(set(zip(ids.tolist(), names.to_pylist(), strict=True))):
        if not 0 <= class_id < len(classes) or classes[class_id] != name:
            raise UserError(
                f"The detections call class {class_id} `{name}`; the annotations' classes are "
                f"{', '.join(f'{number} `{each}`' for number, each in enumerate(classes))}. Give the "
                "annotations the classes of the model, in its order."
            )


# Matching -----------------------------------------------------------------------------------------


class PagewiseEvaluation(COCOeval):
    """COCOeval, of which only the innermost loop is another, for pages of hundreds of objects."""

    def evaluateImg(
        self, imgId: int, catId: int, aRng: Sequence[float], maxDet: int
    ) -> dict | None:
        """The same dict, without a look at the pairs that overlap too little to match at any IoU.

        COCOeval walks over each detection and each object, ten times; on a newspaper page one pair in
        a hundred overlaps.
        """
        truth, found = self._gts[imgId, catId], self._dts[imgId, catId]
        if not truth and not found:
            return None
        low, high = aRng
        ignore = np.array(
            [bool(each["ignore"]) or not low <= each["area"] <= high for each in truth], dtype=bool
        )
        order = np.argsort(ignore, kind="stable")
        ignore = ignore[order]
        scores = np.array([each["score"] for each in found])
        best = np.argsort(-scores, kind="stable")[:maxDet]
        ious = self.ious[imgId, catId]
        ious = ious[:, order] if len(ious) else np.zeros((len(best), len(truth)))
        crowd = [bool(truth[row]["iscrowd"]) for row in order]
        truth_ids = np.array([truth[row]["id"] for row in order], dtype=np.int64)
        ids = np.array([found[row]["id"] for row in best], dtype=np.int64)
        matched = np.full((len(IOUS), len(best)), -1)
        taken = np.zeros((len(IOUS), len(truth)), dtype=np.int64)
        near = [np.flatnonzero(row >= self.params.iouThrs[0]) for row in ious]
        for level, least in enumerate(self.params.iouThrs):
            for row, candidates in enumerate(near):
                match = _best_match(ious[row], candidates, least, taken[level], crowd, ignore)
                matched[level, row] = match
                if match >= 0:
                    taken[level, match] = ids[row]
        is_matched = matched >= 0
        areas = np.array([found[row]["area"] for row in best])
        outside = ~is_matched & ((areas < low) | (areas > high))
        nothing = np.zeros(1, dtype=np.int64)  # What -1 points at where there are no objects.
        return {
            "image_id": imgId,
            "category_id": catId,
            "aRng": aRng,
            "maxDet": maxDet,
            "dtIds": ids.tolist(),
            "gtIds": truth_ids.tolist(),
            "dtMatches": np.where(is_matched, np.append(truth_ids, nothing)[matched], 0),
            "gtMatches": taken,
            "dtScores": scores[best].tolist(),
            "gtIgnore": ignore.astype(np.int64),
            "dtIgnore": (is_matched & np.append(ignore, False)[matched]) | outside,
        }


def _best_match(
    ious: np.ndarray,
    candidates: np.ndarray,
    least: float,
    taken: np.ndarray,
    crowd: Sequence[bool],
    ignore: np.ndarray,
) -> int:
    """The object [0, G) that COCO matches with a detection of `ious` [G] to each of them, or -1.

    Objects that are ignored come last in the order of G, as in COCO, and are taken only where no other
    was found; of equal ones the last.
    """
    best, match = min(least, 1 - 1e-10), -1
    for row in candidates.tolist():
        if taken[row] and not crowd[row]:
            continue
        if match >= 0 and not ignore[match] and ignore[row]:
            break
        if ious[row] >= best:
            best, match = ious[row], row
    return match


def match_objects(
    truth: Objects, found: Objects, pages: Pages, n_classes: int, kind: str = "bbox"
) -> COCOeval:
    """Return COCO's evaluation, matched and accumulated over all classes, IOUS and SIZES.

    `kind` is `bbox` or `segm`; an object without an outline then has that of its box. Sizes are those
    on the resized page. No detection is cut off: the most that a page may have is the most that one
    has, of detections or objects, and at least COCO's 100.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        masks = kind == "segm"
        evaluation = PagewiseEvaluation(
            _coco(truth, pages, n_classes, masks, found=False),
            _coco(found, pages, n_classes, masks, found=True),
            kind,
        )
        evaluation.params.areaRng = [list(limits) for limits in SIZES.values()]
        evaluation.params.areaRngLbl = list(SIZES)
        evaluation.params.maxDets = [max_detections(truth, found)]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def max_detections(truth: Objects, found: Objects) -> int:
    """The `maxDets` that cuts nothing (COCO's own makes a page of 400 objects one of 100)."""
    fullest = [np.bincount(objects.page, minlength=1).max() for objects in (truth, found)]
    return int(max(LEAST_MAX_DETECTIONS, *fullest))


def has_outlines(objects: Objects) -> bool:
    """Whether any object has more than a box."""
    return any(len(outline) for outline in objects.outlines)


def _coco(objects: Objects, pages: Pages, n_classes: int, masks: bool, found: bool) -> COCO:
    """COCO's index of objects, with ids of our own from 1: id 0 would count as not matched."""
    annotations = []
    for row, box in enumerate(objects.boxes.tolist()):
        page = int(objects.page[row])
        area = objects.areas[row]
        annotation = {
            "id": row + 1,
            "image_id": page + 1,
            "category_id": int(objects.label[row]) + 1,
            "bbox": box,
            "iscrowd": int(objects.crowd[row]),
            "score": float(objects.scores[row]),
        }
        if masks:
            mask = encode_mask(objects.outlines[row], box, pages.images[page])
            annotation["segmentation"] = mask
            # COCO takes the annotator's number for objects, the mask's own for detections.
            if found:
                area = float(coco_mask.area(mask))
        annotations.append({**annotation, "area": float(area * pages.scales[page])})
    coco = COCO()
    coco.dataset = {
        "images": [
            {"id": row + 1, "height": image["height"], "width": image["width"]}
            for row, image in enumerate(pages.images)
        ],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(n_classes)],
    }
    coco.createIndex()
    return coco


def encode_mask(outline: Sequence | Mapping, box: Sequence[float], image: Mapping) -> dict:
    """The RLE of polygons or RLE; of the box (left, top, width, height) where there is no polygon."""
    height, width = image["height"], image["width"]
    if isinstance(outline, Mapping):
        is_plain = isinstance(outline["counts"], list)
        return coco_mask.frPyObjects(outline, height, width) if is_plain else dict(outline)
    # Fewer than three points enclose nothing, and pycocotools takes four numbers for a box.
    polygons = [list(map(float, polygon)) for polygon in outline if len(polygon) >= 6]
    if not polygons:
        left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
        polygons = [[left, top, left, bottom, right, bottom, right, top]]
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def class_matches(evaluation: COCOeval, label: int) -> ClassMatches:
    """Gather what was matched of one class, of all sizes."""
    n_pages, n_sizes = len(evaluation.params.imgIds), len(SIZES)
    start = label * n_sizes * n_pages
    cells = evaluation.evalImgs[start : start + n_pages]
    objects = np.array(
        [0 if cell is None else np.count_nonzero(cell["gtIgnore"] == 0) for cell in cells],
        dtype=np.int64,
    )
    filled = [(page, cell) for page, cell in enumerate(cells) if cell is not None]
    nothing = [np.zeros((len(IOUS), 0), dtype=np.int64)]
    scores = np.array([score for _, cell in filled for score in cell["dtScores"]])
    order = np.argsort(-scores, kind="stable")
    rows = np.array([row for _, cell in filled for row in cell["dtIds"]], dtype=np.int64) - 1
    counts = [len(cell["dtIds"]) for _, cell in filled]
    page = np.repeat(np.array([page for page, _ in filled], dtype=np.int64), counts)
    matched = np.hstack(nothing + [cell["dtMatches"] for _, cell in filled])[:, order]
    ignored = np.hstack(nothing + [cell["dtIgnore"] for _, cell in filled])[:, order].astype(bool)
    return ClassMatches(
        detections=rows[order],
        page=page[order],
        scores=scores[order].astype(np.float32),
        right=(matched > 0) & ~ignored,
        wrong=(matched == 0) & ~ignored,
        truth=matched[0] - 1,
        objects=objects,
    )


# Counting -----------------------------------------------------------------------------------------


def class_precision(matches: ClassMatches, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the AP of a class at each of IOUS, [T]; NaN where there is no object.

    `weights` [I] say how often each page counts, for resampling: nothing is matched anew.
    """
    if weights is None:
        return interpolated_precision(matches.right, matches.wrong, int(matches.objects.sum()))
    weight = weights[matches.page]
    drawn = weight > 0
    weight = weight[drawn]
    right, wrong = matches.right[:, drawn] * weight, matches.wrong[:, drawn] * weight
    return interpolated_precision(right, wrong, int(weights @ matches.objects))


def interpolated_precision(right: np.ndarray, wrong: np.ndarray, n_objects: int) -> np.ndarray:
    """Return the mean of the precision at RECALLS, [T], as COCOeval.accumulate computes it.

    `right` and `wrong` [T, D] say for each detection, best score first, how often it counts as such.
    """
    if n_objects == 0:
        return np.full(len(right), np.nan)
    right, wrong = np.cumsum(right, axis=1, dtype=float), np.cumsum(wrong, axis=1, dtype=float)
    precision = right / (right + wrong + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.hstack([envelope, np.zeros((len(right), 1))])  # recalls that are never reached
    places = [np.searchsorted(recall, RECALLS) for recall in right / n_objects]
    return np.take_along_axis(envelope, np.array(places).reshape(len(right), -1), axis=1).mean(1)


def resample(
    matches: Sequence[ClassMatches], documents: Sequence[str], seed: int, samples: int
) -> np.ndarray | None:
    """Return the AP of `samples` sets of documents, drawn with replacement: [samples, K, T].

    Pages of one document are alike, so that pages drawn one by one would make intervals too narrow
    (the cluster bootstrap: Davison & Hinkley, "Bootstrap methods and their application", 1997, 3.8).
    None where there is but one document, which says nothing of others.
    """
    names, document_of_page = np.unique(np.array(documents), return_inverse=True)
    if len(names) < 2 or samples < 1:
        return None
    random = np.random.default_rng(seed)
    draws = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)
    return np.array(
        [[class_precision(each, draw[document_of_page]) for each in matches] for draw in draws]
    )
