"""Truth and detections, generated and by hand, and what pycocotools makes of them."""

import contextlib
import io

import numpy as np
import pyarrow as pa
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scanmill.matching import COLUMNS

CLASSES = ("text", "title", "table")


def corners(box):
    """The polygon of a box (left, top, right, bottom)."""
    left, top, right, bottom = (round(side) for side in box)
    return [left, top, right, top, right, bottom, left, bottom]


def make_truth(*objects, pages=1, size=(1000, 1000), documents=None, classes=CLASSES):
    """COCO of (page from 1, class, (left, top, right, bottom)[, crowd]); ids are 1, 2, .."""
    documents = documents or [f"{page}.pdf" for page in range(1, pages + 1)]
    return {
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
        "images": [
            {
                "id": page,
                "file_name": f"{page}.png",
                "width": size[0],
                "height": size[1],
                "document": documents[page - 1],
                "page": page,
            }
            for page in range(1, pages + 1)
        ],
        "annotations": [
            {
                "id": number,
                "image_id": page,
                "category_id": classes.index(name) + 1,
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "segmentation": [],
                "area": (box[2] - box[0]) * (box[3] - box[1]),
                "iscrowd": int(any(crowd)),
            }
            for number, (page, name, box, *crowd) in enumerate(objects, 1)
        ],
    }


def make_detections(*found, classes=CLASSES):
    """A table of (page, class, score, (left, top, right, bottom)[, polygon])."""
    rows = [
        {
            "image_id": page,
            "class_id": classes.index(name),
            "class_name": name,
            "score": score,
            **dict(zip(("x_min", "y_min", "x_max", "y_max"), map(float, box), strict=True)),
            "polygon": polygon[0] if polygon else None,
        }
        for page, name, score, box, *polygon in found
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(COLUMNS))


def perturb(truth, seed=0, masks=False, levels=None):
    """Detections of a truth: some right, some moved, doubled, of another class, of nothing.

    Scores are distinct, or of so many `levels`.
    """
    rng = np.random.default_rng(seed)
    names = tuple(category["name"] for category in truth["categories"])
    size = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    found = []
    for each in truth["annotations"]:
        left, top, width, height = each["bbox"]
        for _ in range(rng.choice([0, 1, 2], p=[0.15, 0.7, 0.15])):
            spread = rng.choice([0.02, 0.06, 0.25])
            box = np.array([left, top, left + width, top + height])
            box += rng.normal(0, spread, 4) * [width, height, width, height]
            box = np.sort(box.reshape(2, 2), axis=0).ravel()  # never inside out
            name = names[each["category_id"] - 1] if rng.random() < 0.85 else rng.choice(names)
            found.append((each["image_id"], str(name), box))
        if rng.random() < 0.1:
            width, height = size[each["image_id"]]
            left, top = rng.uniform(0, 0.8, 2) * [width, height]
            box = [left, top, left + 0.1 * width, top + 0.1 * height]
            found.append((each["image_id"], str(rng.choice(names)), box))
    scores = (rng.permutation(len(found)) + 1) / (len(found) + 1)
    if levels:
        scores = np.ceil(scores * levels) / levels
    rows = []
    for (page, name, box), score in zip(found, scores, strict=True):
        rows.append((page, name, float(score), box, *([corners(box)] if masks else [])))
    return make_detections(*rows, classes=names)


def random_truth(pages=12, objects=25, seed=0, masks=False, crowds=0.0, documents=5, twins=False):
    """Objects of three classes and all sizes, on pages of several sizes.

    With `twins`, others lie almost where every second one does.
    """
    rng = np.random.default_rng(seed)
    names = [f"{page % documents}.pdf" for page in range(pages)]
    rows = []
    for page in range(1, pages + 1):
        for number in range(objects):
            left, top = 200 * (number % 5), 200 * (number // 5)
            width, height = rng.uniform(6, 190, 2)
            box = (left, top, left + width, top + height)
            name = CLASSES[rng.choice(3, p=[0.6, 0.3, 0.1])]
            rows.append((page, name, box, rng.random() < crowds))
            if twins and number % 2:
                box = tuple(
                    np.array(box)
                    + rng.uniform(0, 0.2, 4) * np.array([width, height, width, height])
                )
                rows.append((page, name, box, rng.random() < crowds))
    truth = make_truth(*rows, pages=pages, size=(1000, 1000), documents=names)
    for image in truth["images"][::3]:
        image |= {"width": 2000, "height": 3000}
    if masks:
        for each in truth["annotations"]:
            left, top, width, height = each["bbox"]
            each["segmentation"] = [corners((left, top, left + width, top + height))]
    return truth


def plain_coco(truth, detections, kind="bbox", max_detections=None, scale=None):
    """pycocotools as it is, evaluated and accumulated. `scale` {image id: factor} resizes all."""
    scale = scale or {}
    annotations = []
    for each in truth["annotations"]:
        factor = scale.get(each["image_id"], 1)
        box = [side * factor for side in each["bbox"]]
        annotations.append({**each, "bbox": box, "area": each["area"] * factor**2})
    results = []
    for row in detections.to_pylist():
        factor = scale.get(row["image_id"], 1)
        box = [row["x_min"], row["y_min"], row["x_max"] - row["x_min"], row["y_max"] - row["y_min"]]
        each = {
            "image_id": row["image_id"],
            "category_id": row["class_id"] + 1,
            "score": row["score"],
        }
        if kind == "bbox":
            results.append({**each, "bbox": [side * factor for side in box]})
        else:
            image = next(i for i in truth["images"] if i["id"] == row["image_id"])
            coco = COCO()
            coco.imgs = {image["id"]: image}
            polygon = {"image_id": image["id"], "segmentation": [list(map(float, row["polygon"]))]}
            results.append({**each, "segmentation": coco.annToRLE(polygon)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {**truth, "annotations": annotations, "info": {}}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), kind)
        if max_detections:
            evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.stats = coco_stats(evaluation)
    return evaluation


def coco_stats(evaluation):
    """{metric: value} of COCO's summary, at the last of its maxDets; None for -1."""
    precision, recall = (evaluation.eval[key][..., -1] for key in ("precision", "recall"))

    def mean(values):
        return float(values[values > -1].mean()) if (values > -1).any() else None

    stats = {"AP": mean(precision[..., 0]), "AR": mean(recall[..., 0])}
    stats |= {"AP50": mean(precision[0, ..., 0]), "AP75": mean(precision[5, ..., 0])}
    for number, size in enumerate(("small", "medium", "large"), 1):
        stats[f"AP_{size}"] = mean(precision[..., number])
        stats[f"AR_{size}"] = mean(recall[..., number])
    for label in range(precision.shape[2]):
        stats[f"AP of {label}"] = mean(precision[:, :, label, 0])
        stats[f"AP50 of {label}"] = mean(precision[0, :, label, 0])
    return stats


def metric(evaluation, name, class_name=None):
    """One number of an evaluation."""
    [found] = [m for m in evaluation.metrics if (m.class_name, m.metric) == (class_name, name)]
    return found
