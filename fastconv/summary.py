"""What a network consists of: layers, output shapes, parameters and multiply-adds as a table."""

from typing import NamedTuple


class Row(NamedTuple):
    """One layer that is not a container."""

    name: str
    kind: str
    output_shape: tuple
    parameters: int
    multiply_adds: int


class Summary(NamedTuple):
    """The rows of a network and its totals; str() is the table."""

    rows: list
    parameters: int
    multiply_adds: int

    def __str__(self):
        cells = [("layer", "type", "output shape", "parameters", "multiply-adds")]
        cells += [(row.name, row.kind, " x ".join(map(str, row.output_shape)), f"{row.parameters:,}",
                   f"{row.multiply_adds:,}") for row in self.rows]
        cells.append(("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}"))
        *lines, total = table(cells, numbers=2).splitlines()
        return "\n".join((*lines, lines[1], total))


def table(cells, numbers):
    """Rows of texts as a table, the first as its head, the last `numbers` columns to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    left = len(widths) - numbers
    head, *lines = ("  ".join(cell.rjust(width) if column >= left else cell.ljust(width)
                              for column, (cell, width) in enumerate(zip(row, widths, strict=True)))
                    for row in cells)
    return "\n".join((head, "-" * len(head), *lines))


def summary(model, input_shape, file=None):
    """Prints the table of `model` and returns it as a Summary.

    Nothing is computed, and the layers are those of the model's mode: auxiliary heads count in training.
    input_shape: (N, C, H, W), or (C, H, W) for one image; multiply-adds are those of the whole batch.
    A convolution has P = floor((H + 2*padding - R) / stride) + 1 output rows, R*S*C*K weights, K biases and
    R*S*C*K*P*Q multiply-adds per image (C per group). file: where to print, default standard output.
    Raises ValueError where the layers do not fit input_shape.
    """
    result = count(model, input_shape)
    print(result, file=file)
    return result


def count(model, input_shape):
    """The Summary that summary() prints."""
    shape = tuple(input_shape)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"input_shape must be (N, C, H, W) or (C, H, W), got {input_shape!r}")
    if len(shape) == 3:
        shape = (1, *shape)
    rows = [Row(name, type(layer).__name__, layer.output_shape(shape),
                sum(parameter.data.size for parameter in layer.parameters()), layer.multiply_adds(shape))
            for name, layer, shape in model.trace(shape)]
    return Summary(rows, sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows))
