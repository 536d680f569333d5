"""What becomes of detections: right, wrong in one of six ways, taken for another class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from scanmill.matching import ClassMatches, Objects, interpolated_precision

#: Foreground and background of TIDE (Bolya, Foley, Hays & Hoffman, "TIDE: A general toolbox for
#: identifying object detection errors", ECCV 2020, section 2.2): an object is found from IoU 0.5, and
#: what has less than 0.1 with all objects is background.
FOUND_IOU = 0.5
BACKGROUND_IOU = 0.1

#: What a detection is. In a crowd it is neither right nor wrong.
RIGHT = "right"
CROWD = "crowd"
#: The kinds of errors, in the order of TIDE's paper.
ERRORS = ("class", "location", "both", "duplicate", "background", "missed")


class ErrorCount(NamedTuple):
    """Errors of one kind and class: that of the detection, or of the object that was missed."""

    kind: str
    class_name: str
    count: int
    """Among all detections, however low their scores."""
    selected: int
    """Among those at or above the thresholds."""


class Fates(NamedTuple):
    """What became of N detections."""

    kind: np.ndarray
    """[N] str."""
    target: np.ndarray
    """[N] the row of the object that each is, was meant for or repeats; -1 for none."""
    iou: np.ndarray
    """[N] with that object; with the nearest one where there is none."""


# Confusion ----------------------------------------------------------------------------------------


def count_confusion(
    objects: Objects, found: Objects, selected: np.ndarray, n_classes: int
) -> np.ndarray:
    """Return [K + 1, K + 1]: how many objects of a class (row) were detected as another (column).

    The last row and column are the background: what is no object, and what was not found. Detections
    with `selected` [N] take, by falling score and whatever their class, the object they overlap most,
    from IoU 0.5; of equal ones one of their own class. Those in a crowd count nowhere.
    """
    confusion = np.zeros((n_classes + 1, n_classes + 1), dtype=np.int64)
    for rows, columns, ious in _overlaps(objects, found.take(selected), np.flatnonzero(selected)):
        crowd = objects.crowd[columns]
        free = ~crowd
        for row, overlap in zip(rows, ious, strict=True):
            label = found.label[row]
            near = np.flatnonzero(free & (overlap >= FOUND_IOU))
            if len(near):
                is_same = objects.label[columns[near]] == label
                best = near[np.lexsort((is_same, overlap[near]))[-1]]
                free[best] = False
                confusion[objects.label[columns[best]], label] += 1
            elif not (overlap[crowd] >= FOUND_IOU).any():
                confusion[n_classes, label] += 1
        np.add.at(confusion, (objects.label[columns[free]], n_classes), 1)
    return confusion


def _overlaps(
    objects: Objects, found: Objects, rows: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each page: its detections by falling score, its objects, and their IoU [D, G].

    Detections are named by `rows` [N], objects by their own. With a crowd it is the share of the
    detection that lies in it, as in COCO.
    """
    overlaps = []
    order = np.lexsort((np.arange(len(rows)), -found.scores))
    n_pages = max([0, *(int(each.page.max()) + 1 for each in (objects, found) if len(each.page))])
    detections_by_page = _groups(found.page[order], n_pages)
    for page, columns in enumerate(_groups(objects.page, n_pages)):
        mine = order[detections_by_page[page]]
        ious = np.zeros((len(mine), len(columns)))
        if ious.size:
            crowd = objects.crowd[columns].astype(int).tolist()
            ious = coco_mask.iou(found.boxes[mine], objects.boxes[columns], crowd)
        overlaps.append((rows[mine], columns, ious))
    return overlaps


def _groups(pages: np.ndarray, n_pages: int) -> list[np.ndarray]:
    """The rows of each page, in their order."""
    order = np.argsort(pages, kind="stable")
    return np.split(order, np.searchsorted(pages[order], np.arange(1, n_pages)))[:n_pages]


# Errors by kind -----------------------------------------------------------------------------------


def find_fates(objects: Objects, found: Objects, matches: Sequence[ClassMatches]) -> Fates:
    """Return what each detection is: right, in a crowd, or one of ERRORS.

    By the definitions of TIDE and, where two fit, in the order in which its authors' code asks
    (https://github.com/dbolya/tide, `tidecv/quantify.py`): location, class, duplicate, background,
    both. A detection's kind does not depend on those of lower score.
    """
    kind = np.full(len(found.page), "", dtype=object)
    target = np.full(len(found.page), -1)
    iou = np.zeros(len(found.page))
    for each in matches:
        kind[each.detections[each.right[0]]] = RIGHT
        kind[each.detections[~each.right[0] & ~each.wrong[0]]] = CROWD
        target[each.detections] = each.truth
    for rows, columns, ious in _overlaps(objects, found, np.arange(len(found.page))):
        is_plain = ~objects.crowd[columns]
        # And one that nothing overlaps, or there might be none.
        plain = np.append(columns[is_plain], -1)
        labels = np.append(objects.label[columns[is_plain]], -1)
        plain_ious = np.hstack([ious[:, is_plain], np.zeros((len(rows), 1))])
        for row, overlap in zip(rows, plain_ious, strict=True):
            if kind[row] == RIGHT:
                iou[row] = overlap[np.flatnonzero(plain == target[row])[0]]
            elif kind[row] == CROWD:
                iou[row] = ious[rows == row][0, columns == target[row]][0]
            else:
                kind[row], best = _kind(overlap, labels == found.label[row])
                target[row] = -1 if kind[row] in ("background", "both") else plain[best]
                iou[row] = overlap[best]
    return Fates(kind, target, iou)


