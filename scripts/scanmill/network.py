"""A Detectron2 network as an archive needs it: its modules wrapped, none of them copied.

Norms are folded into the convolutions before them; every layer computes in the type of its weights, the
last ones in float32, so that boxes, scores and masks never pass through half precision; RoIs are pooled
in float32; proposals are cut to the best before they are decoded; and the last bits of a page's numbers
do not depend on the other pages of its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import scanmill.torch_setup  # noqa: F401

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ROIAlign
from detectron2.modeling import build_model
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Boxes, ImageList, Instances
from torch.backends import mkldnn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.overrides import TorchFunctionMode
from torchvision.ops import roi_align

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

#: Layers whose numbers are scores, boxes and masks: always float32.
LAST_LAYERS = ("objectness_logits", "anchor_deltas", "cls_score", "bbox_pred", "predictor")

#: RoIs of every layer of the heads on CUDA, filled up where there are fewer: cuDNN and cuBLAS choose
#: their kernels by the number of inputs, and a page's last bits would tell of its neighbours.
CUDA_ROIS = 256
#: RoIs of every linear layer on the CPU, likewise.
CPU_ROWS = 500

#: Proposals that each region of a page should have (rule of thumb: Detectron2's 1000 for its 100
#: detections). A page that has fewer is looked at again with more.
PROPOSALS_PER_REGION = 10
#: Detections of this score count as regions when that is asked.
SURE_SCORE = 0.5

#: Candidates of a page up to which all pages of a batch are suppressed together: at 8 pages their
#: overlaps take 0.5 GB each time they are written.
MOST_CANDIDATES = 4096
#: Rounds of suppression between two looks whether there is more to suppress.
ROUNDS = 16

_LAYERS = (functional.conv2d, functional.conv_transpose2d, functional.linear)
#: Norms that are not folded: those of timm's backbones, and GroupNorm.
_NORMS = (functional.batch_norm, functional.group_norm, functional.layer_norm)


class Found(NamedTuple):
    """What the network finds on the pages of one batch, best first, in pixels of the resized pages."""

    boxes: torch.Tensor
    """(N, 4) float32 x_min, y_min, x_max, y_max; all pages one behind the other."""
    scores: torch.Tensor
    """(N,) float32."""
    class_ids: torch.Tensor
    """(N,) int64."""
    masks: torch.Tensor | None
    """(N, M, M) float32 probabilities over the boxes, or None."""
    finite: torch.Tensor
    """(pages,) bool: whether all of the network's numbers were finite."""
    counts: list[int]
    """Detections of each page."""
    n_proposals: list[int]
    """Proposals of each page."""


class Misfit(Exception):
    """Weights and config are not of one model; the text says where they differ."""


# Building -----------------------------------------------------------------------------------------


def build_network(
    config: CfgNode, weights: Mapping[str, torch.Tensor], precision: str
) -> torch.nn.Module:
    """The model of a config with its weights, made ready on the config's device.

    Raises Misfit where a tensor is missing, left over, or of another shape: none is left as it was
    drawn at random.
    """
    try:
        model = build_model(config).eval()
    except (AssertionError, KeyError, ValueError) as error:
        raise Misfit(
            f"Detectron2 cannot build the model ({type(error).__name__}: {error})"
        ) from error
    floats = {k: w.float() if w.is_floating_point() else w for k, w in weights.items()}
    try:
        model.load_state_dict(floats)
    except RuntimeError as error:
        raise Misfit("; ".join(line.strip() for line in str(error).splitlines()[1:])) from error
    fold_norms(model)
    for name, module in model.named_modules():
        layer = isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear))
        if layer and name.rpartition(".")[2] not in LAST_LAYERS:
            for parameter in module.parameters(recurse=False):  # Not those of a norm within it.
                parameter.data = parameter.to(PRECISIONS[precision])
        for child, pooler in module.named_children():
            if isinstance(pooler, ROIAlign):
                setattr(module, child, Float32RoiAlign(pooler))
    model.requires_grad_(False)
    # With channels_last, oneDNN computes a page of a batch exactly as a page alone.
    return model.to(memory_format=torch.channels_last)


