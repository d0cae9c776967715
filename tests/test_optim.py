"""Optimisers and schedules against torch; memory orders, resuming, wrong arguments."""

import tracemalloc

import numpy as np
import pytest

from fastconv.optim import SGD, Adam, CosineLR, MultiStepLR, StepLR, clip_grad_norm

STEPS = 50
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
# A filter bank, a bias, and a matrix of more than one block.
SHAPES = [(16, 6, 5, 5), (16,), (150, 120)]

OPTIMIZERS = {
    "sgd": (SGD, dict(lr=0.05)),
    "weight decay": (SGD, dict(lr=0.05, weight_decay=0.01)),
    "momentum": (SGD, dict(lr=0.05, momentum=0.9)),
    "dampening": (SGD, dict(lr=0.05, momentum=0.9, dampening=0.5, weight_decay=0.01)),
    "nesterov": (SGD, dict(lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True)),
    "adam": (Adam, dict(lr=0.01)),
    "adam with weight decay": (Adam, dict(lr=0.01, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.01)),
}
every_optimizer = pytest.mark.parametrize(("kind", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)


class Parameter:
    """What an optimiser sees of a layer's parameter."""

    def __init__(self, data):
        self.data, self.grad = data, None

    def zero_grad(self):
        self.grad = None


def reordered(array):
    """The same values with the axes in reverse order in memory, as layers keep their weights."""
    return np.asarray(array).T.copy().T


def start(order=reordered):
    rng = np.random.default_rng(0)
    return [Parameter(order(rng.normal(size=shape).astype(np.float32))) for shape in SHAPES]


def gradients(step, order=reordered):
    """One per parameter, None for the bias in every third step."""
    rng = np.random.default_rng(1000 + step)
    arrays = [order(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]
    if step % 3 == 0:
        arrays[1] = None
    return arrays


def advance(optimizer, steps, **options):
    for step in steps:
        for parameter, grad in zip(optimizer.parameters, gradients(step, **options), strict=True):
            parameter.grad = grad
        optimizer.step()


def assert_same_bits(parameters, expected):
    for parameter, other in zip(parameters, expected, strict=True):
        np.testing.assert_array_equal(parameter.data, other.data)


@every_optimizer
def test_trajectory_is_torch_s(kind, options):
    torch = pytest.importorskip("torch")
    parameters = start()
    theirs = [torch.tensor(parameter.data, dtype=torch.float64) for parameter in parameters]
    largest = max(np.abs(parameter.data).max() for parameter in parameters)
    advance(kind(parameters, **options), range(STEPS))
    optimizer = getattr(torch.optim, kind.__name__)(theirs, **options)
    steepest = 0
    for step in range(STEPS):
        for tensor, grad in zip(theirs, gradients(step), strict=True):
            tensor.grad = None if grad is None else torch.tensor(grad, dtype=torch.float64)
            steepest = max(steepest, 0 if grad is None else np.abs(grad).max())
        optimizer.step()
    # Every value is a sum of the start and one update a step. SGD's updates are at most
    # lr steepest / (1 - momentum); Adam's at most lr sqrt(step), since v holds each g^2 that m holds.
    # A term goes through at most 10 (SGD) or 16 (Adam) roundings a step.
    if kind is SGD:
        update = options["lr"] * (steepest + 0.01 * 2 * largest) / (1 - options.get("momentum", 0))
    else:
        update = options["lr"] * np.sqrt(STEPS)
    roundings = STEPS * (10 if kind is SGD else 16)
    bound = (2 * np.sqrt(roundings) + 4) * UNIT[np.float32] * (largest + STEPS * update)
    for parameter, tensor in zip(parameters, theirs, strict=True):
        assert np.abs(parameter.data - tensor.numpy()).max() <= bound


def test_first_steps_by_hand():
    """Powers of two: every operation is exact. The first momentum step is not dampened."""
    parameter = Parameter(np.array([1, -2], np.float32))
    optimizer = SGD([parameter], lr=0.5, momentum=0.5, dampening=0.5, weight_decay=0.25)
    parameter.grad = np.array([1, 2], np.float32)
    optimizer.step()  # g = v = [1.25, 1.5]
    np.testing.assert_array_equal(parameter.data, [0.375, -2.75])
    optimizer.step()  # g = [1.09375, 1.3125], v = [1.171875, 1.40625]
    np.testing.assert_array_equal(parameter.data, [-0.2109375, -3.453125])


def test_first_step_of_adam_is_the_rate():
    parameter = Parameter(np.zeros(3, np.float32))
    parameter.grad = np.array([1e-3, -1, 1e3], np.float32)
    Adam([parameter], lr=0.25, eps=0).step()
    np.testing.assert_allclose(parameter.data, [-0.25, 0.25, -0.25], rtol=16 * UNIT[np.float32])


@every_optimizer
def test_memory_order_does_not_change_a_bit(kind, options):
    contiguous, transposed, mixed = start(order=np.ascontiguousarray), start(), start()
    advance(kind(contiguous, **options), range(5), order=np.ascontiguousarray)
    advance(kind(transposed, **options), range(5))
    advance(kind(mixed, **options), range(5), order=np.ascontiguousarray)
    assert transposed[0].data.strides != contiguous[0].data.strides
    assert_same_bits(transposed, contiguous)
    assert_same_bits(mixed, contiguous)


@every_optimizer
def test_parameters_without_gradient_are_left_alone(kind, options):
    parameters = start()
    before = [parameter.data.copy() for parameter in parameters]
    optimizer = kind(parameters, **options)
    optimizer.step()
    for parameter, data in zip(parameters, before, strict=True):
        np.testing.assert_array_equal(parameter.data, data)
    assert not any("." in name for name in optimizer.state_dict())


@every_optimizer
def test_replaced_arrays_are_used(kind, options):
    """Views kept between the steps must not outlive the arrays they show."""
    parameters, expected = start(), start()
    optimizer, undisturbed = kind(parameters, **options), kind(expected, **options)
    for step in range(4):
        for parameter in parameters:
            parameter.data = parameter.data.copy("K")
        advance(optimizer, [step])
        advance(undisturbed, [step])
    assert_same_bits(parameters, expected)


def test_state_of_another_shape_is_refused():
    parameter = Parameter(np.zeros((4, 3), np.float32))
    optimizers = SGD([parameter], 0.1, momentum=0.9), Adam([parameter], 0.1)
    for optimizer in optimizers:
        parameter.data = parameter.grad = np.zeros((4, 3), np.float32)
        optimizer.step()
        for data in (np.zeros((8, 3), np.float32), np.zeros((3, 4), np.float32).T):
            parameter.data = parameter.grad = data
            with pytest.raises(ValueError, match=r"must have the shape .* and memory order of its parameter"):
                optimizer.step()


@pytest.mark.thread_unsafe
@every_optimizer
def test_step_works_in_place_and_allocates_nothing(kind, options):
    parameters = start()
    arrays = [parameter.data for parameter in parameters]
    optimizer = kind(parameters, **options)
    advance(optimizer, [1])
    optimizer.step()
    tracemalloc.start()
    try:
        optimizer.step()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4096  # bytes: a few Python objects
    assert all(parameter.data is array for parameter, array in zip(parameters, arrays, strict=True))


@every_optimizer
def test_resuming_continues_to_the_same_bits(kind, options):
    expected = start()
    optimizer = kind(expected, **options)
    schedule = CosineLR(optimizer, 30, warmup_steps=5)
    for step in range(12):
        if step == 6:  # copied in another memory order, as a file would hold them
            saved = [np.array(parameter.data, order="C") for parameter in expected]
            state = {name: np.array(value, order="C") for name, value in optimizer.state_dict().items()}
            schedule_state = schedule.state_dict()
        advance(optimizer, [step])
        schedule.step()

    resumed = start()
    for parameter, data in zip(resumed, saved, strict=True):
        parameter.data[...] = data
    optimizer = kind(resumed, **options)
    optimizer.lr = 7
    optimizer.load_state_dict(state)
    schedule = CosineLR(optimizer, 1)
    schedule.load_state_dict(schedule_state)
    for step in range(6, 12):
        advance(optimizer, [step])
        schedule.step()
    assert_same_bits(resumed, expected)


def test_state_dict_is_flat_with_the_shapes_of_the_parameters():
    optimizer = Adam(start(), lr=0.5)
    advance(optimizer, [0])  # the bias has no gradient in this step
    state = optimizer.state_dict()
    assert {name: np.shape(value) for name, value in state.items()} == {
        "lr": (), "beta1": (), "beta2": (), "eps": (), "weight_decay": (),
        "0.step": (), "0.exp_avg": SHAPES[0], "0.exp_avg_sq": SHAPES[0],
        "2.step": (), "2.exp_avg": SHAPES[2], "2.exp_avg_sq": SHAPES[2],
    }


def test_load_state_dict_lists_every_problem_and_changes_nothing():
    optimizer = Adam(start(), lr=0.5)
    state = Adam(start(), lr=0.25).state_dict()
    del state["eps"]
    state |= {"0.exp_avg": np.zeros(3), "0.exp_avg_sq": np.zeros(SHAPES[0]), "7.step": 1}
    with pytest.raises(ValueError, match="does not fit this Adam") as caught:
        optimizer.load_state_dict(state)
    for problem in ("missing eps", "missing 0.step", "0.exp_avg has shape (3,) instead of (16, 6, 5, 5)",
                    "unexpected 7.step"):
        assert problem in str(caught.value)
    assert optimizer.lr == 0.5


def test_zero_grad_clears_every_parameter():
    parameters = start()
    optimizer = SGD(iter(parameters), 0.1)
    advance(optimizer, [1])
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in parameters)


@pytest.mark.parametrize(("options", "message"), [
    (dict(lr=-1), "lr must not be negative, got -1"),
    (dict(lr=np.nan), "lr must not be negative, got nan"),
    (dict(lr=np.inf), "lr must be finite, got inf"),
    (dict(momentum=-0.5), "momentum must not be negative, got -0.5"),
    (dict(weight_decay=-0.5), "weight_decay must not be negative, got -0.5"),
    (dict(nesterov=True), "nesterov needs momentum > 0 and dampening 0, got momentum 0"),
    (dict(nesterov=True, momentum=0.9, dampening=0.1), "nesterov needs .* dampening 0.1"),
])
def test_sgd_names_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        SGD(start(), **{"lr": 0.1, **options})


@pytest.mark.parametrize(("options", "message"), [
    (dict(betas=(0.9, 1.0)), r"betas must be below 1, got \(0.9, 1.0\)"),
    (dict(betas=(-0.9, 0.9)), "betas must not be negative, got -0.9"),
    (dict(eps=-1), "eps must not be negative, got -1"),
])
def test_adam_names_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        Adam(start(), **options)


def test_wrong_parameters_are_named():
    parameter = Parameter(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="parameters must not be empty"):
        SGD([], 0.1)
    with pytest.raises(ValueError, match="same parameter twice"):
        SGD([parameter, parameter], 0.1)
    with pytest.raises(TypeError, match=r"parameters\[1\] must be float32, got float64"):
        SGD([parameter, Parameter(np.zeros(2))], 0.1)
    with pytest.raises(TypeError, match="got int64"):
        SGD([Parameter(np.zeros(2, np.int64))], 0.1)
    parameter.grad = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"parameters\[0\]\.grad must have shape \(2, 3\), got \(3, 2\)"):
        SGD([parameter], 0.1).step()
    gappy = Parameter(np.zeros((4, 6), np.float32)[:, ::2])
    gappy.grad = np.zeros_like(gappy.data)
    with pytest.raises(ValueError, match=r"without gaps, got shape \(4, 3\) with strides \(24, 8\)"):
        SGD([gappy], 0.1).step()


