"""Inception-v4: Szegedy et al., Inception-v4, Inception-ResNet, arXiv 1602.07261, figures 3 to 9."""

from .. import init
from ..layers import AdaptiveAvgPool2d, AvgPool2d, Concat, Dropout, Flatten, Linear, MaxPool2d, Sequential
from .blocks import chain, conv_bn_relu, he_weights, same_conv


def inception_v4(num_classes=1000, in_channels=3, dropout=0.2, *, rng=None):
    """x (N, in_channels, 299, 299), or of any size from 75 on -> scores (N, num_classes).

    42,679,816 parameters, 12.3 billion multiply-adds. Names and sizes are timm's; images of its weights lie
    in -1 .. 1. The paper keeps 0.8 before the last layer, hence the dropout. First weights are He's. rng: a
    numpy Generator for the weights and the dropout.
    """
    with init.skipped():
        features = Sequential(
            conv_bn_relu(in_channels, 32, 3, 2), conv_bn_relu(32, 32, 3), same_conv(32, 64, 3),
            Concat({"maxpool": MaxPool2d(3, 2), "conv": conv_bn_relu(64, 96, 3, 2)}),
            _stem_4a(),
            Concat({"conv": conv_bn_relu(192, 192, 3, 2), "maxpool": MaxPool2d(3, 2)}),
            *(_inception_a() for _ in range(4)), _reduction_a(),
            *(_inception_b() for _ in range(7)), _reduction_b(),
            *(_inception_c() for _ in range(3)))
    he_weights(features, rng)
    return Sequential({"features": features, "global_pool": AdaptiveAvgPool2d(1), "flatten": Flatten(),
                       "head_drop": Dropout(dropout, rng=rng),
                       "last_linear": Linear(1536, num_classes, rng=rng)})


def _branches(*branches):
    return Concat({f"branch{index}": branch for index, branch in enumerate(branches)})


def _pooled(in_channels, out_channels):
    return Sequential(AvgPool2d(3, 1, 1, count_include_pad=False), same_conv(in_channels, out_channels, 1))


def _stem_4a():
    """Figure 3, the part whose branches have 1x1 and 7x7 filters."""
    return _branches(
        Sequential(same_conv(160, 64, 1), conv_bn_relu(64, 96, 3)),
        Sequential(same_conv(160, 64, 1), same_conv(64, 64, (1, 7)), same_conv(64, 64, (7, 1)),
                   conv_bn_relu(64, 96, 3)))


def _inception_a():
    """Figure 4: 35x35 pixels."""
    return _branches(
        same_conv(384, 96, 1),
        Sequential(same_conv(384, 64, 1), same_conv(64, 96, 3)),
        Sequential(same_conv(384, 64, 1), same_conv(64, 96, 3), same_conv(96, 96, 3)),
        _pooled(384, 96))


def _reduction_a():
    """Figure 7: 35x35 to 17x17 pixels."""
    return _branches(
        conv_bn_relu(384, 384, 3, 2),
        Sequential(same_conv(384, 192, 1), same_conv(192, 224, 3), conv_bn_relu(224, 256, 3, 2)),
        MaxPool2d(3, 2))


def _inception_b():
    """Figure 5: 17x17 pixels."""
    return _branches(
        same_conv(1024, 384, 1),
        Sequential(same_conv(1024, 192, 1), same_conv(192, 224, (1, 7)), same_conv(224, 256, (7, 1))),
        Sequential(same_conv(1024, 192, 1), same_conv(192, 192, (7, 1)), same_conv(192, 224, (1, 7)),
                   same_conv(224, 224, (7, 1)), same_conv(224, 256, (1, 7))),
        _pooled(1024, 128))


def _reduction_b():
    """Figure 8: 17x17 to 8x8 pixels."""
    return _branches(
        Sequential(same_conv(1024, 192, 1), conv_bn_relu(192, 192, 3, 2)),
        Sequential(same_conv(1024, 256, 1), same_conv(256, 256, (1, 7)), same_conv(256, 320, (7, 1)),
                   conv_bn_relu(320, 320, 3, 2)),
        MaxPool2d(3, 2))


def _inception_c():
    """Figure 6: 8x8 pixels, 1x3 and 3x1 filters side by side."""
    def both(name, in_channels):
        return Concat({name + "a": same_conv(in_channels, 256, (1, 3)),
                       name + "b": same_conv(in_channels, 256, (3, 1))}, flat=True)

    return Concat({
        "branch0": same_conv(1536, 256, 1),
        "branch1": chain(branch1_0=same_conv(1536, 384, 1), branch1_1=both("branch1_1", 384)),
        "branch2": chain(branch2_0=same_conv(1536, 384, 1), branch2_1=same_conv(384, 448, (3, 1)),
                         branch2_2=same_conv(448, 512, (1, 3)), branch2_3=both("branch2_3", 512)),
        "branch3": _pooled(1536, 256),
    })
