"""Recurrent layers: kernels against the reference, gradients against differences, layers against torch."""

import itertools
import math
import types

import numpy as np
import pytest
from check import U, assert_same_bits, check_op, in_layout
from views import VIEWS, check_out_views, check_views

from fastconv import functional, reference
from fastconv.layers import LSTM, RNN
from fastconv.losses import CrossEntropyLoss
from fastconv.models import LSTMClassifier
from fastconv.optim import SGD

# (N, T, D, H): sequences, steps, features, units
CASES = {
    "one": (1, 1, 1, 1),
    "one step": (3, 1, 5, 4),
    "one unit": (3, 4, 2, 1),
    "odd everything": (5, 4, 7, 13),
    "a vector": (7, 3, 16, 16),
    "rows of tiles": (33, 2, 3, 19),
    "no sequences": (0, 3, 4, 5),
    "no features": (2, 3, 0, 4),
    "large": (70, 6, 28, 64),
}
DIRECTIONS = {"forward": False, "reverse": True}


def floats(rng, *shape, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def problem(sizes, rng, gates=4):
    """x, states, weights and biases of an LSTM (4 gates) or RNN (1), scaled so that gates do not saturate."""
    sequences, steps, features, hidden = sizes
    states = [floats(rng, sequences, hidden) for _ in range(2 if gates == 4 else 1)]
    weights = [floats(rng, gates * hidden, columns, scale=1 / math.sqrt(columns + 1))
               for columns in (features, hidden)]
    biases = [floats(rng, gates * hidden) for _ in range(2)]
    return floats(rng, sequences, steps, features), states, weights, biases


def rounding(terms):
    """Relative error of a sum of that many rounded terms."""
    return (2 * math.sqrt(terms) + 4) * U


def limits(x, states, weights, biases, outputs, reverse):
    """Allowed errors of every step's outputs and, for an LSTM, gates.

    A step rounds the sums of its gates, and hands on the error of the h before it: independent errors, added
    as squares. sigmoid and tanh have slopes up to 1/4 and 1, and round by 6 U and 4 U of at most 1.
    """
    weight_ih, weight_hh = (weight.astype(np.float64) for weight in weights)
    bias = sum(abs(bias.astype(np.float64)) for bias in biases)
    lstm, hidden = len(states) == 2, weight_hh.shape[1]
    g = rounding(x.shape[2] + hidden + 2)
    h, h_error, c_error = states[0], np.zeros(states[0].shape), np.zeros(states[0].shape)
    errors = [np.empty(array.shape) for array in outputs]
    c = states[-1]
    for t in reversed(range(x.shape[1])) if reverse else range(x.shape[1]):
        own = g * (abs(x[:, t]) @ abs(weight_ih).T + abs(h) @ abs(weight_hh).T + bias)
        z_error = np.sqrt(own**2 + h_error**2 @ (weight_hh**2).T)
        if lstm:
            slopes = np.repeat([0.25, 0.25, 1, 0.25], hidden)
            errors[2][:, t] = z_error * slopes + 6 * U
            i, f, g_, _ = np.split(outputs[2][:, t], 4, axis=1)
            of_i, of_f, of_g, of_o = np.split(errors[2][:, t], 4, axis=1)
            c_error = np.sqrt((of_f * c)**2 + (f * c_error)**2 + (of_i * g_)**2 + (of_g * i)**2)
            c_error += 2 * U * (abs(f * c) + abs(i * g_))
            h_error = of_o + c_error + 6 * U
            c = outputs[1][:, t]
            errors[1][:, t] = c_error
        else:
            h_error = z_error + 4 * U
        h = outputs[0][:, t]
        errors[0][:, t] = h_error
    return tuple(lambda _, error=error: error for error in errors)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_lstm_matches_reference(case, direction, rng):
    reverse = DIRECTIONS[direction]
    x, states, weights, biases = problem(CASES[case], rng)
    arrays = [x, *states, *weights, *biases]
    expected = reference.lstm_train(*arrays, reverse)
    bound = limits(x, states, weights, biases, expected, reverse)
    check_op("lstm_train", arrays, dict(reverse=reverse), bound=bound)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_rnn_matches_reference(case, direction, rng):
    reverse = DIRECTIONS[direction]
    x, states, weights, biases = problem(CASES[case], rng, gates=1)
    arrays = [x, *states, *weights, *biases]
    expected = reference.rnn_tanh(*arrays, reverse)
    of_steps, = limits(x, states, weights, biases, expected[:1], reverse)
    of_last = of_steps(None)[:, 0 if reverse else -1]
    check_op("rnn_tanh", arrays, dict(reverse=reverse), bound=(of_steps, lambda _: of_last))


def limits_of_gradients(backward, arrays, reverse, case, gates):
    """Allowed errors, those of the longest sum: a product and some ten roundings a step, then the gates
    of all steps. In the sum of absolute values tanh's slope, 1 - y^2, is 1 + y^2."""
    sequences, steps, _, hidden = CASES[case]
    allowed = rounding(steps * (gates * hidden + 10) + sequences * steps)
    names = vars(reference) | {"tanh_backward": lambda grad_output, y: grad_output * (1 + y * y)}
    sums = types.FunctionType(backward.__code__, names)(*map(np.abs, arrays), reverse)
    return tuple(lambda _, s=s: allowed * s for s in sums)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_lstm_match_reference(case, direction, rng):
    x, states, weights, biases = problem(CASES[case], rng)
    reverse = DIRECTIONS[direction]
    saved = functional.lstm_train(x, *states, *weights, *biases, reverse)
    grads = [floats(rng, *saved[0].shape), *(floats(rng, *state.shape) for state in states)]
    arrays = [grads[0], x, *states, *weights, *saved, *grads[1:]]
    bound = limits_of_gradients(reference.lstm_backward, arrays, reverse, case, gates=4)
    check_op("lstm_backward", arrays, dict(reverse=reverse), bound=bound, per_image=False)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_rnn_match_reference(case, direction, rng):
    x, states, weights, biases = problem(CASES[case], rng, gates=1)
    reverse = DIRECTIONS[direction]
    output, _ = functional.rnn_tanh(x, *states, *weights, *biases, reverse)
    grads = [floats(rng, *output.shape), floats(rng, *states[0].shape)]
    arrays = [grads[0], x, *states, *weights, output, grads[1]]
    bound = limits_of_gradients(reference.rnn_tanh_backward, arrays, reverse, case, gates=1)
    check_op("rnn_tanh_backward", arrays, dict(reverse=reverse), bound=bound, per_image=False)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("gates", [1, 4])
def test_gradients_are_those_of_differences(gates, direction, rng):
    """(loss(a + h) - loss(a - h)) / 2h of the reference, loss = sum of gradient * result, for each a."""
    x, states, weights, biases = problem((2, 3, 3, 2), rng, gates)
    reverse = DIRECTIONS[direction]
    arrays = [array.astype(np.float64) for array in (x, *states, *weights, *biases)]
    forward = reference.lstm if gates == 4 else reference.rnn_tanh

    def results(arrays):
        output, last = forward(*arrays, reverse)
        return [output, *last] if gates == 4 else [output, last]

    grads = [rng.standard_normal(result.shape) for result in results(arrays)]
    if gates == 4:
        saved = reference.lstm_train(*arrays, reverse)
        gradients = reference.lstm_backward(grads[0], *arrays[:5], *saved, *grads[1:], reverse)
    else:
        gradients = reference.rnn_tanh_backward(grads[0], *arrays[:4], results(arrays)[0], grads[1], reverse)
    for i, gradient in enumerate((*gradients, gradients[-1])):  # of either bias
        for at in np.ndindex(gradient.shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = [array.copy() for array in arrays]
                moved[i][at] += step
                sides.append(sum(map(np.vdot, grads, results(moved))))
            # Truncation h^2 = 1e-10 and rounding 1e-16 / h = 1e-11, of values of order 10.
            np.testing.assert_allclose((sides[0] - sides[1]) / 2e-5, gradient[at], rtol=1e-6, atol=1e-8)


def test_lstm_gives_the_last_states(rng):
    x, states, weights, biases = problem(CASES["odd everything"], rng)
    for reverse, last in ((False, -1), (True, 0)):
        output, (h_n, c_n) = functional.lstm(x, *states, *weights, *biases, reverse)
        steps, cells, _ = functional.lstm_train(x, *states, *weights, *biases, reverse)
        for result, same in ((output, steps), (h_n, steps[:, last]), (c_n, cells[:, last])):
            assert_same_bits(result, same, "lstm")


def test_biases_that_are_left_out_are_zero(rng):
    x, states, weights, biases = problem(CASES["odd everything"], rng)
    zeros = np.zeros_like(biases[0])
    for given in itertools.product((None, zeros), (None, zeros)):
        for result, same in zip(functional.lstm_train(x, *states, *weights, *given),
                                functional.lstm_train(x, *states, *weights), strict=True):
            assert_same_bits(result, same, "lstm_train")


def test_one_call_for_two_halves_of_a_sequence(rng):
    """The states are all that a step hands on."""
    x, states, weights, biases = problem(CASES["large"], rng)
    whole, last = functional.lstm(x, *states, *weights, *biases)
    first, between = functional.lstm(x[:, :2], *states, *weights, *biases)
    second, same_last = functional.lstm(x[:, 2:], *between, *weights, *biases)
    assert_same_bits(np.concatenate([first, second], axis=1), whole, "output")
    for state, same in zip(last, same_last, strict=True):
        assert_same_bits(state, same, "last state")


def test_saturated_gates_are_exact(rng):
    """Gates of 0 and 1 keep or replace the cell; NaN stays in its sequence."""
    x, weights = np.zeros((3, 2, 1), np.float32), [np.zeros((8, 1), np.float32), np.zeros((8, 2), np.float32)]
    h0, c0 = np.zeros((3, 2), np.float32), floats(rng, 3, 2)
    huge = np.repeat(np.float32([-1e30, 1e30, 1, -1e30]), 2)
    _, cells, _ = functional.lstm_train(x, h0, c0, *weights, huge)
    assert_same_bits(cells, np.repeat(c0[:, None], 2, axis=1), "kept cells")
    _, cells, _ = functional.lstm_train(x, h0, c0, *weights, -huge)
    np.testing.assert_array_equal(cells, np.full(cells.shape, functional.tanh(np.float32([-1]))[0]))
    x[1] = np.nan
    output, _ = functional.lstm(x, h0, c0, *weights, huge)
    np.testing.assert_array_equal(np.isnan(output).all(axis=(1, 2)), [False, True, False])


# ---- memory of the arguments ------------------------------------------------------------------------


@pytest.mark.parametrize("gates", [1, 4])
def test_any_strides_give_the_bits_of_a_contiguous_copy(gates, rng):
    x, states, weights, biases = problem(CASES["odd everything"], rng, gates)
    forward, backward = ("lstm_train", "lstm_backward") if gates == 4 else ("rnn_tanh", "rnn_tanh_backward")
    arrays = [x, *states, *weights, *biases]
    saved = getattr(functional, forward)(*arrays)
    saved = saved if gates == 4 else saved[:1]
    gradients = [floats(rng, *saved[0].shape), *arrays[:-2], *saved,
                 *(floats(rng, *state.shape) for state in states)]
    for op, given in ((forward, arrays), (backward, gradients)):
        check_views(op, given, names=[name for name in VIEWS if name != "output channel fastest"])
        check_out_views(op, given)


@pytest.mark.parametrize("state", [0, 1])
def test_out_may_overlap_a_state(state, rng):
    x, states, weights, biases = problem(CASES["one step"], rng)
    expected, _ = functional.lstm(x, *states, *weights, *biases)
    out = states[state][:, None]
    functional.lstm(x, *states, *weights, *biases, out=out)
    assert_same_bits(out, expected, "lstm")


# ---- layers -----------------------------------------------------------------------------------------

LAYERS = [pytest.param(cls, num_layers, bidirectional, batch_first, id="-".join(filter(None, (
    cls.__name__, f"{num_layers} layers", bidirectional and "bidirectional", batch_first and "batch first"))))
    for cls, num_layers, bidirectional, batch_first
    in itertools.product((RNN, LSTM), (1, 2), (False, True), (False, True))]


@pytest.fixture
def torch():
    """torch on one thread: in batches this small, threads only wait for each other."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield torch
    torch.set_num_threads(threads)


def twins(torch, cls, *sizes, **options):
    """(layer, the same of torch): torch's weights, loaded by name."""
    twin = getattr(torch.nn, cls.__name__)(*sizes, **options)
    layer = cls(*sizes, **options)
    assert layer.load_state_dict(twin.state_dict()) == ([], [])
    assert [name for name, _ in layer.named_parameters()] == [name for name, _ in twin.named_parameters()]
    return layer, twin


def assert_close(actual, expected, name):
    """Within 1e-5 of the largest value."""
    expected = expected.detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * abs(expected).max(), err_msg=name)


def listed(state):
    return list(state) if isinstance(state, tuple) else [state]


@pytest.mark.parametrize("given", ["states", "zeros"])
@pytest.mark.parametrize(("cls", "num_layers", "bidirectional", "batch_first"), LAYERS)
def test_layers_are_torch_s(cls, num_layers, bidirectional, batch_first, given, torch, rng):
    """Outputs, last states, and the gradients of x, first states and all parameters."""
    layer, twin = twins(torch, cls, 10, 16, num_layers=num_layers, bidirectional=bidirectional,
                        batch_first=batch_first)
    x = floats(rng, 4, 7, 10)
    sequences, count = 4 if batch_first else 7, num_layers * (1 + bidirectional)
    states = [floats(rng, count, sequences, 16) for _ in range(1 + (cls is LSTM))]
    theirs = [torch.from_numpy(array.copy()).requires_grad_() for array in (x, *states)]
    pack = tuple if cls is LSTM else lambda states: states[0]
    arguments = (x, pack(states)) if given == "states" else (x,)
    y, last = layer(*arguments)
    their_y, their_last = twin(theirs[0], *([pack(theirs[1:])] if given == "states" else []))
    grads = [floats(rng, *y.shape), *(floats(rng, *state.shape) for state in states)]
    grad_x, grad_first = layer.backward(grads[0], pack(grads[1:]))
    torch.autograd.backward([their_y, *listed(their_last)], [torch.from_numpy(grad) for grad in grads])
    assert_close(y, their_y, "output")
    for state, same in zip(listed(last), listed(their_last), strict=True):
        assert_close(state, same, "last state")
    assert_close(grad_x, theirs[0].grad, "x")
    if given == "states":
        for grad, their in zip(listed(grad_first), theirs[1:], strict=True):
            assert_close(grad, their.grad, "first state")
    for (name, parameter), their in zip(layer.named_parameters(), twin.parameters(), strict=True):
        assert_close(parameter.grad, their.grad, name)


@pytest.mark.parametrize("cls", [RNN, LSTM])
def test_gradients_without_those_of_the_last_states(cls, rng):
    layer, x = cls(5, 4, num_layers=2, rng=rng), floats(rng, 3, 6, 5)
    y, _ = layer(x)
    grad_output, zeros = floats(rng, *y.shape), np.zeros((2, 3, 4), np.float32)
    grad_x, grad_first = layer.backward(grad_output, (zeros, zeros) if cls is LSTM else zeros)
    layer(x)
    same_x, same_first = layer.backward(grad_output)
    for grad, same in zip([grad_x, *listed(grad_first)], [same_x, *listed(same_first)], strict=True):
        assert_same_bits(grad, same, "backward")
    once = [parameter.grad.copy() for parameter in layer.parameters()]
    layer.zero_grad()
    layer.needs_input_grad = False
    layer(x)
    assert layer.backward(grad_output)[0] is None
    for parameter, grad in zip(layer.parameters(), once, strict=True):
        assert_same_bits(parameter.grad + parameter.grad, grad, "sum of two equal gradients")


def test_dropout_lies_between_the_layers_in_training(rng):
    options = dict(input_size=5, hidden_size=8, num_layers=2)
    layer = LSTM(**options, dropout=1, rng=np.random.default_rng(1))
    x = floats(rng, 3, 6, 5)
    y, _ = layer(x)
    silent, _ = layer(2 * x)
    assert_same_bits(silent, y, "the second layer sees zeros only")
    grad_x, _ = layer.backward(np.ones_like(y))
    assert not grad_x.any()
    plain = LSTM(**options, rng=np.random.default_rng(1))
    assert_same_bits(layer.eval()(x)[0], plain(x)[0], "evaluation")
    half = [LSTM(**options, dropout=0.5, rng=np.random.default_rng(1)) for _ in range(2)]
    outputs = [layer(x)[0] for layer in half]
    assert_same_bits(*outputs, "the same generator")
    assert (outputs[0] != plain(x)[0]).any()


def test_layouts_of_weights_do_not_matter(rng):
    """Gates are the fastest axis of the weights in memory, as in Linear."""
    x, states, weights, biases = problem(CASES["odd everything"], rng)
    turned = [in_layout(weight, "channels-last", "weight") for weight in weights]
    for result, same in zip(functional.lstm_train(x, *states, *turned, *biases),
                            functional.lstm_train(x, *states, *weights, *biases), strict=True):
        assert_same_bits(result, same, "lstm_train")
    layer = LSTM(3, 4, num_layers=2, bidirectional=True)
    for name, array in layer.state_dict().items():
        assert array.strides[0] == array.itemsize, name
        assert abs(array).max() <= 0.5, name  # 1 / sqrt(hidden_size)


def test_shapes_and_multiply_adds():
    layer = LSTM(28, 128, num_layers=2, bidirectional=True)
    assert layer.output_shape((32, 28, 28)) == (32, 28, 256)
    assert layer.multiply_adds((32, 28, 28)) == 32 * 28 * 2 * 512 * ((28 + 128) + (256 + 128))
    assert RNN(3, 5).multiply_adds((2, 4, 3)) == 2 * 4 * 5 * (3 + 5)
    model = LSTMClassifier(28, 128, 10)
    assert model.output_shape((32, 28, 28)) == (32, 10)
    assert model.multiply_adds((32, 28, 28)) == 32 * (28 * 512 * (28 + 128) + 128 * 10)
    assert [(name, shape) for name, _, shape in model.trace((2, 28, 28))] == [("lstm", (2, 28, 28)),
                                                                            ("fc", (2, 128))]


@pytest.mark.parametrize("cls", [RNN, LSTM])
def test_empty_batches(cls):
    layer = cls(5, 4, num_layers=2, bidirectional=True)
    y, last = layer(np.empty((0, 3, 5), np.float32))
    assert y.shape == (0, 3, 8)
    assert {state.shape for state in listed(last)} == {(4, 0, 4)}
    grad_x, _ = layer.backward(y)
    assert grad_x.shape == (0, 3, 5)
    assert not any(parameter.grad.any() for parameter in layer.parameters())


# ---- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda x: LSTM(0, 4), ValueError, "input_size must be positive, got 0"),
    (lambda x: RNN(5, 4.0), TypeError, r"hidden_size must be an int, got 4\.0"),
    (lambda x: LSTM(5, 4, num_layers=-1), ValueError, "num_layers must be positive, got -1"),
    (lambda x: LSTM(5, 4, dropout=1.5), ValueError, r"dropout must be from 0 to 1, got 1\.5"),
    (lambda x: LSTM(5, 4)(x[0]), ValueError, r"x must have shape \(N, T, 5\), got \(3, 5\)"),
    (lambda x: LSTM(6, 4)(x), ValueError, r"x must have shape \(N, T, 6\), got \(2, 3, 5\)"),
    (lambda x: LSTM(6, 4, batch_first=False)(x), ValueError, r"x must have shape \(T, N, 6\), got"),
    (lambda x: LSTM(5, 4)(x[:, :0]), ValueError, r"with at least one step, got \(2, 0, 5\)"),
    (lambda x: LSTM(5, 4)(x.astype(float)), TypeError, "x must be float32, got float64"),
    (lambda x: LSTM(5, 4)([[[1.0]]]), TypeError, "x must be a float32 array, got list"),
    (lambda x: LSTM(5, 4)(x, (x, x)), ValueError, r"h0 must have shape \(1, 2, 4\), got \(2, 3, 5\)"),
    (lambda x: LSTM(5, 4)(x, (None, x)), ValueError, r"c0 must have shape \(1, 2, 4\), got \(2, 3, 5\)"),
    (lambda x: RNN(5, 4)(x, 1.5), TypeError, "h0 must be a float32 array, got float"),
    (lambda x: LSTM(5, 4)(x, x), TypeError, r"state must be a pair \(h, c\), got ndarray"),
    (lambda x: LSTM(5, 4)(x, (x,)), TypeError, r"state must be a pair \(h, c\), got tuple of 1"),
    (lambda x: backward_of(LSTM(5, 5), x, x, x), TypeError, r"grad_state must be a pair \(h, c\), got"),
    (lambda x: LSTM(5, 4).backward(x), RuntimeError, "LSTM.backward needs a forward before it"),
    (lambda x: backward_of(LSTM(5, 4), x, x), ValueError, r"grad_output must have shape \(2, 3, 4\), got"),
    (lambda x: backward_of(RNN(5, 5), x, x, x), ValueError, r"grad_h_n must have shape \(1, 2, 5\), got"),
    (lambda x: backward_of(LSTM(5, 5), x, x, (None, x)), ValueError, r"grad_c_n must have shape \(1, 2, 5\)"),
    (lambda x: LSTM(5, 4).output_shape((2, 3, 6)), ValueError, r"the last of 5, got shape \(2, 3, 6\)"),
    (lambda x: LSTMClassifier(5, 4, 0), ValueError, "out_features must be positive, got 0"),
])
def test_wrong_use_is_named(call, error, message, rng):
    with pytest.raises(error, match=message):
        call(floats(rng, 2, 3, 5))


