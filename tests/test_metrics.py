"""Accuracy, confusion matrix and its table."""

import numpy as np
import pytest

from fastconv.metrics import accuracy, confusion_matrix, format_confusion_matrix


def test_accuracy_of_scores_and_of_predictions():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [-3.0, -4.0]], np.float32)
    assert accuracy(scores, [1, 0, 1, 0]) == 0.75  # of equal scores the first class wins
    assert accuracy([1, 0, 0, 0], np.array([1, 0, 1, 0], np.uint8)) == 0.75


@pytest.mark.parametrize(("predictions", "labels", "error", "message"), [
    ([0.5, 1.0], [0, 1], TypeError, "predictions .* float64"),
    ([0, 1], [0.0, 1.0], TypeError, "labels .* float64"),
    ([0, 1], [0, 1, 1], ValueError, r"\(2,\) and \(3,\)"),
    (np.zeros((2, 3)), [0], ValueError, r"\(2,\) and \(1,\)"),
    (np.zeros((0, 3)), np.zeros(0, int), ValueError, "labels must not be empty"),
])
def test_accuracy_names_wrong_arguments(predictions, labels, error, message):
    with pytest.raises(error, match=message):
        accuracy(predictions, labels)


def test_confusion_matrix_counts_true_classes_in_rows():
    labels = [0, 0, 1, 2, 2, 2]
    predictions = [0, 1, 1, 0, 2, 2]
    matrix = confusion_matrix(predictions, labels, 4)
    np.testing.assert_array_equal(matrix, [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]])
    assert matrix.dtype == np.int64


def test_confusion_matrix_agrees_with_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 7, (2, 500), dtype=np.uint8)
    np.testing.assert_array_equal(confusion_matrix(predictions, labels, 7),
                                  sklearn_metrics.confusion_matrix(labels, predictions, labels=range(7)))


def test_confusion_matrix_of_small_dtypes_does_not_overflow():
    matrix = confusion_matrix(np.array([99], np.uint8), np.array([98], np.int8), 100)
    assert matrix[98, 99] == matrix.sum() == 1


@pytest.mark.parametrize(("predictions", "labels", "count", "message"), [
    ([0, 3], [0, 1], 3, r"predictions must lie in 0 \.\. 2, got 3"),
    ([0, 1], [0, -1], 3, r"labels must lie in 0 \.\. 2, got -1"),
    ([0, 1], [0], 3, r"\(2,\) and \(1,\)"),
    ([0], [0], 0, "num_classes must be positive, got 0"),
])
def test_confusion_matrix_names_wrong_arguments(predictions, labels, count, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(predictions, labels, count)


def test_format_confusion_matrix():
    matrix = [[1234567, 1, 0], [0, 0, 0], [1, 0, 2]]
    assert format_confusion_matrix(matrix, ["cat", "automobile", "a long name of a class"]).splitlines() == [
        "true \\ predicted           cat automob  a long  recall",
        "cat                    1234567       1       . 100.00%",
        "automobile                   .       .       .       -",
        "a long name of a class       1       .       2  66.67%",
    ]
    digits = format_confusion_matrix(np.eye(10, dtype=np.int64)).splitlines()
    assert len(digits) == 11
    assert len(set(map(len, digits))) == 1


def test_format_confusion_matrix_names_wrong_arguments():
    with pytest.raises(ValueError, match=r"matrix .* got \(2, 3\)"):
        format_confusion_matrix(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="names must hold 2 names, got 1"):
        format_confusion_matrix(np.zeros((2, 2)), ["one"])
