"""How good detections are: average precision, thresholds, confusion, errors by kind, bad pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pycocotools.cocoeval import COCOeval

from scanmill.detection_errors import (
    CROWD,
    RIGHT,
    ErrorCount,
    Fates,
    count_confusion,
    count_errors,
    find_fates,
    is_missed,
    mending_gains,
)
from scanmill.matching import (
    SIZES,
    ClassMatches,
    Objects,
    Pages,
    class_matches,
    has_outlines,
    match_objects,
    max_detections,
    read_detections,
    read_truth,
    resample,
)

#: IoU of the curves, as places in IOUS: 0.5 and 0.75.
CURVES = {"0.5": 0, "0.75": 5}

#: The default of `regions.min_score`, for classes of which nothing can be learned here.
DEFAULT_SCORE = 0.5
#: The default of `detection.score_floor`, below which no detection is kept.
LEAST_SCORE = 0.05

#: Percentiles of the bootstrap samples between which 95 % of them lie.
INTERVAL = (2.5, 97.5)

MATCHES = pa.schema(
    [
        ("image_id", pa.int64()),
        ("image", pa.string()),
        ("document", pa.string()),
        ("page", pa.int32()),
        ("kind", pa.string()),
        ("class_name", pa.string()),
        ("score", pa.float32()),
        ("selected", pa.bool_()),
        ("annotation", pa.int64()),
        ("annotation_class", pa.string()),
        ("iou", pa.float32()),
    ]
)


class Metric(NamedTuple):
    """One number, of a class or (None) of all; None where nothing defines it."""

    class_name: str | None
    metric: str
    value: float | None
    low: float | None = None
    """The 95 % interval, where there is one."""
    high: float | None = None


class Curve(NamedTuple):
    """Precision of a class at the recalls 0, 0.01 .. 1 and the score that reaches each; else None."""

    precision: list[float | None]
    score: list[float | None]


class Threshold(NamedTuple):
    """The score from which detections of a class are kept, and what is then right at IoU 0.5."""

    class_name: str
    score: float
    is_chosen: bool
    """False: nothing of the class was found, and `score` is the default."""
    precision: float | None
    recall: float | None
    f1: float | None


class PageScore(NamedTuple):
    """How well one page comes out at the thresholds."""

    image_id: int
    image: str
    document: str
    page: int | None
    f1: float
    right: int
    wrong: int
    missed: int
    """Objects that no detection was right about."""


class Evaluation(NamedTuple):
    """All that is known of a detector on one set of pages. Shares are 0 .. 1."""

    classes: list[str]
    setup: dict[str, int]
    """Numbers of pages, documents, objects, detections; sizes, cap, seed and samples."""
    metrics: list[Metric]
    curves: dict[str, dict[str, Curve]]
    """By class and IoU ("0.5", "0.75")."""
    thresholds: list[Threshold]
    """In the order of classes."""
    confusion: list[list[int]]
    """[K + 1, K + 1]: rows are objects, columns detections, the last of each the background."""
    errors: list[ErrorCount]
    gains: dict[str, float | None]
    """The AP50 that mending all errors of a kind would add."""
    pages: list[PageScore]
    """Worst first."""
    matches: pa.Table
    """Of the schema MATCHES: each detection, then each object that nothing came near."""

    @property
    def min_score(self) -> dict[str, float]:
        """The thresholds as `regions.min_score` takes them."""
        chosen = {each.class_name: each.score for each in self.thresholds if each.is_chosen}
        return {**chosen, "default": DEFAULT_SCORE}


def evaluate(
    truth: Mapping[str, Any],
    detections: pa.Table,
    min_size: int,
    max_size: int,
    seed: int = 0,
    samples: int = 200,
) -> Evaluation:
    """Compare detections with the truth.

    `truth` is a COCO dict with the categories 1 .. K in the order of the model's classes, whose images
    name their document and page; `detections` has the columns `matching.COLUMNS`, in pixels of those
    images and down to a low score, or the curves are cut short. Small, medium and large are those of
    pages resized to `min_size` and `max_size`. Intervals come from `samples` draws of documents.
    Raises UserError for input that does not fit together.
    """
    classes, pages, objects = read_truth(truth, min_size, max_size)
    found = read_detections(detections, classes, pages)
    boxes = match_objects(objects, found, pages, len(classes))
    matches = [class_matches(boxes, label) for label in range(len(classes))]
    metrics = _precision_metrics("box", boxes, matches, classes, pages, seed, samples)
    if has_outlines(objects) and has_outlines(found):
        masks = match_objects(objects, found, pages, len(classes), "segm")
        of_masks = [class_matches(masks, label) for label in range(len(classes))]
        metrics += _precision_metrics("mask", masks, of_masks, classes, pages, seed, samples)

    thresholds = [_threshold(name, each) for name, each in zip(classes, matches, strict=True)]
    lowest = np.array([each.score for each in thresholds], dtype=np.float32)
    selected = found.scores >= lowest[found.label]
    fates = find_fates(objects, found, matches)
    errors = count_errors(objects, found, fates, selected, classes)
    metrics += _threshold_metrics(thresholds)
    metrics += _count_metrics(objects, found, classes)
    return Evaluation(
        classes=classes,
        setup={
            "pages": len(pages.images),
            "documents": len(set(pages.documents)),
            "objects": int((~objects.crowd).sum()),
            "detections": len(found.page),
            "max_detections": max_detections(objects, found),
            "min_size": min_size,
            "max_size": max_size,
            "seed": seed,
            "samples": samples,
        },
        metrics=metrics,
        curves=_curves(boxes, matches, classes),
        thresholds=thresholds,
        confusion=count_confusion(objects, found, selected, len(classes)).tolist(),
        errors=errors,
        gains=mending_gains(objects, found, fates, matches),
        pages=_rank_pages(pages, objects, found, fates, selected),
        matches=_match_table(pages, objects, found, fates, selected, classes),
    )


# Average precision --------------------------------------------------------------------------------


def _precision_metrics(
    kind: str,
    evaluation: COCOeval,
    matches: Sequence[ClassMatches],
    classes: Sequence[str],
    pages: Pages,
    seed: int,
    samples: int,
) -> list[Metric]:
    """AP, AP50, AP75 with intervals; AP and AR by size; of all classes and of each.

    An interval leaves out the draws in which the class has no object.
    """
    # [T, K, A] from COCO's [T, R, K, A, M] and [T, K, A, M], where -1 stands for nothing.
    precision = _defined(evaluation.eval["precision"][..., 0]).mean(axis=1)
    recall = _defined(evaluation.eval["recall"][..., 0])
    draws = resample(matches, pages.documents, seed, samples)  # [samples, K, T]
    metrics = []
    for name, labels in [(None, slice(None)), *((name, [k]) for k, name in enumerate(classes))]:
        for metric, levels in (("AP", slice(None)), ("AP50", [0]), ("AP75", [5])):
            low = high = None
            if draws is not None:
                of_draws = [_mean(draw[labels][:, levels]) for draw in draws]
                low, high = _percentiles([value for value in of_draws if value is not None])
            value = _mean(precision[levels][:, labels, 0])
            metrics.append(Metric(name, f"{kind}_{metric}", value, low, high))
        for number, size in enumerate(SIZES):
            suffix = "" if size == "all" else f"_{size}"
            if suffix:
                value = _mean(precision[:, labels, number])
                metrics.append(Metric(name, f"{kind}_AP{suffix}", value))
            value = _mean(recall[:, labels, number])
            metrics.append(Metric(name, f"{kind}_AR{suffix}", value))
    return metrics


def _defined(values: np.ndarray) -> np.ndarray:
    """NaN for COCO's -1."""
    return np.where(values < 0, np.nan, values)


