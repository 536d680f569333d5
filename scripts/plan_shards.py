"""Rule plan_shards: write the shards' manifests, append-only."""

from pathlib import Path

from scanmill.archive import (
    Document,
    check_missing,
    collector_paused,
    describe_skipped,
    list_archive,
    plan_shards,
    read_manifest,
    write_manifest,
)
from scanmill.progress import job, logger
from scanmill.settings import archive_path
from scanmill.tables import read_table


def documents_of_table(path: Path) -> list[Document]:
    """The documents of a shard as its table of page images names them, of nothing but their names."""
    names = read_table(path, ["document"])["document"].unique().to_pylist()
    return [Document(name, "", "", 0, 0) for name in names]


def main(snakemake) -> None:  # noqa: ANN001
    settings = snakemake.config
    with job(snakemake.log[0]), collector_paused():
        listing = list_archive(archive_path(settings, Path.cwd()), settings["archive"])
        manifests = Path(snakemake.output.manifests)
        known = {path.stem: read_manifest(path) for path in sorted(manifests.glob("*.tsv"))}
        # Where a manifest was lost, the documents stay in their shard: elsewhere, they would stand in
        # the tables of two.
        for path in sorted(Path("results/images").glob("*.parquet")):
            if path.stem not in known:
                known[path.stem] = documents_of_table(path)
        max_missing = settings["archive"]["max_missing"]
        check_missing(known, listing.documents, max_missing, listing.unreadable)
        shards = plan_shards(listing.documents, known, **settings["shards"])
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
