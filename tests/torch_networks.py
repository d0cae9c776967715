"""The networks in torch, module by module with the names of torchvision (Inception-v4: of timm).

NETWORKS: name -> function of the number of classes. Without dropout, so that training can be compared.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Named(nn.Module):
    """Modules under their names."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def __getitem__(self, name):
        return getattr(self, name)


class BasicConv2d(Named):
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0):
        super().__init__(conv=nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False),
                         bn=nn.BatchNorm2d(out_channels, eps=0.001))

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def conv(in_channels, out_channels, kernel_size, stride=1, padding=0):
    return BasicConv2d(in_channels, out_channels, kernel_size, stride, padding)


# ---- AlexNet and VGG --------------------------------------------------------------------------------


class Classified(Named):
    """features, the mean over pool x pool windows, classifier."""

    def __init__(self, features, pool, classifier):
        super().__init__(features=features, classifier=classifier)
        self.pool = pool

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), self.pool).flatten(1))


def alexnet(classes):
    return Classified(
        nn.Sequential(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
                      nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
                      nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
                      nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)), 6,
        nn.Sequential(nn.Dropout(0), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(0), nn.Linear(4096, 4096),
                      nn.ReLU(), nn.Linear(4096, classes)))


class AlexNet2012(Named):
    """Names of Caffe's model; normalisation written out as in the paper."""

    def __init__(self, classes):
        super().__init__(conv1=nn.Conv2d(3, 96, 11, 4), conv2=nn.Conv2d(96, 256, 5, 1, 2, groups=2),
                         conv3=nn.Conv2d(256, 384, 3, 1, 1), conv4=nn.Conv2d(384, 384, 3, 1, 1, groups=2),
                         conv5=nn.Conv2d(384, 256, 3, 1, 1, groups=2), fc6=nn.Linear(9216, 4096),
                         fc7=nn.Linear(4096, 4096), fc8=nn.Linear(4096, classes))

    @staticmethod
    def normalised(x):
        squares = F.pad(x * x, (0, 0, 0, 0, 2, 2))
        total = sum(squares[:, shift:shift + x.shape[1]] for shift in range(5))
        return x / (2 + 1e-4 * total) ** 0.75

    def forward(self, x):
        x = F.max_pool2d(self.normalised(F.relu(self.conv1(x))), 3, 2)
        x = F.max_pool2d(self.normalised(F.relu(self.conv2(x))), 3, 2)
        x = F.relu(self.conv4(F.relu(self.conv3(x))))
        x = F.max_pool2d(F.relu(self.conv5(x)), 3, 2).flatten(1)
        return self.fc8(F.relu(self.fc7(F.relu(self.fc6(x)))))


def vgg(stages, batch_norm=False):
    def create(classes):
        layers, channels = [], 3
        for count, width in zip(stages, (64, 128, 256, 512, 512), strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1)]
                layers += [nn.BatchNorm2d(width)] if batch_norm else []
                layers += [nn.ReLU()]
                channels = width
            layers += [nn.MaxPool2d(2)]
        return Classified(nn.Sequential(*layers), 7, nn.Sequential(
            nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(0), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0),
            nn.Linear(4096, classes)))
    return create


# ---- ResNet -----------------------------------------------------------------------------------------


class Block(Named):
    def __init__(self, convs, downsample, option_a):
        modules = {}
        for index, layer in enumerate(convs, 1):
            modules |= {f"conv{index}": layer, f"bn{index}": nn.BatchNorm2d(layer.out_channels)}
        super().__init__(**modules, **({"downsample": downsample} if downsample else {}))
        self.count, self.option_a = len(convs), option_a

    def forward(self, x):
        y = x
        for index in range(1, self.count + 1):
            y = F.relu(y) if index > 1 else y
            y = self[f"bn{index}"](self[f"conv{index}"](y))
        if self.option_a:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1]))
        elif hasattr(self, "downsample"):
            x = self.downsample(x)
        return F.relu(y + x)


def plain(*arguments):
    return nn.Conv2d(*arguments, bias=False)


def basic(channels, width, stride):
    return [plain(channels, width, 3, stride, 1), plain(width, width, 3, 1, 1)]


def bottleneck(channels, width, stride):
    return [plain(channels, width, 1), plain(width, width, 3, stride, 1), plain(width, 4 * width, 1)]


