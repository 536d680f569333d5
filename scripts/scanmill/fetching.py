"""Models of the registry, fetched and made into model folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from scanmill.configs import load_config
from scanmill.conversion import convert_model
from scanmill.downloads import fetch_file
from scanmill.errors import UserError
from scanmill.model_folders import CARD, read_card
from scanmill.progress import logger
from scanmill.registry import MODELS, Entry, find_model, model_classes, own_registry
from scanmill.store import lock

#: Where downloads lie, below the working directory: parts of them, and what was put there by hand.
DOWNLOADS = Path("models") / "downloads"
#: Where a model is looked for by its name, from the directory that Python runs in.
FOLDERS = (Path("models"), Path("results/models"), MODELS)


def find_folder(name: str | Path, detector: bool = False) -> Path:
    """A model folder from its path, or its name or address, fetched into the first of FOLDERS if need
    be; with `detector`, a backbone is refused before it is fetched."""
    if (Path(name) / CARD).is_file():
        return Path(name)
    found = find_model(str(name), FOLDERS, own_registry())
    if isinstance(found, Path):
        return found
    target = FOLDERS[0] / found.name
    if (target / CARD).is_file():  # Named by its address.
        return target
    if detector:
        model_classes(found)
    fetch_model(found, target)
    return target


def fetch_model(entry: Entry, target: Path, downloads: Path = DOWNLOADS) -> None:
    """Fetch the weights of an entry, check them, and put its model folder at `target` in one step.

    Where the registry has no sha256, that of the first fetch is noted in model.json, and weights of
    another one are refused from then on. Raises UserError where they cannot be had, or are not as they
    should be; what lies at `target` stays then.
    """
    pinned = _pinned(entry, target)
    descriptor = lock(
        downloads / f"{entry.name}.lock",
        lambda holder: logger.info("waiting: %s is fetching %s", holder, entry.name),
    )
    try:
        path, sha256, source = fetch_file(
            entry.weights, downloads / entry.file, entry.expected, logger.info
        )
    finally:
        os.close(descriptor)
    if pinned and sha256 != pinned["weights_sha256"]:
        raise UserError(
            f"The weights of {entry.name} are not those of the first time: their sha256 is "
            f"{sha256}, and was {pinned['weights_sha256']} (from {pinned['weights']}). They were "
            f"not opened. If {path} is to replace them, remove {target / CARD}; if not, remove {path}."
        )
    if not entry.expected.sha256 and not pinned:
        logger.info(
            "nobody has published a sha256 for %s: from now on it is %s, as noted in %s; to hold "
            "others to it, write it into models.yaml",
            entry.name,
            sha256,
            target / CARD,
        )
    config = load_config(entry.config, entry.overrides)
    card: dict[str, Any] = {
        "name": entry.name,
        "classes": list(entry.classes),
        "licence": entry.licence,
        "source": entry.source,
        "quality": entry.quality,
        "provenance": {
            "weights": source,
            "weights_sha256": sha256,
            "config": entry.config,
            "overrides": list(entry.overrides),
        },
    }
    convert_model(path, config, target, card, entry.color)
    logger.info("model %s is in place in %s", entry.name, target)


def _pinned(entry: Entry, target: Path) -> dict[str, Any] | None:
    """What the card at `target` says of the weights it was made from, where the registry says none."""
    if entry.expected.sha256 or not (target / CARD).exists():
        return None
    card = read_card(target)
    known = card.get("provenance")
    return known if isinstance(known, dict) and "weights_sha256" in known else None
