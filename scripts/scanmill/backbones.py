"""Backbones of timm with a feature pyramid, as a config may name them.

`MODEL.BACKBONE.NAME: build_timm_fpn_backbone` and `MODEL.TIMM.NAME: convnext_tiny` take any
convolutional or hierarchical network of timm (https://github.com/huggingface/pytorch-image-models)
that gives feature maps of strides 4, 8, 16, 32, under the names res2 to res5 as of a ResNet.
"""

from __future__ import annotations

import difflib

import scanmill.torch_setup  # noqa: F401

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch.nn import functional

from scanmill.errors import UserError

BUILDER = "build_timm_fpn_backbone"

#: Strides of the feature maps and their names, which are Detectron2's.
LEVELS = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}


def add_timm_config(config: CfgNode) -> None:
    """Add the keys of MODEL.TIMM, with their defaults."""
    config.MODEL.TIMM = CfgNode({"NAME": ""})


class TimmBackbone(Backbone):
    """The feature maps of a timm network."""

    def __init__(self, name: str, levels: list[str], in_channels: int = 3) -> None:
        """Build `name` without weights. Raises UserError where timm is missing, knows no such network,
        or it has no such feature maps."""
        super().__init__()
        self.network = _create(name, in_channels)
        info = self.network.feature_info
        self._at = {
            LEVELS[stride]: index
            for index, stride in enumerate(info.reduction())
            if stride in LEVELS
        }
        missing = [level for level in levels if level not in self._at]
        if missing:
            raise UserError(
                f"MODEL.TIMM.NAME {name} has feature maps of strides {info.reduction()}: there are "
                f"none for {', '.join(missing)} of MODEL.FPN.IN_FEATURES (strides {LEVELS})."
            )
        self._out_features = list(levels)
        self._out_feature_channels = {each: info.channels()[self._at[each]] for each in levels}
        self._out_feature_strides = {
            level: stride for stride, level in LEVELS.items() if level in levels
        }

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, C, H, W) to (N, channels, H / stride, W / stride) by level; H and W multiples of 32.

        The Inception networks convolve without padding, and lose some rows and columns on the way: their
        maps are stretched to the size that the pyramid needs.
        """
        maps = self.network(x)
        features = {}
        for level in self._out_features:
            stride = self._out_feature_strides[level]
            size = (x.shape[2] // stride, x.shape[3] // stride)
            each = maps[self._at[level]]
            if each.shape[2:] != size:
                each = functional.interpolate(
                    each.float(), size=size, mode="bilinear", align_corners=False
                )
            features[level] = each
        return features

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride by level."""
        return {
            level: ShapeSpec(
                channels=self._out_feature_channels[level], stride=self._out_feature_strides[level]
            )
            for level in self._out_features
        }


def _create(name: str, in_channels: int) -> torch.nn.Module:
    try:
        import timm  # Takes seconds, and few models need it.
    except ImportError:
        raise UserError(
            f"The config names the backbone {name} of timm, which is not installed: `pip install timm`."
        ) from None
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), 3)
        raise UserError(
            f"timm {timm.__version__} has no network {name!r} (MODEL.TIMM.NAME)."
            + (f" Did you mean {' or '.join(nearest)}?" if nearest else "")
        )
    try:
        return timm.create_model(
            name, pretrained=False, features_only=True, in_chans=in_channels, scriptable=False
        )
    except (RuntimeError, AttributeError, AssertionError, ValueError, TypeError) as error:
        raise UserError(f"timm's {name} gives no feature maps: {error}") from error


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(config: CfgNode, input_shape: ShapeSpec) -> FPN:
    """A feature pyramid as `build_resnet_fpn_backbone` makes it, on MODEL.TIMM.NAME."""
    if config.MODEL.BACKBONE.FREEZE_AT != 0:
        raise UserError(
            "A backbone of timm is trained as a whole: set MODEL.BACKBONE.FREEZE_AT to 0, not "
            f"{config.MODEL.BACKBONE.FREEZE_AT}."
        )
    bottom_up = TimmBackbone(
        config.MODEL.TIMM.NAME, list(config.MODEL.FPN.IN_FEATURES), input_shape.channels
    )
    return FPN(
        bottom_up=bottom_up,
        in_features=config.MODEL.FPN.IN_FEATURES,
        out_channels=config.MODEL.FPN.OUT_CHANNELS,
        norm=config.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=config.MODEL.FPN.FUSE_TYPE,
    )
