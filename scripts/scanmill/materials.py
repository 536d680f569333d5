"""What synthetic pages are made of: texts and pictures, gathered from folders such as those that free
documentation is installed in.

`gather` writes a folder: articles.jsonl, phrases.json, pictures/. Nothing of it is part of Scanmill.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from scanmill.errors import UserError
from scanmill.manuscripts import (
    SENTENCE_END,
    gather_articles,
    gather_phrases,
    read_articles,
    write_articles,
)
from scanmill.progress import logger
from scanmill.sheets import Materials
from scanmill.typefaces import find_typefaces

#: Articles of one package, at most.
MOST_ARTICLES = 250
#: Pictures of one subfolder, at most.
MOST_PICTURES = 350
#: Pixels of a picture's sides: smaller ones are icons, larger ones are reduced.
LEAST_SIDE, MOST_SIDE = 90, 900
#: Bytes of drawings: smaller ones are signs, larger ones take long.
SMALLEST_DRAWING, LARGEST_DRAWING = 3000, 80_000
#: Sentences of a script, at most; articles of fewer are none to write in.
MOST_SENTENCES, LEAST_SENTENCES = 40_000, 150


def gather(
    sources: Mapping[str, Sequence[str]], folder: Path, workers: int = 2, seed: int = 0
) -> None:
    """Write what is found into `folder`.

    `sources` are folders: `texts` of HTML files and their pictures, `translations` of gettext's,
    `pictures` of further pictures. Those that are not there are passed over. Raises UserError where
    nothing is found.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts, translations, pictures = (
        [Path(each) for each in sources[name]] for name in ("texts", "translations", "pictures")
    )
    shutil.rmtree(folder / "pictures", ignore_errors=True)
    kinds = {"document": texts, "picture": pictures}
    found = sum(
        gather_pictures(folders, folder / "pictures", kind, workers, seed)
        for kind, folders in kinds.items()
    )
    counts = write_articles(gather_articles(texts, MOST_ARTICLES), folder / "articles.jsonl")
    phrases = gather_phrases(translations)
    (folder / "phrases.json").write_text(json.dumps(phrases, ensure_ascii=False), encoding="utf-8")
    logger.info("articles: %s", ", ".join(f"{script} {n}" for script, n in counts.most_common()))
    logger.info(
        "phrases: %s", ", ".join(f"{script} {len(known)}" for script, known in phrases.items())
    )
    logger.info("pictures: %d", found)
    if not counts or not found:
        raise UserError(
            f"There is no {'picture' if counts else 'article in HTML'} in the folders of "
            "synthesis.texts and synthesis.pictures. On Debian, `make synthesis-packages` installs "
            "thousands of each."
        )


def gather_pictures(
    folders: Iterable[Path], target: Path, kind: str, workers: int, seed: int
) -> int:
    """Copy pictures into `target`, under names that begin with `kind`, those of pixels as JPEG and
    reduced to MOST_SIDE; how many there are."""
    target.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    chosen: list[Path] = []
    for folder in folders:
        groups: dict[Path, list[Path]] = defaultdict(list)
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".svg"):
                groups[folder / path.relative_to(folder).parts[0]].append(path)
        for paths in groups.values():
            order = rng.permutation(len(paths))[:MOST_PICTURES]
            chosen += [paths[at] for at in order]
    jobs = [(path, target / f"{kind}-{number:05d}.jpg") for number, path in enumerate(chosen)]
    with ProcessPoolExecutor(workers) as pool:
        return sum(pool.map(_copy_picture, jobs, chunksize=32))


def _copy_picture(job: tuple[Path, Path]) -> bool:
    source, target = job
    if source.suffix.lower() == ".svg":
        if SMALLEST_DRAWING <= source.stat().st_size <= LARGEST_DRAWING:
            shutil.copyfile(source, target.with_suffix(".svg"))
            return True
        return False
    image = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim < 2 or min(image.shape[:2]) < LEAST_SIDE:
        return False
    if max(image.shape[:2]) > 5 * min(image.shape[:2]):
        return False
    if image.dtype != np.uint8:
        image = (image / 257).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] == 4:
        share = image[:, :, 3:].astype(np.float32) / 255
        image = (image[:, :, :3] * share + 255 * (1 - share)).astype(np.uint8)
    reduction = MOST_SIDE / max(image.shape[:2])
    if reduction < 1:
        image = cv2.resize(image, None, fx=reduction, fy=reduction, interpolation=cv2.INTER_AREA)
    if image.std() < 4:
        return False
    return cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, 85])


def load_materials(folder: Path, unseen: bool = False) -> Materials:
    """The materials that `gather` wrote, with the typefaces to learn from, or the unseen ones.

    Raises UserError where they are not there.
    """
    if not (folder / "phrases.json").exists():
        raise UserError(f"There are no materials in {folder}: they are gathered first.")
    articles = defaultdict(list)
    for article in read_articles(folder / "articles.jsonl"):
        articles[article.script].append(article)
    sentences: dict[str, list[str]] = defaultdict(list)
    headings: dict[str, list[str]] = defaultdict(list)
    for script, ours in articles.items():
        for article in ours:
            for block in article.blocks:
                if block.kind == "paragraph":
                    sentences[script] += _sentences(block.text)
                elif block.kind == "heading":
                    headings[script].append(block.text)
    phrases = json.loads((folder / "phrases.json").read_text(encoding="utf-8"))
    for script, known in phrases.items():
        sentences[script] += known
    enough = {
        script: _thinned(found)
        for script, found in sentences.items()
        if len(found) >= LEAST_SENTENCES
    }
    paths = sorted(str(path.resolve()) for path in (folder / "pictures").iterdir())
    # Documentation is rich in screenshots; as often, a picture is a photograph or a drawing.
    others = [path for path in paths if Path(path).name.startswith("picture-")]
    typefaces = find_typefaces(unseen)
    if not set(typefaces) & set(enough):
        raise UserError(
            f"There is no typeface {'that is held back ' if unseen else ''}for texts in "
            f"{', '.join(sorted(enough)) or 'any script'}. On Debian: apt-get install fonts-dejavu "
            "fonts-liberation"
        )
    pictures = paths + others * max(0, round(len(paths) / max(1, len(others))) - 2)
    return Materials(dict(articles), enough, dict(headings), pictures, typefaces)


def _sentences(text: str) -> Iterator[str]:
    for sentence in SENTENCE_END.split(text):
        if 12 <= len(sentence) <= 400 and not re.search(r"https?:|[{}\\|]|--", sentence):
            yield sentence


def _thinned(found: Sequence[str]) -> Sequence[str]:
    step = max(1, len(found) // MOST_SENTENCES)
    return found[::step]
