"""Rule fetch_model: check a model folder and put it in place."""

from pathlib import Path

from scanmill.progress import job, logger
from scanmill.registry import find_model, install_model


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        own = Path(snakemake.scriptdir).parent / "models"
        source = find_model(snakemake.wildcards.name, [Path("models"), own])
        install_model(source, Path(snakemake.output.card).parent)
        logger.info("model %s is in place", snakemake.wildcards.name)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
