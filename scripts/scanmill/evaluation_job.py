"""A model judged by annotated pages, and by the size that pages are resized to: what the rule and the
command line have in common."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

import scanmill.torch_setup  # noqa: F401

# isort: split
import torch

from scanmill.detector import Detector
from scanmill.errors import UserError
from scanmill.evaluation import evaluate
from scanmill.evaluation_report import SizeResult, write_evaluation
from scanmill.progress import logger
from scanmill.workers import die_with_parent

#: Figures of an evaluation that are logged; its report has all.
SAID = ("box_AP", "box_AP50", "mask_AP")
#: MAX_SIZE_TEST to MIN_SIZE_TEST, Detectron2's, for models that take pages as they are.
PROPORTION = 1333 / 800


class JudgedModel(NamedTuple):
    """A model as it is judged: the arguments of `Detector`."""

    folder: Path
    settings: Mapping[str, Any]
    device: str = "auto"
    batch_size: int | str = "auto"
    overrides: tuple[object, ...] = ()


def judge(
    model: JudgedModel,
    truth: Mapping[str, Any],
    source: str,
    target: Path,
    samples: int,
    sizes: Sequence[int],
    threads: int,
) -> None:
    """Compare what a model finds with the annotations `truth`, of the file `source`, and with pages of
    each short side in `sizes`; write it into the folder `target` and log the most important figures."""
    detector = Detector(*model)
    truth = in_classes_of(truth, detector.classes, source)
    images = Path(truth["info"]["images"])
    found = detect_truth(detector, truth, images, threads)
    evaluation = evaluate(truth, found, *detector.sizes, samples=samples)
    overall = {each.metric: each for each in evaluation.metrics if each.class_name is None}
    for metric in (overall[name] for name in SAID if name in overall):
        if metric.value is not None:
            between = ""
            if metric.low is not None and metric.high is not None:
                between = f" (95 %: {100 * metric.low:.1f} to {100 * metric.high:.1f})"
            logger.info("%s %.1f%s", metric.metric, 100 * metric.value, between)
    shortest, longest = detector.sizes
    proportion = longest / shortest if shortest else PROPORTION
    of_sizes = list(compare_sizes(model, sizes, proportion, truth, images, threads, samples))
    write_evaluation(evaluation, truth, found, images, target, of_sizes)
    logger.info("look at %s", target / "report.html")


# Sizes --------------------------------------------------------------------------------------------


def compare_sizes(
    model: JudgedModel,
    sizes: Sequence[int],
    proportion: float,
    truth: Mapping[str, Any],
    images: Path,
    threads: int,
    samples: int,
) -> Iterator[SizeResult]:
    """Judge a model with pages of each short side in `sizes`, and of `proportion` times that at most on
    the other.

    Each size has a process of its own, so that its memory can be told.
    """
    context = multiprocessing.get_context("spawn")
    for size in sizes:
        pair = (size, round(proportion * size))
        with ProcessPoolExecutor(1, context, initializer=die_with_parent) as pool:
            given = (model, pair, truth, images, threads)
            found, seconds, memory, device = pool.submit(_measure, *given).result()
        metrics = evaluate(truth, found, *pair, samples=samples).metrics
        overall = {each.metric: each for each in metrics if each.class_name is None}
        result = SizeResult(*pair, overall, len(truth["images"]) / seconds, memory, device)
        logger.info(
            "pages of %d / %d px: box_AP %.1f, %.2f pages/s, %d MB",
            *pair,
            100 * (overall["box_AP"].value or 0),
            result.pages_per_second,
            memory,
        )
        yield result


def _measure(
    model: JudgedModel,
    pair: tuple[int, int],
    truth: Mapping[str, Any],
    images: Path,
    threads: int,
) -> tuple[pa.Table, float, float, str]:
    """Detections, seconds, MB and kind of device; in a process of its own."""
    torch.set_num_threads(threads)
    more = ("INPUT.MIN_SIZE_TEST", pair[0], "INPUT.MAX_SIZE_TEST", pair[1])
    detector = Detector(*model._replace(overrides=(*model.overrides, *more)))
    detect_truth(detector, {"images": truth["images"][:1]}, images, threads)
    started = time.monotonic()
    found = detect_truth(detector, truth, images, threads)
    seconds = time.monotonic() - started
    if detector.device.type == "cuda":
        memory = torch.cuda.max_memory_reserved(detector.device)
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found, seconds, memory / 1e6, detector.device_kind


# Pages --------------------------------------------------------------------------------------------


def detect_truth(
    detector: Detector, truth: Mapping[str, Any], images: Path, threads: int
) -> pa.Table:
    """What a detector finds on annotated pages, as `evaluation.evaluate` takes it.

    Raises UserError for a page whose image cannot be read.
    """
    paths = [images / image["file_name"] for image in truth["images"]]
    tables = detector.detect_raw(paths, threads)
    ids = [pa.repeat(pa.scalar(image["id"], pa.int64()), table.num_rows)
           for image, table in zip(truth["images"], tables, strict=True)]  # fmt: skip
    columns = ("class_id", "class_name", "score", "x_min", "y_min", "x_max", "y_max", "polygon")
    found = pa.concat_tables(table.select(columns) for table in tables)
    merged = pa.chunked_array(ids, pa.int64())
    return found.add_column(0, "image_id", merged)


def in_classes_of(truth: Mapping[str, Any], classes: list[str], source: str) -> dict[str, Any]:
    """A dataset with the classes of a model, in their order; others are left out."""
    names = {each["id"]: each["name"] for each in truth["categories"]}
    missing = sorted(set(names.values()) - set(classes))
    if len(missing) == len(names):
        raise UserError(
            f"{source} has the classes {', '.join(names.values())}, and the model finds none of them "
            f"({', '.join(classes)}). Map them by dataset.map."
        )
    if missing:
        logger.warning("the model has no class %s: it is not judged by it", ", ".join(missing))
    places = {name: place for place, name in enumerate(classes, 1)}
    annotations = [
        {**each, "category_id": places[names[each["category_id"]]]}
        for each in truth["annotations"]
        if names[each["category_id"]] in places
    ]
    categories = [{"id": place, "name": name} for name, place in places.items()]
    return {**truth, "annotations": annotations, "categories": categories}
