"""Pages per second of the detector: Detectron2's DefaultPredictor beside Scanmill, on this machine.

    python scripts/benchmark.py --model scanmill-layout --pages 40
    python scripts/benchmark.py --model COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml --pages 40

A model is a folder in `models/`, a path to one, or the name of a config of Detectron2: then it has
random weights, calibrated so that a page has the usual proposals and tens of detections. On the pages
of an archive made for it (A4 at 300 dpi), or of yours (`--archive`), in one process after warm-up:

(a) DefaultPredictor in a loop over the page images, in float32, with the same caps and score floor;
(b) the bare forward pass on pages decoded and resized before, at our precision: the limit;
(c) Scanmill's engine, from page images to tables, its loaders' start included;
(d) the whole workflow, from PDFs to crops, everything's start included (`--workflow`).
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import make_demo_archive
import numpy as np
import pyarrow.dataset
import yaml

from scanmill.detector import Detector

# isort: split
import safetensors.torch
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock

import scanmill
from scanmill import detection as detection_module
from scanmill.configs import load_config
from scanmill.conversion import convert_model
from scanmill.detection import Work, detect_documents, place_all
from scanmill.errors import UserError
from scanmill.fetching import fetch_model
from scanmill.model_folders import WEIGHTS
from scanmill.preprocessing import Page, batches, pages_of, parts
from scanmill.processors import cpu_model
from scanmill.progress import Progress
from scanmill.registry import MODELS, find_model, own_registry
from scanmill.settings import output_settings
from scanmill.store import StageStore
from scanmill.tables import by_document

ROOT = Path(__file__).parents[1]
CLASSES = ["text", "title", "list", "table", "figure"]
#: Pages of a document of the archive that is made, and different pages in it.
DOCUMENT, DIFFERENT = 10, 20
#: Standard deviation of a random model's objectness logits.
OBJECTNESS = 3.0
#: Pairs of proposal and class of a page above the score floor that it is calibrated to.
CANDIDATES = 60


# The archive --------------------------------------------------------------------------------------


def make_archive(folder: Path, pages: int, kind: str) -> None:
    """PDFs of scanned A4 pages at 300 dpi: `grey` or `colour` JPEG, or `bilevel` CCITT."""
    folder.mkdir(parents=True)
    for start in range(0, pages, DOCUMENT):
        path = folder / f"{start // DOCUMENT:05d}.pdf"
        same = folder / f"{start // DOCUMENT % (DIFFERENT // DOCUMENT):05d}.pdf"
        count = min(DOCUMENT, pages - start)
        if same.exists() and count == DOCUMENT:
            shutil.copyfile(same, path)
            continue
        make_demo_archive.write_scanned_pdf(
            path,
            count,
            seed=start,
            kind="g4" if kind == "bilevel" else "jpeg",
            dpi=300,
            grey=kind != "colour",
        )


def snakemake(target: str, run: Path, archive: Path, *config: str) -> float:
    """Run a target of the workflow; seconds."""
    command = [sys.executable, "-m", "snakemake", target, "--cores", "all", "--quiet", "all"]
    command += ["--snakefile", ROOT / "Snakefile", "--profile", ROOT / "profiles/default"]
    command += ["--directory", run, "--config", f"archive={archive.absolute()}", *config]
    start = time.perf_counter()
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"`snakemake {target}` failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - start


# Models -------------------------------------------------------------------------------------------


def random_model(name: str, folder: Path, options: list[str], pages: list[np.ndarray]) -> Path:
    """A model folder of a Detectron2 config with random weights (`random_network`)."""
    config = load_config(name, ["MODEL.ROI_HEADS.NUM_CLASSES", len(CLASSES), *options])
    model = random_network(config, pages)
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary, "model.pth")
        torch.save({"model": model.state_dict()}, weights)
        card = {"name": folder.name, "classes": CLASSES, "provenance": f"{name}, random"}
        convert_model(weights, config, folder, card)
    return folder


def random_network(config: CfgNode, pages: list[np.ndarray]) -> torch.nn.Module:
    """The model of a config with random weights of seed 0.

    So that its work is that of a trained one, its norms are those of the `pages` (BGR), objectness is
    spread, and the background's score is such that about CANDIDATES pairs of proposal and class of a
    page are above 0.05.
    """
    config.MODEL.WEIGHTS, config.MODEL.DEVICE = "", "cpu"
    torch.manual_seed(0)
    model = build_model(config).eval()
    side = config.INPUT.MIN_SIZE_TEST
    size = (side, round(side * 1.414))
    small = [cv2.resize(page, size, interpolation=cv2.INTER_AREA) for page in pages]
    inputs = [{"image": torch.as_tensor(page.transpose(2, 0, 1).copy())} for page in small]

    for block in model.modules():
        if isinstance(
            block, (BasicBlock, BottleneckBlock)
        ):  # Or rounding grows from block to block.
            last = block.conv3 if isinstance(block, BottleneckBlock) else block.conv2
            last.norm.weight.fill_(0.2)

    def calibrate(norm: torch.nn.Module, args: tuple) -> None:
        norm.running_mean.copy_(args[0].mean((0, 2, 3)))
        norm.running_var.copy_(args[0].var((0, 2, 3)) + 1e-3)

    scores, maps = [], []
    predictor, rpn_head = model.roi_heads.box_predictor, model.proposal_generator.rpn_head
    hooks = [
        norm.register_forward_pre_hook(calibrate)
        for norm in model.modules()
        if isinstance(norm, FrozenBatchNorm2d)
    ]
    hooks.append(predictor.register_forward_hook(lambda _, args, output: scores.append(output[0])))
    hooks.append(rpn_head.register_forward_hook(lambda _, args, output: maps.extend(output[0])))
    with torch.no_grad():
        predictor.cls_score.weight.mul_(4)
        model.inference(inputs, do_postprocess=False)
        spread = torch.cat([each.flatten() for each in maps]).std()
        rpn_head.objectness_logits.weight.mul_(OBJECTNESS / spread)
        scores.clear()
        model.inference(inputs, do_postprocess=False)
        low, high = 0.0, 40.0
        for _ in range(30):
            bias = (low + high) / 2
            shifted = scores[0] + torch.tensor([0.0] * config.MODEL.ROI_HEADS.NUM_CLASSES + [bias])
            many = (shifted.softmax(1)[:, :-1] > 0.05).sum() > CANDIDATES * len(inputs)
            low, high = (bias, high) if many else (low, bias)
        predictor.cls_score.bias[-1] += high
    for hook in hooks:
        hook.remove()
    return model


def default_predictor(detector: Detector, folder: Path) -> DefaultPredictor:
    """Detectron2's own way to run the model, with the same caps."""
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    weights = {k: w.float() if w.is_floating_point() else w for k, w in weights.items()}
    config = detector.config.clone()
    with tempfile.TemporaryDirectory() as temporary:
        config.MODEL.WEIGHTS = str(Path(temporary, "model.pth"))
        torch.save({"model": weights}, config.MODEL.WEIGHTS)
        return DefaultPredictor(config)


