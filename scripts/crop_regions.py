"""Rule crop_regions: cut the regions out of the page images."""

import contextlib
from pathlib import Path

from scanmill.archive import read_manifest
from scanmill.crops import Work, crop_documents, dataset_rows, inputs_digest
from scanmill.dropped_images import Renderer
from scanmill.progress import Progress, job, logger
from scanmill.store import StageStore, drop_images, stage_lock, write_dataset
from scanmill.tables import SCHEMAS, by_document, read_table


def main(snakemake) -> None:  # noqa: ANN001
    settings, shard = snakemake.config, snakemake.wildcards.shard
    keep, workers = settings["images"]["keep"], snakemake.threads
    with contextlib.ExitStack() as stack:
        stack.enter_context(job(snakemake.log[0]))
        # Who drops page images owns them for that long.
        for stage in ("crops",) if keep else ("crops", "images"):
            stack.enter_context(stage_lock(Path.cwd(), stage, shard, logger.info))
        documents = read_manifest(Path(snakemake.input.manifest))
        renderer = stack.enter_context(Renderer(Path.cwd(), documents, workers, settings))
        store = StageStore(
            Path("results"),
            "crops",
            snakemake.params.settings,
            snakemake.params.code,
            settings["reuse"]["code"] == "accept",
        )
        images = by_document(read_table(Path(snakemake.input.images)))
        regions = by_document(read_table(Path(snakemake.input.regions)))
        total = sum(table.num_rows for table in images.values())
        progress = Progress("crop_regions", len(images), total, total)
        stale = []
        for document, mine in images.items():
            found = regions.get(document, SCHEMAS["regions"].empty_table())
            wanted = store.fingerprint(inputs_digest(mine, found))
            if store.state(document, wanted) == "stale":
                stale.append(Work(document, mine, found, wanted))
                continue
            if not keep:
                drop_images(store.results, document)
            progress.document(document, "reused", mine.num_rows, mine.num_rows)
        crop_documents(stale, store, workers, progress, renderer, keep)
        pieces = (dataset_rows(store, document) for document in images)
        write_dataset("crops", pieces, Path(snakemake.output.crops))
        progress.finish()


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
