# A detector of one's own: annotated pages in, a model folder and what it is worth out.
#   results/dataset/train.json, val.json, test.json, dataset.parquet, problems.parquet, report.html
#   results/training/{name}/{digest}/    checkpoints, metrics, curves: with them a run goes on
#   results/models/{name}/model.json, config.yaml, model.safetensors
#   results/evaluation/{name}/report.html, evaluation.json, evaluation.parquet, matches.parquet


rule prepare_dataset:
    input:
        annotation_files(),
    output:
        train="results/dataset/train.json",
        val="results/dataset/val.json",
        test="results/dataset/test.json",
        objects="results/dataset/dataset.parquet",
        problems="results/dataset/problems.parquet",
        report="results/dataset/report.html",
    log:
        "logs/prepare_dataset.log",
    benchmark:
        "benchmarks/prepare_dataset.tsv"
    conda:
        "../envs/scanmill.yaml"
    threads: 4
    params:
        settings=dataset_settings(),
        images=image_digest(),
    message:
        "Check annotations and divide their pages"
    script:
        "../scripts/prepare_dataset.py"


if config["training"]["name"]:

    rule train_detector:
        input:
            train="results/dataset/train.json",
            val="results/dataset/val.json",
            start=start_model(),
        output:
            card=f"results/models/{config['training']['name']}/model.json",
            config=f"results/models/{config['training']['name']}/config.yaml",
            weights=f"results/models/{config['training']['name']}/model.safetensors",
        log:
            f"logs/train_detector/{config['training']['name']}.log",
        benchmark:
            f"benchmarks/train_detector/{config['training']['name']}.tsv"
        conda:
            "../envs/scanmill.yaml"
        threads: lambda wildcards: config["training"]["num_gpus"] * detection_threads(wildcards)
        resources:
            gpu=lambda wildcards: config["training"]["num_gpus"] * gpus_per_job(wildcards),
        params:
            settings=training_settings(),
        message:
            f"Train {config['training']['name']}"
        script:
            "../scripts/train_detector.py"


rule evaluate_detector:
    input:
        model="results/models/{name}/model.json",
        config="results/models/{name}/config.yaml",
        weights="results/models/{name}/model.safetensors",
        truth=judging_pages(),
    output:
        report="results/evaluation/{name}/report.html",
        figures="results/evaluation/{name}/evaluation.json",
        metrics="results/evaluation/{name}/evaluation.parquet",
        matches="results/evaluation/{name}/matches.parquet",
    log:
        "logs/evaluate_detector/{name}.log",
    benchmark:
        "benchmarks/evaluate_detector/{name}.tsv"
    conda:
        "../envs/scanmill.yaml"
    threads: detection_threads
    resources:
        gpu=gpus_per_job,
    params:
        settings=config["evaluation"],
        detection=output_settings("detection"),
    message:
        "Judge {wildcards.name} by annotated pages"
    script:
        "../scripts/evaluate_detector.py"


rule train:
    input:
        f"results/evaluation/{config['training']['name'] or config['model']}/report.html",
