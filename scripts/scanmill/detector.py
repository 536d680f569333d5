"""A model on page images: on batches of them for the workflow, on files for everybody else.

    model = scanmill.detector.load("scanmill-layout")
    regions = model.detect(["page1.jpg", "page2.jpg"])
    regions.to_pandas()

It and what it imports know Detectron2.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import scanmill.torch_setup  # noqa: F401

# isort: split
import pyarrow as pa
import safetensors.torch
import torch
from detectron2.config import CfgNode

from scanmill import regions
from scanmill.configs import load_config, resolve
from scanmill.conversion import check_backbone, convert_model
from scanmill.detection import FoundPage, detect_pages, detections_table, page_outcome
from scanmill.errors import UserError
from scanmill.fetching import find_folder
from scanmill.model_folders import (
    CONFIG,
    WEIGHTS,
    check_model,
    is_backbone,
    read_config,
)
from scanmill.network import (
    PROPOSALS_PER_REGION,
    SURE_SCORE,
    Found,
    Misfit,
    Network,
    build_network,
)
from scanmill.preprocessing import FileDataset, Page, PageDataset, Sample, canvas
from scanmill.processors import cpu_model, has_bfloat16, lock_gpus, nvidia_driver
from scanmill.progress import logger
from scanmill.registry import (
    find_address,
    own_registry,
    resolve_address,
)
from scanmill.tables import SCHEMAS
from scanmill.tiles import TileDetections

#: Pages of a pass on CUDA, where they fit: more gain nothing once the GPU is busy.
CUDA_PAGES = 8
#: On the CPU a pass of more pages is not faster, and takes more memory.
CPU_PAGES = 1

#: Detectron2's heads of Faster and Mask R-CNN: on FPN and DC5, and on C4.
ROI_HEADS = ("StandardROIHeads", "Res5ROIHeads")

#: Where memory is so short, cuDNN and cuBLAS fail in ways of their own.
SHORT_OF_MEMORY = 512 << 20


# Devices ------------------------------------------------------------------------------------------


def choose_device(setting: str) -> torch.device:
    """The device that `detection.device` stands for; a GPU that torch cannot use is a UserError.

    Of several GPUs the first that no other job of this user has locked, unless CUDA_VISIBLE_DEVICES
    tells which; where all are taken, it is waited for. The lock ends with the process.
    """
    if setting == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        index = lock_gpus(torch.cuda.device_count(), 1, logger.info)[0]
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
        overrides: Sequence[object] = (),
    ) -> None:
        """Check and load the model folder; `settings` are the output settings of `detection`.

        `overrides` is KEY VALUE ..., laid over the folder's config and the settings.
        """
        self.card = check_model(folder)
        if is_backbone(self.card):
            raise UserError(
                f"{folder} is a backbone, which detectors are trained from: it finds nothing by itself."
            )
        self.classes: list[str] = self.card["classes"]
        self.device = choose_device(device)
        self.device_kind = device_kind(self.device)
        self.precision = choose_precision(settings["precision"], self.device)
        self.polygons: bool = settings["polygons"]
        self.tiles: Mapping[str, int] | None = settings["tiles"]
        self.config = _config(folder / CONFIG, settings, overrides)
        #: Whether SCORE_THRESH_TEST was asked for.
        self.own_threshold = _THRESHOLD in overrides[0::2]
        self.max_detections: int = self.config.TEST.DETECTIONS_PER_IMAGE
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

    def detect_batches(
        self, batches: Iterable[Sequence[np.ndarray]]
    ) -> Iterator[list[TileDetections]]:
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

    def detect(
        self,
        paths: Sequence[str | Path] | str | Path,
        min_score: float | None = None,
    ) -> pa.Table:
        """The regions of image files (JPEG, PNG, TIFF, JPEG 2000), one row each, file by file in reading
        order: the columns of the table `regions`, with the path as `document`.

        `min_score` is the lowest score, by default 0.5. Raises UserError for a file that is no image.
        """
        found = self.detect_files(paths, min_score)
        failed = [each for each in found if each.status != "ok"]
        if failed:
            more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
            raise UserError(f"{failed[0].path}: {failed[0].message}{more}.")
        tables = [each.regions for each in found] or [SCHEMAS["regions"].empty_table()]
        about = {"scanmill.model": self.card["name"], "scanmill.classes": ", ".join(self.classes)}
        return pa.concat_tables(tables).replace_schema_metadata(about)

    def detect_files(
        self,
        paths: Sequence[str | Path] | str | Path,
        min_score: float | None = None,
    ) -> list[ImageRegions]:
        """What is on each of the image files, in their order; also of those that fail."""
        names = [os.fspath(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
        # Tables and JSON hold no bytes that are no text.
        shown = [name.encode("utf-8", "backslashreplace").decode() for name in names]
        if min_score is None:
            floor = self.config.MODEL.ROI_HEADS.SCORE_THRESH_TEST
            min_score = floor if self.own_threshold else MIN_SCORE
        settings = {
            "classes": None,
            "min_score": min_score,
            "duplicate_iou": 0.7,
            "reading_order": "columns",
        }
        outcomes: dict[int, ImageRegions] = {}

        def take(found: FoundPage) -> None:
            name = shown[found.sample.index]
            width, height = np.max(found.sample.windows, axis=0)[2:].tolist()
            outcome = page_outcome(self, found)
            if outcome["status"] != "ok":
                outcomes[found.sample.index] = _failed(name, outcome["message"])
                return
            table = detections_table(name, {1: found.detections}, self.classes)
            table = regions.select_regions(table, width, height, settings)
            outcomes[found.sample.index] = ImageRegions(name, "ok", "", width, height, table)

        def miss(sample: Sample) -> None:
            outcomes[sample.index] = _failed(shown[sample.index], sample.problem)

        dataset = FileDataset(names, self.color, self.sizes, self.tiles)
        detect_pages(self, dataset, len(os.sched_getaffinity(0)), take, miss)
        return [outcomes[index] for index in range(len(names))]

    def detect_raw(self, paths: Sequence[Path], threads: int) -> list[pa.Table]:
        """Every detection on each of the image files, best first, before thresholds and suppression of
        duplicates: the columns of the table `detections`.

        Raises UserError for a file that cannot be read.
        """
        tables: dict[int, pa.Table] = {}

        def take(found: FoundPage) -> None:
            path, outcome = str(paths[found.sample.index]), page_outcome(self, found)
            if outcome["status"] != "ok":
                raise UserError(f"{path}: {outcome['message']}.")
            found_here = {1: found.detections}
            tables[found.sample.index] = detections_table(path, found_here, self.classes)

        def miss(sample: Sample) -> None:
            raise UserError(f"{paths[sample.index]}: {sample.problem}.")

        dataset = FileDataset([str(path) for path in paths], self.color, self.sizes, self.tiles)
        detect_pages(self, dataset, threads, take, miss)
        return [tables[index] for index in range(len(paths))]


def _nothing(shape: tuple[int, int], problem: tuple[str, str]) -> TileDetections:
    empty = np.zeros((0, 4), np.float32)
    return TileDetections(empty, empty[:, 0], np.zeros(0, np.int32), None, shape, 0, problem)


def _config(path: Path, settings: Mapping[str, Any], overrides: Sequence[object]) -> CfgNode:
    """A model folder's config on Detectron2's defaults, with the floor and cap of the settings."""
    mine = [
        *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", float(settings["score_floor"])),
        *("TEST.DETECTIONS_PER_IMAGE", settings["max_detections"]),
    ]
    config = resolve(read_config(path), [*mine, *overrides], str(path))
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
    return config


# Files --------------------------------------------------------------------------------------------

#: The keys of Detectron2 that stand for arguments here.
_THRESHOLD = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"

#: Lowest score of a region, where nothing else is said: `regions.min_score` of the workflow.
MIN_SCORE = 0.5


class ImageRegions(NamedTuple):
    """What was found on an image file."""

    path: str
    status: str
    """`ok` or `failed`."""
    message: str
    """Why it failed."""
    width: int
    height: int
    """Pixels of the upright image; 0 where it failed."""
    regions: pa.Table
    """As `regions`, with the path as document; without rows where it failed."""


def load(
    model: str | Path | None = None,
    *,
    config_file: str | Path | None = None,
    classes: Sequence[str] | None = None,
    overrides: Sequence[object] = (),
    device: str = "auto",
    precision: str = "auto",
    tiles: Mapping[str, int] | None = None,
) -> Detector:
    """A detector that is ready.

    `model` is a model folder, or the name of one there is, or of the registry, from which it is
    fetched into models/ of the current directory. Those who come from Detectron2 give `config_file` in
    its place, and the checkpoint as `overrides=["MODEL.WEIGHTS", "model_final.pth"]`; `classes` names
    what it finds, otherwise ids do. `overrides` is KEY VALUE ..., as Detectron2 has them; `device`,
    `precision` and `tiles` are those of the setting `detection`.

    Raises UserError where a model cannot be had, does not fit its config, or is not what was checked in.
    """
    given = dict(zip(overrides[0::2], overrides[1::2], strict=False))
    if "MODEL.DEVICE" in given:
        device = str(given["MODEL.DEVICE"]).partition(":")[0]
    settings = {
        "precision": precision,
        "polygons": True,
        "tiles": tiles,
        "max_detections": 1000,
        "score_floor": 0.05,
    }
    if (model is None) == (config_file is None):
        raise UserError("Give either a model or a config file.")
    if model is not None:
        if classes is not None:
            raise UserError("A model has its own class names: leave out `classes`.")
        return Detector(find_folder(model, detector=True), settings, device, "auto", overrides)
    with tempfile.TemporaryDirectory(prefix="scanmill-") as folder:
        converted = Path(folder) / "model"
        config = _convert(Path(config_file), overrides, classes, converted)
        threshold = config.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        if threshold != settings["score_floor"]:  # Detectron2's default: the file says another.
            overrides = [*overrides, _THRESHOLD, threshold]
        return Detector(converted, settings, device, "auto", overrides)


def _convert(
    config_file: Path, overrides: Sequence[object], classes: Sequence[str] | None, target: Path
) -> CfgNode:
    """A model folder of a model as Detectron2 names it: a config, with MODEL.WEIGHTS in it or among the
    overrides. Returns the config."""
    entries = own_registry()
    config = load_config(config_file, overrides)
    initial = find_address(load_config(config_file).MODEL.WEIGHTS, entries)
    if initial is not None and not initial.classes:
        check_backbone(config, initial, str(config_file))
    weights = config.MODEL.WEIGHTS
    if "://" in weights:
        entry = resolve_address(weights, entries)
        if not entry.classes:
            raise UserError(
                f"{config_file} names no weights of a detector: MODEL.WEIGHTS {weights} is a backbone, "
                "which it would be trained from. Name your checkpoint: MODEL.WEIGHTS model_final.pth"
            )
        weights, classes = find_folder(entry.name) / WEIGHTS, classes or entry.classes
    if not weights or not Path(weights).is_file():
        raise UserError(
            f"MODEL.WEIGHTS {weights or '(empty)'} is no file. Name your checkpoint: MODEL.WEIGHTS "
            "model_final.pth"
        )
    count = config.MODEL.ROI_HEADS.NUM_CLASSES
    names = list(classes or map(str, range(count)))
    card = {"name": Path(weights).stem, "classes": names}
    convert_model(Path(weights), config, target, card)
    return config


def _failed(path: str, message: str) -> ImageRegions:
    return ImageRegions(path, "failed", message, 0, 0, SCHEMAS["regions"].empty_table())