# Measuring ----------------------------------------------------------------------------------------


class Stages:
    """Seconds by stage of what runs within `watch`, each stage ended by a synchronisation."""

    def __init__(self) -> None:
        """Nothing was timed yet."""
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, function: Callable) -> Callable:
        """`function`, whose time is added up."""

        def wrapped(*args: object, **kwargs: object) -> object:
            synchronize()
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                synchronize()
                took = time.perf_counter() - start
                self.seconds[name] = self.seconds.get(name, 0) + took

        return wrapped

    @contextlib.contextmanager
    def watch(self, **targets: tuple[object, str]) -> Iterator[None]:
        """Time the attributes (object, name) under the names of the stages."""
        before = [(owner, name, owner.__dict__.get(name)) for owner, name in targets.values()]
        for stage, (owner, name) in targets.items():
            owner.__dict__[name] = self.timed(stage, getattr(owner, name))
        try:
            yield
        finally:
            for owner, name, old in before:
                owner.__dict__.pop(name)
                if old is not None:
                    owner.__dict__[name] = old


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class GpuUse:
    """The share of time in which a GPU had something to do, as nvidia-smi samples it."""

    def __init__(self, device: torch.device) -> None:
        """Start to sample, where there is a GPU."""
        self.samples: list[int] = []
        self.process = None
        if device.type == "cuda":
            query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            command = [*query, "-lms", "200", f"--id=GPU-{uuid.removeprefix('GPU-')}"]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.strip().isdigit():
                self.samples.append(int(line))

    def stop(self) -> float | None:
        """The share, or None without a GPU."""
        if self.process is None:
            return None
        self.process.terminate()
        self.process.wait()
        return round(float(np.mean(self.samples)) / 100, 3) if self.samples else None


def pages_per_second(function: Callable, pages: int, repeat: int) -> float:
    """The best of `repeat` runs: other work on the machine only ever takes time away."""
    best = float("inf")
    for _ in range(repeat):
        synchronize()
        start = time.perf_counter()
        function()
        synchronize()
        best = min(best, time.perf_counter() - start)
    return pages / best


def measure_default(predictor: DefaultPredictor, paths: list[Path]) -> Callable:
    """(a): file to instances on the CPU, masks pasted, as its users do."""

    def loop() -> None:
        for path in paths:
            predictor(cv2.imread(str(path)))["instances"].to("cpu")

    return loop


