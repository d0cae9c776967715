"""The ``fastconv`` command: info, config, models, chart, profile, train, evaluate, mnist-challenge.

Exit codes: 0; 1 where a training diverged; 2 for wrong options, files and missing packages, with one line on
standard error; 130 after Ctrl-C.
"""

import argparse
import math
import shlex
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from . import (
    _core,
    augment,
    challenge,
    chart,
    checkpoint,
    data,
    extras,
    get_include,
    get_num_threads,
    info,
    init,
    losses,
    metrics,
    models,
    num_threads,
    optim,
    plots,
    summary,
    train,
)

_DATA_DEFAULTS = {
    "digits": {"epochs": 20, "batch_size": 32},
    "mnist": {"epochs": 10, "batch_size": 128},
    "fashion-mnist": {"epochs": 15, "batch_size": 128},
    "cifar10": {"epochs": 20, "batch_size": 128},
}
_OPTIMIZER_DEFAULTS = {
    "sgd": {"momentum": 0.9, "weight_decay": 5e-4},
    "adam": {"lr": 1e-3, "weight_decay": 0.0},
}
_AUGMENTATIONS = {
    "digits": challenge.DISTORTIONS,
    "mnist": challenge.DISTORTIONS,
    "fashion-mnist": augment.Compose(augment.RandomCrop(2), augment.RandomHorizontalFlip()),
    "cifar10": augment.Compose(augment.RandomCrop(4), augment.RandomHorizontalFlip()),
}
# The options of the paper, for sgd: He et al., arXiv 1512.03385, section 4.2. 164 epochs of 50,000 images are
# its 64,000 batches. ResNet-110 has a warm-up there.
_RESNET_ON_CIFAR10 = {"epochs": 164, "batch_size": 128, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4,
                      "schedule": "multistep", "augment": True}
_PRESETS = {(model, "cifar10"): _RESNET_ON_CIFAR10
            for model in ("resnet20", "resnet32", "resnet44", "resnet56")}
_SGD_LR_PER_IMAGE = 0.05 / 128  # the rate grows with the batch: Goyal et al. 2017, arXiv 1706.02677
_DEFAULTS = {"model": "lenet5", "data": "digits", "optimizer": "sgd", "schedule": "cosine", "seed": 0,
             "augment": False, "label_smoothing": 0.0, "max_grad_norm": None}
_OPTIONS = (*_DEFAULTS, "epochs", "batch_size", "lr", "momentum", "weight_decay")


