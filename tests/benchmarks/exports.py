"""Time and memory of each export of 100 000 synthetic regions, with three lines of text each.

`make benchmark-exports`. 500 documents of 10 pages with 20 regions; page images are small, as what is
measured is the work on rows.
"""

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pikepdf
import pyarrow as pa
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from scanmill.archive import Document, write_manifest
from scanmill.exports import WRITERS
from scanmill.simulation import page_pdf
from scanmill.store import StageStore, file_digest, note_source, write_dataset
from scanmill.tables import by_document, from_rows

PAGES, REGIONS, SHARD = 10, 20, 50
CLASSES = ("text", "title", "list", "table", "figure")
WIDTH, HEIGHT = 600, 850
TEXT = "the herring of the northern coast is salted in barrels"


def region(document: str, page: int, number: int) -> dict:
    """A region, and what was read of it."""
    top = 40.0 * number
    box = {"x_min": 50.5, "y_min": top + 5, "x_max": 550.25, "y_max": top + 40}
    place = number % len(CLASSES)
    return {
        **{"document": document, "page": page, "detection": number + 1, "region": number + 1},
        **{"class_id": place, "class_name": CLASSES[place], "score": 0.9 - number / 100, **box},
        # As many points as outlines have.
        "polygon": [int(value) for x in range(51, 550, 33) for value in (x, top + 6, x, top + 39)],
    }


def text_of(region: dict) -> dict:
    """Its row of the text table."""
    key = {name: region[name] for name in ("document", "page", "detection", "class_name")}
    sides = {"x_min": region["x_min"], "x_max": region["x_max"]}
    top = region["y_min"]
    lines = [
        {
            "text": TEXT,
            "confidence": 0.9,
            **sides,
            "y_min": top + 11 * i,
            "y_max": top + 11 * i + 10,
        }
        for i in range(3)
    ]
    text = "\n".join([TEXT] * 3)
    return key | {"status": "ok", "text": text, "confidence": 0.9, "source": "ocr", "lines": lines}


def batches(names: list[str]) -> list[tuple[str, ...]]:
    """The documents of each shard."""
    return [tuple(names[start : start + SHARD]) for start in range(0, len(names), SHARD)]


def write_run(base: Path, documents: int) -> Path:
    """A finished run with text over an archive in `base`, as far as exports look at it."""
    directory, archive = base / "run", base / "archive"
    results = directory / "results"
    archive.mkdir()
    image = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH), 255, np.uint8))[1].tobytes()
    names = [f"{number:05d}.pdf" for number in range(documents)]
    for shard, mine in enumerate(batches(names)):
        file = f"{shard:05d}"
        write_manifest(
            results / "shards" / f"{file}.tsv", [Document(name, "pdf", name, 1, 1) for name in mine]
        )
        rows = [
            region(name, page + 1, number)
            for name in mine
            for page in range(PAGES)
            for number in range(REGIONS)
        ]
        write_dataset(
            "ocr", [from_rows("ocr", list(map(text_of, rows)))], results / "ocr" / f"{file}.parquet"
        )
        tables = {
            "regions": from_rows("regions", rows),
            "pages": write_images(results, mine, image),
        }
        for name, table in tables.items():
            write_dataset(name, [table], results / name / f"{file}.parquet")
        write_records(results, mine, tables)
    write_sources(archive, results, names)
    limits = {"cpu_seconds": 60, "wall_seconds": 60, "memory_mb": 4096}
    settings = {
        "archive": {"path": str(archive), "follow_links": False},
        "images": {"limits": limits},
    }
    (results / "settings.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return directory


def write_images(results: Path, names: tuple[str, ...], image: bytes) -> pa.Table:
    """Write the page images of documents, each a little different; returns their rows of `pages`."""
    rows = []
    for name in names:
        folder = results / "store" / name / "images"
        folder.mkdir(parents=True)
        for page in range(1, PAGES + 1):
            path = folder / f"{page:04d}.jpg"
            path.write_bytes(image + f"{name} {page}".encode())  # Behind the end of the picture.
            rows.append(
                {
                    **{"document": name, "page": page, "status": "ok", "width": WIDTH},
                    **{"height": HEIGHT, "image": path.relative_to(results).as_posix()},
                    "to_pdf": [298 / WIDTH, 0, 0, -421 / HEIGHT, 0, 421],
                    **{"sha256": file_digest(path), "n_regions": REGIONS, "flags": []},
                }
            )
    return from_rows("pages", rows)


def write_records(results: Path, names: tuple[str, ...], tables: dict[str, pa.Table]) -> None:
    """Write the records of regions, from which tasks for annotators are made."""
    store = StageStore(results, "regions", {}, "code")
    model = {"model": json.dumps({"name": "m", "digest": "d", "classes": CLASSES})}
    own = {name: by_document(table) for name, table in tables.items()}
    for document in names:
        with store.replace(document, store.fingerprint(document)) as draft:
            draft.commit({name: own[name][document] for name in own}, model)


def write_sources(archive: Path, results: Path, names: list[str]) -> None:
    """Write the PDFs of the archive, of PAGES small pages each."""
    with pikepdf.new() as pdf, pikepdf.open(io.BytesIO(page_pdf())) as page:
        for _ in range(PAGES):
            pdf.pages.extend(page.pages)
        pdf.save(archive / names[0])
    for name in names:
        if name != names[0]:
            shutil.copyfile(archive / names[0], archive / name)
        note_source(results, name, [], file_digest(archive / name))


def measure(directory: Path, form: str, output: Path) -> tuple[float, float, float]:
    """Seconds, seconds of CPU time, and MB of the tool's process, of an export."""
    command = [sys.executable, ROOT / "scripts/export_results.py", "--directory", directory]
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(
        [*command, "--format", form, "--output", output], stdout=subprocess.DEVNULL
    )
    # Its ru_maxrss would be this process's own, from which it was forked.
    while (found := os.wait4(process.pid, os.WNOHANG))[0] == 0:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
        peak = max([peak, *(int(size) for size in re.findall(r"VmHWM:\s+(\d+) kB", status))])
        time.sleep(0.05)
    _, status, usage = found
    if status:
        raise SystemExit(f"the export as {form} failed")
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, peak / 1e3


def size_of(output: Path) -> float:
    """MB that were written."""
    files = [output] if output.is_file() else output.rglob("*")
    return sum(path.stat().st_size for path in files) / 1e6


def main() -> None:
    """Make the run, export it in every format, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=100_000)
    documents = max(parser.parse_args().regions // (PAGES * REGIONS), 1)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        directory = write_run(base, documents)
        print(f"{documents * PAGES * REGIONS} regions, {documents} documents of {PAGES} pages")
        print(f"{'':<14}{'seconds':>10}{'of CPU':>10}{'peak MB':>10}{'output MB':>12}")
        for form in WRITERS:
            output = base / form
            *seconds, memory = measure(directory, form, output)
            times = "".join(f"{value:>10.1f}" for value in seconds)
            print(f"{form:<14}{times}{memory:>10.0f}{size_of(output):>12.1f}", flush=True)


if __name__ == "__main__":
    main()
