"""Whether flags find pages that are not as the others: pages planted in ordinary documents.

`make benchmark-flags`. Plants blank pages, photographs that fill the page, pages upside down and dense
newspapers in documents of the demo archive's kinds, runs the workflow, and compares `flags` in
results/pages with what was planted.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import cv2
import numpy as np
import pyarrow.dataset
import pypdfium2
from make_demo_archive import LETTER, age_page, write_scanned_pdf, write_vector_pdf

KINDS = ("blank", "photograph", "upside down", "newspaper")
#: Pages of a document before others are planted in it.
LENGTH = 15
DPI = 150
#: Points: a broadsheet of twice the sides of A4, in type of the same size.
BROADSHEET = (1190.0, 1684.0)
#: As the demo archive makes its documents, but for newspapers.
BUILDERS = (
    write_vector_pdf,
    partial(write_vector_pdf, size=LETTER),
    partial(write_scanned_pdf, kind="g4", dpi=300),
    partial(write_scanned_pdf),
    partial(write_scanned_pdf, grey=False, size=LETTER),
)


def draw_pages(path: Path) -> Iterator[np.ndarray]:
    """The pages of a PDF: (H, W, 3) uint8 BGR."""
    with pypdfium2.PdfDocument(path) as pdf:
        for page in pdf:
            yield page.render(scale=DPI / 72, rev_byteorder=False).to_numpy()[..., :3]


def blank(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    """A page with nothing on it: white, or aged and scanned as others are."""
    white = np.full_like(like, 255)
    return white if rng.random() < 0.3 else age_page(rng, white)


def photograph(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    """A photograph to the edges of the page, or almost: clouds of several sizes, and grain."""
    height, width = like.shape[:2]
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(2, 9):
        cells = rng.random((2**octave, 2**octave, 3)).astype(np.float32)
        picture += cv2.resize(cells, (width, height), interpolation=cv2.INTER_CUBIC) / 1.6**octave
    picture = cv2.normalize(picture, None, 10, 235, cv2.NORM_MINMAX)
    picture += rng.normal(0, 6, (height, width, 1))
    page = picture.clip(0, 255).astype(np.uint8)
    margin = round(rng.uniform(0, 0.03) * width)
    if margin:
        cv2.rectangle(page, (0, 0), (width - 1, height - 1), (255, 255, 255), 2 * margin)
    return page


def upside_down(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    """A page of the same document, put into the scanner the wrong way."""
    return np.ascontiguousarray(like[::-1, ::-1])


def newspaper(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    """A page of a newspaper that was filed with other things."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "newspaper.pdf")
        write_scanned_pdf(path, 1, int(rng.integers(1 << 30)), "g4", 200, size=BROADSHEET)
        return next(draw_pages(path))


PLANTS = dict(zip(KINDS, (blank, photograph, upside_down, newspaper), strict=True))


def make_archive(archive: Path, documents: int, each: int, seed: int) -> dict[tuple, str]:
    """Write folders of page images; returns (document, page) -> kind of every planted page.

    Of each kind there are `each`, dealt to the documents in turn.
    """
    rng = np.random.default_rng(seed)
    dealt = rng.permutation(np.repeat(KINDS, each)).tolist()
    planted = {}
    for number in range(documents):
        folder = archive / f"{number:03d}"
        folder.mkdir(parents=True)
        pdf = archive.parent / "ordinary.pdf"
        BUILDERS[number % len(BUILDERS)](pdf, LENGTH, seed * 1000 + number)
        ordinary = list(draw_pages(pdf))
        pages = [(None, page) for page in ordinary]
        for kind in dealt[number::documents]:
            like = ordinary[int(rng.integers(len(ordinary)))]
            pages.insert(int(rng.integers(len(pages) + 1)), (kind, PLANTS[kind](rng, like)))
        for place, (kind, page) in enumerate(pages, start=1):
            cv2.imwrite(str(folder / f"{place:03d}.jpg"), page)
            if kind:
                planted[folder.name, place] = kind
    return planted


def run(archive: Path, directory: Path) -> dict[tuple, list[str]]:
    """Run the workflow; returns (document, page) -> flags."""
    command = ["snakemake", "--cores", "2", "--directory", directory]
    command += ["--config", f"archive={archive}"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    pages = pyarrow.dataset.dataset(directory / "results" / "pages").to_table()
    columns = (pages[name].to_pylist() for name in ("document", "page", "flags"))
    return {(document, page): flags for document, page, flags in zip(*columns, strict=True)}


def describe(planted: dict[tuple, str], flags: dict[tuple, list[str]]) -> Iterator[str]:
    """Lines: of each kind how many are flagged, by which flags; how much of the list is ordinary."""
    yield f"{'kind':<14}{'pages':>7}{'listed':>8}   by"
    for kind in (*KINDS, None):
        mine = [flags[page] for page in flags if planted.get(page) == kind]
        by = Counter(flag for names in mine for flag in names).most_common()
        said = ", ".join(f"{flag} {count}" for flag, count in by)
        yield f"{kind or 'ordinary':<14}{len(mine):>7}{sum(map(bool, mine)):>8}   {said}"
    listed = {page for page, names in flags.items() if names}
    found = len(listed & planted.keys())
    yield f"of the planted, listed: {found / len(planted):.1%}"
    yield f"of the list, ordinary: {1 - found / max(len(listed), 1):.1%}"


def main() -> None:
    """Make an archive, run the workflow, print what is flagged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--each", type=int, default=10, help="planted pages of each kind")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "archive")
        planted = make_archive(archive, given.documents, given.each, given.seed)
        flags = run(archive, Path(folder, "run"))
    print("\n".join(describe(planted, flags)))


if __name__ == "__main__":
    main()
