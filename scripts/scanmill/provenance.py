"""Where results come from, as an RO-Crate: archive, model, settings, versions, failures, how to cite.

The document is RO-Crate metadata (https://w3id.org/ro/crate/1.1, profile Process Run Crate 0.5: a
program was run). RO-Crate wants it under the name of CRATE in the folder that it describes, where any
tool finds it; `provenance.json` is the same text. Its size does not grow with the archive.

It says what the tables themselves say of how they were made, since jobs may have run on other machines
and at other times than the run that ends; what only this process knows stands in an action per run that
changed something.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

import scanmill
from scanmill.data_dictionary import COLUMNS, DATASETS, OWN_COLUMN, TABLES
from scanmill.forecast import volume
from scanmill.model_folders import CONFIG, WEIGHTS, model_digest, read_card, read_config
from scanmill.processors import cpu_model
from scanmill.run_facts import count_values, counted, finished_shards
from scanmill.settings import deciding_settings
from scanmill.store import STAGES, document_folder, record_name
from scanmill.tables import read_metadata, read_table

CRATE = "ro-crate-metadata.json"
ROOT = Path(scanmill.__file__).parents[2]
_CONTEXT = [
    "https://w3id.org/ro/crate/1.1/context",
    "https://w3id.org/ro/terms/workflow-run/context",
]
_SPECIFICATION = "https://w3id.org/ro/crate/1.1"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_PARQUET = "application/vnd.apache.parquet"

#: Runs that are remembered.
RUNS = 50
#: Documents whose records are asked which release made them.
ASKED_DOCUMENTS = 64
#: Names looked at at once for the archive's digest.
NAMES_AT_ONCE = 1 << 16
#: Packages that decide results, by the names that they may be installed under.
PACKAGES = {
    "snakemake": ("snakemake",),
    "detectron2": ("detectron2", "sal-detectron2"),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "opencv": ("opencv-python-headless", "opencv-python"),
    "pypdfium2": ("pypdfium2",),
    "pyarrow": ("pyarrow",),
    "rapidocr": ("rapidocr",),
    "onnxruntime": ("onnxruntime",),
}
#: What is built on, and asks to be cited.
CITATIONS = {
    "https://github.com/facebookresearch/detectron2": (
        "Detectron2",
        "Yuxin Wu, Alexander Kirillov, Francisco Massa, Wan-Yen Lo and Ross Girshick: Detectron2. 2019. "
        "https://github.com/facebookresearch/detectron2",
    ),
    "https://doi.org/10.1109/ICCV.2017.322": (
        "Mask R-CNN",
        "Kaiming He, Georgia Gkioxari, Piotr Dollár and Ross Girshick: Mask R-CNN. ICCV 2017. "
        "https://doi.org/10.1109/ICCV.2017.322",
    ),
    "https://doi.org/10.1109/TPAMI.2016.2577031": (
        "Faster R-CNN",
        "Shaoqing Ren, Kaiming He, Ross Girshick and Jian Sun: Faster R-CNN: Towards Real-Time Object "
        "Detection with Region Proposal Networks. IEEE TPAMI 39(6), 2017. "
        "https://doi.org/10.1109/TPAMI.2016.2577031",
    ),
    "https://doi.org/10.12688/f1000research.29032.1": (
        "Snakemake",
        "Felix Mölder et al.: Sustainable data analysis with Snakemake. F1000Research 10:33, 2021. "
        "https://doi.org/10.12688/f1000research.29032.1",
    ),
}

Entity = dict[str, Any]


# Facts --------------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What is said of the results: all of it can be read again from them."""

    documents: int
    size: int
    """Bytes of the archive."""
    archive_digest: str
    pages: int
    unopened: int
    """Documents that did not open, or have no page."""
    failures: Counter[tuple[str, str]]
    """(stage, reason) -> rows."""
    images: Counter[tuple[str, str]]
    """(source, engine) -> pages."""
    processors: Counter[tuple[str, str]]
    """(precision, device) -> pages."""
    classes: Counter[str]
    """Class -> regions."""
    texts: Counter[tuple[str, str]]
    """(source, engine) -> regions whose text was read; nothing without OCR."""
    made_by: list[str]
    """Releases of Scanmill, as records say."""
    card: Mapping[str, Any]
    model_config: Mapping[str, Any]
    settings: Mapping[str, Any]
    """Those that decide results, by dotted key."""


