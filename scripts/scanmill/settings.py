"""Settings: the defaults and what users lay over them, checked, with messages a person understands.

Settings are nested dicts; a *dotted key* such as `images.limits.cpu_seconds` names one of them. The
defaults are in config/config.yaml, what is allowed in config/config.schema.yaml, the reference for
users in config/README.md.
"""

import copy
import difflib
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from scanmill.errors import UserError

# Settings that decide what a stage makes: they enter its params and its fingerprints.
OUTPUT_SETTINGS: dict[str, tuple[str, ...]] = {
    "images": ("images.dpi", "images.lift", "images.renderer", "images.jpeg_quality"),
    "detection": (
        "detection.score_floor",
        "detection.max_detections",
        "detection.tiles",
        "detection.precision",
        "detection.polygons",
    ),
    "regions": (
        "regions.classes",
        "regions.min_score",
        "regions.duplicate_iou",
        "regions.reading_order",
        "regions.page_tables",
    ),
    "crops": (
        "crops.classes",
        "crops.padding",
        "crops.format",
        "crops.jpeg_quality",
        "crops.store",
    ),
    "ocr": (
        "ocr.source",
        "ocr.engine",
        "ocr.languages",
        "ocr.classes",
        "ocr.page_tables",
    ),
}

# Settings that reach results through what stages read, never by their own value: the documents
# through the shards' manifests, the model through its model.json, annotations through the dataset.
INPUT_SETTINGS: tuple[str, ...] = (
    "archive.path",
    "archive.image_folders",
    "archive.include",
    "archive.exclude",
    "archive.follow_links",
    "model",
    "dataset.annotations",
    "dataset.images",
    "dataset.classes",
    "dataset.map",
    "dataset.document",
    "dataset.split.train",
    "dataset.split.val",
    "dataset.split.test",
    "dataset.min_examples",
    "dataset.seed",
    "synthesis.texts",
    "synthesis.translations",
    "synthesis.pictures",
    "synthesis.train",
    "synthesis.val",
    "synthesis.test",
    "synthesis.seed",
    "training.name",
    "training.start",
    "training.config",
    "training.overrides",
    "training.epochs",
    "training.patience",
    "training.seed",
    "evaluation.samples",
    "evaluation.sizes",
)

# Settings that decide only how fast, within which bounds and by which jobs.
RUNNING_SETTINGS: tuple[str, ...] = (
    "archive.max_missing",
    "shards.max_documents",
    "shards.max_bytes",
    "images.keep",
    "images.wave",
    "images.limits.max_pixels",
    "images.limits.cpu_seconds",
    "images.limits.wall_seconds",
    "images.limits.memory_mb",
    "detection.device",
    "detection.batch_size",
    "ocr.enabled",
    "training.strict",
    "training.num_gpus",
    "reuse.code",
    "container",
    "failures.max_failed_fraction",
)

# Settings that decide what the tables of an archive hold, of the scans wherever they lie.
DECIDING_SETTINGS: tuple[str, ...] = (
    "model",
    *(key for key in INPUT_SETTINGS if key.startswith("archive.") and key != "archive.path"),
    *(key for keys in OUTPUT_SETTINGS.values() for key in keys),
)

# Likeness of names (difflib's ratio, 0 to 1) from which one counts as a misspelling of the other.
# 0.7 takes two wrong letters in eight and leaves `threshold` and the like without a wrong guess.
_MISSPELLED = 0.7


def load_settings(
    defaults: Path,
    schema: Path,
    directory: Path,
    overrides: Mapping,
    configfiles: Sequence[Path] = (),
) -> dict:
    """All settings: `defaults`, overlaid by `directory`/config.yaml, `configfiles`, `overrides`.

    Blocks are merged key by key; lists and values replace. A text for `archive` is short for
    archive.path. A number for regions.min_score replaces thresholds by class; a mapping is merged
    into them. A text is read as YAML where the schema wants another type: Snakemake delivers
    `--config 'images={dpi: 400}'` as {"images": {"dpi": "400"}}.

    `overrides` is Snakemake's `config`. Its merging of --configfile and --config drops the other
    keys of `archive` when one of them gives a text: pass `workflow.config_settings.configfiles`
    and `.config` apart to keep them.

    In the result regions.min_score is a dict with `default` first, keys that want a number hold a
    float and keys that want a whole number an int, so that `1` and `1.0` are the same setting.

    Raises UserError with every problem of every layer.
    """
    rules = yaml.safe_load(schema.read_text(encoding="utf-8"))
    files = [defaults]
    own = directory / "config.yaml"
    if os.path.lexists(own):  # a link to nowhere is an error, not an absent file
        files.append(own)
    files += configfiles
    layers = [(str(path), _read_yaml(path)) for path in files]
    layers.append(("--config" if configfiles else "--config or --configfile", overrides))
    layers = [(source, _fit(_expand_archive(layer), rules)) for source, layer in layers]

    keys = _dotted_keys(rules)
    problems = [
        f"{source}: {fault}"
        for source, layer in layers
        for fault in _faults(layer, rules, (), keys)
    ]
    if problems:
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        listed = "\n".join(f"- {problem}" for problem in problems)
        raise UserError(
            f"The settings have {count}:\n{listed}\nconfig/README.md explains every setting."
        )
    return _merge_layers([layer for _, layer in layers])


