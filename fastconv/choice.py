"""Which algorithm conv2d and its gradients take, and why."""

from typing import NamedTuple

from . import _core
from .functional import _geometry, _shape
from .summary import table


class Choice(NamedTuple):
    """What auto takes for one pass. costs: of each algorithm that can, in multiply-adds of an image."""

    name: str
    algorithm: str
    costs: dict
    why: str


class Explanation(tuple):
    """A Choice for forward, backward_input and backward_weight; str() is the table."""

    def __str__(self):
        cells = [("pass", "auto takes", "why", *(f"{name}, M" for name in _core.ALGORITHMS[1:]))]
        for choice in self:
            costs = (choice.costs.get(name) for name in _core.ALGORITHMS[1:])
            cells.append((choice.name, choice.algorithm, choice.why,
                          *("-" if cost is None else f"{cost / 1e6:,.1f}" for cost in costs)))
        return table(cells, numbers=len(cells[0]) - 3)


def explain(x_shape, weight_shape, stride=1, padding=0, dilation=1, groups=1):
    """What algorithm="auto" takes for conv2d and its two gradients, and what it expects of each algorithm.

        print(fastconv.explain((1, 64, 56, 56), (64, 64, 3, 3), padding=1))

    x_shape (N, C, H, W), weight_shape (K, C/groups, R, S) -> an Explanation. Costs are multiply-adds of the
    inner loops; for Winograd's algorithm (Lavin and Gray, arXiv 1509.09308) its transforms count as well, and
    in backward_weight what it takes to begin and end the sums of either algorithm. Winograd's takes more
    memory and has larger errors, so it must be faster by more than a little. The choice depends on the
    weight's shape and on the size of one image, that of backward_weight, which sums over images, also on N;
    never on the machine.
    Raises ValueError or TypeError as conv2d does.
    """
    x_shape, weight_shape = _shape("x_shape", x_shape), _shape("weight_shape", weight_shape)
    options = _geometry(weight_shape, stride, padding, dilation, groups, "auto")
    return Explanation(Choice(name, algorithm, costs, _reason(algorithm, costs))
                       for name, algorithm, costs in _core.conv2d_choices(x_shape, weight_shape, *options))


def _reason(algorithm, costs):
    if "winograd" not in costs:
        return ("winograd needs square filters of more than s and at most 5 s taps at a stride s of 1 to 4, "
                "and dilation 1")
    gain = costs["direct"] / costs["winograd"]
    if algorithm == "winograd":
        return f"winograd should be {gain:.1f} times as fast"
    return f"winograd should be {gain:.2f} times as fast: not enough"
