"""Rule synthesize_pages: synthetic pages with their regions, as COCO."""

from pathlib import Path

from scanmill.materials import load_materials
from scanmill.progress import job
from scanmill.synthesis import part_seed, synthesize_pages


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        part, given = snakemake.wildcards.part, snakemake.params
        materials = load_materials(Path(snakemake.input.articles).parent, part.startswith("test"))
        folder = Path(snakemake.output.annotations).parent
        synthesize_pages(materials, folder, part, given.pages, part_seed(part, given.seed))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
