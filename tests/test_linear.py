"""linear and its gradients against the reference."""

import itertools
import math

import numpy as np
import pytest
from check import assert_same_bits, check_op, in_layout, using_isa
from hypothesis import given, settings
from hypothesis import strategies as st
from views import check_out_views, check_views

import fastconv
from fastconv import functional, layers

# (N, D, K): rows, input features, output features
CASES = {
    "one": (1, 1, 1),
    "one output": (7, 19, 1),
    "one feature": (5, 1, 33),
    "one row": (1, 120, 84),
    "LeNet fc1": (3, 400, 120),
    "LeNet fc2": (8, 120, 84),
    "LeNet fc3": (9, 84, 10),
    "odd everything": (13, 37, 53),
    "64 of 64": (64, 64, 64),
    "many rows": (1000, 3, 6),
    "many features": (2, 3000, 16),
    "many outputs": (2, 6, 1000),
    "no rows": (0, 5, 7),
    "no features": (4, 0, 7),
    "no outputs": (4, 5, 0),
    "large": (128, 400, 120),
}
OPS = ("linear", "linear_backward_input", "linear_backward_weight", "linear_backward_bias")
FILLS = {
    "integers": lambda rng, *shape: rng.integers(-4, 5, shape).astype(np.float32),
    "floats": lambda rng, *shape: rng.standard_normal(shape).astype(np.float32),
}


def problem(op, sizes, fill, rng):
    """(arrays, terms) of one operation."""
    rows, features, outputs = sizes
    x, weight, dy = fill(rng, rows, features), fill(rng, outputs, features), fill(rng, rows, outputs)
    return {
        "linear": ([x, weight, fill(rng, outputs)], features + 1),
        "linear_backward_input": ([dy, weight], max(1, outputs)),
        "linear_backward_weight": ([dy, x], max(1, rows)),
        "linear_backward_bias": ([dy], max(1, rows)),
    }[op]


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", OPS)
def test_linear_matches_reference(op, case, fill, rng):
    arrays, terms = problem(op, CASES[case], FILLS[fill], rng)
    check_op(op, arrays, terms=terms, per_image=op in OPS[:2])


