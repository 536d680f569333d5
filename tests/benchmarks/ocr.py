"""How well and how fast engines read: against the text that born-digital PDFs have themselves.

`make benchmark-ocr [RUN=demo/run]`. Of a finished run, the crops whose text the PDF knows are read as
they are, and aged as the demo archive's scans. For each engine: the share of wrong characters (edit
distance over the length of what is printed, a line break being a blank), regions and pages per second
of all cores.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import cv2
import numpy as np
from make_demo_archive import age_page

from scanmill.archive import source_path
from scanmill.errors import UserError
from scanmill.image_files import decode
from scanmill.maintenance import read_plan
from scanmill.ocr import CROPS_PER_TASK, read_crops, run_task, wanted_crops
from scanmill.ocr_engines import ENGINES, check_engine
from scanmill.pdf_text import read_pages
from scanmill.regions import BOX_COLUMNS
from scanmill.settings import archive_path, settings_of_last_run
from scanmill.tables import by_document, read_table
from scanmill.workers import WorkerPool


class Printed(NamedTuple):
    """A crop and what is printed there."""

    text: str
    dpi: float
    pixels: np.ndarray
    page: tuple[str, int]


def known_crops(directory: Path) -> Iterator[Printed]:
    """The crops of which the PDF has trusted text."""
    results, settings = directory / "results", settings_of_last_run(directory)
    archive = archive_path(settings, directory)
    for shard, documents in read_plan(results).items():
        images = by_document(read_table(results / "images" / f"{shard}.parquet"))
        crops = by_document(read_table(results / "crops" / f"{shard}.parquet"))
        for document in documents:
            name = document.document
            if document.kind == "pdf" and name in crops:
                rows = images[name].to_pylist()
                chosen = wanted_crops(crops[name], None).to_pylist()
                yield from _of_document(results, source_path(archive, document), rows, chosen)


def _of_document(
    results: Path, path: bytes, images: Sequence[Mapping[str, Any]], crops: Sequence[dict[str, Any]]
) -> Iterator[Printed]:
    texts, dpi, pages = {}, {}, []
    for image in images:
        mine = [crop for crop in crops if crop["page"] == image["page"]]
        if image["source"] == "rendered" and mine:
            boxes = [[crop[name] for name in BOX_COLUMNS] for crop in mine]
            pages.append({"page": image["page"], "to_pdf": image["to_pdf"], "boxes": boxes})
            dpi[image["page"]] = image["dpi_y"]
    for page, lines in zip(pages, read_pages(os.fsdecode(path), pages, True), strict=True):
        mine = [crop for crop in crops if crop["page"] == page["page"]]
        for crop, found in zip(mine, lines, strict=True):
            if found:
                texts[crop["page"], crop["detection"]] = " ".join(line.text for line in found)
    known = [crop for crop in crops if (crop["page"], crop["detection"]) in texts]
    for crop, data in read_crops(results, known[0]["document"], known) if known else ():
        pixels = decode(data)
        if pixels.ndim == 3:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        text = texts[crop["page"], crop["detection"]]
        yield Printed(text, dpi[crop["page"]], pixels, (crop["document"], crop["page"]))


def edit_distance(one: str, other: str) -> int:
    """Letters to insert, delete or exchange (Levenshtein)."""
    letters, steps = np.array([*other]), np.arange(len(other) + 1)
    before = steps
    for number, letter in enumerate(one, start=1):
        least = np.minimum(before[1:] + 1, before[:-1] + (letters != letter))
        # Insertions go from left to right.
        before = np.minimum.accumulate(np.concatenate([[number], least]) - steps) + steps
    return int(before[-1])


def read(engine: str, crops: Sequence[Printed], workers: int) -> tuple[list[str], float]:
    """What an engine reads of the crops, and the seconds it takes."""
    limits = {"cpu_seconds": 600, "wall_seconds": 3600, "memory_mb": 16384}
    task = {"engine": engine, "languages": ["eng"], "limits": limits}
    with tempfile.TemporaryDirectory() as folder:
        items = []
        for number, crop in enumerate(crops):
            path = Path(folder, f"{number}.png")
            path.write_bytes(cv2.imencode(".png", crop.pixels)[1].tobytes())
            items.append({"path": str(path), "dpi": crop.dpi})
        start = time.perf_counter()
        pool = WorkerPool(workers, "scanmill.ocr_engines")
        try:
            futures = [
                pool.submit(run_task, task, "crops", items[first : first + CROPS_PER_TASK])
                for first in range(0, len(items), CROPS_PER_TASK)
            ]
            outcomes = [outcome for future in futures for outcome in future.result()]
        finally:
            pool.close()
        seconds = time.perf_counter() - start
    # A failed crop is a tuple of reason and message: all its letters are wrong.
    return [
        " ".join(line.text for line in each) if isinstance(each, list) else "" for each in outcomes
    ], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="the working directory of a finished run")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--most", type=int, default=10_000, help="crops at most")
    given = parser.parse_args()
    clean = list(known_crops(given.directory.absolute()))[: given.most]
    rng = np.random.default_rng(0)
    kinds = {
        "as rendered": clean,
        "aged": [crop._replace(pixels=age_page(rng, crop.pixels)) for crop in clean],
    }
    letters = sum(len(crop.text) for crop in clean)
    pages = len({crop.page for crop in clean})
    print(f"{len(clean)} regions of {pages} pages, {letters} characters, {given.workers} cores")
    print(f"{'engine':<20}{'kind':<14}{'wrong characters':>18}{'regions/s':>12}{'pages/s':>10}")
    for engine in ENGINES:
        try:
            version = check_engine(engine, ["eng"])
        except UserError as error:
            print(error)
            continue
        for kind, crops in kinds.items():
            texts, seconds = read(engine, crops, given.workers)
            wrong = sum(
                edit_distance(" ".join(text.split()), crop.text)
                for text, crop in zip(texts, crops, strict=True)
            )
            rates = f"{len(crops) / seconds:>12.2f}{pages / seconds:>10.2f}"
            print(f"{version:<20}{kind:<14}{wrong / letters:>18.2%}{rates}", flush=True)


if __name__ == "__main__":
    main()
