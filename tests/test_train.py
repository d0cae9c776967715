"""The training loop: its figures, its errors, and that interrupting it changes no bit."""

import json
import math
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest

import fastconv
from fastconv import checkpoint
from fastconv.augment import Compose, RandomAffine, RandomCrop, RandomHorizontalFlip
from fastconv.data import Dataset
from fastconv.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU, Sequential
from fastconv.losses import CrossEntropyLoss
from fastconv.metrics import accuracy
from fastconv.optim import SGD, Adam, CosineLR
from fastconv.train import Diverged, History, Interrupted, evaluate, fit

EPOCHS, BATCH_SIZE, BATCHES = 3, 16, 5  # 70 images: the last batch of an epoch has 6


@pytest.fixture(autouse=True)
def ctrl_c():
    """Python's own handler, also where the tests run in a background job that ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def dataset(count=70, seed=0):
    """Four classes, told apart by the bright quarter of an 8 x 8 image."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    images = rng.standard_normal((count, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[0, row:row + 4, column:column + 4] += 2
    return Dataset(images, labels, tuple("abcd"))


def network(dropout=0.3):
    """One layer of each kind that has state: weights, running averages, random numbers."""
    rng = np.random.default_rng(5)
    return Sequential(Conv2d(1, 4, 3, padding=1, rng=rng), BatchNorm2d(4), ReLU(), MaxPool2d(2), Flatten(),
                      Dropout(dropout, rng=np.random.default_rng(6)), Linear(64, 4, rng=rng))


class Run:
    """A training that can be made again and again."""

    def __init__(self, folder, kind="sgd"):
        self.path = folder / "checkpoint.safetensors"
        self.kind = kind

    def fit(self, loss=None, **changes):
        self.model = network()
        if self.kind == "sgd":
            optimizer = SGD(self.model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)
            schedule = CosineLR(optimizer, EPOCHS * BATCHES, warmup_steps=4)
        else:
            optimizer, schedule = Adam(self.model.parameters(), 0.01), None
        arguments = {"test_data": dataset(30, seed=1), "epochs": EPOCHS, "batch_size": BATCH_SIZE, "seed": 3,
                     "schedule": schedule, "checkpoint": self.path, "progress": False, **changes}
        return fit(self.model, loss or CrossEntropyLoss(), optimizer, dataset(), **arguments)

    def state(self):
        """Everything in the checkpoint but the clock's figures; arrays as bytes."""
        def comparable(value):
            if isinstance(value, dict):
                return {key: comparable(part) for key, part in value.items()
                        if key not in ("seconds", "images_per_second")}
            if isinstance(value, list):
                return [comparable(part) for part in value]
            return value.tobytes() if isinstance(value, np.ndarray) else value
        return comparable(checkpoint.load_training(self.path))


class InterruptingLoss(CrossEntropyLoss):
    """Presses Ctrl-C `presses` times in the `step`-th forward of a training."""

    def __init__(self, step, presses=1):
        super().__init__()
        self.steps_left, self.presses = step, presses

    def forward(self, output, target):
        if len(target) in (16, 6):  # the test data come in one batch of 30
            self.steps_left -= 1
            if self.steps_left == 0:
                for _ in range(self.presses):
                    os.kill(os.getpid(), signal.SIGINT)
        return super().forward(output, target)


class NanLoss(CrossEntropyLoss):
    """NaN in the `step`-th forward of a training."""

    def __init__(self, step):
        super().__init__()
        self.steps_left = step

    def forward(self, output, target):
        self.steps_left -= 1
        return math.nan if self.steps_left == 0 else super().forward(output, target)


# ---- what it computes -------------------------------------------------------------------------------


def test_fit_learns(tmp_path):
    history = Run(tmp_path).fit()
    assert history[-1]["accuracy"] > 0.9
    assert history[-1]["loss"] < history[0]["loss"]


