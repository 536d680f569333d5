"""The conda environment and the image have the releases, and the image the steps, of `make env`."""

import re
import shlex
from pathlib import Path

import make_environment
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

#: Packages that conda calls otherwise than PyPI.
PYPI_NAMES = {
    "matplotlib-base": "matplotlib",
    "py-opencv": "opencv-python-headless",
    "python-duckdb": "duckdb",
    "pytorch": "torch",
    "snakemake-minimal": "snakemake",
}
#: Conda's build of Detectron2 decides which torch, fvcore and iopath there are, and OpenCV's packages
#: have other numbers.
FREE = {"fvcore", "iopath", "opencv-python-headless", "torch", "torchvision"}
#: conda's torch brings them.
OF_TORCH = {"filelock", "fsspec", "jinja2", "networkx", "sympy"}


def requirements(name):
    """The requirements of a file of envs/, whose lines may go on and end in a comment."""
    text = (ROOT / "envs" / name).read_text().replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*|--hash=\S+", "", line).strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def locked():
    """Package -> release, of all files that `make env` installs at run time."""
    pins = {}
    for name in ("requirements.txt", "torch.txt", "detectron2.txt", "timm.txt"):
        for requirement in requirements(name):
            [pin] = requirement.specifier
            assert pin.operator == "=="
            pins[canonicalize_name(requirement.name)] = pin.version
    return pins


def conda_packages():
    """PyPI's name -> conda's version, '' where there is none."""
    listed = yaml.safe_load((ROOT / "envs/scanmill.yaml").read_text())["dependencies"]
    parts = [line.partition(" ") for line in listed]
    return {PYPI_NAMES.get(name, name): version.strip() for name, _, version in parts}


def test_conda_has_the_locked_releases():
    pins = locked()
    shared = conda_packages().keys() & pins.keys() - FREE
    assert len(shared) > 25
    assert {name: conda_packages()[name] for name in shared} == {n: f"={pins[n]}" for n in shared}
    # Nothing else is pinned but Python, and bounds of what is free hold for what is locked.
    others = {name: version for name, version in conda_packages().items() if name not in shared}
    assert {name for name, version in others.items() if version.startswith("=")} == {"python"}
    for name in FREE & others.keys():
        assert Requirement(f"{name}{others[name]}").specifier.contains(pins[name])


def test_conda_has_all_that_is_required():
    wanted = {canonicalize_name(each.name) for each in requirements("requirements.in")}
    wanted |= {canonicalize_name(each.name) for each in requirements("timm.txt")}
    assert wanted - OF_TORCH - conda_packages().keys() == set()
    assert {"torch", "torchvision", "detectron2", "poppler"} <= conda_packages().keys()


# The image ----------------------------------------------------------------------------------------


def instructions():
    """(instruction, arguments) of the Containerfile."""
    text = (ROOT / "envs/Containerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [line.split(" ", 1) for line in lines.replace("\\\n", " ").splitlines() if line]


def pip_calls():
    """What the image's steps give to pip, word by word."""
    calls = [shlex.split(text)[1:] for name, text in instructions() if name == "RUN"]
    return [call for call in calls if call[0] == "install" and "-r" in call]


@pytest.fixture
def calls_of_make_env(monkeypatch, tmp_path):
    """What `make env` gives to pip."""
    calls = []
    site_packages = "/opt/scanmill/lib/python3.11/site-packages"
    monkeypatch.setattr(make_environment, "run_pip", lambda *words: calls.append(list(words)))
    monkeypatch.setattr(
        make_environment, "python_says", lambda code: site_packages if "purelib" in code else ""
    )
    monkeypatch.setattr(make_environment, "check_disk_space", lambda *_: None)
    (tmp_path / make_environment.VENV).mkdir()
    (tmp_path / "envs").symlink_to(ROOT / "envs")
    monkeypatch.chdir(tmp_path)
    make_environment.install_packages("pypi", "pypi")
    return calls


def test_the_image_is_made_in_the_steps_of_make_env(calls_of_make_env):
    *calls, scanmill = calls_of_make_env
    assert scanmill[-2:] == ["-e", "."]  # Of a clone that is mounted.
    spoken = (shlex.join(call) for call in calls)
    expected = [re.sub(r" --quiet| -r envs/development\.txt", "", each) for each in spoken]
    assert [shlex.join(call) for call in pip_calls()] == expected


def test_the_image_has_the_files_that_its_steps_read():
    [copied] = [text.split() for name, text in instructions() if name == "COPY"]
    assert copied[-1] == "envs/"
    read = [call[call.index("-r") + 1] for call in pip_calls()]
    assert copied[:-1] == read


def test_the_image_has_the_tools_that_the_doctor_wants_and_python_of_its_paths():
    text = " ".join(text for name, text in instructions() if name == "RUN")
    assert {"poppler-utils", "libjpeg-turbo-progs", "python3", "python3-venv"} <= set(text.split())
    # Bookworm has Python 3.11, which stands in a path.
    assert ["FROM", "docker.io/library/debian:bookworm-slim"] in instructions()
    assert set(re.findall(r"python(3\.\d+)", text)) == {"3.11"}
