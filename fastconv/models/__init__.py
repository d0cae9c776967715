"""Networks by name: ``models.create("lenet5", num_classes=10)`` is ``models.lenet5(num_classes=10)``."""

from .alexnet import alexnet, alexnet_2012
from .googlenet import googlenet
from .inception_v3 import inception_v3
from .inception_v4 import inception_v4
from .lenet import lenet1, lenet4, lenet5, lenet5_1998
from .lstm import LSTMClassifier
from .mlp import mlp
from .perceptron import Perceptron, maximum_margin, novikoff_bound
from .resnet import (
    cifar_resnet,
    resnet,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet44,
    resnet50,
    resnet56,
    resnet101,
    resnet110,
    resnet152,
)
from .vgg import vgg, vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

__all__ = ["LSTMClassifier", "Perceptron", "alexnet", "alexnet_2012", "available", "cifar_resnet", "create",
           "googlenet", "inception_v3", "inception_v4", "input_shape", "lenet1", "lenet4", "lenet5",
           "lenet5_1998", "maximum_margin", "mlp", "novikoff_bound", "resnet", "resnet18", "resnet20",
           "resnet32", "resnet34", "resnet44", "resnet50", "resnet56", "resnet101", "resnet110", "resnet152",
           "vgg", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]

# (C, H, W) of the images that networks were made for -> the networks
_MODELS = {
    (1, 28, 28): (lenet1,),
    (1, 32, 32): (lenet4, lenet5, lenet5_1998),
    (3, 227, 227): (alexnet_2012,),
    (3, 224, 224): (alexnet, vgg11, vgg13, vgg16, vgg19, vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn, googlenet,
                    resnet18, resnet34, resnet50, resnet101, resnet152),
    (3, 32, 32): (resnet20, resnet32, resnet44, resnet56, resnet110),
    (3, 299, 299): (inception_v3, inception_v4),
}
_BY_NAME = {model.__name__: (model, shape) for shape, models in _MODELS.items() for model in models}


def available():
    """The names that create() takes."""
    return tuple(_BY_NAME)


def create(name, **options):
    """The network `name`, a layer; options go to its function. Raises ValueError for an unknown name."""
    return _found(name)[0](**options)


def input_shape(name):
    """(C, H, W) of the images that the network `name` was made for. Raises ValueError for an unknown name."""
    return _found(name)[1]


def _found(name):
    if name not in _BY_NAME:
        raise ValueError(f"name must be one of {', '.join(_BY_NAME)}, got {name!r}")
    return _BY_NAME[name]
