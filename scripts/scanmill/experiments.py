"""Claims of the literature, tried: pairs of trainings that differ in one thing.

Each run is a training as the workflow makes it, judged on pages that it never saw. What is done is kept
in a record; the same experiment goes on where it was stopped.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import scanmill.torch_setup  # noqa: F401

# isort: split
import torch

from scanmill.comparisons import (
    BACKBONE,
    FASTER,
    MASK,
    START,
    Run,
    conclude,
    curves_by_arm,
    report,
)
from scanmill.configs import dump_config, load_config
from scanmill.detector import Detector, choose_device
from scanmill.errors import UserError
from scanmill.evaluation import evaluate
from scanmill.evaluation_job import detect_truth
from scanmill.model_folders import CARD, CONFIG, is_backbone, model_digest, read_card
from scanmill.processors import cpu_model
from scanmill.progress import logger
from scanmill.tables import digest_json
from scanmill.training import training_dtype
from scanmill.training_curves import draw_comparison
from scanmill.training_hooks import LOG_PERIOD, read_metrics
from scanmill.training_job import VALIDATION, TrainingJob, make_model

if TYPE_CHECKING:
    from detectron2.config import CfgNode

SPLITS = ("train", "val", "test")
#: How often a run is validated.
VALIDATIONS = 10
#: Figures of `evaluation` that are kept of a run.
KEPT = ("box_AP", "box_AP50", "box_AP75", "mask_AP", "mask_AP50", "mask_AP75")
#: Keys of the normalisation of a network's parts.
NORMS = (
    *("MODEL.RESNETS.NORM", "MODEL.FPN.NORM"),
    *("MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM"),
)


class Arm(NamedTuple):
    """One way to train; all else is that of the experiment."""

    name: str
    start: Path | None
    """A model folder, or None: from nothing."""
    overrides: tuple[object, ...]


class Experiment(NamedTuple):
    """What all runs have in common."""

    config: str
    overrides: tuple[object, ...]
    truth: Mapping[str, Mapping[str, Any]]
    """COCO of `train`, `val` and `test`, as `read_truth` has it."""
    output: Path
    device: str
    threads: int


# What is compared ---------------------------------------------------------------------------------


def common_overrides(iterations: int, size: int) -> tuple[object, ...]:
    """The budget of every run: `iterations` of 4 pages of `size` pixels on their shorter side.

    AdamW learns in hundreds of iterations what takes SGD thousands. There are VALIDATIONS of them, but
    at least LOG_PERIOD iterations apart.
    """
    period = min(iterations, max(LOG_PERIOD, math.ceil(iterations / VALIDATIONS)))
    return (
        *("SOLVER.OPTIMIZER", "AdamW", "SOLVER.BASE_LR", 5e-4, "SOLVER.IMS_PER_BATCH", 4),
        *("SOLVER.MAX_ITER", iterations, "TEST.EVAL_PERIOD", period),
        *("INPUT.MIN_SIZE_TRAIN", (size,), "INPUT.MAX_SIZE_TRAIN", 2 * size),
        *("INPUT.MIN_SIZE_TEST", size, "INPUT.MAX_SIZE_TEST", 2 * size),
    )


def merge_overrides(*layers: Sequence[object]) -> tuple[object, ...]:
    """KEY VALUE ... of several layers, each key once, with its last value."""
    merged = {}
    for layer in layers:
        if len(layer) % 2:
            raise UserError(f"Overrides are KEY VALUE pairs: {layer[-1]} has no value.")
        merged |= dict(zip(layer[0::2], layer[1::2], strict=True))
    return tuple(each for pair in merged.items() for each in pair)


def make_arms(config: CfgNode, start: Path, backbone: Path | None) -> list[Arm]:
    """The arms of an experiment with `config`."""
    free = thawed(config)
    arms = [
        Arm(MASK, None, ("MODEL.MASK_ON", True, *free)),
        Arm(FASTER, None, ("MODEL.MASK_ON", False, *free)),
        Arm(START, start, ("MODEL.MASK_ON", True)),
    ]
    return arms + ([Arm(BACKBONE, backbone, ("MODEL.MASK_ON", True))] if backbone else [])


def thawed(config: CfgNode) -> tuple[object, ...]:
    """Overrides without which nothing can be learned from nothing: stages that stay as they are, and
    norms by statistics that nobody took."""
    overrides: list[object] = []
    if config.MODEL.BACKBONE.FREEZE_AT > 0:
        overrides += ["MODEL.BACKBONE.FREEZE_AT", 0]
    for key in NORMS:
        _, part, name = key.split(".")
        if config.MODEL[part][name] == "FrozenBN":
            overrides += [key, "GN"]
    return tuple(overrides)


def read_truth(files: Mapping[str, Path], images: Path | None) -> dict[str, dict[str, Any]]:
    """The COCO files of the splits, their images in the folder `images`, or where they say.

    Raises UserError for a file that is none, for other classes in one of them, and for a document that
    is in two.
    """
    truth: dict[str, dict[str, Any]] = {}
    for split, path in files.items():
        content = _read_coco(path)
        folder = images or content.get("info", {}).get("images")
        if folder is None:
            raise UserError(
                f"{path} does not say where its images are: name their folder by --images."
            )
        truth[split] = {**content, "info": {**content.get("info", {}), "images": str(folder)}}
    classes = {split: _class_ids(content) for split, content in truth.items()}
    documents: dict[str, str] = {}
    for split, content in truth.items():
        if classes[split] != classes["train"]:
            raise UserError(
                f"{files[split]} has not the classes of {files['train']} with the same ids. Take the "
                "train.json, val.json and test.json of one dataset."
            )
        for image in content["images"]:
            document = str(image.get("document", image["file_name"]))
            other = documents.setdefault(document, split)
            if other != split:
                raise UserError(
                    f"{files[split]}: the document {document} is in {other}, too. What is judged must "
                    "not be trained on: divide the pages by document, as prepare_dataset does."
                )
    return truth


def _read_coco(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}.") from error
    missing = [key for key in ("images", "annotations", "categories") if key not in content]
    if missing:
        raise UserError(f"{path} is no COCO file: it has no {', '.join(missing)}.")
    return content


def _class_ids(content: Mapping[str, Any]) -> dict[int, str]:
    return {each["id"]: each["name"] for each in content["categories"]}


# Runs ---------------------------------------------------------------------------------------------


def run_experiment(experiment: Experiment, arms: Sequence[Arm], seeds: int) -> Iterator[list[Run]]:
    """Train and judge every arm with every seed; after each, all runs that are done."""
    runs: list[Run] = []
    total = seeds * len(arms)
    for seed in range(seeds):
        for arm in arms:
            logger.info("run %d of %d: %s, seed %d", len(runs) + 1, total, arm.name, seed)
            runs.append(make_run(experiment, arm, seed))
            yield runs


def make_run(experiment: Experiment, arm: Arm, seed: int) -> Run:
    """Train and judge one model, as far as its record does not have it already."""
    name = f"{arm.name}-{seed}"
    path = experiment.output / "runs" / f"{name}.json"
    folder = experiment.output / "models" / name
    overrides = (*experiment.overrides, *arm.overrides)
    truth = {split: experiment.truth[split] for split in ("train", "val")}
    trained, judged = _keys(experiment, arm, seed)
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if record.get("trained") != trained or not (folder / CARD).exists():
        job = TrainingJob(name, truth, arm.start, experiment.config, overrides, 1, seed=seed)
        states = experiment.output / "training" / name
        make_model(job, folder, states, experiment.device, experiment.threads)
        provenance = read_card(folder)["provenance"]
        state = states / provenance["training"]
        lines = read_metrics(state)
        times = [line["time"] for line in lines if "time" in line]
        record = {
            "trained": trained,
            "curve": [[line["iteration"] + 1, line["AP"]] for line in lines if "AP" in line],
            "seconds": statistics.median(times) if times else None,
            "best_iteration": provenance["best_iteration"],
        }
        _write(path, record)
        # What a finished run does not need: 250 MB with the config of the shipped model.
        (state / "last.pth").unlink(missing_ok=True)
        shutil.rmtree(state / "best", ignore_errors=True)
    else:
        logger.info("%s is trained already", name)
    if record.get("judged") != judged:
        record |= {"judged": judged, "metrics": _judge(experiment, folder)}
        _write(path, record)
    curve = [(iteration, value) for iteration, value in record["curve"]]
    metrics = {name: tuple(values) for name, values in record["metrics"].items()}
    return Run(arm.name, seed, curve, record["seconds"], record["best_iteration"], metrics)


def _keys(experiment: Experiment, arm: Arm, seed: int) -> tuple[str, str]:
    """Digests of all that decides a model, and of that and the pages it is judged on."""
    config = load_config(experiment.config, (*experiment.overrides, *arm.overrides))
    start = model_digest(read_card(arm.start)) if arm.start else None
    content = {split: _content(each) for split, each in experiment.truth.items()}
    trained = digest_json([content["train"], content["val"], dump_config(config), start, seed])
    return trained, digest_json([trained, content["test"]])


def _content(truth: Mapping[str, Any]) -> dict[str, Any]:
    """Pages and annotations, without where they lie."""
    return {key: truth[key] for key in ("images", "annotations", "categories")}


def _judge(experiment: Experiment, folder: Path) -> dict[str, list[float | None]]:
    """Value and interval of each of KEPT, 0 .. 100, of the model in `folder` on the pages of test."""
    truth = experiment.truth["test"]
    detector = Detector(folder, {**VALIDATION, "polygons": True}, experiment.device)
    images = Path(truth["info"]["images"])
    found = detect_truth(detector, truth, images, experiment.threads)
    metrics = evaluate(truth, found, *detector.sizes).metrics
    return {
        each.metric: [100 * v if v is not None else None for v in (each.value, each.low, each.high)]
        for each in metrics
        if each.class_name is None and each.metric in KEPT and each.value is not None
    }


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


# Results ------------------------------------------------------------------------------------------


def write_results(
    experiment: Experiment, arms: Sequence[Arm], runs: Sequence[Run], command: str
) -> None:
    """Write results.json, results.md and curves.png of the runs that are done."""
    conditions = describe_conditions(experiment, arms, command)
    content = {
        **conclude(runs),
        "runs": [run._asdict() for run in runs],
        "conditions": conditions,
    }
    _write(experiment.output / "results.json", content)
    temporary = experiment.output / ".results.md.tmp"
    temporary.write_text(report(runs, conditions), encoding="utf-8")
    os.replace(temporary, experiment.output / "results.md")
    # Fonts are told by matplotlib at the level of information.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    draw_comparison(curves_by_arm(runs), experiment.output / "curves.png")


def describe_conditions(
    experiment: Experiment, arms: Sequence[Arm], command: str
) -> dict[str, str]:
    """On what, with what, by what."""
    pages = ", ".join(f"{split} {len(each['images'])}" for split, each in experiment.truth.items())
    objects = ", ".join(
        f"{split} {len(each['annotations'])}" for split, each in experiment.truth.items()
    )
    device = choose_device(experiment.device)
    processor = f"{experiment.threads} cores of {cpu_model() or 'an unknown processor'}"
    if device.type == "cuda":
        processor = f"{torch.cuda.get_device_name(device)}; {processor}"
    dtype = str(training_dtype(device)).removeprefix("torch.")
    config = load_config(experiment.config, experiment.overrides)
    network = config.MODEL.TIMM.NAME
    if "resnet" in config.MODEL.BACKBONE.NAME:
        network = f"ResNet-{config.MODEL.RESNETS.DEPTH}"
    return {
        "command": f"`{command}`",
        "pages": f"{pages}; objects: {objects}",
        "classes": ", ".join(_class_ids(experiment.truth["train"]).values()),
        "data": f"sha256 {digest_json([_content(experiment.truth[each]) for each in SPLITS])[:16]}",
        "config": f"{network}, sha256 {digest_json(dump_config(config))[:16]}",
        "settings of all runs": f"`{_plain(experiment.overrides)}`",
        **{f"settings of `{arm.name}`": f"`{_plain(arm.overrides)}`" for arm in arms},
        **{f"`{arm.name}` begins with": _describe(arm.start) for arm in arms if arm.start},
        "processor": f"{processor}; {dtype}",
        "torch": torch.__version__,
    }


def _describe(folder: Path) -> str:
    card = read_card(folder)
    return f"{card['name']}, sha256 {model_digest(card)[:16]}"


def _plain(overrides: Sequence[object]) -> str:
    return " ".join(str(each).replace(" ", "") for each in overrides)


def own_config(start: Path) -> str:
    """The config of the model to start from; a backbone has none."""
    if is_backbone(read_card(start)):
        raise UserError(
            f"{start} is a backbone, which has no config of a detector: give it as --backbone, with "
            "--config-file."
        )
    return str(start / CONFIG)
