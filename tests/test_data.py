"""Data sets: the embedded digits, where files are looked for, normalisation, batches."""

import gzip
import hashlib
import tarfile
import threading
import time
import types

import numpy as np
import pytest

from fastconv import data
from fastconv.download import DownloadError, RemoteFile

CACHE = data.cache_folder()  # before the tests redirect it
IDX_NAMES = [remote.name.removesuffix(".gz") for remote in data.MNIST_FILES]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder and no network."""
    def no_network(remote, folder):
        raise DownloadError(f"{remote.mirrors[0]}: no network")
    monkeypatch.setenv("FASTCONV_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "download", no_network)
    return tmp_path / "cache"


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_mnist(folder, pack=gzip.compress, count=20):
    """Four files as MNIST's, of `count` training and half as many test images; returns what they hold."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8),
              rng.integers(0, 256, (count // 2, 28, 28), np.uint8), rng.integers(0, 10, count // 2, np.uint8)]
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(IDX_NAMES, arrays, strict=True):
        (folder / (name + ".gz" if pack is gzip.compress else name)).write_bytes(pack(idx(array)))
    return arrays


def pixels_in_memory(images):
    return images.transpose(0, 2, 3, 1)


def numbered(count, shape=(1, 2, 2)):
    """A data set whose image i is filled with i, of class i modulo 10."""
    images = np.broadcast_to(np.arange(count, dtype=np.float32)[:, None, None, None], (count, *shape))
    return data.Dataset(images, np.arange(count) % 10, data.DIGIT_NAMES)


def check_normalised(images, deviation):
    """Mean 0 and standard deviation 1, but for the rounding of the constants to four decimals."""
    parts = np.array_split(images, 100)
    mean = sum(part.sum(dtype=np.float64) for part in parts) / images.size
    square = sum(np.square(part, dtype=np.float64).sum() for part in parts) / images.size
    assert abs(mean * deviation) < 0.5e-4
    assert abs(np.sqrt(square - mean**2) * deviation - deviation) < 0.5e-4


def test_digits_are_those_of_scikit_learn():
    original = pytest.importorskip("sklearn.datasets").load_digits()
    folder = data.Path(data.__file__).with_name("datasets")
    images = data.read_idx(folder / "digits-images-idx3-ubyte.gz")
    labels = data.read_idx(folder / "digits-labels-idx1-ubyte.gz")
    np.testing.assert_array_equal(images, original.images)
    np.testing.assert_array_equal(labels, original.target)


def test_digits_split():
    train, test = data.digits()
    assert (len(train), len(test)) == (1501, 296)
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 32, 32)
    counts = np.bincount(test.labels)
    np.testing.assert_array_equal(counts, (counts + np.bincount(train.labels)) // 6)
    labels = data.read_idx(data.Path(data.__file__).with_name("datasets") / "digits-labels-idx1-ubyte.gz")
    sixth = [np.flatnonzero(labels == label)[5::6] for label in range(10)]
    np.testing.assert_array_equal(test.labels, labels[np.sort(np.concatenate(sixth))])


def test_digits_are_normalised():
    train, _ = data.digits()
    check_normalised(train.images, *data.DIGITS_NORMALISATION[1])


def test_digits_enlarged():
    image = np.zeros((1, 8, 8), np.uint8)
    image[0, 0, 7] = 16
    image[0, 4, 4] = 1
    large = data._enlarged(image)[0]
    weights = np.array([1, 2, 3, 2, 1], np.uint8)
    expected = np.zeros((32, 32), np.uint8)
    expected[3:8, 24:29] = 16 * np.outer(weights, weights)
    expected[15:20, 15:20] = np.outer(weights, weights)
    np.testing.assert_array_equal(large, expected)


def test_digits_enlarged_constant_stays_constant():
    large = data._enlarged(np.full((1, 8, 8), 16, np.uint8))[0]
    assert (large[5:27, 5:27] == 144).all()
    assert (large[:3] == 0).all()


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_mnist_from_a_folder(tmp_path, pack):
    arrays = write_mnist(tmp_path / "files", pack)
    train, test = data.mnist(tmp_path / "files")
    for part, pixels, labels in ((train, *arrays[:2]), (test, *arrays[2:])):
        assert part.images.dtype == np.float32
        assert part.images.shape == (len(labels), 1, 28, 28)
        np.testing.assert_array_equal(part.labels, labels)
        expected = (pixels[:, None] / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
        np.testing.assert_array_equal(part.images, expected)


def test_mnist_from_the_cache(cache):
    write_mnist(cache / "mnist")
    assert [len(part) for part in data.mnist()] == [20, 10]


def test_a_folder_comes_before_the_cache(cache, tmp_path):
    write_mnist(cache / "mnist", count=20)
    write_mnist(tmp_path / "files", count=4)
    assert [len(part) for part in data.mnist(tmp_path / "files")] == [4, 2]
    (tmp_path / "empty").mkdir()
    assert [len(part) for part in data.mnist(tmp_path / "empty")] == [20, 10]


def test_load_pads_to_32(cache):
    write_mnist(cache / "mnist")
    train, _ = data.load("mnist")
    assert train.images.shape == (20, 1, 32, 32)
    np.testing.assert_array_equal(train.images[:, :, 2:-2, 2:-2], data.mnist()[0].images)
    blank = (np.float32(0) - np.float32(0.1307)) / np.float32(0.3081)
    for border in (np.s_[:, :, :2], np.s_[:, :, -2:], np.s_[..., :2], np.s_[..., -2:]):
        assert (train.images[border] == blank).all()


@pytest.mark.parametrize("size", [27, 29, 20, 0, -1])
def test_load_refuses_other_sizes(cache, size):
    write_mnist(cache / "mnist")
    with pytest.raises(ValueError, match=rf"size must be 28, 30, 32, \.\.\., got {size}"):
        data.load("mnist", size=size)
    with pytest.raises(ValueError, match=f"size must be 32 for digits, got {size}"):
        data.load("digits", size=size)


def test_fashion_mnist_has_its_own_cache(cache):
    write_mnist(cache / "mnist")
    with pytest.raises(FileNotFoundError, match="fashion-mnist needs"):
        data.load("fashion-mnist")
    write_mnist(cache / "fashion-mnist", count=4)
    train, _ = data.load("fashion-mnist")
    assert len(train) == 4
    assert train.names[9] == "Ankle boot"


def test_load_unknown_name():
    with pytest.raises(ValueError, match=r"name must be one of digits, mnist, .*, got 'svhn'"):
        data.load("svhn")


@pytest.mark.parametrize(("download", "reason"), [(True, "no network"), (False, "not tried")])
def test_offline_error_says_what_to_put_where(cache, tmp_path, download, reason):
    write_mnist(tmp_path / "files")
    (tmp_path / "files" / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        data.mnist(tmp_path / "files", download=download)
    message = str(caught.value)
    assert "t10k-images-idx3-ubyte.gz" in message
    assert "train-images" not in message
    assert "https://ossci-datasets.s3.amazonaws.com/mnist/" in message
    assert f"Put them into {cache / 'mnist'}" in message
    assert str(tmp_path / "files") in message
    assert reason in message


def test_missing_files_are_downloaded_to_the_cache(cache, monkeypatch):
    def from_mirror(remote, folder):
        write_mnist(folder)
        return folder / remote.name
    monkeypatch.setattr(data, "download", from_mirror)
    assert [len(part) for part in data.mnist()] == [20, 10]
    assert len(list((cache / "mnist").iterdir())) == 4


def test_folder_must_exist(tmp_path):
    with pytest.raises(NotADirectoryError, match=r"folder must be an existing folder, got '.*/none'"):
        data.mnist(tmp_path / "none")


@pytest.mark.parametrize(("index", "array", "message"), [
    (0, np.zeros(20, np.uint8), "holds no images but uint8 of shape"),
    (1, np.zeros(19, np.uint8), r"labels \(N,\), got \(20, 1, 28, 28\) and \(19,\)"),
    (3, np.full(10, 10, np.uint8), "labels must be 0 to 9, got 10 to 10"),
])
def test_files_that_do_not_fit(tmp_path, index, array, message):
    write_mnist(tmp_path)
    (tmp_path / f"{IDX_NAMES[index]}.gz").write_bytes(gzip.compress(idx(array)))
    with pytest.raises(ValueError, match=f"{IDX_NAMES[index]}.*{message}"):
        data.mnist(tmp_path)


def test_mnist_itself():
    folder = CACHE / "mnist"
    try:
        train, test = data.mnist(folder if folder.is_dir() else None, download=False)
    except FileNotFoundError:
        pytest.skip(f"MNIST is not in {folder}")
    assert train.images.shape == (60000, 1, 28, 28)
    assert test.images.shape == (10000, 1, 28, 28)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    check_normalised(train.images, *data.MNIST_NORMALISATION[1])


def write_cifar10(folder):
    """Six files of three records each; returns the records."""
    records = np.random.default_rng(0).integers(0, 256, (6, 3, 3073), np.uint8)
    records[..., 0] %= 10
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(data.CIFAR10_BATCHES, records, strict=True):
        (folder / name).write_bytes(part.tobytes())
    return records


def check_cifar10(parts, records):
    means, deviations = (np.float32(column)[:, None, None] for column in data.CIFAR10_NORMALISATION)
    for part, expected in zip(parts, (records[:5].reshape(15, 3073), records[5]), strict=True):
        np.testing.assert_array_equal(part.labels, expected[:, 0])
        pixels = expected[:, 1:].reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(part.images, (pixels / np.float32(255) - means) / deviations)
        assert pixels_in_memory(part.images).flags.c_contiguous
        assert part.names[6] == "frog"


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar10_from_a_folder(tmp_path, below):
    records = write_cifar10(tmp_path / "files" / below)
    check_cifar10(data.load("cifar10", tmp_path / "files"), records)


def test_cifar10_from_the_archive(cache, tmp_path, monkeypatch):
    records = write_cifar10(tmp_path / "cifar-10-batches-bin")
    (cache / "cifar10").mkdir(parents=True)
    path = cache / "cifar10" / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "cifar-10-batches-bin", "cifar-10-batches-bin")
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz has 170052171"):
        data.cifar10()
    contents = path.read_bytes()
    remote = RemoteFile(path.name, len(contents), hashlib.sha256(contents).hexdigest(), ())
    monkeypatch.setattr(data, "CIFAR10_ARCHIVE", remote)
    check_cifar10(data.cifar10(), records)


def test_cifar10_offline_error():
    with pytest.raises(FileNotFoundError, match=r"\(or the \.bin files in it\):\n.*170052171 bytes"):
        data.cifar10()


@pytest.mark.parametrize(("variables", "platform", "expected"), [
    ({"FASTCONV_DATA": "~/sets", "XDG_CACHE_HOME": "/x"}, "linux", "/home/me/sets"),
    ({"FASTCONV_DATA": "", "XDG_CACHE_HOME": "/x"}, "linux", "/x/fastconv"),
    ({"FASTCONV_DATA": "", "XDG_CACHE_HOME": ""}, "linux", "/home/me/.cache/fastconv"),
    ({"FASTCONV_DATA": "", "XDG_CACHE_HOME": ""}, "darwin", "/home/me/Library/Caches/fastconv"),
])
def test_cache_folder(monkeypatch, variables, platform, expected):
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(data, "sys", types.SimpleNamespace(platform=platform))
    assert str(data.cache_folder()) == expected


def test_dataset_keeps_channels_last_memory():
    images = np.random.default_rng(0).random((4, 3, 5, 6), np.float32)
    dataset = data.Dataset(images, np.array([0, 1, 2, 1], np.uint8), "abc")
    np.testing.assert_array_equal(dataset.images, images)
    assert pixels_in_memory(dataset.images).flags.c_contiguous
    assert dataset.labels.dtype == np.int64
    again = data.Dataset(dataset.images, dataset.labels, "abc")
    assert np.shares_memory(again.images, dataset.images)


@pytest.mark.parametrize(("images", "labels", "error", "message"), [
    (np.zeros((2, 1, 4, 4)), [0, 1], TypeError, "images must be a float32 array, got float64"),
    ([[0.0]], [0], TypeError, "images must be a float32 array, got <class 'list'>"),
    (np.zeros((2, 1, 4, 4), "f4"), [0.0, 1.0], TypeError, "labels must be integers, got float64"),
    (np.zeros((2, 4, 4), "f4"), [0, 1], ValueError, r"images must be \(N, C, H, W\)"),
    (np.zeros((2, 1, 4, 4), "f4"), [0, 1, 1], ValueError, r"got \(2, 1, 4, 4\) and \(3,\)"),
    (np.zeros((2, 1, 4, 4), "f4"), [0, 3], ValueError, "labels must be 0 to 2, got 0 to 3"),
    (np.zeros((2, 1, 4, 4), "f4"), [-1, 0], ValueError, "labels must be 0 to 2, got -1 to 0"),
])
def test_dataset_refuses(images, labels, error, message):
    with pytest.raises(error, match=message):
        data.Dataset(images, labels, "abc")


def test_subset():
    dataset = numbered(20)
    for indices in (slice(3, 9, 2), [7, 0, 7], np.arange(20) % 3 == 0):
        part = dataset.subset(indices)
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], np.arange(20)[indices])
        np.testing.assert_array_equal(part.labels, np.arange(20)[indices] % 10)
        assert pixels_in_memory(part.images).flags.c_contiguous


def test_batches_in_order_are_read_only_views():
    dataset = numbered(10)
    found = list(data.batches(dataset, 4))
    assert [len(labels) for _, labels in found] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in found]), dataset.images)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), dataset.labels)
    for images, labels in found:
        assert np.shares_memory(images, dataset.images)
        assert not images.flags.writeable
        assert not labels.flags.writeable
    assert dataset.images.flags.writeable


