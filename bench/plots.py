"""Pictures of a JSON file of the benchmark: ratios layer by layer, and a roofline.

    python -m bench.plots FILE.json
"""

import json
import math
import sys
from importlib.util import find_spec
from pathlib import Path

from .workers import LIBRARIES, NUMPY

COLOURS = {"fastconv NHWC": "tab:blue", "torch": "tab:orange", "onnxruntime": "tab:green",
           "openvino": "tab:purple", "tensorflow": "tab:red", "jax": "tab:brown"}
OURS = "fastconv NHWC"


def draw(document, path):
    """Draws the tables of convolutions in the document next to `path`, where matplotlib is there."""
    if find_spec("matplotlib") is None:
        return
    for table in document["tables"]:
        rows = [row for row in table["rows"] if row["traffic"] and OURS in row["measured"]]
        if len(rows) < 2:
            continue
        stem = f"{path.stem}-{table['title'].replace(' ', '-').replace(',', '').replace(':', '')}"
        _ratios(table["title"], rows, document["machine"], path.with_name(f"{stem}-ratios.png"))
        _roofline(table["title"], rows, document["machine"], path.with_name(f"{stem}-roofline.png"))


def _figure(width, height):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _caption(machine):
    facts = machine["fastconv"]
    return f"{facts['cpu']}, {facts['isa']}, {machine['threads']} threads, {machine['date'][:10]}"


def _fastest(row):
    """{library: seconds of its fastest contender}, without naive NumPy and ours."""
    found = {library: [row["measured"][name] for name in names if name in row["measured"]]
             for library, names in LIBRARIES.items() if names != NUMPY and library != "fastconv"}
    return {library: min(seconds) for library, seconds in found.items() if seconds}


def _ratios(title, rows, machine, path):
    """A line for each layer, sorted by the worst ratio, with a dot for each library."""
    def ratios(row):
        return {library: seconds / row["measured"][OURS] for library, seconds in _fastest(row).items()}

    rows = sorted((row for row in rows if _fastest(row)), key=lambda row: min(ratios(row).values()))
    if not rows:
        return
    figure, axes = _figure(8, 1.6 + 0.17 * len(rows))
    for place, row in enumerate(rows):
        found = ratios(row)
        axes.plot([min(found.values()), max(found.values())], [place, place], color="lightgrey", zorder=1)
    for library, colour in COLOURS.items():
        points = [(ratios(row)[library], place) for place, row in enumerate(rows) if library in ratios(row)]
        if points:
            axes.scatter(*zip(*points, strict=True), s=18, color=colour, zorder=2,
                         label=f"{library}, best layout" if library == "torch" else library)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [tick for tick in (0.1, 0.25, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100) if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=7, family="monospace")
    axes.set_ylim(-1, len(rows))
    axes.set_xlabel("times as fast fastconv (channels-last) is; right of 1: faster")
    axes.set_title(title, fontsize=12)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=6, frameon=False, fontsize=8)
    figure.supxlabel(_caption(machine), fontsize=7, color="dimgrey")
    figure.savefig(path)


def _roofline(title, rows, machine, path):
    """Rates by flops for each byte that must be moved; the roof was measured between the calls."""
    figure, axes = _figure(8, 5.2)
    peak = max(row["limit"] for row in rows) / 1e9
    bandwidth = machine["copy_bytes_per_second"] / 1e9
    intensities = [row["work"] / row["traffic"] for row in rows]
    low, high = min(*intensities, peak / bandwidth) / 1.5, max(*intensities, peak / bandwidth) * 1.5
    knee = peak / bandwidth
    axes.plot([low, knee, high], [low * bandwidth, peak, peak], color="black", linewidth=1)
    axes.annotate(f"multiply-adds: {peak:.0f} GFLOP/s", (high, peak), (-4, 4), textcoords="offset points",
                  ha="right", fontsize=8)
    axes.annotate(f"copy: {bandwidth:.1f} GB/s", (low, low * bandwidth), (4, -12),
                  textcoords="offset points", fontsize=8)
    best = [max(row["work"] / seconds / 1e9 for seconds in _fastest(row).values()) if _fastest(row)
            else math.nan for row in rows]
    ours = [row["work"] / row["measured"][OURS] / 1e9 for row in rows]
    axes.scatter(intensities, best, s=22, facecolors="none", edgecolors="tab:orange", label="fastest peer")
    axes.scatter(intensities, ours, s=18, color=COLOURS[OURS], alpha=0.8, label=OURS)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    for axis, (least, most) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 1000, 2000)
                 if least <= tick <= most]
        axis.set_ticks(ticks, [str(tick) for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_xlabel("arithmetic intensity: flops for each byte of input, weights and output")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"{title}: roofline", fontsize=12)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    figure.supxlabel(_caption(machine), fontsize=7, color="dimgrey")
    figure.savefig(path)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    draw(json.loads(file.read_text(encoding="utf-8")), file)
