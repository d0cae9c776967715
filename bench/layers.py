"""The convolutions of networks, found by tracing the networks of `fastconv.models`."""

from collections import Counter
from dataclasses import dataclass, field, replace

from fastconv import init, models
from fastconv.layers import Conv2d

LARGEST_BATCH = {"vgg16": 4}  # its first layers have gigabytes of activations and take seconds


@dataclass(frozen=True)
class ConvLayer:
    """A convolution of square images and filters: batch x channels x size x size -> filters.

    used_by: {network: how often}; layers that differ in nothing else are the same.
    """

    batch: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    used_by: dict = field(default_factory=dict, compare=False)

    @property
    def name(self):
        stride = f"/{self.stride}" if self.stride > 1 else ""
        groups = f" g{self.groups}" if self.groups > 1 else ""
        return (f"{self.kernel}x{self.kernel}{stride} {self.channels}->{self.filters} @{self.size} "
                f"p{self.padding}{groups} N{self.batch}")

    @property
    def output_size(self):
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def input_shape(self):
        return (self.batch, self.channels, self.size, self.size)

    @property
    def weight_shape(self):
        return (self.filters, self.channels // self.groups, self.kernel, self.kernel)

    @property
    def output_shape(self):
        return (self.batch, self.filters, self.output_size, self.output_size)

    @property
    def flops(self):
        """Additions and multiplications of the direct convolution, products with the padding included."""
        return (2 * self.batch * self.filters * self.output_size**2
                * self.channels // self.groups * self.kernel**2)

    @property
    def traffic(self):
        """Bytes that any convolution moves at least: input, weights and output once."""
        return 4 * sum(a * b * c * d for a, b, c, d in (self.input_shape, self.weight_shape,
                                                        self.output_shape))

    @property
    def mid_size(self):
        """Enough work and channels that the multiply-add units are the limit."""
        return (self.kernel == 3 and self.batch > 1 and self.groups == 1
                and min(self.channels, self.filters) >= 64 and self.size <= 112)


def conv_layers(networks, batch):
    """Every distinct convolution of the networks, in the order in which they meet it."""
    found = {}
    for network in networks:
        with init.skipped():
            model = models.create(network)
        shape = (min(batch, LARGEST_BATCH.get(network, batch)), *models.input_shape(network))
        counts = Counter(_layer(layer, input_shape) for _, layer, input_shape in model.eval().trace(shape)
                         if isinstance(layer, Conv2d))
        for layer, count in counts.items():
            found.setdefault(layer, {})[network] = count
    return [replace(layer, used_by=used_by) for layer, used_by in found.items()]


def _layer(layer, input_shape):
    (kernel, width), (batch, channels, size, _) = layer.kernel_size, input_shape
    if kernel != width or layer.dilation != 1:
        raise ValueError(f"only square filters without dilation are timed, got {layer.kernel_size}")
    padding = (kernel - 1) // 2 if layer.padding == "same" else layer.padding
    return ConvLayer(batch, channels, size, layer.out_channels, kernel, layer.stride, padding, layer.groups)
