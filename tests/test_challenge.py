"""The remake of the comparison of 1998: what it trains, prints and writes, on few images."""

import csv
import json
import sys

import numpy as np
import pytest

from fastconv import challenge, cli, data, models

EASY = ("linear", "lenet1", "lenet5")


@pytest.fixture(autouse=True)
def digits(monkeypatch):
    """The embedded digits in MNIST's place; the sizes that were asked for."""
    asked = []

    def load(name, folder=None, *, size):
        assert name == "mnist"
        asked.append(size)
        inside = slice((32 - size) // 2, (32 + size) // 2)
        return tuple(data.Dataset(part.images[:, :, inside, inside], part.labels, part.names)
                     for part in (whole.subset(slice(0, 240)) for whole in data.digits()))

    monkeypatch.setattr(data, "load", load)
    return asked


def test_rows_have_the_figures_of_every_seed():
    rows = list(challenge.run(EASY, epochs=2, seeds=2))
    assert [row["model"] for row in rows] == list(EASY)
    for row in rows:
        learner = challenge.LEARNERS[row["model"]]
        assert len(row["errors"]) == 2
        assert row["error"] == np.median(row["errors"])
        assert 0 <= row["error"] < 90
        assert row["seconds"] > 0
        assert (row["published"], row["source"]) == (learner.published, learner.source)
        assert row["epochs"] == 2
    assert [row["parameters"] for row in rows] == [7_850, 2_578, 60_000]


def test_the_same_seeds_give_the_same_errors():
    first, second = (next(challenge.run(["lenet5-distorted"], epochs=1, seeds=2)) for _ in range(2))
    assert first["errors"] == second["errors"]
    assert first["augment"].startswith("RandomAffine(")


def test_images_have_the_size_of_the_network(digits):
    list(challenge.run(["mlp300", "lenet4", "linear-svm"], epochs=1))
    assert digits == [28, 32, 28]


def test_validation_takes_the_last_sixth_of_the_training_images(monkeypatch):
    sizes = []

    class Recorder:
        size, epochs, random, title, published, source = 32, 3, False, "recorder", None, None

        def learn(self, train, test, seed, epochs):
            sizes.append((len(train), len(test), seed, epochs))
            return 1.0, 2, 3.0

    monkeypatch.setitem(challenge.LEARNERS, "recorder", Recorder())
    list(challenge.run(["recorder"], seeds=3, validation=True))
    list(challenge.run(["recorder"], epochs=5))
    assert sizes == [(200, 40, 0, 3), (240, 240, 0, 5)]


def test_kernel_svm_counts_its_support_vectors():
    pytest.importorskip("sklearn")
    [row] = challenge.run(["kernel-svm"], seeds=3)
    assert len(row["errors"]) == 1  # nothing is random
    assert row["epochs"] is None
    vectors = (row["parameters"] - 45) / (784 + 9)
    assert vectors == int(vectors)
    assert 0 < vectors <= 240


def test_published_errors_are_those_of_the_paper():
    published = {name: learner.published for name, learner in challenge.LEARNERS.items()}
    assert published == {"linear": 12.0, "linear-svm": None, "kernel-svm": 1.4, "mlp300": 4.7, "lenet1": 1.7,
                         "lenet4": 1.1, "lenet5": 0.95, "lenet5-distorted": 0.8}
    assert challenge.LEARNERS["lenet5"].create is models.lenet5_1998


def test_command_prints_a_table_and_writes_it_as_csv_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["mnist-challenge", "--models", "linear", "--augment", "--epochs", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split("  ")[0] == "learner"
    assert [line[:24].strip() for line in out[1:3]] == ["linear classifier", "LeNet-5, distorted image"]
    assert out[3] == "challenge.csv and challenge.json are in runs/mnist-challenge"
    written = json.loads((tmp_path / "runs/mnist-challenge/challenge.json").read_text())
    assert [row["parameters"] for row in written["rows"]] == [7_850, 60_000]
    assert written["fastconv"]["cpu"]
    with open(tmp_path / "runs/mnist-challenge/challenge.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, line, expected in zip(rows, out[1:], written["rows"], strict=False):
        assert float(row["error"]) == expected["error"]
        assert float(row["errors"]) == expected["errors"][0]
        assert f"{expected['error']:.2f}" in line
        assert f"{expected['published']:.2f}" in line
        assert line.endswith(expected["source"])


def test_missing_scikit_learn_is_named_before_training(monkeypatch, capsys, digits):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    assert cli.main(["mnist-challenge", "--models", "kernel-svm"]) == 2
    assert 'pip install "fastconv[svm]"' in capsys.readouterr().err
    assert digits == []
