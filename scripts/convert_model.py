"""Make a model folder from a Detectron2 checkpoint (.pth) and the config it was trained with."""

import argparse
import json
import sys
from pathlib import Path

from scanmill.detector import convert_model
from scanmill.errors import UserError
from scanmill.registry import COLORS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--weights", type=Path, required=True, help="the checkpoint, model_final.pth"
    )
    parser.add_argument("--config-file", type=Path, required=True, help="its Detectron2 config")
    parser.add_argument("--output", type=Path, required=True, help="the model folder to make")
    parser.add_argument(
        "--classes", nargs="+", required=True, help="class names in order of their ids"
    )
    parser.add_argument("--color", choices=COLORS, default="config", help="grey: pages in grey")
    parser.add_argument(
        "--card", type=Path, help="JSON of further entries: licence, provenance, ..."
    )
    options = parser.parse_args()
    entries = json.loads(options.card.read_text(encoding="utf-8")) if options.card else {}
    entries = {"name": options.output.name, "classes": options.classes, **entries}
    try:
        convert_model(options.weights, options.config_file, options.output, options.color, entries)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"wrote {options.output}")


if __name__ == "__main__":
    main()
