"""Profiles as files for programs: JSON, CSV, and the Trace Event Format of Chrome."""

import csv
import io
import json
import os

from .. import info
from ..files import atomic_write

FORMAT = 1  # of the JSON; another number where a key changes its meaning or goes

_COLUMNS = ("run", "layer", "op", "shapes", "layout", "algorithm", "threads", "isa", "calls", "best_seconds",
            "median_seconds", "total_seconds", "share", "flops", "bytes", "gflops_per_second",
            "gbytes_per_second", "intensity", "bound", "of_roof", "advice")


def machine():
    """Facts of the machine and of this fastconv, as fastconv.info has them."""
    return info()


def row_of(row):
    """A row as a dict of what JSON knows."""
    return {
        "layer": row.layer, "op": row.op, "shapes": row.shapes, "layout": row.layout,
        "algorithm": row.algorithm, "threads": row.threads, "isa": row.isa, "calls": row.calls,
        "best_seconds": row.best, "median_seconds": row.median, "total_seconds": row.total,
        "share": row.share, "flops": row.flops, "bytes": row.bytes,
        "gflops_per_second": 1e-9 * row.flops_per_second, "gbytes_per_second": 1e-9 * row.bytes_per_second,
        "intensity": row.intensity, "bound": row.bound, "of_roof": row.of_roof, "phases": row.phases,
        "phase_shares": row.phase_shares(), "counters": row.counters, "alternatives": row.alternatives,
        "naive_seconds": row.naive, "peers": row.peers, "advice": row.advice,
    }


def _record_of(record):
    return {name: getattr(record, name) for name in (
        "op", "layer", "shapes", "layout", "algorithm", "threads", "isa", "start", "seconds", "thread",
        "flops", "bytes", "phases", "counters")}


def run_of(profile):
    """A profile as a dict."""
    peaks = profile.peaks
    return {
        "title": profile.title,
        "peaks": {"threads": peaks.threads, "isa": peaks.isa, "flops_per_second": peaks.flops,
                  "bytes_per_second": peaks.bandwidth},
        "laps_seconds": profile.laps, "kernel_seconds": profile.kernel_seconds,
        "counters_note": profile.counters_note,
        "rows": [row_of(row) for row in profile.rows],
        "records": [_record_of(record) for record in profile.records],
    }


def json_text(profiles, path=None):
    """{"format", "machine", "runs": [{"title", "peaks", "rows", "records", ...}]}; times in seconds."""
    document = {"format": FORMAT, "machine": machine(), "runs": [run_of(one) for one in profiles]}
    return written(json.dumps(document, indent=1), path)


def csv_text(profiles, path=None):
    """A line for each row, after one of names; times in seconds. Further columns: compared algorithms,
    libraries and naive NumPy, phases and counters, where there are any."""
    lines = [{"run": profile.title, **_flat(row_of(row))} for profile in profiles for row in profile.rows]
    further = sorted({name for line in lines for name in line if name not in _COLUMNS})
    text = io.StringIO()
    writer = csv.DictWriter(text, (*_COLUMNS, *further), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return written(text.getvalue(), path)


def _flat(row):
    line = {name: value for name, value in row.items() if not isinstance(value, dict) and value is not None}
    for key, form in (("phase_shares", "phase_{}_share"), ("counters", "{}"),
                      ("alternatives", "{}_seconds"), ("peers", "{}_seconds")):
        line |= {form.format(name): value for name, value in row[key].items()}
    return line


def chrome_trace(profiles, path=None):
    """Complete events, one for each call; runs are processes, threads of Python are threads."""
    events = []
    for number, profile in enumerate(profiles):
        events.append({"ph": "M", "pid": number, "name": "process_name",
                       "args": {"name": profile.title or "fastconv"}})
        threads = {}
        for record in profile.records:
            thread = threads.setdefault(record.thread, len(threads))
            events.append({
                "ph": "X", "pid": number, "tid": thread, "name": record.layer or record.op,
                "cat": record.op, "ts": 1e6 * record.start, "dur": 1e6 * record.seconds,
                "args": {"op": record.op, "shapes": record.shapes, "layout": record.layout,
                         "algorithm": record.algorithm, "threads": record.threads,
                         "gflops_per_second": 1e-9 * record.flops / record.seconds, **record.counters}})
    return written(json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}), path)


def written(text, path):
    """The text, after it was written to `path` unless that is None."""
    if path is not None:
        with atomic_write(os.fspath(path)) as file:
            file.write(text.encode())
    return text
