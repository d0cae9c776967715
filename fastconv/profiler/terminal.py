"""The table of a profile for a terminal: plain text that fits its width, or in colours by rich."""

import shutil
from importlib.util import find_spec
from typing import NamedTuple

from .. import info
from ..summary import table as text_table

SHORT = {"conv2d_backward_input": "conv2d dx", "conv2d_backward_weight": "conv2d dw",
         "linear_backward_input": "linear dx", "linear_backward_weight": "linear dw",
         "sum_channels": "conv2d db", "sum_rows": "linear db", "activation_backward": "activation dx",
         "batch_norm_backward": "batch_norm dx", "max_pool2d_backward": "max_pool2d dx",
         "avg_pool2d_backward": "avg_pool2d dx", "recurrent_backward": "recurrent dx",
         "local_response_norm_backward": "lrn dx", "local_response_norm": "lrn"}
_LEAST_NAME = 12


class _Column(NamedTuple):
    """priority: the higher, the sooner it is left out."""

    head: str
    priority: int
    cell: object
    right: bool = True


def milliseconds(seconds):
    return f"{1e3 * seconds:.3f}" if seconds < 0.1 else f"{1e3 * seconds:.1f}"


def percent(share):
    return f"{100 * share:.0f} %" if share >= 0.0995 else f"{100 * share:.1f} %"


def label(row):
    """The layer, and dx, dw or db where the row is a gradient."""
    kernel = SHORT.get(row.op, row.op)
    return " ".join([row.layer, *kernel.split()[1:]]) if row.layer else kernel


def phases_of(row, most=3):
    """"multiply 71 %, transform 18 %": the largest phases."""
    shares = sorted(row.phase_shares().items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares[:most] if share >= 0.01)


def _columns(rows):
    columns = [
        _Column("layer", 0, lambda row: row.layer, False),
        _Column("kernel", 3, lambda row: SHORT.get(row.op, row.op), False),
        _Column("shapes", 10, lambda row: row.shapes, False),
        _Column("layout", 12, lambda row: row.layout, False),
        _Column("algorithm", 5, lambda row: row.algorithm, False),
        _Column("calls", 9, lambda row: str(row.calls)),
        _Column("best ms", 0, lambda row: milliseconds(row.best)),
        _Column("median", 7, lambda row: milliseconds(row.median)),
        _Column("share", 1, lambda row: percent(row.share)),
        _Column("GFLOP/s", 1, lambda row: f"{1e-9 * row.flops_per_second:.0f}"),
        _Column("GB/s", 8, lambda row: f"{1e-9 * row.bytes_per_second:.1f}"),
        _Column("FLOP/B", 9, lambda row: f"{row.intensity:.1f}"),
        _Column("of roof", 1, lambda row: percent(row.of_roof)),
    ]
    for kind in ("alternatives", "peers"):
        for name in dict.fromkeys(name for row in rows for name in getattr(row, kind)):
            columns.append(_Column(name, 0, lambda row, kind=kind, name=name: (
                milliseconds(getattr(row, kind)[name]) if name in getattr(row, kind) else "-")))
    if any(row.naive for row in rows):
        columns.append(_Column("naive", 0, lambda row: milliseconds(row.naive) if row.naive else "-"))
    if any(row.counters for row in rows):
        columns.append(_Column("instr/cycle", 4, _instructions_per_cycle))
    if any(row.phases for row in rows):
        columns.append(_Column("phases", 6, phases_of, False))
    return columns


def _instructions_per_cycle(row):
    cycles = row.counters.get("cycles")
    return f"{row.counters['instructions'] / cycles:.2f}" if cycles else "-"


def largest(rows, most):
    """(the `most` rows that took longest, in their order; the number of the others; their share)"""
    if most is None or len(rows) <= most:
        return rows, 0, 0.0
    kept = {id(row) for row in sorted(rows, key=lambda row: -row.total)[:most]}
    others = [row for row in rows if id(row) not in kept]
    return [row for row in rows if id(row) in kept], len(others), sum(row.share for row in others)


