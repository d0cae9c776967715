"""python -m bench: see bench/README.md."""

import argparse
import os
import sys
from pathlib import Path

from . import NETWORKS, PASSES, PREPARED
from .workers import Team, installed

SUITES = ("conv", "choice", "inference", "onnx", "training", "memory", "threads", "sizes",
          "pool", "norm", "activation", "overhead", "lenet", "import", "torch")
IN_WORKERS = ("conv", "inference", "onnx", "training", "sizes")


def _arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m bench", description="Times fastconv against its peers.")
    parser.add_argument("suite", nargs="?", default="all", choices=(*SUITES, "all"))
    parser.add_argument("--network", dest="networks", type=lambda text: text.split(","), metavar="LIST",
                        default=",".join(NETWORKS),
                        help="conv, choice, inference, onnx, training: of %(default)s")
    parser.add_argument("--batch", type=int, default=16,
                        help="conv, choice: images in a batch, of VGG at most 4 (default %(default)s)")
    parser.add_argument("--layers", default="", metavar="SUBSTRING",
                        help='conv, choice: layers with this in their name, as "3x3 64->64"')
    parser.add_argument("--peers", type=lambda text: text.split(","), metavar="LIST",
                        default=",".join(installed()), help="libraries in processes of their own (default: "
                        "those installed, %(default)s)")
    parser.add_argument("--pass", dest="passes", default=",".join(PASSES),
                        metavar="LIST",
                        help=f"conv, choice: which of %(default)s; conv: {PREPARED} as well")
    parser.add_argument("--threads", type=int, default=2, help="for every contender (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0,
                        help="spent on every contender of every row (default %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="lenet: the folder with the MNIST files")
    parser.add_argument("--wheel", type=Path, help="a wheel whose size is reported")
    parser.add_argument("--output", type=Path, metavar="FILE.json",
                        help="writes the figures here, and beside it FILE.md and pictures")
    options = parser.parse_args(argv)
    options.passes = options.passes.split(",")
    if unknown := set(options.passes) - {*PASSES, PREPARED}:
        parser.error(f"argument --pass: unknown pass {', '.join(sorted(unknown))}")
    if unknown := set(options.networks) - set(NETWORKS):
        parser.error(f"argument --network: unknown network {', '.join(sorted(unknown))}")
    if unknown := set(options.peers) - set(installed()):
        parser.error(f"argument --peers: not installed: {', '.join(sorted(unknown))}")
    for name in ("threads", "batch"):
        if getattr(options, name) < 1:
            parser.error(f"argument --{name}: must be at least 1, got {getattr(options, name)}")
    if options.wheel and not options.wheel.is_file():
        parser.error(f"argument --wheel: no such file: {options.wheel}")
    return options


def _layers(options):
    from .layers import conv_layers

    return [layer for layer in conv_layers(options.networks, options.batch)
            if options.layers.lower() in layer.name.lower()]


def _tables(suite, options, peak):
    """The tables of a suite; imports what it needs, for torch in this process takes memory and seconds."""
    from . import choice, convolution, networks

    if suite in IN_WORKERS:
        with Team(options.threads, options.peers) as team:
            if suite == "conv":
                yield from convolution.tables(_layers(options), options.passes, options.seconds, team, peak)
            elif suite == "inference":
                yield from networks.inference_tables(options.networks, options.seconds, team)
            elif suite == "onnx":
                yield from networks.onnx_tables(options.networks, options.seconds, team)
            elif suite == "training":
                yield from networks.training_tables(options.networks, options.seconds, team)
            else:
                yield from convolution.size_tables(options.seconds, team, peak)
    elif suite == "choice":
        passes = [name for name in options.passes if name != PREPARED]
        yield from choice.tables(_layers(options), passes, options.seconds, options.threads)
    elif suite == "memory":
        yield from networks.memory_tables(options.threads, options.peers)
    elif suite == "threads":
        yield from convolution.thread_tables(options.seconds, options.peers)
        yield from networks.thread_tables(options.seconds, options.peers)
    elif suite == "torch":
        if "torch" in options.peers:
            from . import torch_models

            yield from torch_models.tables(options.threads, options.seconds)
    elif suite == "import":
        from . import startup

        yield from startup.tables()
    else:
        yield from _tables_here(suite, options, peak)


def _tables_here(suite, options, peak):
    from . import lenet, memory_bound, overhead, peers

    with peers.settings(options.threads):
        if suite == "overhead":
            yield from overhead.tables(options.seconds)
        elif suite == "lenet":
            yield from lenet.tables(options.data_dir, options.seconds)
        else:
            yield from memory_bound.tables(suite, options.seconds, peak)


def main(argv=None):
    options = _arguments(argv)
    # NumPy's matrix product reads its thread count when NumPy is imported, which happens below.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    from . import plots, report
    from .peak import Peak

    peak = Peak(options.threads)
    document = {"machine": report.machine(options.threads, peak, options.peers),
                "seconds_per_contender": options.seconds, "tables": []}
    if options.wheel:
        document["wheel_bytes"] = options.wheel.stat().st_size
        print(f"{options.wheel.name}: {document['wheel_bytes'] / 1e6:.2f} MB")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
    for suite in SUITES if options.suite == "all" else (options.suite,):
        for table in _tables(suite, options, peak):
            document["tables"].append(report.show(table))
            if options.output:
                report.write(options.output, document)
    if options.output:
        plots.draw(document, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
