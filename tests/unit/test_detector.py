"""The detector: the same as Detectron2 on a lone page, whatever the batch, the threads, the mishaps."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest
import safetensors.torch
import torch
import yaml
from detecting import (
    DEVICES,
    HALF,
    SETTINGS,
    SHIPPED,
    SIZES,
    assert_equal,
    assert_same_detections,
    copy_model,
    detect,
    draw_pages,
    pixels,
    skip_without_bfloat16,
)
from PIL import ExifTags, Image
from scores import between

from scanmill import detector as detector_module
from scanmill.configs import dump_config, load_config
from scanmill.detector import Detector, choose_device, choose_precision, load
from scanmill.errors import UserError
from scanmill.model_folders import CARD, CONFIG, WEIGHTS, read_card, write_card
from scanmill.outlines import MAX_POLYGON_POINTS
from scanmill.tables import SCHEMAS

# isort: split
from benchmark import default_predictor

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


@pytest.fixture(scope="module", autouse=True)
def threads():
    """Leave torch as it was found."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=DEVICES)
def device(request):
    return request.param


@pytest.fixture(scope="module")
def detector(device):
    return Detector(SHIPPED, SETTINGS, device, 4)


@pytest.fixture(scope="module")
def small(device, tmp_path_factory):
    """The same on small pages: where only the way of the rows matters."""
    folder = copy_model(tmp_path_factory.mktemp("models") / "small", **HALF)
    return Detector(folder, {**SETTINGS, "max_detections": 6}, device, 4)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_pages(tmp_path_factory.mktemp("pages"), 3)


@pytest.fixture(scope="module")
def alone(detector, images):
    """What the detector finds on each page alone."""
    return [detect(detector, [pixels(detector, image)], [image])[1][0] for image in images]


# Compared with Detectron2 -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(detector, images):
    """What Detectron2's own DefaultPredictor says of each page, as grey in three channels."""
    predictor = default_predictor(detector, SHIPPED)
    pages = [np.repeat(image[..., None], 3, axis=2) for image in images]
    return [predictor(page)["instances"].to("cpu") for page in pages]


def test_page_gets_what_detectron2_says(alone, expected):
    for mine, their in zip(alone, expected, strict=True):
        boxes, scores = their.pred_boxes.tensor.numpy(), their.scores.numpy()
        theirs = boxes, scores, their.pred_classes.numpy()
        assert_same_detections(mine[:3], theirs, 0.05)
        assert (scores > 0.051).sum() > 10


def test_detections_are_in_the_page_and_in_order(detector, alone, images):
    for found, image in zip(alone, images, strict=True):
        height, width = image.shape
        assert (found.boxes.dtype, found.scores.dtype) == (np.float32, np.float32)
        assert found.class_ids.dtype == np.int32
        assert (np.diff(found.scores) <= 0).all()
        assert (found.scores > 0.05).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    tiles, _ = detect(detector, [pixels(detector, images[0])], images[:1])
    most = detector.config.MODEL.RPN.POST_NMS_TOPK_TEST
    assert most / 5 < tiles[0].n_proposals <= most
    assert tiles[0].problem is None


def test_polygons_outline_detectron2s_masks(alone, expected, images):
    overlaps = []
    pages = [
        (image, their, *rows)
        for image, their, mine in zip(images, expected, alone, strict=True)
        for rows in zip(*mine, strict=True)
    ]
    for image, their, box, score, class_id, polygon in pages:
        boxes, classes = their.pred_boxes.tensor.numpy(), their.pred_classes.numpy()
        close = np.abs(boxes - box).max(axis=1) + 1000 * (classes != class_id)
        mask = their.pred_masks[np.argmin(close)].numpy()
        if polygon is None or close.min() > 0.1:
            continue
        assert polygon.dtype == np.int32
        assert 6 <= len(polygon) <= 2 * MAX_POLYGON_POINTS
        points = polygon.reshape(-1, 2)
        assert (points >= np.floor(box[:2])).all()
        assert (points <= np.ceil(box[2:])).all()
        sizes = cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        # Not lace of many pieces, for which 32 points are few, as what is hardly a region often has.
        filled = sizes.sum() / np.prod(box[2:] - box[:2])
        lace = sizes.max(initial=0) < 0.95 * sizes.sum() or filled < 0.5
        if score < 0.5 or lace or sizes.max() < 2000:
            continue
        drawn = np.zeros(image.shape, np.uint8)
        cv2.fillPoly(drawn, [points], 1)
        overlaps.append((drawn & mask).sum() / (drawn | mask).sum())
    assert len(overlaps) > 20
    assert min(overlaps) >= 0.9
    assert np.median(overlaps) >= 0.96


