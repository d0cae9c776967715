"""Measurements, the tables that show them, and the JSON file that keeps them with the machine's facts."""

import json
import math
import os
import platform
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

import fastconv

from . import peers

NAME_WIDTH = 38
COLUMN_WIDTH = 10
SCALE = {"GFLOP/s": 1e-9, "GB/s": 1e-9, "ms": 1e3, "us": 1e6, "s": 1.0}


@dataclass
class Measurement:
    """One row: the fastest call of every contender, and what follows from it.

    `ratios` says how many times as fast we were as the best of some contenders; `work` is the flops or the
    bytes of a call where the table shows rates; `limit` the flops or bytes a second the machine reaches;
    `mid_size` marks the rows whose share of the limit is summed up.
    """

    name: str
    seconds: dict[str, float]
    ratios: dict[str, float]
    work: float | None = None
    limit: float | None = None
    mid_size: bool = False

    def value(self, contender):
        """In the table's unit without its scale: work a second, or seconds."""
        seconds = self.seconds[contender]
        return self.work / seconds if self.work else seconds

    def share(self, contender):
        """Of what the machine reaches."""
        return self.work / self.seconds[contender] / self.limit


@dataclass
class Table:
    """Rows as they are measured; `unit` is a key of SCALE, `ours` is shown as a share of the limit too."""

    title: str
    unit: str
    rows: Iterator[Measurement]
    ours: str | None = None


def ratios(seconds, comparisons):
    """{label: best of the others' seconds / ours} for comparisons = {label: (ours, others)}.

    A comparison is left out where none of its others was measured.
    """
    result = {}
    for label, (ours, others) in comparisons.items():
        measured = [seconds[other] for other in others if other in seconds]
        if measured:
            result[label] = min(measured) / seconds[ours]
    return result


def summary(rows):
    """{label: geometric mean, worst ratio and its row} over all rows that have the ratio."""
    result = {}
    for label in dict.fromkeys(label for row in rows for label in row.ratios):
        found = [(row.ratios[label], row.name) for row in rows if label in row.ratios]
        mean = math.exp(sum(math.log(ratio) for ratio, _ in found) / len(found))
        worst, name = min(found)
        result[label] = {"geometric_mean": mean, "worst": worst, "worst_row": name, "rows": len(found)}
    return result


def _print_line(name, cells):
    columns = "".join(f"{cell:>{COLUMN_WIDTH}}" for cell in cells)
    print(f"{name:<{NAME_WIDTH}.{NAME_WIDTH}}{columns}", flush=True)


def _print_head(labels):
    wrapped = [textwrap.wrap(label, COLUMN_WIDTH - 1) for label in labels]
    height = max(map(len, wrapped))
    for line in range(height):
        _print_line("", [words[line - height] if line >= height - len(words) else "" for words in wrapped])


def _number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def show(table):
    """Prints a table row by row as it is measured, then its means; returns it for the JSON file."""
    print(f"\n{table.title}, {table.unit}")
    rows = []
    for row in table.rows:
        limited = ["limit", f"{table.ours}, % of limit"] if row.limit else []
        if not rows:
            _print_head([*row.seconds, *limited, *row.ratios])
        values = [_number(row.value(contender) * SCALE[table.unit]) for contender in row.seconds]
        if limited:
            values += [_number(row.limit * SCALE[table.unit]), f"{100 * row.share(table.ours):.0f}"]
        _print_line(row.name, values + [f"{ratio:.2f}" for ratio in row.ratios.values()])
        rows.append(row)
    result = {"title": table.title, "unit": table.unit, "rows": [vars(row) for row in rows],
              "summary": summary(rows)}
    for label, mean in result["summary"].items():
        if mean["rows"] > 1:
            print(f"    {label}: geometric mean {mean['geometric_mean']:.2f}, "
                  f"worst {mean['worst']:.2f} ({mean['worst_row']}), {mean['rows']} rows")
    if mid_size := [(row.share(table.ours), row.name) for row in rows if row.mid_size]:
        least, name = min(mid_size)
        result["mid_size"] = {"least_share": least, "row": name, "rows": len(mid_size)}
        print(f"    {table.ours}, mid-size: at least {100 * least:.1f} % of the limit ({name}), "
              f"{len(mid_size)} rows")
    return result


def machine(threads, peak):
    """What the figures depend on besides the code."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "threads": threads,
            "processors": os.cpu_count(), "system": platform.platform(),
            "python": platform.python_version(), "numpy": np.__version__, "peers": peers.versions(),
            "fastconv": fastconv.info(), "peak": peak.name}


def write(path, document):
    """Replaces the file in one step, so that a run cut short leaves the tables measured so far."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
