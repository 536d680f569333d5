"""`make env` explains what stops it, and knows an environment that it cannot build on."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import make_environment as environment
import pytest

ROOT = Path(environment.__file__).parent.parent


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "TMPDIR"),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError("
            "<pip._vendor.urllib3.connection.HTTPSConnection>: Failed to establish a new "
            "connection: [Errno -3] Temporary failure in name resolution')",
            "Check the network",
        ),
        ("  ERROR: Failed building wheel for immutables\n", "immutables has no ready-made package"),
        ("ERROR: Failed to build 'immutables' when getting requirements", "make PYTHON=python3.13"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "pip failed as it says above"),
    ],
)
def test_a_failure_of_pip_is_explained(log, says):
    assert says in environment.explain_pip_failure(log)


def test_too_little_disk_stops_before_the_download():
    environment.check_disk_space("cpu", int(4e9))
    with pytest.raises(environment.SetupError, match=r"4\.0 GB; the environment needs 8 GB"):
        environment.check_disk_space("cu126", int(4e9))


def test_a_python_without_ensurepip_names_the_package(monkeypatch):
    environment.check_venv_module()
    find_spec = environment.importlib.util.find_spec
    monkeypatch.setattr(
        environment.importlib.util,
        "find_spec",
        lambda name: None if name == "ensurepip" else find_spec(name),
    )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    with pytest.raises(environment.SetupError, match=f"apt-get install python{version}-venv"):
        environment.check_venv_module()


def test_torch_comes_from_pypi_or_from_pytorchs_index(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert environment.torch_requirements("pypi") == ["-r", "envs/torch.txt"]
    arguments = environment.torch_requirements("cu126")
    assert arguments[:2] == ["--index-url", "https://download.pytorch.org/whl/cu126"]
    assert [argument.split("<=")[0] for argument in arguments[3:]] == ["torch", "torchvision"]


@pytest.mark.parametrize("torch", ["cuda", "cu126; rm -rf /", "CPU"])
def test_a_torch_that_does_not_exist_is_refused(torch, capsys):
    with pytest.raises(SystemExit):
        environment.parse_arguments(["--torch", torch])
    assert f"TORCH={torch}" in capsys.readouterr().err


@pytest.fixture
def venv(tmp_path, monkeypatch):
    """An environment in the current folder, without packages, made with torch from PyPI."""
    monkeypatch.chdir(tmp_path)
    command = [sys._base_executable, "-m", "venv", "--without-pip", environment.VENV]
    subprocess.run(command, check=True)
    environment.CHOICES.write_text("TORCH ?= pypi\nDETECTRON2 ?= pypi\nPYTHON ?= python3\n")
    return environment.VENV


def edit_config(pattern: str, text: str) -> None:
    config = environment.VENV / "pyvenv.cfg"
    edited = environment.re.sub(pattern, text, config.read_text(), flags=environment.re.MULTILINE)
    assert edited != config.read_text()
    config.write_text(edited)


def test_an_environment_of_the_same_choices_is_built_on(venv, monkeypatch):
    assert environment.reason_to_start_anew("pypi") == "has no working pip"
    monkeypatch.setattr(environment, "has_working_pip", lambda: True)
    assert environment.reason_to_start_anew("pypi") is None
    assert environment.reason_to_start_anew("cpu") == "has torch from pypi"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda: environment.UNFINISHED.touch(), "was left half-made"),
        (lambda: edit_config(r"^version = .*", "version = 3.9.1"), "has Python 3.9"),
        (lambda: edit_config(r"^home = .*", "home = /opt/other"), "has the Python of /opt/other"),
        (lambda: (environment.VENV / "pyvenv.cfg").unlink(), "has Python ?"),
        (lambda: (environment.VENV / "bin/python").unlink(), "has no working pip"),
    ],
)
def test_one_that_cannot_be_built_on_is_made_anew(venv, damage, reason):
    damage()
    assert environment.reason_to_start_anew("pypi") == reason


def test_one_that_was_moved_is_made_anew(venv, tmp_path, monkeypatch):
    (tmp_path / "moved").mkdir()
    venv.rename(tmp_path / "moved" / venv)
    monkeypatch.chdir(tmp_path / "moved")
    assert environment.reason_to_start_anew("pypi") == "was made in another folder"


def test_a_detectron2_of_the_users_own_is_never_removed(venv):
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "detectron2").mkdir()
    environment.UNFINISHED.touch()
    with pytest.raises(environment.SetupError, match="a Detectron2 of your own"):
        environment.prepare_venv("pypi", "installed", "python3")
    assert (packages / "detectron2").exists()


@pytest.fixture
def machine(monkeypatch):
    """A machine of the given programs and user, which notes what is run on it."""

    def make(programs: set[str], user: int, sudo_works: bool = False) -> list[list[str]]:
        commands = []

        def run(command, **options):
            commands.append(command)
            return SimpleNamespace(
                returncode=int(command[:3] == ["sudo", "-n", "true"] and not sudo_works)
            )

        monkeypatch.setattr(environment.shutil, "which", lambda name: name in programs or None)
        monkeypatch.setattr(environment.os, "geteuid", lambda: user)
        monkeypatch.setattr(environment.subprocess, "run", run)
        return commands

    return make


def test_tools_that_are_there_are_left_alone(machine):
    commands = machine({"pdftoppm", "jpegtran", "apt-get"}, user=0)
    environment.install_tools()
    assert commands == []


@pytest.mark.parametrize("present", ["pdftoppm", "jpegtran", "none of both"])
def test_root_installs_what_is_missing(machine, capsys, present):
    commands = machine({"apt-get", present}, user=0)
    environment.install_tools()
    assert [command[-1] for command in commands] == ["update", "libjpeg-turbo-progs"]
    assert commands[1][-2] == "poppler-utils"
    assert "sudo" not in commands[0]


def test_a_user_installs_them_only_without_a_password(machine, capsys):
    commands = machine({"apt-get", "sudo"}, user=1000, sudo_works=True)
    environment.install_tools()
    assert [command[:2] for command in commands] == [["sudo", "-n"]] * 3
    commands = machine({"apt-get", "sudo"}, user=1000, sudo_works=False)
    environment.install_tools()
    assert commands == [["sudo", "-n", "true"]]
    said = capsys.readouterr().out
    assert "rendered by PDFium" in said
    assert "jpegtran is not installed" in said