# The same page, the same bits ---------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_page_of_a_batch_of_16_is_as_a_page_alone(device, images, precision):
    """In any order, at any place, beside any pages."""
    if precision == "bfloat16":
        skip_without_bfloat16(device)
    detector = Detector(SHIPPED, {**SETTINGS, "precision": precision}, device, 16)
    ready = [pixels(detector, image) for image in images]
    alone = [
        detect(detector, [page], [image])[1][0] for page, image in zip(ready, images, strict=True)
    ]
    rng = np.random.default_rng(0)
    order = rng.permutation(np.arange(16) % 3)
    _, found = detect(detector, [ready[i] for i in order], [images[i] for i in order])
    for index, detections in zip(order, found, strict=True):
        if (device, precision) == ("cuda", "bfloat16"):
            assert_same_detections(detections[:3], alone[index][:3], 0.05)
        else:
            assert_equal(detections, alone[index])


def test_threads_do_not_show(detector, alone, images):
    ready = [pixels(detector, image) for image in images]
    torch.set_num_threads(1)
    try:
        _, pair = detect(detector, ready[:2], images[:2])
        _, single = detect(detector, ready[2:], images[2:])
    finally:
        torch.set_num_threads(2)
    for detections, other in zip([*pair, *single], alone, strict=True):
        assert_equal(detections, other)


def test_batches_come_back_in_order(small, images):
    ready = [pixels(small, image) for image in images]
    batches = [[ready[0], ready[1]], [ready[2]], [ready[1]]]
    found = list(small.detect_batches(batches))
    assert [len(each) for each in found] == [2, 1, 1]
    assert np.array_equal(found[0][1].boxes, found[2][0].boxes)
    assert not np.array_equal(found[0][0].boxes, found[1][0].boxes)
    assert list(small.detect_batches([])) == []


# Memory -------------------------------------------------------------------------------------------


class Limited:
    """A network that takes so many pages at once."""

    def __init__(self, network):
        self.network, self.limit, self.error, self.tried = network, 0, None, []

    def __call__(self, canvases, sizes):
        self.tried.append(len(canvases))
        if len(canvases) > self.limit:
            raise self.error
        return self.network(canvases, sizes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="on CUDA, passes are filled up")
def test_batch_that_does_not_fit_is_halved(small, images, monkeypatch):
    ready = [pixels(small, image) for image in images[:2]]
    alone = [
        detect(small, [page], [image])[1][0] for page, image in zip(ready, images[:2], strict=True)
    ]
    limited = Limited(small.network)
    monkeypatch.setattr(small, "network", limited)
    limited.limit, limited.error = 1, torch.OutOfMemoryError("CUDA out of memory")
    for detections, other in zip(detect(small, ready, images[:2])[1], alone, strict=True):
        assert_equal(detections, other)
    assert limited.tried == [2, 1, 1]
    limited.limit = 0
    no_memory = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    no_handle = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    for raised in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(no_memory),
        RuntimeError(no_handle),
    ):
        limited.error = raised
        limited.tried.clear()
        tiles, _ = detect(small, [*ready, ready[0]], [*images[:2], images[0]])
        assert limited.tried == [3, 1, 2, 1, 1]
        assert [each.problem[0] for each in tiles] == ["memory"] * 3
        assert f"does not fit into the memory of {small.device.type}" in tiles[0].problem[1]
        assert not len(tiles[0].boxes)
    limited.error = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes do not match"):
        detect(small, ready[:1], images[:1])


