"""What becomes of an archive of broken PDFs: the target `images`; then each engine alone on what failed.

`make benchmark-reliability ARCHIVE=FOLDER`, or a CSV of documents. Prints files, pages by how they were
made, failures by reason, time, peak memory of all processes together (proportional set size), what was
left behind; and every page that did not come out though `pdftoppm` or PDFium alone make one of it at
72 dpi. Exits with 1 if there is one.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import pyarrow.dataset

from scanmill.archive import read_manifest, source_path

#: Seconds and bytes for an engine alone.
PATIENCE = 60
MEMORY = 8 << 30
PDFIUM = """
import sys, pypdfium2
pdf = pypdfium2.PdfDocument(sys.argv[1])
page = sys.argv[2]
print(len(pdf)) if page == "count" else pdf[int(page) - 1].render(scale=1).to_numpy()
"""


class Watch(threading.Thread):
    """Samples the memory of a process and all that it started."""

    def __init__(self, pid: int) -> None:
        """`pid` of the process at the top."""
        super().__init__(daemon=True)
        self.pid, self.peak, self.done = pid, 0, threading.Event()

    def run(self) -> None:
        """Sample until `done` is set."""
        while not self.done.wait(0.2):
            self.peak = max(self.peak, sum(map(memory, [self.pid, *descendants(self.pid)])))


def descendants(pid: int) -> list[int]:
    """Processes below a process."""
    found = []
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:  # It has ended.
        return []
    for child in children:
        found += [child, *descendants(child)]
    return found


def memory(pid: int) -> int:
    """Bytes of a process's proportional set size."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return int(text.partition("Pss:")[2].split()[0]) << 10 if "Pss:" in text else 0


def alone(command: list) -> subprocess.CompletedProcess | None:
    """A command under limits; None where it takes too long."""
    try:
        return subprocess.run(
            command,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        )
    except subprocess.TimeoutExpired:
        return None


def engines_that_make(path: bytes, page: int) -> list[str]:
    """The engines that make an image of a page by themselves."""
    makers = []
    with tempfile.TemporaryDirectory() as folder:
        number = str(page)
        alone(["pdftoppm", "-r", "72", "-f", number, "-l", number, path, f"{folder}/page"])
        if any(file.stat().st_size > 20 for file in Path(folder).iterdir()):
            makers.append("Poppler")
    done = alone([sys.executable, "-c", PDFIUM, path, str(page)])
    return [*makers, "PDFium"] if done and done.returncode == 0 else makers


def counts(path: bytes) -> dict[str, int]:
    """The number of pages as each engine takes it, of those that open the file."""
    found = {}
    info = alone(["pdfinfo", path])
    if info and info.returncode == 0:
        for line in info.stdout.decode(errors="replace").splitlines():
            if line.startswith("Pages:"):
                found["Poppler"] = int(line.split()[1])
    done = alone([sys.executable, "-c", PDFIUM, path, "count"])
    if done and done.returncode == 0:
        found["PDFium"] = int(done.stdout)
    return found


def render(archive: Path, run: Path) -> tuple[float, float, list[int]]:
    """Run the target; seconds, peak bytes, and processes that are left."""
    command = ["snakemake", "images", "--cores", "2", "--directory", run]
    started = time.monotonic()
    with (run.parent / f"{run.name}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--config", f"archive={archive}"], cwd=ROOT, stdout=log, stderr=log
        )
        watch = Watch(process.pid)
        watch.start()
        code = process.wait()
    watch.done.set()
    watch.join()
    if code:
        sys.exit(f"Snakemake ended with {code}: see {log.name}")
    return time.monotonic() - started, watch.peak, descendants(os.getpid())


def main() -> None:
    """Run, look, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument(
        "--directory", type=Path, help="keep the run here; one that is there is looked at"
    )
    arguments = parser.parse_args()
    archive = arguments.archive.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        run = (arguments.directory or Path(temporary, "run")).absolute()
        if not (run / "results/images").exists():
            run.parent.mkdir(parents=True, exist_ok=True)
            spent, peak, left = render(archive, run)
            print(f"time      {spent:.0f} s with --cores 2")
            print(f"memory    {peak / 1e9:.2f} GB at most, all processes together")
            print(f"left      {len(left)} processes")
        sys.exit(report(archive, run))


def report(archive: Path, run: Path) -> int:
    """Print the tables; 1 if a page is missing that an engine alone makes."""
    table = pyarrow.dataset.dataset(run / "results/images", format="parquet").to_table()
    rows = table.to_pylist()
    files = {row["document"] for row in rows}
    odd = [path for path in (run / "results/store").rglob("*") if path.name.startswith(".")]
    odd += [path for path in (run / "results/store").rglob("images/*") if path.is_dir()]
    print(f"files     {len(files)}; temporary files left: {len(odd)}")
    ok = [row for row in rows if row["status"] == "ok"]
    print(f"pages     {len(ok)} ok")
    for (source, engine), count in Counter(
        (row["source"], row["engine"].split()[0]) for row in ok
    ).most_common():
        print(f"          {count:6} {source} ({engine})")
    failed = [row for row in rows if row["status"] != "ok"]
    print(f"failed    {len(failed)} rows")
    for (reason, whole), count in Counter(
        (row["reason"], row["page"] is None) for row in failed
    ).most_common():
        print(f"          {count:6} {reason} ({'document' if whole else 'page'})")
    paths = {
        document.document: source_path(archive, document)
        for manifest in (run / "results/shards").glob("*.tsv")
        for document in read_manifest(manifest)
    }
    missing = 0
    for row in failed:
        path = paths[row["document"]]
        makers = engines_that_make(path, row["page"] or 1)
        if makers:
            missing += 1
            who = f"{row['document']}, page {row['page']}"
            print(f"MISSING   {who}: {', '.join(makers)} alone; {row['message']}")
    shown = Counter(row["document"] for row in rows if row["page"] is not None)
    for document in sorted(files):
        claimed = counts(paths[document])
        if claimed and max(claimed.values()) > shown[document]:
            print(f"COUNT     {document}: {shown[document]} rows of pages; {claimed}")
    print(f"missing   {missing} pages that an engine alone makes")
    return int(missing > 0)


if __name__ == "__main__":
    main()
