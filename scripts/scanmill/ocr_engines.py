"""What reads crops: RapidOCR and Tesseract, behind one function, in worker processes.

`python -m scanmill.ocr_engines` is such a process (see `workers`). Its tasks are crops to recognize, or
pages of a PDF whose text is wanted; what it cannot read is a failure of that crop alone.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from scanmill.errors import UserError
from scanmill.image_files import decode
from scanmill.lines import Line, join_pieces
from scanmill.pdf_text import PdfiumError, read_pages
from scanmill.workers import limit_cpu, serve, too_much_memory, too_slow

if TYPE_CHECKING:
    from rapidocr import RapidOCR

#: RapidOCR looks for lines at this resolution, dots per inch, and reads them at the crop's own. On 50
#: clean regions of 300 dpi, 0.01 % of the characters are wrong then, as with lines looked for at 300
#: dpi, which takes four times as long; on 15 of 150 dpi none are, and 1.6 % with those of 75 dpi.
DETECTION_DPI = 150.0
#: The most that a crop is made smaller or larger for that: a resolution may be wrong.
SCALES = (0.25, 2.0)
#: White that is put around a crop for RapidOCR, in pixels, lest letters touch its edge.
MARGIN = 10

#: The languages that RapidOCR's model (PP-OCRv6 small, in its wheel) reads, by Tesseract's names: of
#: `RapidOCR.list_supported_langs("rec", "PP-OCRv6", "small")`.
RAPIDOCR_LANGUAGES = (
    *("afr", "aze", "bos", "cat", "ces", "chi_sim", "chi_tra", "cym", "dan", "deu", "eng", "est"),
    *("eus", "fil", "fin", "fra", "gle", "glg", "hrv", "hun", "ind", "isl", "ita", "jpn", "kmr"),
    *("lat", "lav", "lit", "ltz", "mlt", "mri", "msa", "nld", "nor", "oci", "pol", "por", "que"),
    *("roh", "ron", "slk", "slv", "spa", "sqi", "srp_latn", "swa", "swe", "tur", "uzb", "vie"),
)

#: Tesseract's page segmentation: a region is one block of text.
TESSERACT_BLOCK = 6
#: The resolution that Tesseract takes for granted where a crop does not say: it would guess.
TESSERACT_DPI = 300
#: Levels of Tesseract's TSV.
_LINE, _WORD = "4", "5"
_TSV = ("level", "page", "block", "paragraph", "line", "word", "left", "top", "width", "height")

#: A failed crop: reason and message.
Failure = tuple[str, str]


# Before anything starts ---------------------------------------------------------------------------


def check_engine(engine: str, languages: Sequence[str]) -> str:
    """The engine's name and version. UserError where it, or a language, is not there."""
    if engine == "rapidocr":
        return _check_rapidocr(languages)
    return _check_tesseract(languages)


def _check_rapidocr(languages: Sequence[str]) -> str:
    try:
        for name in ("rapidocr", "onnxruntime"):
            import_module(name)
    except ImportError as error:
        raise UserError(
            f"ocr.engine is `rapidocr`, which cannot be imported ({error}). Install it (`make env`, or "
            "pip install rapidocr onnxruntime), or set ocr.engine: tesseract."
        ) from error
    unread = [name for name in languages if name not in RAPIDOCR_LANGUAGES]
    if unread:
        raise UserError(
            f"ocr.languages names {', '.join(unread)}, which RapidOCR's model does not read. It reads "
            f"{', '.join(RAPIDOCR_LANGUAGES)}. For others set ocr.engine: tesseract."
        )
    return f"rapidocr {metadata.version('rapidocr')}"


def _check_tesseract(languages: Sequence[str]) -> str:
    if shutil.which("tesseract") is None:
        raise UserError(
            "ocr.engine is `tesseract`, but tesseract is not on the PATH. Install it (Debian and "
            f"Ubuntu: apt-get install tesseract-ocr {' '.join(map(_debian_package, languages))}; conda: "
            "tesseract), or set ocr.engine: rapidocr."
        )
    listed = _ask_tesseract("--list-langs").splitlines()[1:]
    missing = [name for name in languages if name not in listed]
    if missing:
        raise UserError(
            f"ocr.languages names {', '.join(missing)}, for which Tesseract has no data (it has "
            f"{', '.join(listed) or 'none'}). Install them (Debian and Ubuntu: apt-get install "
            f"{' '.join(map(_debian_package, missing))}), or put NAME.traineddata into the folder that "
            "TESSDATA_PREFIX names."
        )
    found = re.search(r"tesseract v?(\S+)", _ask_tesseract("--version"))
    return f"tesseract {found[1] if found else 'of unknown version'}"


