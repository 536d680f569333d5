"""Rule summarize_archive: one row per document, one per failure; the report."""

from pathlib import Path

from scanmill.progress import job
from scanmill.report import ShardFiles, write_report
from scanmill.summary import summarize_archive


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        inputs = snakemake.input
        groups = (inputs.manifests, inputs.images, inputs.pages, inputs.crops)
        files = [[Path(path) for path in group] for group in groups]
        outputs = Path(snakemake.output.documents), Path(snakemake.output.failures)
        summarize_archive(*files, *outputs, [Path(path) for path in inputs.ocr])
        shards = zip(inputs.pages, inputs.regions, inputs.detected_pages, strict=True)
        tables = [ShardFiles(*map(Path, shard)) for shard in shards]
        report = Path(snakemake.output.report)
        write_report(Path(), tables, *outputs, report, snakemake.threads)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
