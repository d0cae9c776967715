"""Inception-v3: Szegedy et al., Rethinking the Inception architecture, arXiv 1512.00567."""

from .. import init
from ..layers import AdaptiveAvgPool2d, AvgPool2d, Concat, Dropout, Flatten, Linear, MaxPool2d, Sequential
from .blocks import Fork, chain, conv_bn_relu, normal_weights, same_conv


def inception_v3(num_classes=1000, in_channels=3, aux_logits=True, dropout=0.5, *, rng=None):
    """x (N, in_channels, 299, 299), or of any size from 75 on -> scores (N, num_classes).

    Names, sizes and first weights are torchvision's: 27,161,264 parameters, 23,834,568 of them without the
    auxiliary head, and 5.7 billion multiply-adds; images of the published weights lie in -1 .. 1. rng: a
    numpy Generator for the weights and the dropout.

    aux_logits: with another classifier behind Mixed_6e, section 4 of the paper. In training the network then
    gives, and backward takes, a tuple: scores and those of the head, which needs 299 pixels or more.
    TensorFlow's training adds 0.4 times its loss: losses.AuxiliaryLoss, with the model's aux_weight. In
    evaluation there is no head.
    """
    with init.skipped():
        begin = {
            "Conv2d_1a_3x3": conv_bn_relu(in_channels, 32, 3, 2),
            "Conv2d_2a_3x3": conv_bn_relu(32, 32, 3),
            "Conv2d_2b_3x3": same_conv(32, 64, 3),
            "maxpool1": MaxPool2d(3, 2),
            "Conv2d_3b_1x1": same_conv(64, 80, 1),
            "Conv2d_4a_3x3": conv_bn_relu(80, 192, 3),
            "maxpool2": MaxPool2d(3, 2),
            "Mixed_5b": _inception_a(192, 32),
            "Mixed_5c": _inception_a(256, 64),
            "Mixed_5d": _inception_a(288, 64),
            "Mixed_6a": _reduction_b(288),
            "Mixed_6b": _inception_c(768, 128),
            "Mixed_6c": _inception_c(768, 160),
            "Mixed_6d": _inception_c(768, 160),
            "Mixed_6e": _inception_c(768, 192),
        }
        end = {
            "Mixed_7a": _reduction_d(768),
            "Mixed_7b": _inception_e(1280),
            "Mixed_7c": _inception_e(2048),
            "avgpool": AdaptiveAvgPool2d(1),
            "dropout": Dropout(dropout, rng=rng),
            "flatten": Flatten(),
            "fc": Linear(2048, num_classes),
        }
        head = Sequential({
            "pool": AvgPool2d(5, 3),
            "conv0": same_conv(768, 128, 1),
            "conv1": conv_bn_relu(128, 768, 5),
            "avgpool": AdaptiveAvgPool2d(1),
            "flatten": Flatten(),
            "fc": Linear(768, num_classes),
        })
        if aux_logits:
            end = {"fork": Fork(chain(**end), "AuxLogits", head)}
        model = Sequential({**begin, **end})
    normal_weights(model, 0.1, rng)
    normal_weights(head.conv1, 0.01, rng)
    normal_weights(head.fc, 0.001, rng)
    if aux_logits:
        model.aux_weight = 0.4
    return model


def _inception_a(in_channels, pooled):
    """Figure 5."""
    return Concat({
        "branch1x1": same_conv(in_channels, 64, 1),
        "branch5x5": chain(branch5x5_1=same_conv(in_channels, 48, 1), branch5x5_2=same_conv(48, 64, 5)),
        "branch3x3dbl": chain(branch3x3dbl_1=same_conv(in_channels, 64, 1),
                              branch3x3dbl_2=same_conv(64, 96, 3),
                              branch3x3dbl_3=same_conv(96, 96, 3)),
        "branch_pool": _pooled(in_channels, pooled),
    })


def _reduction_b(in_channels):
    """Figure 10, the first time."""
    return Concat({
        "branch3x3": conv_bn_relu(in_channels, 384, 3, 2),
        "branch3x3dbl": chain(branch3x3dbl_1=same_conv(in_channels, 64, 1),
                              branch3x3dbl_2=same_conv(64, 96, 3),
                              branch3x3dbl_3=conv_bn_relu(96, 96, 3, 2)),
        "pool": MaxPool2d(3, 2),
    })


def _inception_c(in_channels, width):
    """Figure 6: filters of 7x7 pixels as 1x7 and 7x1."""
    return Concat({
        "branch1x1": same_conv(in_channels, 192, 1),
        "branch7x7": chain(branch7x7_1=same_conv(in_channels, width, 1),
                           branch7x7_2=same_conv(width, width, (1, 7)),
                           branch7x7_3=same_conv(width, 192, (7, 1))),
        "branch7x7dbl": chain(branch7x7dbl_1=same_conv(in_channels, width, 1),
                              branch7x7dbl_2=same_conv(width, width, (7, 1)),
                              branch7x7dbl_3=same_conv(width, width, (1, 7)),
                              branch7x7dbl_4=same_conv(width, width, (7, 1)),
                              branch7x7dbl_5=same_conv(width, 192, (1, 7))),
        "branch_pool": _pooled(in_channels, 192),
    })


def _reduction_d(in_channels):
    """Figure 10, the second time."""
    return Concat({
        "branch3x3": chain(branch3x3_1=same_conv(in_channels, 192, 1),
                           branch3x3_2=conv_bn_relu(192, 320, 3, 2)),
        "branch7x7x3": chain(branch7x7x3_1=same_conv(in_channels, 192, 1),
                             branch7x7x3_2=same_conv(192, 192, (1, 7)),
                             branch7x7x3_3=same_conv(192, 192, (7, 1)),
                             branch7x7x3_4=conv_bn_relu(192, 192, 3, 2)),
        "pool": MaxPool2d(3, 2),
    })


def _inception_e(in_channels):
    """Figure 7: 1x3 and 3x1 filters side by side."""
    def both(name):
        return Concat({name + "a": same_conv(384, 384, (1, 3)), name + "b": same_conv(384, 384, (3, 1))},
                      flat=True)

    return Concat({
        "branch1x1": same_conv(in_channels, 320, 1),
        "branch3x3": chain(branch3x3_1=same_conv(in_channels, 384, 1), branch3x3_2=both("branch3x3_2")),
        "branch3x3dbl": chain(branch3x3dbl_1=same_conv(in_channels, 448, 1),
                              branch3x3dbl_2=same_conv(448, 384, 3),
                              branch3x3dbl_3=both("branch3x3dbl_3")),
        "branch_pool": _pooled(in_channels, 192),
    })


def _pooled(in_channels, out_channels):
    return chain(pool=AvgPool2d(3, 1, 1), branch_pool=same_conv(in_channels, out_channels, 1))
