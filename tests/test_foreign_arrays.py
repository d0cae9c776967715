"""Arrays that are not NumPy's: buffers, DLPack, __array_interface__, __array__, taken where they lie."""

import array
import ctypes

import numpy as np
import pytest
import test_errors

from fastconv import functional as F


class DLPack:
    """A tensor of another library that knows DLPack alone: it has not even a shape."""

    def __init__(self, memory):
        self._memory = memory

    def __dlpack__(self, **options):
        return self._memory.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._memory.__dlpack_device__()


class Interface:
    def __init__(self, memory):
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__


class Array:
    """As pandas and h5py: what __array__ gives may be a copy."""

    def __init__(self, memory):
        self._memory = memory

    def __array__(self, dtype=None, copy=None):
        return self._memory


KINDS = {"buffer": memoryview, "DLPack": DLPack, "interface": Interface, "array": Array}
WRITABLE = [kind for kind in KINDS if kind != "array"]


def equal(actual, expected):
    """The same bits, in NumPy arrays."""
    actual, expected = (x if isinstance(x, tuple) else (x,) for x in (actual, expected))
    for one, other in zip(actual, expected, strict=True):
        if isinstance(other, tuple):
            equal(one, other)
        else:
            assert isinstance(one, np.ndarray)
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def random_arguments(op, rng):
    """Arguments of a call that works, positive, for variances."""
    return {name: rng.random(value.shape, np.float32) if isinstance(value, np.ndarray) else value
            for name, value in test_errors.valid(op).items()}


