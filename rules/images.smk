# The archive's documents and their page images.
#   results/shards/{shard}.tsv          manifests: which documents a shard has
#   results/images/{shard}.parquet      one row per page image
#   results/store/{document}/images/    the page images


checkpoint plan_shards:
    output:
        manifests=update(directory("results/shards")),
    log:
        "logs/plan_shards.log",
    benchmark:
        "benchmarks/plan_shards.tsv"
    localrule: True
    conda:
        "../envs/scanmill.yaml"
    params:
        listing=archive_digest,
        lost=lost_manifests,
    message:
        "Plan: which documents are there, and which job does them"
    script:
        "../scripts/plan_shards.py"


rule render_pages:
    input:
        manifest=shard_manifest,
        crops=crops_before,
    output:
        images="results/images/{shard}.parquet",
    log:
        "logs/render_pages/{shard}.log",
    benchmark:
        "benchmarks/render_pages/{shard}.tsv"
    conda:
        "../envs/scanmill.yaml"
    threads: 4
    resources:
        mem_mb=memory_mb("render_pages"),
        runtime=runtime_minutes("render_pages"),
    params:
        settings=output_settings("images"),
        code=code_digest("images"),
        # Running settings all the same: a raised limit gives the pages that it failed another try.
        limits=config["images"]["limits"],
    message:
        "Page images of shard {wildcards.shard}"
    script:
        "../scripts/render_pages.py"


rule plan:
    input:
        expand_shards("results/shards/{shard}.tsv"),


rule images:
    input:
        expand_shards("results/images/{shard}.parquet"),