def main(argv=None):
    """Runs the command with the arguments `argv` (default: those of the process); returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a name must not end a training
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as error:  # argparse's way to end after --help and wrong options
        return error.code
    try:
        with num_threads(arguments.threads) if arguments.threads else nullcontext():
            return arguments.command(arguments)
    except (OSError, ValueError, ImportError) as error:
        print(f"fastconv: error: {error}", file=sys.stderr)
        return 2
    except train.Diverged as error:
        print(f"fastconv: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"fastconv: {error}" if error.args else "fastconv: interrupted", file=sys.stderr)
        return 130


# ---- commands ---------------------------------------------------------------------------------------


def _info(arguments):
    facts = info()
    caches = (f"L{level} {_bytes(size)}" for level, size in enumerate(facts["cache_bytes"], 1) if size)
    rows = {
        "CPU": facts["cpu"],
        "caches": ", ".join(caches) or "unknown",
        "instruction set": f"{facts['isa']} (available: {', '.join(facts['available_isas'])})",
        "threads": f"{facts['num_threads']} (default {facts['default_num_threads']}: "
                   f"{facts['default_num_threads_from']})",
        "OpenMP": facts["openmp"] or "none, built single-threaded",
    }
    print(f"fastconv {facts['version']}")
    for name, value in rows.items():
        print(f"{name:<16} {value}")
    return 0


def _config(arguments):
    include = Path(get_include())
    print({"cflags": f"-I{shlex.quote(str(include))}", "pkgconfigdir": include.parent / "pkgconfig",
           "library": _core.__file__}[arguments.what])
    return 0


def _model_row(name, model, shape):
    """Counted are the layers of evaluation, without auxiliary heads."""
    layers = [layer for _, layer, _ in model.eval().trace((1, *shape))]
    parameters = sum(parameter.data.size for layer in layers for parameter in layer.parameters())
    return (name, " x ".join(map(str, shape)), f"{parameters:,}", f"{model.multiply_adds((1, *shape)):,}")


def _models(arguments):
    inputs = 28 * 28
    cells = [("network", "image", "parameters", "multiply-adds")]
    with init.skipped():
        # Networks of any size, of the one that a digit of MNIST asks for.
        cells += [("Perceptron", f"{inputs}", f"{inputs + 1:,}", f"{inputs:,}"),
                  _model_row("mlp 300", models.mlp((inputs, 300, 10)), (1, 28, 28)),
                  _model_row("LSTMClassifier 128", models.LSTMClassifier(28, 128, 10), (28, 28))]
        cells += [_model_row(name, models.create(name), models.input_shape(name))
                  for name in models.available()]
    print(summary.table(cells, numbers=2))
    return 0


def _chart(arguments):
    extras.require("matplotlib.figure")
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in chart.measure(images=arguments.images if arguments.time else 0):
        rows.append(row)
        milliseconds = "" if row["seconds"] is None else f"  {1e3 * row['seconds']:7.1f} ms"
        print(f"{row['title']:<12}  {row['multiply_adds']:>14,} multiply-adds  "
              f"{row['parameters']:>11,} parameters  top-1 {row['top1']:.2f} %{milliseconds}", flush=True)
    facts = info()
    threads = f"{facts['num_threads']} thread{'s' if facts['num_threads'] > 1 else ''}"
    chart.save(rows, arguments.output / "chart.csv")
    plots.complexity(rows, arguments.output / "chart.png",
                     f"{facts['cpu']}, {facts['isa']}, {threads}" if arguments.time else None)
    print(f"chart.png and chart.csv are in {arguments.output}")
    return 0


def _profile(arguments):
    from .profiler import compare, document, page, terminal, workload

    profiles, libraries = [], {}
    for threads in arguments.profile_threads or [get_num_threads()]:
        for layout in arguments.layout:
            work = _workload(arguments, layout, workload)
            with num_threads(threads):
                profile = workload.run(work, threads, arguments.repeat, arguments.counters)
                if arguments.all_algorithms:
                    compare.algorithms(profile.rows, threads, work.prepared)
                if arguments.naive:
                    compare.naive(profile.rows)
                if arguments.peers:
                    libraries |= compare.peers(profile.rows, threads)
                print("\n" if profiles else "", end="")
                terminal.show(profile, arguments.rows, sys.stdout)
            profiles.append(profile)
    if libraries:
        print("; ".join(f"{library} {version}" for library, version in libraries.items()))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        written = ["profile.html", "profile.json", "profile.csv", "trace.json"]
        writers = page.html, document.json_text, document.csv_text, document.chrome_trace
        for name, write in zip(written, writers, strict=True):
            write(profiles, arguments.output / name)
        if find_spec("matplotlib"):
            for number, profile in enumerate(profiles, 1):
                written.append("roofline.png" if len(profiles) == 1 else f"roofline-{number}.png")
                profile.roofline(arguments.output / written[-1])
        print(f"{', '.join(written)} are in {arguments.output}")
    return 0


def _workload(arguments, layout, workload):
    """What is profiled, on arrays of this layout; `workload` is the module."""
    if (arguments.what is None) == (arguments.conv is None):
        raise ValueError("profile needs a network, a .onnx file or --conv, and one of them alone")
    if arguments.conv:
        return workload.convolution(arguments.conv, layout, arguments.train)
    if arguments.what.endswith(".onnx"):
        return workload.onnx_file(arguments.what, arguments.batch, layout, arguments.train, arguments.image)
    return workload.network(arguments.what, arguments.batch, layout, arguments.train)


def _train(arguments):
    for module in ("safetensors.numpy", "matplotlib.figure", *(() if arguments.quiet else ("tqdm",))):
        extras.require(module)  # now, not after an hour of training
    given = _given(arguments, _OPTIONS)
    output = arguments.output or _default_output(given)
    path = output / "checkpoint.safetensors"
    options = _resumed_options(path, given) if arguments.resume else _completed_options(given)

    train_data, test_data = data.load(options["data"], arguments.data_dir)
    output.mkdir(parents=True, exist_ok=True)
    model = _model(options["model"], train_data, seed=options["seed"])
    optimizer = _optimizer(options, model.parameters())
    steps = -(-len(train_data) // options["batch_size"])
    try:
        history = train.fit(
            model, _loss(options, model), optimizer, train_data,
            test_data=test_data, epochs=options["epochs"], batch_size=options["batch_size"],
            seed=options["seed"], schedule=_schedule(options, optimizer, steps),
            augment=_AUGMENTATIONS[options["data"]] if options["augment"] else None,
            max_grad_norm=options["max_grad_norm"], progress=not arguments.quiet, checkpoint=path,
            resume=arguments.resume, options=options)
    except train.Interrupted as stop:
        again = ["fastconv", "train", "--resume", "--output", str(output)]
        again += ["--data-dir", str(arguments.data_dir)] if arguments.data_dir else []
        raise KeyboardInterrupt(f"{stop}; saved in {path}\ncontinue with: {shlex.join(again)}") from None

    final = history[-1]["test_accuracy"]
    checkpoint.save_weights(output / "weights.safetensors", model.state_dict(), {
        "model": options["model"], "data": options["data"], "test_accuracy": final})
    history.save(output / "history.json")
    plots.learning_curves(history, output / "curves.png")
    seconds = sum(row["seconds"] for row in history)
    print(f"{options['model']} on {options['data']}: test accuracy {final:.2%} after {len(history)} epochs, "
          f"{seconds:.1f} s of training\n"
          f"weights.safetensors, history.json and curves.png are in {output}")
    return 0


def _evaluate(arguments):
    path = arguments.weights or _default_output(_given(arguments, ("model", "data")))
    if path.is_dir():
        path /= "weights.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: run fastconv train first, or name the folder of a "
                                "training or a file of weights")
    state, metadata = checkpoint.load_weights(path)
    name = arguments.data or metadata.get("data", _DEFAULTS["data"])
    _, test_data = data.load(name, arguments.data_dir)
    model = _model(arguments.model or metadata.get("model", _DEFAULTS["model"]), test_data)
    model.load_state_dict(state)
    result = train.evaluate(model, test_data)
    matrix = metrics.confusion_matrix(result.predictions, test_data.labels, len(test_data.names))
    print(f"{path} on the {len(test_data):,} test images of {name}: accuracy {result.accuracy:.2%}, "
          f"loss {result.loss:.4f}\n")
    print(metrics.format_confusion_matrix(matrix, test_data.names))
    return 0


def _mnist_challenge(arguments):
    without_svm = not arguments.models and find_spec("sklearn") is None
    left_out = {"lenet5-distorted", "kernel-svm" if without_svm else None}
    names = arguments.models or [name for name in challenge.LEARNERS if name not in left_out]
    if arguments.augment and "lenet5-distorted" not in names:
        names = [*names, "lenet5-distorted"]
    facts = {"fastconv": info(), "validation": arguments.validation}
    rows = []
    for row in challenge.run(names, arguments.data_dir, epochs=arguments.epochs, seeds=arguments.seeds,
                             validation=arguments.validation):
        if not rows:
            arguments.output.mkdir(parents=True, exist_ok=True)
            print(challenge.table_row())
        rows.append(row)
        print(challenge.table_row(row), flush=True)
        challenge.save(rows, arguments.output, facts)  # now, for the next learner may take an hour
    if without_svm:
        print('kernel-svm was left out: pip install "fastconv[svm]"')
    print(f"challenge.csv and challenge.json are in {arguments.output}")
    return 0


# ---- options ----------------------------------------------------------------------------------------


def _given(arguments, names):
    """Those of the options `names` that are on the command line."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _completed_options(given):
    """All options of a training, from those given, the preset and the defaults."""
    options = {**_DEFAULTS, **given}
    preset = _PRESETS.get((options["model"], options["data"]), {}) if options["optimizer"] == "sgd" else {}
    options = {**_DATA_DEFAULTS[options["data"]], **_OPTIMIZER_DEFAULTS[options["optimizer"]], **_DEFAULTS,
               **preset, **given}
    options.setdefault("lr", _SGD_LR_PER_IMAGE * options["batch_size"])
    if "momentum" in given and options["optimizer"] != "sgd":
        raise ValueError(f"--momentum is an option of sgd, not of {options['optimizer']}")
    return options


