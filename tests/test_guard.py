"""The guard pages notice what they are there for."""

import ctypes
import threading

import numpy as np
import pytest
from guard import GUARDED, guard_pages

pytestmark = pytest.mark.skipif(not GUARDED, reason="guard pages need glibc")


@pytest.mark.parametrize(("at", "offset", "words"), [("end", 20, "0 bytes behind the end of x"),
                                                     ("start", -1, "1 bytes before the start of x")])
def test_a_touched_guard_is_a_failure_that_names_the_array(at, offset, words):
    def read():
        with guard_pages("reading") as place:
            x = place(np.ones(5, np.float32), "x", at=at)
            ctypes.string_at(x.ctypes.data + offset, 1)

    with pytest.raises(AssertionError, match=f"reading touched memory {words}"):
        read()


def test_a_guard_touched_by_another_thread_is_a_failure():
    def write():
        with guard_pages("writing") as place:
            y = place(np.ones(5, np.float32), "y")
            thread = threading.Thread(target=ctypes.memset, args=(y.ctypes.data + 24, 0, 1))
            thread.start()
            thread.join()

    with pytest.raises(AssertionError, match="writing touched memory 4 bytes behind the end of y"):
        write()


def test_guards_that_are_there_at_once_are_apart():
    """As those of threads are."""
    def touch(place):
        x = place(np.ones(5, np.float32), "x")
        ctypes.string_at(x.ctypes.data + 20, 1)

    def outer():
        with guard_pages("outer") as place:
            with pytest.raises(AssertionError, match="inner touched memory"), guard_pages("inner") as other:
                touch(other)
            touch(place)

    with pytest.raises(AssertionError, match=r"^outer touched memory 0 bytes behind the end of x(\n|$)"):
        outer()


def test_entries_that_lie_apart_have_guards_between():
    def read():
        with guard_pages("reading") as place:
            x = place(np.arange(10, dtype=np.float32).reshape(2, 5), "x", apart=True)
            np.testing.assert_array_equal(x, np.arange(10).reshape(2, 5))
            ctypes.string_at(x[0].ctypes.data + 23, 1)

    with pytest.raises(AssertionError, match=r"touched memory 3 bytes behind the end of x(\n|$)"):
        read()


def test_the_array_itself_may_be_used():
    with guard_pages("using") as place:
        for at in ("start", "end"):
            x = place(np.arange(24.0).reshape(2, 3, 4), "x", (0, 2, 1), at)
            x += 1
            np.testing.assert_array_equal(x, np.arange(1.0, 25.0).reshape(2, 3, 4))
            assert x.transpose(0, 2, 1).flags.c_contiguous
