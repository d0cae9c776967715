"""PyTorch on fastconv: one line for a model, or the ops themselves.

    import fastconv.torch
    fastconv.torch.accelerate(model)        # convolutions, norms, pooling, ReLU, large linear layers
    fastconv.torch.restore(model)           # as it was

Needs torch 2.4 or later: pip install "fastconv[torch]".
"""

from .accelerate import accelerate, restore
from .ops import (
    adaptive_avg_pool2d,
    add_relu,
    avg_pool2d,
    batch_norm,
    conv2d,
    linear,
    max_pool2d,
    relu,
)

__all__ = ["accelerate", "adaptive_avg_pool2d", "add_relu", "avg_pool2d", "batch_norm", "conv2d", "linear",
           "max_pool2d", "relu", "restore"]
