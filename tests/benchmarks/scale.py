"""What archives of 10^3 to 10^6 documents cost beside the work on their pages.

    make benchmark-scale [DOCUMENTS="1000 10000 100000 1000000"]

`scripts/simulate_archive.py` makes archive and results. Told are seconds of planning from nothing; of
`snakemake -n` when nothing changed, which lists the archive and builds the DAG; of a run after one
document was added, until its regions are in their table and until the summary is there, and of that the
job that loads the model; the peak memory of the largest process; files in the working directory without
the store.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from scanmill.simulation import page_pdf

MEASURES = (
    ("plan", "planning, s"),
    ("unchanged", "nothing changed, s"),
    ("row", "one added: its regions after s"),
    ("added", "all after s"),
    ("detection", "of it detection, s"),
    ("memory", "peak memory, MB"),
    ("shards", "shards"),
    ("files", "files"),
)


def timed(*arguments: object) -> tuple[float, float, str]:
    """Seconds, MB of the largest process, and what was said, of a call of Snakemake."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *map(str, arguments)]
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        said = output.read().decode()
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{said}")
    return time.monotonic() - started, usage.ru_maxrss / 1024, said


def measure(folder: Path, documents: int) -> dict[str, float]:
    """The figures of an archive of that many documents, made in `folder`."""
    simulate = [sys.executable, ROOT / "scripts/simulate_archive.py", "--finished"]
    subprocess.run([*simulate, "--output", folder, "--documents", str(documents)], check=True)
    archive = ("--config", f"archive={folder / 'archive'}")
    run, fresh = folder / "run", folder / "fresh"
    plan, *memories = timed("plan", "--directory", fresh, *archive)[:2]
    unchanged, memory, said = timed("--dry-run", "--directory", run, *archive)
    assert "Nothing to be done" in said, said
    memories.append(memory)
    new = folder / "archive" / "collection-000" / "1700" / "new.pdf"
    new.write_bytes(page_pdf())
    clock = time.time()
    added, memory, said = timed("--directory", run, *archive)
    memories.append(memory)
    computed = re.findall(r" INFO computed (.*)", said)
    assert set(computed) == {"collection-000/1700/new.pdf"}, computed
    new.unlink()
    benchmark = next((run / "benchmarks/detect_layout").glob("*.tsv"))
    files = sum(
        len(names)
        for base, folders, names in os.walk(run)
        if not (base == str(run / "results") and "store" in folders and folders.remove("store"))
    )
    return {
        "plan": plan,
        "unchanged": unchanged,
        "row": max(path.stat().st_mtime for path in (run / "results/regions").iterdir()) - clock,
        "added": added,
        "detection": float(benchmark.read_text().splitlines()[1].split("\t")[0]),
        "memory": max(memories),
        "shards": len(list((run / "results/shards").glob("*.tsv"))),
        "files": files,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", type=int, nargs="*", default=[10**3, 10**4, 10**5, 10**6])
    parser.add_argument(
        "--folder", type=Path, help="where to work, 20 GB (default: a temporary one)"
    )
    given = parser.parse_args()
    print("| documents | " + " | ".join(name for _, name in MEASURES) + " |", flush=True)
    print("|---" * (len(MEASURES) + 1) + "|", flush=True)
    for documents in given.documents:
        folder = Path(tempfile.mkdtemp(dir=given.folder, prefix="scale-"))
        try:
            found = measure(folder, documents)
        finally:
            shutil.rmtree(folder)
        figures = [f"{found[key]:.{0 if found[key] >= 100 else 1}f}" for key, _ in MEASURES]
        print(f"| {documents:_} | ".replace("_", " ") + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
