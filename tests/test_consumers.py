"""Programs that call the C interface, built for the installed package: those of examples/ and consumers/."""

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import checkpoint, data, models
from fastconv import functional as F

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
CXX = (sysconfig.get_config_var("CXX") or "c++").split()[0]
PYTHON_H = Path(sysconfig.get_path("include")) / "Python.h"
needs_compiler = pytest.mark.skipif(not shutil.which(COMPILER), reason=f"no C compiler ({COMPILER})")
needs_python_h = pytest.mark.skipif(not PYTHON_H.is_file(), reason="Python's headers are not installed")
FREE_THREADED = sysconfig.get_config_var("Py_GIL_DISABLED")
PACKAGE_PARENT = str(Path(fastconv.__file__).parents[1])


def run(*command, cwd, **environment):
    """Standard output; this fastconv is the one that is imported, and found by cimport."""
    variables = os.environ | {"PYTHONPATH": PACKAGE_PARENT} | environment
    done = subprocess.run([*map(str, command)], cwd=cwd, env=variables, timeout=300, capture_output=True,
                          text=True)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def built(folder, where):
    """The extension module of a folder with a setup.py, built in a copy of it."""
    pytest.importorskip("setuptools")
    shutil.copytree(folder, where, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("build", "*.so", "__pycache__"))
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=where)
    (path,) = (path for path in where.iterdir() if path.suffix in (".so", ".pyd"))
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def equal(actual, expected):
    np.testing.assert_array_equal(np.ascontiguousarray(actual).view(np.int32),
                                  np.ascontiguousarray(expected).view(np.int32))


# ---- the header and pkg-config ------------------------------------------------------------------------

USE = """
#ifdef WITH_PYTHON
#include <Python.h>
#endif
#include <fastconv.h>
int use(const fastconv_api *fc, const float *a, float *b);
int use(const fastconv_api *fc, const float *a, float *b)
{
    fastconv_conv2d conv = fastconv_conv2d_defaults();
    fastconv_pool2d pool = fastconv_pool2d_defaults(2);
    fastconv_batch_norm norm = fastconv_batch_norm_defaults();
    fastconv_tensor x = fastconv_nchw(a, 1, 2, 3, 4), y = fastconv_channels_last(b, 1, 2, 3, 4);
    return fc->conv2d_forward(&conv, &x, &x, NULL, NULL, &y) + fc->max_pool2d_forward(&pool, &x, &y, NULL) +
           fc->batch_norm_forward(&norm, &x, NULL, &y, NULL, NULL) + (fastconv_get_api(1) != fc);
}
"""
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]


@pytest.mark.parametrize("standard", ["c99", "c11", "c17", "c++11", "c++17"])
def test_the_header_compiles_without_warnings(standard, tmp_path):
    compiler, suffix = (CXX, ".cpp") if "+" in standard else (COMPILER, ".c")
    if not shutil.which(compiler):
        pytest.skip(f"no compiler ({compiler})")
    source = tmp_path / f"use{suffix}"
    source.write_text(USE)
    strict = ["-Wstrict-prototypes"] if suffix == ".c" else []
    run(compiler, f"-std={standard}", *STRICT, *strict, f"-I{fastconv.get_include()}", "-c", source, "-o",
        tmp_path / "use.o", cwd=tmp_path)


@needs_python_h
@pytest.mark.parametrize("limited", [
    pytest.param([], id="all"),
    pytest.param(["-DPy_LIMITED_API=0x030B0000"], id="limited API",
                 marks=pytest.mark.skipif(FREE_THREADED, reason="free-threaded Python has no limited API")),
])
@pytest.mark.parametrize("standard", ["c11", "c++17"])
def test_fastconv_import_compiles(standard, limited, tmp_path):
    compiler, suffix = (CXX, ".cpp") if "+" in standard else (COMPILER, ".c")
    if not shutil.which(compiler):
        pytest.skip(f"no compiler ({compiler})")
    source = tmp_path / f"use{suffix}"
    source.write_text(USE + "const fastconv_api *import(void);\n"
                            "const fastconv_api *import(void) { return fastconv_import(); }\n")
    run(compiler, f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-DWITH_PYTHON", *limited,
        f"-I{fastconv.get_include()}", f"-I{PYTHON_H.parent}", "-c", source, "-o", tmp_path / "use.o",
        cwd=tmp_path)


def test_pkg_config_finds_the_header():
    folder = run(sys.executable, "-m", "fastconv", "config", "--pkgconfigdir", cwd=HERE).strip()
    text = (Path(folder) / "fastconv.pc").read_text()
    assert re.search(r"^Version: (.*)$", text, re.M)[1] == fastconv.__version__
    if not shutil.which("pkg-config"):
        pytest.skip("no pkg-config")
    flags = run("pkg-config", "--cflags", "fastconv", cwd=HERE, PKG_CONFIG_PATH=folder).split()
    (folder,) = (Path(flag.removeprefix("-I")) for flag in flags)
    assert folder.resolve() == Path(fastconv.get_include()).resolve()


