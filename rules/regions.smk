# Regions: detections that count, in reading order; and their crops.
#   results/regions/{shard}.parquet     one row per region
#   results/pages/{shard}.parquet       one final row per page
#   results/crops/{shard}.parquet       one row per crop
#   results/store/{document}/regions/   a table per page
#   results/store/{document}/crops/     crops, with crops.store: files


rule select_regions:
    input:
        images="results/images/{shard}.parquet",
        detections="results/detections/{shard}.parquet",
        pages="results/detected_pages/{shard}.parquet",
    output:
        regions="results/regions/{shard}.parquet",
        pages="results/pages/{shard}.parquet",
    log:
        "logs/select_regions/{shard}.log",
    benchmark:
        "benchmarks/select_regions/{shard}.tsv"
    conda:
        "../envs/scanmill.yaml"
    threads: 1
    resources:
        mem_mb=memory_mb("select_regions"),
        runtime=runtime_minutes("select_regions"),
    params:
        settings=output_settings("regions"),
        code=code_digest("regions"),
    message:
        "Regions of shard {wildcards.shard}"
    script:
        "../scripts/select_regions.py"


rule crop_regions:
    input:
        manifest=shard_manifest,
        images="results/images/{shard}.parquet",
        regions="results/regions/{shard}.parquet",
    output:
        crops="results/crops/{shard}.parquet",
    log:
        "logs/crop_regions/{shard}.log",
    benchmark:
        "benchmarks/crop_regions/{shard}.tsv"
    conda:
        "../envs/scanmill.yaml"
    threads: 4
    resources:
        mem_mb=memory_mb("crop_regions"),
        runtime=runtime_minutes("crop_regions"),
    params:
        settings=output_settings("crops"),
        code=code_digest("crops"),
        # A running setting all the same: told to drop page images, the next run does.
        keep=config["images"]["keep"],
    message:
        "Crops of shard {wildcards.shard}"
    script:
        "../scripts/crop_regions.py"


rule regions:
    input:
        expand_shards("results/regions/{shard}.parquet"),
        expand_shards("results/pages/{shard}.parquet"),


rule crops:
    input:
        expand_shards("results/crops/{shard}.parquet"),
