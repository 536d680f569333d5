"""RoIAlign on the CPU as a product of matrices, for training.

What RoIAlign (He et al., "Mask R-CNN", 2017) averages, bilinear samples, is a weighted sum of cells of
the feature map, and the weights of a box are those of its rows times those of its columns. torchvision's
kernel goes through the samples channel by channel in one thread, and its gradient takes a quarter of an
iteration; here the channels of a cell, which lie together in channels_last, are added at once.
"""

from __future__ import annotations

import scanmill.torch_setup  # noqa: F401

# isort: split
import torch


def pool_rois(
    features: torch.Tensor,
    rois: torch.Tensor,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """As torchvision's roi_align: (R, C, *size) from (N, C, H, W) float32, best in channels_last, and
    (R, 5) float32 page and x_min, y_min, x_max, y_max, which `scale` makes cells."""
    pages, channels, height, width = features.shape
    boxes = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    low, high = boxes[:, :2], boxes[:, 2:]
    if not aligned:
        high = high.maximum(low + 1)
    rows = _along(low[:, 1], high[:, 1], size[0], height, ratio)
    columns = _along(low[:, 0], high[:, 0], size[1], width, ratio)
    indices, weights = _products(rows, columns, rois[:, 0].long())
    shape = (len(rois) * size[0] * size[1], pages * height * width)
    matrix = torch.sparse_coo_tensor(indices, weights, shape, check_invariants=False)
    cells = features.permute(0, 2, 3, 1).reshape(-1, channels)
    pooled = torch.sparse.mm(matrix, cells)
    return pooled.view(len(rois), *size, channels).permute(0, 3, 1, 2)


def _along(
    low: torch.Tensor, high: torch.Tensor, bins: int, cells: int, ratio: int
) -> torch.Tensor:
    """Weights of the cells along one axis, (R, bins, cells), for RoIs from `low` to `high` (R,).

    A bin is the mean of `ratio` samples, or, where that is 0, of as many as it has cells. A sample more
    than a cell outside of the map is 0, and within the border it is the border's.
    """
    step = ((high - low) / bins)[:, None, None]
    samples = torch.full_like(step, ratio) if ratio > 0 else step.ceil()
    most = int(samples.amax()) if len(samples) else 0
    numbers = torch.arange(max(most, 1))
    divisor = samples.clamp(min=1)
    at = (
        low[:, None, None] + (torch.arange(bins)[:, None] + (numbers + 0.5) / divisor) * step
    )  # (R, bins, most)
    weight = ((numbers < samples) & (at >= -1) & (at <= cells)) / divisor
    at = at.clamp(0, cells - 1)
    before = at.long()
    share = at - before
    weights = at.new_zeros(len(low), bins, cells)
    weights.scatter_add_(2, before, weight * (1 - share))
    return weights.scatter_add_(2, (before + 1).clamp(max=cells - 1), weight * share)


def _products(
    rows: torch.Tensor, columns: torch.Tensor, pages: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every weight of a row (R, bins, H) times every one of a column (R, bins, W) of the same RoI, and
    where it stands: (2, n) int64 bin and cell, both counted through all RoIs or `pages` (R,); (n,)."""
    roi, row_bin, y = rows.nonzero(as_tuple=True)
    column_roi, column_bin, x = columns.nonzero(as_tuple=True)
    row_weights, column_weights = rows[roi, row_bin, y], columns[column_roi, column_bin, x]
    there = column_roi.bincount(minlength=len(rows))  # Weights of columns for each RoI.
    first = there.cumsum(0) - there
    counts = there[roi]
    row = torch.repeat_interleave(counts)  # Which weight of a row each product is of.
    column = torch.arange(len(row)) + (first[roi] - counts.cumsum(0) + counts)[row]
    bins = ((roi * rows.shape[1] + row_bin) * columns.shape[1])[row] + column_bin[column]
    cells = ((pages[roi] * rows.shape[2] + y) * columns.shape[2])[row] + x[column]
    return torch.stack([bins, cells]), row_weights[row] * column_weights[column]
