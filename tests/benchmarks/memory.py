"""Peak memory of every job, for one document of N pages and for N documents of one page.

`make benchmark-memory`. Memory must not grow with either: the two figures of a rule should be close to
each other, and to those of a tenth of the pages.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from make_demo_archive import write_vector_pdf

RULES = ("render_pages", "detect_layout", "select_regions", "crop_regions")


def peak_memory(run: Path, archive: Path) -> dict[str, float]:
    """MB of resident memory, by rule, of a run over `archive` (Snakemake's benchmark: max_rss)."""
    settings = run / "config.yaml"
    settings.parent.mkdir()
    settings.write_text("images: {dpi: 100}\nshards: {max_documents: 1000}\n", encoding="utf-8")
    command = ["snakemake", "--cores", "2", "--directory", run, "--config", f"archive={archive}"]
    subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    peaks = {}
    for rule in RULES:
        with (run / "benchmarks" / rule / "00000.tsv").open(encoding="utf-8") as file:
            peaks[rule] = float(next(csv.DictReader(file, delimiter="\t"))["max_rss"])
    return peaks


def main() -> None:
    """Make the archives, run the workflow on each, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=500)
    count = parser.parse_args().pages
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        cases = {f"1 document of {n} pages": (n, 1) for n in (count // 10, count)}
        cases |= {f"{n} documents of 1 page": (1, n) for n in (count // 10, count)}
        print(f"{'peak RSS, MB':<26}" + "".join(f"{rule:>16}" for rule in RULES))
        for case, (pages, documents) in cases.items():
            archive = base / f"archive-{pages}-{documents}"
            archive.mkdir()
            first = archive / "document-0.pdf"
            write_vector_pdf(first, pages, seed=0)
            for i in range(1, documents):
                # A comment behind the end makes another file of the same page.
                text = first.read_bytes() + f"\n% copy {i}\n".encode()
                (archive / f"document-{i}.pdf").write_bytes(text)
            peaks = peak_memory(base / f"run-{pages}-{documents}", archive)
            print(f"{case:<26}" + "".join(f"{peaks[rule]:>16.0f}" for rule in RULES), flush=True)


if __name__ == "__main__":
    main()
