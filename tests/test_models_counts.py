"""The networks by name, their published sizes and costs, and the command that lists them.

Whole networks are made and counted, but neither drawn nor computed: no memory of theirs is touched.
"""

import io
import math
import re
from itertools import pairwise

import numpy as np
import pytest

from fastconv import cli, init, models
from fastconv.layers import Conv2d, Linear
from fastconv.summary import summary

# name -> parameters, multiply-adds of one image; a float: billions, as rounded by its source.
# torchvision's num_params and _ops; AlexNet 2012: section 3 of the paper, computed by hand; ResNets of
# CIFAR-10: table 6 of the paper, to more digits; Inception-v4: timm.
PUBLISHED = {
    "lenet1": (2_578, 91_520),
    "lenet4": (52_698, 447_600),
    "lenet5": (61_706, 416_520),
    "lenet5_1998": (60_000, 326_520),
    "alexnet_2012": (60_965_224, 724_406_816),
    "alexnet": (61_100_840, 714_188_480),
    "vgg11": (132_863_336, 7_609_090_048),
    "vgg13": (133_047_848, 11_308_466_176),
    "vgg16": (138_357_544, 15_470_264_320),
    "vgg19": (143_667_240, 19_632_062_464),
    "vgg11_bn": (132_868_840, 7_609_090_048),
    "vgg13_bn": (133_053_736, 11_308_466_176),
    "vgg16_bn": (138_365_992, 15_470_264_320),
    "vgg19_bn": (143_678_248, 19_632_062_464),
    "googlenet": (6_624_904, 1.498),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "resnet152": (60_192_808, 11_513_626_624),
    "resnet20": (269_722, 0.0406),
    "resnet32": (464_154, 0.0689),
    "resnet44": (658_586, 0.0972),
    "resnet56": (853_018, 0.1255),
    "resnet110": (1_727_962, 0.2529),
    "inception_v3": (23_834_568, 5.713),
    "inception_v4": (42_679_816, 12.3),
}
each_model = pytest.mark.parametrize("name", PUBLISHED)


def counted(model, shape):
    return summary(model, shape, io.StringIO())


def create(name, **options):
    with init.skipped():
        return models.create(name, **options)


@each_model
def test_sizes_and_costs_are_the_published_ones(name):
    parameters, multiply_adds = PUBLISHED[name]
    result = counted(create(name).eval(), models.input_shape(name))
    assert result.parameters == parameters
    if isinstance(multiply_adds, float):
        digits = len(str(multiply_adds).partition(".")[2])
        assert round(result.multiply_adds / 1e9, digits) == multiply_adds
    else:
        assert result.multiply_adds == multiply_adds


@pytest.mark.parametrize(("sizes", "parameters"), [((784, 10), 7_850), ((784, 300, 10), 238_510)])
def test_sizes_of_multilayer_perceptrons(sizes, parameters):
    result = counted(models.mlp(sizes), (1, 28, 28))
    assert result.parameters == parameters
    assert result.multiply_adds == sum(a * b for a, b in pairwise(sizes))


@pytest.mark.parametrize(("name", "with_heads", "heads", "weight"), [
    ("googlenet", 13_004_888, ["aux1.fc2", "aux2.fc2"], 0.3),
    ("inception_v3", 27_161_264, ["AuxLogits.fc"], 0.4)])
def test_auxiliary_heads_are_counted_in_training(name, with_heads, heads, weight):
    model, shape = create(name), models.input_shape(name)
    assert model.aux_weight == weight
    result = counted(model, shape)
    assert result.parameters == with_heads == sum(p.data.size for p in model.parameters())
    assert set(heads) <= {row.name for row in result.rows}
    assert not any("aux" in row.name.lower() for row in counted(model.eval(), shape).rows)
    plain = create(name, aux_logits=False)
    assert not hasattr(plain, "aux_weight")
    assert counted(plain, shape)[1:] == counted(model, shape)[1:]
    assert set(plain.state_dict()) < set(model.state_dict())


@each_model
def test_classes_and_channels_can_be_chosen(name):
    channels, *size = models.input_shape(name)
    options = {"output": "linear"} if name == "lenet5_1998" else {}  # its templates are those of ten digits
    model = create(name, num_classes=7, in_channels=channels + 1, **options)
    assert model.output_shape((2, channels + 1, *size)) == (2, 7)


@pytest.mark.parametrize(("name", "least"), [("alexnet", 63), ("vgg11", 32), ("googlenet", 31),
                                             ("inception_v3", 75), ("inception_v4", 75)])
