"""Graph, Add, Join and Permute: what the containers give, and what they cannot say."""

import copy
import io

import numpy as np
import pytest
from check import assert_same_bits, in_layout
from test_layers import finite_differences, spaced
from test_plan import floats, with_statistics

import fastconv
from fastconv import reference
from fastconv.layers import (
    AdaptiveAvgPool2d,
    Add,
    BatchNorm2d,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Graph,
    Join,
    Linear,
    MaxPool2d,
    Permute,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Tanh,
)
from fastconv.summary import summary


def conv(inputs, outputs, kernel=3, stride=1):
    return Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


def twins():
    """(containers, the same layers in a Graph): a block with a projection, one without, four branches."""
    first = [conv(3, 8, stride=2), BatchNorm2d(8), ReLU(), conv(8, 8), BatchNorm2d(8)]
    skip = [conv(3, 8, 1, 2), BatchNorm2d(8)]
    second = [conv(8, 8), BatchNorm2d(8), ReLU(), conv(8, 8), Tanh()]
    branches = [conv(8, 4, 1), conv(8, 6), MaxPool2d(3, 1, 1), conv(8, 2)]
    relus = [ReLU() for _ in range(5)]
    end = [AdaptiveAvgPool2d(1), Flatten(), Dropout(0), Linear(20, 5)]
    containers = Sequential(
        Residual(Sequential(*first), Sequential(*skip)), relus[0], Residual(Sequential(*second)), relus[1],
        Concat(*(Sequential(branch, relu) for branch, relu in zip(branches[:2], relus[2:4], strict=True)),
               Sequential(branches[2]), Sequential(branches[3])), relus[4], *end)
    nodes = {}

    def chain(name, layers, begin):
        for index, layer in enumerate(layers):
            nodes[f"{name}.{index}"] = (layer, begin)
            begin = f"{name}.{index}"
        return begin

    def copied(layers):
        return copy.deepcopy(layers)

    ends = chain("a.body", copied(first), "x"), chain("a.skip", copied(skip), "x")
    nodes["a.sum"] = (Add(), *ends)
    nodes["a.relu"] = (ReLU(), "a.sum")
    nodes["b.sum"] = (Add(), chain("b.body", copied(second), "a.relu"), "a.relu")
    nodes["b.relu"] = (ReLU(), "b.sum")
    ends = [chain(f"c.{index}", copied([branch, ReLU()] if index < 2 else [branch]), "b.relu")
            for index, branch in enumerate(branches)]
    nodes["c.join"] = (Join(), *ends)
    chain("end", [ReLU(), *copied(end)], "c.join")
    return containers, Graph(nodes)


def test_a_graph_computes_what_containers_do(rng):
    containers, graph = twins()
    x = in_layout(floats(rng, 4, 3, 12, 10), "channels-last")
    y = containers(x)
    assert_same_bits(graph(x), y, "forward in training")
    grad = floats(rng, *y.shape)
    # Gradients of what several layers read are added up in another order.
    expected = containers.backward(grad)
    np.testing.assert_allclose(graph.backward(grad), expected, rtol=0, atol=1e-5 * abs(expected).max())
    ours, theirs = graph.parameters(), containers.parameters()
    assert_same_bits(ours[-1].grad, theirs[-1].grad, "gradient of the last layer")
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.grad, other.grad, rtol=0, atol=1e-5 * abs(other.grad).max())
    assert_same_bits(graph.eval()(x), containers.eval()(x), "evaluation")


def test_a_graph_compiles_as_containers_do(rng):
    containers, graph = twins()
    with_statistics(containers, np.random.default_rng(1))
    with_statistics(graph, np.random.default_rng(1))
    x = floats(rng, 2, 3, 12, 10)
    ours, theirs = graph.compile(x.shape), containers.compile(x.shape)
    y = ours(x)
    # A residual may be added by the other of two convolutions: same sums, another order of two terms.
    assert np.allclose(y, theirs(x), rtol=0, atol=1e-5 * abs(y).max())
    assert len(ours._steps) == len(theirs._steps)
    assert ours.memory_bytes <= theirs.memory_bytes
    assert_same_bits(y, graph.fuse()(in_layout(x, "channels-last")), "fused")
    assert not any(isinstance(layer, BatchNorm2d) for _, layer in graph.named_modules())


def test_gradients_of_what_is_read_twice_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    graph = Graph({"conv": (Conv2d(2, 3, 1, rng=rng), "x"), "tanh": (Tanh(), "conv"),
                   "join": (Join(), "tanh", "x", "conv"), "sigmoid": (Sigmoid(), "join"),
                   "sum": (Add(), "sigmoid", "join", "join")})
    x = spaced(rng, (2, 2, 3, 3))
    grad = spaced(rng, graph(x).shape)
    grad_x = graph.backward(grad)

    def loss(x):
        weight, bias = (parameter.data.astype(np.float64) for parameter in graph.parameters())
        y = reference.conv2d(x, weight, bias)
        joined = np.concatenate([np.tanh(y), x, y], axis=1)
        return np.vdot(reference.sigmoid(joined) + 2 * joined, grad)

    np.testing.assert_allclose(grad_x, finite_differences(loss, x), rtol=0, atol=1e-5)
    graph.needs_input_grad = False
    graph(x)
    assert graph.backward(grad) is None


