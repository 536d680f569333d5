"""Detect on image files, without the workflow: a JSON of regions, and pictures with them drawn.

    python scripts/predict.py --model scanmill-layout --input pages/*.jpg --output out.json --draw drawn
    python scripts/predict.py --config-file X.yaml --input page.jpg --output out.json \\
        MODEL.WEIGHTS model_final.pth INPUT.MIN_SIZE_TEST 1000
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

import cv2

from scanmill.drawing import draw_regions
from scanmill.errors import UserError
from scanmill.image_files import decode
from scanmill.maintenance import run_tool, split_overrides
from scanmill.preprocessing import read_image_file
from scanmill.progress import logger


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", help="a model folder, or the name of a model (list_models.py)")
    which.add_argument(
        "--config-file",
        metavar="FILE",
        help="in its place a Detectron2 config, with MODEL.WEIGHTS among the overrides",
    )
    parser.add_argument(
        "--input", nargs="+", required=True, metavar="FILE", help="JPEG, PNG, TIFF, JPEG 2000"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the JSON (default: stdout)")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="where to put pictures")
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="with --config-file: names in the order of ids"
    )
    parser.add_argument(
        "--min-score",
        type=float,
        help="lowest score of a region (default: MODEL.ROI_HEADS.SCORE_THRESH_TEST where given, or 0.5)",
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    given = parser.parse_intermixed_args()
    given.input, more = split_overrides(given.input)
    given.overrides = more + given.overrides
    return given


def main() -> int:
    given = parse()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    # torch takes seconds; wrong arguments are told before.
    from scanmill import detector

    model = detector.load(
        given.model,
        config_file=given.config_file,
        classes=given.classes,
        overrides=given.overrides,
        device=given.device,
    )
    found = model.detect_files(given.input, given.min_score)
    report = {
        "model": {
            "name": model.card["name"],
            "classes": model.classes,
            "precision": model.precision,
            "device": model.device_kind,
        },
        "images": [describe(each) for each in found],
    }
    text = write_json(report)
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        temporary = given.output.with_name(f".{given.output.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, given.output)
    else:
        print(text, end="")
    if given.draw:
        draw(found, given.draw)
    failed = [each for each in found if each.status != "ok"]
    for each in failed:
        print(f"{each.path} failed: {each.message}", file=sys.stderr)
    regions = sum(each.regions.num_rows for each in found)
    print(f"{len(found) - len(failed)} images, {regions} regions", file=sys.stderr)
    return 1 if failed else 0


def write_json(report: dict) -> str:
    """JSON with one image a line."""
    images = ",\n".join(json.dumps(each, ensure_ascii=False) for each in report["images"])
    model = json.dumps(report["model"], ensure_ascii=False)
    return f'{{"model": {model},\n"images": [\n{images}\n]}}\n'


def describe(image) -> dict:  # noqa: ANN001
    """What the JSON says of an image."""
    if image.status != "ok":
        return {"image": image.path, "status": image.status, "message": image.message}
    regions = [
        {
            "region": row["region"],
            "class": row["class_name"],
            "score": round(row["score"], 6),
            "box": [round(row[side], 3) for side in ("x_min", "y_min", "x_max", "y_max")],
            "polygon": row["polygon"],
        }
        for row in image.regions.to_pylist()
    ]
    size = {"width": image.width, "height": image.height}
    return {"image": image.path, "status": image.status, **size, "regions": regions}


def draw(found: list, folder: Path) -> None:
    """A picture of each image under its name, numbered where two have the same."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for image in found:
        if image.status != "ok":
            continue
        stem = Path(image.path).stem
        name = next(
            each
            for each in (stem, *(f"{stem}-{number}" for number in range(2, len(found) + 2)))
            if each not in taken
        )
        taken.add(name)
        picture = draw_regions(decode(read_image_file(image.path).data), image.regions)
        if not cv2.imwrite(str(folder / f"{name}.jpg"), picture):
            raise UserError(f"{folder / name}.jpg cannot be written.")


if __name__ == "__main__":
    sys.exit(run_tool(main))
