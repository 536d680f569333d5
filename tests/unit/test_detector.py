"""The detector: the same as Detectron2 on a lone page, whatever the batch, the threads, the mishaps."""

import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pypdfium2
import pytest
import torch
import yaml
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from scanmill import detector as detector_module
from scanmill.detector import (
    CUDA_ROIS,
    MAX_POLYGON_POINTS,
    ConstantRois,
    Detector,
    Float32Pooler,
    SteadyKernels,
    Work,
    choose_device,
    choose_precision,
    convert_model,
    detect_documents,
    mask_polygon,
)
from scanmill.errors import UserError
from scanmill.preprocessing import pages_of
from scanmill.progress import Progress
from scanmill.registry import CARD, CONFIG, WEIGHTS, read_card, write_card
from scanmill.store import StageStore, file_digest
from scanmill.tables import SCHEMAS, from_rows

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from make_demo_archive import write_vector_pdf

SHIPPED = Path(__file__).parents[2] / "models" / "starter"
SETTINGS = {"score_floor": 0.05, "precision": "float32", "polygons": True}
DPI = 100
CAP = 6

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


@pytest.fixture(scope="module", autouse=True)
def threads():
    """Leave torch as it was found."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def copy_model(folder, **config):
    """The shipped model with other entries in its config, its card agreeing."""
    shutil.copytree(SHIPPED, folder)
    values = yaml.safe_load((folder / CONFIG).read_text())
    for key, value in config.items():
        *sections, last = key.split("__")
        block = values
        for section in sections:
            block = block.setdefault(section, {})
        block[last] = value
    (folder / CONFIG).write_text(yaml.safe_dump(values))
    card = read_card(folder)
    card.pop("sha256")
    write_card(folder, **card)
    return folder


@pytest.fixture(scope="module", params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request):
    return request.param


@pytest.fixture(scope="module")
def detector(device):
    return Detector(SHIPPED, SETTINGS, device)


@pytest.fixture(scope="module")
def small(device, tmp_path_factory):
    """The same on small pages, with few detections on each: where only the way of the rows matters."""
    sizes = {"INPUT__MIN_SIZE_TEST": 192, "INPUT__MAX_SIZE_TEST": 320}
    folder = tmp_path_factory.mktemp("models") / "small"
    copy_model(folder, **sizes, TEST__DETECTIONS_PER_IMAGE=CAP)
    return Detector(folder, SETTINGS, device)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three grey A4 pages at 100 dpi."""
    path = tmp_path_factory.mktemp("pages") / "pages.pdf"
    write_vector_pdf(path, 3, seed=5)
    with pypdfium2.PdfDocument(path) as document:
        return [
            page.render(scale=DPI / 72, grayscale=True).to_numpy().squeeze().copy()
            for page in document
        ]


@pytest.fixture(scope="module")
def pixels(detector, images):
    dataset = detector.dataset([], Path())
    return [torch.as_tensor(dataset.pixels(image)) for image in images]


@pytest.fixture(scope="module")
def alone(detector, images, pixels):
    """What the detector finds on each page alone."""
    return [
        detector.detect([page], [image.shape])[0]
        for page, image in zip(pixels, images, strict=True)
    ]


