"""Try two claims of the literature: that masks help boxes, and what a trained start saves.

    python scripts/run_experiments.py --output experiments
    python scripts/run_experiments.py --train results/dataset/train.json \\
        --val results/dataset/val.json --test results/dataset/test.json

Without annotations it makes pages of its own. The same command goes on where it was stopped. The results
are results.md, results.json and curves.png in the output folder; docs/experiments.md says what is
measured.
"""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path

from scanmill import store
from scanmill.errors import UserError
from scanmill.maintenance import run_tool
from scanmill.progress import logger

SPLITS = ("train", "val", "test")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for split in SPLITS:
        parser.add_argument(
            f"--{split}", type=Path, metavar="FILE", help=f"COCO of the {split} pages, all three"
        )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="their images (default: where the files say)"
    )
    parser.add_argument(
        "--pages",
        type=int,
        nargs=3,
        metavar=("TRAIN", "VAL", "TEST"),
        help="without annotations: how many pages to make (default: 96 24 60)",
    )
    parser.add_argument(
        "--start",
        default="scanmill-layout",
        metavar="MODEL",
        help="the page-layout model that `start` begins with: a folder or a name (default: %(default)s)",
    )
    parser.add_argument(
        "--backbone", metavar="MODEL", help="one more arm, which begins with this ImageNet backbone"
    )
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="the config of all arms (default: that of the model to start from)",
    )
    parser.add_argument("--iterations", type=int, default=160, help="of each run (default: 160)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (default: 3)")
    parser.add_argument(
        "--size", type=int, default=320, help="pixels of a page's shorter side (default: 320)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("experiments"), help="default: experiments"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY VALUE", help="overrides of the config, for all arms"
    )
    given = parser.parse_intermixed_args()
    if given.backbone and not given.config_file:
        parser.error("--backbone needs --config-file: the config of a detector on this backbone")
    if min(given.iterations, given.seeds, given.size, *(given.pages or [1])) < 1:
        parser.error("--iterations, --seeds, --size and --pages must be 1 or more")
    return given


def find_pages(given: argparse.Namespace) -> tuple[dict[str, Path], Path | None]:
    """The COCO files of the splits and the folder of their images, made where none are given."""
    from make_annotated_pages import PAGES, make_pages

    files = {split: getattr(given, split) for split in SPLITS}
    if any(files.values()):
        missing = [f"--{split}" for split, path in files.items() if path is None]
        if missing:
            raise UserError(f"{' and '.join(missing)} missing: name the files of all three splits.")
        if given.pages:
            raise UserError("--pages is for pages that are made: leave it out.")
        return files, given.images
    pages = given.pages or PAGES
    folder = given.output / f"pages-{'-'.join(map(str, pages))}"
    if not folder.exists():
        logger.info("making %s", folder)
        make_pages(folder, pages)
    return {split: folder / f"{split}.json" for split in SPLITS}, folder / "images"


def main() -> int:
    given = parse()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    wait = "waiting: %s is at work in this folder; what it makes will be used"
    store.lock(given.output / ".scanmill.lock", lambda holder: logger.info(wait, holder))
    files, images = find_pages(given)
    from scanmill import experiments  # torch takes seconds.
    from scanmill.fetching import find_folder

    truth = experiments.read_truth(files, images)
    start = find_folder(given.start)
    backbone = find_folder(given.backbone) if given.backbone else None
    config = given.config_file or experiments.own_config(start)
    common = experiments.common_overrides(given.iterations, given.size)
    overrides = experiments.merge_overrides(common, given.overrides)
    experiment = experiments.Experiment(
        config, overrides, truth, given.output, given.device, len(os.sched_getaffinity(0))
    )
    arms = experiments.make_arms(experiments.load_config(config, overrides), start, backbone)
    command = shlex.join(["python", "scripts/run_experiments.py", *sys.argv[1:]])
    for runs in experiments.run_experiment(experiment, arms, given.seeds):
        experiments.write_results(experiment, arms, runs, command)
    print((given.output / "results.md").read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
