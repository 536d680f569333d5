"""What is looked at before training begins: settings that would ruin a detector without a word.

Detectron2 trains with nearly any config on nearly any data. What does not fit shows in the result, days
later, as pages that end at region 100 or thin lines that are never found. Each finding says what is
wrong in numbers, and the setting that mends it.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scanmill.errors import UserError
from scanmill.model_folders import is_backbone
from scanmill.preprocessing import canvas, resized_shape

if TYPE_CHECKING:
    from detectron2.config import CfgNode

ERROR, WARNING = "error", "warning"

#: Proposals for each object of a page. With fewer, those of large objects crowd out the others.
PROPOSALS_PER_OBJECT = 10
#: An anchor has the shape of an object whose IoU with it, both about one middle, is so much.
SHAPE_IOU = 0.5
#: Objects that should have an anchor of their shape, of all and of each class of so many examples.
LEAST_COVERED = 0.7
MIN_EXAMPLES = 20
#: Pixels of the shorter side, below which an object is hardly ever found: its features, of stride 4,
#: are two cells.
MIN_SIDE = 8
#: The share of the smallest objects that is given up.
PERCENTILE_SMALL = 5
#: Values of SOLVER.OPTIMIZER.
SGD, ADAMW = "SGD", "AdamW"
#: BASE_LR for a batch of 16, and the power of the batch by which it changes: of SGD (Goyal et al.,
#: "Accurate, large minibatch SGD", 2017), and of AdamW (Liu et al., "A ConvNet for the 2020s", 2022, for
#: Mask R-CNN; Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms", 2022).
RATES = {SGD: (0.02, 1.0), ADAMW: (2e-4, 0.5)}
REFERENCE_BATCH = 16
#: The factor by which another rate may differ.
LR_FACTOR = 4
#: The share of all iterations that warming up may take.
MAX_WARMUP = 0.2
#: Detections that count for AP begin at this score.
EVALUATION_SCORE = 0.05
#: A polygon is the outline of something where it leaves so much of its box out.
OUTLINE = 0.05


def usual_rate(optimizer: str, batch: int) -> float:
    """The BASE_LR that is usual for a batch of so many images."""
    rate, power = RATES[optimizer]
    return rate * (batch / REFERENCE_BATCH) ** power


class Finding(NamedTuple):
    """Something that does not fit."""

    severity: str
    """`error`: the result would be wrong, or there would be none. `warning`: worse than it could be."""
    what: str
    remedy: str
    """The settings that mend it, KEY VALUE ..., quoted for a shell."""


class _Plan(NamedTuple):
    """What is to be trained, on what, from what."""

    config: CfgNode
    truth: Mapping[str, Mapping[str, Any]]
    card: Mapping[str, Any] | None
    given: Collection[str]
    memory_gb: float | None
    devices: int
    counts: np.ndarray
    """(pages,) int64: objects on each page of train and val."""
    sides: np.ndarray
    """(N, 2) float64: width and height of each object of train, in pixels of the resized page."""
    of_class: np.ndarray
    """(N,) int64: its place in `classes`."""

    @property
    def classes(self) -> list[str]:
        """Names in the order of their ids."""
        return _names(self.truth["train"])

    def shown(self, *keys: str) -> str:
        """Keys, their values, and whose they are."""
        return " and ".join(
            f"{key} is {_value(self.config, key)} "
            + ("(as you set it)" if key in self.given else "(not set by you)")
            for key in keys
        )


def check_training(
    config: CfgNode,
    truth: Mapping[str, Mapping[str, Any]],
    card: Mapping[str, Any] | None,
    given: Collection[str],
    memory_gb: float | None = None,
    devices: int = 1,
) -> list[Finding]:
    """Everything in a config that does not fit the data or the model that training starts from.

    `truth` has the COCO datasets `train` and `val`: categories of ids 1 to K in the order of classes;
    boxes in pixels of the page. `card` is the model.json (`classes`, `kind`, `input`) of the model that
    training starts from, or None for a start from nothing; `given` are the keys of the config that the
    user set. `memory_gb` is what each of `devices` has, in GiB, or None where it is unknown. The order
    of findings is that of CHECKS.
    """
    pages, sides, of_class = [], [], []
    for split in ("train", "val"):
        counts, split_sides, split_classes = _objects(truth[split], config)
        pages.append(counts)
        sides.append(split_sides)
        of_class.append(split_classes)
    plan = _Plan(
        config,
        truth,
        card,
        given,
        memory_gb,
        devices,
        np.concatenate(pages),
        sides[0],
        of_class[0],
    )
    return [finding for check in CHECKS for finding in check(plan)]


def format_findings(findings: Sequence[Finding]) -> str:
    """Findings for the log, each with its remedy on a line of its own."""
    if not findings:
        return "Preflight: data, config and start fit each other."
    numbers = [sum(each.severity == kind for each in findings) for kind in (ERROR, WARNING)]
    counted = [
        f"{number} {kind}{'s' if number > 1 else ''}"
        for number, kind in zip(numbers, (ERROR, WARNING), strict=True)
        if number
    ]
    lines = [f"Preflight: {', '.join(counted)}."]
    for each in findings:
        lines += [f"- {each.severity}: {each.what}", f"  Remedy: {each.remedy}"]
    return "\n".join(lines)


def raise_findings(findings: Sequence[Finding], strict: bool = False) -> None:
    """Raise UserError with all errors among `findings`; where `strict`, with all warnings, too."""
    fatal = [each for each in findings if strict or each.severity == ERROR]
    if fatal:
        raise UserError(f"Nothing was trained. {format_findings(fatal)}")


# What is in the data ------------------------------------------------------------------------------


def _names(dataset: Mapping[str, Any]) -> list[str]:
    return [each["name"] for each in sorted(dataset["categories"], key=lambda each: each["id"])]


def _annotations(dataset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All but crowds, which Detectron2 leaves out."""
    return [each for each in dataset["annotations"] if not each.get("iscrowd", 0)]