def assert_equal(one, other):
    """Bit for bit."""
    for name in ("boxes", "scores", "class_ids"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert len(one.polygons) == len(other.polygons)
    for a, b in zip(one.polygons, other.polygons, strict=True):
        assert np.array_equal(a, b)
    assert one.n_proposals == other.n_proposals
    assert one.problem == other.problem


# Compared with Detectron2 -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(device, images, tmp_path_factory):
    """What Detectron2's own DefaultPredictor says of the first page, as grey in three channels."""
    import safetensors.torch
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor

    checkpoint = tmp_path_factory.mktemp("checkpoint") / "model.pth"
    weights = safetensors.torch.load_file(SHIPPED / WEIGHTS)
    weights = {k: w.float() if w.is_floating_point() else w for k, w in weights.items()}
    torch.save({"model": weights}, checkpoint)
    config = get_cfg()
    config.merge_from_file(str(SHIPPED / CONFIG))
    config.MODEL.WEIGHTS = str(checkpoint)
    config.MODEL.DEVICE = device
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = SETTINGS["score_floor"]
    predictor = DefaultPredictor(config)
    pages = [np.repeat(image[..., None], 3, axis=2) for image in images[:1]]
    return [predictor(page)["instances"].to("cpu") for page in pages]


def test_page_gets_what_detectron2_says(alone, expected):
    for mine, theirs in zip(alone[:1], expected, strict=True):
        boxes, scores = theirs.pred_boxes.tensor.numpy(), theirs.scores.numpy()
        # At the very floor, the last bits of a score decide.
        sure, theirs_sure = mine.scores > 0.051, scores > 0.051
        assert sure.sum() == theirs_sure.sum() > 10
        left = set(np.flatnonzero(theirs_sure))
        for box, score, class_id in zip(
            mine.boxes[sure], mine.scores[sure], mine.class_ids[sure], strict=True
        ):
            match = next(i for i in left if np.allclose(boxes[i], box, rtol=0, atol=0.02))
            left.remove(match)
            assert scores[match] == pytest.approx(score, abs=1e-4)
            assert theirs.pred_classes[match] == class_id


def test_detections_are_in_the_page_and_in_order(alone, images):
    for found, image in zip(alone, images, strict=True):
        height, width = image.shape
        assert (found.boxes.dtype, found.scores.dtype) == (np.float32, np.float32)
        assert found.class_ids.dtype == np.int32
        assert (np.diff(found.scores) <= 0).all()
        assert (found.scores > 0.05).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert 100 < found.n_proposals <= 500
        assert found.problem is None


def test_polygons_outline_detectron2s_masks(alone, expected, images):
    overlaps = []
    for mine, theirs, image in zip(alone[:1], expected, images[:1], strict=True):
        masks, boxes = theirs.pred_masks.numpy(), theirs.pred_boxes.tensor.numpy()
        classes = theirs.pred_classes.numpy()
        for box, class_id, polygon in zip(mine.boxes, mine.class_ids, mine.polygons, strict=True):
            close = np.abs(boxes - box).max(axis=1) + 1000 * (classes != class_id)
            mask = masks[np.argmin(close)]
            if polygon is None or close.min() > 0.1:
                continue
            assert polygon.dtype == np.int32
            assert 6 <= len(polygon) <= 2 * MAX_POLYGON_POINTS
            points = polygon.reshape(-1, 2)
            assert (points >= np.floor(box[:2])).all()
            assert (points <= np.ceil(box[2:])).all()
            sizes = cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
            # Not lace of many pieces, for which 32 points are few.
            filled = sizes.sum() / np.prod(box[2:] - box[:2])
            if sizes.max(initial=0) < 2000 or sizes.max() < 0.95 * sizes.sum() or filled < 0.5:
                continue
            drawn = np.zeros(image.shape, np.uint8)
            cv2.fillPoly(drawn, [points], 1)
            overlaps.append((drawn & mask).sum() / (drawn | mask).sum())
    assert len(overlaps) > 10
    assert min(overlaps) >= 0.9
    assert np.median(overlaps) >= 0.96


# The same page, the same bits ---------------------------------------------------------------------


def test_page_of_a_batch_is_as_a_page_alone(detector, alone, images, pixels):
    sizes = [image.shape for image in images]
    order = [2, 0, 1]
    found = detector.detect([pixels[i] for i in order], [sizes[i] for i in order])
    for index, detections in zip(order, found, strict=True):
        assert_equal(detections, alone[index])


def test_threads_do_not_show(detector, alone, images, pixels):
    sizes = [image.shape for image in images]
    torch.set_num_threads(1)
    try:
        pair = detector.detect(pixels[:2], sizes[:2])
        single = detector.detect(pixels[2:], sizes[2:])
    finally:
        torch.set_num_threads(2)
    for detections, other in zip([*pair, *single], alone, strict=True):
        assert_equal(detections, other)


def test_probabilities_of_a_mask_do_not_depend_on_the_next():
    """Their last bit decides where an outline runs."""
    logits = torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with SteadyKernels():
        together = logits.sigmoid()
        for count in range(1, 200):
            assert torch.equal(logits[:count].sigmoid(), together[:count])
    assert torch.allclose(together, logits.sigmoid())


def test_pass_is_filled_up(small, images, monkeypatch):
    """As on CUDA: as many pages in every pass, and nobody sees those that fill it up."""
    pixels = [torch.as_tensor(small.dataset([], Path()).pixels(image)) for image in images]
    sizes, given = [image.shape for image in images], []
    expected = [small.detect([page], [size])[0] for page, size in zip(pixels, sizes, strict=True)]
    monkeypatch.setattr(small, "pages_at_once", 2)
    hook = small.model.backbone.register_forward_pre_hook(
        lambda _, args: given.append(len(args[0]))
    )
    found = small.detect(pixels, sizes)
    hook.remove()
    assert given == [2, 2]
    if small.device.type == "cpu":
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)


