"""torch in the process of fastconv, where it is installed: for operations that memory limits, and calls."""

from contextlib import ExitStack, contextmanager

import fastconv

try:
    import torch
except ImportError:
    torch = None


@contextmanager
def settings(threads):
    """Gives every library `threads` threads, and has torch record nothing for gradients.

    NumPy's matrix products take theirs from the environment, which `python -m bench` sets.
    """
    with ExitStack() as stack:
        stack.enter_context(fastconv.num_threads(threads))
        if torch:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            stack.callback(torch.set_num_threads, before)
            stack.enter_context(torch.inference_mode())
        yield


def to_torch(arrays, layout):
    """torch tensors of (N, C, H, W) arrays, in the memory format of `layout`: "NCHW" or "NHWC"."""
    memory_format = torch.channels_last if layout == "NHWC" else torch.contiguous_format
    return [torch.from_numpy(array).clone(memory_format=memory_format) for array in arrays]
