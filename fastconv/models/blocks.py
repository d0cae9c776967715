"""What several networks share: convolutions with batch normalisation, auxiliary heads, first weights."""

from .. import init
from ..layers import BatchNorm2d, Conv2d, Linear, ReLU, Sequential
from ..layers.containers import Container


def conv_bn_relu(in_channels, out_channels, kernel_size, stride=1, padding=0):
    """The convolution of the Inception networks, torchvision's BasicConv2d: no bias, eps of TensorFlow."""
    return Sequential({
        "conv": Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
        "bn": BatchNorm2d(out_channels, eps=0.001),
        "relu": ReLU(),
    })


def same_conv(in_channels, out_channels, kernel_size):
    """conv_bn_relu whose output has the height and width of the input."""
    return conv_bn_relu(in_channels, out_channels, kernel_size, padding="same")


def chain(**layers):
    """Layers one after the other, in a block where torch's names are flat."""
    return Sequential(layers, flat=True)


class Fork(Container):
    """The rest of a network and, in training, an auxiliary head: Szegedy et al., arXiv 1409.4842, section 5.

    In training forward(x) is a tuple, the outputs of `rest`, a chain, and then that of the head; backward
    takes their gradients in the same order, or that of the first alone. In evaluation forward(x) is rest(x).
    """

    def __init__(self, rest, name, head):
        super().__init__({"rest": rest, name: head}, flat=True)

    def forward(self, x):
        rest, head = self.children()
        y = rest.forward(x)
        if not self.training:
            return y
        return (*(y if isinstance(y, tuple) else (y,)), head.forward(x))

    def backward(self, grad_output):
        rest, head = self.children()
        if not isinstance(grad_output, tuple):
            return rest.backward(grad_output)
        *grads, grad_head = grad_output
        return rest.backward(tuple(grads) if len(grads) > 1 else grads[0]) + head.backward(grad_head)

    def plan(self, planner, x, out=None):
        return planner.add(self.rest, x, out)

    def trace(self, input_shape):
        return super().trace(input_shape) if self.training else self.rest.trace(input_shape)


def he_weights(model, rng):
    """He et al., arXiv 1502.01852, equation 14: normal by the fan out of each convolution; biases 0."""
    for _, layer in model.named_modules():
        if isinstance(layer, Conv2d):
            init.kaiming_normal(layer.weight.data, mode="fan_out", nonlinearity="relu", rng=rng)
            _zero_bias(layer)


def normal_weights(model, std, rng):
    """Normal weights of all convolutions and linear layers; biases 0."""
    for _, layer in model.named_modules():
        if isinstance(layer, (Conv2d, Linear)):
            init.normal(layer.weight.data, 0.0, std, rng=rng)
            _zero_bias(layer)


def _zero_bias(layer):
    if layer.bias is not None:
        init.constant(layer.bias.data, 0)
