"""Rule render_pages: bring the page images of a shard's documents up to date."""

import json
from pathlib import Path

from scanmill.archive import link_boundary, read_manifest
from scanmill.progress import Progress, job, logger
from scanmill.rendering import render_shard
from scanmill.settings import archive_path
from scanmill.store import StageStore, stage_lock, write_dataset


def main(snakemake) -> None:  # noqa: ANN001
    settings, shard = snakemake.config, snakemake.wildcards.shard
    with job(snakemake.log[0]), stage_lock(Path.cwd(), "images", shard, logger.info):
        store = StageStore(
            Path("results"),
            "images",
            snakemake.params.settings,
            snakemake.params.code,
            settings["reuse"]["code"] == "accept",
            snakemake.params.limits,
        )
        documents = read_manifest(Path(snakemake.input.manifest))
        archive = archive_path(settings, Path.cwd())
        boundary = link_boundary(archive, settings["archive"])
        work = sum(document.size or 1 for document in documents)
        progress = Progress("render_pages", len(documents), work)
        sha256 = render_shard(documents, archive, boundary, store, snakemake.threads, progress)
        pieces = (store.read(document.document, "images") for document in documents)
        sources = {"sources": json.dumps(sha256, sort_keys=True)}
        write_dataset("images", pieces, Path(snakemake.output.images), sources)
        progress.finish()


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