@pytest.mark.parametrize("count", [0, 1, CUDA_ROIS, CUDA_ROIS + 1, 3 * CUDA_ROIS - 1])
def test_layers_of_the_heads_get_equal_numbers_of_rois(count):
    class Record(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function in (functional.linear, functional.conv2d, functional.conv_transpose2d):
                seen.append(len(args[0]))
            return function(*args, **(kwargs or {}))

    seen, rows, maps = [], torch.randn(count, 6), torch.randn(count, 3, 4, 4)
    for layer, x in (
        (torch.nn.Linear(6, 5), rows),
        (torch.nn.Conv2d(3, 5, 3), maps),
        (torch.nn.ConvTranspose2d(3, 5, 2, stride=2), maps),
    ):
        expected = layer(x)
        seen.clear()
        with Record(), ConstantRois():
            found = layer(x)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-5)
        assert seen == [CUDA_ROIS] * -(-count // CUDA_ROIS) or count == 0


def test_batch_that_does_not_fit_is_halved(small, images, monkeypatch):
    dataset = small.dataset([], Path())
    pixels = [torch.as_tensor(dataset.pixels(image)) for image in images[:2]]
    sizes, tried = [image.shape for image in images[:2]], []
    monkeypatch.setattr(small, "pages_at_once", None)
    alone = [small.detect([page], [size])[0] for page, size in zip(pixels, sizes, strict=True)]
    inference = small.model.inference

    def limited(inputs, **options):
        tried.append(len(inputs))
        if len(inputs) > limit:
            raise error
        return inference(inputs, **options)

    monkeypatch.setattr(small.model, "inference", limited)
    limit, error = 1, torch.OutOfMemoryError("CUDA out of memory")
    for detections, other in zip(small.detect(pixels, sizes), alone, strict=True):
        assert_equal(detections, other)
    assert tried == [2, 1, 1]
    limit = 0
    no_memory = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    no_handle = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    for raised in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(no_memory),
        RuntimeError(no_handle),
    ):
        error = raised
        tried.clear()
        found = small.detect([*pixels, pixels[0]], [*sizes, sizes[0]])
        assert tried == [3, 1, 2, 1, 1]
        assert [each.problem[0] for each in found] == ["memory"] * 3
        assert f"does not fit into the memory of {small.device.type}" in found[0].problem[1]
        assert not len(found[0].boxes)
    error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        small.detect(pixels[:1], sizes[:1])


# Precision, settings ------------------------------------------------------------------------------


def test_bfloat16_pools_in_float32(device, alone, images, pixels):
    detector = Detector(SHIPPED, {**SETTINGS, "precision": "bfloat16"}, device)
    assert detector.precision == "bfloat16"
    heads = detector.model.roi_heads
    given, pooled = [], []
    for pooler in (heads.box_pooler, heads.mask_pooler):
        assert isinstance(pooler, Float32Pooler)
        pooler.register_forward_pre_hook(lambda _, args: given.extend(f.dtype for f in args[0]))
        pooler.pooler.register_forward_pre_hook(
            lambda _, args: pooled.extend(f.dtype for f in args[0])
        )
    (found,) = detector.detect(pixels[:1], [images[0].shape])
    assert set(given) == {torch.bfloat16}
    assert set(pooled) == {torch.float32}
    assert len(given) == len(pooled)
    sure = np.flatnonzero(alone[0].scores > 0.7)
    assert len(sure) > 3
    for index in sure:
        same = found.class_ids == alone[0].class_ids[index]
        distance = np.abs(found.boxes[same] - alone[0].boxes[index]).max(axis=1)
        assert distance.min() <= 2
        assert found.scores[same][distance.argmin()] == pytest.approx(
            alone[0].scores[index], abs=0.05
        )


