"""lenet: an epoch of LeNet-5 on MNIST, batches of 128, SGD with momentum, shuffling included."""

import numpy as np

from fastconv import data, losses, models, optim

from . import naive, peers
from .report import Measurement, Table, ratios
from .timing import best_seconds

BATCH = 128
LEARNING_RATE = 0.05
MOMENTUM = 0.9
NAIVE_STEPS = 20  # naive NumPy takes so few steps, and its time is scaled to the epoch
TORCH = ("torch NHWC", "torch NCHW")
COMPARISONS = {"over best torch": ("fastconv", TORCH), "over NumPy": ("fastconv", ("NumPy",))}


def _fastconv_epoch(train):
    rng = np.random.default_rng(0)
    model = models.lenet5(rng=rng)
    loss = losses.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM)

    def epoch():
        for images, labels in data.batches(train, BATCH, rng):
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


class NaiveLeNet:
    """The same network in NumPy, gradients written out by hand."""

    SHAPES = ((6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84))

    def __init__(self, rng):
        self.parameters = []  # weight and bias of every layer in turn
        for shape in self.SHAPES:
            limit = 1 / np.sqrt(np.prod(shape[1:]))
            self.parameters += [rng.uniform(-limit, limit, size).astype(np.float32)
                                for size in (shape, shape[:1])]
        self.velocities = [np.zeros_like(parameter) for parameter in self.parameters]

    def step(self, images, labels):
        """One step of SGD; returns the loss before it."""
        loss, gradients = self._gradients(images, labels)
        for parameter, velocity, gradient in zip(self.parameters, self.velocities, gradients, strict=True):
            velocity *= MOMENTUM
            velocity += gradient
            parameter -= LEARNING_RATE * velocity
        return loss

    def _gradients(self, images, labels):
        w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = self.parameters
        conv1 = np.maximum(naive.forward_im2col(images, w1) + b1[:, None, None], 0)
        pool1, argmax1 = naive.max_pool2d(conv1, 2, 2)
        conv2 = np.maximum(naive.forward_im2col(pool1, w2) + b2[:, None, None], 0)
        pool2, argmax2 = naive.max_pool2d(conv2, 2, 2)
        flat = pool2.reshape(len(images), -1)
        fc1 = np.maximum(flat @ w3.T + b3, 0)
        fc2 = np.maximum(fc1 @ w4.T + b4, 0)
        scores = fc2 @ w5.T + b5

        scores -= scores.max(1, keepdims=True)
        probabilities = np.exp(scores)
        probabilities /= probabilities.sum(1, keepdims=True)
        chosen = np.arange(len(labels)), labels
        loss = -np.log(probabilities[chosen]).mean()

        g5 = probabilities
        g5[chosen] -= 1
        g5 /= len(labels)
        g4 = (g5 @ w5) * (fc2 > 0)
        g3 = (g4 @ w4) * (fc1 > 0)
        g2 = (g3 @ w3).reshape(pool2.shape)
        g2 = naive.max_pool2d_backward(g2, argmax2, conv2.shape, 2, 2) * (conv2 > 0)
        g1 = naive.backward_input_im2col(g2, w2, pool1.shape)
        g1 = naive.max_pool2d_backward(g1, argmax1, conv1.shape, 2, 2) * (conv1 > 0)
        return loss, [naive.backward_weight_im2col(g1, images, w1.shape), g1.sum((0, 2, 3)),
                      naive.backward_weight_im2col(g2, pool1, w2.shape), g2.sum((0, 2, 3)),
                      g3.T @ flat, g3.sum(0), g4.T @ fc1, g4.sum(0), g5.T @ fc2, g5.sum(0)]


def _naive_steps(train):
    rng = np.random.default_rng(0)
    network = NaiveLeNet(rng)

    def steps():
        for _ in range(NAIVE_STEPS):
            index = rng.integers(len(train), size=BATCH)
            network.step(np.ascontiguousarray(train.images[index]), train.labels[index])

    return steps


def _rows(train, budget):
    contenders = {"fastconv": _fastconv_epoch(train)}
    if peers.torch:
        for name in TORCH:
            contenders[name] = _torch_epoch(train, name.split()[1])
    contenders["NumPy"] = _naive_steps(train)
    seconds = best_seconds(contenders, budget, calls=1)
    seconds["NumPy"] *= -(-len(train) // BATCH) / NAIVE_STEPS
    yield Measurement(f"epoch of {len(train):,} images, batches of {BATCH}",
                      seconds, ratios(seconds, COMPARISONS))


def tables(data_dir, budget):
    """The table for the MNIST files in `data_dir`, or in the cache folder of `fastconv.data`."""
    train, _ = data.load("mnist", folder=data_dir, size=32)
    yield Table(f"LeNet-5 training on MNIST (NumPy: {NAIVE_STEPS} steps, scaled)", "s", _rows(train, budget))
