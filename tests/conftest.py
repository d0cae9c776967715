"""Fixtures shared by all tests."""

import zlib

import numpy as np
import pytest

import fastconv

pytest.register_assert_rewrite("check", "guard")


@pytest.fixture
def rng(request):
    """Random numbers that differ from test to test, but not from run to run."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))


@pytest.fixture(autouse=True)
def process_state():
    """Every test leaves the instruction set and the number of threads as it found them."""
    before = fastconv.isa(), fastconv.get_num_threads()
    yield
    assert (fastconv.isa(), fastconv.get_num_threads()) == before


@pytest.fixture(scope="module")
def torch_on_one_thread():
    """On small batches torch's threads only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
