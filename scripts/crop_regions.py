"""Rule crop_regions: cut the regions out of the page images."""

from pathlib import Path

from scanmill.crops import Work, crop_documents, dataset_rows, inputs_digest
from scanmill.progress import Progress, job, logger
from scanmill.store import StageStore, stage_lock, write_dataset
from scanmill.tables import SCHEMAS, by_document, read_table


def main(snakemake) -> None:  # noqa: ANN001
    settings, shard = snakemake.config, snakemake.wildcards.shard
    with job(snakemake.log[0]), stage_lock(Path.cwd(), "crops", shard, logger.info):
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
            else:
                progress.document(document, "reused", mine.num_rows, mine.num_rows)
        crop_documents(stale, store, snakemake.threads, progress)
        pieces = (dataset_rows(store, document) for document in images)
        write_dataset("crops", pieces, Path(snakemake.output.crops))
        progress.finish()


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
