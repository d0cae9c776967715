"""The comparison of LeCun et al. 1998 made again: learners on MNIST, each beside its published error.

    for row in run(["linear", "lenet5"], folder):
        print(table_row(row))

Published: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, Proc.
IEEE 86 (1998), section III.C and figure 9; the Gaussian kernel: LeCun, Cortes and Burges, The MNIST database.
Options were chosen on the last 10,000 training images (`validation` of run) for the linear learners, the MLP
and LeNet-5; LeNet-1 and LeNet-4 take LeNet-5's rate, and the kernel machine has customary constants.
"""

import csv
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from . import data, models
from .augment import RandomAffine
from .extras import require
from .files import atomic_write
from .losses import CrossEntropyLoss, HingeLoss, Loss
from .optim import SGD, CosineLR
from .train import evaluate, fit

_PAPER, _PAGE = "LeCun et al. 1998", "the MNIST database"


@dataclass(frozen=True)
class Network:
    """A learner of layers: gradient descent with momentum 0.9, at a rate that falls by half a cosine."""

    title: str
    create: Callable  # of a network, from rng
    published: float | None  # test error in per cent
    source: str | None
    lr: float
    epochs: int
    size: int = 28  # of the images
    batch_size: int = 64
    weight_decay: float = 0.0
    loss: Callable[[], Loss] = CrossEntropyLoss
    augment: Callable | None = None

    random = True  # whether its result depends on the seed

    def learn(self, train, test, seed, epochs):
        """(error on `test` in per cent, number of parameters, seconds of training)."""
        model = self.create(rng=np.random.default_rng([seed, 1]))
        optimizer = SGD(model.parameters(), self.lr, momentum=0.9, weight_decay=self.weight_decay)
        schedule = CosineLR(optimizer, epochs * -(-len(train) // self.batch_size))
        history = fit(model, self.loss(), optimizer, train, epochs=epochs, batch_size=self.batch_size,
                      schedule=schedule, augment=self.augment, seed=seed, progress=False)
        error = _error(evaluate(model, test).predictions, test)
        parameters = sum(parameter.data.size for parameter in model.parameters())
        return error, parameters, sum(row["seconds"] for row in history)


@dataclass(frozen=True)
class KernelSVM:
    """Support vectors with Gaussian kernels, one class against another: scikit-learn's SVC."""

    title: str
    published: float
    source: str
    penalty: float
    gamma: float
    size: int = 28
    epochs = None

    random = False

    def learn(self, train, test, seed, epochs):
        """As Network.learn; the parameters are the support vectors, their weights and the thresholds."""
        svm = require("sklearn.svm", "svm").SVC(C=self.penalty, gamma=self.gamma, cache_size=500)
        start = time.perf_counter()
        svm.fit(train.images.reshape(len(train), -1), train.labels)
        seconds = time.perf_counter() - start
        error = _error(svm.predict(test.images.reshape(len(test), -1)), test)
        parameters = svm.support_vectors_.size + svm.dual_coef_.size + svm.intercept_.size
        return error, parameters, seconds


_LENET5 = Network("LeNet-5", models.lenet5_1998, 0.95, _PAPER, lr=0.05, epochs=16, size=32, weight_decay=5e-4)
DISTORTIONS = RandomAffine(degrees=10, translate=2, scale=(0.85, 1.15), shear=10)

LEARNERS = {
    "linear": Network("linear classifier", partial(models.mlp, (784, 10)), 12.0, _PAPER, lr=0.01, epochs=10),
    "linear-svm": Network("linear SVM, one against the rest", partial(models.mlp, (784, 10)), None, None,
                          lr=0.1, epochs=10, weight_decay=1e-5, loss=HingeLoss),
    "kernel-svm": KernelSVM("SVM, Gaussian kernel", 1.4, _PAGE, penalty=10, gamma=0.0025),
    "mlp300": Network("MLP, 300 hidden units, ReLU", partial(models.mlp, (784, 300, 10)), 4.7, _PAPER,
                      lr=0.05, epochs=15, weight_decay=5e-4),
    "lenet1": Network("LeNet-1", models.lenet1, 1.7, _PAPER, lr=0.05, epochs=12),
    "lenet4": Network("LeNet-4", models.lenet4, 1.1, _PAPER, lr=0.05, epochs=12, size=32, weight_decay=5e-4),
    "lenet5": _LENET5,
    "lenet5-distorted": replace(_LENET5, title="LeNet-5, distorted images", published=0.8, epochs=20,
                                weight_decay=1e-4, augment=DISTORTIONS),
}


def run(names, folder=None, *, epochs=None, seeds=1, validation=False):
    """Trains the LEARNERS called `names` on MNIST and gives a dict for each, when it is ready:

    model (its name), title, error (on the test images, in per cent; the median over the seeds), errors,
    published and source (None where nothing was), parameters, seconds (of training; the median), epochs and
    augment.

    folder: see data.mnist. epochs: instead of each learner's own. seeds: trainings of each learner, from seed
    0; one where nothing is random. validation: trains on all but the last sixth of the training images and
    tests on these, to choose options without a look at the test images.
    Raises ImportError for a missing package, before any training, Diverged as train.fit, and what data.load
    raises.
    """
    learners = {name: LEARNERS[name] for name in names}
    if any(isinstance(learner, KernelSVM) for learner in learners.values()):
        require("sklearn.svm", "svm")
    for name, learner in learners.items():
        train, test = data.load("mnist", folder, size=learner.size)
        if validation:
            split = len(train) * 5 // 6
            train, test = train.subset(slice(0, split)), train.subset(slice(split, None))
        passes = learner.epochs and (epochs or learner.epochs)
        results = [learner.learn(train, test, seed, passes) for seed in range(seeds if learner.random else 1)]
        errors, parameters, seconds = zip(*results, strict=True)
        augment = getattr(learner, "augment", None)
        yield {"model": name, "title": learner.title, "error": statistics.median(errors), "errors": errors,
               "published": learner.published, "source": learner.source, "parameters": parameters[0],
               "seconds": statistics.median(seconds), "epochs": passes, "augment": augment and repr(augment)}


def table_row(row=None):
    """A line of the table: the heads, or the figures of a row of run."""
    if row is None:
        cells = ("learner", "error %", "published %", "parameters", "seconds", "seeds", "source")
    else:
        published = "-" if row["published"] is None else f"{row['published']:.2f}"
        cells = (row["title"], f"{row['error']:.2f}", published, f"{row['parameters']:,}",
                 f"{row['seconds']:.1f}", f"{len(row['errors'])}", row["source"] or "-")
    title, *figures, source = cells
    figures = [cell.rjust(width) for cell, width in zip(figures, (7, 11, 10, 8, 5), strict=True)]
    return "  ".join([title.ljust(32), *figures, source])


def save(rows, folder, facts):
    """Writes challenge.csv and challenge.json, the latter with `facts`, a dict, into `folder`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0])
    writer.writeheader()
    writer.writerows({**row, "errors": " ".join(map(str, row["errors"]))} for row in rows)
    for name, contents in (("challenge.csv", text.getvalue()),
                           ("challenge.json", json.dumps({**facts, "rows": rows}, indent=1) + "\n")):
        with atomic_write(folder / name) as file:
            file.write(contents.encode())


def _error(predictions, dataset):
    return 100 * int(np.count_nonzero(predictions != dataset.labels)) / len(dataset)
