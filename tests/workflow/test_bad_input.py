"""Whatever is wrong with what it is given: a clear message or a failed row, and nothing lost."""

import ctypes
import json
import os
import re
import shutil
import subprocess
from collections import Counter

import pikepdf
import pytest
import yaml
from conftest import (
    REPOSITORY,
    SMALL,
    Finished,
    contents,
    demo,
    documents_of,
    rows,
    run_workflow,
    tables,
    write_settings,
)

# linux/prctl.h and linux/capability.h
PR_CAPBSET_DROP = 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def without_privileges():
    """Have permissions hold in the process to come, for root too."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def unprivileged():
    """The option of run_workflow for a run to which permissions apply."""
    if os.geteuid():
        return {}
    try:
        subprocess.run(["true"], preexec_fn=without_privileges, check=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("root may do everything here, and cannot give that up")
    return {"preexec_fn": without_privileges}


def one_line(output):
    """Output with every run of white space as one space: messages break lines."""
    return " ".join(output.split())


# The archive --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A PDF of one page."""
    path = tmp_path_factory.mktemp("page") / "page.pdf"
    demo.write_vector_pdf(path, 1, 1, SMALL)
    return path


NAMES = {
    b"spaces 'quotes' \"double\" $HOME `id`;*?.pdf": None,
    b"line\nbreak.pdf": "line%0Abreak.pdf",
    b"no utf-8 \xff\xfe.pdf": "no utf-8 %FF%FE.pdf",
    "composed é.pdf".encode(): None,
    "composed e\u0301.pdf".encode(): None,
    b"n" * 251 + b".pdf": None,
    b"same.pdf": None,
    b"SAME.pdf": None,
    b"same.PDF": None,
    b"-rf {wildcard}.pdf": None,
    b"percent%41.pdf": "percent%2541.pdf",
    b"a/images/regions.parquet/crops/deep.pdf": None,
    b"folder.pdf/inner.pdf": None,
    b"/".join([b"d" * 200] * 4) + b"/deep.pdf": None,
}
FAILED = {
    "text.pdf": "corrupt",
    "zero.pdf": "empty",
    "no-pages.pdf": "empty",
    "secret.pdf": "encrypted",
    "outside.pdf": "unsupported",
    "elsewhere": "unsupported",
    "pipe.pdf": "unsupported",
    "dangling.pdf": "io",
    "itself.pdf": "io",
    ".": "corrupt",
}


def write_hostile_archive(folder, page):
    """Documents of NAMES, of FAILED, and what is neither."""
    for name in NAMES:
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copyfile(page, path)
    (folder / "text.pdf").write_text("This is no PDF.\n")
    (folder / "zero.pdf").touch()
    pikepdf.new().save(folder / "no-pages.pdf")
    demo.write_encrypted_pdf(folder / "secret.pdf", 1, 1)
    os.symlink(page, folder / "outside.pdf")
    os.symlink(page.parent, folder / "elsewhere")
    os.mkfifo(folder / "pipe.pdf")
    os.symlink("nowhere.pdf", folder / "dangling.pdf")
    os.symlink("itself.pdf", folder / "itself.pdf")
    (folder / "page.jpg").write_bytes(b"no image")
    # No documents:
    os.symlink(".", folder / "loop")
    (folder / "notes.txt").write_text("skipped")
    (folder / ".hidden.pdf").touch()
    (folder / "empty").mkdir()


def listing(folder, but=()):
    """Size and time of everything below a folder, but not of what lies below `but`."""
    found = {}
    for base, folders, files in os.walk(os.fsencode(folder)):
        folders[:] = [name for name in folders if os.path.join(base, name) not in but]
        for name in folders + files:
            status = os.lstat(os.path.join(base, name))
            found[os.path.join(base, name)] = (status.st_size, status.st_mtime_ns)
    return found


