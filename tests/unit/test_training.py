"""Training: what is seen, what is kept, and that a run which was stopped goes on as if it was not."""

import errno
import json
import shutil

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
from detecting import SETTINGS, SHIPPED, copy_model
from detectron2.config import get_cfg
from detectron2.layers import ROIAlign
from torchvision.ops import roi_align

from scanmill import training, training_hooks, training_model, training_pages
from scanmill.configs import dump_config, load_config, resolve
from scanmill.detector import Detector
from scanmill.errors import UserError
from scanmill.model_folders import CONFIG, WEIGHTS, check_model, read_card, read_config
from scanmill.training import make_optimizer, train, training_config, write_checkpoint
from scanmill.training_model import TrainingRoiAlign, describe_start, prepare_model, start_from
from scanmill.training_pages import Order, TrainingPages

CLASSES = ["block", "frame"]
SMALL = [
    *("INPUT.MIN_SIZE_TRAIN", (160, 192), "INPUT.MAX_SIZE_TRAIN", 300),
    *("INPUT.MIN_SIZE_TEST", 160, "INPUT.MAX_SIZE_TEST", 300),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 60, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Eight pages with blocks and frames, the last of them blank; (COCO, folder of images)."""
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(3)
    images, annotations = [], []
    for number in range(1, 9):
        page = np.full((400, 300), 240, np.uint8)
        for row in range(3 if number < 8 else 0):
            x, y = int(rng.integers(10, 60)), 20 + 125 * row + int(rng.integers(0, 15))
            width, height = int(rng.integers(120, 220)), int(rng.integers(50, 90))
            kind = row % 2
            thickness = 3 if kind else cv2.FILLED
            cv2.rectangle(page, (x, y), (x + width - 1, y + height - 1), 40, thickness)
            right, bottom = x + width, y + height
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": kind + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "segmentation": [[x, y, right, y, right, bottom, x, bottom]] if kind else [],
                }
            )
        name = f"{number}.png"
        cv2.imwrite(str(folder / name), page)
        images.append({"id": number, "file_name": name, "width": 300, "height": 400})
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}, folder


def config_of(*overrides, epochs=2, classes=2):
    """The shipped model's config with Detectron2's solver, however that model was trained."""
    data = {key: block for key, block in read_config(SHIPPED / CONFIG).items() if key != "SOLVER"}
    config = resolve(data, [*SMALL, *overrides], "scanmill-layout")
    given = {*SMALL[0::2], *overrides[0::2]}
    return training_config(config, given, 8, classes, epochs, "cpu")


CARD = {"name": "mine", "classes": CLASSES, "color": "grey"}


def run(dataset, state, config, validate=lambda folder: {"AP": 0.0}, **options):
    truth, images = dataset
    options = {"start": SHIPPED, "card": CARD, "workers": 0} | options
    return train(config, truth, images, state=state, validate=validate, **options)


def metrics(state):
    return [json.loads(line) for line in (state / "metrics.json").read_text().splitlines()]


# Config -------------------------------------------------------------------------------------------


def test_what_is_not_given_follows_from_the_data():
    config = training_config(load_config("mask_rcnn_R_50_FPN_3x.yaml"), (), 1000, 7, 30, "cuda")
    solver = config.SOLVER
    assert config.MODEL.ROI_HEADS.NUM_CLASSES == 7
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER) == (8, 3750)
    assert pytest.approx(0.01) == solver.BASE_LR
    assert (solver.STEPS, solver.WARMUP_ITERS) == ((2625, 3375), 375)
    assert config.TEST.EVAL_PERIOD == 188
    small = training_config(load_config("mask_rcnn_R_50_FPN_3x.yaml"), (), 5, 2, 1, "cpu").SOLVER
    assert (small.IMS_PER_BATCH, small.MAX_ITER, small.WARMUP_ITERS) == (2, 3, 1)
    assert pytest.approx(0.0025) == small.BASE_LR


def test_what_is_given_stays():
    given = ["SOLVER.IMS_PER_BATCH", 4, "SOLVER.BASE_LR", 0.3, "SOLVER.STEPS", (5,)]
    config = training_config(
        load_config("mask_rcnn_R_50_FPN_3x.yaml", given), given[0::2], 100, 2, 2, "cpu"
    )
    solver = config.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.STEPS, solver.MAX_ITER) == (
        4,
        0.3,
        (5,),
        50,
    )


# Weights ------------------------------------------------------------------------------------------


def test_model_with_the_same_classes_keeps_everything():
    model = prepare_model(config_of(classes=5), True)
    start = start_from(model, SHIPPED, read_card(SHIPPED)["classes"])
    assert not start.renewed
    assert not start.missing
    stored = safetensors.torch.load_file(SHIPPED / WEIGHTS)
    assert all(
        torch.equal(model.state_dict()[k], stored[k].to(v.dtype))
        for k, v in model.state_dict().items()
    )


def test_other_classes_renew_what_predicts_them():
    for classes, count in ((CLASSES, 2), (["a", "b", "c", "d", "e"], 5)):
        model = prepare_model(config_of(classes=count), True)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        start = start_from(model, SHIPPED, classes)
        parts = {".".join(name.split(".")[:3]) for name in start.renewed}
        assert parts == {
            "roi_heads.box_predictor.cls_score",
            "roi_heads.box_predictor.bbox_pred",
            "roi_heads.mask_head.predictor",
        }
        assert all(torch.equal(before[name], model.state_dict()[name]) for name in start.renewed)
        [kept, renewed] = describe_start(start, SHIPPED)
        assert kept == f"from {SHIPPED}: {len(start.kept)} tensors kept"
        assert "6 drawn anew" in renewed
        assert "roi_heads.box_predictor.cls_score.weight" in renewed


def test_other_anchors_renew_the_last_layers_of_the_rpn():
    ratios = ["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.1, 0.3, 0.7, 1.5, 4.0, 8.0, 9.0]]]
    model = prepare_model(config_of(*ratios, classes=5), True)
    start = start_from(model, SHIPPED, read_card(SHIPPED)["classes"])
    assert {name.split(".")[2] for name in start.renewed} == {"objectness_logits", "anchor_deltas"}


def test_weights_of_another_architecture_are_refused():
    model = prepare_model(config_of("MODEL.RESNETS.DEPTH", 34, classes=5), True)
    with pytest.raises(
        UserError, match=r"cannot start from .*of another architecture \(backbone\."
    ):
        start_from(model, SHIPPED, CLASSES)


def test_start_from_nothing_is_said():
    model = prepare_model(config_of(), False)
    start = start_from(model, None, CLASSES)
    assert len(start.missing) == len(model.state_dict())
    assert describe_start(start, None)[0].startswith("training starts from nothing: all ")


def test_statistics_of_small_batches_are_not_taken():
    for steady in (True, False):
        model = prepare_model(config_of(), steady)
        norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert all(norm.training != steady for norm in norms)


def test_rois_are_pooled_in_float32():
    layer = ROIAlign((7, 7), 0.25, 0, aligned=True)
    features = torch.randn(2, 8, 40, 300, generator=torch.Generator().manual_seed(1)).bfloat16()
    rois = torch.tensor([[0, 1101.3, 20.7, 1130.2, 60.1], [1, 3.3, 3.3, 90.9, 9.9]])
    with torch.autocast("cpu", torch.bfloat16):
        pooled = TrainingRoiAlign(layer)(features, rois)
    assert pooled.dtype == torch.bfloat16
    expected = roi_align(features.float(), rois, (7, 7), 0.25, 0, True)
    assert torch.allclose(pooled.float(), expected, rtol=0.01, atol=0.01)


# Pages --------------------------------------------------------------------------------------------


def test_order_is_every_page_once_an_epoch_and_the_same_from_the_middle():
    whole = list(Order(np.zeros(5, bool), 2, 7, 0, 10))
    assert [place for batch in whole for place, _ in batch] == list(range(20))
    for epoch in range(4):
        pages = [page for batch in whole for place, page in batch if place // 5 == epoch]
        assert sorted(pages) == list(range(5))
    assert (
        len({tuple(page for batch in whole for p, page in batch if p // 5 == e) for e in range(4)})
        > 1
    )
    assert list(Order(np.zeros(5, bool), 2, 7, 4, 10)) == whole[4:]


def test_page_is_varied_by_its_place_alone(dataset, tmp_path):
    pages = TrainingPages(*dataset, config_of(), "grey", 1, tmp_path)
    assert len(pages) == 8
    one, same, other = pages[(3, 0)], pages[(3, 0)], pages[(4, 0)]
    assert np.array_equal(one["image"], same["image"])
    assert one["image"].shape != other["image"].shape or (one["image"] != other["image"]).any()
    assert len(pages[(5, 7)]["boxes"]) == 0
    for place in range(6):
        page = pages[(place, 2)]
        channels, height, width = page["image"].shape
        assert channels == 1
        assert min(height, width) in (160, 192) or max(height, width) == 300
        assert (page["boxes"][:, 2:] > page["boxes"][:, :2]).all()
        assert (page["boxes"][:, 2] <= width + 1).all()
        for box, parts in zip(page["boxes"], page["polygons"], strict=True):
            points = np.concatenate(parts).reshape(-1, 2)
            assert np.abs(points.min(0) - box[:2]).max() < 6
        # A filled block is dark where its box says.
        for box, kind in zip(page["boxes"], page["classes"], strict=True):
            x, y = ((box[:2] + box[2:]) / 2).astype(int)
            if kind == 0:
                assert page["image"][0, y, x] < 150


def test_processes_share_each_batch():
    whole = list(Order(np.arange(7) % 2 == 0, 4, 3, 0, 5))
    parts = [list(Order(np.arange(7) % 2 == 0, 4, 3, 0, 5, rank, 2)) for rank in range(2)]
    assert all(len(batch) == 2 for part in parts for batch in part)
    for batch, one, other in zip(whole, *parts, strict=True):
        assert sorted(one + other) == sorted(batch)


def test_few_batches_have_high_and_wide_pages():
    wide = np.random.default_rng(0).random(1000) < 0.2
    batches = list(Order(wide, 8, 1, 0, 125))
    assert sorted(page for batch in batches for _, page in batch) == list(range(1000))
    mixed = [len({bool(wide[page]) for _, page in batch}) == 2 for batch in batches]
    assert sum(mixed) <= 7  # 125 batches are 7 times 20; at random 104 would be mixed.


def test_pages_of_a_batch_have_one_size_and_others_another(dataset, tmp_path):
    pages = TrainingPages(*dataset, config_of(), "grey", 1, tmp_path)
    sides = [[min(pages[(2 * k + i, i)]["image"].shape[1:]) for i in range(2)] for k in range(8)]
    # The longest side may be what limits a page that was cropped.
    assert sum(one == other for one, other in sides) >= 6
    assert {one for one, _ in sides} >= {160, 192}


def test_large_pages_are_decoded_once(dataset, tmp_path, monkeypatch):
    truth, images = dataset
    large = {
        "images": [image | {"width": 1800, "height": 2400} for image in truth["images"]],
        "annotations": [
            each
            | {
                "bbox": [6 * side for side in each["bbox"]],
                "segmentation": [[6 * side for side in part] for part in each["segmentation"]],
            }
            for each in truth["annotations"]
        ],
        "categories": truth["categories"],
    }
    for image in truth["images"]:
        page = cv2.imread(str(images / image["file_name"]), cv2.IMREAD_GRAYSCALE)
        page = np.repeat(np.repeat(page, 6, axis=0), 6, axis=1)
        cv2.imwrite(str(tmp_path / image["file_name"]), page)
    pages = TrainingPages(large, tmp_path, config_of(), "grey", 1, tmp_path / "reduced")
    first = [pages[(place, 2)] for place in range(4)]
    [kept] = (tmp_path / "reduced").iterdir()
    # The sizes are 192 px at most: half of 450, but not of 225.
    assert cv2.imread(str(kept), cv2.IMREAD_UNCHANGED).shape == (600, 450)
    small = TrainingPages(truth, images, config_of(), "grey", 1, tmp_path / "none")
    for place, page in enumerate(first):
        assert np.abs(page["boxes"] - small[(place, 2)]["boxes"]).max() < 1
    assert not (tmp_path / "none").exists()
    # Would fail: it is not called again.
    monkeypatch.setattr(training_pages, "read_image_file", None)
    for place, page in enumerate(first):
        again = pages[(place, 2)]
        assert np.array_equal(page["image"], again["image"])
        assert np.array_equal(page["boxes"], again["boxes"])


# Training -----------------------------------------------------------------------------------------


def test_adamw_trains_by_its_own_rate(dataset, tmp_path):
    config = config_of("SOLVER.OPTIMIZER", "AdamW", "SOLVER.MAX_ITER", 2)
    assert pytest.approx(2e-4 / 8**0.5) == config.SOLVER.BASE_LR  # A batch of 2 in place of 16.
    assert config.SOLVER.WEIGHT_DECAY == 0.05
    model = prepare_model(config, steady=False)
    optimizer = make_optimizer(config, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {0.05, config.SOLVER.WEIGHT_DECAY_NORM}
    assert "OPTIMIZER: AdamW" in dump_config(config)
    assert run(dataset, tmp_path, config).iterations == 2
    with pytest.raises(UserError, match="OPTIMIZER is Adam: it must be SGD or AdamW"):
        config_of("SOLVER.OPTIMIZER", "Adam")


@pytest.mark.parametrize(("kind", "order"), [("norm", 2.0), ("norm", float("inf")), ("value", 2.0)])
@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_gradients_are_clipped_as_detectron2_clips_them(kind, order, optimizer):
    clip = "SOLVER.CLIP_GRADIENTS."
    config = config_of(
        *("SOLVER.OPTIMIZER", optimizer, clip + "ENABLED", True, clip + "CLIP_TYPE", kind),
        *(clip + "NORM_TYPE", order, clip + "CLIP_VALUE", 0.5),
    )
    model = torch.nn.Sequential(*(torch.nn.Linear(4, size) for size in (4, 4, 4)))
    model[2].bias.requires_grad_(False)
    torch.manual_seed(0)
    for scale, parameter in zip((1e-3, 0.1, 1, 10, 100), model.parameters(), strict=False):
        parameter.grad = torch.randn(parameter.shape) * scale
    expected = [parameter.grad.clone() for parameter in list(model.parameters())[:5]]
    for gradient in expected:
        limit = torch.nn.Parameter(torch.zeros_like(gradient))
        limit.grad = gradient
        if kind == "norm":
            torch.nn.utils.clip_grad_norm_(limit, 0.5, order)
        else:
            torch.nn.utils.clip_grad_value_(limit, 0.5)
    make_optimizer(config, model).step()
    clipped = [parameter.grad for parameter in list(model.parameters())[:5]]
    assert all(map(torch.allclose, clipped, expected))
    assert clipped[0].abs().max() < 0.1  # Small ones are left.
    assert clipped[4].abs().max() <= 0.5


@pytest.mark.parametrize(("device", "divisor"), [("cpu", 32), ("cuda", 128)])
def test_batches_of_a_gpu_have_few_shapes(device, divisor, monkeypatch):
    build = training_model.build_model

    def build_here(config):
        config = config.clone()
        config.MODEL.DEVICE = "cpu"
        return build(config)

    monkeypatch.setattr(training_model, "build_model", build_here)
    config = config_of("MODEL.DEVICE", device)
    config.MODEL.DEVICE = device
    model = prepare_model(config, steady=False)
    assert model.backbone.size_divisibility == divisor
    page = {"image": torch.zeros(1, 200, 130, dtype=torch.uint8)}
    height, width = model.preprocess_image([page]).tensor.shape[-2:]
    assert (height % divisor, width % divisor) == (0, 0)


def test_averaged_weights_are_validated_and_kept(dataset, tmp_path, monkeypatch):
    seen = []
    step = training.Trainer.run_step

    def keep(trainer):
        step(trainer)
        seen.append({k: v.clone() for k, v in trainer.model.state_dict().items()})

    monkeypatch.setattr(training.Trainer, "run_step", keep)
    config = config_of("SOLVER.AVERAGING", 0.28, "SOLVER.MAX_ITER", 5, "TEST.EVAL_PERIOD", 5)
    # From nothing, BatchNorm's statistics move, too.
    trained = run(dataset, tmp_path, config, lambda folder: {"AP": 1.0}, start=None)
    assert len(seen) == 5
    expected = {k: v.double() for k, v in seen[0].items()}
    for now, decay in zip(seen[1:], (2 / 11, 3 / 12, 0.28, 0.28), strict=True):
        for name, value in expected.items():
            expected[name] = decay * value + (1 - decay) * now[name]
    saved = torch.load(tmp_path / "last.pth", weights_only=True)
    kept = safetensors.torch.load_file(trained.folder / WEIGHTS)
    moved = 0
    for name, value in expected.items():
        assert torch.equal(saved["model"][name], seen[-1][name])
        assert torch.equal(saved["average"][f"module.{name}"], kept[name])
        if kept[name].is_floating_point():
            assert torch.allclose(kept[name].double(), value, rtol=1e-5, atol=1e-7), name
            moved += not torch.allclose(kept[name], seen[-1][name], rtol=1e-5, atol=1e-7)
    assert moved > len(expected) / 2
    norm = "backbone.bottom_up.stem.conv1.norm.running_mean"
    assert not torch.equal(kept[norm], seen[-1][norm])


def test_nothing_is_averaged_by_default(dataset, tmp_path):
    config = config_of("SOLVER.MAX_ITER", 1)
    pages = TrainingPages(*dataset, config, "grey", 0, tmp_path)
    trainer = training.Trainer(config, prepare_model(config, True), pages, tmp_path, 0)
    assert trainer.average is None
    trained = run(dataset, tmp_path, config, lambda folder: {"AP": 1.0})
    assert "average" not in torch.load(tmp_path / "last.pth", weights_only=True)
    theirs = get_cfg()
    theirs.merge_from_file(str(trained.folder / CONFIG))
    assert theirs.SOLVER.MAX_ITER == 1


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_beyond_averaging_is_refused(decay):
    with pytest.raises(UserError, match=r"SOLVER.AVERAGING is .*: it must be at least 0\.0"):
        config_of("SOLVER.AVERAGING", decay)


def first_is_best(folder):
    """A validation that can be given to another process."""
    return {"AP": 1.0 if (folder.parent / "best").exists() else 50.0}


def stop_at_the_second(folder):
    if (folder.parent / "best").exists():
        raise UserError("stopped")
    return {"AP": 50.0}


def test_several_processes_train_one_model(dataset, tmp_path, caplog):
    caplog.set_level("INFO")
    overrides = ("SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 4, "TEST.EVAL_PERIOD", 2)
    config = config_of(*overrides, "SOLVER.AVERAGING", 0.5)
    whole = run(dataset, tmp_path / "whole", config, first_is_best, processes=2)
    assert (whole.iterations, whole.best) == (4, {"AP": 50.0, "iteration": 2})
    check_model(whole.folder)
    # The first process alone speaks.
    assert caplog.text.count("tensors kept") == 1
    saved = torch.load(tmp_path / "whole" / "last.pth", weights_only=True)
    # Stopped after two iterations and gone on with, it is the same.
    with pytest.raises(UserError, match="stopped"):
        run(dataset, tmp_path / "parts", config, stop_at_the_second, processes=2)
    run(dataset, tmp_path / "parts", config, first_is_best, processes=2)
    again = torch.load(tmp_path / "parts" / "last.pth", weights_only=True)
    for part in ("model", "average"):
        for name, tensor in saved[part].items():
            assert torch.allclose(tensor, again[part][name], atol=1e-5), name


def test_error_of_a_process_is_told_as_that_of_the_training(dataset, tmp_path):
    wild = ("SOLVER.BASE_LR", 1e30, "SOLVER.WARMUP_ITERS", 0, "SOLVER.MAX_ITER", 9)
    with pytest.raises(UserError, match=r"no number any more at iteration \d.*, on \d\.png"):
        run(dataset, tmp_path, config_of(*wild), first_is_best, processes=2)


def test_model_learns_and_comes_out_as_a_model_folder(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(training_hooks, "LOG_PERIOD", 10)
    seen = []

    def validate(folder):
        assert read_card(folder)["classes"] == CLASSES
        seen.append(check_model(folder)["sha256"])
        return {"AP": [1.0, 3.0, 2.0][min(len(seen) - 1, 2)]}

    config = config_of("TEST.EVAL_PERIOD", 10, "SOLVER.MAX_ITER", 30)
    trained = run(dataset, tmp_path / "state", config, validate, workers=1)
    assert trained.best == {"AP": 3.0, "iteration": 20}
    assert trained.iterations == 30
    assert check_model(trained.folder)["sha256"] == seen[1]
    lines = metrics(tmp_path / "state")
    assert [line["iteration"] for line in lines] == [9, 19, 29]
    assert lines[-1]["total_loss"] < lines[0]["total_loss"]
    assert [line["AP"] for line in lines] == [1.0, 3.0, 2.0]
    assert cv2.imread(str(tmp_path / "state" / "training.png")) is not None
    assert list((tmp_path / "state" / "tensorboard").iterdir())
    assert Detector(trained.folder, SETTINGS, "cpu").color == "grey"
    # Complete: nothing runs again.
    again = run(dataset, tmp_path / "state", config, lambda folder: pytest.fail("validated"))
    assert again == trained


class Stopped(Exception):
    pass


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_run_that_was_stopped_goes_on_as_if_it_had_not_been(dataset, tmp_path, monkeypatch, decay):
    monkeypatch.setattr(training_hooks, "LOG_PERIOD", 2)
    monkeypatch.setattr(training_hooks, "CHECKPOINT_PERIOD", 4)
    config = config_of("TEST.EVAL_PERIOD", 4, "SOLVER.MAX_ITER", 12, "SOLVER.AVERAGING", decay)
    figures = {4: 5.0, 8: 9.0, 12: 7.0}
    validated = []

    def validate(folder):
        validated.append(None)
        return {"AP": figures[4 * len(validated)]}

    whole = run(dataset, tmp_path / "whole", config, validate)
    validated.clear()
    step = training.Trainer.run_step
    for stop in (1, 5, 10):  # Before the first checkpoint, and between two others.

        def until(trainer, stop=stop):
            if trainer.iter == stop:
                raise Stopped
            step(trainer)

        monkeypatch.setattr(training.Trainer, "run_step", until)
        with pytest.raises(Stopped):
            run(dataset, tmp_path / "stopped", config, validate)
        # What lies between the last checkpoint and the kill comes again.
        del validated[stop // 4 :]
    monkeypatch.setattr(training.Trainer, "run_step", step)
    resumed = run(dataset, tmp_path / "stopped", config, validate)
    assert resumed.best == whole.best == {"AP": 9.0, "iteration": 8}
    one, other = metrics(tmp_path / "whole"), metrics(tmp_path / "stopped")
    for lines in (one, other):
        assert [line["iteration"] for line in lines] == [1, 3, 5, 7, 9, 11]
    for name in ("total_loss", "lr"):
        assert [line[name] for line in one] == pytest.approx(
            [line[name] for line in other], rel=1e-6
        )
    weights = [safetensors.torch.load_file(each.folder / WEIGHTS) for each in (whole, resumed)]
    assert all(torch.allclose(weights[0][k], weights[1][k], atol=1e-6) for k in weights[0])
    ends = [torch.load(tmp_path / each / "last.pth") for each in ("whole", "stopped")]
    for part in ("model", "average") if decay else ("model",):
        one, other = (end[part] for end in ends)
        assert all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)


def test_training_ends_when_nothing_better_comes(dataset, tmp_path):
    config = config_of("TEST.EVAL_PERIOD", 2, "SOLVER.MAX_ITER", 40)
    trained = run(dataset, tmp_path / "a", config, lambda folder: {"AP": 1.0}, patience=3)
    assert trained.iterations == 8
    assert trained.best["iteration"] == 2
    again = run(dataset, tmp_path / "a", config, lambda folder: pytest.fail("again"), patience=3)
    assert again.iterations == 8
    # Each validation is written, though several lie between two lines of the log.
    judged = [line["iteration"] + 1 for line in metrics(tmp_path / "a") if "AP" in line]
    assert judged == [2, 4, 6, 8]


def test_loss_that_is_no_number_stops_and_keeps_the_last_good_model(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(training_hooks, "CHECKPOINT_PERIOD", 2)
    step = training.Trainer.run_step

    def spoil(trainer):
        if trainer.iter == 5:
            with torch.no_grad():
                trainer.model.roi_heads.box_predictor.cls_score.bias.fill_(torch.nan)
        step(trainer)

    monkeypatch.setattr(training.Trainer, "run_step", spoil)
    config = config_of("TEST.EVAL_PERIOD", 3, "SOLVER.MAX_ITER", 10)
    with pytest.raises(
        UserError, match=r"no number any more at iteration 5 .* on \d\.png, \d\.png"
    ) as raised:
        run(dataset, tmp_path / "state", config)
    assert "Lower SOLVER.BASE_LR" in str(raised.value)
    saved = torch.load(tmp_path / "state" / "last.pth", weights_only=True)
    assert saved["iteration"] == 3
    assert all(value.isfinite().all() for value in saved["model"].values())
    assert check_model(tmp_path / "state" / "best")


def test_checkpoint_survives_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    write_checkpoint({"iteration": 1}, path)

    def full(saved, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training.torch, "save", full)
    with pytest.raises(OSError, match=r"No space left.*last\.pth"):
        write_checkpoint({"iteration": 2}, path)
    assert torch.load(path, weights_only=True) == {"iteration": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["last.pth"]


def test_dataset_without_pages_is_refused(dataset, tmp_path):
    truth, images = dataset
    empty = {**truth, "images": [], "annotations": []}
    with pytest.raises(UserError, match="no page to train on"):
        run((empty, images), tmp_path, config_of())


def test_colour_models_get_colour_pages(dataset, tmp_path):
    folder = copy_model(tmp_path / "colour")
    shutil.rmtree(folder)
    pages = TrainingPages(*dataset, config_of(), "RGB", 1, tmp_path)
    assert pages[(0, 0)]["image"].shape[0] == 3
