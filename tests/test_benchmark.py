"""The command's benchmark: which convolutions it finds, and that what it times is that convolution."""

import pytest

from fastconv import benchmark, cli, models


def test_measure_finds_each_convolution_once():
    rows = list(benchmark.measure("resnet20", batch=2, budget=1e-9))
    assert len({row.name for row in rows}) == len(rows)
    model = models.resnet20()  # of which the last layer is no convolution
    assert sum(row.count for row in rows) == 19
    products = model.multiply_adds((2, 3, 32, 32)) - 2 * 64 * 10
    assert sum(row.count * row.flops for row in rows) == 2 * products
    assert all(set(row.seconds) == set(benchmark.PASSES) and min(row.seconds.values()) > 0 for row in rows)


def test_unknown_network():
    with pytest.raises(ValueError, match="name must be one of"):
        next(benchmark.measure("resnet19"))


def test_command(capsys):
    assert cli.main(["bench", "--model", "lenet5", "--gradients", "--seconds", "1e-6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lenet5, batches of 1, ")
    assert lines[2].split() == ["convolution", "times", *benchmark.PASSES]
    assert [line.split("  ")[0] for line in lines[3:]] == ["5x5 1->6 @32x32", "5x5 6->16 @14x14",
                                                           "all convolutions"]
