"""What paired trainings say of a claim: differences with intervals, iterations to an AP, a verdict.

Two arms of an experiment differ in one thing, and run `i` of both has the same seed: pages come in the
same order, turned and cut alike. So their differences are taken seed by seed, and only then averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

#: Student's t, 97.5 %, of 1, 2, .. degrees of freedom; with more than there are, the last, which is a
#: little too wide.
STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)

#: The arms of the experiments, and what each is.
MASK, FASTER, START, BACKBONE = "mask", "faster", "start", "backbone"
ARMS = {
    MASK: "Mask R-CNN from nothing",
    FASTER: "Faster R-CNN from nothing: the same config with `MODEL.MASK_ON False`",
    START: "Mask R-CNN from the weights of a page-layout model",
    BACKBONE: "Mask R-CNN from the weights of an ImageNet backbone",
}
#: AP on COCO that Mask R-CNN with ResNet-101-FPN has more in boxes than without its mask branch (He et
#: al., "Mask R-CNN", 2017, table 3).
CLAIMED_GAIN = 0.9
#: Share of the iterations that a start from a trained model takes.
CLAIMED_SHARE = 0.5

#: Iteration and AP of each validation.
Curve = Sequence[tuple[int, float]]


class Run(NamedTuple):
    """A model that was trained and judged."""

    arm: str
    seed: int
    curve: list[tuple[int, float]]
    """Iterations done and box AP on the pages of val."""
    seconds: float | None
    """Of an iteration; None where there were too few to tell."""
    best_iteration: int
    """Of the model that was judged."""
    metrics: dict[str, tuple[float, float | None, float | None]]
    """`box_AP`, `box_AP50`, `mask_AP` .. on the pages of test, 0 .. 100: value and 95 % interval over
    documents."""


# Statistics ---------------------------------------------------------------------------------------


class Mean(NamedTuple):
    """A mean over seeds with its 95 % interval, which one value alone does not have."""

    values: list[float]
    mean: float
    low: float | None
    high: float | None


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean of independent values, and mean -+ t * s / sqrt(n), t of n - 1 degrees of freedom."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return Mean(list(values), mean, None, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = STUDENT[min(count - 1, len(STUDENT)) - 1] * math.sqrt(variance / count)
    return Mean(list(values), mean, mean - half, mean + half)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """The mean of ours - theirs, seed by seed."""
    return mean_interval([one - other for one, other in zip(ours, theirs, strict=True)])


class Reached(NamedTuple):
    """When a curve first has an AP."""

    iteration: float
    at_most: bool
    """It has it already at its first validation."""


def reach(curve: Curve, wanted: float) -> Reached | None:
    """When a curve first has the AP `wanted`, with lines drawn between validations; None if never."""
    before: tuple[int, float] | None = None
    for iteration, value in curve:
        if value >= wanted:
            if before is None:
                return Reached(float(iteration), True)
            share = (wanted - before[1]) / (value - before[1])
            return Reached(before[0] + share * (iteration - before[0]), False)
        before = (iteration, value)
    return None


class Speed(NamedTuple):
    """How soon one curve has the AP that another ends with."""

    wanted: float
    """The other's AP at its last validation."""
    theirs: Reached
    """When the other itself first has it: where it has been flat, before its end."""
    ours: Reached | None

    @property
    def share(self) -> float | None:
        """Ours of their iterations; None where it never has it, or the other had it from the first."""
        if self.ours is None or self.theirs.at_most:
            return None
        return self.ours.iteration / self.theirs.iteration


def compare_speed(ours: Curve, theirs: Curve) -> Speed:
    """When `ours` has the AP that `theirs` ends with."""
    wanted = theirs[-1][1]
    own = reach(theirs, wanted)
    assert own is not None  # Its last validation has it.
    return Speed(wanted, own, reach(ours, wanted))


# Verdicts -----------------------------------------------------------------------------------------


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count > 1)}"


def judge_difference(difference: Mean, what: str, claimed: float | None = None) -> str:
    """A sentence on a difference that should be above 0; `claimed` is what was published."""
    said, seeds = f"{difference.mean:+.1f} {what}", _seeds(len(difference.values))
    if difference.low is None or difference.high is None:
        return f"{said} of one seed, which has no interval: nothing is shown."
    said += f", 95 % interval {difference.low:+.1f} to {difference.high:+.1f}: "
    if difference.low > 0:
        said += f"shown by {seeds}."
    elif difference.high < 0:
        said += f"{seeds} show the opposite."
    else:
        said += f"not shown by {seeds}."
    if claimed is not None:
        lies = "lies" if difference.low <= claimed <= difference.high else "does not lie"
        said += f" The published {claimed:+.1f} {lies} in the interval."
    return said


