"""Rule gather_materials: texts and pictures that synthetic pages are made of."""

from pathlib import Path

from scanmill.materials import gather
from scanmill.progress import job


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        gather(snakemake.params.sources, Path(snakemake.output.articles).parent, snakemake.threads)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