def test_what_several_read_is_not_fused(rng):
    """The convolution's own output is needed, so its norm, ReLU and residual stay where they are."""
    graph = with_statistics(Graph({
        "conv": (Conv2d(3, 3, 1), "x"), "bn": (BatchNorm2d(3), "conv"), "relu": (ReLU(), "bn"),
        "again": (ReLU(), "conv"), "sum": (Add(), "relu", "again"), "join": (Join(), "sum", "conv", "sum"),
    }), rng)
    x = floats(rng, 2, 3, 4, 4)
    y = graph.conv(x)
    total = np.maximum(graph.bn(y), 0) + np.maximum(y, 0)
    assert_same_bits(graph(x), np.concatenate([total, y, total], axis=1), "forward")
    assert_same_bits(graph.compile(x.shape)(x), graph(in_layout(x, "channels-last")), "compiled")
    assert isinstance(graph.fuse().bn, BatchNorm2d)


def test_joins_inside_joins_are_computed_in_place(rng):
    graph = Graph({"a": (conv(3, 4), "x"), "b": (conv(3, 4), "x"), "inner": (Join(), "a", "b"),
                   "c": (conv(3, 2), "x"), "outer": (Join(), "inner", "c"),
                   "pool": (MaxPool2d(2), "outer")}).eval()
    x = in_layout(floats(rng, 2, 3, 6, 6), "channels-last")
    plan = graph.compile(x.shape)
    assert len(plan._steps) == 4
    assert plan.memory_bytes == 2 * 6 * 6 * 10 * 4
    assert_same_bits(plan(x), graph(x), "plan")


def test_joins_of_rows(rng):
    graph = Graph({"a": (Linear(3, 4), "x"), "b": (Linear(3, 2), "x"), "join": (Join(), "a", "b")}).eval()
    x = floats(rng, 5, 3)
    assert_same_bits(graph.compile(x.shape)(x), graph(x), "plan")
    assert_same_bits(graph(x), np.concatenate([graph.a(x), graph.b(x)], axis=1), "forward")


def test_channels_last_images_are_permuted_without_a_copy(rng):
    graph = Graph({"permute": (Permute((0, 3, 1, 2)), "x"), "conv": (conv(3, 4), "permute"),
                   "back": (Permute((0, 2, 3, 1)), "conv"), "rows": (Flatten(), "back")}).eval()
    x = floats(rng, 2, 6, 5, 3)
    plan = graph.compile(x.shape)
    expected = graph.conv(x.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1).reshape(2, -1)
    assert_same_bits(graph(x), expected, "forward")
    assert_same_bits(plan(x), expected, "plan")
    assert len(plan._steps) == 2  # the convolution, and the result, which is its own array
    assert graph.backward(expected).shape == x.shape


def test_a_permuted_result_is_an_array_of_its_own(rng):
    model = Sequential(conv(3, 4), Permute((0, 2, 3, 1))).eval()
    x = floats(rng, 1, 3, 4, 4)
    plan = model.compile(x.shape)
    y = plan(x)
    assert_same_bits(y, model(in_layout(x, "channels-last")), "plan")
    alone = Sequential(Permute((0, 2, 3, 1)))
    assert_same_bits(alone.compile(x.shape)(x), x.transpose(0, 2, 3, 1), "x itself")


def test_no_grad_frees_what_nothing_reads_any_more(rng):
    graph = Graph({str(index): (Tanh(), "x" if not index else str(index - 1)) for index in range(8)}).eval()
    x = floats(rng, 4, 8, 128, 128)
    fastconv.trim()
    before = fastconv.memory_stats()["used_bytes"]
    with fastconv.no_grad():
        y = graph(x)
    assert y.nbytes == x.nbytes
    assert fastconv.memory_stats()["peak_bytes"] - before <= 2.5 * x.nbytes


def test_names_and_summary():
    graph = Graph({"block.conv": (conv(3, 4), "x"), "block.join": (Join(), "block.conv", "x"),
                   "rows": (Flatten(), "block.join"), "fc": (Linear(7 * 16, 2), "rows")})
    assert list(graph.state_dict()) == ["block.conv.weight", "fc.weight", "fc.bias"]
    assert list(graph.nodes)[1:3] == ["block.join", "rows"]
    rows = summary(graph, (3, 4, 4), io.StringIO())
    assert rows.multiply_adds == 16 * 3 * 4 * 9 + 7 * 16 * 2
    assert [row.output_shape for row in rows.rows] == [(1, 4, 4, 4), (1, 7, 4, 4), (1, 112), (1, 2)]


@pytest.mark.parametrize(("nodes", "message"), [
    ({}, "a Graph needs at least one layer"),
    ({"a": (ReLU(), "b")}, "layer 'a' of Graph reads 'b', which stands not before it"),
    ({"a": (ReLU(),)}, r"layer 'a' of Graph has the inputs \(\)"),
    ({"a": (ReLU(), "x", "x")}, r"layer 'a' of Graph has the inputs \('x', 'x'\)"),
    ({"x": (ReLU(), "x")}, "layer 'x' of Graph has the inputs"),
    ({"a": (ReLU(), "x"), "b": (ReLU(), "x")}, "nothing reads 'a' of Graph"),
    ({"forward": (ReLU(), "x")}, "layer name 'forward' of Graph is empty, has a dot or is taken"),
])
def test_graph_refuses(nodes, message):
    with pytest.raises(ValueError, match=message):
        Graph(nodes)


@pytest.mark.parametrize(("layer", "shapes", "message"), [
    (Add(), ((2, 3, 4, 4), (2, 3, 4, 5)), "arrays must have one shape to be added"),
    (Join(), ((2, 3, 4, 4), (2, 3, 4, 5)), "arrays must agree in all axes but the second to be joined"),
])
def test_shapes_that_do_not_fit(layer, shapes, message):
    with pytest.raises(ValueError, match=message):
        layer.output_shape(*shapes)
    with pytest.raises(ValueError, match="arrays"):
        layer(*(np.zeros(shape, np.float32) for shape in shapes))
