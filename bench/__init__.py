"""Benchmarks: fastconv against naive NumPy and other libraries, interleaved in one run.

    python -m bench conv --network resnet50 --output results.json

See bench/README.md for what is timed, how, and in which units.
"""

NETWORKS = ("lenet5", "alexnet", "vgg16", "googlenet", "resnet18", "resnet50")
PASSES = ("forward", "backward_input", "backward_weight")
PREPARED = "forward_prepared"  # what inference does: weights brought into their final form beforehand
