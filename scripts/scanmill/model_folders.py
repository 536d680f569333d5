"""Model folders: what lies in one, checked before anything is opened.

A model folder holds `config.yaml` (the whole Detectron2 config, resolved), `model.safetensors`, and
`model.json`: name, classes in order of their ids, color (`grey`, or `config` for INPUT.FORMAT), sha256
of the other files, licence and provenance. That of a backbone, which detectors are trained from, says
`kind: backbone` and has no classes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
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
    if is_backbone(card):
        if card.get("classes") != []:
            problems.append("`classes` of a backbone must be an empty list")
    elif not _is_list_of_names(card.get("classes")):
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


def is_backbone(card: Mapping[str, Any]) -> bool:
    """Whether a model folder holds a backbone, which finds nothing by itself."""
    return card.get("kind") == "backbone"


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
    if is_backbone(card):
        return card
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
    except yaml.constructor.ConstructorError as error:
        raise UserError(
            f"{path} is not plain YAML, and is not loaded: it has a tag that may run code "
            f"({str(error.problem).rpartition('tag ')[2]}, line {error.problem_mark.line + 1}). "
            "Write the value itself in its place."
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not plain YAML: {error}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no mapping.")
    return config


def model_digest(card: Mapping[str, Any]) -> str:
    """A sha256 over what decides a model's detections: weights, config, classes, color."""
    keys = ("sha256", "classes", "color")
    return digest_json({key: card[key] for key in keys})


def install_model(source: Path, target: Path) -> None:
    """Check the model folder `source` and copy it to `target`, in one step."""
    check_model(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}-{os.urandom(4).hex()}.tmp")
    draft.mkdir()
    try:
        for name in (CONFIG, WEIGHTS, CARD):
            shutil.copyfile(source / name, draft / name)
        replace_folder(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put the model folder `new` in the place of `target`, beside it on the same disk."""
    old = new.with_name(f"{new.name}.old")
    with contextlib.suppress(FileNotFoundError):
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)


def write_card(folder: Path, **entries: object) -> None:
    """Write the model.json of a folder whose config and weights are in place."""
    sha256 = {name: file_digest(folder / name) for name in (CONFIG, WEIGHTS)}
    text = json.dumps({**entries, "sha256": sha256}, indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")