def with_gradients(step=1):
    parameters = start()
    for parameter, grad in zip(parameters, gradients(step), strict=True):
        parameter.grad = grad
    return parameters


@pytest.mark.parametrize("max_norm", [0, 1, 50, 1e4])
@pytest.mark.parametrize("step", [0, 1])  # without a gradient of the bias, and with one
def test_clipping_is_torch_s(max_norm, step):
    torch = pytest.importorskip("torch")
    parameters, theirs = with_gradients(step), []
    for grad in gradients(step):
        theirs.append(torch.zeros(()) if grad is None else torch.zeros(grad.shape))
        theirs[-1].grad = None if grad is None else torch.tensor(grad, dtype=torch.float64).to(torch.float32)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm).item()
    norm = clip_grad_norm(parameters, max_norm)
    assert norm == pytest.approx(expected, rel=1e-6)
    for parameter, other in zip(parameters, theirs, strict=True):
        if parameter.grad is not None:  # torch divides by the norm + 1e-6
            np.testing.assert_allclose(parameter.grad, other.grad, rtol=2e-6, atol=0)


def test_clipping_scales_to_the_norm_and_leaves_smaller_gradients_alone():
    parameters, expected = with_gradients(), gradients(1)
    norm = clip_grad_norm(parameters, 1e9)
    assert norm == pytest.approx(np.sqrt(sum(np.sum(np.square(grad, dtype=float)) for grad in expected)))
    assert all(np.array_equal(parameter.grad, grad)
               for parameter, grad in zip(parameters, expected, strict=True))
    clip_grad_norm(parameters, 2)
    assert clip_grad_norm(parameters, 3) == pytest.approx(2, rel=2.0**-23)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_clipping_tells_of_gradients_that_are_not_finite(bad):
    parameters = with_gradients()
    parameters[1].grad[3] = bad
    before = parameters[0].grad.copy()
    assert not np.isfinite(clip_grad_norm(parameters, 1))
    np.testing.assert_array_equal(parameters[0].grad, before)


