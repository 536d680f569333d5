"""Finished results taken over by other code that would make the same.

A record's fingerprint is of its digest `data`, of settings and inputs, and of the code. Only the code
is exchanged: where settings or inputs have changed, `data` is not what a run wants, and it computes.
The same holds of what Snakemake knows of a shard's tables. Its own `--touch` would pass over such
changes as well, and `--cleanup-metadata` have it forget the settings.
"""

from __future__ import annotations

import json
import os
import re
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from scanmill import store
from scanmill.archive import Document
from scanmill.maintenance import DATASETS, dataset_file, names_of

#: A code digest as Snakemake writes it among a job's params, which are without names.
_CODE = re.compile("'[0-9a-f]{16}'")


class Adoption(NamedTuple):
    """What of a stage the present code takes over."""

    stage: str
    code: str
    """Digest of the present code."""
    documents: list[str]
    """Whose records other code made."""
    made_by: Counter[tuple[str, str]]
    """Version of Scanmill, digest of the code -> how many of them."""
    shards: list[str]
    """All of whose documents are then of the present code, so that there is no job to run."""


def find_adoption(
    results: Path,
    plan: Mapping[str, Sequence[Document]],
    stage: str,
    chosen: Iterable[str],
) -> Adoption:
    """What `stage` has of other code: records that are whole, of the documents `chosen`."""
    code, chosen = store.code_digest(stage), set(chosen)
    documents: list[str] = []
    shards: list[str] = []
    made_by: Counter[tuple[str, str]] = Counter()
    for shard, planned in plan.items():
        whole = True
        for name in names_of(planned):
            record = store.read_record_metadata(results, name, stage)
            if record is None:
                whole = False
            elif record["code"] != code and name in chosen:
                documents.append(name)
                made_by[record["scanmill_version"], record["code"]] += 1
            else:
                whole &= record["code"] == code
        if whole:
            shards.append(shard)
    return Adoption(stage, code, documents, made_by, shards)


def adopt(directory: Path, adoption: Adoption) -> list[str]:
    """Stamp the records anew and tell Snakemake; returns shards of which it could not be told.

    Their jobs run once more, and reuse all. The caller holds the locks of directory and jobs.
    """
    results = directory / "results"
    for document in adoption.documents:
        store.restamp(results, document, adoption.stage, adoption.code)
    untold = []
    for shard in adoption.shards:
        files = [dataset_file(results, name, shard) for name in DATASETS[adoption.stage]]
        told = [_tell_snakemake(directory, file, adoption.code) for file in files if file.exists()]
        if not all(told):
            untold.append(shard)
    return untold


def _tell_snakemake(directory: Path, output: Path, code: str) -> bool:
    """Put `code` in place of the code digest among the params that Snakemake noted of an output.

    False where it has noted nothing, or in another form.
    """
    name = output.relative_to(directory).as_posix()
    note = directory / ".snakemake" / "metadata" / urlsafe_b64encode(name.encode()).decode()
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        [place] = [i for i, value in enumerate(known["params"]) if _CODE.fullmatch(value)]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    known["params"][place] = repr(code)
    temporary = note.with_name(f"{note.name}.tmp")
    temporary.write_text(json.dumps(known), encoding="utf-8")
    temporary.chmod(note.stat().st_mode)
    os.replace(temporary, note)
    return True
