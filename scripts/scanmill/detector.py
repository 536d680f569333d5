"""A model of a model folder on batches of page images. It and what it imports know Detectron2."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scanmill.errors import UserError
from scanmill.network import (  # Before torch: see there.
    PROPOSALS_PER_REGION,
    SURE_SCORE,
    Found,
    Misfit,
    Network,
    build_network,
)

# isort: split
import safetensors.torch
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from scanmill.preprocessing import Page, PageDataset, canvas
from scanmill.processors import cpu_model, has_bfloat16, lock_gpu, nvidia_driver
from scanmill.progress import logger
from scanmill.registry import CONFIG, WEIGHTS, check_model, read_config, write_card

#: Pages of a pass on CUDA, where they fit: more gain nothing once the GPU is busy.
CUDA_PAGES = 8
#: On the CPU a pass of more pages is not faster, and takes more memory.
CPU_PAGES = 1

#: Detectron2's heads of Faster and Mask R-CNN: on FPN and DC5, and on C4.
ROI_HEADS = ("StandardROIHeads", "Res5ROIHeads")

#: Where memory is so short, cuDNN and cuBLAS fail in ways of their own.
SHORT_OF_MEMORY = 512 << 20


class TileDetections(NamedTuple):
    """What the network finds on one tile, in pixels of the resized tile, as it came."""

    boxes: np.ndarray
    """(N, 4) float32 x_min, y_min, x_max, y_max."""
    scores: np.ndarray
    """(N,) float32."""
    class_ids: np.ndarray
    """(N,) int32."""
    masks: np.ndarray | None
    """(N, M, M) float32 probabilities over the boxes, or None."""
    shape: tuple[int, int]
    """(height, width) of the resized tile."""
    n_proposals: int
    problem: tuple[str, str] | None = None
    """(reason, message) where the tile failed."""


# Devices ------------------------------------------------------------------------------------------


def choose_device(setting: str) -> torch.device:
    """The device that `detection.device` stands for; a GPU that torch cannot use is a UserError.

    Of several GPUs the first that no other job of this user has locked, unless CUDA_VISIBLE_DEVICES
    tells which; where all are taken, it is waited for. The lock ends with the process.
    """
    if setting == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        index = lock_gpu(torch.cuda.device_count(), logger.info)
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
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
    """The precision that `detection.precision` stands for on a device, which must be able to."""
    if setting == "auto":
        if device.type == "cuda":
            return "float16"
        return "bfloat16" if has_bfloat16() else "float32"
    kernels = torch.ops.mkldnn
    able = {
        "bfloat16": kernels._is_mkldnn_bf16_supported,
        "float16": kernels._is_mkldnn_fp16_supported,
    }
    if device.type == "cpu" and setting in able and not able[setting]():
        raise UserError(
            f"detection.precision is {setting}, which this processor ({cpu_model()}) has no "
            "instructions for. Set it to auto or float32."
        )
    return setting


def device_kind(device: torch.device) -> str:
    """The kind of processor: on equal kinds results are equal bit by bit."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {cpu_model()}".strip()


@contextlib.contextmanager
def _gpu_errors(kind: str) -> Iterator[None]:
    """Say what is to be done where a GPU fails: no page is to blame, and the next job may do better."""
    try:
        yield
    except RuntimeError as error:
        if "CUDA error" not in str(error) and "CUDNN_STATUS" not in str(error):
            raise
        raise UserError(
            f"The GPU ({kind}) stopped working: {str(error).splitlines()[0]}. Documents that were "
            "finished are kept, and the same command goes on with the others. If it happens again, "
            "`nvidia-smi` and the kernel's log (`dmesg`) tell more; `detection: {device: cpu}` does "
            "without the GPU."
        ) from error


def _out_of_memory(error: RuntimeError, device: torch.device) -> bool:
    # The CPU's allocator; cuBLAS and cuDNN, which take memory of their own and name it badly.
    message = str(error)
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in message:
        return True
    if "ALLOC_FAILED" in message:
        return True
    if device.type != "cuda" or not ("CUDNN_STATUS" in message or "CUBLAS_STATUS" in message):
        return False
    with contextlib.suppress(RuntimeError):  # Nor can a GPU that is lost be asked.
        return torch.cuda.mem_get_info(device)[0] < SHORT_OF_MEMORY
    return False


# The detector -------------------------------------------------------------------------------------


