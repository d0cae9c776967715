"""Data sets of labelled images: the embedded digits, MNIST, Fashion-MNIST, CIFAR-10, and batches of them.

    train, test = load("digits")
    for images, labels in batches(train, 128, rng=np.random.default_rng(0)):
        ...

Images are float32 (N, C, H, W) in channels-last memory, normalised to mean 0 and standard deviation 1 over
the training images; labels are int64 (N,).
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .download import DownloadError, RemoteFile, download, verify
from .formats import read_cifar10, read_cifar10_archive, read_idx

__all__ = ["Dataset", "batches", "cache_folder", "cifar10", "digits", "fashion_mnist", "load", "mnist",
           "names", "prefetch", "read_cifar10", "read_idx"]

DIGIT_NAMES = tuple("0123456789")
FASHION_MNIST_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
                       "Bag", "Ankle boot")
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# Mean and standard deviation of the training images, per channel, where the largest pixel value is 1.
DIGITS_NORMALISATION = ((0.1716,), (0.2830,))
MNIST_NORMALISATION = ((0.1307,), (0.3081,))
FASHION_MNIST_NORMALISATION = ((0.2860,), (0.3530,))
CIFAR10_NORMALISATION = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def _idx_files(mirrors, *files):
    return tuple(RemoteFile(name, size, sha256, mirrors) for name, size, sha256 in files)


# Sizes and checksums as published by TensorFlow Datasets: training images and labels, test images and labels.
MNIST_FILES = _idx_files(
    ("https://ossci-datasets.s3.amazonaws.com/mnist/",
     "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    ("train-images-idx3-ubyte.gz", 9912422,
     "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    ("train-labels-idx1-ubyte.gz", 28881,
     "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
    ("t10k-images-idx3-ubyte.gz", 1648877,
     "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    ("t10k-labels-idx1-ubyte.gz", 4542,
     "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"))
FASHION_MNIST_FILES = _idx_files(
    ("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
     "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
    ("train-images-idx3-ubyte.gz", 26421880,
     "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
    ("train-labels-idx1-ubyte.gz", 29515,
     "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
    ("t10k-images-idx3-ubyte.gz", 4422102,
     "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
    ("t10k-labels-idx1-ubyte.gz", 5148,
     "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"))
CIFAR10_ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz", 170052171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/",))
CIFAR10_BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


class Dataset:
    """Labelled images.

    images: float32 (N, C, H, W), kept in channels-last memory (copied where they are not). labels: integers
    (N,), indices into `names`, kept as int64. names: the names of the classes.
    Raises TypeError for other dtypes, ValueError where shapes or labels do not fit.
    """

    def __init__(self, images, labels, names):
        labels = np.asarray(labels)
        if getattr(images, "dtype", None) != np.float32:
            raise TypeError(f"images must be a float32 array, got {getattr(images, 'dtype', type(images))}")
        if labels.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers, got {labels.dtype}")
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(f"images must be (N, C, H, W) and labels (N,), got {images.shape} and "
                             f"{labels.shape}")
        if labels.size and not 0 <= labels.min() <= labels.max() < len(names):
            raise ValueError(f"labels must be 0 to {len(names) - 1}, got {labels.min()} to {labels.max()}")
        self.images = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        self.labels = labels.astype(np.int64, copy=False)
        self.names = tuple(names)

    def __len__(self):
        return len(self.labels)

    def __repr__(self):
        return f"Dataset(images {self.images.shape}, {len(self.names)} classes)"

    def subset(self, indices):
        """The Dataset of the images at `indices`: a slice (shares memory), integers or a boolean mask."""
        pixels = self.images.transpose(0, 2, 3, 1)
        return Dataset(pixels[indices].transpose(0, 3, 1, 2), self.labels[indices], self.names)


def batches(dataset, batch_size, rng=None, drop_last=False):
    """Iterates over (images, labels) of `batch_size` examples each; the last batch may be smaller.

    rng: a NumPy Generator; draws one permutation of the data set from it, at once, and goes by that. Without
    it the order is that of the data set and the batches are read-only views. drop_last leaves a smaller last
    batch out. images are float32 (n, C, H, W) in channels-last memory, labels int64 (n,).
    Raises ValueError where batch_size is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size!r}")
    count = len(dataset)
    starts = range(0, count - count % batch_size if drop_last else count, batch_size)
    pixels = dataset.images.transpose(0, 2, 3, 1)
    labels = dataset.labels
    if rng is None:
        pixels, labels = pixels.view(), labels.view()
        pixels.flags.writeable = labels.flags.writeable = False
        return ((pixels[i:i + batch_size].transpose(0, 3, 1, 2), labels[i:i + batch_size]) for i in starts)
    order = rng.permutation(count)
    chosen = (order[i:i + batch_size] for i in starts)
    return ((np.take(pixels, rows, axis=0).transpose(0, 3, 1, 2), labels[rows]) for rows in chosen)