def test_gpu_that_stops_working_ends_the_job(small, images, monkeypatch):
    """With what to do; no page is to blame."""
    limited = Limited(small.network)
    limited.error = RuntimeError(
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
    )
    monkeypatch.setattr(small, "network", limited)
    with pytest.raises(UserError, match=r"stopped working: CUDA error.*failure\. .*goes on"):
        detect(small, [pixels(small, images[0])], images[:1])


# Dense pages --------------------------------------------------------------------------------------


def test_dense_page_is_looked_at_again_with_more_proposals(detector, images, monkeypatch):
    """Twenty for each region that was found, not more than ten times the cap on detections."""
    network, ready = detector.network, [pixels(detector, image) for image in images]
    assert network.max_proposals == 10 * detector.max_detections
    rpn = network.model.proposal_generator
    # The pages have 12 to 14 regions.
    monkeypatch.setattr(rpn, "post_nms_topk", {False: 10})
    monkeypatch.setattr(rpn, "pre_nms_topk", {False: 10})
    with monkeypatch.context() as patch:
        patch.setattr(network, "_dense", lambda found, n_proposals: [])
        plain, _ = detect(detector, ready, images)
    assert [tile.n_proposals for tile in plain] == [10] * 3
    sure = [np.count_nonzero(tile.scores >= 0.5) for tile in plain]
    assert min(sure) > 1
    most = 20 * max(sure) - 1
    monkeypatch.setattr(network, "max_proposals", most)
    found, _ = detect(detector, ready, images)
    assert [tile.n_proposals for tile in found] == [min(20 * count, most) for count in sure]
    assert all(tile.problem is None for tile in found)
    many = [np.count_nonzero(tile.scores >= 0.5) for tile in found]
    assert sum(many) > sum(sure)
    # What a page gets does not depend on the others.
    for page, image in enumerate(images):
        (one,), _ = detect(detector, [ready[page]], [image])
        for name in ("boxes", "scores", "class_ids", "masks"):
            assert np.array_equal(getattr(one, name), getattr(found[page], name)), name


def test_page_that_is_not_dense_is_looked_at_once(detector, images, monkeypatch):
    monkeypatch.setattr(detector.network, "_look_closer", None)
    tiles, _ = detect(detector, [pixels(detector, images[0])], images[:1])
    assert tiles[0].n_proposals >= 10 * np.count_nonzero(tiles[0].scores >= 0.5) > 0


def test_page_that_met_a_cap_says_so(detector, images, monkeypatch):
    (tile,), _ = detect(detector, [pixels(detector, images[0])], images[:1])
    assert not detector.capped(tile)
    sure = np.count_nonzero(tile.scores >= 0.5)
    assert detector.capped(tile._replace(n_proposals=10 * sure - 1))
    assert not detector.capped(tile._replace(n_proposals=10 * sure))
    monkeypatch.setattr(detector, "max_detections", len(tile.scores))
    assert detector.capped(tile)


# Precision, settings ------------------------------------------------------------------------------


def test_bfloat16_is_near_float32(device, alone, images):
    skip_without_bfloat16(device)
    detector = Detector(SHIPPED, {**SETTINGS, "precision": "bfloat16"}, device)
    assert detector.precision == "bfloat16"
    _, (found,) = detect(detector, [pixels(detector, images[0])], images[:1])
    sure = np.flatnonzero(alone[0].scores > 0.7)
    assert len(sure) > 3
    for index in sure:
        same = found.class_ids == alone[0].class_ids[index]
        distance = np.abs(found.boxes[same] - alone[0].boxes[index]).max(axis=1)
        assert distance.min() <= 2
        assert found.scores[same][distance.argmin()] == pytest.approx(
            alone[0].scores[index], abs=0.02
        )


