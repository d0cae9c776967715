"""Figures of merit of a classifier: accuracy and confusion matrix."""

import numpy as np


def accuracy(scores_or_predictions, labels):
    """Share of right predictions, a float in 0 .. 1.

    scores_or_predictions: scores (N, K), of which the largest (the first of equals) predicts the class; or
    predicted classes (N,), integers.  labels (N,), integers.  Raises TypeError for labels or predictions that
    are not integers, ValueError for shapes that do not fit and for N = 0.
    """
    predictions, labels = np.asarray(scores_or_predictions), _classes("labels", labels)
    if predictions.ndim == 2 and predictions.shape[1]:
        predictions = predictions.argmax(axis=1)
    _check_fit(_classes("predictions", predictions), labels)
    if labels.size == 0:
        raise ValueError("labels must not be empty: the accuracy of no predictions is undefined")
    return float(np.mean(predictions == labels))


def confusion_matrix(predictions, labels, num_classes):
    """(K, K) int64 array whose [i, j] counts the samples of class i that were predicted as class j.

    predictions, labels: (N,) integers in 0 .. K-1, K = num_classes.  Raises TypeError for other dtypes,
    ValueError for other shapes or classes.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be positive, got {num_classes!r}")
    predictions, labels = _classes("predictions", predictions), _classes("labels", labels)
    _check_fit(predictions, labels)
    for name, classes in (("predictions", predictions), ("labels", labels)):
        outside = classes[(classes < 0) | (classes >= num_classes)]
        if outside.size:
            raise ValueError(f"{name} must lie in 0 .. {num_classes - 1}, got {outside[0]}")
    cells = labels.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).astype(np.int64).reshape(num_classes, num_classes)


def format_confusion_matrix(matrix, names=None):
    """Text table of a confusion matrix (K, K): a row per true class, a column per predicted one.

    Zeros are dots, so that the mistakes stand out; the last column is the recall, the share of the row on
    the diagonal.  names: K class names (default 0 .. K-1), cut to the width of the counts at the head of
    columns.  Raises ValueError for a matrix that is not square or another number of names.
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"matrix must have shape (classes, classes), got {matrix.shape}")
    names = [str(name) for name in (range(len(matrix)) if names is None else names)]
    if len(names) != len(matrix):
        raise ValueError(f"names must hold {len(matrix)} names, got {len(names)}")
    corner = "true \\ predicted"
    head = max(len(corner), *map(len, names))
    width = max(5, len(str(matrix.max())))
    heads = [name[:width].strip().rjust(width) for name in names]
    lines = [" ".join([corner.ljust(head), *heads, " recall"])]
    for index, (name, row) in enumerate(zip(names, matrix, strict=True)):
        counts = [(str(count) if count else ".").rjust(width) for count in row]
        recall = f"{100 * row[index] / row.sum():6.2f}%" if row.sum() else "      -"
        lines.append(" ".join([name.ljust(head), *counts, recall]))
    return "\n".join(lines)


def _classes(name, values):
    values = np.asarray(values)
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {values.dtype}")
    return values


def _check_fit(predictions, labels):
    if labels.ndim != 1 or predictions.shape != labels.shape:
        raise ValueError("predictions and labels must have the same shape (samples,), "
                         f"got {predictions.shape} and {labels.shape}")