def judge_speed(speeds: Sequence[Speed], ours: str, theirs: str) -> str:
    """A sentence on how many of its iterations `theirs` would have saved: CLAIMED_SHARE at least?"""
    seeds = _seeds(len(speeds))
    early = sum(each.theirs.at_most for each in speeds)
    never = sum(each.ours is None for each in speeds)
    if early:
        return (
            f"`{theirs}` had its final AP at its first validation with {early} of {seeds}: there is "
            "nothing to compare. More iterations would tell."
        )
    if never:
        return (
            f"`{ours}` did not reach the final AP of `{theirs}` with {never} of {seeds}: half of the "
            "iterations is not shown."
        )
    shares = mean_interval([each.share for each in speeds if each.share is not None])
    most = any(each.ours is not None and each.ours.at_most for each in speeds)
    said = f"`{ours}` takes {'at most ' * most}{100 * shares.mean:.0f} % of the iterations of `{theirs}`"
    if shares.low is None or shares.high is None:
        return f"{said} with one seed, which has no interval: nothing is shown."
    said += f", 95 % interval {100 * max(0, shares.low):.0f} to {100 * shares.high:.0f} %: "
    if shares.high <= CLAIMED_SHARE:
        return f"{said}half or less is shown by {seeds}."
    if shares.low > CLAIMED_SHARE and not most:
        return f"{said}{seeds} show more than half."
    return f"{said}half or less is not shown by {seeds}."


# Results ------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """Two arms, side by side."""

    ours: str
    theirs: str
    seeds: list[int]
    """Those that both have."""
    differences: dict[str, Mean]
    """Ours - theirs, of each metric that both have."""
    speeds: list[Speed]
    """By seed."""


def compare(runs: Sequence[Run], ours: str, theirs: str) -> Pair | None:
    """Two arms over the seeds that both have; None if there is none."""
    by_arm: Mapping[str, dict[int, Run]] = {
        arm: {run.seed: run for run in runs if run.arm == arm} for arm in (ours, theirs)
    }
    seeds = sorted(by_arm[ours].keys() & by_arm[theirs].keys())
    if not seeds:
        return None
    pairs = [(by_arm[ours][seed], by_arm[theirs][seed]) for seed in seeds]
    names = [
        name
        for name in pairs[0][0].metrics
        if all(name in run.metrics for pair in pairs for run in pair)
    ]
    differences = {
        name: paired_difference(
            [one.metrics[name][0] for one, _ in pairs],
            [other.metrics[name][0] for _, other in pairs],
        )
        for name in names
    }
    speeds = [compare_speed(one.curve, other.curve) for one, other in pairs]
    return Pair(ours, theirs, seeds, differences, speeds)


def conclude(runs: Sequence[Run]) -> dict[str, Any]:
    """What results.json says of the claims."""
    claims: dict[str, Any] = {}
    masks = compare(runs, MASK, FASTER)
    if masks:
        verdict = judge_difference(masks.differences["box_AP"], "box AP", CLAIMED_GAIN)
        claims["masks"] = [{**_plain(masks), "verdict": verdict}]
    starts = [compare(runs, *arms) for arms in _starts()]
    said = [
        {
            **_plain(pair),
            "iterations": [_plain(speed) | {"share": speed.share} for speed in pair.speeds],
            "verdict": judge_speed(pair.speeds, pair.ours, pair.theirs),
            "verdict_of_equal_iterations": judge_difference(
                pair.differences["box_AP"], "box AP after equal iterations"
            ),
        }
        for pair in starts
        if pair
    ]
    return {**claims, "start": said} if said else claims


def _starts() -> tuple[tuple[str, str], ...]:
    return (START, MASK), (BACKBONE, MASK), (START, BACKBONE)


def _plain(value: Any) -> Any:  # noqa: ANN401
    """NamedTuples as dictionaries, all the way down; speeds have a key of their own."""
    if hasattr(value, "_asdict"):
        entries = value._asdict().items()
        return {name: _plain(each) for name, each in entries if name != "speeds"}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


# The report ---------------------------------------------------------------------------------------

#: Metrics of the tables.
SHOWN = {"box_AP": "box AP", "box_AP50": "box AP50", "mask_AP": "mask AP", "mask_AP50": "mask AP50"}


