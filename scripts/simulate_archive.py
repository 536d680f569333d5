"""Make an archive of many tiny documents, and with --finished the results of a run over it.

    python scripts/simulate_archive.py --output /data/million --documents 1000000 --finished

writes `archive/`, and `run/` as the working directory of a finished run: what planning, an unchanged
archive and one more document cost at that size can be tried there before a real archive is at stake.
"""

import argparse
import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scanmill.archive import read_manifest
from scanmill.errors import UserError
from scanmill.maintenance import run_tool
from scanmill.simulation import SAMPLE, page_pdf, write_archive, write_shard, write_store

REPOSITORY = Path(__file__).resolve().parents[1]
#: Rules and targets whose files are simulated; what summarizes them is really run.
RULES = ("render_pages", "detect_layout", "select_regions", "crop_regions")
SIMULATED = ("images", "detections", "regions", "crops")

logger = logging.getLogger("scanmill")


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--documents", type=int, required=True, metavar="N")
    parser.add_argument("--finished", action="store_true", help="results of a run over them, too")
    parser.add_argument(
        "--stored-shards",
        type=int,
        default=1,
        metavar="K",
        help="of the last K shards, the documents' folders in the store, too (12 files each; "
        "default: 1, which is what another document needs)",
    )
    given = parser.parse_args()
    if given.documents < 1:
        raise UserError("--documents: an archive has at least one.")
    folder = given.output.absolute()
    write_archive(folder / "archive", given.documents)
    logger.info("%s: %d documents", folder / "archive", given.documents)
    if given.finished:
        finish(folder, given.stored_shards)
    return 0


def finish(folder: Path, stored_shards: int) -> None:
    """Make `run` the working directory of a finished run over `archive`."""
    sample, run = folder / "sample", folder / "run"
    (folder / "sample-archive").mkdir(exist_ok=True)
    (folder / "sample-archive" / SAMPLE).write_bytes(page_pdf())
    workflow(["all"], sample, folder / "sample-archive")
    workflow(["plan"], run, folder / "archive")
    manifests = sorted((run / "results" / "shards").glob("*.tsv"))
    for count, manifest in enumerate(manifests, 1):
        documents = read_manifest(manifest)
        write_shard(sample / "results", run / "results", manifest.stem, documents)
        if count > len(manifests) - stored_shards:
            for document in documents:
                write_store(sample / "results", run / "results", folder / "archive", document)
        if count % 50 == 0 or count == len(manifests):
            logger.info("results of %d of %d shards", count, len(manifests))
    workflow(["models"], run, folder / "archive")
    # Snakemake notes of these files what it notes of those that its jobs made.
    workflow(SIMULATED, run, folder / "archive", "--touch", "--forcerun", *RULES)
    workflow(["all"], run, folder / "archive")


def workflow(targets: Sequence[str], directory: Path, archive: Path, *options: str) -> None:
    """Run targets of the workflow; raises UserError with what it said if it fails."""
    command = [sys.executable, "-m", "snakemake", *targets, "--cores", "all", "--quiet", "all"]
    command += ["--directory", str(directory), *options, "--config", f"archive={archive}"]
    started = time.monotonic()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=REPOSITORY, check=False, **pipes)
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed:\n{done.stdout}")
    logger.info("snakemake %s: %.1f s", " ".join(targets), time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(run_tool(main))
