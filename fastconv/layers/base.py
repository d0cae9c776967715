"""What every layer is: parameters, buffers, children, and how a forward hands over to its backward."""

import copy
import os

import numpy as np

from .. import checkpoint
from ..grad import is_grad_enabled, no_grad
from ..plan import Plan


class Parameter:
    """A trained array and its gradient.

    data: float32 ndarray. The gradient has its shape and memory order; its memory is allocated by the first
    backward and kept.
    """

    __slots__ = ("_grad", "_has_grad", "data")

    def __init__(self, data):
        if not isinstance(data, np.ndarray) or data.dtype != np.float32:
            found = data.dtype if isinstance(data, np.ndarray) else type(data).__name__
            raise TypeError(f"data must be a float32 ndarray, got {found}")
        self.data = data
        self._grad = None
        self._has_grad = False

    def __deepcopy__(self, memo):
        """A copy without gradient, as in torch."""
        return Parameter(copy.deepcopy(self.data, memo))

    @property
    def shape(self):
        return self.data.shape

    @property
    def grad(self):
        """The sum of the gradients since zero_grad(), or None where there was none."""
        return self._grad if self._has_grad else None

    def zero_grad(self):
        """Forgets the gradient, keeps its memory."""
        self._has_grad = False

    def accumulate(self, compute):
        """Adds a gradient: compute(out) must write it into `out`, an array like data."""
        if self._has_grad:
            addend = np.empty_like(self.data)
            compute(addend)
            self._grad += addend
            return
        if self._grad is None:
            self._grad = np.empty_like(self.data)
        compute(self._grad)
        self._has_grad = True


