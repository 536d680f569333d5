"""Real Snakemake, the real detector and the shipped model on tiny archives.

One archive is run once; each test goes on from a copy of that finished run.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import make_demo_archive as demo
import pyarrow.dataset
import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
# A page of this size is smaller than A4, and at 72 dpi cheap to render.
SMALL = (298, 421)
#: Small pages at a resolution that costs little; pages of A4 (501 000 pixels) come out smaller.
SETTINGS = {
    "images": {"dpi": 72, "limits": {"max_pixels": 400_000}},
    "shards": {"max_documents": 5},
    "failures": {"max_failed_fraction": 0.5},
}
#: What the runs of this archive make, by shard.
SHARDS = {
    "00000": {"album", "broken.pdf", "letters/one.pdf", "letters/two.pdf", "mixed.pdf"},
    "00001": {"zeta.tif"},
}
DOCUMENTS = set.union(*SHARDS.values())
TARGETS = {
    "plan",
    "images",
    "detections",
    "regions",
    "crops",
    "ocr",
    "models",
    "synthesis",
    "train",
    "all",
}
STAGES = ("render_pages", "detect_layout", "select_regions", "crop_regions")
#: Enough for any run here on a machine that is busy with something else.
#: The rules that every run ends with.
SUMMARY = {"summarize_archive", "describe_run", "check_failures"}
PATIENCE = 300


class Run(NamedTuple):
    """What one call of Snakemake did."""

    code: int
    output: str
    jobs: dict[str, set[str]]
    """Rules that ran, each with its shards ('' for a rule without)."""
    documents: dict[str, dict[str, str]]
    """Rule -> document -> `computed`, `reused` or `retried`."""

    @property
    def made(self) -> dict[str, set[str]]:
        """Rule -> documents that were not reused; without the rules that reused all."""
        made = {
            rule: {name for name, outcome in documents.items() if outcome != "reused"}
            for rule, documents in self.documents.items()
        }
        return {rule: names for rule, names in made.items() if names}


def command(directory, *arguments, repository=REPOSITORY, cores=2, env=None):
    """Snakemake's command line, as a user types it, and where it is typed."""
    line = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--directory", str(directory)]
    own = {name: value for name, value in os.environ.items() if not name.startswith("SNAKEMAKE")}
    return {"args": [*line, *map(str, arguments)], "cwd": repository, "env": own | (env or {})}


