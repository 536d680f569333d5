"""What speed costs: box AP over demo archives, of whole and scaled decoding, of every precision.

`make benchmark-accuracy [SEEDS=3]`. Each seed is a demo archive of 60 pages whose regions are known. AP
is that of COCO, over 100 detections a page, of the shipped model.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark
import make_demo_archive
import pyarrow.dataset
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scanmill import preprocessing
from scanmill.detection import place
from scanmill.detector import Detector
from scanmill.preprocessing import Page, batches, pages_of, parts
from scanmill.settings import output_settings
from scanmill.tiles import Detections

MODEL = ROOT / "models/scanmill-layout"


def detect_all(detector: Detector, pages: list[Page], results: Path) -> list[Detections]:
    """What is found on each page."""
    dataset = detector.dataset(pages, results)
    samples = [dataset[index] for index in range(len(pages))]
    groups = list(batches(parts(samples), detector.batch_size, detector.divisibility))
    found: list = [None] * len(pages)
    tiles = detector.detect_batches([[part.pixels for part in group] for group in groups])
    for group, each in zip(groups, tiles, strict=True):
        for part, tile in zip(group, each, strict=True):
            found[part.index] = place(tile, samples[part.index].windows[0])
    return found


def results_of(
    found: list[Detections], pages: list[Page], known: dict, classes: list[str], first: int
) -> list[dict]:
    """COCO results, in the known regions' units; `first` is added to the ids of images."""
    images = {(image["document"], image["page"]): image for image in known["images"]}
    ids = {category["name"]: category["id"] for category in known["categories"]}
    rows = []
    for page, detections in zip(pages, found, strict=True):
        image = images[page.document, page.page]
        x, y = image["width"] / page.width, image["height"] / page.height
        for box, score, class_id in zip(*(part.tolist() for part in detections[:3]), strict=True):
            left, top, right, bottom = box
            row = {"image_id": image["id"] + first, "score": score}
            row["category_id"] = ids[classes[class_id]]
            row["bbox"] = [left * x, top * y, (right - left) * x, (bottom - top) * y]
            rows.append(row)
    return rows


def average_precision(known: dict, results: list[dict]) -> tuple[float, float]:
    """Box AP and AP50, in percent."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = known
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0], 100 * evaluation.stats[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["float32", "auto"])
    options = parser.parse_args()
    settings = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        archives = []
        for seed in range(options.seeds):
            folder = Path(temporary, str(seed))
            make_demo_archive.make_archive(folder, seed)
            (folder / "run").mkdir()
            benchmark.snakemake("images", folder / "run", folder / "archive")
            results = folder / "run/results"
            known = json.loads((folder / "archive.coco.json").read_text(encoding="utf-8"))
            pages = pages_of(pyarrow.dataset.dataset(results / "images").to_table())
            archives.append((results, known, pages))
        together = {"images": [], "annotations": [], "categories": archives[0][1]["categories"]}
        for number, (_, known, _) in enumerate(archives):
            first = 1_000_000 * number
            for image in known["images"]:
                together["images"].append({**image, "id": image["id"] + first})
            for each in known["annotations"]:
                ids = {"id": each["id"] + first, "image_id": each["image_id"] + first}
                together["annotations"].append({**each, **ids})
        print(f"{len(together['images'])} pages, {len(together['annotations'])} regions")
        reductions = preprocessing.REDUCTIONS
        for precision in options.precisions:
            settings["detection"]["precision"] = precision
            detector = Detector(MODEL, output_settings(settings, "detection"))
            for name, allowed in (("whole", ()), ("scaled", reductions)):
                preprocessing.REDUCTIONS = allowed
                rows = []
                for number, (results, known, pages) in enumerate(archives):
                    found = detect_all(detector, pages, results)
                    first = 1_000_000 * number
                    rows += results_of(found, pages, known, detector.classes, first)
                ap, ap50 = average_precision(together, rows)
                label = f"{detector.precision}, {name} decoding"
                print(f"{label:32} AP {ap:6.2f}  AP50 {ap50:6.2f}", flush=True)


if __name__ == "__main__":
    main()
