"""A training from annotated pages to a model folder: what the rule and the command line have in
common."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import scanmill.torch_setup  # noqa: F401

# isort: split
import torch
from detectron2.config import CfgNode

from scanmill.checkpoints import read_checkpoint
from scanmill.configs import dump_config, load_config, resolve
from scanmill.conversion import check_backbone, convert_model
from scanmill.detector import Detector, choose_device
from scanmill.errors import UserError
from scanmill.evaluation import evaluate
from scanmill.evaluation_job import detect_truth
from scanmill.fetching import find_folder
from scanmill.model_folders import (
    CARD,
    CONFIG,
    check_model,
    is_backbone,
    model_digest,
    read_card,
    read_config,
    replace_folder,
    write_card,
)
from scanmill.preflight import check_training, format_findings, raise_findings
from scanmill.processors import lock_gpus
from scanmill.progress import logger
from scanmill.registry import find_address, own_registry
from scanmill.tables import digest_json
from scanmill.training import train, training_config

#: What validation asks of a detector while it is trained.
VALIDATION = {
    "score_floor": 0.05,
    "max_detections": 1000,
    "tiles": None,
    "precision": "auto",
    "polygons": False,
}


class TrainingJob(NamedTuple):
    """What decides the model that a training makes."""

    name: str
    truth: Mapping[str, Mapping[str, Any]]
    """COCO of `train` and `val`, as `coco.write_dataset` writes it."""
    start: Path | None
    """A model folder."""
    config: str | None
    overrides: tuple[object, ...]
    epochs: float | None
    """None: the config says how long."""
    patience: int | None = None
    seed: int = 0
    strict: bool = False
    """Whether warnings stop it."""
    command: str = ""
    """What the model's card says that makes it again."""


class Validation(NamedTuple):
    """The pages by which the best model is chosen; called with a model folder, it says how good that
    is."""

    truth: Mapping[str, Any]
    """COCO."""
    images: Path
    device: str
    threads: int

    def __call__(self, folder: Path) -> dict[str, float]:
        """Box AP and AP50 in per cent."""
        detector = Detector(folder, VALIDATION, self.device)
        found = detect_truth(detector, self.truth, self.images, self.threads)
        metrics = evaluate(self.truth, found, *detector.sizes, samples=0).metrics
        figures = {m.metric: m.value for m in metrics if m.class_name is None}
        return {"AP": 100 * (figures["box_AP"] or 0), "AP50": 100 * (figures["box_AP50"] or 0)}


