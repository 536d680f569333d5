"""scanmill.settings: layers, messages, the archive's place, and the lists that must not diverge."""

import os
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from scanmill.errors import UserError
from scanmill.settings import (
    INPUT_SETTINGS,
    OUTPUT_SETTINGS,
    RUNNING_SETTINGS,
    archive_path,
    dump_settings,
    load_settings,
    output_settings,
)

CONFIG = Path(__file__).parents[2] / "config"
DEFAULTS = yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))
SCHEMA = yaml.safe_load((CONFIG / "config.schema.yaml").read_text(encoding="utf-8"))


def load(directory, overrides=None, configfiles=()):
    return load_settings(
        CONFIG / "config.yaml",
        CONFIG / "config.schema.yaml",
        directory,
        overrides or {},
        configfiles,
    )


def message(directory, overrides=None, configfiles=()):
    with pytest.raises(UserError) as error:
        load(directory, overrides, configfiles)
    return str(error.value)


def own(directory, text):
    path = directory / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def leaves(mapping, prefix=""):
    """Dotted key -> value; regions.min_score is one setting, whatever its classes."""
    found = {}
    for key, value in mapping.items():
        dotted = prefix + key
        if isinstance(value, dict) and dotted != "regions.min_score":
            found |= leaves(value, dotted + ".")
        else:
            found[dotted] = value
    return found


def schema_blocks(schema, path=()):
    """Every schema below `schema` with its path, through anyOf."""
    yield path, schema
    for branch in schema.get("anyOf", []):
        yield from schema_blocks(branch, path)
    for key, inner in schema.get("properties", {}).items():
        yield from schema_blocks(inner, (*path, key))


# Layers


def test_defaults_alone_are_valid_and_complete(tmp_path):
    assert load(tmp_path) == DEFAULTS


def test_later_layers_win_and_leave_the_rest(tmp_path):
    own(tmp_path, "images: {dpi: 200, jpeg_quality: 70}\ndetection: {batch_size: 2}\n")
    file = tmp_path / "more.yaml"
    file.write_text("images: {dpi: 250}\ncrops: {padding: 3}\n")
    settings = load(tmp_path, {"images": {"dpi": "400"}}, [file])
    changed = {k: v for k, v in leaves(settings).items() if leaves(DEFAULTS)[k] != v}
    assert changed == {
        "images.dpi": 400,
        "images.jpeg_quality": 70,
        "detection.batch_size": 2,
        "crops.padding": 3,
    }


def test_lists_replace(tmp_path):
    own(tmp_path, "archive: {include: [a, b], exclude: [c]}")
    archive = load(tmp_path, {"archive": {"include": ["d"]}})["archive"]
    assert (archive["include"], archive["exclude"]) == (["d"], ["c"])


@pytest.mark.parametrize("text", ["", "# nothing\n", "images:\nregions:\n  # classes: [text]\n"])
def test_an_empty_file_and_empty_blocks_change_nothing(tmp_path, text):
    own(tmp_path, text)
    assert load(tmp_path) == DEFAULTS


def test_archive_as_text_is_its_path_and_keeps_the_other_keys(tmp_path):
    own(tmp_path, "archive: {path: /a, include: [x]}")
    file = tmp_path / "more.yaml"
    file.write_text("archive: {exclude: [y]}\n")
    archive = load(tmp_path, {"archive": "/b"}, [file])["archive"]
    assert (archive["path"], archive["include"], archive["exclude"]) == ("/b", ["x"], ["y"])
    own(tmp_path, "archive: /a")
    archive = load(tmp_path, {"archive": {"include": ["x"]}})["archive"]
    assert (archive["path"], archive["include"]) == ("/a", ["x"])


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        ({}, {"table": 0.3}, {"default": 0.5, "table": 0.3}),
        ({}, 0.3, {"default": 0.3}),
        ({"table": 0.3, "text": 0.4}, 0.2, {"default": 0.2}),
        (0.2, {"text": 0.4}, {"default": 0.2, "text": 0.4}),
        ({"table": 0.3, "text": 0.4}, {"text": 1}, {"default": 0.5, "table": 0.3, "text": 1.0}),
        ({"table": "0.3"}, "0.2", {"default": 0.2}),
    ],
)
def test_min_score_merges_mappings_and_is_replaced_by_numbers(tmp_path, below, above, expected):
    own(tmp_path, yaml.safe_dump({"regions": {"min_score": below}}))
    assert load(tmp_path, {"regions": {"min_score": above}})["regions"]["min_score"] == expected


