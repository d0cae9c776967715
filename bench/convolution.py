"""conv, threads, sizes: conv2d and its two gradients, on the convolutions of networks or on a sweep."""

from dataclasses import replace

from . import PASSES
from .layers import ConvLayer
from .peak import Peak
from .report import Measurement, Table, ratios
from .timing import best_of_turns, turn
from .workers import NUMPY, PEERS, TORCH, Team, thread_counts

COMPARISONS = {
    "over best torch": ("fastconv NHWC", TORCH),
    "over best peer": ("fastconv NHWC", PEERS),
    "NCHW over torch NCHW": ("fastconv NCHW", ("torch NCHW",)),
    "over best NumPy": ("fastconv NHWC", NUMPY),
}
SWEPT = ConvLayer(16, 64, 56, 64, 3, padding=1)
BATCHES = (1, 2, 4, 8, 16, 32)
CHANNELS = (3, 8, 16, 32, 64, 128, 256)
SCALED = (SWEPT, ConvLayer(16, 256, 14, 1024, 1), ConvLayer(1, 256, 14, 256, 3, padding=1))


def _rows(layers, direction, budget, team, peak):
    for layer in layers:
        turns = team.turns(team.build("convolution", layer, direction))
        seconds = best_of_turns({**turns, "peak": lambda left: turn(peak.call, left)}, budget)
        limit = peak.flops / seconds.pop("peak")
        yield Measurement(layer.name, seconds, ratios(seconds, COMPARISONS), layer.flops, limit,
                          layer.mid_size, layer.traffic, layer.used_by)


def _table(title, layers, direction, budget, team, peak):
    return Table(title, "GFLOP/s", _rows(layers, direction, budget, team, peak), ours="fastconv NHWC")


def tables(layers, passes, budget, team, peak):
    """A table for each of `passes`."""
    for direction in passes:
        yield _table(f"conv2d {direction}", layers, direction, budget, team, peak)


def size_tables(budget, team, peak):
    """The cost against the batch size and against the number of channels, forward."""
    batches = [ConvLayer(batch, 64, 56, 64, 3, padding=1) for batch in BATCHES]
    channels = [ConvLayer(4, count, 56, count, 3, padding=1) for count in CHANNELS]
    yield _table("conv2d forward by batch size", batches, PASSES[0], budget, team, peak)
    yield _table("conv2d forward by channels", channels, PASSES[0], budget, team, peak)


def _thread_rows(direction, budget, libraries):
    for threads in thread_counts():
        with Team(threads, libraries) as team:
            for row in _rows(SCALED, direction, budget, team, Peak(threads)):
                yield replace(row, name=f"{row.name}, {threads}t", traffic=None)


def thread_tables(budget, libraries):
    """Three layers by the number of threads, each of which has processes of its own."""
    for direction in PASSES:
        rows = _thread_rows(direction, budget, libraries)
        yield Table(f"conv2d {direction} by threads", "GFLOP/s", rows, ours="fastconv NHWC")