def test_clipping_of_gradients_whose_squares_overflow_float32():
    parameters = with_gradients()
    for parameter in parameters:
        parameter.grad[...] = 1e30
    size = sum(parameter.data.size for parameter in parameters)
    assert clip_grad_norm(parameters, 1) == pytest.approx(1e30 * np.sqrt(size))


def test_clipping_names_wrong_arguments():
    with pytest.raises(ValueError, match="max_norm must not be negative, got -1"):
        clip_grad_norm(start(), -1)


def rates(schedule, steps):
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.lr)
        schedule.step()
    return found


def torch_rates(make, steps):
    """make(torch, optimizer) -> a torch schedule; its rates from an lr of 0.3."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    schedule = make(torch.optim.lr_scheduler, optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


# torch multiplies the previous rate, we evaluate the formula: a few roundings for each of STEPS steps.
RATE_BOUND = dict(rtol=8 * STEPS * UNIT[np.float64], atol=8 * STEPS * UNIT[np.float64])


def test_step_schedule_is_torch_s():
    ours = rates(StepLR(SGD(start(), 0.3), 7, gamma=0.5), STEPS)
    theirs = torch_rates(lambda schedules, optimizer: schedules.StepLR(optimizer, 7, gamma=0.5), STEPS)
    np.testing.assert_allclose(ours, theirs, **RATE_BOUND)


def test_multi_step_schedule_is_torch_s():
    ours = rates(MultiStepLR(SGD(start(), 0.3), [9, 3, 9], gamma=0.5), STEPS)
    theirs = torch_rates(lambda schedules, optimizer: schedules.MultiStepLR(optimizer, [9, 3, 9], 0.5), STEPS)
    np.testing.assert_allclose(ours, theirs, **RATE_BOUND)


def test_cosine_schedule_is_torch_s():
    ours = rates(CosineLR(SGD(start(), 0.3), STEPS, min_lr=0.01), STEPS + 1)
    theirs = torch_rates(
        lambda schedules, optimizer: schedules.CosineAnnealingLR(optimizer, STEPS, eta_min=0.01), STEPS + 1)
    np.testing.assert_allclose(ours, theirs, **RATE_BOUND)


def test_cosine_schedule_warms_up_and_stays_at_the_end():
    ours = rates(CosineLR(SGD(start(), 0.3), 24, min_lr=0.1, warmup_steps=4), 30)
    np.testing.assert_allclose(ours[:5], [0.06, 0.12, 0.18, 0.24, 0.3], **RATE_BOUND)
    assert ours[4:] == sorted(ours[4:], reverse=True)
    np.testing.assert_allclose(ours[14], 0.2, **RATE_BOUND)
    assert ours[24:] == [0.1] * 6


@pytest.mark.parametrize(("make", "message"), [
    (lambda optimizer: StepLR(optimizer, 0), "step_size must be an integer of at least 1, got 0"),
    (lambda optimizer: StepLR(optimizer, 2.5), "step_size .* got 2.5"),
    (lambda optimizer: StepLR(optimizer, 2, gamma=-1), "gamma must not be negative, got -1"),
    (lambda optimizer: MultiStepLR(optimizer, [3, 0]), "milestones must be .* at least 1, got 0"),
    (lambda optimizer: CosineLR(optimizer, 0), "total_steps .* got 0"),
    (lambda optimizer: CosineLR(optimizer, 10, warmup_steps=10), "warmup_steps must be below .* 10, got 10"),
    (lambda optimizer: StepLR(optimizer, 2).load_state_dict({"steps": 1}), "state of StepLR must have"),
])
def test_schedules_name_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make(SGD(start(), 0.1))