def report(runs: Sequence[Run], conditions: Mapping[str, str]) -> str:
    """What results.md says, under headings of the third level; `conditions` are its last table."""
    masks = compare(runs, MASK, FASTER)
    starts = [pair for pair in (compare(runs, *arms) for arms in _starts()) if pair]
    lines: list[str] = []
    if masks:
        lines += ["### Masks help boxes", "", *_metric_table(runs, masks), ""]
        lines += [judge_difference(masks.differences["box_AP"], "box AP", CLAIMED_GAIN), ""]
    for pair in starts:
        lines += [f"### `{pair.ours}` against `{pair.theirs}`", "", *_metric_table(runs, pair), ""]
        said = judge_difference(pair.differences["box_AP"], "box AP after equal iterations")
        lines += [said, "", *_speed_table(runs, pair), ""]
        lines += [judge_speed(pair.speeds, pair.ours, pair.theirs), ""]
    lines += ["### Under what conditions", "", *_conditions(runs, conditions), ""]
    lines += ["![Box AP on validation pages against iterations](curves.png)"]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = "|".join(["---"] * len(head))
    return [f"| {' | '.join(head)} |", f"|{ruler}|", *(f"| {' | '.join(row)} |" for row in rows)]


def _number(value: float, low: float | None, high: float | None, sign: str = "") -> str:
    """A value with its interval, if it has one."""
    said = f"{value:{sign}.1f}"
    if low is None or high is None:
        return said
    return f"{said} ({low:{sign}.1f} to {high:{sign}.1f})"


def _metric_table(runs: Sequence[Run], pair: Pair) -> list[str]:
    """Each metric of both arms by seed, with intervals over pages; differences, over seeds."""
    rows = []
    for name, title in SHOWN.items():
        for arm in (pair.ours, pair.theirs):
            chosen = {run.seed: run.metrics.get(name) for run in runs if run.arm == arm}
            values = [each for seed in pair.seeds if (each := chosen[seed]) is not None]
            if len(values) == len(pair.seeds):
                mean = math.fsum(each[0] for each in values) / len(values)
                cells = [_number(*each) for each in values]
                rows.append([f"`{arm}`: {title}", *cells, f"{mean:.1f}"])
        if name in pair.differences:
            each = pair.differences[name]
            cells = [f"{value:+.1f}" for value in each.values]
            rows.append(["difference", *cells, _number(each.mean, each.low, each.high, "+")])
    return _table(["test pages", *(f"seed {seed}" for seed in pair.seeds), "mean"], rows)


def _speed_table(runs: Sequence[Run], pair: Pair) -> list[str]:
    """When each run of ours has the final AP of theirs."""
    rows = []
    for seed, speed in zip(pair.seeds, pair.speeds, strict=True):
        time = None
        seconds = {run.arm: run.seconds for run in runs if run.seed == seed}
        ours, theirs = seconds[pair.ours], seconds[pair.theirs]
        if speed.share is not None and ours and theirs:
            time = speed.share * ours / theirs
        shares = [
            f"{100 * each:.0f} %" if each is not None else "-" for each in (speed.share, time)
        ]
        rows.append(
            [
                str(seed),
                f"{speed.wanted:.1f}",
                _iteration(speed.theirs),
                _iteration(speed.ours),
                *shares,
            ]
        )
    return _table(
        [
            "seed",
            f"final validation AP of `{pair.theirs}`",
            f"`{pair.theirs}` has it first at iteration",
            f"`{pair.ours}` at",
            "share of iterations",
            "share of time",
        ],
        rows,
    )


def _iteration(reached: Reached | None) -> str:
    if reached is None:
        return "not reached"
    return f"{'at most ' * reached.at_most}{reached.iteration:.0f}"


def _conditions(runs: Sequence[Run], conditions: Mapping[str, str]) -> list[str]:
    arms = []
    for arm, meaning in ARMS.items():
        chosen = [run for run in runs if run.arm == arm]
        seconds = [run.seconds for run in chosen if run.seconds]
        said = f"{math.fsum(seconds) / len(seconds):.2f}" if seconds else "-"
        if chosen:
            arms.append([f"`{arm}`", meaning, str(len(chosen)), said])
    cells = [[name, text.replace("|", "\\|")] for name, text in conditions.items()]
    notes = [
        "Intervals of single runs are over documents (bootstrap, 95 %), those of differences over "
        "seeds (paired, Student's t): the first say nothing of other seeds, the second nothing of "
        "other pages. Over three seeds an interval is 2.5 standard deviations to either side: wide.",
        "",
    ]
    return [
        *notes,
        *_table(["arm", "", "runs", "seconds per iteration"], arms),
        "",
        *_table(["", ""], cells),
    ]


def curves_by_arm(runs: Sequence[Run]) -> dict[str, list[Curve]]:
    """The curves of each arm that there is, for the figure."""
    curves = {arm: [run.curve for run in runs if run.arm == arm] for arm in ARMS}
    return {arm: each for arm, each in curves.items() if each}
