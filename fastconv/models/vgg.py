"""VGG: Simonyan & Zisserman, Very deep convolutional networks, arXiv 1409.1556, table 1."""

from .. import init
from ..layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
)
from .blocks import he_weights, normal_weights

# Convolutions in each of the five stages, whose channels are those of _CHANNELS.
_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_CHANNELS = (64, 128, 256, 512, 512)


def vgg11(**options):
    """Configuration A: 132,863,336 parameters, 7,609,090,048 multiply-adds; options of vgg."""
    return vgg(11, **options)


def vgg13(**options):
    """Configuration B: 133,047,848 parameters, 11,308,466,176 multiply-adds; options of vgg."""
    return vgg(13, **options)


def vgg16(**options):
    """Configuration D: 138,357,544 parameters, 15,470,264,320 multiply-adds; options of vgg."""
    return vgg(16, **options)


def vgg19(**options):
    """Configuration E: 143,667,240 parameters, 19,632,062,464 multiply-adds; options of vgg."""
    return vgg(19, **options)


def vgg11_bn(**options):
    """Configuration A with batch normalisation: 132,868,840 parameters; options of vgg."""
    return vgg(11, batch_norm=True, **options)


def vgg13_bn(**options):
    """Configuration B with batch normalisation: 133,053,736 parameters; options of vgg."""
    return vgg(13, batch_norm=True, **options)


def vgg16_bn(**options):
    """Configuration D with batch normalisation: 138,365,992 parameters; options of vgg."""
    return vgg(16, batch_norm=True, **options)


def vgg19_bn(**options):
    """Configuration E with batch normalisation: 143,678,248 parameters; options of vgg."""
    return vgg(19, batch_norm=True, **options)


def vgg(depth, num_classes=1000, in_channels=3, batch_norm=False, dropout=0.5, *, rng=None):
    """x (N, in_channels, 224, 224), or of any size from 32 on -> scores (N, num_classes).

    depth: 11, 13, 16 or 19 layers with weights. batch_norm: after every convolution, which the paper did not
    have yet. Names, sizes and first weights (He's) are torchvision's. rng: a numpy Generator for the weights
    and the dropout.
    """
    if depth not in _STAGES:
        raise ValueError(f"depth must be one of {', '.join(map(str, _STAGES))}, got {depth!r}")
    features = []
    with init.skipped():
        for count, channels in zip(_STAGES[depth], _CHANNELS, strict=True):
            for _ in range(count):
                features += [Conv2d(in_channels, channels, 3, padding=1),
                             *([BatchNorm2d(channels)] if batch_norm else []), ReLU()]
                in_channels = channels
            features.append(MaxPool2d(2))
        classifier = Sequential(
            Linear(512 * 7 * 7, 4096), ReLU(), Dropout(dropout, rng=rng),
            Linear(4096, 4096), ReLU(), Dropout(dropout, rng=rng),
            Linear(4096, num_classes))
    model = Sequential({"features": Sequential(*features), "avgpool": AdaptiveAvgPool2d(7),
                        "flatten": Flatten(), "classifier": classifier})
    he_weights(model, rng)
    normal_weights(classifier, 0.01, rng)
    return model
