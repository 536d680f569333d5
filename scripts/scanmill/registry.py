"""Model folders: what lies in one, checked before anything is opened.

A model folder holds `config.yaml` (the whole Detectron2 config, resolved), `model.safetensors`, and
`model.json`: name, classes in order of their ids, color (`grey`, or `config` for INPUT.FORMAT), sha256
of the other files, licence and provenance.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scanmill.errors import UserError
from scanmill.store import file_digest
from scanmill.tables import digest_json

CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
CARD = "model.json"
COLORS = ("grey", "config")


def find_model(name: str, folders: Sequence[Path]) -> Path:
    """The first of `folders` that holds a model folder `name`; otherwise a UserError names them."""
    for folder in folders:
        if (folder / name / CARD).is_file():
            return folder / name
    found = sorted({path.parent.name for folder in folders for path in folder.glob(f"*/{CARD}")})
    raise UserError(
        f"There is no model `{name}` (setting `model`): no {name}/{CARD} in "
        f"{' or '.join(str(folder) for folder in folders)}. Models found: {', '.join(found) or 'none'}."
    )


def read_card(folder: Path) -> dict[str, Any]:
    """A model folder's model.json; a UserError says what is missing or wrong in it."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {folder} is not a model folder.") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}. Copy the model folder again.") from None
    if not isinstance(card, dict):
        raise UserError(f"{path} holds no JSON object. Copy the model folder again.")
    problems = []
    if not _is_list_of_names(card.get("classes")):
        problems.append("`classes` must be a list of class names without repetition")
    if card.get("color") not in COLORS:
        problems.append(f"`color` must be one of {', '.join(COLORS)}")
    if not isinstance(card.get("sha256"), dict) or not {CONFIG, WEIGHTS} <= set(card["sha256"]):
        problems.append(f"`sha256` must give those of {CONFIG} and {WEIGHTS}")
    if not isinstance(card.get("name"), str):
        problems.append("`name` must be a text")
    if problems:
        raise UserError(f"{path}: {'; '.join(problems)}.")
    return card


def _is_list_of_names(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(name, str) and name for name in value)
        and len(set(value)) == len(value)
    )


def check_model(folder: Path) -> dict[str, Any]:
    """Check a whole model folder before it is used; returns its card.

    Files missing or of another sha256, and a class list that does not fit the config, are UserErrors.
    """
    card = read_card(folder)
    for name in (CONFIG, WEIGHTS):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing. Copy the model folder again.")
        sha256 = file_digest(path)
        if sha256 != card["sha256"][name]:
            raise UserError(
                f"{path} is not the file that {folder / CARD} describes: its sha256 is {sha256}, not "
                f"{card['sha256'][name]}. Copy the model folder again; nothing was opened."
            )
    config = read_config(folder / CONFIG)
    try:
        count = config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"]
    except (KeyError, TypeError):
        raise UserError(f"{folder / CONFIG} has no MODEL.ROI_HEADS.NUM_CLASSES.") from None
    if count != len(card["classes"]):
        raise UserError(
            f"{folder / CARD} names {len(card['classes'])} classes, but {folder / CONFIG} has "
            f"MODEL.ROI_HEADS.NUM_CLASSES {count}. Name the classes in the order of their ids."
        )
    return card


def read_config(path: Path) -> dict[str, Any]:
    """A YAML file as plain data, by the safe loader alone."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not plain YAML: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no mapping.")
    return config


def model_digest(card: Mapping[str, Any]) -> str:
    """A sha256 over what decides a model's detections: weights, config, classes, color."""
    keys = ("sha256", "classes", "color")
    return digest_json({key: card[key] for key in keys})


def install_model(source: Path, target: Path) -> None:
    """Check the model folder `source` and copy it to `target`, the card last."""
    check_model(source)
    target.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS, CARD):
        temporary = target / f".tmp-{os.urandom(4).hex()}"
        try:
            shutil.copyfile(source / name, temporary)
            os.replace(temporary, target / name)
        finally:
            temporary.unlink(missing_ok=True)


def write_card(folder: Path, **entries: object) -> None:
    """Write the model.json of a folder whose config and weights are in place."""
    sha256 = {name: file_digest(folder / name) for name in (CONFIG, WEIGHTS)}
    text = json.dumps({**entries, "sha256": sha256}, indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")
