"""conv, threads, sizes: conv2d and its two gradients, on the convolutions of networks or on a sweep."""

import os

from .layers import ConvLayer
from .libraries import PASSES
from .peak import Peak
from .report import Measurement, Table, ratios
from .timing import best_of_turns, turn
from .workers import NUMPY, PEERS, TORCH, Team

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


def thread_tables(budget, libraries):
    """Three layers with 1, 2, 4, ... threads and all; every number of threads has processes of its own."""
    cores = len(os.sched_getaffinity(0))
    for threads in (*(1 << bit for bit in range((cores - 1).bit_length())), cores):
        with Team(threads, libraries) as team:
            peak = Peak(threads)
            for direction in PASSES:
                yield _table(f"conv2d {direction}, threads: {threads}", SCALED, direction, budget, team, peak)
