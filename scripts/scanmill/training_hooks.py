"""What is done between iterations of training: checkpoints, validation, lines of the log, curves."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import scanmill.torch_setup  # noqa: F401

# isort: split
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicWriter
from detectron2.utils import comm
from detectron2.utils.events import (
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

from scanmill.model_folders import replace_folder
from scanmill.progress import logger
from scanmill.training_curves import draw_training

if TYPE_CHECKING:
    from scanmill.training import Trainer

#: Iterations between two lines and entries of metrics.json; between two checkpoints.
LOG_PERIOD = 20
CHECKPOINT_PERIOD = 200


class Checkpoints(HookBase):
    """Saves every CHECKPOINT_PERIOD iterations, at each better model, and behind the last."""

    def after_step(self) -> None:
        """Save, if it is time."""
        done = self.trainer.iter + 1
        self.trainer.finished |= done == self.trainer.max_iter
        better = self.trainer.best["iteration"] == done
        if done % CHECKPOINT_PERIOD == 0 or better or self.trainer.finished:
            self.trainer.save()


class Validation(HookBase):
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


def metric_files(folder: Path) -> list[EventWriter]:
    """Writers of a training's metrics.json and of TensorBoard's files."""
    return [
        JSONWriter(str(folder / "metrics.json"), window_size=LOG_PERIOD),
        TensorboardXWriter(str(folder / "tensorboard"), window_size=LOG_PERIOD),
    ]


def metrics_hook(folder: Path, most: int, files: Sequence[EventWriter]) -> HookBase:
    """Logs, writes into `files` and draws in `folder`, every LOG_PERIOD of `most` iterations."""
    return PeriodicWriter([LogLines(most), *files, Curves(folder)], period=LOG_PERIOD)


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


def forget_later(folder: Path, iteration: int) -> None:
    """Drop lines of metrics.json from `iteration` on: they come again."""
    lines = [line for line in read_metrics(folder) if line["iteration"] < iteration]
    if lines or (folder / "metrics.json").exists():
        text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
        (folder / "metrics.json").write_text(text, encoding="utf-8")
