"""Files of weights and of interrupted trainings: safetensors, replaced in one step, never half-written.

A file of weights holds the arrays of a state_dict under their names, as torch and torchvision write them.
A checkpoint of a training holds the arrays of all its parts and, as JSON in the metadata, everything else.
"""

import json
import os

import numpy as np

from .extras import require
from .files import atomic_write

_CHECKPOINT_FORMAT = "fastconv-checkpoint-1"
_PARTS = {"model", "optimizer", "schedule", "options", "shuffle", "layers", "epoch", "totals", "history"}


def save_weights(path, state_dict, metadata=None):
    """Writes name -> array to a safetensors file, in C order, with `metadata`, a dict of strings.

    Raises ImportError without safetensors, OSError where the file cannot be written.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in state_dict.items()}
    contents = require("safetensors.numpy").save(arrays, metadata)
    with atomic_write(path) as file:
        file.write(contents)


def load_weights(path):
    """(state_dict, metadata) of a safetensors file; of a checkpoint, the model's part and its options.

    The arrays are new ones; metadata is a dict of strings, empty where the file has none.
    Raises ImportError without safetensors, OSError where the file cannot be opened, ValueError where it is
    damaged or not of this format.
    """
    arrays, metadata = _read(path)
    if metadata.get("format") != _CHECKPOINT_FORMAT:
        return arrays, metadata
    state = _joined(path, arrays, metadata)
    return state["model"], {name: str(value) for name, value in state["options"].items()}


def save_training(path, state):
    """Writes the state of a training: a dict of parts, dicts and lists of arrays and JSON's values.

    model, optimizer, schedule (or None): their state_dicts; options: flat; shuffle: state of the generator
    from which the order of the current epoch was drawn; layers: name -> state of the layer's generator;
    epoch: those finished; totals: sums over the current epoch's steps so far; history: a row per epoch.
    Raises as save_weights does.
    """
    arrays = {}
    text = json.dumps(_split(state, "", arrays))
    save_weights(path, arrays, {"format": _CHECKPOINT_FORMAT, "state": text})


def load_training(path):
    """The state that save_training wrote, bit for bit.

    Raises as load_weights does, ValueError also for safetensors files of another kind.
    """
    arrays, metadata = _read(path)
    if metadata.get("format") != _CHECKPOINT_FORMAT:
        raise ValueError(f"{os.fspath(path)} holds weights but no checkpoint of a training")
    return _joined(path, arrays, metadata)


def require_same_options(saved, given):
    """Raises ValueError naming the first of the options `given` that is not as in the checkpoint."""
    for name, value in given.items():
        if name not in saved:
            raise ValueError(f"{name} is {value!r}, but the checkpoint knows no such option")
        if saved[name] != value:
            raise ValueError(f"{name} is {value!r}, but the checkpoint was made with {saved[name]!r}")


def _read(path):
    """(arrays, metadata) of a safetensors file."""
    safetensors = require("safetensors")
    os.stat(path)  # an OSError with the name, where the file is missing
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{os.fspath(path)} is damaged or not a safetensors file: {error}") from error


def _split(value, name, arrays):
    """JSON's image of `value`; its arrays go to `arrays`, each under its path, "model/conv1.weight"."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name}
    if isinstance(value, dict):
        return {key: _split(part, f"{name}/{key}" if name else key, arrays) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_split(part, f"{name}/{index}", arrays) for index, part in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _joined(path, arrays, metadata):
    """The inverse of `_split`."""
    try:
        state = json.loads(metadata["state"], object_hook=lambda part: (
            arrays[part["array"]] if part.keys() == {"array"} else part))
        if state.keys() != _PARTS:
            raise KeyError(*state.keys() ^ _PARTS)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} is a damaged checkpoint: {error!r}") from error
    return state
