"""What names in a graph stand for while it is followed."""

from dataclasses import dataclass

import numpy as np


class Unsupported(Exception):
    """What a node asks for that the layers do not have."""


@dataclass(frozen=True)
class Value:
    """What a name of the file stands for: the array that layer `node` gives, seen in another way.

    shape: of that array; axes: the order in which the file has its axes. What waits for a layer that takes it
    in is either scale * array + shift, both one number or one for each channel of the array, or a border of
    zeros: pads, one (before, after) for each axis of the file.
    """

    node: str
    shape: tuple
    axes: tuple
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    pads: tuple | None = None

    @property
    def seen(self):
        """The shape in the file."""
        shape = [self.shape[axis] for axis in self.axes]
        if self.pads:
            shape = [size + sum(pair) for size, pair in zip(shape, self.pads, strict=True)]
        return tuple(shape)

    @property
    def ordered(self):
        return self.axes == tuple(range(len(self.axes)))
