# What became of the archive.
#   results/documents.parquet   one row per document
#   results/failures.parquet    one row per failed page, or document that never opened
#   results/report.html         what was done, what failed, pages to look at: for a browser
#   results/summary.txt         the same for people; missing while too much has failed


rule summarize_archive:
    input:
        manifests=expand_shards("results/shards/{shard}.tsv"),
        images=expand_shards("results/images/{shard}.parquet"),
        detected_pages=expand_shards("results/detected_pages/{shard}.parquet"),
        regions=expand_shards("results/regions/{shard}.parquet"),
        pages=expand_shards("results/pages/{shard}.parquet"),
        crops=expand_shards("results/crops/{shard}.parquet"),
    output:
        documents="results/documents.parquet",
        failures="results/failures.parquet",
        report="results/report.html",
    log:
        "logs/summarize_archive.log",
    benchmark:
        "benchmarks/summarize_archive.tsv"
    conda:
        "../envs/scanmill.yaml"
    threads: 2
    message:
        "Summary of the archive"
    script:
        "../scripts/summarize_archive.py"


rule check_failures:
    input:
        documents="results/documents.parquet",
        failures="results/failures.parquet",
    output:
        summary="results/summary.txt",
    log:
        "logs/check_failures.log",
    benchmark:
        "benchmarks/check_failures.tsv"
    localrule: True
    conda:
        "../envs/scanmill.yaml"
    params:
        max_failed_fraction=config["failures"]["max_failed_fraction"],
    message:
        "Check that not too much failed"
    script:
        "../scripts/check_failures.py"