class ResNet(Named):
    def __init__(self, convs, counts, widths, expansion, classes, cifar):
        channels = widths[0]
        stem = plain(3, channels, 3, 1, 1) if cifar else plain(3, channels, 7, 2, 3)
        super().__init__(conv1=stem, bn1=nn.BatchNorm2d(channels))
        self.stages, self.cifar = len(counts), cifar
        for stage, (count, width) in enumerate(zip(counts, widths, strict=True), 1):
            blocks = []
            for number in range(count):
                stride = 2 if number == 0 and stage > 1 else 1
                changes = stride > 1 or channels != width * expansion
                downsample = None if cifar or not changes else nn.Sequential(
                    plain(channels, width * expansion, 1, stride), nn.BatchNorm2d(width * expansion))
                blocks.append(Block(convs(channels, width, stride), downsample, cifar and changes))
                channels = width * expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = x if self.cifar else F.max_pool2d(x, 3, 2, 1)
        for stage in range(1, self.stages + 1):
            x = self[f"layer{stage}"](x)
        return self.fc(x.mean((2, 3)))


def resnet(convs, *counts):
    expansion = 4 if convs is bottleneck else 1
    return lambda classes: ResNet(convs, counts, (64, 128, 256, 512), expansion, classes, cifar=False)


def cifar_resnet(n):
    return lambda classes: ResNet(basic, (n, n, n), (16, 32, 64), 1, classes, cifar=True)


# ---- Inception --------------------------------------------------------------------------------------


class Inception(Named):
    def __init__(self, channels, ones, threes_in, threes, fives_in, fives, pooled):
        super().__init__(
            branch1=conv(channels, ones, 1),
            branch2=nn.Sequential(conv(channels, threes_in, 1), conv(threes_in, threes, 3, 1, 1)),
            branch3=nn.Sequential(conv(channels, fives_in, 1), conv(fives_in, fives, 3, 1, 1)),
            branch4=nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), conv(channels, pooled, 1)))

    def forward(self, x):
        return torch.cat([self[f"branch{index}"](x) for index in range(1, 5)], 1)


class GoogLeNetHead(Named):
    def __init__(self, channels, classes):
        super().__init__(conv=conv(channels, 128, 1), fc1=nn.Linear(2048, 1024), fc2=nn.Linear(1024, classes))

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1))))


class GoogLeNet(Named):
    def __init__(self, classes):
        super().__init__(
            conv1=conv(3, 64, 7, 2, 3), conv2=conv(64, 64, 1), conv3=conv(64, 192, 3, 1, 1),
            inception3a=Inception(192, 64, 96, 128, 16, 32, 32),
            inception3b=Inception(256, 128, 128, 192, 32, 96, 64),
            inception4a=Inception(480, 192, 96, 208, 16, 48, 64),
            inception4b=Inception(512, 160, 112, 224, 24, 64, 64),
            inception4c=Inception(512, 128, 128, 256, 24, 64, 64),
            inception4d=Inception(512, 112, 144, 288, 32, 64, 64),
            inception4e=Inception(528, 256, 160, 320, 32, 128, 128),
            inception5a=Inception(832, 256, 160, 320, 32, 128, 128),
            inception5b=Inception(832, 384, 192, 384, 48, 128, 128),
            aux1=GoogLeNetHead(512, classes), aux2=GoogLeNetHead(528, classes), fc=nn.Linear(1024, classes))

    def forward(self, x):
        x = F.max_pool2d(self.conv1(x), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.conv3(self.conv2(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.inception3b(self.inception3a(x)), 3, 2, ceil_mode=True)
        early = self.inception4a(x)
        late = self.inception4d(self.inception4c(self.inception4b(early)))
        x = F.max_pool2d(self.inception4e(late), 2, 2, ceil_mode=True)
        scores = self.fc(self.inception5b(self.inception5a(x)).mean((2, 3)))
        return (scores, self.aux2(late), self.aux1(early)) if self.training else scores


class InceptionA(Named):
    def __init__(self, channels, pooled):
        super().__init__(
            branch1x1=conv(channels, 64, 1), branch5x5_1=conv(channels, 48, 1),
            branch5x5_2=conv(48, 64, 5, 1, 2), branch3x3dbl_1=conv(channels, 64, 1),
            branch3x3dbl_2=conv(64, 96, 3, 1, 1), branch3x3dbl_3=conv(96, 96, 3, 1, 1),
            branch_pool=conv(channels, pooled, 1))

    def forward(self, x):
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)),
                          self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                          self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class InceptionB(Named):
    def __init__(self, channels):
        super().__init__(branch3x3=conv(channels, 384, 3, 2), branch3x3dbl_1=conv(channels, 64, 1),
                         branch3x3dbl_2=conv(64, 96, 3, 1, 1), branch3x3dbl_3=conv(96, 96, 3, 2))

    def forward(self, x):
        return torch.cat([self.branch3x3(x),
                          self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
                          F.max_pool2d(x, 3, 2)], 1)


