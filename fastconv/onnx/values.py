"""What names in a graph stand for while it is followed."""

from dataclasses import dataclass

import numpy as np


class Unsupported(Exception):
    """What a node asks for that the layers do not have."""


@dataclass(frozen=True)
class Value:
    """What a name of the file stands for: the array that layer `node` gives, seen in another way.

    shape: of that array; axes: the order in which the file has its axes. Then `scale` and `shift` along the
    file's axis 1 or, pads being there instead, a border of zeros: one (before, after) for each axis of the
    file. They wait for a layer that takes them in.
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
    def plain(self):
        return self.scale is None and self.pads is None and self.axes == tuple(range(len(self.axes)))
