"""The examples in the README and the docs that read results run on results."""

import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pandas as pd
import pytest
from finished_run import PLAN, SETTINGS, plan, run
from recognized import add_text

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{file.name}-{number}")
    for file in FILES
    for number, code in enumerate(
        re.findall(
            r"^```python\n(.*?)^```$", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    )
    # With an engine of the reader's own: test_readme_text.py.
    if "results/" in code and "my_ocr" not in code
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A finished run whose crops lie in tables, as they do unless the settings say otherwise."""
    directory = tmp_path_factory.mktemp("examples")
    stored = {**SETTINGS["crops"], "store": "parquet"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "crops", stored)
        plan(directory, PLAN)
        run(directory)
    add_text(directory)
    return directory


def test_there_are_examples_of_every_reader():
    text = "\n".join(parameter.values[0] for parameter in EXAMPLES)
    for reader in ("duckdb", "pandas", "polars", "pyarrow.dataset", "datasets"):
        assert re.search(rf"^import {re.escape(reader)}( as \w+)?$", text, re.MULTILINE), reader


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run_and_print_something(directory, tmp_path, code):
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_crops_decode_as_the_regions_that_they_are_of(directory):
    crops = datasets.load_dataset(
        "parquet",
        data_files=str(directory / "results/store/**/crops.parquet"),
        split="train",
        batch_size=100,
        cache_dir=str(directory / "cache"),
    )
    crops = crops.cast_column("image", datasets.Image())
    assert len(crops) == len(pd.read_parquet(directory / "results/crops")) > 0
    for crop in crops:
        assert crop["image"].size == (crop["width"], crop["height"])


def test_tables_join_on_their_keys(directory):
    tables = {
        name: pd.read_parquet(directory / "results" / name)
        for name in ("pages", "regions", "crops", "ocr")
    }
    key = ["document", "page", "detection"]
    joined = tables["regions"].merge(tables["pages"], on=key[:2], validate="many_to_one")
    for name in ("crops", "ocr"):
        mine = tables[name][[*key, "class_name"]].rename(columns={"class_name": name})
        joined = joined.merge(mine, on=key, validate="one_to_one")
    assert len(joined) == len(tables["regions"]) > 0
    assert (joined.class_name == joined.crops).all()
    assert (joined.class_name == joined.ocr).all()
