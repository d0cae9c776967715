"""ONNX files: load gives a network of layers, save writes one.

    model = fastconv.onnx.load("resnet50.onnx")
    plan = model.compile((16, 3, 224, 224))
    fastconv.onnx.save(models.resnet18(), "resnet18.onnx", (None, 3, 224, 224))
"""

from .reader import load
from .writer import save

__all__ = ["load", "save"]