def gather_facts(results: Path, settings: Mapping[str, Any]) -> Facts:
    """Read what is said of the results from their tables; `settings` as `deciding_settings` gives."""
    documents = read_table(results / "documents.parquet", ("document", "bytes", "sha256", "pages"))
    failures = read_table(results / "failures.parquet", ("page", "stage", "reason"))
    shards = finished_shards(results)
    model = results / "models" / settings["model"]
    regions = count_values(results, "regions", shards, ("class_name",))
    read = [shard for shard in shards if (results / "ocr" / f"{shard}.parquet").exists()]
    whole = failures.filter(pc.is_null(failures["page"]))
    reasons = zip(failures["stage"].to_pylist(), failures["reason"].to_pylist(), strict=True)
    return Facts(
        documents=documents.num_rows,
        size=pc.sum(documents["bytes"]).as_py() or 0,
        archive_digest=archive_digest(documents),
        pages=pc.sum(documents["pages"]).as_py() or 0,
        unopened=whole.num_rows,
        failures=Counter(reasons),
        images=count_values(results, "pages", shards, ("source", "engine")),
        processors=count_values(results, "detected_pages", shards, ("precision", "device")),
        classes=Counter({name: count for (name,), count in regions.items()}),
        texts=count_values(results, "ocr", read, ("source", "engine")),
        made_by=releases(results, documents["document"]),
        card=read_card(model),
        model_config=read_config(model / CONFIG),
        settings=settings,
    )


def archive_digest(documents: pa.Table) -> str:
    """The sha256 of a list of the archive: a line `sha256  document` for each, sorted by name.

    It is what `sha256sum` prints of files, in the order of LC_ALL=C: neither times nor shards enter. A
    document that could not be read has `-` for its sha256.
    """
    digest = hashlib.sha256()
    documents = documents.take(pc.sort_indices(documents["document"]))
    for start in range(0, documents.num_rows, NAMES_AT_ONCE):
        part = documents.slice(start, NAMES_AT_ONCE)
        sha256 = pc.fill_null(part["sha256"], "-")
        for line in pc.binary_join_element_wise(sha256, part["document"], "  ").to_pylist():
            digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def releases(results: Path, documents: pa.ChunkedArray) -> list[str]:
    """The releases of Scanmill that made the results, as the records of some documents say."""
    found = set()
    rows = np.unique(np.linspace(0, len(documents) - 1, ASKED_DOCUMENTS).astype(np.int64))
    for document in documents.take(pa.array(rows)).to_pylist() if len(documents) else ():
        folder = document_folder(results, document)
        for stage in STAGES:
            path = folder / record_name(stage)
            if path.exists():
                found.add(read_metadata(path)["scanmill_version"])
    return sorted(found)


# This process -------------------------------------------------------------------------------------


def git_commit() -> str | None:
    """The commit of this copy of Scanmill, `+changes` where it was changed since; None without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*"]
    if not (ROOT / ".git").exists():
        return None  # Copied into another repository, whose commit says nothing.
    try:
        done = subprocess.run(
            [*command, "--dirty=+changes"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Names and versions of what Scanmill runs on, as far as it is installed here."""
    found = {"python": platform.python_version()}
    for name, distributions in PACKAGES.items():
        for distribution in distributions:
            try:
                found[name] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def machine() -> str:
    """System and processor of this machine, in words."""
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    kernel = f"{platform.system()} {platform.release()}, {platform.machine()}"
    return f"{system} ({kernel}), {os.cpu_count()} x {cpu_model() or platform.processor()}"


# Words --------------------------------------------------------------------------------------------


def methods_paragraph(facts: Facts) -> str:
    """A paragraph on methods for a paper, from the numbers of these results: to start from."""
    return " ".join(_sentences(facts))