def test_the_least_image_is_the_documented_one(name, least):
    model = create(name)
    assert f"from {least} on" in getattr(models, name.replace("vgg11", "vgg")).__doc__
    assert model.output_shape((1, 3, least, least)) == (1, 1000)
    with pytest.raises(ValueError, match="is larger than"):
        model.output_shape((1, 3, least - 1, least - 1))


def test_counting_allocates_no_weights():
    """The 575 MB of VGG-19 are reserved, not touched: what Linux holds grows by far less."""
    def resident():
        with open("/proc/self/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) * 1024

    before = resident()
    model = create("vgg19")
    counted(model, (3, 224, 224))
    assert sum(array.nbytes for array in model.state_dict().values()) > 570e6
    assert resident() - before < 50e6


# ---- by name ----------------------------------------------------------------------------------------


def test_models_by_name():
    assert models.available() == tuple(PUBLISHED)
    assert models.input_shape("inception_v3") == (3, 299, 299)
    for call in (models.create, models.input_shape):
        with pytest.raises(ValueError, match=r"name must be one of lenet1, .*, inception_v4, got 'lenet'"):
            call("lenet")


@pytest.mark.parametrize(("call", "message"), [
    (lambda: models.vgg(12), "depth must be one of 11, 13, 16, 19, got 12"),
    (lambda: models.resnet(20), "depth must be one of 18, 34, 50, 101, 152, got 20"),
    (lambda: models.cifar_resnet(18), r"depth must be 6n \+ 2 for a positive n, got 18"),
    (lambda: models.cifar_resnet(2), r"depth must be 6n \+ 2 for a positive n, got 2"),
])
def test_wrong_depths_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_command_lists_all_networks(capsys):
    assert cli.main(["models"]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["network", "image", "parameters", "multiply-adds"]
    assert set(rule) == {"-"}
    assert [row.split()[0] for row in rows] == ["Perceptron", "mlp", "LSTMClassifier", *PUBLISHED]
    assert re.fullmatch(r"vgg19 +3 x 224 x 224 +143,667,240 +19,632,062,464", rows[12])
    assert {len(row) for row in rows} == {len(head)}


# ---- first weights ----------------------------------------------------------------------------------


def weights(model, kind):
    return [layer for _, layer in model.named_modules() if isinstance(layer, kind)]


def assert_normal(layer, std):
    """Mean and variance of n normal values deviate by std / sqrt(n) and, relatively, sqrt(2 / n)."""
    values = layer.weight.data[:64].astype(np.float64)
    assert abs(values.mean()) < 6 * std / math.sqrt(values.size)
    assert abs(values.var() / std**2 - 1) < 6 * math.sqrt(2 / values.size)
    assert layer.bias is None or not layer.bias.data.any()


def assert_he(model):
    for layer in weights(model, Conv2d):
        out_channels, _, rows, columns = layer.weight.shape
        assert_normal(layer, math.sqrt(2 / (out_channels * rows * columns)))


def test_first_weights_of_vgg_are_he_s():
    model = models.vgg11(rng=np.random.default_rng(0))
    assert_he(model)
    for layer in weights(model, Linear):
        assert_normal(layer, 0.01)


@pytest.mark.parametrize("name", ["resnet18", "resnet20"])
def test_first_weights_of_resnet_are_he_s(name):
    model = models.create(name, rng=np.random.default_rng(0))
    assert_he(model)
    for parameter in model.fc.parameters():
        assert 0 < abs(parameter.data).max() <= 1 / math.sqrt(model.fc.in_features)


def test_first_weights_of_alexnet_2012_are_the_paper_s():
    model = models.alexnet_2012(rng=np.random.default_rng(0))
    for layer in weights(model, (Conv2d, Linear)):
        ones = layer in (model.conv2, model.conv4, model.conv5, model.fc6, model.fc7)
        np.testing.assert_array_equal(layer.bias.data, ones)
        layer.bias.data.fill(0)
        assert_normal(layer, 0.01)


@pytest.mark.parametrize(("name", "std", "exceptions"), [
    ("googlenet", 0.01, {}), ("inception_v3", 0.1, {"AuxLogits.conv1.conv": 0.01, "AuxLogits.fc": 0.001})])
def test_first_weights_of_inception_are_normal(name, std, exceptions):
    model = models.create(name, rng=np.random.default_rng(0))
    for path, layer in model.named_modules():
        if isinstance(layer, (Conv2d, Linear)):
            assert_normal(layer, exceptions.get(path, std))


@pytest.mark.parametrize("name", ["resnet20", "googlenet", "inception_v4"])
def test_the_same_generator_gives_the_same_network(name):
    first, second = (models.create(name, rng=np.random.default_rng(3)).state_dict() for _ in range(2))
    for path, array in first.items():
        np.testing.assert_array_equal(array, second[path], path)
