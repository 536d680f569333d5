"""Detectron2 on page images, in batches. Beside `training`, the only module that imports Detectron2."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

# Threads that wait give way to the loaders and to other jobs; OpenMP's default is that they spin, which
# took twice the time on a busy machine. It is read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import safetensors.torch
import torch
from torch.backends import mkldnn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# What torch says of Detectron2's code at every start, and nobody can act on.
warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch.utils.data import DataLoader

from scanmill.errors import UserError
from scanmill.preprocessing import Page, PageDataset, Sample, batches
from scanmill.processors import cpu_model, nvidia_driver
from scanmill.progress import Progress
from scanmill.registry import CONFIG, WEIGHTS, check_model, read_config, write_card
from scanmill.store import Fingerprint, StageStore, page_image_error
from scanmill.tables import SCHEMAS, failed, from_rows

STAGE = "detections"

#: Points of an outline, at most.
MAX_POLYGON_POINTS = 32
#: An outline is traced on the mask enlarged by this factor.
MASK_SCALE = 4

#: On CUDA, the pages of every forward pass, and the RoIs of every layer of the heads: cuDNN and cuBLAS
#: choose their kernels by the number of inputs, and a page's last bits would tell of its neighbours.
CUDA_PAGES = 8
CUDA_ROIS = 256

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PageDetections(NamedTuple):
    """What the model finds on one page, best score first; coordinates in pixels of the page image."""

    boxes: np.ndarray
    """(N, 4) float32 x_min, y_min, x_max, y_max."""
    scores: np.ndarray
    """(N,) float32."""
    class_ids: np.ndarray
    """(N,) int32."""
    polygons: list[np.ndarray | None]
    """N outlines (2 P,) int32 x, y alternating, or None."""
    n_proposals: int
    problem: tuple[str, str] | None = None
    """(reason, message) where the page failed."""


# Devices ------------------------------------------------------------------------------------------


def choose_device(setting: str) -> torch.device:
    """The device that `detection.device` stands for; a GPU that torch cannot use is a UserError."""
    if setting == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    driver = nvidia_driver()
    if driver is None and setting == "auto":
        return torch.device("cpu")
    has = f"its driver is {driver}" if driver else "no NVIDIA GPU with a working driver was found"
    raise UserError(
        f"torch {torch.__version__} (built for CUDA {torch.version.cuda}) cannot use this machine's "
        f"GPU: {has}. Install a newer driver, or another build of torch (make TORCH=cu126), or set "
        "detection.device: cpu. `make doctor` says more."
    )


def choose_precision(setting: str, device: torch.device) -> str:
    """The precision that `detection.precision` stands for on a device."""
    if setting != "auto":
        return setting
    return "float16" if device.type == "cuda" else "float32"


def device_kind(device: torch.device) -> str:
    """The kind of processor: on equal kinds results are equal bit by bit."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {cpu_model()}".strip()


# The model ----------------------------------------------------------------------------------------


class Float32Pooler(torch.nn.Module):
    """An RoI pooler in float32 under autocast.

    Detectron2 casts boxes to the features' type, and bfloat16 has coordinates up to 4 px off.
    """

    def __init__(self, pooler: torch.nn.Module) -> None:
        """Wrap a Detectron2 ROIPooler."""
        super().__init__()
        self.pooler = pooler

    def forward(self, features: list[torch.Tensor], boxes: list) -> torch.Tensor:
        """Pooled features of the features' own type; see ROIPooler.forward."""
        kind = features[0].dtype
        with torch.autocast(features[0].device.type, enabled=False):
            pooled = self.pooler([feature.float() for feature in features], boxes)
        return pooled.to(kind)


