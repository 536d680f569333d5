"""The network made ready: what was wrapped gives what Detectron2 gives, whatever the batch."""

import numpy as np
import pytest
import torch
import torchvision
from detecting import (
    DEVICES,
    SETTINGS,
    assert_same_detections,
    detect,
    draw_pages,
    pixels,
    skip_without_bfloat16,
)
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from scanmill import network as network_module
from scanmill import preprocessing
from scanmill.detector import Detector
from scanmill.network import (
    CUDA_ROIS,
    LAST_LAYERS,
    Float32RoiAlign,
    SteadyLayers,
    _find_proposals,
    detect_together,
    predict_proposals,
    suppress,
)

# isort: split
from benchmark import default_predictor, random_model
from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A colour page."""
    (image,) = draw_pages(tmp_path_factory.mktemp("pages"), 1)
    color = np.repeat(image[..., None], 3, axis=2)
    color[:300, :, 2] //= 2
    return color


# Every kind of model ------------------------------------------------------------------------------

FPN_OF_18 = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", FPN_OF_18),
        ("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", []),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml", []),
        ("COCO-Detection/faster_rcnn_R_50_DC5_1x.yaml", []),
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x.yaml", []),
        # Backbones of timm; test_conversion.py has the models of the registry.
        ("mask_rcnn_convnext_tiny_FPN_3x.yaml", []),
        ("mask_rcnn_inception_resnet_v2_FPN_3x.yaml", []),
    ],
    ids=lambda value: value.rpartition("/")[2][:-5] if isinstance(value, str) else "",
)
def test_model_of_detectron2_gives_what_detectron2_gives(
    name, options, page, tmp_path, monkeypatch
):
    """The same boxes (IoU 0.99) and scores (1e-3) as DefaultPredictor, also in CUDA's way."""
    monkeypatch.setattr(preprocessing, "REDUCTIONS", ())  # The same resized page for both.
    monkeypatch.setattr(network_module, "PROPOSALS_PER_REGION", 0)  # No page is looked at again.
    small = ["INPUT.MIN_SIZE_TEST", 224, "INPUT.MAX_SIZE_TEST", 320]
    few = ["MODEL.RPN.PRE_NMS_TOPK_TEST", 200, "MODEL.RPN.POST_NMS_TOPK_TEST", 60]
    folder = random_model(name, tmp_path / "model", [*small, *few, *options], [page])
    detector = Detector(folder, {**SETTINGS, "max_detections": 100}, "cpu")
    theirs = default_predictor(detector, folder)(page)["instances"].to("cpu")
    boxes, scores = theirs.pred_boxes.tensor.numpy(), theirs.scores.numpy()
    expected = boxes, scores, theirs.pred_classes.numpy()
    for together in (False, True):
        if together:
            detector.network.work_together()
        tiles, (mine,) = detect(detector, [pixels(detector, page)], [page])
        assert tiles[0].problem is None
        assert (tiles[0].masks is not None) == ("mask" in name) == theirs.has("pred_masks")
        assert_same_detections(mine[:3], expected, 0.05)


# Layers -------------------------------------------------------------------------------------------


