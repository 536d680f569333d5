# Helper functions of the rules; no rule. The library does the work: scripts/scanmill/.
import os
import sys
from functools import lru_cache
from pathlib import Path

from snakemake.logging import logger

sys.path.insert(0, str(Path(workflow.basedir, "scripts")))
# The jobs, too, import the library that lies here, whatever else their environment has installed.
search_path = filter(None, [sys.path[0], os.environ.get("PYTHONPATH")])
os.environ.update(PYTHONPATH=os.pathsep.join(search_path))

from scanmill import (
    annotations,
    archive,
    job_resources,
    model_folders,
    ocr_engines,
    processors,
    regions,
    registry,
    settings,
    store,
    tables,
    tiles,
)
from scanmill.errors import UserError


def user_errors(function):
    """Have a UserError end the run with its message alone.

    Snakemake would write the lines of the Snakefile beneath it, were it a WorkflowError.
    """

    def wrapped(*args):
        try:
            return function(*args)
        except UserError as error:
            sys.exit(f"\nError: {error}")

    return wrapped


@user_errors
def resolve_config():
    """The settings in use: defaults, the working directory's config.yaml, --configfile, --config."""
    settings.check_directory(Path.cwd())
    return settings.load_settings(
        Path(workflow.basedir, "config/config.yaml"),
        Path(workflow.basedir, "config/config.schema.yaml"),
        Path.cwd(),
        workflow.config_settings.config,
        [Path(path) for path in workflow.config_settings.configfiles],
    )


resolved = resolve_config()
config.clear()
config.update(resolved)


def output_settings(stage):
    """The settings that decide what a stage makes."""
    return settings.output_settings(config, stage)


def code_digest(stage):
    """A digest of the library's code that decides what a stage makes."""
    return store.code_digest(stage)


@lru_cache
@user_errors
def listing_digest():
    path = settings.archive_path(config, Path.cwd())
    return archive.listing_digest(archive.list_archive(path, config["archive"]))


def archive_digest(wildcards):
    """What the plan depends on; looked up once, in the main process alone."""
    return listing_digest() if workflow.is_main_process else ""


def lost_manifests(wildcards):
    """Shards that have a table and no manifest: planned again, or their documents would be lost."""
    tables = sorted(Path("results/images").glob("*.parquet"))
    return [path.stem for path in tables if not Path(f"results/shards/{path.stem}.tsv").exists()]


@lru_cache
def find_model():
    """The model of the setting `model`: its folder, or its entry of the registry."""
    folders = [Path("models"), registry.MODELS]
    return registry.find_model(config["model"], folders, registry.own_registry())


@lru_cache
@user_errors
def model_digest():
    """A digest of the model's card, which names the digests of its files, or of its registry entry."""
    if config["model"] == config["training"]["name"]:
        return ""  # It is made by `train_detector`, from classes that the annotations have.
    model = find_model()
    classes = registry.model_classes(model)
    regions.check_settings(config["regions"], config["detection"]["score_floor"], classes)
    tiles.check_settings(config["detection"]["tiles"])
    regions.check_class_names("crops.classes", config["crops"]["classes"] or [], classes)
    regions.check_class_names("ocr.classes", config["ocr"]["classes"] or [], classes)
    if isinstance(model, registry.Entry):
        return model.digest
    return store.file_digest(model / model_folders.CARD)


def synthetic_parts():
    """The parts of the synthetic pages: name, number of pages."""
    return annotations.synthetic_parts(config["synthesis"])


def dataset_settings():
    """The settings of the dataset, with files for `synthetic`."""
    given = config["dataset"]["annotations"]
    if given == "synthetic":
        files = {
            split: [
                f"results/synthesis/{part}.json"
                for part in synthetic_parts()
                if part.startswith(split)
            ]
            for split in ("train", "val", "test")
        }
        return {**config["dataset"], "annotations": files}
    return config["dataset"]


@lru_cache
@user_errors
def annotation_files():
    """The files of annotations, relative to the working directory as they are given."""
    given = annotations.given_files(dataset_settings()["annotations"])
    if config["dataset"]["annotations"] == "synthetic":
        return given
    return [str(path) for path in annotations.annotation_files(given)] if given else []


def image_digest():
    """What is known of the annotated images without opening them; looked up in the main process."""
    files = annotation_files()
    made = config["dataset"]["annotations"] == "synthetic"
    if not workflow.is_main_process or not files or made:
        return ""
    return annotations.image_digest(files, config["dataset"]["images"])


@user_errors
def start_model():
    """The model that training starts from, checked and in place."""
    name, start = config["training"]["name"], config["training"]["start"]
    folders = [folder / name for folder in (Path("models"), registry.MODELS)]
    known = {start, *registry.own_registry()}
    if name in known or any(folder.exists() for folder in folders):
        raise UserError(
            f"training.name is {name}, and there is such a model already: choose another name."
        )
    return f"results/models/{start}/model.json" if start else []


def training_settings():
    """The settings that decide what a training makes: the others say when it stops, and where it runs."""
    running = ("name", "strict", "num_gpus")
    return {key: value for key, value in config["training"].items() if key not in running}