def test_history_holds_the_means_over_the_images():
    """With rate 0 the figures of the epoch are those of evaluate, though its last batch is smaller."""
    model = Sequential(Flatten(), Linear(64, 4, rng=np.random.default_rng(0)))
    data, test = dataset(), dataset(30, seed=1)
    [row] = fit(model, CrossEntropyLoss(), SGD(model.parameters(), 0), data, test_data=test, epochs=1,
                batch_size=BATCH_SIZE, progress=False)
    on_train, on_test = evaluate(model, data), evaluate(model, test, batch_size=7)
    # Means of the same float64 numbers in another order.
    assert math.isclose(row["loss"], on_train.loss, rel_tol=len(data) * 2**-53)
    assert math.isclose(row["test_loss"], on_test.loss, rel_tol=len(test) * 2**-53)
    assert (row["accuracy"], row["test_accuracy"]) == (on_train.accuracy, on_test.accuracy)
    assert (row["epoch"], row["lr"]) == (1, 0)
    assert row["images_per_second"] == len(data) / row["seconds"]


def test_evaluate_gives_predictions_and_keeps_the_mode():
    model, data = network(), dataset()
    for mode in (True, False):
        model.train(mode)
        result = evaluate(model, data, batch_size=32)
        assert all(layer.training == mode for _, layer in model.named_modules())
    scores = model.forward(data.images)
    assert np.array_equal(result.predictions, scores.argmax(axis=1))
    assert result.accuracy == accuracy(scores, data.labels)


def test_drop_last_leaves_out_the_smaller_batch(tmp_path):
    run = Run(tmp_path)
    sizes = []

    class Recorder(CrossEntropyLoss):
        def forward(self, output, target):
            sizes.append(len(target))
            return super().forward(output, target)

    run.fit(Recorder(), drop_last=True, epochs=1, test_data=None)
    assert sizes == [16] * 4


def test_threads_change_no_bit(tmp_path):
    states = []
    for threads in (1, 3):
        with fastconv.num_threads(threads):
            run = Run(tmp_path)
            run.fit()
            states.append(run.state())
    assert states[0] == states[1]


