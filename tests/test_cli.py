"""The command: what it prints, what it writes, its errors and Ctrl-C."""

import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastconv
from fastconv import cli, data
from fastconv.plots import learning_curves

for package in ("safetensors", "tqdm", "matplotlib"):
    pytest.importorskip(package)

PACKAGE = Path(fastconv.__file__).parent
OUTPUTS = ("checkpoint.safetensors", "weights.safetensors", "history.json", "curves.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def few_digits(monkeypatch):
    """The digits, but few of them."""
    train, test = data.digits()
    parts = train.subset(slice(0, 320)), test.subset(slice(0, 100))
    monkeypatch.setattr(data, "load", lambda name, folder=None: parts)
    return parts


def popen(*arguments, **options):
    """The command in a process of its own, on one thread so that tests disturb each other less."""
    environment = os.environ | {"FASTCONV_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}
    environment |= options.pop("env", {})
    # A background job's children would ignore Ctrl-C.
    return subprocess.Popen([sys.executable, "-P", "-m", "fastconv", *arguments], env=environment,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options)


def run(*arguments, **options):
    """(exit code, standard output, standard error) as bytes."""
    process = popen(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


# ---- info -------------------------------------------------------------------------------------------


def test_info_shows_every_fact(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    facts = fastconv.info()
    assert out.startswith(f"fastconv {facts['version']}\n")
    for fact in (facts["cpu"], facts["isa"], *facts["available_isas"], facts["default_num_threads_from"]):
        assert fact in out
    assert re.search(rf"^threads +{facts['num_threads']} ", out, re.M)
    assert re.search(r"^caches +L1 \d", out, re.M)
    assert re.search(r"^OpenMP +\S", out, re.M)


def test_info_says_what_set_the_threads(folder):
    code, out, _ = run("info", env={"FASTCONV_NUM_THREADS": "3"})
    assert code == 0
    assert b"3 (default 3: FASTCONV_NUM_THREADS)" in out


# ---- train and evaluate -----------------------------------------------------------------------------


def test_train_writes_its_files_and_evaluate_reads_them(folder, few_digits, capsys):
    assert cli.main(["train", "--epochs", "2"]) == 0
    output = folder / "runs" / "lenet5-digits"
    assert sorted(path.name for path in output.iterdir()) == sorted(OUTPUTS)
    out, err = capsys.readouterr()
    history = json.loads((output / "history.json").read_text())
    assert err == ""  # no bar without a terminal
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["epoch", "1", "2"]
    accuracy = f"{history[-1]['test_accuracy']:.2%}"
    assert f"test accuracy {accuracy} after 2 epochs" in out

    for arguments in ([], ["runs/lenet5-digits"], *([f"runs/lenet5-digits/{name}"] for name in OUTPUTS[:2])):
        assert cli.main(["evaluate", *arguments]) == 0
        out = capsys.readouterr().out
        assert f"100 test images of digits: accuracy {accuracy}" in out
        assert "true \\ predicted" in out
        rows = [line.split()[1:-1] for line in out.splitlines()[-10:]]
        assert sum(int(count) for row in rows for count in row if count != ".") == 100


PAPER = {"epochs": 164, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4,
         "schedule": "multistep", "augment": True}
LENET5 = {"epochs": 20, "batch_size": 32, "lr": 0.05 / 4, "momentum": 0.9, "weight_decay": 5e-4,
          "schedule": "cosine", "augment": False}


@pytest.mark.parametrize(("arguments", "expected"), [
    ([], LENET5),
    (["--model", "resnet20"], LENET5),
    (["--data", "cifar10"], {**LENET5, "batch_size": 128, "lr": 0.05}),
    (["--model", "resnet20", "--data", "cifar10"], PAPER),
    (["--model", "resnet56", "--data", "cifar10", "--optimizer", "sgd"], PAPER),
    (["--model", "resnet20", "--data", "cifar10", "--epochs", "3", "--lr", "0.01", "--schedule", "none",
      "--no-augment"], {**PAPER, "epochs": 3, "lr": 0.01, "schedule": "none", "augment": False}),
    (["--model", "resnet20", "--data", "cifar10", "--optimizer", "adam"],
     {**LENET5, "batch_size": 128, "lr": 1e-3, "momentum": None, "weight_decay": 0.0}),
])
def test_presets_and_defaults(folder, few_digits, monkeypatch, arguments, expected):
    """Options given win over those of the network's paper, these over the defaults."""
    used = {}

    def fit(*arguments, options, **others):
        used.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(cli.train, "fit", fit)
    assert cli.main(["train", *arguments]) == 2
    assert {name: used.get(name) for name in expected} == expected


def test_multistep_divides_the_rate_after_a_half_and_three_quarters(folder, few_digits):
    assert cli.main(["train", "--epochs", "8", "--schedule", "multistep", "--lr", "0.01", "--quiet",
                     "--output", "x"]) == 0
    rates = [row["lr"] for row in json.loads((folder / "x" / "history.json").read_text())]
    np.testing.assert_allclose(rates, [0.01] * 4 + [0.001] * 2 + [0.0001] * 2)


def test_auxiliary_heads_are_trained_too(folder, monkeypatch, capsys):
    train, test = data.digits()
    parts = train.subset(slice(0, 24)), test.subset(slice(0, 20))
    monkeypatch.setattr(data, "load", lambda name, folder=None: parts)
    options = ["--model", "googlenet", "--batch-size", "8", "--quiet"]
    assert cli.main(["train", *options, "--epochs", "1"]) == 0
    assert cli.main(["evaluate", "runs/googlenet-digits"]) == 0
    state, _ = fastconv.checkpoint.load_weights(folder / "runs" / "googlenet-digits" / "weights.safetensors")
    start = cli.models.create("googlenet", in_channels=1, num_classes=10, rng=np.random.default_rng([0, 1]))
    for name, weights in start.state_dict().items():
        if name.endswith("weight"):
            assert (state[name] != weights).any(), name


def test_train_quiet_prints_the_result_alone(folder, few_digits, capsys):
    assert cli.main(["train", "--epochs", "1", "--quiet", "--output", "x", "--optimizer", "adam",
                     "--schedule", "step", "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.fullmatch(r"lenet5 on digits: test accuracy .*\n.* are in x\n", out)


def test_train_with_every_option_and_again_from_its_checkpoint(folder, few_digits, capsys, monkeypatch):
    """Augmentation and label smoothing and clipping are part of what a checkpoint goes on with."""
    options = ["--augment", "--label-smoothing", "0.1", "--max-grad-norm", "1", "--quiet"]
    assert cli.main(["train", "--epochs", "2", *options, "--output", "whole"]) == 0
    step, real = iter(range(100)), cli.losses.CrossEntropyLoss.forward

    def interrupting(self, output, target):
        if next(step) == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, output, target)

    monkeypatch.setattr(cli.losses.CrossEntropyLoss, "forward", interrupting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert cli.main(["train", "--epochs", "2", *options, "--output", "stopped"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert cli.main(["train", "--resume", "--quiet", "--output", "stopped"]) == 0
    weights = [(folder / name / "weights.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]
    capsys.readouterr()
    assert cli.main(["train", "--epochs", "2", "--quiet", "--output", "plain"]) == 0
    assert (folder / "plain" / "weights.safetensors").read_bytes() != weights[0]


def test_learning_curves_are_a_png_also_without_test_data(tmp_path):
    rows = [{"epoch": epoch, "loss": 1 / epoch, "test_loss": None, "accuracy": 0.9, "test_accuracy": None}
            for epoch in (1, 2, 3)]
    learning_curves(rows, tmp_path / "curves.png")
    header = (tmp_path / "curves.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">2I", header[16:]) == (1200, 480)


def test_epochs_are_whole_numbers_also_where_there_is_one(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    row = {"epoch": 1, "loss": 1.6, "test_loss": 1.4, "accuracy": 0.4, "test_accuracy": 0.5}
    learning_curves([row], tmp_path / "curves.png")
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


# ---- Ctrl-C -----------------------------------------------------------------------------------------


def test_ctrl_c_and_resume_give_the_same_files(folder):
    """With a real signal, at whatever batch it arrives."""
    options = ("--epochs", "4", "--seed", "7", "--quiet")
    assert run("train", *options, "--output", "whole")[0] == 0
    process = popen("train", *options, "--output", "stopped", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (folder / "stopped" / "checkpoint.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == b""
    assert re.fullmatch(rb"fastconv: stopped in epoch \d of 4, after batch \d+ of 47; "
                        rb"saved in stopped/checkpoint\.safetensors\n"
                        rb"continue with: fastconv train --resume --output stopped\n", err)
    code, _, err = run("train", "--resume", "--output", "stopped", "--quiet")
    assert (code, err) == (0, b"")
    whole, stopped = ((folder / name / "weights.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


def test_ctrl_c_before_training_is_one_line(folder, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt
    monkeypatch.setattr(data, "load", interrupted)
    assert cli.main(["train"]) == 130
    assert capsys.readouterr().err == "fastconv: interrupted\n"


# ---- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "required: command"),
    (["train", "--data", "imagenet"], "argument --data: invalid choice: 'imagenet'"),
    (["train", "--model", "lenet6"], "argument --model: invalid choice: 'lenet6'"),
    (["train", "--lr", "0"], "argument --lr: must be a positive number, got '0'"),
    (["train", "--lr", "fast"], "argument --lr: must be a positive number, got 'fast'"),
    (["train", "--lr", "nan"], "argument --lr: must be a positive number, got 'nan'"),
    (["train", "--momentum", "-1"], "argument --momentum: must be a non-negative number, got '-1'"),
    (["train", "--label-smoothing", "1"], "must be a non-negative number below 1, got '1'"),
    (["train", "--max-grad-norm", "x"], "--max-grad-norm: must be a non-negative number, got 'x'"),
    (["mnist-challenge", "--models", "lenet6"], "argument --models: invalid choice: 'lenet6'"),
    (["mnist-challenge", "--data-dir", "nowhere"], "must be an existing folder, got 'nowhere'"),
    (["train", "--epochs", "0"], "argument --epochs: must be an integer of at least 1, got '0'"),
    (["train", "--batch-size", "1.5"], "argument --batch-size: must be an integer of at least 1, got '1.5'"),
    (["train", "--threads", "none"], "argument --threads: must be an integer of at least 1, got 'none'"),
    (["train", "--optimizer", "adam", "--momentum", "0.9"], "--momentum is an option of sgd, not of adam"),
    (["train", "--data", "mnist", "--data-dir", "nowhere"], "must be an existing folder, got 'nowhere'"),
    (["train", "--resume"], "nothing to resume: runs/lenet5-digits/checkpoint.safetensors does not exist"),
    (["evaluate"], "runs/lenet5-digits does not exist: run fastconv train first"),
    (["evaluate", "--data", "mnist"], "runs/lenet5-mnist does not exist: run fastconv train first"),
    (["evaluate", "broken"], "broken is damaged or not a safetensors file"),
])
def test_errors_are_one_line(folder, capsys, arguments, message):
    (folder / "broken").write_bytes(b"not weights")
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert [path.name for path in folder.iterdir()] == ["broken"]


@pytest.mark.parametrize("option", [("--lr", "0.1"), ("--seed", "1"), ("--batch-size", "16"),
                                    ("--data", "mnist"), ("--optimizer", "adam"), ("--epochs", "3")])
def test_resume_with_another_option_names_it(folder, few_digits, capsys, option):
    assert cli.main(["train", "--epochs", "1", "--quiet", "--output", "x"]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--output", "x", *option]) == 2
    name = option[0].removeprefix("--").replace("-", "_")
    assert re.fullmatch(rf"fastconv: error: {name} is .*, but the checkpoint was made with .*\n",
                        capsys.readouterr().err)


@pytest.mark.parametrize("module", ["safetensors.numpy", "matplotlib.figure", "tqdm"])
def test_missing_packages_are_named_before_training(folder, monkeypatch, capsys, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(data, "load", None)
    assert cli.main(["train"]) == 2
    assert re.fullmatch(r'fastconv: error: .* is missing .*: pip install "fastconv\[train\]"\n',
                        capsys.readouterr().err)


def test_a_training_that_diverges_says_so(folder, few_digits, capsys):
    assert cli.main(["train", "--lr", "1e30", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"fastconv: error: the loss became (nan|inf) in epoch 1, batch \d+: lower .*\n", err)


def test_weights_that_do_not_fit_are_an_error(folder, few_digits, capsys):
    fastconv.checkpoint.save_weights(folder / "other.safetensors", {"weight": np.zeros(3, np.float32)})
    assert cli.main(["evaluate", "other.safetensors"]) == 2
    assert "state does not fit" in capsys.readouterr().err


# ---- where it prints --------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar_and_the_table_stays(folder):
    terminal, child = pty.openpty()
    process = popen("train", "--epochs", "1", stdout=child, stderr=child)
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(terminal)
    assert process.wait() == 0
    shown = shown.decode()
    assert re.search(r"epoch 1/1 +\d+%\|.*\| .*loss \d\.\d+, accuracy \d+\.\d+%, [\d,]+ images/s", shown)
    assert re.search(r"\r    1   0\.\d{5}  .*\r\n", shown)


def test_ascii_output_is_enough(folder):
    code, out, err = run("train", "--epochs", "1", "--output", "gr\u00f6\u00dfe \u6570",
                         env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"})
    assert (code, err) == (0, b"")
    assert out.isascii()
    assert rb"are in gr\xf6\xdfe \u6570" in out
    assert sorted(path.name for path in (folder / "gr\u00f6\u00dfe \u6570").iterdir()) == sorted(OUTPUTS)


def test_models_lists_networks_of_any_size_too(capsys):
    assert cli.main(["models"]) == 0
    rows = {line.split("  ")[0]: line.split()[-2:] for line in capsys.readouterr().out.splitlines()}
    assert rows["Perceptron"] == ["785", "784"]
    assert rows["mlp 300"] == ["238,510", "238,200"]
    gates, steps, scores = 4 * 128, 28, 128 * 10
    lstm = gates * (28 + 128)
    assert rows["LSTMClassifier 128"] == [f"{lstm + 2 * gates + scores + 10:,}", f"{steps * lstm + scores:,}"]
