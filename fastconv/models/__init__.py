"""Networks by name: ``models.create("lenet5", num_classes=10)`` is ``models.lenet5(num_classes=10)``."""

from .lenet import lenet5

_MODELS = {"lenet5": lenet5}

__all__ = ["create", "lenet5", "names"]


def names():
    """The names that create() takes."""
    return tuple(_MODELS)


def create(name, **options):
    """The network `name`, a layer; options go to its function. Raises ValueError for an unknown name."""
    if name not in _MODELS:
        raise ValueError(f"name must be one of {', '.join(_MODELS)}, got {name!r}")
    return _MODELS[name](**options)