def test_min_score_has_one_order(tmp_path):
    first = load(tmp_path, {"regions": {"min_score": {"text": 0.3, "figure": 0.4}}})
    own(tmp_path, "regions: {min_score: {figure: 0.4}}")
    second = load(tmp_path, {"regions": {"min_score": {"text": 0.3}}})
    assert list(first["regions"]["min_score"]) == ["default", "figure", "text"]
    assert list(second["regions"]["min_score"]) == ["default", "figure", "text"]


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        # Snakemake's --config delivers every value in a block as text.
        ("detection.score_floor", "0.1", 0.1),
        ("detection.score_floor", "1e-1", 0.1),
        ("detection.score_floor", 0, 0.0),
        ("detection.polygons", "false", False),
        ("images.limits.max_pixels", "3e8", 300_000_000),
        ("images.dpi", "300.0", 300),
        ("images.dpi", 300.0, 300),
        ("shards.max_documents", "64", 64),
        ("shards.max_documents", "auto", "auto"),
        ("shards.max_bytes", 8e9, 8_000_000_000),
        ("regions.classes", "null", None),
        ("regions.classes", "", None),
        ("regions.classes", "[text, table]", ["text", "table"]),
        ("archive.follow_links", "yes", True),
        ("archive.path", "007", "007"),
        ("archive.path", "true", "true"),
    ],
)
def test_values_are_read_as_the_schema_wants_them(tmp_path, key, given, expected):
    block, _, last = key.rpartition(".")
    overrides = {last: given}
    for part in reversed(block.split(".")):
        overrides = {part: overrides}
    value = leaves(load(tmp_path, overrides))[key]
    assert value == expected
    assert type(value) is type(expected)


def test_layers_share_nothing(tmp_path):
    overrides = {"archive": {"include": ["a"]}}
    load(tmp_path, overrides)["archive"]["include"].append("b")
    assert overrides == {"archive": {"include": ["a"]}}


# Messages


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"detection": {"score_flor": 1}}, "Did you mean detection.score_floor?"),
        ({"images": {"score_floor": 1}}, "Did you mean detection.score_floor?"),
        ({"images": {"score_flor": 1}}, "Did you mean detection.score_floor?"),
        ({"crops": {"jpg_quality": 1}}, "Did you mean crops.jpeg_quality?"),
        ({"Images": {"dpi": 1}}, "Did you mean images or dataset.images?"),
        ({"limits": {}}, "Did you mean images.limits?"),
        (
            {"classes": ["a"]},
            "Did you mean regions.classes or crops.classes or ocr.classes or dataset.classes?",
        ),
        ({"detection.score_floor": 1}, "Write detection: {score_floor: ...}."),
        ({"images": {"limits.cpu_seconds": 1}}, "Write images: {limits: {cpu_seconds: ...}}."),
        (
            {"images": {"width": 1}},
            "Those of images are: dpi, lift, renderer, jpeg_quality, keep, wave, limits.",
        ),
        ({"width": 1}, "There are: archive, shards, images, model,"),
        ({1: 2}, "1: there is no such setting."),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path, overrides, expected):
    assert expected in message(tmp_path, overrides)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"images": {"dpi": "high"}}, 'images.dpi: "high" is not allowed. Allowed: a whole number'),
        ({"images": {"dpi": 30}}, "Allowed: a whole number from 36 to 2400."),
        ({"images": {"dpi": 300.5}}, "images.dpi: 300.5 is not allowed."),
        ({"images": {"dpi": True}}, "images.dpi: true is not allowed."),
        ({"images": {"dpi": None}}, "images.dpi: an empty value (null) is not allowed."),
        ({"images": {"dpi": {"x": 1}}}, "images.dpi: a block of keys is not allowed."),
        (
            {"images": 300},
            "Allowed: a block of the keys dpi, lift, renderer, jpeg_quality, keep, wave, limits.",
        ),
        ({"images": {"renderer": "mupdf"}}, "Allowed: auto or poppler or pdfium."),
        ({"shards": {"max_documents": 0}}, "Allowed: auto, or a whole number of at least 1."),
        ({"detection": {"score_floor": float("nan")}}, "Allowed: a number from 0 to 1."),
        ({"detection": {"score_floor": 10**400}}, "Allowed: a number from 0 to 1."),
        ({"detection": {"score_floor": "inf"}}, "Allowed: a number from 0 to 1."),
        ({"detection": {"polygons": "perhaps"}}, "Allowed: true or false."),
        ({"regions": {"classes": "text"}}, "such as [text, table], or null."),
        ({"regions": {"classes": []}}, "regions.classes: [] is not allowed."),
        ({"regions": {"classes": ["a", 5]}}, "regions.classes, entry 2: 5 is not allowed."),
        ({"regions": {"min_score": {"table": 2}}}, "regions.min_score.table: 2 is not allowed."),
        ({"regions": {"min_score": None}}, "regions.min_score: an empty value (null)"),
        ({"regions": {"min_score": {1: 0.5}}}, 'Put it in quotes: "1".'),
        ({"archive": {"include": []}}, "Allowed: a list of at least one glob"),
        ({"archive": {"path": "a\0b"}}, "archive.path:"),
        (
            {"archive": 2024},
            "put it in quotes; --config drops quotes, write !!str before it there.",
        ),
        ({"archive": ["/a"]}, "archive: ['/a'] is not allowed. Allowed: a path, or a block"),
        ({"model": False}, "model: false is not allowed. Allowed: the name of a model"),
        ({"model": "../scanmill-layout"}, 'model: "../scanmill-layout" is not allowed.'),
        ({"model": "scanmill-layout\n"}, "model:"),
    ],
)
def test_wrong_values_say_what_is_allowed(tmp_path, overrides, expected):
    assert expected in message(tmp_path, overrides)


