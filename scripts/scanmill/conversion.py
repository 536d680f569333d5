"""Checkpoints become model folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scanmill.torch_setup  # noqa: F401

# isort: split
import safetensors.torch
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from scanmill.checkpoints import Checkpoint, match_names, read_checkpoint
from scanmill.configs import dump_config
from scanmill.errors import UserError
from scanmill.model_folders import CONFIG, WEIGHTS, check_model, replace_folder, write_card
from scanmill.progress import logger
from scanmill.registry import Entry

#: Where a detector's state dict holds its backbone, and what a classifier has beside one.
BOTTOM_UP = "backbone.bottom_up."
CLASSIFIER = ("fc1000.", "linear.", "fc.")

#: Tensors that a message lists.
_LISTED = 6


def convert_model(
    weights: Path,
    config: CfgNode,
    target: Path,
    card: Mapping[str, Any],
    color: str = "config",
    half: bool = False,
) -> None:
    """Make the model folder `target` from a checkpoint and the config it was trained with.

    `card` goes into model.json: name, classes in order of their ids (empty for a backbone), licence,
    provenance, .... `color` is `grey` for a model that takes grey pages, otherwise `config`. With `half`
    matrices are stored in float16. What lies at `target` is replaced in one step. Raises UserError where
    the checkpoint is not to be opened, or a tensor is missing, left over, or of another shape.
    """
    checkpoint = read_checkpoint(weights)
    _check_pixels(checkpoint, config, weights)
    model = empty_model(config)
    classes = card["classes"]
    if classes:
        tensors = _fitting(checkpoint, model.state_dict(), weights)
    else:
        tensors = _backbone(checkpoint, model.state_dict(), weights)
    write_model(tensors, config, target, card, color, half)


def write_model(
    tensors: Mapping[str, torch.Tensor],
    config: CfgNode,
    target: Path,
    card: Mapping[str, Any],
    color: str = "config",
    half: bool = False,
) -> None:
    """Write the model folder `target` in one step; arguments as of `convert_model`."""
    config = config.clone()
    config.defrost()
    config.MODEL.WEIGHTS, config.MODEL.DEVICE = "", "cpu"
    small = {
        name: (tensor.half() if half and tensor.is_floating_point() and tensor.ndim > 1 else tensor)
        .detach()
        .to("cpu")
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    about = {
        "kind": "detector" if card["classes"] else "backbone",
        "color": color,
        **card,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "input": {
            "format": config.INPUT.FORMAT,
            "pixel_mean": list(config.MODEL.PIXEL_MEAN),
            "pixel_std": list(config.MODEL.PIXEL_STD),
            "min_size": config.INPUT.MIN_SIZE_TEST,
            "max_size": config.INPUT.MAX_SIZE_TEST,
        },
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}-{os.urandom(4).hex()}.tmp")
    draft.mkdir()
    try:
        safetensors.torch.save_file(small, draft / WEIGHTS)
        (draft / WEIGHTS).chmod(0o644)  # It makes files that nobody else may read.
        (draft / CONFIG).write_text(dump_config(config), encoding="utf-8")
        write_card(draft, **about)
        check_model(draft)
        replace_folder(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def empty_model(config: CfgNode) -> torch.nn.Module:
    """The model of a config without memory for its tensors: their names and shapes."""
    config = config.clone()
    config.defrost()
    config.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            return build_model(config)
    except (AssertionError, KeyError, ValueError) as error:
        raise UserError(
            f"Detectron2 cannot build the model of this config ({type(error).__name__}: {error})."
        ) from error


def count_parameters(config: CfgNode, backbone: bool = False) -> int:
    """Numbers in a model, or in its backbone without the pyramid."""
    state = empty_model(config).state_dict()
    return sum(
        tensor.numel()
        for name, tensor in state.items()
        if not backbone or name.startswith(BOTTOM_UP)
    )


# Fitting ------------------------------------------------------------------------------------------


def _fitting(
    checkpoint: Checkpoint, model: Mapping[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """The tensors of a detector; UserError unless they are those of `model`, no more and no less."""
    tensors = match_names(checkpoint, model)
    problems = _misfits(tensors, model)
    if problems:
        raise UserError(
            f"{path} does not fit its config: {'; '.join(problems)}. Take the config that it was "
            f"trained with, and as many classes."
        )
    return tensors


def _misfits(tensors: Mapping[str, torch.Tensor], model: Mapping[str, torch.Tensor]) -> list[str]:
    missing = [name for name in model if name not in tensors]
    extra = [name for name in tensors if name not in model]
    shapes = [
        f"{name} is {tuple(tensors[name].shape)} and should be {tuple(model[name].shape)}"
        for name in model
        if name in tensors and tensors[name].shape != model[name].shape
    ]
    said = []
    for what, names in (("it lacks", missing), ("it has beside", extra), ("", shapes)):
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            said.append(f"{what} {', '.join(names[:_LISTED])}{more}".strip())
    return said


def _backbone(
    checkpoint: Checkpoint, model: Mapping[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """The tensors of a backbone, under their names within it."""
    own = {
        name.removeprefix(BOTTOM_UP): tensor
        for name, tensor in model.items()
        if name.startswith(BOTTOM_UP)
    }
    tensors = {
        name.removeprefix(BOTTOM_UP): tensor
        for name, tensor in match_names(checkpoint, own).items()
        if not name.startswith(CLASSIFIER)
    }
    problems = _misfits(tensors, own)
    if problems:
        raise UserError(f"{path} is not this backbone: {'; '.join(problems)}.")
    return tensors


# Preprocessing ------------------------------------------------------------------------------------


def _check_pixels(checkpoint: Checkpoint, config: CfgNode, path: Path) -> None:
    """Refuse a config whose mean or deviation is not that which an older checkpoint holds."""
    for key in ("pixel_mean", "pixel_std"):
        trained = checkpoint.tensors.get(key)
        given = torch.tensor(config.MODEL[key.upper()])
        if trained is not None and not torch.allclose(trained.flatten().float(), given, rtol=1e-3):
            raise UserError(
                f"{path} was trained with MODEL.{key.upper()} {_shown(trained.flatten())}, and its "
                f"config has {_shown(given)}: everything it finds would be wrong. Mend the config."
            )
    resnets = config.MODEL.RESNETS
    ones = all(value == 1 for value in config.MODEL.PIXEL_STD)
    if resnets.NUM_GROUPS > 1 and (ones or resnets.STRIDE_IN_1X1):
        logger.warning(
            "%s: the config is of a ResNeXt, with MODEL.PIXEL_STD %s and "
            "MODEL.RESNETS.STRIDE_IN_1X1 %s. Those that Detectron2 starts from (X-101-32x8d) want "
            "[57.375, 57.12, 58.395] and False; with other values they find nonsense.",
            path,
            list(config.MODEL.PIXEL_STD),
            resnets.STRIDE_IN_1X1,
        )


def _shown(values: torch.Tensor) -> list[float]:
    return [round(float(value), 3) for value in values]


def check_backbone(config: CfgNode, entry: Entry, source: str) -> None:
    """Raise UserError where a backbone of the registry goes with other values than a config has
    (PIXEL_STD, STRIDE_IN_1X1, ...): a model would be trained, and find nothing, without a word."""
    wrong = [
        f"{key} {value} (not {have})"
        for key, value in _pairs(entry.overrides)
        if not _same(have := _value(config, key), value)
    ]
    if wrong:
        raise UserError(f"{source}: the backbone {entry.name} needs {', '.join(wrong)}.")


def _pairs(overrides: Sequence[Any]) -> list[tuple[str, Any]]:
    return list(zip(overrides[0::2], overrides[1::2], strict=True))


def _value(config: CfgNode, key: str) -> object:
    block: Any = config
    for part in key.split("."):
        block = block[part]
    return block


def _same(one: object, other: object) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other