# ---- every function -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op", [op for op in test_errors.CALLS if "dropout" not in op])
def test_every_function_takes_them(op, kind, rng):
    arguments = random_arguments(op, rng)
    # Running averages are written.
    wrap = {name: KINDS["DLPack" if kind == "array" and "running" in name else kind] for name in arguments}
    given = {name: wrap[name](value.copy()) if isinstance(value, np.ndarray) else value
             for name, value in arguments.items()}
    equal(getattr(F, op)(**given), getattr(F, op)(**arguments))


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("op", [op for op in test_errors.CALLS if "dropout" not in op])
def test_every_function_writes_them(op, kind, rng):
    arguments = random_arguments(op, rng)
    expected = getattr(F, op)(**arguments)
    memory = np.full((expected[0] if isinstance(expected, tuple) else expected).shape, 7, np.float32)
    out = KINDS[kind](memory)
    result = getattr(F, op)(**arguments, out=out)
    assert (result[0] if isinstance(expected, tuple) else result) is out
    equal(memory, expected[0] if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_others_take_them(kind, rng):
    wrap = KINDS[kind]
    x, y = rng.random((2, 3, 8, 8), np.float32), rng.random((2, 3, 8, 8), np.float32)
    equal(F.add(wrap(x), wrap(y), activation="relu"), F.add(x, y, activation="relu"))
    equal(F.concat([wrap(x), wrap(y)]), F.concat([x, y]))
    w = y[:, :, :3, :3]
    equal(F.conv2d(wrap(x), wrap(w), padding="same"), F.conv2d(x, w, padding="same"))
    equal(F.max_pool2d(wrap(x), 2, return_indices=True), F.max_pool2d(x, 2, return_indices=True))
    pooled, argmax = F.max_pool2d_argmax(x, 2)
    equal(F.max_pool2d_backward(wrap(pooled), wrap(argmax), x.shape, 2),
          F.max_pool2d_backward(pooled, argmax, x.shape, 2))
    dropped, mask = F.dropout(wrap(x), rng=np.random.default_rng(3), return_mask=True)
    equal(dropped, F.dropout(x, rng=np.random.default_rng(3)))
    equal(F.dropout_backward(wrap(x), mask, 0.5), dropped)
    _, mean, invstd = F.batch_norm_train(x)
    *_, dresidual = F.batch_norm_backward(wrap(y), x, mean, invstd, return_residual=True)
    equal(dresidual, y)


@pytest.mark.parametrize("kind", WRITABLE)
def test_strides_are_read_and_written(kind, rng):
    wrap = KINDS[kind]
    x, w = rng.random((2, 9, 11, 16), np.float32)[:, ::2, ::-1, 3:10], rng.random((6, 7, 3, 3), np.float32)
    x = x.transpose(0, 3, 1, 2)
    memory = np.zeros((2, 6, 3, 18), np.float32)[..., ::2]
    out = wrap(memory)
    assert F.conv2d(wrap(x), wrap(w), residual=wrap(np.ones_like(memory)), activation="relu", out=out) is out
    equal(memory, np.maximum(F.conv2d(x, w) + 1, 0))


def test_a_flat_buffer_is_enough():
    numbers = array.array("f", [-1, 2, -3])
    equal(F.relu(numbers), np.array([0, 2, 0], np.float32))
    assert F.relu(numbers, out=numbers) is numbers
    assert numbers.tolist() == [0, 2, 0]
    memory = (ctypes.c_float * 3)(-1, 2, -3)
    assert list(F.relu(memory, out=memory)) == [0, 2, 0]


# ---- no copies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_taken_where_it_lies(kind):
    """Only who reads x where it lies can tell that out overlaps it."""
    memory, w = np.ones((1, 4, 6, 6), np.float32), np.ones((4, 4, 1, 1), np.float32)
    for x in (memory, memory.transpose(0, 1, 3, 2), memory[:, :, ::-1]):
        with pytest.raises(ValueError, match="out must not overlap x"):
            F.conv2d(KINDS[kind](x), w, out=memory)
        with pytest.raises(ValueError, match="out must not overlap weight"):
            F.conv2d(x.copy(), KINDS[kind](memory[0, :, :4, :1, None]), out=memory)


@pytest.mark.parametrize("kind", WRITABLE)
def test_results_of_in_place_operations_lie_in_place(kind):
    memory = np.array([-1, 2, np.nan], np.float32)
    given = KINDS[kind](memory)
    assert F.relu(given, out=given) is given
    np.testing.assert_array_equal(memory, [0, 2, np.nan])


def test_results_carry_dlpack():
    y = F.relu(np.ones((2, 3), np.float32))
    assert np.from_dlpack(y).ctypes.data == y.ctypes.data


# ---- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "bool"])
def test_other_dtypes_are_refused(kind, dtype):
    x = KINDS[kind](np.ones((2, 2), dtype))
    with pytest.raises(TypeError, match=r"x must be (a )?float32"):
        F.relu(x)
    with pytest.raises(TypeError, match=r"out must be (a )?(writable )?float32"):
        F.relu(np.ones((2, 2), np.float32), out=x)


@pytest.mark.parametrize("kind", KINDS)
def test_an_out_that_cannot_be_written_is_refused(kind):
    memory = np.ones((2, 2), np.float32)
    memory.flags.writeable = False
    with pytest.raises(TypeError, match="out must be a writable float32 array"):
        F.relu(np.zeros((2, 2), np.float32), out=KINDS[kind](memory))
    assert (memory == 1).all()


def test_an_out_that_may_be_a_copy_is_refused():
    memory = np.ones((2, 2), np.float32)
    with pytest.raises(TypeError, match="out must be a writable float32 array, got Array"):
        F.relu(np.zeros((2, 2), np.float32), out=Array(memory))
    assert (memory == 1).all()


def test_memory_of_another_device_is_refused_unread():
    class OnGPU(DLPack):
        def __dlpack_device__(self):
            return 2, 1

        def __dlpack__(self, **options):
            raise AssertionError

    memory = np.ones((1, 1, 4, 4), np.float32)
    x = OnGPU(memory)
    for call in (lambda: F.relu(x), lambda: F.max_pool2d(x, 2), lambda: F.conv2d(memory, x)):
        with pytest.raises(TypeError, match=r"memory of the CPU, got OnGPU on DLPack's device \(2, 1\)"):
            call()


def test_what_an_exporter_says_is_passed_on():
    class Unwilling(DLPack):
        def __dlpack__(self, **options):
            raise BufferError("not today")

    with pytest.raises(TypeError, match=r"x must be a float32 array, got Unwilling .*not today"):
        F.relu(Unwilling(np.ones(3, np.float32)))


# ---- torch and JAX ------------------------------------------------------------------------------------


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    x, w = torch.randn(2, 8, 6, 5), torch.randn(4, 8, 3, 3)
    for images in (x, x.contiguous(memory_format=torch.channels_last), x.flip(0)[:, :, ::2]):
        y = F.conv2d(images, w, padding=1)
        equal(y, F.conv2d(images.numpy(), w.numpy(), padding=1))
        assert torch.from_dlpack(y).data_ptr() == y.ctypes.data
    out = torch.empty(2, 4, 4, 3)
    assert F.conv2d(x, w, out=out) is out
    equal(out.numpy(), F.conv2d(x.numpy(), w.numpy()))
    with pytest.raises(ValueError, match="out must not overlap x"):
        F.max_pool2d(x, 1, out=x)
    equal(F.relu(torch.nn.Parameter(x).detach()), F.relu(x.numpy()))


def test_torch_tensors_that_are_refused():
    torch = pytest.importorskip("torch")
    x = torch.ones(1, 1, 4, 4)
    for tensor, words in ((x.double(), "float64"), (x.bfloat16(), "torch.bfloat16"), (x.half(), "float16"),
                          (torch.nn.Parameter(x), "detach"), (x.to_sparse(), "strided"), (x.to("meta"), "")):
        for call in (F.relu, F.global_avg_pool2d, F.softmax, F.dropout):
            with pytest.raises(TypeError, match=f"x must be (a )?float32.*{words}"):
                call(tensor)
    with pytest.raises(TypeError, match=r"out must be a writable float32 array.*detach"):
        F.relu(x, out=torch.nn.Parameter(x))


def test_jax_arrays():
    jax = pytest.importorskip("jax")
    x = jax.numpy.asarray(np.random.default_rng(0).standard_normal((2, 4, 6, 6)), np.float32)
    w = jax.numpy.ones((3, 4, 3, 3), np.float32)
    y = F.conv2d(x, w)
    equal(y, F.conv2d(np.asarray(x), np.asarray(w)))
    address = np.asarray(x).ctypes.data
    memory = np.ctypeslib.as_array((ctypes.c_float * x.size).from_address(address)).reshape(x.shape)
    with pytest.raises(ValueError, match="out must not overlap x"):
        F.max_pool2d(x, 1, out=memory)
    with pytest.raises(TypeError, match="out must be a writable float32 array"):
        F.relu(x, out=x)
    with pytest.raises(TypeError, match=r"x must be (a )?float32.*bfloat16"):
        F.relu(x.astype(jax.numpy.bfloat16))
    assert jax.numpy.from_dlpack(y).shape == y.shape
