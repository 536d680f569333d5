"""Figures of synthetic pages: plots, diagrams, line art and images in several panels, drawn as SVG.

Each function returns the content of an <svg> of `width` by `height` units.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from scanmill.markup import shape

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
    palette = _PALETTES[rng.integers(len(_PALETTES))]
    panels = _panels(width, height, rng)
    same = _KINDS[rng.integers(len(_KINDS))] if rng.random() < 0.6 else None
    letters = "ABCDEFGHIJKLMNOP" if rng.random() < 0.5 else "abcdefghijklmnop"
    labelled = len(panels) > 1 and rng.random() < 0.75
    parts = []
    for letter, (x, y, w, h) in zip(letters, panels, strict=False):
        draw = same or _KINDS[rng.integers(len(_KINDS))]
        parts.append(_moved(x, y, draw(w, h, words, palette, rng)))
        if labelled:
            parts.append(_label(x + 2, y + 10, letter, 13.0, "start", "bold"))
    ground = ""
    if rng.random() < 0.12:
        ground = shape("rect", width=f"{width:.0f}", height=f"{height:.0f}", fill="#f1f1ee")
    if rng.random() < 0.15:
        inside = {"width": f"{width - 1:.0f}", "height": f"{height - 1:.0f}"}
        ground += shape("rect", x=".5", y=".5", **inside, fill="none", stroke="#333")
    return shape(
        "svg",
        ground + "".join(parts),
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        font_family=("sans-serif", "Liberation Sans", "serif")[rng.integers(3)],
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
    place = {"x": x, "y": y, "font_size": size, "text_anchor": anchor, "font_weight": weight}
    return shape("text", escape(text), **place)


def _moved(x: float, y: float, inner: str) -> str:
    return shape("g", inner, transform=f"translate({x:.1f} {y:.1f})")


def _rect(x: float, y: float, width: float, height: float, **look: object) -> str:
    return shape("rect", x=x, y=y, width=width, height=height, **look)


def _path(steps: str, stroke: str = "#222", **look: object) -> str:
    return shape("path", d=steps, stroke=stroke, **look)


def _at(x: float, y: float) -> str:
    """A point within a path."""
    return f"{x:.1f} {y:.1f}"


def _through(xs: Sequence[float], ys: Sequence[float]) -> str:
    """A path of straight lines."""
    return "M" + "L".join(map(_at, xs, ys))


def _size(width: float, height: float) -> float:
    """Of letters."""
    return float(np.clip(min(width, height) / 22, 5, 11))


def _axes(
    w: float, h: float, words: Words, rng: np.random.Generator
) -> tuple[tuple[float, ...], str]:
    """The box within axes, and the axes."""
    size = _size(w, h)
    left, top, right, bottom = 4.2 * size, 1.8 * size, w - size, h - 3.4 * size
    if rng.random() < 0.5:
        parts = [_rect(left, top, right - left, bottom - top, fill="none", stroke="#222")]
    else:
        parts = [_path(f"M{_at(left, top)}V{bottom:.1f}H{right:.1f}", fill="none")]
    parts.append(_ticks((left, top, right, bottom), size, rng))
    parts.append(_label((left + right) / 2, h - 0.5 * size, words(1, 4)[:34], 1.1 * size))
    x, y = 1.1 * size, (top + bottom) / 2
    name = _label(x, y, words(1, 3)[:26], 1.1 * size)
    parts.append(shape("g", name, transform=f"rotate(-90 {x:.1f} {y:.1f})"))
    if rng.random() < 0.4:
        text = words(2, 5)[:40]
        parts.append(_label((left + right) / 2, 1.2 * size, text, 1.2 * size, weight="bold"))
    return (left, top, right, bottom), "".join(parts)


def _ticks(box: Sequence[float], size: float, rng: np.random.Generator) -> str:
    """Ticks at both axes with their numbers, and lines across now and then."""
    left, top, right, bottom = box
    count = int(rng.integers(3, 8))
    grid = rng.random() < 0.3
    scale = 10 ** int(rng.integers(-1, 4))
    parts = ""
    for i in range(count):
        x, y = left + (right - left) * i / (count - 1), bottom - (bottom - top) * i / (count - 1)
        parts += _path(f"M{_at(left, y)}h-3M{_at(x, bottom)}v3")
        parts += _label(left - 5, y + size / 3, f"{i * scale:g}", size, "end")
        parts += _label(x, bottom + 1.3 * size, f"{i * 5 * scale:g}", size)
        if grid:
            parts += _path(f"M{_at(left, y)}H{right:.1f}", "#ccc", stroke_width=".6")
    return parts


def _legend(box: Sequence[float], names: Sequence[str], colors: Sequence[str], size: float) -> str:
    _, top, right, _ = box
    x, y = right - 9 * size, top + size
    parts = ""
    for i, (name, color) in enumerate(zip(names, colors, strict=False)):
        line = y + i * 1.4 * size
        parts += _rect(x, line, size, size * 0.7, fill=color)
        parts += _label(x + 1.4 * size, line + 0.7 * size, name[:12], size, "start")
    return parts


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
            more = zip(xs[1:], ys[1:], strict=True)
            path = f"M{_at(xs[0], ys[0])}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in more)
        else:
            path = _through(xs, ys)
        color = colors[i % 4]
        dash = ("", "4 2", "1 2", "6 2 1 2")[i % 4] if rng.random() < 0.5 else ""
        width = rng.uniform(0.8, 2)
        parts += _path(path, color, fill="none", stroke_dasharray=dash, stroke_width=width)
        if points < 30 and rng.random() < 0.6:
            parts += _dots(xs, ys, 2.4, fill=color)
    if rng.random() < 0.5:
        names = [words(1, 2) for _ in range(curves)]
        parts += _legend((left, top, right, bottom), names, colors, _size(w, h))
    return parts


def _dots(xs: Sequence[float], ys: Sequence[float], radius: float, **look: object) -> str:
    return "".join(
        shape("circle", cx=x, cy=y, r=radius, **look) for x, y in zip(xs, ys, strict=True)
    )


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
            look = {"fill": colors[s % 4], "stroke": "#222", "stroke_width": ".5"}
            if lying:
                parts += _rect(left, top + at, length, thick, **look)
                continue
            parts += _rect(left + at, bottom - length, thick, length, **look)
            if errors:
                x = left + at + thick / 2
                parts += _path(f"M{_at(x, bottom - length - 6)}v12m-3 0h6m-6-12h6")
    return parts


def draw_named_bars(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Lying bars in groups: what a group is stands before it, and a bar's number behind it."""
    size = _size(w, h)
    groups, series = int(rng.integers(2, 9)), int(rng.integers(1, 4))
    left, right = rng.uniform(0.25, 0.5) * w, w - 4 * size
    slot = (h - 2 * size) / groups
    letters = max(6, int(1.8 * left / size))
    parts = _path(f"M{_at(left, size)}V{h - size:.1f}", fill="none")
    shares = rng.uniform(0.03, 1, (groups, series))
    shares /= shares.max()
    for g in range(groups):
        top = size + g * slot
        lines = textwrap.wrap(words(1, 9), letters)[: max(1, int(slot / (1.2 * size)))]
        for n, line in enumerate(lines):
            y = top + slot / 2 + (n - len(lines) / 2 + 0.7) * 1.15 * size
            parts += _label(left - 0.5 * size, y, line, size, "end")
        thick = 0.75 * slot / series
        for s in range(series):
            long = shares[g, s] * (right - left)
            y = top + 0.125 * slot + s * thick
            parts += _rect(left, y, long, 0.92 * thick, fill=colors[s % 4])
            number = f"{100 * shares[g, s]:.0f}%"
            parts += _label(left + long + 3, y + thick / 2 + size / 3, number, size, "start")
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
        xs, ys = left + xs * (right - left), bottom - ys * (bottom - top)
        parts += _dots(xs, ys, radius, fill=colors[i % 4], fill_opacity=".7")
    if rng.random() < 0.4:
        parts += _path(f"M{_at(left, bottom - 20)}L{_at(right, top + 20)}")
    return parts