@pytest.mark.parametrize("channels", [1, 3])
def test_batches_shuffled(channels):
    dataset = numbered(1000, (channels, 4, 5))
    found = list(data.batches(dataset, 128, np.random.default_rng(7)))
    order = np.random.default_rng(7).permutation(1000)
    np.testing.assert_array_equal(np.concatenate([images[:, 0, 0, 0] for images, _ in found]), order)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in found]), order % 10)
    for images, labels in found:
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
        assert images.shape == (len(labels), channels, 4, 5)
        assert pixels_in_memory(images).flags.c_contiguous
        assert not np.shares_memory(images, dataset.images)


def test_batches_draw_once_and_at_the_call():
    rng, twin = np.random.default_rng(1), np.random.default_rng(1)
    data.batches(numbered(10), 4, rng)
    twin.permutation(10)
    assert rng.bit_generator.state == twin.bit_generator.state


@pytest.mark.parametrize("rng", [None, 0])
@pytest.mark.parametrize(("count", "sizes"), [(10, [4, 4]), (8, [4, 4]), (3, []), (0, [])])
def test_batches_drop_last(count, sizes, rng):
    rng = None if rng is None else np.random.default_rng(rng)
    assert [len(labels) for _, labels in data.batches(numbered(count), 4, rng, drop_last=True)] == sizes


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_refuse_batch_size(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be positive, got {batch_size}"):
        data.batches(numbered(3), batch_size)


def test_prefetch_gives_the_items_in_order_and_one_ahead():
    started = []

    def items():
        for number in range(5):
            started.append((number, threading.current_thread()))
            yield number

    for number in data.prefetch(items()):
        deadline = time.monotonic() + 10
        while len(started) < min(number + 2, 5) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(started) == min(number + 2, 5)
    assert [number for number, _ in started] == list(range(5))
    assert {thread for _, thread in started}.isdisjoint({threading.current_thread()})
    assert list(data.prefetch([])) == []


def test_prefetch_raises_in_its_place_what_the_iterable_raises():
    def items():
        yield 1
        raise OSError("disk")
    found = data.prefetch(items())
    assert next(found) == 1
    with pytest.raises(OSError, match="disk"):
        next(found)


def test_prefetch_ends_its_thread_when_it_is_left():
    before = threading.active_count()
    for _ in data.prefetch(range(10**9)):
        break
    assert threading.active_count() == before