def _sentences(facts: Facts) -> Iterator[str]:
    said, card = facts.settings, facts.card
    yield (
        f"We processed {counted(facts.documents, 'document')} ({volume(facts.size)}) of "
        f"{counted(facts.pages, 'page')} with Scanmill {_and(facts.made_by) or scanmill.__version__}, a "
        "Snakemake workflow around Detectron2."
    )
    sources = Counter()
    for (source, _), count in facts.images.items():
        sources[source] += count
    engines = sorted({engine for source, engine in facts.images if source == "rendered"})
    ways = {
        "lifted": "scans as they lie in their PDFs",
        "file": "image files",
        "rendered": f"pages rendered at {said['images.dpi']} dpi by {_and(engines)}",
    }
    parts = [f"{way} ({sources[source]})" for source, way in ways.items() if sources[source]]
    if parts:
        yield f"The page images are {_and(parts)}."
    digest = card["sha256"][WEIGHTS]
    architecture = card.get("architecture") or _architecture(facts.model_config)
    ran = [f"{precision} on {device}" for (precision, device), _ in facts.processors.most_common()]
    yield (
        f"Regions were detected with the model {card['name']} ({architecture}; sha256 of its weights "
        f"{digest}), which distinguishes {_and(card['classes'])}"
        f"{f'; it was computed in {_and(ran)}' if ran else ''}."
    )
    tiles = said["detection.tiles"]
    if tiles:
        yield (
            f"Pages larger than {tiles['size']} pixels were cut into tiles that overlap by "
            f"{tiles['overlap']} pixels."
        )
    scores = said["regions.min_score"]
    lowest = [
        f"{score:g}" if name == "default" else f"{score:g} for {name}"
        for name, score in scores.items()
    ]
    wanted = said["regions.classes"]
    yield (
        f"Detections with a score of at least {_and(lowest)} were kept"
        f"{f' of the classes {_and(wanted)}' if wanted else ''}; of two that overlap by an intersection "
        f"over union of more than {said['regions.duplicate_iou']:g}, the one with the higher score."
    )
    counts = [f"{count} {name}" for name, count in facts.classes.most_common()]
    total = sum(facts.classes.values())
    yield f"This gave {counted(total, 'region')}{f' ({_and(counts)})' if counts else ''}."
    if facts.texts:
        read = [f"{count} by {engine}" for (_, engine), count in facts.texts.most_common()]
        yield f"The text of regions was read: {_and(read)}."
    if facts.failures:
        reasons = [
            f"{count} {reason} at the stage {stage}"
            for (stage, reason), count in sorted(facts.failures.items())
        ]
        yield (
            "Pages, crops or whole documents that failed are listed with their reasons: "
            f"{_and(reasons)}."
        )
    else:
        yield "Nothing failed."
    yield f"The archive is identified by the sha256 of its list of documents, {facts.archive_digest}."


def _architecture(config: Mapping[str, Any]) -> str:
    return "Mask R-CNN" if config["MODEL"]["MASK_ON"] else "Faster R-CNN"


def _and(words: Sequence[str]) -> str:
    *most, last = map(str, words or [""])
    return f"{', '.join(most)} and {last}" if most else last


def citation_text() -> str:
    """How to cite Scanmill, from CITATION.cff."""
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = [
        each.get("name") or f"{each['given-names']} {each['family-names']}"
        for each in said["authors"]
    ]
    where = said.get("doi") or said.get("repository-code") or said.get("url")
    named = f"{_and(authors)}: {said['title']}, version {said['version']}. {said['license']}."
    return f"{named} {where}" if where else named


# The document -------------------------------------------------------------------------------------


