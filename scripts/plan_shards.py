"""Rule plan_shards: write the shards' manifests, append-only."""

from pathlib import Path

from scanmill.archive import (
    check_missing,
    describe_skipped,
    list_archive,
    plan_shards,
    read_manifest,
    write_manifest,
)
from scanmill.progress import job, logger
from scanmill.settings import archive_path


def main(snakemake) -> None:  # noqa: ANN001
    settings = snakemake.config
    with job(snakemake.log[0]):
        listing = list_archive(archive_path(settings, Path.cwd()), settings["archive"])
        manifests = Path(snakemake.output.manifests)
        known = {path.stem: read_manifest(path) for path in sorted(manifests.glob("*.tsv"))}
        max_missing = settings["archive"]["max_missing"]
        check_missing(known, listing.documents, max_missing, listing.unreadable)
        shards = plan_shards(listing.documents, known, **snakemake.params.shards)
        changed = [
            shard
            for shard, documents in shards.items()
            if write_manifest(manifests / f"{shard}.tsv", documents)
        ]
        logger.info(
            "%d documents in %d shards, %d of them changed; skipped: %s",
            len(listing.documents),
            len(shards),
            len(changed),
            describe_skipped(listing.skipped),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
