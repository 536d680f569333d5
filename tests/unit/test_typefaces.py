"""Typefaces are found by script, and those kept for judging are never shown in training."""

import subprocess

import pytest
from typeset import needs_chromium

from scanmill import typefaces
from scanmill.errors import UserError
from scanmill.typefaces import SCRIPTS, find_typefaces, held_back


@needs_chromium
def test_no_family_is_on_both_sides():
    seen, unseen = find_typefaces(), find_typefaces(unseen=True)

    def families(found):
        return {name for faces in found.values() for kind in faces for name in kind}

    assert families(seen)
    assert not families(seen) & families(unseen)
    assert all(map(held_back, families(unseen)))


@needs_chromium
def test_a_family_has_the_letters_of_its_script():
    for script, faces in find_typefaces().items():
        listed = subprocess.run(
            ["fc-list", f":charset={ord(SCRIPTS[script]):x}", "--format", "%{family}\n"],
            capture_output=True,
            text=True,
        ).stdout
        assert all(name in listed for name in faces.text)


def test_faces_are_sorted_by_what_they_serve(monkeypatch):
    listed = [
        ("Plain Serif", True),
        ("Thin Sans", False),
        ("Joe Handwriting", True),
        ("Noto Emoji", True),
    ]
    monkeypatch.setattr(typefaces, "_families", lambda letter: listed)
    monkeypatch.setattr(typefaces, "held_back", lambda family: False)
    monkeypatch.setattr(typefaces.shutil, "which", lambda _: "fc-list")
    latin = find_typefaces()["Latn"]
    assert latin == (("Plain Serif",), ("Thin Sans",), ("Joe Handwriting",))
    assert find_typefaces(unseen=True) == {}


def test_about_a_sixth_is_held_back():
    names = [f"Family {i}" for i in range(4000)]
    assert 0.13 < sum(map(held_back, names)) / len(names) < 0.17


def test_without_fontconfig_the_error_names_the_package(monkeypatch):
    monkeypatch.setattr(typefaces.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="apt-get install fontconfig"):
        find_typefaces()
