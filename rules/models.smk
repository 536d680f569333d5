# Models in use.
#   results/models/{name}/model.json, config.yaml, model.safetensors
#   models/downloads/{name}.pth    what was fetched, or put there by hand


rule fetch_model:
    # Updated: they stay while the model is made again, and if that fails. The card holds the digest of the
    # weights that were fetched first.
    output:
        card=update("results/models/{name}/model.json"),
        config=update("results/models/{name}/config.yaml"),
        weights=update("results/models/{name}/model.safetensors"),
    log:
        "logs/fetch_model/{name}.log",
    benchmark:
        "benchmarks/fetch_model/{name}.tsv"
    wildcard_constraints:
        name=rf"(?!{config['training']['name']}$).+",
    localrule: True
    conda:
        "../envs/scanmill.yaml"
    params:
        card=model_digest(),
    message:
        "Check the model {wildcards.name}, fetched if need be, and put it in place"
    script:
        "../scripts/fetch_model.py"


rule models:
    input:
        f"results/models/{config['model']}/model.json",