def measure_forward(detector: Detector, ready: list[list[np.ndarray]]) -> Callable:
    """(b): batches through the network and back, nothing else."""

    def loop() -> None:
        for _ in detector.detect_batches(ready):
            pass

    return loop


def measure_engine(
    detector: Detector, documents: dict[str, list[Page]], results: Path, threads: int
) -> Callable:
    """(c): page images to the documents' tables."""

    def loop() -> None:
        for record in results.glob("store/**/detections.parquet"):
            record.unlink()
        store = StageStore(results, "detections", {}, "benchmark", False)
        work = [Work(name, pages, store.fingerprint([name])) for name, pages in documents.items()]
        total = sum(len(pages) for pages in documents.values())
        detect_documents(detector, work, store, threads, Progress("benchmark", 0, total, total))

    return loop


def stage_times(
    detector: Detector, documents: dict[str, list[Page]], results: Path, threads: int
) -> dict[str, float]:
    """Milliseconds a page of each stage, one after the other in one process: they overlap at work."""
    stages = Stages()
    pages = [page for each in documents.values() for page in each][: 4 * detector.batch_size]
    dataset = detector.dataset(pages, results)
    model = detector.network.model
    import scanmill.preprocessing as loading

    torch.set_num_threads(threads)
    with stages.watch(
        decode=(loading, "decode_reduced"),
        resize=(loading, "resize"),
        ink=(loading, "ink_by_cell"),
        type_height=(loading, "type_height"),
    ):
        samples = [dataset[index] for index in range(len(pages))]
    groups = list(batches(parts(samples), detector.batch_size, detector.divisibility))
    with stages.watch(
        normalize=(detector.network, "normalize"),
        backbone=(model.backbone, "forward"),
        rpn=(model.proposal_generator, "forward"),
        heads=(model.roi_heads, "forward"),
        masks=(model.roi_heads, "forward_with_given_boxes"),
        forward=(detector, "network"),
    ):
        found = list(detector.detect_batches([[part.pixels for part in group] for group in groups]))
    stages.seconds["heads"] -= stages.seconds.get("masks", 0)
    tiles = [
        (tile, samples[part.index].windows[part.tile])
        for group, each in zip(groups, found, strict=True)
        for part, tile in zip(group, each, strict=True)
    ]
    placed = stages.timed("outlines", place_all)(tiles)
    kept = dict(enumerate(placed, start=1))
    stages.timed("rows", detection_module.detections_table)("a", kept, detector.classes)
    return {name: round(1e3 * took / len(pages), 2) for name, took in stages.seconds.items()}


def peak_memory(device: torch.device) -> dict[str, float]:
    """GB of this process and of the largest of its children so far, and of the GPU."""
    peak = {
        "process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6,
    }
    if device.type == "cuda":
        peak["gpu"] = torch.cuda.max_memory_reserved() / 1e9
    return {name: round(size, 2) for name, size in peak.items()}


# The program --------------------------------------------------------------------------------------


def main() -> None:
    options = _options()
    try:
        with tempfile.TemporaryDirectory(prefix="scanmill-benchmark-") as temporary:
            report = benchmark(options, Path(temporary))
    except UserError as error:
        sys.exit(f"error: {error}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="scanmill-layout", help="model folder, or Detectron2 config"
    )
    parser.add_argument("--options", nargs="*", default=[], help="KEY VALUE ... for the latter")
    parser.add_argument("--archive", type=Path, help="PDFs of your own instead of those made")
    parser.add_argument("--pages", type=int, default=40, help="pages of those made (40)")
    parser.add_argument("--kind", choices=("grey", "colour", "bilevel"), default="grey")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-sizes", nargs="+", default=["auto"], help="pages a pass: auto 1 8")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=2, help="runs of each, the best counts (2)")
    parser.add_argument("--default-pages", type=int, default=10, help="pages of (a) (10)")
    parser.add_argument("--workflow", action="store_true", help="measure (d), too")
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser.parse_args()


