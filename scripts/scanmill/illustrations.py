"""Figures of synthetic pages: plots, diagrams, line art and images in several panels, drawn as SVG.

Each function returns the content of an <svg> of `width` by `height` units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

Words = Callable[[int, int], str]

_PALETTES = (
    ("#000", "#555", "#888", "#bbb"),
    ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728"),
    ("#0b3954", "#bfd7ea", "#ff6663", "#e0ff4f"),
    ("#264653", "#2a9d8f", "#e9c46a", "#e76f51"),
    ("#111", "#111", "#111", "#111"),
    ("#4472c4", "#ed7d31", "#a5a5a5", "#ffc000"),
)


def draw_figure(width: float, height: float, words: Words, rng: np.random.Generator) -> str:
    """An <svg> of one figure, which may have several panels."""
    kinds = (draw_plot, draw_plot, draw_bars, draw_bars, draw_scatter, draw_boxes, draw_pie)
    kinds += (draw_flow, draw_flow, draw_tree, draw_blots, draw_heat_map, draw_map, draw_line_art)
    palette = _PALETTES[rng.integers(len(_PALETTES))]
    panels = _panels(width, height, rng)
    same = kinds[rng.integers(len(kinds))] if rng.random() < 0.6 else None
    parts = []
    letters = "ABCDEFGHIJKLMNOP" if rng.random() < 0.5 else "abcdefghijklmnop"
    labelled = len(panels) > 1 and rng.random() < 0.75
    for number, (x, y, w, h) in enumerate(panels):
        draw = same or kinds[rng.integers(len(kinds))]
        parts.append(
            f'<g transform="translate({x:.1f} {y:.1f})">{draw(w, h, words, palette, rng)}</g>'
        )
        if labelled:
            parts.append(_label(x + 2, y + 10, letters[number], 13, "start", "bold"))
    ground = ""
    if rng.random() < 0.12:
        ground = f'<rect width="{width:.0f}" height="{height:.0f}" fill="#f1f1ee"/>'
    if rng.random() < 0.15:
        ground += f'<rect x=".5" y=".5" width="{width - 1:.0f}" height="{height - 1:.0f}" fill="none" stroke="#333"/>'
    return (
        f'<svg width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="{("sans-serif", "Liberation Sans", "serif")[rng.integers(3)]}">'
        f"{ground}{''.join(parts)}</svg>"
    )


def _panels(width: float, height: float, rng: np.random.Generator) -> list[tuple[float, ...]]:
    if rng.random() < 0.55 or min(width, height) < 120:
        return [(0, 0, width, height)]
    columns = int(rng.integers(1, 4)) if width > 300 else int(rng.integers(1, 3))
    rows = int(rng.integers(1, 4)) if height > 260 else int(rng.integers(1, 3))
    w, h = width / columns, height / rows
    return [(c * w, r * h, w - 8, h - 8) for r in range(rows) for c in range(columns)]


def _label(
    x: float, y: float, text: str, size: float, anchor: str = "middle", weight: str = "normal"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )


def _size(width: float, height: float) -> float:
    return float(np.clip(min(width, height) / 22, 5, 11))


def _axes(
    w: float, h: float, words: Words, rng: np.random.Generator
) -> tuple[tuple[float, ...], str]:
    """The box within axes, and the axes."""
    size = _size(w, h)
    left, top, right, bottom = 4.2 * size, 1.8 * size, w - size, h - 3.4 * size
    parts = []
    if rng.random() < 0.5:
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
            'fill="none" stroke="#222"/>'
        )
    else:
        parts.append(
            f'<path d="M{left:.1f} {top:.1f}V{bottom:.1f}H{right:.1f}" fill="none" stroke="#222"/>'
        )
    ticks = int(rng.integers(3, 8))
    grid = rng.random() < 0.3
    scale = 10 ** int(rng.integers(-1, 4))
    for i in range(ticks):
        x, y = left + (right - left) * i / (ticks - 1), bottom - (bottom - top) * i / (ticks - 1)
        parts.append(f'<path d="M{left:.1f} {y:.1f}h-3M{x:.1f} {bottom:.1f}v3" stroke="#222"/>')
        parts.append(_label(left - 5, y + size / 3, f"{i * scale:g}", size, "end"))
        parts.append(_label(x, bottom + 1.3 * size, f"{i * 5 * scale:g}", size))
        if grid:
            parts.append(
                f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="#ccc" stroke-width=".6"/>'
            )
    parts.append(_label((left + right) / 2, h - 0.5 * size, words(1, 4)[:34], 1.1 * size))
    x, y = 1.1 * size, (top + bottom) / 2
    parts.append(
        f'<g transform="rotate(-90 {x:.1f} {y:.1f})">{_label(x, y, words(1, 3)[:26], 1.1 * size)}</g>'
    )
    if rng.random() < 0.4:
        parts.append(
            _label((left + right) / 2, 1.2 * size, words(2, 5)[:40], 1.2 * size, "middle", "bold")
        )
    return (left, top, right, bottom), "".join(parts)


def _legend(box: Sequence[float], names: Sequence[str], colors: Sequence[str], size: float) -> str:
    left, top, right, _ = box
    x, y = right - 9 * size, top + size
    return "".join(
        f'<rect x="{x:.1f}" y="{y + i * 1.4 * size:.1f}" width="{size:.1f}" height="{size * 0.7:.1f}" fill="{color}"/>'
        + _label(x + 1.4 * size, y + i * 1.4 * size + 0.7 * size, name[:12], size, "start")
        for i, (name, color) in enumerate(zip(names, colors, strict=False))
    )


def draw_plot(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Curves over axes."""
    (left, top, right, bottom), parts = _axes(w, h, words, rng)
    curves = int(rng.integers(1, 5))
    points = int(rng.choice([6, 10, 20, 80]))
    steps = rng.random() < 0.15
    for i in range(curves):
        values = np.cumsum(rng.normal(0.1, 1, points))
        values = (values - values.min()) / (np.ptp(values) or 1) * rng.uniform(0.5, 0.95)
        xs = np.linspace(left, right, points)
        ys = bottom - values * (bottom - top)
        if steps:
            path = f"M{xs[0]:.1f} {ys[0]:.1f}" + "".join(
                f"H{x:.1f}V{y:.1f}" for x, y in zip(xs[1:], ys[1:], strict=True)
            )
        else:
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))
        dash = ("", "4 2", "1 2", "6 2 1 2")[i % 4] if rng.random() < 0.5 else ""
        parts += (
            f'<path d="{path}" fill="none" stroke="{colors[i % 4]}" stroke-dasharray="{dash}" '
            f'stroke-width="{rng.uniform(0.8, 2):.1f}"/>'
        )
        if points < 30 and rng.random() < 0.6:
            parts += "".join(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{colors[i % 4]}"/>'
                for x, y in zip(xs, ys, strict=True)
            )
    if rng.random() < 0.5:
        parts += _legend(
            (left, top, right, bottom), [words(1, 2) for _ in range(curves)], colors, _size(w, h)
        )
    return parts


