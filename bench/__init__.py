"""Benchmarks: fastconv against naive NumPy, torch and onnxruntime, interleaved in one run.

    python -m bench conv --layers ResNet --output results.json

See bench/README.md for what is timed, how, and in which units.
"""

NETWORKS = ("lenet5", "alexnet", "vgg16", "googlenet", "resnet18", "resnet50")
