"""The roofline as a PNG file, by matplotlib."""

import math

from ..extras import require
from ..files import atomic_write
from .labels import place, short
from .terminal import label

_LABELS, _POINTS = 8, 7  # names beside marks, and their size
_COLOURS = {"winograd": "tab:blue", "direct": "tab:orange", "other kernels": "tab:grey"}


def kind(row):
    """What a row's mark is coloured by."""
    return row.algorithm if row.algorithm in _COLOURS else "other kernels"


def plotted(rows):
    """The rows that a roofline can show: those with operations."""
    return [row for row in rows if row.flops and row.bytes]


def roofline(profile, path):
    """Draws flops a second by operations a byte, below the two roofs; marks as large as the row's share."""
    figure = require("matplotlib.figure").Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes, rows, peaks = figure.subplots(), plotted(profile.rows), profile.peaks
    knee = peaks.flops / peaks.bandwidth
    intensities = [*(row.intensity for row in rows), knee]
    low, high = min(intensities) / 2, max(intensities) * 2
    ends = low, knee, high
    axes.plot(ends, [1e-9 * peaks.roof(intensity) for intensity in ends], color="black", linewidth=1)
    for name, colour in _COLOURS.items():
        marks = [row for row in rows if kind(row) == name]
        if marks:
            axes.scatter([row.intensity for row in marks], [1e-9 * row.flops_per_second for row in marks],
                         s=[12 + 600 * row.share for row in marks], color=colour, alpha=0.55, linewidth=0,
                         label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations for each byte that must move")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"{profile.title or 'Roofline'}: {1e-9 * peaks.flops:.0f} GFLOP/s, "
                   f"{1e-9 * peaks.bandwidth:.1f} GB/s, {peaks.threads} threads, {peaks.isa}", fontsize=9)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        axes.legend(frameon=False, loc="lower right")
    figure.draw_without_rendering()  # fixes where everything is
    for name, left, base in _names(axes, rows, (knee, 1e-9 * peaks.flops)):
        axes.text(left, -base, name, fontsize=_POINTS, transform=None)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _names(axes, rows, corner):
    """What labels.place says in pixels of the picture, whose y grows downwards there."""
    pixels, scale = axes.transData.transform, axes.figure.dpi / 72
    marks = []
    for row in sorted(rows, key=lambda row: -row.total):
        x, y = pixels((row.intensity, 1e-9 * row.flops_per_second))
        marks.append((short(label(row)), x, -y, scale * math.sqrt((12 + 600 * row.share) / math.pi)))
    box, (x, y) = axes.bbox, pixels(corner)
    roof = x, -y - 2 * scale, box.x1, -y + 2 * scale
    return place(marks, (box.x0, -box.y1, box.x1, -box.y0), [roof], _LABELS,
                 (0.62 * _POINTS * scale, _POINTS * scale))
