# Scanmill: archives of scans become per-page Parquet tables. See README.md; settings: config/README.md.
from snakemake.utils import min_version

min_version("9.21")


include: "rules/common.smk"


if config["container"] is not None:

    # What `--sdm apptainer` runs jobs in; without that option it is ignored.
    container: config["container"]


rule all:
    default_target: True
    input:
        expand_shards("results/images/{shard}.parquet"),
        expand_shards("results/detections/{shard}.parquet"),
        expand_shards("results/detected_pages/{shard}.parquet"),
        expand_shards("results/regions/{shard}.parquet"),
        expand_shards("results/pages/{shard}.parquet"),
        expand_shards("results/crops/{shard}.parquet"),
        expand_text_if_enabled,
        "results/documents.parquet",
        "results/failures.parquet",
        "results/provenance.json",
        "results/report.html",
        "results/summary.txt",


include: "rules/images.smk"
include: "rules/models.smk"
include: "rules/synthesis.smk"
include: "rules/training.smk"
include: "rules/detection.smk"
include: "rules/regions.smk"
include: "rules/ocr.smk"
include: "rules/summary.smk"


onstart:
    start_run()
