"""Make a model folder from a Detectron2 checkpoint and the config it was trained with."""

import argparse
import json
import logging
import sys
from pathlib import Path

from scanmill.maintenance import run_tool, split_overrides
from scanmill.model_folders import COLORS
from scanmill.store import file_digest


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--weights", type=Path, required=True, help="the checkpoint: .pth, .pkl, .safetensors"
    )
    parser.add_argument(
        "--config-file",
        required=True,
        help="its config: a file, or the name of one of Detectron2's",
    )
    parser.add_argument("--output", type=Path, required=True, help="the model folder to make")
    parser.add_argument(
        "--classes", nargs="+", required=True, help="class names in order of their ids"
    )
    parser.add_argument("--color", choices=COLORS, default="config", help="grey: pages in grey")
    parser.add_argument("--half", action="store_true", help="store matrices in float16")
    parser.add_argument(
        "--card", type=Path, help="JSON of further entries: licence, provenance, ..."
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    given = parser.parse_intermixed_args()
    given.classes, more = split_overrides(given.classes)
    given.overrides = more + given.overrides
    return given


def main() -> int:
    given = parse()
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
    if given.output.exists():
        print(f"error: {given.output} is there already. Remove it first.", file=sys.stderr)
        return 1
    from scanmill.configs import load_config  # torch takes seconds.
    from scanmill.conversion import convert_model

    card = json.loads(given.card.read_text(encoding="utf-8")) if given.card else {}
    origin = {"weights": given.weights.name, "weights_sha256": file_digest(given.weights)}
    card = {"provenance": origin, "name": given.output.name, "classes": given.classes, **card}
    config = load_config(given.config_file, given.overrides)
    convert_model(given.weights, config, given.output, card, given.color, given.half)
    print(f"wrote {given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