class _Pass(NamedTuple):
    """A forward pass under way: what it finds is being copied back."""

    found: Found
    shapes: list[tuple[int, int]]
    done: torch.cuda.Event | None


class Detector:
    """A Detectron2 model of a model folder, ready to detect on batches of pages."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        device: str = "auto",
        batch_size: int | str = "auto",
    ) -> None:
        """Check and load the model folder; `settings` are the output settings of `detection`."""
        self.card = check_model(folder)
        self.classes: list[str] = self.card["classes"]
        self.device = choose_device(device)
        self.device_kind = device_kind(self.device)
        self.precision = choose_precision(settings["precision"], self.device)
        self.polygons: bool = settings["polygons"]
        self.tiles: Mapping[str, int] | None = settings["tiles"]
        self.max_detections: int = settings["max_detections"]
        self.config = _config(folder / CONFIG, settings)
        self.config.MODEL.DEVICE = str(self.device)
        color = self.config.INPUT.FORMAT if self.card["color"] == "config" else "grey"
        if color not in ("grey", "BGR", "RGB"):
            raise UserError(f"{folder / CONFIG}: INPUT.FORMAT {color} is neither BGR nor RGB.")
        self.color = color
        self.sizes = (self.config.INPUT.MIN_SIZE_TEST, self.config.INPUT.MAX_SIZE_TEST)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        with _gpu_errors(self.device_kind):
            try:
                model = build_network(self.config, weights, self.precision)
            except Misfit as error:
                raise UserError(
                    f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}. Take the config "
                    "that the model was trained with."
                ) from None
            self.divisibility: int = model.backbone.size_divisibility
            self.network = Network(model)
            self._copies: torch.cuda.Stream | None = None
            if self.device.type == "cuda":
                self.network.work_together()
                self._copies = torch.cuda.Stream()
            self.batch_size = self._choose_batch_size() if batch_size == "auto" else batch_size

    def _choose_batch_size(self) -> int:
        """CPU_PAGES, or on CUDA as many of CUDA_PAGES as a dry pass of the largest pages takes."""
        if self.device.type != "cuda":
            return CPU_PAGES
        shortest, longest = self.sizes
        height, width = canvas(shortest or longest, longest, self.divisibility)
        pages = CUDA_PAGES
        page = np.zeros((1 if self.color == "grey" else 3, height, width), np.uint8)
        while pages > 1:
            self.batch_size = pages
            torch.cuda.reset_peak_memory_stats()
            if len(self._launch([page] * pages)) == 1:  # In one pass: it was not halved.
                break
            pages //= 2
        peak = torch.cuda.max_memory_reserved() / 2**30
        logger.info("%d pages a pass on %s, peak %.1f GiB", pages, self.device_kind, peak)
        return pages

    def dataset(self, pages: Sequence[Page], results: Path) -> PageDataset:
        """The pages as this model takes them."""
        return PageDataset(pages, results, self.color, self.sizes, self.tiles)

    def detect(self, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[list[TileDetections]]:
        """Detect on batches of (C, H, W) uint8, of one canvas each; what they hold, in their order.

        On CUDA a batch is computed while the one before is copied back. Out of memory, a pass is halved;
        a page alone that needs too much fails. A GPU that stops working is a UserError.
        """
        ahead: deque[list[_Pass | TileDetections]] = deque()
        with _gpu_errors(self.device_kind):
            for batch in batches:
                ahead.append(self._launch(batch))
                if len(ahead) > (self._copies is not None):
                    yield self._collect(ahead.popleft())
            for passes in ahead:
                yield self._collect(passes)

    def _launch(self, pixels: Sequence[np.ndarray]) -> list[_Pass | TileDetections]:
        """Start the passes that a batch takes, of `batch_size` pages each."""
        size = self.batch_size if self._copies is not None else len(pixels)
        started = []
        for start in range(0, len(pixels), size):
            started += self._launch_halved(pixels[start : start + size], size)
        return started

    def _launch_halved(
        self, pixels: Sequence[np.ndarray], room: int
    ) -> list[_Pass | TileDetections]:
        try:
            return [self._launch_pass(pixels, room)]
        except RuntimeError as error:
            if not _out_of_memory(error, self.device):
                raise
        # Behind the block: the error holds the tensors of the frames that it left.
        if self._copies is not None:
            torch.cuda.empty_cache()
        if room == 1:
            message = f"the page does not fit into the memory of {self.device_kind}"
            return [_nothing(pixels[0].shape[1:], ("memory", message))]
        half = room // 2
        started = self._launch_halved(pixels[:half], half)
        if len(pixels) > half:
            started += self._launch_halved(pixels[half:], room - half)
        return started

    def _launch_pass(self, pixels: Sequence[np.ndarray], room: int) -> _Pass:
        """Start one pass; on CUDA filled up to `room` pages, as kernels are chosen by their number."""
        shapes = [page.shape[1:] for page in pixels]
        count = len(pixels) if self._copies is None else room
        size = (count, len(pixels[0]), *canvas(*shapes[0], self.divisibility))
        canvases = torch.zeros(size, dtype=torch.uint8, pin_memory=self._copies is not None)
        for place, page in zip(canvases, pixels, strict=False):
            place[:, : page.shape[1], : page.shape[2]] = torch.from_numpy(page)
        filled = shapes + shapes[-1:] * (count - len(shapes))
        if self._copies is None:
            return _Pass(self.network(canvases, filled), shapes, None)
        with torch.cuda.stream(self._copies):
            there = canvases.to(self.device, non_blocking=True)
        current = torch.cuda.current_stream()
        current.wait_stream(self._copies)
        there.record_stream(current)
        found = self.network(there, filled)
        back = [
            each.to("cpu", non_blocking=True) if isinstance(each, torch.Tensor) else each
            for each in found
        ]
        return _Pass(Found(*back), shapes, current.record_event())

    def _collect(self, started: Sequence[_Pass | TileDetections]) -> list[TileDetections]:
        """What the passes of a batch found, waited for."""
        collected = []
        for each in started:
            if isinstance(each, TileDetections):
                collected.append(each)
                continue
            if each.done is not None:
                each.done.synchronize()
            collected += self._split(each)
        return collected

    def _split(self, each: _Pass) -> list[TileDetections]:
        found, start, tiles = each.found, 0, []
        numbers = zip(
            each.shapes, found.counts, found.n_proposals, found.finite.tolist(), strict=False
        )
        for shape, count, n_proposals, finite in numbers:
            rows = slice(start, start + count)
            start += count
            if not finite:
                message = f"in {self.precision}, the network's numbers are not finite"
                tiles.append(_nothing(shape, ("detector", message)))
                continue
            masks = None
            if self.polygons and found.masks is not None:
                masks = found.masks[rows].numpy()
            class_ids = found.class_ids[rows].numpy().astype(np.int32)
            boxes, scores = found.boxes[rows].numpy(), found.scores[rows].numpy()
            tiles.append(TileDetections(boxes, scores, class_ids, masks, shape, n_proposals))
        return tiles

    def capped(self, found: TileDetections) -> bool:
        """Whether a cap may have cost regions: that on detections, or that on proposals."""
        sure = np.count_nonzero(found.scores >= SURE_SCORE)
        few = found.n_proposals < PROPOSALS_PER_REGION * sure
        return len(found.scores) >= self.max_detections or few


def _nothing(shape: tuple[int, int], problem: tuple[str, str]) -> TileDetections:
    empty = np.zeros((0, 4), np.float32)
    return TileDetections(empty, empty[:, 0], np.zeros(0, np.int32), None, shape, 0, problem)


def _config(path: Path, settings: Mapping[str, Any]) -> CfgNode:
    """A model folder's config on Detectron2's defaults, its cap as `detection.max_detections` says."""
    config = get_cfg()
    try:
        config.merge_from_other_cfg(CfgNode(read_config(path)))
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"{path} is no config of this detectron2: {error}. Was it made with another release?"
        ) from None
    parts = (
        config.MODEL.META_ARCHITECTURE,
        config.MODEL.PROPOSAL_GENERATOR.NAME,
        config.MODEL.ROI_HEADS.NAME,
    )
    if parts[:2] != ("GeneralizedRCNN", "RPN") or parts[2] not in ROI_HEADS:
        raise UserError(
            f"{path} is of {', '.join(parts)}. Scanmill runs Faster R-CNN and Mask R-CNN: "
            f"GeneralizedRCNN with RPN and {' or '.join(ROI_HEADS)}."
        )
    config.MODEL.WEIGHTS = ""
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = float(settings["score_floor"])
    config.TEST.DETECTIONS_PER_IMAGE = settings["max_detections"]
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