def describe_run(results: Path, settings: Mapping[str, Any], started: datetime) -> str:
    """The text of the document, of results that are whole.

    `settings` are all of them, `started` is when the run began. Where it would say nothing new, it is
    the text that is there already: only what changes results, or what they run on, is a run.
    """
    facts = gather_facts(results, deciding_settings(settings))
    path = results / "provenance.json"
    now = datetime.now(UTC)
    software = [*_software()]
    values = [*_settings(facts.settings)]
    action = {
        "@id": f"#run-{_time(now)}",
        "@type": "CreateAction",
        "name": "A run that changed results",
        "description": "What was unchanged since earlier runs was reused. This one ended on "
        f"{machine()}; its jobs may have run elsewhere: how many pages each kind of processor "
        "detected on is of the tables. Runs that were stopped before their end are not listed.",
        "startTime": _time(started),
        "endTime": _time(now),
        "instrument": _reference(software[0]),
        "object": [{"@id": "#archive"}, {"@id": _model_id(facts.card)}, *map(_reference, values)],
        "result": [{"@id": "./"}],
        "actionStatus": {"@id": "http://schema.org/CompletedActionStatus"},
    }
    about = [*_about(results, facts, now), *values, *software]
    before = _read(path)
    if before and _lasting(before) == _lasting(_by_id([*about, action])):
        return path.read_text(encoding="utf-8")
    entities = _earlier_runs(before or {}) | _by_id([*about, action])
    entities["./"]["mentions"] += map(_reference, _runs(entities))
    document = {"@context": _CONTEXT, "@graph": list(entities.values())}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _read(path: Path) -> dict[str, Entity] | None:
    """The entities of the document that is there; None for none, and for one that is not ours."""
    try:
        entities = _by_id(json.loads(path.read_text(encoding="utf-8"))["@graph"])
        _lasting(entities)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return entities


def _by_id(entities: Sequence[Entity]) -> dict[str, Entity]:
    return {each["@id"]: each for each in entities}


def _runs(entities: Mapping[str, Entity]) -> list[Entity]:
    """The actions, the first one first."""
    actions = [each for each in entities.values() if each["@type"] == "CreateAction"]
    return sorted(actions, key=lambda each: each["endTime"])


def _lasting(entities: Mapping[str, Entity]) -> dict[str, Entity]:
    """What is the same whenever it is written: no dates, and of runs what the last one ran on."""
    of_runs = ("CreateAction", "SoftwareApplication")
    kept = {name: each for name, each in entities.items() if each["@type"] not in of_runs}
    dated = ("datePublished", "mentions")
    kept["./"] = {key: value for key, value in kept["./"].items() if key not in dated}
    return kept | _software_of(entities, _runs(entities)[-1])


def _earlier_runs(entities: Mapping[str, Entity]) -> dict[str, Entity]:
    """The runs that a document tells of, and what they ran on.

    Not what they took and made: that is of the results as they are now.
    """
    earlier: dict[str, Entity] = {}
    for run in _runs(entities)[-(RUNS - 1) :]:
        kept = {key: value for key, value in run.items() if key not in ("object", "result")}
        earlier |= {run["@id"]: kept, **_software_of(entities, run)}
    return earlier


def _software_of(entities: Mapping[str, Entity], run: Entity) -> dict[str, Entity]:
    """What a run ran on: Scanmill, and what that requires."""
    scanmill_then = entities[run["instrument"]["@id"]]
    required = (entities[each["@id"]] for each in scanmill_then["softwareRequirements"])
    return _by_id([scanmill_then, *required])


def _software() -> Iterator[Entity]:
    """Scanmill as it runs now, and what it runs on."""
    requirements = [
        {
            "@id": f"#{name}-{version}",
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
        }
        for name, version in versions().items()
    ]
    commit = git_commit()
    named = scanmill.__version__ + (f" (commit {commit})" if commit else "")
    yield {
        "@id": f"#scanmill-{commit or scanmill.__version__}",
        "@type": "SoftwareApplication",
        "name": "Scanmill",
        "description": "A Snakemake workflow around Detectron2 that turns archives of scans into tables",
        "softwareVersion": named,
        "license": {"@id": "https://www.apache.org/licenses/LICENSE-2.0"},
        "softwareRequirements": [_reference(each) for each in requirements],
    }
    yield from requirements