def test_all_problems_at_once_each_with_its_source(tmp_path):
    mine = own(tmp_path, "images: {dpi: low}\nregions: {typo_so_far: 1}\n")
    file = tmp_path / "more.yaml"
    file.write_text("crops: {padding: -1}\n")
    lines = message(tmp_path, {"model": ""}, [file]).splitlines()
    assert lines[0] == "The settings have 4 problems:"
    assert [line.split(": ")[:2] for line in lines[1:-1]] == [
        [f"- {mine}", "images.dpi"],
        [f"- {mine}", "regions.typo_so_far"],
        [f"- {file}", "crops.padding"],
        ["- --config", "model"],
    ]
    assert "- --config or --configfile: model:" in message(tmp_path / "elsewhere", {"model": ""})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("images:\n  dpi: [1\nmodel: x\n", ", line 3: this is not valid YAML"),
        ("images:\n\tdpi: 1\n", ", line 2: this is not valid YAML"),
        ("model: a\nmodel: b: c\n", ", line 2: this is not valid YAML"),
        ("\nmodel: '\x01'\n", ", line 2: this is not valid YAML (the control character U+0001)"),
        ("model: 2024-02-31\n", "this is not valid YAML (day is out of range"),
        ("model: !!python/object/apply:os.getcwd []\n", ", line 1: this is not valid YAML"),
        ("- images\n", "holds ['images']. It must hold settings by name"),
        ("archive=/data\n", 'holds "archive=/data". It must hold settings by name'),
        (b"model: a\narchive: caf\xe9\n", ", line 2: this is not UTF-8."),
        ("model: a\nimages: {}\nmodel: b\n", ", line 3: the key model stands in line 1 already"),
        ("images:\n  limits:\n    cpu_seconds: 1\n    cpu_seconds: 2\n", ", line 4: the key cpu_s"),
        ("model: &again [*again]\nmodel: b\n", ", line 2: the key model stands in line 1 already"),
    ],
)
def test_unreadable_files_name_the_line(tmp_path, text, expected):
    path = own(tmp_path, text)
    text = message(tmp_path)
    assert text.startswith(str(path))
    assert expected in text


def test_a_config_that_cannot_be_opened_is_not_taken_for_absent(tmp_path):
    path = tmp_path / "config.yaml"
    path.mkdir()
    assert f"{path} cannot be read (Is a directory)" in message(tmp_path)
    path.rmdir()
    path.symlink_to(tmp_path / "nowhere")
    assert f"{path} cannot be read (No such file or directory)" in message(tmp_path)


# The archive's place


