"""The networks of 1990 and 1998: parameters, connections and shapes are the published ones."""

import io
import math

import numpy as np
import pytest

from fastconv import models
from fastconv.layers import RBF, Subsample2d
from fastconv.losses import CrossEntropyLoss
from fastconv.models.lenet import digit_templates
from fastconv.optim import SGD
from fastconv.summary import summary


def connections(model, input_shape):
    """{layer: links into its units, that to its bias counted as one} for one image."""
    counts = {}
    for name, layer, shape in model.trace(input_shape):
        units = math.prod(layer.output_shape(shape))
        if isinstance(layer, Subsample2d):
            counts[name] = units * (math.prod(layer.pool.kernel_size) + 1)
        elif isinstance(layer, RBF):
            counts[name] = layer.multiply_adds(shape)
        elif layer.parameters():
            counts[name] = layer.multiply_adds(shape) + units
    return counts


def parameters(model):
    counts = {name: sum(parameter.data.size for parameter in layer.parameters())
              for name, layer in model.named_children()}
    return {name: count for name, count in counts.items() if count}


def test_lenet5_of_1998_has_the_numbers_of_the_paper():
    model = models.lenet5_1998()
    assert parameters(model) == {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}
    assert sum(parameters(model).values()) == 60_000
    found = connections(model, (1, 1, 32, 32))
    assert found == {"c1": 122_304, "s2": 5_880, "c3": 151_600, "s4": 2_000, "c5": 48_120, "f6": 10_164,
                     "output": 840}
    assert sum(found.values()) == 340_908
    assert summary(model, (1, 32, 32), io.StringIO()).multiply_adds == 326_520


def test_lenet5_of_1998_with_trained_scores():
    assert sum(parameters(models.lenet5_1998(7, 3, output="linear")).values()) == 60_000 + 2 * 150 + 7 * 85


def test_lenet1_has_the_numbers_of_1990():
    model = models.lenet1()
    assert sum(parameters(model).values()) == 2_578
    assert sum(connections(model, (1, 1, 28, 28)).values()) == 98_442


def test_lenet4_has_the_maps_of_the_paper():
    shapes = {name: layer.output_shape(shape)[1:] for name, layer, shape in
              models.lenet4().trace((1, 1, 32, 32))}
    assert {name: shapes[name] for name in ("c1", "tanh2", "c3", "s4", "f5", "output")} == {
        "c1": (4, 28, 28), "tanh2": (8, 14, 14), "c3": (16, 10, 10), "s4": (16, 5, 5), "f5": (120,),
        "output": (10,)}
    assert sum(parameters(models.lenet4()).values()) == 52_698


def test_digit_templates_are_images_of_ink_and_paper_far_from_each_other():
    templates = digit_templates()
    assert templates.shape == (10, 84)
    assert set(templates.ravel()) == {-1, 1}
    differences = (templates[:, None] != templates).sum(axis=2)
    assert differences[~np.eye(10, dtype=bool)].min() >= 13


@pytest.mark.parametrize(("create", "size"), [(models.lenet1, 28), (models.lenet4, 32),
                                              (models.lenet5_1998, 32), (models.lenet5, 32)])
def test_networks_learn_a_batch_by_heart(create, size):
    rng = np.random.default_rng(0)
    model = create(rng=rng)
    images = rng.standard_normal((10, 1, size, size)).astype(np.float32)
    loss, optimizer = CrossEntropyLoss(), SGD(model.parameters(), 0.01, momentum=0.9)
    for _ in range(60):
        loss(model(images), np.arange(10))
        optimizer.zero_grad()
        model.backward(loss.backward())
        optimizer.step()
    assert (model(images).argmax(axis=1) == np.arange(10)).all()


@pytest.mark.parametrize(("options", "message"), [
    ({"output": "softmax"}, 'output must be "rbf" or "linear", got \'softmax\''),
    ({"num_classes": 7}, "templates of the ten digits, got num_classes 7"),
])
def test_lenet5_of_1998_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        models.lenet5_1998(**options)
