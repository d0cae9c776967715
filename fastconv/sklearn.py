"""A convolutional network as a scikit-learn classifier.

    from fastconv.sklearn import ConvNetClassifier
    ConvNetClassifier(image_shape=(1, 8, 8)).fit(X_train, y_train).score(X_test, y_test)

Needs scikit-learn 1.6 or later: pip install "fastconv[sklearn]".
"""

import math

import numpy as np

from . import data, layers
from . import functional as F
from .checks import count
from .extras import require
from .grad import no_grad
from .losses import CrossEntropyLoss
from .optim import Adam
from .train import fit

base = require("sklearn.base", "sklearn")
multiclass = require("sklearn.utils.multiclass", "sklearn")
utils = require("sklearn.utils", "sklearn")
validation = require("sklearn.utils.validation", "sklearn")

__all__ = ["ConvNetClassifier", "convnet"]


def convnet(image_shape, classes, rng):
    """Two 3x3 convolutions of 16 and 32 channels, pooled while 4 pixels are left, and two linear layers."""
    channels, *size = image_shape
    steps = []
    for width in (16, 32):
        steps += [layers.Conv2d(channels, width, 3, padding=1, rng=rng), layers.ReLU()]
        channels = width
        if min(size) >= 4:
            steps.append(layers.MaxPool2d(2))
            size = [extent // 2 for extent in size]
    return layers.Sequential(*steps, layers.Flatten(), layers.Linear(channels * math.prod(size), 64, rng=rng),
                             layers.ReLU(), layers.Linear(64, classes, rng=rng))


class ConvNetClassifier(base.ClassifierMixin, base.BaseEstimator):
    """A network trained by Adam on the cross entropy (train.fit), each channel scaled to mean 0, deviation 1.

    X: (n, C, H, W), or (n, features), which image_shape (C, H, W) says how to see; without it as one channel,
    square where that fits, else one row. model: a function (image_shape, classes, rng) of a fastconv layer,
    convnet where it is None. random_state: of weights, shuffling and whatever the model draws from rng.

    After fit: classes_, n_features_in_, image_shape_, model_ (the layer), history_ (train.History).
    Raises ValueError for X, y and options that do not fit, train.Diverged where the loss becomes NaN.
    """

    def __init__(self, model=None, *, image_shape=None, epochs=30, batch_size=32, lr=2e-3, weight_decay=0.0,
                 random_state=None):
        self.model = model
        self.image_shape = image_shape
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.random_state = random_state

    def fit(self, X, y):
        """Trains a new network for `epochs` passes over X; returns the classifier."""
        X, y = self._validated(X, y, reset=True)
        self._start(X, np.unique(y))
        return self._train(X, y, count("epochs", self.epochs, least=1))

    def partial_fit(self, X, y, classes=None):
        """Goes on with one pass over X; classes: all there will be, needed by the first call."""
        first = not hasattr(self, "model_")
        X, y = self._validated(X, y, reset=first)
        if first:
            if classes is None:
                raise ValueError("classes must be given in the first call of partial_fit")
            self._start(X, np.unique(classes))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes must be those of the first call, {self.classes_}, got {classes!r}")
        if not np.isin(y, self.classes_).all():
            raise ValueError(f"y must be of the classes {self.classes_}, got {np.unique(y)}")
        return self._train(X, y, 1)

    def predict_proba(self, X):
        """Probabilities (n, classes), columns in the order of classes_."""
        validation.check_is_fitted(self, "model_")
        images = self._images(self._validated(X))
        self.model_.eval()
        with no_grad():
            scores = [self.model_.forward(images[i:i + 500]) for i in range(0, len(images), 500)]
        return F.softmax(np.concatenate(scores))

    def predict(self, X):
        """The likeliest class of each image, (n,)."""
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def _validated(self, X, y="no_validation", *, reset=False):
        """X as float32 (n, features), and y where there is one, both checked as scikit-learn does."""
        if len(getattr(X, "shape", ())) == 4:
            X = validation.check_array(X, dtype=np.float32, allow_nd=True)
            if reset:
                self._seen_shape = X.shape[1:]
            elif X.shape[1:] != self.image_shape_:
                raise ValueError(f"X must be images of shape {self.image_shape_}, got {X.shape[1:]}")
            X = X.reshape(len(X), -1)
        elif reset:
            self._seen_shape = None
        if isinstance(y, str):
            return validation.validate_data(self, X, dtype=np.float32, reset=reset)
        X, y = validation.validate_data(self, X, y, dtype=np.float32, reset=reset)
        multiclass.check_classification_targets(y)
        return X, y

    def _shape(self, features):
        """(C, H, W) of the images."""
        if self.image_shape is not None:
            shape = tuple(count("image_shape", extent, least=1) for extent in self.image_shape)
            if len(shape) != 3 or math.prod(shape) != features or self._seen_shape not in (None, shape):
                raise ValueError(f"image_shape must be (C, H, W) of the {features} features of X, got "
                                 f"{self.image_shape!r}")
            return shape
        if self._seen_shape is not None:
            return self._seen_shape
        side = math.isqrt(features)
        return (1, side, side) if side * side == features else (1, 1, features)

    def _start(self, X, classes):
        """A new network, its optimiser, and the scale of the channels of X."""
        self.classes_ = classes
        self.image_shape_ = self._shape(X.shape[1])
        channels = X.reshape(len(X), self.image_shape_[0], -1).astype(np.float64)
        self._mean = channels.mean((0, 2))[:, None, None].astype(np.float32)
        deviation = channels.std((0, 2))[:, None, None]
        self._scale = (1 / np.where(deviation > 0, deviation, 1)).astype(np.float32)
        self._seed = int(utils.check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        create = convnet if self.model is None else self.model
        self.model_ = create(self.image_shape_, len(classes), np.random.default_rng(self._seed))
        self._optimizer = Adam(self.model_.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        self.history_ = []

    def _images(self, X):
        return (X.reshape(len(X), *self.image_shape_) - self._mean) * self._scale

    def _train(self, X, y, epochs):
        labels = np.searchsorted(self.classes_, y)
        images = data.Dataset(self._images(X), labels, [str(name) for name in self.classes_])
        history = fit(self.model_, CrossEntropyLoss(), self._optimizer, images, epochs=epochs,
                      batch_size=self.batch_size, seed=self._seed + len(self.history_), progress=False)
        self.history_ += history
        return self
