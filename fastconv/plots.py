"""Pictures: of a training, and of networks compared."""

import math

from .extras import require
from .files import atomic_write

_PANELS = (("loss", "loss", "test_loss", 1), ("accuracy (%)", "accuracy", "test_accuracy", 100))

_COLOURS = {"AlexNet": "tab:red", "VGG": "tab:orange", "GoogLeNet": "tab:green", "Inception": "tab:green",
            "ResNet": "tab:blue"}
_AREA = 8e-6  # of a bubble, in square points for a parameter
_BESIDE = {"left": (-1, 0), "right": (1, 0), "above": (0, 1), "below": (0, -1)}
_LABELS = {"VGG-11": "below", "VGG-13": "below", "VGG-16": "below", "GoogLeNet": "left", "ResNet-18": "below",
           "ResNet-34": "left", "ResNet-50": "left", "Inception-v3": "above", "ResNet-101": "below",
           "ResNet-152": "right", "Inception-v4": "above"}  # to the right where nothing is said


def learning_curves(history, path):
    """Draws loss and accuracy by epoch, of training and test data, into a PNG file of 1200 x 480 pixels.

    history: rows as train.fit returns them, at least one. Raises ImportError without matplotlib, OSError
    where the file cannot be written.
    """
    figure = require("matplotlib.figure").Figure(figsize=(8, 3.2), dpi=150, layout="constrained")
    ticker = require("matplotlib.ticker")
    epochs = [row["epoch"] for row in history]
    for axes, (title, train_key, test_key, scale) in zip(figure.subplots(1, 2), _PANELS, strict=True):
        for key, label, colour in ((train_key, "training", "tab:blue"), (test_key, "test", "tab:orange")):
            if history[0][key] is not None:
                values = [scale * row[key] for row in history]
                axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=label)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def complexity(rows, path, machine=None):
    """Draws accuracy by operations, bubbles as large as the parameters, into a PNG file of 1200 x 900 pixels.

    rows: as chart.measure gives them, at least one. machine: where the times, if any, were measured. Returns
    the Figure; raises as learning_curves does.
    """
    figure = require("matplotlib.figure").Figure(figsize=(8, 6), dpi=150, layout="constrained")
    axes = figure.subplots()
    for row in rows:
        _bubble(axes, row)
    axes.set_xscale("log")
    axes.set_xlim(0.5, 40)
    axes.set_ylim(54, 83)
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 40], ["0.5", "1", "2", "5", "10", "20", "40"])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("billion multiply-adds for one image")
    axes.set_ylabel("top-1 accuracy on ImageNet (%)")
    axes.set_title("Complexity versus accuracy", fontsize=12)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    sizes = [axes.scatter([], [], s=_AREA * 1e6 * millions, color="tab:grey", alpha=0.5, linewidth=0,
                          label=f"{millions} million") for millions in (5, 25, 60, 140)]
    axes.legend(handles=sizes, title="parameters", loc="lower right", frameon=False, labelspacing=2,
                borderpad=1.2, handletextpad=1.4)
    figure.supxlabel(_sources(rows, machine), fontsize=7, color="dimgrey", x=0.02, ha="left")
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
    return figure


def _bubble(axes, row):
    """The bubble of a network, and beside it title and time."""
    place, area = (row["multiply_adds"] / 1e9, row["top1"]), _AREA * row["parameters"]
    axes.scatter(*place, s=area, color=_COLOURS[row["title"].partition("-")[0]], alpha=0.5, linewidth=0)
    label = row["title"]
    if row["seconds"] is not None:
        label += f"\n{1e3 * row['seconds']:,.0f} ms"
    right, up = _BESIDE[_LABELS.get(row["title"], "right")]
    distance = math.sqrt(area / math.pi) + 2
    axes.annotate(label, place, (right * distance, up * distance), textcoords="offset points", fontsize=8,
                  ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])


def _sources(rows, machine):
    titles = {}
    for row in rows:
        titles.setdefault(row["source"], []).append(row["title"])
    (most, _), *others = sorted(titles.items(), key=lambda item: -len(item[1]))
    lines = [f"Accuracy, one crop: {most}" + "".join(f"; {', '.join(of)}: {source}" for source, of in others),
             "Multiply-adds and parameters: counted by fastconv, without auxiliary heads"]
    if machine:
        lines.append(f"Times for one image: measured with fastconv on {machine}")
    return "\n".join(lines)