def test_settings_reach_the_model(device, alone, images, pixels):
    settings = {"score_floor": 0.5, "precision": "float32", "polygons": False}
    detector = Detector(SHIPPED, settings, device)
    assert detector.device.type == device
    assert detector.device_kind.startswith(f"{device} ")
    assert detector.classes == ["text", "title", "list", "table", "figure"]
    assert (detector.color, detector.min_size, detector.max_size) == ("grey", 448, 800)
    assert detector.divisibility == 32
    (found,) = detector.detect(pixels[:1], [images[0].shape])
    sure = alone[0].scores > 0.5
    assert 3 < sure.sum() < len(sure)
    assert np.array_equal(found.boxes, alone[0].boxes[sure])
    assert found.polygons == [None] * sure.sum()


def test_precision_follows_the_device():
    assert choose_precision("auto", torch.device("cpu")) == "float32"
    assert choose_precision("auto", torch.device("cuda")) == "float16"
    assert choose_precision("bfloat16", torch.device("cuda")) == "bfloat16"


# Devices ------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """A machine with a driver, or none, whose GPU torch can use, or not."""

    def make(driver, usable):
        monkeypatch.setattr(detector_module, "nvidia_driver", lambda: driver)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)

    return make


def test_gpu_is_taken_where_it_can_be_used(machine):
    machine("580.1", True)
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    assert choose_device("cpu").type == "cpu"
    machine(None, False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"


def test_gpu_that_torch_cannot_use_is_an_error(machine):
    machine("470.2", False)
    for setting in ("auto", "cuda"):
        with pytest.raises(
            UserError, match=r"driver is 470\.2.*TORCH=cu126.*detection\.device: cpu"
        ):
            choose_device(setting)
    assert choose_device("cpu").type == "cpu"
    machine(None, False)
    with pytest.raises(UserError, match="no NVIDIA GPU with a working driver was found"):
        choose_device("cuda")


# Weights that cannot be used ----------------------------------------------------------------------


def part(model, name):
    return {
        "backbone": model.backbone,
        "proposals": model.proposal_generator,
        "boxes": model.roi_heads.box_head,
        "scores": model.roi_heads.box_predictor,
    }[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [("backbone", np.nan), ("proposals", np.nan), ("boxes", np.nan), ("scores", np.inf)],
)
def test_numbers_that_are_not_finite_fail_the_page(small, images, name, value):
    """An empty page would be the silent answer."""
    pixels = [torch.as_tensor(small.dataset([], Path()).pixels(images[0]))]
    weight = next(p for p in part(small.model, name).parameters() if p.ndim > 1)
    before = weight.data.clone()
    weight.data.fill_(value)
    try:
        (found,) = small.detect(pixels, [images[0].shape])
    finally:
        weight.data.copy_(before)
    assert found.problem
    assert found.problem[0] == "detector"
    assert "finite" in found.problem[1]
    assert not len(found.boxes)
    assert small.detect(pixels, [images[0].shape])[0].problem is None


def test_only_the_page_whose_numbers_are_not_finite_fails(small, images, monkeypatch):
    pixels = [torch.as_tensor(small.dataset([], Path()).pixels(image)) for image in images]
    forward = small.model.roi_heads.box_predictor.forward

    def spoilt(x):
        scores, deltas = forward(x)
        scores[small._n_proposals[0] + 1] = float("nan")  # A proposal of the second page.
        return scores, deltas

    monkeypatch.setattr(small.model.roi_heads.box_predictor, "forward", spoilt)
    found = small.detect(pixels, [image.shape for image in images])
    assert [each.problem and each.problem[0] for each in found] == [None, "detector", None]
    assert [len(each.boxes) > 0 for each in found] == [True, False, True]


def test_config_of_another_model_is_explained(tmp_path):
    folder = copy_model(tmp_path / "a", MODEL__FPN__OUT_CHANNELS=64)
    with pytest.raises(UserError, match=r"model\.safetensors does not fit .*config\.yaml"):
        Detector(folder, SETTINGS, "cpu")
    folder = copy_model(tmp_path / "b", MODEL__NO_SUCH_KEY=1)
    with pytest.raises(UserError, match=r"no config of this detectron2.*NO_SUCH_KEY"):
        Detector(folder, SETTINGS, "cpu")
    folder = copy_model(tmp_path / "c", INPUT__FORMAT="YUV")
    (folder / CARD).write_text((folder / CARD).read_text().replace('"grey"', '"config"'))
    with pytest.raises(UserError, match=r"INPUT\.FORMAT YUV is neither"):
        Detector(folder, SETTINGS, "cpu")


def test_damaged_weights_are_not_opened(tmp_path):
    folder = copy_model(tmp_path / "a")
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(1000)
        file.write(b"xxxx")
    with pytest.raises(UserError, match="nothing was opened"):
        Detector(folder, SETTINGS, "cpu")


def test_converted_checkpoint_is_the_shipped_model(tmp_path):
    import safetensors.torch

    checkpoint = tmp_path / "model_final.pth"
    weights = safetensors.torch.load_file(SHIPPED / WEIGHTS)
    torch.save({"model": {k: v.float() for k, v in weights.items()}}, checkpoint)
    target = tmp_path / "models" / "mine"
    entries = {"name": "mine", "classes": read_card(SHIPPED)["classes"], "licence": "CC0-1.0"}
    convert_model(checkpoint, SHIPPED / CONFIG, target, "grey", entries)
    assert read_card(target)["licence"] == "CC0-1.0"
    assert yaml.safe_load((target / CONFIG).read_text()) == yaml.safe_load(
        (SHIPPED / CONFIG).read_text()
    )
    converted = safetensors.torch.load_file(target / WEIGHTS)
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[k], weights[k]) for k in weights)
    assert (target / WEIGHTS).stat().st_size == (SHIPPED / WEIGHTS).stat().st_size