def draw_bars(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Bars, some with error bars, side by side or lying."""
    (left, top, right, bottom), parts = _axes(w, h, words, rng)
    groups, series = int(rng.integers(2, 14)), int(rng.integers(1, 4))
    errors, lying = rng.random() < 0.4, rng.random() < 0.2
    long, wide = (right - left, bottom - top) if lying else (bottom - top, right - left)
    slot = wide / groups
    for g in range(groups):
        for s in range(series):
            length = rng.uniform(0.1, 0.9) * long
            at = g * slot + slot * 0.15 + s * slot * 0.7 / series
            thick = slot * 0.7 / series * 0.92
            fill = f'fill="{colors[s % 4]}" stroke="#222" stroke-width=".5"'
            if lying:
                parts += f'<rect x="{left:.1f}" y="{top + at:.1f}" width="{length:.1f}" height="{thick:.1f}" {fill}/>'
                continue
            parts += f'<rect x="{left + at:.1f}" y="{bottom - length:.1f}" width="{thick:.1f}" height="{length:.1f}" {fill}/>'
            if errors:
                x = left + at + thick / 2
                parts += f'<path d="M{x:.1f} {bottom - length - 6:.1f}v12m-3 0h6m-6-12h6" stroke="#222"/>'
    return parts


def draw_scatter(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Points over axes, with a line of regression now and then."""
    (left, top, right, bottom), parts = _axes(w, h, words, rng)
    for i in range(int(rng.integers(1, 4))):
        count, slope = int(rng.integers(10, 120)), rng.uniform(-0.7, 0.7)
        xs = rng.beta(2, 2, count)
        ys = np.clip(0.5 + slope * (xs - 0.5) + rng.normal(0, 0.13, count), 0, 1)
        radius = rng.uniform(1, 3)
        parts += "".join(
            f'<circle cx="{left + x * (right - left):.1f}" cy="{bottom - y * (bottom - top):.1f}" '
            f'r="{radius:.1f}" fill="{colors[i % 4]}" fill-opacity=".7"/>'
            for x, y in zip(xs, ys, strict=True)
        )
    if rng.random() < 0.4:
        parts += (
            f'<path d="M{left:.1f} {bottom - 20:.1f}L{right:.1f} {top + 20:.1f}" stroke="#222"/>'
        )
    return parts


def draw_boxes(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Box plots."""
    (left, top, right, bottom), parts = _axes(w, h, words, rng)
    count = int(rng.integers(2, 9))
    slot = (right - left) / count
    for i in range(count):
        low, first, middle, third, high = np.sort(rng.uniform(0.05, 0.95, 5))
        x, tall = left + (i + 0.5) * slot, bottom - top
        y = [bottom - each * tall for each in (low, first, middle, third, high)]
        parts += (
            f'<path d="M{x:.1f} {y[0]:.1f}V{y[1]:.1f}M{x:.1f} {y[3]:.1f}V{y[4]:.1f}" stroke="#222"/>'
            f'<rect x="{x - slot / 4:.1f}" y="{y[3]:.1f}" width="{slot / 2:.1f}" height="{y[1] - y[3]:.1f}" '
            f'fill="{colors[i % 4] if rng.random() < 0.5 else "#fff"}" stroke="#222"/>'
            f'<path d="M{x - slot / 4:.1f} {y[2]:.1f}h{slot / 2:.1f}" stroke="#222" stroke-width="2"/>'
        )
    return parts


def draw_pie(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Pies with their shares named, as many side by side as fill the place."""
    count = max(1, round(w / h / 1.1))
    return "".join(
        f'<g transform="translate({i * w / count:.1f} 0)">{_one_pie(w / count, h, words, colors, rng)}</g>'
        for i in range(count)
    )


def _one_pie(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """A pie at the left, and the names of its shares at the right end."""
    r = min(w, h) * 0.4
    x, y = 1.22 * r, h / 2
    turn, parts, size = 0.0, "", _size(w, h)
    for i, share in enumerate(rng.dirichlet(np.ones(int(rng.integers(2, 7))) * 2)):
        end = turn + share * 2 * math.pi
        large = int(end - turn > math.pi)
        parts += (
            f'<path d="M{x:.1f} {y:.1f}L{x + r * math.cos(turn):.1f} {y + r * math.sin(turn):.1f}'
            f'A{r:.1f} {r:.1f} 0 {large} 1 {x + r * math.cos(end):.1f} {y + r * math.sin(end):.1f}Z" '
            f'fill="{colors[i % 4]}" fill-opacity="{1 - 0.12 * i:.2f}" stroke="#fff"/>'
        )
        middle = (turn + end) / 2
        parts += _label(
            x + 1.12 * r * math.cos(middle),
            y + 1.12 * r * math.sin(middle),
            f"{100 * share:.0f}%",
            size,
        )
        line = y - 0.8 * r + 1.6 * i * size
        parts += _label(w - 2, line, words(1, 2)[:12], size, "end")
        turn = end
    return parts


def draw_flow(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Boxes with words, and arrows between them."""
    columns = int(rng.integers(1, 4)) if w > 160 else 1
    rows = int(rng.integers(2, 6)) if h > 140 else 2
    size = _size(w, h)
    slot_w, slot_h = w / columns, h / rows
    box_w, box_h = slot_w * 0.76, slot_h * 0.58
    fill = "#fff" if rng.random() < 0.6 else colors[1]
    round_ = rng.choice([0, 0, 4, box_h / 2])
    parts = ""
    for r in range(rows):
        for c in range(columns):
            if rng.random() < 0.12:
                continue
            x, y = c * slot_w + slot_w * 0.12, r * slot_h + slot_h * 0.1
            parts += (
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{box_w:.1f}" height="{box_h:.1f}" rx="{round_:.1f}" '
                f'fill="{fill}" stroke="#222"/>'
            )
            letters = max(4, int(box_w / size * 1.7))
            for line in range(max(1, min(3, int(box_h / size / 1.4)))):
                parts += _label(
                    x + box_w / 2,
                    y + box_h / 2 + (line - 0.6) * 1.2 * size,
                    words(1, 4)[:letters],
                    size,
                )
            if r + 1 < rows:
                arrow = f"M{x + box_w / 2:.1f} {y + box_h:.1f}v{slot_h - box_h:.1f}m-3-5l3 5l3-5"
                parts += f'<path d="{arrow}" fill="none" stroke="#222"/>'
            elif c + 1 < columns:
                arrow = f"M{x + box_w:.1f} {y + box_h / 2:.1f}h{slot_w - box_w:.1f}m-5-3l5 3l-5 3"
                parts += f'<path d="{arrow}" fill="none" stroke="#222"/>'
    return parts


def draw_tree(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """A dendrogram with named leaves."""
    size = _size(w, h)
    count = max(3, int(min(h / (1.4 * size), rng.integers(5, 40))))
    ys = [(i + 0.5) * h / count for i in range(count)]
    reach = w * 0.68
    parts = "".join(
        _label(reach + 4, y + size / 3, words(1, 2)[:18], min(size, h / count * 0.9), "start")
        for y in ys
    )
    nodes = [(reach, y) for y in ys]
    while len(nodes) > 1:
        at = int(rng.integers(len(nodes) - 1))
        (x1, y1), (x2, y2) = nodes[at], nodes[at + 1]
        x = max(4, min(x1 - 2, x2 - 2, reach * (len(nodes) - 2) / count * rng.uniform(0.8, 1)))
        parts += (
            f'<path d="M{x1:.1f} {y1:.1f}H{x:.1f}V{y2:.1f}H{x2:.1f}" fill="none" stroke="#222"/>'
        )
        nodes[at : at + 2] = [(x, (y1 + y2) / 2)]
    return parts


def draw_blots(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Bands of a gel on grey strips, with names beside them."""
    size = _size(w, h)
    strips = max(1, min(int(h / (3.2 * size)), int(rng.integers(1, 7))))
    lanes = int(rng.integers(3, 12))
    left, tall = w * 0.22, h / strips
    dark = rng.random() < 0.3
    parts = ""
    for s in range(strips):
        y = s * tall + 2
        parts += (
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{w - left:.1f}" height="{tall - 5:.1f}" '
            f'fill="{"#222" if dark else "#d4d4d4"}"/>'
        )
        parts += _label(left - 4, y + tall / 2, words(1, 1)[:9], size, "end")
        for lane in range(lanes):
            x = left + (lane + 0.5) * (w - left) / lanes
            parts += (
                f'<ellipse cx="{x:.1f}" cy="{y + tall * 0.45:.1f}" rx="{0.35 * (w - left) / lanes:.1f}" '
                f'ry="{min(4, tall / 6):.1f}" fill="{"#eee" if dark else "#111"}" '
                f'fill-opacity="{rng.uniform(0.05, 1):.2f}"/>'
            )
    return parts


def draw_heat_map(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Cells of many greys or colours."""
    columns, rows = int(rng.integers(4, 20)), int(rng.integers(4, 20))
    hue, named, size = rng.integers(0, 360), rng.random() < 0.5, _size(w, h)
    left = w * 0.2 if named else 0
    cw, ch = (w - left) / columns, h / rows
    saturation = rng.choice([0, 70])
    parts = ""
    for r in range(rows):
        if named:
            parts += _label(left - 3, (r + 0.7) * ch, words(1, 1)[:10], min(size, ch), "end")
        for c in range(columns):
            parts += (
                f'<rect x="{left + c * cw:.1f}" y="{r * ch:.1f}" width="{cw:.1f}" height="{ch:.1f}" '
                f'fill="hsl({hue} {saturation}% {rng.integers(20, 98)}%)"/>'
            )
    return parts


def _blob(x: float, y: float, radius: float, rng: np.random.Generator, corners: int = 24) -> str:
    turns = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    radii = radius * (
        1 + 0.25 * np.sin(turns * rng.integers(2, 6) + rng.uniform(0, 6)) * rng.random()
    )
    radii *= rng.normal(1, 0.06, corners)
    return (
        "M"
        + "L".join(
            f"{x + r * math.cos(t):.1f} {y + r * math.sin(t):.1f}"
            for r, t in zip(radii, turns, strict=True)
        )
        + "Z"
    )


def draw_map(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Outlines of lands, rivers, places with names."""
    size = _size(w, h)
    grey = rng.random() < 0.6
    parts = f'<rect width="{w:.0f}" height="{h:.0f}" fill="{"#fff" if grey else "#dfeaf2"}" stroke="#222"/>'
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(0.15, 0.85) * w, rng.uniform(0.15, 0.85) * h
        radius = rng.uniform(0.08, 0.25) * min(w, h)
        fill = f"hsl({rng.integers(40, 120)} {0 if grey else 30}% {rng.integers(70, 97)}%)"
        parts += f'<path d="{_blob(x, y, radius, rng, 40)}" fill="{fill}" stroke="#333" stroke-width=".8"/>'
        parts += _label(x, y, words(1, 2)[:16], size)
    for _ in range(int(rng.integers(0, 5))):
        xs = np.linspace(0, w, 14)
        ys = np.clip(rng.uniform(0, h) + np.cumsum(rng.normal(0, h / 20, 14)), 2, h - 2)
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))
        parts += f'<path d="M{line}" fill="none" stroke="#666"/>'
    return parts


def draw_line_art(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Shapes with hatching, as engravings and technical drawings have them, with letters beside."""
    size = _size(w, h)
    parts, extent = "", np.array([[w, h], [0, 0]])
    for _ in range(int(rng.integers(2, 7))):
        x, y = rng.uniform(0.25, 0.75) * w, rng.uniform(0.25, 0.75) * h
        radius = rng.uniform(0.12, 0.25) * min(w, h)
        extent = np.array(
            [
                np.minimum(extent[0], (x - radius, y - radius)),
                np.maximum(extent[1], (x + radius, y + radius)),
            ]
        )
        if rng.random() < 0.5:
            shape = _blob(x, y, radius, rng, 30)
        else:
            shape = f"M{x - radius:.1f} {y - radius:.1f}h{2 * radius:.1f}v{2 * radius:.1f}h{-2 * radius:.1f}Z"
        parts += f'<path d="{shape}" fill="#fff" stroke="#111" stroke-width="{rng.uniform(0.6, 2):.1f}"/>'
        slope = rng.uniform(-1, 1)
        for k in range(int(rng.integers(0, 16))):
            dx = (k - 8) * radius / 10
            parts += (
                f'<path d="M{x + dx:.1f} {y - radius * 0.6:.1f}l{slope * radius:.1f} {radius * 1.1:.1f}" '
                'stroke="#333" stroke-width=".5"/>'
            )
        if rng.random() < 0.6:
            parts += _label(x, y, words(1, 2)[:14], size)
    # What is drawn fills its place, or the figure's box would be wider than the figure.
    (left, top), (right, bottom) = extent
    stretch = (w / (right - left), h / (bottom - top))
    return f'<g transform="scale({stretch[0]:.4f} {stretch[1]:.4f}) translate({-left:.1f} {-top:.1f})">{parts}</g>'
