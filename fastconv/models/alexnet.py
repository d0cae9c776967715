"""AlexNet, as published in 2012 for two GPUs, and on one tower, as torchvision has it."""

from .. import init, layers
from ..layers import AdaptiveAvgPool2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential
from .blocks import normal_weights


def alexnet(num_classes=1000, in_channels=3, dropout=0.5, *, rng=None):
    """x (N, in_channels, 224, 224), or of any size from 63 on -> scores (N, num_classes).

    Krizhevsky, One weird trick for parallelizing convolutional neural networks, arXiv 1404.5997, footnote 1:
    no normalisation, no groups. Names, sizes and first weights are torchvision's: 61,100,840 parameters,
    714,188,480 multiply-adds. rng: a numpy Generator for the weights and the dropout.
    """
    features = Sequential(
        Conv2d(in_channels, 64, 11, stride=4, padding=2, rng=rng), ReLU(), MaxPool2d(3, 2),
        Conv2d(64, 192, 5, padding=2, rng=rng), ReLU(), MaxPool2d(3, 2),
        Conv2d(192, 384, 3, padding=1, rng=rng), ReLU(),
        Conv2d(384, 256, 3, padding=1, rng=rng), ReLU(),
        Conv2d(256, 256, 3, padding=1, rng=rng), ReLU(), MaxPool2d(3, 2))
    classifier = Sequential(
        Dropout(dropout, rng=rng), Linear(256 * 6 * 6, 4096, rng=rng), ReLU(),
        Dropout(dropout, rng=rng), Linear(4096, 4096, rng=rng), ReLU(),
        Linear(4096, num_classes, rng=rng))
    return Sequential({"features": features, "avgpool": AdaptiveAvgPool2d(6), "flatten": Flatten(),
                       "classifier": classifier})


def alexnet_2012(num_classes=1000, in_channels=3, dropout=0.5, *, rng=None):
    """x (N, in_channels, 227, 227) -> scores (N, num_classes).

    Krizhevsky, Sutskever & Hinton, ImageNet classification with deep convolutional neural networks, NeurIPS
    2012, section 3: 60,965,224 parameters, 724,406,816 multiply-adds. Two GPUs had half the maps each, which
    the second, fourth and fifth convolution see as two groups. The paper's 224 pixels do not give its 55
    outputs; 227 do. First weights are those of section 5. Names are those of Caffe's bvlc_alexnet.
    """
    def normalisation():
        # The paper adds alpha times the sum of 5 squares; torch's formula, used here, alpha times their mean.
        return layers.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)

    with init.skipped():
        model = Sequential({
            "conv1": Conv2d(in_channels, 96, 11, stride=4), "relu1": ReLU(),
            "norm1": normalisation(), "pool1": MaxPool2d(3, 2),
            "conv2": Conv2d(96, 256, 5, padding=2, groups=2), "relu2": ReLU(),
            "norm2": normalisation(), "pool2": MaxPool2d(3, 2),
            "conv3": Conv2d(256, 384, 3, padding=1), "relu3": ReLU(),
            "conv4": Conv2d(384, 384, 3, padding=1, groups=2), "relu4": ReLU(),
            "conv5": Conv2d(384, 256, 3, padding=1, groups=2), "relu5": ReLU(), "pool5": MaxPool2d(3, 2),
            "flatten": Flatten(),
            "fc6": Linear(256 * 6 * 6, 4096), "relu6": ReLU(), "drop6": Dropout(dropout, rng=rng),
            "fc7": Linear(4096, 4096), "relu7": ReLU(), "drop7": Dropout(dropout, rng=rng),
            "fc8": Linear(4096, num_classes),
        })
    normal_weights(model, 0.01, rng)
    for layer in (model.conv2, model.conv4, model.conv5, model.fc6, model.fc7):
        init.constant(layer.bias.data, 1)  # the ReLU behind it starts with positive inputs
    return model
