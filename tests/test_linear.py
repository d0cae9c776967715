"""linear and its gradients against the reference."""

import itertools

import numpy as np
import pytest
from check import assert_same_bits, check_op, in_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from views import check_out_views, check_views

from fastconv import functional

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
