"""Training a detector on annotated pages: Detectron2's loop, made to go on where it was stopped.

What an iteration sees is a function of the seed and its number alone: which pages, how they are turned
and scaled, and which anchors and RoIs are sampled. A run that was killed therefore goes on as if it had
not been.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging.handlers
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

import scanmill.torch_setup  # noqa: F401

# isort: split
import safetensors.torch
import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase, create_ddp_model, hooks, launch
from detectron2.layers import ROIAlign
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.solver.build import get_default_optimizer_params
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils import comm
from detectron2.utils.events import (
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from torch import distributed
from torch.multiprocessing import ProcessExitedException
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torchvision.ops import roi_align

from scanmill.augmentation import Augmentation, augment
from scanmill.conversion import BOTTOM_UP, write_model
from scanmill.errors import UserError
from scanmill.image_files import decode_reduced
from scanmill.model_folders import WEIGHTS, is_backbone, read_card, replace_folder
from scanmill.preflight import ADAMW, RATES, SGD, usual_rate
from scanmill.preprocessing import read_image_file, reduction_before, resize, resized_shape
from scanmill.progress import logger
from scanmill.roi_pooling import pool_rois
from scanmill.training_curves import draw_training
from scanmill.workers import die_with_parent

#: Tensors that depend on the classes and anchors: of another shape, they start anew.
RENEWABLE = (
    "roi_heads.box_predictor.",
    "roi_heads.mask_head.",
    "proposal_generator.rpn_head.objectness_logits.",
    "proposal_generator.rpn_head.anchor_deltas.",
)
#: WEIGHT_DECAY of AdamW (Liu et al., "A ConvNet for the 2020s", 2022).
ADAMW_DECAY = 0.05
#: Where the learning rate falls, of all iterations, and the least length of the warm-up's share.
STEPS = (0.7, 0.9)
WARMUP = 0.1
#: Images of a GPU's batch below which statistics of BatchNorm are those of the model that training
#: starts from.
STEADY_BATCH = 8
#: What sides of batches are multiples of on a GPU. With Detectron2's 32, nearly every batch has a shape
#: of its own, and planning took 75 of 230 ms per iteration (ResNet-18, 16 pages, H100).
GPU_DIVISOR = 128
#: Batches among whose pages the wide ones come last.
SORTED = 20
#: What epochs and pages decide, unless it is given.
SOLVER = (
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
)
#: Iterations between two lines and entries of metrics.json; between two checkpoints.
LOG_PERIOD = 20
CHECKPOINT_PERIOD = 200
#: How long processes wait for each other: for validation, by the first of them.
PATIENCE = timedelta(days=1)


# Config -------------------------------------------------------------------------------------------


def training_config(
    config: CfgNode,
    given: Collection[str],
    pages: int,
    classes: int,
    epochs: float | None,
    device: str,
) -> CfgNode:
    """The config of a training on `pages` pages: what `given` keys do not say follows from the data.

    MAX_ITER from the epochs, STEPS and WARMUP_ITERS from MAX_ITER, BASE_LR from IMS_PER_BATCH (in
    proportion for SGD, with the square root for AdamW), EVAL_PERIOD about once an epoch, at most 20
    times. Where `epochs` is None, the solver is as the config has it, as Detectron2 takes it. Raises
    UserError for another optimizer, and for averaging by what is no decay.
    """
    config = config.clone()
    config.defrost()
    if epochs is None:
        given = {*given, *SOLVER}

    def default(key: str, value: object) -> None:
        if key not in given:
            config.merge_from_list([key, value])

    default("MODEL.ROI_HEADS.NUM_CLASSES", classes)
    default("SOLVER.IMS_PER_BATCH", 8 if device == "cuda" else 2)
    batch = config.SOLVER.IMS_PER_BATCH
    optimizer = config.SOLVER.OPTIMIZER
    if optimizer not in RATES:
        raise UserError(f"SOLVER.OPTIMIZER is {optimizer}: it must be {' or '.join(RATES)}.")
    averaging = config.SOLVER.AVERAGING
    if not 0 <= averaging < 1:
        raise UserError(
            f"SOLVER.AVERAGING is {averaging}: it must be at least 0.0, which is none, and below 1.0."
        )
    default("SOLVER.BASE_LR", usual_rate(optimizer, batch))
    if optimizer == ADAMW:
        default("SOLVER.WEIGHT_DECAY", ADAMW_DECAY)
    if epochs is not None:
        default("SOLVER.MAX_ITER", max(1, math.ceil(epochs * pages / batch)))
    most = config.SOLVER.MAX_ITER
    steps = {round(share * most) for share in STEPS}
    default("SOLVER.STEPS", tuple(sorted(step for step in steps if 0 < step < most)))
    default("SOLVER.WARMUP_ITERS", min(1000, math.ceil(WARMUP * most)))
    default("TEST.EVAL_PERIOD", min(most, max(1, math.ceil(pages / batch), math.ceil(most / 20))))
    default(
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS", False
    )  # Blank pages teach that there may be nothing.
    config.INPUT.RANDOM_FLIP = "none"  # Pages are never mirrored here.
    config.MODEL.DEVICE = device
    return config


# Weights ------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """Which tensors of a model come from the model it starts from."""

    kept: list[str]
    renewed: list[str]
    """Of another shape, or with classes of other names."""
    missing: list[str]
    """Not in the model that training starts from."""
    left: list[str]
    """Only in that one."""


def start_from(model: torch.nn.Module, folder: Path | None, classes: Sequence[str]) -> Start:
    """Give a model the weights of a model folder, as far as they are of the same parts.

    Raises UserError where the architecture is another: a tensor that depends neither on classes nor on
    anchors is missing or of another shape.
    """
    state = model.state_dict()
    if folder is None:
        return Start([], [], list(state), [])
    card = read_card(folder)
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    if is_backbone(card):
        tensors = {BOTTOM_UP + name: tensor for name, tensor in tensors.items()}
        needed = [name for name in state if name.startswith(BOTTOM_UP)]
    else:
        needed = [name for name in state if not name.startswith(RENEWABLE)]
    other_classes = card["classes"] != list(classes)
    kept, renewed, missing = [], [], []
    for name, own in state.items():
        tensor = tensors.get(name)
        predicts = name.startswith(("roi_heads.box_predictor.", "roi_heads.mask_head.predictor."))
        if tensor is None:
            missing.append(name)
        elif tensor.shape != own.shape or (other_classes and predicts):
            renewed.append(name)
        else:
            own.copy_(tensor)
            kept.append(name)
    wrong = [name for name in needed if name not in kept]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(
            f"Training cannot start from {folder}: it is of another architecture ({', '.join(wrong[:5])}"
            f"{more} are missing there or of another shape). Take its own config.yaml, or another model."
        )
    return Start(kept, renewed, missing, [name for name in tensors if name not in state])


def describe_start(start: Start, folder: Path | None) -> list[str]:
    """Lines for the log: which tensors were kept, renewed, missing."""
    if folder is None:
        return [
            f"training starts from nothing: all {len(start.missing)} tensors are drawn at random"
        ]
    lines = [f"from {folder}: {len(start.kept)} tensors kept"]
    for what, names in (
        ("drawn anew, since classes or anchors are others", start.renewed),
        ("drawn at random, since they are not there", start.missing),
        ("left out, since this model has no such part", start.left),
    ):
        if names:
            lines.append(f"{len(names)} {what}: {', '.join(names)}")
    return lines


class TrainingRoiAlign(torch.nn.Module):
    """RoIAlign in float32, whatever the precision: under autocast Detectron2 casts boxes to the
    features' type, and bfloat16 has coordinates up to 4 px off."""

    def __init__(self, layer: ROIAlign) -> None:
        """As the Detectron2 layer `layer`."""
        super().__init__()
        size, scale, ratio = layer.output_size, layer.spatial_scale, layer.sampling_ratio
        self.options = (size, scale, ratio, layer.aligned)

    def forward(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """(R, C, S, S) of the features' type from (N, C, H, W) and (R, 5) page and box."""
        with torch.autocast(features.device.type, enabled=False):
            if features.is_cuda:
                pooled = roi_align(features.float().contiguous(), rois.float(), *self.options)
            else:
                pooled = pool_rois(features.float(), rois.float(), *self.options)
        return pooled.to(features.dtype)  # As ROIPooler expects.


def prepare_model(config: CfgNode, steady: bool) -> torch.nn.Module:
    """A model to train, in channels_last; with `steady`, BatchNorm keeps its statistics.

    On a GPU, sides of its batches are multiples of 128: cuDNN plans a convolution for each shape anew.
    """
    model = build_model(config).train()
    if config.MODEL.DEVICE == "cuda":
        divisor = math.lcm(model.backbone.size_divisibility, GPU_DIVISOR)
        model.backbone._size_divisibility = divisor
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, ROIAlign):
                setattr(module, name, TrainingRoiAlign(child))
        if steady and isinstance(module, _BatchNorm):
            module.eval()
    return model.to(memory_format=torch.channels_last)


