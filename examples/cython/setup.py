"""Builds the example: pip install --no-build-isolation . (or python setup.py build_ext --inplace)."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastconv

setup(
    name="gaussian",
    version="1.0",
    ext_modules=cythonize([Extension("gaussian", ["gaussian.pyx"], include_dirs=[fastconv.get_include()])],
                          language_level=3),
)
