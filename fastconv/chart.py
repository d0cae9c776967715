"""Complexity versus accuracy: networks for ImageNet by their operations, parameters and published accuracy.

    rows = list(measure())
    save(rows, folder)

The picture is that of Canziani, Culurciello and Paszke, An analysis of deep neural network models for
practical applications, arXiv 1605.07678, figure 2. Multiply-adds and parameters, without auxiliary heads, are
counted on the networks of fastconv.models; the accuracies were published with weights for the same networks.
"""

import csv
import io
import time
from typing import NamedTuple

import numpy as np

from . import init, models, summary
from .files import atomic_write

TORCHVISION, CAFFE = "torchvision, weights IMAGENET1K_V1", "github.com/soeaver/caffe-model"


class Published(NamedTuple):
    """A network's title, accuracy on ImageNet's validation images and the source of this figure."""

    title: str
    top1: float  # in per cent, one crop
    source: str = TORCHVISION


NETWORKS = {
    "alexnet": Published("AlexNet", 56.522),
    "vgg11": Published("VGG-11", 69.020),
    "vgg13": Published("VGG-13", 69.928),
    "vgg16": Published("VGG-16", 71.592),
    "vgg19": Published("VGG-19", 72.376),
    "googlenet": Published("GoogLeNet", 69.778),
    "resnet18": Published("ResNet-18", 69.758),
    "resnet34": Published("ResNet-34", 73.314),
    "resnet50": Published("ResNet-50", 76.130),
    "resnet101": Published("ResNet-101", 77.374),
    "resnet152": Published("ResNet-152", 78.312),
    "inception_v3": Published("Inception-v3", 77.294),
    "inception_v4": Published("Inception-v4", 79.97, CAFFE),
}


def measure(names=tuple(NETWORKS), images=3):
    """Gives a dict for each of the NETWORKS called `names`, when it is ready:

    model (its name), title, size (of the images), multiply_adds (for one image), parameters, top1, source,
    and seconds for one image alone: the shortest of `images` times, or None where that is 0.
    """
    for name in names:
        shape = models.input_shape(name)
        with init.skipped():
            model = models.create(name).eval()
        counts = summary.count(model, shape)
        title, top1, source = NETWORKS[name]
        yield {"model": name, "title": title, "size": shape[1], "multiply_adds": counts.multiply_adds,
               "parameters": counts.parameters, "top1": top1, "source": source,
               "seconds": _seconds(model, shape, images) if images else None}


def save(rows, path):
    """Writes the rows of measure as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _seconds(model, shape, images):
    for parameter in model.parameters():
        # Faster than a draw, and no value on the way is zero, infinite or too small to be normal.
        parameter.data.fill(1e-3)
    image = np.ones((1, *shape), np.float32)
    model.forward(image)  # memory and threads are there from the second image on
    times = []
    for _ in range(images):
        start = time.perf_counter()
        model.forward(image)
        times.append(time.perf_counter() - start)
    return min(times)  # other programs only add to it
