"""A convolutional network in scikit-learn's pipelines and searches."""

import argparse

from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from fastconv.sklearn import ConvNetClassifier

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=10)
epochs = parser.parse_args().epochs

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
network = ConvNetClassifier(image_shape=(1, 8, 8), epochs=epochs, random_state=0)
search = GridSearchCV(make_pipeline(MinMaxScaler(), network),
                      {"convnetclassifier__lr": [0.0005, 0.002]}, cv=3)
search.fit(X_train, y_train)
print("learning rate", search.best_params_["convnetclassifier__lr"])
print(f"accuracy {search.score(X_test, y_test):.3f}")
