"""LeNet-5 in naive NumPy: images of 32 x 32, ten classes, cross-entropy."""

import numpy as np

from . import naive


class NaiveLeNet:
    """LeNet-5 with the gradients written out by hand, trained by SGD with momentum."""

    SHAPES = ((6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84))

    def __init__(self, rng):
        self.parameters = []  # weight and bias of every layer in turn
        for shape in self.SHAPES:
            limit = 1 / np.sqrt(np.prod(shape[1:]))
            self.parameters += [rng.uniform(-limit, limit, size).astype(np.float32)
                                for size in (shape, shape[:1])]
        self.velocities = [np.zeros_like(parameter) for parameter in self.parameters]

    def step(self, images, labels, learning_rate, momentum):
        """One step; returns the loss before it."""
        loss, gradients = self._gradients(images, labels)
        for parameter, velocity, gradient in zip(self.parameters, self.velocities, gradients, strict=True):
            velocity *= momentum
            velocity += gradient
            parameter -= learning_rate * velocity
        return loss

    def _gradients(self, images, labels):
        w1, b1, w2, b2, w3, b3, w4, b4, w5, b5 = self.parameters
        conv1 = np.maximum(naive.forward_im2col(images, w1) + b1[:, None, None], 0)
        pool1, argmax1 = naive.max_pool2d(conv1, 2, 2)
        conv2 = np.maximum(naive.forward_im2col(pool1, w2) + b2[:, None, None], 0)
        pool2, argmax2 = naive.max_pool2d(conv2, 2, 2)
        flat = pool2.reshape(len(images), -1)
        fc1 = np.maximum(flat @ w3.T + b3, 0)
        fc2 = np.maximum(fc1 @ w4.T + b4, 0)
        scores = fc2 @ w5.T + b5

        scores -= scores.max(1, keepdims=True)
        probabilities = np.exp(scores)
        probabilities /= probabilities.sum(1, keepdims=True)
        chosen = np.arange(len(labels)), labels
        loss = -np.log(probabilities[chosen]).mean()

        g5 = probabilities
        g5[chosen] -= 1
        g5 /= len(labels)
        g4 = (g5 @ w5) * (fc2 > 0)
        g3 = (g4 @ w4) * (fc1 > 0)
        g2 = (g3 @ w3).reshape(pool2.shape)
        g2 = naive.max_pool2d_backward(g2, argmax2, conv2.shape, 2, 2) * (conv2 > 0)
        g1 = naive.backward_input_im2col(g2, w2, pool1.shape)
        g1 = naive.max_pool2d_backward(g1, argmax1, conv1.shape, 2, 2) * (conv1 > 0)
        return loss, [naive.backward_weight_im2col(g1, images, w1.shape), g1.sum((0, 2, 3)),
                      naive.backward_weight_im2col(g2, pool1, w2.shape), g2.sum((0, 2, 3)),
                      g3.T @ flat, g3.sum(0), g4.T @ fc1, g4.sum(0), g5.T @ fc2, g5.sum(0)]