def _cells(rows, width):
    """(columns, lines of cells) of those columns that fit, the first one shortened if it must be."""
    columns = _columns(rows)
    lines = [[column.cell(row) for column in columns] for row in rows]
    widths = [max([len(column.head), *(len(line[i]) for line in lines)]) for i, column in enumerate(columns)]
    kept = list(range(len(columns)))
    least = min(widths[0], _LEAST_NAME)
    while len(kept) > 1 and least + sum(2 + widths[i] for i in kept[1:]) > width:
        worst = max(kept[1:], key=lambda i: (columns[i].priority, i))
        if columns[worst].priority == 0:
            break
        kept.remove(worst)
    room = max(least, width - sum(2 + widths[i] for i in kept[1:]))
    for line in lines:
        if len(line[0]) > room:
            line[0] = ".." + line[0][2 - room:]
    return [columns[i] for i in kept], [[line[i] for i in kept] for line in lines]


def head_lines(profile):
    """What was profiled, where, and what this machine can do."""
    facts, peaks = info(), profile.peaks
    return [*([profile.title] if profile.title else []),
            f"{facts['cpu']}, {peaks.isa}, {peaks.threads} thread{'s' if peaks.threads > 1 else ''}: "
            f"at most {1e-9 * peaks.flops:.0f} GFLOP/s of multiply-adds and "
            f"{1e-9 * peaks.bandwidth:.1f} GB/s copied, measured now"]


def end_lines(profile, others=0, share=0.0):
    """Totals, what was left out, and the advice."""
    lines = [f"and {others} more of together {percent(share)}"] if others else []
    flops = sum(row.flops * row.calls for row in profile.rows)
    kernels = profile.kernel_seconds
    if kernels:
        lines.append(f"all kernels: {milliseconds(kernels)} ms in {len(profile.records)} calls, "
                     f"{1e-9 * flops / kernels:.0f} GFLOP/s")
    if profile.laps:
        best, turns = min(profile.laps), len(profile.laps)
        outside = max(0.0, 1 - kernels / sum(profile.laps))
        lines.append(f"best of {turns} turns: {milliseconds(best)} ms, "
                     f"{percent(outside)} of the time outside kernels")
    if profile.counters_note:
        lines.append(profile.counters_note)
    advised = sorted((row for row in profile.rows if row.advice), key=lambda row: -row.total)
    lines += [f"{row.name} ({SHORT.get(row.op, row.op)}, {percent(row.share)}): {row.advice}"
              for row in advised[:8]]
    return lines


def table(profile, most=None, width=None):
    """See Profile.table."""
    rows, others, share = largest(profile.rows, most)
    if not rows:
        return "no kernel was called"
    width = width or shutil.get_terminal_size().columns
    columns, lines = _cells(rows, width)
    left = sum(not column.right for column in columns)
    order = sorted(range(len(columns)), key=lambda i: columns[i].right)  # text first, then numbers
    cells = [[columns[i].head for i in order], *([line[i] for i in order] for line in lines)]
    text = text_table(cells, numbers=len(columns) - left)
    return "\n".join([*head_lines(profile), "", text, "", *end_lines(profile, others, share)])


def show(profile, most, file):
    """Prints the table, by rich where that is installed and `file` is a terminal."""
    if not (file.isatty() and find_spec("rich")):
        print(table(profile, most), file=file, flush=True)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, highlight=False)
    rows, others, share = largest(profile.rows, most)
    columns, lines = _cells(rows, console.width - 2)
    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        drawn.add_column(column.head, justify="right" if column.right else "left", no_wrap=True)
    roof = next((i for i, column in enumerate(columns) if column.head == "of roof"), None)
    for row, line in zip(rows, lines, strict=True):
        cells = [Text(cell) for cell in line]
        if roof is not None and row.share >= 0.005:
            cells[roof].stylize("red" if row.of_roof < 0.4 else "yellow" if row.of_roof < 0.7 else "green")
        drawn.add_row(*cells)
    for text in (*head_lines(profile), ""):
        console.print(text, markup=False)
    console.print(drawn)
    for text in ("", *end_lines(profile, others, share)):
        console.print(text, markup=False)
