"""Detectron2 configs: `_BASE_`, `KEY VALUE`, and nothing that runs code.

Detectron2's own loader falls back on PyYAML's unsafe one, and takes a `_BASE_` from any address.
"""

from __future__ import annotations

import difflib
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import scanmill.torch_setup  # noqa: F401

# isort: split
from detectron2.config import CfgNode, get_cfg

from scanmill.backbones import BUILDER, add_timm_config
from scanmill.errors import UserError
from scanmill.model_folders import read_config
from scanmill.preflight import SGD

BASE = "_BASE_"
#: Scanmill's own configs, and those that come with Detectron2; a config is found there by name.
OWN = Path(__file__).resolve().parents[2] / "config" / "detectron2"
PACKAGE = Path(str(importlib.resources.files("detectron2"))) / "model_zoo" / "configs"


def load_config(config: str | Path, overrides: Sequence[object] = ()) -> CfgNode:
    """A Detectron2 config with all of its defaults, from a file, or by the name of one of ours or of
    Detectron2's (`mask_rcnn_R_50_FPN_3x.yaml`, `COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml`).

    `overrides` is KEY VALUE KEY VALUE ..., as of Detectron2's merge_from_list. Raises UserError for a
    file that is missing, is not plain YAML, or has keys that Detectron2 does not know.
    """
    path = find_config(config)
    return resolve(read_with_bases(path), overrides, str(path))


def find_config(name: str | Path) -> Path:
    """The file of a config: a path, or the name of one in OWN or PACKAGE."""
    for candidate in (Path(name), OWN / name, PACKAGE / name):
        if candidate.is_file():
            return candidate
    nearest = difflib.get_close_matches(str(name), _names(), 3)
    raise UserError(
        f"There is no config {name}: it was looked for here, in {OWN}, and in {PACKAGE}."
        + (f" Did you mean {' or '.join(nearest)}?" if nearest else "")
    )


def _names() -> list[str]:
    return [str(each.relative_to(top)) for top in (OWN, PACKAGE) for each in top.rglob("*.yaml")]


# Bases --------------------------------------------------------------------------------------------


def read_with_bases(path: Path) -> dict[str, Any]:
    """What a config file says, laid over its `_BASE_`, over the base of that, and so on."""
    path = path.resolve()
    tree = next((top for top in (OWN, PACKAGE) if path.is_relative_to(top.resolve())), path.parent)
    return _read(path, tree.resolve(), ())


