"""LeNet-5: LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86 (1998)."""

from ..layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sequential


def lenet5(num_classes=10, in_channels=1, *, rng=None):
    """x (N, in_channels, 32, 32) -> scores (N, num_classes).

    The sizes are those of the paper's figure 2: 61,706 parameters, 416,520 multiply-adds for one grey image.
    As is usual today, every map of the second convolution sees all six maps of the first, ReLU stands for
    tanh, the maximum for trained averages, and scores for distances to templates. rng: a numpy Generator for
    the weights.
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