class SteadyKernels(TorchFunctionMode):
    """oneDNN for every convolution and linear layer in float32 on the CPU.

    For one page, one thread or few rows torch takes other kernels (ATen's ConvParams::use_mkldnn), and
    MKL cuts long sums by the number of threads: the last bits of a page's numbers would depend on its
    neighbours and on the cores. With oneDNN they do not.
    """

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        """Replace what is not steady; everything else goes its way."""
        steady = _STEADY.get(function)
        # Nothing to compute, as on a page without proposals, is beyond oneDNN.
        if steady and args[0].numel():
            return steady(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


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
    """As functional.linear: a convolution of 1 x 1 pixels."""
    rows = x.reshape(-1, x.shape[-1])[:, :, None, None]
    return _convolve(rows, weight[:, :, None, None], bias).reshape(*x.shape[:-1], -1)


def _sigmoid(x: torch.Tensor) -> torch.Tensor:
    """As Tensor.sigmoid, each row by itself: the last numbers of a thread's share go another way there,
    and come out other by a bit."""
    return torch.stack([row.sigmoid() for row in x])


_STEADY = {
    functional.conv2d: _convolve,
    functional.conv_transpose2d: _convolve_transposed,
    functional.linear: _multiply,
    torch.Tensor.sigmoid: _sigmoid,
}


class ConstantRois(TorchFunctionMode):
    """CUDA_ROIS inputs, no more and no fewer, for every convolution and linear layer."""

    def __torch_function__(
        self, function: Callable, types: object, args: tuple = (), kwargs: Mapping | None = None
    ) -> object:
        """Cut the inputs of the three kinds of layers into parts, the last filled up with zeros."""
        if function not in _LAYERS or not args[0].numel():
            return function(*args, **(kwargs or {}))
        x, *rest = args
        parts = []
        for part in x.split(CUDA_ROIS):
            missing = [0, 0] * (x.ndim - 1) + [0, CUDA_ROIS - len(part)]
            full = functional.pad(part, missing) if missing[-1] else part
            parts.append(function(full, *rest, **(kwargs or {}))[: len(part)])
        return torch.cat(parts)


_LAYERS = (functional.conv2d, functional.conv_transpose2d, functional.linear)


def _with_constant_rois(forward: Callable) -> Callable:
    def constant(*args: object, **kwargs: object) -> object:
        with ConstantRois():
            return forward(*args, **kwargs)

    return constant


class Detector:
    """A Detectron2 model of a model folder, ready to detect on batches of pages."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], device: str = "auto") -> None:
        """Check and load the model folder; `settings` are the output settings of `detection`."""
        self.card = check_model(folder)
        self.classes: list[str] = self.card["classes"]
        self.device = choose_device(device)
        self.device_kind = device_kind(self.device)
        self.precision = choose_precision(settings["precision"], self.device)
        self.polygons = settings["polygons"]
        self.config = _config(folder / CONFIG, settings["score_floor"])
        self.config.MODEL.DEVICE = str(self.device)
        self.max_detections: int = self.config.TEST.DETECTIONS_PER_IMAGE
        color = self.config.INPUT.FORMAT if self.card["color"] == "config" else "grey"
        if color not in ("grey", "BGR", "RGB"):
            raise UserError(f"{folder / CONFIG}: INPUT.FORMAT {color} is neither BGR nor RGB.")
        self.color = color
        self.min_size: int = self.config.INPUT.MIN_SIZE_TEST
        self.max_size: int = self.config.INPUT.MAX_SIZE_TEST
        self.model = self._build(folder)
        self.divisibility: int = self.model.backbone.size_divisibility
        self.pages_at_once = CUDA_PAGES if self.device.type == "cuda" else None
        self._n_proposals: list[int] = []
        self._finite = torch.empty(0)
        generator = self.model.proposal_generator
        generator.rpn_head.register_forward_hook(self._check_maps)
        generator.register_forward_hook(self._count_proposals)
        for predictor in self.model.roi_heads.box_predictor.modules():
            if hasattr(predictor, "bbox_pred"):  # One, or one per stage of a cascade.
                predictor.register_forward_hook(self._check_predictions)

    def _build(self, folder: Path) -> torch.nn.Module:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        model = build_model(self.config).eval()
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        weights = {k: w.float() if w.is_floating_point() else w for k, w in weights.items()}
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from None
        heads = model.roi_heads
        for name in ("box_pooler", "mask_pooler"):
            if hasattr(heads, name):
                setattr(heads, name, Float32Pooler(getattr(heads, name)))
        if self.device.type == "cuda":
            heads.forward = _with_constant_rois(heads.forward)
        # With channels_last, oneDNN computes a page of a batch exactly as a page alone; SteadyKernels
        # sees to it that it is oneDNN.
        return model.to(memory_format=torch.channels_last)

    def _count_proposals(self, module: object, args: object, output: tuple) -> None:
        self._n_proposals = [len(proposals) for proposals in output[0]]

    def _check_maps(self, module: object, args: object, output: tuple) -> None:
        """Note on which pages the network's numbers are finite: Detectron2 leaves out all others, and a
        page would seem empty."""
        maps = [each for group in output for each in group]
        self._finite = torch.stack([each.isfinite().flatten(1).all(1) for each in maps]).all(0)

    def _check_predictions(self, module: object, args: object, output: tuple) -> None:
        rows = torch.cat(output, dim=1).isfinite().all(1).split(self._n_proposals)
        self._finite = self._finite & torch.stack([each.all() for each in rows])

    def dataset(self, pages: Sequence[Page], results: Path) -> PageDataset:
        """The pages as this model takes them."""
        return PageDataset(pages, results, self.color, self.min_size, self.max_size)

    def detect(
        self, pixels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[PageDetections]:
        """Detect on pages of equal canvas: `pixels` (C, H, W) uint8, `sizes` (height, width) of the
        page images. Out of memory, a pass is halved; a page alone that needs too much fails."""
        step = self.pages_at_once or max(len(pixels), 1)
        found = []
        for start in range(0, len(pixels), step):
            part = slice(start, start + step)
            found += self._detect_halved(pixels[part], sizes[part], step)
        return found

    def _detect_halved(
        self, pixels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]], room: int
    ) -> list[PageDetections]:
        try:
            return self._detect(pixels, sizes, room)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
        # Behind the block: the error holds the tensors of the frames that it left.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if room == 1:
            message = f"the page does not fit into the memory of {self.device_kind}"
            return [_nothing(("memory", message))]
        half = room // 2
        found = self._detect_halved(pixels[:half], sizes[:half], half)
        if len(pixels) > half:
            found += self._detect_halved(pixels[half:], sizes[half:], room - half)
        return found

    def _detect(
        self, pixels: Sequence[torch.Tensor], sizes: Sequence[tuple[int, int]], room: int
    ) -> list[PageDetections]:
        """Detect in one pass of `room` pages, filled up with the last page again."""
        inputs = [{"image": page.to(self.device).expand(3, -1, -1)} for page in pixels]
        inputs += inputs[-1:] * (room - len(inputs))
        kind = PRECISIONS[self.precision]
        autocast = torch.autocast(self.device.type, kind, enabled=kind != torch.float32)
        steady = contextlib.nullcontext()
        # In bfloat16 torch takes oneDNN anyway.
        if kind == torch.float32 and self.device.type == "cpu" and mkldnn.is_available():
            steady = SteadyKernels()
        with torch.inference_mode(), autocast, steady:
            found = self.model.inference(inputs, do_postprocess=False)
        n, finite = len(sizes), self._finite.tolist()
        each = zip(found[:n], sizes, self._n_proposals[:n], finite[:n], strict=True)
        return [self._page(*page) for page in each]

    def _page(
        self, found: Instances, size: tuple[int, int], n_proposals: int, finite: bool
    ) -> PageDetections:
        """Scale to the page image, as detector_postprocess does, without pasting masks on it."""
        if not finite:
            message = f"in {self.precision}, the network's numbers are not finite"
            return _nothing(("detector", message))
        height, width = size
        resized_height, resized_width = found.image_size
        scale = np.array([width / resized_width, height / resized_height] * 2, np.float32)
        boxes = found.pred_boxes.tensor.float().cpu().numpy() * scale
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, width)
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, height)
        scores = found.scores.float().cpu().numpy()
        class_ids = found.pred_classes.cpu().numpy().astype(np.int32)
        nonempty = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        # Equal scores: by class and place, so that the rank never depends on the processor's sort.
        keys = (boxes[:, 1], boxes[:, 0], class_ids, -scores)
        order = np.lexsort(keys)
        order = order[nonempty[order]]
        polygons: list[np.ndarray | None] = [None] * len(order)
        if self.polygons and found.has("pred_masks"):
            masks = found.pred_masks[:, 0].float().cpu().numpy()
            polygons = [mask_polygon(masks[i], boxes[i]) for i in order]
        return PageDetections(boxes[order], scores[order], class_ids[order], polygons, n_proposals)


def _nothing(problem: tuple[str, str]) -> PageDetections:
    empty = np.zeros((0, 4), np.float32)
    return PageDetections(empty, empty[:, 0], np.zeros(0, np.int32), [], 0, problem)


def _out_of_memory(error: Exception) -> bool:
    # The CPU's allocator; cuBLAS and cuDNN, which take memory of their own (CUBLAS_STATUS_ALLOC_FAILED).
    signs = ("can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


def _config(path: Path, score_floor: float) -> CfgNode:
    """A model folder's config on Detectron2's defaults."""
    config = get_cfg()
    try:
        config.merge_from_other_cfg(CfgNode(read_config(path)))
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"{path} is no config of this detectron2: {error}. Was it made with another release?"
        ) from None
    config.MODEL.WEIGHTS = ""
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(score_floor)
    return config


def convert_model(
    weights: Path, config: Path, target: Path, color: str, entries: Mapping[str, Any]
) -> None:
    """Make the model folder `target` from a Detectron2 checkpoint (.pth) and its config.

    Matrices are stored in float16, the rest as it is; `entries` go into model.json (name, classes,
    licence, provenance).
    """
    resolved = get_cfg()
    resolved.merge_from_other_cfg(CfgNode(read_config(config)))
    resolved.MODEL.WEIGHTS = ""
    resolved.MODEL.DEVICE = "cpu"
    checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
    state = checkpoint.get("model", checkpoint)
    model = build_model(resolved)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    small = {
        k: (v.half() if v.is_floating_point() and v.ndim > 1 else v).contiguous()
        for k, v in model.state_dict().items()
    }
    target.mkdir(parents=True)
    safetensors.torch.save_file(small, target / WEIGHTS)
    (target / CONFIG).write_text(resolved.dump(), encoding="utf-8")
    write_card(target, color=color, **entries)
    check_model(target)


def mask_polygon(mask: np.ndarray, box: np.ndarray) -> np.ndarray | None:
    """The outline of the largest piece of a mask, in pixels of the page.

    `mask` (M, M) float32 probabilities over `box` (4,), as Mask R-CNN's head gives them; returns
    (2 P,) int32 with P <= MAX_POLYGON_POINTS, or None where no probability reaches one half.
    """
    side = mask.shape[0]
    # Cell centres lie at (i + 0.5) / side of the box, and beyond the box the mask is zero: both as in
    # Detectron2's paste_masks_in_image (grid_sample, align_corners=False, zero padding).
    large = cv2.resize(np.pad(mask, 1), None, fx=MASK_SCALE, fy=MASK_SCALE)
    contours, _ = cv2.findContours(
        (large >= 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    if not contours:
        return None
    contour = max(contours, key=cv2.contourArea)
    tolerance = 0.5
    outline = cv2.approxPolyDP(contour, tolerance, closed=True)
    while len(outline) > MAX_POLYGON_POINTS:
        tolerance *= 1.3
        outline = cv2.approxPolyDP(contour, tolerance, closed=True)
    if len(outline) < 3:
        return None
    share = ((outline[:, 0].astype(np.float64) + 0.5) / MASK_SCALE - 1) / side
    corner, extent = box[:2].astype(np.float64), (box[2:] - box[:2]).astype(np.float64)
    points = np.rint(corner + share.clip(0, 1) * extent)
    return points.astype(np.int32).reshape(-1)


# A shard ------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """A document to detect on."""

    document: str
    pages: list[Page]
    wanted: Fingerprint


def detect_documents(
    detector: Detector,
    documents: Sequence[Work],
    store: StageStore,
    batch_size: int,
    threads: int,
    progress: Progress,
) -> None:
    """Detect on all pages of `documents`, in batches across them; each is recorded once it is done."""
    torch.set_num_threads(threads)
    step = detector.pages_at_once or 1
    batch_size = -(-batch_size // step) * step
    pages = [page for work in documents for page in work.pages]
    owners = [work for work in documents for _ in work.pages]
    left = {work.document: len(work.pages) for work in documents}
    found: dict[str, dict[int, tuple[PageDetections, np.ndarray]]] = {}
    for work in documents:
        if not work.pages:
            _record(detector, work, {}, store)
            progress.document(work.document, "computed", 0)
    for batch in batches(_load(detector, pages, store, threads), batch_size, detector.divisibility):
        pixels = [torch.as_tensor(sample.pixels) for sample in batch]
        sizes = [(pages[sample.index].height, pages[sample.index].width) for sample in batch]
        for sample, detections in zip(batch, detector.detect(pixels, sizes), strict=True):
            work = owners[sample.index]
            mine = found.setdefault(work.document, {})
            mine[pages[sample.index].page] = (detections, sample.ink)
            left[work.document] -= 1
            progress.page()
            if not left[work.document]:
                _record(detector, work, found.pop(work.document), store)
                progress.document(work.document, "computed", len(work.pages))


def _unchanged(sample: Sample) -> Sample:
    return sample


def _load(
    detector: Detector, pages: Sequence[Page], store: StageStore, threads: int
) -> Iterator[Sample]:
    """The pages in order, decoded ahead by loader processes."""
    loader = DataLoader(
        detector.dataset(pages, store.results),
        batch_size=None,
        num_workers=max(1, threads // 2),
        prefetch_factor=8,
        # Forked: a spawned loader would import the job's script again.
        multiprocessing_context="fork",
        # Arrays through a pipe, not tensors in shared memory, of which containers have little, and whose
        # server tells of a parent that was stopped with a traceback.
        collate_fn=_unchanged,
    )
    for sample in loader:
        if sample.problem:
            page = pages[sample.index]
            path = store.results / page.image
            raise page_image_error(path, page.document, page.page, sample.problem, Path.cwd())
        yield sample


def _record(
    detector: Detector,
    work: Work,
    found: Mapping[int, tuple[PageDetections, np.ndarray]],
    store: StageStore,
) -> None:
    """Write a document's record."""
    names = ("page", "detection", "class_id", "score", "x_min", "y_min", "x_max", "y_max")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    polygons: list[np.ndarray | None] = []
    outcomes = []
    for page in sorted(found):
        detections, ink = found[page]
        count = len(detections.scores)
        columns["page"].append(np.full(count, page))
        columns["detection"].append(np.arange(1, count + 1))
        columns["class_id"].append(detections.class_ids)
        columns["score"].append(detections.scores)
        for i, name in enumerate(names[4:]):
            columns[name].append(detections.boxes[:, i])
        polygons += detections.polygons
        outcome = {
            "document": work.document,
            "page": page,
            "status": "ok",
            "n_detections": count,
            "capped": count >= detector.max_detections,
            "n_proposals": detections.n_proposals,
            "precision": detector.precision,
            "device": detector.device_kind,
            "ink": ink,
        }
        if detections.problem:
            outcome |= {"n_detections": None, "capped": None, "n_proposals": None}
            outcome |= failed(STAGE, *detections.problem)
        outcomes.append(outcome)
    schema = SCHEMAS["detections"]
    merged = {k: np.concatenate([[], *parts]) for k, parts in columns.items()}
    class_ids = merged["class_id"].astype(np.int32)
    data = {
        "document": pa.repeat(pa.scalar(work.document), len(class_ids)),
        "class_name": pa.array([detector.classes[i] for i in class_ids], pa.string()),
        "polygon": pa.array(polygons, schema.field("polygon").type),
    }
    data |= {k: pa.array(v).cast(schema.field(k).type) for k, v in merged.items()}
    table = pa.table([data[name] for name in schema.names], schema=schema)
    with store.replace(work.document, work.wanted) as draft:
        tables = {"detections": table, "detected_pages": from_rows("detected_pages", outcomes)}
        draft.commit(tables, {"model": detector.card["name"]})
