"""Trains LeNet-5 on handwritten digits, writes it as an ONNX file, and classifies by that file alone.

    pip install "fastconv[onnx]" && python classify.py

With onnxruntime installed, its answers and its time are printed beside ours.
"""

import sys
from importlib.util import find_spec
from time import perf_counter

import numpy as np

import fastconv
from fastconv import data, models
from fastconv.losses import CrossEntropyLoss
from fastconv.optim import SGD
from fastconv.train import fit


def write(path, train):
    """Makes the file, as if somebody else had."""
    model = models.lenet5(rng=np.random.default_rng(0))
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9)
    fit(model, CrossEntropyLoss(), optimizer, train, epochs=5, batch_size=32, progress=False)
    fastconv.onnx.save(model, path, (None, 1, 32, 32))


def best_microseconds(call, x, calls=200):
    """Of the fastest of many calls."""
    times = []
    for _ in range(calls):
        start = perf_counter()
        call(x)
        times.append(perf_counter() - start)
    return 1e6 * min(times)


def main(path="lenet5.onnx"):
    train, test = data.digits()
    write(path, train)
    images, labels = test.images[:64], test.labels[:64]

    model = fastconv.onnx.load(path)
    plan = model.compile(images.shape)  # for many batches of one shape; model(images) takes any number
    scores = plan(images)
    print(f"fastconv: {(scores.argmax(axis=1) == labels).mean():.0%} of {len(labels)} digits, "
          f"{best_microseconds(plan, images):.0f} us")

    if find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def run(x):
            return session.run(None, {"x": x})[0]

        theirs = run(images)
        print(f"onnxruntime: {(theirs.argmax(axis=1) == labels).mean():.0%}, "
              f"{best_microseconds(run, images):.0f} us, scores {abs(scores - theirs).max():.0e} from ours")


if __name__ == "__main__":
    main(*sys.argv[1:])