def _kind(overlap: np.ndarray, is_same: np.ndarray) -> tuple[str, int]:
    """The kind of error of a detection that matched nothing, and the object that it is about.

    `overlap` [G] is its IoU with each object, `is_same` [G] whether that is of its class.
    """
    same, other = overlap * is_same, overlap * ~is_same
    if BACKGROUND_IOU <= same.max() < FOUND_IOU:
        return "location", int(same.argmax())
    if other.max() >= FOUND_IOU:
        return "class", int(other.argmax())
    if same.max() >= FOUND_IOU:
        return "duplicate", int(same.argmax())
    return "background" if overlap.max() < BACKGROUND_IOU else "both", int(overlap.argmax())


def is_missed(objects: Objects, fates: Fates, selected: np.ndarray) -> np.ndarray:
    """[G] bool: objects that no detection found, nor would if its class or its box were mended."""
    missed = ~objects.crowd
    about = selected & np.isin(fates.kind, (RIGHT, "class", "location"))
    missed[fates.target[about]] = False
    return missed


def count_errors(
    objects: Objects, found: Objects, fates: Fates, selected: np.ndarray, classes: Sequence[str]
) -> list[ErrorCount]:
    counts = []
    everything = np.ones(len(found.page), dtype=bool)
    for kind in ERRORS:
        by_class = []
        for subset in (everything, selected):
            labels = (
                objects.label[is_missed(objects, fates, subset)]
                if kind == "missed"
                else found.label[subset & (fates.kind == kind)]
            )
            by_class.append(np.bincount(labels, minlength=len(classes)).tolist())
        counts += [ErrorCount(kind, *each) for each in zip(classes, *by_class, strict=True)]
    return counts


def mending_gains(
    objects: Objects, found: Objects, fates: Fates, matches: Sequence[ClassMatches]
) -> dict[str, float | None]:
    """The AP50 that mending all errors of one kind would add (TIDE's delta AP), at least 0.

    Mending moves the best detection about an object that was not found to the class or the place of
    that object, and removes the others, duplicates and background; objects that were missed are no
    longer asked for. None where there is no object at all.
    """
    n_objects = np.array([each.objects.sum() for each in matches])
    right = fates.kind == RIGHT
    counts = fates.kind != CROWD
    before = _ap50(found.scores, found.label, right, counts, n_objects)
    if before is None:
        return dict.fromkeys(ERRORS)
    is_best = _best_of_object(objects, found, fates)
    everything = np.ones(len(right), dtype=bool)
    gains = {}
    for kind in ERRORS:
        if kind == "missed":
            missed = objects.label[is_missed(objects, fates, everything)]
            asked = n_objects - np.bincount(missed, minlength=len(n_objects))
            after = _ap50(found.scores, found.label, right, counts, asked, n_objects > 0)
        else:
            of_kind = fates.kind == kind
            mended = of_kind & is_best
            label = found.label.copy()
            label[mended] = objects.label[fates.target[mended]]
            after = _ap50(
                found.scores, label, right | mended, counts & (mended | ~of_kind), n_objects
            )
        gains[kind] = max(0.0, (after or 0.0) - before)
    return gains


def _best_of_object(objects: Objects, found: Objects, fates: Fates) -> np.ndarray:
    """[N] bool: of all class and location errors about an object not found, the one of best score."""
    is_found = np.zeros(len(objects.page), dtype=bool)
    is_found[fates.target[fates.kind == RIGHT]] = True
    about = np.flatnonzero(np.isin(fates.kind, ("class", "location")))
    about = about[~is_found[fates.target[about]]]
    about = about[np.argsort(-found.scores[about], kind="stable")]
    _, first = np.unique(fates.target[about], return_index=True)
    is_best = np.zeros(len(found.page), dtype=bool)
    is_best[about[first]] = True
    return is_best


def _ap50(
    scores: np.ndarray,
    labels: np.ndarray,
    right: np.ndarray,
    counts: np.ndarray,
    n_objects: np.ndarray,
    averaged: np.ndarray | None = None,
) -> float | None:
    """The mean AP of classes with objects, of detections [N] that are right or, if they count, wrong.

    `averaged` [K] are classes to average over that may have no object left; they have AP 0 if anything
    is detected of them, and are left out otherwise.
    """
    values = []
    for label, number in enumerate(n_objects.tolist()):
        rows = np.flatnonzero(counts & (labels == label))
        if number:
            rows = rows[np.argsort(-scores[rows], kind="stable")]
            hits = right[rows][None]
            values.append(float(interpolated_precision(hits, ~hits, number)[0]))
        elif averaged is not None and averaged[label] and len(rows):
            values.append(0.0)
    return sum(values) / len(values) if values else None
