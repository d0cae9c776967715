"""GoogLeNet: Szegedy et al., Going deeper with convolutions, arXiv 1409.4842."""

from .. import init
from ..layers import AdaptiveAvgPool2d, Concat, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential
from .blocks import Fork, chain, conv_bn_relu, normal_weights, same_conv


def googlenet(num_classes=1000, in_channels=3, aux_logits=True, dropout=0.2, aux_dropout=0.7, *, rng=None):
    """x (N, in_channels, 224, 224), or of any size from 31 on -> scores (N, num_classes).

    Names, sizes and first weights are torchvision's, which follow the TensorFlow model rather than the paper:
    batch normalisation, and 3x3 filters in the branch that the paper gives 5x5. 6,624,904 parameters and
    1.5 billion multiply-adds without the auxiliary heads; images of the published weights lie in -1 .. 1.
    rng: a numpy Generator for the weights and the dropout.

    aux_logits: with two more classifiers, section 5 of the paper. In training the network then gives, and
    backward takes, a tuple: scores, those of the head behind inception4d, those behind inception4a. The paper
    adds 0.3 times their losses: losses.AuxiliaryLoss, with the model's aux_weight. In evaluation there are no
    heads.
    """
    with init.skipped():
        begin = {
            "conv1": conv_bn_relu(in_channels, 64, 7, 2, 3),
            "maxpool1": MaxPool2d(3, 2, ceil_mode=True),
            "conv2": same_conv(64, 64, 1),
            "conv3": same_conv(64, 192, 3),
            "maxpool2": MaxPool2d(3, 2, ceil_mode=True),
            "inception3a": _inception(192, 64, 96, 128, 16, 32, 32),
            "inception3b": _inception(256, 128, 128, 192, 32, 96, 64),
            "maxpool3": MaxPool2d(3, 2, ceil_mode=True),
            "inception4a": _inception(480, 192, 96, 208, 16, 48, 64),
        }
        middle = {
            "inception4b": _inception(512, 160, 112, 224, 24, 64, 64),
            "inception4c": _inception(512, 128, 128, 256, 24, 64, 64),
            "inception4d": _inception(512, 112, 144, 288, 32, 64, 64),
        }
        end = {
            "inception4e": _inception(528, 256, 160, 320, 32, 128, 128),
            "maxpool4": MaxPool2d(2, ceil_mode=True),
            "inception5a": _inception(832, 256, 160, 320, 32, 128, 128),
            "inception5b": _inception(832, 384, 192, 384, 48, 128, 128),
            "avgpool": AdaptiveAvgPool2d(1),
            "flatten": Flatten(),
            "dropout": Dropout(dropout, rng=rng),
            "fc": Linear(1024, num_classes),
        }
        if aux_logits:
            end = {"fork2": Fork(chain(**end), "aux2", _head(528, num_classes, aux_dropout, rng))}
            middle = {"fork1": Fork(chain(**middle, **end), "aux1",
                                    _head(512, num_classes, aux_dropout, rng))}
            end = {}
        model = Sequential({**begin, **middle, **end})
    normal_weights(model, 0.01, rng)
    if aux_logits:
        model.aux_weight = 0.3
    return model


def _inception(in_channels, ones, threes_in, threes, fives_in, fives, pooled):
    """Figure 2b: branches of 1x1, 3x3 and 5x5 filters and of pooling, with their numbers of maps."""
    return Concat({
        "branch1": same_conv(in_channels, ones, 1),
        "branch2": Sequential(same_conv(in_channels, threes_in, 1), same_conv(threes_in, threes, 3)),
        "branch3": Sequential(same_conv(in_channels, fives_in, 1), same_conv(fives_in, fives, 3)),
        "branch4": Sequential(MaxPool2d(3, 1, 1, ceil_mode=True), same_conv(in_channels, pooled, 1)),
    })


def _head(in_channels, num_classes, dropout, rng):
    return Sequential({
        "pool": AdaptiveAvgPool2d(4),
        "conv": same_conv(in_channels, 128, 1),
        "flatten": Flatten(),
        "fc1": Linear(128 * 4 * 4, 1024),
        "relu": ReLU(),
        "dropout": Dropout(dropout, rng=rng),
        "fc2": Linear(1024, num_classes),
    })