def make_model(
    job: TrainingJob,
    target: Path,
    states: Path,
    device: str = "auto",
    threads: int = 2,
    num_gpus: int = 1,
    resume: bool = True,
) -> None:
    """Train a model and put its folder at `target`; `states` is where trainings keep what they need to
    go on after they were stopped, each in a folder of its digest.

    Raises UserError for what would ruin the model, before the first iteration, and for a training that
    was begun where it is not to `resume`.
    """
    truth = job.truth
    classes = [each["name"] for each in truth["train"]["categories"]]
    card = read_card(job.start) if job.start else None
    if job.start:
        check_model(job.start)
    gpus = _take_gpus(device, num_gpus)
    chosen = choose_device(device)
    torch.set_num_threads(threads)
    given = {str(key) for key in job.overrides[0::2]}
    config = training_config(
        _base_config(job, card), given, len(truth["train"]["images"]), len(classes), job.epochs,
        chosen.type,
    )  # fmt: skip
    memory = None
    if chosen.type == "cuda":
        memory = torch.cuda.get_device_properties(chosen).total_memory / 2**30
    findings = check_training(config, truth, card, given, memory, num_gpus)
    raise_findings(findings, job.strict)
    for line in format_findings(findings).splitlines():
        logger.info("%s", line)
    digest = _digest(job, config, card)
    state = states / digest
    if not resume and state.exists():
        raise UserError(
            f"This training was begun before, in {state}: --resume goes on with it. Remove that folder "
            "to begin anew."
        )
    color = _color(card, truth["train"])
    images = Path(truth["train"]["info"]["images"])

    begun = {"name": job.name, "classes": classes, "color": color}
    with _visible(gpus):
        trained = train(
            config,
            truth["train"],
            images,
            job.start,
            state,
            begun,
            Validation(truth["val"], images, device, threads),
            workers=max(1, threads // 2),
            seed=job.seed,
            patience=job.patience,
            processes=num_gpus,
        )
    draft = target.with_name(f".{target.name}-{os.urandom(4).hex()}.tmp")
    shutil.copytree(trained.folder, draft)
    try:
        evidence = {
            "licence": card.get("licence", "") if card else "",
            "provenance": {
                "command": job.command,
                "start": {"name": card["name"], "digest": model_digest(card)} if card else None,
                "data": digest_json(truth)[:16],
                "training": digest,
                "pages": {split: len(each["images"]) for split, each in truth.items()},
                "config": job.config,
                "overrides": list(job.overrides),
                "epochs": job.epochs,
                "seed": job.seed,
                "iterations": trained.iterations,
                "best_iteration": trained.best["iteration"],
            },
            "quality": {
                "metric": "COCO box AP on validation pages, by which the model was chosen",
                "validation": {"AP": round(trained.best["AP"], 2)},
            },
        }
        old = json.loads((draft / CARD).read_text(encoding="utf-8"))
        old.pop("sha256")
        write_card(draft, **old, **evidence)
        check_model(draft)
        replace_folder(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    logger.info(
        "model %s is in place: AP %.2f on validation pages, of iteration %d; curves in %s",
        job.name,
        trained.best["AP"],
        trained.best["iteration"],
        state / "training.png",
    )


def _color(card: Mapping[str, Any] | None, truth: Mapping[str, Any]) -> str:
    """How pages are shown to a detector: as to the one that it starts from; otherwise grey, if it learns
    from grey pages alone."""
    if card and not is_backbone(card):
        return card["color"]
    return "grey" if all(image.get("grey") for image in truth["images"]) else "config"


def _take_gpus(device: str, count: int) -> list[int]:
    """The GPUs of a training on several, which no other job takes while it lasts."""
    if count == 1:
        return []
    there = torch.cuda.device_count() if device != "cpu" else 0
    if count > there:
        raise UserError(
            f"Training is to use {count} GPUs, and there are {there} (detection.device: {device}). "
            "Lower training.num_gpus."
        )
    return lock_gpus(there, count, logger.info)


@contextlib.contextmanager
def _visible(gpus: list[int]) -> Iterator[None]:
    """Processes started within see these GPUs alone, or those of CUDA_VISIBLE_DEVICES."""
    key = "CUDA_VISIBLE_DEVICES"
    if not gpus or key in os.environ:
        yield
        return
    os.environ[key] = ",".join(map(str, gpus))
    try:
        yield
    finally:
        del os.environ[key]


def _base_config(job: TrainingJob, card: Mapping[str, Any] | None) -> CfgNode:
    """The config that is trained, as it is given or as the model to start from has it."""
    if job.config:
        config = load_config(job.config, job.overrides)
        initial = find_address(config.MODEL.WEIGHTS, own_registry())
        if initial is not None and not initial.classes:
            check_backbone(config, initial, job.config)
        return config
    if job.start is None or is_backbone(card):
        raise UserError(
            "training.config is not set, and there is no model to take it from: name a Detectron2 "
            "config, such as mask_rcnn_R_50_FPN_3x.yaml."
        )
    path = job.start / CONFIG
    return resolve(read_config(path), job.overrides, str(path))


def _digest(job: TrainingJob, config: CfgNode, card: Mapping[str, Any] | None) -> str:
    """16 hex digits over everything that decides the model: annotations, images, config, start."""
    start = model_digest(card) if card else None
    return digest_json([job.truth, dump_config(config), start, job.seed, job.patience])[:16]


def find_start(
    config_file: str, overrides: Sequence[object], classes: Sequence[str], folder: Path
) -> Path | None:
    """The model folder that MODEL.WEIGHTS of a config stands for, or None where it is empty.

    It may be a model folder, a name or address of the registry, which is fetched into models/ of the
    current directory, or a checkpoint of the config's architecture, of which a model folder is made at
    `folder`; of as many classes as `classes`, it is taken to have these.
    """
    config = load_config(config_file, overrides)
    weights = config.MODEL.WEIGHTS
    if not weights:
        return None
    if not Path(weights).is_file():
        return find_folder(weights)
    scores = read_checkpoint(Path(weights)).tensors.get("roi_heads.box_predictor.cls_score.weight")
    names: list[str] = []
    if scores is not None:
        count = len(scores) - 1
        names = list(classes) if count == len(classes) else [f"class {i}" for i in range(count)]
        config.merge_from_list(["MODEL.ROI_HEADS.NUM_CLASSES", count])
    convert_model(Path(weights), config, folder, {"name": Path(weights).stem, "classes": names})
    return folder
