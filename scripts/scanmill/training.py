"""Training a detector on annotated pages: Detectron2's loop, made to go on where it was stopped.

What an iteration sees is a function of the seed and its number alone: which pages, how they are turned
and scaled, and which anchors and RoIs are sampled. A run that was killed therefore goes on as if it had
not been.
"""

from __future__ import annotations

import errno
import itertools
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

import scanmill.torch_setup  # noqa: F401

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.engine import TrainerBase, create_ddp_model, hooks, launch
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, EventWriter, get_event_storage
from torch import distributed
from torch.multiprocessing import ProcessExitedException
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from scanmill.conversion import write_model
from scanmill.errors import UserError
from scanmill.preflight import ADAMW, RATES, SGD, usual_rate
from scanmill.progress import logger
from scanmill.training_hooks import (
    Checkpoints,
    Validation,
    forget_later,
    metric_files,
    metrics_hook,
)
from scanmill.training_model import describe_start, prepare_model, start_from
from scanmill.training_pages import Order, TrainingPages, as_input
from scanmill.workers import die_with_parent

#: WEIGHT_DECAY of AdamW (Liu et al., "A ConvNet for the 2020s", 2022).
ADAMW_DECAY = 0.05
#: Where the learning rate falls, of all iterations, and the least length of the warm-up's share.
STEPS = (0.7, 0.9)
WARMUP = 0.1
#: Images of a GPU's batch below which statistics of BatchNorm are those of the model that training
#: starts from.
STEADY_BATCH = 8
#: What epochs and pages decide, unless it is given.
SOLVER = (
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.MAX_ITER",
    "SOLVER.STEPS",
    "SOLVER.WARMUP_ITERS",
)
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


# The loop -----------------------------------------------------------------------------------------


def _as_it_is(batch: list[dict]) -> list[dict]:
    return batch


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
        forget_later(state, first)
        files = metric_files(state)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(trainer.optimizer, trainer.scheduler),
            Validation(run.validate, write, run.patience, files),
            Checkpoints(),
        ]
    )
    if not trainer.rank:
        trainer.register_hooks([metrics_hook(state, most, files)])
    if not trainer.finished:
        trainer.train(first, most)
