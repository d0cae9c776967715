"""Trains the same torch network twice, plain and accelerated."""

import argparse
import copy
import time

import torch
from torch import nn

import fastconv.torch
from fastconv import data

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=3)
epochs = parser.parse_args().epochs

train, test = (tuple(map(torch.from_numpy, (part.images, part.labels))) for part in data.digits())
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Dropout(0.2), nn.Linear(32 * 8 * 8, 10))

for name, model in (("torch", copy.deepcopy(network)),
                    ("accelerated", fastconv.torch.accelerate(copy.deepcopy(network)))):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    start = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(len(train[0])).split(32):
            loss = nn.functional.cross_entropy(model(train[0][batch]), train[1][batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        accuracy = (model(test[0]).argmax(1) == test[1]).float().mean()
    print(f"{name:12} {seconds:6.2f} s  accuracy {accuracy:.3f}")
