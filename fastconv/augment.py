"""Random changes of training images that keep what they show.

    augment = Compose(RandomCrop(4), RandomHorizontalFlip())          # CIFAR-10
    augment = RandomAffine(degrees=10, translate=2, scale=(0.9, 1.1))  # MNIST
    fit(model, loss, optimizer, train_data, augment=augment)

Each is called with a batch, float32 (N, C, H, W), and a NumPy Generator, draws anew for every image, and
gives a new array of the same shape in channels-last memory. Equal generators give equal bits. The repr names
all options, so that a checkpoint can tell whether they changed.
"""

import math
from dataclasses import dataclass

import numpy as np


class Compose:
    """One augmentation after the other."""

    def __init__(self, *augmentations):
        self.augmentations = augmentations

    def __repr__(self):
        return f"Compose({', '.join(map(repr, self.augmentations))})"

    def __call__(self, images, rng):
        for augmentation in self.augmentations:
            images = augmentation(images, rng)
        return images


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirrors an image with probability p."""

    p: float = 0.5

    def __post_init__(self):
        if not 0 <= self.p <= 1:
            raise ValueError(f"p must be from 0 to 1, got {self.p!r}")

    def __call__(self, images, rng):
        flipped = rng.random(len(images)) < self.p
        pixels = _pixels(images)
        return _images(np.where(flipped[:, None, None, None], pixels[:, :, ::-1], pixels))


@dataclass(frozen=True)
class RandomCrop:
    """Pads an image by `padding` zeros on every side and cuts a piece of its size out anywhere.

    He et al., arXiv 1512.03385, section 4.2; zero is the mean of normalised images.
    """

    padding: int

    def __post_init__(self):
        if self.padding < 0:
            raise ValueError(f"padding must not be negative, got {self.padding!r}")

    def __call__(self, images, rng):
        count, _, height, width = images.shape
        border = (self.padding, self.padding)
        padded = np.pad(_pixels(images), ((0, 0), border, border, (0, 0)))
        top, left = rng.integers(0, 2 * self.padding + 1, (2, count, 1))
        rows, columns = top + np.arange(height), left + np.arange(width)
        return _images(padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]])


@dataclass(frozen=True)
class RandomAffine:
    """Rotates, scales, shears and shifts an image about its centre, all at random and uniformly.

    degrees: rotation, at most, either way. translate: pixels along both axes, likewise. scale: the smallest
    and the largest factor. shear: degrees by which upright lines lean, at most, either way. Values between
    pixels are bilinear; beyond the border they are those of the nearest pixel. LeCun et al., Proc. IEEE 86
    (1998), section III.A, distort MNIST like this, without rotation.
    """

    degrees: float = 0.0
    translate: float = 0.0
    scale: tuple = (1.0, 1.0)
    shear: float = 0.0

    def __post_init__(self):
        if not (0 <= self.degrees <= 180 and 0 <= self.shear < 90 and self.translate >= 0):
            raise ValueError("degrees must be from 0 to 180, shear from 0 to 90 without 90, translate not "
                             f"negative, got {self}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be two positive factors in order, got {self.scale!r}")

    def __call__(self, images, rng):
        count, channels, height, width = images.shape
        angle, lean, down, right, size = rng.uniform(-1, 1, (5, count, 1, 1)).astype(np.float32)
        angle, lean = math.radians(self.degrees) * angle, np.tan(math.radians(self.shear) * lean)
        smallest, largest = self.scale
        size = smallest + (largest - smallest) * (size + 1) / 2
        # Where each pixel of the new image comes from: the inverse of rotation, shear and scale in turn.
        sine, cosine = np.sin(angle) / size, np.cos(angle) / size
        y = np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2 - self.translate * down
        x = np.arange(width, dtype=np.float32) - (width - 1) / 2 - self.translate * right
        row = cosine * y - sine * x
        column = sine * y + cosine * x + lean * row
        top, below = _between(row + (height - 1) / 2, height)
        left, beyond = _between(column + (width - 1) / 2, width)

        flat = np.ascontiguousarray(_pixels(images)).reshape(-1, channels)
        corner = (np.arange(count)[:, None, None] * height + top) * width + left
        step_down, step_right = width * (top < height - 1), (left < width - 1).astype(np.intp)
        upper = _mixed(flat.take(corner, 0), flat.take(corner + step_right, 0), beyond)
        corner += step_down
        lower = _mixed(flat.take(corner, 0), flat.take(corner + step_right, 0), beyond)
        return _images(_mixed(upper, lower, below))


def _between(positions, size):
    """(index of the pixel before or at each position, share of the next one), at most at the border."""
    positions = np.clip(positions, 0, size - 1)
    before = positions.astype(np.intp)
    return before, (positions - before.astype(np.float32))[..., None]


def _mixed(first, second, share):
    second -= first
    second *= share
    second += first
    return second


def _pixels(images):
    return images.transpose(0, 2, 3, 1)


def _images(pixels):
    return np.ascontiguousarray(pixels).transpose(0, 3, 1, 2)
