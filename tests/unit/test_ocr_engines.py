"""Crops are read by the real engines; what they cannot read fails alone."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from printed import TEXT, needs_tesseract, png, printed

from scanmill import ocr_engines
from scanmill.errors import UserError
from scanmill.lines import Line
from scanmill.ocr import run_task
from scanmill.workers import Worker

LIMITS = {"cpu_seconds": 120, "wall_seconds": 120, "memory_mb": 8192}
ENGINES = ["rapidocr", pytest.param("tesseract", marks=needs_tesseract)]


@pytest.fixture(scope="module")
def worker():
    worker = Worker("scanmill.ocr_engines")
    yield worker
    worker.close()


def read(worker, folder, engine, *contents, dpi=300.0, **limits):
    """What an engine makes of image files with these contents."""
    items = []
    for number, content in enumerate(contents):
        path = folder / f"{number}"
        path.write_bytes(content)
        items.append({"path": str(path), "dpi": dpi})
    task = {"engine": engine, "languages": ["eng"], "limits": {**LIMITS, **limits}}
    return run_task(worker, task, "crops", items)


def texts(outcome):
    return [line.text for line in outcome]


# Reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_crops_are_read_line_by_line_with_boxes_and_confidence(worker, tmp_path, engine):
    blank = np.full((200, 300), 255, np.uint8)
    bilevel = cv2.threshold(printed(TEXT[:1]), 128, 255, cv2.THRESH_BINARY)[1]
    colour = cv2.cvtColor(printed(), cv2.COLOR_GRAY2BGR)
    found = read(worker, tmp_path, engine, png(printed()), png(blank), png(bilevel), png(colour))
    assert [texts(each) for each in found] == [list(TEXT), [], list(TEXT[:1]), list(TEXT)]
    for number, line in enumerate(found[0]):
        middle = 12 + 66 * number + 25
        assert line.y_min < middle < line.y_max
        assert line.y_max - line.y_min < 70
        assert line.x_min == pytest.approx(12, abs=12)
        assert 0.8 < line.confidence <= 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_crop_reads_the_same_alone_and_among_others(worker, tmp_path, engine):
    crops = [png(printed((line,))) for line in (*TEXT, "a", "A much longer line " * 3)]
    assert read(worker, tmp_path, engine, *crops)[1] == read(worker, tmp_path, engine, crops[1])[0]


def test_small_and_large_type_is_read_at_its_resolution(worker, tmp_path):
    small = cv2.resize(printed(), None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    large = cv2.resize(printed(), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    for pixels, dpi in ((small, 120.0), (large, 600.0)):
        [found] = read(worker, tmp_path, "rapidocr", png(pixels), dpi=dpi)
        assert texts(found) == list(TEXT)


def test_rapidocr_fetches_nothing(tmp_path):
    # Without a network there is no other address than that of the machine itself.
    code = (
        "import socket, pathlib, rapidocr\n"
        "def refuse(*arguments): raise AssertionError('it asks the network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "models = pathlib.Path(rapidocr.__file__).parent / 'models'\n"
        "before = sorted(models.iterdir())\n"
        "from scanmill.ocr_engines import load_rapidocr\n"
        "reader = load_rapidocr()\n"
        "reader._load_det_model(), reader._load_rec_model()\n"
        "assert sorted(models.iterdir()) == before\n"
    )
    path = str(Path(ocr_engines.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_languages_of_rapidocr_are_those_of_its_model():
    from rapidocr import RapidOCR

    said = set(RapidOCR.list_supported_langs("rec", "PP-OCRv6", "small"))
    # Two stand there twice, by their code and by their name.
    assert len(ocr_engines.RAPIDOCR_LANGUAGES) == len(said - {"french", "german"})


# Failing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_damaged_crop_fails_alone(worker, tmp_path, engine):
    good = png(printed(TEXT[:1]))
    found = read(worker, tmp_path, engine, good, b"no image", good)
    assert [texts(found[0]), texts(found[2])] == [[TEXT[0]]] * 2
    reason, message = found[1]
    assert reason == {"rapidocr": "corrupt", "tesseract": "engine"}[engine]
    assert message


def test_a_process_that_ends_costs_the_crop_it_was_at(worker, tmp_path):
    large = png(printed(TEXT * 60))
    good = png(printed(TEXT[:1]))
    found = read(worker, tmp_path, "rapidocr", good, large, good, cpu_seconds=4)
    assert [texts(found[0]), texts(found[2])] == [[TEXT[0]]] * 2
    assert found[1] == ("timeout", "more than images.limits.cpu_seconds (4 s)")


@pytest.fixture
def broken_tesseract(tmp_path, monkeypatch):
    """Tesseract that does as it is told, by the first byte of a file in its list, before it reads."""
    real = ocr_engines.shutil.which("tesseract")
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "tesseract"
    script.write_text(
        "#!/bin/bash\n"
        'if [ -f "$1" ]; then while read -r file; do case "$(head -c 4 "$file")" in\n'
        "  kill) kill -SEGV $$;; hang) sleep 300;;\n"
        'esac; done < "$1"; fi\n'
        f'exec {real} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@needs_tesseract
@pytest.mark.parametrize(
    ("what", "failure"),
    [
        (b"kill", ("engine", "Tesseract ended by SIGSEGV")),
        (b"hang", ("timeout", "nothing within images.limits.wall_seconds (6 s)")),
    ],
)
def test_a_tesseract_that_dies_or_hangs_costs_one_crop(tmp_path, broken_tesseract, what, failure):
    worker = Worker("scanmill.ocr_engines")
    good = png(printed(TEXT[:1]))
    try:
        found = read(worker, tmp_path, "tesseract", good, what, good, wall_seconds=6)
    finally:
        worker.close()
    assert [texts(found[0]), found[1], texts(found[2])] == [[TEXT[0]], failure, [TEXT[0]]]


@pytest.mark.parametrize(
    ("code", "reason"),
    [(-24, "timeout"), (-9, "memory"), (-6, "memory"), (-11, "engine"), (1, "engine")],
)
def test_reasons_of_deaths(code, reason):
    assert ocr_engines.reason_of_death(code, "It", LIMITS)[0] == reason


def test_tsv_of_several_images():
    head = "level page_num block_num par_num line_num word_num left top width height conf text"
    rows = [
        "1 1 0 0 0 0 0 0 90 50 -1 ",
        "4 1 1 1 1 0 5 6 70 20 -1 ",
        '5 1 1 1 1 1 5 6 30 20 90 "Tis',
        "5 1 1 1 1 2 40 6 35 20 60 a",
        "4 1 1 1 2 0 5 30 70 20 -1 ",
        "5 1 1 1 2 1 5 30 30 20 -1  ",
        "1 2 0 0 0 0 0 0 90 50 -1 ",
    ]
    text = "\n".join(row.replace(" ", "\t", 11) for row in [head, *rows])
    quoted = Line('"Tis a', pytest.approx((0.9 * 4 + 0.6) / 5), 5, 6, 75, 26)
    assert ocr_engines.parse_tsv(text) == {0: [quoted], 1: []}
    assert ocr_engines.parse_tsv("") == {}


# What is not there --------------------------------------------------------------------------------


def test_rapidocr_that_is_not_there_and_what_it_does_not_read(monkeypatch):
    assert ocr_engines.check_engine("rapidocr", ["eng", "deu"]).startswith("rapidocr 3")
    with pytest.raises(UserError, match=r"names rus, which RapidOCR.*It reads afr, .*tesseract"):
        ocr_engines.check_engine("rapidocr", ["eng", "rus"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"cannot be imported.*pip install rapidocr onnxruntime"):
        ocr_engines.check_engine("rapidocr", ["eng"])


@needs_tesseract
def test_a_language_that_tesseract_has_not():
    assert ocr_engines.check_engine("tesseract", ["eng"]).startswith("tesseract 5")
    with pytest.raises(
        UserError, match=r"chi_sim_vert.*apt-get install tesseract-ocr-chi-sim-vert\)"
    ):
        ocr_engines.check_engine("tesseract", ["eng", "chi_sim_vert"])


def test_a_tesseract_that_is_not_there(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        UserError, match=r"not on the PATH.*apt-get install tesseract-ocr tesseract-ocr-deu;"
    ):
        ocr_engines.check_engine("tesseract", ["deu"])
