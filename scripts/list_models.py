"""List the models that there are: those of the registry, and model folders."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from scanmill.errors import UserError
from scanmill.maintenance import run_tool, tool_parser
from scanmill.model_folders import CARD, is_backbone, read_card
from scanmill.registry import MODELS, Entry, own_registry


class Row(NamedTuple):
    """What is listed of a model."""

    name: str
    here: str
    classes: str
    input: str
    parameters: str
    licence: str
    quality: str


def parse() -> argparse.Namespace:
    parser = tool_parser("List the models that there are: of the registry, and in folders.")
    parser.add_argument("names", nargs="*", help="only models whose name contains one of these")
    return parser.parse_args()


def main() -> int:
    given = parse()
    rows = list(all_rows(given.directory))
    chosen = [
        row
        for row in rows
        if not given.names or any(name.lower() in row.name.lower() for name in given.names)
    ]
    if not chosen:
        raise UserError(f"No model is called so. There are {', '.join(row.name for row in rows)}.")
    for row in chosen:
        print(f"{row.name}  [{row.here}]")
        print(f"    {row.classes}")
        print(f"    {row.input}, {row.parameters} parameters, {row.licence}")
        print(f"    quality: {row.quality}\n")
    print("Take one by `model: NAME` in config.yaml, or `scripts/predict.py --model NAME`.")
    return 0


def all_rows(directory: Path) -> Iterator[Row]:
    """Model folders first, then what the registry has beside them."""
    entries = own_registry(directory)
    seen = set()
    for folder in (directory / "models", directory / "results" / "models", MODELS):
        for path in sorted(folder.glob(f"*/{CARD}")):
            name = path.parent.name
            if name not in seen:
                seen.add(name)
                yield folder_row(path.parent)
    for name, entry in entries.items():
        if name not in seen:
            yield folder_row(Path(entry.folder)) if entry.folder else entry_row(entry)


def folder_row(folder: Path) -> Row:
    from scanmill.configs import resolve  # torch takes seconds.
    from scanmill.conversion import count_parameters
    from scanmill.model_folders import CONFIG, read_config

    card = read_card(folder)
    config = resolve(read_config(folder / CONFIG), (), str(folder / CONFIG))
    quality = card.get("quality", "")
    return Row(
        folder.name,
        f"here: {folder}",
        describe_classes(card["classes"]),
        describe_input(config),
        describe_count(count_parameters(config, is_backbone(card))),
        card.get("licence") or "licence unknown",
        quality if isinstance(quality, str) and quality else describe_quality(quality),
    )


def entry_row(entry: Entry) -> Row:
    from scanmill.configs import load_config
    from scanmill.conversion import count_parameters

    config = load_config(entry.config, entry.overrides)
    size = f", {entry.expected.size_mb:g} MB" if entry.expected.size_mb else ""
    return Row(
        entry.name,
        f"to be fetched{size}",
        describe_classes(entry.classes),
        describe_input(config),
        describe_count(count_parameters(config, not entry.classes)),
        entry.licence,
        entry.quality or "not published",
    )


def describe_classes(classes: list[str] | tuple[str, ...]) -> str:
    if not classes:
        return "a backbone, to train detectors from"
    shown = ", ".join(classes[:8])
    return f"{len(classes)} classes: {shown}" + (", ..." if len(classes) > 8 else "")


def describe_input(config) -> str:  # noqa: ANN001
    size = config.INPUT
    return f"pages of {size.MIN_SIZE_TEST} px short side, at most {size.MAX_SIZE_TEST} px"


def describe_count(count: int) -> str:
    return f"{count / 1e6:.1f} million"


def describe_quality(quality: object) -> str:
    """A card's figures in one line."""
    if not isinstance(quality, dict) or not quality:
        return "not said"
    figures = [
        f"{name.replace('_', ' ')} " + " ".join(f"{k} {v}" for k, v in block.items())
        for name, block in quality.items()
        if isinstance(block, dict)
    ]
    return f"{quality.get('metric', '')}: {'; '.join(figures)}"


if __name__ == "__main__":
    sys.exit(run_tool(main))