@pytest.mark.parametrize("case", ["one", "LeNet fc3", "no rows"])
def test_linear_without_bias(case, rng):
    arrays, terms = problem("linear", CASES[case], FILLS["floats"], rng)
    check_op("linear", [*arrays[:2], None], terms=terms)
    zeros = np.zeros_like(arrays[2])
    assert_same_bits(functional.linear(*arrays[:2]), functional.linear(*arrays[:2], zeros), "linear")


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(sizes=st.tuples(st.integers(0, 40), st.integers(0, 90), st.integers(0, 70)),
       seed=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("op", OPS)
def test_linear_of_any_size_matches_reference(op, sizes, seed):
    arrays, terms = problem(op, sizes, FILLS["integers"], np.random.default_rng(seed))
    check_op(op, arrays, terms=terms, per_image=op in OPS[:2])


@pytest.mark.parametrize("case", ["odd everything", "LeNet fc3", "one output"])
@pytest.mark.parametrize("op", OPS)
def test_any_strides_give_the_bits_of_a_contiguous_copy(op, case, rng):
    arrays, _ = problem(op, CASES[case], FILLS["floats"], rng)
    check_views(op, arrays)
    if op != "linear_backward_bias":
        check_out_views(op, arrays)


def test_weights_in_both_memory_orders_give_the_same_bits(rng):
    x, weight, bias = problem("linear", CASES["LeNet fc1"], FILLS["floats"], rng)[0]
    assert weight.flags.c_contiguous
    turned = in_layout(weight, "channels-last", "weight")
    assert turned.T.flags.c_contiguous
    y = functional.linear(x, weight, bias)
    assert_same_bits(functional.linear(x, turned, bias), y, "linear")
    assert_same_bits(functional.linear_backward_input(y, turned), functional.linear_backward_input(y, weight),
                     "linear_backward_input")


def test_the_gradient_of_the_weight_has_its_fastest_memory_order(rng):
    dy, x = problem("linear_backward_weight", CASES["LeNet fc3"], FILLS["floats"], rng)[0]
    assert functional.linear_backward_weight(dy, x).T.flags.c_contiguous


@pytest.mark.parametrize("features", [(3000, 70), (300, 7), (70, 2000)])
def test_a_batch_of_any_size_gives_the_bits_of_its_rows(features, rng):
    """Small and large batches are computed in different ways."""
    inputs, outputs = features
    x, weight, bias = (rng.standard_normal(shape).astype(np.float32)
                       for shape in ((70, inputs), (outputs, inputs), outputs))
    expected = functional.linear(x, weight, bias)
    for rows, order in itertools.product((1, 5, 32, 33), "CF"):
        y = functional.linear(x[:rows], np.asarray(weight, order=order), bias)
        assert_same_bits(y, expected[:rows], f"{rows} rows, weight in {order} order")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_activation_gives_the_bits_of_relu_behind(case, bias, rng):
    rows, features, outputs = CASES[case]
    integers, floats = FILLS["integers"], FILLS["floats"]
    x, b = integers(rng, rows, features), integers(rng, outputs) if bias else None
    if x.size:
        x[0, 0] = np.nan
    for isa in fastconv.available_isas():
        with using_isa(isa):
            for weight in (floats(rng, outputs, features), floats(rng, features, outputs).T):
                assert_same_bits(functional.linear(x, weight, b, activation="relu"),
                                 functional.relu(functional.linear(x, weight, b)), isa)
    with pytest.raises(ValueError, match="activation must be None or \"relu\", got 'tanh'"):
        functional.linear(x, weight, b, activation="tanh")


def test_no_features_leave_the_bias(rng):
    bias = FILLS["floats"](rng, 7)
    y = functional.linear(np.ones((4, 0), np.float32), np.ones((7, 0), np.float32), bias)
    assert_same_bits(y, np.broadcast_to(bias, (4, 7)), "linear")


def test_nan_stays_in_its_row(rng):
    x, weight, bias = problem("linear", CASES["odd everything"], FILLS["floats"], rng)[0]
    clean = functional.linear(x, weight, bias)
    x[5, 30] = np.nan
    y = functional.linear(x, weight, bias)
    assert np.isnan(y[5]).all()
    assert_same_bits(np.delete(y, 5, 0), np.delete(clean, 5, 0), "the other rows")


# ---- compressed weights ---------------------------------------------------------------------------------

WIDE = [isa for isa in fastconv.available_isas() if isa in ("avx512", "avx2")]
needs_wide_vectors = pytest.mark.skipif(not WIDE, reason="needs AVX2")
SPECIAL = np.array([0.0, -0.0, 1e-45, -1e-38, 2.0**-126, 3e38, np.inf, -np.inf, np.nan], np.float32)


def compressed_weight(weight):
    """What is made with wide vectors, whatever the instruction set of this run; others take it as well."""
    with using_isa(WIDE[0]):
        return functional.compress_weight(weight)


def weights(rng, outputs, inputs, special=0):
    """Normal ones, `special` of which are as floats seldom are."""
    weight = rng.standard_normal((inputs, outputs), np.float32).T
    for at in rng.integers((outputs, inputs), size=(special, 2)):
        weight[tuple(at)] = rng.choice(SPECIAL)
    return weight


@needs_wide_vectors
@pytest.mark.parametrize("special", [0, 40, 4000])
@pytest.mark.parametrize("size", [(128, 1), (128, 31), (256, 33), (384, 700), (1000, 513), (250, 1500)])
def test_compressed_weights_give_the_bits_of_the_weights(size, special, rng):
    """Rows of 128 outputs are compressed or, where a weight is far from the others, as they are."""
    weight, bias = weights(rng, *size, special), rng.standard_normal(size[0], np.float32)
    compressed = compressed_weight(weight)
    if compressed is None:
        assert special > size[1] / 8, "too many of the rows are as they are"
        return
    assert compressed.shape == size
    for rows, isa in itertools.product((0, 1, 2, 5, 40), fastconv.available_isas()):
        x = rng.standard_normal((rows, size[1]), np.float32)
        for threads, b, activation in ((1, bias, None), (3, None, "relu")):
            with using_isa(isa), fastconv.num_threads(threads):
                expected = functional.linear(x, weight, b, activation=activation)
                y = functional.linear(x, compressed, b, activation=activation)
            assert_same_bits(y, expected, f"{rows} rows, {isa}, {threads} threads")


@needs_wide_vectors
def test_compression_saves_an_eighth_or_is_left_alone(rng):
    weight = weights(rng, 1024, 600)
    compressed = compressed_weight(weight)
    assert 7 / 8 <= compressed.nbytes / weight.nbytes < 0.88
    assert compressed.itemsize == compressed.nbytes / weight.size
    assert compressed_weight(np.ascontiguousarray(weight)).nbytes == compressed.nbytes
    spread = np.ldexp(weight, rng.integers(-30, 30, weight.shape))
    for other in (spread, weight[:9], weight[:0], weight[:, :0]):  # of 9 outputs, 119 would be zeros
        assert compressed_weight(other) is None


@pytest.mark.parametrize("isa", sorted(set(fastconv.available_isas()) - set(WIDE)))
def test_narrow_vectors_compress_nothing(isa, rng):
    with using_isa(isa):
        assert functional.compress_weight(weights(rng, 1024, 600)) is None


@needs_wide_vectors
def test_compressed_weights_are_a_copy(rng):
    weight, x = weights(rng, 128, 50), rng.standard_normal((1, 50), np.float32)
    compressed, before = compressed_weight(weight), functional.linear(x, weight)
    weight[:] = 0
    assert_same_bits(functional.linear(x, compressed), before, "after a change of the weight")


@needs_wide_vectors
def test_compressed_weights_are_checked_as_others(rng):
    compressed = compressed_weight(weights(rng, 128, 50))
    with pytest.raises(ValueError, match=r"weight must have 49 columns.*got shape \(128, 50\)"):
        functional.linear(np.zeros((1, 49), np.float32), compressed)
    with pytest.raises(ValueError, match="bias"):
        functional.linear(np.zeros((1, 50), np.float32), compressed, np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="weight"):
        functional.compress_weight(np.zeros((128, 50)))
    with pytest.raises(ValueError, match="weight"):
        functional.compress_weight(np.zeros(128, np.float32))
    with pytest.raises(MemoryError, match="compress_weight"):
        compressed_weight(np.broadcast_to(np.float32(1), (2**30, 2**30)))


@needs_wide_vectors
@pytest.mark.parametrize("shape", [(4096, 1000), (120, 84)])
def test_a_plan_of_one_image_has_the_bits_of_the_layer(shape, rng):
    """Large weights are compressed there; the profiler then counts the bytes that are read."""
    layer, x = layers.Linear(*shape, rng=rng), rng.standard_normal((1, shape[0]), np.float32)
    with using_isa(WIDE[0]):
        plan = layer.compile(x.shape)
        with fastconv.profile() as p:
            assert_same_bits(plan(x), layer.eval()(x), "compiled")
    moved = [record.bytes for record in p.records if record.op == "linear"]
    assert len(moved) == 2
    is_large = 4 * math.prod(shape) > (fastconv._core.process_info()["cache_bytes"][1] or 1 << 20)
    assert (moved[0] < 0.92 * moved[1]) if is_large else moved[0] == moved[1]