def _debian_package(language: str) -> str:
    return f"tesseract-ocr-{language.replace('_', '-').lower()}"


def _ask_tesseract(option: str) -> str:
    said = subprocess.run(["tesseract", option], capture_output=True, text=True, check=False)
    return said.stdout + said.stderr


# In the worker process ----------------------------------------------------------------------------


def work(task: Mapping[str, Any], say: Callable[..., None]) -> None:
    """Do a task and report, by number from 0: `begun` with an item, its `lines`, or that it `failed`.

    Items are `pages` of a PDF, each with a list of lines (or null) for each of its boxes, in pixels of
    the page image; or `crops`, each with its lines, in pixels of the crop.
    """

    def tell(number: int) -> None:
        limit_cpu(task["limits"]["cpu_seconds"])
        say(event="begun", item=number)

    read = _read_pdf if "pages" in task else ENGINES[task["engine"]]
    for number, outcome in read(task, tell):
        if isinstance(outcome, list):
            say(event="lines", item=number, lines=outcome)
        else:
            say(event="failed", item=number, failure=outcome)


def _read_pdf(
    task: Mapping[str, Any], tell: Callable[[int], None]
) -> Iterator[tuple[int, list[list[Line] | None] | Failure]]:
    path = os.fsdecode(bytes.fromhex(task["path"]))
    texts = read_pages(path, task["pages"], task["trusted"])
    try:
        for number in range(len(task["pages"])):
            tell(number)
            yield number, next(texts)
    except PdfiumError as error:  # It does not open.
        for number in range(len(task["pages"])):
            yield number, ("corrupt", f"PDFium: {error}")


# RapidOCR -----------------------------------------------------------------------------------------


def read_with_rapidocr(
    task: Mapping[str, Any], tell: Callable[[int], None]
) -> Iterator[tuple[int, list[Line] | Failure]]:
    """Crop by crop."""
    reader = load_rapidocr()
    for number, crop in enumerate(task["crops"]):
        tell(number)
        pixels = decode(Path(crop["path"]).read_bytes())
        if pixels is None:
            yield number, ("corrupt", "the crop cannot be decoded")
            continue
        try:
            yield number, _read_pixels(reader, pixels, crop["dpi"])
        except Exception as error:  # Whatever onnxruntime makes of it.
            message = f"RapidOCR: {type(error).__name__}: {str(error)[-300:]}"
            out_of_memory = isinstance(error, MemoryError) or "bad_alloc" in str(error)
            memory = ("memory", too_much_memory(task["limits"]))
            yield number, memory if out_of_memory else ("engine", message)