def _read(path: Path, tree: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path in above:
        circle = " -> ".join(str(each) for each in (*above[above.index(path) :], path))
        raise UserError(f"These configs are each other's {BASE}: {circle}.")
    own = read_config(path)
    names = own.pop(BASE, [])
    merged: dict[str, Any] = {}
    for name in names if isinstance(names, list) else [names]:
        _merge(_read(*_find_base(name, path, tree), (*above, path)), merged, path)
    _merge(own, merged, path)
    return merged


def _merge(over: Mapping[str, Any], base: dict[str, Any], path: Path, block: str = "") -> None:
    """Lay `over` on `base`, block by block, as fvcore's CfgNode does."""
    for key, value in over.items():
        if isinstance(value, dict) and key in base:
            if not isinstance(base[key], dict):
                raise UserError(f"{path}: {block}{key} is a block, but a value in its {BASE}.")
            _merge(value, base[key], path, f"{block}{key}.")
        else:
            base[key] = value


def _find_base(name: object, path: Path, tree: Path) -> tuple[Path, Path]:
    """The file that `_BASE_` of `path` stands for, and the folder that it and its bases lie in.

    Looked for beside the file, in OWN, in PACKAGE; never by an address, an absolute path, or outside.
    """
    if not isinstance(name, str) or not name:
        raise UserError(f"{path}: {BASE} must be the name of a config file, or a list of names.")
    if "://" in name:
        raise UserError(
            f"{path}: {BASE} is an address ({name}). Configs are never fetched: save it beside the "
            "file, read it, and name the copy."
        )
    if name.startswith(("/", "~")):
        raise UserError(
            f"{path}: {BASE} is an absolute path ({name}). Copy the file beside this one and name it."
        )
    outside = False
    for start, top in ((path.parent, tree), (OWN, OWN), (PACKAGE, PACKAGE)):
        candidate = (start / name).resolve()
        if not candidate.is_relative_to(top.resolve()):
            outside = True
        elif candidate.is_file():
            return candidate, top.resolve()
    bare = name
    while bare.startswith(("../", "./")):
        bare = bare.partition("/")[2]
    known = _names()
    nearest = [bare] if bare != name and bare in known else difflib.get_close_matches(bare, known)
    hint = f" Did you mean {' or '.join(nearest)}, which is found by that name?" if nearest else ""
    if outside:
        raise UserError(
            f"{path}: {BASE} leads out of its folder ({name}). A base lies beside the file or below, in "
            f"{OWN}, or in {PACKAGE}.{hint}"
        )
    raise UserError(
        f"{path}: there is no {BASE} {name}: it was looked for in {path.parent}, {OWN} and {PACKAGE}."
        f"{hint}"
    )


# Resolving ----------------------------------------------------------------------------------------


def default_config() -> CfgNode:
    """Detectron2's defaults, with the keys of `backbones`, the optimizer that trains, and the decay by
    which weights are averaged, or 0."""
    config = get_cfg()
    add_timm_config(config)
    config.SOLVER.OPTIMIZER = SGD
    config.SOLVER.AVERAGING = 0.0
    return config


def resolve(data: Mapping[str, Any], overrides: Sequence[object], source: str) -> CfgNode:
    """The config that `data` and then `overrides` make of the defaults; `source` names it in errors."""
    config = default_config()
    version = data.get("VERSION", config.VERSION)
    if version != config.VERSION:
        raise UserError(
            f"{source} is a config of version {version}; this Detectron2 writes version "
            f"{config.VERSION}. Its detectron2.config.upgrade_config brings it up to date."
        )
    known = dict(_leaves(config))
    unknown = [key for key, _ in _leaves(data) if not _is_known(key, known)]
    if unknown:
        raise UserError(f"{source}: {_unknown(unknown, known)}")
    try:
        config.merge_from_other_cfg(CfgNode(dict(data)))
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(f"{source}: {_reason(error)}") from None
    _override(config, overrides, known)
    return config


def _override(config: CfgNode, overrides: Sequence[object], known: Mapping[str, Any]) -> None:
    keys = overrides[0::2]
    if len(overrides) % 2:
        raise UserError(
            f"Overrides are KEY VALUE pairs, such as INPUT.MIN_SIZE_TEST 1000: {overrides[-1]} has "
            "no value."
        )
    unknown = [str(key) for key in keys if not _is_known(str(key), known)]
    if unknown:
        raise UserError(_unknown(unknown, known))
    for key, value in zip(keys, overrides[1::2], strict=True):
        try:
            config.merge_from_list([key, value])
        except (KeyError, ValueError, AssertionError) as error:
            raise UserError(f"{key} {value}: {_reason(error)}") from None


def _leaves(block: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of everything that is no block; an empty block is one."""
    for key, value in block.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_known(key: str, known: Mapping[str, Any]) -> bool:
    # A block of free keys, and an empty block of known ones, are known by what they begin with.
    parents = {key.rpartition(".")[0]}
    return (
        key in known
        or any(isinstance(known.get(parent), Mapping) for parent in parents)
        or any(each.startswith(f"{key}.") for each in known)
    )


def _unknown(keys: Sequence[str], known: Mapping[str, Any]) -> str:
    said = []
    for key in keys:
        last = key.rpartition(".")[2].lower()
        nearest = [each for each in known if each.rpartition(".")[2].lower() == last]
        nearest = list(dict.fromkeys([*difflib.get_close_matches(key, known, 1, 0.8), *nearest]))
        hint = f" Did you mean {' or '.join(nearest[:3])}?" if nearest else ""
        said.append(f"Detectron2 has no key {key}.{hint}")
    return " ".join(said)


def _reason(error: Exception) -> str:
    return str(error.args[0] if error.args else error)


def dump_config(config: CfgNode) -> str:
    """A resolved config as plain YAML; one that any Detectron2 reads, unless its backbone is timm's, its
    optimizer AdamW, or its weights are averaged."""
    config = config.clone()
    config.defrost()
    if config.SOLVER.OPTIMIZER == SGD:
        del config.SOLVER["OPTIMIZER"]
    if not config.SOLVER.AVERAGING:
        del config.SOLVER["AVERAGING"]
    if config.MODEL.BACKBONE.NAME != BUILDER:
        del config.MODEL["TIMM"]
    return config.dump()