def test_settings_reach_the_model(device, alone, images):
    known = alone[0]
    floor = between(known.scores)
    detector = Detector(SHIPPED, {**SETTINGS, "score_floor": floor, "polygons": False}, device)
    assert detector.device.type == device
    assert detector.device_kind.startswith(f"{device} ")
    assert detector.classes == ["text", "title", "list", "table", "figure"]
    assert (detector.color, detector.sizes) == ("grey", SIZES)
    assert detector.divisibility == 32
    assert detector.batch_size == {"cpu": 1, "cuda": 8}[device]
    page = pixels(detector, images[0])
    _, (found,) = detect(detector, [page], images[:1])
    assert np.array_equal(found.boxes, known.boxes[known.scores > floor])
    assert found.polygons == [None] * len(found.boxes)
    assert len(known.boxes) > 7
    few = Detector(SHIPPED, {**SETTINGS, "max_detections": 7}, device)
    _, (found,) = detect(few, [page], images[:1])
    assert np.array_equal(found.boxes, known.boxes[:7])


def test_precision_follows_the_device(monkeypatch):
    monkeypatch.setattr(detector_module, "has_bfloat16", lambda: False)
    assert choose_precision("auto", torch.device("cpu")) == "float32"
    monkeypatch.setattr(detector_module, "has_bfloat16", lambda: True)
    assert choose_precision("auto", torch.device("cpu")) == "bfloat16"
    assert choose_precision("auto", torch.device("cuda")) == "float16"
    assert choose_precision("float32", torch.device("cpu")) == "float32"
    assert choose_precision("bfloat16", torch.device("cuda")) == "bfloat16"


def test_precision_that_the_processor_does_not_have_is_refused(monkeypatch):
    for name, kernel in (("bfloat16", "bf16"), ("float16", "fp16")):
        for able in (False, True):
            monkeypatch.setattr(
                torch.ops.mkldnn, f"_is_mkldnn_{kernel}_supported", lambda able=able: able
            )
            if able:
                assert choose_precision(name, torch.device("cpu")) == name
            else:
                with pytest.raises(UserError, match=rf"precision is {name}.*auto or float32"):
                    choose_precision(name, torch.device("cpu"))


# Devices ------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """A machine with a driver, or none, whose GPU torch can use, or not."""

    def make(driver, usable):
        monkeypatch.setattr(detector_module, "nvidia_driver", lambda: driver)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: usable)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
        monkeypatch.setattr(detector_module, "lock_gpus", lambda count, wanted, say: [count - 1])

    return make


def test_gpu_is_taken_where_it_can_be_used(machine):
    machine("580.1", True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 2)
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
    ready = [pixels(small, images[0])]
    weight = next(p for p in part(small.network.model, name).parameters() if p.ndim > 1)
    before = weight.data.clone()
    weight.data.fill_(value)
    try:
        tiles, _ = detect(small, ready, images[:1])
    finally:
        weight.data.copy_(before)
    assert tiles[0].problem
    assert tiles[0].problem[0] == "detector"
    assert "finite" in tiles[0].problem[1]
    assert not len(tiles[0].boxes)
    assert detect(small, ready, images[:1])[0][0].problem is None


def test_only_the_page_whose_numbers_are_not_finite_fails(small, images, monkeypatch):
    ready = [pixels(small, image) for image in images]
    predictor = small.network.model.roi_heads.box_predictor
    forward = predictor.forward

    def spoilt(x):
        scores, deltas = forward(x)
        scores[small.network._n_proposals[0] + 1] = float("nan")  # A proposal of the second page.
        return scores, deltas

    monkeypatch.setattr(predictor, "forward", spoilt)
    tiles, _ = detect(small, ready, images)
    assert [each.problem and each.problem[0] for each in tiles] == [None, "detector", None]
    assert [len(each.boxes) > 0 for each in tiles] == [True, False, True]


