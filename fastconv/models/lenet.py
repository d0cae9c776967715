"""LeNet-1, LeNet-4 and LeNet-5.

LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86 (1998): "the paper" here;
LeNet-1: LeCun et al., Handwritten digit recognition with a back-propagation network, NIPS 2 (1990).
"""

import numpy as np

from ..layers import (
    RBF,
    Concat,
    Conv2d,
    Flatten,
    Linear,
    MappedConv2d,
    MaxPool2d,
    ReLU,
    ScaledTanh,
    Sequential,
    Subsample2d,
)

# For each map of the second convolution, the maps before it that it sees: LeNet-1 with the 20 links that the
# counts of 1990 ask for, LeNet-5 with table I of the paper.
_LENET1_H3 = ((0,), (0, 1), (0, 1), (1,), (0, 1), (0, 1), (2,), (2, 3), (2, 3), (3,), (2, 3), (2, 3))
_LENET5_C3 = ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
              (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
              (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5))

# Digits of 7 x 12 pixels, drawn after figure 3 of the paper: +1 for ink, -1 for paper.
_DIGITS = """\
..###.. ...##.. .#####. .#####. ....##. ####### ..####. ####### .#####. ..###..
.##.##. ..###.. ##...## ##...## ...###. ##..... .##.... .....## ##...## .##.##.
##...## .####.. ##...## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. .....## .....## ##..##. ######. ##..... ....##. .##.##. ##...##
##...## ...##.. ....##. ..####. ##..##. .....## ######. ...##.. ..###.. ##...##
##...## ...##.. ...##.. .....## ##..##. .....## ##...## ...##.. .##.##. .######
##...## ...##.. ..##... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ...##.. .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## .##.... ##...## .....##
.##.##. ...##.. ##..... ##...## ....##. ##...## .##.##. .##.... ##...## ....##.
..###.. .###### ####### .#####. ....##. .#####. ..###.. .##.... .#####. .####..
"""


def lenet5(num_classes=10, in_channels=1, *, rng=None):
    """x (N, in_channels, 32, 32) -> scores (N, num_classes).

    The sizes are those of the paper's figure 2: 61,706 parameters, 416,520 multiply-adds for one grey image.
    As is usual today, every map of the second convolution sees all six maps of the first, ReLU stands for
    tanh, the maximum for trained averages, and scores for distances to templates: lenet5_1998 is the network
    of the paper. rng: a numpy Generator for the weights.
    """
    return Sequential({
        "conv1": Conv2d(in_channels, 6, 5, rng=rng),
        "relu1": ReLU(),
        "pool1": MaxPool2d(2),
        "conv2": Conv2d(6, 16, 5, rng=rng),
        "relu2": ReLU(),
        "pool2": MaxPool2d(2),
        "flatten": Flatten(),
        "fc1": Linear(16 * 5 * 5, 120, rng=rng),
        "relu3": ReLU(),
        "fc2": Linear(120, 84, rng=rng),
        "relu4": ReLU(),
        "fc3": Linear(84, num_classes, rng=rng),
    })


def lenet5_1998(num_classes=10, in_channels=1, *, output="rbf", rng=None):
    """The LeNet-5 of the paper, section II.B: x (N, in_channels, 32, 32) -> scores (N, num_classes).

    60,000 trained parameters and 340,908 connections for grey images and ten classes. output: "rbf", minus
    the squared distances to the fixed 7 x 12 images of the ten digits, in units of a variance that suits
    plain gradient descent, or "linear", trained scores (850 parameters more). Layers have the paper's names.
    rng: a numpy Generator for the weights.
    Raises ValueError for another output, and for "rbf" with other than ten classes.
    """
    if output not in ("rbf", "linear"):
        raise ValueError(f'output must be "rbf" or "linear", got {output!r}')
    if output == "rbf" and num_classes != 10:
        raise ValueError(f'output "rbf" has templates of the ten digits, got num_classes {num_classes!r}')
    return Sequential({
        "c1": Conv2d(in_channels, 6, 5, rng=rng),
        "tanh1": ScaledTanh(),
        "s2": Subsample2d(6, 2),
        "tanh2": ScaledTanh(),
        "c3": MappedConv2d(6, _LENET5_C3, 5, rng=rng),
        "tanh3": ScaledTanh(),
        "s4": Subsample2d(16, 2),
        "tanh4": ScaledTanh(),
        "c5": Conv2d(16, 120, 5, rng=rng),
        "tanh5": ScaledTanh(),
        "flatten": Flatten(),
        "f6": Linear(120, 84, rng=rng),
        "tanh6": ScaledTanh(),
        "output": RBF(digit_templates(), variance=5) if output == "rbf" else Linear(84, num_classes, rng=rng),
    })


def lenet4(num_classes=10, in_channels=1, *, rng=None):
    """LeNet-4, section III.C of the paper: x (N, in_channels, 32, 32) -> scores (N, num_classes).

    4 maps, 8 subsampling maps, two for each of the 4, 16 maps, 16 subsampling maps, 120 units, 10 units, as
    the text says; it leaves the links between them open. Here all are there: 52,698 parameters. The text's
    "about 17,000" do not reach for 120 units that see 16 maps of 5 x 5, and it does not say what they see.
    rng: a numpy Generator for the weights.
    """
    return Sequential({
        "c1": Conv2d(in_channels, 4, 5, rng=rng),
        "tanh1": ScaledTanh(),
        "s2": Concat(Subsample2d(4, 2), Subsample2d(4, 2)),
        "tanh2": ScaledTanh(),
        "c3": Conv2d(8, 16, 5, rng=rng),
        "tanh3": ScaledTanh(),
        "s4": Subsample2d(16, 2),
        "tanh4": ScaledTanh(),
        "flatten": Flatten(),
        "f5": Linear(16 * 5 * 5, 120, rng=rng),
        "tanh5": ScaledTanh(),
        "output": Linear(120, num_classes, rng=rng),
    })


def lenet1(num_classes=10, in_channels=1, *, rng=None):
    """LeNet-1 of 1990: x (N, in_channels, 28, 28) -> scores (N, num_classes).

    2,578 parameters and 98,442 connections for grey images and ten classes, as published; the maps of H3 see
    one or two of those of H2. Layers have the names of 1990. rng: a numpy Generator for the weights.
    """
    return Sequential({
        "h1": Conv2d(in_channels, 4, 5, rng=rng),
        "tanh1": ScaledTanh(),
        "h2": Subsample2d(4, 2),
        "tanh2": ScaledTanh(),
        "h3": MappedConv2d(4, _LENET1_H3, 5, rng=rng),
        "tanh3": ScaledTanh(),
        "h4": Subsample2d(12, 2),
        "tanh4": ScaledTanh(),
        "flatten": Flatten(),
        "output": Linear(12 * 4 * 4, num_classes, rng=rng),
    })


def digit_templates():
    """(10, 84) float32 array of +1 and -1: the digits 0 to 9 as rows of 7 x 12 pixels."""
    digits = zip(*(line.split(" ") for line in _DIGITS.splitlines()), strict=True)
    ink = [[pixel == "#" for pixel in "".join(rows)] for rows in digits]
    return np.where(ink, np.float32(1), np.float32(-1))
