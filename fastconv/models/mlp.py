"""Multilayer perceptrons: Rumelhart, Hinton and Williams, Learning representations by back-propagating
errors, Nature 323 (1986).
"""

from itertools import pairwise

from ..layers import Flatten, Linear, ReLU, Sequential, Sigmoid, Tanh

_ACTIVATIONS = {"sigmoid": Sigmoid, "tanh": Tanh, "relu": ReLU}


def mlp(sizes, activation="relu", *, rng=None):
    """Fully connected layers: x (N, ...) with sizes[0] values each -> scores (N, sizes[-1]).

    sizes: of the input, the hidden layers, if any, and the output; two sizes make a linear classifier.
    activation: of the hidden layers, "sigmoid", "tanh" or "relu". rng: a numpy Generator for the weights.
    Raises ValueError for fewer than two sizes or another activation.
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes must hold at least those of input and output, got {sizes!r}")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
    layers = {"flatten": Flatten()}
    for index, (in_features, out_features) in enumerate(pairwise(sizes), 1):
        layers[f"fc{index}"] = Linear(in_features, out_features, rng=rng)
        if index < len(sizes) - 1:
            layers[f"{activation}{index}"] = _ACTIVATIONS[activation]()
    return Sequential(layers)