def test_hostile_names_and_damaged_documents(tmp_path, page):
    archive, directory = tmp_path / "archive", tmp_path / "run"
    write_hostile_archive(archive, page)
    write_settings(directory, shards={"max_documents": 64}, failures={"max_failed_fraction": 0.05})
    before = listing(tmp_path, [os.fsencode(directory)])
    run = run_workflow(directory, "--config", f"archive={archive}", ok=False)

    # Everything is done, then the run ends with what is wrong and how to accept it.
    assert run.jobs.keys() > {"summarize_archive", "describe_run", "check_failures"}
    assert "Too much failed" in run.output
    accept = re.search(r"--config '(failures=\{max_failed_fraction: [0-9.]+\})'", run.output)[1]

    named = {encoded or os.fsdecode(raw) for raw, encoded in NAMES.items()}
    pages = {row["document"]: row for row in rows(directory, "pages")}
    assert pages.keys() == named | FAILED.keys()
    assert {name for name, row in pages.items() if row["status"] == "ok"} == named
    assert {n: row["reason"] for n, row in pages.items() if row["status"] != "ok"} == FAILED
    assert documents_of(directory, "failures.parquet") == FAILED.keys()
    assert documents_of(directory, "documents.parquet") == named | FAILED.keys()
    # All are the same page, so nothing may be mixed up or lost on the way.
    counts = Counter(row["document"] for row in rows(directory, "regions", "document"))
    assert counts.keys() == named
    assert len(set(counts.values())) == 1
    images = {row["image"] for row in pages.values() if row["image"]}
    assert len(images) == len(named)
    assert all((directory / "results" / image).is_file() for image in images)
    assert not [row for row in pages.values() if str(tmp_path) in (row["message"] or "")]

    assert listing(tmp_path, [os.fsencode(directory)]) == before

    accepted = run_workflow(directory, "--config", f"archive={archive}", accept)
    assert accepted.jobs.keys() == {"check_failures"}


def test_an_archive_that_is_none(tmp_path, page):
    directory = tmp_path / "run"
    write_settings(directory)
    for name in ("empty", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes/a.txt").touch()
    (directory / "scans").mkdir()
    shutil.copyfile(page, directory / "scans/page.pdf")
    before = listing(tmp_path, [os.fsencode(directory)])

    def said(archive):
        run = run_workflow(directory, "--config", f"archive={archive}", ok=False)
        assert run.jobs == {}
        return run.output

    assert f"{tmp_path / 'missing'} cannot be opened (No such file" in said(tmp_path / "missing")
    assert f"{tmp_path / 'empty'} has no documents" in said(tmp_path / "empty")
    assert "Found: 1 .txt" in said(tmp_path / "notes")
    assert "must not contain one another" in said("scans")
    assert "must not contain one another" in said(tmp_path)
    assert "No archive is given" in run_workflow(directory, ok=False).output
    assert not (directory / "results").exists()
    assert listing(tmp_path, [os.fsencode(directory)]) == before


def test_a_table_of_documents_that_is_wrong(tmp_path, page):
    directory, table = tmp_path / "run", tmp_path / "documents.csv"
    write_settings(directory)

    def said(text):
        table.write_bytes(text)
        return run_workflow(directory, "--config", f"archive={table}", ok=False).output

    assert "no column path" in said(b"document,file\na,page.pdf\n")
    assert "line 2: '../a' cannot be a document's name" in said(b"document,path\n../a,page.pdf\n")


def test_an_archive_that_is_half_gone(tmp_path):
    archive, directory = tmp_path / "archive", tmp_path / "run"
    for folder in ("1888", "1889"):
        (archive / folder).mkdir(parents=True)
        for number in range(12):
            (archive / folder / f"{number:02}.pdf").touch()
    write_settings(directory)
    config = ("plan", "--config")
    run_workflow(directory, *config, f"archive={archive}")
    before = contents(directory, "results/**/*")

    (archive / "1889").rename(tmp_path / "1889")
    run = run_workflow(directory, *config, f"archive={archive}", ok=False)
    assert "12 of 24 known documents are gone" in run.output
    assert "1889: 12 of 12" in run.output
    assert contents(directory, "results/**/*") == before

    (tmp_path / "1889").rename(archive / "1889")
    assert run_workflow(directory, *config, f"archive={archive}").made == {}
    assert contents(directory, "results/**/*") == before

    shutil.rmtree(archive / "1889")
    assert "--config 'archive={max_missing: 1}'" in run.output
    run_workflow(directory, *config, f"archive={{path: {archive}, max_missing: 1}}")
    left = (directory / "results/shards/00000.tsv").read_text()
    assert "1889/" not in left
    assert "1888/" in left


def test_an_archive_that_is_unreadable_in_part(finished):
    options = unprivileged()
    before = tables(finished.directory)
    letters = finished.archive / "letters"
    letters.chmod(0)
    try:
        run = finished.run(ok=False, **options)
    finally:
        letters.chmod(0o755)
    assert "letters: Permission denied" in run.output
    assert 'archive.exclude: ["letters/**"]' in run.output
    assert tables(finished.directory) == before

    (letters / "two.pdf").write_bytes(b"changed")
    (letters / "two.pdf").chmod(0)
    finished.run(**options)
    failure = next(
        row
        for row in rows(finished.directory, "failures.parquet")
        if row["document"] == "letters/two.pdf"
    )
    assert (failure["reason"], failure["message"]) == ("io", "PermissionError: Permission denied")


# The working directory ----------------------------------------------------------------------------


def test_a_working_directory_that_cannot_be_written_to(finished):
    options = unprivileged()
    directory = finished.directory.parent / "read-only"
    directory.mkdir()
    directory.chmod(0o555)
    run = run_workflow(directory, *finished.config, ok=False, **options)
    assert f"The working directory {directory} cannot be written to" in run.output

    results = finished.directory / "results"
    results.chmod(0o555)
    try:
        run = finished.run("crops={padding: 9}", ok=False, **options)
    finally:
        results.chmod(0o755)
    assert "results/settings.yaml cannot be written (Permission denied)" in run.output
    assert run.jobs == {}


def test_a_disk_that_is_full(page, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, disk], capture_output=True, check=False)

    # The model has 32 MB.
    if mount("-t", "tmpfs", "-o", "size=16m", "tmpfs").returncode:
        pytest.skip("only root can mount a small disk")
    try:
        write_settings(disk / "run")
        full = Finished(page.parent, disk / "run")
        run = full.run(ok=False)
        assert "Cannot write results: the disk is full" in run.output
        assert "(results/models/.scanmill-layout-" in run.output
        assert "everything finished so far is kept" in run.output
        assert not [*(disk / "run").glob("results/**/.*tmp*")]

        mount("-o", "remount,size=100m")
        assert "render_pages" not in full.run().jobs
        assert documents_of(full.directory, "regions") == {"page.pdf"}
    finally:
        subprocess.run(["umount", disk], check=True)


