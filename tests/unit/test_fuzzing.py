"""PDFs with flipped bits and missing ends: always rows, never a traceback, never a hang.

200 cases; `make fuzz CASES=2000` makes more of them.
"""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import make_demo_archive as demo
import numpy as np
import pytest
import scan_pdfs as scans
from rendered import MARKS as MARKS_OF_PAGES
from rendered import content_of, task, write_bomb, write_pdf

from scanmill.rendering import render_document
from scanmill.tables import REASONS, from_rows
from scanmill.workers import WorkerPool

CASES = int(os.environ.get("FUZZ_CASES", "200"))
#: A child's limits: a case must be over soon.
LIMITS = {"cpu_seconds": 10, "wall_seconds": 60, "memory_mb": 4096, "max_pixels": 5e6}
#: What the three ways to make a page may take together, on a busy machine.
PATIENCE = 200


def seeds(folder):
    """Twenty small PDFs of every make."""
    size = scans.BROKEN_BLOCKS
    grey, colour = scans.picture(size), scans.picture(size, grey=False)
    bilevel = scans.bilevel(size)
    streams = {
        "jpeg": scans.jpeg(grey),
        "jpeg-colour": scans.jpeg(colour),
        "progressive": scans.jpeg(colour, progressive=True),
        "cmyk": scans.jpeg(colour, "CMYK"),
        "jpx": scans.jpeg2000(colour),
        "g4": scans.g4(bilevel),
        "jbig2": scans.jbig2(bilevel),
        "flate": scans.flate(grey),
        "flate-1": scans.flate_bits(bilevel),
        "stencil": scans.stencil(bilevel),
        "indexed": scans.indexed(grey, [(0, 0, 0), (255, 0, 0), (255, 255, 255)]),
    }
    paths = [
        scans.write_scan(folder / f"{name}.pdf", stream, rotate=90 * (number % 4), hidden_text=True)
        for number, (name, stream) in enumerate(streams.items())
    ]
    small = (200, 280)
    demo.write_vector_pdf(folder / "text.pdf", 2, 1, small)
    demo.write_mixed_pdf(folder / "mixed.pdf", 2, 2, (small, (150, 150)))
    demo.write_scanned_pdf(folder / "scan.pdf", 1, 3, dpi=72, size=small)
    demo.write_scanned_pdf(folder / "fax.pdf", 1, 4, kind="g4", dpi=100, size=small)
    demo.write_rotated_pdf(folder / "rotated.pdf", 2, 5, dpi=50)
    demo.write_encrypted_pdf(folder / "locked.pdf", 1, 6)
    write_bomb(folder / "forms.pdf", levels=2)
    marks = {"content": content_of(MARKS_OF_PAGES, 0, 0)}
    write_pdf(folder / "marks.pdf", *(marks for _ in range(3)))
    write_pdf(folder / "boxes.pdf", {"media": (-50, 100, 150, 400), "crop": (0, 120, 90, 300)})
    paths += [path for path in sorted(folder.glob("*.pdf")) if path not in paths]
    assert len(paths) == 20
    return [path.read_bytes() for path in paths]


def damage(data, rng):
    """Bits flipped all over, bytes replaced in one place, or the end missing."""
    data = bytearray(data)
    how = rng.integers(4)
    if how == 0:
        return bytes(data[: rng.integers(1, len(data))])
    if how == 1:
        for place in rng.integers(0, len(data), rng.integers(1, 30)):
            data[place] ^= 1 << rng.integers(8)
    elif how == 2:
        start = rng.integers(0, len(data))
        data[start : start + 40] = rng.bytes(40)
    else:  # A digit of a number: sizes, offsets, references.
        digits = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
        for place in rng.choice(digits, min(len(digits), rng.integers(1, 6)), replace=False):
            data[place] = rng.integers(48, 58)
    return bytes(data)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What became of each case: (seconds, rows)."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "seeds").mkdir()
    whole = seeds(folder / "seeds")
    pool = WorkerPool(2, "scanmill.rendering")

    def one(case):
        rng = np.random.default_rng(case)
        path = folder / f"{case}.pdf"
        path.write_bytes(damage(whole[case % len(whole)], rng))
        request = task(path, folder / f"images-{case}", engine="auto", lift=True, **LIMITS)
        started = time.monotonic()
        rows = render_document(pool, request, lambda: None)
        return time.monotonic() - started, rows

    with ThreadPoolExecutor(2) as executor:
        results = list(executor.map(one, range(CASES)))
    pool.close()
    return folder, results


def test_every_case_ends_as_rows(outcomes):
    folder, results = outcomes
    assert len(results) == CASES
    for case, (spent, rows) in enumerate(results):
        assert rows, case
        assert spent < PATIENCE, case
        from_rows("images", [{"document": str(case), **row} for row in rows])
        for row in rows:
            if row["status"] == "ok":
                assert (folder / f"images-{case}" / row["image"]).stat().st_size, case
            else:
                assert row["reason"] in REASONS, case
                assert row["message"], case
                assert "Traceback" not in row["message"], case


def test_damage_does_what_it_should(outcomes):
    """Some are made nonetheless, in each of the ways there are; some are not."""
    _, results = outcomes
    rows = [row for _, found in results for row in found]
    sources = Counter(row.get("source") for row in rows if row["status"] == "ok")
    reasons = Counter(row["reason"] for row in rows if row["status"] != "ok")
    print(dict(sources), dict(reasons))
    assert sources.keys() == {"lifted", "rendered"}
    assert reasons["corrupt"] > CASES / 50
    assert sum(sources.values()) > CASES / 4


def test_nothing_is_left_behind(outcomes):
    folder, _ = outcomes
    assert not [path for path in folder.glob("images-*/*") if path.is_dir()]
