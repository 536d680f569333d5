"""Memory of a process that detects on 5000 pages of 30 sizes: after 500 of them, and at the end.

`make benchmark-growth [PAGES=5000]`. Every size has a canvas of its own, so that whatever torch keeps by
shape is kept 30 times. The pages go through the loaders, the detector and the recorder as in a shard.
"""

import argparse
import hashlib
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "tests/unit"))

import cv2
import yaml
from detecting import copy_model, draw_pages

from scanmill.detection import Work, detect_documents
from scanmill.detector import Detector
from scanmill.preprocessing import Page
from scanmill.progress import Progress
from scanmill.settings import output_settings
from scanmill.store import StageStore

#: Width and height of the pages, in pixels: 30 canvases at a short side of 192.
SIZES = [(384, 384 + 64 * step) for step in range(15)] + [
    (384 + 64 * step, 384) for step in range(1, 16)
]
DOCUMENT = 50


def resident() -> float:
    """MB of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), options.pages, options.threads)


def measure(folder: Path, count: int, threads: int) -> None:
    (image,) = draw_pages(folder, 1)
    files = []
    for width, height in SIZES:
        path = folder / f"{width}x{height}.png"
        cv2.imwrite(str(path), cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append((path.name, width, height, sha256))
    model = copy_model(folder / "small", INPUT__MIN_SIZE_TEST=192, INPUT__MAX_SIZE_TEST=1000)
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    detector = Detector(model, output_settings(settings, "detection"))
    store = StageStore(folder, "detections", {}, "code")
    work = []
    for start in range(0, count, DOCUMENT):
        pages = [
            Page(f"{start}.pdf", number + 1, *files[(start + number) % len(files)])
            for number in range(min(DOCUMENT, count - start))
        ]
        work.append(Work(f"{start}.pdf", pages, store.fingerprint([start])))
    progress = Progress("detect_layout", len(work), count, count)
    samples: list[tuple[int, float]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            samples.append((progress.done_pages, resident()))
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        detect_documents(detector, work, store, threads, progress)
    finally:
        done.set()
        watcher.join()
    took = time.perf_counter() - started
    print(f"{count} pages of {len(files)} sizes in {took:.0f} s, {detector.precision}")
    for mark in sorted({500, 1000, 2000, count}):
        # The most of the 100 pages before: between two passes a process has less.
        near = [size for pages, size in samples if mark - 100 <= pages <= mark]
        if near:
            print(f"after page {mark:6}: {max(near):7.0f} MB")


if __name__ == "__main__":
    main()