def fold_norms(model: torch.nn.Module) -> None:
    """Put batch norms, frozen or not, into the convolutions before them: y = scale * conv(x) + shift
    is a convolution of other weights. Computed in float64."""
    for module in model.modules():
        norm = getattr(module, "norm", None)
        if not isinstance(module, Conv2d) or not hasattr(norm, "running_mean"):
            continue
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.double() - norm.running_mean.double() * scale
        if module.bias is not None:
            shift += module.bias.double() * scale
        weight = module.weight.double() * scale[:, None, None, None]
        module.weight = torch.nn.Parameter(weight.float())
        module.bias = torch.nn.Parameter(shift.float())
        module.norm = None


class Float32RoiAlign(torch.nn.Module):
    """RoIAlign in float32, on the CPU by as many threads as torch has: torchvision's kernel has one.

    Detectron2 casts boxes to the features' type, and bfloat16 has coordinates up to 4 px off.
    """

    def __init__(self, layer: ROIAlign) -> None:
        """As the Detectron2 layer `layer`."""
        super().__init__()
        self.options = (
            layer.output_size,
            layer.spatial_scale,
            layer.sampling_ratio,
            layer.aligned,
        )

    def forward(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """(R, C, S, S) float32 from (N, C, H, W) of any type and (R, 5) page and box."""
        features, rois = features.float().contiguous(), rois.float()
        threads = torch.get_num_threads()
        if features.is_cuda or threads == 1 or len(rois) < 2 * threads:
            return roi_align(features, rois, *self.options)
        parts = rois.tensor_split(threads)
        return torch.cat(list(_threads(threads).map(partial(self._align, features), parts)))

    def _align(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():  # Each thread has a mode of its own.
            return roi_align(features, rois, *self.options)


@lru_cache(1)
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix="roi_align")


# Layers -------------------------------------------------------------------------------------------


class SteadyLayers(TorchFunctionMode):
    """Convolutions and linear layers in the type of their weights, by kernels that do not depend on how
    many pages or RoIs there are, or on the threads.

    On the CPU that is oneDNN: for one page, one thread or few rows torch takes other kernels (ATen's
    ConvParams::use_mkldnn), and MKL cuts long sums by the number of threads.
    """

    def __init__(self, constant_rois: bool = False) -> None:
        """With `constant_rois`, every layer gets CUDA_ROIS inputs at a time."""
        super().__init__()
        self.constant_rois = constant_rois

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        """Replace what is not steady; everything else goes its way."""
        kwargs = kwargs or {}
        if function in _NORMS:  # Their weights, and what they sum up, are float32.
            x, *rest = args
            return function(x.float(), *rest, **kwargs)
        if function in _LAYERS:
            x, weight, *rest = args
            x = x.to(weight.dtype)
            if not x.numel():  # As on a page without proposals; beyond oneDNN.
                return function(x, weight, *rest, **kwargs)
            if self.constant_rois:
                return _in_parts(partial(function, **kwargs), CUDA_ROIS, x, weight, *rest)
            if not x.is_cuda and mkldnn.is_available():
                return _ONEDNN[function](x, weight, *rest, **kwargs)
            return function(x, weight, *rest, **kwargs)
        if function is torch.Tensor.sigmoid:
            return _sigmoid(*args)
        return function(*args, **kwargs)


def _in_parts(layer: Callable, count: int, x: torch.Tensor, *weights: object) -> torch.Tensor:
    """A layer on `count` inputs at a time, the last ones filled up with zeros."""
    parts = []
    for part in x.split(count):
        missing = [0, 0] * (x.ndim - 1) + [0, count - len(part)]
        full = functional.pad(part, missing) if missing[-1] else part
        parts.append(layer(full, *weights)[: len(part)])
    return torch.cat(parts)


def _convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """As functional.conv2d."""
    pairs = [(v, v) if isinstance(v, int) else tuple(v) for v in (padding, stride, dilation)]
    return torch.mkldnn_convolution(x, weight, bias, *pairs, groups)


def _convolve_transposed(x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    """As functional.conv_transpose2d, for which torch takes oneDNN wherever there are two inputs."""
    if len(x) > 1:
        return functional.conv_transpose2d(x, *args, **kwargs)
    return functional.conv_transpose2d(torch.cat([x, x]), *args, **kwargs)[:1]


def _multiply(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """As functional.linear, CPU_ROWS at a time: oneDNN chooses its kernels by their number.

    In float32 as a convolution of a column of pixels.
    """
    if x.ndim > 2:  # The maps of a ConvNeXt.
        return _multiply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])
    if weight.dtype == torch.float32:
        return _in_parts(_multiply_column, CPU_ROWS, x, weight, bias)
    return _in_parts(functional.linear, CPU_ROWS, x, weight, bias)


def _multiply_column(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    column = x.t()[None, :, :, None]
    return _convolve(column, weight[:, :, None, None], bias)[0, :, :, 0].t()


_ONEDNN = {
    functional.conv2d: _convolve,
    functional.conv_transpose2d: _convolve_transposed,
    functional.linear: _multiply,
}


def _sigmoid(x: torch.Tensor) -> torch.Tensor:
    """As Tensor.sigmoid, on the CPU each row by itself: the last numbers of a thread's share go another
    way there, and come out other by a bit."""
    if x.is_cuda or not len(x):
        return x.sigmoid()
    return torch.stack([row.sigmoid() for row in x])


# Proposals and detections -------------------------------------------------------------------------


def predict_proposals(
    rpn: torch.nn.Module,
    together: bool,
    pre_nms_topk: int,
    post_nms_topk: int,
    anchors: list[Boxes],
    logits: list[torch.Tensor],
    deltas: list[torch.Tensor],
    sizes: list[tuple[int, int]],
) -> list[Instances]:
    """As RPN.predict_proposals, but decodes the best `pre_nms_topk` of each level, not all anchors.

    `together`: all pages at once, without waiting for each.
    """
    boxes, scores = [], []
    for anchor, logit, delta in zip(anchors, logits, deltas, strict=True):
        best, index = logit.topk(min(pre_nms_topk, logit.shape[1]), dim=1)
        chosen = delta.gather(1, index[..., None].expand(-1, -1, 4)).reshape(-1, 4)
        decoded = rpn.box2box_transform.apply_deltas(chosen, anchor.tensor[index.flatten()])
        boxes.append(decoded.view(*index.shape, 4))
        scores.append(best)
    if together and pre_nms_topk <= MOST_CANDIDATES:
        limits = (rpn.nms_thresh, post_nms_topk, rpn.min_box_size)
        return _find_proposals(boxes, scores, sizes, *limits)
    limits = (rpn.nms_thresh, pre_nms_topk, post_nms_topk, rpn.min_box_size)
    return find_top_rpn_proposals(boxes, scores, sizes, *limits, training=False)


def _find_proposals(
    boxes: list[torch.Tensor],
    scores: list[torch.Tensor],
    sizes: list[tuple[int, int]],
    nms_thresh: float,
    post_nms_topk: int,
    min_box_size: float,
) -> list[Instances]:
    """As find_top_rpn_proposals, for all pages and levels together; boxes and scores are sorted."""
    pages, longest = len(sizes), max(level.shape[1] for level in scores)
    pad = [longest - level.shape[1] for level in scores]
    least = -torch.inf
    b = torch.stack([functional.pad(v, (0, 0, 0, n)) for v, n in zip(boxes, pad, strict=True)], 1)
    s = torch.stack(
        [functional.pad(v, (0, n), value=least) for v, n in zip(scores, pad, strict=True)], 1
    )
    valid = b.isfinite().all(-1) & s.isfinite()
    b = _clip(b.where(valid[..., None], 0), sizes)
    valid &= ((b[..., 2:] - b[..., :2]) > min_box_size).all(-1)
    keep = suppress(b.flatten(0, 1), valid.flatten(0, 1), nms_thresh).view(pages, -1)
    s = s.view(pages, -1).where(keep, least)
    s, index = s.topk(min(post_nms_topk, s.shape[1]), dim=1)
    b = b.view(pages, -1, 4).gather(1, index[..., None].expand(-1, -1, 4))
    counts = (s > least).sum(1).tolist()
    return [
        Instances(size, proposal_boxes=Boxes(b[i, :n]), objectness_logits=s[i, :n])
        for i, (size, n) in enumerate(zip(sizes, counts, strict=True))
    ]


def detect_together(
    predictor: FastRCNNOutputLayers,
    predictions: tuple[torch.Tensor, torch.Tensor],
    proposals: list[Instances],
) -> tuple[list[Instances], None]:
    """As FastRCNNOutputLayers.inference, for all pages together, without waiting for each."""
    boxes = predictor.predict_boxes(predictions, proposals)
    scores = predictor.predict_probs(predictions, proposals)
    sizes = [each.image_size for each in proposals]
    b = pad_sequence(boxes, batch_first=True)
    s = pad_sequence(scores, batch_first=True)
    real = b.isfinite().all(-1) & s.isfinite().all(-1)
    classes = s.shape[-1] - 1
    s = s[..., :-1].where(real[..., None], 0).flatten(1)
    s = s.where(s > predictor.test_score_thresh, 0)
    most = int((s > 0).sum(1).amax())
    if not 0 < most <= MOST_CANDIDATES:
        limits = (predictor.test_score_thresh, predictor.test_nms_thresh)
        most = predictor.test_topk_per_image
        return fast_rcnn_inference(boxes, scores, sizes, *limits, most)[0], None
    s, index = s.topk(most, dim=1)
    class_ids, row = index % classes, index // classes
    b = b.unflatten(-1, (-1, 4))
    own = class_ids if b.shape[2] > 1 else torch.zeros_like(class_ids)
    b = b.flatten(1, 2).gather(1, (row * b.shape[2] + own)[..., None].expand(-1, -1, 4))
    b = _clip(b.nan_to_num()[:, None], sizes)[:, 0]
    same = class_ids[:, :, None] == class_ids[:, None, :]
    keep = suppress(b, s > 0, predictor.test_nms_thresh, same)
    s, index = s.where(keep, 0).topk(min(predictor.test_topk_per_image, most), dim=1)
    b = b.gather(1, index[..., None].expand(-1, -1, 4))
    class_ids = class_ids.gather(1, index)
    counts = (s > 0).sum(1).tolist()
    found = [
        Instances(size, pred_boxes=Boxes(b[i, :n]), scores=s[i, :n], pred_classes=class_ids[i, :n])
        for i, (size, n) in enumerate(zip(sizes, counts, strict=True))
    ]
    return found, None


def _clip(boxes: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """(pages, groups, n, 4) boxes within pages of `sizes` (height, width)."""
    limit = boxes.new_tensor([[width, height] * 2 for height, width in sizes])
    return boxes.clamp(min=0).minimum(limit[:, None, None])


def suppress(
    boxes: torch.Tensor, valid: torch.Tensor, threshold: float, same: torch.Tensor | None = None
) -> torch.Tensor:
    """Greedy non-maximum suppression of P sets of boxes at once: (P, n) bool, which of them stay.

    `boxes` (P, n, 4) sorted by score, `valid` (P, n) bool, `same` (P, n, n) bool says which pairs
    compete at all. A box stays if no better one that stays overlaps it by more than `threshold`: this is
    repeated for all of them until nothing changes, which takes as many rounds as the longest chain of
    boxes, each of which would suppress the next.
    """
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    corner = boxes[:, :, None, :2].maximum(boxes[:, None, :, :2])
    extent = boxes[:, :, None, 2:].minimum(boxes[:, None, :, 2:]) - corner
    common = extent.clamp_(min=0).prod(-1)
    over = common / (area[:, :, None] + area[:, None, :] - common) > threshold
    over = over.triu_(1) & valid[:, :, None]
    if same is not None:
        over &= same
    # Of sums of zeros and ones, only whether they are zero counts.
    kind = torch.float16 if boxes.is_cuda else torch.float32
    over = over.to(kind)
    keep = valid
    while True:
        before = keep
        for _ in range(ROUNDS):
            before = keep
            beaten = torch.bmm(keep[:, None].to(kind), over)[:, 0] > 0
            keep = valid & ~beaten
        if torch.equal(keep, before):
            return keep


# Inference ----------------------------------------------------------------------------------------


class Network:
    """A model made ready, and what it notes while it works."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Take a model of `build_network`."""
        self.model, self.together = model, False
        self.pixel_mean, self.pixel_std = model.pixel_mean, model.pixel_std
        #: Proposals that a page may have at most.
        self.max_proposals = (
            PROPOSALS_PER_REGION * model.roi_heads.box_predictor.test_topk_per_image
        )
        self._candidates: tuple = ()
        self._n_proposals: list[int] = []
        self._finite = torch.empty(0)
        rpn = model.proposal_generator
        rpn.predict_proposals = self._predict_proposals
        rpn.rpn_head.register_forward_hook(self._check_maps)
        predictor = model.roi_heads.box_predictor
        predictor.register_forward_hook(self._check_predictions)

    def work_together(self) -> None:
        """From now on as CUDA wants it: no page is waited for, and layers get equal numbers of RoIs."""
        self.together = True
        predictor = self.model.roi_heads.box_predictor
        predictor.inference = partial(detect_together, predictor)

    def _predict_proposals(self, *candidates: object) -> list[Instances]:
        """RPN.predict_proposals, by the model's own top-k; the candidates are kept for dense pages."""
        self._candidates = candidates
        rpn = self.model.proposal_generator
        topk = rpn.pre_nms_topk[False], rpn.post_nms_topk[False]
        return predict_proposals(rpn, self.together, *topk, *candidates)

    def _check_maps(self, module: object, args: object, output: tuple) -> None:
        """Note on which pages the network's numbers are finite: Detectron2 leaves out all others, and a
        page would seem empty."""
        maps = [each for group in output for each in group]
        self._finite = torch.stack([each.isfinite().flatten(1).all(1) for each in maps]).all(0)

    def _check_predictions(self, module: object, args: object, output: tuple) -> None:
        rows = torch.cat(output, dim=1).isfinite().all(1).split(self._n_proposals)
        self._finite = self._finite & torch.stack([each.all() for each in rows])

    def __call__(self, canvases: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> Found:
        """Detect on a batch: `canvases` (N, C, H, W) uint8 with C 1 or 3, on the model's device; a page
        of `sizes` (height, width) lies in the upper left corner of each."""
        with torch.inference_mode():
            images = ImageList(self.normalize(canvases, sizes), list(sizes))
            with SteadyLayers():
                features = self.model.backbone(images.tensor)
                proposals, _ = self.model.proposal_generator(images, features)
            # Once, for boxes and masks: RoIs are pooled from float32.
            features = {name: each.float().contiguous() for name, each in features.items()}
            found = self._heads(features, proposals)
            n_proposals = self._n_proposals
            for page, most in self._dense(found, n_proposals):
                found[page], n_proposals[page] = self._look_closer(features, page, most)
            return _gather(found, self._finite, n_proposals)

    def _heads(
        self, features: dict[str, torch.Tensor], proposals: list[Instances]
    ) -> list[Instances]:
        self._n_proposals = [len(each) for each in proposals]
        with SteadyLayers(constant_rois=self.together):
            return self.model.roi_heads(None, features, proposals)[0]

    def _dense(self, found: list[Instances], n_proposals: list[int]) -> list[tuple[int, int]]:
        """The pages with fewer than PROPOSALS_PER_REGION proposals for each region, and how many they
        should have."""
        sure = torch.stack([(each.scores >= SURE_SCORE).sum() for each in found]).tolist()
        return [
            # Twice as many, as it may turn out that there are more regions.
            (page, min(2 * PROPOSALS_PER_REGION * count, self.max_proposals))
            for page, (count, had) in enumerate(zip(sure, n_proposals, strict=True))
            if had < min(PROPOSALS_PER_REGION * count, self.max_proposals)
        ]

    def _look_closer(
        self, features: dict[str, torch.Tensor], page: int, most: int
    ) -> tuple[Instances, int]:
        """Detect on one page of the batch again, with up to `most` proposals."""
        anchors, logits, deltas, sizes = self._candidates
        own = slice(page, page + 1)
        logits, deltas = [each[own] for each in logits], [each[own] for each in deltas]
        rpn = self.model.proposal_generator
        topk = max(most, rpn.pre_nms_topk[False]), most
        proposals = predict_proposals(
            rpn, self.together, *topk, anchors, logits, deltas, sizes[own]
        )
        finite = self._finite
        self._finite = finite[own]
        (found,) = self._heads({name: each[own] for name, each in features.items()}, proposals)
        finite[page] &= self._finite[0]
        self._finite = finite
        return found, len(proposals[0])

    def normalize(self, canvases: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """(N, 3, H, W) float32: as GeneralizedRCNN.preprocess_image, zero beyond the pages."""
        pixels = (canvases.float() - self.pixel_mean) / self.pixel_std
        height, width = canvases.shape[2:]
        limit = torch.tensor(sizes).to(canvases.device, non_blocking=True)
        rows = torch.arange(height, device=canvases.device) < limit[:, :1]
        columns = torch.arange(width, device=canvases.device) < limit[:, 1:]
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return pixels.where(inside, 0).contiguous(memory_format=torch.channels_last)


def _gather(found: list[Instances], finite: torch.Tensor, n_proposals: list[int]) -> Found:
    """The pages of a batch one behind the other."""
    masks = None
    if found[0].has("pred_masks"):
        masks = torch.cat([each.pred_masks[:, 0] for each in found])
    return Found(
        torch.cat([each.pred_boxes.tensor for each in found]),
        torch.cat([each.scores for each in found]),
        torch.cat([each.pred_classes for each in found]),
        masks,
        finite,
        [len(each) for each in found],
        n_proposals,
    )
