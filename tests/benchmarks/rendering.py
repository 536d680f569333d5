"""Page images by kind of page: Scanmill beside pdf2image's JPEG and PNG, in one run.

`make benchmark-rendering [ARCHIVE=folder]`. Every run of pages of one kind in a document is made three
ways, one after the other on one core: by a worker of Scanmill; by one call of pdf2image with its default
JPEG at the same resolution; and the same with PNG, of the run's first pages only. At the end, the whole
archive by one worker and by two.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import pdf2image
import yaml

from scanmill.pdf_documents import choose_engines
from scanmill.rendering import render_document, run_task
from scanmill.workers import Worker, WorkerPool

DEFAULTS = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))["images"]
SETTINGS = {name: DEFAULTS[name] for name in ("dpi", "lift", "renderer", "jpeg_quality")}
#: Of a run, so many pages are also made as PNG: that may take 12 s a page.
PNG_PAGES = 2


def task_of(path: Path, folder: str, pages: list[int] | None) -> dict:
    """A task of one PDF as render_document takes it, and as a worker takes it."""
    engines = choose_engines(SETTINGS["renderer"])
    return {
        "kind": "pdf",
        "paths": [os.fsencode(path).hex()],
        "pages": pages,
        "folder": folder,
        "settings": SETTINGS,
        "limits": DEFAULTS["limits"],
        "engines": engines,
        "engine": engines[0],
        "inspect": True,
        "forms": True,
        "numbered": False,
    }


def kind_of(row: dict) -> str:
    """What a page is, and what became of it."""
    suffix = row["image"].rpartition(".")[2]
    how = row["engine"].split()[0]
    return f"{row['source']} {suffix} ({how})"


def seconds(function, *arguments) -> tuple[float, object]:
    """How long a call takes, and what it returns."""
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


def ours(worker: Worker, path: Path, pages: list[int]) -> tuple[float, int]:
    """Seconds and bytes of pages by Scanmill."""
    with tempfile.TemporaryDirectory() as folder:
        spent, _ = seconds(run_task, worker, task_of(path, folder, pages), lambda: None)
        return spent, sum(file.stat().st_size for file in Path(folder).iterdir())


def theirs(path: Path, pages: list[int], format_: str) -> tuple[float, int]:
    """Seconds and bytes of pages by one call of pdf2image."""
    with tempfile.TemporaryDirectory() as folder:
        spent, _ = seconds(
            lambda: pdf2image.convert_from_path(
                path,
                dpi=SETTINGS["dpi"],
                first_page=pages[0],
                last_page=pages[-1],
                fmt=format_,
                use_cropbox=True,
                output_folder=folder,
                paths_only=True,
            )
        )
        return spent, sum(file.stat().st_size for file in Path(folder).iterdir())


def runs_of(pool: WorkerPool, path: Path) -> list[tuple[str, list[int]]]:
    """(kind, consecutive pages) of a document; pages that fail are left out."""
    with tempfile.TemporaryDirectory() as folder:
        rows = render_document(pool, task_of(path, folder, None), lambda: None)
    kinds = [(kind_of(row), row["page"]) for row in rows if row["status"] == "ok"]
    runs = []
    for kind, group in itertools.groupby(
        enumerate(kinds), lambda pair: (pair[1][0], pair[1][1] - pair[0])
    ):
        runs.append((kind[0], [page for _, (_, page) in group]))
    return runs


def compare(paths: list[Path], repeat: int) -> None:
    """Print the table by kind of page."""
    worker, pool = Worker("scanmill.rendering"), WorkerPool(1, "scanmill.rendering")
    totals = defaultdict(lambda: defaultdict(float))
    for path in paths:
        for kind, pages in runs_of(pool, path):
            total = totals[kind]
            total["pages"] += len(pages)
            few = pages[:PNG_PAGES]
            total["png_pages"] += len(few)
            total["png"] += theirs(path, few, "png")[0]
            for _ in range(repeat):
                for name, (spent, size) in (
                    ("ours", ours(worker, path, pages)),
                    ("jpeg", theirs(path, pages, "jpeg")),
                ):
                    total[name] += spent / repeat
                    total[f"{name}_bytes"] += size / repeat
    worker.close()
    pool.close()
    head = (
        "kind of page",
        "pages",
        "ours /s",
        "JPEG /s",
        "PNG /s",
        "ours:JPEG",
        "kB/page",
        "JPEG kB",
    )
    print(f"{head[0]:<30}" + "".join(f"{name:>11}" for name in head[1:]))
    for kind, total in sorted(totals.items()):
        pages = total["pages"]
        cells = [
            f"{pages:.0f}",
            f"{pages / total['ours']:.1f}",
            f"{pages / total['jpeg']:.1f}",
            f"{total['png_pages'] / total['png']:.2f}",
            f"{total['jpeg'] / total['ours']:.2f} x",
            f"{total['ours_bytes'] / pages / 1e3:.0f}",
            f"{total['jpeg_bytes'] / pages / 1e3:.0f}",
        ]
        print(f"{kind:<30}" + "".join(f"{cell:>11}" for cell in cells), flush=True)


def scale(paths: list[Path], repeat: int) -> None:
    """Print how much faster two workers are than one, alternating, as a shard's documents are made."""
    spent = defaultdict(float)
    pools = {workers: WorkerPool(workers, "scanmill.rendering") for workers in (1, 2)}

    def one(pool: WorkerPool, path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            render_document(pool, task_of(path, folder, None), lambda: None)

    def all_of_them(workers: int) -> None:
        with ThreadPoolExecutor(workers) as executor:
            list(executor.map(lambda path: one(pools[workers], path), paths))

    for count in range(repeat + 1):
        for workers in pools:
            used, _ = seconds(all_of_them, workers)
            spent[workers] += used if count else 0  # The first time starts the workers.
    for pool in pools.values():
        pool.close()
    print(f"two workers: {spent[1] / spent[2]:.2f} x as fast as one")


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path, help="a folder with PDFs")
    parser.add_argument(
        "--repeat", type=int, default=3, help="times that each run of pages is made"
    )
    arguments = parser.parse_args()
    paths = sorted(arguments.archive.rglob("*.pdf"))
    compare(paths, arguments.repeat)
    scale(paths, arguments.repeat)


if __name__ == "__main__":
    main()