def test_config_of_another_model_is_explained(tmp_path):
    """Never a random layer: a missing tensor, or one of another shape, is an error."""
    [ratios] = load_config(SHIPPED / CONFIG).MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS
    for number, (entry, tensor) in enumerate(
        [
            ({"MODEL__FPN__OUT_CHANNELS": 64}, "fpn_lateral"),
            ({"MODEL__RESNETS__DEPTH": 34}, "Missing key.*res2"),
            ({"MODEL__ANCHOR_GENERATOR__ASPECT_RATIOS": [[*ratios, 9.0]]}, "objectness"),
            ({"MODEL__MASK_ON": False}, "Unexpected key.*mask_head"),
            ({"MODEL__ROI_MASK_HEAD__NUM_CONV": 3}, "mask_fcn"),
            ({"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": True}, "mask_head.predictor"),
        ]
    ):
        folder = copy_model(tmp_path / f"{number}", **entry)
        expected = rf"model\.safetensors does not fit .*config\.yaml: .*{tensor}.*trained with"
        with pytest.raises(UserError, match=expected):
            Detector(folder, SETTINGS, "cpu")
    folder = copy_model(tmp_path / "b", MODEL__NO_SUCH_KEY=1)
    with pytest.raises(UserError, match=r"has no key MODEL\.NO_SUCH_KEY"):
        Detector(folder, SETTINGS, "cpu")
    folder = copy_model(tmp_path / "c", INPUT__FORMAT="YUV")
    (folder / CARD).write_text((folder / CARD).read_text().replace('"grey"', '"config"'))
    with pytest.raises(UserError, match=r"INPUT\.FORMAT YUV is neither"):
        Detector(folder, SETTINGS, "cpu")
    folder = copy_model(tmp_path / "d", MODEL__ROI_HEADS__NAME="CascadeROIHeads")
    with pytest.raises(UserError, match=r"CascadeROIHeads\. Scanmill runs Faster R-CNN and Mask"):
        Detector(folder, SETTINGS, "cpu")


def test_weights_of_other_classes_are_refused(tmp_path):
    """Also where card and config agree with each other."""
    folder = copy_model(tmp_path / "a", MODEL__ROI_HEADS__NUM_CLASSES=4)
    card = read_card(folder)
    card.pop("sha256")
    write_card(folder, **{**card, "classes": card["classes"][:4]})
    with pytest.raises(UserError, match=r"does not fit.*cls_score"):
        Detector(folder, SETTINGS, "cpu")


def test_damaged_weights_are_not_opened(tmp_path):
    folder = copy_model(tmp_path / "a")
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(1000)
        file.write(b"xxxx")
    with pytest.raises(UserError, match="nothing was opened"):
        Detector(folder, SETTINGS, "cpu")


