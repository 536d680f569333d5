"""Rule prepare_dataset: annotations, checked and divided, as COCO."""

from pathlib import Path

from scanmill.coco import prepare_dataset
from scanmill.progress import job


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        prepare_dataset(snakemake.params.settings, Path(snakemake.output.report).parent)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