def run_workflow(directory, *arguments, ok=True, preexec_fn=None, **options):
    """Run Snakemake to its end; asserts that it ends well (or not, with ok=False), and no traceback."""
    before = _log_times(directory)
    done = subprocess.run(
        **command(directory, *arguments, **options),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
        preexec_fn=preexec_fn,
        check=False,
    )
    output = done.stdout.decode(errors="surrogateescape")
    assert "Traceback" not in output, output
    assert (done.returncode == 0) == ok, output
    run = Run(done.returncode, output, *_what_ran(directory, before))
    finished = Counter(re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", output))
    logged = {rule: len(shards) for rule, shards in run.jobs.items()}
    # The logs hide no job; a failed one has a log, and does not finish.
    assert {
        r: n for r, n in finished.items() if r not in TARGETS
    }.items() <= logged.items() or not ok
    return run


def _log_times(directory):
    return {path: path.stat().st_mtime_ns for path in Path(directory).glob("logs/**/*.log")}


def _what_ran(directory, before):
    """Every job writes its log anew: which did, and what they say of each document."""
    jobs, documents = {}, {}
    for path, written in _log_times(directory).items():
        if before.get(path) == written:
            continue
        rule, _, shard = path.relative_to(directory).with_suffix("").as_posix()[5:].partition("/")
        jobs.setdefault(rule, set()).add(shard)
        outcomes = re.findall(r" INFO (computed|reused|retried) (.*)", path.read_text())
        documents.setdefault(rule, {}).update((name, outcome) for outcome, name in outcomes)
    return jobs, documents


def planned_jobs(directory, *arguments, **options):
    """Rule -> number of jobs that Snakemake would run now, without the target."""
    done = subprocess.run(
        **command(directory, *arguments, "--dry-run", **options),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    jobs = dict(re.findall(r"^([a-z_]+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    return {rule: int(count) for rule, count in jobs.items() if rule not in ("all", "total")}


def processes_in(directory):
    """Ids of the processes that work in a directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if os.readlink(path).startswith(str(directory)):
                found.append(int(path.parent.name))
        except OSError:  # It ended while we looked, or is not ours.
            continue
    return found


def assert_none_survives(directory):
    """Of a run that has ended, no process works on."""
    end = time.monotonic() + 20
    while processes_in(directory):
        assert time.monotonic() < end, processes_in(directory)
        time.sleep(0.1)


def write_settings(directory, **settings):
    """Write the working directory's config.yaml: SETTINGS, and what is given instead of them."""
    directory.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump({**SETTINGS, **settings})
    (directory / "config.yaml").write_text(text, encoding="utf-8")


def copy(source, target):
    """Copy a folder with everything in it and its times."""
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


def clone(target):
    """The workflow's files elsewhere, with the time of now."""
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("config", "envs", "models", "profiles", "rules", "scripts"):
        shutil.copytree(
            REPOSITORY / name, target / name, ignore=skip, copy_function=shutil.copyfile
        )
    for name in ("Snakefile", "CITATION.cff"):
        shutil.copyfile(REPOSITORY / name, target / name)
    return target


def contents(directory, *patterns):
    """Relative path -> bytes of the files that match."""
    paths = {path for pattern in patterns for path in Path(directory).glob(pattern)}
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths if path.is_file()}


def times(folder):
    """Relative path -> when a file or folder was changed."""
    return {str(path.relative_to(folder)): path.stat().st_ctime_ns for path in folder.rglob("*")}


def tables(directory):
    """Every table and manifest: what two equal runs must have equal byte for byte."""
    return contents(directory, "results/**/*.parquet", "results/shards/*.tsv")


def rows(directory, dataset, *columns):
    """A dataset's rows as dicts."""
    table = pyarrow.dataset.dataset(directory / "results" / dataset, format="parquet")
    return table.to_table(columns=list(columns) or None).to_pylist()


def reduced(directory):
    """The pages that came out at a lower resolution than wanted."""
    return [page for page in rows(directory, "pages") if "reduced_dpi" in (page["flags"] or [])]


def documents_of(directory, dataset):
    """The documents that have rows in a dataset."""
    return {row["document"] for row in rows(directory, dataset, "document")}


def write_archive(folder):
    """The archive of SHARDS: eight pages, one of them too large for its resolution, and one document
    that is damaged."""
    (folder / "letters").mkdir(parents=True)
    demo.write_vector_pdf(folder / "letters/one.pdf", 2, 1, SMALL)
    demo.write_vector_pdf(folder / "letters/two.pdf", 1, 2, SMALL)
    demo.write_mixed_pdf(folder / "mixed.pdf", 2, 3, (SMALL, demo.A4))
    demo.write_corrupt_pdf(folder / "broken.pdf", 1, 4)
    demo.write_image_folder(folder / "album", 1, 5, dpi=72, size=SMALL)
    demo.write_tiff(folder / "zeta.tif", 2, 6, dpi=72, size=SMALL)


class Finished(NamedTuple):
    """An archive, and the working directory of a run of it that ended well."""

    archive: Path
    directory: Path

    @property
    def config(self) -> tuple[str, str]:
        return "--config", f"archive={self.archive}"

    def run(self, *arguments, target="all", **options):
        return run_workflow(self.directory, target, *self.config, *arguments, **options)

    def settings(self, **settings):
        write_settings(self.directory, **settings)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, worker_id):
    """The finished run that all start from, of all processes of pytest; not to be changed."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "undisturbed"
    finished = Finished(folder / "archive", folder / "run")
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "finished").exists():
            finish(finished)
            (folder / "finished").touch()
    return finished


def finish(finished):
    write_archive(finished.archive)
    finished.settings()
    before = times(finished.archive)
    run = finished.run()
    # It may be mounted read-only.
    assert times(finished.archive) == before
    assert run.made == {
        "render_pages": DOCUMENTS,
        "detect_layout": DOCUMENTS,
        "select_regions": DOCUMENTS,
        "crop_regions": DOCUMENTS,
    }
    assert [row["page"] for row in rows(finished.directory, "failures.parquet")] == [None]
    flagged = {(page["document"], page["page"]) for page in reduced(finished.directory)}
    assert flagged == {("mixed.pdf", 2)}


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the archive and of its finished run, to do something to."""
    return Finished(
        copy(undisturbed.archive, tmp_path / "archive"),
        copy(undisturbed.directory, tmp_path / "run"),
    )
