"""The roofline as a PNG file, by matplotlib."""

from ..extras import require
from ..files import atomic_write
from .terminal import SHORT

KINDS = {"winograd": "winograd", "direct": "direct"}  # algorithm -> the name of its marks; others: other kernels
_COLOURS = {"winograd": "tab:blue", "direct": "tab:orange", "other kernels": "tab:grey"}


def kind(row):
    """What a row's mark is coloured by."""
    return KINDS.get(row.algorithm, "other kernels")


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
    axes.plot([low, knee, high], [1e-9 * peaks.roof(i) for i in (low, knee, high)], color="black", linewidth=1)
    for name, colour in _COLOURS.items():
        marks = [row for row in rows if kind(row) == name]
        if marks:
            axes.scatter([row.intensity for row in marks], [1e-9 * row.flops_per_second for row in marks],
                         s=[12 + 600 * row.share for row in marks], color=colour, alpha=0.55, linewidth=0,
                         label=name)
    for row in sorted(rows, key=lambda row: -row.total)[:5]:
        axes.annotate(f"{row.name} {SHORT.get(row.op, row.op)}" if row.layer else row.op,
                      (row.intensity, 1e-9 * row.flops_per_second), (5, 4), textcoords="offset points",
                      fontsize=7)
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
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