def test_layers_compute_in_the_type_of_their_weights(page, tmp_path):
    """All but the last, whose numbers are boxes, scores and masks."""
    skip_without_bfloat16("cpu")
    name = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    small = ["INPUT.MIN_SIZE_TEST", 160, *FPN_OF_18]
    folder = random_model(name, tmp_path / "model", small, [page])
    detector = Detector(folder, {**SETTINGS, "precision": "bfloat16"}, "cpu")
    outputs, rois = {}, []

    def note(name):
        def hook(module, args, output):
            outputs[name] = output.dtype

        return hook

    for name, module in detector.network.model.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear, torch.nn.ConvTranspose2d)):
            module.register_forward_hook(note(name))
            assert getattr(module, "norm", None) is None, name
        if isinstance(module, Float32RoiAlign):
            module.register_forward_hook(lambda _, args, output: rois.append((args, output)))
    tiles, _ = detect(detector, [pixels(detector, page)], [page])
    last = {name for name in outputs if name.rpartition(".")[2] in LAST_LAYERS}
    assert len(last) == 5
    assert len(outputs) > 30
    assert {outputs[name] for name in last} == {torch.float32}
    assert {kind for name, kind in outputs.items() if name not in last} == {torch.bfloat16}
    assert len(rois) == 8  # Four levels, for boxes and for masks.
    for (features, boxes), output in rois:
        assert features.dtype == boxes.dtype == output.dtype == torch.float32
    assert tiles[0].boxes.dtype == tiles[0].masks.dtype == np.float32


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_rois_are_pooled_as_detectron2_pools_them(threads, count):
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(2, 8, 40, 60, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * 100
    page = torch.randint(0, 2, (count, 1), generator=generator)
    extent = torch.rand(count, 2, generator=generator) * 80
    rois = torch.cat([page, corner, corner + extent], dim=1)
    theirs = ROIAlign((7, 7), 0.25, 0, aligned=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mine = Float32RoiAlign(theirs)(features.to(memory_format=torch.channels_last), rois)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(mine, theirs(features, rois))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_rows_of_a_layer_do_not_depend_on_their_number(kind):
    """As without SteadyLayers they do: the last bits of a page would tell of its neighbours."""
    if kind == torch.bfloat16:
        skip_without_bfloat16("cpu")
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 1030, generator=generator)
    maps = torch.randn(64, 16, 14, 14, generator=generator)
    for layer, x in (
        (torch.nn.Linear(1030, 257), rows),
        (torch.nn.Conv2d(16, 24, 3, padding=1), maps),
        (torch.nn.Conv2d(16, 24, 3, stride=2, dilation=2, groups=8), maps),
        (torch.nn.ConvTranspose2d(16, 8, 2, stride=2), maps),
    ):
        layer = layer.to(kind).to(memory_format=torch.channels_last).requires_grad_(False)
        with SteadyLayers():
            whole = layer(x)
            assert whole.dtype == kind
            for count in (1, 2, 17, 63):
                assert torch.equal(layer(x[:count]), whole[:count])
                assert torch.equal(layer(x[-count:]), whole[-count:])
        expected = layer.float()(x)
        error = (whole - expected).abs().max() / expected.abs().max()
        assert error < (0.02 if kind == torch.bfloat16 else 1e-5)


def test_probabilities_of_a_mask_do_not_depend_on_the_next():
    """Their last bit decides where an outline runs."""
    logits = torch.randn(200, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with SteadyLayers():
        together = logits.sigmoid()
        for count in range(1, 200):
            assert torch.equal(logits[:count].sigmoid(), together[:count])
    assert torch.allclose(together, logits.sigmoid())


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
        with Record(), SteadyLayers(constant_rois=True):
            found = layer(x)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-5)
        assert seen == [CUDA_ROIS] * -(-count // CUDA_ROIS) or count == 0


# Proposals and detections -------------------------------------------------------------------------


def boxes_of(generator, *shape):
    corner = torch.rand(*shape, 2, generator=generator) * 150
    return torch.cat([corner, corner + torch.rand(*shape, 2, generator=generator) * 60], dim=-1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_sets_of_boxes_are_suppressed_as_one_by_one(device, threshold):
    generator = torch.Generator().manual_seed(1)
    boxes, valid = boxes_of(generator, 5, 300), torch.rand(5, 300, generator=generator) < 0.9
    labels = torch.randint(0, 3, (5, 300), generator=generator)
    scores = torch.arange(300, 0, -1).float()
    for same in (None, labels[:, :, None] == labels[:, None, :]):
        on = [None if each is None else each.to(device) for each in (boxes, valid, same)]
        keep = suppress(on[0], on[1], threshold, on[2]).cpu()
        for i in range(5):
            mine = valid[i].nonzero()[:, 0]
            group = labels[i, mine] if same is not None else torch.zeros(len(mine)).long()
            kept = torchvision.ops.boxes._batched_nms_vanilla(
                boxes[i, mine], scores[mine], group, threshold
            )
            assert torch.equal(keep[i].nonzero()[:, 0], mine[kept].sort().values)
            assert 10 < keep[i].sum() < valid[i].sum() + (threshold == 0.9)


def test_chain_of_boxes_is_suppressed_to_its_end():
    """Each box overlaps the next one, which takes as many rounds as there are boxes."""
    left = torch.arange(200).float()[:, None] * 4
    boxes = torch.cat([left, left * 0, left + 10, left * 0 + 10], dim=1)[None]
    keep = suppress(boxes, torch.ones(1, 200, dtype=torch.bool), 0.3)
    assert torch.equal(keep[0], torch.arange(200) % 2 == 0)


def test_proposals_of_all_pages_together_are_those_of_each():
    generator = torch.Generator().manual_seed(2)
    counts = (300, 120, 9)
    boxes = [boxes_of(generator, 3, n) - 20 for n in counts]
    scores = [torch.randn(3, n, generator=generator).sort(descending=True).values for n in counts]
    boxes[0][1, 5] = torch.inf
    scores[1][2, 7] = torch.nan
    boxes[2][0, 3, 2:] = boxes[2][0, 3, :2]
    sizes = [(150, 200), (200, 150), (90, 120)]
    mine = _find_proposals(boxes, scores, sizes, 0.7, 100, 0.0)
    theirs = find_top_rpn_proposals(boxes, scores, sizes, 0.7, 300, 100, 0.0, training=False)
    for one, other in zip(mine, theirs, strict=True):
        assert one.image_size == other.image_size
        assert torch.equal(one.proposal_boxes.tensor, other.proposal_boxes.tensor)
        assert torch.equal(one.objectness_logits, other.objectness_logits)


class Rpn:
    """What predict_proposals takes of an RPN."""

    box2box_transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    nms_thresh, min_box_size = 0.7, 0.0


def test_best_anchors_alone_are_decoded():
    generator = torch.Generator().manual_seed(3)
    anchors = [Boxes(boxes_of(generator, n)) for n in (500, 80)]
    logits = [torch.randn(2, n, generator=generator) for n in (500, 80)]
    deltas = [torch.randn(2, n, 4, generator=generator) / 5 for n in (500, 80)]
    sizes, transform, decoded = [(200, 200)] * 2, Rpn.box2box_transform, []
    everything = [
        transform.apply_deltas(delta.flatten(0, 1), anchor.tensor.repeat(2, 1)).view(2, -1, 4)
        for anchor, delta in zip(anchors, deltas, strict=True)
    ]
    theirs = find_top_rpn_proposals(everything, logits, sizes, 0.7, 100, 50, 0.0, training=False)

    class Noted(Rpn):
        class box2box_transform:
            @staticmethod
            def apply_deltas(delta, boxes):
                decoded.append(len(boxes))
                return transform.apply_deltas(delta, boxes)

    for together in (False, True):
        mine = predict_proposals(Noted, together, 100, 50, anchors, logits, deltas, sizes)
        for one, other in zip(mine, theirs, strict=True):
            assert torch.equal(one.proposal_boxes.tensor, other.proposal_boxes.tensor)
            assert torch.equal(one.objectness_logits, other.objectness_logits)
    assert decoded == [200, 160] * 2


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("counts", [(60, 60), (60, 13), (40, 0)])
def test_detections_of_all_pages_together_are_those_of_each(agnostic, counts):
    torch.manual_seed(4)
    predictor = FastRCNNOutputLayers(
        ShapeSpec(channels=8, height=1, width=1),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=4,
        test_score_thresh=0.05,
        test_nms_thresh=0.5,
        test_topk_per_image=30,
        cls_agnostic_bbox_reg=agnostic,
    )
    sizes = [(180, 200), (200, 160)]
    proposals = [
        Instances(size, proposal_boxes=Boxes(boxes_of(torch.Generator().manual_seed(n), n)))
        for size, n in zip(sizes, counts, strict=True)
    ]
    scores = torch.randn(sum(counts), 5) * 2
    deltas = torch.randn(sum(counts), 4 if agnostic else 16)
    scores[3] = torch.nan
    mine, _ = detect_together(predictor, (scores, deltas), proposals)
    theirs, _ = predictor.inference((scores, deltas), proposals)
    for one, other in zip(mine, theirs, strict=True):
        assert one.image_size == other.image_size
        assert torch.equal(one.pred_classes, other.pred_classes)
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    assert len(mine[0]) == 30