def test_config_names_the_include_path_and_the_library():
    flags = run(sys.executable, "-m", "fastconv", "config", "--cflags", cwd=HERE).strip()
    assert flags == f"-I{fastconv.get_include()}"
    library = run(sys.executable, "-m", "fastconv", "config", "--library", cwd=HERE).strip()
    assert ctypes.CDLL(library).fastconv_get_api


# ---- Cython: every function ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    pytest.importorskip("Cython")
    if not shutil.which(COMPILER) or not PYTHON_H.is_file():
        pytest.skip("no C compiler or no headers of Python")
    return built(HERE / "consumers" / "cython_calls", tmp_path_factory.mktemp("cython_calls"))


def test_cython_process(calls):
    version, isa, api, threads, text, message = calls.process()
    assert (version, isa, api, threads) == (fastconv.__version__, fastconv.isa(), 1, 2)
    assert text == "an option is out of its range"
    assert message == "threads must be from 0 to 1024, got -1"


def test_cython_conv2d(calls, rng):
    x, w, bias, dy = floats(rng, 2, 4, 9, 9), floats(rng, 6, 2, 3, 3), floats(rng, 6), floats(rng, 2, 6, 5, 5)
    options = dict(stride=2, padding=1, groups=2)
    y, dx, dw, dbias = (np.empty_like(a) for a in (dy, x, w, bias))
    assert calls.conv2d(x, w, bias, dy, y, **options) == (5, 5)
    equal(y, F.conv2d(x, w, bias, residual=dy, activation="relu", **options))
    calls.conv2d_backward(dy, x, w, dx, dw, dbias, **options)
    equal(dx, F.conv2d_backward_input(dy, w, x.shape, **options))
    equal(dw, F.conv2d_backward_weight(dy, x, w.shape, **options))
    equal(dbias, F.conv2d_backward_bias(dy))
    with pytest.raises(ValueError, match="weight must have 4 input channels"):
        calls.conv2d(x, w, bias, dy, y)
    with pytest.raises(ValueError, match="y must have size 2 x 6 x 9 x 9, got 2 x 6 x 5 x 5"):
        calls.conv2d(x, w, bias, dy, y, padding=1, groups=2)


def test_cython_pooling(calls, rng):
    x, dy, adaptive = floats(rng, 2, 3, 8, 8), floats(rng, 2, 3, 4, 4), floats(rng, 2, 3, 3, 5)
    y, dx, argmax = np.empty_like(dy), np.empty_like(x), np.empty(dy.shape, np.uint8)
    assert calls.max_pool2d(x, argmax, dy, y, dx, 2) == (4, 4)
    expected, positions = F.max_pool2d_argmax(x, 2)
    equal(y, expected)
    equal(dx, F.max_pool2d_backward(dy, positions, x.shape, 2))
    calls.avg_pool2d(x, dy, y, dx, 2)
    equal(y, F.avg_pool2d(x, 2))
    equal(dx, F.avg_pool2d_backward(dy, x.shape, 2))
    y = np.empty_like(adaptive)
    calls.avg_pool2d(x, adaptive, y, dx, 0)
    equal(y, F.adaptive_avg_pool2d(x, (3, 5)))
    equal(dx, F.adaptive_avg_pool2d_backward(adaptive, x.shape))


def test_cython_tanh(calls, rng):
    x, dy = floats(rng, 100), floats(rng, 100)
    y, dx = np.empty_like(x), np.empty_like(x)
    calls.tanh(x, dy, y, dx)
    equal(y, F.tanh(x))
    equal(dx, F.tanh_backward(dy, y))


def test_cython_batch_norm(calls, rng):
    x, residual, dy = (floats(rng, 2, 3, 4, 5) for _ in range(3))
    y, dx, dresidual = (np.empty_like(x) for _ in range(3))
    weight = floats(rng, 3)
    mean, invstd, dweight, dbias = (np.empty_like(weight) for _ in range(4))
    calls.batch_norm(x, weight, residual, dy, y, mean, invstd, dx, dresidual, dweight, dbias)
    expected = F.batch_norm_train(x, weight, residual=residual, activation="relu")
    gradients = F.batch_norm_backward(dy, x, *expected[1:], weight, y=expected[0], return_residual=True)
    results = (y, mean, invstd, dx, dweight, dbias, dresidual)
    for actual, wanted in zip(results, expected + gradients, strict=True):
        equal(actual, wanted)


def test_cython_linear(calls, rng):
    x, w, bias, dy = floats(rng, 3, 5, 1, 1), floats(rng, 7, 5, 1, 1), floats(rng, 7), floats(rng, 3, 7, 1, 1)
    y, dx, dw = np.empty_like(dy), np.empty_like(x), np.empty_like(w)
    calls.linear(x, w, bias, dy, y, dx, dw)
    x, w, dy = (a[:, :, 0, 0] for a in (x, w, dy))
    equal(y[:, :, 0, 0], F.linear(x, w, bias))
    equal(dx[:, :, 0, 0], F.linear_backward_input(dy, w))
    equal(dw[:, :, 0, 0], F.linear_backward_weight(dy, x))


