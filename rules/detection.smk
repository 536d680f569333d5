# What the detector finds, down to a low score: thresholds come later.
#   results/detections/{shard}.parquet       one row per detection
#   results/detected_pages/{shard}.parquet   one row per page


rule detect_layout:
    input:
        manifest=shard_manifest,
        images="results/images/{shard}.parquet",
        model=f"results/models/{config['model']}/model.json",
        config=f"results/models/{config['model']}/config.yaml",
        weights=f"results/models/{config['model']}/model.safetensors",
    output:
        detections="results/detections/{shard}.parquet",
        pages="results/detected_pages/{shard}.parquet",
    log:
        "logs/detect_layout/{shard}.log",
    benchmark:
        "benchmarks/detect_layout/{shard}.tsv"
    conda:
        "../envs/scanmill.yaml"
    threads: detection_threads
    resources:
        gpu=gpus_per_job,
        mem_mb=memory_mb("detect_layout"),
        runtime=runtime_minutes("detect_layout"),
    params:
        settings=output_settings("detection"),
        code=code_digest("detections"),
    message:
        "Layout detection on shard {wildcards.shard}"
    script:
        "../scripts/detect_layout.py"


rule detections:
    input:
        expand_shards("results/detections/{shard}.parquet"),