def _about(results: Path, facts: Facts, now: datetime) -> Iterator[Entity]:
    """The entities that say what the results are."""
    yield {
        "@id": CRATE,
        "@type": "CreativeWork",
        "conformsTo": {"@id": _SPECIFICATION},
        "about": {"@id": "./"},
    }
    counts = [*_counts(facts)]
    model = _model(facts)
    data = [*_datasets(results), *_files(results)]
    citations = [*_citations(facts)]
    yield {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Page layout of {counted(facts.documents, 'document')}",
        "description": f"{counted(sum(facts.classes.values()), 'region')} on "
        f"{counted(facts.pages, 'page')}, found by Scanmill with the model {facts.card['name']}.",
        "datePublished": _time(now),
        "license": {"@id": "#rights"},
        "conformsTo": {"@id": _PROFILE},
        "creditText": f"Made with {citation_text()}",
        "citation": [_reference(each) for each in citations],
        "additionalProperty": [_reference(each) for each in counts],
        "hasPart": [*map(_reference, data), _reference(model)],
        "mentions": [{"@id": "#methods"}],
    }
    yield {
        "@id": "#methods",
        "@type": "CreativeWork",
        "name": "Methods: a paragraph to start from",
        "text": methods_paragraph(facts),
    }
    yield {
        "@id": "#archive",
        "@type": "CreativeWork",
        "name": "The archive of scans",
        "description": f"{counted(facts.documents, 'document')}, {facts.size} bytes. The sha256 is of a "
        "list with a line `sha256  document` for each, sorted by name (LC_ALL=C), as sha256sum "
        "prints; documents.parquet has both columns.",
        "sha256": facts.archive_digest,
    }
    yield {
        "@id": "#rights",
        "@type": "CreativeWork",
        "name": "Not stated",
        "description": "Whose rights the scans are, and under which licence these results may be used, "
        "is for whoever publishes them to say here.",
    }
    yield {
        "@id": _PROFILE,
        "@type": "CreativeWork",
        "name": "Process Run Crate",
        "version": "0.5",
    }
    yield {
        "@id": "https://www.apache.org/licenses/LICENSE-2.0",
        "@type": "CreativeWork",
        "name": "Apache License 2.0",
    }
    yield model
    yield from (*counts, *data, *citations)
    for name in _columns(results):
        yield {
            **_column_reference(name),
            "@type": "PropertyValue",
            "name": name,
            "description": COLUMNS.get(name, OWN_COLUMN),
        }


def _counts(facts: Facts) -> Iterator[Entity]:
    """Numbers of documents, pages, regions, failures; and what made them."""
    yield _property("count", "documents", facts.documents)
    yield _property("count", "documents that did not open", facts.unopened)
    yield _property("count", "pages", facts.pages)
    yield _property("count", "regions", sum(facts.classes.values()))
    for name, count in sorted(facts.classes.items()):
        yield _property("count", f"regions of the class {name}", count)
    for what, counts in (
        ("failed at {}: {}", facts.failures),
        ("page images {}, by {}", facts.images),
        ("pages detected in {} on {}", facts.processors),
        ("texts from {}, by {}", facts.texts),
    ):
        for pair, count in sorted(counts.items()):
            yield _property("count", what.format(*pair), count)
    yield _property("made-by", "releases of Scanmill, as records say", _and(facts.made_by))


def _settings(settings: Mapping[str, Any]) -> Iterator[Entity]:
    """The settings that decide results; what is no plain value, as JSON."""
    for name, value in settings.items():
        plain = isinstance(value, str | int | float)
        yield _property("setting", name, value if plain else json.dumps(value, ensure_ascii=False))


def _property(kind: str, name: str, value: object) -> Entity:
    return {
        "@id": f"#{kind}-{quote(name, safe='')}",
        "@type": "PropertyValue",
        "name": name,
        "value": value,
    }


def _model_id(card: Mapping[str, Any]) -> str:
    return f"models/{quote(card['name'])}/"


