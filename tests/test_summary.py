"""The table of a network's layers, shapes, parameters and multiply-adds."""

import io

import pytest

from fastconv import models
from fastconv.layers import AvgPool2d, BatchNorm2d, Concat, Conv2d, MaxPool2d, ReLU, Residual, Sequential
from fastconv.summary import summary

LENET5 = """\
layer    type       output shape      parameters  multiply-adds
---------------------------------------------------------------
conv1    Conv2d     1 x 6 x 28 x 28          156        117,600
relu1    ReLU       1 x 6 x 28 x 28            0              0
pool1    MaxPool2d  1 x 6 x 14 x 14            0              0
conv2    Conv2d     1 x 16 x 10 x 10       2,416        240,000
relu2    ReLU       1 x 16 x 10 x 10           0              0
pool2    MaxPool2d  1 x 16 x 5 x 5             0              0
flatten  Flatten    1 x 400                    0              0
fc1      Linear     1 x 120               48,120         48,000
relu3    ReLU       1 x 120                    0              0
fc2      Linear     1 x 84                10,164         10,080
relu4    ReLU       1 x 84                     0              0
fc3      Linear     1 x 10                   850            840
---------------------------------------------------------------
total                                     61,706        416,520
"""


def test_lenet5(capsys):
    result = summary(models.lenet5(), (1, 32, 32))
    assert (result.parameters, result.multiply_adds) == (61_706, 416_520)
    assert capsys.readouterr().out == LENET5


def test_multiply_adds_are_those_of_the_batch():
    file = io.StringIO()
    result = summary(models.create("lenet5", num_classes=7, in_channels=3), (8, 3, 32, 32), file)
    assert result.rows[0].output_shape == (8, 6, 28, 28)
    assert result.rows[0].multiply_adds == 8 * 6 * 28 * 28 * 3 * 25
    assert result.rows[-1].output_shape == (8, 7)
    assert file.getvalue() == f"{result}\n"


@pytest.mark.parametrize("size", [7, 12, 15])
@pytest.mark.parametrize("taps", [1, 3, 4])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_convolution_and_pooling_follow_the_formulas(size, taps, stride, padding):
    conv = Conv2d(4, 6, taps, stride, padding, groups=2)
    extent = (size - taps + 2 * padding) // stride + 1
    assert conv.output_shape((3, 4, size, size)) == (3, 6, extent, extent)
    assert conv.multiply_adds((3, 4, size, size)) == 3 * taps * taps * 2 * 6 * extent * extent
    if 2 * padding <= taps:
        for pool in (MaxPool2d(taps, stride, padding), AvgPool2d(taps, stride, padding)):
            assert pool.output_shape((3, 4, size, size)) == (3, 4, extent, extent)
            assert pool.multiply_adds((3, 4, size, size)) == 0


def test_nested_layers_are_rows_of_their_own():
    model = Sequential({
        "stem": Conv2d(3, 8, 3, padding=1, bias=False),
        "block": Residual(Sequential(BatchNorm2d(8), ReLU(), Conv2d(8, 4, 3, 2, 1)), Conv2d(8, 4, 1, 2)),
        "mixed": Concat({"one": Conv2d(4, 2, 1), "pool": MaxPool2d(3, 1, 1)}),
    })
    rows = summary(model, (3, 8, 8), io.StringIO()).rows
    assert [(row.name, row.kind, row.output_shape, row.parameters, row.multiply_adds) for row in rows] == [
        ("stem", "Conv2d", (1, 8, 8, 8), 216, 64 * 216),
        ("block.body.0", "BatchNorm2d", (1, 8, 8, 8), 16, 0),
        ("block.body.1", "ReLU", (1, 8, 8, 8), 0, 0),
        ("block.body.2", "Conv2d", (1, 4, 4, 4), 292, 16 * 288),
        ("block.shortcut", "Conv2d", (1, 4, 4, 4), 36, 16 * 32),
        ("mixed.one", "Conv2d", (1, 2, 4, 4), 10, 16 * 8),
        ("mixed.pool", "MaxPool2d", (1, 4, 4, 4), 0, 0),
    ]
    assert model.output_shape((1, 3, 8, 8)) == (1, 6, 4, 4)
    assert model.multiply_adds((1, 3, 8, 8)) == sum(row.multiply_adds for row in rows)


@pytest.mark.parametrize("shape", [(32, 32), (1, 1, 1, 32, 32), (1, 0, 32)])
def test_wrong_input_shapes_are_named(shape):
    with pytest.raises(ValueError, match="input_shape must be"):
        summary(models.lenet5(), shape)


def test_layers_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="weight must have 3 input channels"):
        summary(models.lenet5(), (3, 32, 32), io.StringIO())