def draw_boxes(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Box plots."""
    (left, top, right, bottom), parts = _axes(w, h, words, rng)
    count = int(rng.integers(2, 9))
    slot = (right - left) / count
    for i in range(count):
        x, tall = left + (i + 0.5) * slot, bottom - top
        # From the least value up to the most; the box is of the middle half.
        low, first, middle, third, high = bottom - np.sort(rng.uniform(0.05, 0.95, 5)) * tall
        parts += _path(f"M{_at(x, low)}V{first:.1f}M{_at(x, third)}V{high:.1f}")
        fill = colors[i % 4] if rng.random() < 0.5 else "#fff"
        box = (x - slot / 4, third, slot / 2, first - third)
        parts += _rect(*box, fill=fill, stroke="#222")
        parts += _path(f"M{_at(x - slot / 4, middle)}h{slot / 2:.1f}", stroke_width=2)
    return parts


def draw_pie(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Pies with their shares named, as many side by side as fill the place."""
    count = max(1, round(w / h / 1.1))
    return "".join(
        _moved(i * w / count, 0, _one_pie(w / count, h, words, colors, rng)) for i in range(count)
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
        first = _at(x + r * math.cos(turn), y + r * math.sin(turn))
        last = _at(x + r * math.cos(end), y + r * math.sin(end))
        sector = f"M{_at(x, y)}L{first}A{_at(r, r)} 0 {large} 1 {last}Z"
        opacity = f"{1 - 0.12 * i:.2f}"
        parts += _path(sector, "#fff", fill=colors[i % 4], fill_opacity=opacity)
        middle = (turn + end) / 2
        right, below = 1.12 * r * math.cos(middle), 1.12 * r * math.sin(middle)
        parts += _label(x + right, y + below, f"{100 * share:.0f}%", size)
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
            parts += _rect(x, y, box_w, box_h, rx=round_, fill=fill, stroke="#222")
            letters = max(4, int(box_w / size * 1.7))
            for line in range(max(1, min(3, int(box_h / size / 1.4)))):
                below = y + box_h / 2 + (line - 0.6) * 1.2 * size
                parts += _label(x + box_w / 2, below, words(1, 4)[:letters], size)
            if r + 1 < rows:
                arrow = f"M{_at(x + box_w / 2, y + box_h)}v{slot_h - box_h:.1f}m-3-5l3 5l3-5"
                parts += _path(arrow, fill="none")
            elif c + 1 < columns:
                arrow = f"M{_at(x + box_w, y + box_h / 2)}h{slot_w - box_w:.1f}m-5-3l5 3l-5 3"
                parts += _path(arrow, fill="none")
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
        parts += _path(f"M{_at(x1, y1)}H{x:.1f}V{y2:.1f}H{x2:.1f}", fill="none")
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
    ground, ink = ("#222", "#eee") if dark else ("#d4d4d4", "#111")
    parts = ""
    for s in range(strips):
        y = s * tall + 2
        parts += _rect(left, y, w - left, tall - 5, fill=ground)
        parts += _label(left - 4, y + tall / 2, words(1, 1)[:9], size, "end")
        for lane in range(lanes):
            parts += shape(
                "ellipse",
                cx=left + (lane + 0.5) * (w - left) / lanes,
                cy=y + tall * 0.45,
                rx=0.35 * (w - left) / lanes,
                ry=min(4.0, tall / 6),
                fill=ink,
                fill_opacity=f"{rng.uniform(0.05, 1):.2f}",
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
            fill = f"hsl({hue} {saturation}% {rng.integers(20, 98)}%)"
            parts += _rect(left + c * cw, r * ch, cw, ch, fill=fill)
    return parts


def _blob(x: float, y: float, radius: float, rng: np.random.Generator, corners: int = 24) -> str:
    turns = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    radii = radius * (
        1 + 0.25 * np.sin(turns * rng.integers(2, 6) + rng.uniform(0, 6)) * rng.random()
    )
    radii *= rng.normal(1, 0.06, corners)
    return _through(x + radii * np.cos(turns), y + radii * np.sin(turns)) + "Z"


def draw_map(
    w: float, h: float, words: Words, colors: Sequence[str], rng: np.random.Generator
) -> str:
    """Outlines of lands, rivers, places with names."""
    size = _size(w, h)
    grey = rng.random() < 0.6
    sea = "#fff" if grey else "#dfeaf2"
    parts = shape("rect", width=f"{w:.0f}", height=f"{h:.0f}", fill=sea, stroke="#222")
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(0.15, 0.85) * w, rng.uniform(0.15, 0.85) * h
        radius = rng.uniform(0.08, 0.25) * min(w, h)
        fill = f"hsl({rng.integers(40, 120)} {0 if grey else 30}% {rng.integers(70, 97)}%)"
        land = _blob(x, y, radius, rng, 40)
        parts += _path(land, "#333", fill=fill, stroke_width=".8")
        parts += _label(x, y, words(1, 2)[:16], size)
    for _ in range(int(rng.integers(0, 5))):
        xs = np.linspace(0, w, 14)
        ys = np.clip(rng.uniform(0, h) + np.cumsum(rng.normal(0, h / 20, 14)), 2, h - 2)
        parts += _path(_through(xs, ys), "#666", fill="none")
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
        low = np.minimum(extent[0], (x - radius, y - radius))
        high = np.maximum(extent[1], (x + radius, y + radius))
        extent = np.array([low, high])
        if rng.random() < 0.5:
            outline = _blob(x, y, radius, rng, 30)
        else:
            side = f"{2 * radius:.1f}"
            outline = f"M{_at(x - radius, y - radius)}h{side}v{side}h-{side}Z"
        parts += _path(outline, "#111", fill="#fff", stroke_width=rng.uniform(0.6, 2))
        slope = rng.uniform(-1, 1)
        for k in range(int(rng.integers(0, 16))):
            start = _at(x + (k - 8) * radius / 10, y - radius * 0.6)
            stroke = f"M{start}l{_at(slope * radius, radius * 1.1)}"
            parts += _path(stroke, "#333", stroke_width=".5")
        if rng.random() < 0.6:
            parts += _label(x, y, words(1, 2)[:14], size)
    # What is drawn fills its place, or the figure's box would be wider than the figure.
    (left, top), (right, bottom) = extent
    scale = f"scale({w / (right - left):.4f} {h / (bottom - top):.4f})"
    return shape("g", parts, transform=f"{scale} translate({-left:.1f} {-top:.1f})")


_KINDS = (
    draw_plot,
    draw_plot,
    draw_bars,
    draw_bars,
    draw_named_bars,
    draw_named_bars,
    draw_scatter,
    draw_boxes,
    draw_pie,
    draw_flow,
    draw_flow,
    draw_tree,
    draw_blots,
    draw_heat_map,
    draw_map,
    draw_line_art,
)
