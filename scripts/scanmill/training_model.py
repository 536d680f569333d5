"""The model that is trained: Detectron2's, with RoIs in float32, and the weights it starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import scanmill.torch_setup  # noqa: F401

# isort: split
import safetensors.torch
import torch
from detectron2.config import CfgNode
from detectron2.layers import ROIAlign
from detectron2.modeling import build_model
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import roi_align

from scanmill.conversion import BOTTOM_UP
from scanmill.errors import UserError
from scanmill.model_folders import WEIGHTS, is_backbone, read_card
from scanmill.roi_pooling import pool_rois

#: Tensors that depend on the classes and anchors: of another shape, they start anew.
RENEWABLE = (
    "roi_heads.box_predictor.",
    "roi_heads.mask_head.",
    "proposal_generator.rpn_head.objectness_logits.",
    "proposal_generator.rpn_head.anchor_deltas.",
)
#: What sides of batches are multiples of on a GPU. With Detectron2's 32, nearly every batch has a shape
#: of its own, and planning took 75 of 230 ms per iteration (ResNet-18, 16 pages, H100).
GPU_DIVISOR = 128


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
