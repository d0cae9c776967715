"""Optional packages, imported where they are used, and the error that says how to install them."""

import importlib


def require(module, extra="train"):
    """Imports and returns `module`, e.g. "safetensors.numpy"; raises ImportError saying what to install.

    extra: the optional dependencies, in pyproject.toml, that hold the package.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f'{package} is missing ({error}): pip install "fastconv[{extra}]"') from error
