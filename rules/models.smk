# Models in use.
#   results/models/{name}/model.json, config.yaml, model.safetensors


rule fetch_model:
    output:
        card="results/models/{name}/model.json",
        config="results/models/{name}/config.yaml",
        weights="results/models/{name}/model.safetensors",
    log:
        "logs/fetch_model/{name}.log",
    benchmark:
        "benchmarks/fetch_model/{name}.tsv"
    localrule: True
    conda:
        "../envs/scanmill.yaml"
    params:
        card=model_digest(),
    message:
        "Check the model {wildcards.name} and put it in place"
    script:
        "../scripts/fetch_model.py"


rule models:
    input:
        f"results/models/{config['model']}/model.json",
