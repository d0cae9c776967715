"""Training and evaluation of classifiers.

    history = fit(model, CrossEntropyLoss(), SGD(model.parameters(), lr=0.05), train, test_data=test)
    print(evaluate(model, test).accuracy)

A training is a function of its options and its seed: interrupted at any batch and resumed from its
checkpoint, it goes on to the same bits as one that was left alone.
"""

import itertools
import json
import math
import signal
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

from . import checkpoint as checkpoints
from .checks import count
from .data import batches, prefetch
from .extras import require
from .files import atomic_write
from .grad import no_grad
from .losses import CrossEntropyLoss
from .optim import clip_grad_norm
from .progress import Progress


class Diverged(ArithmeticError):
    """The loss, or the norm of the gradient that was to be clipped, became NaN or infinite."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C: the training stopped between two steps. `checkpoint` is the file to resume from, or None."""

    def __init__(self, message, checkpoint):
        super().__init__(message)
        self.checkpoint = checkpoint


class Evaluation(NamedTuple):
    """Mean loss, share of right predictions, and predicted classes (N,) int64, in the order of the data."""

    loss: float
    accuracy: float
    predictions: np.ndarray


class History(list):
    """One dict per epoch, with these keys:

    epoch (from 1), lr (of its first step), loss and accuracy (means over its steps),
    test_loss and test_accuracy (after it; None without test data), seconds (of training alone) and
    images_per_second.
    """

    def save(self, path):
        """Writes the rows as JSON, replacing the file in one step."""
        with atomic_write(path) as file:
            file.write(json.dumps(self, indent=1).encode() + b"\n")


def evaluate(model, data, batch_size=500, loss=None):
    """Evaluation of `model` on a Dataset, in evaluation mode and under no_grad; the mode is restored.

    loss: default CrossEntropyLoss(). Raises ValueError for an empty data set.
    """
    if not len(data):
        raise ValueError("data must not be empty")
    loss = loss or CrossEntropyLoss()
    total, predictions = 0.0, []
    was_training = model.training
    model.eval()
    try:
        for images, labels in batches(data, batch_size):
            with no_grad():
                scores = model.forward(images)
            total += loss.forward(scores, labels) * len(labels)
            predictions.append(scores.argmax(axis=1))
    finally:
        model.train(was_training)
    predictions = np.concatenate(predictions)
    return Evaluation(total / len(data), float(np.mean(predictions == data.labels)), predictions)


def fit(model, loss, optimizer, train_data, *, test_data=None, epochs=10, batch_size=128, schedule=None,
        augment=None, max_grad_norm=None, seed=0, progress=True, checkpoint=None, resume=False,
        drop_last=False, options=None):
    """Trains `model` on a Dataset, in batches shuffled anew every epoch; returns the History.

    schedule: its step() is called after every batch. augment: changes each batch of training images, as those
    of fastconv.augment do; a thread takes and changes the next batch during a step. max_grad_norm: clips the
    gradient, see optim.clip_grad_norm. seed: of the shuffling and augment. progress: shows a table and a
    bar (needs tqdm). checkpoint: path of a file that is replaced after every epoch and on Ctrl-C (needs
    safetensors). resume: goes on from that file; model, optimizer and schedule must have been made as for
    the training that wrote it. options: a flat dict of whatever else defines the training; on resume it must
    be as it was. drop_last: leaves out a smaller last batch.

    Ctrl-C finishes the step and raises Interrupted, a second one stops at once (in the main thread, unless
    the program has a SIGINT handler of its own). Raises Diverged, before the step and before a checkpoint is
    replaced, where the loss or the norm of the gradient to clip is NaN or infinite; ValueError naming the
    argument, also one that is not as in the checkpoint; FileNotFoundError where there is none to resume;
    ImportError for a missing package, before training; OSError where the checkpoint cannot be written.
    """
    epochs, batch_size = count("epochs", epochs, least=1), count("batch_size", batch_size, least=1)
    batches_per_epoch = len(train_data) // batch_size if drop_last else -(-len(train_data) // batch_size)
    if not batches_per_epoch:
        raise ValueError(f"train_data must fill a batch of {batch_size}, got {len(train_data)} images")
    if test_data is not None and not len(test_data):
        raise ValueError("test_data must not be empty")
    if resume and checkpoint is None:
        raise ValueError("resume needs checkpoint")
    if checkpoint is not None:
        require("safetensors.numpy")

    options = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "drop_last": drop_last,
               "augment": augment and repr(augment), "max_grad_norm": max_grad_norm,
               "images": len(train_data), **(options or {})}
    run = _Run(model, optimizer, schedule, options)
    if resume:
        run.load(checkpoint)
    display = Progress(epochs, batches_per_epoch, progress)
    needs_input_grad, model.needs_input_grad = model.needs_input_grad, False  # nobody trains the images
    try:
        with _DeferredInterrupt() as interrupt:
            display.start(run.history, run.epoch, run.totals.batches)
            while run.epoch < epochs:
                _train_epoch(run, loss, train_data, augment, max_grad_norm, display, interrupt)
                row = None
                if run.totals.batches == batches_per_epoch:
                    row = run.end_epoch(test_data and evaluate(model, test_data, loss=loss))
                if checkpoint is not None:
                    run.save(checkpoint)
                if row:
                    display.end_epoch(row)
                if interrupt.requested and run.epoch < epochs:
                    raise Interrupted(f"stopped in epoch {run.epoch + 1} of {epochs}, after batch "
                                      f"{run.totals.batches} of {batches_per_epoch}", checkpoint)
    finally:
        model.needs_input_grad = needs_input_grad
        display.close()
    return run.history


