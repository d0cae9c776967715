"""accelerate and restore: modules change their class, and nothing else.

So a model keeps its parameter objects, buffers, hooks, modes and names, and isinstance sees torch's classes.
"""

import functools

from .. import threads
from . import fuse, modules
from .modules import nn
from .ops import torch


class Fused:
    """A user module, or Sequential, whose forward runs fused where fuse.program allows that."""

    def forward(self, *args, **kwargs):
        if torch.compiler.is_compiling() or kwargs:
            return super().forward(*args, **kwargs)
        now = fuse.state(self)
        before, program = self.__dict__.get("_program", (None, None))
        if now != before:
            program = fuse.program(self)
            self.__dict__["_program"] = now, program
        return super().forward(*args) if program is None else program(self, *args)

    def __reduce_ex__(self, protocol):
        """Copies and pickles name the original class: this one is made on use."""
        state = {name: value for name, value in vars(self).items() if name != "_program"}
        return _create, (type(self).original,), state


@functools.cache
def _fused(cls):
    """The subclass of a user's class."""
    return type(cls.__name__, (Fused, cls), {"original": cls, "_forward": cls.forward, "__doc__": cls.__doc__,
                                             "__module__": cls.__module__, "__qualname__": cls.__qualname__})


def _create(cls):
    fast = _fused(cls)
    return fast.__new__(fast)


def _faster(module):
    """The class that a module changes to, or None."""
    cls = type(module)
    if cls in modules.FAST:
        return modules.FAST[cls]
    if isinstance(module, Fused) or cls in modules.FAST.values():
        return None
    own = cls is nn.Sequential or not cls.__module__.startswith("torch.")
    plain = cls.__setattr__ is nn.Module.__setattr__ and cls.__reduce_ex__ is object.__reduce_ex__
    return _fused(cls) if own and plain and module._modules and "__slots__" not in vars(cls) else None


def accelerate(model):
    """Lets fastconv compute the Conv2d, BatchNorm2d, ReLU, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d and large
    Linear modules of a model, in place, in training and evaluation; returns the model.

    Modules change their class alone, so that parameters, state dict, hooks and modes stay what they are.
    In modules whose forward is provably a function of its inputs (see fuse.py), Sequential among them, ReLU
    and additions are computed with the convolution or norm before them. Activations are channels-last from
    the first convolution on. What fastconv has no kernels for (float64, bfloat16, other devices, autocast)
    stays torch's, with a warning. fastconv's threads become torch's: torch.get_num_threads(), in the process.
    Without gradients (torch.no_grad, torch.inference_mode) norms in evaluation mode are folded into the
    convolutions before them, and what these make of their weights, up to five times their memory, is kept
    until one changes: by any torch operation on it, load_state_dict, assignment, or a call with gradients.
    Changes by way of `.data` or NumPy, which torch does not count, are seen if they touch a whole filter,
    input channel, tap or vector; after smaller ones call accelerate again.
    Raises TypeError for what is no torch.nn.Module.
    """
    _check(model)
    for module in list(model.modules()):
        modules.forget(module)
        faster = _faster(module)
        if faster is not None:
            module.__class__ = faster
    threads.set_num_threads(torch.get_num_threads())
    return model


def restore(model):
    """Undoes accelerate: all modules have torch's, or their own, classes again; returns the model."""
    _check(model)
    for module in list(model.modules()):
        modules.forget(module)
        if isinstance(module, Fused):
            module.__dict__.pop("_program", None)
            module.__class__ = type(module).original
        elif type(module) in modules.FAST.values():
            module.__class__ = type(module).__base__
    return model


def _check(model):
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