def prefetch(iterable):
    """Iterates over `iterable`; while the caller works on an item, a thread makes the next one.

    Items come in order and are the same whatever the timing: one thread makes them one at a time. What
    `iterable` raises is raised here, in its place. Leaving the loop early waits for the item in the making;
    close() does so at once, where a reference to the iterator stays.
    """
    iterator, end = iter(iterable), object()
    with ThreadPoolExecutor(1, thread_name_prefix="fastconv-prefetch") as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item


def digits():
    """(train, test): the UCI handwritten digits that come with the package, 1,501 and 296 of 32 x 32.

    Every sixth example of a class, in the order of the file, is for testing. The file goes writer by writer,
    so both parts hold every class and every writer in equal shares, and no random number decides.
    See datasets/README.md for origin and licence.
    """
    folder = Path(__file__).with_name("datasets")
    images = _enlarged(read_idx(folder / "digits-images-idx3-ubyte.gz"))
    labels = read_idx(folder / "digits-labels-idx1-ubyte.gz")
    rank_in_class = np.empty(len(labels), np.int64)
    for label in range(10):
        rank_in_class[labels == label] = np.arange(np.count_nonzero(labels == label))
    is_test = rank_in_class % 6 == 5
    return tuple(Dataset(_normalised(images[part][:, None], 9 * 16, DIGITS_NORMALISATION), labels[part],
                         DIGIT_NAMES) for part in (~is_test, is_test))


def mnist(folder=None, *, download=True, size=28):
    """(train, test): MNIST, 60,000 and 10,000 handwritten digits of 28 x 28, one channel.

    The four files, compressed or not, are taken from `folder`, else from ``cache_folder() / "mnist"``, else
    (with download=True) downloaded to the latter. size: pads the images evenly to size x size, with 0.
    Raises FileNotFoundError, saying which files to put where, when they cannot be had; NotADirectoryError
    where `folder` is not a folder; ValueError where a file is damaged or size does not fit.
    """
    return _load_idx("mnist", folder, download, size, MNIST_FILES, MNIST_NORMALISATION, DIGIT_NAMES)


def fashion_mnist(folder=None, *, download=True, size=28):
    """(train, test): Fashion-MNIST, 60,000 and 10,000 pieces of clothing. All else is as in mnist()."""
    return _load_idx("fashion-mnist", folder, download, size, FASHION_MNIST_FILES,
                     FASHION_MNIST_NORMALISATION, FASHION_MNIST_NAMES)


