"""The doctor speaks on every machine: without packages, with a broken GPU, with a damaged model."""

import hashlib
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import doctor
import pytest

DOCTOR = Path(doctor.__file__)


def run_doctor(*options: str) -> tuple[int, list[list[str]]]:
    """Exit status, and the words of each line."""
    result = subprocess.run(
        [sys.executable, *options, DOCTOR, "--directory", DOCTOR.parent.parent],
        capture_output=True,
        text=True,
    )
    assert result.stderr == ""
    return result.returncode, [line.split() for line in result.stdout.splitlines()]


def test_this_environment_works():
    status, lines = run_doctor()
    assert [line[1] for line in lines] == [
        *("Python", "packages", "torch", "GPU", "CPU"),
        *("memory", "detectron2", "PDF", "OCR", "models", "disk"),
    ]
    states = {line[1]: line[0] for line in lines}
    assert states["packages"] in ("ok", "note")
    assert states["torch"] == states["detectron2"] == "ok"
    assert status == ("PROBLEM" in states.values())


def test_without_any_package_it_names_the_problems():
    status, lines = run_doctor("-I", "-S")  # no site-packages
    problems = {line[1] for line in lines if line[0] == "PROBLEM"}
    assert status == 1
    assert len(lines) == 11
    assert {"packages", "torch", "detectron2", "PDF"} <= problems
    assert all("->" in line for line in lines if line[0] == "PROBLEM")


def test_a_package_that_breaks_on_import_becomes_text(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise OSError('libfoo.so: cannot open\\nmore')")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.try_import("broken_package") == (None, "OSError: libfoo.so: cannot open")


@pytest.mark.parametrize(
    ("gpus", "driver", "cuda", "error", "state", "says"),
    [
        ([], "", "13.0", "torch sees no GPU", "note", "on the CPU"),
        (["NVIDIA L4"], "580.65.06", "13.0", "", "ok", "1 x NVIDIA L4, driver 580.65.06"),
        (["NVIDIA L4"] * 2, "535.183.01", "13.0", "x", "PROBLEM", "make env TORCH=cu126"),
        (["NVIDIA L4"] * 2, "535.183.01", "13.0", "x", "PROBLEM", "wants driver 580"),
        (["Tesla K80"], "470.82.01", "13.0", "x", "PROBLEM", "install a newer driver"),
        (["NVIDIA L4"], "535.183.01", "12.6", "", "ok", "driver 535.183.01"),
        (["NVIDIA L4"], "580.65.06", None, "x", "PROBLEM", "make env TORCH=pypi"),
        (["NVIDIA L4"], "535.183.01", None, "x", "PROBLEM", "make env TORCH=cu126"),
        (["NVIDIA L4"], "", "13.0", "x", "PROBLEM", "install NVIDIA's driver"),
        (["Tesla P100"], "580.65.06", "13.0", "no kernel image is", "PROBLEM", "TORCH=cu126"),
        (["NVIDIA L4"], "580.65.06", "13.0", "out of memory", "PROBLEM", "out of memory"),
    ],
)
def test_judge_gpu(monkeypatch, gpus, driver, cuda, error, state, says):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    line = doctor.judge_gpu(gpus, driver, cuda, error)
    assert line.state == state
    assert says in str(line)


def test_gpus_that_the_user_hid_are_said_to_be_hidden(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = doctor.judge_gpu(["NVIDIA L4"], "580.65.06", "13.0", "torch sees no GPU")
    assert "unset CUDA_VISIBLE_DEVICES" in line.remedy


@pytest.mark.parametrize(
    ("loaded", "driver"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)",
            "535.183.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build",
            "580.65.06",
        ),
        ("", ""),
    ],
)
def test_the_driver_is_found_without_nvidia_smi(monkeypatch, loaded, driver):
    monkeypatch.setattr(doctor, "run_tool", lambda *command: "")
    monkeypatch.setattr(doctor, "read_text", lambda path: loaded)
    assert doctor.find_driver() == driver


def test_packages_are_compared_with_the_lock():
    installed = metadata.version("numpy")
    missing = doctor.check_packages("numpy\nno-such-package>=1  # why\n", "")
    assert (missing.state, "1 of 2 missing: no-such-package" in missing.text) == ("PROBLEM", True)
    other = doctor.check_packages("numpy\n", "numpy==0.1   # via -r x\n")
    assert (other.state, f"numpy {installed} (0.1)" in other.text) == ("note", True)
    lock = f"numpy=={installed}\nno-such-package==1 ; sys_platform == 'win32'  # via x\n"
    assert doctor.check_packages("numpy\n", lock).text.endswith("; 1 packages as locked")


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("MODEL: {}\n")
    digest = hashlib.sha256(b"MODEL: {}\n").hexdigest()
    (folder / "model.json").write_text(json.dumps({"sha256": {"config.yaml": digest}}))
    return folder


def test_models_are_found_in_both_places(tmp_path):
    write_model(tmp_path / "a/models/one")
    write_model(tmp_path / "b/models/two")
    line = doctor.check_models([tmp_path / "a", tmp_path / "b"])
    assert (line.state, line.text) == ("ok", "one, two")
    assert doctor.check_models([tmp_path / "c"]).state == "PROBLEM"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "config.yaml").write_text("MODEL: []\n"), "is damaged"),
        (lambda folder: (folder / "config.yaml").unlink(), "is missing"),
        (lambda folder: (folder / "model.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "model.json").write_text("{}"), "cannot be read"),
    ],
)
def test_a_damaged_model_is_a_problem(tmp_path, damage, says):
    damage(write_model(tmp_path / "models/one"))
    line = doctor.check_models([tmp_path])
    assert line.state == "PROBLEM"
    assert says in line.text


@pytest.mark.parametrize(
    ("files", "origin"),
    [
        ({"INSTALLER": "pip\n"}, "PyPI's detectron2 0.6"),
        ({"INSTALLER": "conda\n"}, "conda's detectron2 0.6"),
        (
            {
                "direct_url.json": '{"url": "https://example.org/detectron2", '
                '"vcs_info": {"vcs": "git", "commit_id": "0123456789ab"}}'
            },
            "https://example.org/detectron2@01234567",
        ),
        (
            {"direct_url.json": '{"url": "file:///src/detectron2", "dir_info": {}}'},
            "file:///src/detectron2",
        ),
    ],
)
def test_where_detectron2_comes_from(tmp_path, files, origin):
    folder = tmp_path / "detectron2-0.6.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6\n")
    for name, text in files.items():
        (folder / name).write_text(text)
    assert doctor.describe_origin(metadata.Distribution.at(folder)) == origin


def test_a_full_disk_is_a_problem(tmp_path, monkeypatch):
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=1e9))
    assert doctor.check_disk(tmp_path).state == "PROBLEM"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=3e11))
    assert "300 GB" in doctor.check_disk(tmp_path).text
    assert "about 200,000 page images" in doctor.check_disk(tmp_path).text
