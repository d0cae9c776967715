"""Builds the example: pip install --no-build-isolation . (or python setup.py build_ext --inplace)."""

from setuptools import Extension, setup

import fastconv

setup(
    name="edges",
    version="1.0",
    ext_modules=[Extension("edges", ["edges.c"], include_dirs=[fastconv.get_include()])],
)