def check_directory(directory: Path) -> None:
    """Raise UserError if nothing can be written into the working directory."""
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(
            f"The working directory {directory} cannot be written to. Choose another with "
            "--directory, or change its permissions."
        )


def archive_path(settings: Mapping, directory: Path) -> Path:
    """The archive (a folder or a CSV file) as an absolute path, links not resolved.

    A relative `archive.path` is relative to `directory`, the working directory; `~` is the home
    folder. Raises UserError if it is not given or not there, is neither a folder nor a CSV file, or
    if archive and working directory contain one another.
    """
    given = settings["archive"]["path"]
    if given is None:
        raise UserError(
            "No archive is given. Say where the scans are: add --config archive=/path/to/scans to "
            f"the command, or write `archive: /path/to/scans` into {directory / 'config.yaml'}."
        )
    path = directory.absolute() / os.path.expanduser(given)
    real = os.path.realpath(path)
    named = f"archive.path is {_shown(given)}"
    try:
        path.stat()
    except OSError as error:
        raise UserError(
            f"{named}, but {real} cannot be opened ({error.strerror}). Is it spelled right, is the "
            "disk mounted? A relative path is relative to the working directory, "
            f"{directory.absolute()}."
        ) from error
    if not path.is_dir():
        if path.is_file() and path.suffix.lower() == ".csv":
            return path
        raise UserError(f"{named}, but {real} is neither a folder nor a CSV file of documents.")
    work = os.path.realpath(directory)
    shared = os.path.commonpath([real, work])
    if shared in (real, work):
        if real == work:
            relation = "are the same folder"
        elif shared == work:
            relation = "must not contain one another: the archive lies in the working directory"
        else:
            relation = "must not contain one another: the working directory lies in the archive"
        raise UserError(
            f"{named}. Archive ({real}) and working directory ({work}) {relation}. "
            "Choose a working directory elsewhere with --directory."
        )
    return path


def output_settings(settings: Mapping, stage: str) -> dict:
    """The settings that decide what `stage` makes, by the last part of their dotted key."""
    return {
        key.rpartition(".")[2]: copy.deepcopy(_value(settings, key))
        for key in OUTPUT_SETTINGS[stage]
    }


def deciding_settings(settings: Mapping) -> dict:
    """DECIDING_SETTINGS, by dotted key."""
    return {key: copy.deepcopy(_value(settings, key)) for key in DECIDING_SETTINGS}


def dump_settings(settings: Mapping, path: Path) -> None:
    """Write `settings` as YAML to `path`, in one step, and only if the file would change.

    Raises UserError if the folder cannot be written.
    """
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    content = f"# The settings in use, defaults included. Written by Scanmill.\n{text}".encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}). Choose a working directory that you can "
            "write to and that has room, with --directory."
        ) from error


def settings_of_last_run(directory: Path) -> dict:
    """The settings that the last run in `directory` wrote down, defaults included."""
    path = directory / "results" / "settings.yaml"
    if not path.is_file():
        raise UserError(
            f"{path} is missing: with which settings the results were made is not known. Run your "
            "snakemake command again, which writes it."
        )
    return _read_yaml(path)


