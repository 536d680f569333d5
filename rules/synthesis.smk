# Synthetic pages with exact regions, which detectors are trained on.
#   results/materials/                   texts and pictures that pages are made of
#   results/synthesis/{part}.json        COCO; results/synthesis/{part}/00001.jpg ...
# Pages are not made again because the code that makes them changed: a training may be under way on them.


rule gather_materials:
    output:
        articles="results/materials/articles.jsonl",
        phrases="results/materials/phrases.json",
        pictures=directory("results/materials/pictures"),
    log:
        "logs/gather_materials.log",
    benchmark:
        "benchmarks/gather_materials.tsv"
    conda:
        "../envs/scanmill.yaml"
    threads: 4
    params:
        sources={name: config["synthesis"][name] for name in ("texts", "translations", "pictures")},
    message:
        "Gather texts and pictures for synthetic pages"
    script:
        "../scripts/gather_materials.py"


rule synthesize_pages:
    input:
        articles="results/materials/articles.jsonl",
        phrases="results/materials/phrases.json",
        pictures="results/materials/pictures",
    output:
        annotations="results/synthesis/{part}.json",
        images=directory("results/synthesis/{part}"),
    log:
        "logs/synthesize_pages/{part}.log",
    benchmark:
        "benchmarks/synthesize_pages/{part}.tsv"
    wildcard_constraints:
        part="(train|val|test)-[0-9]{3}",
    conda:
        "../envs/scanmill.yaml"
    params:
        pages=lambda wildcards: synthetic_parts()[wildcards.part],
        seed=config["synthesis"]["seed"],
    message:
        "Make synthetic pages: {wildcards.part}"
    script:
        "../scripts/synthesize_pages.py"


rule synthesis:
    input:
        expand("results/synthesis/{part}.json", part=synthetic_parts()),
