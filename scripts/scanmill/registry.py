"""The registry of public models, `config/models.yaml`: where their weights lie, and what they are of."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonschema import Draft202012Validator

from scanmill.downloads import Expected, file_name
from scanmill.errors import UserError
from scanmill.model_folders import CARD, read_card, read_config
from scanmill.tables import digest_json

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "config" / "models.yaml"
SCHEMA = ROOT / "config" / "models.schema.yaml"
#: Scanmill's own model folders.
MODELS = ROOT / "models"

#: What `detectron2://` stands for in Detectron2 (detectron2/utils/file_io.py).
DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"


class Entry(NamedTuple):
    """A model of the registry."""

    name: str
    weights: tuple[str, ...] = ()
    """Mirrors, in the order in which they are tried: addresses, or paths."""
    config: str = ""
    """A Detectron2 config: one of ours or of Detectron2's by name, or a path."""
    overrides: tuple[object, ...] = ()
    """KEY VALUE ..., laid over the config; of a backbone, everything that belongs to it."""
    classes: tuple[str, ...] = ()
    """In the order of their ids; none for a backbone, which detectors are trained from."""
    folder: str = ""
    """In place of all others: a model folder that is there."""
    color: str = "config"
    expected: Expected = Expected()
    licence: str = ""
    source: str = ""
    quality: str = ""

    @property
    def file(self) -> str:
        """The name of the weights' file once it is downloaded."""
        return self.name + Path(file_name(self.weights[0])).suffix

    @property
    def digest(self) -> str:
        """A sha256 over what decides the model that comes out, mirrors apart."""
        return digest_json([self.config, self.overrides, self.classes, self.color, self.expected])


def read_registry(*paths: Path) -> dict[str, Entry]:
    """The entries of registries by name; those of later files replace those of earlier ones.

    Files that do not exist are passed over, but for REGISTRY. Relative paths of weights and configs are
    relative to the file. Raises UserError with every problem.
    """
    schema = Draft202012Validator(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))
    entries = {}
    for path in paths:
        if path != REGISTRY and not path.exists():
            continue
        content = read_config(path)
        problems = [
            f"- {'.'.join(map(str, error.absolute_path)) or 'the file'}: "
            f"{error.schema.get('title', error.message)}"
            for error in schema.iter_errors(content)
        ]
        if problems:
            listed = "\n".join(dict.fromkeys(problems))
            raise UserError(f"{path} is no registry of models:\n{listed}")
        entries |= {name: _entry(name, block, path.parent) for name, block in content.items()}
    return entries


def _entry(name: str, block: Mapping[str, Any], folder: Path) -> Entry:
    if "folder" in block:
        return Entry(name, folder=str((folder / block["folder"]).resolve()))
    values = dict(block)
    expected = Expected(*(values.pop(key, None) for key in Expected._fields))
    open_ = [each for each in values["weights"] if re.match(r"http://(?!127\.0\.0\.1[:/])", each)]
    if open_ and not expected.sha256:
        raise UserError(
            f"{folder / 'models.yaml'}, {name}: {open_[0]} is not encrypted, so that anyone on the "
            "way may change it. Give an https address, or the file's sha256."
        )
    weights = tuple(each if "://" in each else str(folder / each) for each in values.pop("weights"))
    config = values.pop("config")
    if (folder / config).is_file():
        config = str(folder / config)
    overrides = tuple(values.pop("overrides", ()))
    classes = tuple(values.pop("classes", ()))
    if classes:
        overrides = ("MODEL.ROI_HEADS.NUM_CLASSES", len(classes), *overrides)
    return Entry(name, weights, config, overrides, classes, expected=expected, **values)


def own_registry(directory: Path | None = None) -> dict[str, Entry]:
    """Scanmill's entries, and those of models.yaml in a working directory."""
    return read_registry(REGISTRY, (directory or Path()) / "models.yaml")


# Looking up ---------------------------------------------------------------------------------------


def find_model(name: str, folders: Sequence[Path], entries: Mapping[str, Entry]) -> Path | Entry:
    """The model folder `name` in the first of `folders` that has one, or the entry of that name.

    Otherwise a UserError names what there is.
    """
    for folder in folders:
        if (folder / name / CARD).is_file():
            return folder / name
    entry = entries.get(name)
    if entry is not None and entry.folder:
        if not (Path(entry.folder) / CARD).is_file():
            raise UserError(
                f"The registry says that the model {name} lies in {entry.folder}, and there is no "
                f"{CARD} there."
            )
        return Path(entry.folder)
    if entry is not None:
        return entry
    if "://" in name:
        return resolve_address(name, entries)
    made = Path("results", "models", name)
    if (made / CARD).is_file():
        raise UserError(
            f"The model `{name}` was trained in this working directory, and is not what training.name "
            f"makes now. To use it further: mkdir -p models && cp -r {made} models/"
        )
    local = sorted({path.parent.name for folder in folders for path in folder.glob(f"*/{CARD}")})
    detectors = [each.name for each in entries.values() if each.classes or each.folder]
    nearest = difflib.get_close_matches(name, [*local, *detectors], 3)
    looked = " or ".join(str(folder) for folder in folders)
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    raise UserError(
        f"There is no model `{name}`: no {name}/{CARD} in {looked}, and no such entry in the "
        f"registry.{hint} Models found: {', '.join(local) or 'none'}; the registry's: "
        f"{', '.join(detectors) or 'none'} (python scripts/list_models.py says more)."
    )


def find_address(address: str, entries: Mapping[str, Entry]) -> Entry | None:
    """The entry that a `detectron2://` or `lp://` name of a config stands for, or a mirror of it.

    `lp://` is LayoutParser's: lp://PubLayNet/mask_rcnn_R_50_FPN_3x/config is the entry
    PubLayNet-mask_rcnn_R_50_FPN_3x.
    """
    scheme, _, rest = address.partition("://")
    if scheme == "detectron2":
        wanted = DETECTRON2 + rest
    elif scheme == "lp":
        parts = [part for part in rest.split("/") if part]
        parts = parts[parts[:1] == ["detectron2"] :]
        name = "-".join(parts[: -1 if parts[-1:] in (["config"], ["weight"]) else None])
        if name in entries:
            return entries[name]
        wanted = name
    else:
        wanted = address
    return next((entry for entry in entries.values() if wanted in entry.weights), None)


def resolve_address(address: str, entries: Mapping[str, Entry]) -> Entry:
    """As find_address; a UserError where there is no such entry."""
    entry = find_address(address, entries)
    if entry is not None:
        return entry
    known = [each for entry in entries.values() for each in _addresses(entry)]
    nearest = difflib.get_close_matches(address, known, 3)
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    raise UserError(
        f"{address} is not in the registry of models, and nothing is fetched from elsewhere.{hint} "
        "Fetch the file yourself and name its path, or give it an entry in models.yaml of the "
        "working directory."
    )


def _addresses(entry: Entry) -> Iterator[str]:
    for mirror in entry.weights:
        if mirror.startswith(DETECTRON2):
            yield "detectron2://" + mirror.removeprefix(DETECTRON2)
    dataset, _, architecture = entry.name.partition("-")
    if entry.classes and architecture:
        yield f"lp://{dataset}/{architecture}"


def model_classes(model: Path | Entry) -> list[str]:
    """The classes of a detector; a UserError for a backbone."""
    classes = read_card(model)["classes"] if isinstance(model, Path) else list(model.classes)
    if not classes:
        raise UserError(
            f"{model.name} is a backbone, which detectors are trained from: it finds nothing by itself."
        )
    return classes