def join(prefix, name):
    """The name of `name` below `prefix`; either may be empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


class Layer:
    """A differentiable function of one array, with parameters.

    A subclass defines forward(x), which ends in ``return self._save(y, ...)``, and backward(grad_output),
    which begins with ``... = self._restore(grad_output)``. Attributes that are a Parameter or a Layer are
    found by themselves; `buffer_names` names the attributes that are arrays of the state but not trained.

    fuses: what forward can do besides, in the same pass over memory and with the same bits, named by its
    keywords: "activation" (None or "relu") and "residual" (an array to add before it; backward then gives the
    gradients of x and of the residual). Containers ask for it; see containers.Sequential. A subclass with a
    forward or backward of its own does nothing besides unless it says so itself.

    backward_adds: whether backward takes the keyword `addend`, an array that it adds to the gradient of x in
    the same pass: what other layers that read this x have given. As with `fuses`, bits are the same,
    containers ask for it (see Residual, Concat), and a subclass with a backward of its own says so itself.

    training: set by train() and eval(). needs_input_grad: False on the first layer of a network spares it the
    gradient of the data; backward then returns None. Layers without parameters ignore it. flat: of
    containers, see there.
    """

    training = True
    needs_input_grad = True
    flat = False
    fuses = ()
    backward_adds = False
    buffer_names = ()
    _saved = None

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if vars(cls).keys() & {"forward", "backward"} and "fuses" not in vars(cls):
            cls.fuses = ()
        if "backward" in vars(cls) and "backward_adds" not in vars(cls):
            cls.backward_adds = False
        if "forward" in vars(cls) and "plan" not in vars(cls):
            cls.plan = Layer.plan

    def __getstate__(self):
        """What copies consist of: not what forward kept for backward."""
        return {name: value for name, value in vars(self).items() if name != "_saved"}

    def forward(self, x):
        """y of x. Keeps what backward needs until backward or the next forward."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def backward(self, grad_output):
        """Gradient with respect to x from that with respect to y, once after each forward.

        The gradients of the parameters are added to their `grad`. Raises RuntimeError without a forward
        before it, ValueError where grad_output has not the shape of y.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no backward")

    def __call__(self, x):
        return self.forward(x)

    def _save(self, y, *values):
        """Keeps `values` for backward, but not under no_grad; returns y."""
        self._saved = (y.shape, values) if is_grad_enabled() else None
        return y

    def _restore(self, grad_output):
        """The values that forward kept; they are released, so that their memory serves the next layers."""
        if self._saved is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward before it")
        shape, values = self._saved
        if grad_output.shape != shape:
            raise ValueError(f"grad_output must have shape {shape}, got {grad_output.shape}")
        self._saved = None
        return values

    # ---- what it consists of ------------------------------------------------------------------------

    def named_children(self):
        """(name, layer) of the layers directly below, in the order of definition."""
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                yield name, value

    def children(self):
        """The layers directly below, in the order of definition."""
        for _, layer in self.named_children():
            yield layer

    def named_modules(self, prefix=""):
        """(name, layer) of this layer, whose name is `prefix`, and of all below it, e.g. "body.conv1"."""
        yield prefix, self
        for name, layer in self.named_children():
            yield from layer.named_modules(prefix if layer.flat else join(prefix, name))

    def named_parameters(self):
        """(name, Parameter) of this layer and of all below it, e.g. "conv1.weight"."""
        for prefix, layer in self.named_modules():
            for name, value in vars(layer).items():
                if isinstance(value, Parameter):
                    yield join(prefix, name), value

    def parameters(self):
        """All parameters, as a list."""
        return [parameter for _, parameter in self.named_parameters()]

    def named_buffers(self):
        """(name, array) of the state that is not trained, e.g. "bn1.running_mean"."""
        for prefix, layer in self.named_modules():
            for name in layer.buffer_names:
                value = getattr(layer, name)
                if value is not None:
                    yield join(prefix, name), value

    # ---- state --------------------------------------------------------------------------------------

    def train(self, mode=True):
        """Training mode for this layer and all below it; returns the layer."""
        for _, layer in self.named_modules():
            layer.training = bool(mode)
        return self

    def eval(self):
        """Evaluation mode: running statistics, no dropout; returns the layer."""
        return self.train(False)

    def zero_grad(self):
        """Forgets all gradients; the next backward writes new ones."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def state_dict(self):
        """name -> array of all parameters and buffers, with torch's names and shapes.

        The arrays are the live ones, not copies.
        """
        state = {name: parameter.data for name, parameter in self.named_parameters()}
        state.update(self.named_buffers())
        return state

    def load_state_dict(self, state, strict=True):
        """Copies arrays into the parameters and buffers; nothing is changed when it raises.

        strict: every name must be there and no other. Returns (missing, unexpected), the two lists of names.
        Raises one ValueError that lists all names that are missing, unexpected, or of a wrong shape or dtype.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        values = {name: np.asarray(state[name]) for name in own if name in state}
        problems = []
        if strict and missing:
            problems.append("missing: " + ", ".join(missing))
        if strict and unexpected:
            problems.append("unexpected: " + ", ".join(unexpected))
        for name, value in values.items():
            target = own[name]
            if value.shape != target.shape:
                problems.append(f"{name} must have shape {target.shape}, got {value.shape}")
            elif not np.can_cast(value.dtype, target.dtype, "same_kind"):
                problems.append(f"{name} must be {target.dtype}, got {value.dtype}")
        if problems:
            raise ValueError(f"state does not fit {type(self).__name__}: " + "; ".join(problems))
        for name, value in values.items():
            np.copyto(own[name], value, casting="same_kind")
        return missing, unexpected

    def load(self, path, strict=True):
        """Loads a safetensors file of weights or a checkpoint: load_state_dict of what is in it.

        Files of torch fit where the names and shapes do, as those of torchvision's networks.
        Raises ValueError naming the file and all that does not fit, and as checkpoint.load_weights does.
        """
        state, _ = checkpoint.load_weights(path)
        try:
            return self.load_state_dict(state, strict)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None

    # ---- inference ----------------------------------------------------------------------------------

    def fuse(self):
        """Folds each BatchNorm2d behind a Conv2d or MappedConv2d in a Sequential into its weight and bias.

        For evaluation: changes the parameters and removes the batch normalisations, so that the state dict is
        no longer that of the network that was built; load weights before. Outputs differ by rounding alone.
        Returns the layer. Raises RuntimeError in training mode.
        """
        layers = [layer for _, layer in self.named_modules()]
        if any(layer.training for layer in layers):
            raise RuntimeError("fuse needs evaluation mode: call eval() first")
        for layer in layers:
            layer._fold_norms()
        return self

    def _fold_norms(self):
        """What fuse does in this layer itself: something in containers that know their layers' order."""

    def compile(self, input_shape):
        """A plan.Plan: plan(x, out=None) is what forward gives in evaluation for x of `input_shape`, faster.

        It is made of a copy, fused: the layer stays as it is, and later changes of its weights are not seen.
        Weights are prepared once; activations are channels-last and share one block of memory, laid out by
        when each is needed; calls take no memory for activations but the result's. The forward of layers
        without a method `plan` is called. Raises what forward raises for this shape.

            plan = model.compile((16, 3, 224, 224))
            scores = plan(images)
        """
        return Plan(copy.deepcopy(self).eval().fuse(), input_shape)

    def plan(self, planner, x, out=None, *, residual=None, activation=None):
        """Adds the steps from x to y, in `out` if given, to a plan.Planner; returns y. All are of plan.Value.

        residual (a Value) and activation: as of forward, for layers that name them in `fuses`.
        """
        y = planner.place(out, self.output_shape(x.shape))
        return planner.step(self._run, x, residual, activation, y, whole=True)

    def _run(self, x, residual, activation, out):
        """The step of layers without a plan of their own."""
        options = {"residual": residual, "activation": activation}
        with no_grad():
            np.copyto(out, self.forward(x, **{name: options[name] for name in self.fuses}))

    # ---- shapes and costs ---------------------------------------------------------------------------

    def output_shape(self, input_shape):
        """Shape of y for x of `input_shape`, by running a batch of no images; raises what forward raises."""
        layers = [layer for _, layer in self.named_modules()]
        before = [(layer.training, layer._saved) for layer in layers]
        try:
            y = self.eval().forward(np.empty((0, *input_shape[1:]), np.float32))
        finally:
            for layer, (training, saved) in zip(layers, before, strict=True):
                layer.training, layer._saved = training, saved
        return (input_shape[0], *y.shape[1:])

    def multiply_adds(self, input_shape):
        """Products that forward sums up for x of `input_shape`; 0 for layers without weights to multiply."""
        return 0

    def trace(self, input_shape):
        """(name, layer, input shape) of each layer that is not a container, as forward meets them."""
        yield "", self, tuple(input_shape)
