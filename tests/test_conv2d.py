"""conv2d and its gradients against the reference."""

import numpy as np
import pytest

import fastconv
from fastconv import functional, reference

CASES = {
    "one pixel": dict(x=(1, 1, 1, 1), w=(1, 1, 1, 1)),
    "odd everything": dict(x=(3, 5, 13, 11), w=(7, 5, 3, 5), stride=(2, 1), padding=(1, 2)),
    "filter larger than x": dict(x=(2, 3, 2, 2), w=(4, 3, 5, 5), padding=2),
    "no images": dict(x=(0, 3, 8, 8), w=(4, 3, 3, 3)),
    "dilated": dict(x=(2, 4, 12, 12), w=(6, 4, 3, 3), dilation=2, padding=2),
    "depthwise": dict(x=(2, 8, 9, 9), w=(8, 1, 3, 3), groups=8),
}


@pytest.mark.parametrize("isa", fastconv.available_isas())
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_integers_are_exact(case, isa):
    options = {name: value for name, value in case.items() if name not in "xw"}
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, case["x"]).astype(np.float32)
    w = rng.integers(-4, 5, case["w"]).astype(np.float32)
    before = fastconv.isa()
    fastconv.set_isa(isa)
    try:
        y = functional.conv2d(x, w, **options)
        dy = rng.integers(-4, 5, y.shape).astype(np.float32)
        dx = functional.conv2d_backward_input(dy, w, x.shape, **options)
        dw = functional.conv2d_backward_weight(dy, x, w.shape, **options)
    finally:
        fastconv.set_isa(before)
    np.testing.assert_array_equal(y, reference.conv2d(x, w, **options))
    np.testing.assert_array_equal(dx, reference.conv2d_backward_input(dy, w, x.shape, **options))
    np.testing.assert_array_equal(dw, reference.conv2d_backward_weight(dy, x, w.shape, **options))
