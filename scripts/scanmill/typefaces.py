"""The typefaces that are installed, by script: for text, for display, and some kept for judging.

Fontconfig knows them. A family of which there is a bold face is one to set text with; others serve for
headings. Families are divided by a digest of their name, so that a detector can be judged on pages in
typefaces that it never saw.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterable
from typing import NamedTuple

from scanmill.errors import UserError

#: A letter by which a script is told, and the one that every family of it must have.
SCRIPTS = {
    "Latn": "é",
    "Cyrl": "ж",
    "Grek": "λ",
    "Hebr": "א",
    "Arab": "ع",
    "Deva": "क",
    "Beng": "ক",
    "Taml": "க",
    "Telu": "క",
    "Knda": "ಕ",
    "Mlym": "ക",
    "Gujr": "ક",
    "Guru": "ਕ",
    "Orya": "କ",
    "Sinh": "ක",
    "Thai": "ก",
    "Laoo": "ກ",
    "Khmr": "ក",
    "Mymr": "က",
    "Geor": "ა",
    "Armn": "ա",
    "Ethi": "ሀ",
    "Hans": "们",
    "Jpan": "の",
    "Kore": "가",
}
#: Share of families that no page to learn from is set in.
HELD_BACK = 0.15
#: Families that are no type to read: symbols, emoji, music, bar codes, dots to trace, aenigma's jokes.
_NOT_TYPE = re.compile(
    r"symbol|emoji|awesome|icon|dingbat|ornament|music|braille|barcode|math|initials|puntead|punt-|"
    r"pautad|guiad|lignes|\bBRK\b|phon[eé]ti|siddham|lastresort|last resort|fallback|color|signwriting|"
    r"bravura|leland|petaluma|finale|emmentaler|gonville|mahjong|cursor|unifont|redact|blank|adobe",
    re.IGNORECASE,
)
#: Families that look like a pen's: letters and notes alone.
_HANDWRITING = re.compile(
    r"hand|script|scrawl|chancery|nakseo|freehand|fasthand|dancing|kaushan|comic|manners|essays|"
    r"isabella|ecolier|abecedario|jsmath|pen$|humor|aoyagi|brush",
    re.IGNORECASE,
)


class Typefaces(NamedTuple):
    """Families of one script, in the order of their names."""

    text: tuple[str, ...]
    display: tuple[str, ...]
    handwriting: tuple[str, ...]


def held_back(family: str) -> bool:
    """Whether a family is kept for judging."""
    return int(hashlib.sha256(family.encode()).hexdigest()[:8], 16) / 2**32 < HELD_BACK


def find_typefaces(unseen: bool = False) -> dict[str, Typefaces]:
    """The installed families of each script that has one to set text with.

    Those to learn from, or with `unseen` those that are held back. A script whose only families are
    on the other side is left out. Raises UserError where there is no fontconfig.
    """
    if not shutil.which("fc-list"):
        raise UserError("fc-list is not installed. On Debian: apt-get install fontconfig")
    found = {}
    for script, letter in SCRIPTS.items():
        faces = [each for each in _families(letter) if not _NOT_TYPE.search(each[0])]
        mine = [each for each in faces if held_back(each[0]) == unseen]
        typefaces = _sorted(mine)
        if typefaces.text:
            found[script] = typefaces
    return found


def _sorted(faces: Iterable[tuple[str, bool]]) -> Typefaces:
    text, display, handwriting = [], [], []
    for family, bold in faces:
        kind = handwriting if _HANDWRITING.search(family) else text if bold else display
        kind.append(family)
    return Typefaces(tuple(text), tuple(display), tuple(handwriting))


def _families(letter: str) -> list[tuple[str, bool]]:
    """Families that have the letter, and whether there is a bold face of each."""
    command = ["fc-list", f":charset={ord(letter):x}", "--format", "%{family[0]}|%{weight}\n"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    weights: dict[str, set[str]] = {}
    for line in lines:
        family, _, weight = line.partition("|")
        weights.setdefault(family.strip(), set()).add(weight)
    # 200 is fontconfig's bold; a variable font says a range.
    return [
        (family, any("[" in each or float(each) >= 180 for each in known))
        for family, known in sorted(weights.items())
        if family
    ]