WIDE, HIGH = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
WIDE3, HIGH3 = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))


class InceptionC(Named):
    def __init__(self, channels, c7):
        super().__init__(
            branch1x1=conv(channels, 192, 1), branch7x7_1=conv(channels, c7, 1),
            branch7x7_2=conv(c7, c7, *WIDE), branch7x7_3=conv(c7, 192, *HIGH),
            branch7x7dbl_1=conv(channels, c7, 1), branch7x7dbl_2=conv(c7, c7, *HIGH),
            branch7x7dbl_3=conv(c7, c7, *WIDE), branch7x7dbl_4=conv(c7, c7, *HIGH),
            branch7x7dbl_5=conv(c7, 192, *WIDE), branch_pool=conv(channels, 192, 1))

    def forward(self, x):
        wide, double = x, x
        for index in range(1, 4):
            wide = self[f"branch7x7_{index}"](wide)
        for index in range(1, 6):
            double = self[f"branch7x7dbl_{index}"](double)
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class InceptionD(Named):
    def __init__(self, channels):
        super().__init__(
            branch3x3_1=conv(channels, 192, 1), branch3x3_2=conv(192, 320, 3, 2),
            branch7x7x3_1=conv(channels, 192, 1), branch7x7x3_2=conv(192, 192, *WIDE),
            branch7x7x3_3=conv(192, 192, *HIGH), branch7x7x3_4=conv(192, 192, 3, 2))

    def forward(self, x):
        seven = x
        for index in range(1, 5):
            seven = self[f"branch7x7x3_{index}"](seven)
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class InceptionE(Named):
    def __init__(self, channels):
        super().__init__(
            branch1x1=conv(channels, 320, 1), branch3x3_1=conv(channels, 384, 1),
            branch3x3_2a=conv(384, 384, *WIDE3), branch3x3_2b=conv(384, 384, *HIGH3),
            branch3x3dbl_1=conv(channels, 448, 1), branch3x3dbl_2=conv(448, 384, 3, 1, 1),
            branch3x3dbl_3a=conv(384, 384, *WIDE3), branch3x3dbl_3b=conv(384, 384, *HIGH3),
            branch_pool=conv(channels, 192, 1))

    def forward(self, x):
        one, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat([self.branch1x1(x), self.branch3x3_2a(one), self.branch3x3_2b(one),
                          self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double),
                          self.branch_pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class InceptionV3Head(Named):
    def __init__(self, classes):
        super().__init__(conv0=conv(768, 128, 1), conv1=conv(128, 768, 5), fc=nn.Linear(768, classes))

    def forward(self, x):
        return self.fc(self.conv1(self.conv0(F.avg_pool2d(x, 5, 3))).mean((2, 3)))


class InceptionV3(Named):
    def __init__(self, classes):
        super().__init__(
            Conv2d_1a_3x3=conv(3, 32, 3, 2), Conv2d_2a_3x3=conv(32, 32, 3),
            Conv2d_2b_3x3=conv(32, 64, 3, 1, 1), Conv2d_3b_1x1=conv(64, 80, 1),
            Conv2d_4a_3x3=conv(80, 192, 3), Mixed_5b=InceptionA(192, 32), Mixed_5c=InceptionA(256, 64),
            Mixed_5d=InceptionA(288, 64), Mixed_6a=InceptionB(288), Mixed_6b=InceptionC(768, 128),
            Mixed_6c=InceptionC(768, 160), Mixed_6d=InceptionC(768, 160), Mixed_6e=InceptionC(768, 192),
            AuxLogits=InceptionV3Head(classes), Mixed_7a=InceptionD(768), Mixed_7b=InceptionE(1280),
            Mixed_7c=InceptionE(2048), fc=nn.Linear(2048, classes))

    def forward(self, x):
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        scores = self.fc(self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3)))
        return (scores, self.AuxLogits(x)) if self.training else scores


class Branches(Named):
    """Branches of x, in their order, joined along the channels."""

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)