# Polygons -----------------------------------------------------------------------------------------


def test_polygon_of_a_full_mask_is_the_box():
    polygon = mask_polygon(np.ones((28, 28), np.float32), np.array([10, 20, 290, 580], np.float32))
    points = polygon.reshape(-1, 2)
    drawn = np.zeros((600, 300), np.uint8)
    cv2.fillPoly(drawn, [points], 1)
    assert drawn[20:580, 10:290].mean() > 0.95
    assert drawn.sum() <= 282 * 562
    assert len(points) <= 8


def test_polygon_is_of_the_largest_piece():
    mask = np.zeros((28, 28), np.float32)
    mask[2:6, 2:6] = 1
    mask[12:26, 10:24] = 1
    points = mask_polygon(mask, np.array([100, 200, 380, 480], np.float32)).reshape(-1, 2)
    # Cells of 10 px: the piece reaches from 200 to 340 and from 320 to 460.
    assert points.min(axis=0) == pytest.approx([200, 320], abs=3)
    assert points.max(axis=0) == pytest.approx([340, 460], abs=3)


def test_polygon_of_a_ragged_mask_has_few_points():
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[:28, :28]
    angle = np.arctan2(yy - 13.5, xx - 13.5)
    star = np.hypot(yy - 13.5, xx - 13.5) < 9 + 4 * np.sin(17 * angle)
    mask = np.clip(star + rng.uniform(-0.4, 0.4, (28, 28)), 0, 1).astype(np.float32)
    polygon = mask_polygon(mask, np.array([0, 0, 1000, 1000], np.float32))
    assert 10 < len(polygon) / 2 <= MAX_POLYGON_POINTS


@pytest.mark.parametrize("value", [0.0, 0.49, float("nan")])
def test_mask_below_one_half_has_no_polygon(value):
    mask = np.full((28, 28), value, np.float32)
    assert mask_polygon(mask, np.array([0, 0, 100, 100], np.float32)) is None


# A shard ------------------------------------------------------------------------------------------


def store_pages(results, images):
    """Rows of `images` of three documents: of three pages (one failed), of one, and of none."""
    pages = [("a.pdf", 1, 0), ("a.pdf", 2, None), ("a.pdf", 3, 1), ("b.pdf", 1, 2)]
    rows = []
    for document, page, index in pages:
        if index is None:
            row = {"status": "failed"}
        else:
            name = f"{document}-{page}.png"
            cv2.imwrite(str(results / name), images[index])
            height, width = images[index].shape
            sha256 = file_digest(results / name)
            row = {
                "status": "ok",
                "image": name,
                "width": width,
                "height": height,
                "sha256": sha256,
            }
        rows.append({"document": document, "page": page, **row})
    rows.append({"document": "c.pdf", "page": None, "status": "failed"})
    return from_rows("images", rows)