# Pages --------------------------------------------------------------------------------------------


class TrainingPages:
    """Annotated pages as Detectron2 trains on them; a map-style dataset of (iteration's place, page)."""

    def __init__(
        self,
        truth: Mapping[str, Any],
        images: Path,
        config: CfgNode,
        color: str,
        seed: int,
        reduced: Path,
    ) -> None:
        """`truth` is COCO with ids from 1 in class order, `images` the folder of its file names;
        `color` is `grey`, `BGR` or `RGB`. In `reduced`, pages far larger than they are trained on are
        kept as they are decoded: a page of 600 dpi takes seconds."""
        self.images, self.color, self.seed, self.reduced = images, color, seed, reduced
        self.sizes, self.longest = config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MAX_SIZE_TRAIN
        self.batch = config.SOLVER.IMS_PER_BATCH
        self.augmentation = Augmentation()
        objects: dict[int, list[dict]] = {image["id"]: [] for image in truth["images"]}
        for each in truth["annotations"]:
            objects[each["image_id"]].append(each)
        self.pages = [
            (image, objects[image["id"]])
            for image in truth["images"]
            if objects[image["id"]] or not config.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        ]
        self.wide = np.array([image["width"] > image["height"] for image, _ in self.pages], bool)

    def __len__(self) -> int:
        """Number of pages."""
        return len(self.pages)

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]:
        """Page `at[1]`, varied as the place `at[0]` in the order of training says."""
        place, index = at
        image, objects = self.pages[index]
        rng = np.random.default_rng([self.seed, place])
        pixels, reduction = self._read(image)
        boxes = np.array([each["bbox"] for each in objects], np.float32).reshape(-1, 4) / reduction
        boxes[:, 2:] += boxes[:, :2]
        polygons = [
            [np.asarray(part, np.float32) / reduction for part in each["segmentation"]]
            for each in objects
        ]
        pixels, boxes, polygons, keep = augment(pixels, boxes, polygons, self.augmentation, rng)
        height, width = pixels.shape[:2]
        # One size for a batch: its pages are padded to the largest.
        size = np.random.default_rng([self.seed, place // self.batch, 2]).choice(self.sizes)
        shape = resized_shape(height, width, int(size), self.longest)
        pixels = resize(pixels, *shape)
        zoom = np.array([shape[1] / width, shape[0] / height], np.float32)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        elif self.color == "RGB":
            pixels = pixels[..., ::-1]
        # A mask of an object that has but a box is the box.
        chosen = [polygons[i] or [_corners(boxes[i])] for i in np.flatnonzero(keep)]
        class_ids = np.array([each["category_id"] - 1 for each in objects], np.int64)
        # Arrays through a pipe, not tensors in shared memory, of which containers have little.
        return {
            "image": np.array(pixels.transpose(2, 0, 1), order="C"),
            "boxes": boxes[keep] * np.tile(zoom, 2),
            "classes": class_ids[keep],
            "polygons": [
                [part * np.tile(zoom, len(part) // 2) for part in each] for each in chosen
            ],
            "file_name": image["file_name"],
        }

    def _read(self, image: Mapping[str, Any]) -> tuple[np.ndarray, int]:
        """The page as it is decoded for detection, and by how much it is smaller than the image."""
        height, width = image["height"], image["width"]
        shape = resized_shape(height, width, max(self.sizes), self.longest)
        reduction = reduction_before(max(shape[0] / height, shape[1] / width))
        kept, grey = self.reduced / f"{image['id']}.png", self.color == "grey"
        if reduction > 1 and kept.exists():
            data, rest = kept.read_bytes(), 1
        else:
            data, rest = read_image_file(str(self.images / image["file_name"])).data, reduction
        pixels = decode_reduced(data, rest, grey)
        if pixels is None:
            raise UserError(
                f"{self.images / image['file_name']} cannot be decoded. Prepare the dataset again."
            )
        if rest > 1:
            draft = kept.with_suffix(f".{os.getpid()}.tmp")
            kept.parent.mkdir(exist_ok=True)
            draft.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])
            os.replace(draft, kept)
        if pixels.ndim == 2 and not grey:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        return pixels, reduction


def as_input(page: Mapping[str, Any], masks: bool) -> dict[str, Any]:
    """A page of TrainingPages as Detectron2's models take it."""
    instances = Instances(page["image"].shape[1:])
    instances.gt_boxes = Boxes(torch.from_numpy(page["boxes"]))
    instances.gt_classes = torch.from_numpy(page["classes"])
    if masks:
        instances.gt_masks = PolygonMasks(page["polygons"])
    return {"image": torch.from_numpy(page["image"]), "instances": instances}


def _corners(box: np.ndarray) -> np.ndarray:
    x_min, y_min, x_max, y_max = box
    return np.array([x_min, y_min, x_max, y_min, x_max, y_max, x_min, y_max], np.float32)


class Order:
    """Batches of (place, page), page after page in a new order each epoch, from an iteration on.

    Of pages that follow each other, wide ones come last, so that few batches have both kinds: each page
    of a batch is padded to its widest and its highest.
    """

    def __init__(
        self,
        wide: np.ndarray,
        batch: int,
        seed: int,
        start: int,
        end: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Of iterations `start` to `end`, and of each batch the part of process `rank` of `ranks`;
        `wide` (N,) bool says which pages are wider than high."""
        self.wide, self.batch, self.seed, self.start, self.end = wide, batch, seed, start, end
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        """Number of batches."""
        return self.end - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The batches."""
        epoch, order, pages = -1, np.zeros(0, np.int64), len(self.wide)
        for iteration in range(self.start, self.end):
            batch = []
            for place in range(iteration * self.batch, (iteration + 1) * self.batch):
                if place // pages != epoch:
                    epoch = place // pages
                    order = np.random.default_rng([self.seed, epoch, 1]).permutation(pages)
                    order = order[
                        np.lexsort((self.wide[order], np.arange(pages) // (SORTED * self.batch)))
                    ]
                batch.append((place, int(order[place % pages])))
            yield batch[self.rank :: self.ranks]


def _as_it_is(batch: list[dict]) -> list[dict]:
    return batch


# The loop -----------------------------------------------------------------------------------------


class Trainer(TrainerBase):
    """Detectron2's loop with a checkpoint that is replaced in one step, in half precision where that is
    faster."""

    def __init__(
        self,
        config: CfgNode,
        model: torch.nn.Module,
        pages: TrainingPages,
        state: Path,
        workers: int,
    ) -> None:
        """`state` is the folder of checkpoints and metrics. `model` is also what other processes of
        this training have."""
        super().__init__()
        self.config, self.model, self.pages, self.folder = config, model, pages, state
        self.rank, self.ranks = comm.get_rank(), comm.get_world_size()
        #: What the first process validates and keeps in place of the model, where there is averaging.
        self.average = None if self.rank else average_of(model, config.SOLVER.AVERAGING)
        self.optimizer = make_optimizer(config, model)
        self.scheduler = build_lr_scheduler(config, self.optimizer)
        self.device = torch.device(config.MODEL.DEVICE)
        self.dtype = training_dtype(self.device)
        scaled = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.workers, self.best = workers, {"AP": -1.0, "iteration": 0}
        #: Whether training has come to its end.
        self.finished = False
        self.batches: Iterator[list[dict]] = iter(())

    def resume(self) -> int:
        """Take up the last checkpoint; the iteration to begin with."""
        path = self.folder / "last.pth"
        if not path.exists():
            return 0
        saved = torch.load(path, map_location="cpu", weights_only=True)
        self.model.load_state_dict(saved["model"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.scaler.load_state_dict(saved["scaler"])
        self.best, self.finished = saved["best"], saved["finished"]
        self.iter = saved["iteration"]
        return saved["iteration"] + 1

    def save(self) -> None:
        """Replace the last checkpoint; where that fails, the one before stays."""
        if self.rank:
            return
        saved = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "iteration": self.iter,
            "best": self.best,
            "finished": self.finished,
        }
        if self.average is not None:
            saved["average"] = self.average.state_dict()
        write_checkpoint(saved, self.folder / "last.pth")

    def before_train(self) -> None:
        """Begin to load pages, at the place where training goes on."""
        batch, seed = self.config.SOLVER.IMS_PER_BATCH, self.pages.seed
        loader = DataLoader(
            self.pages,
            batch_sampler=Order(
                self.pages.wide, batch, seed, self.start_iter, self.max_iter, self.rank, self.ranks
            ),
            num_workers=self.workers,
            collate_fn=_as_it_is,
            multiprocessing_context="fork" if self.workers else None,
            # By itself a loader that waits to hand over a batch does not notice.
            worker_init_fn=lambda _: die_with_parent(),
        )
        self.batches = iter(loader)
        gpus = [comm.get_local_rank()] if self.device.type == "cuda" else None
        self.parallel = create_ddp_model(self.model, forward_sync_buffers=False, device_ids=gpus)
        super().before_train()

    def train(self, start_iter: int, max_iter: int) -> None:
        """As TrainerBase's, which would log errors with a traceback, and cannot end early."""
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self.finished:
                        break
            finally:
                self.after_train()

    def run_step(self) -> None:
        """One iteration."""
        batch = next(self.batches)
        # RPN and RoI heads draw samples: the same ones however often the run was stopped.
        number = self.pages.seed * 1_000_003 + self.iter
        torch.manual_seed(number * self.ranks + self.rank)
        files = [page["file_name"] for page in batch]
        inputs = [as_input(page, self.config.MODEL.MASK_ON) for page in batch]
        try:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                losses = self.parallel(inputs)
        except FloatingPointError as error:  # The RPN's boxes: other processes are ended.
            raise self._diverged(str(error), files) from None
        total = sum(losses.values())
        means = torch.stack([loss.detach().float() for loss in losses.values()])
        if self.ranks > 1:
            distributed.all_reduce(means)
            means /= self.ranks
        numbers = dict(zip(losses, means.tolist(), strict=True))
        if not all(math.isfinite(value) for value in numbers.values()):
            everywhere = itertools.chain.from_iterable(comm.all_gather(files))
            raise self._diverged(str(numbers), list(everywhere))
        self.optimizer.zero_grad()
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        storage = get_event_storage()
        storage.put_scalars(total_loss=sum(numbers.values()), **numbers)

    def _diverged(self, what: str, files: Sequence[str]) -> UserError:
        return UserError(
            f"The loss is no number any more at iteration {self.iter} ({what}), on {', '.join(files)}. "
            f"The last checkpoint and the best model are kept in {self.folder}. Lower SOLVER.BASE_LR "
            f"(now {self.config.SOLVER.BASE_LR:g}), or look at the annotations of these pages."
        )


def make_optimizer(config: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """SGD as Detectron2 builds it, or AdamW over the same groups of parameters."""
    solver = config.SOLVER
    if solver.OPTIMIZER == SGD:
        config = config.clone()
        config.defrost()
        config.SOLVER.CLIP_GRADIENTS.ENABLED = False  # Done here, without a wait for each tensor.
        optimizer = build_optimizer(config, model)
    else:
        groups = get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay=solver.WEIGHT_DECAY,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        )
        optimizer = torch.optim.AdamW(groups, lr=solver.BASE_LR)
    if solver.CLIP_GRADIENTS.ENABLED:
        clip = partial(clip_gradients, solver.CLIP_GRADIENTS)
        optimizer.register_step_pre_hook(lambda own, *_: clip(own.param_groups))
    return optimizer


def clip_gradients(settings: CfgNode, groups: Sequence[Mapping[str, Any]]) -> None:
    """Clip the gradients of an optimizer's parameters by SOLVER.CLIP_GRADIENTS, each tensor by its own
    norm as Detectron2 does (`norm`), or each value (`value`), but all of them at once."""
    parameters = [p for group in groups for p in group["params"] if p.grad is not None]
    if settings.CLIP_TYPE == "value":
        torch.nn.utils.clip_grad_value_(parameters, settings.CLIP_VALUE)
        return
    gradients = [parameter.grad for parameter in parameters]
    norms = torch.stack(torch._foreach_norm(gradients, settings.NORM_TYPE))
    # As torch.nn.utils.clip_grad_norm_, which would take the norm of all.
    factors = (settings.CLIP_VALUE / (norms + 1e-6)).clamp(max=1)
    torch._foreach_mul_(gradients, factors.unbind())


def average_of(model: torch.nn.Module, decay: float) -> AveragedModel | None:
    """A copy of a model for the moving average of its weights and BatchNorm's statistics; None for 0.

    Each update makes it decay * average + (1 - decay) * model, the n-th behind the first, which copies,
    with min(decay, (1 + n) / (10 + n)): at the start, what is averaged over grows with what there is
    (`num_updates` of TensorFlow's tf.train.ExponentialMovingAverage).
    """
    if not decay:
        return None

    def update(averages: list[torch.Tensor], now: list[torch.Tensor], n: torch.Tensor) -> None:
        own = min(decay, (1 + int(n)) / (10 + int(n)))
        get_ema_multi_avg_fn(own)(averages, now, n)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, on other GPUs float16, otherwise float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    able = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if able else torch.float32


def write_checkpoint(saved: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint in one step: on a full disk the old one stays, and the error says so."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            torch.save(saved, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free > 1 << 20:
            raise
        number = getattr(error, "errno", None) or errno.ENOSPC
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        draft.unlink(missing_ok=True)


# Hooks --------------------------------------------------------------------------------------------


class Checkpoints(hooks.HookBase):
    """Saves every CHECKPOINT_PERIOD iterations, at each better model, and behind the last."""

    def after_step(self) -> None:
        """Save, if it is time."""
        done = self.trainer.iter + 1
        self.trainer.finished |= done == self.trainer.max_iter
        better = self.trainer.best["iteration"] == done
        if done % CHECKPOINT_PERIOD == 0 or better or self.trainer.finished:
            self.trainer.save()


class Validation(hooks.HookBase):
    """Validates every TEST.EVAL_PERIOD iterations; the best model is kept as a model folder."""

    def __init__(
        self,
        validate: Callable[[Path], Mapping[str, float]],
        write: Callable[[Path, torch.nn.Module], None],
        patience: int | None,
        writers: Sequence[EventWriter],
    ) -> None:
        """`write` makes a model folder of the model, `validate` gives its figures, `AP` among them.
        `writers` write the latest figures, which may be of several validations by their own time."""
        self.validate, self.write, self.patience = validate, write, patience
        self.writers = writers

    def after_step(self) -> None:
        """Validate, if it is time."""
        trainer, done = self.trainer, self.trainer.iter + 1
        period = trainer.config.TEST.EVAL_PERIOD
        if not (period and done % period == 0) and done != trainer.max_iter:
            return
        if not trainer.rank:
            self._judge(trainer, done)
        state = comm.all_gather((trainer.best, trainer.finished))
        trainer.best, trainer.finished = state[0]

    def _judge(self, trainer: Trainer, done: int) -> None:
        draft = trainer.folder / "candidate"
        self.write(draft, trainer.average.module if trainer.average else trainer.model)
        figures = {name: float(value) for name, value in self.validate(draft).items()}
        get_event_storage().put_scalars(**figures, smoothing_hint=False)
        for writer in self.writers:
            writer.write()
        logger.info(
            "iteration %d: %s (best so far %.2f)",
            done,
            ", ".join(f"{name} {value:.2f}" for name, value in figures.items()),
            max(figures["AP"], trainer.best["AP"]),
        )
        if figures["AP"] > trainer.best["AP"]:
            replace_folder(draft, trainer.folder / "best")
            trainer.best = {"AP": figures["AP"], "iteration": done}
        shutil.rmtree(draft, ignore_errors=True)
        since = (done - trainer.best["iteration"]) / max(1, trainer.config.TEST.EVAL_PERIOD)
        if self.patience and since >= self.patience:
            logger.info("no better model in %d validations: training ends", self.patience)
            trainer.finished = True


class LogLines(EventWriter):
    """One line for the log: iteration, losses, learning rate, time left."""

    def __init__(self, most: int) -> None:
        """Of `most` iterations."""
        self.most, self.said = most, -1

    def write(self) -> None:
        """Log what the storage has, once: it is asked again behind the last iteration."""
        storage = get_event_storage()
        if storage.iter == self.said:
            return
        self.said = storage.iter
        losses = [
            f"{name.removeprefix('loss_')} {history.median(LOG_PERIOD):.3f}"
            for name, history in storage.histories().items()
            if "loss" in name
        ]
        with contextlib.suppress(KeyError):
            seconds = storage.history("time").median(LOG_PERIOD)
            rate = storage.history("lr").latest()
            left = round(seconds * (self.most - storage.iter - 1))
            logger.info(
                "iteration %d of %d: %s, learning rate %.2g, %.2f s each, %d:%02d:%02d left",
                storage.iter + 1,
                self.most,
                ", ".join(losses),
                rate,
                seconds,
                left // 3600,
                left // 60 % 60,
                left % 60,
            )


class Curves(EventWriter):
    """Draws metrics.json anew."""

    def __init__(self, folder: Path) -> None:
        """`folder` holds metrics.json."""
        self.folder = folder

    def write(self) -> None:
        """Draw, some lines apart."""
        if (get_event_storage().iter + 1) % (5 * LOG_PERIOD) == 0:
            draw_training(read_metrics(self.folder), self.folder / "training.png")

    def close(self) -> None:
        """Draw the whole run."""
        draw_training(read_metrics(self.folder), self.folder / "training.png")


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.json; a last one that was cut off by a kill is left out."""
    path, lines = folder / "metrics.json", []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def _forget_later(folder: Path, iteration: int) -> None:
    """Drop lines of metrics.json from `iteration` on: they come again."""
    lines = [line for line in read_metrics(folder) if line["iteration"] < iteration]
    if lines or (folder / "metrics.json").exists():
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        (folder / "metrics.json").write_text(text, encoding="utf-8")


# Training -----------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """What a training came to."""

    folder: Path
    """The best model, a model folder."""
    best: dict[str, float]
    """Its AP and iteration."""
    iterations: int
    """How many there were."""


class _Run(NamedTuple):
    """What each process of a training is given."""

    config: CfgNode
    truth: Mapping[str, Any]
    images: Path
    start: Path | None
    state: Path
    card: Mapping[str, Any]
    validate: Callable[[Path], Mapping[str, float]]
    workers: int
    seed: int
    patience: int | None
    threads: int


def train(
    config: CfgNode,
    truth: Mapping[str, Any],
    images: Path,
    start: Path | None,
    state: Path,
    card: Mapping[str, Any],
    validate: Callable[[Path], Mapping[str, float]],
    workers: int = 2,
    seed: int = 0,
    patience: int | None = None,
    processes: int = 1,
) -> Trained:
    """Train a detector on `truth` (COCO, ids from 1 in class order) and keep the best model.

    `config` comes from `training_config`, `start` is the model folder to start from. `state` holds
    checkpoints and metrics: where there are some, training goes on from them. `card` is of the model
    that comes out (name, classes, color, ...). `validate` judges a model folder by figures of which
    `AP` decides. Several `processes`, one for each GPU (or, without any, on the CPU), share each batch;
    `validate` must then be picklable. `workers` and torch's threads are divided among them.
    """
    state.mkdir(parents=True, exist_ok=True)
    threads = max(1, torch.get_num_threads() // processes)
    workers = math.ceil(workers / processes)
    given = (config, truth, images, start, state, card, validate, workers, seed, patience, threads)
    _in_processes(partial(_train, _Run(*given)), processes)
    shutil.rmtree(state / "pages", ignore_errors=True)
    saved = torch.load(state / "last.pth", map_location="cpu", weights_only=True)
    return Trained(state / "best", saved["best"], saved["iteration"] + 1)


def _in_processes(work: Callable[[], None], processes: int) -> None:
    """Run `work` in each of so many processes that know each other; their errors are raised here."""
    if processes == 1:
        work()
        return
    context = multiprocessing.get_context("spawn")
    errors, records = context.SimpleQueue(), context.Queue()
    listener = logging.handlers.QueueListener(records, _Relay())
    listener.start()
    try:
        launch(_process, processes, dist_url="auto", args=(work, errors, records), timeout=PATIENCE)
    except ProcessExitedException:
        if errors.empty():
            raise
        raise errors.get() from None
    finally:
        listener.stop()


class _Relay(logging.Handler):
    """Gives the records of another process to this one's logger."""

    def emit(self, record: logging.LogRecord) -> None:
        """As if it had been logged here."""
        logger.handle(record)


def _process(work: Callable[[], None], errors: Any, records: Any) -> None:  # noqa: ANN401
    """A process of several, of which the first logs."""
    die_with_parent()
    logger.setLevel(logging.INFO)
    main = comm.is_main_process()
    logger.addHandler(logging.handlers.QueueHandler(records) if main else logging.NullHandler())
    try:
        work()
    except (UserError, OSError) as error:
        errors.put(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)


def _train(run: _Run) -> None:
    """Train, as one process of perhaps several."""
    torch.set_num_threads(run.threads)
    config, state, card, start = run.config, run.state, run.card, run.start
    color = card["color"] if card["color"] == "grey" else config.INPUT.FORMAT
    pages = TrainingPages(run.truth, run.images, config, color, run.seed, state / "pages")
    if not len(pages):
        raise UserError("There is no page to train on. Look at the dataset's report.")
    steady = (
        start is not None and STEADY_BATCH * comm.get_world_size() > config.SOLVER.IMS_PER_BATCH
    )
    torch.manual_seed(run.seed)
    model = prepare_model(config, steady)
    trainer = Trainer(config, model, pages, state, run.workers)
    if not (state / "last.pth").exists():
        with torch.no_grad():
            began = start_from(model, start, card["classes"])
        for line in describe_start(began, start):
            logger.info("%s", line)
    first = trainer.resume()
    most = config.SOLVER.MAX_ITER
    if first:
        logger.info("going on with iteration %d of %d", first + 1, most)

    def write(folder: Path, model: torch.nn.Module) -> None:
        write_model(model.state_dict(), config, folder, card)

    files: list[EventWriter] = []
    if not trainer.rank:
        _forget_later(state, first)
        files = [
            JSONWriter(str(state / "metrics.json"), window_size=LOG_PERIOD),
            TensorboardXWriter(str(state / "tensorboard"), window_size=LOG_PERIOD),
        ]
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(trainer.optimizer, trainer.scheduler),
            Validation(run.validate, write, run.patience, files),
            Checkpoints(),
        ]
    )
    if not trainer.rank:
        writers = [LogLines(most), *files, Curves(state)]
        trainer.register_hooks([hooks.PeriodicWriter(writers, period=LOG_PERIOD)])
    if not trainer.finished:
        trainer.train(first, most)
