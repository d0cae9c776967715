"""The pictures of the page as inline SVG: the roofline and the timeline.

Colours are classes of page._STYLE, so that they follow its light or dark scheme.
"""

import math
from html import escape

from .labels import place, short
from .picture import kind, plotted
from .rows import last_lap
from .terminal import SHORT, label, milliseconds, percent

# What the bars of the timeline are coloured by; the first two are algorithms of convolutions.
FAMILIES = {
    "winograd": (),
    "direct": (),
    "linear, recurrent": ("linear", "linear_backward_input", "linear_backward_weight", "sum_rows",
                          "recurrent", "recurrent_backward"),
    "pooling": ("max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward"),
    "normalisation": ("batch_norm", "batch_norm_backward", "local_response_norm",
                      "local_response_norm_backward"),
    "activation, sum, join": ("activation", "activation_backward", "add", "concat", "copy", "softmax",
                              "sum_channels"),
    "optimiser": ("sgd_step", "adam_step", "square_sum"),
    "other": (),
}
_FAMILY_OF = {op: name for name, ops in FAMILIES.items() for op in ops}
MARKS = {"winograd": 0, "direct": 1, "other kernels": 2}
_LABELS = 6
_LANE, _GAP = 34, 8  # height of a thread's bars in the timeline, and between two threads


def family(record):
    """The family that a record belongs to."""
    return record.algorithm if record.algorithm in FAMILIES else _FAMILY_OF.get(record.op, "other")


def _decades(low, high):
    return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _number(value):
    return f"{value:g}"


class _Plane:
    """A logarithmic plane of `width` x `height` pixels, with room for text around it."""

    left, right, top, bottom = 46, 16, 14, 40

    def __init__(self, width, height, x_span, y_span):
        self.width, self.height = width, height
        self.x_span, self.y_span = x_span, y_span

    def x(self, value):
        low, high = map(math.log, self.x_span)
        return self.left + (math.log(value) - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value):
        low, high = map(math.log, self.y_span)
        return (self.height - self.bottom
                - (math.log(value) - low) / (high - low) * (self.height - self.top - self.bottom))

    def axes(self):
        floor, ceiling = self.height - self.bottom, self.top
        for value in _decades(*self.x_span):
            yield f'<path class="grid" d="M{self.x(value):.1f} {floor}V{ceiling}"/>'
            yield f'<text class="tick" x="{self.x(value):.1f}" y="{floor + 15}" text-anchor="middle">' \
                  f'{_number(value)}</text>'
        for value in _decades(*self.y_span):
            yield f'<path class="grid" d="M{self.left} {self.y(value):.1f}H{self.width - self.right}"/>'
            yield f'<text class="tick" x="{self.left - 6}" y="{self.y(value) + 4:.1f}" text-anchor="end">' \
                  f'{_number(value)}</text>'
        middle = (self.left + self.width - self.right) / 2
        yield f'<text class="label" x="{middle:.0f}" y="{self.height - 6}" text-anchor="middle">' \
              "operations for each byte that must move</text>"


def roofline(profile, width, height):
    """Flops a second by operations a byte; marks as large as the row's share of the time."""
    rows, peaks = plotted(profile.rows), profile.peaks
    knee = peaks.flops / peaks.bandwidth
    intensities = [*(row.intensity for row in rows), knee]
    rates = [1e-9 * row.flops_per_second for row in rows] or [1e-9 * peaks.flops]
    plane = _Plane(width, height, (min(intensities) / 2.5, max(intensities) * 2.5),
                   (min(rates) / 2, 2.2 * max(*rates, 1e-9 * peaks.flops)))
    parts = list(plane.axes())
    ends = plane.x_span[0], knee, plane.x_span[1]
    low = max(ends[0], plane.y_span[0] * 1e9 / peaks.bandwidth)
    points = " ".join(f"{plane.x(i):.1f},{plane.y(1e-9 * peaks.roof(i)):.1f}" for i in (low, *ends[1:]))
    parts.append(f'<polyline class="roof" points="{points}"/>')
    top, end = plane.y(1e-9 * peaks.flops), width - plane.right
    slope = [(low * (knee / low) ** (part / 20)) for part in range(21)]
    text = f"{1e-9 * peaks.flops:.0f} GFLOP/s"
    at = (plane.x(knee) - 8, top + 4) if plane.x(knee) > plane.left + 100 else (end, top - 6)
    beside = at[0] - 90, at[1] - 12, at[0], at[1] + 2
    taken = [(plane.x(knee), top - 3, end, top + 3), beside,
             *((plane.x(i) - 4, plane.y(1e-9 * peaks.roof(i)) - 4, plane.x(i) + 4,
                plane.y(1e-9 * peaks.roof(i)) + 4) for i in slope)]
    parts.append(f'<text class="label" x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="end">{text}</text>')
    marks = []
    for row in sorted(rows, key=lambda row: -row.total):  # the small ones on top
        x, y = plane.x(row.intensity), plane.y(1e-9 * row.flops_per_second)
        tip = (f"{row.name}, {SHORT.get(row.op, row.op)}: {1e-9 * row.flops_per_second:.0f} GFLOP/s, "
               f"{row.intensity:.1f} operations a byte, {percent(row.of_roof)} of the roof, "
               f"{percent(row.share)} of the time")
        marks.append((short(label(row)), x, y, 3 + 16 * math.sqrt(row.share)))
        parts.append(f'<circle class="mark m{MARKS[kind(row)]}" cx="{x:.1f}" cy="{y:.1f}" '
                     f'r="{marks[-1][3]:.1f}" data-tip="{escape(tip)}"><title>{escape(tip)}</title></circle>')
    bounds = plane.left, plane.top, width - 2, height - plane.bottom
    parts += (f'<text class="name" x="{left:.1f}" y="{base:.1f}">{escape(name)}</text>'
              for name, left, base in place(marks, bounds, taken, _LABELS, (6.6, 11)))
    return (f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="roofline">'
            f'<text class="label" x="{plane.left}" y="10">GFLOP/s</text>{"".join(parts)}</svg>')


def timeline(profile):
    """(SVG, seconds, [(number, family)] seen) of the last turn: a lane for each thread of Python."""
    records = last_lap(profile.records)
    if not records:
        return "", 0.0, []
    begin = min(record.start for record in records)
    span = max(record.start + record.seconds for record in records) - begin or 1e-9
    lanes, parts, seen = {}, [], set()
    for record in records:
        lane = lanes.setdefault(record.thread, len(lanes))
        number = list(FAMILIES).index(family(record))
        seen.add(number)
        tip = (f"{record.layer or record.op}, {SHORT.get(record.op, record.op)}: "
               f"{milliseconds(record.seconds)} ms at {milliseconds(record.start - begin)} ms")
        parts.append(f'<rect class="f{number}" x="{1000 * (record.start - begin) / span:.2f}" '
                     f'y="{lane * (_LANE + _GAP)}" width="{max(0.3, 1000 * record.seconds / span):.2f}" '
                     f'height="{_LANE}" data-tip="{escape(tip)}"><title>{escape(tip)}</title></rect>')
    height = len(lanes) * (_LANE + _GAP) - _GAP
    return (f'<svg class="bars" viewBox="0 0 1000 {height}" preserveAspectRatio="none" '
            f'style="height:{height}px" role="img" aria-label="timeline">{"".join(parts)}</svg>',
            span, [(number, list(FAMILIES)[number]) for number in sorted(seen)])
