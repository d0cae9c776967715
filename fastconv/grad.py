"""Whether layers keep what backward needs: a setting of each Python thread."""

import threading
from contextlib import contextmanager

_thread = threading.local()


def is_grad_enabled():
    """Whether forward keeps what backward needs, in this Python thread."""
    return getattr(_thread, "enabled", True)


@contextmanager
def no_grad():
    """Layers called from this Python thread inside the ``with`` block keep nothing for backward.

    Activations are then freed as soon as the next layers have read them. backward of such a forward raises
    RuntimeError. Modes stay as they are: eval() is another matter.
    """
    before = is_grad_enabled()
    _thread.enabled = False
    try:
        yield
    finally:
        _thread.enabled = before