def _resumed_options(path, given):
    """All options of the training whose checkpoint is `path`; those given must be the same."""
    if not path.exists():
        raise FileNotFoundError(f"nothing to resume: {path} does not exist")
    saved = checkpoint.load_training(path)["options"]
    checkpoint.require_same_options(saved, given)
    return {name: saved[name] for name in _OPTIONS if name in saved}


def _default_output(given):
    options = {**_DEFAULTS, **given}
    return Path("runs", f"{options['model']}-{options['data']}")


def _model(name, dataset, seed=0):
    """The network `name` for the images and classes of `dataset`; its weights have a stream of their own."""
    return models.create(name, num_classes=len(dataset.names), in_channels=dataset.images.shape[1],
                         rng=np.random.default_rng([seed, 1]))


def _loss(options, model):
    loss = losses.CrossEntropyLoss(options["label_smoothing"])
    return losses.AuxiliaryLoss(loss, model.aux_weight) if hasattr(model, "aux_weight") else loss


def _optimizer(options, parameters):
    if options["optimizer"] == "adam":
        return optim.Adam(parameters, options["lr"], weight_decay=options["weight_decay"])
    return optim.SGD(parameters, options["lr"], options["momentum"], weight_decay=options["weight_decay"])


def _schedule(options, optimizer, steps):
    """The schedule called options["schedule"], see --help.  steps: batches of an epoch."""
    if options["schedule"] == "cosine":
        return optim.CosineLR(optimizer, options["epochs"] * steps)
    if options["schedule"] == "step":
        return optim.StepLR(optimizer, -(-options["epochs"] // 3) * steps)
    if options["schedule"] == "multistep":
        quarters = options["epochs"] * steps / 4
        return optim.MultiStepLR(optimizer, [math.ceil(2 * quarters), math.ceil(3 * quarters)])
    return None


class _Parser(argparse.ArgumentParser):
    """An error is one line, without the usage."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser():
    parser = _Parser(prog="fastconv", description="Convolutional networks on the CPU.")
    commands = parser.add_subparsers(metavar="command", required=True)

    def add(name, command, description):
        added = commands.add_parser(name, help=description, description=description)
        added.set_defaults(command=command, threads=None)
        return added

    def add_common(parser):
        option = parser.add_argument
        option("--data", choices=data.names(), help="data set (default: digits, part of the package)")
        option("--data-dir", type=Path, metavar="DIR", help="folder with the files of the data set")
        option("--model", choices=models.available(), help="network (default: lenet5)")
        option("--threads", type=_at_least(1), metavar="N", help="threads to use")

    add("info", _info, "show the processor, the instruction set and the threads in use")

    parser_config = add("config", _config, "what a compiler of C or Cython code needs to call the kernels")
    options = parser_config.add_mutually_exclusive_group(required=True)
    for name, description in (("cflags", "flags of the compiler"),
                              ("pkgconfigdir", "folder of fastconv.pc, for PKG_CONFIG_PATH"),
                              ("library", "file that exports fastconv_get_api, for dlopen")):
        options.add_argument(f"--{name}", dest="what", action="store_const", const=name, help=description)

    add("models", _models, "list the networks with their parameters and multiply-adds for one image")

    parser_chart = add("chart", _chart,
                       "draw the accuracy of the networks for ImageNet by their multiply-adds and parameters")
    option = parser_chart.add_argument
    option("--no-time", dest="time", action="store_false", help="do not measure the time for an image")
    option("--images", type=_at_least(1), default=3, metavar="K",
           help="times of which the shortest is shown (default: 3)")
    option("--threads", type=_at_least(1), metavar="N", help="threads to use")
    option("--output", type=Path, default=Path("runs", "chart"), metavar="DIR",
           help="folder of the results (default: runs/chart)")

    parser_profile = add("profile", _profile,
                         "time each kernel of a network or a convolution, beside what this machine can do")
    parser_profile.usage = "fastconv profile (NETWORK | FILE.onnx | --conv TEXT) [options]"
    option = parser_profile.add_argument
    option("what", nargs="?", metavar="NETWORK", help="name of fastconv models, or a .onnx file")
    option("--conv", metavar="TEXT",
           help='a convolution, as in "N16 C64 H56 W56 K64 R3 p1"; also S columns of the filter, s stride, '
                "d dilation, g groups")
    option("--batch", type=_at_least(1), default=1, metavar="N", help="images (default: 1)")
    option("--image", type=_image, metavar="CxHxW",
           help="size of the images, where a .onnx file leaves it open")
    option("--train", action="store_true", help="steps of a training, or both gradients of a convolution")
    option("--threads", dest="profile_threads", type=_list_of(_at_least(1)), metavar="N[,N..]",
           help="numbers of threads (default: those allowed)")
    option("--layout", type=_list_of(_layout), default=["nhwc"], metavar="LAYOUT[,LAYOUT]",
           help="of the images: nchw, or nhwc alias channels_last (default)")
    option("--repeat", type=_at_least(1), default=10, metavar="K",
           help="turns after two that are not recorded (default: 10)")
    option("--rows", type=_at_least(1), default=60, metavar="K", help="of the table at most (default: 60)")
    option("--all-algorithms", action="store_true", help="time each algorithm of each convolution")
    option("--naive", action="store_true", help="time the reference in NumPy too, on one image, times N")
    option("--peers", action="store_true",
           help="time the convolutions of torch and onnxruntime too, where installed")
    option("--counters", action="store_true",
           help="count cycles, instructions and cache misses too, by Linux perf events")
    option("--output", type=Path, metavar="DIR",
           help="also write profile.html, profile.json, profile.csv, trace.json and roofline.png there")

    parser_train = add("train", _train, "train a network and save its weights")
    parser_train.epilog = (
        "resnet20, resnet32, resnet44 and resnet56 on cifar10 with sgd have other defaults, those of "
        "He et al. 2015: --epochs 164 --batch-size 128 --lr 0.1 --momentum 0.9 --weight-decay 0.0001 "
        "--schedule multistep --augment.")
    add_common(parser_train)
    option = parser_train.add_argument
    option("--epochs", type=_at_least(1), metavar="N", help="default: 20 for digits, 10 for mnist")
    option("--batch-size", type=_at_least(1), metavar="N", help="default: 32 for digits, 128 for the others")
    option("--optimizer", choices=_OPTIMIZER_DEFAULTS, help="default: sgd")
    option("--lr", type=_number(above_zero=True), metavar="RATE",
           help="learning rate (default: sgd 0.05 for 128 images in a batch, adam 0.001)")
    option("--momentum", type=_number(), metavar="M", help="of sgd (default: 0.9)")
    option("--weight-decay", type=_number(), metavar="W", help="default: sgd 0.0005, adam 0")
    option("--schedule", choices=("cosine", "step", "multistep", "none"),
           help="of the learning rate: half a cosine down to 0, a tenth after each third of the epochs, or a "
                "tenth after a half and again after three quarters (default: cosine)")
    option("--augment", action=argparse.BooleanOptionalAction,
           help="small distortions of digits, random crops and flips of photographs and clothes")
    option("--label-smoothing", type=_number(below_one=True), metavar="S",
           help="share of the target spread over all classes (default: 0)")
    option("--max-grad-norm", type=_number(), metavar="M", help="clip the gradient (default: no)")
    option("--seed", type=_at_least(0), metavar="N", help="of all random numbers (default: 0)")
    option("--output", type=Path, metavar="DIR", help="folder of the results (default: runs/MODEL-DATA)")
    option("--resume", action="store_true",
           help="continue the training whose checkpoint is in the output folder")
    option("--quiet", action="store_true", help="show the result alone")

    parser_evaluate = add("evaluate", _evaluate, "accuracy and confusion matrix of saved weights")
    parser_evaluate.add_argument("weights", type=Path, nargs="?", metavar="RUN_OR_WEIGHTS",
                                 help="folder of a run or .safetensors file (default: runs/MODEL-DATA)")
    add_common(parser_evaluate)

    parser_challenge = add("mnist-challenge", _mnist_challenge,
                           "the comparison of LeCun et al. 1998 on MNIST, beside the published errors")
    option = parser_challenge.add_argument
    option("--data-dir", type=Path, metavar="DIR", help="folder with the files of MNIST")
    option("--models", nargs="+", choices=challenge.LEARNERS, metavar="NAME",
           help=f"of {', '.join(challenge.LEARNERS)} (default: all but the last)")
    option("--augment", action="store_true", help="LeNet-5 on distorted images too: lenet5-distorted")
    option("--epochs", type=_at_least(1), metavar="N", help="default: each learner's own")
    option("--seeds", type=_at_least(1), default=1, metavar="K",
           help="trainings of each learner, whose median is shown (default: 1)")
    option("--validation", action="store_true",
           help="train on 50,000 images and test on the other 10,000, not on the test images")
    option("--threads", type=_at_least(1), metavar="N", help="threads to use")
    option("--output", type=Path, default=Path("runs", "mnist-challenge"), metavar="DIR",
           help="folder of the results (default: runs/mnist-challenge)")
    return parser


def _at_least(least):
    def integer(text):
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {least}, got {text!r}")
        return int(text)
    return integer


def _list_of(one):
    def values(text):
        return [one(part) for part in text.split(",")]
    return values


def _layout(text):
    layouts = ("nchw", "nhwc", "channels_last")
    if text.lower() not in layouts:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(layouts)}, got {text!r}")
    return text.lower()


def _image(text):
    sizes = text.split("x")
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"must be as 3x224x224, got {text!r}")
    return tuple(map(_at_least(1), sizes))


def _number(above_zero=False, below_one=False):
    def number(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < (1 if below_one else math.inf) or (above_zero and value == 0):
            wanted = f"{'positive' if above_zero else 'non-negative'} number{' below 1' if below_one else ''}"
            raise argparse.ArgumentTypeError(f"must be a {wanted}, got {text!r}")
        return value
    return number


def _bytes(size):
    """A cache's size with its unit: 32 KiB, 1.25 MiB."""
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"
