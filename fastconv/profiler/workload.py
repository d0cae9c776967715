"""What the command profiles: a network by name, one in an ONNX file, or a single convolution."""

import importlib
import re
import time
from dataclasses import dataclass

import numpy as np

from .. import functional, models, num_threads, optim
from ..extras import require
from ..losses import AuxiliaryLoss, CrossEntropyLoss
from . import Profile

LAYOUTS = {"nchw": "NCHW", "nhwc": "NHWC", "channels_last": "NHWC"}
_WARM_UP = 2  # turns that are not recorded: memory, threads and caches are there afterwards

_LETTERS = {"N": "images", "C": "channels", "H": "rows", "W": "columns", "K": "outputs", "R": "filter rows",
            "S": "filter columns", "p": "padding", "s": "stride", "d": "dilation", "g": "groups"}


@dataclass
class Workload:
    """turn(): one inference, training step or convolution. prepared: forward has prepared weights."""

    title: str
    turn: object
    prepared: bool


def run(workload, threads=None, turns=10, counters=False):
    """The Profile of some turns, with their seconds as its laps; threads: default those allowed."""
    with num_threads(threads or _allowed()):
        for _ in range(_WARM_UP):
            workload.turn()
        with Profile(workload.title, counters) as profile:
            for _ in range(turns):
                start = time.perf_counter()
                workload.turn()
                profile.laps.append(time.perf_counter() - start)
    return profile


def _allowed():
    return importlib.import_module("fastconv").get_num_threads()


def network(name, batch=1, layout="nhwc", train=False):
    """The network `name` of models, on random images. Raises ValueError for an unknown name."""
    shape = (batch, *models.input_shape(name))
    return _of_model(models.create(name, rng=np.random.default_rng(0)), name, shape, layout, train)


def onnx_file(path, batch=1, layout="nhwc", train=False, image_shape=None):
    """The network of an ONNX file; image_shape: (C, H, W), default what the file says.

    Raises ImportError without fastconv.onnx and onnx, ValueError where the file does not fix the shape.
    """
    onnx = require("onnx", "onnx")
    model = require("fastconv.onnx", "onnx").load(path)
    if image_shape is None:
        dims = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
        image_shape = tuple(dim.dim_value for dim in dims[1:])
        if len(image_shape) != 3 or min(image_shape) < 1:
            raise ValueError(f"{path} leaves the size of its images open: give it with --image CxHxW")
    return _of_model(model, str(path), (batch, *image_shape), layout, train)


def _of_model(model, name, shape, layout, train):
    x = images(shape, LAYOUTS[layout])
    title = f"{name}, {'training' if train else 'inference'}, {'x'.join(map(str, shape))} {LAYOUTS[layout]}"
    if not train:
        plan = model.eval().compile(shape)
        return Workload(title, lambda: plan(x), True)
    model.train().needs_input_grad = False  # as in train.fit
    loss = CrossEntropyLoss()
    if hasattr(model, "aux_weight"):
        loss = AuxiliaryLoss(loss, model.aux_weight)
    optimizer = optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    target = np.arange(shape[0]) % 10

    def step():
        loss(model(x), target)
        optimizer.zero_grad()
        model.backward(loss.backward())
        optimizer.step()

    return Workload(title, step, False)


def convolution(text, layout="nhwc", train=False):
    """The convolution that `text` describes, as in "N16 C64 H56 W56 K64 R3 p1", and with train its gradients.

    N images (default 1) of C channels, H x W (W default H); K outputs; R x S taps (S default R); p padding
    (0), s stride (1), d dilation (1), g groups (1). Raises ValueError for what is none.
    """
    sizes = parse(text)
    x = images((sizes["N"], sizes["C"], sizes["H"], sizes["W"]), LAYOUTS[layout])
    rng = np.random.default_rng(1)
    stored = (sizes["R"], sizes["S"], sizes["C"] // sizes["g"], sizes["K"])
    weight = rng.standard_normal(stored, np.float32).transpose(3, 2, 0, 1)
    options = sizes["s"], sizes["p"], sizes["d"], sizes["g"]
    grad = functional.conv2d(x, weight, None, *options)
    filters = None if train else functional.prepare_conv2d(weight, x.shape, *options)

    def turn():
        functional.conv2d(x, weight, None, *options, filters=filters)
        if train:
            functional.conv2d_backward_input(grad, weight, x.shape, *options)
            functional.conv2d_backward_weight(grad, x, weight.shape, *options)

    return Workload(f"convolution {text.strip()}, {LAYOUTS[layout]}", turn, not train)


def parse(text):
    """{letter: number} of a convolution; see `convolution`."""
    sizes = {}
    for word in text.split():
        match = re.fullmatch(r"([A-Za-z])([0-9]{1,9})", word)
        if not match or match[1] not in _LETTERS or match[1] in sizes:
            raise ValueError(f"a convolution is words such as N16 C64 H56 K64 R3 p1, each of "
                             f"{', '.join(_LETTERS)} once and a number, got {word!r} in {text!r}")
        sizes[match[1]] = int(match[2])
    missing = [letter for letter in "CHKR" if letter not in sizes]
    if missing:
        raise ValueError(f"a convolution needs {', '.join(missing)}, got {text!r}")
    sizes = {"N": 1, "W": sizes["H"], "S": sizes["R"], "p": 0, "s": 1, "d": 1, "g": 1} | sizes
    for letter, size in sizes.items():
        if size < (letter != "p"):
            raise ValueError(f"{_LETTERS[letter]} ({letter}) must be positive, got {size} in {text!r}")
    return sizes


def images(shape, layout):
    """Random float32 images of this shape, in this order in memory."""
    rng = np.random.default_rng(0)
    if layout == "NCHW":
        return rng.standard_normal(shape, np.float32)
    n, c, h, w = shape
    return rng.standard_normal((n, h, w, c), np.float32).transpose(0, 3, 1, 2)
