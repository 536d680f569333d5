# The text of crops.
#   results/ocr/{shard}.parquet     one row per crop that was read
#   results/store/{document}/ocr/   a table per page


rule recognize_text:
    input:
        manifest=shard_manifest,
        images="results/images/{shard}.parquet",
        crops="results/crops/{shard}.parquet",
    output:
        ocr="results/ocr/{shard}.parquet",
    log:
        "logs/recognize_text/{shard}.log",
    benchmark:
        "benchmarks/recognize_text/{shard}.tsv"
    conda:
        "../envs/scanmill.yaml"
    threads: 4
    resources:
        mem_mb=memory_mb("recognize_text"),
        runtime=runtime_minutes("recognize_text"),
    params:
        settings=output_settings("ocr"),
        code=code_digest("ocr"),
        # Running settings all the same: a raised limit gives the crops that it failed another try.
        limits=config["images"]["limits"],
    message:
        "Text of shard {wildcards.shard}"
    script:
        "../scripts/recognize_text.py"


rule ocr:
    input:
        expand_text,
