"""Rule fetch_model: check a model folder, or fetch a model of the registry, and put it in place."""

from pathlib import Path

from scanmill.model_folders import install_model
from scanmill.progress import job, logger
from scanmill.registry import MODELS, find_model, own_registry


def main(snakemake) -> None:  # noqa: ANN001
    with job(snakemake.log[0]):
        name, target = snakemake.wildcards.name, Path(snakemake.output.card).parent
        found = find_model(name, [Path("models"), MODELS], own_registry())
        if isinstance(found, Path):
            install_model(found, target)
            logger.info("model %s is in place", name)
        else:
            from scanmill.fetching import fetch_model  # torch takes seconds.

            fetch_model(found, target)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