def test_seed_decides_the_order(tmp_path):
    run = Run(tmp_path)
    losses = [run.fit(seed=seed, epochs=1)[0]["loss"] for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_history_saves_as_json(tmp_path):
    history = Run(tmp_path).fit(test_data=None)
    history.save(tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text()) == history
    assert history[0]["test_loss"] is None


def test_input_gradient_is_asked_for_again_afterwards(tmp_path):
    run = Run(tmp_path)
    run.fit(epochs=1)
    assert run.model.needs_input_grad


def test_augment_changes_the_training_images_alone(tmp_path):
    changed = []

    def negative(images, rng):
        changed.append(rng.integers(0, 2**60))
        return -images

    model = Sequential(Flatten(), Linear(64, 4, rng=np.random.default_rng(0)))
    data, test = dataset(), dataset(30, seed=1)
    opposite = Dataset(-data.images, data.labels, data.names)
    [row] = fit(model, CrossEntropyLoss(), SGD(model.parameters(), 0), data, test_data=test, epochs=1,
                batch_size=BATCH_SIZE, progress=False, augment=negative)
    assert row["accuracy"] == evaluate(model, opposite).accuracy
    assert row["test_accuracy"] == evaluate(model, test).accuracy
    assert len(set(changed)) == BATCHES


def test_slow_augmentation_changes_no_bit(tmp_path):
    """What the thread draws does not depend on when it comes to it."""
    run, states = Run(tmp_path), []
    for seconds in (0, 0.002):
        def crop(images, rng, seconds=seconds):
            time.sleep(seconds * rng.random())
            return RandomCrop(2)(images, rng)
        run.fit(augment=crop, epochs=2)
        states.append([parameter.data.copy() for parameter in run.model.parameters()])
    assert all(map(np.array_equal, *states))


def test_gradients_are_clipped_together(tmp_path):
    """A step of plain SGD is as long as the gradient times the rate."""
    model = Sequential(Flatten(), Linear(64, 4, rng=np.random.default_rng(0)))
    before = [parameter.data.copy() for parameter in model.parameters()]
    fit(model, CrossEntropyLoss(), SGD(model.parameters(), 0.5), dataset(), epochs=1, batch_size=70,
        progress=False, max_grad_norm=0.01)
    moved = [parameter.data - start for parameter, start in zip(model.parameters(), before, strict=True)]
    assert math.sqrt(sum(np.square(move).sum() for move in moved)) == pytest.approx(0.5 * 0.01, rel=1e-4)
    losses = [Run(tmp_path).fit(max_grad_norm=norm)[-1]["loss"] for norm in (None, 1e9, 0.1)]
    assert losses[0] == losses[1] != losses[2]


# ---- interrupting and resuming ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_interrupted_anywhere_and_resumed_gives_the_same_bits(tmp_path, kind):
    run = Run(tmp_path, kind)
    run.fit()
    expected = run.state()
    for step in range(1, EPOCHS * BATCHES):
        place = f"epoch {step // BATCHES + 1} of 3, after batch {step % BATCHES} of 5"
        with pytest.raises(Interrupted, match=place):
            run.fit(InterruptingLoss(step))
        run.fit(resume=True)
        assert run.state() == expected


AUGMENTATION = Compose(RandomCrop(1), RandomHorizontalFlip(), RandomAffine(10, 1))


def test_interrupted_with_augmentation_and_resumed_gives_the_same_bits(tmp_path):
    run, options = Run(tmp_path), {"augment": AUGMENTATION, "max_grad_norm": 1.0}
    run.fit(**options)
    expected = run.state()
    for step in range(1, EPOCHS * BATCHES, 2):
        with pytest.raises(Interrupted):
            run.fit(InterruptingLoss(step), **options)
        run.fit(resume=True, **options)
        assert run.state() == expected


def test_interrupted_again_and_again_gives_the_same_bits(tmp_path):
    run = Run(tmp_path)
    run.fit()
    expected = run.state()
    with pytest.raises(Interrupted):
        run.fit(InterruptingLoss(1))
    for _ in range(2, EPOCHS * BATCHES):
        with pytest.raises(Interrupted):
            run.fit(InterruptingLoss(1), resume=True)
    history = run.fit(InterruptingLoss(1), resume=True)  # too late: it was the last step
    assert run.state() == expected
    assert len(history) == EPOCHS


def test_resuming_a_finished_training_changes_nothing(tmp_path):
    run = Run(tmp_path)
    history = run.fit()
    expected = run.state()
    assert run.fit(resume=True) == history
    assert run.state() == expected


def test_interrupt_without_a_checkpoint_leaves_whole_steps(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(Interrupted) as stop:
        run.fit(InterruptingLoss(7), checkpoint=None)
    assert stop.value.checkpoint is None
    assert isinstance(stop.value, KeyboardInterrupt)
    assert not run.path.exists()
    stopped = {name: array.copy() for name, array in run.model.state_dict().items()}
    with pytest.raises(Interrupted):
        run.fit(InterruptingLoss(7))
    assert all(np.array_equal(array, stopped[name]) for name, array in run.model.state_dict().items())


def test_a_second_interrupt_stops_at_once(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(KeyboardInterrupt) as stop:
        run.fit(InterruptingLoss(2, presses=2))
    assert not isinstance(stop.value, Interrupted)
    assert not run.path.exists()


def test_a_handler_of_the_program_stays(tmp_path, monkeypatch):
    calls = []
    before = signal.signal(signal.SIGINT, lambda *arguments: calls.append(arguments))
    try:
        assert len(Run(tmp_path).fit(InterruptingLoss(2))) == EPOCHS
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(calls) == 1


def test_fit_runs_outside_the_main_thread(tmp_path):
    histories = []
    thread = threading.Thread(target=lambda: histories.append(Run(tmp_path).fit()))
    thread.start()
    thread.join()
    assert len(histories[0]) == EPOCHS


@pytest.mark.parametrize("changes", [{"epochs": 4}, {"batch_size": 8}, {"seed": 4}, {"drop_last": True},
                                     {"augment": RandomCrop(1)}, {"max_grad_norm": 1.0},
                                     {"options": {"model": "other"}}])
def test_resume_with_other_options_names_the_option(tmp_path, changes):
    run = Run(tmp_path)
    run.fit(options={"model": "this"})
    [name] = changes if "options" not in changes else ["model"]
    with pytest.raises(ValueError, match=rf"^{name} is .*, but the checkpoint was made with"):
        run.fit(resume=True, **{"options": {"model": "this"}, **changes})


def test_resume_with_other_parts_is_an_error(tmp_path):
    run = Run(tmp_path)
    run.fit()
    with pytest.raises(ValueError, match="schedule is None, but the checkpoint was made with one"):
        run.fit(resume=True, schedule=None)
    run = Run(tmp_path, "adam")
    run.fit()
    model = Sequential(Flatten(), Linear(64, 4))
    with pytest.raises(ValueError, match=r"state does not fit Sequential: unexpected: 0\.weight"):
        fit(model, CrossEntropyLoss(), SGD(model.parameters(), 0.1), dataset(), epochs=EPOCHS, seed=3,
            batch_size=BATCH_SIZE, checkpoint=run.path, resume=True, progress=False)


# ---- errors -----------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(Interrupted):
        run.fit(InterruptingLoss(BATCHES + 1))
    before = [parameter.data.copy() for parameter in run.model.parameters()]
    message = r"the loss became nan in epoch 2, batch 2: lower the learning rate \(now 0\.046\)"
    with pytest.raises(Diverged, match=message):
        run.fit(NanLoss(BATCHES + 2), test_data=None)
    assert all(map(np.array_equal, before, (parameter.data for parameter in run.model.parameters())))
    assert len(run.state()["history"]) == 1  # the checkpoint is that of the first epoch


def test_a_gradient_that_is_not_finite_stops_before_the_step(tmp_path):
    class InfiniteGradient(CrossEntropyLoss):
        def backward(self):
            return super().backward() * np.float32(np.inf)

    model = Sequential(Flatten(), Linear(64, 4, rng=np.random.default_rng(0)))
    before = model[1].weight.data.copy()
    message = r"the norm of the gradient became (nan|inf) in epoch 1, batch 1: lower the learning rate"
    with pytest.raises(Diverged, match=message):
        fit(model, InfiniteGradient(), SGD(model.parameters(), 0.1), dataset(), progress=False,
            max_grad_norm=1.0)
    np.testing.assert_array_equal(model[1].weight.data, before)


def test_weights_that_are_not_finite_reach_no_checkpoint(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(Diverged, match="the test loss became nan in epoch 1"):
        run.fit(NanLoss(BATCHES + 1))
    assert not run.path.exists()


@pytest.mark.parametrize(("changes", "message"), [
    ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
    ({"batch_size": 2.5}, "batch_size must be an integer of at least 1, got 2.5"),
    ({"batch_size": 71, "drop_last": True}, "train_data must fill a batch of 71, got 70 images"),
    ({"test_data": dataset(0)}, "test_data must not be empty"),
    ({"resume": True, "checkpoint": None}, "resume needs checkpoint"),
])
def test_wrong_arguments_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Run(tmp_path).fit(**changes)


def test_nothing_to_evaluate_or_to_resume_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="data must not be empty"):
        evaluate(network(), dataset(0))
    with pytest.raises(FileNotFoundError, match=r"checkpoint\.safetensors"):
        Run(tmp_path).fit(resume=True)


@pytest.mark.parametrize(("module", "changes"), [("tqdm", {"progress": True}), ("safetensors.numpy", {})])
def test_missing_packages_are_named_before_training(tmp_path, monkeypatch, module, changes):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "fastconv\[train\]"'):
        Run(tmp_path).fit(InterruptingLoss(1), **changes)


def test_progress_prints_a_table_without_a_terminal(tmp_path, capsys):
    pytest.importorskip("tqdm")
    run = Run(tmp_path)
    with pytest.raises(Interrupted):
        run.fit(InterruptingLoss(BATCHES + 2), progress=True, test_data=None)
    interrupted = capsys.readouterr()
    history = run.fit(progress=True, resume=True, test_data=None)
    resumed = capsys.readouterr()
    assert (interrupted.err, resumed.err) == ("", "")
    lines = resumed.out.splitlines()
    assert interrupted.out.splitlines() == lines[:2]
    assert lines[0].split()[:3] == ["epoch", "lr", "loss"]
    for line, row in zip(lines[1:], history, strict=True):
        assert line.split()[:4] == [str(row["epoch"]), f"{row['lr']:.5f}", f"{row['loss']:.4f}",
                                    f"{row['accuracy']:.2%}"]
        assert line.split()[4:6] == ["-", "-"]
    assert isinstance(history, History)