@dataclass
class _Totals:
    """Sums over the steps of an epoch so far."""

    lr: float | None = None  # of the first step
    batches: int = 0
    images: int = 0
    loss: float = 0.0
    correct: int = 0
    seconds: float = 0.0


class _Run:
    """All that a training's next step depends on, and what it has measured."""

    def __init__(self, model, optimizer, schedule, options):
        self.model, self.optimizer, self.schedule, self.options = model, optimizer, schedule, options
        self.rng = np.random.default_rng(options["seed"])
        self.shuffle = self.rng.bit_generator.state  # from which the order of the current epoch is drawn
        self.epoch = 0  # finished epochs
        self.totals = _Totals()
        self.history = History()

    def end_epoch(self, test):
        """Enters the finished epoch, with its Evaluation or None, into the history; returns the new row."""
        totals = self.totals
        if test and not math.isfinite(test.loss):
            raise Diverged(f"the test loss became {test.loss} in epoch {self.epoch + 1}: "
                           "lower the learning rate")
        row = {"epoch": self.epoch + 1, "lr": totals.lr, "loss": totals.loss / totals.images,
               "accuracy": totals.correct / totals.images,
               "test_loss": test.loss if test else None, "test_accuracy": test.accuracy if test else None,
               "seconds": totals.seconds, "images_per_second": totals.images / totals.seconds}
        self.history.append(row)
        self.epoch += 1
        self.totals = _Totals()
        self.shuffle = self.rng.bit_generator.state
        return row

    def save(self, path):
        checkpoints.save_training(path, {
            "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else None,
            "options": self.options, "shuffle": self.shuffle,
            "layers": {name: rng.bit_generator.state for name, rng in self._generators()},
            "epoch": self.epoch, "totals": asdict(self.totals), "history": self.history})

    def load(self, path):
        state = checkpoints.load_training(path)
        checkpoints.require_same_options(state["options"], self.options)
        if (state["schedule"] is None) != (self.schedule is None):
            raise ValueError(f"schedule is {self.schedule!r}, but the checkpoint was made "
                             f"{'without' if self.schedule else 'with'} one")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.load_state_dict(state["schedule"])
        generators = dict(self._generators())
        if generators.keys() != state["layers"].keys():
            raise ValueError(f"model has random layers {sorted(generators)}, but the checkpoint was made "
                             f"with {sorted(state['layers'])}")
        for name, rng in generators.items():
            rng.bit_generator.state = state["layers"][name]
        self.rng.bit_generator.state = self.shuffle = state["shuffle"]
        self.epoch, self.totals = state["epoch"], _Totals(**state["totals"])
        self.history = History(state["history"])

    def _generators(self):
        """(name, Generator) of the layers that draw random numbers: Dropout."""
        for name, layer in self.model.named_modules():
            if isinstance(getattr(layer, "rng", None), np.random.Generator):
                yield name, layer.rng


def _examples(run, order, augment):
    """(images, labels) of the steps that are left of the current epoch, whose batches are `order`."""
    done, seed, epoch = run.totals.batches, run.options["seed"], run.epoch
    for batch, (images, labels) in enumerate(itertools.islice(order, done, None), done):
        if augment:
            # A stream for each batch: one that goes on in a later process draws what it would have drawn.
            images = augment(images, np.random.default_rng([seed, 2, epoch, batch]))
        yield images, labels


def _train_epoch(run, loss, data, augment, max_grad_norm, display, interrupt):
    """The steps that are left of the current epoch, or those up to an interrupt."""
    model, optimizer, schedule, totals = run.model, run.optimizer, run.schedule, run.totals
    model.train()
    if totals.lr is None:
        totals.lr = optimizer.lr
    order = batches(data, run.options["batch_size"], run.rng, run.options["drop_last"])
    earlier, start = totals.seconds, time.perf_counter()
    with closing(prefetch(_examples(run, order, augment))) as examples:
        for images, labels in examples:
            output = model.forward(images)
            batch_loss = loss.forward(output, labels)
            _require_finite("loss", batch_loss, run)
            optimizer.zero_grad()
            model.backward(loss.backward())
            if max_grad_norm is not None:
                _require_finite("norm of the gradient", clip_grad_norm(optimizer.parameters, max_grad_norm),
                                run)
            optimizer.step()
            if schedule:
                schedule.step()
            totals.batches += 1
            totals.images += len(labels)
            totals.loss += batch_loss * len(labels)
            scores = output[0] if isinstance(output, tuple) else output  # behind it: auxiliary heads
            totals.correct += int(np.count_nonzero(scores.argmax(axis=1) == labels))
            totals.seconds = earlier + time.perf_counter() - start
            display.step(run.epoch, totals)
            if interrupt.requested:
                return


def _require_finite(what, value, run):
    if not math.isfinite(value):
        raise Diverged(f"the {what} became {value} in epoch {run.epoch + 1}, batch {run.totals.batches + 1}: "
                       f"lower the learning rate (now {run.optimizer.lr:.3g})")


class _DeferredInterrupt:
    """Within the ``with`` block the first Ctrl-C sets `requested`; the next one raises, as ever."""

    def __init__(self):
        self.requested = False
        self._installed = False

    def __enter__(self):
        if (threading.current_thread() is threading.main_thread()
                and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
            signal.signal(signal.SIGINT, self._request)
            self._installed = True
        return self

    def _request(self, signum, frame):
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *exception):
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
