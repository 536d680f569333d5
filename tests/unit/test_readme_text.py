"""The README's code of text runs as it stands there."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
from finished_run import GOOD, directory, finished  # noqa: F401

README = Path(__file__).parents[2] / "README.md"


def blocks(heading):
    """The Python of a section, whatever its level, up to the next heading."""
    text = re.search(rf"^#+ {heading}\n(.*?)^#", README.read_text(), re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def here(directory, monkeypatch):
    monkeypatch.chdir(directory)
    monkeypatch.setitem(sys.modules, "my_ocr", SimpleNamespace(read=lambda data: data[:4].hex()))
    return directory


def test_your_own_engine_gets_every_crop_once(here):
    [code] = blocks("Bring your own OCR")
    exec(compile(code, "README.md", "exec"), {})
    found = pq.read_table("my_ocr.parquet").to_pylist()
    crops = pd.read_parquet("results/crops")
    key = ["document", "page", "detection"]
    assert sorted(tuple(row[name] for name in key) for row in found) == sorted(
        crops[key].itertuples(index=False, name=None)
    )
    assert {row["document"] for row in found} == set(GOOD)
    # The crops are PNGs.
    assert {row["text"] for row in found} == {"89504e47"}
    assert len(code.splitlines()) <= 35


def test_pages_are_put_together_in_reading_order(here, capsys):
    regions = pd.read_parquet("results/regions")
    regions = pd.concat([regions, regions.assign(detection=2, region=0)])
    text = regions[["document", "page", "detection"]].assign(
        text=[f"detection {number}" for number in regions.detection]
    )
    for name, table in (("regions", regions), ("ocr", text)):
        folder = here / "results" / name
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        table.to_parquet(folder / "00000.parquet")
    [code] = blocks("Text")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "detection 2\n\ndetection 1\n"
