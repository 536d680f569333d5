"""The curves of a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure


def draw_training(metrics: Sequence[Mapping[str, float]], path: Path) -> None:
    """Write a figure of a training: its losses, learning rate, and AP, over iterations.

    `metrics` are the lines of Detectron2's metrics.json.
    """
    names = sorted({name for line in metrics for name in line if "loss" in name})
    scores = sorted({name for line in metrics for name in line if name.startswith("AP")})
    figure = Figure(figsize=(8, 9), layout="constrained")
    loss, rate, score = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 2))
    for axes, chosen in ((loss, names), (rate, ["lr"]), (score, scores)):
        for name in chosen:
            points = [(line["iteration"], line[name]) for line in metrics if name in line]
            if points:
                axes.plot(
                    *zip(*points, strict=True), label=name, marker="." if axes is score else ""
                )
        if chosen and axes is not rate:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    loss.set(ylabel="loss", yscale="log")
    rate.set(ylabel="learning rate")
    score.set(ylabel="AP on validation pages", xlabel="iteration")
    _write(figure, path)


def draw_comparison(
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]], path: Path
) -> None:
    """Write a figure of AP over iterations: a thin line for each run of an arm, a thick one for their
    mean, over the iterations that all of them have."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (arm, runs) in enumerate(curves.items()):
        color = f"C{number}"
        for run in runs:
            axes.plot(*zip(*run, strict=True), color=color, linewidth=0.8, alpha=0.6)
        common = sorted(set.intersection(*({iteration for iteration, _ in run} for run in runs)))
        values = [dict(run) for run in runs]
        means = [sum(each[iteration] for each in values) / len(values) for iteration in common]
        axes.plot(common, means, color=color, linewidth=2.5, marker=".", label=arm)
    axes.set(xlabel="iteration", ylabel="box AP on validation pages")
    axes.legend(title="mean of seeds", fontsize="small")
    axes.grid(alpha=0.3)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=120)
    temporary.replace(path)