def backward_of(layer, x, *grads):
    layer(x)
    layer.backward(*grads)


# ---- the classifier ---------------------------------------------------------------------------------


STEPS, BATCH = 50, 8


def sequences(step):
    """Eight of 32 sequences, each with a bump at the step of its class."""
    rng = np.random.default_rng(100 + step % 4)
    labels = rng.integers(0, 10, BATCH)
    x = rng.uniform(-1, 1, (BATCH, 12, 6)).astype(np.float32)
    x[np.arange(BATCH), labels] += 2
    return x, labels


@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
def test_classifier_learns_as_in_torch(num_layers, bidirectional, torch):
    class Twin(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(6, 32, num_layers, batch_first=True, bidirectional=bidirectional)
            self.fc = torch.nn.Linear(32 * (1 + bidirectional), 10)

        def forward(self, x):
            _, (h_n, _) = self.lstm(x)
            return self.fc(torch.cat(list(h_n[-1 - bidirectional:]), dim=1))

    twin, model = Twin(), LSTMClassifier(6, 32, 10, num_layers, bidirectional)
    model.load_state_dict(twin.state_dict())
    model.needs_input_grad = False
    twin.double()
    their_optimizer = torch.optim.SGD(twin.parameters(), lr=0.3, momentum=0.9)
    expected = []
    for step in range(STEPS):
        x, labels = sequences(step)
        loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x).double()), torch.from_numpy(labels))
        their_optimizer.zero_grad()
        loss.backward()
        their_optimizer.step()
        expected.append(loss.item())
    assert np.mean(expected[-4:]) < 0.7 * np.mean(expected[:4]), "only a network that learns says something"
    loss, optimizer, losses = CrossEntropyLoss(), SGD(model.parameters(), lr=0.3, momentum=0.9), []
    for step in range(STEPS):
        x, labels = sequences(step)
        losses.append(loss(model(x), labels))
        model.zero_grad()
        assert model.backward(loss.backward()) is None
        optimizer.step()
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


def test_gradient_of_the_classifier_is_that_of_differences(rng):
    model = LSTMClassifier(3, 4, 2, bidirectional=True, rng=rng)
    x, grad_output = floats(rng, 2, 3, 3), floats(rng, 2, 2)
    model(x)
    grad_x = model.backward(grad_output)
    state = {name: array.astype(np.float64) for name, array in model.state_dict().items()}

    def loss(x):
        zeros = np.zeros((2, 4))
        last = []
        for reverse, suffix in ((False, "_l0"), (True, "_l0_reverse")):
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            weights = [state[f"lstm.{name}{suffix}"] for name in names]
            last.append(reference.lstm(x, zeros, zeros, *weights, reverse)[1][0])
        scores = reference.linear(np.concatenate(last, axis=1), state["fc.weight"], state["fc.bias"])
        return np.vdot(grad_output, scores)

    for at in np.ndindex(x.shape):
        above, below = x.astype(np.float64), x.astype(np.float64)
        above[at] += 1e-5
        below[at] -= 1e-5
        # Rounding of sums of 3 + 8 terms forward and 16 + 8 backward, of values below 1.
        np.testing.assert_allclose(grad_x[at], (loss(above) - loss(below)) / 2e-5, rtol=0, atol=50 * U)
