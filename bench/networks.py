"""inference, onnx, training, memory, threads: whole networks."""

import sys
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from .layers import LARGEST_BATCH
from .report import Measurement, Table, ratios
from .timing import best_of_turns
from .workers import LIBRARIES, PEERS, Team, thread_counts

INFERENCE_BATCHES = (1, 16)
TRAINING_BATCHES = {"lenet5": 128}  # of the others: 16
COMPARISONS = {
    "over best eager torch": ("fastconv NHWC", ("torch NHWC", "torch NCHW")),
    "over torch compiled": ("fastconv NHWC", ("torch compiled",)),
    "over best peer": ("fastconv NHWC", PEERS),
}
# Both libraries take the arrays that the file asks for, contiguous ones.
FROM_FILE_COMPARISONS = {
    "over onnxrt": ("fastconv NCHW", ("onnxrt",)),
    "over OpenVINO": ("fastconv NCHW", ("OpenVINO",)),
    "over best peer": ("fastconv NCHW", PEERS),
}
# Name, task and its arguments: what the suites memory and threads measure.
MEASURED = (("inference N1", "inference", "resnet50", 1, None),
            ("inference N16", "inference", "resnet50", 16, None),
            ("training step N16", "training", "resnet50", 16))
UNCOMPILED = ("fastconv NHWC", "torch NHWC", "torch NCHW")


@contextmanager
def exported(team, library, network, batch):
    """The path of the network as an ONNX file, which `library` writes, or None where it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, f"{network}.onnx"))
        try:
            if library in team.libraries:
                team.ask(library, "export", network, batch, path)
        except RuntimeError as error:
            print(f"bench: no ONNX file of {network} by {library}: {error}", file=sys.stderr)
        yield path if Path(path).exists() else None


def _row(network, batch, found, budget, team, comparisons=COMPARISONS):
    seconds = best_of_turns(team.turns(found), budget)
    return Measurement(f"{network} N{batch}", seconds, ratios(seconds, comparisons), work=batch)


def _inference_rows(networks, batch, budget, team):
    for network in networks:
        with exported(team, "fastconv", network, batch) as path:
            found = team.build("inference", network, batch, path)
            yield _row(network, batch, found, budget, team)


def _from_file_rows(networks, batch, budget, team):
    for network in networks:
        with exported(team, "torch", network, batch) as path:
            found = team.build("from_file", network, batch, path)
            yield _row(network, batch, found, budget, team, FROM_FILE_COMPARISONS)


def _training_rows(networks, budget, team):
    for network in networks:
        batch = TRAINING_BATCHES.get(network, min(16, LARGEST_BATCH.get(network, 16)))
        yield _row(network, batch, team.build("training", network, batch), budget, team)


def inference_tables(networks, budget, team):
    for batch in INFERENCE_BATCHES:
        yield Table(f"inference, N = {batch}", "images/s", _inference_rows(networks, batch, budget, team))


def onnx_tables(networks, budget, team):
    for batch in INFERENCE_BATCHES:
        yield Table(f"inference from torch's ONNX files, N = {batch}", "images/s",
                    _from_file_rows(networks, batch, budget, team))


def training_tables(networks, budget, team):
    yield Table("training step: forward, loss, backward, SGD with momentum", "images/s",
                _training_rows(networks, budget, team))


def _thread_rows(budget, libraries):
    for threads in thread_counts():
        with Team(threads, libraries) as team:
            for name, task, *arguments in MEASURED:
                found = team.build(task, *arguments, contenders=UNCOMPILED)
                row = _row(arguments[0], arguments[1], found, budget, team)
                yield replace(row, name=f"{name}, {threads}t")


def thread_tables(budget, libraries):
    """ResNet-50 by the number of threads, each of which has processes of its own."""
    yield Table("ResNet-50 by threads", "images/s", _thread_rows(budget, libraries))


def _peak_memory(threads, contender, task, *arguments):
    """Bytes that a fresh process held at most for two calls of the task."""
    library = next(name for name, contenders in LIBRARIES.items() if contender in contenders)
    with Team(threads, [library]) as team:
        if task and not team.build(task, *arguments, contenders=[contender]):
            return None
        if task:
            team.ask(library, "turn", contender, 0.0)
        return team.ask(library, "peak_memory")


def _memory_rows(threads, contenders):
    for name, *task in (("imported, nothing computed", None),
                        *((f"ResNet-50 {name}", *task) for name, *task in MEASURED)):
        found = {contender: _peak_memory(threads, contender, *task) for contender in contenders}
        found = {contender: peak for contender, peak in found.items() if peak}
        yield Measurement(name, found, ratios(found, {"torch over fastconv": (
            "fastconv NHWC", ("torch NHWC", "torch NCHW"))}))


def memory_tables(threads, libraries):
    contenders = [name for name in UNCOMPILED
                  if any(name in LIBRARIES[library] for library in libraries)]
    yield Table("peak resident memory of a fresh process", "MB", _memory_rows(threads, contenders))
