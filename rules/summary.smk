# What became of the archive.
#   results/documents.parquet   one row per document
#   results/failures.parquet    one row per failed page, or document that never opened
#   results/provenance.json     where the results come from; also as ro-crate-metadata.json
#   results/report.html         what was done, what failed, pages to look at: for a browser
#   results/summary.txt         counts and failures for people; missing while too much has failed


rule summarize_archive:
    input:
        manifests=expand_shards("results/shards/{shard}.tsv"),
        images=expand_shards("results/images/{shard}.parquet"),
        detected_pages=expand_shards("results/detected_pages/{shard}.parquet"),
        regions=expand_shards("results/regions/{shard}.parquet"),
        pages=expand_shards("results/pages/{shard}.parquet"),
        crops=expand_shards("results/crops/{shard}.parquet"),
        ocr=expand_text_if_enabled,
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


rule describe_run:
    input:
        documents="results/documents.parquet",
        failures="results/failures.parquet",
        model=f"results/models/{config['model']}/model.json",
        detected=expand_shards("results/detected_pages/{shard}.parquet"),
        regions=expand_shards("results/regions/{shard}.parquet"),
        pages=expand_shards("results/pages/{shard}.parquet"),
    # Updated: it remembers the runs before.
    output:
        provenance=update("results/provenance.json"),
        crate=update("results/ro-crate-metadata.json"),
    log:
        "logs/describe_run.log",
    benchmark:
        "benchmarks/describe_run.tsv"
    localrule: True
    conda:
        "../envs/scanmill.yaml"
    params:
        settings=settings.deciding_settings(config),
    message:
        "Where the results come from, and how to cite them"
    script:
        "../scripts/describe_run.py"


rule check_failures:
    input:
        documents="results/documents.parquet",
        failures="results/failures.parquet",
        # It comes last: whatever failed, everything else is done by then.
        provenance="results/provenance.json",
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