def test_cython_layouts(calls):
    x = np.zeros((2, 3, 4, 5), np.float32)
    address, shape = x.ctypes.data, (2, 3, 4, 5)
    assert calls.layouts(x) == [(address, shape, (60, 20, 5, 1)), (address, shape, (60, 1, 15, 3))]


# ---- the examples -------------------------------------------------------------------------------------


@needs_compiler
@needs_python_h
def test_the_cython_example(tmp_path, rng):
    pytest.importorskip("Cython")
    gaussian = built(EXAMPLES / "cython", tmp_path)
    image = floats(rng, 20, 30, 3)
    blurred = gaussian.gaussian_blur(image, 1.5)
    distance = np.arange(-5, 6)
    taps = np.array([np.exp(-(i * i) / (2 * 1.5 * 1.5)) for i in distance], np.float32)
    taps /= taps.sum()
    x = image[None].transpose(0, 3, 1, 2)
    half = F.conv2d(x, np.broadcast_to(taps, (3, 1, 1, 11)), padding=(0, 5), groups=3)
    full = F.conv2d(half, np.broadcast_to(taps[:, None], (3, 1, 11, 1)), padding=(5, 0), groups=3)
    equal(blurred, full[0].transpose(1, 2, 0))
    flat = gaussian.gaussian_blur(np.ones((40, 40, 1), np.float32), 2)
    np.testing.assert_allclose(flat[6:-6, 6:-6], 1, rtol=1e-5)
    with pytest.raises(ValueError, match="sigma must be above 0"):
        gaussian.gaussian_blur(image, 0)


@needs_compiler
@needs_python_h
def test_the_c_extension_example(tmp_path, rng):
    edges = built(EXAMPLES / "c", tmp_path)
    image, out = floats(rng, 19, 23), np.empty((19, 23), np.float32)
    edges.sobel(image, out)
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
    dx, dy = F.conv2d(image[None, None], np.stack([across, across.T])[:, None], padding=1)[0]
    np.testing.assert_allclose(out, np.hypot(dx, dy), rtol=1e-6)
    for bad in (np.empty((19, 22), np.float32), np.empty((19, 23)), np.empty(19 * 23, np.float32)):
        with pytest.raises(ValueError, match="must be float32 arrays"):
            edges.sobel(image, bad)
    with pytest.raises(ValueError, match="larger than x"):
        edges.sobel(np.empty((0, 3), np.float32), np.empty((0, 3), np.float32))


@needs_compiler
@needs_python_h
def test_the_c_program_example(tmp_path, rng):
    pytest.importorskip("safetensors")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED"):
        pytest.skip("this Python has no shared library to link with")
    library, version = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDVERSION")
    program = tmp_path / "lenet5"
    run(COMPILER, "-std=c99", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", EXAMPLES / "c" / "lenet5.c",
        f"-I{fastconv.get_include()}", f"-I{PYTHON_H.parent}", f"-L{library}", f"-Wl,-rpath,{library}",
        f"-lpython{version}", "-o", program, cwd=tmp_path)
    model, images = models.lenet5(rng=rng).eval(), data.digits()[1].images[:20]
    checkpoint.save_weights(tmp_path / "model.safetensors", model.state_dict())
    images.tofile(tmp_path / "images.f32")
    paths = os.pathsep.join([PACKAGE_PARENT, str(Path(np.__file__).parents[1])])
    lines = run(program, "model.safetensors", "images.f32", cwd=tmp_path, PYTHONPATH=paths).splitlines()
    scores = model(images)
    assert [int(line[0]) for line in lines] == scores.argmax(axis=1).tolist()
    equal(np.array([line.split()[1:] for line in lines], np.float32), scores)

    (tmp_path / "short.f32").write_bytes(images.tobytes()[:-1])
    for weights, pixels, message in (
            ("model.safetensors", "short.f32", "short.f32: must hold 32 x 32 float32 pixels an image"),
            ("images.f32", "images.f32", "images.f32: is not a safetensors file")):
        failed = subprocess.run([program, weights, pixels], cwd=tmp_path, capture_output=True, text=True,
                                env=os.environ | {"PYTHONPATH": paths})
        assert (failed.returncode, failed.stderr) == (1, f"lenet5: {message}\n")


def test_the_ctypes_example(rng):
    path = EXAMPLES / "ctypes" / "convolve.py"
    spec = importlib.util.spec_from_file_location("convolve", path)
    convolve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(convolve)
    image, kernel = floats(rng, 7, 9), floats(rng, 3, 3)
    result = convolve.convolve(image.ravel().tolist(), 7, 9, kernel.ravel().tolist(), 3)
    equal(np.array(result, np.float32), F.conv2d(image[None, None], kernel[None, None]).ravel())
    with pytest.raises(ValueError, match="larger than x"):
        convolve.convolve([1.0] * 4, 2, 2, [1.0] * 9, 3)