def cifar10(folder=None, *, download=True):
    """(train, test): CIFAR-10, 50,000 and 10,000 photographs of 32 x 32, three channels.

    Takes the six .bin files or cifar-10-binary.tar.gz from `folder`, or from ``cache_folder() / "cifar10"``,
    else (with download=True) downloads the archive to the latter. Raises as mnist() does.
    """
    folders = _folders("cifar10", folder)
    for place in (place / below for place in folders for below in ("", "cifar-10-batches-bin")):
        paths = [place / name for name in CIFAR10_BATCHES]
        if all(path.is_file() for path in paths):
            parts = [read_cifar10(path) for path in paths]
            break
    else:
        [archive] = _found("cifar10", [CIFAR10_ARCHIVE], folders, download, "or the .bin files in it")
        verify(archive, CIFAR10_ARCHIVE)
        parts = read_cifar10_archive(archive, CIFAR10_BATCHES)
    train = (np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
    return tuple(Dataset(_normalised(images, 255, CIFAR10_NORMALISATION), labels, CIFAR10_NAMES)
                 for images, labels in (train, parts[-1]))


def names():
    """The names that load() takes."""
    return ("digits", "mnist", "fashion-mnist", "cifar10")


def load(name, folder=None, download=True, *, size=32):
    """(train, test) of the data set called `name`, one of names().

    folder and download as in mnist(); the digits need neither. size: MNIST and Fashion-MNIST are padded to
    size x size, by default LeNet-5's 32 x 32 of 1998; the others are 32 x 32 and nothing else.
    Raises ValueError for an unknown name or a size that does not fit, and otherwise as mnist() does.
    """
    if name not in names():
        raise ValueError(f"name must be one of {', '.join(names())}, got {name!r}")
    if name in ("mnist", "fashion-mnist"):
        return {"mnist": mnist, "fashion-mnist": fashion_mnist}[name](folder, download=download, size=size)
    if size != 32:
        raise ValueError(f"size must be 32 for {name}, got {size!r}")
    return digits() if name == "digits" else cifar10(folder, download=download)


def cache_folder():
    """Where downloads are kept: FASTCONV_DATA, else fastconv in the system's folder for caches."""
    if chosen := os.environ.get("FASTCONV_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "fastconv"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastconv"


def _enlarged(images):
    """(N, 8, 8) of 0..16 -> uint8 (N, 32, 32) of 0..144: three times larger, in the middle of a blank frame.

    Bilinear, with weights of thirds, so that nine times the result is an integer: the same on every machine.
    The frame is that of MNIST: LeNet-5's filters see a stroke's end only where there is paper beyond it.
    """
    to, of = np.arange(32)[:, None], np.arange(8)
    weights = np.maximum(0, 3 - abs(to - 5 - 3 * of)).astype(np.float32)
    return (weights @ images.astype(np.float32) @ weights.T).astype(np.uint8)


def _normalised(pixels, largest, normalisation, size=None):
    """uint8 (N, C, H, W) -> float32 of mean 0 and deviation 1, channels-last, padded to size with 0."""
    count, channels, height, width = pixels.shape
    size = height if size is None else size
    before, odd = divmod(size - height, 2)
    if height != width or odd or before < 0:
        raise ValueError(f"size must be {height}, {height + 2}, {height + 4}, ..., got {size!r}")
    inside = slice(before, before + height)
    images = np.zeros((count, size, size, channels), np.float32)
    mean, deviation = (np.float32(constants) for constants in normalisation)
    for start in range(0, count, 64):  # a block stays in the cache for all four steps
        block = images[start:start + 64]
        block[:, inside, inside] = pixels[start:start + 64].transpose(0, 2, 3, 1)
        block /= largest
        block -= mean
        block /= deviation
    return images.transpose(0, 3, 1, 2)


def _load_idx(name, folder, may_download, size, files, normalisation, class_names):
    paths = _found(name, files, _folders(name, folder), may_download, "compressed or not")
    parts = []
    for images_path, labels_path in (paths[:2], paths[2:]):
        images, labels = read_idx(images_path), read_idx(labels_path)
        if images.dtype != np.uint8 or images.ndim != 3:
            raise ValueError(f"{images_path}: holds no images but {images.dtype} of shape {images.shape}")
        images = _normalised(images[:, None], 255, normalisation, size)
        try:
            parts.append(Dataset(images, labels, class_names))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{labels_path}: {error}") from error
    return tuple(parts)


def _folders(name, folder):
    """Where to look, in that order; downloads go to the last."""
    if folder is None:
        return [cache_folder() / name]
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"folder must be an existing folder, got {os.fspath(folder)!r}")
    return [Path(folder), cache_folder() / name]


def _found(name, files, folders, may_download, forms):
    """The path of each file: in the first folder that has it (IDX: unpacked or not), else downloaded."""
    paths = {}
    for remote in files:
        spellings = (remote.name.replace("-ubyte.gz", "-ubyte"), remote.name)
        places = (place / spelling for place in folders for spelling in spellings)
        paths[remote] = next((path for path in places if path.is_file()), None)
    try:
        for remote in files:
            if paths[remote] is None:
                if not may_download:
                    raise DownloadError("not tried")
                paths[remote] = download(remote, folders[-1])
    except DownloadError as error:
        wanted = "".join(f"\n  {remote.name}  ({remote.size} bytes, {remote.mirrors[0]})"
                         for remote in files if paths[remote] is None)
        raise FileNotFoundError(
            f"{name} needs ({forms}):{wanted}\n"
            f"Put them into {folders[-1]}, or say which folder has them (folder=, --data-dir). "
            f"Looked in {', '.join(map(str, folders))}.\n"
            f"Download: {error}") from error
    return list(paths.values())
