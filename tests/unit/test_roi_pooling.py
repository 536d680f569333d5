"""RoIs pooled by a product of matrices are those that torchvision pools."""

import pytest
import torch
from torchvision.ops import roi_align

from scanmill.roi_pooling import pool_rois

OPTIONS = [
    ((7, 7), 0.25, 0, True),
    ((14, 14), 0.125, 0, True),
    ((7, 7), 0.25, 2, True),
    ((5, 3), 0.25, 0, False),
]


def compare(features, rois, options):
    """Both ways, and the gradients of a random sum."""
    rois = torch.tensor(rois, dtype=torch.float32).view(-1, 5)
    features = features.to(memory_format=torch.channels_last).requires_grad_()
    theirs, mine = roi_align(features, rois, *options), pool_rois(features, rois, *options)
    assert mine.shape == theirs.shape
    # Places of samples are rounded: by 1e-5 cells, between cells that differ by some units.
    assert torch.allclose(mine, theirs, atol=2e-4)
    weights = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(5))
    grads = [torch.autograd.grad((each * weights).sum(), features)[0] for each in (theirs, mine)]
    assert torch.allclose(*grads, atol=5e-4)
    return mine


@pytest.mark.parametrize("options", OPTIONS)
def test_boxes_are_pooled_as_by_torchvision(options):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 8, 40, 30, generator=generator)
    low = torch.rand(60, 2, generator=generator) * torch.tensor([130.0, 170.0]) - 15
    high = low + 2 + 7 * torch.randn(60, 2, generator=generator).exp()
    page = torch.randint(0, 3, (60, 1), generator=generator)
    compare(features, torch.cat([page, low, high], 1).tolist(), options)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 120, 160),
        (-200, -200, 400, 400),
        (-90, 10, -50, 40),
        (118, 158, 121, 161),
        (20, 30, 20, 30),
        (0, 50, 120, 50.3),
    ],
    ids=["page", "beyond", "outside", "corner", "point", "line"],
)
def test_odd_boxes_are_pooled_as_by_torchvision(box, options):
    features = torch.randn(2, 4, 40, 30, generator=torch.Generator().manual_seed(2))
    compare(features, [(1, *box), (0, 8, 8, 90, 120)], options)


def test_no_boxes_are_pooled():
    pooled = compare(torch.randn(1, 4, 8, 8), [], OPTIONS[0])
    assert pooled.shape == (0, 4, 7, 7)


def test_gradient_stays_in_channels_last():
    features = torch.randn(2, 4, 20, 20).to(memory_format=torch.channels_last).requires_grad_()
    rois = torch.tensor([[0, 4.0, 4, 60, 50]])
    [gradient] = torch.autograd.grad(pool_rois(features, rois, *OPTIONS[0]).sum(), features)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