@pytest.fixture
def work(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def place(path, work):
    return archive_path({"archive": {"path": None if path is None else str(path)}}, work)


def refusal(path, work):
    with pytest.raises(UserError) as error:
        place(path, work)
    return str(error.value)


def test_archive_path_is_relative_to_the_working_directory(tmp_path, work):
    scans = tmp_path / "scans"
    scans.mkdir()
    assert place("../scans", work).samefile(scans)
    assert place("../scans", work).is_absolute()
    assert place(scans, work) == scans


def test_archive_path_of_the_home_folder(tmp_path, work, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "scans").mkdir()
    assert place("~/scans", work) == tmp_path / "scans"


def test_no_archive_says_how_to_give_it(work):
    text = refusal(None, work)
    assert "--config archive=/path/to/scans" in text
    assert str(work / "config.yaml") in text


def test_a_missing_archive_prints_what_was_tried(tmp_path, work):
    text = refusal("../scans", work)
    assert 'archive.path is "../scans"' in text
    assert f"but {tmp_path / 'scans'} cannot be opened (No such file or directory)" in text
    (work / "round").symlink_to("round")
    assert "cannot be opened (Too many levels of symbolic links)" in refusal("round", work)


def test_an_archive_is_a_folder_or_a_csv(tmp_path, work):
    (tmp_path / "scan.pdf").touch()
    assert "neither a folder nor a CSV" in refusal("../scan.pdf", work)
    (tmp_path / "Documents.CSV").touch()
    assert place("../Documents.CSV", work).name == "Documents.CSV"


def test_archive_and_working_directory_must_not_contain_one_another(tmp_path, work):
    (work / "scans").mkdir()
    assert "the archive lies in the working directory" in refusal("scans", work)
    assert "the working directory lies in the archive" in refusal(tmp_path, work)
    assert "are the same folder" in refusal(".", work)
    link = tmp_path / "link"
    link.symlink_to(work)
    assert "are the same folder" in refusal(link, work)
    assert "the archive lies in the working directory" in refusal(work / "scans", link)
    (work / "scans.csv").touch()
    assert place("scans.csv", work) == work / "scans.csv"


def test_a_link_in_the_working_directory_may_lead_to_the_archive(tmp_path, work):
    (tmp_path / "scans").mkdir()
    (work / "scans").symlink_to("../scans")
    assert place("scans", work) == work / "scans"
    # A common beginning of the name is no containment.
    (tmp_path / "work2").mkdir()
    assert place(tmp_path / "work2", work) == tmp_path / "work2"


# Output settings and results/settings.yaml


def test_output_settings_of_each_stage(tmp_path):
    settings = load(tmp_path)
    assert output_settings(settings, "images") == {
        "dpi": 300,
        "lift": True,
        "renderer": "auto",
        "jpeg_quality": 90,
    }
    assert output_settings(settings, "detection") == {
        "score_floor": 0.05,
        "max_detections": 1000,
        "tiles": None,
        "precision": "auto",
        "polygons": True,
    }
    assert output_settings(settings, "regions") == settings["regions"]
    assert output_settings(settings, "crops") == settings["crops"]
    output_settings(settings, "regions")["min_score"]["default"] = 1.0
    assert settings["regions"]["min_score"]["default"] == 0.5


def test_every_setting_is_declared_once():
    declared = [*INPUT_SETTINGS, *RUNNING_SETTINGS, *sum(OUTPUT_SETTINGS.values(), ())]
    assert sorted(declared) == sorted(leaves(DEFAULTS))


def test_dump_settings_writes_once_and_is_read_back(tmp_path):
    # \udcff: a byte of a path that is not UTF-8, as Python decodes the command line.
    settings = load(tmp_path, {"archive": "/dätä/\udcff", "regions": {"min_score": {"table": 0.3}}})
    path = tmp_path / "results" / "settings.yaml"
    dump_settings(settings, path)
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == settings
    before = path.stat()
    dump_settings(settings, path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    settings["images"]["dpi"] = 400
    dump_settings(settings, path)
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["images"]["dpi"] == 400
    assert os.listdir(path.parent) == ["settings.yaml"]


def test_dump_settings_into_what_is_no_folder(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(UserError, match=r"settings\.yaml cannot be written"):
        dump_settings(DEFAULTS, tmp_path / "results" / "settings.yaml")


# Schema and README


def test_schema_is_valid_and_the_resolved_defaults_fit_it(tmp_path):
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(DEFAULTS)
    Draft202012Validator(SCHEMA).validate({"archive": "/data", "regions": {"min_score": 0.2}})


def test_schema_knows_the_keys_of_the_defaults_and_no_others():
    paths = {".".join(path) for path, _ in schema_blocks(SCHEMA)} - {""}
    blocks = {key.rpartition(".")[0] for key in leaves(DEFAULTS)} - {""}
    # Blocks that are something else by default.
    others = {"detection.tiles.size", "detection.tiles.overlap"}
    others |= {f"dataset.annotations.{split}" for split in ("train", "val", "test")}
    assert paths == set(leaves(DEFAULTS)) | blocks | others


def test_schema_is_closed_and_describes_every_key():
    for path, block in schema_blocks(SCHEMA):
        free = (("regions", "min_score"), ("dataset", "map"))  # Blocks of names that users give.
        if block.get("type") == "object" and path not in free:
            assert block["additionalProperties"] is False, path
        for key, inner in block.get("properties", {}).items():
            assert inner.get("description"), (*path, key)


def test_readme_has_each_setting_with_its_default_and_kind():
    text = (CONFIG / "README.md").read_text(encoding="utf-8").partition("## Settings")[2]
    text = text.partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| `(.+?)` \| (.+?) \|", text, flags=re.MULTILINE)
    defaults = {key: yaml.safe_load(default) for key, default, _ in rows}
    assert len(defaults) == len(rows)
    assert defaults == leaves(DEFAULTS)
    kinds = {key: f"output: {stage}" for stage, keys in OUTPUT_SETTINGS.items() for key in keys}
    kinds |= dict.fromkeys(INPUT_SETTINGS, "input") | dict.fromkeys(RUNNING_SETTINGS, "running")
    assert {key: kind for key, _, kind in rows} == kinds


def test_settings_of_the_shipped_model_are_settings(tmp_path):
    settings = load(tmp_path, configfiles=[CONFIG / "shipped-model.yaml"])
    assert settings["dataset"]["annotations"] == "synthetic"
    assert settings["training"]["epochs"] is None
    assert settings["model"] == settings["training"]["name"]
    # Files may take the word's place, and the word that of files.
    own = {"dataset": {"annotations": ["a.json"]}}
    configfiles = [CONFIG / "shipped-model.yaml"]
    assert load(tmp_path, own, configfiles=configfiles)["dataset"]["annotations"] == ["a.json"]
    own = {"dataset": {"annotations": {"test": ["a.json"]}}}
    assert load(tmp_path, own, configfiles=configfiles)["dataset"]["annotations"] == {
        "test": ["a.json"]
    }
    with pytest.raises(UserError, match=r"dataset\.annotations"):
        load(tmp_path, {"dataset": {"annotations": "synthetics"}})


def test_settings_for_newspapers_are_settings(tmp_path):
    newspapers = CONFIG / "newspapers.yaml"
    settings = load(tmp_path, configfiles=[newspapers])
    assert settings["detection"]["tiles"] == {"size": 5000, "overlap": 1200}
    assert settings["regions"]["min_score"] == {"default": 0.3}
    # As Snakemake delivers `--config 'detection={tiles: {size: 2500, overlap: 600}}'`.
    tiles = {"size": "2500", "overlap": "600"}
    settings = load(tmp_path, {"detection": {"tiles": tiles}}, configfiles=[newspapers])
    assert settings["detection"]["tiles"] == {"size": 2500, "overlap": 600}
    settings = load(tmp_path, {"detection": {"tiles": "null"}}, configfiles=[newspapers])
    assert settings["detection"]["tiles"] is None


@pytest.mark.parametrize(
    "tiles",
    [
        {"size": "2500", "overlap": "600", "step": "1"},
        {"size": "10", "overlap": "0"},
        {"size": "large", "overlap": "0"},
        "7",
    ],
)
def test_tiles_that_are_none_are_refused(tmp_path, tiles):
    with pytest.raises(UserError, match=r"detection\.tiles"):
        load(tmp_path, {"detection": {"tiles": tiles}})


def test_annotations_by_split_replace_a_list(work):
    text = "archive: scans\ndataset: {annotations: {train: [a.json], val: [b.json]}}\n"
    (work / "config.yaml").write_text(text)
    assert load(work)["dataset"]["annotations"] == {"train": ["a.json"], "val": ["b.json"]}
