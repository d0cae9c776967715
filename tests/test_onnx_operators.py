"""The standard's own tests of operators, those of float images and rows that keep the images apart."""

import warnings

import numpy as np
import pytest

import fastconv.onnx

onnx = pytest.importorskip("onnx")

NAMES = """
averagepool_2d_ceil averagepool_2d_ceil_last_window_starts_on_pad averagepool_2d_default
averagepool_2d_pads_count_include_pad averagepool_2d_precomputed_pads
averagepool_2d_precomputed_pads_count_include_pad averagepool_2d_precomputed_strides averagepool_2d_strides
basic_conv_with_padding basic_conv_without_padding batchnorm_epsilon batchnorm_example clip
clip_default_inbounds clip_default_max clip_default_min clip_example clip_inbounds clip_outbounds
clip_splitbounds constant_pad constant_pad_axes constant_pad_negative_axes conv_with_autopad_same
conv_with_strides_and_asymmetric_padding conv_with_strides_no_padding conv_with_strides_padding
dropout_default dropout_default_old dropout_default_ratio flatten_axis1 flatten_default_axis
flatten_negative_axis3 gemm_alpha gemm_beta gemm_default_no_bias gemm_default_scalar_bias
gemm_default_single_elem_vector_bias gemm_default_vector_bias gemm_default_zero_bias gemm_transposeB
globalaveragepool globalaveragepool_precomputed logsoftmax_axis_0 logsoftmax_axis_1 logsoftmax_axis_2
logsoftmax_default_axis logsoftmax_example_1 logsoftmax_large_number logsoftmax_negative_axis lrn
lrn_default lstm_batchwise lstm_bidirectional lstm_defaults lstm_with_initial_bias matmul_2d maxpool_2d_ceil
maxpool_2d_ceil_output_size_reduce_by_one maxpool_2d_default maxpool_2d_dilations maxpool_2d_pads
maxpool_2d_precomputed_pads maxpool_2d_precomputed_same_upper maxpool_2d_precomputed_strides
maxpool_2d_same_lower maxpool_2d_same_upper maxpool_2d_strides relu reshape_extended_dims
reshape_negative_dim reshape_reduced_dims reshape_reordered_last_dims reshape_zero_and_negative_dim
reshape_zero_dim sigmoid sigmoid_example softmax_axis_0 softmax_axis_1 softmax_axis_2 softmax_default_axis
softmax_example softmax_large_number softmax_negative_axis squeeze_negative_axes tanh tanh_example
transpose_all_permutations_1 transpose_all_permutations_2 transpose_all_permutations_3
transpose_all_permutations_4 transpose_all_permutations_5 transpose_default unsqueeze_axis_1
unsqueeze_axis_2 unsqueeze_negative_axes unsqueeze_three_axes unsqueeze_two_axes unsqueeze_unsorted_axes
"""


@pytest.fixture(scope="module")
def node_tests():
    """name -> the test, with its model, arrays and tolerances; onnx computes them when asked."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = pytest.importorskip("onnx.backend.test.case.node").collect_testcases()
    return {case.name.removeprefix("test_"): case for case in cases}


@pytest.mark.parametrize("name", NAMES.split())
def test_operators_conform(name, node_tests, tmp_path):
    """Inputs but the first are constants here."""
    if name not in node_tests:
        pytest.skip("this version of onnx has no such test")
    case = node_tests[name]
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    (x, *others), (expected, *_) = case.data_sets[0]
    for array, given in zip(others, model.graph.input[1:], strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), given.name))
    del model.graph.input[1:]
    del model.graph.output[1:]
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    network = fastconv.onnx.load(path)
    for y in (network(x), network.compile(x.shape)(x)):
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=case.rtol, atol=case.atol)
