"""fastconv.sklearn: the classifier keeps all of scikit-learn's rules, and learns the digits."""

import numpy as np
import pytest

from fastconv import layers

pytest.importorskip("sklearn", minversion="1.6")
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastconv.sklearn import ConvNetClassifier


@pytest.fixture(scope="module")
def digits():
    return load_digits(return_X_y=True)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([ConvNetClassifier()])
def test_rules_of_scikit_learn(estimator, check):
    check(estimator)


def test_learns_the_digits(digits):
    X, y = digits
    classifier = ConvNetClassifier(epochs=8, random_state=0).fit(X[:1200], y[:1200])
    assert classifier.image_shape_ == (1, 8, 8)
    assert classifier.score(X[1200:], y[1200:]) > 0.9
    assert [row["epoch"] for row in classifier.history_] == list(range(1, 9))
    probabilities = classifier.predict_proba(X[:50])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_images_and_their_features_are_the_same(digits):
    X, y = digits[0][:200].astype(np.float32), digits[1][:200]
    flat = ConvNetClassifier(epochs=2, image_shape=(1, 8, 8), random_state=0).fit(X, y)
    square = ConvNetClassifier(epochs=2, random_state=0).fit(X.reshape(-1, 1, 8, 8), y)
    np.testing.assert_array_equal(flat.predict_proba(X), square.predict_proba(X.reshape(-1, 1, 8, 8)))
    with pytest.raises(ValueError, match=r"X must be images of shape \(1, 8, 8\), got \(1, 4, 16\)"):
        square.predict(X.reshape(-1, 1, 4, 16))


def test_random_state_says_all(digits):
    X, y = digits[0][:200], digits[1][:200]
    first, second, other = (ConvNetClassifier(epochs=2, random_state=state).fit(X, y).predict_proba(X)
                            for state in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_within_pipelines_searches_and_cross_validation(digits):
    X, y = digits[0][:600], digits[1][:600]
    pipeline = make_pipeline(MinMaxScaler(), ConvNetClassifier(random_state=0, epochs=8))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.8
    search = GridSearchCV(pipeline, {"convnetclassifier__lr": [1e-6, 2e-3]}, cv=2).fit(X, y)
    assert search.best_params_ == {"convnetclassifier__lr": 2e-3}


def test_partial_fit_goes_on(digits):
    X, y = digits
    classifier = ConvNetClassifier(random_state=0)
    for _ in range(4):
        for start in range(0, 1200, 300):
            classifier.partial_fit(X[start:start + 300], y[start:start + 300], classes=np.arange(10))
    assert classifier.score(X[1200:], y[1200:]) > 0.8
    with pytest.raises(ValueError, match="classes must be given"):
        ConvNetClassifier().partial_fit(X[:9], y[:9])
    with pytest.raises(ValueError, match="y must be of the classes"):
        classifier.partial_fit(X[:9], np.full(9, 11))


def linear(image_shape, classes, rng):
    return layers.Sequential(layers.Flatten(), layers.Linear(int(np.prod(image_shape)), classes, rng=rng))


def test_models_of_ones_own(digits):
    X, y = digits[0][:300], digits[1][:300]
    classifier = clone(ConvNetClassifier(linear, random_state=0, lr=0.01)).fit(X, y)
    assert isinstance(classifier.model_[1], layers.Linear)
    assert classifier.score(X, y) > 0.9


@pytest.mark.parametrize(("options", "message"), [
    ({"image_shape": (1, 8, 9)}, r"image_shape must be \(C, H, W\) of the 64 features of X"),
    ({"image_shape": (8, 8)}, "image_shape must be"), ({"epochs": 0}, "epochs"),
    ({"batch_size": 0}, "batch_size"), ({"lr": -1}, "lr")])
def test_options_that_do_not_fit_are_refused(digits, options, message):
    with pytest.raises(ValueError, match=message):
        ConvNetClassifier(**options).fit(digits[0][:20], digits[1][:20])