# The model ----------------------------------------------------------------------------------------


def break_card(folder, **entries):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda model: (model / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda model: (model / "model.json").unlink(), "There is no model `mine`"),
        (
            lambda model: (model / "config.yaml").open("a").write("# changed\n"),
            "config.yaml is not the file that",
        ),
        (lambda model: break_card(model, classes=["text", "title"]), "names 2 classes, but"),
        (lambda model: break_card(model, classes="text"), "`classes` must be a list"),
        (lambda model: (model / "model.json").write_text("{"), "model.json is not JSON"),
    ],
)
def test_a_model_folder_that_is_damaged(tmp_path, damage, message):
    write_settings(tmp_path, model="mine")
    model = tmp_path / "models/mine"
    shutil.copytree(REPOSITORY / "models/scanmill-layout", model)
    damage(model)
    run = run_workflow(tmp_path, "models", ok=False)
    assert message in one_line(run.output)
    assert not (tmp_path / "results/models/mine").exists()


# Settings -----------------------------------------------------------------------------------------


def test_settings_that_are_wrong(finished):
    before = contents(finished.directory, "results/**/*")
    run = finished.run(
        "image={dpi: 100}", "images={dpi: high}", "detection={score_flor: 0.1}", ok=False
    )
    assert "image: there is no such setting. Did you mean images?" in run.output
    assert 'images.dpi: "high" is not allowed. Allowed: a whole number' in run.output
    assert (
        "detection.score_flor: there is no such setting. Did you mean detection.score_floor?"
        in (run.output)
    )

    def said(setting):
        return one_line(finished.run(setting, ok=False).output)

    assert "regions.min_score.default is 0.01, below detection.score_floor" in said(
        "regions={min_score: 0.01}"
    )
    assert "names the class `txt`, which the model does not have. Did you mean `text`?" in said(
        "regions={classes: [txt]}"
    )
    assert "There is no model `other`" in said("model=other")
    path = finished.directory / "config.yaml"
    path.write_text(yaml.safe_dump({"crops": {"paddings": 3}}))
    assert f"{path}: crops.paddings: there is no such setting. Did you mean crops.padding?" in said(
        "crops={padding: 9}"
    )
    path.write_text("crops:\n\tpadding: 9\n")
    assert f"{path}, line 2: this is not valid YAML" in said("crops={padding: 9}")
    assert contents(finished.directory, "results/**/*") == before