def _mean(values: np.ndarray) -> float | None:
    """Of those that are defined; None if none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def _percentiles(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    low, high = np.percentile(values, INTERVAL)
    return float(low), float(high)


def _curves(
    evaluation: COCOeval, matches: Sequence[ClassMatches], classes: Sequence[str]
) -> dict[str, dict[str, Curve]]:
    curves = {}
    for label, name in enumerate(classes):
        curves[name] = {}
        for iou, level in CURVES.items():
            if not matches[label].objects.sum():
                continue
            precision, score = (
                evaluation.eval[key][level, :, label, 0, 0] for key in ("precision", "scores")
            )
            reached = [value if value > 0 else None for value in score.tolist()]
            curves[name][iou] = Curve(precision.tolist(), reached)
    return curves


def _count_metrics(objects: Objects, found: Objects, classes: Sequence[str]) -> list[Metric]:
    metrics = []
    for metric, each in (("objects", objects.take(~objects.crowd)), ("detections", found)):
        counts = np.bincount(each.label, minlength=len(classes)).tolist()
        metrics.append(Metric(None, metric, float(sum(counts))))
        metrics += [
            Metric(name, metric, float(count)) for name, count in zip(classes, counts, strict=True)
        ]
    return metrics


# Thresholds ---------------------------------------------------------------------------------------


def _threshold(name: str, matches: ClassMatches) -> Threshold:
    """The score that maximises F1 at IoU 0.5, in hundredths, rounded down; of equals the highest.

    Precision, recall and F1 are those of the rounded score, with which regions will be selected.
    """
    # COCO gives objects to detections by falling score: what a lower one gets changes nothing above.
    right, wrong = np.cumsum(matches.right[0]), np.cumsum(matches.wrong[0])
    n_objects = int(matches.objects.sum())
    score, is_chosen = DEFAULT_SCORE, False
    if len(right) and right[-1] and n_objects:
        f1 = 2 * right / (right + wrong + n_objects)
        # A threshold takes all detections of one score, or none.
        f1[:-1][matches.scores[:-1] == matches.scores[1:]] = 0
        score = max(_round_down(matches.scores[f1.argmax()]), LEAST_SCORE)
        is_chosen = True
    kept = np.count_nonzero(matches.scores >= np.float32(score))
    hits, misses = (int(total[kept - 1]) if kept else 0 for total in (right, wrong))
    return Threshold(
        class_name=name,
        score=score,
        is_chosen=is_chosen,
        precision=hits / (hits + misses) if hits + misses else None,
        recall=hits / n_objects if n_objects else None,
        f1=2 * hits / (hits + misses + n_objects) if n_objects else None,
    )


def _round_down(score: np.float32) -> float:
    """The highest hundredth that is not above `score`, in float32 as regions are selected."""
    hundredths = int(score * 100) + 1
    while np.float32(hundredths / 100) > score:
        hundredths -= 1
    return hundredths / 100


def _threshold_metrics(thresholds: Sequence[Threshold]) -> list[Metric]:
    return [
        Metric(each.class_name, metric, value)
        for each in thresholds
        for metric, value in (
            ("threshold", each.score),
            ("precision", each.precision),
            ("recall", each.recall),
            ("F1", each.f1),
        )
    ]


# Pages --------------------------------------------------------------------------------------------


def _rank_pages(
    pages: Pages, objects: Objects, found: Objects, fates: Fates, selected: np.ndarray
) -> list[PageScore]:
    """Worst first, by F1 at the thresholds and IoU 0.5; of equals, those with more errors.

    F1 and not AP, which leaps on a page of three objects and looks at detections that no one will see.
    A page with neither objects nor detections has 1.
    """
    n_pages = len(pages.images)
    right, wrong = (
        np.bincount(found.page[selected & mask], minlength=n_pages)
        for mask in (fates.kind == RIGHT, (fates.kind != RIGHT) & (fates.kind != CROWD))
    )
    asked = np.bincount(objects.page[~objects.crowd], minlength=n_pages)
    scores = []
    for page, (image, document) in enumerate(zip(pages.images, pages.documents, strict=True)):
        total = int(right[page] + wrong[page] + asked[page])
        scores.append(
            PageScore(
                image_id=image["id"],
                image=image["file_name"],
                document=document,
                page=image.get("page"),
                f1=2 * int(right[page]) / total if total else 1.0,
                right=int(right[page]),
                wrong=int(wrong[page]),
                missed=int(asked[page] - right[page]),
            )
        )
    return sorted(scores, key=lambda each: (each.f1, -each.wrong - each.missed, each.image_id))


def _match_table(
    pages: Pages,
    objects: Objects,
    found: Objects,
    fates: Fates,
    selected: np.ndarray,
    classes: Sequence[str],
) -> pa.Table:
    """MATCHES, by page: its detections in their order, then the objects that were missed."""
    rows = []
    for row, target in enumerate(fates.target.tolist()):
        rows.append(
            {
                "_order": (int(found.page[row]), 0, row),
                "kind": fates.kind[row],
                "class_name": classes[found.label[row]],
                "score": found.scores[row],
                "selected": bool(selected[row]),
                "annotation": int(objects.ids[target]) if target >= 0 else None,
                "annotation_class": classes[objects.label[target]] if target >= 0 else None,
                "iou": fates.iou[row],
            }
        )
    everything = np.ones(len(found.page), dtype=bool)
    for row in np.flatnonzero(is_missed(objects, fates, everything)).tolist():
        name = classes[objects.label[row]]
        rows.append(
            {
                "_order": (int(objects.page[row]), 1, row),
                "kind": "missed",
                "class_name": name,
                "annotation": int(objects.ids[row]),
                "annotation_class": name,
            }
        )
    rows.sort(key=lambda row: row["_order"])
    for row in rows:
        page = row.pop("_order")[0]
        image = pages.images[page]
        row |= {"image_id": image["id"], "image": image["file_name"]}
        row |= {"document": pages.documents[page], "page": image.get("page")}
    return pa.Table.from_pylist(rows, schema=MATCHES)
