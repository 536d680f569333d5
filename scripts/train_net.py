"""Train and judge a detector as Detectron2's train_net.py does, on annotated pages.

    python scripts/train_net.py --config-file X.yaml --num-gpus 1 --train a.json --images pages \\
        SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.0025 OUTPUT_DIR output
    python scripts/train_net.py --config-file X.yaml --eval-only --test b.json --images pages \\
        MODEL.WEIGHTS output/model

OUTPUT_DIR gets `dataset/` (pages, and what is wrong with them), `training/` (checkpoints, curves),
`model/` (the best model, a model folder) and `evaluation/`. Iterations and learning rate are those of
the config, unless --epochs are given.
"""

import argparse
import json
import logging
import os
import shlex
import sys
from pathlib import Path

from scanmill.coco import prepare_dataset
from scanmill.errors import UserError
from scanmill.maintenance import run_tool, split_overrides
from scanmill.progress import logger


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a Detectron2 config")
    parser.add_argument("--num-gpus", type=int, default=1, metavar="N", help="0: on the CPU")
    parser.add_argument(
        "--resume", action="store_true", help="go on with a training that was begun"
    )
    parser.add_argument("--eval-only", action="store_true", help="judge MODEL.WEIGHTS by --test")
    for name, what in (
        ("train", "annotations to train with (COCO, Label Studio, PAGE-XML, ALTO)"),
        ("val", "to choose the best model with; without them, --train is divided by document"),
        ("test", "to judge it with"),
    ):
        parser.add_argument(f"--{name}", nargs="+", default=[], metavar="FILE", help=what)
    parser.add_argument("--images", metavar="FOLDER", help="the images (default: the annotations')")
    parser.add_argument("--epochs", type=float, help="iterations and learning rate by the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    given = parser.parse_intermixed_args()
    for name in ("train", "val", "test"):
        files, more = split_overrides(getattr(given, name))
        setattr(given, name, files)
        given.overrides = more + given.overrides
    if given.num_gpus < 1:
        given.num_gpus, given.device = 1, "cpu"
    return given


def main() -> int:
    given = parse()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    splits = {name: getattr(given, name) for name in ("train", "val", "test")}
    if given.eval_only:
        if not given.test:
            raise UserError("--eval-only judges a model by annotated pages: name them by --test.")
        splits = {"test": given.test}
    elif not given.train:
        raise UserError("There is nothing to train with: name annotations by --train.")
    elif given.test and not given.val:
        raise UserError(
            "Where --test is given, --val is needed too: the best model is chosen by it."
        )

    from scanmill.configs import load_config  # torch takes seconds.
    from scanmill.evaluation_job import JudgedModel, judge
    from scanmill.training_job import VALIDATION, TrainingJob, find_start, make_model

    config = load_config(given.config_file, given.overrides)
    output, threads = Path(config.OUTPUT_DIR), os.cpu_count() or 1
    settings = {
        "annotations": splits if given.eval_only or given.val else given.train,
        "images": given.images,
        "classes": classes_of((given.test if given.eval_only else given.train)[0]),
        "seed": given.seed,
    }
    dataset = output / ("dataset-test" if given.eval_only else "dataset")
    classes = list(prepare_dataset(settings, dataset).classes)
    truth = {
        name: json.loads((dataset / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("train", "val", "test")
    }
    start = find_start(given.config_file, given.overrides, classes, output / "start")
    if given.eval_only:
        if start is None:
            raise UserError("There is nothing to judge: name a model by MODEL.WEIGHTS.")
        model, overrides = start, tuple(given.overrides)
    else:
        names = (given.config_file, tuple(given.overrides), given.epochs)
        command = shlex.join(["python", *sys.argv])
        job = TrainingJob(output.name, truth, start, *names, seed=given.seed, command=command)
        model, overrides, states = output / "model", (), output / "training"
        make_model(job, model, states, given.device, threads, given.num_gpus, given.resume)
    if truth["test"]["images"]:
        source, target = str(dataset / "test.json"), output / "evaluation"
        judged = JudgedModel(
            model, {**VALIDATION, "polygons": True}, given.device, overrides=overrides
        )
        judge(judged, truth["test"], source, target, 200, (), threads)
    return 0


def classes_of(path: str) -> list[str] | None:
    """The classes of a COCO file in the order of their ids, which is that of Detectron2's classes."""
    if not path.endswith(".json"):
        return None
    try:
        categories = json.loads(Path(path).read_bytes())["categories"]
        return [each["name"] for each in sorted(categories, key=lambda each: each["id"])]
    except (ValueError, KeyError, TypeError):  # Of another format, or broken, as reading it tells.
        return None


if __name__ == "__main__":
    sys.exit(run_tool(main))
