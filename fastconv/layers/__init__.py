"""Layers: a constructor, forward and backward; containers of layers. Words and argument order are torch's.

    model = Sequential(Conv2d(1, 6, 5), ReLU(), MaxPool2d(2), Flatten(), Linear(6 * 14 * 14, 10))
    scores = model(images)
    model.backward(loss.backward())

Arrays are float32, images logically N x C x H x W; outputs take the memory layout of the input. Gradients are
explicit: backward needs a forward before it and gives the gradient with respect to that forward's input.
RNN and LSTM take and give states too, as in torch: (output, h_n) and (output, (h_n, c_n)).
"""

from .activation import Hardtanh, LogSoftmax, ReLU, ScaledTanh, Sigmoid, Softmax, Square, Tanh
from .base import Layer, Parameter
from .containers import Concat, Residual, Sequential
from .graph import Add, Graph, Join
from .linear import RBF, Conv2d, Linear, MappedConv2d
from .norm import BatchNorm2d, Dropout, LocalResponseNorm
from .pool import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d, Subsample2d
from .recurrent import LSTM, RNN
from .shape import ConstantPad2d, Flatten, Permute, Select, Unflatten

__all__ = ["LSTM", "RBF", "RNN", "AdaptiveAvgPool2d", "Add", "AvgPool2d", "BatchNorm2d", "Concat",
           "ConstantPad2d", "Conv2d", "Dropout", "Flatten", "Graph", "Hardtanh", "Join", "Layer", "Linear",
           "LocalResponseNorm", "LogSoftmax", "MappedConv2d", "MaxPool2d", "Parameter", "Permute", "ReLU",
           "Residual", "ScaledTanh", "Select", "Sequential", "Sigmoid", "Softmax", "Square", "Subsample2d",
           "Tanh", "Unflatten"]