def run_shard(detector, results, table, batch_size, threads=2):
    """Detect as the rule does; returns the two tables of each document."""
    store = StageStore(results, "detections", SETTINGS, "code")
    work = []
    for document in ("a.pdf", "b.pdf", "c.pdf"):
        mine = pages_of(table.filter(pa.compute.equal(table["document"], document)))
        work.append(Work(document, mine, store.fingerprint([document])))
    progress = Progress("detect_layout", len(work), 3, 3)
    detect_documents(detector, work, store, batch_size, threads, progress)
    assert (progress.done_documents, progress.done_pages) == (3, 3)
    assert all(store.state(each.document, each.wanted) == "done" for each in work)
    return {
        each.document: [store.read(each.document, t) for t in ("detections", "detected_pages")]
        for each in work
    }


def test_shard_is_recorded_by_document(small, images, tmp_path):
    dataset = small.dataset([], Path())
    alone = [
        small.detect([torch.as_tensor(dataset.pixels(image))], [image.shape])[0] for image in images
    ]
    table = store_pages(tmp_path, images)
    found = run_shard(small, tmp_path, table, batch_size=3)
    detections, pages = found["a.pdf"]
    assert detections.schema.remove_metadata().equals(SCHEMAS["detections"])
    assert pages.schema.remove_metadata().equals(SCHEMAS["detected_pages"])
    assert pages["page"].to_pylist() == [1, 3]
    rows = detections.to_pylist()
    for page, one in ((1, alone[0]), (3, alone[1])):
        mine = [row for row in rows if row["page"] == page]
        assert [row["detection"] for row in mine] == list(range(1, len(one.scores) + 1))
        assert [row["score"] for row in mine] == one.scores.tolist()
        assert [row["x_max"] for row in mine] == one.boxes[:, 2].tolist()
        names = [small.classes[i] for i in one.class_ids]
        assert [row["class_name"] for row in mine] == names
        assert [row["class_id"] for row in mine] == one.class_ids.tolist()
        polygons = [None if p is None else p.tolist() for p in one.polygons]
        assert [row["polygon"] for row in mine] == polygons
    counts = [len(alone[0].scores), len(alone[1].scores)]
    assert pages["n_detections"].to_pylist() == counts
    # A page that met the cap says so.
    assert min(counts) < max(counts) == CAP
    assert pages["capped"].to_pylist() == [count == CAP for count in counts]
    outcome = pages.to_pylist()[0]
    assert (outcome["document"], outcome["status"]) == ("a.pdf", "ok")
    assert outcome["n_proposals"] == alone[0].n_proposals
    assert (outcome["precision"], outcome["device"]) == ("float32", small.device_kind)
    assert 0 < np.mean(outcome["ink"]) < 128
    assert [table.num_rows for table in found["c.pdf"]] == [0, 0]
    again = run_shard(small, tmp_path, table, batch_size=1, threads=1)
    for document, tables in found.items():
        for one, other in zip(tables, again[document], strict=True):
            assert one.equals(other)


def test_missing_page_image_names_the_repair(small, images, tmp_path):
    table = store_pages(tmp_path, images)
    os.unlink(tmp_path / "a.pdf-3.png")
    with pytest.raises(UserError, match=r"a\.pdf, page 3.*verify_results\.py --repair"):
        run_shard(small, tmp_path, table, batch_size=3)
    cv2.imwrite(str(tmp_path / "a.pdf-3.png"), images[2])
    with pytest.raises(UserError, match=r"a\.pdf, page 3, was rendered but its bytes are not"):
        run_shard(small, tmp_path, table, batch_size=3)


def test_failed_page_is_an_outcome(small, images, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(small.model, "inference", exhausted)
    table = store_pages(tmp_path, images)
    detections, pages = run_shard(small, tmp_path, table, batch_size=3)["a.pdf"]
    assert detections.num_rows == 0
    for row in pages.to_pylist():
        assert (row["status"], row["stage"], row["reason"]) == ("failed", "detections", "memory")
        assert row["n_detections"] is row["capped"] is row["n_proposals"] is None
        assert row["ink"]
