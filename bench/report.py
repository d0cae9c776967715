"""Measurements, the tables that show them, and the JSON file that keeps them with the machine's facts."""

import json
import math
import os
import platform
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import packages_distributions, version

import numpy as np

import fastconv

from .timing import best_seconds

NAME_WIDTH = 38
COLUMN_WIDTH = 10
SCALE = {"GFLOP/s": 1e-9, "GB/s": 1e-9, "images/s": 1.0, "ms": 1e3, "us": 1e6, "s": 1.0, "MB": 1e-6}


@dataclass
class Measurement:
    """One row: the fastest call of every contender (in a table of memory its bytes), and what follows.

    `ratios` says how many times as fast we were as the best of some contenders; `work` is the flops, bytes or
    images of a call where the table shows rates; `limit` the flops or bytes a second the machine reaches;
    `mid_size` marks the rows whose share of the limit is summed up; `traffic` is the least number of bytes
    moved, `used_by` says which networks have the layer, and how often.
    """

    name: str
    measured: dict[str, float]
    ratios: dict[str, float]
    work: float | None = None
    limit: float | None = None
    mid_size: bool = False
    traffic: int | None = None
    used_by: dict[str, int] = field(default_factory=dict)

    def value(self, contender):
        """In the table's unit without its scale: work a second, or seconds."""
        measured = self.measured[contender]
        return self.work / measured if self.work else measured

    def share(self, contender):
        """Of what the machine reaches."""
        return self.value(contender) / self.limit


@dataclass
class Table:
    """Rows as they are measured; `unit` is a key of SCALE, `ours` is shown as a share of the limit too.

    goal: of the ratios; how many rows reach it is counted.
    """

    title: str
    unit: str
    rows: Iterator[Measurement]
    ours: str | None = None
    goal: float | None = None


def ratios(measured, comparisons):
    """{label: best of the others / ours} for comparisons = {label: (ours, others)}.

    A comparison is left out where ours, or all of its others, were not measured.
    """
    result = {}
    for label, (ours, others) in comparisons.items():
        found = [measured[other] for other in others if other in measured]
        if found and ours in measured:
            result[label] = min(found) / measured[ours]
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


def _columns(rows, unit, ours):
    """(labels of the columns, function that gives the cells of a row) of a table."""
    contenders = dict.fromkeys(name for row in rows for name in row.measured)
    comparisons = dict.fromkeys(label for row in rows for label in row.ratios)
    limited = ["limit", f"{ours}, % of limit"] if any(row.limit for row in rows) else []

    def cells(row):
        result = [_number(row.value(name) * SCALE[unit]) if name in row.measured else ""
                  for name in contenders]
        if limited:
            result += [_number(row.limit * SCALE[unit]),
                       f"{100 * row.share(ours):.0f}" if ours in row.measured else ""]
        return result + [f"{row.ratios[label]:.2f}" if label in row.ratios else "" for label in comparisons]

    return [*contenders, *limited, *comparisons], cells


def show(table):
    """Prints a table row by row as it is measured, then its means; returns it for the JSON file."""
    print(f"\n{table.title}, {table.unit}")
    rows, labels = [], None
    for row in table.rows:
        rows.append(row)
        before, (labels, cells) = labels, _columns(rows, table.unit, table.ours)
        if labels != before:  # the first row, or one with a contender that those before it lack
            _print_head(labels)
        _print_line(row.name, cells(row))
    result = {"title": table.title, "unit": table.unit, "rows": [asdict(row) for row in rows],
              "summary": summary(rows)}
    if table.goal:
        result["goal"] = {"ratio": table.goal, "reached": {
            label: sum(row.ratios[label] >= table.goal for row in rows if label in row.ratios)
            for label in result["summary"]}}
    if mid_size := [(row.share(table.ours), row.name) for row in rows
                    if row.mid_size and table.ours in row.measured]:
        least, name = min(mid_size)
        result["mid_size"] = {"least_share": least, "row": name, "rows": len(mid_size)}
    if rows:
        labels, cells = _columns(rows, table.unit, table.ours)
        result["cells"] = [["", *labels], *([row.name, *cells(row)] for row in rows)]
    for line in means(result, table.ours):
        print(f"    {line}")
    return result


def means(table, ours):
    """The lines below a table of the JSON file."""
    lines = [f"{label}: geometric mean {mean['geometric_mean']:.2f}, "
             f"worst {mean['worst']:.2f} ({mean['worst_row']}), {mean['rows']} rows"
             for label, mean in table["summary"].items() if mean["rows"] > 1]
    if goal := table.get("goal"):
        lines += [f"{label}: at least {goal['ratio']} in {reached} of {table['summary'][label]['rows']} rows"
                  for label, reached in goal["reached"].items()]
    if mid_size := table.get("mid_size"):
        lines.append(f"{ours}, mid-size: at least {100 * mid_size['least_share']:.1f} % of the limit "
                     f"({mid_size['row']}), {mid_size['rows']} rows")
    return lines


def _markdown(document):
    machine = document["machine"]
    facts = machine["fastconv"]
    lines = ["# Benchmark", "",
             f"{machine['date'][:10]}, {facts['cpu']}, {facts['isa']}, {machine['threads']} threads; "
             + ", ".join(f"{name} {version}" for name, version in machine["peers"].items())
             + f"; {document['seconds_per_contender']:g} s a contender. Rates: more is better. "
               "Ratios: above 1, fastconv is better."]
    for table in document["tables"]:
        if not table["rows"]:
            continue
        head, *rows = table["cells"]
        lines += ["", f"## {table['title']}, {table['unit']}", "",
                  "| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", *(f"- {line}" for line in means(table, "fastconv NHWC"))]
    return "\n".join(lines).rstrip() + "\n"


def _bandwidth(peak):
    """Bytes a second that a copy of 200 MB reads and writes."""
    copy, copied = peak.copy(np.ones(50_000_000, np.float32))
    return copied / best_seconds({"copy": copy}, 0.5)["copy"]


def machine(threads, peak, libraries):
    """What the figures depend on besides the code."""
    packages = packages_distributions()  # tensorflow may come from tensorflow-cpu
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "threads": threads,
            "processors": os.cpu_count(), "system": platform.platform(),
            "python": platform.python_version(), "numpy": np.__version__,
            "peers": {name: version(packages[name][0]) for name in libraries
                      if name not in ("fastconv", "numpy")},
            "fastconv": fastconv.info(), "peak": peak.name,
            "copy_bytes_per_second": _bandwidth(peak)}


def write(path, document):
    """Writes FILE.json and the same tables as FILE.md; a run cut short leaves those measured so far."""
    for file, text in ((path, json.dumps(document, indent=1) + "\n"),
                       (path.with_suffix(".md"), _markdown(document))):
        part = file.with_name(file.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(file)
