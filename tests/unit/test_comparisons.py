"""What paired trainings say: intervals, iterations to an AP, verdicts that follow from the numbers."""

import math

import numpy as np
import pytest

from scanmill.comparisons import (
    STUDENT,
    Reached,
    Run,
    Speed,
    compare,
    compare_speed,
    conclude,
    curves_by_arm,
    judge_difference,
    judge_speed,
    mean_interval,
    paired_difference,
    reach,
    report,
)
from scanmill.training_curves import draw_comparison

# Statistics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", range(1, len(STUDENT) + 1))
def test_between_the_tabled_values_lie_95_percent_of_students_t(freedom):
    bound = STUDENT[freedom - 1]
    x = np.linspace(-bound, bound, 200_001)
    density = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(
        freedom * math.pi
    )
    share = np.trapezoid(density * (1 + x * x / freedom) ** (-(freedom + 1) / 2), x)
    assert share == pytest.approx(0.95, abs=1e-4)


def test_interval_of_a_mean_is_that_of_students_t():
    # scipy.stats.t.interval(0.95, 2, 2, scipy.stats.sem([1, 2, 3]))
    mean = mean_interval([1.0, 2.0, 3.0])
    assert mean.mean == 2
    assert (mean.low, mean.high) == pytest.approx((-0.4841, 4.4841), abs=1e-3)
    # scipy.stats.t.interval(0.95, 4, 3, scipy.stats.sem([1, 2, 3, 4, 5]))
    mean = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean.low, mean.high) == pytest.approx((1.0368, 4.9632), abs=1e-3)
    assert mean_interval([4.0]) == ([4.0], 4.0, None, None)


def test_differences_are_taken_seed_by_seed():
    difference = paired_difference([10.5, 20.5, 30.5], [10.0, 20.0, 30.0])
    assert (difference.mean, difference.low, difference.high) == (0.5, 0.5, 0.5)
    assert difference.values == [0.5, 0.5, 0.5]
    difference = paired_difference([12.0, 20.0, 31.0], [10.0, 21.0, 30.0])
    half = 4.303 * math.sqrt(7 / 3) / math.sqrt(3)
    assert (difference.low, difference.high) == pytest.approx((2 / 3 - half, 2 / 3 + half))


# Iterations to an AP ------------------------------------------------------------------------------

RISING = [(10, 5.0), (20, 15.0), (30, 25.0)]


def test_iterations_to_an_ap_are_interpolated():
    assert reach(RISING, 10) == (15.0, False)
    assert reach(RISING, 15) == (20.0, False)
    assert reach(RISING, 25) == (30.0, False)
    assert reach(RISING, 25.1) is None


def test_what_is_there_at_the_first_validation_is_a_bound():
    assert reach(RISING, 5) == (10.0, True)
    assert reach(RISING, 0) == (10.0, True)


def test_the_first_time_counts_where_a_curve_falls_again():
    assert reach([(10, 0.0), (20, 20.0), (30, 10.0), (40, 30.0)], 15).iteration == 17.5


def test_a_curve_is_measured_by_when_the_other_itself_had_its_final_ap():
    flat = [(10, 2.0), (20, 12.0), (30, 14.0), (40, 12.0)]
    speed = compare_speed(RISING, flat)
    assert speed == (12.0, (20.0, False), (17.0, False))
    assert speed.share == pytest.approx(0.85)
    assert compare_speed(flat, RISING).share is None
    assert compare_speed(flat, RISING).ours is None
    early = compare_speed(RISING, [(10, 3.0), (20, 2.0)])
    assert early.theirs.at_most
    assert early.share is None


# Verdicts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        (
            [0.9, 1.0, 1.1],
            "+1.0 box AP, 95 % interval +0.8 to +1.2: shown by 3 seeds. The published +0.9 lies in "
            "the interval.",
        ),
        (
            [0.0, 0.4, 0.8],
            "+0.4 box AP, 95 % interval -0.6 to +1.4: not shown by 3 seeds. The published +0.9 lies "
            "in the interval.",
        ),
        (
            [-2.0, -2.1],
            "-2.0 box AP, 95 % interval -2.7 to -1.4: 2 seeds show the opposite. The published +0.9 "
            "does not lie in the interval.",
        ),
        ([3.0], "+3.0 box AP of one seed, which has no interval: nothing is shown."),
    ],
)
def test_verdict_on_a_difference_follows_from_its_interval(differences, said):
    assert judge_difference(mean_interval(differences), "box AP", 0.9) == said


