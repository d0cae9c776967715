"""lenet: an epoch of LeNet-5 on MNIST, batches of 128, SGD with momentum, shuffling included."""

import numpy as np

import fastconv

from . import peers
from .naive_lenet import NaiveLeNet
from .report import Measurement, Table, ratios
from .timing import best_seconds

BATCH = 128
LEARNING_RATE = 0.05
MOMENTUM = 0.9
NAIVE_STEPS = 20  # naive NumPy takes so few steps, and its time is scaled to the epoch
BUDGETS = 10  # an epoch is long, so every contender gets so many times the seconds of the other suites
TORCH = ("torch NHWC", "torch NCHW")
COMPARISONS = {"over best torch": ("fastconv", TORCH), "over NumPy": ("fastconv", ("NumPy",))}


def _fastconv_epoch(train):
    rng = np.random.default_rng(0)
    model = fastconv.models.lenet5(rng=rng)
    model.needs_input_grad = False  # the images: torch computes no gradient for them either
    loss = fastconv.losses.CrossEntropyLoss()
    optimizer = fastconv.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM)

    def epoch():
        for images, labels in fastconv.data.batches(train, BATCH, rng):
            loss(model(images), labels)
            optimizer.zero_grad()
            model.backward(loss.backward())
            optimizer.step()

    return epoch


def _torch_epoch(train, layout):
    torch, nn = peers.torch, peers.torch.nn
    memory_format = torch.channels_last if layout == "NHWC" else torch.contiguous_format

    # The other suites run in inference mode, whose tensors cannot be trained.
    with torch.inference_mode(False):
        images, = peers.to_torch([train.images], layout)
        labels = torch.from_numpy(train.labels)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
        ).to(memory_format=memory_format)
        loss = nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM)

    @torch.inference_mode(False)
    def epoch():
        for index in torch.randperm(len(images)).split(BATCH):
            batch = images[index].contiguous(memory_format=memory_format)
            optimizer.zero_grad()
            loss(model(batch), labels[index]).backward()
            optimizer.step()

    return epoch


def _naive_steps(train):
    rng = np.random.default_rng(0)
    network = NaiveLeNet(rng)

    def steps():
        for _ in range(NAIVE_STEPS):
            index = rng.integers(len(train), size=BATCH)
            network.step(np.ascontiguousarray(train.images[index]), train.labels[index],
                         LEARNING_RATE, MOMENTUM)

    return steps


def _rows(train, budget):
    contenders = {"fastconv": _fastconv_epoch(train)}
    if peers.torch:
        for name in TORCH:
            contenders[name] = _torch_epoch(train, name.split()[1])
    contenders["NumPy"] = _naive_steps(train)
    seconds = best_seconds(contenders, BUDGETS * budget, calls=1)
    seconds["NumPy"] *= -(-len(train) // BATCH) / NAIVE_STEPS
    yield Measurement(f"epoch of {len(train):,} images, batches of {BATCH}",
                      seconds, ratios(seconds, COMPARISONS))


def tables(data_dir, budget):
    """The table for the MNIST files in `data_dir`, or in the cache folder of `fastconv.data`."""
    train, _ = fastconv.data.load("mnist", folder=data_dir, size=32)
    yield Table(f"LeNet-5 training on MNIST (NumPy: {NAIVE_STEPS} steps, scaled)", "s", _rows(train, budget))