def _objects(
    dataset: Mapping[str, Any], config: CfgNode
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objects on each page (pages,), width and height of each on the resized page (N, 2), and its class
    (N,), from 0."""
    place = {image["id"]: index for index, image in enumerate(dataset["images"])}
    scale = np.array([_scale(image, config) for image in dataset["images"]], np.float64).reshape(
        -1, 2
    )
    annotations = _annotations(dataset)
    page = np.array([place[each["image_id"]] for each in annotations], np.int64)
    sides = np.array([each["bbox"][2:] for each in annotations], np.float64).reshape(-1, 2)
    of_class = np.array([each["category_id"] - 1 for each in annotations], np.int64)
    return np.bincount(page, minlength=len(place)), sides * scale[page], of_class


def _scale(image: Mapping[str, Any], config: CfgNode) -> tuple[float, float]:
    """By what the width and the height of a page are multiplied for the detector."""
    limits = (config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST)
    height, width = resized_shape(image["height"], image["width"], *limits)
    return width / image["width"], height / image["height"]


def _fullest(plan: _Plan) -> int:
    return int(plan.counts.max(initial=0))


# Keys and values ----------------------------------------------------------------------------------


def _value(config: CfgNode, key: str) -> Any:  # noqa: ANN401
    block: Any = config
    for part in key.split("."):
        block = block[part]
    return block


def _set(**values: object) -> str:
    """KEY VALUE ... for a command line; dots are written as two underscores."""
    return " ".join(
        f"{key.replace('__', '.')} {shlex.quote(str(value))}" for key, value in values.items()
    )


def _round_up(number: float, step: int) -> int:
    return math.ceil(number / step) * step


def _percent(share: float) -> str:
    # Rounded down: 69.9 % is not the 70 % that are asked for.
    return f"{math.floor(100 * share + 1e-9)} %"


# Classes ------------------------------------------------------------------------------------------


def _check_number_of_classes(plan: _Plan) -> Iterator[Finding]:
    key, count = "MODEL.ROI_HEADS.NUM_CLASSES", len(plan.classes)
    if count != plan.config.MODEL.ROI_HEADS.NUM_CLASSES:
        yield Finding(
            ERROR,
            f"{plan.shown(key)}, and the data has {count} classes ({', '.join(plan.classes)}); the "
            "background is not counted.",
            f"{key} {count}",
        )


def _check_splits(plan: _Plan) -> Iterator[Finding]:
    train, val = plan.classes, _names(plan.truth["val"])
    if train != val:
        yield Finding(
            ERROR,
            f"The {len(train)} classes of train ({', '.join(train)}) are not the {len(val)} of val "
            f"({', '.join(val)}) in the same order: AP would compare one class with another.",
            f"classes '[{', '.join(train)}]' of the dataset, for both",
        )


def _check_class_order(plan: _Plan) -> Iterator[Finding]:
    """Equal numbers of classes are what Detectron2 takes for equal classes; a backbone has none."""
    if plan.card is None:
        return
    start, classes = list(plan.card["classes"]), plan.classes
    if start == classes or len(start) != len(classes):
        return
    moved = [f"{name} ({one})" for name, one in zip(classes, start, strict=True) if name != one]
    what = f"{len(moved)} of {len(classes)} ids mean another class than in the model that training "
    what += f"starts from: {', '.join(moved)}, that model's in brackets."
    if set(start) == set(classes):
        yield Finding(
            ERROR,
            f"{what} The names are the same: in its order, nothing that it has learned is lost.",
            f"classes '[{', '.join(start)}]' of the dataset",
        )
    else:
        common = len(set(start) & set(classes))
        yield Finding(
            WARNING,
            f"{what} {common} of the names are in both. If they are other words for the same classes, "
            "give them that model's; otherwise its last layers have to be renewed.",
            f"classes '[{', '.join(start)}]' of the dataset, or `map` from one name to the other",
        )


# Dense pages --------------------------------------------------------------------------------------


def _check_detections_per_image(plan: _Plan) -> Iterator[Finding]:
    key, fullest = "TEST.DETECTIONS_PER_IMAGE", _fullest(plan)
    if fullest > plan.config.TEST.DETECTIONS_PER_IMAGE:
        yield Finding(
            ERROR,
            f"{plan.shown(key)}, and the fullest page has {fullest} objects: the others are cut off.",
            # Twice, as the uncertain ones take places, too.
            f"{key} {_round_up(2 * fullest, 100)}",
        )


def _check_proposals(plan: _Plan) -> Iterator[Finding]:
    """PRE_NMS_TOPK is of each level of the pyramid, but the objects of a page may all be of one."""
    fullest = _fullest(plan)
    mean = float(plan.counts.mean()) if len(plan.counts) else 0.0
    wanted = max(math.ceil(PROPOSALS_PER_OBJECT * mean), fullest)
    keys = [
        f"MODEL.RPN.{order}_NMS_TOPK_{phase}"
        for order in ("PRE", "POST")
        for phase in ("TRAIN", "TEST")
    ]
    low = [key for key in keys if _value(plan.config, key) < wanted]
    if low:
        cut = any(_value(plan.config, key) < fullest for key in low)
        yield Finding(
            ERROR if cut else WARNING,
            f"{plan.shown(*low)}. A page has {mean:.1f} objects on average, and {fullest} at most: "
            f"fewer proposals than {wanted} ({PROPOSALS_PER_OBJECT} for each object, and no fewer than "
            "on the fullest page) miss some.",
            " ".join(f"{key} {_round_up(wanted, 100)}" for key in low),
        )


# Anchors ------------------------------------------------------------------------------------------


def anchor_shapes(config: CfgNode) -> np.ndarray:
    """Width and height in pixels of every anchor of a config (A, 2), as Detectron2's
    DefaultAnchorGenerator makes them."""
    generator = config.MODEL.ANCHOR_GENERATOR
    levels = len(config.MODEL.RPN.IN_FEATURES)
    sizes = _by_level(generator.SIZES, levels)
    ratios = _by_level(generator.ASPECT_RATIOS, levels)
    return np.concatenate(
        [_shapes(*both) for both in zip(sizes, ratios, strict=True)],
    )


def _by_level(values: Sequence[Any], levels: int) -> list[Sequence[float]]:
    """One list for each level; a single one, with brackets or without, is that of all."""
    if not isinstance(values[0], Sequence):
        return [values] * levels
    return list(values) * (levels if len(values) == 1 else 1)


def _shapes(sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """(sizes * ratios, 2) widths and heights; a ratio is height to width, a size the root of an area."""
    size, root = np.meshgrid(np.asarray(sizes, float), np.sqrt(ratios), indexing="ij")
    return np.stack([size / root, size * root], axis=2).reshape(-1, 2)


def shape_iou(sides: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(N, A): IoU of boxes of widths and heights `sides` (N, 2) and `shapes` (A, 2) about one middle."""
    common = np.minimum(sides[:, None], shapes).prod(axis=2)
    return common / np.maximum(sides.prod(axis=1)[:, None] + shapes.prod(axis=1) - common, 1e-9)


def best_iou(sides: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(N,): the greatest of `shape_iou`; of any number of boxes, in little memory."""
    best = np.zeros(len(sides))
    for shape in shapes:
        np.maximum(best, shape_iou(sides, shape[None])[:, 0], out=best)
    return best


#: Of `propose_anchors`: objects that are looked at, starts, and rounds from each.
SAMPLED, RESTARTS, ROUNDS = 5000, 10, 30


def propose_anchors(
    sides: np.ndarray,
    weights: np.ndarray,
    least_sizes: Sequence[float],
    ratios: int,
    seed: int = 0,
) -> tuple[list[int], list[float]]:
    """Sizes, one for each level, and `ratios` aspect ratios that fit the widths and heights `sides`
    (N, 2), which count by `weights` (N,).

    k-means by the distance 1 - IoU of YOLO9000 (Redmon and Farhadi, 2017), whose centres are kept on a
    grid of sizes and ratios, as anchors of Detectron2 are: a size is the mean of the objects whose best
    anchor has it, whatever its ratio, and the other way round. No level's size is below its
    `least_sizes`. The best of RESTARTS.
    """
    rng = np.random.default_rng(seed)
    solid = (sides > 0).all(axis=1)
    sides, weights = sides[solid], weights[solid]
    chosen = rng.choice(len(sides), min(len(sides), SAMPLED), replace=False)
    sides, weights = sides[np.sort(chosen)], weights[np.sort(chosen)]
    sizes_of, ratios_of = np.sqrt(sides.prod(axis=1)), sides[:, 1] / sides[:, 0]
    least = np.asarray(least_sizes, float)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for _ in range(RESTARTS):
        levels = rng.choice(sizes_of, len(least))
        kinds = np.sort(rng.choice(ratios_of, ratios))
        for _ in range(ROUNDS):
            levels = np.maximum(np.sort(levels), least)
            nearest = shape_iou(sides, _shapes(levels, kinds)).argmax(axis=1)
            levels = _means(sizes_of, weights, nearest // ratios, levels)
            kinds = _means(ratios_of, weights, nearest % ratios, kinds)
        levels = np.maximum(np.sort(levels), least)
        score = float(np.average(best_iou(sides, _shapes(levels, kinds)), weights=weights))
        if best is None or score > best[0]:
            best = (score, levels, np.sort(kinds))
    _, levels, kinds = best
    return [round(each) for each in levels.tolist()], [float(f"{each:.2g}") for each in kinds]


def _means(
    values: np.ndarray, weights: np.ndarray, groups: np.ndarray, before: np.ndarray
) -> np.ndarray:
    """Geometric means of `values` by group; what has no members stays as it was `before`."""
    total = np.bincount(groups, weights, len(before))
    logarithms = np.bincount(groups, weights * np.log(values), len(before))
    return np.where(total > 0, np.exp(logarithms / np.maximum(total, 1e-12)), before)


#: What a proposal has to gain, as a share of objects, to be made; with as many ratios, or some more.
LEAST_GAIN, MORE_RATIOS = 0.01, 2


def _check_anchors(plan: _Plan) -> Iterator[Finding]:
    if not (plan.sides > 0).all(axis=1).any():
        return
    covered = best_iou(plan.sides, anchor_shapes(plan.config)) >= SHAPE_IOU
    badly = _badly_covered(plan, covered)
    if not badly:
        return
    generator = plan.config.MODEL.ANCHOR_GENERATOR
    ratios = len(_by_level(generator.ASPECT_RATIOS, 1)[0])
    # By the root, neither do the many drown the few, nor do the few outvote the many.
    weights = 1 / np.sqrt(np.bincount(plan.of_class))[plan.of_class]
    # What k-means cannot better, such as a class of all shapes, is no finding: nothing would mend it.
    for count in (ratios, ratios + MORE_RATIOS):
        sizes, kinds = propose_anchors(plan.sides, weights, _least_sizes(plan.config), count)
        proposed = best_iou(plan.sides, _shapes(sizes, kinds)) >= SHAPE_IOU
        gain = np.average(proposed, weights=weights) - np.average(covered, weights=weights)
        if gain > LEAST_GAIN:
            break
    else:
        return
    keys = ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "MODEL.ANCHOR_GENERATOR.SIZES")
    yield Finding(
        WARNING,
        f"Of {len(covered)} objects, {_percent(covered.mean())} have an anchor of their shape (IoU "
        f"{SHAPE_IOU} or more, on pages of {_sizes(plan)} px); below {_percent(LEAST_COVERED)} are "
        f"{', '.join(badly)}. {plan.shown(*keys)}. With those below, found by k-means, it is "
        f"{_percent(proposed.mean())} ({_by_class(plan, proposed)})."
        + (
            ""
            if plan.card is None or is_backbone(plan.card)
            else " The last layers of the RPN, of the model that training starts from, begin anew then."
        ),
        f"{keys[0]} {shlex.quote(str([kinds]))} {keys[1]} "
        f"{shlex.quote(str([[size] for size in sizes]))}",
    )


def _badly_covered(plan: _Plan, covered: np.ndarray) -> list[str]:
    """All objects, and classes, of which too few have an anchor, with their shares."""
    badly = [f"all ({_percent(covered.mean())})"] if covered.mean() < LEAST_COVERED else []
    for index, name in enumerate(plan.classes):
        own = covered[plan.of_class == index]
        if len(own) >= MIN_EXAMPLES and own.mean() < LEAST_COVERED:
            badly.append(f"{name} ({_percent(own.mean())} of {len(own)})")
    return badly


def _by_class(plan: _Plan, covered: np.ndarray) -> str:
    return ", ".join(
        f"{name} {_percent(covered[plan.of_class == index].mean())}"
        for index, name in enumerate(plan.classes)
        if (plan.of_class == index).any()
    )


def _least_sizes(config: CfgNode) -> list[float]:
    """Four strides of each level, which is half of Detectron2's: smaller ones, a stride apart, leave
    objects between them."""
    numbers = [re.search(r"[0-9]+$", name) for name in config.MODEL.RPN.IN_FEATURES]
    # p2 and res2 have a stride of 2 ** 2.
    return [4.0 * 2 ** int(number.group()) if number else 1.0 for number in numbers]


# Sizes --------------------------------------------------------------------------------------------


def _sizes(plan: _Plan) -> str:
    return f"{plan.config.INPUT.MIN_SIZE_TEST} / {plan.config.INPUT.MAX_SIZE_TEST}"


def _check_small_objects(plan: _Plan) -> Iterator[Finding]:
    if not len(plan.sides):
        return
    shorter = plan.sides.min(axis=1)
    small = float(np.percentile(shorter, PERCENTILE_SMALL))
    if small >= MIN_SIDE:
        return
    below = np.bincount(plan.of_class[shorter < MIN_SIDE], minlength=len(plan.classes))
    named = ", ".join(
        f"{plan.classes[index]} ({below[index]})" for index in np.argsort(-below) if below[index]
    )
    factor = MIN_SIDE / max(small, 1e-3)
    given = plan.config.INPUT
    pages = plan.truth["train"]["images"]
    # 0 takes pages as they are.
    least = given.MIN_SIZE_TEST or min(min(page["width"], page["height"]) for page in pages)
    train = given.MIN_SIZE_TRAIN
    train = (train,) if isinstance(train, int) else train
    remedy = _set(
        INPUT__MIN_SIZE_TEST=_round_up(least * factor, 32),
        INPUT__MAX_SIZE_TEST=_round_up(given.MAX_SIZE_TEST * factor, 32),
        INPUT__MIN_SIZE_TRAIN=tuple(_round_up(each * factor, 32) for each in train),
        INPUT__MAX_SIZE_TRAIN=_round_up(given.MAX_SIZE_TRAIN * factor, 32),
    )
    yield Finding(
        WARNING,
        f"On pages of {_sizes(plan)} px, {PERCENTILE_SMALL} % of all objects are at most {small:.1f} px "
        f"high or wide; below {MIN_SIDE} px, few are found. They are of {named}. Pages {factor:.1f} "
        f"times as large take {factor**2:.1f} times the time and memory.",
        f"{remedy}, or tiles (`detection.tiles`)",
    )


# Pages --------------------------------------------------------------------------------------------


def _check_flips(plan: _Plan) -> Iterator[Finding]:
    key = "INPUT.RANDOM_FLIP"
    if plan.config.INPUT.RANDOM_FLIP != "none":
        yield Finding(
            WARNING,
            f"{plan.shown(key)}: 1 of 2 pages would be mirrored, and a mirrored page is none.",
            f"{key} none",
        )
    key = "TEST.AUG.FLIP"
    if plan.config.TEST.AUG.ENABLED and plan.config.TEST.AUG.FLIP:
        sizes = len(plan.config.TEST.AUG.MIN_SIZES)
        yield Finding(
            WARNING,
            f"{plan.shown(key)}: {sizes} of the {2 * sizes} images of each page would be mirrored.",
            f"{key} False",
        )


def _check_pages_without_objects(plan: _Plan) -> Iterator[Finding]:
    key = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"
    pages = len(plan.truth["train"]["images"])
    empty = int((plan.counts[:pages] == 0).sum())
    if plan.config.DATALOADER.FILTER_EMPTY_ANNOTATIONS and empty:
        yield Finding(
            WARNING,
            f"{plan.shown(key)}: {empty} of {pages} pages of train, which have no objects, would be "
            "left out. They teach that there may be nothing.",
            f"{key} False",
        )


def _check_masks(plan: _Plan) -> Iterator[Finding]:
    key = "MODEL.MASK_ON"
    annotations = _annotations(plan.truth["train"])
    total = len(annotations)
    without = sum(not each.get("segmentation") for each in annotations)
    if plan.config.MODEL.MASK_ON and without:
        yield Finding(
            ERROR if without == total else WARNING,
            f"{plan.shown(key)}, and {without} of {total} objects of train have no polygon to learn an "
            "outline from.",
            f"{key} False",
        )
    outlines = sum(map(_has_outline, annotations))
    if not plan.config.MODEL.MASK_ON and total and 2 * outlines >= total:
        yield Finding(
            WARNING,
            f"{plan.shown(key)}, and {outlines} of {total} objects of train have polygons that are not "
            "just their boxes: they would not be used.",
            f"{key} True",
        )


def _has_outline(annotation: Mapping[str, Any]) -> bool:
    """Whether the polygons of an annotation say more than its box."""
    area = 0.0
    for polygon in annotation.get("segmentation") or []:
        x, y = np.asarray(polygon, np.float64)[: len(polygon) // 2 * 2].reshape(-1, 2).T
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    _, _, width, height = annotation["bbox"]
    return 0 < area < (1 - OUTLINE) * width * height


# Course of training -------------------------------------------------------------------------------


def _check_schedule(plan: _Plan) -> Iterator[Finding]:
    solver = plan.config.SOLVER
    total = solver.MAX_ITER
    late = [step for step in solver.STEPS if step >= total]
    if late and solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        yield Finding(
            WARNING,
            f"{plan.shown('SOLVER.STEPS')}, and SOLVER.MAX_ITER is {total}: {len(late)} of "
            f"{len(solver.STEPS)} steps, at which the learning rate falls, never come.",
            _set(SOLVER__STEPS=(total * 7 // 10, total * 9 // 10)),
        )
    share = min(solver.WARMUP_ITERS / max(total, 1), 1)
    if share > MAX_WARMUP:
        yield Finding(
            WARNING,
            f"{plan.shown('SOLVER.WARMUP_ITERS')}, and SOLVER.MAX_ITER is {total}: for "
            f"{_percent(share)} of the time, the learning rate is below SOLVER.BASE_LR.",
            f"SOLVER.WARMUP_ITERS {min(1000, total // 10)}",
        )


def _check_learning_rate(plan: _Plan) -> Iterator[Finding]:
    solver = plan.config.SOLVER
    usual = usual_rate(solver.OPTIMIZER, solver.IMS_PER_BATCH)
    times = solver.BASE_LR / usual
    if 1 / LR_FACTOR < times < LR_FACTOR:
        return
    far = f"{times:.3g} times" if times > 1 else f"1/{1 / max(times, 1e-12):.3g} of"
    yield Finding(
        WARNING,
        f"{plan.shown('SOLVER.BASE_LR')}, {far} the usual {usual:.4g} of {solver.OPTIMIZER} for "
        f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH}: "
        + ("the loss may rise to NaN." if times > 1 else "little is learned in the time."),
        f"SOLVER.BASE_LR {usual:.4g}",
    )


def _check_evaluation_period(plan: _Plan) -> Iterator[Finding]:
    key, total = "TEST.EVAL_PERIOD", plan.config.SOLVER.MAX_ITER
    if 0 < plan.config.TEST.EVAL_PERIOD <= total:
        return
    pages = len(plan.truth["train"]["images"])
    # After every second epoch, and five times at least.
    two_epochs = math.ceil(2 * pages / plan.config.SOLVER.IMS_PER_BATCH)
    yield Finding(
        WARNING,
        f"{plan.shown(key)}, and SOLVER.MAX_ITER is {total}: none of the {total} iterations is followed "
        "by an evaluation that the best checkpoint could be chosen by.",
        f"{key} {max(min(two_epochs, total // 5), 1)}",
    )


def _check_validation(plan: _Plan) -> Iterator[Finding]:
    val = plan.truth["val"]
    if not val["annotations"]:
        yield Finding(
            WARNING,
            f"The {len(val['images'])} pages of val have 0 objects: there is no AP to choose the best "
            "checkpoint by.",
            "split '{train: 0.7, val: 0.15, test: 0.15}' of the dataset",
        )


def _check_score_threshold(plan: _Plan) -> Iterator[Finding]:
    key = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
    if plan.config.MODEL.ROI_HEADS.SCORE_THRESH_TEST > EVALUATION_SCORE:
        yield Finding(
            WARNING,
            f"{plan.shown(key)}: what scores less counts as missed in AP. {EVALUATION_SCORE} is for "
            "evaluation; the thresholds of the archive's regions are `regions.min_score`.",
            f"{key} {EVALUATION_SCORE}",
        )


# The start ----------------------------------------------------------------------------------------


def _check_frozen_layers(plan: _Plan) -> Iterator[Finding]:
    """Layers that no model gives values to, and that training may not give any."""
    key, stages = "MODEL.BACKBONE.FREEZE_AT", plan.config.MODEL.BACKBONE.FREEZE_AT
    if plan.card is None and stages > 0:
        yield Finding(
            ERROR,
            f"{plan.shown(key)}, and training starts from nothing: the first {stages} stages would "
            "stay as they are, at random.",
            f"{key} 0",
        )
    keys = _new_norms(plan)
    frozen = [key for key in keys if _value(plan.config, key) == "FrozenBN"]
    if frozen:
        start = "nothing" if plan.card is None else "a backbone"
        yield Finding(
            ERROR,
            f"{plan.shown(*frozen)}, and training starts from {start}: {len(frozen)} of "
            f"{len(keys)} parts would normalise by statistics that nobody took. GroupNorm needs none.",
            " ".join(f"{key} GN" for key in frozen),
        )


def _new_norms(plan: _Plan) -> list[str]:
    """Keys of the normalisation of layers that the start has no values of."""
    keys = ["MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM"]
    if plan.card is None:
        resnet = "resnet" in plan.config.MODEL.BACKBONE.NAME
        return ["MODEL.RESNETS.NORM", *keys] if resnet else keys
    return keys if is_backbone(plan.card) else []


def _check_input(plan: _Plan) -> Iterator[Finding]:
    """What pixels the start was trained on: others find nonsense, and say nothing."""
    trained = (plan.card or {}).get("input")
    if not trained:
        return
    keys = {
        "INPUT.FORMAT": trained.get("format"),
        "MODEL.PIXEL_MEAN": trained.get("pixel_mean"),
        "MODEL.PIXEL_STD": trained.get("pixel_std"),
    }
    other = {
        key: value
        for key, value in keys.items()
        if value is not None and not _alike(_value(plan.config, key), value)
    }
    if other:
        listed = ", ".join(f"{key} {value}" for key, value in other.items())
        yield Finding(
            ERROR,
            f"{plan.shown(*other)}; the model that training starts from was trained with {listed}.",
            " ".join(f"{key} {shlex.quote(str(value))}" for key, value in other.items()),
        )


def _alike(one: object, other: object) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    # 57.12 and 57.120, or a mean that was rounded on its way.
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=1e-3))


# Memory -------------------------------------------------------------------------------------------

#: Bytes of each pixel of the input that the backbone keeps for the way back, in float32, with
#: FREEZE_AT 2 and FrozenBN: counted in Detectron2's Mask R-CNN by the tensors that autograd saves.
KEPT_BY_DEPTH = {18: 290, 34: 400, 50: 690, 101: 1100, 152: 1600}
#: The same of ResNeXt as of a ResNet of its depth, of one that is trained from its first layer, of one
#: whose normalisation is trained; and of ConvNeXt-T, for all of timm's.
TIMES_RESNEXT, TIMES_UNFROZEN, TIMES_NORM, KEPT_BY_TIMM = 1.8, 1.5, 2.0, 2500
#: The pyramid, the RPN, gradients on their way, per pixel; heads, per page; weights, gradients and
#: momentum, per parameter.
BYTES_BESIDE, BYTES_HEADS, BYTES_PARAMETER = 600, 0.2e9, 12
#: What half precision leaves of what is kept: RoI pooling and the heads' losses stay in float32.
TIMES_AMP = 0.6
GIB = 2**30


def training_memory(config: CfgNode, parameters: int, pixels: int, images: int) -> float:
    """Bytes that one training step takes on a device: a rule of thumb.

    12 * parameters + images * (pixels * (600 + kept) + 0.2e9), `pixels` of the largest page and `kept`
    as above. At 2 images of 800 x 1333 px it gives 3.4, 4.5 and 6.7 GiB for Mask R-CNN of R-50, R-101
    and X-101-32x8d, for which Detectron2's model zoo reports 3.4, 4.6 and 7.2.
    """
    kept = _kept_bytes(config)
    if config.SOLVER.AMP.ENABLED:
        kept *= TIMES_AMP
    return BYTES_PARAMETER * parameters + images * (pixels * (BYTES_BESIDE + kept) + BYTES_HEADS)


def _kept_bytes(config: CfgNode) -> float:
    if "resnet" not in config.MODEL.BACKBONE.NAME:
        return KEPT_BY_TIMM
    resnets = config.MODEL.RESNETS
    kept = float(KEPT_BY_DEPTH.get(resnets.DEPTH, max(KEPT_BY_DEPTH.values())))
    kept *= TIMES_RESNEXT if resnets.NUM_GROUPS > 1 else 1
    kept *= TIMES_UNFROZEN if config.MODEL.BACKBONE.FREEZE_AT < 2 else 1
    return kept * (TIMES_NORM if resnets.NORM not in ("FrozenBN", "") else 1)


def _check_memory(plan: _Plan) -> Iterator[Finding]:
    pages = plan.truth["train"]["images"]
    if plan.memory_gb is None or not pages:
        return
    from scanmill.conversion import count_parameters  # Builds the model, which takes a second.

    solver = plan.config.SOLVER
    parameters = count_parameters(plan.config)
    pixels = _largest_page(plan.config, pages)
    images = max(solver.IMS_PER_BATCH // plan.devices, 1)

    def needed(images: int, pixels: int = pixels) -> float:
        return training_memory(plan.config, parameters, pixels, images) / GIB

    if needed(images) <= plan.memory_gb:
        return
    fitting = max((each for each in range(images) if needed(each) <= plan.memory_gb), default=0)
    if fitting:
        batch = fitting * plan.devices
        remedy = _set(SOLVER__IMS_PER_BATCH=batch, SOLVER__BASE_LR=_scaled_rate(plan.config, batch))
    else:
        remedy = _smaller_pages(plan.config, lambda share: needed(1, int(pixels * share**2)), plan)
    kept = _kept_bytes(plan.config)
    yield Finding(
        WARNING,
        f"A training step takes about {needed(images):.1f} GiB, and the device has "
        f"{plan.memory_gb:.1f}: {BYTES_PARAMETER} B * {parameters / 1e6:.1f} million parameters + "
        f"{images} images * ({pixels / 1e6:.2f} million pixels * ({BYTES_BESIDE} + {kept:.0f} B"
        + (f" * {TIMES_AMP}" if solver.AMP.ENABLED else "")
        + f") + {BYTES_HEADS / 1e9} GB).",
        remedy,
    )


def _scaled_rate(config: CfgNode, batch: int) -> float:
    optimizer = config.SOLVER.OPTIMIZER
    before = usual_rate(optimizer, config.SOLVER.IMS_PER_BATCH)
    return float(f"{config.SOLVER.BASE_LR * usual_rate(optimizer, batch) / before:.4g}")


def _largest_page(config: CfgNode, pages: Sequence[Mapping[str, Any]]) -> int:
    """Pixels of the largest padded page that training makes of `pages`."""
    sizes = config.INPUT.MIN_SIZE_TRAIN
    largest = sizes if isinstance(sizes, int) else max(sizes)
    shapes = {(page["height"], page["width"]) for page in pages}
    return max(
        math.prod(canvas(*resized_shape(*shape, largest, config.INPUT.MAX_SIZE_TRAIN), 32))
        for shape in shapes
    )


def _smaller_pages(config: CfgNode, needed: Callable[[float], float], plan: _Plan) -> str:
    """Sizes at which one page fits, if any does."""
    shares = [share / 20 for share in range(19, 0, -1)]
    share = next((share for share in shares if needed(share) <= plan.memory_gb), shares[-1])
    sizes = config.INPUT.MIN_SIZE_TRAIN
    sizes = (sizes,) if isinstance(sizes, int) else sizes
    return _set(
        SOLVER__IMS_PER_BATCH=plan.devices,
        SOLVER__BASE_LR=_scaled_rate(config, plan.devices),
        INPUT__MIN_SIZE_TRAIN=tuple(max(int(size * share) // 32, 1) * 32 for size in sizes),
        INPUT__MAX_SIZE_TRAIN=int(config.INPUT.MAX_SIZE_TRAIN * share) // 32 * 32,
    )


Check = Callable[[_Plan], Iterator[Finding]]

#: In the order in which they are reported.
CHECKS: tuple[Check, ...] = (
    _check_number_of_classes,
    _check_splits,
    _check_class_order,
    _check_detections_per_image,
    _check_proposals,
    _check_anchors,
    _check_small_objects,
    _check_flips,
    _check_pages_without_objects,
    _check_masks,
    _check_schedule,
    _check_learning_rate,
    _check_evaluation_period,
    _check_validation,
    _check_score_threshold,
    _check_frozen_layers,
    _check_input,
    _check_memory,
)
