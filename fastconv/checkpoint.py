"""Files of weights and of interrupted trainings: safetensors, replaced in one step, never half-written.

A file of weights holds the arrays of a state_dict under their names, as torch and torchvision write them.
A checkpoint of a training holds the arrays of all its parts and, as JSON in the metadata, everything else.

What is not an array is one JSON text under one key of the metadata: safetensors writes several keys in random
order, and equal weights are to give equal files.
"""

import json
import os

import numpy as np

from .extras import require
from .files import atomic_write

_WEIGHTS_KEY = "fastconv.weights"
_TRAINING_KEY = "fastconv.training"
_PARTS = {"model", "optimizer", "schedule", "options", "shuffle", "layers", "epoch", "totals", "history"}


def save_weights(path, state_dict, metadata=None):
    """Writes name -> array to a safetensors file, in C order, with `metadata`, a dict of JSON's values.

    Raises ImportError without safetensors, OSError where the file cannot be written.
    """
    _write(path, state_dict, {_WEIGHTS_KEY: json.dumps(metadata or {})})


def load_weights(path):
    """(state_dict, metadata) of a safetensors file; of a checkpoint, the model's part and its options.

    The arrays are new ones; metadata is empty where save_weights did not write the file.
    Raises ImportError without safetensors, OSError where the file cannot be opened, ValueError where it is
    damaged or not of this format.
    """
    arrays, metadata = _read(path)
    if _TRAINING_KEY in metadata:
        state = _joined(path, arrays, metadata[_TRAINING_KEY])
        return state["model"], state["options"]
    return arrays, _parsed(path, metadata.get(_WEIGHTS_KEY, "{}"))


def save_training(path, state):
    """Writes the state of a training: a dict of parts, dicts and lists of arrays and JSON's values.

    model, optimizer, schedule (or None): their state_dicts; options: flat; shuffle: state of the generator
    from which the order of the current epoch was drawn; layers: name -> state of the layer's generator;
    epoch: those finished; totals: sums over the current epoch's steps so far; history: a row per epoch.
    Raises as save_weights does.
    """
    arrays = {}
    text = json.dumps(_split(state, "", arrays))
    _write(path, arrays, {_TRAINING_KEY: text})


def load_training(path):
    """The state that save_training wrote, bit for bit.

    Raises as load_weights does, ValueError also for safetensors files of another kind.
    """
    arrays, metadata = _read(path)
    if _TRAINING_KEY not in metadata:
        raise ValueError(f"{os.fspath(path)} holds weights but no checkpoint of a training")
    return _joined(path, arrays, metadata[_TRAINING_KEY])


def require_same_options(saved, given):
    """Raises ValueError naming the first of the options `given` that is not as in the checkpoint."""
    for name, value in given.items():
        if name not in saved:
            raise ValueError(f"{name} is {value!r}, but the checkpoint knows no such option")
        if saved[name] != value:
            raise ValueError(f"{name} is {value!r}, but the checkpoint was made with {saved[name]!r}")


def _write(path, arrays, metadata):
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    contents = require("safetensors.numpy").save(arrays, metadata)
    with atomic_write(path) as file:
        file.write(contents)


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


def _joined(path, arrays, text):
    """The inverse of `_split`."""
    state = _parsed(path, text, lambda part: arrays[part["array"]] if part.keys() == {"array"} else part)
    if state.keys() != _PARTS:
        raise ValueError(f"{os.fspath(path)} is a damaged checkpoint: parts {sorted(state.keys() ^ _PARTS)}")
    return state


def _parsed(path, text, object_hook=None):
    """The dict whose JSON is `text`."""
    try:
        parsed = json.loads(text, object_hook=object_hook)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} has damaged metadata: {error!r}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{os.fspath(path)} has damaged metadata: {text[:40]!r}")
    return parsed
