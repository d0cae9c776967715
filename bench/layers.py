"""The convolution layers that are timed: from LeNet-5, AlexNet, VGG-16, GoogLeNet and ResNet-50."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ConvLayer:
    """A convolution of square images and filters: batch x channels x size x size -> filters."""

    name: str
    batch: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    backward: bool = False  # the gradients of this layer are timed too
    mid_size: bool = False  # enough work and channels that the FMA units are the limit

    @property
    def output_size(self):
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def input_shape(self):
        return (self.batch, self.channels, self.size, self.size)

    @property
    def weight_shape(self):
        return (self.filters, self.channels, self.kernel, self.kernel)

    @property
    def output_shape(self):
        return (self.batch, self.filters, self.output_size, self.output_size)

    @property
    def flops(self):
        """Additions and multiplications of the direct convolution, products with the padding included."""
        return (2 * self.batch * self.filters * self.output_size**2
                * self.channels * self.kernel**2)


LAYERS = (
    ConvLayer("LeNet-5 c1 5x5 1->6 @28", 128, 1, 28, 6, 5, padding=2, backward=True),
    ConvLayer("LeNet-5 c3 5x5 6->16 @14", 128, 6, 14, 16, 5, backward=True),
    ConvLayer("AlexNet 1 11x11/4 3->64 @224", 16, 3, 224, 64, 11, 4, 2, backward=True),
    ConvLayer("AlexNet 2 5x5 64->192 @27", 16, 64, 27, 192, 5, padding=2, backward=True),
    ConvLayer("AlexNet 3 3x3 192->384 @13", 16, 192, 13, 384, 3, padding=1, backward=True),
    ConvLayer("VGG 1 3x3 3->64 @224", 4, 3, 224, 64, 3, padding=1, backward=True),
    ConvLayer("VGG 2 3x3 64->64 @224", 4, 64, 224, 64, 3, padding=1, backward=True),
    ConvLayer("VGG 4 3x3 128->128 @112", 4, 128, 112, 128, 3, padding=1, mid_size=True),
    ConvLayer("VGG 6 3x3 256->256 @56", 4, 256, 56, 256, 3, padding=1, backward=True, mid_size=True),
    ConvLayer("VGG 9 3x3 512->512 @28", 4, 512, 28, 512, 3, padding=1, mid_size=True),
    ConvLayer("VGG 11 3x3 512->512 @14", 4, 512, 14, 512, 3, padding=1, backward=True, mid_size=True),
    ConvLayer("GoogLeNet 1x1 192->64 @28", 16, 192, 28, 64, 1, backward=True),
    ConvLayer("GoogLeNet 5x5 32->96 @28", 16, 32, 28, 96, 5, padding=2, backward=True),
    ConvLayer("GoogLeNet 1x1 480->192 @14", 16, 480, 14, 192, 1),
    ConvLayer("ResNet 7x7/2 3->64 @224", 16, 3, 224, 64, 7, 2, 3, backward=True),
    ConvLayer("ResNet 1x1 64->256 @56", 16, 64, 56, 256, 1, backward=True),
    ConvLayer("ResNet 3x3 64->64 @56", 16, 64, 56, 64, 3, padding=1, backward=True, mid_size=True),
    ConvLayer("ResNet 3x3/2 128->128 @56", 16, 128, 56, 128, 3, 2, 1, backward=True, mid_size=True),
    ConvLayer("ResNet 3x3 256->256 @14", 16, 256, 14, 256, 3, padding=1, backward=True, mid_size=True),
    ConvLayer("ResNet 3x3 512->512 @7", 16, 512, 7, 512, 3, padding=1, backward=True, mid_size=True),
    ConvLayer("ResNet 1x1 512->2048 @7", 16, 512, 7, 2048, 1),
    ConvLayer("ResNet 1x1 1024->256 @14", 16, 1024, 14, 256, 1, backward=True),
    ConvLayer("single image 3x3 128->128 @28", 1, 128, 28, 128, 3, padding=1),
    ConvLayer("single image 3x3 256->256 @14", 1, 256, 14, 256, 3, padding=1),
    ConvLayer("single image 3x3 512->512 @7", 1, 512, 7, 512, 3, padding=1),
    ConvLayer("single image 1x1 256->64 @56", 1, 256, 56, 64, 1),
)
