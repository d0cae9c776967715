"""python -m bench: see bench/README.md."""

import argparse
import os
import sys
from pathlib import Path

SUITES = ("conv", "pool", "norm", "activation", "overhead", "lenet", "import")


def _arguments(argv):
    parser = argparse.ArgumentParser(prog="python -m bench", description="Times fastconv against its peers.")
    parser.add_argument("suite", nargs="?", default="all", choices=(*SUITES, "all"))
    parser.add_argument("--layers", default="", metavar="SUBSTRING",
                        help="conv: layers with this in their name")
    parser.add_argument("--pass", dest="passes", default="forward,backward_input,backward_weight",
                        metavar="LIST", help="conv: which of %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="for every contender (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0,
                        help="spent on every contender of every row (default %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="lenet: the folder with the MNIST files")
    parser.add_argument("--wheel", type=Path, help="a wheel whose size is reported")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="writes the figures here as well")
    options = parser.parse_args(argv)
    options.passes = options.passes.split(",")
    if unknown := set(options.passes) - {"forward", "backward_input", "backward_weight"}:
        parser.error(f"argument --pass: unknown pass {', '.join(sorted(unknown))}")
    if options.threads < 1:
        parser.error(f"argument --threads: must be at least 1, got {options.threads}")
    if options.wheel and not options.wheel.is_file():
        parser.error(f"argument --wheel: no such file: {options.wheel}")
    return options


def _tables(suite, options, peak):
    from . import convolution, lenet, memory_bound, overhead, startup

    if suite == "conv":
        return convolution.tables(options.passes, options.layers, options.seconds, options.threads, peak)
    if suite == "overhead":
        return overhead.tables(options.seconds)
    if suite == "lenet":
        return lenet.tables(options.data_dir, options.seconds)
    if suite == "import":
        return startup.tables()
    return memory_bound.tables(suite, options.seconds, peak)


def main(argv=None):
    options = _arguments(argv)
    # NumPy's matrix product reads its thread count when NumPy is imported, which happens below.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(options.threads)
    from . import peers, report
    from .peak import Peak

    peak = Peak(options.threads)
    document = {"machine": report.machine(options.threads, peak), "seconds_per_contender": options.seconds,
                "tables": []}
    if options.wheel:
        document["wheel_bytes"] = options.wheel.stat().st_size
        print(f"{options.wheel.name}: {document['wheel_bytes'] / 1e6:.2f} MB")
    with peers.settings(options.threads):
        for suite in SUITES if options.suite == "all" else (options.suite,):
            for table in _tables(suite, options, peak):
                document["tables"].append(report.show(table))
                if options.output:
                    report.write(options.output, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