def _model(facts: Facts) -> Entity:
    """The model's folder: what its card says."""
    card = facts.card
    said = {
        "classes": ", ".join(card["classes"]),
        "licence": card.get("licence"),
        "architecture": card.get("architecture") or _architecture(facts.model_config),
        "source": card.get("source"),
        "limits": card.get("limits"),
        "digest of weights, config and classes": model_digest(card),
    }
    stated = "; ".join(f"{name}: {value}" for name, value in said.items() if value)
    return {
        "@id": _model_id(card),
        "@type": "Dataset",
        "name": f"The model {card['name']}",
        "description": f"{stated}. model.json has the rest of its card.",
        "identifier": model_digest(card),
        "sha256": card["sha256"][WEIGHTS],
    }


def _datasets(results: Path) -> Iterator[Entity]:
    """The folders of results, with their columns and sizes."""
    for name, meaning in DATASETS.items():
        files = sorted((results / name).glob("*.parquet"))
        if not files:
            continue
        rows = sum(pq.read_metadata(path).num_rows for path in files)
        yield {
            "@id": f"{name}/",
            "@type": "Dataset",
            "name": name,
            "description": f"{meaning}. {rows} rows in {counted(len(files), 'Parquet file')}: a table.",
            "encodingFormat": _PARQUET,
            "contentSize": str(sum(path.stat().st_size for path in files)),
            "variableMeasured": _column_references(files[0]),
        }
    for name, meaning in (
        ("shards", "Which documents each shard has: the plan"),
        ("store", "A folder per document: page images, crops, a table per page"),
    ):
        if (results / name).is_dir():
            yield {
                "@id": f"{name}/",
                "@type": "Dataset",
                "name": name,
                "description": f"{meaning}.",
            }


def _files(results: Path) -> Iterator[Entity]:
    for name, meaning in TABLES.items():
        path = results / f"{name}.parquet"
        rows = pq.read_metadata(path).num_rows
        of_table = {
            "contentSize": str(path.stat().st_size),
            "variableMeasured": _column_references(path),
        }
        yield _file(path, f"{meaning}. {rows} rows.", _PARQUET) | of_table
    for name, meaning, kind in (
        ("settings.yaml", "All settings in use, defaults included.", "application/yaml"),
        ("report.html", "The results to look at.", "text/html"),
    ):
        if (results / name).is_file():
            yield _file(results / name, meaning, kind)


def _file(path: Path, meaning: str, kind: str) -> Entity:
    return {
        "@id": path.name,
        "@type": "File",
        "name": path.name,
        "description": meaning,
        "encodingFormat": kind,
    }


def _column_references(path: Path) -> list[Entity]:
    return [_column_reference(name) for name in pq.read_schema(path).names]


def _column_reference(name: str) -> Entity:
    return {"@id": f"#column-{quote(name, safe='')}"}


def _columns(results: Path) -> list[str]:
    """The columns of all tables, each once."""
    paths = [next(iter(sorted((results / name).glob("*.parquet"))), None) for name in DATASETS]
    paths += [results / f"{name}.parquet" for name in TABLES]
    names = [pq.read_schema(path).names for path in paths if path]
    return list(dict.fromkeys(name for each in names for name in each))


def _citations(facts: Facts) -> Iterator[Entity]:
    """What is to be cited, with the words to do so."""
    yield {
        "@id": "#citation-scanmill",
        "@type": "SoftwareSourceCode",
        "name": "Scanmill",
        "creditText": citation_text(),
    }
    other = {"Mask R-CNN": "Faster R-CNN", "Faster R-CNN": "Mask R-CNN"}
    for address, (name, text) in CITATIONS.items():
        if name != other[_architecture(facts.model_config)]:
            is_code = name == "Detectron2"
            kind = "SoftwareSourceCode" if is_code else "ScholarlyArticle"
            yield {"@id": address, "@type": kind, "name": name, "creditText": text}
    if source := facts.card.get("source"):
        name = f"The model {facts.card['name']}"
        yield {
            "@id": "#citation-model",
            "@type": "CreativeWork",
            "name": name,
            "creditText": str(source),
        }


def _reference(entity: Entity) -> Entity:
    return {"@id": entity["@id"]}


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")