def _read_yaml(path: Path) -> object:
    """What the YAML file holds: a dict, {} if it is empty. UserError for anything else."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}). Make it a file that you may read, or "
            "remove it."
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: this is not UTF-8. Save it as UTF-8.") from error
    try:
        # Composed once more because constructing it forgets which keys stood there twice.
        duplicates = list(_duplicate_keys(yaml.compose(text, Loader=yaml.SafeLoader)))
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no such day, as in 2024-02-31
        where, what = _syntax_error(error, text)
        raise UserError(
            f"{path}{where}: this is not valid YAML ({what}). Look there, and just above, at "
            "indentation (spaces, never tabs), colons, quotes and brackets."
        ) from error
    if duplicates:
        raise UserError("\n".join(f"{path}, {duplicate}" for duplicate in duplicates))
    if content is not None and not isinstance(content, dict):
        raise UserError(
            f"{path} holds {_shown(content)}. It must hold settings by name, such as `images:` and "
            "below it, indented, `dpi: 400`."
        )
    return content or {}


def _duplicate_keys(node: yaml.Node | None) -> Iterator[str]:
    """For each key that stands twice in a mapping anywhere below `node`: both lines."""
    pending, seen = [node], set()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:  # seen: an alias, which may point to its own parent
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            pending += [value for _, value in reversed(node.value)]
            lines: dict[str, int] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    yield (
                        f"line {line}: the key {key.value} stands in line {lines[key.value]} "
                        "already, and only one of the two can count. Make them one."
                    )
                lines.setdefault(key.value, line)


def _syntax_error(error: Exception, text: str) -> tuple[str, str]:
    """Where (", line 3", or nothing if unknown) and what is wrong, from an exception of PyYAML."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        what = error.problem or "unreadable"
        if error.context and error.context_mark:
            what += f", {error.context} that begins in line {error.context_mark.line + 1}"
        return f", line {error.problem_mark.line + 1}", what
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f", line {line}", f"the control character U+{error.character:04X}"
    return "", str(error)


def _is_finite_number(_checker: object, value: object) -> bool:
    """JSON's number: YAML's .nan and .inf are not, and .nan would pass every range."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("number", _is_finite_number),
)


def _is_valid(value: object, schema: Mapping) -> bool:
    return _Validator(schema).is_valid(value)


def _branches(schema: Mapping) -> list[dict]:
    """The alternatives of a schema: those of its `anyOf`, or itself."""
    return schema.get("anyOf", [schema])


def _branch(schema: Mapping, kind: str) -> dict:
    """The alternative whose type is `kind`; {} if there is none."""
    return next((branch for branch in _branches(schema) if branch.get("type") == kind), {})


def _property(block: Mapping, key: object) -> dict | None:
    """The schema of `key` in an object's schema; None if there may be no such key."""
    return block.get("properties", {}).get(key) or block["additionalProperties"] or None


def _dotted_keys(schema: Mapping, prefix: str = "") -> list[str]:
    """All dotted keys, each block before what is in it."""
    keys = []
    for name, inner in _branch(schema, "object").get("properties", {}).items():
        keys += [prefix + name, *_dotted_keys(inner, f"{prefix}{name}.")]
    return keys


def _expand_archive(layer: Mapping) -> Mapping:
    """The layer with `archive: /path` written out as archive.path."""
    archive = layer.get("archive")
    return {**layer, "archive": {"path": archive}} if isinstance(archive, str) else layer


def _fit(value: object, schema: Mapping) -> object:
    """`value` in the form the schema wants, where it can be had; whatever does not fit as it is."""
    block, items = _branch(schema, "object"), _branch(schema, "array").get("items")
    if isinstance(value, Mapping) and block:
        return {key: _fit(inner, _property(block, key) or {}) for key, inner in value.items()}
    if value is None and "properties" in block and not _branch(schema, "null"):
        return {}  # A block whose lines are all commented out.
    if isinstance(value, list) and items:
        return [_fit(item, items) for item in value]
    if isinstance(value, str) and not _is_valid(value, schema):
        read = _read_scalar(value)
        if not isinstance(read, str) and _is_valid(read, schema):
            return _fit(read, schema)
    if isinstance(value, int | float) and _is_valid(value, schema):
        if _branch(schema, "number"):
            return float(value)
        if _branch(schema, "integer"):
            return int(value)
    return value


