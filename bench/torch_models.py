"""torch: accelerated torch models against plain torch, in one process, as their users run them."""

import copy
import sys
from functools import partial
from pathlib import Path

import fastconv.torch
from fastconv.extras import require

from .libraries import LEARNING_RATE, MOMENTUM
from .report import Measurement, Table, ratios
from .timing import best_seconds

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from torch_networks import NETWORKS

torch = require("torch", "torch")
nn = torch.nn
FORMATS = {"torch NHWC": torch.channels_last, "torch NCHW": torch.contiguous_format}
COMPARISONS = {"over best torch": ("accelerated", tuple(FORMATS))}


def cifar_cnn(classes):
    """As users write them: three stages of conv, norm, ReLU, pooling, then dropout and linear layers."""
    layers, channels = [], 3
    for width in (64, 128, 256):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4096, 256), nn.ReLU(), nn.Dropout(0.5),
                         nn.Linear(256, classes))


# name -> (function of the classes, image shape, classes, batches for inference, batch for training)
MODELS = {
    "vgg16": (NETWORKS["vgg16"], (3, 224, 224), 1000, (1, 16), 4),
    "resnet18": (NETWORKS["resnet18"], (3, 224, 224), 1000, (1, 16), 16),
    "CIFAR-10 CNN": (cifar_cnn, (3, 32, 32), 10, (1, 128), 128),
}


def contenders(name, batch, training):
    """{contender: callable} with the same weights and images, NCHW ones for accelerated models."""
    create, shape, classes, *_ = MODELS[name]
    torch.manual_seed(0)
    model = create(classes)
    x, labels = torch.randn(batch, *shape), torch.randint(classes, (batch,))
    found = {}
    for contender in ("accelerated", *FORMATS):
        net, images = copy.deepcopy(model).train(training), x
        if contender not in FORMATS:
            fastconv.torch.accelerate(net)
        else:
            net, images = (thing.to(memory_format=FORMATS[contender]) for thing in (net, x))
        found[contender] = (_step(net, images, labels) if training
                            else torch.inference_mode()(partial(net, images)))
    return found


def _step(net, images, labels):
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE, momentum=MOMENTUM)
    cross_entropy = nn.CrossEntropyLoss()

    def step():
        loss = cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _row(name, batch, training, budget):
    calls = contenders(name, batch, training)
    for call in calls.values():
        call()
    seconds = best_seconds(calls, budget)
    return Measurement(f"{name} N{batch}", seconds, ratios(seconds, COMPARISONS), work=batch)


def tables(threads, budget):
    """Inference, then training steps: forward, loss, backward, torch.optim.SGD with momentum."""
    torch.set_num_threads(threads)
    yield Table("inference of torch models", "images/s",
                (_row(name, batch, False, budget) for name, model in MODELS.items() for batch in model[3]))
    yield Table("training step of torch models", "images/s",
                (_row(name, model[4], True, budget) for name, model in MODELS.items()))