def judging_pages():
    """The pages that a model is judged by: those of the test, or of validation where there are none."""
    given, shares = dataset_settings()["annotations"], config["dataset"]["split"]
    tested = given.get("test") if isinstance(given, dict) else shares["test"]
    return f"results/dataset/{'test' if tested else 'val'}.json"


@lru_cache
def detects_on_gpu():
    """Whether the detector will have a GPU: where jobs go to other machines, `auto` wants one."""
    device = config["detection"]["device"]
    elsewhere = workflow.is_main_process and workflow.non_local_exec
    return device == "cuda" or (
        device == "auto" and (elsewhere or processors.nvidia_driver() is not None)
    )


# Of rules: functions, since the executor is not known while the Snakefile is read.


def gpus_per_job(wildcards):
    """A resource: 1 where the detector will look for a GPU, 0 where it runs on the CPU."""
    return int(detects_on_gpu())


def detection_threads(wildcards):
    """Where a GPU detects, it is the decoding of pages that takes processors."""
    return 16 if detects_on_gpu() else 4


def _need(name):
    on_cpu = name == "detect_layout" and not detects_on_gpu()
    return job_resources.NEEDS[f"{name}_cpu" if on_cpu else name]


def _shard_size(name, wildcards):
    # The jobs of an array get what the first of them asks for.
    if name == "detect_layout":
        return job_resources.largest_shard(Path("results/shards"))
    return job_resources.shard_size(Path(f"results/shards/{wildcards.shard}.tsv"))


def memory_mb(name):
    """A resource: megabytes that the job of a shard takes, more at each attempt."""
    return lambda wildcards, attempt: job_resources.memory_mb(
        _need(name), _shard_size(name, wildcards), attempt
    )


def runtime_minutes(name):
    """A resource: minutes that the job of a shard takes at most."""
    return lambda wildcards, attempt: job_resources.runtime_minutes(
        _need(name), _shard_size(name, wildcards), attempt
    )


def shard_manifest(wildcards):
    """The manifest of a shard, once there is a plan."""
    return f"{checkpoints.plan_shards.get().output.manifests}/{wildcards.shard}.tsv"


def crops_before(wildcards):
    """With `images.keep: false`, the crops that must be there before a shard is rendered, if any.

    A plain input: were it ancient(), Snakemake would not see what else has changed for the shard while
    those crops are made again. For the main process alone, which schedules: a job's own would follow
    the chain to its beginning, deeper than Python goes.
    """
    shard = int(wildcards.shard) - config["images"]["wave"]
    waits = workflow.is_main_process and not config["images"]["keep"] and shard >= 0
    return f"results/crops/{shard:05d}.parquet" if waits else []


@lru_cache
def say_unplanned():
    """Have a dry run say, once, that there is no plan that it could go by."""
    if workflow.dryrun and not any(Path("results/shards").glob("*.tsv")):
        logger.warning(
            "Not planned yet: the jobs of shards are missing from this list. Run the target `plan` first, "
            "which takes seconds (`snakemake plan`, with the same options but for --dry-run)."
        )


def expand_shards(pattern):
    """An input function: `pattern` for every shard of the plan."""

    def files(wildcards):
        say_unplanned()
        manifests = Path(checkpoints.plan_shards.get().output.manifests)
        return [pattern.format(shard=path.stem) for path in sorted(manifests.glob("*.tsv"))]

    return files


@lru_cache
@user_errors
def check_ocr():
    """Have a missing engine or language end the run before it begins, where jobs run on this machine."""
    elsewhere = workflow.non_local_exec or workflow.deployment_settings.deployment_method
    if workflow.is_main_process and not elsewhere and config["ocr"]["source"] != "pdf":
        ocr_engines.check_engine(config["ocr"]["engine"], config["ocr"]["languages"])


def expand_text(wildcards):
    """An input function: the text of every shard."""
    check_ocr()
    return expand_shards("results/ocr/{shard}.parquet")(wildcards)


def expand_text_if_enabled(wildcards):
    """The same where a run is to read its crops."""
    return expand_text(wildcards) if config["ocr"]["enabled"] else []


def check_arrays():
    """Raise UserError where jobs of an array may not be submitted all at once.

    Slurm's plugin (2.8.0) submits none of them while others of their rule are ready, and does not come
    back to those that it passed over: the run would wait for ever.
    """
    arrays = getattr(workflow.executor_settings, "array_jobs", None)
    if arrays and (workflow.nodes < archive.MAX_SHARDS or "gpu" in workflow.global_resources):
        raise UserError(
            "With slurm-array-jobs, jobs must not be limited by --jobs or --resources gpu=...: arrays of "
            "them would never be submitted. Leave the limits to Slurm (a QOS, the partition), or turn "
            'arrays off: --slurm-array-jobs "".'
        )


@user_errors
def start_run():
    """Lock the working directory until this process ends, and note the settings in use."""
    global run_lock
    check_arrays()
    tables.check_schema_version(Path("results"))
    run_lock = store.lock_directory(Path.cwd())
    settings.dump_settings(config, Path("results/settings.yaml"))