def _read_scalar(text: str) -> object:
    """What `text` means in YAML; 8e9, a number in YAML 1.2 and to people, is one here too."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _faults(
    value: object, schema: Mapping, path: tuple[object, ...], keys: Sequence[str]
) -> Iterator[str]:
    """What is wrong in the value at `path` and below: unknown keys, wrong types, out of range."""
    block, items = _branch(schema, "object"), _branch(schema, "array").get("items")
    name = ".".join(map(str, path))
    if isinstance(value, Mapping) and block:
        for key, inner in value.items():
            if (known := _property(block, key)) is None:
                yield _unknown_key((*path, key), keys)
            elif not isinstance(key, str):
                yield f'{name}: the key {_shown(key)} is not text. Put it in quotes: "{key}".'
            else:
                yield from _faults(inner, known, (*path, key), keys)
    elif isinstance(value, list) and items and not all(_is_valid(v, items) for v in value):
        for number, item in enumerate(value, start=1):
            if not _is_valid(item, items):
                yield _not_allowed(f"{name}, entry {number}", item, items)
    elif not _is_valid(value, schema):
        yield _not_allowed(name, value, schema)


def _not_allowed(name: str, value: object, schema: Mapping) -> str:
    """The message for a value that its schema does not allow."""
    message = f"{name}: {_shown(value)} is not allowed. Allowed: {_allowed(schema)}."
    if value is None or isinstance(value, str | list | Mapping):
        return message
    if any(b.get("type") == "string" and _is_valid(str(value), b) for b in _branches(schema)):
        # YAML made something else of it: `model: no` is false, `--config archive=2024` a number.
        message += (
            " If it is meant as text, put it in quotes; --config drops quotes, write !!str before "
            "it there."
        )
    return message


def _unknown_key(path: tuple[object, ...], keys: Sequence[str]) -> str:
    """The message for a key that is not known, with the nearest one that is."""
    name = ".".join(map(str, path))
    if name in keys:  # `detection.score_floor: 0.1` written as one word
        nested = "..."
        for part in reversed(name.split(".")):
            nested = f"{{{part}: {nested}}}"
        return f"{name}: a block and its key are not written as one. Write {nested[1:-1]}."
    nearest = _nearest_keys(name, keys)
    if nearest:
        return f"{name}: there is no such setting. Did you mean {' or '.join(nearest)}?"
    parent = ".".join(map(str, path[:-1]))
    siblings = [key for key in keys if key.rpartition(".")[0] == parent]
    where = f"Those of {parent} are" if parent else "There are"
    names = ", ".join(key.rpartition(".")[2] for key in siblings)
    return f"{name}: there is no such setting. {where}: {names}."


def _nearest_keys(name: str, keys: Sequence[str]) -> list[str]:
    """The dotted keys that `name` may stand for: the same key in other blocks, or the most alike.

    Compared is the last part, since a common block would make any two keys alike; the same block
    decides between equals.
    """
    block, _, last = name.lower().rpartition(".")
    same = [key for key in keys if key.rpartition(".")[2] == last]
    if same:
        return same
    likeness = {}
    for key in keys:
        key_block, _, key_last = key.rpartition(".")
        ratio = difflib.SequenceMatcher(None, last, key_last).ratio()
        if ratio >= _MISSPELLED:
            likeness[key] = ratio + 0.1 * (key_block == block)
    return [max(likeness, key=likeness.__getitem__)] if likeness else []


def _shown(value: object) -> str:
    """A value in a message: as YAML writes it, cut where it is long."""
    if value is None:
        return "an empty value (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a block of keys"
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _allowed(schema: Mapping) -> str:
    """What a schema allows, in words."""
    if "anyOf" in schema:
        return ", or ".join(_allowed(branch) for branch in schema["anyOf"])
    if "title" in schema:
        return schema["title"]
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if "properties" in schema:
        return f"a block of the keys {', '.join(schema['properties'])}"
    names = {
        "boolean": "true or false",
        "null": "null",
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
    }
    return names[schema["type"]] + _range(schema)


def _range(schema: Mapping) -> str:
    """The range of a number's schema, in words; empty if it has none."""
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    return f" of at least {low}" if low is not None else ""


def _merge_layers(layers: Sequence[Mapping]) -> dict:
    """Valid layers laid over one another, the last on top."""
    settings: dict = {}
    for layer in layers:
        settings = _merge(settings, layer)
    scores = _as_mapping(settings["regions"]["min_score"])
    # In a fixed order: the same thresholds in another order must not look like a change.
    settings["regions"]["min_score"] = dict(
        sorted(scores.items(), key=lambda item: (item[0] != "default", item[0]))
    )
    return settings


def _merge(base: Mapping, over: Mapping) -> dict:
    """`base` overlaid by `over`, block by block; neither is changed, nothing is shared."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping):
            merged[key] = _merge(_as_mapping(merged.get(key, {})), value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _as_mapping(value: object) -> Mapping:
    """A number for regions.min_score, alone in being a number or a mapping, is its `default`; what a
    mapping replaces, null of detection.tiles, a list or a word of dataset.annotations, is an empty
    one."""
    if isinstance(value, Mapping):
        return value
    return {} if value is None or isinstance(value, list | str) else {"default": value}


def _value(settings: Mapping, dotted: str) -> object:
    value: object = settings
    for key in dotted.split("."):
        value = value[key]
    return value
