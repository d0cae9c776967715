"""Pictures of a training."""

from .extras import require
from .files import atomic_write

_PANELS = (("loss", "loss", "test_loss", 1), ("accuracy (%)", "accuracy", "test_accuracy", 100))


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
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