class InceptionV4C(Named):
    def __init__(self):
        super().__init__(
            branch0=conv(1536, 256, 1), branch1_0=conv(1536, 384, 1), branch1_1a=conv(384, 256, *WIDE3),
            branch1_1b=conv(384, 256, *HIGH3), branch2_0=conv(1536, 384, 1),
            branch2_1=conv(384, 448, *HIGH3), branch2_2=conv(448, 512, *WIDE3),
            branch2_3a=conv(512, 256, *WIDE3), branch2_3b=conv(512, 256, *HIGH3), branch3=pooled(1536, 256))

    def forward(self, x):
        one, two = self.branch1_0(x), self.branch2_2(self.branch2_1(self.branch2_0(x)))
        return torch.cat([self.branch0(x), self.branch1_1a(one), self.branch1_1b(one), self.branch2_3a(two),
                          self.branch2_3b(two), self.branch3(x)], 1)


def branches(*modules):
    return Branches(**{f"branch{index}": module for index, module in enumerate(modules)})


def pooled(channels, width):
    return nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), conv(channels, width, 1))


class InceptionV4(Named):
    def __init__(self, classes):
        def a():
            return branches(
                conv(384, 96, 1), nn.Sequential(conv(384, 64, 1), conv(64, 96, 3, 1, 1)),
                nn.Sequential(conv(384, 64, 1), conv(64, 96, 3, 1, 1), conv(96, 96, 3, 1, 1)),
                pooled(384, 96))

        def b():
            return branches(
                conv(1024, 384, 1),
                nn.Sequential(conv(1024, 192, 1), conv(192, 224, *WIDE), conv(224, 256, *HIGH)),
                nn.Sequential(conv(1024, 192, 1), conv(192, 192, *HIGH), conv(192, 224, *WIDE),
                              conv(224, 224, *HIGH), conv(224, 256, *WIDE)), pooled(1024, 128))

        super().__init__(features=nn.Sequential(
            conv(3, 32, 3, 2), conv(32, 32, 3), conv(32, 64, 3, 1, 1),
            Branches(maxpool=nn.MaxPool2d(3, 2), conv=conv(64, 96, 3, 2)),
            branches(nn.Sequential(conv(160, 64, 1), conv(64, 96, 3)),
                     nn.Sequential(conv(160, 64, 1), conv(64, 64, *WIDE), conv(64, 64, *HIGH),
                                   conv(64, 96, 3))),
            Branches(conv=conv(192, 192, 3, 2), maxpool=nn.MaxPool2d(3, 2)),
            a(), a(), a(), a(),
            branches(conv(384, 384, 3, 2),
                     nn.Sequential(conv(384, 192, 1), conv(192, 224, 3, 1, 1), conv(224, 256, 3, 2)),
                     nn.MaxPool2d(3, 2)),
            b(), b(), b(), b(), b(), b(), b(),
            branches(nn.Sequential(conv(1024, 192, 1), conv(192, 192, 3, 2)),
                     nn.Sequential(conv(1024, 256, 1), conv(256, 256, *WIDE), conv(256, 320, *HIGH),
                                   conv(320, 320, 3, 2)), nn.MaxPool2d(3, 2)),
            InceptionV4C(), InceptionV4C(), InceptionV4C()), last_linear=nn.Linear(1536, classes))

    def forward(self, x):
        return self.last_linear(self.features(x).mean((2, 3)))


NETWORKS = {
    "alexnet_2012": AlexNet2012,
    "alexnet": alexnet,
    "vgg11": vgg((1, 1, 2, 2, 2)),
    "vgg13": vgg((2, 2, 2, 2, 2)),
    "vgg16": vgg((2, 2, 3, 3, 3)),
    "vgg19": vgg((2, 2, 4, 4, 4)),
    "vgg11_bn": vgg((1, 1, 2, 2, 2), batch_norm=True),
    "vgg13_bn": vgg((2, 2, 2, 2, 2), batch_norm=True),
    "vgg16_bn": vgg((2, 2, 3, 3, 3), batch_norm=True),
    "vgg19_bn": vgg((2, 2, 4, 4, 4), batch_norm=True),
    "googlenet": GoogLeNet,
    "resnet18": resnet(basic, 2, 2, 2, 2),
    "resnet34": resnet(basic, 3, 4, 6, 3),
    "resnet50": resnet(bottleneck, 3, 4, 6, 3),
    "resnet101": resnet(bottleneck, 3, 4, 23, 3),
    "resnet152": resnet(bottleneck, 3, 8, 36, 3),
    "resnet20": cifar_resnet(3),
    "resnet32": cifar_resnet(5),
    "resnet44": cifar_resnet(7),
    "resnet56": cifar_resnet(9),
    "resnet110": cifar_resnet(18),
    "inception_v3": InceptionV3,
    "inception_v4": InceptionV4,
}