def benchmark(options: argparse.Namespace, temporary: Path) -> dict:
    """Measure, print a table, and return the figures."""
    archive = options.archive or temporary / "archive"
    if options.archive is None:
        print(f"making {options.pages} scanned pages ...", flush=True)
        make_archive(archive, options.pages, options.kind)
    run = temporary / "run"
    run.mkdir()
    snakemake("images", run, archive)
    results = run / "results"
    images = pyarrow.dataset.dataset(results / "images").to_table()
    documents = {name: pages_of(rows) for name, rows in by_document(images).items()}
    pages = [page for each in documents.values() for page in each]
    paths = [results / page.image for page in pages]
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    settings["detection"]["precision"] = options.precision
    settings = output_settings(settings, "detection")
    folder = _model_folder(options, temporary, paths)
    report = {
        "scanmill": scanmill.__version__,
        "torch": torch.__version__,
        "processor": cpu_model(),
        "threads": options.threads,
        "model": options.model,
        "pages": len(pages),
        "kind": str(options.archive or f"A4, 300 dpi, {options.kind}"),
        "runs": [],
    }
    torch.set_num_threads(options.threads)
    base = None
    for size in options.batch_sizes:
        size = size if size == "auto" else int(size)
        detector = Detector(folder, settings, options.device, size)
        report |= {"device": detector.device_kind, "precision": detector.precision}
        if base is None:
            some = paths[:: -(-len(paths) // options.default_pages)]
            predictor = default_predictor(detector, folder)
            measure_default(predictor, some[:2])()  # Warms up.
            base = pages_per_second(measure_default(predictor, some), len(some), options.repeat)
            report["a_default_predictor"] = base
            print(f"\n{options.model} on {report['device']}, {len(pages)} pages ({report['kind']})")
            print(f"{'':8}{'(a) DefaultPredictor, float32':44}{base:8.2f} pages/s", flush=True)
        report["runs"].append(_measure_batch_size(detector, documents, results, options, base))
    if options.workflow:
        rate = len(pages) / _whole_workflow(folder, temporary, archive, options)
        report["d_workflow"] = rate
        best = max(each["c_engine"] for each in report["runs"])
        print(f"{'':8}{'(d) whole workflow':44}{rate:8.2f} pages/s = {rate / best:.2f} x (c)")
    return report


def _model_folder(options: argparse.Namespace, temporary: Path, paths: list[Path]) -> Path:
    if options.model.endswith(".yaml"):
        pages = [cv2.imread(str(path)) for path in paths[:: -(-len(paths) // 6)]]
        return random_model(options.model, temporary / "model", options.options, pages)
    if Path(options.model).is_dir():
        return Path(options.model)
    found = find_model(options.model, [MODELS], own_registry())
    if isinstance(found, Path):
        return found
    fetch_model(found, temporary / found.name)
    return temporary / found.name


def _measure_batch_size(
    detector: Detector,
    documents: dict[str, list[Page]],
    results: Path,
    options: argparse.Namespace,
    base: float,
) -> dict:
    """(b), (c) and the stages at one batch size, printed."""
    pages = [page for each in documents.values() for page in each]
    dataset = detector.dataset(pages, results)
    samples = [dataset[index] for index in range(len(pages))]
    groups = batches(parts(samples), detector.batch_size, detector.divisibility)
    ready = [[part.pixels for part in group] for group in groups]
    if detector.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in detector.detect_batches(ready[:4]):  # Warms up.
        pass
    forward = pages_per_second(measure_forward(detector, ready), len(pages), options.repeat)
    loop = measure_engine(detector, documents, results, options.threads)
    use = GpuUse(detector.device)
    engine = pages_per_second(loop, len(pages), options.repeat)
    busy = use.stop()
    stages = stage_times(detector, documents, results, options.threads)
    figures = {
        "batch_size": detector.batch_size,
        "b_forward": forward,
        "c_engine": engine,
        "c_over_a": engine / base,
        "c_over_b": engine / forward,
        "gpu_busy": busy,
        "stages_ms_per_page": stages,
        "peak_gb": peak_memory(detector.device),
    }
    print(f"batches of {detector.batch_size}, {detector.precision}")
    print(f"{'':8}{'(b) forward pass alone':44}{forward:8.2f} pages/s")
    print(
        f"{'':8}{'(c) page images to tables':44}{engine:8.2f} pages/s = {engine / base:.2f} x (a), "
        f"{engine / forward:.2f} x (b)"
    )
    if busy is not None:
        print(f"{'':8}GPU busy {busy:.0%}")
    print(f"{'':8}ms/page: {', '.join(f'{name} {took:g}' for name, took in stages.items())}")
    print(f"{'':8}peak GB: {figures['peak_gb']}", flush=True)
    return figures


def _whole_workflow(
    folder: Path, temporary: Path, archive: Path, options: argparse.Namespace
) -> float:
    """Seconds of (d): all targets in a new working directory, shards of 100 documents at most."""
    run = temporary / "whole"
    shutil.copytree(folder, run / "models" / "benchmarked")
    precision = f"detection={{precision: {options.precision}, device: {options.device}}}"
    return snakemake(
        "all", run, archive, "model=benchmarked", precision, "shards={max_documents: 100}"
    )


if __name__ == "__main__":
    main()