def speeds(*ours):
    """Of runs that have at these iterations what the others have at 100."""
    reached = [None if each is None else Reached(float(each), False) for each in ours]
    return [Speed(20.0, Reached(100.0, False), each) for each in reached]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            speeds(30, 31, 32),
            "`start` takes 31 % of the iterations of `mask`, 95 % interval 29 to 33 %: half or less "
            "is shown by 3 seeds.",
        ),
        (
            speeds(30, 40, 70),
            "`start` takes 47 % of the iterations of `mask`, 95 % interval 0 to 98 %: half or less "
            "is not shown by 3 seeds.",
        ),
        (
            speeds(90, 91),
            "`start` takes 90 % of the iterations of `mask`, 95 % interval 84 to 97 %: 2 seeds show "
            "more than half.",
        ),
        (
            speeds(30, None),
            "`start` did not reach the final AP of `mask` with 1 of 2 seeds: half of the iterations "
            "is not shown.",
        ),
        (
            speeds(30),
            "`start` takes 30 % of the iterations of `mask` with one seed, which has no interval: "
            "nothing is shown.",
        ),
    ],
)
def test_verdict_on_iterations_follows_from_the_shares(given, said):
    assert judge_speed(given, "start", "mask") == said


def test_verdict_says_what_is_a_bound_and_what_cannot_be_told():
    curve = [(10, 1.0), (100, 20.0)]
    soon = [compare_speed([(10, 25.0)], curve)] * 2
    assert "takes at most 10 % of" in judge_speed(soon, "start", "mask")
    flat = [compare_speed(curve, [(10, 1.0), (20, 1.0)])]
    assert "nothing to compare" in judge_speed(flat, "start", "mask")


# Reports ------------------------------------------------------------------------------------------


def run(arm, seed, ap, curve=RISING, **more):
    metrics = {"box_AP": (ap, ap - 2, ap + 2), "box_AP50": (ap + 20, None, None)}
    if arm != "faster":
        metrics["mask_AP"] = (ap - 5, ap - 6, ap - 4)
    return Run(arm, seed, curve, 0.5, 30, metrics)._replace(**more)


RUNS = [
    *(run("mask", seed, 30.0 + seed) for seed in range(3)),
    *(run("faster", seed, 29.0 + 2 * seed) for seed in range(2)),
    *(run("start", seed, 40.0, [(10, 20.0), (20, 30.0)], seconds=0.4) for seed in range(3)),
]


def test_arms_are_compared_over_the_seeds_and_metrics_that_both_have():
    pair = compare(RUNS, "mask", "faster")
    assert pair.seeds == [0, 1]
    assert pair.differences["box_AP"].values == [1.0, 0.0]
    assert set(pair.differences) == {"box_AP", "box_AP50"}
    assert set(compare(RUNS, "start", "mask").differences) == {"box_AP", "box_AP50", "mask_AP"}
    assert compare(RUNS, "backbone", "mask") is None


def test_report_has_every_run_every_difference_and_both_verdicts():
    text = report(RUNS, {"command": "`a|b`"})
    assert "| `mask`: box AP | 30.0 (28.0 to 32.0) | 31.0 (29.0 to 33.0) | 30.5 |" in text
    assert "| difference | +1.0 | +0.0 | +0.5 (-5.9 to +6.9) |" in text
    assert "+0.5 box AP, 95 % interval -5.9 to +6.9: not shown by 2 seeds." in text
    assert "| 0 | 25.0 | 30 | 15 | 50 % | 40 % |" in text
    assert "`start` takes 50 % of the iterations of `mask`" in text
    assert "| `faster` | Faster R-CNN from nothing" in text
    assert "| command | `a\\|b` |" in text
    assert "faster`: mask AP" not in text
    assert "backbone" not in text
    later = [run("backbone", seed, 35.0) for seed in range(3)]
    assert "### `start` against `backbone`" in report(RUNS + later, {})


def test_conclusions_are_plain_data():
    claims = conclude(RUNS)
    [masks] = claims["masks"]
    assert masks["differences"]["box_AP"]["mean"] == 0.5
    assert "not shown by 2 seeds" in masks["verdict"]
    [start] = claims["start"]
    assert start["iterations"][0]["share"] == pytest.approx(0.5)
    assert start["iterations"][0]["ours"] == {"iteration": 15.0, "at_most": False}
    assert conclude(RUNS[:1]) == {}


def test_figure_is_drawn_of_curves_of_other_lengths(tmp_path):
    curves = curves_by_arm([*RUNS, run("start", 3, 1.0, [(10, 1.0)])])
    assert list(curves) == ["mask", "faster", "start"]
    draw_comparison(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
