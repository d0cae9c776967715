"""Complexity versus accuracy: what is counted, the files, and a picture whose labels can be read."""

import csv
import itertools
import re
import struct

import pytest

from fastconv import chart, cli, plots

pytest.importorskip("matplotlib")


def rows(seconds=None):
    return [{**row, "seconds": seconds} for row in chart.measure(images=0)]


def test_the_command_writes_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["chart", "--no-time"]) == 0
    assert re.search(r"^ResNet-50 +4,089,184,256 multiply-adds +25,557,032 parameters  top-1 76\.13 %$",
                     capsys.readouterr().out, re.M)
    table = list(csv.DictReader((tmp_path / "runs" / "chart" / "chart.csv").read_text().splitlines()))
    assert [row["model"] for row in table] == list(chart.NETWORKS)
    assert table[0] == {"model": "alexnet", "title": "AlexNet", "size": "224", "multiply_adds": "714188480",
                        "parameters": "61100840", "top1": "56.522", "source": chart.TORCHVISION,
                        "seconds": ""}
    assert [row["title"] for row in table if row["source"] != chart.TORCHVISION] == ["Inception-v4"]
    # Auxiliary heads are not there when images are classified.
    assert {row["model"]: row["parameters"] for row in table}["inception_v3"] == "23834568"
    header = (tmp_path / "runs" / "chart" / "chart.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">2I", header[16:]) == (1200, 900)


def test_time_is_measured(tmp_path):
    [row] = chart.measure(["alexnet"], images=1)
    assert 0 < row["seconds"] < 60


@pytest.mark.parametrize("seconds", [None, 0.01, 9.999])
def test_labels_are_apart_and_inside(tmp_path, seconds):
    figure = plots.complexity(rows(seconds), tmp_path / "chart.png", "a machine")
    [axes] = figure.axes
    assert len(axes.texts) == len(chart.NETWORKS)
    boxes = {text.get_text(): text.get_window_extent() for text in (*axes.texts, *axes.get_legend().texts)}
    assert [pair for pair in itertools.combinations(boxes, 2)
            if boxes[pair[0]].overlaps(boxes[pair[1]])] == []
    for label, box in boxes.items():
        assert axes.bbox.x0 < box.x0 < box.x1 < axes.bbox.x1, label
        assert axes.bbox.y0 < box.y0 < box.y1 < axes.bbox.y1, label


def test_labels_do_not_lie_on_bubbles(tmp_path):
    figure = plots.complexity(rows(9.999), tmp_path / "chart.png")
    [axes] = figure.axes
    labels = [text.get_window_extent() for text in axes.texts]
    for bubble in axes.collections[:len(labels)]:
        x, y = axes.transData.transform(bubble.get_offsets()[0])
        radius = (bubble.get_sizes()[0] / 3.1416) ** 0.5 * figure.dpi / 72
        for box, text in zip(labels, axes.texts, strict=True):
            nearest = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
            assert (nearest[0] - x) ** 2 + (nearest[1] - y) ** 2 > radius**2, text


def test_the_picture_names_its_sources(tmp_path):
    figure = plots.complexity(rows(0.1), tmp_path / "chart.png", "a machine")
    text = figure.get_supxlabel()
    assert f"{chart.TORCHVISION}; Inception-v4: {chart.CAFFE}" in text
    assert "on a machine" in text
    assert "Times" not in plots.complexity(rows(), tmp_path / "chart.png").get_supxlabel()