def load_rapidocr() -> RapidOCR:
    """RapidOCR with the models of its wheel, on one thread: crops are read side by side instead.

    One line at a time, since a batch of lines is padded to its widest, so that what a line reads might
    depend on the others; on CPUs, batches of six take a fifth longer, too.
    """
    cv2.setNumThreads(1)
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "error",
            # Its own resizing and black margins are left out: `_read_pixels` does that.
            "Global.max_side_len": 1 << 20,
            "Global.use_vertical_padding": False,
            "Det.limit_side_len": 32,
            "Rec.rec_batch_num": 1,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def _read_pixels(reader: RapidOCR, pixels: np.ndarray, dpi: float) -> list[Line]:
    """The lines of a crop, (H, W) or (H, W, 3) uint8, of a page of so many dots per inch."""
    if pixels.ndim == 2:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR)
    padded = cv2.copyMakeBorder(pixels, *[MARGIN] * 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    scale = float(np.clip(DETECTION_DPI / dpi, *SCALES))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    found = reader(
        cv2.resize(padded, None, fx=scale, fy=scale, interpolation=smooth),
        use_cls=False,
        use_rec=False,
    )
    if found.boxes is None:
        return []
    corners = (found.boxes / scale).astype(np.float32)
    read = reader.recognize_txt(reader.crop_text_regions(padded, corners))
    height, width = pixels.shape[:2]
    pieces = []
    for text, confidence, quad in zip(read.txts, read.scores, corners, strict=True):
        box = np.concatenate([quad.min(axis=0), quad.max(axis=0)]) - MARGIN
        if text.strip():
            box = box.clip(0, [width, height, width, height])
            pieces.append(Line(text.strip(), float(confidence), *box.tolist()))
    return join_pieces(pieces)


# Tesseract ----------------------------------------------------------------------------------------


def read_with_tesseract(
    task: Mapping[str, Any], tell: Callable[[int], None]
) -> Iterator[tuple[int, list[Line] | Failure]]:
    """All crops by one process, whose start takes 0.15 s, and a crop of nine lines 0.2 s; what it leaves
    out one by one."""
    crops, limits = [Path(crop["path"]) for crop in task["crops"]], task["limits"]
    languages, done = "+".join(task["languages"]), {}
    limit_cpu(limits["cpu_seconds"] * len(crops))
    with contextlib.suppress(subprocess.TimeoutExpired):
        _, done = _call_tesseract(crops, languages, limits["wall_seconds"] / 4)
        yield from done.items()
    for number in [number for number in range(len(crops)) if number not in done]:
        tell(number)
        # One that hangs is ended with this process, by who waits for it.
        code, alone = _call_tesseract([crops[number]], languages, None)
        yield number, alone[0] if alone else reason_of_death(code, "Tesseract", limits)


def _call_tesseract(
    crops: Sequence[Path], languages: str, patience: float | None
) -> tuple[int, dict[int, list[Line]]]:
    """Tesseract's exit status, and the lines of the crops that it came to the end of.

    Raises TimeoutExpired after `patience` seconds.
    """
    with tempfile.TemporaryDirectory(dir=crops[0].parent) as folder:
        names = Path(folder, "crops.txt")
        names.write_bytes(b"".join(os.fsencode(path) + b"\n" for path in crops))
        command = ["tesseract", names, Path(folder, "lines"), "-l", languages]
        command += ["--psm", str(TESSERACT_BLOCK), "--dpi", str(TESSERACT_DPI), "tsv"]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            # On 2 cores a crop takes 0.4 s with one thread, and 1.1 s with as many as it likes.
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
            check=False,
        )
        written = Path(folder, "lines.tsv")
        text = written.read_text(encoding="utf-8") if written.exists() else ""
    found = parse_tsv(text)
    if done.returncode:
        found.pop(max(found, default=None), None)  # At which it died, or which is not whole.
    return done.returncode, found


def parse_tsv(text: str) -> dict[int, list[Line]]:
    """The lines of each image, from 0, of which Tesseract's TSV has a row."""
    found: dict[int, list[Line]] = {}
    words: list[tuple[str, float]] = []
    box: list[float] = []

    def close(lines: list[Line]) -> None:
        if words:
            confidence = np.average([c for _, c in words], weights=[len(w) for w, _ in words])
            lines.append(Line(" ".join(word for word, _ in words), float(confidence), *box))
        words.clear()

    lines: list[Line] = []
    rows = csv.reader(text.splitlines()[1:], delimiter="\t", quoting=csv.QUOTE_NONE)
    for row in (dict(zip((*_TSV, "confidence", "text"), each, strict=False)) for each in rows):
        if row["level"] in (_LINE, "1"):
            close(lines)
            lines = found.setdefault(int(row["page"]) - 1, [])
            left, top, width, height = (float(row[name]) for name in _TSV[-4:])
            box = [left, top, left + width, top + height]
        elif row["level"] == _WORD and row.get("text", "").strip():
            words.append((row["text"], max(float(row["confidence"]), 0.0) / 100))
    close(lines)
    return found


ENGINES = {"rapidocr": read_with_rapidocr, "tesseract": read_with_tesseract}


def reason_of_death(code: int, what: str, limits: Mapping[str, float]) -> Failure:
    """Why a process that ended with this status could not read a crop."""
    if code == -signal.SIGXCPU:
        return "timeout", too_slow(limits)
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
    # SIGKILL comes from the kernel, SIGABRT from C++, status 127 from glibc, where memory ends.
    if code in (-signal.SIGKILL, -signal.SIGABRT, 127):
        return "memory", f"{what} ended {how}, as when memory runs out"
    return "engine", f"{what} ended {how}"


def prepare(task: Mapping[str, Any]) -> None:
    """Import what a task needs: 0.9 s, and a crop of nine lines is read in 0.5 s."""
    if task.get("engine") == "rapidocr":
        import_module("rapidocr.main")
        import_module("rapidocr.inference_engine.onnxruntime")


if __name__ == "__main__":
    serve(work, prepare)
