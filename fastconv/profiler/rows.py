"""Calls of the same kernel for the same layer and shapes, together: the rows of every table."""

import statistics
from dataclasses import dataclass, field

from .operations import Convolution


@dataclass
class Row:
    """Some calls. seconds: of each; share: of the time of all rows; phases and counters: means of a call.

    alternatives, naive, peers: seconds of the same problem by other algorithms, by the reference in NumPy and
    by other libraries, where they were measured (see profiler.compare). advice: one line, or "".
    """

    op: str
    layer: str
    shapes: str
    layout: str
    algorithm: str
    threads: int
    isa: str
    flops: int
    bytes: int
    seconds: list = field(repr=False)
    phases: dict
    counters: dict
    convolution: Convolution | None
    share: float = 0.0
    peaks: object = None
    alternatives: dict = field(default_factory=dict)
    naive: float | None = None
    peers: dict = field(default_factory=dict)
    advice: str = ""

    @property
    def name(self):
        """The layer, and the kernel where it is not the layer's forward."""
        return self.layer or self.op

    @property
    def calls(self):
        return len(self.seconds)

    @property
    def total(self):
        return sum(self.seconds)

    @property
    def best(self):
        return min(self.seconds)

    @property
    def median(self):
        return statistics.median(self.seconds)

    @property
    def flops_per_second(self):
        """Of the fastest call."""
        return self.flops / self.best

    @property
    def bytes_per_second(self):
        return self.bytes / self.best

    @property
    def intensity(self):
        """Operations for each byte that must move."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def of_roof(self):
        """Share of the roofline at this intensity that the fastest call reaches.

        Above 1 where Winograd's algorithm takes fewer products than are counted, or the arrays lie in caches.
        """
        if not self.flops:
            return self.bytes_per_second / self.peaks.bandwidth
        return self.flops_per_second / self.peaks.roof(self.intensity)

    @property
    def bound(self):
        """What bounds the roofline here: "memory" or "compute"."""
        return "compute" if self.intensity * self.peaks.bandwidth > self.peaks.flops else "memory"

    def phase_shares(self):
        """{phase: share of the time of all threads}, and of what is in no phase as "other"."""
        spent = self.total / self.calls * self.threads
        shares = {name: seconds / spent for name, seconds in self.phases.items()}
        if shares:
            shares["other"] = max(0.0, 1 - sum(shares.values()))
        return shares


def _key(record):
    return (record.layer, record.op, record.shapes, record.layout, record.algorithm, record.threads,
            record.isa, record.convolution)


def group(records, peaks):
    """The Rows of some records, in the order of the first call of each; peaks: of their thread counts."""
    groups = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    rows = [_row(calls, peaks) for calls in groups.values()]
    total = sum(row.total for row in rows)
    for row in rows:
        row.share = row.total / total
    return rows


def _row(calls, peaks):
    first = calls[0]
    return Row(first.op, first.layer, first.shapes, first.layout, first.algorithm, first.threads, first.isa,
               first.flops, first.bytes, [call.seconds for call in calls],
               _means([call.phases for call in calls]), _means([call.counters for call in calls]),
               first.convolution, peaks=peaks)


def _means(counts):
    """{name: mean} of dicts of numbers, in which what is not there counts as 0."""
    names = dict.fromkeys(name for one in counts for name in one)
    return {name: sum(one.get(name, 0) for one in counts) / len(counts) for name in names}


def last_lap(records, most=2000):
    """The records from the last call like the first one on, the last turn of a loop; at most `most`."""
    if not records:
        return []
    keys = [_key(record) for record in records]
    start = len(keys) - 1 - keys[::-1].index(keys[0])
    if len(records) - start < 2:
        start = 0
    return records[start:][-most:]
