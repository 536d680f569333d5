"""Peak of the disk that page images take during a run, kept and not kept.

`make benchmark-disk`. Without `images.keep` at most `images.wave` shards have page images on disk.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from make_demo_archive import write_vector_pdf

from scanmill.archive import read_manifest, store_path

SHARD = 5
WAVE = 2
#: Seconds between two looks at the disk.
INTERVAL = 0.1


class Peak(NamedTuple):
    """The most that a run had on disk, and how long it took."""

    bytes: int
    shards: int
    seconds: float


def images_on_disk(results: Path, shards: dict[str, str]) -> tuple[int, set[str]]:
    """Bytes of page images, those in the making with them, and the shards that have some."""
    total, found = 0, set()
    for base, _, names in os.walk(results / "store"):
        for name in names:
            if not name.endswith((".jpg", ".png")):
                continue
            with contextlib.suppress(FileNotFoundError):  # Dropped while we looked.
                total += Path(base, name).stat().st_size
                found.add(shards[Path(base).relative_to(results / "store").parts[0]])
    return total, found


def run(directory: Path, archive: Path, keep: bool) -> Peak:
    """Run the workflow, looking at its page images."""
    directory.mkdir()
    settings = (
        f"images: {{keep: {str(keep).lower()}, wave: {WAVE}}}\nshards: {{max_documents: {SHARD}}}\n"
    )
    (directory / "config.yaml").write_text(settings, encoding="utf-8")
    command = ["snakemake", "--cores", "2", "--directory", directory]
    command += ["--config", f"archive={archive}"]
    # The plan first, which says what shard a document belongs to.
    quiet = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    subprocess.run([*command[:1], "plan", *command[1:]], check=True, **quiet)
    results = directory / "results"
    shards = {
        store_path(document.document): path.stem
        for path in results.glob("shards/*.tsv")
        for document in read_manifest(path)
    }
    start, most, several = time.monotonic(), 0, 0
    process = subprocess.Popen(command, **quiet)
    while process.poll() is None:
        total, found = images_on_disk(results, shards)
        most, several = max(most, total), max(several, len(found))
        time.sleep(INTERVAL)
    if process.returncode:
        sys.exit(f"The run in {directory} failed.")
    return Peak(most, several, time.monotonic() - start)


def main() -> None:
    """Make an archive, run the workflow on it twice, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=40)
    documents = parser.parse_args().documents
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "archive")
        archive.mkdir()
        for number in range(documents):
            write_vector_pdf(archive / f"{number:04d}.pdf", 2, seed=number)
        print(f"{documents} documents of 2 pages, shards of {SHARD}, waves of {WAVE}")
        print(f"{'images.keep':<14}{'peak, MB':>10}{'shards with images':>20}{'seconds':>10}")
        for keep in (True, False):
            peak = run(Path(folder, f"keep-{keep}"), archive, keep)
            said = f"{peak.bytes / 1e6:>10.1f}{peak.shards:>20}{peak.seconds:>10.0f}"
            print(f"{str(keep).lower():<14}{said}", flush=True)


if __name__ == "__main__":
    main()
