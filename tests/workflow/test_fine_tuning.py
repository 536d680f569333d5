"""From annotated pages to a model that detects, by one call."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import (
    PATIENCE,
    REPOSITORY,
    assert_none_survives,
    command,
    contents,
    documents_of,
    rows,
    run_workflow,
    write_settings,
)

SMALL = [
    *("INPUT.MIN_SIZE_TRAIN", [160], "INPUT.MAX_SIZE_TRAIN", 300),
    *("INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 300),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 60, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 60, "MODEL.MASK_ON", False),
    *("SOLVER.MAX_ITER", 6, "TEST.EVAL_PERIOD", 3),
]


@pytest.fixture
def annotated(tmp_path):
    """Twelve pages of six books, each page with two blocks and a frame: a folder with coco.json."""
    folder = tmp_path / "annotated"
    rng = np.random.default_rng(5)
    images, annotations = [], []
    for number in range(12):
        page = np.full((400, 300), 240, np.uint8)
        for row, kind in enumerate((0, 1, 0)):
            x, y = int(rng.integers(10, 60)), 20 + 125 * row
            width, height = int(rng.integers(120, 220)), int(rng.integers(50, 90))
            cv2.rectangle(page, (x, y), (x + width, y + height), 40, 3 if kind else cv2.FILLED)
            box = [x, y, width, height]
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": kind, "bbox": box}
            )
        name = f"book{number // 2}/{number % 2 + 1}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), page)
        images.append({"id": number, "file_name": name, "width": 300, "height": 400})
    categories = [{"id": 0, "name": "block"}, {"id": 1, "name": "frame"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def settings(annotated, **changed):
    blocks = {
        "model": "mine",
        "dataset": {
            "annotations": [str(annotated)],
            "min_examples": 2,
            "split": {"train": 0.5, "val": 0.25, "test": 0.25},
        },
        "training": {"name": "mine", "overrides": SMALL, "epochs": 1},
        "evaluation": {"samples": 10, "sizes": [128, 160]},
    }  # fmt: skip
    for key, value in changed.items():
        blocks[key] = blocks.get(key, {}) | value if isinstance(value, dict) else value
    return blocks


def test_one_call_leads_from_annotations_to_tables(annotated, tmp_path, undisturbed):
    run_folder = tmp_path / "run"
    write_settings(run_folder, **settings(annotated))
    archive = ("--config", f"archive={undisturbed.archive}")
    run = run_workflow(run_folder, "all", "train", *archive)
    assert set(run.jobs) >= {
        "prepare_dataset",
        "train_detector",
        "evaluate_detector",
        "detect_layout",
    }
    assert (
        "4 drawn anew, since classes or anchors are others: roi_heads.box_predictor" in run.output
    )
    card = json.loads((run_folder / "results/models/mine/model.json").read_text())
    assert card["classes"] == ["block", "frame"]
    assert card["provenance"]["pages"] == {"train": 6, "val": 4}
    assert card["provenance"]["start"]["name"] == "scanmill-layout"
    # The command that the card names says all that decided the model.
    words = shlex.split(card["provenance"]["command"])
    assert words[:3] == ["snakemake", "results/models/mine/model.json", "--config"]
    blocks = dict(word.split("=", 1) for word in words[3:])
    assert json.loads(blocks["training"])["overrides"] == SMALL
    assert json.loads(blocks["dataset"])["annotations"] == [str(annotated)]
    assert card["color"] == "grey"
    report = (run_folder / "results/evaluation/mine/report.html").read_text()
    assert "frame" in report
    figures = json.loads((run_folder / "results/evaluation/mine/evaluation.json").read_text())
    small, own = figures["sizes"]
    assert (small["min_size"], small["max_size"], own["min_size"]) == (128, 240, 160)
    assert own["metrics"]["box_AP"] == figures["overall"]["box_AP"]
    assert own["pages_per_second"] > 0
    assert own["memory"] > 100
    assert "128 / 240" in report
    assert documents_of(run_folder, "pages")
    [state] = (run_folder / "results/training/mine").iterdir()
    assert {path.name for path in state.iterdir()} >= {
        "best",
        "last.pth",
        "metrics.json",
        "training.png",
    }

    assert run_workflow(run_folder, "all", "train", *archive).jobs == {}
    # Judged otherwise, nothing is trained again.
    write_settings(run_folder, **settings(annotated, evaluation={"samples": 5}))
    assert set(run_workflow(run_folder, "train", *archive).jobs) == {"evaluate_detector"}
    # Annotations that were written again as they were train nothing again, either.
    content = (annotated / "coco.json").read_bytes()
    (annotated / "coco.json").write_bytes(content)
    weights = contents(run_folder, "results/models/mine/model.safetensors")
    run = run_workflow(run_folder, "train", *archive)
    assert "iteration" not in run.output
    assert contents(run_folder, "results/models/mine/model.safetensors") == weights
    # Other annotations do.
    changed = json.loads(content)
    for each in changed["annotations"]:
        each["bbox"][2] -= 9
    (annotated / "coco.json").write_text(json.dumps(changed))
    run = run_workflow(run_folder, "train", *archive)
    assert "drawn anew" in run.output
    assert contents(run_folder, "results/models/mine/model.safetensors") != weights


def test_pages_of_a_run_that_were_corrected_come_back(tmp_path, undisturbed):
    sample, run_folder = tmp_path / "sample", tmp_path / "run"
    tool = [sys.executable, REPOSITORY / "scripts/sample_pages.py"]
    options = ["--directory", undisturbed.directory, "--output", sample, "--n", "99"]
    done = subprocess.run([*tool, *options], capture_output=True, text=True, check=True)
    assert "all of them are taken" in done.stdout
    tasks = json.loads((sample / "tasks.json").read_text(encoding="utf-8"))
    for number, task in enumerate(tasks, 1):
        [prediction] = task.pop("predictions")
        task["id"] = number
        task["annotations"] = [{"id": number, "was_cancelled": False, **prediction}]
    (sample / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    dataset = {"annotations": [str(sample / "export.json")], "min_examples": 1}
    write_settings(run_folder, dataset=dataset)
    archive = ("--config", f"archive={undisturbed.archive}")
    run_workflow(run_folder, "results/dataset/train.json", *archive)
    assert rows(run_folder, "dataset/problems.parquet") == []

    def count(directory, dataset):
        keys = ("document", "page", "class_name")
        return Counter(tuple(row.values()) for row in rows(directory, dataset, *keys))

    assert count(run_folder, "dataset/dataset.parquet") == count(undisturbed.directory, "regions")


def test_training_that_was_killed_goes_on(annotated, tmp_path):
    run_folder = tmp_path / "run"
    longer = [*SMALL[:-4], "SOLVER.MAX_ITER", 24, "TEST.EVAL_PERIOD", 4]
    write_settings(run_folder, **settings(annotated, training={"overrides": longer}))
    archive = ("--config", f"archive={annotated}")
    with subprocess.Popen(
        **command(run_folder, "train", *archive),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        ended = time.monotonic() + PATIENCE
        while not list(run_folder.glob("results/training/mine/*/last.pth")):
            assert time.monotonic() < ended
            assert process.poll() is None
            time.sleep(0.1)
        # Its loaders must see by themselves that it is gone.
        for job in Path(f"/proc/{process.pid}/task").glob("*/children"):
            for child in job.read_text().split():
                os.kill(int(child), signal.SIGKILL)
        process.wait(PATIENCE)
    assert_none_survives(run_folder)
    run = run_workflow(run_folder, "train", *archive)
    assert "going on with iteration" in run.output
    card = json.loads((run_folder / "results/models/mine/model.json").read_text())
    assert card["provenance"]["iterations"] == 24


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": {"annotations": []}}, "dataset.annotations is empty"),
        (
            {"model": "scanmill-layout", "training": {"name": "scanmill-layout", "start": None}},
            "there is such a model already",
        ),
        ({"training": {"overrides": ["SOLVER.BASE_RL", 1]}}, "Did you mean SOLVER.BASE_LR"),
        ({"training": {"overrides": [*SMALL, "MODEL.ROI_HEADS.NUM_CLASSES", 7]}}, "NUM_CLASSES"),
    ],
)
def test_mistake_is_told_before_anything_is_trained(annotated, tmp_path, changed, message):
    run_folder = tmp_path / "run"
    write_settings(run_folder, **settings(annotated, **changed))
    run = run_workflow(run_folder, "train", "--config", f"archive={annotated}", ok=False)
    assert message in run.output
    assert "iteration 1" not in run.output
    assert not (run_folder / "results/models/mine").exists()


def train_net(folder, *options, ok=True):
    """What scripts/train_net.py says."""
    script = REPOSITORY / "scripts/train_net.py"
    config = ("--config-file", str(REPOSITORY / "models/scanmill-layout/config.yaml"))
    call = [sys.executable, str(script), *config, *map(str, options)]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode == 0) == ok, done.stderr
    return done.stderr


def test_command_line_of_detectron2(annotated, tmp_path):
    content = json.loads((annotated / "coco.json").read_text())
    content["categories"] = content["categories"][::-1]  # Ids say the order.
    (annotated / "coco.json").unlink()
    for name, books in {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}.items():
        images = [each for each in content["images"] if each["id"] // 2 in books]
        ids = {each["id"] for each in images}
        regions = [each for each in content["annotations"] if each["image_id"] in ids]
        part = {**content, "images": images, "annotations": regions}
        (annotated / f"{name}.json").write_text(json.dumps(part))
    options = ["--num-gpus", 1, "--images", annotated, "--test", annotated / "test.json"]
    overrides = [*map(str, SMALL), "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.0025]
    begin = [*options, "--train", annotated / "train.json", "--val", annotated / "val.json"]
    train = [*begin, "MODEL.WEIGHTS", "scanmill-layout", *overrides]
    said = train_net(tmp_path, *train)
    assert "12 pages (train 6, val 2, test 4), 36 objects of 2 classes: block, frame" in said
    assert "drawn anew" in said
    assert re.search(r"iteration 6 of 6: .*learning rate", said)
    assert "box_AP " in said
    card = json.loads((tmp_path / "output/model/model.json").read_text())
    assert card["classes"] == ["block", "frame"]
    assert (tmp_path / "output/evaluation/report.html").exists()
    [state] = (tmp_path / "output/training").iterdir()
    assert len((state / "metrics.json").read_text().splitlines()) > 0
    # What was begun is neither trained over nor mixed up.
    assert "--resume goes on with it" in train_net(tmp_path, *train, ok=False)
    figures = json.loads((tmp_path / "output/evaluation/evaluation.json").read_bytes())
    assert "iteration 6 of 6" not in train_net(tmp_path, "--resume", *train)
    # The checkpoint of the last iteration, as Detectron2 names models, and the best model.
    for weights in (state / "last.pth", "output/model"):
        options_there = [*options, "MODEL.WEIGHTS", weights, *overrides]
        more = ["MODEL.ROI_HEADS.NUM_CLASSES", 2, "OUTPUT_DIR", "judged"]
        assert "box_AP " in train_net(tmp_path, "--eval-only", *options_there, *more)
    judged = json.loads((tmp_path / "judged/evaluation/evaluation.json").read_bytes())
    assert judged["overall"] == figures["overall"]
    # Broken annotations are told as such; the CPU is asked for as Detectron2's users do.
    (tmp_path / "b.json").write_text("{broken")
    assert "Traceback" not in train_net(tmp_path, "--train", "b.json", "--num-gpus", 0, ok=False)
    assert "name annotations by --train" in train_net(tmp_path, "SEED", 1, ok=False)
    assert "name them by --test" in train_net(tmp_path, "--eval-only", ok=False)
