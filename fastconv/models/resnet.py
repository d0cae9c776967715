"""ResNet: He et al., Deep residual learning for image recognition, arXiv 1512.03385."""

import numpy as np

from .. import init
from ..layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)
from .blocks import chain, he_weights


def resnet18(**options):
    """11,689,512 parameters, 1,814,073,344 multiply-adds; options of resnet."""
    return resnet(18, **options)


def resnet34(**options):
    """21,797,672 parameters, 3,663,761,408 multiply-adds; options of resnet."""
    return resnet(34, **options)


def resnet50(**options):
    """25,557,032 parameters, 4,089,184,256 multiply-adds; options of resnet."""
    return resnet(50, **options)


def resnet101(**options):
    """44,549,160 parameters, 7,801,405,440 multiply-adds; options of resnet."""
    return resnet(101, **options)


def resnet152(**options):
    """60,192,808 parameters, 11,513,626,624 multiply-adds; options of resnet."""
    return resnet(152, **options)


def resnet20(**options):
    """269,722 parameters, 40.6 million multiply-adds; options of cifar_resnet."""
    return cifar_resnet(20, **options)


def resnet32(**options):
    """464,154 parameters, 68.9 million multiply-adds; options of cifar_resnet."""
    return cifar_resnet(32, **options)


def resnet44(**options):
    """658,586 parameters, 97.2 million multiply-adds; options of cifar_resnet."""
    return cifar_resnet(44, **options)


def resnet56(**options):
    """853,018 parameters, 125.5 million multiply-adds; options of cifar_resnet."""
    return cifar_resnet(56, **options)


def resnet110(**options):
    """1,727,962 parameters, 252.9 million multiply-adds; options of cifar_resnet."""
    return cifar_resnet(110, **options)


def _basic(in_channels, width, stride):
    """Two 3x3 convolutions: figure 5, left."""
    return {"conv1": Conv2d(in_channels, width, 3, stride, 1, bias=False), "bn1": BatchNorm2d(width),
            "relu1": ReLU(),
            "conv2": Conv2d(width, width, 3, padding=1, bias=False), "bn2": BatchNorm2d(width)}


def _bottleneck(in_channels, width, stride):
    """1x1, 3x3 and 1x1 to four times the width: figure 5, right.

    The 3x3 convolution has the stride, not the first one as in the paper: torchvision's version 1.5, more
    accurate by half a percent.
    """
    return {"conv1": Conv2d(in_channels, width, 1, bias=False), "bn1": BatchNorm2d(width), "relu1": ReLU(),
            "conv2": Conv2d(width, width, 3, stride, 1, bias=False), "bn2": BatchNorm2d(width),
            "relu2": ReLU(),
            "conv3": Conv2d(width, 4 * width, 1, bias=False), "bn3": BatchNorm2d(4 * width)}


# depth -> (layers of a block, width of its output / width, blocks in each stage): table 1
_IMAGENET = {18: (_basic, 1, (2, 2, 2, 2)), 34: (_basic, 1, (3, 4, 6, 3)), 50: (_bottleneck, 4, (3, 4, 6, 3)),
             101: (_bottleneck, 4, (3, 4, 23, 3)), 152: (_bottleneck, 4, (3, 8, 36, 3))}


def resnet(depth, num_classes=1000, in_channels=3, *, rng=None):
    """x (N, in_channels, 224, 224), or of any size -> scores (N, num_classes).

    depth: 18, 34, 50, 101 or 152 layers with weights, table 1 of the paper. Where a block changes the shape,
    its shortcut is a 1x1 convolution (option B). Names, sizes and first weights (He's) are torchvision's.
    rng: a numpy Generator for the weights.
    """
    if depth not in _IMAGENET:
        raise ValueError(f"depth must be one of {', '.join(map(str, _IMAGENET))}, got {depth!r}")
    layers, expansion, counts = _IMAGENET[depth]
    with init.skipped():
        model = Sequential({
            "conv1": Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False), "bn1": BatchNorm2d(64),
            "relu": ReLU(), "maxpool": MaxPool2d(3, 2, 1),
            **_stages(layers, _projection, 64, (64, 128, 256, 512), expansion, counts)})
    return _with_classifier(model, 512 * expansion, num_classes, rng)


def cifar_resnet(depth, num_classes=10, in_channels=3, *, rng=None):
    """x (N, in_channels, 32, 32), or of any size -> scores (N, num_classes).

    Section 4.2 of the paper: depth = 6n + 2 layers with weights, three stages of n blocks with 16, 32 and 64
    maps. Shortcuts have no parameters (option A): see Subsample. rng: a numpy Generator for the weights.
    """
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth must be 6n + 2 for a positive n, got {depth!r}")
    with init.skipped():
        model = Sequential({
            "conv1": Conv2d(in_channels, 16, 3, padding=1, bias=False), "bn1": BatchNorm2d(16),
            "relu": ReLU(),
            **_stages(_basic, Subsample, 16, (16, 32, 64), 1, [depth // 6] * 3)})
    return _with_classifier(model, 64, num_classes, rng)


def _stages(layers, shortcut, channels, widths, expansion, counts):
    """name -> stage: "layer1", "layer2", ...; all but the first halve height and width."""
    stages = {}
    for index, (width, count) in enumerate(zip(widths, counts, strict=True)):
        blocks = []
        for number in range(count):
            stride = 2 if index and not number else 1
            same = stride == 1 and channels == width * expansion
            blocks.append(_block(layers(channels, width, stride),
                                 None if same else shortcut(channels, width * expansion, stride)))
            channels = width * expansion
        stages[f"layer{index + 1}"] = Sequential(*blocks)
    return stages


def _block(layers, shortcut):
    """relu(layers(x) + shortcut(x)), with the flat names of torchvision's blocks."""
    skip = None if shortcut is None else chain(downsample=shortcut)
    return Sequential({"sum": Residual(chain(**layers), skip, flat=True), "relu": ReLU()})


def _projection(in_channels, out_channels, stride):
    return Sequential(Conv2d(in_channels, out_channels, 1, stride, bias=False), BatchNorm2d(out_channels))


class Subsample(Layer):
    """Every stride-th pixel, then zeros as further channels: x (N, C, H, W) -> (N, out_channels, P, Q).

    Option A of the paper, a shortcut without parameters: the C channels of x come first and the new ones
    hold 0; P = ceil(H / stride), as of the 1x1 convolution of option B.
    """

    def __init__(self, in_channels, out_channels, stride):
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride

    def forward(self, x):
        kept = x[:, :, ::self.stride, ::self.stride]
        y = np.zeros_like(x, shape=(len(x), self.out_channels, *kept.shape[2:]))
        y[:, :self.in_channels] = kept
        return self._save(y, x)

    def backward(self, grad_output):
        (x,) = self._restore(grad_output)
        grad_input = np.zeros_like(x)
        grad_input[:, :, ::self.stride, ::self.stride] = grad_output[:, :self.in_channels]
        return grad_input


def _with_classifier(model, channels, num_classes, rng):
    he_weights(model, rng)
    return Sequential({**dict(model.named_children()), "avgpool": AdaptiveAvgPool2d(1), "flatten": Flatten(),
                       "fc": Linear(channels, num_classes, rng=rng)})
