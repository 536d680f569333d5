"""Backbones of timm in Detectron2's models, forward and backward."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from scanmill.backbones import TimmBackbone
from scanmill.configs import OWN, load_config
from scanmill.errors import UserError

TIMM = sorted(
    path.name for path in OWN.glob("*.yaml") if "build_timm_fpn_backbone" in path.read_text()
)
R50 = "mask_rcnn_R_50_FPN_3x.yaml"
LEVELS = ["res2", "res3", "res4", "res5"]


def build(*overrides, config=R50):
    return build_model(
        load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *overrides])
    )


def use(name):
    named = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.NAME", name]
    return [*named, "MODEL.BACKBONE.FREEZE_AT", 0]


def test_there_is_a_config_of_each_kind():
    assert TIMM == [
        "mask_rcnn_convnext_tiny_FPN_3x.yaml",
        "mask_rcnn_inception_resnet_v2_FPN_3x.yaml",
    ]


@pytest.mark.parametrize("config", TIMM)
def test_model_learns(config):
    """Every parameter of the backbone gets a gradient, and a step lowers the loss."""
    torch.manual_seed(0)
    few = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", 50, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16]
    model = build(*few, config=config).train()
    image = torch.randint(0, 255, (3, 192, 160), dtype=torch.uint8)
    boxes = Boxes(torch.tensor([[10.0, 10.0, 150.0, 60.0], [20.0, 80.0, 140.0, 180.0]]))
    masks = torch.zeros(2, 192, 160, dtype=torch.bool)
    masks[0, 10:60, 10:150] = masks[1, 80:180, 20:140] = True
    instances = Instances(
        (192, 160), gt_boxes=boxes, gt_classes=torch.tensor([0, 3]), gt_masks=BitMasks(masks)
    )
    batch = [{"image": image, "instances": instances, "height": 192, "width": 160}] * 2
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        with EventStorage():
            loss = sum(model(batch).values())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.backbone.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        optimizer.step()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", "inception_v4", "efficientnet_b0"])
def test_maps_have_the_sizes_of_a_pyramid(name):
    """Also of networks that lose rows on the way, and where a side is no multiple of 64."""
    backbone = TimmBackbone(name, LEVELS).eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(2, 3, 96, 160))
    for level, stride in zip(LEVELS, (4, 8, 16, 32), strict=True):
        spec = backbone.output_shape()[level]
        assert spec.stride == stride
        assert maps[level].shape == (2, spec.channels, 96 // stride, 160 // stride)


def test_pyramid_is_that_of_a_resnet():
    plain, timm = build(), build(*use("convnext_atto"))
    assert timm.backbone.output_shape() == plain.backbone.output_shape()
    assert timm.backbone.size_divisibility == plain.backbone.size_divisibility == 32


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (use("convnext_tinny"), r"no network 'convnext_tinny' .*Did you mean .*convnext_tiny"),
        (use("vit_small_patch16_224"), "there are none for res2, res3, res5"),
        ([*use("resnet18")[:-1], 2], "set MODEL.BACKBONE.FREEZE_AT to 0, not 2"),
        ([*use("resnet18"), "MODEL.FPN.IN_FEATURES", ["res1", "res3"]], "none for res1"),
    ],
)
def test_what_cannot_be_built_is_explained(overrides, says):
    with pytest.raises(UserError, match=says):
        build(*overrides)


def test_missing_timm_is_explained(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match="timm, which is not installed: `pip install timm`"):
        build(*use("resnet18"))
