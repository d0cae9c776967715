"""Builds the consumer that calls every function by Cython."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastconv

setup(
    name="cython_calls",
    version="1.0",
    ext_modules=cythonize([Extension("cython_calls", ["cython_calls.pyx"],
                                     include_dirs=[fastconv.get_include()])], language_level=3),
)