# Files --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory, images):
    """The pages as files of several kinds, one of them lying on its side."""
    folder = tmp_path_factory.mktemp("files")
    cv2.imwrite(str(folder / "a.png"), images[0])
    cv2.imwrite(str(folder / "b.jpg"), images[1])
    side = Image.fromarray(np.rot90(images[2]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    side.save(folder / "c.jpg", exif=exif, quality=95)
    Image.fromarray(images[0]).save(folder / "d.tif")
    return [str(folder / name) for name in ("a.png", "b.jpg", "c.jpg", "d.tif")]


@pytest.fixture(scope="module")
def loaded():
    return load(SHIPPED, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def found(loaded, files):
    return loaded.detect(files)


def of(table, path):
    return table.filter(pc.equal(table["document"], path))


def assert_those_above(least, some, all_of_them):
    """Regions of one file; where there are fewer of them, they may be read in another order."""
    some, all_of_them = (sorted(each["score"].to_pylist()) for each in (some, all_of_them))
    assert some == [score for score in all_of_them if score > least]


def test_regions_of_files_are_a_table(found, files):
    assert found.schema.names == SCHEMAS["regions"].names
    assert found.schema.types == SCHEMAS["regions"].types
    assert list(dict.fromkeys(found["document"].to_pylist())) == files
    for path in files:
        mine = of(found, path)
        assert mine["region"].to_pylist() == list(range(1, mine.num_rows + 1))
        assert mine.num_rows > 3
    assert pc.min(found["score"]).as_py() >= 0.5
    assert found.schema.metadata[b"scanmill.model"] == b"scanmill-layout"


def test_file_gives_what_its_page_gives(loaded, found, files, images):
    _, (page,) = detect(loaded, [pixels(loaded, images[0])], images[:1])
    mine = of(found, files[0]).sort_by("detection")
    rows = np.array(mine["detection"]) - 1
    for i, side in enumerate(("x_min", "y_min", "x_max", "y_max")):
        assert np.array_equal(np.array(mine[side]), page.boxes[rows, i])
    assert np.array_equal(np.array(mine["score"]), page.scores[rows])
    polygons = [page.polygons[row].tolist() for row in rows]
    assert mine["polygon"].to_pylist() == polygons


def test_file_on_its_side_is_turned_upright(loaded, files, images):
    [turned] = loaded.detect_files(files[2])
    height, width = images[2].shape
    assert (turned.width, turned.height) == (width, height)
    assert max(np.array(turned.regions["x_max"])) <= width


def test_file_that_cannot_be_used_is_named_and_the_others_go_on(loaded, found, files, tmp_path):
    frames = [Image.new("L", (100, 100)) for _ in range(3)]
    frames[0].save(tmp_path / "many.tif", save_all=True, append_images=frames[1:])
    (tmp_path / "x.pdf").write_bytes(b"%PDF-1.7\n")
    (tmp_path / "text.jpg").write_text("text")
    (tmp_path / "cut.png").write_bytes(Path(files[0]).read_bytes()[:5000])
    names = ["many.tif", "x.pdf", "text.jpg", "cut.png", "none.jpg"]
    paths = [tmp_path / name for name in names]
    outcomes = loaded.detect_files([files[0], *paths, files[1]])
    assert [each.path for each in outcomes] == [files[0], *map(str, paths), files[1]]
    assert [each.status for each in outcomes] == ["ok", *["failed"] * 5, "ok"]
    said = [each.message for each in outcomes[1:-1]]
    for message, says in zip(
        said,
        ["TIFF of 3 pages", "a PDF: the workflow", "no image that is known", "", "No such file"],
        strict=True,
    ):
        assert message
        assert says in message
    assert outcomes[0].regions.equals(of(found, files[0]).replace_schema_metadata())
    with pytest.raises(UserError, match=r"many\.tif: a TIFF of 3 pages.*\(and 4 more\)"):
        loaded.detect([files[0], *paths])


def test_no_files_are_no_rows(loaded):
    assert loaded.detect([]).num_rows == 0


def test_lowest_score_may_be_asked_for_either_way(loaded, found, files):
    key = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
    least = between(of(found, files[0])["score"])
    strict = loaded.detect(files[0], min_score=least)
    assert_those_above(least, strict, of(found, files[0]))
    for value in (least, str(least)):
        other = load(SHIPPED, device="cpu", precision="float32", overrides=[key, value])
        assert other.detect(files[0])["score"].equals(strict["score"])
    loose = load(SHIPPED, device="cpu", precision="float32", overrides=[key, 0.001])
    assert 0.001 < pc.min(loose.detect(files[0])["score"]).as_py() < 0.05


def test_overrides_are_obeyed():
    pairs = ["TEST.DETECTIONS_PER_IMAGE", 7, "INPUT.MIN_SIZE_TEST", 320, "MODEL.DEVICE", "cpu"]
    other = load(SHIPPED, overrides=pairs)
    assert (other.max_detections, other.sizes, other.device.type) == (7, (320, SIZES[1]), "cpu")
    with pytest.raises(UserError, match=r"no key INPUT\.MIN_SIZE_TES"):
        load(SHIPPED, overrides=["INPUT.MIN_SIZE_TES", 320])
    with pytest.raises(UserError, match="does not fit"):
        load(SHIPPED, device="cpu", overrides=["MODEL.ROI_HEADS.NUM_CLASSES", 4])


@pytest.fixture
def detectron2(tmp_path):
    """A config and a checkpoint, as Detectron2's trainer leaves them."""
    weights = safetensors.torch.load_file(SHIPPED / WEIGHTS)
    torch.save({"model": {k: v.float() for k, v in weights.items()}}, tmp_path / "model_final.pth")
    config = load_config(SHIPPED / CONFIG)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    return tmp_path / "config.yaml", ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]


def test_config_and_checkpoint_take_the_place_of_a_model(detectron2, files, tmp_path):
    config, weights = detectron2
    names = read_card(SHIPPED)["classes"]
    options = {"config_file": config, "overrides": weights, "device": "cpu"}
    model = load(**options, classes=names)
    assert (model.classes, model.card["name"]) == (names, "model_final")
    assert load(**options).classes == ["0", "1", "2", "3", "4"]
    found = model.detect(files[0])
    values = yaml.safe_load(config.read_text())
    values["MODEL"]["ROI_HEADS"]["SCORE_THRESH_TEST"] = least = between(found["score"])
    config.write_text(yaml.safe_dump(values))
    assert_those_above(least, load(**options).detect(files[0]), found)
    # As Detectron2's predictor reads pages: in the order of colours of the config.
    assert model.color == "BGR"
    assert found.num_rows > 3
    for wrong, says in (
        ({"overrides": []}, r"MODEL\.WEIGHTS \(empty\) is no file"),
        ({"overrides": ["MODEL.WEIGHTS", "none.pth"]}, r"MODEL\.WEIGHTS none\.pth is no file"),
        ({"classes": ["a"]}, "names 1 classes, but"),
    ):
        with pytest.raises(UserError, match=says):
            load(**{**options, **wrong})
    with pytest.raises(UserError, match="either a model or a config"):
        load(SHIPPED, **options)
    with pytest.raises(UserError, match="either a model or a config"):
        load()


def test_config_that_names_a_backbone_wants_a_checkpoint():
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS detectron2://.*R-50\.pkl is a backbone"):
        load(config_file="mask_rcnn_R_50_FPN_3x.yaml")


def test_names_of_the_registry_stand_for_weights(detectron2, files, tmp_path, monkeypatch):
    """As users of Detectron2 and LayoutParser write them; the classes are those of the entry."""
    config, (_, weights) = detectron2
    register(tmp_path, config, weights, "Mine-layout")
    monkeypatch.chdir(tmp_path)
    options = {"config_file": config, "device": "cpu"}
    model = load(**options, overrides=["MODEL.WEIGHTS", "lp://Mine/layout/weight"])
    assert model.classes == read_card(SHIPPED)["classes"]
    assert model.detect(files[0]).num_rows > 3
    # What a config of LayoutParser names is gone, and does not matter where another is named.
    text = config.read_text().replace("WEIGHTS: ''", "WEIGHTS: https://dropbox.com/s/x/y.pth?dl=1")
    config.write_text(text)
    assert load(**options, overrides=["MODEL.WEIGHTS", weights]).max_detections == 1000
    with pytest.raises(UserError, match=r"dropbox\.com.* is not in the registry"):
        load(**options)


def test_config_that_does_not_go_with_its_backbone_is_refused(detectron2):
    config, weights = detectron2
    config.write_text(
        "_BASE_: mask_rcnn_R_50_FPN_3x.yaml\nMODEL: {PIXEL_STD: [57.375, 57.12, 58.395]}"
    )
    with pytest.raises(
        UserError, match=r"the backbone ImageNet-R-50 needs MODEL\.PIXEL_STD \[1\.0"
    ):
        load(config_file=config, overrides=weights)


def register(folder, config, weights, name):
    entry = {"config": str(config), "weights": [weights], "licence": "CC0-1.0", "color": "grey"}
    entry["classes"] = read_card(SHIPPED)["classes"]
    (folder / "models.yaml").write_text(yaml.safe_dump({name: entry}))


def test_model_of_the_registry_is_fetched_where_it_is_used(detectron2, tmp_path, monkeypatch):
    config, (_, weights) = detectron2
    run = tmp_path / "run"
    run.mkdir()
    register(run, config, weights, "mine")
    monkeypatch.chdir(run)
    assert load("mine", device="cpu").card["name"] == "mine"
    assert (run / "models" / "mine" / CARD).is_file()
    (run / "models.yaml").unlink()
    assert load("mine", device="cpu").color == "grey"
    assert load("scanmill-layout", device="cpu").card["name"] == "scanmill-layout"
    shutil.move(run / "models", run / "elsewhere")
    assert load(run / "elsewhere" / "mine", device="cpu").card["name"] == "mine"
    with pytest.raises(UserError, match="There is no model `mine`"):
        load("mine")
    with pytest.raises(UserError, match="ImageNet-R-50 is a backbone"):
        load("ImageNet-R-50")
