"""What a training shows while it runs: a table with a row per epoch, and on a terminal a bar below it."""

import shutil
import sys
import time

from .extras import require

_REDRAW_SECONDS = 0.1
_BAR = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}"

_COLUMNS = (  # head, key of the epoch's row, width, format
    ("epoch", "epoch", 5, "d"), ("lr", "lr", 8, ".5f"), ("loss", "loss", 8, ".4f"),
    ("accuracy", "accuracy", 8, ".2%"), ("test loss", "test_loss", 9, ".4f"),
    ("test acc.", "test_accuracy", 9, ".2%"), ("seconds", "seconds", 8, ".2f"),
    ("images/s", "images_per_second", 9, ",.0f"))


def table_row(row=None):
    """A line of the table of epochs: the heads, or the figures of `row`, an entry of the history."""
    cells = []
    for head, key, width, form in _COLUMNS:
        text = head if row is None else "-" if row[key] is None else format(row[key], form)
        cells.append(text.rjust(width))
    return "  ".join(cells)


class Progress:
    """The display of a training of `epochs` times `batches` steps; shows nothing where `enabled` is False.

    The table goes to standard output, the bar to standard error and only to a terminal.
    Raises ImportError without tqdm.
    """

    def __init__(self, epochs, batches, enabled=True):
        self.epochs, self.batches, self.enabled = epochs, batches, enabled
        self._tqdm = require("tqdm").tqdm if enabled else None
        self._bar = None
        self._next_redraw = 0.0

    def start(self, history, epoch, batch):
        """Shows the rows of a resumed `history`, and the bar at (epoch, batch), both counted from 0."""
        if not self.enabled:
            return
        print(table_row())
        for row in history:
            print(table_row(row))
        sys.stdout.flush()
        # disable=None: no bar where standard error is not a terminal. tqdm would take one of unknown size as
        # 0 x 0 and show nothing.
        columns, lines = shutil.get_terminal_size()
        self._bar = self._tqdm(total=self.epochs * self.batches, initial=epoch * self.batches + batch,
                               leave=False, disable=None, ncols=columns, nrows=lines, bar_format=_BAR)

    def step(self, epoch, totals):
        """A batch of epoch `epoch` is done; `totals` are the sums over the epoch so far, see train."""
        if self._bar is None or self._bar.disable:
            return
        now = time.perf_counter()
        if now < self._next_redraw:
            return
        self._next_redraw = now + _REDRAW_SECONDS
        self._bar.set_description_str(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
        self._bar.set_postfix_str(f"loss {totals.loss / totals.images:.4f}, "
                                  f"accuracy {totals.correct / totals.images:.2%}, "
                                  f"{totals.images / totals.seconds:,.0f} images/s", refresh=False)
        self._bar.update(epoch * self.batches + totals.batches - self._bar.n)

    def end_epoch(self, row):
        """Adds the row of a finished epoch to the table."""
        if self.enabled:
            self._bar.write(table_row(row), file=sys.stdout)
            sys.stdout.flush()

    def close(self):
        """Takes the bar away; the table stays."""
        if self._bar is not None:
            self._bar.close()
